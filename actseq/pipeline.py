"""One function per command: the public Python API. Each returns what it made as plain data."""

from actseq.commands.evaluate import evaluate, evaluation_lines
from actseq.commands.extract_latents import extract_latents
from actseq.commands.generate import generate
from actseq.commands.info import info
from actseq.commands.plot import plot, plot_lines
from actseq.commands.reconstruct import reconstruct
from actseq.commands.report import report
from actseq.commands.restore import restore
from actseq.commands.run import run_all
from actseq.commands.train_ae import find_learning_rate, learning_rate_lines, train_ae
from actseq.commands.train_prior import train_prior
from actseq.commands.train_vocoder import choice_lines, train_vocoder
from actseq.commands.verify import verify

__all__ = [
    "choice_lines",
    "evaluate",
    "evaluation_lines",
    "extract_latents",
    "find_learning_rate",
    "generate",
    "info",
    "learning_rate_lines",
    "plot",
    "plot_lines",
    "reconstruct",
    "report",
    "restore",
    "run_all",
    "train_ae",
    "train_prior",
    "train_vocoder",
    "verify",
]
