"""Load the models and latents of a run from its files."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from actseq import build
from actseq import config as configuration
from actseq.config import Config
from actseq.data.latents import LatentSequences
from actseq.errors import ArtifactError, ConfigError
from actseq.inference.codec import Codec
from actseq.priors.labels import LabelledPrior
from actseq.progress import Reporter
from actseq.representations.base import Representation
from actseq.storage.artifacts import Artifact, load_tensors, read_json
from actseq.storage.files import regular
from actseq.storage.run_folder import RunFolder
from actseq.training.devices import resolve_device
from actseq.vocoders.base import Vocoder

DECODER = "decoder.safetensors"
"""In the folder of a prior: the decoder that was tuned on what the prior makes."""


def stage_config(run: RunFolder, overrides: Iterable[str], command: str, reporter: Reporter | None = None) -> Config:
    """The configuration that a run's autoencoder was trained with, with a command's overrides; see `build.complete`."""
    model = run.trained_autoencoder
    stored, overrides = model.meta["config"], list(overrides)
    try:
        config = configuration.override(stored, overrides, command)
    except ConfigError:
        # An error in the file itself is reported with the file's name.
        configuration.parse(Config, stored, str(model.folder / "model.json"))
        raise
    if not any(key.startswith("generate.effects") for key in config.given):
        _check_effects(run, config)
    return build.complete(config, reporter)


def _check_effects(run: RunFolder, config: Config) -> None:
    """Refuse a run whose own effects read a file outside it, since the run may come from a stranger.

    Raises:
        ConfigError: one of them does.
    """
    for effect in config.generate.effects:
        name = effect.options.get("impulse_response")
        if isinstance(name, str) and not Path(name).resolve().is_relative_to(run.path.resolve()):
            raise ConfigError(
                f"run {run.name} has the effect {effect.kind} with the file {name}, outside the run",
                "a file in the run",
                f"--effect {effect.kind}:impulse_response=FILE takes a file of yours, --set generate.effects=[] none",
            )


@contextmanager
def _bounded(artifact: Artifact) -> Iterator[None]:
    """Build a model that is about to be loaded: it may have no more parameters than its weights have bytes.

    A configuration from a stranger cannot take memory or time that its weights do not.

    Raises:
        ArtifactError: it has more, or cannot be built.
    """
    path = artifact.folder / "model.safetensors"
    most, count = regular(path).stat().st_size, 0

    def counted(module: torch.nn.Module, name: str, value: torch.Tensor | None) -> None:
        nonlocal count
        count += 0 if value is None else value.numel()
        if count > most:
            raise ArtifactError(
                f"{artifact.folder / 'model.json'} describes a model of more than {most} numbers",
                "a model of the size of its weights",
                "copy the run again",
            )

    hook = register_module_parameter_registration_hook(counted)
    try:
        yield
    except (RuntimeError, MemoryError, OverflowError, ZeroDivisionError, IndexError) as error:
        first = " ".join(str(error).split())[:200]
        raise ArtifactError(
            f"the model that {artifact.folder / 'model.json'} describes cannot be built ({first})",
            action="copy the run again, or use the version of actseq that made it",
        ) from None
    finally:
        hook.remove()


def require_generative(run: RunFolder) -> None:
    """Refuse a run whose latents do not hold the sound.

    Raises:
        ConfigError: its autoencoder has skip connections.
    """
    if not run.trained_autoencoder.meta["generative"]:
        raise ConfigError(
            f"run {run.name} has an autoencoder with skip connections: its latents do not hold the sound",
            "a generative one",
            f"use actseq restore {run.argument} PATH… --out DIR with it, or train another preset",
        )


def load_codec(run: RunFolder, device_name: str, config: Config, *, vocoder: bool = True) -> tuple[Codec, Config]:
    """The autoencoder of a run, ready for use.

    Args:
        run: its folder.
        device_name: `auto`, `cpu`, `cuda`, `mps`.
        config: as from `stage_config`.
        vocoder: load the vocoder of the configuration too.

    Returns:
        The codec, and the configuration with the vocoder that `auto` stands for.

    Raises:
        ArtifactError: a model is missing, damaged or mismatched.
    """
    device, artifact = resolve_device(device_name), run.trained_autoencoder
    tensors = artifact.weights()
    with _bounded(artifact):
        representation = build.build_representation(config)
        model = build.build_autoencoder(config, representation, artifact.meta.get("labels", ()))
    for name, module in (("representation", representation), ("autoencoder", model)):
        _load_state(module, tensors, name, run.autoencoder)
    model.to(device).eval()
    representation.to(device)
    built = None
    if vocoder:
        if config.vocoder.kind == "auto":
            found = run.chosen_vocoder(config) or build.untrained_vocoder(representation)
            config = config.model_copy(update={"vocoder": found})
        built = (
            load_vocoder(run, config.vocoder.options["name"], representation, config)
            if config.vocoder.kind == "trained"
            else build.build_vocoder(config.vocoder, representation)
        )
        built.to(device)
    return Codec(representation, model, built, config.corpus.level_dbfs, device), config


def load_vocoder(run: RunFolder, name: str, representation: Representation, config: Config) -> Vocoder:
    """A vocoder that `train-vocoder` made.

    Raises:
        ArtifactError: none of this name, damaged, or made for another corpus, representation or autoencoder.
    """
    artifact, inputs = run.vocoders.read(name), run.vocoder_inputs(config)
    for what, made_from in artifact.meta["inputs"].items():
        if made_from != inputs[what]:
            raise ArtifactError(
                f"vocoder {name} was trained with another {what} than run {run.name} has now",
                action=f"train one under another name: {run.training_command('vocoder', 'NAME')}",
            )
    config = as_trained(config, artifact, "train-vocoder")
    tensors = artifact.weights()
    with _bounded(artifact):
        network = build.build_vocoder_network(config, representation)
    _load_state(network, tensors, "vocoder", artifact.folder)
    return build.vocoder_of(network.eval(), representation)


def as_trained(config: Config, artifact: Artifact, command: str) -> Config:
    """The configuration with the sections of a later stage as a prior or vocoder was trained."""
    stored = configuration.translate(artifact.meta["config"])
    sections = {name: stored.get(name, {}) for name in configuration.STAGE_SECTIONS[command]}
    return configuration.with_sections(config, sections, str(artifact.folder / "model.json"))


def _load_state(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], prefix: str, folder: Path) -> None:
    """Load all tensors of a module.

    Raises:
        ArtifactError: a tensor is missing, unknown or of another shape; nothing is loaded then.
    """
    state = {name.removeprefix(f"{prefix}."): value for name, value in tensors.items() if name.startswith(f"{prefix}.")}
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:200]
        raise ArtifactError(
            f"the weights in {folder} do not fit their own model.json ({first})",
            action="use the version of actseq that made them",
        ) from None


def load_prior(run: RunFolder, name: str | None, device_name: str, config: Config) -> tuple[LabelledPrior[Any], Path]:
    """A finished prior and its folder; None takes the usual one.

    Raises:
        ArtifactError: none of this name, damaged, or trained on the latents of another autoencoder.
    """
    artifact = run.priors.read(name)
    meta, folder = artifact.meta, artifact.folder
    if meta["inputs"]["autoencoder"] != run.trained_autoencoder.fingerprint:
        raise ArtifactError(
            f"prior {folder.name} was trained on the latents of another autoencoder than the one that run {run.name} "
            "has now",
            action=f"make it again: {_again(run, folder.name)}" if run.packed is None else "copy the run again",
        )
    config = as_trained(config, artifact, "train-prior")
    tensors = artifact.weights()
    with _bounded(artifact):
        timed = bool(meta.get("timed", False))
        model = build.build_prior(config, meta["latent_dim"], meta["n_active"], meta["labels"], timed=timed)
    _load_state(model, tensors, "prior", folder)
    model.to(resolve_device(device_name)).eval()
    return model, folder


def _again(run: RunFolder, prior: str) -> str:
    """The commands that train a prior for the present autoencoder: the latents come first, unless they are there."""
    marker, train = run.latents / "latents.json", run.training_command("prior", prior)
    if marker.is_file() and read_json(marker)["inputs"]["autoencoder"] == run.trained_autoencoder.fingerprint:
        return train
    return f"{run.extraction_command}, then {train}"


def tuned_codec(codec: Codec, run: RunFolder, prior: str) -> Codec:
    """The codec with the decoder that was tuned on what a prior makes; without such a decoder, the codec itself.

    Args:
        codec: the codec of the run.
        run: its folder.
        prior: name of a finished prior.

    Raises:
        ArtifactError: the decoder is missing, damaged, or not one for this autoencoder.
    """
    artifact = run.priors.read(prior)
    if (sha256 := artifact.meta.get("decoder_sha256")) is None:
        return codec
    tensors = load_tensors(artifact.folder / DECODER, str(sha256))
    autoencoder = copy.deepcopy(codec.autoencoder)
    whole = {f"decoder.{name}": value for name, value in (autoencoder.state_dict() | tensors).items()}
    _load_state(autoencoder, whole, "decoder", artifact.folder)
    return replace(codec, autoencoder=autoencoder)


def make_prior(run: RunFolder, name: str, device_name: str, config: Config) -> LabelledPrior[Any]:
    """`iid`, `random-walk` or `normal` from a run's latents; it needs no training.

    Args:
        run: its folder.
        name: name of the prior.
        device_name: `auto`, `cpu`, `cuda`, `mps`.
        config: as from `stage_config`.

    Raises:
        ArtifactError: no latents, or those of another autoencoder.
    """
    latents, _ = load_latents(run, f"--prior {name}")
    frames, labels = latents.training_frames()
    whole = build.takes_whole_clips(config.autoencoder.network)
    frames = replace(frames, deviation=build.prior_deviation(config), whole_clips=whole)
    return build.build_untrained_prior(name, frames, labels).to(resolve_device(device_name))


def load_latents(run: RunFolder, option: str = "") -> tuple[LatentSequences, dict[str, Any]]:
    """The latents of a run and their JSON.

    Args:
        run: its folder.
        option: what needs them, if the command works without it.

    Raises:
        ArtifactError: no latents, or those of another autoencoder.
    """
    run.require_corpus(option)
    marker = run.latents / "latents.json"
    if not marker.is_file():
        raise run.not_yet("latents", run.extraction_command, run.latents)
    meta = read_json(marker)
    if meta["inputs"]["autoencoder"] != run.trained_autoencoder.fingerprint:
        raise ArtifactError(
            f"the latents of run {run.name} were made by another autoencoder than the one that it has now",
            action=f"make them again: {run.extraction_command}",
        )
    return LatentSequences(run.latents, meta["latent_dim"], meta["latent_rate"]), meta
