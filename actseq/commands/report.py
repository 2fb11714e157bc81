"""`report`: draw a contact sheet of real, reconstructed and generated clips."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from actseq.commands.common import AUTO, Compute, Result
from actseq.inference.loaded_run import LoadedRun
from actseq.plots.report import write_report
from actseq.storage.run_folder import RunFolder


def report(
    run: str | Path,
    *,
    prior: str | None = None,
    n: int | None = None,
    overrides: Iterable[str] = (),
    seed: int = 0,
    compute: Compute = AUTO,
) -> Result:
    """Draw a contact sheet of real, reconstructed, generated and continued clips, and write all of them into one wav.

    Args:
        prior: name of the prior; None takes the run's usual one.
        n: number of generated clips for each label; None: about 20 clips in all.
        seed: seed of generation.
    """
    compute.use_threads()
    opened = RunFolder.open(run)
    opened.require_corpus()
    loaded = LoadedRun.open(opened, prior=prior, device=compute.device, overrides=overrides, need_prior=True)
    made = write_report(loaded, loaded.run.path / "report", n, seed)
    return {
        "run": str(loaded.run.path),
        "sheet": str(made.sheet),
        "compiled": str(made.compiled),
        "curves": [str(path) for path in made.curves],
    }
