"""The loops of the phase vocoder against independent computations."""

import heapq
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import torch

from actseq import audio
from actseq.evaluation import metrics
from actseq.representations.base import Features
from actseq.representations.linear import Linear
from actseq.representations.mel import Mel
from actseq.vocoders import kernels
from actseq.vocoders.base import synthesise
from actseq.vocoders.inversion import MagnitudeInversion
from actseq.vocoders.phase import MOMENTUM, Phase

N_FFT, HOP = 64, 16
BINS = N_FFT // 2 + 1
NOTHING = np.zeros((0, BINS), np.complex64)


def integrated(magnitude: np.ndarray, known: np.ndarray = NOTHING, first_frame: int = 0) -> np.ndarray:
    spectra = np.empty(magnitude.shape, np.complex64)
    kernels.integrate(magnitude.astype(np.float32), known, N_FFT, HOP, first_frame, spectra)
    return spectra


def distinct_levels(frames: int) -> np.ndarray:
    """Magnitudes that all differ by more than a bucket, all within the tolerance."""
    levels = np.random.default_rng(0).permutation(frames * BINS) / (frames * BINS)
    return np.exp(-13.5 * levels.reshape(frames, BINS)).astype(np.float32)


def by_the_paper(magnitude: np.ndarray) -> np.ndarray:
    """Phases by Průša's algorithm 1, written with numpy's gradients and Python's heap."""
    log = np.log(magnitude.astype(np.float64))
    gamma = kernels.GAUSSIAN * N_FFT**2
    padded = np.pad(log, 1, mode="edge")
    along_bins, along_frames = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2, (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
    time = HOP * N_FFT / gamma * along_bins + 2 * np.pi * HOP * np.arange(BINS) / N_FFT
    frequency = -gamma / (HOP * N_FFT) * along_frames - np.pi
    phase = np.full(magnitude.shape, np.nan)
    start = np.unravel_index(log.argmax(), log.shape)
    phase[start] = 0.0
    heap = [(-log[start], *start)]
    while heap:
        _, t, k = heapq.heappop(heap)
        for dt, dk in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            u, v = t + dt, k + dk
            if 0 <= u < log.shape[0] and 0 <= v < log.shape[1] and np.isnan(phase[u, v]):
                slope = time if dt else frequency
                phase[u, v] = phase[t, k] + (dt + dk) * (slope[t, k] + slope[u, v]) / 2
                heapq.heappush(heap, (-log[u, v], u, v))
    return phase


def test_integration_is_that_of_the_paper() -> None:
    magnitude = distinct_levels(14)
    assert np.diff(np.sort(np.log(magnitude.ravel()))).min() > 13.8 / kernels.BUCKETS
    expected = magnitude * np.exp(1j * by_the_paper(magnitude))
    np.testing.assert_allclose(integrated(magnitude), expected, atol=1e-4)


def test_known_frames_stay_and_are_gone_on_from() -> None:
    magnitude = distinct_levels(14)
    known = integrated(magnitude)[:4]
    turned = (known * np.exp(1j)).astype(np.complex64)
    np.testing.assert_array_equal(integrated(magnitude, turned)[:4], turned)
    # From frames that are all turned by a radian, everything after them is.
    straight, other = integrated(magnitude, known), integrated(magnitude, turned)
    loud = magnitude > 1e-5 * magnitude.max()
    np.testing.assert_allclose(other[loud], (straight * np.exp(1j))[loud], atol=1e-4)


def test_silent_bins_have_random_phases_that_depend_on_frame_and_bin_alone() -> None:
    magnitude = np.full((200, BINS), 1e-9, np.float32)
    magnitude[0, 0] = 1.0
    made = integrated(magnitude)
    angles = np.angle(made[1:])
    assert abs(np.exp(1j * angles).mean()) < 0.05
    assert abs(np.exp(1j * np.diff(angles, axis=0)).mean()) < 0.05
    known = np.zeros((5, BINS), np.complex64)
    known[0, 0] = 1.0
    later = integrated(np.concatenate([np.abs(known), magnitude[30:]]), known, first_frame=30)[5:]
    np.testing.assert_array_equal(later, made[30:])


def test_all_silence_stays_silent() -> None:
    assert not integrated(np.zeros((5, BINS), np.float32)).any()


def test_a_turn_is_that_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    magnitude = rng.random((9, BINS)).astype(np.float32)
    consistent, previous, known = (
        (rng.standard_normal((9, BINS)) + 1j * rng.standard_normal((9, BINS))).astype(np.complex64) for _ in range(3)
    )
    ahead = consistent + MOMENTUM * (consistent - previous)
    expected = np.concatenate([known[:2], (magnitude * ahead / np.abs(ahead))[2:]])
    spectra = known.copy()
    kernels.project(magnitude, 2, np.float32(MOMENTUM), consistent, previous, spectra)
    np.testing.assert_allclose(spectra, expected, atol=1e-5)
    np.testing.assert_array_equal(previous[2:], consistent[2:])


def test_cutting_and_adding_are_scipys_transforms() -> None:
    analysis = Linear(8000, n_fft=N_FFT, hop_length=HOP)
    vocoder = Phase(analysis, n_turns=0)
    rng = np.random.default_rng(0)
    magnitude = rng.random((20, BINS)).astype(np.float32)
    spectra, signal = vocoder.settle(magnitude, NOTHING, 0)
    # scipy scales by the window's sum and leaves out half a window at either end.
    _, expected = scipy.signal.istft(
        spectra.T / vocoder.window.sum(), nperseg=N_FFT, noverlap=N_FFT - HOP, window="hann"
    )
    np.testing.assert_allclose(signal[N_FFT // 2 : -N_FFT // 2], expected, atol=1e-4)
    pieces = np.empty((20, N_FFT), np.float32)
    kernels.cut(signal, vocoder.window, HOP, pieces)
    windows = np.lib.stride_tricks.sliding_window_view(signal, N_FFT)[::HOP] * vocoder.window
    np.testing.assert_array_equal(pieces, windows)


@pytest.mark.parametrize(("n_fft", "n_mels", "f_min"), [(512, 80, 0.0), (256, 12, 200.0)])
def test_compiled_updates_are_the_plain_ones(n_fft: int, n_mels: int, f_min: float) -> None:
    analysis = Mel(8000, n_fft=n_fft, hop_length=64, n_mels=n_mels, f_min=f_min)
    inversion = MagnitudeInversion(analysis)
    values = torch.randn((2, n_mels, 70), generator=torch.Generator().manual_seed(0)).cumsum(2) - 4
    compiled = inversion(values)
    plain = inversion(values.clone().requires_grad_())
    torch.testing.assert_close(compiled, plain.detach(), rtol=2e-3, atol=1e-6)
    torch.testing.assert_close(inversion(values[1]), compiled[1], rtol=0, atol=0)
    # By the definition, in double precision, where the distance to the target falls.
    basis = analysis.basis.double().numpy()
    target = values[0].double().exp().numpy()
    before = np.linalg.norm(basis @ MagnitudeInversion(analysis, n_updates=1)(values[0]).double().numpy() - target)
    assert np.linalg.norm(basis @ compiled[0].double().numpy() - target) < before


def test_bands_that_share_a_bin_and_bins_in_no_band() -> None:
    """At 44.1 kHz and 512 samples the lowest of 80 bands have the same bin, and that of 0 Hz lies in none."""
    analysis = Mel(44100, n_fft=512, hop_length=128, n_mels=80)
    assert not analysis.basis[:, 0].any()
    values = torch.full((80, 3), -2.0)
    for made in (MagnitudeInversion(analysis)(values), MagnitudeInversion(analysis)(values.requires_grad_())):
        assert made.isfinite().all()
        assert (made[0] > 0.5 * made[1]).all()


def test_a_tone_keeps_its_frequency() -> None:
    """The phase of a steady tone advances by its frequency: the output is that tone, at any phase."""
    analysis = Linear(8000, n_fft=512, hop_length=128, floor=1e-6)
    tone = (0.5 * np.sin(2 * np.pi * 437.0 * np.arange(16000) / 8000)).astype(np.float32)
    made = synthesise(Phase(analysis, n_turns=0), analysed(analysis, tone))[0].numpy()[4000:12000]
    spectrum = np.abs(np.fft.rfft(made * np.hanning(8000)))
    assert spectrum.argmax() == 437
    assert spectrum[434:441].max() > 100 * np.delete(spectrum, np.s_[425:450]).max()


def digits(data_dir: Path, n: int) -> list[np.ndarray]:
    paths = audio.find(data_dir / "digits_fsdd")
    return [audio.load(path, 8000)[0] for path in paths[:: len(paths) // n][:n]]


def analysed(analysis: Linear, clip: np.ndarray) -> Features:
    return analysis.analyse(torch.from_numpy(clip)[None], torch.tensor([len(clip)]))


def test_turns_bring_digits_nearer_to_their_magnitudes(data_dir: Path) -> None:
    analysis = Linear(8000, n_fft=512, hop_length=128, floor=1e-6)
    clips = digits(data_dir, 10)

    def distance(n_turns: int) -> float:
        vocoder = Phase(analysis, n_turns=n_turns)
        made = [synthesise(vocoder, analysed(analysis, clip))[0].numpy() for clip in clips]
        return float(np.mean([metrics.mel_l1_db(a, b[: len(a)], 8000) for a, b in zip(clips, made, strict=True)]))

    none, four, eight = distance(0), distance(4), distance(8)
    assert eight < four < none < 3.0
    assert eight < 0.8


def test_blocks_join_without_a_seam(data_dir: Path) -> None:
    """Small blocks and one large one are as near to the original."""
    analysis = Linear(8000, n_fft=512, hop_length=128, floor=1e-6)
    clip = np.concatenate(digits(data_dir, 4))
    features = analysed(analysis, clip)
    small, large = (
        synthesise(Phase(analysis, block_frames=size), features)[0].numpy()[: len(clip)] for size in (8, 512)
    )
    assert metrics.mel_l1_db(clip, small, 8000) < metrics.mel_l1_db(clip, large, 8000) + 0.1


def test_lengths_around_a_block() -> None:
    analysis = Linear(8000, n_fft=N_FFT, hop_length=HOP)
    vocoder = Phase(analysis, n_turns=1, block_frames=16)
    for frames in (1, 2, 15, 16, 17, 19, 20, 21, 36, 37):
        values = torch.randn((1, analysis.channels, frames), generator=torch.Generator().manual_seed(frames))
        made = synthesise(vocoder, Features(values, torch.tensor([frames])))
        assert made.shape == (1, frames * analysis.hop_length)
        assert made.isfinite().all()
