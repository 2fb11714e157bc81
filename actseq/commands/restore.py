"""`restore`: take noise and other damage away from sounds, with a run that was trained to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from actseq import build
from actseq.commands.common import AUTO, Compute, Result
from actseq.commands.reconstruct import reconstruct
from actseq.config import Config
from actseq.errors import ConfigError
from actseq.evaluation.damages import without_help
from actseq.inference.loading import stage_config
from actseq.storage.run_folder import RunFolder


def restore(
    run: str | Path,
    paths: Sequence[Path],
    *,
    out: Path,
    overwrite: bool = False,
    overrides: Iterable[str] = (),
    compute: Compute = AUTO,
) -> Result:
    """Take damage away from files or folders: `reconstruct`, for runs that were trained to restore.

    Kinds of damage that the run made no smaller on validation clips are named.

    The peak of each file, noise included, is brought to the level of the corpus; the result is brought back.

    Raises:
        ConfigError: the run was not trained with a corruption of its waveforms.
        AudioError: as `reconstruct`.
    """
    opened = RunFolder.open(run)
    if not restores(stage_config(opened, (), "generate")):
        raise ConfigError(
            f"run {opened.name} was not trained to take anything away from a sound",
            "a run with train_ae.corruption, as preset restore has",
            f"use actseq reconstruct {opened.argument} PATH… --out DIR, or train one with --preset restore",
        )
    for line in without_help(opened.trained_autoencoder.meta.get("restoration", {})):
        compute.reporter.warn(f"run {opened.name} does not help against {line}")
    return reconstruct(opened, paths, out=out, overwrite=overwrite, overrides=overrides, compute=compute)


def restores(config: Config) -> bool:
    """Whether the autoencoder learns to make clean sounds from corrupted ones."""
    corruption = build.build_corruption(config)
    return corruption is not None and not corruption.works_on_grains
