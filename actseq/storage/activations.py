"""The encoder activations of one sound in a file, to be looked at, edited, decoded or continued.

A `.safetensors` file holds the tensors `mean` and, if the bottleneck gives one, `log_variance`, each (frames,
latent_dim), float32. Its metadata has one key, `actseq`: a JSON object with the other attributes of `Activations`, and
with `format`. One key, because safetensors writes several in an order that changes from call to call. An `.npz` file
holds the same: two arrays, and the text `actseq`.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from actseq import units
from actseq.arrays import LatentArray
from actseq.errors import ArtifactError
from actseq.storage.store import write_file

FORMAT = 1
HEADER = "actseq"
SAFETENSORS, NPZ = ".safetensors", ".npz"
KINDS = (SAFETENSORS, NPZ)
"""Endings of the files that `read_activations` reads."""


@dataclass(frozen=True)
class Activations:
    """The encoder activations of one sound, and what decoding needs to give the sound its length and level back.

    Attributes:
        mean: (frames, latent_dim). It may be edited, also to another number of frames.
        log_variance: (frames, latent_dim); None if there is none. Decoding does not use it.
        latent_rate: latent frames per second.
        sample_rate: sample rate of the sound in Hz.
        samples: number of samples in the sound.
        gain: gain that brought the sound to the level that the autoencoder knows.
        label: label of the sound in the corpus of the run; None if it is not known.
        autoencoder: fingerprint of the autoencoder.
    """

    mean: LatentArray
    log_variance: LatentArray | None
    latent_rate: float
    sample_rate: int
    samples: int
    gain: float
    label: str | None
    autoencoder: str

    def own_length(self, hop_length: int, stride: int) -> int | None:
        """Number of samples in the sound; None if `mean` has another number of frames than the sound.

        Args:
            hop_length: samples per feature frame.
            stride: feature frames per latent frame.
        """
        # A seed is encoded without the frame that is centred just after its last sample.
        encoded = units.n_latent_frames(units.n_frames(self.samples, hop_length), stride)
        covered = units.n_hops(self.samples, hop_length * stride)
        return self.samples if len(self.mean) in (encoded, covered) else None


def write_activations(path: Path, activations: Activations) -> None:
    """Write a file, whole or not at all; its ending says which kind, `.safetensors` or `.npz`.

    Raises:
        ArtifactError: the ending is another, or the file cannot be written.
    """
    arrays = {"mean": activations.mean}
    if activations.log_variance is not None:
        arrays["log_variance"] = activations.log_variance
    arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
    text = json.dumps({"format": FORMAT} | {name: getattr(activations, name) for name in _KEYS})
    if path.suffix == SAFETENSORS:
        content = save(arrays, {HEADER: text})
    elif path.suffix == NPZ:
        file = io.BytesIO()
        named: dict[str, Any] = {**arrays, HEADER: np.array(text)}
        np.savez(file, **named)
        content = file.getvalue()
    else:
        raise ArtifactError(f"{path}: activations have no file of this kind", f"a name ending in {' or '.join(KINDS)}")
    try:
        write_file(path, content)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be written ({error.strerror})", action="name another folder") from None


def read_activations(path: Path) -> Activations:
    """Read a file that `write_activations` wrote, or one like it.

    Raises:
        ArtifactError: it is missing or damaged, its header is missing, or its arrays are not what they should be.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror})", "a file of actseq encode") from None
    if path.suffix not in KINDS:
        raise ArtifactError(f"{path} holds no activations", f"a file of actseq encode, {' or '.join(KINDS)}")
    try:
        arrays, header = (_from_safetensors if path.suffix == SAFETENSORS else _from_npz)(content)
    except (SafetensorError, zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        raise ArtifactError(
            f"{path} is damaged ({error})", "a file of actseq encode", "encode the sound again"
        ) from None
    about = _header(path, header)
    foreign = sorted(set(arrays) - {"mean", "log_variance"})
    if foreign or "mean" not in arrays:
        found = ", ".join(sorted(arrays)) or "nothing"
        raise ArtifactError(f"{path} holds {found}", "mean, and log_variance if there is one", "leave out all others")
    mean, log_variance = (_checked(path, name, arrays.get(name)) for name in ("mean", "log_variance"))
    assert mean is not None
    return Activations(mean, log_variance, **about)


_KEYS = {
    "latent_rate": (float, int),
    "sample_rate": (int,),
    "samples": (int,),
    "gain": (float, int),
    "label": (str, type(None)),
    "autoencoder": (str,),
}
"""Keys of the header, attributes of `Activations`, and the types that JSON gives them."""
assert set(_KEYS) == {field.name for field in fields(Activations)} - {"mean", "log_variance"}


def _from_safetensors(content: bytes) -> tuple[Mapping[str, NDArray[Any]], str | None]:
    arrays = load(content)
    # safetensors gives the metadata of files only: the header is JSON after its length in 8 bytes.
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return arrays, header.get("__metadata__", {}).get(HEADER)


def _from_npz(content: bytes) -> tuple[Mapping[str, NDArray[Any]], str | None]:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    text = arrays.pop(HEADER, None)
    return arrays, None if text is None else str(text)


def _header(path: Path, text: str | None) -> dict[str, Any]:
    """The attributes of `Activations` that a header holds."""
    try:
        found = None if text is None else json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ArtifactError(
            f"{path} has no header of actseq of format {FORMAT}",
            f"metadata with the key {HEADER}, as in the files of actseq encode",
            "keep the metadata of the file that was edited",
        )
    wrong = [name for name, kinds in _KEYS.items() if name not in found or type(found[name]) not in kinds]
    if not wrong:
        wrong = [name for name in ("latent_rate", "sample_rate", "gain") if not 0 < found[name] < float("inf")]
        wrong += ["samples"] if found["samples"] < 0 else []
    if wrong:
        raise ArtifactError(
            f"the header of {path} has no usable {wrong[0]} ({found.get(wrong[0])!r})",
            action="keep the metadata of the file that was edited",
        )
    return {name: found[name] for name in _KEYS}


def _checked(path: Path, name: str, array: NDArray[Any] | None) -> LatentArray | None:
    """The array as float32."""
    if array is None:
        return None
    if array.ndim != 2 or not len(array) or not np.issubdtype(array.dtype, np.floating):
        raise ArtifactError(
            f"{name} in {path} is {array.dtype} of shape {array.shape}", "floating point numbers (frames, latent_dim)"
        )
    wrong = int(array.size - np.isfinite(array).sum())
    if wrong:
        raise ArtifactError(f"{wrong} of {array.size} values of {name} in {path} are NaN or infinite", "finite values")
    return np.ascontiguousarray(array, np.float32)
