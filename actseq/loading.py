"""A run's files → objects ready for use, and the Python API over them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from actseq import config as configuration
from actseq.config import Config
from actseq.corpus import level_gain
from actseq.errors import ArtifactError, AudioError, ConfigError
from actseq.latents import LatentSequences
from actseq.runs import Run, content_hash, fingerprint, read_json, read_meta, read_weights

if TYPE_CHECKING:
    import torch

    from actseq.generation import Codec, Generated
    from actseq.priors.conditions import ConditionedPrior
    from actseq.representations.base import Representation
    from actseq.vocoders.base import Vocoder

Waveform = NDArray[np.float32]


def stage_config(config: Config, overrides: Iterable[str], command: str) -> Config:
    """A run's configuration with a command's overrides, its members complete."""
    from actseq import build

    return build.complete(configuration.override(config, overrides, command))


def load_codec(run: Run, device_name: str, vocoder: configuration.Member | None) -> tuple[Codec, Config, str]:
    """The autoencoder of a run ready for use, its configuration with the vocoder that `auto` stands for, its fingerprint."""
    from actseq import build
    from actseq.generation import Codec
    from actseq.training import resolve_device

    device = resolve_device(device_name)
    meta = read_meta(run.autoencoder, f"actseq train-ae … --run {run.name}")
    config = configuration.parse(Config, meta["config"], str(run.autoencoder / "model.json"))
    representation = build.build_representation(config)
    model = build.build_autoencoder(config, representation)
    tensors = read_weights(run.autoencoder, meta)
    for name, module in (("representation", representation), ("autoencoder", model)):
        _load_state(module, tensors, name, run.autoencoder)
    model.to(device).eval()
    representation.to(device)
    built = None
    if vocoder is not None:
        inputs = vocoder_inputs(run, meta, config)
        if vocoder.kind == "auto":
            vocoder = chosen_vocoder(run, inputs) or build.untrained_vocoder(config)
        built = (
            load_vocoder(run, vocoder.options["name"], representation, inputs)
            if vocoder.kind in build.TRAINED
            else build.build_vocoder(vocoder, representation)
        )
        built.to(device)  # type: ignore[attr-defined]
        config = config.model_copy(update={"vocoder": vocoder})
    return Codec(representation, model, built, config.corpus.level_dbfs, device), config, fingerprint(run.autoencoder)


def vocoder_inputs(run: Run, autoencoder: Mapping[str, Any], config: Config) -> dict[str, str]:
    """Fingerprints of what a vocoder of a run may have been made from; `autoencoder` is the JSON of the run's."""
    return {
        "corpus": str(autoencoder["inputs"]["corpus"]),
        "representation": content_hash(config.representation.model_dump(mode="json")),
        "autoencoder": fingerprint(run.autoencoder),
    }


def chosen_vocoder(run: Run, inputs: Mapping[str, str]) -> configuration.Member | None:
    """The winner that `train-vocoder` recorded, if it was a trained one and all that it was compared on is still there."""
    if not run.choice.is_file():
        return None
    choice = read_json(run.choice)
    winner = choice["winner"]
    name = winner["vocoder"].get("name", "")
    if choice["inputs"] != inputs or name not in run.trained_vocoders():
        return None
    if fingerprint(run.vocoders / name) != winner["fingerprint"]:
        return None
    return configuration.Member(**winner["vocoder"])


def load_vocoder(run: Run, name: str, representation: Representation, inputs: Mapping[str, str]) -> Vocoder:
    """A vocoder that `train-vocoder` made.

    Raises:
        ArtifactError: none of this name, damaged, or made for another corpus, representation or autoencoder.
    """
    from actseq import build

    folder = run.vocoder_folder(name)
    meta = read_meta(folder, f"actseq train-vocoder {run.name} --name {name}")
    for what, made_from in meta["inputs"].items():
        if made_from != inputs[what]:
            raise ArtifactError(
                f"vocoder {name} was trained with another {what} ({made_from[:12]}, here is {inputs[what][:12]})",
                action=f"train one for this run: actseq train-vocoder {run.name} --name NAME",
            )
    config = configuration.parse(Config, meta["config"], str(folder / "model.json"))
    network = build.build_vocoder_network(config, representation)
    _load_state(network, read_weights(folder, meta), "vocoder", folder)
    return build.vocoder_of(network.eval(), representation)


def _load_state(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], prefix: str, folder: Path) -> None:
    """All of a module's tensors or an error: nothing is loaded in part."""
    state = {name.removeprefix(f"{prefix}."): value for name, value in tensors.items() if name.startswith(f"{prefix}.")}
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:200]
        raise ArtifactError(
            f"the weights in {folder} do not fit their own model.json ({first})",
            action="use the version of actseq that made them",
        ) from None


def load_prior(
    run: Run, name: str | None, device_name: str, autoencoder: str
) -> tuple[ConditionedPrior, dict[str, Any], Path]:
    """A finished prior, its JSON and its folder.

    Raises:
        ArtifactError: it belongs to another autoencoder.
    """
    from actseq import build
    from actseq.training import resolve_device

    folder = run.prior_folder(name)
    meta = read_meta(folder, f"actseq train-prior {run.name}")
    if meta["inputs"]["autoencoder"] != autoencoder:
        raise ArtifactError(
            f"prior {folder.name} was trained on the latents of another autoencoder "
            f"({meta['inputs']['autoencoder'][:12]}, here is {autoencoder[:12]})",
            action=f"train one for this run: actseq train-prior {run.name} --name NAME",
        )
    config = configuration.parse(Config, meta["config"], str(folder / "model.json"))
    model = build.build_prior(config, meta["latent_dim"], meta["n_active"], meta["labels"])
    _load_state(model, read_weights(folder, meta), "prior", folder)
    model.to(resolve_device(device_name)).eval()
    return model, meta, folder


def load_latents(run: Run, autoencoder: str) -> tuple[LatentSequences, dict[str, Any]]:
    """The latents of a run, if they are those of its autoencoder."""
    marker = run.latents / "latents.json"
    if not marker.is_file():
        raise ArtifactError(f"run {run.name} has no latents", action=f"run actseq extract-latents {run.name} first")
    meta = read_json(marker)
    if meta["inputs"]["autoencoder"] != autoencoder:
        raise ArtifactError(
            f"the latents of run {run.name} were made by another autoencoder "
            f"({meta['inputs']['autoencoder'][:12]}, here is {autoencoder[:12]})",
            action=f"delete {run.latents} and run actseq extract-latents {run.name}",
        )
    return LatentSequences(run.latents, meta["latent_dim"]), meta


@dataclass
class LoadedRun:
    """A trained run, for use in Python; see `actseq.load_run`.

    Attributes:
        run: the folder.
        codec: representation, autoencoder and vocoder.
        config: its settings; `vocoder` is the one really used, where `auto` was asked for.
        prior: the prior, or None where none was trained yet.
    """

    run: Run
    codec: Codec
    config: Config
    autoencoder: str
    prior: ConditionedPrior | None
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

        Raises:
            ArtifactError: missing, unfinished, damaged or mismatched.
        """
        opened = Run.open(run)
        meta = read_meta(opened.autoencoder, f"actseq train-ae … --run {opened.name}")
        base = configuration.parse(Config, meta["config"], str(opened.autoencoder / "model.json"))
        config = stage_config(base, overrides, "generate")
        found = fingerprint(opened.autoencoder)
        model, folder = None, None
        if need_prior or prior is not None or any(opened.priors.glob("*/model.json")):
            model, _, folder = load_prior(opened, prior, device, found)
        codec, used, _ = load_codec(opened, device, config.vocoder)
        return LoadedRun(opened, codec, config.model_copy(update={"vocoder": used.vocoder}), found, model, folder)

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

    def generate(
        self,
        n: int = 1,
        *,
        seconds: float | None = None,
        until_stop: bool = False,
        label: str | None = None,
        seed_audio: Waveform | None = None,
        include_seed: bool = True,
        temperature: float | None = None,
        seed: int = 0,
    ) -> list[Waveform]:
        """New waveforms (samples,); arguments as of `actseq generate`, `seed_audio (samples,)` at `sample_rate`."""
        made = self.generate_clips(
            n,
            seconds=seconds,
            until_stop=until_stop,
            label=label,
            seed_audio=seed_audio,
            include_seed=include_seed,
            temperature=temperature,
            seed=seed,
        )
        return [clip.waveform for clip in made]

    def generate_clips(
        self,
        n: int = 1,
        *,
        seconds: float | None = None,
        until_stop: bool = False,
        label: str | None = None,
        seed_audio: Waveform | None = None,
        include_seed: bool = True,
        temperature: float | None = None,
        seed: int = 0,
    ) -> list[Generated]:
        """As `generate`, with latents, stops and joins."""
        import torch

        from actseq import generation

        if self.prior is None:
            raise ArtifactError(
                f"run {self.run.name} has no finished prior", action=f"run actseq train-prior {self.run.name} first"
            )
        if n < 1:
            raise ConfigError(f"n is {n}", "at least 1")
        if label is not None and label not in self.labels:
            raise ConfigError(
                f"no label '{label}'",
                action=configuration.nearest(label, self.labels)
                if self.labels
                else "this corpus has no labels: put files into folders named after their labels",
            )
        defaults = self.config.generate
        length = None if until_stop else seconds if seconds is not None else defaults.seconds
        index = 0 if label is None else self.labels.index(label) + 1
        given = None
        if seed_audio is not None:
            peak = float(np.abs(seed_audio).max(initial=0.0))
            if peak == 0:
                raise AudioError("the seed audio is silent or empty", "sound to continue")
            given = generation.SeedAudio(
                seed_audio.astype(np.float32), level_gain(peak, self.codec.level_dbfs), include_seed
            )
        with torch.inference_mode():
            condition = self.prior.condition(torch.full((n,), index, device=self.codec.device))
        return generation.generate(
            self.codec,
            self.prior.prior,
            n=n,
            seconds=length,
            max_seconds=defaults.max_seconds,
            condition=condition,
            temperature=defaults.temperature if temperature is None else temperature,
            seed=seed,
            seed_audio=given,
        )
