"""Frozen, strict configuration; YAML presets; dotted overrides.

A preset is a YAML file that may name one other in `include:` and then lists the keys that differ. Members of a family
(`representation`, `network`, `bottleneck`, `head`, `objective`, `vocoder`, `effects`) are written as `kind:` plus that
member's own keys; those are checked against the member itself by `actseq.build`, the one place that knows both.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from actseq.errors import ConfigError


class Section(BaseModel):
    """A part of the configuration: immutable, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Member(BaseModel):
    """One member of a family and its own keys."""

    # What is not a number is refused by the member itself: as null it could mean that a key is off.
    model_config = ConfigDict(frozen=True, extra="allow", ser_json_inf_nan="constants")
    kind: str

    @property
    def options(self) -> dict[str, Any]:
        """The member's own keys."""
        return dict(self.model_extra or {})


class CorpusConfig(Section):
    """How files become clips."""

    sample_rate: int = Field(gt=0)
    """Hz; every file is resampled to it."""
    dtype: Literal["int16", "float16"] = "int16"
    """How clips are stored: `int16` or `float16`."""
    trim: Literal["none", "onset"] = "none"
    """`onset` cuts what precedes the first sample within 60 dB of the peak, so one-shots start at frame 0."""
    level_dbfs: float | None = -3.0
    """Peak level at which the models see every clip; results return to the clip's own level. null: unchanged."""
    validation: float = Field(0.1, ge=0, lt=0.5)
    """Fraction of each label's files that picks the best weights, below 0.5. 0: none; the last weights are kept."""
    test: float = Field(0.1, ge=0, lt=0.5)
    """Fraction of each label's files that is held out for the test, below 0.5. 0: none, and nothing is measured."""
    segment_seconds: float = Field(1.0, gt=0)
    """Length of a training segment, and of the guard between splits of one file."""
    repeat_seconds: float | None = Field(None, gt=0)
    """For loops: a shorter file is repeated until it lasts this long, and not cut into blocks. null: neither."""
    labels: Path | None = None
    """CSV with the columns `file` and `label`, instead of folder names; with `start` and `end` too, labels in time."""
    include_generated: bool = False
    """Also learn from what actseq made: sounds with a JSON of actseq beside them, and folders that hold a run."""


class AutoencoderConfig(Section):
    """Network and bottleneck."""

    network: Member
    """A member: maps features to latents and back."""
    bottleneck: Member
    """A member: what latents may be."""
    latent_dim: int = Field(gt=0)
    """Values per latent frame."""
    condition: Literal["label"] | None = None
    """`label` gives the decoder the label of a clip; the encoder never sees it. null: no condition."""


def _kind_may_follow(value: Any) -> Any:
    """A member without its kind, which another member decides."""
    return {"kind": ""} | dict(value) if isinstance(value, Mapping) else value


class TrainingConfig(Section):
    """What the training loop needs to know; `steps` or `minutes`, not both."""

    objective: Member = Member(kind="")
    """A member; its kind follows from the network."""
    steps: int | None = Field(None, gt=0)
    """Budget in steps. Exactly one of `steps` and `minutes` is given."""
    minutes: float | None = Field(None, gt=0)
    """Budget in minutes, turned into steps at the start and adjusted at validations."""
    batch_size: int = Field(gt=0)
    """Segments or sequences in a batch."""
    folder_balance: float = Field(0.0, ge=0, le=1)
    """0: sounds are drawn in proportion to their length. 1: folders beside each other are drawn equally often, and
    within a folder its labels are. In between: in proportion to their length to the power of 1 minus this.
    Clips of one vector are drawn evenly whatever this is."""
    accumulate: int = Field(1, gt=0)
    """Batches of a step, whose gradients are averaged. Several processes that train together share them out."""
    learning_rate: float = Field(gt=0)
    """Highest learning rate, after the warm-up."""
    final_learning_rate: float = Field(0.0, ge=0)
    """Learning rate at the end of the cosine decay."""
    warmup_steps: int = Field(50, ge=0)
    """Steps of the linear rise; at most a tenth of all steps."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay rates of the two moments of AdamW."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay."""
    muon_rate: float | None = Field(None, gt=0)
    """The matrices of stacked layers learn by Muon, at this many times the learning rate. null: by AdamW, as all
    other weights."""
    clip_norm: float = Field(1.0, gt=0)
    """Largest norm of the gradient; a larger one is scaled down."""
    ema: float = Field(0.99, ge=0, lt=1)
    """Decay of the averaged weights, which are validated and kept."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """`32-true` or `bf16-mixed`."""
    validations: int = Field(20, gt=0)
    """Number of validations in the whole training; each writes a checkpoint. With `minutes` there are fewer, at least
    4, if they would take more than a fifth of the time."""
    validation_batches: int = Field(8, gt=0)
    """Batches per validation."""
    patience: int | None = Field(None, gt=0)
    """Stop after this many validations without a better one; null: train to the end."""
    weights: Literal["best", "last"] | None = None
    """Keep the averaged weights of the `best` validation, or those of the `last` step. null: the last ones with the
    objective `flow-matching` and no patience, the best ones with all others."""

    _kind_follows = field_validator("objective", "regulariser", mode="before", check_fields=False)(_kind_may_follow)

    @model_validator(mode="after")
    def _one_budget(self) -> TrainingConfig:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("give either steps or minutes (the other as null)")
        if self.weights == "last" and self.patience is not None:
            raise ValueError("patience needs the best weights: give weights: best, or patience: null")
        return self


class AutoencoderTrainingConfig(TrainingConfig):
    """As `TrainingConfig`."""

    regulariser: Member | None = None
    """A member: what the bottleneck asks of its latents; its kind follows from the bottleneck."""
    segment_seconds: float | None = Field(None, gt=0)
    """Length of a training segment, at least one frame; null: that of the corpus."""
    corruption: Member | None = None
    """A member: damages the input, and the output is to be free of the damage. null: none."""
    targets: tuple[str, ...] | None = Field(None, min_length=1)
    """Labels whose clips are learned; clips of other labels can be noise for them. null: all labels."""
    speed: float = Field(0.0, ge=0, lt=1)
    """Segments are played up to this fraction faster or slower at random, pitch included: more voices to learn from."""
    preview_minutes: float | None = Field(3.0, gt=0)
    """Time between previews, sound and picture, in `previews/` of the run; one more at the end. null: no previews."""
    stored_features: bool = False
    """Analyse all clips once, store the features in `features/` of the run, and cut segments from them. There is no
    random gain then, and `speed` and `corruption` are refused."""


class LatentsConfig(Section):
    """How encoder activations are stored."""

    dtype: Literal["float16", "float32"] = "float32"
    """How latents are stored: `float16` or `float32`."""
    batch_size: int = Field(32, gt=0)
    """Clips encoded at a time, at most."""
    copies: int = Field(0, ge=0)
    """Additional encodings of each training clip, each at another random speed: more for a prior to learn from."""
    copy_speed: float = Field(0.1, gt=0, lt=1)
    """Copies are played up to this fraction faster or slower, with their pitch."""


class PriorConfig(Section):
    """Network and head of a sequence prior; one that makes whole sequences has no head."""

    network: Member
    """A member: the prior, or the causal network of a sequence prior."""
    head: Member | None = None
    """A member: the distribution of the next latent; null with a network that makes whole sequences."""
    condition_dim: int = Field(32, gt=0)
    """Values of a label's vector."""
    condition: Literal["input", "everywhere"] = "input"
    """Where the condition of a sequence prior enters. `everywhere`: every layer of the network, and the maps to the
    head and to the end. `input`: it is only added to the network's input, as in runs that do not have this key."""
    _kind_follows = field_validator("head", mode="before")(_kind_may_follow)


class DecoderTuningConfig(Section):
    """How the decoder is tuned on what a prior makes; only `generate` with that prior uses it."""

    share: float = Field(0.2, gt=0)
    """Steps, as a fraction of the steps of the prior. A prior's minutes are shared out in the same proportion."""
    batch_size: int = Field(16, gt=0)
    """Windows per step."""
    frames: int = Field(40, gt=0)
    """Latent frames that are decoded of each window."""
    learning_rate: float = Field(0.0005, gt=0)
    """Highest learning rate."""
    real: float = Field(0.35, ge=0, le=1)
    """Fraction of windows that keep the latents of their clip."""
    earliest: float = Field(0.2, ge=0, lt=1)
    """Earliest time of the path to which latents are taken back, 0 being noise."""
    latest: float = Field(0.6, ge=0, lt=1)
    """Latest such time, 1 being the latents."""
    strength: float = Field(1.0, gt=0, le=1)
    """How much of the change is kept: with 0.5 the weights are the mean of those before and after the tuning."""


class PriorTrainingConfig(TrainingConfig):
    """As `TrainingConfig`; sequences longer than `frames` latent frames are seen in windows of that length."""

    preview_minutes: float | None = Field(3.0, gt=0)
    """As `train_ae.preview_minutes`."""
    frames: int = Field(128, gt=1)
    """Longer sequences are seen in windows of this many latent frames."""
    decoder: DecoderTuningConfig | None = None
    """Tuning of the decoder on what the prior makes; null: the decoder stays as it is. Only for `clip-flow`."""


class VocoderTrainingConfig(TrainingConfig):
    """As `TrainingConfig`; the network is trained on crops of `frames` feature frames."""

    network: Member
    """A member: the network that is trained."""
    frames: int = Field(32, gt=0)
    """Length of a training segment in feature frames."""


class GenerateConfig(Section):
    """Defaults of `actseq generate`."""

    prior: str | None = None
    """Prior to generate with; `run` trains none if it is one that needs no training. null: `default`, or the only
    trained one."""
    seconds: float | None = Field(None, gt=0)
    """Length of new clips; null: until the prior ends them."""
    max_seconds: float = Field(10.0, gt=0)
    """Longest clip where the prior decides the end."""
    min_seconds: float = Field(0.0, ge=0)
    """Shortest clip where the prior decides the end."""
    after_end: Literal["restart", "ignore"] = "restart"
    """If the prior ends a sequence before `seconds`: `restart` begins another, `ignore` continues."""
    level: Literal["corpus", "free"] = "corpus"
    """`corpus` brings new clips to the peak level `corpus.level_dbfs`, `free` leaves them. Clips that continue or vary
    a recording keep its level."""
    temperature: float = Field(1.0, ge=0)
    """Temperature of the choice of component and of the noise; 0 takes the likeliest."""
    mixture_temperature: float | None = Field(None, ge=0)
    """Temperature of the choice of component alone; null: `temperature`."""
    noise_temperature: float | None = Field(None, ge=0)
    """Factor to the standard deviation of the noise alone; null: `temperature`."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Choose among the likeliest components that together have this probability."""
    bias: float = Field(0.0, ge=0)
    """Sharpens: logits of components times 1 + bias, standard deviations times e^(−bias)."""
    noise_clamp: float | None = Field(None, gt=0)
    """Draw the noise from a normal distribution truncated at this many standard deviations; null: not truncated."""
    guidance: float = Field(1.0, ge=0)
    """Above 1: exaggerate what distinguishes the label from no label."""
    best_of: int = Field(1, gt=0)
    """Candidates for each clip, of which the likeliest per frame is kept."""
    effects: tuple[Member, ...] = ()
    """Members: effects that `generate` and `reconstruct` apply to every clip before it is written, in order."""


class Config(Section):
    """A whole run."""

    preset: str
    """Set when a preset is loaded; not written in a preset."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of splits, initial weights, batches and noise."""
    corpus: CorpusConfig
    representation: Member
    autoencoder: AutoencoderConfig
    train_ae: AutoencoderTrainingConfig
    latents: LatentsConfig
    prior: PriorConfig
    train_prior: PriorTrainingConfig
    train_vocoder: VocoderTrainingConfig
    vocoder: Member
    generate: GenerateConfig
    _given: frozenset[str] = PrivateAttr(default=frozenset())

    @property
    def given(self) -> frozenset[str]:
        """Dotted keys that overrides have set; all others are the preset's, or the run's."""
        return self._given


STAGE_SECTIONS: dict[str, tuple[str, ...]] = {
    "train-ae": ("corpus", "representation", "autoencoder", "train_ae"),
    "extract-latents": ("latents",),
    "train-prior": ("prior", "train_prior"),
    "train-vocoder": ("train_vocoder",),
    "generate": ("vocoder", "generate"),
}
"""Which sections a command may override; `run` takes them all."""


MOVED = {
    "variational": ("kl", ("kl_weight", "kl_warmup", "free_bits_nats")),
    "adversarial": ("latent-discriminator", ("adversarial_weight", "matching_weight", "adjudicator_width")),
}
"""Keys that were in `train_ae.objective` before 2026-11-29 and are in `train_ae.regulariser` now: for each bottleneck
the kind of its regulariser, and its keys. Configurations of older runs and presets have them at the old place."""


def translate(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a configuration, or of a part of one, with the keys of older versions at their present places.

    Raises:
        ConfigError: keys of two regularisers, in a part that does not name the bottleneck.
    """
    tree = _copy(tree)
    training, objective = _at(tree, "train_ae"), _at(tree, "train_ae.objective")
    if not isinstance(objective, dict):
        return tree
    old = {key: objective.pop(key) for _, keys in MOVED.values() for key in keys if key in objective}
    if old and not objective:
        del training["objective"]
    bottleneck = _at(tree, "autoencoder.bottleneck.kind")
    if bottleneck is None and all(old.keys() & keys for _, keys in MOVED.values()):
        raise ConfigError(
            f"train_ae.objective has {', '.join(old)}, which are keys of two regularisers",
            "keys of the bottleneck's regulariser",
            "move these to train_ae.regulariser and leave out the others",
        )
    for kind, keys in [one for name, one in MOVED.items() if bottleneck in (None, name)]:
        found = {key: old[key] for key in keys if key in old}
        if found:
            training["regulariser"] = _merge({"kind": kind, **found}, training.get("regulariser") or {})
            break
    return tree


def _at(tree: Any, where: str) -> Any:
    """What is at a dotted key; None where there is none."""
    for part in where.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def suggest_name(name: str, known: Iterable[str]) -> str:
    """What the user may have meant: `did you mean 'x'?`, or the list of what there is."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(names)}"


def preset_folder() -> Path:
    """Where the presets are: beside the package in a wheel, at the top of a checkout in an editable install."""
    package = Path(__file__).parent
    return package / "configs" if (package / "configs").is_dir() else package.parent / "configs"


FITTING_PRESETS = ("drums", "music", "ambience", "speech", "digits")
"""Presets that a look at the sounds chooses among, as `actseq.data.survey` does."""


def preset_names() -> list[str]:
    """Names of the shipped presets."""
    return sorted(path.stem for path in preset_folder().glob("*.yaml") if not path.stem.startswith("_"))


def load_preset(preset: str, overrides: Iterable[str] = ()) -> Config:
    """Read a preset (a name, or the path of a YAML file) and apply `key.key=value` overrides in order.

    Raises:
        ConfigError: no such preset or key (the nearest one is named), or a value that does not fit.
    """
    config = resolve(read_preset(preset), overrides)
    # Not a rule of the section itself: runs that were made with both still load.
    if config.corpus.trim == "onset" and config.corpus.repeat_seconds is not None:
        raise ConfigError(
            "corpus.trim onset with corpus.repeat_seconds: a loop whose beginning is cut does not repeat",
            action="set corpus.trim=none, or corpus.repeat_seconds=null",
        )
    return config


def resolve(tree: Mapping[str, Any], overrides: Iterable[str] = ()) -> Config:
    """Check a configuration tree after applying overrides."""
    merged: dict[str, Any] = _copy(tree)
    given = {key for override in overrides for key in _set(merged, override)}
    config = parse(Config, merged)
    config._given = frozenset(given)
    return config


def override(config: Config | Mapping[str, Any], overrides: Iterable[str], command: str) -> Config:
    """A copy of `config` with overrides, restricted to the sections that `command` may touch.

    Raises:
        ConfigError: the key belongs to another stage, does not exist, or its value does not fit.
    """
    overrides = list(overrides)
    allowed = STAGE_SECTIONS.get(command, tuple(Config.model_fields))
    for text in overrides:
        section = text.partition("=")[0].split(".")[0]
        if section not in allowed and section in Config.model_fields:
            raise ConfigError(
                f"{command} cannot set '{section}'",
                f"one of its own sections: {', '.join(allowed)}",
                "what an earlier stage has fixed is changed by running that stage in a new run",
            )
    return resolve(config.model_dump(mode="json") if isinstance(config, Config) else config, overrides)


def with_sections(config: Config, sections: Mapping[str, Any], where: str = "") -> Config:
    """A copy of `config` with other sections.

    Args:
        config: what the rest is taken from.
        sections: trees by name of the section.
        where: file that holds them, for errors.
    """
    prefix = f"{where}." if where else ""
    changed = {name: parse(type(getattr(config, name)), tree, prefix + name) for name, tree in sections.items()}
    copy = config.model_copy(update=changed)
    copy._given = frozenset()
    return copy


LARGEST_YAML = 64_000
"""Largest YAML file in bytes."""


class _Loader(yaml.SafeLoader):
    """Reads YAML in which only `true` and `false` are truth values: `no` and `on` are names, of labels for example."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def parse_yaml(content: bytes | str, where: str) -> Any:
    """Read YAML strictly: no aliases, no key twice, at most `LARGEST_YAML` bytes; see `_Loader` for truth values.

    Args:
        content: the text; bytes are UTF-8.
        where: the file, for errors.

    Raises:
        ConfigError: it is not such YAML.
    """
    if len(content) > LARGEST_YAML:
        raise ConfigError(f"{where} has {len(content)} bytes", f"at most {LARGEST_YAML}")
    loader = None
    try:
        loader = _Loader(content if isinstance(content, str) else content.decode())
        node = loader.get_single_node()
        if node is None:
            return None
        _check_node(node)
        return loader.construct_document(node)
    except RecursionError:
        raise ConfigError(f"{where} is nested too deeply", "a mapping of sections") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{where} is not YAML as it is read here: {' '.join(str(error).split())}") from None
    finally:
        if loader is not None:
            loader.dispose()


def _check_node(root: yaml.Node) -> None:
    """Refuse aliases, which can stand for endlessly much, and keys that are written twice.

    Raises:
        yaml.MarkedYAMLError: there is one.
    """
    seen = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not allowed", problem_mark=node.start_mark)
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            waiting += [part for pair in node.value for part in pair]
            keys: set[str] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in keys:
                    raise yaml.MarkedYAMLError(problem=f"'{key.value}' is there twice", problem_mark=key.start_mark)
                keys.add(str(key.value))


T = TypeVar("T", bound=BaseModel)


def parse(model: type[T], tree: Mapping[str, Any], where: str = "") -> T:
    """Validate `tree` as `model`; the error names the key and the nearest one that exists."""
    try:
        return model.model_validate(translate(tree) if model is Config else tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, model, where)) from None


def _explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(([where] if where else []) + path)
    if first["type"] == "extra_forbidden":
        return f"'{key}' is no key of the configuration; {suggest_name(path[-1], _keys(model, path[:-1]))}"
    if first["type"] == "missing":
        return f"'{key}' is missing"
    reason = first["msg"].removeprefix("Value error, ")
    return f"'{key}' is {first['input']!r}; {reason}" if path else f"{where}: {reason}"


def _keys(model: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        field = model.model_fields.get(part)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            break
        model = field.annotation
    return list(model.model_fields)


def read_preset(preset: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """The keys of a preset and of what it includes, unchecked.

    Raises:
        ConfigError: no such preset, or a file that is not a preset.
    """
    path = Path(preset) if preset.endswith((".yaml", ".yml")) else preset_folder() / f"{preset}.yaml"
    if not path.is_file():
        if path.parent != preset_folder():
            raise ConfigError(f"no configuration at {path}", action=f"presets: {', '.join(preset_names())}")
        raise ConfigError(f"no preset '{preset}'", action=suggest_name(preset, preset_names()))
    if preset in seen:
        raise ConfigError(f"preset '{preset}' includes itself: {' → '.join((*seen, preset))}")
    with path.open("rb") as file:
        tree = parse_yaml(file.read(LARGEST_YAML + 1), str(path)) or {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds a {type(tree).__name__}", "a mapping of sections")
    if tree.keys() == {"config", "provenance"} and isinstance(tree["config"], dict):
        # The config.yaml of a run is a whole configuration and knows its preset.
        return translate(tree["config"])
    tree = translate(tree)
    base = tree.pop("include", None)
    if base is not None and not isinstance(base, str):
        raise ConfigError(f"'include' in {path} is {base!r}", "the name of one other preset")
    if base is not None:
        beside = path.parent / f"{base}.yaml"
        tree = _merge(read_preset(str(beside) if beside.is_file() else base, (*seen, preset)), tree)
    if not path.stem.startswith("_"):
        tree["preset"] = path.stem
    return dict(tree)


def _copy(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in tree.items()}


def _merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`change` over `base`; a section whose `kind` changes replaces the old one, whose keys would be meaningless."""
    if "kind" in change and change["kind"] != (base.get("kind") or change["kind"]):
        return _copy(change)
    merged = _copy(base)
    for key, value in change.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _set(tree: dict[str, Any], text: str) -> Iterator[str]:
    """Apply one override; the dotted keys that it sets."""
    key, equals, raw = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"'{text}' is no override", "key=value, for example train_ae.batch_size=8")
    parts = key.split(".")
    try:
        value = parse_yaml(raw, text)
    except ConfigError:
        value = raw
    change: Any = value
    for part in reversed(parts):
        change = {part: change}
    change = translate(change)
    node: Any = tree
    for depth, part in enumerate(parts[:-1]):
        known = {*(node if isinstance(node, Mapping) else ()), *_keys(Config, parts[:depth])}
        if part not in known:
            raise ConfigError(f"'{key}' is no key of the configuration", action=suggest_name(part, known))
        node = node.get(part) if isinstance(node, Mapping) else None
    # One budget replaces the other: nobody who asks for steps also wants the preset's minutes.
    if parts[-1] in ("steps", "minutes") and isinstance(node, dict) and value is not None:
        other = "minutes" if parts[-1] == "steps" else "steps"
        if other in node:
            node[other] = None
    tree.update(_merge(tree, change))
    return _leaves(change)


def _leaves(value: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for name, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _leaves(inner, f"{above}{name}.")
        else:
            yield f"{above}{name}"
