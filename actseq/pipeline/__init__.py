"""One function per command: the public Python API. Each returns what it made as plain data."""

from actseq.pipeline.assessment import evaluate, evaluation_lines, plot, plot_lines, report
from actseq.pipeline.autoencoder import find_rate, rate_lines, train_ae
from actseq.pipeline.everything import run_all
from actseq.pipeline.extraction import extract_latents
from actseq.pipeline.inspection import info, verify
from actseq.pipeline.new_clips import generate
from actseq.pipeline.prior import train_prior
from actseq.pipeline.reconstruction import reconstruct, restore
from actseq.pipeline.vocoder import choice_lines, train_vocoder

__all__ = [
    "choice_lines",
    "evaluate",
    "evaluation_lines",
    "extract_latents",
    "find_rate",
    "generate",
    "info",
    "plot",
    "plot_lines",
    "rate_lines",
    "reconstruct",
    "report",
    "restore",
    "run_all",
    "train_ae",
    "train_prior",
    "train_vocoder",
    "verify",
]
