"""The preset `harmonic-vae` from sounds to sound, at its smallest: what is stored, held in memory, and refused."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from actseq import audio, pipeline
from actseq.data.corpus import Corpus
from actseq.errors import ConfigError
from actseq.exports import onnx, torchscript
from actseq.inference.loaded_run import LoadedRun
from actseq.progress import Silent
from actseq.storage.store import SequenceStore

RATE = 8000
SMALL = [
    f"corpus.sample_rate={RATE}",
    "corpus.segment_seconds=0.25",
    "representation={kind: harmonic, n_fft: 256, hop_length: 64, bands: 24, shares: 6, f_min: 100}",
    "autoencoder.network={kind: conv, width: 12, inner: 16, blocks: 1, stride: 4}",
    "autoencoder.latent_dim=4",
    "train_ae.steps=4",
    "train_ae.validations=1",
    "train_ae.validation_batches=1",
    "train_ae.batch_size=4",
    "train_prior.steps=2",
    "train_prior.batch_size=2",
    "prior.network.width=12",
    "latents.copies=1",
]


class Saying(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`sounds`, notes in noise; `run`."""
    folder: Path = tmp_path_factory.mktemp("harmonic")
    threads = torch.get_num_threads()
    rng = np.random.default_rng(0)
    for number in range(10):
        t = np.arange(RATE // 2 + 100 * number) / RATE
        note = sum(np.sin(2 * np.pi * k * (150 + 20 * number) * t) / k for k in range(1, 9))
        waveform = 0.2 * note * np.exp(-2 * t) + 0.005 * rng.standard_normal(len(t))
        audio.write(folder / "sounds" / f"note-{number}.wav", waveform, RATE)
    pipeline.run_all(
        folder / "sounds", "harmonic-vae", run=str(folder / "run"), overrides=SMALL, compute=pipeline.Compute("cpu", 1)
    )
    yield folder
    torch.set_num_threads(threads)


def test_features_are_stored_once(made: Path) -> None:
    run = LoadedRun.open(made / "run", device="cpu")
    corpus, store = Corpus(made / "run" / "corpus", run.config.corpus.level_dbfs), SequenceStore(made / "run/features")
    assert len(store) == len(corpus)
    waveform = torch.from_numpy(corpus.waveform(0))[None]
    values = run.codec.representation.analyse(waveform, torch.tensor([waveform.shape[1]])).values[0].T
    np.testing.assert_allclose(store.read(0), values.numpy(), atol=1e-5)


def test_a_reconstruction_holds_the_sound_in_memory_and_says_so(made: Path) -> None:
    reporter = Saying()
    sound = next(iter(audio.find(made / "sounds")))
    out = made / "out"
    pipeline.reconstruct(made / "run", [sound], out=out, compute=pipeline.Compute("cpu", 1, reporter))
    assert any("held in memory" in text for text in reporter.said)
    made_of, rate = audio.load(out / sound.name, RATE)
    assert len(made_of) == len(audio.load(sound, RATE)[0])
    assert rate == RATE


def test_pieces_of_a_sound_make_no_difference(made: Path) -> None:
    codec = LoadedRun.open(made / "run", device="cpu").codec
    waveform = audio.load(next(iter(audio.find(made / "sounds"))), RATE)[0]
    whole = codec.reconstruct([waveform])[0]
    for size in (100, 1501):
        stream = codec.reconstruct_stream()
        pieces = [stream.push(waveform[i : i + size]) for i in range(0, len(waveform), size)]
        assert not any(len(piece) for piece in pieces)
        np.testing.assert_array_equal(np.concatenate([*pieces, stream.finish()]), whole)


def test_new_sounds_are_made(made: Path) -> None:
    clip = LoadedRun.open(made / "run", device="cpu").generate(1, seconds=0.4, seed=0)[0]
    assert np.isfinite(clip).all()
    assert np.abs(clip).max() > 0


@pytest.mark.parametrize("check", [onnx.graphs_of, torchscript.check])
def test_an_export_refuses_it_by_name(made: Path, check: Callable[[LoadedRun], object]) -> None:
    with pytest.raises(ConfigError, match="representation harmonic cannot be exported"):
        check(LoadedRun.open(made / "run", device="cpu"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("train_ae.speed=0.1", "stored_features with speed 0.1"),
        ("train_ae.objective.magnitude_weight=1", "magnitude_weight is 1"),
        ("autoencoder.network.kind=clip", "clip with representation harmonic"),
    ],
)
def test_what_does_not_fit_is_refused(made: Path, tmp_path: Path, given: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        pipeline.train_ae(
            made / "sounds",
            "harmonic-vae",
            run=str(tmp_path / "other"),
            overrides=[*SMALL, given],
            compute=pipeline.Compute("cpu", 1),
        )
