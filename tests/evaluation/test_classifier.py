"""The classifier of clips: what it learns from real digits, that it is kept, and when it is made again."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from actseq import audio, build
from actseq.config import load_preset
from actseq.data.corpus import Corpus, build_corpus
from actseq.data.excerpts import excerpts
from actseq.data.features import FeatureBatches
from actseq.errors import ArtifactError
from actseq.evaluation.classifier import (
    GAIN_DB,
    RMS,
    WAYS,
    AugmentedClips,
    Classifier,
    Clips,
    EvaluationBatches,
    trained_classifier,
)
from actseq.inference.codec import Codec
from actseq.progress import Silent
from actseq.storage.run_folder import RunFolder

RATE = 8000
STEPS = 24
LABELS = ["0", "6", "7"]
INPUTS = {"corpus": "a", "autoencoder": "b", "vocoder": "c"}


@pytest.fixture(scope="module")
def corpus(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("digits")
    for label in LABELS:
        (folder / "sounds" / label).mkdir(parents=True)
        for path in sorted((data_dir / "digits_fsdd").rglob(f"{label}_jackson_*.wav"))[:24]:
            (folder / "sounds" / label / path.name).symlink_to(path)
    config = load_preset("smoke", ["corpus.validation=0.25", "corpus.test=0.1"]).corpus
    build_corpus(audio.SoundFolder(folder / "sounds"), folder / "corpus", config, 0, Silent())
    return Corpus(folder / "corpus", config.level_dbfs)


@pytest.fixture(scope="module")
def codec(corpus: Corpus) -> Codec:
    """Its network is what it starts from, the principal components."""
    config = build.complete(load_preset("smoke", ["vocoder.kind=griffin-lim", "vocoder.n_iter=2"]))
    representation = build.build_representation(config)
    torch.manual_seed(0)
    model = build.build_autoencoder(config, representation).eval()
    model.fit(FeatureBatches(corpus, representation, torch.device("cpu")))
    vocoder = build.build_vocoder(config.vocoder, representation)
    return Codec(representation, model, vocoder, corpus.level_dbfs, torch.device("cpu"))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def run(corpus: Corpus, codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """With a classifier of a few steps."""
    made = RunFolder(tmp_path_factory.mktemp("run"))
    made.write_config(load_preset("smoke"), "sounds", None)
    trained_classifier(made, codec, corpus, INPUTS, Silent(), steps=STEPS)
    return made


def weights(run: RunFolder) -> bytes:
    return (run.path / "classifier" / "model.safetensors").read_bytes()


def kept(run: RunFolder, codec: Codec, corpus: Corpus) -> Classifier:
    return trained_classifier(run, codec, corpus, INPUTS, Silent(), steps=STEPS)[0]


def clips_of(corpus: Corpus) -> tuple[list[np.ndarray], list[str]]:
    """Held out, of either split."""
    found = [excerpt for split in ("validation", "test") for excerpt in excerpts(corpus, split, RATE, None)]
    return [excerpt.read(corpus) for excerpt in found], [excerpt.label for excerpt in found]


# -- what it learns ----------------------------------------------------------------------------------------------------


def test_it_hears_digits_through_the_codec_too(run: RunFolder, codec: Codec, corpus: Corpus) -> None:
    model, figures = trained_classifier(run, codec, corpus, INPUTS, Silent(), steps=STEPS)
    assert list(figures) == list(WAYS)
    assert min(figures.values()) >= 0.8
    waveforms, labels = clips_of(corpus)
    for given in (waveforms, codec.reconstruct(waveforms)):
        found = model.classify(given)
        assert found.embedding.shape == (len(labels), 64)
        np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-6)
        hits = [model.labels[k] == label for k, label in zip(found.probabilities.argmax(axis=1), labels, strict=True)]
        assert np.mean(hits) >= 0.8


def test_a_clip_is_classified_as_it_is_alone_and_at_any_level(run: RunFolder, codec: Codec, corpus: Corpus) -> None:
    model = kept(run, codec, corpus)
    waveforms = clips_of(corpus)[0]
    together = model.classify(waveforms)
    for i in (0, 7, len(waveforms) - 1):
        alone = model.classify([100 * waveforms[i]])
        np.testing.assert_allclose(alone.embedding[0], together.embedding[i], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(alone.probabilities[0], together.probabilities[i], atol=1e-3)
    odd = model.classify([np.zeros(900, np.float32), np.ones(1, np.float32)])
    assert np.isfinite(odd.probabilities).all()


# -- what it hears -----------------------------------------------------------------------------------------------------


def test_batches_hold_labels_and_ways_in_equal_share() -> None:
    # Every way is known by its length, every label by its frequency; one label is rare.
    label = np.array([0] * 20 + [1, 1])
    seconds = dict(zip(WAYS, (1000, 3000, 5000), strict=True))
    pitch = (0.1, 0.8)
    ways = {way: [np.sin(pitch[k] * np.arange(n)).astype(np.float32) for k in label] for way, n in seconds.items()}
    source = AugmentedClips(Clips(ways, label), RATE, 0)
    counts: dict[tuple[int, int], int] = {}
    levels = []
    for step in range(8):
        batch = source.batch(step)
        np.testing.assert_array_equal(batch["waveform"], source.batch(step)["waveform"])
        assert batch["waveform"].shape[0] == len(batch["label"]) == 48
        for waveform, n, k in zip(batch["waveform"], batch["lengths"], batch["label"], strict=True):
            assert not waveform[n:].any()
            way = min(range(3), key=lambda i: abs(n - 800 - 2000 * i - 1000))
            assert 0 <= n - (1000, 3000, 5000)[way] < 1600
            counts[k, way] = counts.get((k, way), 0) + 1
            loudest = np.abs(np.fft.rfft(waveform[:n])).argmax() * 2 * np.pi / n
            assert loudest == pytest.approx(pitch[k], abs=0.05)
            levels.append(20 * np.log10(np.sqrt((waveform**2).sum() / (1000, 3000, 5000)[way]) / RMS))
    assert min(counts.values()) > 0.6 * max(counts.values())
    assert len(counts) == 6
    assert min(levels) >= -GAIN_DB - 0.1
    assert max(levels) <= GAIN_DB + 1
    assert np.std(levels) > 2
    assert not np.array_equal(source.batch(0)["label"], AugmentedClips(source.clips, RATE, 1).batch(0)["label"])


@pytest.mark.parametrize(("seconds", "expected"), [(0.1, 48), (1.0, 25), (2.0, 12)])
def test_batches_of_long_clips_are_smaller(seconds: float, expected: int) -> None:
    ways = {way: [np.ones(int(seconds * RATE), np.float32)] for way in WAYS}
    assert len(AugmentedClips(Clips(ways, np.zeros(1, np.int64)), RATE, 0).batch(0)["label"]) == expected


def test_validation_hears_every_clip_once_real_and_once_reconstructed() -> None:
    ways = {way: [np.full(100 + i, 1.0, np.float32) for i in range(7)] for way in WAYS}
    ways["reconstructed"] = [-waveform for waveform in ways["real"]]
    source = EvaluationBatches(Clips(ways, np.arange(7)), 3)
    found = []
    for step in range(3):
        batch = source.batch(step)
        np.testing.assert_array_equal(batch["lengths"], 100 + batch["label"])
        found += [(int(k), bool(row[0] > 0)) for k, row in zip(batch["label"], batch["waveform"], strict=True)]
    assert sorted(found) == [(k, real) for k in range(7) for real in (False, True)]


# -- that it is kept ---------------------------------------------------------------------------------------------------


def test_same_inputs_same_bytes(run: RunFolder, codec: Codec, corpus: Corpus, tmp_path: Path) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    again = RunFolder(tmp_path)
    again.write_config(load_preset("smoke"), "sounds", None)
    trained_classifier(again, codec, corpus, INPUTS, Silent(), steps=STEPS)
    assert weights(again) == weights(run)
    assert torch.equal(torch.get_rng_state(), before)


def test_it_is_made_once_and_again_for_other_inputs(
    run: RunFolder, codec: Codec, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    made, before = RunFolder(tmp_path / "run"), weights(run)
    with monkeypatch.context() as patch:
        patch.setattr("actseq.evaluation.classifier._train", None)
        model = kept(made, codec, corpus)
        assert not model.training
    for inputs, steps in ((INPUTS | {"vocoder": "d"}, 3), (INPUTS | {"vocoder": "d"}, 2)):
        figures = trained_classifier(made, codec, corpus, inputs, Silent(), steps=steps)[1]
        after = weights(made)
        assert after != before
        assert trained_classifier(made, codec, corpus, inputs, Silent(), steps=steps)[1] == figures
        assert weights(made) == after
        before = after


def test_damage_is_found(run: RunFolder, codec: Codec, corpus: Corpus, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    path = tmp_path / "run" / "classifier" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ArtifactError, match="cut short"):
        kept(RunFolder(tmp_path / "run"), codec, corpus)


# -- pieces of the corpus ----------------------------------------------------------------------------------------------


def test_pieces_of_clips(corpus: Corpus) -> None:
    whole = excerpts(corpus, "train", RATE, None)
    records = corpus.store.records
    assert [excerpt.index for excerpt in whole] == corpus.indices("train")
    assert all((excerpt.start, excerpt.stop) == (0, records[excerpt.index].length) for excerpt in whole)
    pieces = excerpts(corpus, "train", RATE, 0.2)
    for excerpt in whole:
        own = [(piece.start, piece.stop) for piece in pieces if piece.index == excerpt.index]
        n = excerpt.samples
        assert own == ([(1600 * k, 1600 * (k + 1)) for k in range(n // 1600)] if n >= 1600 else [(0, n)])
    first = pieces[1]
    np.testing.assert_array_equal(first.read(corpus), corpus.waveform(first.index)[first.start : first.stop])
    assert {piece.label for piece in pieces} == set(LABELS)
