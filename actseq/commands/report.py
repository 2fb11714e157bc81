"""`report`: write a page about a run, to look at and listen to."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from actseq.commands.common import AUTO, ONE_THREAD, Compute, Result
from actseq.inference.loaded_run import LoadedRun
from actseq.pages.report import write_report
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
    """Write `report/report.html` in a run, one file that opens without a network, and `report/contact-sheet.png`.

    Args:
        prior: name of the prior; None takes the run's usual one.
        n: number of clips of each label; None: about 20 clips in all.
        seed: seed of generation.
    """
    compute.use_threads(ONE_THREAD)
    opened = RunFolder.open(run)
    opened.require_corpus()
    loaded = LoadedRun.open(opened, prior=prior, device=compute.device, overrides=overrides)
    made = write_report(loaded, loaded.run.path / "report", n, seed, compute.reporter)
    return {
        "run": str(loaded.run.path),
        "page": str(made.page),
        "bytes": made.size,
        "sheet": None if made.sheet is None else str(made.sheet),
        "notes": made.notes,
    }
