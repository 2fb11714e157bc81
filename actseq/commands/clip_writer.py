"""Clips on their way into files as they grow, each with a JSON that says how it was made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from actseq import audio, units
from actseq.commands.common import Result, TurnedDown, effects_of, make_folder
from actseq.commands.outputs import Target
from actseq.effects import Process
from actseq.errors import ConfigError
from actseq.inference.generation import Piece
from actseq.inference.loaded_run import LoadedRun
from actseq.inference.request import GenerationRequest
from actseq.progress import Reporter
from actseq.storage.artifacts import write_json

FORMATS = ("wav", "flac", "aiff")


@dataclass(frozen=True)
class Output:
    """Where new clips are written.

    Attributes:
        folder: folder for the clips; None: `generated/<time>-<seed>` in the run.
        compile_to: also write all clips in a row to this file.
        keep_dry: also write each clip as it is before the effects, as `snare-01.dry.wav`.
        overwrite: replace clips that actseq made, in `folder` and at `compile_to`; without it, and for all other files,
            a file of the same name is an error.
        kit: new or empty folder for a kit of all labels, or of the label of the request: sounds for a sampler, each
            trimmed, faded and at one peak, with `kit.sfz` and `kit.dspreset`; in place of `folder`.
        format: `wav`, `flac` or `aiff`, the ending of the clips.
        bits: bits of a sample, 16 or 24, or 32 for floating point, which keeps levels above full scale; None: 16, and
            24 in a kit.

    Raises:
        ConfigError: the format is another one, or does not have samples of this size; or `kit` is given with `folder`
            or `compile_to`.
    """

    folder: Path | None = None
    compile_to: Path | None = None
    keep_dry: bool = False
    overwrite: bool = False
    kit: Path | None = None
    format: str = "wav"
    bits: int | None = None

    def __post_init__(self) -> None:
        other = "--out" if self.folder is not None else "--compile" if self.compile_to is not None else None
        if self.kit is not None and other is not None:
            raise ConfigError(f"--kit and {other} exclude each other", action=f"leave {other} out")
        if self.format not in FORMATS:
            raise ConfigError(f"--format is {self.format}", f"one of {', '.join(FORMATS)}")
        _ = self.subtype

    @property
    def subtype(self) -> str:
        """How the samples of the clips are stored."""
        usual = 16 if self.kit is None else 24
        return audio.subtype(self.format, usual if self.bits is None else self.bits)


IN_THE_RUN = Output()


@dataclass(frozen=True)
class Batch:
    """Clips that are made together.

    Attributes:
        request: what is made.
        targets: where the clips go, in order.
        finish: applied to each clip after the effects; None: nothing.
        about: what else the JSON of each clip says.
    """

    request: GenerationRequest
    targets: list[Target]
    finish: Process | None = None
    about: Result = field(default_factory=dict)


class Growth:
    """Progress of all clips of a call, which several writers may write.

    Args:
        clips: number of clips.
        seconds: length of each clip; None where it is not known, then clips are counted.
        reporter: who is told.
    """

    def __init__(self, clips: int, seconds: float | None, reporter: Reporter) -> None:
        self.counts_clips, self.reporter, self.done = seconds is None, reporter, 0.0
        self.total = clips if seconds is None else clips * seconds
        reporter.begin("generate", self.total, unit="clips" if seconds is None else "seconds of sound")

    def add(self, seconds: float, whole: bool) -> None:
        """Some seconds of a clip are written; `whole` says that they are its last."""
        self.done += float(whole) if self.counts_clips else seconds
        if self.done > self.total:
            # The sound that is continued counts too.
            self.total = self.done
            self.reporter.resize(self.total)
        self.reporter.advance(self.done)


class ClipWriter:
    """Writes clips into a folder as they grow, each with its JSON once it is whole."""

    def __init__(self, loaded: LoadedRun, batch: Batch, output: Output) -> None:
        request, self.targets, self.subtype = batch.request, batch.targets, output.subtype
        self.loop = request.loop
        self.sample_rate = loaded.sample_rate
        self.through = _both(effects_of(loaded.config, output.keep_dry), batch.finish)
        self.peak = loaded.peak(request.source)
        self.common: Result = loaded.provenance(request) | batch.about

    def write(self, pieces: Iterator[Piece], growth: Growth) -> list[Result]:
        """Write all clips; what their JSONs hold, in order.

        Args:
            pieces: the growing clips.
            growth: receives progress, and a warning if clips were turned down.
        """
        make_folder(self.targets[0].sound.parent)
        growing: dict[int, tuple[ExitStack, audio.Writer, int]] = {}
        made: dict[int, Result] = {}
        lowered = TurnedDown()
        for piece in pieces:
            if piece.clip not in growing:
                growing[piece.clip] = self._begin(piece.clip)
            stack, writer, frames = growing[piece.clip]
            writer.write(piece.waveform)
            growing[piece.clip] = (stack, writer, frames + len(piece.latents))
            if piece.end is not None:
                stack.close()
                lowered.note(writer.path, writer.gain if self.peak is None else 1.0, writer.through_gain)
                made[piece.clip] = self._describe(piece, writer, growing.pop(piece.clip)[2])
                write_json(self.targets[piece.clip].about, made[piece.clip])
            growth.add(len(piece.waveform) / self.sample_rate, whole=piece.end is not None)
        lowered.warn(growth.reporter)
        return [made[i] for i in sorted(made)]

    def _begin(self, clip: int) -> tuple[ExitStack, audio.Writer, int]:
        stack, target = ExitStack(), self.targets[clip]
        writer = audio.Writer(
            target.sound,
            self.sample_rate,
            self.subtype,
            peak=self.peak,
            through=self.through,
            dry=target.dry,
            loop=self.loop,
        )
        return stack, stack.enter_context(writer), 0

    def _describe(self, piece: Piece, writer: audio.Writer, latent_frames: int) -> Result:
        """The JSON of a clip that is complete."""
        assert piece.end is not None
        stopped, join, redone, spans = piece.end
        return self.common | {
            "index": piece.clip,
            "file": writer.path.name,
            "latent_frames": latent_frames,
            "stopped": stopped,
            "seconds": units.samples_to_seconds(writer.samples, self.sample_rate),
            "join_seconds": None if join is None else units.samples_to_seconds(join, self.sample_rate),
            "redone_seconds": None
            if redone is None
            else [units.samples_to_seconds(at, self.sample_rate) for at in redone],
            "spans": None
            if spans is None
            else [{"start": one.begin, "end": one.last, "label": one.label} for one in spans],
            "gain": writer.gain,
            "effects_gain": writer.through_gain,
            "dry": None if writer.dry is None else writer.dry.name,
        }


def _both(first: Process | None, second: Process | None) -> Process | None:
    """Two functions in a row; either may be missing."""
    if first is None or second is None:
        return first or second
    return lambda waveform: second(first(waveform))
