"""What is measured, against one clip at a time and closed forms; and what is kept of it."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from scipy.optimize import brentq

from actseq import audio, build
from actseq.autoencoders.base import Posterior
from actseq.config import load_preset
from actseq.data.corpus import Corpus, build_corpus
from actseq.data.drumkit import write_drumkit
from actseq.data.excerpts import spread
from actseq.data.features import FeatureBatches
from actseq.evaluation import fidelity, metrics, sounds
from actseq.evaluation.fidelity import ShownClip, choose_clips, water_level
from actseq.evaluation.tables import MEASURES, tables
from actseq.inference.codec import Codec
from actseq.progress import Silent

RATE = 8000
HOSTILE = "<script>alert(1)</script>/\"'&amp; %22.wav"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("kit")
    write_drumkit(folder / "sounds", n_per_kind=10, sample_rate=RATE)
    config = load_preset("smoke").corpus
    build_corpus(audio.SoundFolder(folder / "sounds"), folder / "corpus", config, 0, Silent())
    return Corpus(folder / "corpus", config.level_dbfs)


def codec_of(corpus: Corpus, *overrides: str) -> Codec:
    """A codec whose network is what it starts from, the principal components, with a posterior's spread."""
    config = build.complete(load_preset("smoke", ["vocoder.kind=griffin-lim", "vocoder.n_iter=2", *overrides]))
    representation = build.build_representation(config)
    torch.manual_seed(0)
    model = build.build_autoencoder(config, representation).eval()
    model.fit(FeatureBatches(corpus, representation, torch.device("cpu")))
    vocoder = build.build_vocoder(config.vocoder, representation)
    return Codec(representation, model, vocoder, corpus.level_dbfs, torch.device("cpu"))


@pytest.fixture(scope="module")
def codec(corpus: Corpus) -> Codec:
    return codec_of(corpus)


# -- rate --------------------------------------------------------------------------------------------------------------


def bits_at(level: float, variances: np.ndarray) -> float:
    return float(0.5 * np.log2(np.maximum(variances / level, 1)).sum())


@pytest.mark.parametrize("bits", [0.0, 0.25, 1.0, 3.0, 40.0])
def test_water_level_of_two_components(bits: float) -> None:
    # Variances 4 and 1: the smaller one is dropped until the level has sunk to it, which takes one bit.
    expected = 4 * 4**-bits if bits <= 1 else 2 * 2**-bits
    assert water_level(np.array([1.0, 4.0]), bits) == pytest.approx(expected)


def test_water_level_spends_the_bits_that_there_are() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 5, 64):
        variances = np.exp(3 * rng.standard_normal(n))
        levels = []
        for bits in (0.01, 0.5, 2.0, 10.0, 200.0):
            levels.append(water_level(variances, bits))
            assert bits_at(levels[-1], variances) == pytest.approx(bits)
            low, high = -400.0, np.log(variances.max())
            by_bisection = np.exp(brentq(lambda log, v=variances, b=bits: bits_at(np.exp(log), v) - b, low, high))
            assert levels[-1] == pytest.approx(by_bisection, rel=1e-6)
        assert (np.diff(levels) < 0).all()
        assert water_level(variances, 0.0) == pytest.approx(variances.max())


def test_components_at_a_rate_lie_between_their_mean_and_all_of_them(
    corpus: Corpus, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    indices = corpus.indices("test")
    waveforms = [corpus.waveform(index) for index in indices]

    def at(kbit_per_s: float) -> tuple[np.ndarray, np.ndarray]:
        rate = {"kbit_per_s": kbit_per_s}
        monkeypatch.setattr(fidelity, "latent_rate", lambda *_: rate)
        renders = fidelity.systems(codec, corpus, indices, 0, Silent()).renders
        free, limited = (np.concatenate(renders[name](indices, waveforms)) for name in list(renders)[-2:])
        assert list(renders)[-1] == f"pca 4 at {kbit_per_s:.2f} kbit/s"
        return free, limited

    def evenness(waveform: np.ndarray) -> float:
        levels = [float(np.square(part).mean()) for part in np.array_split(waveform[:2400], 6)]
        return min(levels) / max(levels)

    free, plenty = at(100.0)
    np.testing.assert_allclose(plenty, free, atol=1e-6)
    errors = [float(np.abs(at(kbit_per_s)[1] - free).mean()) for kbit_per_s in (0.5, 0.2, 0.05)]
    assert 10 * np.abs(plenty - free).mean() < errors[0] < errors[1] < errors[2]
    # Without any bits every frame is the average one.
    assert evenness(free) < 0.01
    assert evenness(at(0.0)[1]) > 0.3


def test_the_rate_is_that_of_every_frame(corpus: Corpus, codec: Codec) -> None:
    indices = corpus.indices("test")
    nats, frames = 0.0, 0
    for index in indices:
        posterior = codec.autoencoder.encode(codec.analyse([corpus.waveform(index)]))
        kl = posterior.kl()
        assert kl is not None
        nats += float(kl.detach().double().sum())
        frames += kl.shape[1]
    rate = fidelity.latent_rate(codec, corpus, indices, Silent())
    assert rate["kbit_per_s"] == pytest.approx(nats / frames / np.log(2) * 62.5 / 1000, rel=1e-5)
    assert (rate["frames_per_s"], rate["latent_dim"], rate["active_dims"]) == (62.5, 4, 4)


def test_a_draw_is_of_the_clip_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(3, 5000, 2, generator=generator)
    log_variance = torch.randn(3, 5000, 2, generator=generator)
    posterior = Posterior(mean, log_variance, torch.tensor([5000, 4000, 5000]))
    drawn = fidelity._draw(posterior, [7, 8, 9], seed=3)
    noise = (drawn - mean) / (0.5 * log_variance).exp()
    assert noise.mean().abs() < 0.02
    assert noise.std() == pytest.approx(1, abs=0.02)
    assert np.abs(np.corrcoef(noise.flatten(1)) - np.eye(3)).max() < 0.05
    alone = Posterior(mean[1:2, :4000], log_variance[1:2, :4000], torch.tensor([4000]))
    torch.testing.assert_close(fidelity._draw(alone, [8], seed=3), drawn[1:2, :4000])
    assert (fidelity._draw(alone, [8], seed=4) - drawn[1:2, :4000]).abs().mean() > 0.1


# -- systems and figures -----------------------------------------------------------------------------------------------


def test_figures_are_those_of_single_clips(corpus: Corpus, codec: Codec) -> None:
    indices = corpus.indices("test") + corpus.indices("validation")
    measured = fidelity.systems(codec, corpus, indices, 0, Silent())
    names = list(measured.renders)
    rate = f"{measured.rate['kbit_per_s']:.2f} kbit/s"
    anchors = ["copy synthesis", "griffin-lim", "pca 4", f"pca 4 at {rate}"]
    assert names == ["reconstructed", "reconstructed from a draw", *anchors]
    assert measured.notes == []
    found = fidelity.fidelity(measured, indices, Silent())
    originals = [corpus.waveform(index) for index in indices]
    one_by_one = [codec.reconstruct([waveform])[0] for waveform in originals]
    pairs = list(zip(originals, one_by_one, strict=True))
    crest = [metrics.crest_difference_db(*pair) or 0.0 for pair in pairs]
    scores: dict[str, list[float | None]] = {
        "mel_l1_db": [metrics.mel_l1_db(*pair, RATE) for pair in pairs],
        "stft_log_l1_db": [metrics.multi_resolution_stft(*pair).log_l1_db for pair in pairs],
        "spectral_convergence": [metrics.multi_resolution_stft(*pair).spectral_convergence for pair in pairs],
        "envelope_correlation": [metrics.envelope_correlation(*pair, RATE) for pair in pairs],
        "crest_error_db": [abs(value) for value in crest],
        "crest_bias_db": list(crest),
        "pesq_nb": [metrics.pesq_mos(*pair, RATE) for pair in pairs],
        "stoi": [metrics.stoi(*pair, RATE) for pair in pairs],
    }
    assert set(found.figures) == set(names)
    for row in found.figures.values():
        assert list(row) == list(scores)
    for measure, values in scores.items():
        scored = [value for value in values if value is not None]
        figure = found.figures["reconstructed"][measure]
        assert figure["n"] == len(scored)
        if scored:
            # Batched and alone differ by rounding, which turns of Griffin-Lim enlarge.
            assert figure["mean"] == pytest.approx(np.mean(scored), rel=0.02, abs=0.02)
            assert figure["low"] <= figure["mean"] <= figure["high"]
    assert found.mel_l1_db == pytest.approx(scores["mel_l1_db"], rel=0.02)
    assert found.figures["copy synthesis"]["mel_l1_db"]["mean"] < np.mean(found.mel_l1_db)


@pytest.mark.parametrize("what", ["point latents", "skip connections"])
def test_what_has_no_rate_has_no_row_for_it(corpus: Corpus, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    point = what == "point latents"
    codec = codec_of(corpus, "autoencoder.bottleneck.kind=plain") if point else codec_of(corpus)
    monkeypatch.setattr(codec.autoencoder, "generative", point)
    measured = fidelity.systems(codec, corpus, corpus.indices("test"), 0, Silent())
    assert list(measured.renders) == ["reconstructed", "copy synthesis", "griffin-lim", "pca 4"]
    assert (measured.rate["kbit_per_s"] is None) == point


def test_what_is_left_out_is_told(corpus: Corpus, codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("torchaudio.functional", "pesq"):
        monkeypatch.setitem(sys.modules, package, None)
    indices = corpus.indices("test")
    measured = fidelity.systems(replace(codec, vocoder=None), corpus, indices, 0, Silent())
    assert "griffin-lim" not in measured.renders
    assert measured.speech == {"stoi"}
    griffin_lim, pesq = measured.notes
    assert griffin_lim.startswith("griffin-lim is left out: ")
    assert "torchaudio" in griffin_lim
    assert "pip install 'actseq[evaluate]'" in pesq


@pytest.mark.parametrize(
    ("sample_rate", "expected"),
    [(8000, {"pesq_nb", "stoi"}), (16000, {"pesq_nb", "pesq_wb", "stoi"}), (44100, set())],
)
def test_speech_measures_belong_to_rates(sample_rate: int, expected: set[str]) -> None:
    assert fidelity._speech_measures(sample_rate, []) == expected


def test_a_clip_without_a_score_is_not_counted() -> None:
    silence = np.zeros(4000, np.float32)
    click = np.eye(1, 4000, 99, dtype=np.float32)[0]
    scores = fidelity._score(silence, click, RATE, {"stoi"})
    assert [name for name, value in scores.items() if np.isfinite(value)] == ["mel_l1_db", "stft_log_l1_db"]
    assert fidelity._mean([1.0, np.inf, 3.0, np.nan])["n"] == 2
    assert fidelity._mean([1.0, np.inf, 3.0, np.nan])["mean"] == 2
    assert fidelity._mean([np.nan]) == {"mean": None, "low": None, "high": None, "n": 0}


# -- choosing clips ----------------------------------------------------------------------------------------------------


def test_worst_median_best_and_first() -> None:
    errors = list(np.random.default_rng(0).permutation(101).astype(float))
    chosen = choose_clips(errors)
    assert len(chosen) == 12
    kinds = {why: [errors[at] for at, reason in chosen.items() if reason == why] for why in chosen.values()}
    assert kinds["worst"] == [100, 99, 98]
    assert kinds["median"] == [49, 50, 51]
    assert kinds["best"] == [0, 1, 2]
    assert [at for at, why in chosen.items() if why == "first of the split"] == [0, 1, 2]
    for n in range(1, 14):
        assert sorted(choose_clips(errors[:n]))[: min(n, 12)] == sorted(choose_clips(errors[:n]))
        assert len(choose_clips(errors[:n])) == min(n, 12)


def test_n_clips_are_spread_evenly() -> None:
    clips = list(range(100, 370))
    assert spread(clips, None) == spread(clips, 270) == spread(clips, 1000) == clips
    assert spread(clips, 1) == [100]
    assert spread(clips, 3) == [100, 190, 280]
    for n in (7, 100, 269):
        steps = np.diff(spread(clips, n))
        assert len(steps) == n - 1
        assert steps.max() - steps.min() <= 1


# -- tables and sounds -------------------------------------------------------------------------------------------------


def result_of(**more: Any) -> dict[str, Any]:
    """A result as `pipeline.evaluate` gives it."""
    figure = {"mean": 2.5, "low": -0.001, "high": 2.75, "n": 20}
    none = {"mean": None, "low": None, "high": None, "n": 0}
    row = {"mel_l1_db": figure, "crest_bias_db": figure | {"n": 19}, "stoi": none}
    rate = {"frames_per_s": 62.5, "latent_dim": 4, "kbit_per_s": 0.5, "active_dims": 3}
    return {
        "run": "runs/<b>",
        "split": "test",
        "clips": 20,
        "clips_in_split": 30,
        "fidelity": {"reconstructed": row, "pca 4": row, "rate": rate},
        "notes": ["left out: <i>"],
        **more,
    }


def test_tables_hold_what_was_measured() -> None:
    spectrum, time, speech, bits = tables(result_of(bits_per_dim={"prior": 0.5, "end nats": 9.0}))
    assert spectrum == [
        ["spectrum", "log-mel L1, dB ↓"],
        ["reconstructed", "2.50 [0.00, 2.75]"],
        ["pca 4", "2.50 [0.00, 2.75]"],
    ]
    assert time[1][1] == "2.50 [0.00, 2.75] n=19"
    assert speech[1] == ["reconstructed", "– n=0"]
    assert bits == [["held-out bits per dimension ↓", "all 30 clips"], ["prior", "0.500"]]
    assert len({key for measures in MEASURES.values() for key in measures}) == 9


def test_kept_sounds_are_the_sounds_under_names_of_our_own(tmp_path: Path) -> None:
    tone = (0.5 * np.sin(np.arange(4000) / 5)).astype(np.float32)
    names = [HOSTILE, os.fsdecode(b"caf\xe9\n.wav"), "../../etc/passwd"]
    clips = [
        ShownClip(name, "worst", {"original": tone, "reconstructed": 4 * tone}, {"reconstructed": 1.5})
        for name in names
    ]
    folder = tmp_path / "evaluation"
    kept = sounds.keep(folder, sounds.of_reconstruction(clips), RATE)
    assert [(row["title"], row["detail"]) for row in kept] == [(name, "worst") for name in names]
    assert kept[0]["sounds"] == [
        {"title": "original", "detail": "", "file": "clip-01.wav"},
        {"title": "reconstructed", "detail": "1.50 dB, turned down by 6.0 dB so as not to clip", "file": "clip-02.wav"},
    ]
    assert {path.name for path in folder.iterdir()} == {f"clip-0{k}.wav" for k in range(1, 7)}
    original, rate = soundfile.read(folder / "clip-03.wav", dtype="float32")
    np.testing.assert_allclose(original, tone, atol=1e-4)
    assert rate == RATE


def test_sounds_replace_those_of_an_earlier_evaluation_and_nothing_else(tmp_path: Path) -> None:
    tone = np.sin(np.arange(800) / 5).astype(np.float32)
    clips = [ShownClip(str(i), "best", {"original": tone}, {}) for i in range(3)]
    sounds.keep(tmp_path, sounds.of_reconstruction(clips), RATE)
    (tmp_path / "my notes.txt").touch()
    sounds.keep(tmp_path, sounds.of_reconstruction(clips[:1]), RATE)
    assert {path.name for path in tmp_path.iterdir()} == {"my notes.txt", "clip-01.wav"}


def test_shown_clips_are_what_was_measured(corpus: Corpus, codec: Codec) -> None:
    indices = corpus.indices("test")
    measured = fidelity.systems(codec, corpus, indices, 0, Silent())
    found = fidelity.fidelity(measured, indices, Silent())
    shown = list(fidelity.shown_clips(measured, indices, found.mel_l1_db, Silent()))
    keys = [corpus.store.records[index].key for index in indices]
    assert sorted(clip.name for clip in shown) == sorted(keys)
    assert shown[0].name == keys[int(np.argmax(found.mel_l1_db))]
    for clip in shown:
        at = keys.index(clip.name)
        assert list(clip.waveforms) == ["original", "reconstructed", "copy synthesis", "pca 4"]
        np.testing.assert_array_equal(clip.waveforms["original"], corpus.waveform(indices[at]))
        assert {len(waveform) for waveform in clip.waveforms.values()} == {len(clip.waveforms["original"])}
        assert clip.mel_l1_db["reconstructed"] == pytest.approx(found.mel_l1_db[at], rel=0.05)
