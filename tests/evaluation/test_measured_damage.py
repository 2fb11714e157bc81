"""Damage of clips that is measured: which part of a clip, with which noise; and the words about it."""

import numpy as np
import pytest

from actseq import audio
from actseq.config import load_preset
from actseq.corruptions.missing import Clipping
from actseq.data.corpus import Corpus, build_corpus
from actseq.data.drumkit import write_drumkit
from actseq.evaluation.damages import without_help
from actseq.evaluation.fidelity import corrupted, other_sound
from actseq.progress import Silent


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("damaged")
    write_drumkit(folder / "kit", n_per_kind=3, sample_rate=8000, seed=0)
    config = load_preset("smoke", ["corpus.sample_rate=8000"]).corpus
    build_corpus(audio.SoundFolder(folder / "kit"), folder / "corpus", config, 0, Silent())
    return Corpus(folder / "corpus", config.level_dbfs)


def test_of_a_long_clip_the_middle_is_damaged(corpus: Corpus) -> None:
    damage, whole = Clipping(8000, level_db=(-6.0, -6.0)), corpus.waveform(0)
    target, given = corrupted(damage, corpus, 0, [], 0, 500)
    begin = (len(whole) - 500) // 2
    np.testing.assert_allclose(target / np.abs(target).max(), _peak(whole[begin : begin + 500]), atol=1e-6)
    assert len(given) == 500
    assert len(corrupted(damage, corpus, 0, [], 0)[0]) == len(whole)
    assert len(corrupted(damage, corpus, 0, [], 0, 10**9)[0]) == len(whole)


def _peak(waveform: np.ndarray) -> np.ndarray:
    return np.asarray(waveform / np.abs(waveform).max())


@pytest.mark.parametrize("samples", [100, 2000, 30000])
def test_noise_is_a_clip_from_a_drawn_place_on_that_begins_again_at_its_end(corpus: Corpus, samples: int) -> None:
    for seed in range(8):
        rng, others = np.random.default_rng(seed), [1, 4, 7]
        sound = corpus.waveform(others[int(rng.integers(3))])
        expected = np.resize(np.roll(sound, -int(rng.integers(len(sound)))), samples)
        np.testing.assert_array_equal(other_sound(corpus, others, samples, np.random.default_rng(seed)), expected)


def test_damage_that_is_no_smaller_afterwards_is_named() -> None:
    found = {"hum": {"before": 3.0, "after": 2.0}, "gaps": {"before": 1.0, "after": 1.25}}
    assert without_help(found) == ["gaps (log-mel distance 1 dB before, 1.2 dB after)"]
