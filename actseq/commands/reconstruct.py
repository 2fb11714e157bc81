"""`reconstruct`: pass sounds through the encoder and decoder of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from actseq import audio
from actseq.arrays import Waveform
from actseq.commands.common import AUTO, ONE_THREAD, Compute, Result, TurnedDown, check_written, effects_of, make_folder
from actseq.commands.outputs import Target, claim, effect_files
from actseq.data.corpus import level_gain
from actseq.errors import AudioError
from actseq.inference.codec import Codec
from actseq.inference.loaded_run import LoadedRun, report_changes
from actseq.inference.loading import load_codec, stage_config
from actseq.inference.request import Transfer
from actseq.progress import Reporter
from actseq.storage.artifacts import write_json
from actseq.storage.run_folder import RunFolder

T = TypeVar("T")


class Mending(Protocol):
    """What is still done to one reconstructed recording, on its way to its file.

    Attributes:
        about: what the JSON beside the file says of it.
    """

    about: Result

    def push(self, waveform: Waveform) -> Waveform:
        """Take more samples; return those that are now final."""

    def finish(self) -> Waveform:
        """Return the rest."""


def reconstruct(
    run: str | Path | RunFolder,
    paths: Sequence[Path],
    *,
    out: Path,
    transfer: Transfer | None = None,
    keep_dry: bool = False,
    overwrite: bool = False,
    overrides: Iterable[str] = (),
    compute: Compute = AUTO,
) -> Result:
    """Pass files or folders, from the corpus or not, through encoder, decoder and vocoder.

    All files are read once before the first is reconstructed. Each file then passes piece by piece from disk to disk: a
    long file needs as little memory as a short one, unless the context of the network or of the features is unbounded
    or there are effects.

    Args:
        paths: files or folders.
        out: folder for the results; names relative to a given folder are kept.
        transfer: the label whose timbre the sounds are to have; None: their own. What a file becomes does not depend on
            the others.
        keep_dry: also write each result as it is before the effects, as `<name>.dry.wav`.
        overwrite: replace files that actseq made; without it, and for all other files, a file of the same name is an
            error.

    Raises:
        AudioError: a path does not exist, no file can be read, a result would replace a file, or two results would have
            the same name.
        ConfigError: the run cannot give a sound another label, or not this one.
    """
    way = Way(transfer, keep_dry=keep_dry)
    return pass_through(
        RunFolder.open(run), paths, way, out=out, overwrite=overwrite, overrides=overrides, compute=compute
    )


@dataclass(frozen=True)
class Way:
    """How files are reconstructed: in which timbre, with which further step, and with which files beside each result.

    Attributes:
        transfer: as in `reconstruct`.
        mend: begins the further step for one recording; None: there is none.
        keep_dry: as in `reconstruct`.
    """

    transfer: Transfer | None = None
    mend: Callable[[audio.Recording], Mending] | None = None
    keep_dry: bool = False


def pass_through(
    opened: RunFolder,
    paths: Sequence[Path],
    way: Way,
    *,
    out: Path,
    overwrite: bool,
    overrides: Iterable[str],
    compute: Compute,
) -> Result:
    """Reconstruct files, and pass each result through a further step, such as filling gaps.

    Args:
        opened: the run.
        paths: files or folders.
        way: timbre, further step, and files beside each result.
        out: as in `reconstruct`.
        overwrite: as in `reconstruct`.
        overrides: changes of the configuration, `key=value`.
        compute: device, threads and reporter.

    Raises:
        AudioError, ConfigError: as `reconstruct`.
    """
    compute.use_threads(ONE_THREAD)
    reporter = compute.reporter
    overrides, transfer, keep_dry = list(overrides), way.transfer, way.keep_dry
    config = stage_config(opened, overrides, "generate")
    through_effects = effects_of(config, keep_dry)
    jobs = [(path, relative) for given in paths for path, relative in inputs(given)]
    targets = [Target(out / relative.with_suffix(".wav"), keep_dry) for _, relative in jobs]
    claim(targets, [*(path for path, _ in jobs), *effect_files(config.generate.effects)], overwrite)
    if transfer is None:
        codec, config = load_codec(opened, compute.device, config)
        start = codec.reconstruct_stream
        made_by = {"fingerprints": {"autoencoder": opened.trained_autoencoder.fingerprint}}
    else:
        by_decoder = transfer.prior is None and config.autoencoder.condition is not None
        loaded = LoadedRun.open(
            opened, prior=transfer.prior, device=compute.device, overrides=overrides, no_prior=by_decoder
        )
        codec, config = loaded.codec, loaded.config
        start, made_by = partial(loaded.transfer_stream, transfer), loaded.transfer_provenance(transfer)
        start()  # Refuses a label before anything is read.
    sources = [(path, target) for (path, _), target in zip(jobs, targets, strict=True)]
    recordings, failed = measure_all(sources, codec.sample_rate, reporter)
    for recording, _ in recordings:
        codec.require_short(recording.samples, str(recording.path))
    say_memory(codec, reporter)
    total = sum(recording.samples for recording, _ in recordings)
    reporter.begin("reconstruct", total / codec.sample_rate, unit="seconds of sound")
    common = {
        "run": opened.name,
        **made_by,
        "vocoder": config.vocoder.model_dump(),
        "effects": [effect.model_dump() for effect in config.generate.effects],
    }
    files, done, lowered = [], 0, TurnedDown()
    for recording, target in recordings:
        gain = np.float32(level_gain(recording.peak, codec.level_dbfs))
        stream, mending = start(), None if way.mend is None else way.mend(recording)
        make_folder(target.sound.parent)
        with audio.Writer(target.sound, codec.sample_rate, through=through_effects, dry=target.dry) as writer:
            for block in recording.blocks():
                made = np.asarray(stream.push(block * gain) / gain, np.float32)
                writer.write(made if mending is None else mending.push(made))
                done += len(block)
                reporter.advance(done / codec.sample_rate)
            made = np.asarray(stream.finish() / gain, np.float32)
            writer.write(made if mending is None else np.concatenate([mending.push(made), mending.finish()]))
        lowered.note(target.sound, writer.gain, writer.through_gain)
        about = {
            "file": target.sound.name,
            "dry": None if target.dry is None else target.dry.name,
            "source": str(recording.path),
            "gain": writer.gain,
            "effects_gain": writer.through_gain,
        }
        write_json(target.about, common | about | ({} if mending is None else mending.about))
        files.append(str(target.sound))
    reporter.end()
    lowered.warn(reporter)
    check_written(files)
    return {
        "run": str(opened.path),
        "folder": str(out),
        "files": files,
        "skipped": failed,
        "vocoder": common["vocoder"],
        "effects": common["effects"],
    }


def say_memory(codec: Codec, reporter: Reporter) -> None:
    """Say so where sounds are held in memory."""
    if codec.needs_whole_sounds:
        reporter.say("the features depend on the whole of a sound, so each sound is held in memory, one at a time")


def measure_all(
    sources: Sequence[tuple[Path, T]], sample_rate: int, reporter: Reporter
) -> tuple[list[tuple[audio.Recording, T]], list[Result]]:
    """Read every file once, before anything is made; a file that cannot be read is reported and left out.

    Args:
        sources: files, each with something that stays with it.
        sample_rate: sample rate in Hz of the recordings.
        reporter: receives progress, what was changed in reading, and a warning for each file that is left out.

    Returns:
        The recordings, and for each file that was left out its name and the reason.

    Raises:
        AudioError: no file can be read; for a single file the reason.
    """
    reporter.begin("read", len(sources), unit="files")
    recordings, failed, failed_with = [], [], list[AudioError]()
    for i, (path, kept) in enumerate(sources):
        try:
            recording = audio.measure(path, sample_rate)
        except AudioError as error:
            failed.append({"file": str(path), "reason": str(error)})
            failed_with.append(error)
            continue
        report_changes(path, recording.offset, recording.own_rate, sample_rate, reporter)
        recordings.append((recording, kept))
        reporter.advance(i + 1)
    reporter.end()
    if len(failed) == 1 and not recordings:
        raise failed_with[0]
    for reason in failed_with:
        reporter.warn(f"skipped {reason}")
    if not recordings:
        raise AudioError("none of the given files could be read", "files of sound", "the warnings say what each is")
    return recordings, failed


def inputs(given: Path) -> list[tuple[Path, Path]]:
    """The sound files that a path stands for, each with its name below the path if that is a folder.

    Raises:
        AudioError: there is nothing at the path, or no sound in the folder.
    """
    if given.is_dir():
        return [(path, path.relative_to(given)) for path in audio.find(given)]
    if not given.is_file():
        raise AudioError(f"no file or folder {given}", action=audio.similar(given))
    return [(given, Path(given.name))]
