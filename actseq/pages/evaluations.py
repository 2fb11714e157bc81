"""The evaluations of a run as its page shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actseq import audio
from actseq.errors import ArtifactError
from actseq.evaluation import tables
from actseq.evaluation.first_look import FILE, FirstLook, fingerprints
from actseq.evaluation.sounds import KeptRow, KeptSound
from actseq.evaluation.verdict import verdict
from actseq.storage.artifacts import read_json
from actseq.storage.files import regular
from actseq.storage.run_folder import RunFolder

FIDELITY = "evaluation.json"


@dataclass(frozen=True)
class ShownEvaluation:
    """An evaluation.

    Attributes:
        prior: the prior that was measured; None: the autoencoder.
        verdict: what it says about generated clips, in plain words; empty where no prior was measured.
        sentences: sentences above its tables.
        tables: its metrics.
        notes: what was left out and why, and whether the models have changed since.
        sounds: sounds that it kept.
    """

    prior: str | None
    verdict: str
    sentences: list[str]
    tables: list[tables.Table]
    notes: list[str]
    sounds: list[KeptRow] = field(default_factory=list)


def evaluations(run: RunFolder) -> list[ShownEvaluation]:
    """All evaluations that lie in a run: that of each prior, and then that of the autoencoder.

    Raises:
        ArtifactError: one is damaged.
    """
    of_reconstruction = [run.path / FIDELITY] if (run.path / FIDELITY).is_file() else []
    return [_evaluation(run, path) for path in (*sorted(run.path.glob("evaluation-*.json")), *of_reconstruction)]


def kept_first_look(run: RunFolder, prior: str | None) -> FirstLook | None:
    """What `run` saw at its end of what a prior generates; None where it did not, or a model is another one by now.

    Raises:
        ArtifactError: what it wrote is damaged.
    """
    path = run.path / FILE
    if not path.is_file():
        return None
    kept = read_json(path)
    if kept.get("prior") != prior or kept.get("fingerprints") != fingerprints(run, prior):
        return None
    try:
        seen = FirstLook(str(kept.get("verdict")), int(kept.get("clips", "")), bool(kept.get("poor")))
    except (TypeError, ValueError):
        raise ArtifactError(f"{path} is damaged", "what run saw at its end", f"delete {path}") from None
    return seen if seen.clips else None


def _evaluation(run: RunFolder, path: Path) -> ShownEvaluation:
    try:
        result = read_json(path)
        if "generation" in result:
            sentences = [*tables.generation_headline(result), *tables.GENERATION_LEGEND]
            shown = ShownEvaluation(
                str(result["prior"]), verdict(result), sentences, tables.generation_tables(result), _notes(run, result)
            )
        else:
            sentences = [tables.headline(result), tables.LEGEND]
            shown = ShownEvaluation(None, "", sentences, tables.tables(result), _notes(run, result))
        shown.sounds.extend(_kept(path.with_suffix(""), result.get("sounds", []), shown.notes))
    except ArtifactError as error:
        raise ArtifactError(error.found, error.expected, "evaluate the run again, or delete the file") from None
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise ArtifactError(f"{path} is damaged ({error})", "an evaluation", "evaluate the run again") from None
    return shown


def _notes(run: RunFolder, result: dict[str, Any]) -> list[str]:
    """Notes of an evaluation, and first of all whether the run's models are still those that it measured."""
    measured = result.get("fingerprints", {"autoencoder": result.get("autoencoder")})
    present = {"autoencoder": run.trained_autoencoder.fingerprint}
    if result.get("prior") in run.priors.names:
        present["prior"] = run.priors.read(result["prior"]).fingerprint
    stale = [name for name, fingerprint in present.items() if measured.get(name) != fingerprint]
    again = f"measured before the {' and the '.join(stale)} was trained again: evaluate the run again"
    return [*([again] if stale else []), *map(str, result["notes"])]


def _kept(folder: Path, rows: Sequence[dict[str, Any]], notes: list[str]) -> list[KeptRow]:
    """The sounds of an evaluation, as far as they are still there; notes get those that are not."""
    found, missing = [], 0
    for row in rows:
        sounds = []
        for sound in row["sounds"]:
            # Only the name counts: a JSON from a stranger leads to no other folder.
            path = folder / Path(sound["file"]).name
            if not path.is_file():
                missing += 1
                continue
            waveform, _ = audio.load(regular(path))
            sounds.append(KeptSound(str(sound["title"]), str(sound["detail"]), waveform))
        found.append(KeptRow(str(row["title"]), str(row["detail"]), sounds))
    if missing:
        notes.append(f"{missing} sounds of this evaluation are no longer in {folder.name}/")
    return [row for row in found if row.sounds]
