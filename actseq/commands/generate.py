"""`generate`: new clips, each with a JSON that says how it came about."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from actseq import audio, units
from actseq.commands.common import AUTO, Compute, Result, effects_of, make_folder, tell_changes, tell_gain
from actseq.errors import ConfigError
from actseq.inference.loaded_run import LoadedRun
from actseq.inference.loading import Waveform, require_generative
from actseq.progress import Reporter
from actseq.storage.artifacts import read_json, write_json
from actseq.storage.run_folder import RunFolder

if TYPE_CHECKING:
    from actseq.effects import Process
    from actseq.inference.generation import Piece


def generate(
    run: str | Path,
    *,
    prior: str | None = None,
    n: int = 1,
    seconds: float | None = None,
    until_stop: bool = False,
    label: str | None = None,
    seed_audio: Path | None = None,
    seed_seconds: float | None = None,
    include_seed: bool = True,
    through: Sequence[Path] = (),
    vary: Path | None = None,
    amount: float = 0.3,
    controls: Mapping[str, float | None] | None = None,
    seed: int = 0,
    out: Path | None = None,
    compile_to: Path | None = None,
    keep_dry: bool = False,
    overrides: Iterable[str] = (),
    compute: Compute = AUTO,
) -> Result:
    """Write new clips with a JSON beside each, as they grow: an hour needs no more memory than a minute.

    With effects (`generate.effects`) each clip is held in memory as a whole once it has grown, one at a time.

    Args:
        seed_seconds: use only so much of the beginning of `seed_audio`.
        include_seed: put the seed itself before what continues it.
        through: sounds to go through instead; see `LoadedRun.through`.
        vary: a sound to make variations of instead; see `LoadedRun.vary`.
        amount: of the variation.
        controls: as of `LoadedRun.stream`, like the other arguments.
        out: folder for the clips; default `generated/<time>-<seed>` in the run.
        compile_to: also write all clips in a row to this file.
        keep_dry: also write each clip as it is before the effects, as `000.dry.wav`.
    """
    compute.use_threads()
    reporter = compute.reporter
    if seconds is not None and until_stop:
        raise ConfigError("--seconds and --until-stop exclude each other")
    ways = {"--prior": prior, "--seed-audio": seed_audio, "--through": through, "--vary": vary}
    asked = [way for way, value in ways.items() if value]
    if len(asked) > 1 and asked != ["--prior", "--seed-audio"]:
        raise ConfigError(f"{' and '.join(asked)} exclude each other")
    if through and (label is not None or n != 1 or any(value is not None for value in (controls or {}).values())):
        raise ConfigError("--through knows no label, no --n and no sampling controls", action="leave them out")
    if vary and (seconds is not None or until_stop):
        raise ConfigError("a variation is as long as its sound", action="leave out the length")
    require_generative(RunFolder.open(run))
    loaded = LoadedRun.open(
        run, prior=prior, device=compute.device, overrides=overrides, need_prior=not through and not vary
    )
    through_effects = effects_of(loaded.config, keep_dry)
    given = {name: value for name, value in (controls or {}).items() if value is not None}
    fingerprints, name = loaded.fingerprints, loaded.prior_name
    if through:
        sounds = [_load(path, loaded.sample_rate, reporter) for path in through]
        pieces, name = loaded.through(sounds, seconds=seconds), "interpolate"
        fingerprints.pop("prior", None)
    elif vary:
        sound = _load(vary, loaded.sample_rate, reporter)
        pieces, name = loaded.vary(sound, amount, n, label=label, seed=seed, **given), "vary"
        fingerprints.pop("prior", None)
        fingerprints["latents"] = str(read_json(loaded.run.latents / "latents.json")["fingerprint"])
    else:
        seed_waveform = None
        if seed_audio is not None:
            seed_waveform = _load(seed_audio, loaded.sample_rate, reporter)
            if seed_seconds is not None:
                seed_waveform = seed_waveform[: units.seconds_to_samples(seed_seconds, loaded.sample_rate)]
        pieces = loaded.stream(
            n,
            seconds=seconds,
            until_stop=until_stop,
            label=label,
            seed_audio=seed_waveform,
            include_seed=include_seed,
            seed=seed,
            **given,
        )
    common: Result = {
        "of": n,
        "settings": {
            "label": label,
            "seconds": seconds,
            "until_stop": until_stop,
            "seed": seed,
            "seed_audio": None if seed_audio is None else str(seed_audio),
            "seed_seconds": seed_seconds,
            "include_seed": include_seed,
            "through": [str(path) for path in through],
            "vary": None if vary is None else str(vary),
            "amount": amount if vary else None,
            **loaded.config.generate.model_dump(exclude={"seconds"}),
            **given,
            "vocoder": loaded.config.vocoder.model_dump(),
        },
        "fingerprints": fingerprints,
        "run": loaded.run.name,
        "prior": name,
    }
    folder = out or _unused(loaded.run.generated / f"{time.strftime('%Y%m%d-%H%M%S')}-{seed}")
    length = None if until_stop or through or vary else loaded.config.generate.seconds
    length = length if seconds is None else seconds
    begun = time.perf_counter()
    peak = None if seed_audio is not None or vary is not None else loaded.new_peak
    made = _write_pieces(pieces, folder, common, loaded.sample_rate, length, peak, through_effects, keep_dry, reporter)
    elapsed = time.perf_counter() - begun
    endless = sum(not clip["stopped"] for clip in made)
    if endless and length is None:
        bound = common["settings"]["max_seconds"]
        reporter.warn(
            f"{endless} of {n} clips had not ended after max_seconds = {bound:g} and were cut "
            "(--seconds sets a length, --max-seconds the bound)"
        )
    result: Result = {
        "run": str(loaded.run.path),
        "folder": str(folder),
        "files": [str(folder / clip["file"]) for clip in made],
        "seconds": sum(clip["seconds"] for clip in made),
    }
    reporter.say(f"{result['seconds']:.1f} s of sound in {elapsed:.1f} s")
    if compile_to is not None:
        _compile(result["files"], compile_to, loaded.sample_rate)
        result["compiled"] = str(compile_to)
    return result


def _write_pieces(
    pieces: Iterator[Piece],
    folder: Path,
    common: Result,
    sample_rate: int,
    seconds: float | None,
    peak: float | None,
    through_effects: Process | None,
    keep_dry: bool,
    reporter: Reporter,
) -> list[Result]:
    """Clips as they grow, each with its JSON once it is whole; what the JSONs hold, in order."""
    make_folder(folder)
    n = common["of"]
    if seconds is None:
        reporter.begin("generate", n, unit="clips")
    else:
        reporter.begin("generate", round(n * seconds), unit="seconds of sound")
    growing: dict[int, tuple[ExitStack, audio.Writer, int]] = {}
    made: dict[int, Result] = {}
    done = 0
    for piece in pieces:
        if piece.clip not in growing:
            stack = ExitStack()
            path = folder / f"{piece.clip:03d}.wav"
            dry = path.with_suffix(".dry.wav") if keep_dry else None
            writer = stack.enter_context(audio.Writer(path, sample_rate, peak=peak, through=through_effects, dry=dry))
            growing[piece.clip] = (stack, writer, 0)
        stack, writer, frames = growing[piece.clip]
        writer.write(piece.waveform)
        growing[piece.clip] = (stack, writer, frames + len(piece.latents))
        done += len(piece.waveform)
        if piece.end is not None:
            stack.close()
            if peak is None:
                tell_gain(writer.path, writer.gain, reporter)
            tell_gain(writer.path, writer.through_gain, reporter)
            join = piece.end.join
            made[piece.clip] = common | {
                "index": piece.clip,
                "file": writer.path.name,
                "latent_frames": growing.pop(piece.clip)[2],
                "stopped": piece.end.stopped,
                "seconds": units.samples_to_seconds(writer.samples, sample_rate),
                "join_seconds": None if join is None else units.samples_to_seconds(join, sample_rate),
                "gain": writer.gain,
                "effects_gain": writer.through_gain,
                "dry": None if writer.dry is None else writer.dry.name,
            }
            write_json(writer.path.with_suffix(".json"), made[piece.clip])
        reporter.advance(len(made) if seconds is None else done // sample_rate)
    reporter.end()
    return [made[i] for i in sorted(made)]


def _compile(files: Sequence[str], target: Path, sample_rate: int) -> None:
    """All clips in a row with silence between, from disk to disk."""
    from actseq.inference.generation import GAP_SECONDS

    gap = np.zeros(units.seconds_to_samples(GAP_SECONDS, sample_rate), np.float32)
    with audio.Writer(target, sample_rate) as writer:
        for i, file in enumerate(files):
            if i:
                writer.write(gap)
            for block in audio.blocks(Path(file)):
                writer.write(block)


def _load(path: Path, sample_rate: int, reporter: Reporter) -> Waveform:
    """A file at the model's rate; what was changed is told."""
    waveform, own_rate = audio.load(path)
    waveform, offset = audio.remove_offset(waveform)
    tell_changes(path, offset, own_rate, sample_rate, reporter)
    return waveform if own_rate == sample_rate else audio.resample(waveform, own_rate, sample_rate)


def _unused(folder: Path) -> Path:
    """The folder, or with a number after its name where an earlier call has taken it."""
    names = (folder.with_name(folder.name + suffix) for suffix in ("", *(f"-{k}" for k in range(2, 1000))))
    return next(path for path in names if not path.exists())
