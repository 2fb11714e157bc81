"""`griffin-lim`: phase by alternating projections, torchaudio's implementation, in blocks.

Blocks are joined by an equal-power crossfade, since their phases are unrelated. Each block is rendered between silent
frames, since a clip is silent outside its length.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from actseq.errors import ConfigError, require
from actseq.representations.base import Representation, magnitudes_of
from actseq.vocoders.base import BlockBuffer, Stream
from actseq.vocoders.inversion import MagnitudeInversion


class GriffinLim(nn.Module):
    """Griffin-Lim after non-negative inversion.

    Args:
        representation: one of log-magnitudes.
        n_iter: number of iterations.
        momentum: fraction of the last change that the fast variant adds again; 0 is the classic algorithm.
        block_frames: frames rendered at a time.
        overlap_frames: frames over which blocks are crossfaded.

    Raises:
        ConfigError: torchaudio does not load; the message says why and what to do.

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

    def render(self, values: Float[Tensor, "channels frames"], seed: int) -> Float[Tensor, " samples"]:
        """One block by itself, frames · hop_length samples."""
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
        # One frame more than is rendered, so that the last block is longer than its overlap.
        self.buffer = BlockBuffer(vocoder.block_frames, vocoder.overlap_frames + 1)
        self.tail: Tensor | None = None
        self.block = 0

    def push(self, values: Float[Tensor, "channels frames"]) -> Float[Tensor, " samples"]:
        out, cut = [values.new_zeros(0)], self.vocoder.block_frames * self.vocoder.hop_length
        for window in self.buffer.push(values):
            rendered = self._join(window[:, :-1])
            out.append(rendered[:cut])
            self.tail = rendered[cut:]
        return torch.cat(out)

    def finish(self) -> Float[Tensor, " samples"]:
        rest = self.buffer.finish()
        return self.vocoder.window.new_zeros(0) if rest is None else self._join(rest)

    def _join(self, values: Tensor) -> Tensor:
        rendered = self.vocoder.render(values, self.block)
        self.block += 1
        if self.tail is not None:
            n = len(self.tail)
            angle = torch.linspace(0, torch.pi / 2, n, device=rendered.device)
            rendered = torch.cat([rendered[:n] * angle.sin() + self.tail * angle.cos(), rendered[n:]])
        return rendered


def load_griffinlim() -> Callable[..., Tensor]:
    """torchaudio's Griffin-Lim.

    Raises:
        ConfigError: torchaudio does not load; the message says why and what to do.
    """
    try:
        from torchaudio.functional import griffinlim
    except (ImportError, OSError) as error:
        raise ConfigError(
            "the griffin-lim vocoder needs torchaudio, which does not load here "
            f"({' '.join(str(error).split())[:200]})",
            "a torchaudio built for the installed torch",
            "reinstall both in the supported range: pip install 'torch>=2.11,<2.15' 'torchaudio>=2.11,<2.12'",
        ) from None
    found: Callable[..., Tensor] = griffinlim
    return found
