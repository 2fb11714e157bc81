"""`generate`: new clips, each with a JSON that says how it was made."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actseq import audio, units
from actseq.audio.origin import is_made
from actseq.commands.common import AUTO, Compute, Result, check_written, effects_of, make_folder, warn_of_gain
from actseq.commands.outputs import Target, claim, effect_files, numbered, safe_name
from actseq.errors import ConfigError
from actseq.inference.generation import GAP_SECONDS, Piece
from actseq.inference.loaded_run import LoadedRun
from actseq.inference.loading import require_generative
from actseq.inference.request import FromPrior, GenerationRequest
from actseq.progress import Reporter
from actseq.storage.artifacts import write_json
from actseq.storage.run_folder import RunFolder

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
        format: `wav`, `flac` or `aiff`, the ending of the clips.
        bits: bits of a sample, 16 or 24, or 32 for floating point, which keeps levels above full scale.

    Raises:
        ConfigError: the format is another one, or does not have samples of this size.
    """

    folder: Path | None = None
    compile_to: Path | None = None
    keep_dry: bool = False
    overwrite: bool = False
    format: str = "wav"
    bits: int = 16

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ConfigError(f"--format is {self.format}", f"one of {', '.join(FORMATS)}")
        _ = self.subtype

    @property
    def subtype(self) -> str:
        """How the samples of the clips are stored."""
        return audio.subtype(self.format, self.bits)


IN_THE_RUN = Output()


@dataclass(frozen=True)
class GenerationResult:
    """What `generate` has written.

    Attributes:
        run: folder of the run.
        folder: folder of the clips.
        files: the clips.
        seconds: length of all clips together.
        seed: the seed that makes the same clips again.
        compiled: the file with all clips in a row; None where none was requested.
    """

    run: str
    folder: str
    files: list[str]
    seconds: float
    seed: int
    compiled: str | None = None


def generate(
    run: str | Path,
    request: GenerationRequest,
    output: Output = IN_THE_RUN,
    *,
    overrides: Iterable[str] = (),
    compute: Compute = AUTO,
) -> GenerationResult:
    """Write new clips as they grow, each with a JSON: an hour needs no more memory than a minute.

    With effects (`generate.effects`) each clip is held in memory as a whole once it has grown, one at a time.

    Args:
        request: what to generate.
        output: where to write it.

    Raises:
        ConfigError: the request does not fit the run or its prior.
        ArtifactError: something that is needed has not been trained.
        AudioError: a given sound cannot be read, or the clips cannot be written: a file of that name exists.
    """
    compute.use_threads()
    reporter, source = compute.reporter, request.source
    opened = RunFolder.open(run)
    require_generative(opened)
    targets = _claim(opened, request, output, reporter)
    from_prior = isinstance(source, FromPrior)
    loaded = LoadedRun.open(
        opened,
        prior=source.prior if isinstance(source, FromPrior) else None,
        device=compute.device,
        overrides=overrides,
        need_prior=from_prior,
    )
    claim(targets, effect_files(loaded.config.generate.effects), output.overwrite)
    pieces = loaded.stream(request, reporter)
    writer = _ClipWriter(loaded, request, targets, output.subtype)
    length = request.seconds
    if length is None and isinstance(source, FromPrior) and source.redo is None and not request.until_stop:
        length = loaded.config.generate.seconds
    begun = time.perf_counter()
    made = writer.write(pieces, length, reporter)
    elapsed = time.perf_counter() - begun
    endless = sum(not clip["stopped"] for clip in made)
    if endless and length is None:
        bound = writer.common["settings"]["max_seconds"]
        reporter.warn(
            f"{endless} of {request.n} clips had not ended after max_seconds = {bound:g} and were cut "
            "(--seconds sets a length, --max-seconds the bound)"
        )
    files = [str(writer.folder / clip["file"]) for clip in made]
    check_written(files)
    seconds = sum(clip["seconds"] for clip in made)
    reporter.say(f"{seconds:.1f} s of sound in {elapsed:.1f} s")
    compiled = None
    if output.compile_to is not None:
        _compile(files, output.compile_to, loaded.sample_rate, output.subtype)
        made_of = {"file": output.compile_to.name, "clips": files}
        write_json(Target(output.compile_to).about, writer.common | made_of)
        compiled = str(output.compile_to)
    return GenerationResult(str(loaded.run.path), str(writer.folder), files, seconds, request.seed, compiled)


class _ClipWriter:
    """Writes clips into a folder as they grow, each with its JSON once it is whole."""

    def __init__(self, loaded: LoadedRun, request: GenerationRequest, targets: list[Target], subtype: str) -> None:
        self.sample_rate, self.targets, self.folder = loaded.sample_rate, targets, targets[0].sound.parent
        self.subtype = subtype
        self.through = effects_of(loaded.config, targets[0].keep_dry)
        self.peak = loaded.peak(request.source)
        self.common: Result = loaded.provenance(request)

    def write(self, pieces: Iterator[Piece], seconds: float | None, reporter: Reporter) -> list[Result]:
        """Write all clips; what their JSONs hold, in order.

        Args:
            pieces: the growing clips.
            seconds: length of each clip, to show progress; None where it is not known.
            reporter: receives progress, and a warning for each clip that was turned down.
        """
        make_folder(self.folder)
        if seconds is None:
            reporter.begin("generate", self.common["of"], unit="clips")
        else:
            reporter.begin("generate", round(self.common["of"] * seconds), unit="seconds of sound")
        growing: dict[int, tuple[ExitStack, audio.Writer, int]] = {}
        made: dict[int, Result] = {}
        done = 0
        for piece in pieces:
            if piece.clip not in growing:
                growing[piece.clip] = self._begin(piece.clip)
            stack, writer, frames = growing[piece.clip]
            writer.write(piece.waveform)
            growing[piece.clip] = (stack, writer, frames + len(piece.latents))
            done += len(piece.waveform)
            if piece.end is not None:
                stack.close()
                if self.peak is None:
                    warn_of_gain(writer.path, writer.gain, reporter)
                warn_of_gain(writer.path, writer.through_gain, reporter)
                made[piece.clip] = self._describe(piece, writer, growing.pop(piece.clip)[2])
                write_json(self.targets[piece.clip].about, made[piece.clip])
            reporter.advance(len(made) if seconds is None else done // self.sample_rate)
        reporter.end()
        return [made[i] for i in sorted(made)]

    def _begin(self, clip: int) -> tuple[ExitStack, audio.Writer, int]:
        stack, target = ExitStack(), self.targets[clip]
        writer = audio.Writer(
            target.sound, self.sample_rate, self.subtype, peak=self.peak, through=self.through, dry=target.dry
        )
        return stack, stack.enter_context(writer), 0

    def _describe(self, piece: Piece, writer: audio.Writer, latent_frames: int) -> Result:
        """The JSON of a clip that is complete."""
        assert piece.end is not None
        stopped, join, redone = piece.end
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
            "gain": writer.gain,
            "effects_gain": writer.through_gain,
            "dry": None if writer.dry is None else writer.dry.name,
        }


def _claim(run: RunFolder, request: GenerationRequest, output: Output, reporter: Reporter) -> list[Target]:
    """Where the clips go, in order, and then the file of all; what may not be written is an error before loading."""
    folder = output.folder or _unused(run.generated / f"{time.strftime('%Y%m%d-%H%M%S')}-{request.seed}")
    name = safe_name(request.label)
    clips = [Target(folder / f"{one}.{output.format}", output.keep_dry) for one in numbered(name, request.n)]
    compiled = [] if output.compile_to is None else [Target(output.compile_to)]
    for target in compiled:
        audio.check_writable(target.sound, output.subtype)
    sounds = [sound for sound in request.source.sounds if isinstance(sound, Path)]
    claim([*clips, *compiled], sounds, output.overwrite)
    written = {path for target in clips for path in target.files}
    earlier = [
        path for path in sorted(folder.glob(f"{name}-*.{output.format}")) if path not in written and is_made(path)
    ]
    if earlier:
        reporter.warn(
            f"clips of an earlier call stay in {folder}: {', '.join(path.name for path in earlier[:4])}"
            + (f" and {len(earlier) - 4} more" if len(earlier) > 4 else "")
        )
    return [*clips, *compiled]


def _compile(files: Sequence[str], target: Path, sample_rate: int, subtype: str) -> None:
    """Write all clips in a row with silence between them, block by block from disk to disk."""
    gap = np.zeros(units.seconds_to_samples(GAP_SECONDS, sample_rate), np.float32)
    with audio.Writer(target, sample_rate, subtype) as writer:
        for i, file in enumerate(files):
            if i:
                writer.write(gap)
            for block in audio.blocks(Path(file)):
                writer.write(block)


def _unused(folder: Path) -> Path:
    """The folder, or one with a number after its name if the folder already exists."""
    names = (folder.with_name(folder.name + suffix) for suffix in ("", *(f"-{k}" for k in range(2, 1000))))
    return next(path for path in names if not path.exists())
