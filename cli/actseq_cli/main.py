"""The command line: parse → one pipeline call → print where the result is. Heavy imports wait until a command runs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from actseq.errors import ActseqError

F = TypeVar("F", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)


class _Group(click.Group):
    """Turns the library's errors into one line and exit code 1; names the nearest command for an unknown one."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ActseqError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            ctx.exit(130)
        except BrokenPipeError:
            ctx.exit(1)
        except BaseException as error:
            if type(error).__name__ != "Interrupted":
                raise
            click.echo(str(error), err=True)
            ctx.exit(128 + error.number)  # type: ignore[attr-defined]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            from actseq.config import suggest_name

            ctx.fail(f"No such command '{args[0]}'; {suggest_name(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="actseq")
def main() -> None:
    """Learn from a folder of sounds and make new ones.

    \b
    actseq run FOLDER --preset drums      all stages
    actseq generate RUN --n 10            new sound
    """


def common(function: F) -> F:
    """Options that every working command takes."""
    for option in reversed(
        [
            click.option(
                "--set",
                "overrides",
                multiple=True,
                metavar="KEY=VALUE",
                help="Override a configuration key, e.g. train_ae.batch_size=8. May be repeated.",
            ),
            click.option("--seed", type=click.IntRange(min=0), default=None, help="Of all random numbers."),
            click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps."),
            click.option(
                "--threads", type=click.IntRange(min=1), default=None, help="Threads to compute with; default: torch's."
            ),
            as_json,
        ]
    ):
        function = option(function)
    return function


def controls(function: F) -> F:
    """Options of how to draw; what is not given is as in the run's configuration."""
    positive = click.FloatRange(min=0, min_open=True)
    for name, kind, text in reversed(
        [
            ("temperature", click.FloatRange(min=0), "1 samples what was learned; less is tamer."),
            ("mixture-temperature", click.FloatRange(min=0), "Temperature of the choice among components alone."),
            ("noise-temperature", click.FloatRange(min=0), "Temperature of the noise alone."),
            (
                "top-p",
                click.FloatRange(0, 1, min_open=True),
                "Choose among the likeliest components of this probability.",
            ),
            ("bias", click.FloatRange(min=0), "Sharpen: likelier components, less noise."),
            ("noise-clamp", positive, "Keep the noise within so many deviations."),
            ("guidance", click.FloatRange(min=0), "More than 1 exaggerates what sets the label apart."),
            ("best-of", click.IntRange(min=1), "Make so many of each clip and keep the likeliest."),
            ("min-seconds", click.FloatRange(min=0), "The prior may not end a clip earlier."),
            ("max-seconds", positive, "Bound where the prior ends clips."),
        ]
    ):
        function = click.option(f"--{name}", type=kind, default=None, help=text)(function)
    return function


def effects(function: F) -> F:
    """Options of what happens after the decoder."""
    for option in reversed(
        [
            click.option(
                "--effect",
                "effects",
                multiple=True,
                metavar="KIND:KEY=VALUE,…",
                help="Send every clip through an effect, e.g. reverb:room_size=0.4,wet=0.2. May be repeated, in order.",
            ),
            click.option("--keep-dry", is_flag=True, help="Also write every clip as it is before the effects."),
        ]
    ):
        function = option(function)
    return function


as_json = click.option("--json", "json_output", is_flag=True, help="Print the result as JSON on standard output.")
preset_option = click.option("--preset", required=True, help="A name from `actseq presets`, or a YAML file.")


def show(result: Mapping[str, Any], json_output: bool, *lines: str) -> None:
    """The result: JSON for a program, or lines for a person."""
    if json_output:
        click.echo(json.dumps(result, indent=2, default=str))
    else:
        for line in lines:
            click.echo(line)


def reporter() -> Any:
    """Progress on standard error."""
    from actseq_cli.progress import Terminal

    return Terminal()


def with_seed(overrides: tuple[str, ...], seed: int | None) -> list[str]:
    """`--seed` is the configuration key `seed`."""
    return [*overrides, *([] if seed is None else [f"seed={seed}"])]


def with_effects(overrides: tuple[str, ...], effects: tuple[str, ...]) -> list[str]:
    """`--effect KIND:KEY=VALUE,…`, in order, is the configuration key `generate.effects`."""
    members = []
    for effect in effects:
        kind, _, text = effect.partition(":")
        # A value may hold a comma; a key follows where it does not.
        pairs = [part.partition("=") for part in re.split(r",(?=\w+=)", text)] if text else []
        if not all(equals and key != "kind" for key, equals, _ in pairs):
            raise click.UsageError(f"--effect {effect}: expected KIND or KIND:KEY=VALUE,KEY=VALUE")
        members.append({"kind": kind} | {key: value for key, _, value in pairs})
    return [*overrides, *([f"generate.effects={json.dumps(members)}"] if members else [])]


def budget(overrides: list[str], section: str, steps: int | None, minutes: float | None) -> list[str]:
    """`--steps` and `--minutes` as overrides of a section."""
    if steps is not None and minutes is not None:
        raise click.UsageError("--steps and --minutes exclude each other")
    more = (
        [f"{section}.steps={steps}"]
        if steps is not None
        else [f"{section}.minutes={minutes}"]
        if minutes is not None
        else []
    )
    return [*overrides, *more]


def _figures(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


@main.command()
@click.argument("folder", type=PATH)
@preset_option
@click.option("--run", "run_name", default=None, help="Name under runs/, or a path. Default: <folder>-<preset>.")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=None,
    help="Training time of all stages together; default: the preset's.",
)
@click.option("--vocoder", is_flag=True, help="Train a vocoder too, and keep it where it wins.")
@common
def run(
    folder: Path,
    preset: str,
    run_name: str | None,
    minutes: float | None,
    vocoder: bool,
    overrides: tuple[str, ...],
    seed: int | None,
    device: str,
    threads: int | None,
    json_output: bool,
) -> None:
    """All stages: corpus, autoencoder, latents, prior, and a vocoder where asked for. What is done is skipped."""
    from actseq import pipeline

    result = pipeline.run_all(
        folder,
        preset,
        run=run_name,
        minutes=minutes,
        vocoder=vocoder,
        overrides=with_seed(overrides, seed),
        device=device,
        threads=threads,
        reporter=reporter(),
    )
    show(
        result,
        json_output,
        f"run: {result['run']}",
        f"autoencoder: {_figures(result['autoencoder']['figures'])}",
        *([f"prior: {_figures(result['prior']['figures'])}"] if "prior" in result else []),
        *([f"vocoder: {result['vocoder']['choice']['reason']}"] if vocoder else []),
        f"next: actseq generate {result['run']} --n 10"
        if "prior" in result
        else f"next: actseq restore {result['run']} PATH… --out DIR",
    )


@main.command("train-ae")
@click.argument("folder", type=PATH)
@preset_option
@click.option("--run", "run_name", default=None, help="Name under runs/, or a path. Default: <folder>-<preset>.")
@click.option("--steps", type=click.IntRange(min=1), default=None, help="Training steps.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=None, help="Training time.")
@click.option("--find-lr", is_flag=True, help="Only look for a learning rate, in throw-away steps; nothing is trained.")
@common
def train_ae(
    folder: Path,
    preset: str,
    run_name: str | None,
    steps: int | None,
    minutes: float | None,
    find_lr: bool,
    overrides: tuple[str, ...],
    seed: int | None,
    device: str,
    threads: int | None,
    json_output: bool,
) -> None:
    """Stage one: decode FOLDER into a corpus and train an autoencoder on it."""
    from actseq import pipeline

    stage = pipeline.find_learning_rate if find_lr else pipeline.train_ae
    result = stage(
        folder,
        preset,
        run=run_name,
        overrides=budget(with_seed(overrides, seed), "train_ae", steps, minutes),
        device=device,
        threads=threads,
        reporter=reporter(),
    )
    if find_lr:
        show(result, json_output, *pipeline.learning_rate_lines(result))
        return
    show(
        result,
        json_output,
        f"autoencoder: {result['autoencoder']}  ({_figures(result['figures'])})",
        f"next: actseq extract-latents {result['run']}"
        if result["generative"]
        else f"next: actseq restore {result['run']} PATH… --out DIR",
    )


@main.command("extract-latents")
@click.argument("run_name", metavar="RUN")
@common
def extract_latents(
    run_name: str, overrides: tuple[str, ...], seed: int | None, device: str, threads: int | None, json_output: bool
) -> None:
    """Stage two: turn every clip into a sequence of encoder activations."""
    from actseq import pipeline

    if seed is not None:
        raise click.UsageError("extract-latents draws no random numbers: it has no --seed")
    result = pipeline.extract_latents(
        run_name, overrides=overrides, device=device, threads=threads, reporter=reporter()
    )
    show(
        result,
        json_output,
        f"latents: {result['n_sequences']} sequences, {result['n_frames']} frames of "
        f"{result['latent_dim']} at {result['latent_rate']:.4g} Hz",
        f"next: actseq train-prior {result['run']}",
    )


@main.command("train-prior")
@click.argument("run_name", metavar="RUN")
@click.option("--name", default="default", show_default=True, help="Name of the prior.")
@click.option("--steps", type=click.IntRange(min=1), default=None, help="Training steps.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=None, help="Training time.")
@common
def train_prior(
    run_name: str,
    name: str,
    steps: int | None,
    minutes: float | None,
    overrides: tuple[str, ...],
    seed: int | None,
    device: str,
    threads: int | None,
    json_output: bool,
) -> None:
    """Stage three: learn how sequences of activations unfold. As often as you like, under different names."""
    from actseq import pipeline

    result = pipeline.train_prior(
        run_name,
        name=name,
        overrides=budget(list(overrides), "train_prior", steps, minutes),
        seed=seed,
        device=device,
        threads=threads,
        reporter=reporter(),
    )
    show(
        result,
        json_output,
        f"prior: {result['prior']}  ({_figures(result['figures'])})",
        f"next: actseq generate {result['run']} --n 10",
    )


@main.command("train-vocoder")
@click.argument("run_name", metavar="RUN")
@click.option("--name", default="default", show_default=True, help="Name of the vocoder.")
@click.option("--steps", type=click.IntRange(min=1), default=None, help="Training steps.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=None, help="Training time.")
@common
def train_vocoder(
    run_name: str,
    name: str,
    steps: int | None,
    minutes: float | None,
    overrides: tuple[str, ...],
    seed: int | None,
    device: str,
    threads: int | None,
    json_output: bool,
) -> None:
    """Learn to turn features back into sound; kept in use only where it beats what needs no training."""
    from actseq import pipeline

    result = pipeline.train_vocoder(
        run_name,
        name=name,
        overrides=budget(list(overrides), "train_vocoder", steps, minutes),
        seed=seed,
        device=device,
        threads=threads,
        reporter=reporter(),
    )
    show(
        result,
        json_output,
        f"vocoder: {result['vocoder']}  ({_figures(result['figures'])})",
        *pipeline.choice_lines(result["choice"]),
    )


@main.command()
@click.argument("run_name", metavar="RUN")
@click.option(
    "--prior",
    default=None,
    help="Name of a trained prior, `iid` or `random-walk`; default: `default`, or the only trained one.",
)
@click.option("--n", type=click.IntRange(min=1), default=1, show_default=True, help="Clips.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=None, help="Length of what is new.")
@click.option("--until-stop", is_flag=True, help="Let the prior end each clip.")
@click.option("--label", default=None, help="One of the corpus's labels (folder names), or A:B to glide from A to B.")
@click.option("--seed-audio", type=PATH, default=None, help="A recording to continue.")
@click.option(
    "--seed-seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=None,
    help="Use only so much of the beginning of the seed.",
)
@click.option(
    "--with-seed/--without-seed",
    "include_seed",
    default=True,
    show_default=True,
    help="Put the seed itself before what continues it.",
)
@click.option(
    "--through",
    metavar="FILE,FILE…",
    default=None,
    help="Go from the first of these sounds to the last, without a prior.",
)
@click.option("--vary", type=PATH, default=None, help="A sound to make variations of, without a prior.")
@click.option(
    "--amount",
    type=click.FloatRange(0, 1),
    default=0.3,
    show_default=True,
    help="Of the variation: 0 is the sound as the run reconstructs it, of 1 nothing is left.",
)
@controls
@effects
@click.option("--out", type=PATH, default=None, help="Folder for the clips; default: generated/ in the run.")
@click.option("--compile", "compile_to", type=PATH, default=None, help="Also write all clips in a row to this file.")
@common
def generate(
    run_name: str,
    prior: str | None,
    n: int,
    seconds: float | None,
    until_stop: bool,
    label: str | None,
    seed_audio: Path | None,
    seed_seconds: float | None,
    include_seed: bool,
    through: str | None,
    vary: Path | None,
    amount: float,
    effects: tuple[str, ...],
    keep_dry: bool,
    out: Path | None,
    compile_to: Path | None,
    overrides: tuple[str, ...],
    seed: int | None,
    device: str,
    threads: int | None,
    json_output: bool,
    **controls: float | None,
) -> None:
    """New sound: from nothing, from a label, or continuing a recording."""
    from actseq import pipeline

    result = pipeline.generate(
        run_name,
        prior=prior,
        n=n,
        seconds=seconds,
        until_stop=until_stop,
        label=label,
        seed_audio=seed_audio,
        seed_seconds=seed_seconds,
        include_seed=include_seed,
        through=[Path(part) for part in through.split(",")] if through else (),
        vary=vary,
        amount=amount,
        controls=controls,
        seed=seed or 0,
        out=out,
        compile_to=compile_to,
        keep_dry=keep_dry,
        overrides=with_effects(overrides, effects),
        device=device,
        threads=threads,
        reporter=reporter(),
    )
    show(
        result,
        json_output,
        f"{len(result['files'])} clips in {result['folder']}",
        *([f"compiled: {result['compiled']}"] if "compiled" in result else []),
    )


@main.command()
@click.argument("run_name", metavar="RUN")
@click.argument("paths", nargs=-1, required=True, type=PATH, metavar="PATH…")
@click.option("--out", type=PATH, required=True, help="Folder for the results; relative names are kept.")
@effects
@common
def reconstruct(
    run_name: str,
    paths: tuple[Path, ...],
    out: Path,
    effects: tuple[str, ...],
    keep_dry: bool,
    overrides: tuple[str, ...],
    seed: int | None,
    device: str,
    threads: int | None,
    json_output: bool,
) -> None:
    """Files or folders through encoder and decoder. Foreign sounds take on the timbre of the corpus."""
    from actseq import pipeline

    if seed is not None:
        raise click.UsageError("reconstruct draws no random numbers: it has no --seed")
    result = pipeline.reconstruct(
        run_name,
        paths,
        out=out,
        keep_dry=keep_dry,
        overrides=with_effects(overrides, effects),
        device=device,
        threads=threads,
        reporter=reporter(),
    )
    show(result, json_output, f"{len(result['files'])} files in {result['folder']}")


@main.command()
@click.argument("run_name", metavar="RUN")
@click.argument("paths", nargs=-1, required=True, type=PATH, metavar="PATH…")
@click.option("--out", type=PATH, required=True, help="Folder for the results; relative names are kept.")
@common
def restore(
    run_name: str,
    paths: tuple[Path, ...],
    out: Path,
    overrides: tuple[str, ...],
    seed: int | None,
    device: str,
    threads: int | None,
    json_output: bool,
) -> None:
    """Files or folders freed of noise, by a run that has learned to (preset restore)."""
    from actseq import pipeline

    if seed is not None:
        raise click.UsageError("restore draws no random numbers: it has no --seed")
    result = pipeline.restore(
        run_name, paths, out=out, overrides=overrides, device=device, threads=threads, reporter=reporter()
    )
    show(result, json_output, f"{len(result['files'])} files in {result['folder']}")


@main.command()
@click.argument("run_name", metavar="RUN")
@click.option("--prior", default=None, help="Measure what the prior of this name generates, instead of fidelity.")
@click.option(
    "--split",
    type=click.Choice(["test", "validation"]),
    default="test",
    show_default=True,
    help="Clips to measure on; `validation` to choose settings by.",
)
@click.option(
    "--n",
    type=click.IntRange(min=1),
    default=None,
    help="Only so many clips, spread evenly over the split; with --prior, so many generated clips (300).",
)
@common
def evaluate(
    run_name: str,
    prior: str | None,
    split: str,
    n: int | None,
    overrides: tuple[str, ...],
    seed: int | None,
    device: str,
    threads: int | None,
    json_output: bool,
) -> None:
    """Measure a run on its held-out clips, beside the baselines it has to beat."""
    from actseq import pipeline

    result = pipeline.evaluate(
        run_name,
        prior=prior,
        split=split,
        n=n,
        overrides=overrides,
        seed=seed or 0,
        device=device,
        threads=threads,
        reporter=reporter(),
    )
    show(result, json_output, *pipeline.evaluation_lines(result))


@main.command()
@click.argument("run_name", metavar="RUN")
@click.option("--prior", default=None, help="Name of the prior.")
@click.option(
    "--n", type=click.IntRange(min=1), default=None, help="Clips to a row; default: 4 of each label, 20 without labels."
)
@common
def report(
    run_name: str,
    prior: str | None,
    n: int | None,
    overrides: tuple[str, ...],
    seed: int | None,
    device: str,
    threads: int | None,
    json_output: bool,
) -> None:
    """A contact sheet of real, reconstructed and generated clips, and all of them in one wav."""
    from actseq import pipeline

    result = pipeline.report(
        run_name,
        prior=prior,
        n=n,
        overrides=overrides,
        seed=seed or 0,
        device=device,
        threads=threads,
    )
    show(
        result,
        json_output,
        f"contact sheet: {result['sheet']}",
        f"all clips in a row: {result['compiled']}",
        f"training curves: {', '.join(result['curves'])}",
    )


@main.command()
@click.argument("run_name", metavar="RUN")
@click.option("--out", type=PATH, default=None, help="Folder for the pictures; default: plots/ in the run.")
@click.option(
    "--split",
    type=click.Choice(["test", "validation"]),
    default="test",
    show_default=True,
    help="Held-out clips to look at.",
)
@click.option(
    "--n", type=click.IntRange(min=1), default=None, help="Clips; default: up to 200 that make a minute together."
)
@common
def plot(
    run_name: str,
    out: Path | None,
    split: str,
    n: int | None,
    overrides: tuple[str, ...],
    seed: int | None,
    device: str,
    threads: int | None,
    json_output: bool,
) -> None:
    """Pictures of what a run does: trainings, codes, frames, spectra and errors, each with its numbers as a CSV."""
    from actseq import pipeline

    result = pipeline.plot(
        run_name,
        out=out,
        split=split,
        n=n,
        overrides=overrides,
        seed=seed or 0,
        device=device,
        threads=threads,
        reporter=reporter(),
    )
    show(result, json_output, *pipeline.plot_lines(result))


@main.command()
@click.argument("run_name", metavar="RUN")
@as_json
def info(run_name: str, json_output: bool) -> None:
    """What a run holds and how far it is."""
    from actseq import pipeline

    result = pipeline.info(run_name)
    show(result, json_output, *_tree(result))


def _tree(value: Mapping[str, Any], indent: str = "") -> list[str]:
    lines: list[str] = []
    for key, item in value.items():
        if isinstance(item, Mapping):
            lines += [f"{indent}{key}:", *_tree(item, indent + "  ")]
        else:
            shown = (
                f"{item:.4g}"
                if isinstance(item, float)
                else ", ".join(map(str, item))
                if isinstance(item, list)
                else item
            )
            lines.append(f"{indent}{key}: {shown}")
    return lines


@main.command()
@click.argument("run_name", metavar="RUN")
@as_json
def verify(run_name: str, json_output: bool) -> None:
    """Read everything of a run again and compare it with its hashes."""
    from actseq import pipeline

    result = pipeline.verify(run_name, reporter=reporter())
    show(result, json_output, *result["checked"], "all as it was written")


@main.command()
@click.argument("folder", type=PATH)
@click.option("--n-per-kind", type=click.IntRange(min=1), default=60, show_default=True, help="Hits of each kind.")
@click.option("--sample-rate", type=click.IntRange(min=8000), default=22050, show_default=True, help="Hz.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@as_json
def drumkit(folder: Path, n_per_kind: int, sample_rate: int, seed: int, json_output: bool) -> None:
    """Write a synthesised drum-machine corpus: snare, kick, hat, tom, clap."""
    from actseq.data.drumkit import write_drumkit

    files = write_drumkit(folder, n_per_kind=n_per_kind, sample_rate=sample_rate, seed=seed)
    show({"folder": str(folder), "files": [str(path) for path in files]}, json_output, f"{len(files)} hits in {folder}")


@main.command()
@as_json
def presets(json_output: bool) -> None:
    """The shipped presets."""
    from actseq.config import preset_folder, preset_names

    first = {
        name: (preset_folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        for name in preset_names()
    }
    show(first, json_output, *(f"{name:10} {text}" for name, text in first.items()))


@main.command()
@as_json
def doctor(json_output: bool) -> None:
    """Versions, devices, audio formats, and whether torchaudio loads — with the cure where it does not."""
    from actseq.commands.doctor import examine

    result = examine()
    show(result, json_output, *_tree(result))
    if result["problems"]:
        sys.exit(1)
