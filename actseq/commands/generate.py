"""`generate`: new clips, each with a JSON that says how it was made."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actseq import audio, units
from actseq.audio.origin import is_made, safe_name
from actseq.commands import kit
from actseq.commands.clip_writer import IN_THE_RUN, Batch, ClipWriter, Growth, Output
from actseq.commands.common import AUTO, ONE_THREAD, Compute, Result, check_written
from actseq.commands.outputs import Target, claim, effect_files, numbered
from actseq.config import Config
from actseq.errors import ConfigError
from actseq.inference.generation import GAP_SECONDS
from actseq.inference.loaded_run import LoadedRun
from actseq.inference.loading import require_generative
from actseq.inference.request import FromPrior, GenerationRequest
from actseq.progress import Reporter
from actseq.storage.artifacts import write_json
from actseq.storage.run_folder import RunFolder


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
        keys: of a kit, the key of each label; None without a kit.
    """

    run: str
    folder: str
    files: list[str]
    seconds: float
    seed: int
    compiled: str | None = None
    keys: dict[str, int] | None = None


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
    compute.use_threads(ONE_THREAD)
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
        no_prior=not from_prior,
    )
    if request.loop:
        _check_loop(output, loaded.config)
    batches = [Batch(request, targets)] if output.kit is None else kit.batches(loaded, request, output)
    written = [target for batch in batches for target in batch.targets]
    claim(written, effect_files(loaded.config.generate.effects), output.overwrite)
    writers = [ClipWriter(loaded, batch, output) for batch in batches]
    length = loaded.length_of(request)
    begun = time.perf_counter()
    growth = Growth(sum(batch.request.n for batch in batches), length, reporter)
    made = [
        clip
        for writer, batch in zip(writers, batches, strict=True)
        for clip in writer.write(loaded.stream(batch.request, reporter), growth)
    ]
    reporter.end()
    elapsed = time.perf_counter() - begun
    if length is None and request.labels is None:
        _warn_of_endless(made, loaded, reporter)
    folder = written[0].sound.parent
    files = [str(folder / clip["file"]) for clip in made]
    check_written(files)
    seconds = sum(clip["seconds"] for clip in made)
    reporter.say(f"{seconds:.1f} s of sound in {elapsed:.1f} s")
    compiled = None
    if output.compile_to is not None:
        _compile(files, output.compile_to, loaded.sample_rate, output.subtype)
        made_of = {"file": output.compile_to.name, "clips": files}
        write_json(Target(output.compile_to).about, writers[0].common | made_of)
        compiled = str(output.compile_to)
    keys = None if output.kit is None else kit.write_maps(output.kit, batches)
    return GenerationResult(str(loaded.run.path), str(folder), files, seconds, request.seed, compiled, keys)


def _claim(run: RunFolder, request: GenerationRequest, output: Output, reporter: Reporter) -> list[Target]:
    """Where the clips go, in order, and then the file of all; what may not be written is an error before loading."""
    if output.kit is not None:
        kit.require_empty(output.kit)
        return []
    folder = output.folder or _unused(run.generated / f"{time.strftime('%Y%m%d-%H%M%S')}-{request.seed}")
    name = safe_name(request.called)
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


def _warn_of_endless(made: Sequence[Result], loaded: LoadedRun, reporter: Reporter) -> None:
    """Say how many clips were cut because the prior had not ended them."""
    endless = sum(not clip["stopped"] for clip in made)
    if endless and loaded.codec.autoencoder.whole_clips:
        longest = loaded.codec.samples_per_latent / loaded.sample_rate
        reporter.warn(
            f"{endless} of {len(made)} clips are still audible at their end, after the {longest:.2f} s that this run "
            "makes from a vector (autoencoder.network.seconds)"
        )
    elif endless:
        bound = made[0]["settings"]["max_seconds"]
        reporter.warn(
            f"{endless} of {len(made)} clips had not ended after max_seconds = {bound:g} and were cut "
            "(--seconds sets a length, --max-seconds the bound)"
        )


def _check_loop(output: Output, config: Config) -> None:
    """Refuse what a cycle cannot be.

    Raises:
        ConfigError: another format than WAV, a kit, or effects.
    """
    if output.format != "wav":
        raise ConfigError(f"--loop with --format {output.format}", "wav, which holds the points of a loop")
    if output.kit is not None:
        raise ConfigError("--loop and --kit exclude each other: the sounds of a kit are played once")
    if config.generate.effects:
        raise ConfigError(
            "--loop with effects: their beginning and tail would open the cycle",
            action="leave them out (--set generate.effects=[])",
        )


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
