"""Configuration → objects; the one place that knows both.

A member is a class whose keyword-only arguments are its configuration keys: their names, types and defaults are read
from its signature. The members themselves are listed in `registry`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, create_model
from torch import nn

from actseq import effects
from actseq.autoencoders.base import Autoencoder
from actseq.config import Config, Member, Section, parse, suggest_name, with_sections
from actseq.errors import ConfigError
from actseq.priors.base import KeepsLengths, KeepsSummaries
from actseq.priors.labels import LabelledPrior, OneHot
from actseq.priors.sequence import SequencePrior
from actseq.priors.untrained import TrainingFrames
from actseq.progress import Reporter
from actseq.registry import (
    BOTTLENECKS,
    CORRUPTIONS,
    EFFECTS,
    FAMILIES,
    FOLLOWING,
    HEADS,
    NETWORKS,
    OBJECTIVES,
    PRIOR_NETWORKS,
    REGULARISERS,
    REPRESENTATIONS,
    UNTRAINED_PRIORS,
    VOCODER_NETWORKS,
    VOCODERS,
)
from actseq.representations.base import Representation
from actseq.vocoders.base import Vocoder
from actseq.vocoders.inversion import Inversion
from actseq.vocoders.phase import Phase


@functools.cache
def options_model(member: Callable[..., Any]) -> type[BaseModel]:
    """The configuration keys of a member: the keyword-only arguments of its constructor."""
    fields: dict[str, Any] = {}
    signature = inspect.signature(member, eval_str=True)
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            fields[name] = (parameter.annotation, default)
    return create_model(f"{member.__name__}Options", __config__=ConfigDict(extra="forbid", frozen=True), **fields)


def find_member(family: Mapping[str, Callable[..., Any]], kind: str, where: str) -> Callable[..., Any]:
    """A member by its name.

    Raises:
        ConfigError: no such member; the nearest one is named.
    """
    if kind not in family:
        raise ConfigError(f"'{where}.kind' is '{kind}'", action=suggest_name(kind, family))
    return family[kind]


def select_member(
    family: Mapping[str, Callable[..., Any]], config: Member, where: str
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The member and its checked keys.

    Raises:
        ConfigError: no such member or key; the nearest one is named.
    """
    member = find_member(family, config.kind, where)
    model = options_model(member)
    if config.options and not model.model_fields:
        raise ConfigError(f"'{where}.{next(iter(config.options))}' is no key of {config.kind}, which has none")
    return member, parse(model, config.options, where).model_dump()


def construct(family: Mapping[str, Callable[..., Any]], config: Member, where: str, *given: Any) -> Any:
    """Build a member; a value that its constructor refuses becomes a ConfigError."""
    member, options = select_member(family, config, where)
    try:
        return member(*given, **options)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where} {config.kind}: {error}") from None


def complete(config: Config, reporter: Reporter | None = None) -> Config:
    """A copy in which every member lists all of its keys with their values: what a run writes down.

    What was given by an override holds. Members of the preset that do not go with it are replaced by those that do.

    Args:
        config: with or without what follows from it.
        reporter: is told what was replaced.

    Raises:
        ConfigError: a member or key that does not exist, or members that were given and do not fit each other.
    """
    tree = config.model_dump()
    for line in _settle(tree, config.given, config.corpus.sample_rate):
        if reporter is not None:
            reporter.say(line)
    for where, table in FAMILIES.items():
        found = _node(tree, where)
        if isinstance(found, tuple):
            _put(tree, where, tuple(_full(table, member, f"{where}.{i}") for i, member in enumerate(found)))
        elif found is not None:
            _put(tree, where, _full(table, found, where))
    before = config.model_dump()
    completed = with_sections(config, {name: section for name, section in tree.items() if section != before[name]})
    _storable(completed)
    build_effects(completed)
    return completed


def with_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that an older version recorded, with the keys that have come since at their defaults.

    A key that comes later has the default that does what was done before, so a training goes on as it began.

    Args:
        settings: sections of a configuration by name, among other things.
    """
    filled = dict(settings)
    for name, field in Config.model_fields.items():
        section, found = field.annotation, settings.get(name)
        if not (isinstance(found, Mapping) and isinstance(section, type) and issubclass(section, Section)):
            continue
        filled[name] = _defaults(section) | dict(found)
        for key, member in found.items():
            family = FAMILIES.get(f"{name}.{key}", {})
            if isinstance(member, Mapping) and member.get("kind") in family:
                filled[name][key] = _defaults(options_model(family[member["kind"]])) | dict(member)
    return filled


def _defaults(model: type[BaseModel]) -> dict[str, Any]:
    return {name: field.default for name, field in model.model_fields.items() if not field.is_required()}


Tree = dict[str, Any]


def _node(tree: Tree, where: str) -> Any:
    return functools.reduce(dict.__getitem__, where.split("."), tree)


def _put(tree: Tree, where: str, value: Any) -> None:
    *path, last = where.split(".")
    functools.reduce(dict.__getitem__, path, tree)[last] = value


def _full(table: Mapping[str, Callable[..., Any]], member: Tree, where: str) -> Tree:
    """A member with all of its keys, as it will be read back from a file, where a tuple is a list."""
    found = Member(**member)
    return Member(kind=found.kind, **select_member(table, found, where)[1]).model_dump(mode="json")


def _settle(tree: Tree, given: frozenset[str], sample_rate: int) -> Iterator[str]:
    """Make true what members want of others; a line for each of them that had something of the preset replaced.

    Raises:
        ConfigError: what does not fit was given.
    """
    for chosen in FOLLOWING:
        wishes = _wishes(tree, chosen, sample_rate)
        replaced = [said for where, fits in wishes if (said := _follow(tree, given, chosen, where, fits))]
        if replaced:
            yield f"{chosen} {_node(tree, chosen)['kind']}: {', '.join(replaced)}"
    yield from _settle_tuning(tree, given)


def _settle_tuning(tree: Tree, given: frozenset[str]) -> Iterator[str]:
    """Leave out the tuning of the decoder where prior or autoencoder do not allow it.

    Raises:
        ConfigError: the tuning was given.
    """
    if tree["train_prior"]["decoder"] is None:
        return
    prior, network = tree["prior"]["network"]["kind"], tree["autoencoder"]["network"]["kind"]
    able = [kind for kind, member in PRIOR_NETWORKS.items() if hasattr(member, "remake")]
    if prior not in able:
        why, fits = f"prior.network {prior} cannot make given latents again", f"prior.network.kind {' or '.join(able)}"
    elif not getattr(find_member(NETWORKS, network, "autoencoder.network"), "trainable", True):
        why, fits = f"autoencoder.network {network} is not trained", "a network that is"
    else:
        return
    if any(key == "train_prior.decoder" or key.startswith("train_prior.decoder.") for key in given):
        raise ConfigError(
            f"train_prior.decoder tunes the decoder, and {why}",
            fits,
            "--set train_prior.decoder=null leaves the decoder as it is",
        )
    tree["train_prior"]["decoder"] = None
    yield f"the decoder stays as it is: {why}"


def _follow(tree: Tree, given: frozenset[str], chosen: str, where: str, fits: list[str]) -> str | None:
    """Put the first member that fits where none or another is; what of the preset that replaces.

    Args:
        tree: the configuration.
        given: dotted keys that overrides have set.
        chosen: where the member is that wants something.
        where: what it wants something of.
        fits: kinds that go with it, best first; none where there must be no such member.

    Raises:
        ConfigError: what does not fit was given.
    """
    old: Tree = _node(tree, where) or {"kind": None}
    kind, family, wanted = old["kind"], where.rpartition(".")[2], fits[0] if fits else None
    if kind in fits or (kind is None and not fits) or (kind and kind not in FAMILIES[where]):
        return None
    kept = {key: value for key, value in old.items() if f"{where}.{key}" in given}
    if where in given or "kind" in kept or (kept and not fits):
        raise ConfigError(
            f"{chosen} {_node(tree, chosen)['kind']} with {family} {kind or 'null'}",
            f"{family} {' or '.join(fits)}" if fits else f"no {family}",
            f"--set {where}.kind={wanted}, or leave {family} out" if fits else f"--set {where}=null, or leave it out",
        )
    if kind == "" and fits:
        # Keys for what follows from the preset's member: what follows from another may not have them all.
        known = options_model(FAMILIES[where][fits[0]]).model_fields if f"{chosen}.kind" in given else old
        kept |= {key: value for key, value in old.items() if key in known}
    _put(tree, where, None if wanted is None else kept | {"kind": wanted})
    if kind:
        return f"{family} {wanted} in place of {kind}" if wanted else f"no {family} in place of {kind}"
    lost = [f"{where}.{key}" for key in old if key not in kept and key != "kind"]
    return f"without {', '.join(lost)}" if lost else None


def _wishes(tree: Tree, chosen: str, sample_rate: int) -> Iterator[tuple[str, list[str]]]:
    """Members that go with another, best first: where, and which; none where there must be none."""
    member = find_member(FAMILIES[chosen], _node(tree, chosen)["kind"], chosen)
    if chosen == "autoencoder.network":
        accepts = getattr(member, "accepts", None)
        if accepts is not None:
            found = (kind for kind, one in REPRESENTATIONS.items() if isinstance(one(sample_rate), accepts))
            yield "representation", list(found)
        if not getattr(member, "generative"):  # noqa: B009
            # Nothing presses on latents beside skip connections.
            yield "autoencoder.bottleneck", ["plain"]
        elif getattr(member, "point_latents", False):
            points = [kind for kind, one in BOTTLENECKS.items() if getattr(one, "params_per_dim") == 1]  # noqa: B009
            yield "autoencoder.bottleneck", points
    if chosen == "prior.network":
        yield "prior.head", [] if is_whole_sequence(member) else list(HEADS)
    where, usual = FOLLOWING[chosen]
    named = getattr(member, where.rpartition(".")[2], usual)
    yield where, [] if named is None else [named]


def is_whole_sequence(network: Callable[..., Any]) -> bool:
    """Whether a prior network makes whole sequences itself, without a head."""
    return hasattr(network, "sample")


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


CONDITION_DIM = 16
"""Values of a label's vector that a decoder is given."""


def build_autoencoder(config: Config, representation: Representation, labels: Sequence[str] = ()) -> Autoencoder:
    """Network and bottleneck for the features of `representation`.

    Args:
        config: the configuration.
        representation: analysis of the features.
        labels: labels of the training clips; used where the decoder is given the label.

    Raises:
        ConfigError: a value does not fit, or the decoder is to be given the label and takes no condition.
    """
    section = config.autoencoder
    bottleneck = construct(BOTTLENECKS, section.bottleneck, "autoencoder.bottleneck", section.latent_dim)
    given: list[Any] = [representation.channels, section.latent_dim, section.latent_dim * bottleneck.params_per_dim]
    condition_dim = CONDITION_DIM if section.condition == "label" else 0
    if takes_whole_clips(section.network):
        given += [representation, condition_dim]
    elif condition_dim:
        fits = [kind for kind in NETWORKS if takes_whole_clips(Member(kind=kind))]
        raise ConfigError(
            f"autoencoder.condition is label, and the decoder of network {section.network.kind} takes no condition",
            f"network {' or '.join(fits)}",
            "--set autoencoder.condition=null, or another network",
        )
    network = construct(NETWORKS, section.network, "autoencoder.network", *given)
    return Autoencoder(
        network,
        bottleneck,
        channels=representation.channels,
        feature_rate=representation.feature_rate,
        log_magnitude=representation.log_magnitude,
        signed=representation.signed,
        latent_dim=section.latent_dim,
        labels=labels if condition_dim else (),
    )


def takes_whole_clips(network: Member) -> bool:
    """Whether a network makes one latent frame of a whole clip."""
    return hasattr(find_member(NETWORKS, network.kind, "autoencoder.network"), "takes_representation")


def is_generative(network: Member) -> bool:
    """Whether sound can be made from the latents of a network alone."""
    return bool(getattr(select_member(NETWORKS, network, "autoencoder.network")[0], "generative"))  # noqa: B009


def build_corruption(config: Config) -> Any:
    """What is done to the input in `train-ae`, or None."""
    member = config.train_ae.corruption
    return None if member is None else construct(CORRUPTIONS, member, "train_ae.corruption", config.corpus.sample_rate)


def build_autoencoding(config: Config, model: Autoencoder, representation: Representation, margin: int) -> Any:
    """The objective of `train-ae`."""
    section = config.train_ae
    regulariser = section.regulariser and construct(REGULARISERS, section.regulariser, "train_ae.regulariser", model)
    given = (model, representation, margin, build_corruption(config), regulariser)
    return construct(OBJECTIVES, section.objective, "train_ae.objective", *given)


def build_prior(
    config: Config, latent_dim: int, n_active: int, labels: list[str], *, timed: bool = False
) -> LabelledPrior[Any]:
    """A prior with its label table.

    Args:
        config: the configuration.
        latent_dim: values per latent frame.
        n_active: dimensions that carry information.
        labels: the labels.
        timed: whether it learns labels in time.
    """
    section = config.prior
    sizes = {"latent_dim": latent_dim, "n_active": n_active, "condition_dim": section.condition_dim}
    if section.head is None:
        whole = (*sizes.values(), config.train_prior.frames)
        prior = construct(PRIOR_NETWORKS, section.network, "prior.network", *whole)
        if isinstance(prior, KeepsLengths):
            none = np.zeros(0, np.int64)
            prior.keep_lengths(none, none, len(labels))
        if isinstance(prior, KeepsSummaries):
            prior.keep_summaries([], len(labels))
    else:
        # The head's weights are drawn first.
        head = construct(HEADS, section.head, "prior.head", n_active)
        taken = sizes["condition_dim"] if section.condition == "everywhere" else 0
        prior = SequencePrior(construct(PRIOR_NETWORKS, section.network, "prior.network", taken), head, **sizes)
    table = nn.Embedding(len(labels) + 1, section.condition_dim)
    return LabelledPrior(prior, labels, table, section.condition_dim if timed else 0)


def build_untrained_prior(name: str, frames: TrainingFrames, labels: list[str]) -> LabelledPrior[Any]:
    """A prior that needs no training, with its labels."""
    return LabelledPrior(UNTRAINED_PRIORS[name](frames), labels, OneHot(len(labels) + 1))


def prior_deviation(config: Config) -> float | None:
    """Deviation of the prior N(0, deviation²) of the bottleneck; None if it has none."""
    section = config.autoencoder
    bottleneck = construct(BOTTLENECKS, section.bottleneck, "autoencoder.bottleneck", section.latent_dim)
    deviation: float | None = bottleneck.deviation
    return deviation


def build_sequence(config: Config, model: LabelledPrior[Any]) -> Any:
    """The objective of `train-prior`."""
    return construct(OBJECTIVES, config.train_prior.objective, "train_prior.objective", model)


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
        OBJECTIVES,
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
