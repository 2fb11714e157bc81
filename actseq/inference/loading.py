"""A run's files → the objects that they describe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actseq import config as configuration
from actseq.config import Config
from actseq.data.latents import LatentSequences
from actseq.errors import ArtifactError, ConfigError
from actseq.progress import Reporter
from actseq.storage.artifacts import content_hash, fingerprint, read_json, read_meta, read_weights
from actseq.storage.run_folder import RunFolder

if TYPE_CHECKING:
    import torch

    from actseq.inference.codec import Codec
    from actseq.priors.labels import LabelledPrior
    from actseq.representations.base import Representation
    from actseq.vocoders.base import Vocoder


def stage_config(config: Config, overrides: Iterable[str], command: str, reporter: Reporter | None = None) -> Config:
    """A run's configuration with a command's overrides, its members complete; see `build.complete`."""
    from actseq import build

    return build.complete(configuration.override(config, overrides, command), reporter)


def require_generative(run: RunFolder) -> None:
    """Refuse a run whose latents do not hold the sound.

    Raises:
        ConfigError: its autoencoder has skip connections.
    """
    if not read_meta(run.autoencoder, f"actseq train-ae … --run {run.name}")["generative"]:
        raise ConfigError(
            f"run {run.name} has an autoencoder with skip connections: its latents do not hold the sound",
            "a generative one",
            f"use actseq restore {run.name} PATH… --out DIR with it, or train another preset",
        )


def read_autoencoder(run: RunFolder) -> tuple[dict[str, Any], Config]:
    """The JSON of a run's autoencoder, and the configuration that it was trained with."""
    meta = read_meta(run.autoencoder, f"actseq train-ae … --run {run.name}")
    return meta, configuration.parse(Config, meta["config"], str(run.autoencoder / "model.json"))


def load_codec(run: RunFolder, device_name: str, vocoder: configuration.Member | None) -> tuple[Codec, Config, str]:
    """The autoencoder of a run ready for use, its configuration with the vocoder that `auto` stands for, its fingerprint."""
    from actseq import build
    from actseq.inference.codec import Codec
    from actseq.training.loop import resolve_device

    device = resolve_device(device_name)
    meta, config = read_autoencoder(run)
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
            vocoder = chosen_vocoder(run, inputs) or build.untrained_vocoder(representation)
        built = (
            load_vocoder(run, vocoder.options["name"], representation, inputs)
            if vocoder.kind == "trained"
            else build.build_vocoder(vocoder, representation)
        )
        built.to(device)
        config = config.model_copy(update={"vocoder": vocoder})
    return Codec(representation, model, built, config.corpus.level_dbfs, device), config, fingerprint(run.autoencoder)


def vocoder_inputs(run: RunFolder, autoencoder: Mapping[str, Any], config: Config) -> dict[str, str]:
    """Fingerprints of what a vocoder of a run may have been made from; `autoencoder` is the JSON of the run's."""
    return {
        "corpus": str(autoencoder["inputs"]["corpus"]),
        "representation": content_hash(config.representation.model_dump(mode="json")),
        "autoencoder": fingerprint(run.autoencoder),
    }


def chosen_vocoder(run: RunFolder, inputs: Mapping[str, str]) -> configuration.Member | None:
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


def load_vocoder(run: RunFolder, name: str, representation: Representation, inputs: Mapping[str, str]) -> Vocoder:
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
    run: RunFolder, name: str | None, device_name: str, autoencoder: str
) -> tuple[LabelledPrior[Any], dict[str, Any], Path]:
    """A finished prior, its JSON and its folder.

    Raises:
        ArtifactError: it belongs to another autoencoder.
    """
    from actseq import build
    from actseq.training.loop import resolve_device

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


def make_prior(run: RunFolder, name: str, device_name: str, autoencoder: str) -> LabelledPrior[Any]:
    """`iid` or `random-walk` of a run's latents, made in no time.

    Raises:
        ArtifactError: no latents, or those of another autoencoder.
    """
    from actseq import build
    from actseq.training.loop import resolve_device

    latents, _ = load_latents(run, autoencoder)
    return build.build_untrained_prior(name, *latents.training_frames()).to(resolve_device(device_name))


def load_latents(run: RunFolder, autoencoder: str) -> tuple[LatentSequences, dict[str, Any]]:
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
