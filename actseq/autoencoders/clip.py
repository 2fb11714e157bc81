"""One Gaussian vector for a whole clip: convolutions over its spectrogram as a picture, padded with silence."""

from collections.abc import Iterable
from itertools import islice, pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from actseq import units
from actseq.autoencoders.linear_path import add_latents, components_of_rows, zero_last_layers
from actseq.errors import require
from actseq.representations.base import ComplexSpectrum, Features, LogMagnitude, Representation

MOST_CLIPS = 1000
"""Clips from which principal components are computed, at most."""
PATCH = 4
"""Bins and frames that the first layer takes together."""
USUAL_SECONDS = 1.0


class Clip(nn.Module):
    """`clip`: one latent frame for a whole clip, and back.

    The features are a picture of bins and frames: one plane of magnitudes, or two of real and imaginary parts. Patches
    of 4 × 4 pass through residual blocks; after each but the last the picture is halved in both directions. A linear
    layer makes the latents. The decoder is the mirror image; latents and condition scale and shift every one of its
    blocks. A clip that is shorter than `seconds` is followed by silence, which is encoded and decoded too.

    With `principal`, latents begin as the coordinates of a clip among the principal components of the training clips,
    each of unit variance, and the decoder as their sum. Both are fixed, and the convolutions run beside them: these
    begin at zero, so that training can only improve on the components.

    Features of more frames than one clip has are taken as several clips in a row.

    Args:
        channels: number of feature channels.
        latent_dim: values per clip.
        out_dim: values per clip that the encoder gives the bottleneck.
        representation: analysis of the features.
        condition_dim: values of the decoder's condition; 0 for a decoder without one.
        seconds: length of a clip with its silence; null: that of 95 % of the training clips, at most 3 s.
        width: channels of the first level; each further level has half as many again.
        levels: residual blocks in encoder and decoder each.
        principal: whether the principal components run beside the convolutions.
    """

    trainable = True
    generative = True
    accepts = ComplexSpectrum | LogMagnitude
    takes_representation = True
    context_frames: int | None = 0
    mean: Tensor
    components: Tensor | None
    deviations: Tensor

    def __init__(
        self,
        channels: int,
        latent_dim: int,
        out_dim: int,
        representation: Representation,
        condition_dim: int,
        *,
        seconds: float | None = None,
        width: int = 64,
        levels: int = 4,
        principal: bool = False,
    ) -> None:
        super().__init__()
        require(1, width=width, levels=levels)
        require(1e-3, seconds=seconds)
        self.planes = 2 if representation.signed else 1
        self.silence = representation.magnitudes.silence if isinstance(representation, LogMagnitude) else 0.0
        self.channels, self.condition_dim = channels, condition_dim
        self.stride = units.seconds_to_frames(
            USUAL_SECONDS if seconds is None else seconds, representation.feature_rate
        )
        self.bins = channels if self.planes == 1 else channels // 2 + 1
        halved = PATCH * 2 ** (levels - 1)
        self.height, self.length = (units.n_hops(size, halved) for size in (self.bins, self.stride))
        widths = [round(width * 1.5**level) for level in range(levels)]
        self.read = nn.Conv2d(self.planes, width, PATCH, PATCH)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, 2) for a, b in pairwise(widths))
        self.encoder = nn.ModuleList(Block(each, 0) for each in widths)
        places = widths[-1] * self.height * self.length
        self.encoder_out = nn.Linear(places, out_dim)
        self.decoder_in = nn.Linear(latent_dim + condition_dim, places)
        self.decoder = nn.ModuleList(Block(each, latent_dim + condition_dim) for each in reversed(widths))
        back = list(reversed(widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in pairwise(back))
        self.write = nn.ConvTranspose2d(width, self.planes, PATCH, PATCH)
        self.smooth = nn.Conv2d(self.planes, self.planes, 3, padding=1)
        with torch.no_grad():
            self.encoder_out.weight.mul_(0.1)
        size = channels * self.stride
        self.register_buffer("mean", torch.zeros(size) if principal else None)
        self.register_buffer("components", torch.zeros(size, latent_dim) if principal else None)
        self.register_buffer("deviations", torch.ones(latent_dim) if principal else None)

    @torch.no_grad()
    def fit(self, batches: Iterable[Features]) -> None:
        """Compute the principal components of clips, each padded to `stride` frames or cut to them."""
        if self.components is None:
            return
        chosen = islice(batches, MOST_CLIPS)
        rows = torch.cat([rearrange(one.values[:, :, : self.stride], "b c t -> b (c t)") for one in chosen])
        found = components_of_rows(rows, self.components.shape[1])
        for known, value in zip((self.mean, self.components, self.deviations), found, strict=True):
            known.copy_(value)
        zero_last_layers(self.encoder_out, nn.ModuleList([self.write, self.smooth]), self.components.shape[1])

    def encode(
        self, values: Float[Tensor, "batch channels frames"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch latent_frames out"]:
        """Numbers for the bottleneck; the autoencoder has put silence behind each clip."""
        n = units.n_latent_frames(values.shape[2], self.stride)
        clips = rearrange(values, "b c (n t) -> (b n) c t", n=n)
        x = self.read(F.pad(self._picture(clips), self._edge()))
        for level, block in enumerate(self.encoder):
            x = block(self.down[level - 1](x) if level else x, None)
        out: Tensor = rearrange(self.encoder_out(x.flatten(1)), "(b n) o -> b n o", n=n)
        if self.components is None:
            return out
        places = (clips.flatten(1) - self.mean) @ self.components / self.deviations
        return add_latents(out, rearrange(places, "(b n) d -> b n d", n=n))

    def decode(
        self,
        latents: Float[Tensor, "batch latent_frames latent_dim"],
        lengths: Int[Tensor, " batch"],
        condition: Float[Tensor, "batch latent_frames condition_dim"] | None = None,
    ) -> Float[Tensor, "batch channels frames"]:
        """Normalised features, (batch, channels, latent_frames · stride)."""
        batch = len(latents)
        code = latents if condition is None else torch.cat([latents, condition], dim=2)
        code = rearrange(code, "b n d -> (b n) d")
        x = rearrange(self.decoder_in(code), "b (w h t) -> b w h t", h=self.height, t=self.length)
        for level, block in enumerate(self.decoder):
            x = block(self.up[level - 1](x) if level else x, code)
        picture = self.write(x)
        picture = (picture + self.smooth(F.gelu(picture)))[:, :, : self.bins, : self.stride]
        out = rearrange(picture, "b p f t -> b (p f) t") if self.planes == 1 else _channels(picture)
        if self.components is not None:
            linear = self.mean + rearrange(latents, "b n d -> (b n) d") * self.deviations @ self.components.T
            out = out + rearrange(linear, "b (c t) -> b c t", t=self.stride)
        return rearrange(out, "(b n) c t -> b c (n t)", b=batch)

    def _picture(self, values: Float[Tensor, "batch channels frames"]) -> Float[Tensor, "batch planes bins frames"]:
        if self.planes == 1:
            return values[:, None]
        # The imaginary part is zero in the first and the last bin, which are no channels.
        imaginary = F.pad(values[:, self.bins :], (0, 0, 1, 1))
        return torch.stack([values[:, : self.bins], imaginary], dim=1)

    def _edge(self) -> tuple[int, int, int, int]:
        """What is missing of whole patches at the end of frames and of bins."""
        size = PATCH * 2 ** len(self.down)
        return 0, self.length * size - self.stride, 0, self.height * size - self.bins


class Block(nn.Module):
    """Residual block of two convolutions; a code scales and shifts what lies between them.

    Args:
        width: number of channels.
        code_dim: values of the code; 0: there is none.
    """

    def __init__(self, width: int, code_dim: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.change = nn.Linear(code_dim, 2 * width) if code_dim else None

    def forward(
        self, x: Float[Tensor, "batch width height length"], code: Float[Tensor, "batch code_dim"] | None
    ) -> Float[Tensor, "batch width height length"]:
        """x + f(x, code)."""
        y = self.first(F.gelu(self.norm(x)))
        if self.change is not None:
            scale, shift = self.change(code)[:, :, None, None].chunk(2, dim=1)
            y = y * (1 + scale) + shift
        out: Tensor = x + self.second(F.gelu(y))
        return out


def _channels(picture: Float[Tensor, "batch 2 bins frames"]) -> Float[Tensor, "batch channels frames"]:
    """Real parts of all bins, imaginary parts of all but the first and the last."""
    return torch.cat([picture[:, 0], picture[:, 1, 1:-1]], dim=1)
