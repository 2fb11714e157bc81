"""What to generate, in the words of a user: from what, how many, how long, how to draw, from which seed."""

from __future__ import annotations

import math
import operator
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from actseq.arrays import Waveform
from actseq.errors import ConfigError
from actseq.inference.spans import AskedSpan, read_spans
from actseq.storage.activations import Activations

Sound = Path | Waveform
"""A file, or a waveform (samples,) at the model's sample rate."""
TRANSFER_AMOUNT = 1.0
"""How much a prior changes a sound that is given another label, where nothing is said."""
FRESH_SEEDS = 10**8
"""A seed that is not given is drawn from this many, so that it is short enough to type."""


def require_part(option: str, part: tuple[float, float | None]) -> None:
    """Refuse a part of a recording that does not begin at 0 or later, and before it ends.

    Args:
        option: what the part was given by, for the message.
        part: where it begins and ends in seconds; an end of None is that of the recording.

    Raises:
        ConfigError: the times are not in order, or one is negative or not a number.
    """
    begin, end = part
    if not 0 <= begin < (math.inf if end is None else end):
        raise no_part(option, part)


def require_positive(option: str, seconds: float | None) -> None:
    """Refuse a length that is not above 0, or not finite."""
    if seconds is not None and not 0 < seconds < math.inf:
        raise ConfigError(f"{option} is {seconds:g}", "a finite number of seconds above 0")


def no_part(option: str, part: tuple[float, float | None]) -> ConfigError:
    """The error for a part of a recording that has no samples; for the arguments see `require_part`."""
    expected = "0 ≤ FROM < TO in seconds, at least one sample apart"
    return ConfigError(f"{option} is {part_text(part)}", expected, "correct the times")


def part_text(part: tuple[float, float | None]) -> str:
    """A part of a recording as options take it: FROM:TO in seconds, with `-` for the end of the recording."""
    begin, end = part
    return f"{begin:g}:{'-' if end is None else f'{end:g}'}"


def fresh_seed() -> int:
    """A seed that the operating system draws."""
    return secrets.randbelow(FRESH_SEEDS)


@dataclass(frozen=True)
class FromPrior:
    """New clips from a prior, or a recording that a prior continues, or a region of which it makes again.

    Attributes:
        prior: name of a trained prior, `iid`, `random-walk` or `normal`; None takes the run's usual one.
        seed_audio: the recording to continue; None starts from nothing.
        seed_seconds: use only this much of the beginning of the recording, or of the latents.
        include_seed: put the recording itself, or the sound of the latents, before what continues it.
        seed_latents: encoder activations to continue, as `encode` writes them; their means are continued.
        redo: instead of continuing the recording, make this region of it again: where it begins and ends in seconds;
            an end of None is that of the recording. It is rounded outward to latent frames.

    Raises:
        ConfigError: both a recording and latents are given; or `seed_seconds` is not above 0; or it is given, or the
            seed is left out, where there is none; or `redo` is not a region, has no recording, or is given with
            `seed_seconds` or without the seed.
    """

    prior: str | None = None
    seed_audio: Sound | None = None
    seed_seconds: float | None = None
    include_seed: bool = True
    seed_latents: Path | Activations | None = None
    redo: tuple[float, float | None] | None = None

    def __post_init__(self) -> None:
        if self.seed_audio is not None and self.seed_latents is not None:
            raise ConfigError("--seed-audio and --seed-latents exclude each other")
        require_positive("--seed-seconds", self.seed_seconds)
        if not self.keeps_level and (self.seed_seconds is not None or not self.include_seed):
            option = "--without-seed" if self.seed_seconds is None else "--seed-seconds"
            raise ConfigError(f"{option} without --seed-audio or --seed-latents", action="leave it out")
        if self.redo is None:
            return
        require_part("--redo", self.redo)
        if self.seed_audio is None:
            raise ConfigError("--redo makes a region of a recording again", action="name the recording: --seed-audio")
        if self.seed_seconds is not None or not self.include_seed:
            other = "--without-seed" if self.seed_seconds is None else "--seed-seconds"
            raise ConfigError(f"--redo and {other} exclude each other: the result is the whole recording")

    @property
    def keeps_level(self) -> bool:
        """Whether the clips have the level of a given sound, instead of that of the corpus."""
        return self.seed_audio is not None or self.seed_latents is not None

    @property
    def sounds(self) -> tuple[Sound, ...]:
        """What is read."""
        return () if self.seed_audio is None else (self.seed_audio,)


@dataclass(frozen=True)
class Through:
    """One clip that begins as the first of two or more sounds and ends as the last, without a prior.

    Attributes:
        sounds: in order.
    """

    sounds: tuple[Sound, ...]
    keeps_level = False


@dataclass(frozen=True)
class Variations:
    """Variations of a sound, of its length and level, without a prior.

    Attributes:
        sound: the sound.
        amount: from 0, the reconstruction, to 1, where nothing of the sound is left.
    """

    sound: Sound
    amount: float = 0.3
    keeps_level = True

    @property
    def sounds(self) -> tuple[Sound, ...]:
        """What is read."""
        return (self.sound,)


Source = FromPrior | Through | Variations


@dataclass(frozen=True)
class Transfer:
    """Another label for a sound: its timbre becomes that of the label, and what happens in it stays.

    A decoder that is given the label decodes the sound's latents with it. Otherwise, or if a prior is named, a prior
    that can do so changes the latents.

    Attributes:
        label: a label of the run.
        prior: name of a trained prior; None leaves the way to the run.
        amount: how much a prior changes: at 0 the sound is as the run reconstructs it. None: `TRANSFER_AMOUNT`.
        seed: seed of what a prior draws at random. None: 0.

    Raises:
        ConfigError: the amount is not from 0 to 1.
    """

    label: str
    prior: str | None = None
    amount: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.amount is not None and not 0 <= self.amount <= 1:
            raise ConfigError(f"--amount is {self.amount:g}", "a number from 0 to 1")


@dataclass(frozen=True)
class GenerationRequest:
    """What to generate.

    Attributes:
        source: what the clips are made from.
        n: number of clips.
        label: a label that the prior knows, or `A:B` to glide from A to B over the clip; for variations the label whose
            statistics they move towards. None: no label.
        labels: labels in time, split as a shell does: `3 5:0.4 "bass drum"`. A number after a last colon is the
            duration in seconds; other durations are drawn, for each clip, from those that the label has in the corpus.
            `:0.2` is a stretch without a label. What is new is as long as all of them together.
        seconds: length of what is new; None: the run's default.
        until_stop: let the prior end each clip, whatever the run's default.
        loop: make cycles of `seconds` that repeat without a seam.
        controls: how to draw, by keys of the configuration's section `generate`: all of `actseq.priors.base.Sampling`,
            `min_seconds`, `max_seconds`, `best_of`. A key that is left out or None is as configured.
        seed: seed of all random numbers; the same seed, device and thread count give the same bytes. Where it is left
            out, each request draws a fresh one and holds it here.

    Raises:
        ConfigError: both lengths are given, or one beside a region that is made again, or one that is not above 0; or
            `n` is less than 1, or the seed less than 0; or `loop`
            is given without `seconds`, or with a sound; or `labels` cannot be read, or is given with another label or
            length, or where nothing new comes from a prior.
    """

    source: Source = FromPrior()
    n: int = 1
    label: str | None = None
    labels: str | None = None
    seconds: float | None = None
    until_stop: bool = False
    loop: bool = False
    controls: Mapping[str, float | None] = field(default_factory=dict)
    seed: int = field(default_factory=fresh_seed)

    def __post_init__(self) -> None:
        # Integers of numpy are as good as others, and are written as numbers.
        for name in ("n", "seed"):
            object.__setattr__(self, name, operator.index(getattr(self, name)))
        if self.n < 1:
            raise ConfigError(f"n is {self.n}", "at least 1")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}", "0 or more")
        require_positive("--seconds", self.seconds)
        if self.seconds is not None and self.until_stop:
            raise ConfigError("--seconds and --until-stop exclude each other")
        if self.loop and self.seconds is None:
            raise ConfigError("--loop without --seconds", action="say how long a cycle is")
        if self.loop and (self.source.sounds or self.source.keeps_level):
            raise ConfigError("--loop and a given sound exclude each other", action="leave the sound out")
        if self.labels is not None:
            self._check_labels()
        if isinstance(self.source, FromPrior) and self.source.redo is not None:
            lengths = {"seconds": self.seconds, "until_stop": self.until_stop or None} | dict(self.given)
            for name in ("seconds", "until_stop", "min_seconds", "max_seconds"):
                if lengths.get(name) is not None:
                    option = f"--{name.replace('_', '-')}"
                    raise ConfigError(f"--redo and {option} exclude each other: the recording keeps its length")

    def _check_labels(self) -> None:
        """Refuse what does not go with labels in time."""
        source = self.source
        others = {
            "--label": self.label,
            "--seconds": self.seconds,
            "--until-stop": self.until_stop or None,
            "--min-seconds": self.given.get("min_seconds"),
            "--max-seconds": self.given.get("max_seconds"),
            "--loop": self.loop or None,
            "--redo": source.redo if isinstance(source, FromPrior) else None,
            "--through": source if isinstance(source, Through) else None,
            "--vary": source if isinstance(source, Variations) else None,
        }
        for option, given in others.items():
            if given is not None:
                why = "the labels say what is made, and for how long"
                raise ConfigError(f"--labels and {option} exclude each other: {why}", action=f"leave {option} out")
        _ = self.spans

    @property
    def spans(self) -> tuple[AskedSpan, ...]:
        """The labels in time; none where there is one label or none."""
        return () if self.labels is None else read_spans(self.labels)

    @property
    def called(self) -> str:
        """What the clips are called: their labels, or else the files that they are made from; empty for neither."""
        latents = self.source.seed_latents if isinstance(self.source, FromPrior) else None
        given = (*self.source.sounds, latents)
        files = [one.stem for one in given if isinstance(one, Path)]
        in_time = "-".join(one.label for one in self.spans if one.label)
        return self.label or in_time or "-".join(dict.fromkeys((*files[:1], *files[-1:])))

    @classmethod
    def of(cls, n: int = 1, **given: Any) -> GenerationRequest:
        """A request from plain names: attributes of this class and of `FromPrior`; all others are controls.

        A seed of None is as one that is left out.
        """
        if given.get("seed") is None:
            given.pop("seed", None)
        own: dict[str, Any] = {one.name: given.pop(one.name) for one in fields(cls) if one.name in given}
        from_prior = {one.name: given.pop(one.name) for one in fields(FromPrior) if one.name in given}
        if from_prior and "source" not in own:
            own["source"] = FromPrior(**from_prior)
        elif from_prior:
            raise ConfigError(f"a source and {', '.join(from_prior)} exclude each other")
        return cls(n=n, controls={**own.pop("controls", {}), **given}, **own)

    @property
    def given(self) -> dict[str, float]:
        """The controls that were given."""
        return {name: value for name, value in self.controls.items() if value is not None}

    def settings(self) -> dict[str, Any]:
        """What the JSON of a clip says about the request, controls aside: a way that was not taken has its default."""
        source = self.source
        seeded = source if isinstance(source, FromPrior) else FromPrior()
        varied = source if isinstance(source, Variations) else None
        return {
            "label": self.label,
            "labels": self.labels,
            "seconds": self.seconds,
            "until_stop": self.until_stop,
            "loop": self.loop,
            "seed": self.seed,
            "seed_audio": None if seeded.seed_audio is None else _name(seeded.seed_audio),
            "seed_latents": _latents_name(seeded.seed_latents),
            "seed_seconds": seeded.seed_seconds,
            "include_seed": seeded.include_seed,
            "redo": None if seeded.redo is None else list(seeded.redo),
            "through": [_name(sound) for sound in source.sounds] if isinstance(source, Through) else [],
            "vary": None if varied is None else _name(varied.sound),
            "amount": None if varied is None else varied.amount,
        }


def _name(sound: Sound) -> str:
    return str(sound) if isinstance(sound, Path) else f"a waveform of {len(sound)} samples"


def _latents_name(given: Path | Activations | None) -> str | None:
    if given is None or isinstance(given, Path):
        return None if given is None else str(given)
    return f"activations of {len(given.mean)} frames"
