"""Encoder activations as files: written, edited, decoded and continued."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped, unused-ignore]
from actseq_cli.main import main  # type: ignore[import-untyped, unused-ignore]
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import actseq
from actseq import audio, pipeline
from actseq.data.drumkit import write_drumkit
from actseq.errors import ArtifactError, AudioError, ConfigError
from actseq.inference.compression import compress, decompress, run_tables
from actseq.pipeline import Activations, GenerationRequest, Output, read_activations, write_activations

CPU = pipeline.Compute("cpu", 1)
RATE = 8000
HOP, STRIDE = 64, 2
SMALL = [
    f"corpus.sample_rate={RATE}",
    f"representation={{kind: mel, n_fft: 256, hop_length: {HOP}, n_mels: 24}}",
    f"autoencoder.network={{kind: conv, width: 12, inner: 16, blocks: 1, stride: {STRIDE}}}",
    "autoencoder.latent_dim=4",
    "train_ae.steps=3",
    "train_ae.segment_seconds=0.1",
    "prior.network={kind: lstm, width: 8, layers: 1}",
    "prior.head={kind: mixture, n_components: 2}",
    "train_prior.steps=3",
    "train_prior.frames=8",
    "generate.max_seconds=0.3",
]
FLOW = ["prior.network={kind: clip-flow, width: 8, layers: 1, heads: 2, inner: 12, patch: 2, steps: 2}"]
QUICK = ["vocoder={kind: phase, n_turns: 1}"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`sounds` with labels, `run` with two priors, `other` with another autoencoder; hardly trained."""
    made: Path = tmp_path_factory.mktemp("encode")
    write_drumkit(made / "sounds", n_per_kind=2, sample_rate=RATE, seed=0)
    for name, seed in (("run", 0), ("other", 1)):
        overrides = [*SMALL, f"seed={seed}"]
        pipeline.train_ae(made / "sounds", "smoke", run=str(made / name), overrides=overrides, compute=CPU)
    pipeline.extract_latents(made / "run", overrides=["latents.copies=0"], compute=CPU)
    pipeline.train_prior(made / "run", compute=CPU)
    pipeline.train_prior(made / "run", name="flow", overrides=FLOW, compute=CPU)
    return made


def sound(path: Path) -> np.ndarray:
    waveform, rate = soundfile.read(path)
    assert rate == RATE
    return waveform


def encoded(folder: Path, out: Path, *paths: Path, **how: Any) -> list[Path]:
    found = pipeline.encode(folder / "run", paths or [folder / "sounds"], out=out, compute=CPU, **how)
    return [Path(path) for path in found.files]


@pytest.mark.parametrize("npz", [False, True])
def test_what_is_decoded_is_what_is_reconstructed_byte_by_byte(folder: Path, tmp_path: Path, npz: bool) -> None:
    """Every sound, one that is many chunks long, another rate, an offset, and one that is not loud."""
    whole = np.concatenate([sound(path) for path in audio.find(folder / "sounds")])
    audio.write(tmp_path / "in" / "deep" / "long.wav", np.resize(whole, 40 * RATE + 17), RATE)
    audio.write(tmp_path / "in" / "rate.flac", 0.1 * audio.resample(whole.astype(np.float32), RATE, 11025), 11025)
    soundfile.write(tmp_path / "in" / "shifted.wav", 0.2 * whole[: 64 * HOP * STRIDE] + 0.3, RATE)
    inputs = [folder / "sounds", tmp_path / "in"]
    files = encoded(folder, tmp_path / "acts", *inputs, npz=npz)
    ending = ".npz" if npz else ".safetensors"
    expected = [path.relative_to(given).with_suffix(ending) for given in inputs for path in audio.find(given)]
    assert [path.relative_to(tmp_path / "acts") for path in files] == expected
    assert sorted(path for path in (tmp_path / "acts").rglob("*") if path.is_file()) == sorted(files)
    pipeline.decode(folder / "run", [tmp_path / "acts"], out=tmp_path / "decoded", overrides=QUICK, compute=CPU)
    pipeline.reconstruct(folder / "run", inputs, out=tmp_path / "rebuilt", overrides=QUICK, compute=CPU)
    for name in expected:
        one, two = ((tmp_path / way / name).with_suffix(".wav").read_bytes() for way in ("decoded", "rebuilt"))
        assert one == two


def test_a_file_says_what_it_holds(folder: Path, tmp_path: Path) -> None:
    snare = folder / "sounds" / "snare" / "snare-000.wav"
    foreign = tmp_path / "snare" / "mine.wav"
    audio.write(foreign, 0.25 * np.sin(np.arange(1000)), RATE)
    run = actseq.load_run(folder / "run", device="cpu")
    for path, label in ((snare, "snare"), (foreign, None)):
        [file] = encoded(folder, tmp_path / "acts", path)
        waveform = sound(path).astype(np.float32)
        with safe_open(file, "numpy") as opened:
            assert sorted(opened.keys()) == ["log_variance", "mean"]
            header = json.loads(opened.metadata()["actseq"])
            mean = opened.get_tensor("mean")
        assert header == {
            "format": 1,
            "latent_rate": RATE / HOP / STRIDE,
            "sample_rate": RATE,
            "samples": len(waveform),
            "gain": pytest.approx(10 ** (-3 / 20) / np.abs(waveform).max(), rel=1e-6),
            "label": label,
            "autoencoder": run.autoencoder,
        }
        np.testing.assert_array_equal(mean, run.encode(waveform))
        assert read_activations(file).log_variance is not None


def test_the_same_sound_makes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    """Also in another process: the order of keys may depend on it."""
    [first] = encoded(folder, tmp_path / "a", folder / "sounds" / "kick" / "kick-000.wav")
    program = "import sys; from actseq.storage.activations import *; from pathlib import Path\n"
    program += "write_activations(Path(sys.argv[2]), read_activations(Path(sys.argv[1])))"
    again = tmp_path / "again.safetensors"
    subprocess.run([sys.executable, "-c", program, first, again], check=True, timeout=120)
    assert first.read_bytes() == again.read_bytes()


def test_edited_activations_are_decoded_as_they_are(folder: Path, tmp_path: Path) -> None:
    """By a person with safetensors and numpy alone: of another length in full, of the same at the sound's length."""
    [file] = encoded(folder, tmp_path, folder / "sounds" / "tom" / "tom-000.wav")
    run = actseq.load_run(folder / "run", device="cpu")
    arrays = load_file(file)
    with safe_open(file, "numpy") as opened:
        metadata = opened.metadata()
    gain, samples = json.loads(metadata["actseq"])["gain"], json.loads(metadata["actseq"])["samples"]
    edits = {
        "backwards": arrays["mean"][::-1],
        "twice": np.concatenate([arrays["mean"]] * 2),
        "half": arrays["mean"][:9],
    }
    for name, mean in edits.items():
        save_file({"mean": np.ascontiguousarray(mean)}, tmp_path / f"{name}.safetensors", metadata)
    files = [tmp_path / f"{name}.safetensors" for name in edits]
    found = pipeline.decode(folder / "run", files, out=tmp_path / "out", compute=CPU)
    assert found.files == [str(tmp_path / "out" / f"{name}.wav") for name in edits]
    for name, mean in edits.items():
        made = sound(tmp_path / "out" / f"{name}.wav")
        assert len(made) == (samples if name == "backwards" else len(mean) * HOP * STRIDE)
        expected = run.decode(np.ascontiguousarray(mean))[: len(made)] / gain
        expected = expected / max(1.0, np.abs(expected).max())
        # The end of a sound that is cut is synthesised from fewer frames.
        inside = len(made) - 4 * HOP * STRIDE if name == "backwards" else len(made)
        np.testing.assert_allclose(made[:inside], expected[:inside], atol=1.01 / 32768)


@pytest.mark.parametrize("prior", ["default", "flow"])
@pytest.mark.parametrize("samples", [None, 1001, 20 * HOP * STRIDE])
def test_continuing_activations_is_continuing_their_sound(
    folder: Path, tmp_path: Path, prior: str, samples: int | None
) -> None:
    """Encoded as a seed, also where the sound ends with a latent frame."""
    path = tmp_path / "seed.wav"
    audio.write(path, 0.4 * sound(folder / "sounds" / "tom" / "tom-001.wav")[:samples], RATE)
    [latents] = encoded(folder, tmp_path / "acts", path, as_seed=True)
    made = {}
    for name, seed in {"audio": {"seed_audio": path}, "latents": {"seed_latents": latents}}.items():
        request = GenerationRequest.of(2, prior=prior, include_seed=False, seconds=0.2, seed=3, **seed)
        made[name] = pipeline.generate(folder / "run", request, Output(tmp_path / name), compute=CPU).files
    for one, two in zip(made["audio"], made["latents"], strict=True):
        assert Path(one).read_bytes() == Path(two).read_bytes()
    run = actseq.load_run(folder / "run", prior=prior, device="cpu")
    waveform = sound(path).astype(np.float32)
    activations = run.activations(waveform, as_seed=True)
    [one], [two] = (
        run.generate_clips(1, include_seed=False, seconds=0.2, seed=3, **seed)
        for seed in ({"seed_audio": waveform}, {"seed_latents": activations})
    )
    np.testing.assert_array_equal(one.latents, two.latents)
    np.testing.assert_array_equal(one.waveform, two.waveform)


def test_before_the_join_is_the_decoding(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "snare-001.wav"
    audio.write(path, 0.05 * sound(folder / "sounds" / "snare" / path.name), RATE)
    [latents] = encoded(folder, tmp_path / "acts", path)
    # The vocoder works in blocks: of small ones, only the last before the join is changed by what follows.
    blocks = ["vocoder={kind: phase, n_turns: 0, block_frames: 8}"]
    pipeline.decode(folder / "run", [latents], out=tmp_path / "decoded", overrides=blocks, compute=CPU)
    request = GenerationRequest.of(1, seed_latents=latents, seconds=0.2)
    pipeline.generate(folder / "run", request, Output(tmp_path / "new"), overrides=blocks, compute=CPU)
    about = json.loads((tmp_path / "new" / "snare-001-01.json").read_text())
    before, made = sound(tmp_path / "decoded" / "snare-001.wav"), sound(tmp_path / "new" / "snare-001-01.wav")
    assert about["settings"]["seed_latents"] == str(latents)
    assert about["join_seconds"] == len(before) / RATE
    assert len(made) == len(before) + round(0.2 * RATE)
    settled = len(before) - 24 * HOP
    assert settled > RATE // 20
    np.testing.assert_array_equal(made[:settled], before[:settled])
    half = GenerationRequest.of(1, seed_latents=latents, seed_seconds=0.05, seconds=0.1)
    pipeline.generate(folder / "run", half, Output(tmp_path / "half"), compute=CPU)
    assert len(sound(tmp_path / "half" / "snare-001-01.wav")) == round(0.15 * RATE)


def test_activations_in_python(folder: Path, tmp_path: Path) -> None:
    run = actseq.load_run(folder / "run", device="cpu")
    waveform = 0.3 * sound(folder / "sounds" / "hat" / "hat-000.wav").astype(np.float32)
    found = run.activations(waveform)
    np.testing.assert_array_equal(run.decode(found), run.reconstruct(waveform))
    longer = dataclasses.replace(found, mean=np.repeat(found.mean, 2, axis=0), log_variance=None)
    assert len(run.decode(longer)) == len(longer.mean) * HOP * STRIDE
    for ending in (".npz", ".safetensors"):
        write_activations(tmp_path / f"one{ending}", longer)
        again = read_activations(tmp_path / f"one{ending}")
        np.testing.assert_array_equal(again.mean, longer.mean)
        assert dataclasses.replace(again, mean=longer.mean) == longer
    with pytest.raises(AudioError, match="silent"):
        run.activations(np.zeros(800, np.float32))


def test_those_of_another_autoencoder_are_refused(folder: Path, tmp_path: Path) -> None:
    [latents] = encoded(folder, tmp_path / "acts", folder / "sounds" / "hat" / "hat-000.wav")
    with pytest.raises(ArtifactError, match=r"hat-000\.safetensors was encoded by another autoencoder"):
        pipeline.decode(folder / "other", [latents], out=tmp_path / "out", compute=CPU)
    assert not (tmp_path / "out").exists()
    other = pipeline.encode(folder / "other", [folder / "sounds" / "hat"], out=tmp_path / "more", compute=CPU).files
    request = GenerationRequest.of(1, seed_latents=Path(other[0]), seconds=0.1)
    with pytest.raises(ArtifactError, match="was encoded by another autoencoder"):
        pipeline.generate(folder / "run", request, Output(tmp_path / "new"), compute=CPU)
    with pytest.raises(ConfigError, match="exclude each other"):
        GenerationRequest.of(1, seed_latents=latents, seed_audio=folder / "sounds" / "hat" / "hat-000.wav")


def edited(found: Activations, **arrays: np.ndarray) -> dict[str, np.ndarray]:
    return {"mean": found.mean} | arrays


def test_a_file_that_cannot_be_used_is_named(folder: Path, tmp_path: Path) -> None:
    [file] = encoded(folder, tmp_path / "acts", folder / "sounds" / "hat" / "hat-000.wav")
    found = read_activations(file)
    with safe_open(file, "numpy") as opened:
        metadata = opened.metadata()
    header = json.loads(metadata["actseq"])
    short = np.ascontiguousarray(found.mean[:, :3])
    cases: dict[str, tuple[dict[str, np.ndarray], Any, str]] = {
        "plain": (edited(found), None, "has no header of actseq of format 1"),
        "later": (edited(found), header | {"format": 2}, "has no header of actseq of format 1"),
        "less": (edited(found), {k: v for k, v in header.items() if k != "gain"}, "has no usable gain"),
        "text": (edited(found), header | {"samples": "many"}, "has no usable samples \\('many'\\)"),
        "more": (edited(found, extra=short), header, "holds extra, mean; expected mean"),
        "dims": (edited(found, mean=short), header, "has 3 dimensions; expected \\(frames, 4\\)"),
        "flat": (edited(found, mean=found.mean[0].copy()), header, "is float32 of shape \\(4,\\)"),
        "whole": (edited(found, mean=found.mean.astype(np.int32)), header, "is int32"),
        "nan": (edited(found, mean=found.mean * np.float32(np.nan)), header, "values of mean .* are NaN or infinite"),
    }
    for name, (arrays, about, _) in cases.items():
        save_file(arrays, tmp_path / f"{name}.safetensors", None if about is None else {"actseq": json.dumps(about)})
    damaged = {"cut.safetensors": file.read_bytes()[:90], "no.npz": b"no", "seed.wav": b"RIFF"}
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
    words = {f"{name}.safetensors": text for name, (_, _, text) in cases.items()}
    words |= {"cut.safetensors": "is damaged", "no.npz": "is damaged", "seed.wav": "holds no activations"}
    words |= {"none.npz": "cannot be read \\(No such file"}
    for name, text in words.items():
        with pytest.raises(ArtifactError, match=text):
            pipeline.decode(folder / "run", [tmp_path / name], out=tmp_path / "out", compute=CPU)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ArtifactError, match="holds no file of activations"):
        pipeline.decode(folder / "run", [folder / "sounds"], out=tmp_path / "out", compute=CPU)


def test_nothing_is_overwritten(folder: Path, tmp_path: Path) -> None:
    hat = folder / "sounds" / "hat" / "hat-000.wav"
    [file] = encoded(folder, tmp_path, hat)
    before = file.read_bytes()
    with pytest.raises(AudioError, match=f"{file} exists"):
        encoded(folder, tmp_path, hat)
    with pytest.raises(AudioError, match="several results would be written to"):
        encoded(folder, tmp_path / "new", hat, hat.parent / ".." / "hat" / hat.name)
    (tmp_path / "hat-000.wav").write_bytes(b"mine")
    with pytest.raises(AudioError, match=r"hat-000.wav exists"):
        pipeline.decode(folder / "run", [file], out=tmp_path, compute=CPU)
    assert (file.read_bytes(), (tmp_path / "hat-000.wav").read_bytes()) == (before, b"mine")
    with pytest.raises(AudioError, match="--overwrite replaces only files that have a JSON"):
        pipeline.decode(folder / "run", [file], out=tmp_path, overwrite=True, compute=CPU)
    for overwrite in (False, True):
        pipeline.decode(folder / "run", [file], out=tmp_path / "own", overwrite=overwrite, compute=CPU)
    assert not (tmp_path / "new").exists()


def test_compressed_activations_are_rounded_means_in_few_bytes(folder: Path, tmp_path: Path) -> None:
    plain = encoded(folder, tmp_path / "plain")
    small = encoded(folder, tmp_path / "small", compressed=True)
    assert [path.suffix for path in small] == [".acts"] * len(plain)
    run = actseq.load_run(folder / "run", device="cpu")
    tables = run_tables(run.run, make=False)
    for one, two in zip(plain, small, strict=True):
        before, after = read_activations(one), decompress(two, run.codec, run.autoencoder, tables)
        assert np.abs(after.mean - before.mean).max() <= 0.501 * tables.step.max()
        np.testing.assert_allclose(after.mean / tables.step, np.rint(before.mean / tables.step), atol=1e-3)
        assert (after.samples, after.gain, after.autoencoder) == (before.samples, before.gain, before.autoencoder)
        assert two.stat().st_size < 32 + before.mean.nbytes / 4
        assert two.read_bytes() == compress(before, tables)
    found = pipeline.decode(folder / "run", [tmp_path / "small"], out=tmp_path / "out", compute=CPU)
    lengths = [len(sound(Path(path))) for path in found.files]
    assert lengths == [read_activations(path).samples for path in plain]
    # What no training clip has is kept too.
    first = read_activations(plain[0])
    far = dataclasses.replace(first, mean=first.mean + 40 * np.arange(len(first.mean), dtype=np.float32)[:, None])
    (tmp_path / "far.acts").write_bytes(compress(far, tables))
    again = decompress(tmp_path / "far.acts", run.codec, run.autoencoder, tables)
    np.testing.assert_allclose(again.mean / tables.step, np.rint(far.mean / tables.step), atol=0.01)


def test_compressed_files_of_others_and_damaged_ones_are_refused(folder: Path, tmp_path: Path) -> None:
    [file] = encoded(folder, tmp_path / "small", folder / "sounds" / "hat" / "hat-000.wav", compressed=True)
    content = file.read_bytes()
    for name, wrong in {
        "cut": content[:-4],
        "bit": content[:40] + bytes([content[40] ^ 4]) + content[41:],
        "no": b"AC",
    }.items():
        (tmp_path / f"{name}.acts").write_bytes(wrong)
        with pytest.raises(ArtifactError, match=f"{name}.acts is no .acts file of format 1, or is damaged"):
            pipeline.decode(folder / "run", [tmp_path / f"{name}.acts"], out=tmp_path / "out", compute=CPU)
    with pytest.raises(ArtifactError, match="has no tables to decode"):
        pipeline.decode(folder / "other", [file], out=tmp_path / "out", compute=CPU)
    with pytest.raises(ConfigError, match="--npz and --compress exclude each other"):
        encoded(folder, tmp_path / "both", npz=True, compressed=True)


def test_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    hats, acts, out = folder / "sounds" / "hat", tmp_path / "acts", tmp_path / "out"
    (tmp_path / "no.wav").write_text("no sound")

    def call(*words: object) -> dict[str, Any]:
        result = CliRunner().invoke(main, [*map(str, words), "--json", "--device", "cpu", "--threads", "1"])
        assert result.exit_code == 0, result.output
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    found = call("encode", folder / "run", hats, tmp_path / "no.wav", "--out", acts, "--as-seed")
    assert [Path(path).name for path in found["files"]] == ["hat-000.safetensors", "hat-001.safetensors"]
    assert [Path(one["file"]).name for one in found["skipped"]] == ["no.wav"]
    found = call("decode", folder / "run", acts, "--out", out, "--effect", "gain:gain_db=-3", "--keep-dry")
    assert sorted(path.name for path in out.iterdir()) == [
        name for one in ("000", "001") for name in (f"hat-{one}.dry.wav", f"hat-{one}.json", f"hat-{one}.wav")
    ]
    seed = acts / "hat-000.safetensors"
    made = call("generate", folder / "run", "--prior", "flow", "--seed-latents", seed, "--out", tmp_path / "new")
    assert len(made["files"]) == 1
    refused = CliRunner().invoke(main, ["generate", str(folder / "run"), "--seed-latents", "a", "--vary", "b"])
    assert refused.exit_code == 1
    assert "--seed-latents and --vary exclude each other" in refused.output
