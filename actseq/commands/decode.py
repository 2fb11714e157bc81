"""`decode`: sound from files of encoder activations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from actseq import audio
from actseq.commands.common import AUTO, ONE_THREAD, Compute, TurnedDown, check_written, effects_of, make_folder
from actseq.commands.outputs import Target, claim, effect_files
from actseq.errors import ArtifactError
from actseq.inference.activations import check_activations, decode_activations
from actseq.inference.compression import ENDING, decompress, run_tables
from actseq.inference.loading import load_codec, require_generative, stage_config
from actseq.storage.activations import KINDS, Activations, read_activations
from actseq.storage.artifacts import write_json
from actseq.storage.run_folder import RunFolder


@dataclass(frozen=True)
class DecodeResult:
    """What `decode` has written.

    Attributes:
        run: folder of the run.
        folder: folder of the sounds.
        files: the sounds.
        seconds: length of all sounds together, before effects.
    """

    run: str
    folder: str
    files: list[str]
    seconds: float


def decode(
    run: str | Path,
    paths: Sequence[Path],
    *,
    out: Path,
    keep_dry: bool = False,
    overwrite: bool = False,
    overrides: Iterable[str] = (),
    compute: Compute = AUTO,
) -> DecodeResult:
    """Make sound from files of activations, or folders of them, as `encode` writes them.

    A sound gets the length and level back that it had; a mean that was edited to another number of frames is decoded in
    full. What is not edited becomes what `reconstruct` makes of the sound, byte by byte.

    Args:
        paths: files or folders.
        out: folder for the results; names relative to a given folder are kept.
        keep_dry: also write each result as it is before the effects, as `<name>.dry.wav`.
        overwrite: replace files that actseq made; without it, and for all other files, a file of the same name is an
            error.

    Raises:
        ArtifactError: a file holds no activations, or those of another autoencoder; nothing is written then.
        AudioError: a result would replace a file, two results would have the same name, or a sound cannot be written.
    """
    compute.use_threads(ONE_THREAD)
    reporter, opened = compute.reporter, RunFolder.open(run)
    require_generative(opened)
    config = stage_config(opened, overrides, "generate")
    through = effects_of(config, keep_dry)
    sources = [
        (path, Target(out / relative.with_suffix(".wav"), keep_dry))
        for given in paths
        for path, relative in _inputs(given)
    ]
    given = [*(path for path, _ in sources), *effect_files(config.generate.effects)]
    claim([target for _, target in sources], given, overwrite)
    codec, config = load_codec(opened, compute.device, config)
    common = {
        "run": opened.name,
        "fingerprints": {"autoencoder": opened.trained_autoencoder.fingerprint},
        "vocoder": config.vocoder.model_dump(),
        "effects": [effect.model_dump() for effect in config.generate.effects],
    }
    autoencoder = opened.trained_autoencoder.fingerprint

    def read(path: Path) -> Activations:
        if path.suffix == ENDING:
            return decompress(path, codec, autoencoder, run_tables(opened, make=False))
        return read_activations(path)

    for path, _ in sources:
        check_activations(read(path), codec, autoencoder, str(path))
    reporter.begin("decode", len(sources), unit="files")
    samples, lowered = 0, TurnedDown()
    for done, (path, target) in enumerate(sources, 1):
        make_folder(target.sound.parent)
        with audio.Writer(target.sound, codec.sample_rate, through=through, dry=target.dry) as writer:
            for piece in decode_activations(read(path), codec):
                writer.write(piece)
                samples += len(piece)
        lowered.note(target.sound, writer.gain, writer.through_gain)
        about = {
            "file": target.sound.name,
            "dry": None if target.dry is None else target.dry.name,
            "source": str(path),
            "gain": writer.gain,
            "effects_gain": writer.through_gain,
        }
        write_json(target.about, common | about)
        reporter.advance(done)
    reporter.end()
    lowered.warn(reporter)
    files = [str(target.sound) for _, target in sources]
    check_written(files)
    return DecodeResult(str(opened.path), str(out), files, samples / codec.sample_rate)


def _inputs(given: Path) -> list[tuple[Path, Path]]:
    """The files that a path stands for, each with its name below the path if that is a folder."""
    if not given.is_dir():
        return [(given, Path(given.name))]
    found = sorted(path for path in given.rglob("*") if path.suffix in (*KINDS, ENDING) and path.is_file())
    if not found:
        raise ArtifactError(
            f"{given} holds no file of activations", f"{', '.join((*KINDS, ENDING))}, as actseq encode writes"
        )
    return [(path, path.relative_to(given)) for path in found]
