"""The clips on the map: their identifiers, their places on a plane, and their latents and sound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float64

from actseq import units
from actseq.arrays import LatentArray, Waveform
from actseq.data.corpus import Corpus
from actseq.data.latents import COPIES
from actseq.errors import ConfigError
from actseq.inference.loaded_run import LoadedRun
from actseq.inference.loading import load_latents
from actseq.plots.latent_statistics import principal_directions
from actseq.storage.artifacts import content_hash

HEARD_SECONDS = 30.0
"""A clip is heard up to here."""
Place = tuple[float, float]
"""A place on the plane."""


@dataclass(frozen=True)
class Plane:
    """The plane of the first two principal components of some latents.

    Attributes:
        centre: mean of the latents, (latent_dim,).
        directions: the two components, (2, latent_dim).
        explained: fraction of the variance that each component explains, (axes,).
    """

    centre: Float64[np.ndarray, " latent_dim"]
    directions: Float64[np.ndarray, "2 latent_dim"]
    explained: Float64[np.ndarray, " axes"]

    @staticmethod
    def of(means: Float[np.ndarray, "clips latent_dim"]) -> Plane:
        """The plane of the mean latents of clips."""
        values = means.astype(np.float64)
        return Plane(values.mean(0), *principal_directions(values))

    def places(self, means: Float[np.ndarray, "n latent_dim"]) -> Float64[np.ndarray, "n 2"]:
        """Where mean latents lie on the plane."""
        return np.asarray((means - self.centre) @ self.directions.T)

    def place(self, latents: LatentArray) -> Place:
        """Where a sound with these latents (frames, latent_dim) lies."""
        x, y = self.places(latents.mean(0, dtype=np.float64)[None])[0]
        return float(x), float(y)


@dataclass(frozen=True)
class CatalogClip:
    """A clip on the map.

    Attributes:
        id: its identifier, other than that of any clip of another run.
        key: its name.
        label: its label; empty if it has none.
        seconds: its length.
        row: its row among the places, and its number among the sounds.
    """

    id: str
    key: str
    label: str
    seconds: float
    row: int


@runtime_checkable
class Sounds(Protocol):
    """The sounds of the clips of a catalog, by their rows."""

    def n_frames(self, row: int) -> int:
        """Number of latent frames."""

    def latents(self, row: int) -> LatentArray:
        """Mean latents (frames, latent_dim)."""

    def waveform(self, row: int, seconds: float | None) -> Waveform:
        """Samples as the model knows them; None: all of them."""

    def about(self, row: int) -> dict[str, Any]:
        """What the clip is, for the JSON of what is made from it."""


class Catalog:
    """Clips, and where they lie on the plane of their mean latents.

    Args:
        clips: the clips, in the order of the rows.
        sounds: their sounds.
        fingerprint: fingerprint of the latents.
        generated: whether the clips were generated; otherwise they are those of the corpus.

    Attributes:
        plane: the plane.
        places: where the clips lie, (clips, 2).
    """

    def __init__(self, clips: list[CatalogClip], sounds: Sounds, fingerprint: str, *, generated: bool = False) -> None:
        self.clips, self.sounds, self.fingerprint, self.generated = clips, sounds, fingerprint, generated
        means = np.stack([self.latents(clip).mean(0, dtype=np.float64) for clip in clips])
        self.plane = Plane.of(means)
        self.places = self.plane.places(means)
        self._of_id = {clip.id: clip for clip in clips}

    def place(self, clip: CatalogClip) -> Place:
        """Where a clip lies on the plane."""
        x, y = self.places[clip.row].tolist()
        return x, y

    @property
    def labels(self) -> list[str]:
        """All labels, sorted."""
        return sorted({clip.label for clip in self.clips} - {""})

    def clip(self, clip_id: str) -> CatalogClip:
        """The clip of an identifier.

        Raises:
            ConfigError: this run has no such clip.
        """
        if clip_id not in self._of_id:
            raise ConfigError("this run has no clip of that identifier", action="load the page again")
        return self._of_id[clip_id]

    def n_frames(self, row: int) -> int:
        """Number of latent frames of the clip of a row."""
        return self.sounds.n_frames(row)

    def latents(self, clip: CatalogClip) -> LatentArray:
        """The mean latents (frames, latent_dim) of a clip."""
        return self.sounds.latents(clip.row)

    def waveform(self, clip: CatalogClip, seconds: float | None = None) -> Waveform:
        """A clip as the model knows it, or only its first seconds."""
        return self.sounds.waveform(clip.row, seconds)

    def about(self, clip: CatalogClip) -> dict[str, Any]:
        """What a clip is, for the JSON of what is made from it."""
        return self.sounds.about(clip.row)

    def nearest(self, place: Float64[np.ndarray, " xy"], n: int) -> tuple[Float64[np.ndarray, " n"], list[int]]:
        """Distances and rows of the `n` clips that are nearest to a place, the nearest first."""
        distances = np.hypot(*(self.places - place).T)
        rows = np.argsort(distances, kind="stable")[:n]
        return distances[rows], rows.tolist()


class CorpusSounds:
    """The clips of the corpus of a run, without their copies at other speeds.

    Args:
        loaded: the run.

    Raises:
        ArtifactError: the run has no latents or no corpus, or they are damaged.
    """

    def __init__(self, loaded: LoadedRun) -> None:
        self.sequences, meta = load_latents(loaded.run)
        self.corpus = Corpus(loaded.run.corpus, loaded.config.corpus.level_dbfs)
        self.fingerprint, self.sample_rate = str(meta["fingerprint"]), loaded.sample_rate
        records = self.sequences.records
        found = {record.key: index for index, record in enumerate(self.corpus.store.records)}
        self.rows = [index for index, record in enumerate(records) if record.extra["split"] != COPIES]
        self.clips = [found[records[index].key] for index in self.rows]

    def catalog(self) -> Catalog:
        """The clips and their places."""
        return Catalog([self._clip(row) for row in range(len(self.rows))], self, self.fingerprint)

    def _clip(self, row: int) -> CatalogClip:
        record = self.corpus.store.records[self.clips[row]]
        name = content_hash([self.fingerprint, record.key])[:16]
        seconds = units.samples_to_seconds(record.length, self.sample_rate)
        return CatalogClip(name, record.key, str(record.extra["label"]), seconds, row)

    def n_frames(self, row: int) -> int:
        """Number of latent frames."""
        return self.sequences.records[self.rows[row]].length

    def latents(self, row: int) -> LatentArray:
        """Mean latents (frames, latent_dim)."""
        return self.sequences.read(self.rows[row])[0]

    def waveform(self, row: int, seconds: float | None) -> Waveform:
        """Samples as the model knows them; None: all of them."""
        length = self.corpus.store.records[self.clips[row]].length
        stop = length if seconds is None else min(length, units.seconds_to_samples(seconds, self.sample_rate))
        return self.corpus.waveform(self.clips[row], 0, stop)

    def about(self, row: int) -> dict[str, Any]:
        """What the clip is, for the JSON of what is made from it."""
        record = self.corpus.store.records[self.clips[row]]
        return {"clip": record.key, "label": str(record.extra["label"]) or None, "latents": self.fingerprint}
