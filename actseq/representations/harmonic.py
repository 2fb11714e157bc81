"""`harmonic`: a fundamental frequency, a spectral envelope in bands, and how much of it is harmonic.

The power spectrum of a frame is modelled as envelope · (share · comb + 1 − share). The comb is the spectrum of
harmonics of equal power density which follow the fundamental frequency, so a glide is not taken for noise. The rest is
noise. Levels and shares are fitted by maximum likelihood, then levels once more to the mean magnitudes of bands.

Channels are the fundamental frequency, the harmonic share of wide bands, and the level of narrow bands. All are
logarithms: octaves · `OCTAVE`, half the logarithm of harmonic power over noise power, and nepers above the floor.

The fundamental frequency comes from pYIN, whose path depends on the whole clip. So the context is unbounded. Through
frames without pitch it is interpolated.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor, nn

from actseq import units
from actseq.errors import require, require_at_most
from actseq.modules.numba_cache import import_cached
from actseq.representations.base import MOST_BANDS, Features, Framing, Sources

OCTAVE = 8.0
"""Feature units of an octave: pitch is one channel among many, and an error of a semitone is heard."""
STRONGEST = 2.5
"""Half the logarithm of harmonic power over noise power lies within ± this, 22 dB; there it is all or nothing."""
PERIODS = 3
"""Periods of the lowest pitch in a frame of pYIN, at least."""
STEP_SEMITONES = 0.2
"""Step of pYIN's pitches, which are refined afterwards."""
REFINED_SEMITONES = 0.5
"""Largest change by the refinement."""
REFINING_HARMONICS = 8
"""The lowest harmonics, whose phases refine the pitch."""
LEVEL_UPDATES = 1
"""Multiplicative updates of the levels."""
MOST_SHARES = 128
"""Harmonic shares at most."""
MOST_UPDATES = 1000
"""Updates of a fit at most."""
LEAST_COMB = 1e-4
"""Least power of the comb between two harmonics; that of noise is 1."""
TINY = 1e-20
"""Keeps divisions and logarithms of silence finite."""


class Harmonic(nn.Module):
    """Fundamental frequency, harmonic shares and levels.

    Args:
        sample_rate: Hz.
        n_fft: transform and window size in samples. It should hold four periods of most pitches, so that harmonics are
            told from noise.
        hop_length: samples between frames.
        bands: number of levels, evenly spaced in mels from 0 Hz to half the sample rate.
        shares: number of harmonic shares, spaced as the bands are.
        f_min: lowest pitch in Hz.
        f_max: highest pitch in Hz.
        floor: standard deviation of white noise that counts as silence.
        n_updates: number of multiplicative updates by which harmonics and noise are told apart.

    Raises:
        ValueError: the highest pitch is above a quarter of the sample rate or under twice the lowest, or a band holds
            no bin.

    Source: Mauch and Dixon, pYIN (2014), for the pitch; Févotte, Bertin, Durrieu (2009), section 4, for the updates.
    """

    log_magnitude = False
    signed = False
    context_samples: int | None = None
    basis: Tensor
    pool: Tensor

    def __init__(
        self,
        sample_rate: int,
        *,
        n_fft: int = 1024,
        hop_length: int = 256,
        bands: int = 80,
        shares: int = 16,
        f_min: float = 60.0,
        f_max: float = 800.0,
        floor: float = 1e-4,
        n_updates: int = 20,
    ) -> None:
        super().__init__()
        require(2, bands=bands, shares=shares)
        require_at_most(MOST_BANDS, bands=bands)
        require_at_most(MOST_SHARES, shares=shares)
        require(20, f_min=f_min)
        require(1e-10, floor=floor)
        require(1, n_updates=n_updates)
        require_at_most(MOST_UPDATES, n_updates=n_updates)
        if not 2 * f_min <= f_max <= sample_rate / 4:
            raise ValueError(
                f"f_max is {f_max:g}, expected 2 · f_min = {2 * f_min:g} to a quarter of the sample rate = "
                f"{sample_rate / 4:g}"
            )
        self.framing = Framing(n_fft, hop_length)
        self.sample_rate, self.hop_length = sample_rate, hop_length
        self.bands, self.shares, self.channels = bands, shares, 1 + shares + bands
        self.f_min, self.f_max, self.floor, self.n_updates = f_min, f_max, floor, n_updates
        self.middle_hz = math.sqrt(f_min * f_max)
        bins = n_fft // 2 + 1
        self.register_buffer("basis", mel_interpolation(sample_rate, bins, bands))
        self.register_buffer("pool", mel_interpolation(sample_rate, bins, shares))
        empty = int((self.basis.sum(0) == 0).sum())
        if empty:
            raise ValueError(f"{empty} of {bands} bands hold no bin; use fewer bands or a larger n_fft")

    @property
    def feature_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_length

    @torch.no_grad()
    def analyse(self, waveform: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]) -> Features:
        """Features (batch, 1 + shares + bands, frames) of clips of the given lengths in samples."""
        clips = [self._clip(row[:n]) for row, n in zip(waveform, lengths.tolist(), strict=True)]
        most = units.n_frames(waveform.shape[1], self.hop_length)
        values = torch.stack([F.pad(clip, (0, most - clip.shape[1])) for clip in clips])
        return Features(values, units.n_frames(lengths, self.hop_length))

    def sources(self, values: Float[Tensor, "*batch channels frames"]) -> Sources:
        """Pitch, and the power densities of harmonics and of noise in every bin."""
        octaves, ratio, level = torch.split(values, [1, self.shares, self.bands], dim=-2)
        pitch = self.middle_hz * (octaves.squeeze(-2) / OCTAVE).exp2()
        power = (2 * level.clamp(0, 1 - math.log(self.floor))).exp() * self.floor**2
        density, share = self.basis @ power, self.pool @ share_of(ratio)
        return Sources(pitch.clamp(self.f_min, self.f_max), density * share, density * (1 - share))

    def band_means(self, values: Float[Tensor, "*batch bins frames"]) -> Float[Tensor, "*batch bands frames"]:
        """Weighted mean of the bins of each band."""
        return (self.basis / self.basis.sum(0)).T @ values

    def in_bins(self, values: Float[Tensor, "*batch bands frames"]) -> Float[Tensor, "*batch bins frames"]:
        """Values of bands, interpolated at every bin."""
        return self.basis @ values

    def spectrum(self, waveform: Float[Tensor, " samples"]) -> Complex[Tensor, "bins frames"]:
        """Transform whose power is the power density: white noise of variance 1 has 1 on average."""
        found = self.framing(waveform[None], torch.tensor([len(waveform)], device=waveform.device))[0][0]
        scaled: Tensor = found / self.framing.window.square().sum().sqrt()
        return scaled

    def comb(self, turns: Float[Tensor, " samples"]) -> Float[Tensor, "bins frames"]:
        """Power density of harmonics of density 1.

        Args:
            turns: phase of the fundamental frequency in turns, in double precision.
        """
        return self.spectrum(unit_harmonics(turns).to(self.basis.device)).abs().square().clamp(min=LEAST_COMB)

    def _clip(self, waveform: Tensor) -> Tensor:
        spectrum = self.spectrum(waveform)
        power = spectrum.abs().square() + TINY
        pitch, voiced = self._pitch(waveform, spectrum)
        comb = self.comb(turns_of(pitch, self.hop_length, self.sample_rate)[: max(1, len(waveform))])
        harmonic, noise = self._separate(power, comb, voiced)
        total = harmonic + noise
        fraction = self.in_bins(harmonic) / self.in_bins(total)
        ratio = ratio_of(torch.where(voiced, (self.pool / self.pool.sum(0)).T @ fraction, 0.0))
        share = self.pool @ share_of(ratio)
        # With the shares of wide bands, levels are fitted to mean magnitudes: their logarithms are what is heard. Only
        # roughly: a full fit gives bands between harmonics any level, and such levels are hard to code.
        shape, target = share * comb + 1 - share, self.band_means(power.sqrt())
        total = (target / self.band_means(shape.sqrt())).square()
        for _ in range(LEVEL_UPDATES):
            total = total * (target / self.band_means((shape * self.in_bins(total)).sqrt())).square()
        level = (0.5 * (total + TINY).log() - math.log(self.floor)).clamp(min=0)
        return torch.cat([OCTAVE * (pitch / self.middle_hz).log2()[None], ratio, level])

    def _separate(self, power: Tensor, comb: Tensor, voiced: Tensor) -> tuple[Tensor, Tensor]:
        """Most likely power of harmonics and of noise in each band, by the distance of Itakura and Saito."""
        mean = self.band_means(power)
        harmonic, noise = torch.where(voiced, 0.5 * mean, 0.0), torch.where(voiced, 0.1 * mean, mean)
        for _ in range(self.n_updates):
            model = comb * self.in_bins(harmonic) + self.in_bins(noise)
            less, more = 1 / model, power / model.square()
            harmonic = harmonic * (self.band_means(comb * more) / self.band_means(comb * less)).sqrt()
            noise = noise * (self.band_means(more) / self.band_means(less)).sqrt()
        return harmonic, noise

    def _pitch(self, waveform: Tensor, spectrum: Tensor) -> tuple[Float[Tensor, " frames"], Bool[Tensor, " frames"]]:
        """Pitch in Hz and whether there is one."""
        frames = spectrum.shape[1]
        nothing = torch.zeros(frames, dtype=torch.bool, device=waveform.device)
        found = self._track(waveform)[:frames] if waveform.any() else np.full(frames, np.nan)
        known = np.isfinite(found)
        if not known.any():
            return torch.full((frames,), self.middle_hz, device=waveform.device), nothing
        whole = np.exp(np.interp(np.arange(frames), np.flatnonzero(known), np.log(found[known])))
        pitch = torch.from_numpy(whole.astype(np.float32)).to(waveform.device)
        voiced = torch.from_numpy(known).to(waveform.device)
        return torch.where(voiced, self._refined(waveform, spectrum, pitch), pitch), voiced

    def _track(self, waveform: Tensor) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        """Pitch by pYIN, NaN where there is none."""
        found = import_cached("librosa.core.pitch").pyin(
            waveform.cpu().numpy().astype(np.float32),
            sr=self.sample_rate,
            fmin=self.f_min,
            fmax=self.f_max,
            frame_length=2 ** math.ceil(math.log2(PERIODS * self.sample_rate / self.f_min)),
            hop_length=self.hop_length,
            resolution=STEP_SEMITONES,
        )
        pitch: np.ndarray[tuple[int], np.dtype[np.float64]] = found[0]
        return pitch

    def _refined(self, waveform: Tensor, spectrum: Tensor, pitch: Tensor) -> Tensor:
        """Pitch from the instantaneous frequencies of the lowest harmonics.

        Source: Auger and Flandrin, Improving the Readability of Time-Frequency Representations (1995).
        """
        n_fft, bins = self.framing.n_fft, spectrum.shape[0]
        angle = 2 * math.pi * torch.arange(n_fft, device=waveform.device) / n_fft
        slope = math.pi / n_fft * angle.sin() / self.framing.window.square().sum().sqrt()
        changing = torch.stft(
            waveform[None], n_fft, self.hop_length, window=slope, pad_mode="constant", return_complex=True
        )[0]
        number = torch.arange(1, REFINING_HARMONICS + 1, device=waveform.device)[:, None]
        bin_hz = self.sample_rate / n_fft
        at = (number * pitch / bin_hz).round().long()
        inside = at < bins
        at = at.clamp(max=bins - 1)
        here = spectrum.gather(0, at)
        turning = (changing.gather(0, at) * here.conj()).imag / (here.abs().square() + TINY)
        guess = (at * bin_hz - turning * self.sample_rate / (2 * math.pi)) / number
        near = inside & ((guess / pitch - 1).abs() < 2 ** (REFINED_SEMITONES / 12) - 1)
        weight = torch.where(near, here.abs() * number, 0.0)
        mean = (weight * torch.where(near, guess, 0.0)).sum(0) / (weight.sum(0) + TINY)
        return torch.where(weight.sum(0) > 1e3 * TINY, mean, pitch).clamp(self.f_min, self.f_max)


def share_of(ratio: Float[Tensor, "*batch shares frames"]) -> Float[Tensor, "*batch shares frames"]:
    """Harmonic share of the power, 0 to 1, from half the logarithm of harmonic power over noise power."""
    least = 1 / (1 + math.exp(2 * STRONGEST))
    return ((torch.sigmoid(2 * ratio) - least) / (1 - 2 * least)).clamp(0, 1)


def ratio_of(share: Float[Tensor, "*batch shares frames"]) -> Float[Tensor, "*batch shares frames"]:
    """The inverse of `share_of`."""
    least = 1 / (1 + math.exp(2 * STRONGEST))
    return 0.5 * torch.logit(least + share.clamp(0, 1) * (1 - 2 * least))


def mel_interpolation(sample_rate: int, bins: int, bands: int) -> Float[Tensor, "bins bands"]:
    """Weights by which values at centres evenly spaced in mels are interpolated at every bin; rows sum to 1."""
    mel = torch.log1p(torch.linspace(0, sample_rate / 2, bins) / 700)
    place = mel / mel[-1] * (bands - 1)
    low = place.floor().long().clamp(max=bands - 2)
    weights, rows = torch.zeros(bins, bands), torch.arange(bins)
    weights[rows, low] = 1 - (place - low)
    weights[rows, low + 1] = place - low
    return weights


def turns_of(
    pitch: Float[Tensor, " frames"], hop_length: int, sample_rate: int, start: float = 0.0
) -> Float[Tensor, " samples"]:
    """Phase in turns of every sample, in double precision; the frequency is linear from frame to frame.

    It is on the CPU where the device of the pitch has no double precision.

    Args:
        pitch: Hz.
        hop_length: samples of a frame.
        sample_rate: Hz.
        start: phase of the first sample.
    """
    if pitch.device.type == "mps":
        pitch = pitch.cpu()
    following = torch.cat([pitch[1:], pitch[-1:]]).double()
    part = torch.arange(hop_length, dtype=torch.float64, device=pitch.device) / hop_length
    steps = (pitch.double()[:, None] + (following - pitch)[:, None] * part).flatten() / sample_rate
    return start + steps.cumsum(0) - steps


def unit_harmonics(turns: Float[Tensor, " samples"]) -> Float[Tensor, " samples"]:
    """All harmonics below half the sample rate, as loud together as white noise of variance 1.

    Cosines of equal amplitude have a closed sum, the kernel of Dirichlet.

    Args:
        turns: phase of the fundamental frequency in turns, in double precision.
    """
    steps = turns.diff(append=turns[-1:] + 1e-2) if len(turns) < 2 else turns.diff(append=2 * turns[-1:] - turns[-2:-1])
    count, angle = (0.5 / steps).ceil() - 1, math.pi * (turns - turns.floor())
    under = angle.sin()
    at_peak = under.abs() < 1e-6
    ratio = torch.sin((2 * count + 1) * angle) / torch.where(at_peak, 1.0, under)
    return ((4 * steps).sqrt() * torch.where(at_peak, count, 0.5 * (ratio - 1))).float()
