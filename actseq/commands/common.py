"""What several commands need: settings a training is held to, folders and effects, what is told to the user."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actseq.config import Config
from actseq.errors import AudioError, ConfigError
from actseq.progress import SILENT, Reporter
from actseq.storage.artifacts import fingerprint, read_json, read_meta, same_settings, write_json
from actseq.storage.run_folder import RunFolder

if TYPE_CHECKING:
    from actseq.effects import Process

Result = dict[str, Any]
GAIN_DB = (-3.0, 2.0)
"""Random gain of training crops around the corpus's level: peaks of −6 to −1 dBFS at the default level."""


@dataclass(frozen=True)
class Compute:
    """Where a command computes, and to whom it reports.

    Attributes:
        device: `auto`, `cpu`, `cuda` or `mps`.
        threads: threads that torch computes with; None leaves torch's default.
        reporter: receives progress and messages.
    """

    device: str = "auto"
    threads: int | None = None
    reporter: Reporter = SILENT

    def use_threads(self) -> None:
        """Tell torch how many threads to compute with."""
        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)


AUTO = Compute()


# -- priors and vocoders, which have names ------------------------------------------------------------------------------


def check_name(name: str, what: str) -> None:
    """Refuse a name for a prior or vocoder that is none for a folder.

    Raises:
        ConfigError: it is none.
    """
    if not re.fullmatch(r"\w[\w .-]*", name):
        raise ConfigError(f"'{name}' is no name for a {what}", "letters, digits, '-', '_' and '.'")


def begin_training(run: RunFolder, what: str, folder: Path, settings: Mapping[str, Any], reporter: Reporter) -> bool:
    """Make ready to train a prior or vocoder, or to go on with one; False where it is done already.

    Raises:
        ConfigError: it was begun with other settings.
    """
    plan = folder / "settings.json"
    if plan.is_file():
        same_settings(
            read_json(plan),
            settings,
            f"{what} {folder.name} of run {run.name}",
            f"give the new one another --name, or delete {folder}",
        )
    if (folder / "model.json").is_file():
        reporter.say(f"{what}: already trained ({folder})")
        return False
    write_json(plan, settings)
    return True


def trained_result(run: RunFolder, what: str, folder: Path, *keys: str) -> Result:
    """What a training has left: where it lies, and what its JSON says under the keys."""
    meta = read_meta(folder, "its stage")
    return {
        "run": str(run.path),
        what: str(folder),
        "fingerprint": fingerprint(folder),
        **{key: meta[key] for key in keys},
    }


# -- sounds that are written --------------------------------------------------------------------------------------------


def effects_of(config: Config, keep_dry: bool) -> Process | None:
    """What clips are sent through; None where there are no effects.

    Raises:
        ConfigError: the dry ones are to be kept too, and there are no others.
    """
    from actseq import build
    from actseq.effects import chain

    if config.generate.effects:
        return chain(build.build_effects(config))
    if keep_dry:
        raise ConfigError("--keep-dry without effects: every clip is dry", action="give an --effect, or leave it out")
    return None


def make_folder(folder: Path) -> None:
    """A folder to write into.

    Raises:
        AudioError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AudioError(
            f"the folder {folder} cannot be made ({error.strerror})", action="name another with --out"
        ) from None


# -- what is told -------------------------------------------------------------------------------------------------------


def tell_gain(path: Path, gain: float, reporter: Reporter) -> None:
    """What was done to a file in writing it."""
    if gain != 1.0:
        reporter.warn(f"{path.name} was turned down by {-20 * np.log10(gain):.1f} dB so as not to clip")


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines, the columns under each other."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
