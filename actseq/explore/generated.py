"""A map without a corpus: clips that the prior of a packed run generates take the place of recordings."""

from __future__ import annotations

from typing import Any

from actseq import units
from actseq.arrays import LatentArray, Waveform
from actseq.errors import ArtifactError
from actseq.explore.catalog import Catalog, CatalogClip
from actseq.inference.generation import Generated
from actseq.inference.loaded_run import LoadedRun
from actseq.progress import Reporter
from actseq.storage.artifacts import content_hash

CLIPS = 60
"""Number of clips, as many of each label."""
SEED = 0
"""Each start of the page shows the same clips."""
LONGEST_SECONDS = 4.0
"""Length of a clip of a run whose sounds do not end by themselves."""


class GeneratedSounds:
    """Clips from the prior of a run.

    Args:
        loaded: the run.
        reporter: receives the progress.

    Raises:
        ArtifactError: the run has no prior.
    """

    def __init__(self, loaded: LoadedRun, reporter: Reporter) -> None:
        if loaded.prior is None:
            raise ArtifactError(
                f"run {loaded.run.name} is packed, so it has no clips for a map, and it has no prior to make some",
                action="use the run that it was packed from, or name a prior with --prior",
            )
        self.sample_rate, self.fingerprints = loaded.sample_rate, loaded.fingerprints
        self.settings = loaded.config.generate.model_dump(mode="json")
        self.clips: list[Generated] = []
        self.labels: list[str] = []
        labels: list[str | None] = [*loaded.usable_labels] or [None]
        seconds = loaded.config.generate.seconds
        seconds = None if seconds is None else min(seconds, LONGEST_SECONDS)
        self.each = max(1, CLIPS // len(labels))
        reporter.begin("clips for the map", self.each * len(labels), unit="clips")
        for label in labels:
            self.clips += loaded.generate_clips(self.each, label=label, seconds=seconds, seed=SEED)
            self.labels += [label or ""] * self.each
            reporter.advance(len(self.clips))
        reporter.end()

    def catalog(self) -> Catalog:
        """The clips and their places."""
        fingerprint = content_hash([self.fingerprints, self.settings, SEED, len(self.clips)])
        clips = [
            CatalogClip(
                content_hash([fingerprint, row])[:16],
                self._name(row),
                self.labels[row],
                units.samples_to_seconds(len(clip.waveform), self.sample_rate),
                row,
            )
            for row, clip in enumerate(self.clips)
        ]
        return Catalog(clips, self, fingerprint, generated=True)

    def _name(self, row: int) -> str:
        return f"{self.labels[row] or 'clip'}-{row % self.each + 1:02d}, generated"

    def n_frames(self, row: int) -> int:
        """Number of latent frames."""
        return len(self.clips[row].latents)

    def latents(self, row: int) -> LatentArray:
        """Latents (frames, latent_dim) that the prior drew."""
        return self.clips[row].latents

    def waveform(self, row: int, seconds: float | None) -> Waveform:
        """Samples at the level of the run; None: all of them."""
        stop = None if seconds is None else units.seconds_to_samples(seconds, self.sample_rate)
        return self.clips[row].waveform[:stop]

    def about(self, row: int) -> dict[str, Any]:
        """What the clip is, for the JSON of what is made from it."""
        return {
            "clip": self._name(row),
            "label": self.labels[row] or None,
            "seed": SEED,
            "number": row % self.each + 1,
            "n": self.each,
            "settings": self.settings,
            "fingerprints": self.fingerprints,
        }
