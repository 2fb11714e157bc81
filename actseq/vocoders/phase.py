"""`phase`: the phase that the magnitudes imply, then some fast Griffin-Lim. The default for log-magnitudes.

Frames are settled in blocks. A block sees the last settled frames, which it keeps, and some frames ahead, which the
next block settles; so blocks join without a seam, and nothing depends on how the frames arrive. It always runs on the
CPU, in single precision.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from actseq import units
from actseq.errors import require
from actseq.representations.base import Features, Framing, Representation, magnitudes_of
from actseq.representations.mel import Mel
from actseq.vocoders.base import BlockBuffer, Stream, synthesise
from actseq.vocoders.inversion import Inversion, MagnitudeInversion

Array = NDArray[Any]
MOMENTUM = 0.99


class Phase(nn.Module):
    """Phase gradient heap integration after an inversion of the features to magnitudes.

    Args:
        representation: one of log-magnitudes.
        inversion: features → magnitudes; None for `MagnitudeInversion`, which needs no training.
        n_turns: iterations of fast Griffin-Lim after the integration.
        block_frames: frames settled at a time.

    Source: Průša, Balazs and Søndergaard, A Noniterative Method for Reconstruction of Phase from STFT Magnitude (2017).
    """

    def __init__(
        self,
        representation: Representation,
        inversion: Inversion | None = None,
        *,
        n_turns: int = 16,
        block_frames: int = 128,
    ) -> None:
        super().__init__()
        require(0, n_turns=n_turns)
        self.inversion: Inversion = MagnitudeInversion(representation) if inversion is None else inversion
        magnitudes = magnitudes_of(representation)
        framing = magnitudes.framing
        self.n_fft, self.hop_length = framing.n_fft, framing.hop_length
        self.n_turns, self.block_frames = n_turns, block_frames
        self.silence = magnitudes.silence
        self.reach = units.n_hops(self.n_fft, self.hop_length)
        require(self.reach + 1, block_frames=block_frames)
        self.window = framing.window.cpu().numpy()

    def stream(self) -> Stream:
        """Start a sequence."""
        return _PhaseStream(self)

    def settle(self, magnitude: Array, known: Array, first_frame: int) -> tuple[Array, Array]:
        """Spectra (frames, bins) of magnitudes whose first frames are known, and the signal made from them.

        The signal starts half a window before the centre of the first frame.
        """
        from actseq.vocoders import kernels

        spectra = np.empty(magnitude.shape, np.complex64)
        kernels.integrate(magnitude, known, self.n_fft, self.hop_length, first_frame, spectra)
        return spectra, self.refine(magnitude, spectra, self.n_turns, len(known))

    def refine(self, magnitude: Array, spectra: Array, n_turns: int, n_known: int = 0) -> Array:
        """The signal of spectra (frames, bins) after some fast Griffin-Lim, which changes the spectra in place.

        The signal starts half a window before the centre of the first frame.

        Args:
            magnitude: (frames, bins), the magnitudes to reach.
            spectra: (frames, bins), complex, with the phases to start from.
            n_turns: iterations.
            n_known: number of first frames that are kept.
        """
        from actseq.vocoders import kernels

        frames, hop = len(magnitude), self.hop_length
        signal, energy = np.empty((2, (frames - 1) * hop + self.n_fft), np.float32)
        kernels.overlap_add(np.tile(self.window, (frames, 1)), self.window, hop, energy)
        pieces = np.empty((frames, self.n_fft), np.float32)
        previous: Array | None = None
        for turn in range(n_turns + 1):
            made = torch.fft.irfft(torch.from_numpy(spectra), self.n_fft).numpy()
            kernels.overlap_add(made, self.window, hop, signal)
            signal /= energy + np.float32(1e-8)
            if turn < n_turns:
                kernels.cut(signal, self.window, hop, pieces)
                consistent = torch.fft.rfft(torch.from_numpy(pieces)).numpy()
                previous = consistent.copy() if previous is None else previous
                kernels.project(magnitude, n_known, np.float32(MOMENTUM), consistent, previous, spectra)
        return signal

    def impose(
        self, magnitude: Float[Tensor, "bins frames"], signal: Float[Tensor, " given"], n_turns: int
    ) -> Float[Tensor, " samples"]:
        """A signal of frames · hop_length samples with other magnitudes; its phases are where the iterations start."""
        reach, hop = self.reach, self.hop_length
        frames = magnitude.shape[1]
        spectrum, _ = Framing(self.n_fft, hop)(signal.cpu()[None], torch.tensor([len(signal)]))
        phases = spectrum[0, :, :frames].angle()
        # A sound is silent before it begins and after it ends.
        wanted, phases = (F.pad(values, (reach, reach)).T.contiguous() for values in (magnitude.cpu(), phases))
        made = self.refine(wanted.numpy(), torch.polar(wanted, phases).numpy(), n_turns)
        return torch.from_numpy(made[self.n_fft // 2 + reach * hop :][: frames * hop].copy()).to(signal.device)


def compile_loops() -> float:
    """Compile the loops and cache them on disk, unless they are cached already; returns the seconds that it took."""
    begun = time.perf_counter()
    mel = Mel(8000, n_fft=64, hop_length=16, n_mels=4)
    synthesise(Phase(mel), Features(torch.zeros(1, 4, 8), torch.tensor([8])))
    return time.perf_counter() - begun


class _PhaseStream:
    """Local frames of a block: 2 · reach settled ones, the new ones, `reach` ahead.

    Samples are final up to `reach` frames before the last settled frame, because no later window covers them.
    """

    def __init__(self, vocoder: Phase) -> None:
        self.vocoder = vocoder
        self.known = np.zeros((2 * vocoder.reach, vocoder.n_fft // 2 + 1), np.complex64)
        self.context, self.settled = vocoder.inversion.context_frames, 0
        overlap = 2 * self.context + vocoder.reach
        self.buffer = BlockBuffer(vocoder.block_frames, overlap, context=self.context, silence=vocoder.silence)

    def push(self, values: Float[Tensor, "channels frames"]) -> Float[Tensor, " samples"]:
        made = [self._settle(window, self.vocoder.reach) for window in self.buffer.push(values)]
        return torch.cat([values.new_zeros(0), *made])

    def finish(self) -> Float[Tensor, " samples"]:
        rest = self.buffer.finish()
        return torch.zeros(0) if rest is None else self._settle(rest, 0)

    def _settle(self, window: Tensor, ahead: int) -> Tensor:
        """Settle a window except its last `ahead` frames; the samples that are then final."""
        vocoder, reach, hop = self.vocoder, self.vocoder.reach, self.vocoder.hop_length
        new = window.shape[1] - 2 * self.context - ahead
        inverted = vocoder.inversion(window).T.cpu().numpy()[self.context : self.context + new + ahead]
        silent = 0 if ahead else 2 * reach
        magnitude = np.concatenate(
            [np.abs(self.known), inverted, np.zeros((silent, inverted.shape[1]), np.float32)]
        ).astype(np.float32)
        spectra, signal = vocoder.settle(magnitude, self.known, self.settled)
        # Local frame t is centred on sample t · hop + n_fft / 2 of the signal; the first 2 · reach lie before the
        # block.
        final = signal[vocoder.n_fft // 2 + reach * hop :][: (new if ahead else new + reach) * hop]
        if self.settled == 0:
            final = final[reach * hop :]  # before the sequence
        self.known = spectra[new : new + 2 * reach].copy()
        self.settled += new
        return torch.from_numpy(final.copy()).to(window.device)
