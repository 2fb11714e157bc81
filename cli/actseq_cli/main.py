"""The command line: parse, call one function of `actseq.pipeline`, print where the result is."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, Literal

import click

from actseq import pipeline
from actseq.errors import ActseqError, ConfigError, Interrupted
from actseq_cli.numbers import Whole
from actseq_cli.options import (
    COUNT,
    PATH,
    POSITIVE,
    SEED,
    Common,
    TitledCommand,
    as_json,
    effects,
    filling_gaps,
    generation,
    is_given,
    only_clips,
    overwrite_option,
    paths_argument,
    run_argument,
    sounds_and_preset,
    split_option,
    step_range,
    transferring,
    working,
)
from actseq_cli.progress import printable
from actseq_cli.signals import stopping
from actseq_cli.usage import usage_line
from actseq_cli.wrapping import wrapped

if TYPE_CHECKING:
    from actseq.pipeline import GapFilling, GenerationRequest, Output, Transfer


TOGETHER = ("run", "train-ae", "extract-latents", "train-prior", "train-vocoder")
"""Commands that several processes can carry out together."""


def _require_alone(command: str) -> None:
    """Refuse a command that several processes were started with, though it is the work of one.

    Raises:
        ConfigError: there are several.
    """
    from actseq.storage.processes import here

    if here().size > 1:
        raise ConfigError(
            f"{here().size} processes were started with {command}, which is the work of one",
            f"one of {', '.join(TOGETHER)}",
            "start it without torchrun or srun",
        )


class _Group(click.Group):
    """Turns the library's errors into one line and exit code 1; names the nearest command for an unknown one."""

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # Names of files need not be text.
                stream.reconfigure(errors="backslashreplace")
        try:
            with stopping():
                result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except ActseqError as error:
            _say_error(str(error))
            ctx.exit(1)
        except click.UsageError as error:
            _say_error(usage_line(error))
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            ctx.exit(130)
        except Interrupted as stop:
            click.echo(str(stop), err=True)
            ctx.exit(128 + stop.number)
        except OSError as error:
            _drop_output()
            if not isinstance(error, BrokenPipeError):
                _say_error(_disk_error(error))
            ctx.exit(1)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            from actseq.config import suggest_name

            ctx.fail(f"No such command '{args[0]}'; {suggest_name(args[0], self.list_commands(ctx))}")
        if args and (args[0] not in TOGETHER or "--find-lr" in args):
            _require_alone(" ".join(args[:1] + ["--find-lr"] * ("--find-lr" in args)))
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def _say_error(text: str) -> None:
    click.echo(wrapped(printable(f"error: {text}"), sys.stderr), err=True)


def _drop_output() -> None:
    """Forget what standard output could not take, or Python would try once more when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _disk_error(error: OSError) -> str:
    """An error of the operating system in one line, with what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        action = "free some space; what was finished is kept"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        action = "allow reading and writing there, or name another folder"
    else:
        action = "see whether the disk and the folder are there"
    return f"{error.filename or 'the output'}: {error.strerror or error}; {action}"


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="actseq")
def main() -> None:
    """Learn from a folder of sounds and make new ones.

    \b
    actseq run FOLDER                     train everything
    actseq generate RUN --n 10            generate ten sounds
    """


def show(result: Any, json_output: bool, *lines: str) -> None:
    """Print the result, a mapping or a dataclass: JSON for a program, or lines for a person.

    Of several processes that work together, the first one prints.
    """
    from actseq.storage.processes import here

    if not here().first:
        return
    if json_output:
        if is_dataclass(result):
            # Stages and files that were not made are left out.
            result = {key: value for key, value in vars(result).items() if value is not None}
        click.echo(json.dumps(result, indent=2, default=lambda one: vars(one) if is_dataclass(one) else str(one)))
    else:
        for line in lines:
            click.echo(wrapped(printable(line), sys.stdout))


def counted(n: int, what: str) -> str:
    """A number of things: `1 clip`, `2 clips`."""
    return f"{n} {what}{'' if n == 1 else 's'}"


def _figures(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


def _next(run: str, generative: bool, command: str) -> str:
    """The command to give next; a run that only restores has no latents to learn from."""
    return f"next: actseq {command}" if generative else f"next: actseq restore {quote(run)} PATH… --out DIR"


def _tree(value: Mapping[str, Any], indent: str = "") -> list[str]:
    """A result as indented lines for a person: without what is not there, and without fingerprints."""
    lines: list[str] = []
    for key, item in value.items():
        if item is None or key == "fingerprint":
            continue
        if isinstance(item, Mapping) and item:
            lines += [f"{indent}{key}:", *_tree(item, indent + "  ")]
            continue
        if isinstance(item, float):
            item = f"{item:.4g}"
        elif isinstance(item, list | Mapping):
            item = ", ".join(map(str, item)) or "none"
        lines.append(f"{indent}{key}: {item}")
    return lines


# -- training ----------------------------------------------------------------------------------------------------------


@main.command()
@sounds_and_preset("the one that fits the sounds")
@click.option(
    "--minutes", type=POSITIVE, default=None, help="Minutes for all trainings together; default: the preset's."
)
@click.option("--vocoder", is_flag=True, help="Train a vocoder too, and use it if it is better than the untrained one.")
@click.option("--dry-run", is_flag=True, help="Only say what would be read, trained and written.")
@working("train_ae.batch_size=8", logs=True)
def run(
    folder: Path,
    preset: str | None,
    run_name: str | None,
    minutes: float | None,
    vocoder: bool,
    dry_run: bool,
    common: Common,
) -> None:
    """Train all stages of a run.

    They are corpus, autoencoder, latents, prior, and a vocoder on request. Finished stages are skipped. Without
    `--preset`, actseq listens to the sounds, chooses the preset and says why.
    """
    given: dict[str, Any] = {"run": run_name, "minutes": minutes, "vocoder": vocoder}
    given |= {"overrides": common.with_seed, "compute": common.compute}
    if dry_run:
        forecast = pipeline.dry_run(folder, preset, **given)
        show(forecast, common.json_output, *pipeline.forecast_lines(forecast))
        return
    result = pipeline.run_all(folder, preset, budget=common.budget, **given)
    show(
        result,
        common.json_output,
        f"run: {result.run}",
        f"autoencoder: {_figures(result.autoencoder['figures'])}",
        *([f"prior: {_figures(result.prior['figures'])}"] if result.prior else []),
        *([f"verdict: {result.verdict}"] if result.verdict else []),
        *([f"vocoder: {result.vocoder['choice']['reason']}"] if result.vocoder else []),
        _next(result.run, result.latents is not None, f"report {quote(result.run)}"),
        *(
            f"to train the {what} longer: {', then '.join(commands)}"
            for what, commands in (result.longer or {}).items()
        ),
    )


@main.command("train-ae")
@sounds_and_preset("that of the run, if it exists")
@click.option("--find-lr", is_flag=True, help="Only search for a learning rate, in steps that are thrown away.")
@working("train_ae.batch_size=8", trains="train_ae", continues=True)
def train_ae(folder: Path, preset: str | None, run_name: str | None, find_lr: bool, common: Common) -> None:
    """Stage one: make a corpus and train an autoencoder. The corpus is decoded from the sounds in FOLDER."""
    given: dict[str, Any] = {"run": run_name, "overrides": common.with_seed, "compute": common.compute}
    if find_lr:
        found = pipeline.find_learning_rate(folder, preset, **given)
        show(found, common.json_output, *pipeline.learning_rate_lines(found))
        return
    result = pipeline.train_ae(folder, preset, budget=common.budget, **given)
    show(
        result,
        common.json_output,
        f"autoencoder: {result['autoencoder']}  ({_figures(result['figures'])})",
        _next(result["run"], result["generative"], f"extract-latents {quote(result['run'])}"),
    )


@main.command("extract-latents")
@run_argument
@working("latents.batch_size=8", draws=False)
def extract_latents(run_name: str, common: Common) -> None:
    """Stage two: encode every clip into a sequence of latents."""
    result = pipeline.extract_latents(run_name, overrides=common.overrides, compute=common.compute)
    show(
        result,
        common.json_output,
        f"latents: {result['n_sequences']} sequences, one of each clip and of each altered copy; "
        f"{result['n_frames']} frames of {result['latent_dim']} numbers, {result['latent_rate']:.4g} frames a second",
        f"next: actseq train-prior {quote(result['run'])}",
    )


@main.command("train-prior")
@run_argument
@click.option("--name", default="default", show_default=True, help="Name of the prior.")
@working("train_prior.batch_size=8", trains="train_prior", continues=True)
def train_prior(run_name: str, name: str, common: Common) -> None:
    """Stage three: train a prior on the latents. A run can have several priors, under different names."""
    given: dict[str, Any] = {"seed": common.seed, "compute": common.compute, "budget": common.budget}
    result = pipeline.train_prior(run_name, name=name, overrides=common.overrides, **given)
    show(
        result,
        common.json_output,
        f"prior: {result['prior']}  ({_figures(result['figures'])})",
        f"next: actseq generate {quote(result['run'])} --prior {quote(name)} --n 10",
    )


@main.command("train-vocoder")
@run_argument
@click.option("--name", default="default", show_default=True, help="Name of the vocoder.")
@working("train_vocoder.batch_size=8", trains="train_vocoder", continues=True)
def train_vocoder(run_name: str, name: str, common: Common) -> None:
    """Train a vocoder. The run uses it if it is better than the one that needs no training."""
    given: dict[str, Any] = {"seed": common.seed, "compute": common.compute, "budget": common.budget}
    result = pipeline.train_vocoder(run_name, name=name, overrides=common.overrides, **given)
    show(
        result,
        common.json_output,
        f"vocoder: {result['vocoder']}  ({_figures(result['figures'])})",
        *pipeline.choice_lines(result["choice"]),
    )


# -- sound -------------------------------------------------------------------------------------------------------------


@main.command(cls=TitledCommand)
@run_argument
@generation
@working("generate.level=free")
def generate(run_name: str, request: GenerationRequest, output: Output, common: Common) -> None:
    """Generate sound: new clips, with a label or without, or continuations of a recording."""
    result = pipeline.generate(run_name, request, output, overrides=common.overrides, compute=common.compute)
    show(
        result,
        common.json_output,
        f"{counted(len(result.files), 'clip')} in {result.folder}",
        f"seed: {result.seed}; --seed {result.seed} makes the same clips again",
        *([f"compiled: {result.compiled}"] if result.compiled else []),
        *(pipeline.kit_lines(result.folder, result.keys) if result.keys else []),
    )


@main.command(cls=TitledCommand)
@run_argument
@paths_argument
@click.option("--out", type=PATH, required=True, help="Folder for the results; relative names are kept.")
@overwrite_option
@transferring
@effects
@working("vocoder.kind=griffin-lim")
def reconstruct(
    run_name: str,
    paths: tuple[Path, ...],
    out: Path,
    overwrite: bool,
    transfer: Transfer | None,
    keep_dry: bool,
    common: Common,
) -> None:
    """Pass files or folders through encoder and decoder, with --label in the timbre of another label."""
    result = pipeline.reconstruct(
        run_name,
        paths,
        out=out,
        transfer=transfer,
        keep_dry=keep_dry,
        overwrite=overwrite,
        overrides=common.overrides,
        compute=common.compute,
    )
    show(
        result,
        common.json_output,
        f"{counted(len(result['files']), 'file')} in {result['folder']}",
        f"next: compare by ear; actseq explore {quote(run_name)} shows the run in a browser",
    )


@main.command()
@run_argument
@paths_argument
@click.option("--out", type=PATH, required=True, help="Folder for the results; relative names are kept.")
@click.option("--npz", is_flag=True, help="Write .npz in place of .safetensors.")
@click.option(
    "--compress",
    "compressed",
    is_flag=True,
    help="Write .acts files in place of .safetensors: the means alone, in as few bytes as can be.",
)
@click.option("--as-seed", is_flag=True, help="Mirror each sound at its end, as a recording that is to be continued.")
@working(None, draws=False)
def encode(
    run_name: str, paths: tuple[Path, ...], out: Path, npz: bool, compressed: bool, as_seed: bool, common: Common
) -> None:
    """Write the encoder activations of files or folders, one .safetensors a sound."""
    result = pipeline.encode(
        run_name, paths, out=out, as_seed=as_seed, npz=npz, compressed=compressed, compute=common.compute
    )
    files = f"{counted(len(result.files), 'file')} of {counted(result.frames, 'latent frame')} in {result.folder}"
    show(result, common.json_output, files)


@main.command()
@run_argument
@paths_argument
@click.option("--out", type=PATH, required=True, help="Folder for the results; relative names are kept.")
@overwrite_option
@effects
@working("vocoder.kind=griffin-lim", draws=False)
def decode(run_name: str, paths: tuple[Path, ...], out: Path, overwrite: bool, keep_dry: bool, common: Common) -> None:
    """Make sound from encoder activations: files of `actseq encode`, edited or not, or folders with them."""
    result = pipeline.decode(
        run_name,
        paths,
        out=out,
        keep_dry=keep_dry,
        overwrite=overwrite,
        overrides=common.overrides,
        compute=common.compute,
    )
    show(
        result, common.json_output, f"{counted(len(result.files), 'file')}, {result.seconds:.1f} s, in {result.folder}"
    )


@main.command(cls=TitledCommand)
@run_argument
@paths_argument
@click.option("--out", type=PATH, required=True, help="Folder for the results; relative names are kept.")
@overwrite_option
@filling_gaps
@working("vocoder.kind=griffin-lim")
def restore(
    run_name: str, paths: tuple[Path, ...], out: Path, overwrite: bool, filling: GapFilling | None, common: Common
) -> None:
    """Take noise and other damage away from files or folders, with a run of preset restore or repair."""
    result = pipeline.restore(
        run_name,
        paths,
        out=out,
        filling=filling,
        overwrite=overwrite,
        overrides=common.overrides,
        compute=common.compute,
    )
    show(result, common.json_output, f"{counted(len(result['files']), 'file')} in {result['folder']}")


# -- looking at a run --------------------------------------------------------------------------------------------------


@main.command()
@run_argument
@click.option("--prior", default=None, help="Prior that new clips come from; default: the run's usual one.")
@click.option("--port", type=Whole(1, 65535), default=8765, show_default=True, help="First port to try.")
@click.option("--address", default="127.0.0.1", show_default=True, help="IP address to listen on.")
@working("generate.level=free", draws=False)
def explore(run_name: str, prior: str | None, port: int, address: str, common: Common) -> None:
    """Open a run in the browser: a map of its clips to hear, and new sounds to make and keep."""
    pipeline.explore(
        run_name,
        prior=prior,
        address=address,
        port=port,
        show=lambda url: show({"url": url}, common.json_output, url),
        overrides=common.overrides,
        compute=common.compute,
    )


@main.command()
@run_argument
@click.option("--prior", default=None, help="Measure what the prior of this name generates, instead of fidelity.")
@split_option
@click.option(
    "--n",
    "--clips",
    "n",
    type=COUNT,
    default=None,
    help="Number of clips, spread evenly over the split (default: all); with --prior, of generated and oracle clips "
    "(default: 1,200 for large corpora, 100 of each label for small ones).",
)
@working("vocoder.kind=griffin-lim")
def evaluate(run_name: str, prior: str | None, split: str, n: int | None, common: Common) -> None:
    """Measure a run on its held-out clips. The baselines that it has to beat are measured too."""
    result = pipeline.evaluate(
        run_name,
        prior=prior,
        split=split,
        n=n,
        overrides=common.overrides,
        seed=common.seed or 0,
        compute=common.compute,
    )
    show(result, common.json_output, *pipeline.evaluation_lines(result))


@main.command()
@run_argument
@click.option("--prior", default=None, help="Name of the prior.")
@click.option(
    "--n", type=COUNT, default=None, help="Clips of each label, for the first 20 labels; default: about 20 in all."
)
@working("vocoder.kind=griffin-lim")
def report(run_name: str, prior: str | None, n: int | None, common: Common) -> None:
    """Write a page about a run, with sounds, curves and figures. It is one file, which opens without a network."""
    result = pipeline.report(
        run_name, prior=prior, n=n, overrides=common.overrides, seed=common.seed or 0, compute=common.compute
    )
    show(
        result,
        common.json_output,
        f"report: {result['page']}  ({result['bytes'] / 1e6:.1f} MB, opens in any browser)",
        *([f"contact sheet: {result['sheet']}"] if result["sheet"] else []),
        *result["notes"],
    )


@main.command()
@run_argument
@click.option("--out", type=PATH, default=None, help="Folder for the pictures; default: plots/ in the run.")
@overwrite_option
@split_option
@click.option("--n", type=COUNT, default=None, help="Number of clips; default: up to 200, one minute in all.")
@click.option("--steps", "part", metavar="A:B", default=None, help="Draw the losses alone, from step A to step B.")
@working("vocoder.kind=griffin-lim")
def plot(
    run_name: str, out: Path | None, overwrite: bool, split: str, n: int | None, part: str | None, common: Common
) -> None:
    """Draw what a run does to held-out clips.

    The pictures show training, latents, frames, spectra and errors, each with its values as CSV.
    """
    if part is not None:
        only_clips({"--n": n is not None, "--split": is_given("split"), "--set": bool(common.overrides)})
        result = pipeline.plot_steps(run_name, step_range(part), out=out, overwrite=overwrite)
        show(result, common.json_output, *pipeline.plot_lines(result))
        return
    result = pipeline.plot(
        run_name,
        out=out,
        overwrite=overwrite,
        split=split,
        n=n,
        overrides=common.overrides,
        seed=common.seed or 0,
        compute=common.compute,
    )
    show(result, common.json_output, *pipeline.plot_lines(result))


@main.command()
@run_argument
@as_json
def info(run_name: str, json_output: bool) -> None:
    """Show what a run contains and which stages are finished."""
    result = pipeline.info(run_name)
    show(result, json_output, *_tree(result))


@main.command()
@run_argument
@as_json
def verify(run_name: str, json_output: bool) -> None:
    """Compare everything in a run with its hashes."""
    from actseq_cli.progress import Terminal

    result = pipeline.verify(run_name, compute=pipeline.Compute(reporter=Terminal()))
    show(result, json_output, *result["checked"], "all as it was written")


# -- elsewhere ---------------------------------------------------------------------------------------------------------


@main.command()
@run_argument
@click.option("--to", "kind", type=click.Choice(["onnx", "torchscript"]), required=True, help="What to write.")
@click.option("--prior", default=None, help="Name of the prior; default: the run's usual one.")
@click.option("--out", type=PATH, default=None, help="Folder for the files, new or empty. Default: <run>-<kind>.")
@as_json
def export(
    run_name: str, kind: Literal["onnx", "torchscript"], prior: str | None, out: Path | None, json_output: bool
) -> None:
    """Write a run for programs that know nothing of actseq. What was written is compared with the run."""
    from actseq_cli.progress import Terminal

    compute = pipeline.Compute(reporter=Terminal())
    result = pipeline.export(run_name, kind, prior=prior, out=out, compute=compute)
    show(
        result,
        json_output,
        f"{', '.join(result['files'])} in {result['folder']}",
        *(f"difference of {name}: {value:.2g}" for name, value in result["parity"].items()),
        *(f"{name} is late by {samples} samples" for name, samples in result.get("latency", {}).items()),
        *pipeline.export_lines(result),
    )


@main.command()
@run_argument
@click.option("--out", type=PATH, default=None, help="The new folder; default: RUN-packed beside the run.")
@click.option("--half", is_flag=True, help="Store large tensors in 16 bits: half the size, slightly other sounds.")
@as_json
def pack(run_name: str, out: Path | None, half: bool, json_output: bool) -> None:
    """Copy a run without the sounds that it was trained on. The copy has the configuration and the models."""
    from actseq_cli.progress import Terminal

    result = pipeline.pack(run_name, out=out, half=half, compute=pipeline.Compute(reporter=Terminal()))
    next_line = [_next(result.packed, True, f"generate {quote(result.packed)} --n 10")] if result.priors else []
    show(result, json_output, *pipeline.pack_lines(result), *next_line)


@main.command()
@run_argument
@click.argument("name", metavar="OWNER/NAME")
@click.option("--license", "licence", required=True, help="Identifier of the licence of the models, e.g. cc-by-4.0.")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option("--half", is_flag=True, help="Store large tensors in 16 bits.")
@as_json
def push(run_name: str, name: str, licence: str, private: bool, half: bool, json_output: bool) -> None:
    """Upload a run without its sounds to a repository of Hugging Face, with a model card."""
    from actseq_cli.progress import Terminal

    compute = pipeline.Compute(reporter=Terminal())
    result = pipeline.push(run_name, name, licence=licence, private=private, half=half, compute=compute)
    show(
        result,
        json_output,
        f"{result['address']}, {result['bytes'] / 1e6:.3g} MB",
        "The models can still reproduce sounds that they were trained on.",
    )


@main.command()
@click.argument("name", metavar="OWNER/NAME")
@click.option("--run", "run_name", default=None, help="Name under runs/, or a path. Default: NAME.")
@as_json
def pull(name: str, run_name: str | None, json_output: bool) -> None:
    """Download a run from a repository of Hugging Face. It is checked before it gets its name."""
    from actseq_cli.progress import Terminal

    result = pipeline.pull(name, run=run_name, compute=pipeline.Compute(reporter=Terminal()))
    show(result, json_output, f"run: {result['run']}", f"next: actseq generate {quote(result['run'])} --n 10")


# -- without a run -----------------------------------------------------------------------------------------------------


@main.command()
@click.option("--out", type=PATH, default=None, help="Folder for the sounds; default: a new one under runs/.")
@click.option("--n", type=COUNT, default=2, show_default=True, help="Number of sounds of each label.")
@working(None)
def demo(out: Path | None, n: int, common: Common) -> None:
    """Generate drum hits at once. They come from a voice that is trained already, `voice:drumkit`."""
    result = pipeline.demo(out=out, n=n, seed=common.seed or 0, compute=common.compute)
    show(result, common.json_output, *pipeline.demo_lines(result))


@main.command()
@click.argument("folder", type=PATH)
@click.option("--n-per-kind", type=COUNT, default=60, show_default=True, help="Number of hits of each kind.")
@click.option("--sample-rate", type=Whole(min=8000), default=22050, show_default=True, help="In Hz.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed for all random numbers.")
@as_json
def drumkit(folder: Path, n_per_kind: int, sample_rate: int, seed: int, json_output: bool) -> None:
    """Write a synthesised drum-machine corpus. Its labels are snare, kick, hat, tom and clap."""
    from actseq.data.drumkit import write_drumkit

    files = write_drumkit(folder, n_per_kind=n_per_kind, sample_rate=sample_rate, seed=seed)
    show(
        {"folder": str(folder), "files": [str(path) for path in files]},
        json_output,
        f"{counted(len(files), 'hit')} in {folder}",
        f"next: actseq run {quote(str(folder))} --dry-run",
    )


@main.command()
@as_json
def presets(json_output: bool) -> None:
    """List the shipped presets."""
    from actseq.config import FITTING_PRESETS, preset_folder, preset_names

    first = {
        name: (preset_folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        for name in (*FITTING_PRESETS, *(name for name in preset_names() if name not in FITTING_PRESETS))
    }
    width = max(map(len, first))
    lines = [f"{name:{width}}  {text}" for name, text in first.items()]
    usual = len(FITTING_PRESETS)
    title = "Without --preset, actseq run takes one of these, whichever fits the sounds:"
    show(first, json_output, title, *lines[:usual], "", "For other purposes, with --preset NAME:", *lines[usual:])


@main.command()
@as_json
def doctor(json_output: bool) -> None:
    """Show what this installation can do. Versions, devices, audio formats; what does not load, and how to mend it."""
    result = pipeline.doctor()
    show(result, json_output, *_tree(result))
    if result["problems"]:
        sys.exit(1)
