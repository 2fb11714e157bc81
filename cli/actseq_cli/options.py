"""Options that several commands share, and the one object that each group of options becomes."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from actseq.errors import ConfigError
from actseq_cli.numbers import Number, Whole

if TYPE_CHECKING:
    from actseq.inference.request import Source
    from actseq.pipeline import Budget, Compute

Command = Callable[..., None]
F = TypeVar("F", bound=Command)
PATH = click.Path(path_type=Path)


POSITIVE = Number(min=0, min_open=True)
NOT_NEGATIVE = Number(min=0)
COUNT = Whole(min=1, max=2**31 - 1)
SEED = Whole(min=0, max=2**63 - 1)


def _existing_run(context: click.Context, parameter: click.Parameter, run: str) -> str:
    """Refuse a run that does not exist, before a command imports anything slow."""
    from actseq.storage.run_folder import RunFolder

    RunFolder.open(run)
    return run


def _known_preset(context: click.Context, parameter: click.Parameter, preset: str | None) -> str | None:
    """Refuse a preset that cannot be read, before a command imports anything slow."""
    from actseq.config import read_preset

    if preset is not None:
        read_preset(preset)
    return preset


def _installed(context: click.Context, parameter: click.Parameter, program: str | None) -> str | None:
    """Refuse a program to write figures for that is not installed, before anything is trained."""
    if program is not None and find_spec(program) is None:
        raise ConfigError(f"--log {program}: it is not installed", action="pip install 'actseq[log]'")
    return program


run_argument = click.argument("run_name", metavar="RUN", callback=_existing_run)
paths_argument = click.argument("paths", nargs=-1, required=True, type=PATH, metavar="PATH…")
as_json = click.option("--json", "json_output", is_flag=True, help="Print the result as JSON on standard output.")
overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace files that have a JSON of actseq beside them; no other file is replaced."
)
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
        budget: what `--plan` and `--more` say.
    """

    overrides: list[str]
    seed: int | None
    compute: Compute
    json_output: bool
    budget: Budget

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


def working(
    example: str | None, *, draws: bool = True, trains: str | None = None, continues: bool = False, logs: bool = False
) -> Callable[[Command], Command]:
    """Options that every working command has; the command receives them as one `Common` named `common`.

    Args:
        example: an override that the command accepts, for the help of `--set`; None: the command has no `--set`.
        draws: the command draws random numbers; one that does not refuses `--seed`.
        trains: section of the configuration that `--steps` and `--minutes` belong to; None leaves these options out.
        continues: the training can go on after its end.
        logs: it has `--log`, as everything with `trains` has.
    """
    budget = [
        click.option("--steps", type=COUNT, default=None, help="Number of training steps."),
        click.option("--minutes", type=POSITIVE, default=None, help="Training time in minutes."),
        click.option("--plan", type=PATH, default=None, help="Repeat the steps of another training: its plan.json."),
    ]
    log = click.option(
        "--log",
        type=click.Choice(["tensorboard"]),
        default=None,
        callback=_installed,
        help="Also write the figures of trainings for this program.",
    )
    going_on = click.option(
        "--more", type=POSITIVE, default=None, help="Let a finished training go on for this many minutes."
    )
    overriding = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help=f"Override a configuration key, e.g. {example}. May be repeated.",
    )
    options = [
        *(budget if trains else []),
        *([going_on] if continues else []),
        *([log] if trains or logs else []),
        *([] if example is None else [overriding]),
        click.option("--seed", type=SEED, default=None, hidden=not draws, help="Seed for all random numbers."),
        click.option(
            "--device", default="auto", show_default=True, help="Device to compute on: auto, cpu, cuda or mps."
        ),
        click.option(
            "--threads",
            type=COUNT,
            default=None,
            help="Number of CPU threads; default: one to make sound, otherwise torch's own.",
        ),
        as_json,
    ]

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def command(
            seed: int | None,
            device: str,
            threads: int | None,
            json_output: bool,
            overrides: tuple[str, ...] = (),
            steps: int | None = None,
            **options: Any,
        ) -> None:
            from actseq.pipeline import Budget, Compute
            from actseq.progress import SILENT
            from actseq.storage.processes import here
            from actseq_cli.progress import Terminal

            if seed is not None and not draws:
                name = click.get_current_context().command.name
                raise click.UsageError(f"{name} draws no random numbers: it has no --seed")
            minutes, plan = (options.pop("minutes"), options.pop("plan")) if trains else (None, None)
            more, log, store = (options.pop(name, None) for name in ("more", "log", "store"))
            exclusive = {"--steps": steps, "--minutes": minutes, "--more": more}
            given = [name for name, value in exclusive.items() if value is not None]
            if len(given) > 1 or (more is not None and plan is not None):
                raise click.UsageError(f"{' and '.join([*given, '--plan'][:2])} exclude each other")
            budget = {"steps": steps, "minutes": minutes}
            texts = [f"{trains}.{key}={value}" for key, value in budget.items() if value is not None]
            compute = Compute(device, threads, Terminal() if here().first else SILENT, log is not None, store)
            common = Common([*overrides, *texts], seed, compute, json_output, Budget(plan=plan, more=more).begin())
            function(common=common, **options)

        return all_of(*options)(command)

    return decorate


def sounds_and_preset(without: str) -> Callable[[Command], Command]:
    """A folder of sounds, the preset to train it with, and the run to make.

    Args:
        without: the preset that is taken if none is given, in words.
    """
    options = all_of(
        click.argument("folder", type=PATH),
        click.option(
            "--preset",
            default=None,
            callback=_known_preset,
            help=f"A name from `actseq presets`, or a YAML file. Default: {without}.",
        ),
        click.option(
            "--run", "run_name", default=None, help="Name under runs/, or a path. Default: <folder>-<preset>."
        ),
        click.option(
            "--store",
            metavar="URL",
            default=None,
            help="Where corpus and latents lie, such as s3://bucket/folder. Default: in the run.",
        ),
        click.option(
            "--include-generated",
            is_flag=True,
            help="Also learn from sounds that actseq made and from runs inside FOLDER; by default they are left out.",
        ),
    )

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def command(include_generated: bool, overrides: tuple[str, ...], **given: Any) -> None:
            more = ("corpus.include_generated=true",) if include_generated else ()
            function(overrides=(*overrides, *more), **given)

        return options(command)

    return decorate


# -- options in groups -------------------------------------------------------------------------------------------------


class _TitledOption(click.Option):
    """An option that `--help` lists under a title."""

    def __init__(self, *args: Any, title: str, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.title = title


class TitledCommand(click.Command):
    """A command whose `--help` lists its options under their titles."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options title by title, those without one last."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx)
            if record is not None and isinstance(option, click.Option):
                groups.setdefault(getattr(option, "title", ""), []).append(record)
        common = groups.pop("")
        for title, records in (groups | {"Common options": common}).items():
            with formatter.section(title):
                formatter.write_dl(records)


def _titled(title: str, *options: Callable[..., Any]) -> Callable[[Command], Command]:
    """Options that `--help` lists under a title."""
    return all_of(*(option(cls=_TitledOption, title=title) for option in options))


def _option(*names: str, **settings: Any) -> Callable[..., Any]:
    return functools.partial(click.option, *names, **settings)


_effects = _titled(
    "Effects",
    _option(
        "--effect",
        "effects",
        multiple=True,
        metavar="KIND:KEY=VALUE,…",
        help="Send every clip through an effect, e.g. reverb:room_size=0.4,wet=0.2. May be repeated, in order.",
    ),
    _option("--keep-dry", is_flag=True, help="Also write every clip as it is before the effects."),
)


def effects(function: Command) -> Command:
    """`--effect` and `--keep-dry`; the effects become the override `generate.effects`."""

    @functools.wraps(function)
    def command(effects: tuple[str, ...], overrides: tuple[str, ...], **options: Any) -> None:
        function(overrides=(*overrides, *_effects_override(effects)), **options)

    return _effects(command)


def _effects_override(effects: tuple[str, ...]) -> list[str]:
    members = []
    for effect in effects:
        kind, _, text = effect.partition(":")
        # A value may hold a comma; a key follows where it does not.
        pairs = [part.partition("=") for part in re.split(r",(?=\w+=)", text)] if text else []
        if not all(equals and key != "kind" for key, equals, _ in pairs):
            raise click.UsageError(f"--effect {effect}: expected KIND or KIND:KEY=VALUE,KEY=VALUE")
        members.append({"kind": kind} | {key: value for key, _, value in pairs})
    return [f"generate.effects={json.dumps(members)}"] if members else []


_what = _titled(
    "What",
    _option(
        "--prior",
        help="A trained prior, or `iid`, `random-walk` or `normal`; default: the preset's, or the only trained one.",
    ),
    _option("--n", type=COUNT, default=1, show_default=True, help="Number of clips."),
    _option("--label", help="A label of the corpus (a folder name), or A:B to glide from A to B."),
    _option(
        "--labels",
        metavar='"L[:S] …"',
        help='Labels one after another, each with its seconds or as long as in the corpus, e.g. "3 5:0.4 1".',
    ),
    _option("--seed-audio", type=PATH, help="A recording to continue."),
    _option("--seed-latents", type=PATH, help="Encoder activations to continue: a file of `actseq encode`."),
    _option("--seed-seconds", type=POSITIVE, help="Use only this much of the beginning of the seed."),
    _option(
        "--with-seed/--without-seed",
        "include_seed",
        default=True,
        show_default=True,
        help="Put the seed itself before what continues it.",
    ),
    _option(
        "--redo", metavar="FROM:TO", help="Regenerate this region of the recording, in seconds; `-` for TO is its end."
    ),
    _option(
        "--through", metavar="FILE,FILE…", help="Glide from the first of these sounds to the last, without a prior."
    ),
    _option("--vary", type=PATH, help="A sound to make variations of, without a prior."),
    _option(
        "--amount",
        type=Number(0, 1),
        default=0.3,
        show_default=True,
        help="How far variations go: 0 is the sound as the run reconstructs it; at 1 nothing of it is left.",
    ),
)
_how_long = _titled(
    "How long",
    _option("--seconds", type=POSITIVE, help="Length of what is new; default: the run's `generate.seconds`."),
    _option("--until-stop", is_flag=True, help="Let the prior end each clip."),
    _option("--loop", is_flag=True, help="Make seamless cycles of --seconds, as WAV with loop points."),
    _option("--min-seconds", type=NOT_NEGATIVE, help="The prior may not end a clip earlier."),
    _option("--max-seconds", type=POSITIVE, help="Cut a clip here if the prior has not ended it."),
)
_how_to_draw = _titled(
    "How to draw (default: the run's section `generate`)",
    _option("--temperature", type=NOT_NEGATIVE, help="1 samples what was learned; lower values vary less."),
    _option("--mixture-temperature", type=NOT_NEGATIVE, help="Temperature of the choice among components alone."),
    _option("--noise-temperature", type=NOT_NEGATIVE, help="Temperature of the noise alone."),
    _option(
        "--top-p",
        type=Number(0, 1, min_open=True),
        help="Choose among the likeliest components that together have this probability.",
    ),
    _option("--bias", type=NOT_NEGATIVE, help="Sharpen: likelier components, less noise."),
    _option("--noise-clamp", type=POSITIVE, help="Keep the noise within this many standard deviations."),
    _option("--guidance", type=NOT_NEGATIVE, help="Above 1, exaggerate what sets the label apart."),
    _option("--best-of", type=COUNT, help="Generate this many candidates for each clip and keep the likeliest."),
)
_output = _titled(
    "Output",
    _option("--out", type=PATH, help="Folder for the clips; default: generated/ in the run."),
    _option(
        "--kit",
        type=PATH,
        help="In place of --out, a new or empty folder for a kit: --n sounds of each label, or of --label, trimmed, "
        "faded and levelled, with maps for samplers (kit.sfz, kit.dspreset).",
    ),
    _option(
        "--format",
        type=click.Choice(["wav", "flac", "aiff"]),
        default="wav",
        show_default=True,
        help="Format of the clips.",
    ),
    _option(
        "--bits",
        type=click.Choice(["16", "24", "32"]),
        help="Bits of a sample; default: 16, and 24 in a kit. 32 is floating point, in WAV and AIFF only.",
    ),
    _option("--compile", "compile_to", type=PATH, help="Also write all clips in a row to this file."),
    _option(
        "--overwrite",
        is_flag=True,
        help="Replace files that have a JSON of actseq beside them; no other file is replaced.",
    ),
)


def generation(function: Command) -> Command:
    """All options of `generate` that are not common; the command receives a `request` and an `output`."""

    @functools.wraps(function)
    def command(seed: int | None, **options: Any) -> None:
        from actseq import pipeline

        written = {name: options.pop(name) for name in ("compile_to", "keep_dry", "overwrite", "kit", "format")}
        bits = options.pop("bits")
        output = pipeline.Output(options.pop("out"), bits=None if bits is None else int(bits), **written)
        common = {name: options.pop(name) for name in ("run_name", "overrides", "device", "threads", "json_output")}
        request = pipeline.GenerationRequest.of(source=_source(options), seed=seed, **options)
        function(request=request, output=output, seed=seed, **common)

    return all_of(_what, _how_long, _how_to_draw, effects, _output)(command)


PARTNERS = {
    "amount": ("vary",),
    "seed_seconds": ("seed_audio", "seed_latents"),
    "include_seed": ("seed_audio", "seed_latents"),
}
"""Options of `generate` that mean something only with one of others."""


def _source(options: dict[str, Any]) -> Source:
    """What new clips are made from; takes the options that say so out of `options`."""
    from actseq import pipeline

    ways = ("prior", "seed_audio", "seed_latents", "redo", "through", "vary")
    names = [f"--{name.replace('_', '-')}" for name in ways if options[name]]
    if len(names) > 1 and (options["through"] or options["vary"]):
        raise ConfigError(f"{' and '.join(names)} exclude each other")
    given = click.get_current_context().get_parameter_source
    for name, partners in PARTNERS.items():
        if given(name) is ParameterSource.COMMANDLINE and not any(options[partner] for partner in partners):
            shown = "--with-seed or --without-seed" if name == "include_seed" else f"--{name.replace('_', '-')}"
            needed = " or ".join(f"--{partner.replace('_', '-')}" for partner in partners)
            raise ConfigError(f"{shown} without {needed}", action=f"give {needed}, or leave {shown} out")
    through, vary, amount = (options.pop(name) for name in ("through", "vary", "amount"))
    of_prior = ("prior", "seed_audio", "seed_seconds", "include_seed", "seed_latents")
    named = {name: options.pop(name) for name in of_prior}
    redo = options.pop("redo")
    from_prior = pipeline.FromPrior(**named, redo=None if redo is None else _part("--redo", redo))
    if through:
        return pipeline.Through(tuple(_files(through)))
    return pipeline.Variations(vary, amount) if vary else from_prior


_transfer = _titled(
    "Timbre transfer",
    _option("--label", help="Give every sound the timbre of this label of the corpus, and keep what happens in it."),
    _option(
        "--prior", help="Prior that changes the timbre; default: a decoder that is given the label, or the run's prior."
    ),
    _option("--amount", type=Number(0, 1), help="How much a prior changes; 0 is the plain reconstruction."),
)


def transferring(function: Command) -> Command:
    """`--label`, `--prior`, `--amount` and the common `--seed`, which become one `transfer`."""

    @functools.wraps(function)
    def command(label: str | None, prior: str | None, amount: float | None, seed: int | None, **options: Any) -> None:
        from actseq import pipeline

        given: dict[str, Any] = {"prior": prior, "amount": amount, "seed": seed}
        if label is None:
            for name, value in given.items():
                if value is not None:
                    raise ConfigError(f"--{name} without --label", action=f"give --label, or leave --{name} out")
        transfer = None if label is None else pipeline.Transfer(label, **given)
        function(transfer=transfer, seed=seed, **options)

    return _transfer(command)


_filling = _titled(
    "Gaps",
    _option("--gaps", metavar="RUN2", help="Fill gaps with this generative run; default: the network fills them."),
    _option(
        "--gap",
        "parts",
        multiple=True,
        metavar="FROM:TO",
        help="Where a gap is, in seconds; `-` for TO is the end. May be repeated. Default: gaps are looked for.",
    ),
    _option("--prior", help="The prior of RUN2 that fills gaps; default: its usual one."),
    _option("--temperature", type=NOT_NEGATIVE, help="0, the default: the likeliest sound; 1: a draw."),
)


def filling_gaps(function: Command) -> Command:
    """`--gaps`, `--gap`, `--prior`, `--temperature` and the common `--seed`, which become one `filling`."""

    @functools.wraps(function)
    def command(
        gaps: str | None,
        parts: tuple[str, ...],
        prior: str | None,
        temperature: float | None,
        seed: int | None,
        **options: Any,
    ) -> None:
        from actseq import pipeline

        if gaps is None:
            given = {"--gap": parts or None, "--prior": prior, "--temperature": temperature, "--seed": seed}
            for name, value in given.items():
                if value is not None:
                    raise click.UsageError(f"{name} without --gaps RUN2, the run that fills gaps")
            function(filling=None, seed=None, **options)
            return
        where = tuple(_part("--gap", part) for part in parts)
        function(filling=pipeline.GapFilling(gaps, prior, where, temperature or 0.0, seed or 0), seed=seed, **options)

    return _filling(command)


def _part(option: str, text: str) -> tuple[float, float | None]:
    """FROM:TO in seconds; `-` for TO is the end of the recording."""
    begin, _, end = text.partition(":")
    try:
        return float(begin), None if end == "-" else float(end)
    except ValueError:
        raise ConfigError(f"{option} is '{text}'", "FROM:TO in seconds, such as 0.4:0.9 or 0.4:-") from None


def is_given(name: str) -> bool:
    """Whether an option of the present command was given."""
    return click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT


def only_clips(given: Mapping[str, bool]) -> None:
    """Refuse options about clips beside `--steps`."""
    for option in (option for option, value in given.items() if value):
        raise ConfigError(f"{option} with --steps, which looks at no clip", action=f"leave {option} out")


def step_range(text: str) -> tuple[int, int]:
    """A:B, two steps of a training."""
    first, _, last = text.partition(":")
    try:
        return int(first), int(last)
    except ValueError:
        raise ConfigError(f"--steps is '{text}'", "A:B, the first and the last step, such as 0:1000") from None


def _files(text: str) -> list[Path]:
    """Paths that are separated by commas; a comma belongs to a name if only then there is such a file."""
    found: list[Path] = []
    waiting: list[str] = []
    for part in text.split(","):
        waiting.append(part)
        if (path := Path(",".join(waiting))).exists():
            found.append(path)
            waiting = []
    return found + [Path(part) for part in waiting]
