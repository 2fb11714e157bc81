"""What an adversarial vocoder is judged by: waveforms folded at five periods, spectrograms at three resolutions.

Only training needs them: they are in its checkpoints, never in what a run keeps.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from actseq.errors import require

PERIODS = (2, 3, 5, 7, 11)
WINDOWS = (512, 1024, 2048)
SLOPE = 0.1


@dataclass(frozen=True)
class Judgement:
    """What one discriminator says of a batch of waveforms.

    Attributes:
        scores: above 0 for what it takes for real, wherever it looks.
        maps: what its layers make of the waveforms, first to last.
    """

    scores: Float[Tensor, "batch heights widths"]
    maps: list[Float[Tensor, "batch _ _ _"]]


class Discriminators(nn.Module):
    """All of them.

    Args:
        width: channels of the first layers.

    Source: periods: Kong, Kim and Bae, HiFi-GAN (2020), section 2.3; resolutions: Jang et al., UnivNet (2021), section
    2.2.
    """

    def __init__(self, *, width: int = 32) -> None:
        super().__init__()
        require(1, width=width)
        self.judges = nn.ModuleList(
            [*(PeriodDiscriminator(p, width) for p in PERIODS), *(ResolutionDiscriminator(n, width) for n in WINDOWS)]
        )

    def forward(self, waveform: Float[Tensor, "batch samples"]) -> list[Judgement]:
        """One judgement each."""
        return [judge(waveform) for judge in self.judges]


class PeriodDiscriminator(nn.Module):
    """Looks along every `period`-th sample.

    Args:
        period: in samples.
        width: channels of the first layer; later ones have 4, 16 and 32 times as many.
    """

    def __init__(self, period: int, width: int) -> None:
        super().__init__()
        self.period = period
        channels = [1, width, 4 * width, 16 * width, 32 * width]
        layers = [nn.Conv2d(before, after, (5, 1), (3, 1), padding=(2, 0)) for before, after in pairwise(channels)]
        layers.append(nn.Conv2d(channels[-1], channels[-1], (5, 1), padding=(2, 0)))
        self.stack = _Stack(layers, nn.Conv2d(channels[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, waveform: Float[Tensor, "batch samples"]) -> Judgement:
        """Of waveforms, padded with silence to whole periods."""
        padded = F.pad(waveform, (0, -waveform.shape[1] % self.period))
        picture: Tensor = rearrange(padded, "b (t p) -> b 1 t p", p=self.period)
        return self.stack(picture)  # type: ignore[no-any-return]


class ResolutionDiscriminator(nn.Module):
    """Looks at a magnitude spectrogram.

    Args:
        n_fft: window in samples; the hop is a quarter.
        width: channels of all layers.
    """

    window: Tensor

    def __init__(self, n_fft: int, width: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        layers = [nn.Conv2d(1, width, (9, 3), padding=(4, 1))]
        layers += [nn.Conv2d(width, width, (9, 3), (2, 1), padding=(4, 1)) for _ in range(3)]
        layers.append(nn.Conv2d(width, width, (3, 3), padding=(1, 1)))
        self.stack = _Stack(layers, nn.Conv2d(width, 1, (3, 3), padding=(1, 1)))
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, waveform: Float[Tensor, "batch samples"]) -> Judgement:
        """Of waveforms."""
        spectrum = torch.stft(
            waveform, self.n_fft, self.n_fft // 4, window=self.window, pad_mode="constant", return_complex=True
        )
        return self.stack(spectrum.abs()[:, None])  # type: ignore[no-any-return]


class _Stack(nn.Module):
    """Weight-normalised convolutions with leaky rectifiers between."""

    def __init__(self, layers: list[nn.Conv2d], last: nn.Conv2d) -> None:
        super().__init__()
        self.layers = nn.ModuleList(weight_norm(layer) for layer in layers)
        self.last = weight_norm(last)

    def forward(self, picture: Float[Tensor, "batch 1 rows columns"]) -> Judgement:
        maps = []
        for layer in self.layers:
            picture = F.leaky_relu(layer(picture), SLOPE)
            maps.append(picture)
        return Judgement(self.last(picture)[:, 0], maps)
