"""Artifacts: a folder with `model.safetensors` and `model.json`, and the JSON and tensors of a run.

The JSON holds the hash of the weights and is written last: an artifact without it is unfinished. The hash of the JSON
is the artifact's fingerprint. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actseq.errors import ArtifactError, ConfigError
from actseq.storage import hashes
from actseq.storage.files import read_whole, regular
from actseq.storage.processes import here
from actseq.storage.remote import delete_shards
from actseq.storage.store import write_file

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
WEIGHTS = "model.safetensors"
"""In the folder of a model: its weights."""
_LARGEST_JSON = 16 * 2**20
"""Largest JSON in bytes."""
BUDGET = ("steps", "minutes")
"""Keys of a section that say how long a training lasts."""
MOST_HOLES, SMALL = 16, 2**26
"""Weights on the disk are at least a sixteenth of their length, apart from so many bytes: a file system may compress
them a little, but a hole takes memory and no room on the disk.
"""
_TYPES: dict[str, type] = {
    "best_figures": dict,
    "best_sha256": str,
    "best_step": int,
    "config": dict,
    "count": int,
    "figures": dict,
    "files": dict,
    "fingerprint": str,
    "generative": bool,
    "inputs": dict,
    "kind": str,
    "labels": list,
    "latent_dim": int,
    "listing": str,
    "n_active": int,
    "n_parameters": int,
    "sha256": str,
    "step": int,
    "sums": dict,
    "total_steps": int,
    "weights_sha256": str,
    "winner": dict,
}
"""Types of the values in the JSONs of a run, where they have these keys."""


class Fields(dict[str, Any]):
    """A JSON object, or one inside it. Asking for a key that it lacks is an `ArtifactError` that names the file."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        super().__init__(values)
        self._path = path

    def __missing__(self, key: str) -> Any:
        raise ArtifactError(
            f"{self._path} has no '{key}'",
            action=f"copy the run again, or delete {self._path.parent} and run its stage",
        )


def canonical(value: Any) -> bytes:
    """JSON with sorted keys, the form that is hashed."""
    return json.dumps(value, sort_keys=True, default=str).encode()


def content_hash(value: Any) -> str:
    """Hash of a JSON value."""
    return hashlib.sha256(canonical(value)).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON, whole or not at all."""
    write_file(path, (json.dumps(value, indent=2, default=str) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; see `Fields`. It is compared with the list of hashes beside it.

    Raises:
        ArtifactError: the file is missing or damaged, has changed, or a value has another type than actseq writes.
    """
    content = read_whole(path, _LARGEST_JSON)
    hashes.check(path, content)
    try:
        value = json.loads(content, object_hook=lambda values: Fields(values, path))
    except (ValueError, RecursionError):
        raise ArtifactError(
            f"{path} is damaged (not JSON)", action=f"delete {path.parent} and run its stage again"
        ) from None
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} does not hold a JSON object")
    for key, kind in _TYPES.items():
        found = value.get(key)
        natural = type(found) is int and found >= 0
        if key in value and not (natural if kind is int else isinstance(found, kind)):
            raise ArtifactError(
                f"'{key}' in {path} is {str(found)[:40]!r}",
                "a number that is not negative" if kind is int else f"a {kind.__name__}",
                f"copy the run again, or delete {path.parent} and run its stage again",
            )
    return value


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write safetensors whole or not at all; return the hash of the file."""
    from safetensors.torch import save

    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    write_file(path, content)
    return hashlib.sha256(content).hexdigest()


def load_tensors(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Read safetensors.

    Raises:
        ArtifactError: the file is missing, cut short, a pickle, mostly holes, or does not have the hash `sha256`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    status = regular(path).stat()
    # Blocks have 512 bytes, whatever the file system's own are. Windows does not count them.
    if 512 * getattr(status, "st_blocks", status.st_size) * MOST_HOLES < status.st_size - SMALL:
        raise ArtifactError(
            f"{path} has {status.st_size} bytes, but most of it is a hole", "whole safetensors", "copy the run again"
        )
    content = read_whole(path)
    # A safetensors file begins with the length of its header in 8 bytes of any value, then the header's brace.
    if content[8:9] != b"{" and (content[:2] == b"PK" or content[:1] == b"\x80"):
        raise ArtifactError(
            f"{path} is a pickle (a .ckpt or .pt file)",
            "safetensors",
            "nothing is unpickled, since a pickle can run any code",
        )
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise ArtifactError(
            f"{path} is cut short or damaged ({error})",
            "whole safetensors",
            "copy the run again, or delete the stage's folder and run the stage again",
        ) from None
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise ArtifactError(
            f"{path} is not the file that its JSON describes", action="copy the run again, or run its stage again"
        )
    return dict(tensors)


def write_artifact(folder: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write weights, then the JSON that names their hash."""
    (folder / "model.json").unlink(missing_ok=True)
    sha256 = save_tensors(folder / WEIGHTS, tensors)
    write_json(folder / "model.json", {"format": FORMAT, **meta, "weights_sha256": sha256})


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a finished model, or has lost the JSON of one."""
    return (folder / "model.json").is_file() or "model.json" in hashes.listed(folder)


@dataclass(frozen=True)
class Artifact:
    """A finished model, its JSON read and its weights not yet.

    Attributes:
        folder: holds `model.json` and `model.safetensors`.
        meta: content of the JSON.
        fingerprint: hash of the JSON, which holds the hash of the weights.
    """

    folder: Path
    meta: dict[str, Any]
    fingerprint: str

    @staticmethod
    def read(folder: Path, made_by: str = "its stage") -> Artifact:
        """Read the JSON.

        Raises:
            ArtifactError: `made_by`, a command, has not finished; or the JSON is damaged or has another format.
        """
        path = folder / "model.json"
        if not is_finished(folder):
            raise ArtifactError(f"{folder} holds no finished model", action=f"run {made_by} first")
        meta = read_json(path)
        if meta.get("format") != FORMAT:
            raise ArtifactError(
                f"{path} has format {meta.get('format')}", f"format {FORMAT}", "use the version of actseq that made it"
            )
        return Artifact(folder, meta, content_hash(meta))

    def weights(self) -> dict[str, Tensor]:
        """The tensors by name.

        Raises:
            ArtifactError: as `load_tensors`; or they are not those that the JSON names.
        """
        return load_tensors(self.folder / WEIGHTS, str(self.meta["weights_sha256"]))


def same_settings(
    made: Mapping[str, Any], asked: Mapping[str, Any], what: str, remedy: str, of_budget: str = ""
) -> None:
    """Check that the settings are those that something was made with.

    Args:
        made: the settings that it was made with.
        asked: those that are asked for.
        what: its name in messages.
        remedy: what to do where they differ.
        of_budget: what to do where only steps or minutes differ; empty: as `remedy`.

    Raises:
        ConfigError: they differ; the message names the keys.
    """
    found = list(_differences(dict(made), dict(asked)))
    if not found:
        return
    differing = [f"{key} {old} instead of {new}" for key, old, new in found]
    shown = ", ".join(differing[:4]) + (f" and {len(differing) - 4} more" if len(differing) > 4 else "")
    only_budget = all(key.rpartition(".")[2] in BUDGET for key, _, _ in found)
    raise ConfigError(
        f"{what} was made with other settings: {shown}", action=of_budget if only_budget and of_budget else remedy
    )


def begin_store(folder: Path, inputs: Mapping[str, Any], what: str) -> dict[str, Any] | None:
    """Prepare a folder for a store that is to be begun or resumed. Of several processes, the first one does it.

    Args:
        folder: folder of the store, whose JSON has the folder's name.
        inputs: everything that the content depends on. An unfinished store with other inputs is begun again.
        what: name of the content in messages.

    Returns:
        The JSON of the store if it is finished, else None.

    Raises:
        ConfigError: the store is finished, and was made from other inputs.
    """
    processes = here()
    return processes.share(_begun(folder, inputs, what) if processes.first else None)


def _begun(folder: Path, inputs: Mapping[str, Any], what: str) -> dict[str, Any] | None:
    marker, plan = folder / f"{folder.name}.json", folder / "plan.json"
    if marker.is_file():
        meta = read_json(marker)
        same_settings(meta["inputs"], inputs, what, f"delete {folder} to make them again")
        return meta
    if plan.is_file() and read_json(plan) != inputs:
        delete_shards(folder)
        hashes.forget(folder / hashes.LIST)
        for path in folder.glob("[!.]*"):
            path.unlink()
    write_json(plan, inputs)
    return None


def _differences(made: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for key in sorted({*made, *asked}):
        old, new = made.get(key), asked.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif json.loads(canonical(old)) != json.loads(canonical(new)):
            yield f"{prefix}{key}", old, new
