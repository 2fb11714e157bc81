"""`noise`: its damage to a segment is that of the options, measured independently."""

from pathlib import Path
from typing import Any

import members
import numpy as np
import pytest
import torch

from actseq import audio, build, registry
from actseq.config import Member
from actseq.corruptions.base import Corrupted
from actseq.corruptions.noise import LEAST_RMS, Noise, coloured
from actseq.data.corpus import Corpus
from actseq.data.segments import SegmentSource, WithNoiseClips
from actseq.errors import ConfigError

SAMPLES = 6000


def sounds(data_dir: Path) -> torch.Tensor:
    """Eight segments of spoken digits, each with its peak at 0.7."""
    segments = np.stack([np.resize(waveform, SAMPLES) for waveform in members.digits(data_dir, 8)][:8])
    return torch.from_numpy(0.7 * segments / np.abs(segments).max(1, keepdims=True))


def corrupted(waveform: torch.Tensor, noise: torch.Tensor | None = None, seed: int = 0, **options: Any) -> Corrupted:
    given = {"other_weight": 0.0, "turned_down_db": 0.0} | options
    made = build.construct(registry.CORRUPTIONS, Member(kind="noise", **given), "train_ae.corruption", 8000)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        found: Corrupted = made.corrupt(waveform, noise)
    return found


def rms(rows: torch.Tensor) -> np.ndarray:
    return np.sqrt(np.square(rows.numpy().astype(np.float64)).mean(1))


@pytest.mark.parametrize("kind", ["white", "coloured", "other"])
@pytest.mark.parametrize("snr_db", [-5.0, 7.5])
def test_the_ratio_is_the_one_asked_for(data_dir: Path, kind: str, snr_db: float) -> None:
    clean = sounds(data_dir)
    weights = {f"{name}_weight": float(name == kind) for name in ("white", "coloured", "other")}
    other = torch.roll(clean, 1, 0).flip(1)
    pair = corrupted(clean, other, snr_db=(snr_db, snr_db), **weights)
    added = pair.input - pair.target
    torch.testing.assert_close(pair.target, clean)
    np.testing.assert_allclose(20 * np.log10(rms(clean) / rms(added)), snr_db, atol=0.01)
    similarity = [abs(np.corrcoef(a, b)[0, 1]) for a, b in zip(added.numpy(), other.numpy(), strict=True)]
    assert (min(similarity) > 0.999) == (kind == "other")
    assert (max(similarity) < 0.2) == (kind != "other")


def test_ratios_and_kinds_differ_from_row_to_row_within_bounds() -> None:
    tone = 0.3 * torch.sin(torch.arange(SAMPLES) * 0.1).expand(400, -1)
    noise = torch.ones(400, SAMPLES)
    pair = corrupted(tone, noise, snr_db=(-5.0, 20.0), white_weight=1.0, coloured_weight=0.0, other_weight=3.0)
    added = pair.input - pair.target
    found = 20 * np.log10(rms(tone) / rms(added))
    assert -5.01 < found.min() < -4.5
    assert 19.5 < found.max() < 20.01
    assert abs(np.mean(found) - 7.5) < 1.5
    constant = (added.std(1) < 1e-4).float().mean()
    assert abs(float(constant) - 0.75) < 0.1


@pytest.mark.parametrize("slope", [-1.0, 1.0, 2.0])
def test_the_spectrum_has_the_slope(slope: float) -> None:
    rows = coloured(torch.randn((64, 8192), generator=torch.Generator().manual_seed(0)), torch.full((64, 1), slope))
    power = np.square(np.abs(np.fft.rfft(rows.numpy()))).mean(0)
    octaves = [power[k : 2 * k].mean() for k in (64, 128, 256, 512, 1024, 2048)]
    np.testing.assert_allclose(np.diff(10 * np.log10(octaves)), -10 * np.log10(2) * slope, atol=0.4)
    low = power[1:16].mean() / power[20]  # flat below 1/400 of the rate, bin 20
    assert 0.5 < low < 2


def test_the_same_seed_gives_the_same_and_another_does_not(data_dir: Path) -> None:
    clean = sounds(data_dir)
    every = {"clipping": 0.5, "quantisation": 0.5, "dropouts": 0.5, "turned_down_db": 6.0}
    first, again, other = (corrupted(clean, seed=seed, **every) for seed in (3, 3, 4))
    assert torch.equal(first.input, again.input)
    assert torch.equal(first.target, again.target)
    assert not torch.equal(first.input, other.input)


def test_silence_gets_the_noise_of_a_quiet_sound() -> None:
    silent = torch.zeros(3, SAMPLES)
    every = {"clipping": 1.0, "quantisation": 1.0, "bits": (16, 16), "dropouts": 1.0}
    for options in ({}, every):
        pair = corrupted(silent, snr_db=(10.0, 10.0), **options)
        assert torch.equal(pair.target, silent)
        assert pair.input.isfinite().all()
        assert pair.input.abs().max() < 5 * LEAST_RMS
    pair = corrupted(silent, snr_db=(10.0, 10.0))
    np.testing.assert_allclose(rms(pair.input), LEAST_RMS / np.sqrt(10), rtol=1e-4)


def test_silent_noise_adds_nothing(data_dir: Path) -> None:
    clean = sounds(data_dir)
    pair = corrupted(clean, torch.zeros_like(clean), white_weight=0.0, coloured_weight=0.0, other_weight=1.0)
    assert torch.equal(pair.input, clean)


QUIET = {"snr_db": (200.0, 200.0)}
"""Noise below the last bit."""


def test_clipping_cuts_peaks_at_its_level(data_dir: Path) -> None:
    clean = sounds(data_dir)
    pair = corrupted(clean, clipping=1.0, clipping_db=(-6.0, -6.0), **QUIET)
    expected = np.clip(clean.numpy(), -0.7 * 10**-0.3, 0.7 * 10**-0.3)
    np.testing.assert_allclose(pair.input.numpy(), expected, atol=1e-6)
    torch.testing.assert_close(pair.target, clean)


def test_bits_leave_so_many_steps(data_dir: Path) -> None:
    clean = sounds(data_dir)
    pair = corrupted(clean, quantisation=1.0, bits=(4, 4), **QUIET)
    steps = pair.input.numpy() * 8
    np.testing.assert_allclose(steps, np.round(clean.numpy() * 8), atol=1e-3)
    assert len(np.unique(np.round(steps))) <= 16


def test_dropouts_are_gaps_of_silence() -> None:
    tone = torch.full((50, SAMPLES), 0.5)
    pair = corrupted(tone, dropouts=1.0, dropout_gaps=3, dropout_samples=(40, 60), **QUIET)
    for row in pair.input.numpy():
        silent = np.concatenate([[0], (row == 0).astype(int), [0]])
        starts, stops = np.flatnonzero(np.diff(silent) == 1), np.flatnonzero(np.diff(silent) == -1)
        assert 1 <= len(starts) <= 3
        assert (stops - starts).min() >= 40
        assert (stops - starts).sum() <= 180
    untouched = corrupted(tone, dropouts=0.3, **QUIET).input.numpy().min(1) > 0
    assert 0.5 < untouched.mean() < 0.9


def test_both_are_turned_down_alike(data_dir: Path) -> None:
    clean = sounds(data_dir)
    pair = corrupted(clean, turned_down_db=6.0, **QUIET)
    gain = rms(pair.target) / rms(clean)
    assert (gain <= 1).all()
    assert (gain >= 10**-0.3001).all()
    assert np.ptp(gain) > 0.05
    torch.testing.assert_close(pair.input, pair.target)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clipping": 1.5}, "clipping is 1.5, expected at most 1"),
        ({"snr_db": (5.0, 1.0)}, r"snr_db is \[5.0, 1.0\], expected the lower bound first"),
        ({"slope": (float("nan"), 1.0)}, r"slope is \[nan, 1.0\]"),
        ({"white_weight": 0, "coloured_weight": 0, "other_weight": 0}, "are all 0"),
        ({"bits": (0, 4)}, "bits is 0, expected at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build.construct(registry.CORRUPTIONS, Member(kind="noise", **options), "train_ae.corruption", 8000)


def test_other_classes_must_be_there() -> None:
    with pytest.raises(ValueError, match="no segments of other classes"):
        Noise(8000).corrupt(torch.zeros(2, 100), None)


def test_clips_beside_clips_are_a_pure_function_of_the_step(data_dir: Path, tmp_path: Path) -> None:
    """Noise clips have other labels, and their own random draws."""
    from actseq.config import CorpusConfig
    from actseq.data.corpus import build_corpus
    from actseq.progress import Silent

    for label in ("1", "2"):
        for path in audio.find(data_dir / "digits_fsdd" / label)[:12]:
            audio.write(tmp_path / "in" / label / path.with_suffix(".wav").name, audio.load(path)[0], 8000)
    build_corpus(audio.SoundFolder(tmp_path / "in"), tmp_path / "corpus", CorpusConfig(sample_rate=8000), 0, Silent())
    corpus = Corpus(tmp_path / "corpus", -3.0)
    sources = [SegmentSource(corpus, "train", 800, 0, 8, seed, labels=[label]) for label, seed in (("1", 0), ("2", 9))]
    both = WithNoiseClips(sources[0], sources[1])
    one, same, next_one = both.batch(5), both.batch(5), both.batch(6)
    for name in ("waveform", "noise"):
        np.testing.assert_array_equal(one[name], same[name])
        assert not np.array_equal(one[name], next_one[name])
    np.testing.assert_array_equal(one["noise"], sources[1].batch(5)["waveform"])
    assert not set(corpus.indices("train", ["1"])) & set(corpus.indices("train", ["2"]))
    assert len(corpus.indices("train", ["1"])) == 10
    assert corpus.indices("train", ["1", "2"]) == corpus.indices("train")
