"""`plot`: draw what a run does."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from actseq.commands.common import AUTO, Compute, Result, make_folder
from actseq.commands.evaluate import below_each_other
from actseq.commands.outputs import LISTING, claim_pictures
from actseq.data.corpus import Corpus
from actseq.errors import ConfigError
from actseq.inference.loading import load_codec, stage_config
from actseq.plots.diagnostics import Selection, headline, picture_names, tables, write_diagnostics, write_losses
from actseq.plots.training_curves import Steps
from actseq.storage.artifacts import write_json
from actseq.storage.run_folder import RunFolder


def plot(
    run: str | Path,
    *,
    out: Path | None = None,
    overwrite: bool = False,
    split: str = "test",
    n: int | None = None,
    overrides: Iterable[str] = (),
    seed: int = 0,
    compute: Compute = AUTO,
) -> Result:
    """Draw what a run does to held-out clips, each picture with its values in a CSV.

    Args:
        out: folder for the pictures; None: `plots/` in the run.
        overwrite: replace pictures that an earlier call wrote into `out`.
        split: `test` or `validation`.
        n: number of clips; None: up to 200 clips, one minute in all.
        seed: seed of the choice of clips and frames, and of the draws from posteriors.

    Raises:
        AudioError: `out` has a file of the name of a picture or table.
        ArtifactError: there is no clip to draw.
    """
    compute.use_threads()
    opened = RunFolder.open(run)
    opened.require_corpus()
    folder = opened.path / "plots" if out is None else out
    if out is not None:
        claim_pictures(folder, picture_names(opened), overwrite)
    codec, config = load_codec(opened, compute.device, stage_config(opened, overrides, "generate"))
    corpus = Corpus(opened.corpus, codec.level_dbfs)
    make_folder(folder)
    selection = Selection(split, config.train_ae.targets, n, seed)
    made = write_diagnostics(opened, codec, corpus, folder, selection, compute.reporter)
    _list(opened, folder if out is not None else None, made.pictures)
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


def plot_steps(run: str | Path, steps: Steps, *, out: Path | None = None, overwrite: bool = False) -> Result:
    """Draw a part of the losses of a run, each picture with its values in a CSV. A training may still be running.

    Args:
        run: a name under `runs/`, or a path.
        steps: first and last step.
        out: folder for the pictures; None: `plots/` in the run.
        overwrite: replace pictures that an earlier call wrote into `out`.

    Raises:
        AudioError: `out` has a file of the name of a picture or table.
        ArtifactError: no training has a value in these steps.
        ConfigError: the last step is before the first.
    """
    opened = RunFolder.open(run)
    folder = opened.path / "plots" if out is None else out
    if not 0 <= steps[0] <= steps[1]:
        raise ConfigError(f"--steps {steps[0]}:{steps[1]}", "0 ≤ A ≤ B", "name two steps, such as 0:1000")
    if out is not None:
        claim_pictures(folder, picture_names(opened, steps), overwrite)
    make_folder(folder)
    pictures = write_losses(opened, folder, steps)
    _list(opened, folder if out is not None else None, pictures)
    shown = {"folder": str(folder), "pictures": [str(path) for path in pictures]}
    return {"run": str(opened.path), "steps": list(steps), **shown}


def _list(run: RunFolder, folder: Path | None, pictures: Iterable[Path]) -> None:
    """Name the pictures in a folder that the user chose, so that a later call may replace them."""
    if folder is not None:
        names = [path.with_suffix(ending).name for path in pictures for ending in (".png", ".csv")]
        write_json(folder / LISTING, {"run": run.name, "pictures": names})


def plot_lines(result: Result) -> list[str]:
    """The result of `plot` as lines for a person."""
    count = len(result["pictures"])
    pictures = f"{count} {'picture' if count == 1 else 'pictures'}, each with its values in a CSV: {result['folder']}"
    if "steps" in result:
        return [*result["pictures"], pictures]
    return [headline(result), *result["notes"], *below_each_other(tables(result)), "", pictures]
