"""The clips of a run: their identifiers, their places on a plane, and their latents and sound."""

from __future__ import annotations

from dataclasses import dataclass

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
    """A clip of the corpus.

    Attributes:
        id: its identifier, other than that of any clip of another run.
        key: its name in the corpus.
        label: its label; empty if it has none.
        split: `train`, `validation` or `test`.
        seconds: its length.
        row: its row among the places.
        latents: its index among the latents.
        corpus: its index in the corpus.
    """

    id: str
    key: str
    label: str
    split: str
    seconds: float
    row: int
    latents: int
    corpus: int


class Catalog:
    """The clips of a run, and where they lie on the plane of their mean latents.

    Args:
        loaded: the run.

    Attributes:
        fingerprint: fingerprint of the latents.
        clips: the clips, in the order of the rows of `places`.
        plane: the plane.
        places: where the clips lie, (clips, 2).

    Raises:
        ArtifactError: the run has no latents or no corpus, or they are damaged.
    """

    def __init__(self, loaded: LoadedRun) -> None:
        self.sequences, meta = load_latents(loaded.run)
        self.corpus = Corpus(loaded.run.corpus, loaded.config.corpus.level_dbfs)
        self.fingerprint, self.sample_rate = str(meta["fingerprint"]), loaded.sample_rate
        found = {record.key: index for index, record in enumerate(self.corpus.store.records)}
        own = [index for index, record in enumerate(self.sequences.records) if record.extra["split"] != COPIES]
        self.clips = [self._clip(row, index, found[self.sequences.records[index].key]) for row, index in enumerate(own)]
        means = np.stack([self.latents(clip).mean(0, dtype=np.float64) for clip in self.clips])
        self.plane = Plane.of(means)
        self.places = self.plane.places(means)
        self._of_id = {clip.id: clip for clip in self.clips}

    def _clip(self, row: int, latents: int, corpus: int) -> CatalogClip:
        record = self.corpus.store.records[corpus]
        return CatalogClip(
            id=content_hash([self.fingerprint, record.key])[:16],
            key=record.key,
            label=str(record.extra["label"]),
            split=str(record.extra["split"]),
            seconds=units.samples_to_seconds(record.length, self.sample_rate),
            row=row,
            latents=latents,
            corpus=corpus,
        )

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

    def latents(self, clip: CatalogClip) -> LatentArray:
        """The mean latents (frames, latent_dim) of a clip."""
        return self.sequences.read(clip.latents)[0]

    def waveform(self, clip: CatalogClip, seconds: float | None = None) -> Waveform:
        """A clip as the model knows it, or only its first seconds."""
        stop = None if seconds is None else units.seconds_to_samples(seconds, self.sample_rate)
        length = self.corpus.store.records[clip.corpus].length
        return self.corpus.waveform(clip.corpus, 0, length if stop is None else min(length, stop))

    def nearest(self, place: Float64[np.ndarray, " xy"], n: int) -> tuple[Float64[np.ndarray, " n"], list[int]]:
        """Distances and rows of the `n` clips that are nearest to a place, the nearest first."""
        distances = np.hypot(*(self.places - place).T)
        rows = np.argsort(distances, kind="stable")[:n]
        return distances[rows], rows.tolist()
