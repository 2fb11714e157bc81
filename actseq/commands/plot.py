"""`plot`: draw what a run does."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from actseq.commands.common import AUTO, Compute, Result, make_folder
from actseq.commands.evaluate import below_each_other
from actseq.data.corpus import Corpus
from actseq.inference.loading import load_codec, stage_config
from actseq.plots.diagnostics import Selection, headline, tables, write_diagnostics
from actseq.storage.run_folder import RunFolder


def plot(
    run: str | Path,
    *,
    out: Path | None = None,
    split: str = "test",
    n: int | None = None,
    overrides: Iterable[str] = (),
    seed: int = 0,
    compute: Compute = AUTO,
) -> Result:
    """Draw what a run does to held-out clips, each picture with its values in a CSV.

    Args:
        out: folder for the pictures; None: `plots/` in the run.
        split: `test` or `validation`.
        n: number of clips; None: up to 200 clips, one minute in all.
        seed: seed of the choice of clips and frames, and of the draws from posteriors.
    """
    compute.use_threads()
    opened = RunFolder.open(run)
    codec, config = load_codec(opened, compute.device, stage_config(opened, overrides, "generate"))
    corpus = Corpus(opened.corpus, codec.level_dbfs)
    folder = opened.path / "plots" if out is None else out
    make_folder(folder)
    selection = Selection(split, config.train_ae.targets, n, seed)
    made = write_diagnostics(opened, codec, corpus, folder, selection, compute.reporter)
    return {
        "run": str(opened.path),
        "autoencoder": opened.trained_autoencoder.fingerprint,
        "vocoder": config.vocoder.model_dump(),
        "seed": seed,
        **made.figures,
        "notes": made.notes,
        "folder": str(folder),
        "pictures": [str(path) for path in made.pictures],
    }


def plot_lines(result: Result) -> list[str]:
    """The result of `plot` as lines for a person."""
    pictures = f"{len(result['pictures'])} pictures, each with its values in a CSV: {result['folder']}"
    return [headline(result), *result["notes"], *below_each_other(tables(result)), "", pictures]
