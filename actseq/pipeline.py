"""One function per command: the public Python API. A command's module is imported when its function is first used.

Where a function takes them, `run` is a name under `runs/`, a path, or `voice:NAME` (None for a new run:
`<folder>-<preset>`), `overrides` are `key=value` texts for the sections of the configuration that belong to the
command, and `compute` says where to compute and to whom to report.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actseq.commands.clip_writer import Output as Output
    from actseq.commands.common import Compute as Compute
    from actseq.commands.decode import decode as decode
    from actseq.commands.demo import demo as demo
    from actseq.commands.demo import demo_lines as demo_lines
    from actseq.commands.doctor import doctor as doctor
    from actseq.commands.dry_run import dry_run as dry_run
    from actseq.commands.dry_run import forecast_lines as forecast_lines
    from actseq.commands.encode import encode as encode
    from actseq.commands.evaluate import evaluate as evaluate
    from actseq.commands.evaluate import evaluation_lines as evaluation_lines
    from actseq.commands.explore import explore as explore
    from actseq.commands.export import export as export
    from actseq.commands.export import export_lines as export_lines
    from actseq.commands.extract_latents import extract_latents as extract_latents
    from actseq.commands.generate import generate as generate
    from actseq.commands.info import info as info
    from actseq.commands.kit import kit_lines as kit_lines
    from actseq.commands.pack import pack as pack
    from actseq.commands.pack import pack_lines as pack_lines
    from actseq.commands.plot import plot as plot
    from actseq.commands.plot import plot_lines as plot_lines
    from actseq.commands.plot import plot_steps as plot_steps
    from actseq.commands.pull import pull as pull
    from actseq.commands.push import push as push
    from actseq.commands.reconstruct import reconstruct as reconstruct
    from actseq.commands.report import report as report
    from actseq.commands.restore import GapFilling as GapFilling
    from actseq.commands.restore import restore as restore
    from actseq.commands.run import run_all as run_all
    from actseq.commands.train_ae import find_learning_rate as find_learning_rate
    from actseq.commands.train_ae import learning_rate_lines as learning_rate_lines
    from actseq.commands.train_ae import train_ae as train_ae
    from actseq.commands.train_prior import train_prior as train_prior
    from actseq.commands.train_vocoder import choice_lines as choice_lines
    from actseq.commands.train_vocoder import train_vocoder as train_vocoder
    from actseq.commands.verify import verify as verify
    from actseq.inference.request import FromPrior as FromPrior
    from actseq.inference.request import GenerationRequest as GenerationRequest
    from actseq.inference.request import Through as Through
    from actseq.inference.request import Transfer as Transfer
    from actseq.inference.request import Variations as Variations
    from actseq.storage.activations import Activations as Activations
    from actseq.storage.activations import read_activations as read_activations
    from actseq.storage.activations import write_activations as write_activations
    from actseq.training.conduct import Budget as Budget

_NAMES = {
    "actseq.commands.clip_writer": ("Output",),
    "actseq.commands.common": ("Compute",),
    "actseq.commands.decode": ("decode",),
    "actseq.commands.demo": ("demo", "demo_lines"),
    "actseq.commands.doctor": ("doctor",),
    "actseq.commands.dry_run": ("dry_run", "forecast_lines"),
    "actseq.commands.encode": ("encode",),
    "actseq.commands.evaluate": ("evaluate", "evaluation_lines"),
    "actseq.commands.explore": ("explore",),
    "actseq.commands.export": ("export", "export_lines"),
    "actseq.commands.extract_latents": ("extract_latents",),
    "actseq.commands.generate": ("generate",),
    "actseq.commands.info": ("info",),
    "actseq.commands.kit": ("kit_lines",),
    "actseq.commands.pack": ("pack", "pack_lines"),
    "actseq.commands.plot": ("plot", "plot_lines", "plot_steps"),
    "actseq.commands.pull": ("pull",),
    "actseq.commands.push": ("push",),
    "actseq.commands.reconstruct": ("reconstruct",),
    "actseq.commands.report": ("report",),
    "actseq.commands.restore": ("GapFilling", "restore"),
    "actseq.commands.run": ("run_all",),
    "actseq.commands.train_ae": ("find_learning_rate", "learning_rate_lines", "train_ae"),
    "actseq.commands.train_prior": ("train_prior",),
    "actseq.commands.train_vocoder": ("choice_lines", "train_vocoder"),
    "actseq.commands.verify": ("verify",),
    "actseq.inference.request": ("FromPrior", "GenerationRequest", "Through", "Transfer", "Variations"),
    "actseq.training.conduct": ("Budget",),
    "actseq.storage.activations": ("Activations", "read_activations", "write_activations"),
}
"""Names of this module by the module that defines them; the imports above say the same to tools."""

_MODULES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
