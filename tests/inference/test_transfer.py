"""Another label for a sound: by a decoder that is given the label, by a prior, piece by piece, and what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped, unused-ignore]
import torch

import actseq
from actseq import audio, pipeline
from actseq.data.drumkit import write_drumkit
from actseq.errors import ConfigError
from actseq.inference.loaded_run import LoadedRun
from actseq.inference.request import Transfer
from actseq.priors.transfer import Part, TransferStream

CPU = pipeline.Compute("cpu", 1)
RATE = 8000
FLOW = [
    "train_ae.steps=2",
    "train_prior.steps=2",
    *(f"prior.network.{text}" for text in ("kind=clip-flow", "width=16", "layers=1", "heads=2", "inner=24", "steps=2")),
    "prior.network.summary=3",
    "train_prior.frames=8",
]
CLIP = [
    f"corpus.sample_rate={RATE}",
    "train_ae.steps=4",
    "train_ae.validations=1",
    "train_ae.validation_batches=1",
    "train_ae.batch_size=4",
    "representation={kind: mel, n_fft: 256, hop_length: 64, n_mels: 24}",
    "autoencoder.network={kind: clip, seconds: 0.5, width: 4, levels: 2}",
    "autoencoder.latent_dim=4",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`sounds` with labels; `clip`, whose decoder is given the label; `flow` with a prior that can, `lstm` with one
    that cannot, and `bare` without a prior."""
    made: Path = tmp_path_factory.mktemp("transfer")
    threads = torch.get_num_threads()
    write_drumkit(made / "sounds", n_per_kind=3, sample_rate=RATE, seed=0)
    for path in audio.find(made / "sounds"):
        audio.write(path, soundfile.read(path)[0][: RATE // 3], RATE)
    pipeline.train_ae(made / "sounds", "oneshot-vae", run=str(made / "clip"), overrides=CLIP, compute=CPU)
    pipeline.run_all(made / "sounds", "smoke", run=str(made / "flow"), overrides=FLOW, compute=CPU)
    quick = ["train_ae.steps=2", "train_prior.steps=2"]
    pipeline.run_all(made / "sounds", "smoke", run=str(made / "lstm"), overrides=quick, compute=CPU)
    pipeline.train_ae(made / "sounds", "smoke", run=str(made / "bare"), overrides=quick[:1], compute=CPU)
    yield made
    torch.set_num_threads(threads)


def sound(samples: int = RATE // 3) -> np.ndarray:
    at = np.arange(samples)
    return (0.2 * np.sin(0.2 * at) * np.exp(-at / RATE) + 0.01 * np.cos(0.9 * at)).astype(np.float32)


# -- a decoder that is given the label -------------------------------------------------------------------------------


def test_a_decoder_is_given_the_label_and_the_encoder_is_not(folder: Path) -> None:
    run = actseq.load_run(folder / "clip", device="cpu")
    plain, kick, snare = (run.reconstruct(sound(), label) for label in (None, "kick", "snare"))
    assert np.abs(kick - snare).max() > 1e-5
    assert np.abs(kick - plain).max() > 1e-5
    row = run.codec.autoencoder.labels.index("kick") + 1
    gain = np.float32(10 ** (-3 / 20) / np.abs(sound()).max())
    latents = run.codec.encode([sound() * gain])[0][0]
    decoder = run.codec.decode_stream(len(sound()), row)
    expected = np.concatenate([decoder.push(latents), decoder.finish()])[: len(sound())] / gain
    np.testing.assert_allclose(kick, expected, atol=1e-5)


def test_the_json_says_which_label(folder: Path, tmp_path: Path) -> None:
    audio.write(tmp_path / "a.wav", sound(), RATE)
    wanted = Transfer("kick")
    pipeline.reconstruct(folder / "clip", [tmp_path / "a.wav"], out=tmp_path / "out", transfer=wanted, compute=CPU)
    about = json.loads((tmp_path / "out" / "a.json").read_text())
    settings = {"label": "kick", "prior": None, "amount": None, "seed": None}
    assert {name: about[name] for name in settings} == settings
    assert set(about["fingerprints"]) == {"autoencoder"}
    made = soundfile.read(tmp_path / "out" / "a.wav")[0]
    expected = actseq.load_run(folder / "clip", device="cpu").reconstruct(audio.load(tmp_path / "a.wav")[0], "kick")
    np.testing.assert_allclose(made, expected, atol=1.01 / 32768)
    pipeline.reconstruct(folder / "clip", [tmp_path / "a.wav"], out=tmp_path / "plain", compute=CPU)
    assert "label" not in json.loads((tmp_path / "plain" / "a.json").read_text())


# -- a prior ---------------------------------------------------------------------------------------------------------


def test_without_an_amount_nothing_changes(folder: Path) -> None:
    run = actseq.load_run(folder / "flow", device="cpu")
    waveform = sound(3 * RATE)
    np.testing.assert_array_equal(run.reconstruct(waveform, "kick", amount=0.0), run.reconstruct(waveform))


def others(run: LoadedRun, waveform: np.ndarray, *seeds: int) -> list[str]:
    """Labels that a sound does not have already, by any of some seeds."""
    plain = run.reconstruct(waveform)
    changing = [
        {label for label in run.labels if np.abs(run.reconstruct(waveform, label, seed=seed) - plain).max() > 1e-6}
        for seed in seeds
    ]
    assert all(len(found) >= len(run.labels) - 1 for found in changing)
    return sorted(set.intersection(*changing))


def test_the_label_the_amount_and_the_seed_count(folder: Path) -> None:
    run, waveform = actseq.load_run(folder / "flow", device="cpu"), sound(RATE)
    first, second = others(run, waveform, 1, 2)[:2]
    made = run.reconstruct(waveform, first, amount=0.6, seed=1)
    assert made.shape == waveform.shape
    np.testing.assert_array_equal(made, run.reconstruct(waveform, first, amount=0.6, seed=1))
    assert np.abs(made - run.reconstruct(waveform, second, amount=0.6, seed=1)).max() > 1e-6
    assert np.abs(made - run.reconstruct(waveform, first, amount=0.6, seed=2)).max() > 1e-6


def test_a_long_sound_is_changed_window_after_window(folder: Path) -> None:
    run, waveform = actseq.load_run(folder / "flow", device="cpu"), sound(2 * RATE + 3)
    label = others(run, waveform, 3)[0]
    wanted, whole = Transfer(label, amount=0.6, seed=3), run.reconstruct(waveform, label, amount=0.6, seed=3)
    assert np.abs(whole - run.reconstruct(waveform)).max() > 1e-6
    gain = np.float32(
        run.config.corpus.level_dbfs and 10 ** (run.config.corpus.level_dbfs / 20) / np.abs(waveform).max()
    )
    for size in (150, 7777):
        stream = run.transfer_stream(wanted)
        pieces = [stream.push(waveform[at : at + size] * gain) for at in range(0, len(waveform), size)]
        np.testing.assert_array_equal(np.concatenate([*pieces, stream.finish()]) / gain, whole)
    other = waveform.copy()
    other[-RATE // 2 :] = 0
    # Windows of eight frames of 256 samples, and what the encoder and the decoder see around a frame.
    same = run.reconstruct(other, label, amount=0.6, seed=3)
    np.testing.assert_array_equal(same[: RATE // 2], whole[: RATE // 2])


def test_windows_overlap_by_half_and_only_the_last_one_ends() -> None:
    for frames, total in ((8, 30), (8, 8), (8, 9), (7, 20), (2, 5), (8, 1)):
        source = torch.arange(total, dtype=torch.float32)[:, None]
        parts: list[Part] = []

        def change(part: Part, parts: list[Part] = parts) -> torch.Tensor:
            parts.append(part)
            return part.latents[len(part.changed) :] + 100

        for size in (1, 3, total):
            parts.clear()
            stream = TransferStream(change, frames, torch.zeros(0, 1))
            pieces = [stream.push(source[at : at + size].numpy()) for at in range(0, total, size)]
            made = np.concatenate([*pieces, stream.finish()])
            np.testing.assert_array_equal(made, source.numpy() + 100)
            assert [part.ends for part in parts] == [*[False] * (len(parts) - 1), True]
            assert [part.number for part in parts] == list(range(1, len(parts) + 1))
            assert [len(part.changed) for part in parts] == [0, *[frames // 2] * (len(parts) - 1)]
            for part in parts:
                np.testing.assert_array_equal(part.changed, part.latents[: len(part.changed)] + 100)
            assert all(len(part.latents) == frames for part in parts[:-1])
            assert len(parts) == (1 if total <= frames else 1 + -(-(total - frames) // (frames - frames // 2)))


def test_nothing_in_and_nothing_out() -> None:
    stream = TransferStream(lambda part: part.latents, 4, torch.zeros(0, 2))
    assert stream.push(np.zeros((0, 2), np.float32)).shape == stream.finish().shape == (0, 2)


def test_the_json_names_the_prior(folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        audio.write(tmp_path / f"{name}.wav", sound(), RATE)
    wanted = Transfer("kick", amount=0.5, seed=4)
    out = tmp_path / "out"
    pipeline.reconstruct(folder / "flow", [tmp_path], out=out, transfer=wanted, compute=CPU)
    about = json.loads((out / "a.json").read_text())
    settings = {"label": "kick", "prior": "default", "amount": 0.5, "seed": 4}
    assert {name: about[name] for name in settings} == settings
    assert set(about["fingerprints"]) == {"autoencoder", "prior"}
    # What a file becomes does not depend on those beside it.
    assert (out / "a.wav").read_bytes() == (out / "b.wav").read_bytes()


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "settings", "expected"),
    [
        ("clip", {"label": "gong"}, r"no label 'gong'"),
        ("clip", {"label": "kick:snare"}, r"is a glide; expected one label"),
        ("clip", {"label": "kick", "amount": 0.5}, r"--amount: the decoder of run clip is given the label"),
        ("clip", {"label": "kick", "seed": 0}, r"--seed: the decoder of run clip is given the label.*leave out --seed"),
        ("flow", {"label": "gong"}, r"no label 'gong'"),
        ("flow", {"label": "kick", "amount": 1.1}, r"--amount is 1.1; expected a number from 0 to 1"),
        ("flow", {"label": "kick", "prior": "other"}, r"prior default is loaded, not other"),
        ("lstm", {"label": "kick"}, r"prior default cannot.*a prior of kind clip-flow.*actseq train-prior .*lstm"),
        ("bare", {"label": "kick"}, r"run bare cannot give.*its decoder is not given the label.*kind=clip-flow"),
    ],
)
def test_what_a_run_cannot_do_is_refused(folder: Path, run: str, settings: dict[str, object], expected: str) -> None:
    loaded = actseq.load_run(folder / run, device="cpu")
    with pytest.raises(ConfigError, match=expected):
        loaded.reconstruct(sound(), **settings)  # type: ignore[arg-type]


def test_a_run_with_skip_connections_is_refused(folder: Path, tmp_path: Path) -> None:
    given = ["train_ae.steps=1", "train_ae.targets=[kick]", "corpus.sample_rate=8000", "train_ae.batch_size=2"]
    pipeline.train_ae(folder / "sounds", "restore", run=str(tmp_path / "run"), overrides=given, compute=CPU)
    with pytest.raises(ConfigError, match="skip connections"):
        LoadedRun.open(tmp_path / "run", device="cpu").reconstruct(sound(), "kick")
