"""The effects that the page offers: all that need no file, since the page hands on no paths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from actseq import build, registry
from actseq.config import Member
from actseq.effects import Process, chain
from actseq.errors import ConfigError


def effect_choices() -> list[dict[str, Any]]:
    """The effects that need no file: their keys with defaults, and the first sentence of their documentation."""
    choices = []
    for kind, effect in registry.EFFECTS.items():
        fields = build.options_model(effect).model_fields
        keys = [
            {
                "name": name,
                "default": None if field.is_required() else field.default,
                "choices": list(getattr(field.annotation, "__args__", ())),
            }
            for name, field in fields.items()
        ]
        if not _reads_a_file(effect):
            about = " ".join(str(effect.__doc__).split("\n\n")[0].split())
            choices.append({"kind": kind, "about": about, "keys": keys})
    return choices


def process_of(effects: Sequence[Member], sample_rate: int) -> Process:
    """What sends a sound through effects in order.

    Raises:
        ConfigError: an effect or key that does not exist, an effect that reads a file, or a missing package.
    """
    for effect in effects:
        if effect.kind in registry.EFFECTS and _reads_a_file(registry.EFFECTS[effect.kind]):
            raise ConfigError(
                f"{effect.kind} reads a file, and the page hands on no paths",
                action=f"use it on the command line: --effect {effect.kind}:…",
            )
    return chain(
        build.construct(registry.EFFECTS, effect, f"effects.{i}", sample_rate) for i, effect in enumerate(effects)
    )


def _reads_a_file(effect: Callable[..., Any]) -> bool:
    return any(field.annotation is str for field in build.options_model(effect).model_fields.values())
