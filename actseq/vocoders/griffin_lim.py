"""`griffin-lim`: phase by alternating projections, torchaudio's implementation, in blocks.

Blocks are joined by an equal-power crossfade, since their phases are unrelated. Each block is rendered between silent
frames: outside a clip there is silence, as in analysis.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from actseq.errors import ConfigError, require
from actseq.representations.base import Features, Representation, magnitudes_of
from actseq.vocoders.base import Stream, synthesise_streamed
from actseq.vocoders.inversion import MagnitudeInversion


class GriffinLim(nn.Module):
    """Griffin-Lim after non-negative inversion.

    Args:
        representation: one of log-magnitudes.
        n_iter: iterations.
        momentum: fraction of the last change that the fast variant adds again; 0 is the classic algorithm.
        block_frames: frames rendered at a time.
        overlap_frames: frames over which blocks are crossfaded.

    Raises:
        ConfigError: torchaudio does not load; the message says why and what helps.

    Source: Griffin and Lim (1984); Perraudin, Balazs and Søndergaard, A Fast Griffin-Lim Algorithm (2013).
    """

    window: Tensor

    def __init__(
        self,
        representation: Representation,
        *,
        n_iter: int = 48,
        momentum: float = 0.99,
        block_frames: int = 1024,
        overlap_frames: int = 16,
    ) -> None:
        super().__init__()
        require(1, n_iter=n_iter, block_frames=block_frames)
        require(0, overlap_frames=overlap_frames, momentum=momentum)
        self.inversion = MagnitudeInversion(representation)
        framing = magnitudes_of(representation).framing
        self.n_fft, self.hop_length = framing.n_fft, framing.hop_length
        self.n_iter, self.momentum = n_iter, momentum
        self.block_frames, self.overlap_frames = block_frames, overlap_frames
        self.register_buffer("window", framing.window)
        load_griffinlim()

    def stream(self) -> Stream:
        """Start a sequence."""
        return _GriffinLimStream(self)

    def synthesise(self, features: Features) -> Float[Tensor, "batch samples"]:
        """Waveforms of frames · hop_length samples; zero beyond each length. The same features give the same bytes."""
        return synthesise_streamed(self, features, self.hop_length)

    def render(self, values: Float[Tensor, "channels frames"], seed: int) -> Float[Tensor, " samples"]:
        """One block on its own, frames · hop_length samples."""
        silent = self.n_fft // self.hop_length
        magnitude = F.pad(self.inversion(values), (silent, silent))
        devices = [magnitude.device] if magnitude.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            waveform: Tensor = load_griffinlim()(
                magnitude,
                self.window,
                self.n_fft,
                self.hop_length,
                self.n_fft,
                1.0,
                self.n_iter,
                self.momentum,
                None,
                True,
            )
        start = silent * self.hop_length
        return waveform[start : start + values.shape[1] * self.hop_length]


class _GriffinLimStream:
    def __init__(self, vocoder: GriffinLim) -> None:
        self.vocoder = vocoder
        self.waiting: Tensor | None = None
        self.tail: Tensor | None = None
        self.block = 0

    def push(self, values: Float[Tensor, "channels frames"]) -> Float[Tensor, " samples"]:
        self.waiting = values if self.waiting is None else torch.cat([self.waiting, values], dim=1)
        frames, overlap = self.vocoder.block_frames, self.vocoder.overlap_frames
        out = [values.new_zeros(0)]
        while self.waiting.shape[1] > frames + overlap:
            rendered = self._join(self.waiting[:, : frames + overlap])
            cut = frames * self.vocoder.hop_length
            out.append(rendered[:cut])
            self.tail, self.waiting = rendered[cut:], self.waiting[:, frames:]
        return torch.cat(out)

    def finish(self) -> Float[Tensor, " samples"]:
        if self.waiting is None or self.waiting.shape[1] == 0:
            return self.vocoder.window.new_zeros(0)
        return self._join(self.waiting)

    def _join(self, values: Tensor) -> Tensor:
        rendered = self.vocoder.render(values, self.block)
        self.block += 1
        if self.tail is not None:
            n = len(self.tail)
            angle = torch.linspace(0, torch.pi / 2, n, device=rendered.device)
            rendered = torch.cat([rendered[:n] * angle.sin() + self.tail * angle.cos(), rendered[n:]])
        return rendered


def load_griffinlim() -> Callable[..., Tensor]:
    """torchaudio's function, or a plain word about why it is not to be had."""
    try:
        from torchaudio.functional import griffinlim
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"the griffin-lim vocoder needs torchaudio, which does not load here ({' '.join(str(error).split())[:200]})",
            "a torchaudio built for the installed torch",
            "reinstall both in the supported range: pip install 'torch>=2.11,<2.15' 'torchaudio>=2.11,<2.12'",
        ) from None
    found: Callable[..., Tensor] = griffinlim
    return found
