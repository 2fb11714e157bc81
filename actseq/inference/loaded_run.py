"""A run's objects ready for use, and the Python API over them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actseq import config as configuration
from actseq import units
from actseq.config import Config
from actseq.data.corpus import level_gain
from actseq.errors import ArtifactError, AudioError, ConfigError
from actseq.storage.artifacts import fingerprint, read_json
from actseq.storage.run_folder import RunFolder

if TYPE_CHECKING:
    from actseq.inference.codec import Codec
    from actseq.inference.generation import Generated, Order, Piece
    from actseq.priors.labels import ConditionedPrior, LabelledPrior

from actseq.inference.loading import (
    Waveform,
    load_codec,
    load_prior,
    make_prior,
    read_autoencoder,
    require_generative,
    stage_config,
)


@dataclass
class LoadedRun:
    """A trained run, for use in Python; see `actseq.load_run`.

    Attributes:
        run: the folder.
        codec: representation, autoencoder and vocoder.
        config: its settings; `vocoder` is the one really used, where `auto` was asked for.
        autoencoder: fingerprint of it.
        prior: the prior, or None where none was trained yet, or there are several and none was named.
        prior_name: what it is called.
        prior_folder: where it lies; None where it needed no training.
    """

    run: RunFolder
    codec: Codec
    config: Config
    autoencoder: str
    prior: ConditionedPrior | LabelledPrior | None
    prior_name: str | None
    prior_folder: Path | None

    @staticmethod
    def open(
        run: str | Path,
        *,
        prior: str | None = None,
        device: str = "auto",
        overrides: Iterable[str] = (),
        need_prior: bool = False,
    ) -> LoadedRun:
        """Load what a run holds.

        Args:
            run: a name under `runs/`, or a path.
            prior: name of a trained one, or `iid` or `random-walk`; None takes the usual one, if there is one.
            device: `auto`, `cpu`, `cuda`, `mps`.
            overrides: of the sections `generate` and `vocoder`.
            need_prior: refuse to go without one.

        Raises:
            ArtifactError: missing, unfinished, damaged or mismatched.
        """
        from actseq import registry

        opened = RunFolder.open(run)
        if need_prior or prior is not None:
            require_generative(opened)
        config = stage_config(read_autoencoder(opened)[1], overrides, "generate")
        found = fingerprint(opened.autoencoder)
        name = opened.usual_prior() if prior is None else prior
        model: ConditionedPrior | LabelledPrior | None = None
        folder = None
        if name in registry.UNTRAINED_PRIORS and name not in opened.trained_priors():
            model = make_prior(opened, name, device, found)
        elif need_prior or name is not None:
            model, _, folder = load_prior(opened, name, device, found)
        codec, used, _ = load_codec(opened, device, config.vocoder)
        config = config.model_copy(update={"vocoder": used.vocoder})
        return LoadedRun(opened, codec, config, found, model, name, folder)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of what makes a clip; a prior that needed no training is named by the latents that it was made from."""
        found = {"autoencoder": self.autoencoder}
        if self.prior_folder is not None:
            found["prior"] = fingerprint(self.prior_folder)
        elif self.prior is not None:
            found["latents"] = str(read_json(self.run.latents / "latents.json")["fingerprint"])
        if self.vocoder_folder is not None:
            found["vocoder"] = fingerprint(self.vocoder_folder)
        return found

    @property
    def vocoder_folder(self) -> Path | None:
        """Where the vocoder in use lies; None where it needed no training."""
        name = self.config.vocoder.options.get("name")
        return None if name is None else self.run.vocoders / str(name)

    @property
    def sample_rate(self) -> int:
        """Hz, of all waveforms that go in and come out."""
        return self.codec.sample_rate

    @property
    def labels(self) -> list[str]:
        """Labels that the prior knows."""
        return [] if self.prior is None else list(self.prior.labels)

    def encode(self, waveform: Waveform) -> Waveform:
        """Encoder activations (frames, latent_dim) of a waveform (samples,) at `sample_rate`, brought to the corpus's level."""
        gain = level_gain(float(np.abs(waveform).max(initial=0.0)), self.codec.level_dbfs)
        return self.codec.encode([waveform * np.float32(gain)])[0][0]

    def decode(self, latents: Waveform) -> Waveform:
        """Waveform (samples,) of encoder activations (frames, latent_dim), at the corpus's level."""
        return self.codec.decode([latents.astype(np.float32)])[0]

    def reconstruct(self, waveform: Waveform) -> Waveform:
        """A waveform (samples,) through encoder, decoder and vocoder, at its own level and length."""
        gain = level_gain(float(np.abs(waveform).max(initial=0.0)), self.codec.level_dbfs)
        made: Waveform = self.codec.reconstruct([waveform * np.float32(gain)])[0] / np.float32(gain)
        return made

    def generate(self, n: int = 1, **order: Any) -> list[Waveform]:
        """New waveforms (samples,); arguments as of `stream`."""
        return [clip.waveform for clip in self.generate_clips(n, **order)]

    def generate_clips(self, n: int = 1, **order: Any) -> list[Generated]:
        """As `generate`, with latents, stops and joins. What continues nothing is brought to `new_peak`."""
        from actseq.inference.generation import collect

        clips = collect(self.stream(n, **order), n)
        wanted = None if order.get("seed_audio") is not None else self.new_peak
        if wanted is None:
            return clips
        peaks = [float(np.abs(clip.waveform).max(initial=0.0)) or wanted for clip in clips]
        return [
            replace(clip, waveform=clip.waveform * np.float32(wanted / peak))
            for clip, peak in zip(clips, peaks, strict=True)
        ]

    @property
    def new_peak(self) -> float | None:
        """Amplitude that clips which continue nothing are brought to: that at which the models know those of the corpus."""
        level = self.codec.level_dbfs
        return None if level is None or self.config.generate.level == "free" else units.db_to_amplitude(level)

    def stream(
        self,
        n: int = 1,
        *,
        seconds: float | None = None,
        until_stop: bool = False,
        label: str | None = None,
        seed_audio: Waveform | None = None,
        include_seed: bool = True,
        seed: int = 0,
        **controls: float | None,
    ) -> Iterator[Piece]:
        """New clips piece by piece, at whatever level, in constant memory; `BATCH_CLIPS` of them grow side by side.

        Args:
            n: clips.
            seconds: length of what is new; None: the run's default.
            until_stop: let the prior end each clip.
            label: one that the prior knows, or `A:B` to glide from A to B over the clip.
            seed_audio: (samples,) at `sample_rate`, to be continued.
            include_seed: put the seed itself before what continues it.
            seed: of all random numbers.
            controls: `min_seconds`, `max_seconds`, `best_of` and all of `actseq.priors.base.Sampling`; those left out or None
                are as in the section `generate` of the run's configuration.

        Raises:
            ConfigError: a label or control that there is not, or that the prior does not know.
            ArtifactError: no prior was trained.
            AudioError: the seed is silent.
        """
        from actseq.inference import generation

        if self.prior is None:
            raise ArtifactError(
                f"run {self.run.name} has no finished prior", action=f"run actseq train-prior {self.run.name} first"
            )
        order = self._order(self.prior, n, label, seed, controls)
        seconds = None if until_stop else seconds if seconds is not None else self.config.generate.seconds
        if seconds is None and order.min_seconds > order.max_seconds:
            raise ConfigError(f"min_seconds is {order.min_seconds:g}", f"at most max_seconds, {order.max_seconds:g}")
        sound = None
        if seed_audio is not None:
            sound = generation.SeedAudio(seed_audio.astype(np.float32), self._gain(seed_audio), include_seed)
        return generation.generate(self.codec, self.prior.prior, replace(order, seconds=seconds, seed_audio=sound))

    def through(self, waveforms: Sequence[Waveform], *, seconds: float | None = None) -> Iterator[Piece]:
        """One clip that begins as the first of two or more waveforms and ends as the last; see `Interpolate`.

        Args:
            waveforms: each (samples,) at `sample_rate`.
            seconds: length; None: that of the sounds.
        """
        import torch

        from actseq.inference import generation
        from actseq.priors.morphs import Interpolate

        latents = [self.codec.encode([sound * np.float32(self._gain(sound))])[0][0] for sound in waveforms]
        prior = Interpolate([torch.from_numpy(sequence).to(self.codec.device) for sequence in latents])
        bound = (prior.natural_frames + 1) / self.codec.autoencoder.latent_rate
        return generation.generate(self.codec, prior, generation.Order(1, seconds, bound, restart=False))

    def vary(
        self,
        waveform: Waveform,
        amount: float,
        n: int = 1,
        *,
        label: str | None = None,
        seed: int = 0,
        **controls: float | None,
    ) -> Iterator[Piece]:
        """Variations of a waveform (samples,) at `sample_rate`, of its length and level; see `Vary`.

        Args:
            waveform: what is varied.
            amount: from 0, the reconstruction, to 1, where nothing of it is left.
            n: clips.
            label: whose statistics the variations move towards; None: those of the whole corpus.
            seed: of the random numbers.
            controls: as of `stream`; only temperature, noise_temperature, bias and noise_clamp mean something here.
        """
        import torch

        from actseq.inference import generation
        from actseq.priors.morphs import Vary
        from actseq.priors.untrained import RandomWalk

        gain, device = self._gain(waveform), self.codec.device
        model = make_prior(self.run, "random-walk", str(device), self.autoencoder)
        assert isinstance(model.prior, RandomWalk)
        mean, variance = (
            None if part is None else torch.from_numpy(part).to(device)
            for part in self.codec.encode([waveform * np.float32(gain)])[0]
        )
        assert mean is not None
        prior = Vary(mean, variance, model.prior, amount=amount)
        bound = (prior.natural_frames + 1) / self.codec.autoencoder.latent_rate
        order = self._order(model, n, label, seed, controls)
        return generation.generate(
            self.codec, prior, replace(order, max_seconds=bound, min_seconds=0.0, restart=False, gain=gain)
        )

    def _gain(self, waveform: Waveform) -> float:
        """What brings a sound to the level that the model knows."""
        peak = float(np.abs(waveform).max(initial=0.0))
        if peak == 0:
            raise AudioError("the given audio is silent or empty", "sound to work with")
        return level_gain(peak, self.codec.level_dbfs)

    def _order(
        self,
        model: ConditionedPrior | LabelledPrior,
        n: int,
        label: str | None,
        seed: int,
        controls: Mapping[str, float | None],
    ) -> Order:
        """Until the prior stops, with the controls that are given, and those of the configuration that the prior knows.

        What is given by name and means nothing to the prior is refused by it when it samples.
        """
        import torch

        from actseq.inference import generation
        from actseq.priors.base import Sampling

        if n < 1:
            raise ConfigError(f"n is {n}", "at least 1")
        given = [f"generate.{name}={value}" for name, value in controls.items() if value is not None]
        section = configuration.resolve(self.config.model_dump(mode="json"), given).generate
        known = [
            field.name
            for field in fields(Sampling)
            if field.name in model.prior.controls or controls.get(field.name) is not None
        ]
        indices = torch.tensor([0, *_label_indices(label, model.labels)], device=self.codec.device)
        with torch.inference_mode():
            conditions = model.condition(indices)[:, None].unbind()
        return generation.Order(
            n=n,
            seconds=None,
            max_seconds=section.max_seconds,
            min_seconds=section.min_seconds,
            restart=section.after_end == "restart",
            condition=conditions[1],
            condition_end=conditions[2] if len(conditions) == 3 else None,
            unconditional=conditions[0],
            sampling=Sampling(**{name: getattr(section, name) for name in known}),
            best_of=section.best_of,
            seed=seed,
        )


def _label_indices(label: str | None, labels: list[str]) -> list[int]:
    """Rows of the label table: of one label, of the two of a glide `A:B`, or that of no label."""
    if label is None:
        return [0]
    names = [label]
    if label not in labels and ":" in label:
        # A label may have a colon in its own name.
        pairs = [(label[:i], label[i + 1 :]) for i, letter in enumerate(label) if letter == ":"]
        names = list(next((pair for pair in pairs if set(pair) <= set(labels)), label.split(":", 1)))
    for name in names:
        if name not in labels:
            raise ConfigError(
                f"no label '{name}'",
                action=configuration.suggest_name(name, labels)
                if labels
                else "this corpus has no labels: put files into folders named after their labels",
            )
    return [labels.index(name) + 1 for name in names]
