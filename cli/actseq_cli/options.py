"""Options that several commands share, and the one object that each group of options becomes."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from actseq.pipeline import Compute

Command = Callable[..., None]
F = TypeVar("F", bound=Command)
PATH = click.Path(path_type=Path)
POSITIVE = click.FloatRange(min=0, min_open=True)
NOT_NEGATIVE = click.FloatRange(min=0)
COUNT = click.IntRange(min=1)

run_argument = click.argument("run_name", metavar="RUN")
paths_argument = click.argument("paths", nargs=-1, required=True, type=PATH, metavar="PATH…")
as_json = click.option("--json", "json_output", is_flag=True, help="Print the result as JSON on standard output.")
split_option = click.option(
    "--split",
    type=click.Choice(["test", "validation"]),
    default="test",
    show_default=True,
    help="Which held-out clips to use; choose settings on `validation`.",
)


@dataclass(frozen=True)
class Common:
    """What a command was given in the options that every working command has.

    Attributes:
        overrides: `KEY=VALUE` texts, those of `--steps` and `--minutes` included.
        seed: None where it was left out.
        compute: device, threads, and the progress on standard error.
        json_output: print JSON instead of lines.
    """

    overrides: list[str]
    seed: int | None
    compute: Compute
    json_output: bool

    @property
    def with_seed(self) -> list[str]:
        """The overrides, with `--seed` as the configuration key `seed`."""
        return [*self.overrides, *([] if self.seed is None else [f"seed={self.seed}"])]


def all_of(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, in the order of `--help`."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def working(example: str, *, draws: bool = True, trains: str | None = None) -> Callable[[Command], Command]:
    """Options that every working command has; the command receives them as one `Common` named `common`.

    Args:
        example: an override that the command accepts, for the help of `--set`.
        draws: the command draws random numbers; one that does not refuses `--seed`.
        trains: section of the configuration that `--steps` and `--minutes` belong to; None leaves these options out.
    """
    budget = [
        click.option("--steps", type=COUNT, default=None, help="Number of training steps."),
        click.option("--minutes", type=POSITIVE, default=None, help="Training time in minutes."),
    ]
    options = [
        *(budget if trains else []),
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="KEY=VALUE",
            help=f"Override a configuration key, e.g. {example}. May be repeated.",
        ),
        click.option(
            "--seed", type=click.IntRange(min=0), default=None, hidden=not draws, help="Seed for all random numbers."
        ),
        click.option(
            "--device", default="auto", show_default=True, help="Device to compute on: auto, cpu, cuda or mps."
        ),
        click.option("--threads", type=COUNT, default=None, help="Number of CPU threads; default: torch's own choice."),
        as_json,
    ]

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def command(
            overrides: tuple[str, ...],
            seed: int | None,
            device: str,
            threads: int | None,
            json_output: bool,
            steps: int | None = None,
            **options: Any,
        ) -> None:
            from actseq.pipeline import Compute
            from actseq_cli.progress import Terminal

            if seed is not None and not draws:
                name = click.get_current_context().command.name
                raise click.UsageError(f"{name} draws no random numbers: it has no --seed")
            minutes = options.pop("minutes") if trains else None
            if steps is not None and minutes is not None:
                raise click.UsageError("--steps and --minutes exclude each other")
            budget = {"steps": steps, "minutes": minutes}
            more = [f"{trains}.{key}={value}" for key, value in budget.items() if value is not None]
            compute = Compute(device, threads, Terminal())
            function(common=Common([*overrides, *more], seed, compute, json_output), **options)

        return all_of(*options)(command)

    return decorate


def with_effects(overrides: list[str], effects: tuple[str, ...]) -> list[str]:
    """The overrides, with every `--effect KIND:KEY=VALUE,…` in order as the configuration key `generate.effects`."""
    members = []
    for effect in effects:
        kind, _, text = effect.partition(":")
        # A value may hold a comma; a key follows where it does not.
        pairs = [part.partition("=") for part in re.split(r",(?=\w+=)", text)] if text else []
        if not all(equals and key != "kind" for key, equals, _ in pairs):
            raise click.UsageError(f"--effect {effect}: expected KIND or KIND:KEY=VALUE,KEY=VALUE")
        members.append({"kind": kind} | {key: value for key, _, value in pairs})
    return [*overrides, *([f"generate.effects={json.dumps(members)}"] if members else [])]


sounds_and_preset = all_of(
    click.argument("folder", type=PATH),
    click.option("--preset", required=True, help="A name from `actseq presets`, or a YAML file."),
    click.option("--run", "run_name", default=None, help="Name under runs/, or a path. Default: <folder>-<preset>."),
)
"""A folder of sounds, the preset to train it with, and the run to make."""

effects_options = all_of(
    click.option(
        "--effect",
        "effects",
        multiple=True,
        metavar="KIND:KEY=VALUE,…",
        help="Send every clip through an effect, e.g. reverb:room_size=0.4,wet=0.2. May be repeated, in order.",
    ),
    click.option("--keep-dry", is_flag=True, help="Also write every clip as it is before the effects."),
)
"""What is done to a clip after the decoder."""

controls = all_of(
    *(
        click.option(f"--{name}", type=kind, default=None, help=text)
        for name, kind, text in (
            ("temperature", NOT_NEGATIVE, "1 samples what was learned; less is tamer."),
            ("mixture-temperature", NOT_NEGATIVE, "Temperature of the choice among components alone."),
            ("noise-temperature", NOT_NEGATIVE, "Temperature of the noise alone."),
            (
                "top-p",
                click.FloatRange(0, 1, min_open=True),
                "Choose among the likeliest components with this probability.",
            ),
            ("bias", NOT_NEGATIVE, "Sharpen: likelier components, less noise."),
            ("noise-clamp", POSITIVE, "Keep the noise within this many standard deviations."),
            ("guidance", NOT_NEGATIVE, "More than 1 exaggerates what sets the label apart."),
            ("best-of", COUNT, "Generate this many candidates for each clip and keep the likeliest."),
            ("min-seconds", NOT_NEGATIVE, "The prior may not end a clip earlier."),
            ("max-seconds", POSITIVE, "Cut a clip here if the prior has not ended it."),
        )
    )
)
"""How to draw; what is left out is as in the run's configuration."""
