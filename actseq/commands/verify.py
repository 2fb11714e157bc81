"""`verify`: read everything in a run again and compare it with its hashes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from actseq.commands.common import AUTO, Compute, Result
from actseq.errors import ArtifactError
from actseq.inference.loading import DECODER
from actseq.storage import hashes
from actseq.storage.artifacts import Artifact, load_tensors, read_json
from actseq.storage.run_folder import RunFolder
from actseq.storage.store import MANIFEST, SequenceStore
from actseq.training.checkpoints import read_checkpoint


def verify(run: str | Path, *, compute: Compute = AUTO) -> Result:
    """Read everything in a run again and compare it with its hashes.

    Raises:
        ArtifactError: a file is missing or is not what was written; each such file is reported.
    """
    opened = RunFolder.open(run)
    problems: list[str] = []
    checked: list[str] = []
    notes: list[str] = []
    for folder in _stages(opened):
        name = folder.relative_to(opened.path).as_posix()
        try:
            found = hashes.differences(folder)
            # What a changed file says about the others is not to be believed.
            found = found or list(_contents(folder))
        except ArtifactError as error:
            found = [str(error)]
        problems += found
        if not found:
            checked.append(f"{name}: {_what(folder)}")
        notes += [f"{name}: {note}" for note in ([] if found else _notes(folder))]
    left_out = () if opened.packed is None else ("corpus", "latents")
    if left_out:
        notes.append("packed: corpus and latents are not there to be compared")
    for stage, inputs in _made_from(opened):
        for made_by, wanted in inputs.items():
            if made_by in left_out:
                continue
            try:
                fingerprint = _fingerprint(opened, made_by)
            except ArtifactError:
                continue  # reported above
            if fingerprint != wanted:
                problems.append(
                    f"{stage} was made from another {made_by} ({wanted[:12]}, here is {(fingerprint or 'none')[:12]}); "
                    "copy the run again, or delete what is newer and run its stage again"
                )
    problems += [problem for problem in hashes.differences(opened.path) if problem not in problems]
    for note in notes:
        compute.reporter.say(note)
    if problems:
        for problem in problems:
            compute.reporter.warn(problem)
        raise ArtifactError(
            f"{len(problems)} things in run {opened.name} are not what was written; the first: {problems[0]}"
        )
    return {"run": str(opened.path), "checked": checked, "notes": notes}


def _stages(run: RunFolder) -> Iterator[Path]:
    """The folders of all stages that have begun."""
    of_clips = (run.corpus, run.features, run.latents, run.path / "classifier") if run.packed is None else ()
    yield from (folder for folder in (*of_clips, run.autoencoder, run.vocoders.path) if folder.is_dir())
    for models in (run.priors.path, run.vocoders.path):
        yield from sorted(folder for folder in models.glob("[!.]*") if folder.is_dir())


def _marker(folder: Path) -> Path | None:
    """The JSON that says that a stage is finished."""
    found = (folder / name for name in (f"{folder.name}.json", "model.json", "choice.json"))
    return next((path for path in found if path.is_file()), None)


def _contents(folder: Path) -> Iterator[str]:
    """Problems of sequences, weights and checkpoints in the folder of a stage."""
    marker = _marker(folder)
    if marker is None:
        read_checkpoint(folder)
        if (folder / MANIFEST).is_file():
            yield from SequenceStore(folder).verify()
    elif marker.name == "model.json":
        artifact = Artifact.read(folder)
        artifact.weights()
        if "decoder_sha256" in artifact.meta:
            load_tensors(folder / DECODER, str(artifact.meta["decoder_sha256"]))
    elif marker.name != "choice.json":
        store = SequenceStore(folder)
        found = store.verify()
        yield from found
        if not found and store.fingerprint() != read_json(marker)["fingerprint"]:
            yield f"{folder.name}: the manifest is not the one that {marker.name} names"


def _what(folder: Path) -> str:
    """What was compared in the folder of a stage that is whole."""
    marker = _marker(folder)
    if marker is None:
        return "unfinished; its command goes on" if any(folder.glob("*")) else "empty"
    if marker.name == "model.json":
        return "weights"
    return "choice" if marker.name == "choice.json" else f"{len(SequenceStore(folder))} sequences"


def _notes(folder: Path) -> Iterator[str]:
    """What is not compared or not used in the folder of a stage."""
    marker = _marker(folder)
    if marker is None:
        return
    known = hashes.listed(folder)
    if not known:
        yield (
            "has no list of hashes, since an older version made it or it was stopped at its very end; "
            "only its contents were compared, and its command writes the list"
        )
        return
    used = {
        hashes.LIST,
        "checkpoints",
        "decoder",
        "events",
        *known,
        *(path.name for path in folder.glob("*.safetensors")),
    }
    if marker.name not in ("model.json", "choice.json"):
        if elsewhere := SequenceStore(folder).unused_behind_url():
            yield f"its URL holds what actseq does not read: {', '.join(elsewhere)}"
        used -= {path.name for path in SequenceStore(folder).unused()}
    others = [path.name for path in folder.glob("[!.]*") if path.name not in used]
    if marker.name == "choice.json":
        others = [name for name in others if not (folder / name).is_dir()]
    if others:
        yield f"holds what actseq does not read: {', '.join(sorted(others))}"


def _fingerprint(run: RunFolder, stage: str) -> str | None:
    """Fingerprint of a finished stage; None if it is not there."""
    if stage == "autoencoder":
        return run.trained_autoencoder.fingerprint if (run.autoencoder / "model.json").is_file() else None
    marker = run.path / stage / f"{stage}.json"
    return str(read_json(marker)["fingerprint"]) if marker.is_file() else None


def _made_from(run: RunFolder) -> Iterator[tuple[str, dict[str, str]]]:
    """Each finished stage that can be read, and the fingerprints of the stages that it was made from."""
    markers = [run.autoencoder / "model.json", run.latents / "latents.json"]
    markers += [models.path / name / "model.json" for models in (run.priors, run.vocoders) for name in models.names]
    for marker in markers:
        try:
            inputs = read_json(marker)["inputs"]
        except ArtifactError:
            continue
        stages = {key: inputs[key] for key in ("corpus", "autoencoder", "latents") if isinstance(inputs.get(key), str)}
        yield marker.parent.relative_to(run.path).as_posix(), stages
