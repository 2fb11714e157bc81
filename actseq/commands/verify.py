"""`verify`: read everything in a run again and compare it with its hashes."""

from __future__ import annotations

from pathlib import Path

from actseq.commands.common import AUTO, Compute, Result
from actseq.errors import ArtifactError
from actseq.storage.artifacts import Artifact, read_json
from actseq.storage.run_folder import RunFolder
from actseq.storage.store import SequenceStore


def verify(run: str | Path, *, compute: Compute = AUTO) -> Result:
    """Read everything in a run again and compare it with its hashes.

    Raises:
        ArtifactError: a file is not what was written; each such file is reported.
    """
    opened = RunFolder.open(run)
    problems: list[str] = []
    checked: list[str] = []
    for folder in (opened.corpus, opened.features, opened.latents):
        marker = f"{folder.name}.json"
        if (folder / marker).is_file():
            store = SequenceStore(folder)
            found = store.verify()
            if not found and store.fingerprint() != read_json(folder / marker)["fingerprint"]:
                found = [f"{folder.name}: the manifest is not the one that {marker} names"]
            problems += found
            checked.append(f"{folder.name}: {len(store)} sequences")
    patterns = ("priors/*/model.json", "vocoders/*/model.json", "classifier/model.json")
    made = sorted(path for pattern in patterns for path in opened.path.glob(pattern))
    for folder in (opened.autoencoder, *(path.parent for path in made)):
        if (folder / "model.json").is_file():
            try:
                Artifact.read(folder).weights()
                checked.append(f"{folder.relative_to(opened.path)}: weights")
            except ArtifactError as error:
                problems.append(str(error))
    if problems:
        for problem in problems:
            compute.reporter.warn(problem)
        raise ArtifactError(
            f"{len(problems)} things in run {opened.name} are not what was written; the first: {problems[0]}"
        )
    return {"run": str(opened.path), "checked": checked}
