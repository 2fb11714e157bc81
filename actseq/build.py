"""Configuration → objects; the one place that knows both.

A member is a class whose keyword-only arguments are its configuration keys: their names, types and defaults are read from
its signature. The members themselves are listed in `registry`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model
from torch import nn

from actseq import effects
from actseq.autoencoders.base import Autoencoder
from actseq.config import Config, Member, parse, suggest_name
from actseq.errors import ConfigError
from actseq.priors.labels import ConditionedPrior, LabelledPrior
from actseq.priors.sequence import SequencePrior
from actseq.priors.untrained import TrainingFrames
from actseq.registry import (
    AUTOENCODER_OBJECTIVES,
    BOTTLENECKS,
    CORRUPTIONS,
    EFFECTS,
    HEADS,
    NETWORKS,
    PRIOR_NETWORKS,
    PRIOR_OBJECTIVES,
    REPRESENTATIONS,
    TRAINED,
    UNTRAINED_PRIORS,
    VOCODER_NETWORKS,
    VOCODER_OBJECTIVES,
    VOCODERS,
    WHOLE_PRIOR_OBJECTIVES,
    WHOLE_PRIORS,
)
from actseq.representations.base import Representation
from actseq.vocoders.base import Vocoder
from actseq.vocoders.inversion import Inversion
from actseq.vocoders.phase import Phase


def options_model(member: Callable[..., Any]) -> type[BaseModel]:
    """The configuration keys of a member: the keyword-only arguments of its constructor."""
    fields: dict[str, Any] = {}
    signature = inspect.signature(member, eval_str=True)
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            fields[name] = (parameter.annotation, default)
    return create_model(f"{member.__name__}Options", __config__=ConfigDict(extra="forbid", frozen=True), **fields)


def select_member(
    family: Mapping[str, Callable[..., Any]], config: Member, where: str
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The member and its checked keys.

    Raises:
        ConfigError: no such member or key; the nearest one is named.
    """
    member = family.get(config.kind)
    if member is None:
        raise ConfigError(f"'{where}.kind' is '{config.kind}'", action=suggest_name(config.kind, family))
    return member, parse(options_model(member), config.options, where).model_dump()


def construct(family: Mapping[str, Callable[..., Any]], config: Member, where: str, *given: Any) -> Any:
    """Build a member; a value that its constructor refuses becomes a ConfigError."""
    member, options = select_member(family, config, where)
    try:
        return member(*given, **options)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where} {config.kind}: {error}") from None


def complete(config: Config) -> Config:
    """A copy in which every member lists all of its keys with their values: what a run writes down.

    Raises:
        ConfigError: a member or key that does not exist, or members that do not fit each other.
    """

    def full(family: Mapping[str, Callable[..., Any]], member: Member, where: str) -> Member:
        completed = Member(kind=member.kind, **select_member(family, member, where)[1])
        # As it will be read back from a file, where a tuple is a list.
        return Member(**completed.model_dump(mode="json"))

    vocoder = config.vocoder
    if vocoder.kind == "auto":
        if vocoder.options:
            raise ConfigError(
                f"vocoder auto takes no keys, but has {', '.join(vocoder.options)}",
                action=f"name one instead: {', '.join(VOCODERS)}",
            )
    else:
        vocoder = full(VOCODERS | TRAINED, vocoder, "vocoder")
    completed = config.model_copy(
        update={
            "representation": full(REPRESENTATIONS, config.representation, "representation"),
            "autoencoder": config.autoencoder.model_copy(
                update={
                    "network": full(NETWORKS, config.autoencoder.network, "autoencoder.network"),
                    "bottleneck": full(BOTTLENECKS, config.autoencoder.bottleneck, "autoencoder.bottleneck"),
                }
            ),
            "train_ae": config.train_ae.model_copy(
                update={
                    "objective": full(AUTOENCODER_OBJECTIVES, config.train_ae.objective, "train_ae.objective"),
                    "corruption": None
                    if config.train_ae.corruption is None
                    else full(CORRUPTIONS, config.train_ae.corruption, "train_ae.corruption"),
                }
            ),
            "prior": config.prior.model_copy(
                update={
                    "network": full(PRIOR_NETWORKS | WHOLE_PRIORS, config.prior.network, "prior.network"),
                    "head": None if config.prior.head is None else full(HEADS, config.prior.head, "prior.head"),
                }
            ),
            "train_prior": config.train_prior.model_copy(
                update={"objective": full(PRIOR_OBJECTIVES, config.train_prior.objective, "train_prior.objective")}
            ),
            "train_vocoder": config.train_vocoder.model_copy(
                update={
                    "network": full(VOCODER_NETWORKS, config.train_vocoder.network, "train_vocoder.network"),
                    "objective": full(VOCODER_OBJECTIVES, config.train_vocoder.objective, "train_vocoder.objective"),
                }
            ),
            "vocoder": vocoder,
            "generate": config.generate.model_copy(
                update={
                    "effects": tuple(
                        full(EFFECTS, effect, f"generate.effects.{i}")
                        for i, effect in enumerate(config.generate.effects)
                    )
                }
            ),
        }
    )
    _fit(completed)
    _storable(completed)
    build_effects(completed)
    return completed


def _fit(config: Config) -> None:
    """Whether prior, head and objective go together.

    Raises:
        ConfigError: they do not; with the overrides that put it right.
    """
    kind, head, objective = config.prior.network.kind, config.prior.head, config.train_prior.objective.kind
    whole = kind in WHOLE_PRIORS
    fitting = WHOLE_PRIOR_OBJECTIVES.get(kind, "sequence")
    settings = []
    if whole != (head is None):
        settings.append("prior.head=null" if whole else "prior.head.kind=mixture")
    if objective != fitting:
        settings.append(f"train_prior.objective.kind={fitting}")
    if settings:
        raise ConfigError(
            f"prior.network {kind} with head {'null' if head is None else head.kind} and objective {objective}",
            f"{'no head' if whole else 'a head'} and objective {fitting}",
            " ".join(f"--set {setting}" for setting in settings),
        )


def _storable(config: Config) -> None:
    """Whether nothing is asked for that stored features cannot give.

    Raises:
        ConfigError: crops at random speeds, or corrupted ones; with the overrides that put it right.
    """
    section = config.train_ae
    found = {"speed": section.speed, "corruption": section.corruption and section.corruption.kind}
    asked = [f"{name} {value}" for name, value in found.items() if value]
    if section.stored_features and asked:
        raise ConfigError(
            f"train_ae.stored_features with {' and '.join(asked)}, which are for crops of the waveform",
            "speed 0 and no corruption, since stored features are taken as they are",
            "--set train_ae.speed=0 --set train_ae.corruption=null, or --set train_ae.stored_features=false",
        )


def build_representation(config: Config) -> Any:
    """The representation at the corpus's sample rate."""
    return construct(REPRESENTATIONS, config.representation, "representation", config.corpus.sample_rate)


def build_autoencoder(config: Config, representation: Representation) -> Autoencoder:
    """Network and bottleneck for the features of `representation`.

    Raises:
        ConfigError: a network with features or a bottleneck that it cannot work with.
    """
    section = config.autoencoder
    accepts = getattr(NETWORKS.get(section.network.kind), "accepts", None)
    if accepts is not None and not isinstance(representation, accepts):
        fits = [k for k, member in REPRESENTATIONS.items() if isinstance(member(config.corpus.sample_rate), accepts)]
        raise ConfigError(
            f"autoencoder.network {section.network.kind} with representation {config.representation.kind}",
            f"representation {' or '.join(fits)}",
            f"--set representation.kind={fits[0]}",
        )
    if not is_generative(section.network) and section.bottleneck.kind != "plain":
        raise ConfigError(
            f"autoencoder.network {section.network.kind} with bottleneck {section.bottleneck.kind}",
            "bottleneck plain",
            "nothing presses on a code beside skip connections: --set autoencoder.bottleneck.kind=plain",
        )
    bottleneck = construct(BOTTLENECKS, section.bottleneck, "autoencoder.bottleneck", section.latent_dim)
    network = construct(
        NETWORKS,
        section.network,
        "autoencoder.network",
        representation.channels,
        section.latent_dim,
        section.latent_dim * bottleneck.params_per_dim,
    )
    return Autoencoder(
        network,
        bottleneck,
        channels=representation.channels,
        feature_rate=representation.feature_rate,
        log_magnitude=representation.log_magnitude,
        signed=representation.signed,
        latent_dim=section.latent_dim,
    )


def is_generative(network: Member) -> bool:
    """Whether sound can be made from the latents of a network alone."""
    return bool(getattr(select_member(NETWORKS, network, "autoencoder.network")[0], "generative"))  # noqa: B009


def build_corruption(config: Config) -> Any:
    """What is done to the input in `train-ae`, or None."""
    member = config.train_ae.corruption
    return None if member is None else construct(CORRUPTIONS, member, "train_ae.corruption")


def build_autoencoding(config: Config, model: Autoencoder, representation: Representation, margin: int) -> Any:
    """The objective of `train-ae`."""
    section = config.train_ae
    given = (model, representation, margin, build_corruption(config))
    return construct(AUTOENCODER_OBJECTIVES, section.objective, "train_ae.objective", *given)


def build_prior(config: Config, latent_dim: int, n_active: int, labels: list[str]) -> ConditionedPrior:
    """A prior with its label table."""
    section = config.prior
    sizes = {"latent_dim": latent_dim, "n_active": n_active, "condition_dim": section.condition_dim}
    if section.head is None:
        prior = construct(WHOLE_PRIORS, section.network, "prior.network", *sizes.values(), config.train_prior.frames)
    else:
        head = construct(HEADS, section.head, "prior.head", n_active)
        prior = SequencePrior(construct(PRIOR_NETWORKS, section.network, "prior.network"), head, **sizes)
    return ConditionedPrior(prior, labels, section.condition_dim)


def build_untrained_prior(name: str, frames: TrainingFrames, labels: list[str]) -> LabelledPrior:
    """A prior that needs no training, with its labels."""
    return LabelledPrior(UNTRAINED_PRIORS[name](frames), labels)


def build_sequence(config: Config, model: ConditionedPrior) -> Any:
    """The objective of `train-prior`."""
    return construct(PRIOR_OBJECTIVES, config.train_prior.objective, "train_prior.objective", model)


def build_vocoder(config: Member, representation: Representation) -> Vocoder:
    """The vocoder; `auto` is the best one that needs no training."""
    config = untrained_vocoder(representation) if config.kind == "auto" else config
    vocoder: Vocoder = construct(VOCODERS, config, "vocoder", representation)
    return vocoder


def untrained_vocoder(representation: Representation) -> Member:
    """What `auto` stands for where no trained vocoder was chosen, with all of its keys.

    Raises:
        ConfigError: no vocoder takes the representation; with what each of them says.
    """
    refusals = []
    for kind, member in VOCODERS.items():
        try:
            member(representation)
        except TypeError as refusal:
            refusals.append(f"{kind}: {refusal}")
        else:
            return Member(kind=kind, **select_member(VOCODERS, Member(kind=kind), "vocoder")[1])
    raise ConfigError(f"no vocoder takes these features ({'; '.join(refusals)})", action="use another representation")


def build_effects(config: Config) -> list[effects.Effect]:
    """All of them in order, not yet prepared."""
    return [
        construct(EFFECTS, effect, f"generate.effects.{i}", config.corpus.sample_rate)
        for i, effect in enumerate(config.generate.effects)
    ]


def build_vocoder_network(config: Config, representation: Representation) -> Any:
    """What `train-vocoder` trains."""
    return construct(VOCODER_NETWORKS, config.train_vocoder.network, "train_vocoder.network", representation)


def build_vocoding(config: Config, model: nn.Module, representation: Representation, autoencoder: Autoencoder) -> Any:
    """The objective of `train-vocoder`."""
    return construct(
        VOCODER_OBJECTIVES,
        config.train_vocoder.objective,
        "train_vocoder.objective",
        model,
        representation,
        autoencoder,
    )


def vocoder_of(network: Vocoder | Inversion, representation: Representation) -> Vocoder:
    """The vocoder of a trained network: the network itself, or `phase` with it as its inversion."""
    return network if isinstance(network, Vocoder) else Phase(representation, network)


def n_parameters(module: nn.Module) -> int:
    """Trainable numbers."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
