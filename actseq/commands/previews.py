"""Previews of a model while it is trained: a few sounds and their picture, in `previews/` of the run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from actseq import audio, build, units
from actseq.arrays import Waveform
from actseq.autoencoders.base import Autoencoder
from actseq.commands.common import longer_command
from actseq.config import Config
from actseq.data.corpus import Corpus
from actseq.data.excerpts import spread
from actseq.inference.codec import Codec
from actseq.inference.generation import compile_clips
from actseq.inference.loaded_run import LoadedRun
from actseq.inference.loading import load_codec
from actseq.plots.contact_sheet import Panel, contact_sheet
from actseq.priors.labels import LabelledPrior
from actseq.representations.base import Representation
from actseq.storage.run_folder import RunFolder
from actseq.training.conduct import Watch

CLIPS = 3
"""Clips in each row."""
SECONDS = 2.0
"""Longest part of a clip."""
KEPT = 4
"""Previews of a training that are kept, the newest."""


@dataclass(frozen=True)
class Previews:
    """Writes the previews of one training.

    Attributes:
        run: the run.
        name: name of the training; the files are `NAME-STEP.flac` and `NAME-STEP.png`.
        codec: an autoencoder with a vocoder.
        real: the real clips.
        generate: makes as many new clips; None for an autoencoder.
    """

    run: RunFolder
    name: str
    codec: Codec
    real: Sequence[Waveform]
    generate: Callable[[], list[Waveform]] | None = None

    def __call__(self, step: int) -> None:
        """Write a preview, and delete the oldest."""
        rows = {"real": list(self.real), "reconstructed": self.codec.reconstruct(list(self.real))}
        if self.generate is not None:
            rows["generated"] = self.generate()
        rate, folder = self.codec.sample_rate, self.run.previews
        folder.mkdir(parents=True, exist_ok=True)
        sound = folder / f"{self.name}-{step:08d}.flac"
        picture = sound.with_suffix(".png")
        audio.write(sound, compile_clips([clip for row in rows.values() for clip in row], rate), rate)
        panels = {name: [Panel("", clip) for clip in row] for name, row in rows.items()}
        contact_sheet(picture, panels, rate, title=f"{self.run.name}, {self.name}, step {step}")
        for suffix in ("flac", "png"):
            own = re.compile(rf"{re.escape(self.name)}-\d{{8}}\.{suffix}")
            mine = sorted(path for path in folder.iterdir() if own.fullmatch(path.name))
            for old in mine[:-KEPT]:
                old.unlink()


def watch_autoencoder(
    run: RunFolder,
    config: Config,
    corpus: Corpus,
    representation: Representation,
    model: Autoencoder,
    device: torch.device,
) -> Watch:
    """What is shown while an autoencoder is trained; arguments as the training has them."""

    def remark(figures: Mapping[str, float], progress: float) -> str:
        return few_active(figures, model.latent_dim) if progress >= 0.5 else ""

    minutes, longer = config.train_ae.preview_minutes, longer_command(run, "autoencoder", "", config.train_ae)
    if minutes is None:
        return Watch(remark=remark, advice=True, longer=longer)
    vocoder = build.build_vocoder(build.untrained_vocoder(representation), representation)
    codec = Codec(representation, model, vocoder, config.corpus.level_dbfs, device)
    return Watch(Previews(run, "autoencoder", codec, _real(codec, corpus, config)), 60 * minutes, remark, True, longer)


def watch_prior(run: RunFolder, config: Config, model: LabelledPrior[Any], name: str, device: str) -> Watch:
    """What is shown while a prior is trained.

    Args:
        run: the run, with a finished autoencoder.
        config: complete configuration.
        model: the prior that is trained.
        name: its name.
        device: where to compute.
    """
    minutes, longer = config.train_prior.preview_minutes, longer_command(run, "prior", name, config.train_prior)
    if minutes is None or not (run.corpus / "corpus.json").is_file():
        return Watch(advice=True, longer=longer)
    codec, config = load_codec(run, device, config)
    corpus = Corpus(run.corpus, config.corpus.level_dbfs)
    loaded = LoadedRun(run, codec, config, run.trained_autoencoder.fingerprint, model, name, None, codec)
    length: dict[str, Any] = {"until_stop": True, "max_seconds": SECONDS}
    if codec.autoencoder.whole_clips:
        length = {}
    elif config.generate.seconds is not None:
        length = {"seconds": min(SECONDS, config.generate.seconds)}

    def generate() -> list[Waveform]:
        labels: list[str | None] = [*spread(loaded.usable_labels, CLIPS)]
        each = 1 if labels else CLIPS
        return [clip for label in labels or [None] for clip in loaded.generate(each, label=label, seed=0, **length)]

    previews = Previews(run, f"prior-{name}", codec, _real(codec, corpus, config), generate)
    return Watch(previews, 60 * minutes, advice=True, longer=longer)


def few_active(figures: Mapping[str, float], latent_dim: int) -> str:
    """A warning if few latent dimensions are in use; empty otherwise."""
    active = figures.get("active_dims")
    if active is None or active >= latent_dim / 4:
        return ""
    return (
        f"only {active:.0f} of {latent_dim} latent dimensions are in use; lower train_ae.regulariser.kl_weight or "
        "latent_dim"
    )


def _real(codec: Codec, corpus: Corpus, config: Config) -> list[Waveform]:
    """The beginnings of held-out clips, or of training clips where none are held out."""
    targets = config.train_ae.targets
    indices = corpus.indices("validation", targets) or corpus.indices("train", targets)
    samples = units.seconds_to_samples(SECONDS, codec.sample_rate)
    if codec.autoencoder.whole_clips:
        samples = min(samples, (codec.autoencoder.stride - 1) * codec.representation.hop_length)
    return [corpus.waveform(index)[:samples] for index in spread(indices, CLIPS)]
