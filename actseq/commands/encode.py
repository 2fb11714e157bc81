"""`encode`: write the encoder activations of sounds, one file a sound."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from actseq import audio
from actseq.commands.common import AUTO, ONE_THREAD, Compute, Result, check_written, make_folder
from actseq.commands.outputs import require_free
from actseq.commands.reconstruct import inputs, measure_all, say_memory
from actseq.errors import ConfigError
from actseq.inference.activations import encode_as_seed, encode_sound
from actseq.inference.compression import ENDING, compress, run_tables
from actseq.inference.loaded_run import read_sound
from actseq.inference.loading import load_codec, require_generative, stage_config
from actseq.progress import SILENT
from actseq.storage.activations import NPZ, SAFETENSORS, write_activations
from actseq.storage.run_folder import RunFolder
from actseq.storage.store import MANIFEST, SequenceStore, write_file


@dataclass(frozen=True)
class EncodeResult:
    """What `encode` has written.

    Attributes:
        run: folder of the run.
        folder: folder of the files.
        files: the files, one a sound.
        frames: number of latent frames in all files.
        skipped: sounds that could not be read, each with the reason.
    """

    run: str
    folder: str
    files: list[str]
    frames: int
    skipped: list[Result] = field(default_factory=list)


def encode(
    run: str | Path,
    paths: Sequence[Path],
    *,
    out: Path,
    as_seed: bool = False,
    npz: bool = False,
    compressed: bool = False,
    compute: Compute = AUTO,
) -> EncodeResult:
    """Write the encoder activations of files or folders, from the corpus or not; `read_activations` reads them.

    All files are read once before the first is encoded. A sound passes piece by piece: a long file needs as little
    memory as a short one, unless the context of the network or of the features is unbounded or `as_seed` is given.

    Args:
        paths: files or folders.
        out: folder for the results; names relative to a given folder are kept.
        as_seed: encode each sound as a recording that is to be continued: mirrored at its end.
        npz: write `.npz` in place of `.safetensors`.
        compressed: write `.acts` in its place: the means alone, rounded and coded, without label.

    Raises:
        ConfigError: the latents of the run do not hold the sound, or a sound is longer than the one vector of a clip
            holds.
        AudioError: a path does not exist, no file can be read, a file of a result's name exists, or two results would
            have the same name.
    """
    compute.use_threads(ONE_THREAD)
    reporter, opened = compute.reporter, RunFolder.open(run)
    require_generative(opened)
    if npz and compressed:
        raise ConfigError("--npz and --compress exclude each other")
    ending = ENDING if compressed else NPZ if npz else SAFETENSORS
    sources = [(path, out / relative.with_suffix(ending)) for given in paths for path, relative in inputs(given)]
    require_free(target for _, target in sources)
    codec, _ = load_codec(opened, compute.device, stage_config(opened, (), "generate"), vocoder=False)
    if as_seed and codec.autoencoder.whole_clips:
        raise ConfigError(
            f"run {opened.name} makes each clip from one vector: it cannot continue a sound",
            action="leave out --as-seed",
        )
    recordings, failed = measure_all(sources, codec.sample_rate, reporter)
    for recording, _ in recordings:
        codec.require_short(recording.samples, str(recording.path))
    say_memory(codec, reporter)
    tables = run_tables(opened, make=True) if compressed else None
    labels, autoencoder = _labels(opened), opened.trained_autoencoder.fingerprint
    total = sum(recording.samples for recording, _ in recordings)
    reporter.begin("encode", total / codec.sample_rate, unit="seconds of sound")
    frames, done = 0, 0
    for recording, target in recordings:
        if as_seed:
            made = encode_as_seed(codec, autoencoder, read_sound(recording.path, codec.sample_rate, SILENT))
        else:
            made = encode_sound(codec, autoencoder, recording.blocks(), recording.samples, recording.peak)
        if tables is None:
            write_activations(target, replace(made, label=labels.get(audio.file_digest(recording.path))))
        else:
            make_folder(target.parent)
            write_file(target, compress(made, tables))
        frames, done = frames + len(made.mean), done + recording.samples
        reporter.advance(done / codec.sample_rate)
    reporter.end()
    check_written(target for _, target in recordings)
    return EncodeResult(str(opened.path), str(out), [str(target) for _, target in recordings], frames, failed)


def _labels(run: RunFolder) -> dict[str, str]:
    """Labels of the corpus by the hash of the file; a file that occurs under several labels has none."""
    found: dict[str, set[str]] = defaultdict(set)
    if (run.corpus / MANIFEST).is_file():
        for record in SequenceStore(run.corpus).records:
            found[str(record.extra["source_sha256"])].add(str(record.extra["label"]))
    return {file: min(labels) for file, labels in found.items() if len(labels) == 1 and labels != {""}}
