"""`recurrent`: gated recurrent units over stacked frames, in both directions.

Every frame may depend on every other, so a clip is worked on as a whole. Sequences are packed before they are read: the
backward direction begins at the end of each clip, not at that of the longest one.
"""

from collections.abc import Iterable

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from actseq import units
from actseq.autoencoders.linear_path import (
    add_latents,
    set_to_principal_components,
    stack_frames,
    unstack_frames,
    zero_last_layers,
)
from actseq.errors import require
from actseq.representations.base import Features


class Recurrent(nn.Module):
    """Layers of gated recurrent units over stacked frames, in encoder and decoder.

    The linear path of `Conv` is here too: training starts from principal components.

    Args:
        channels: number of feature channels.
        latent_dim: values per latent frame.
        out_dim: values per latent frame that the encoder gives the bottleneck.
        width: units of a layer, in each direction.
        layers: stacked layers, in encoder and decoder each.
        stride: feature frames per latent frame.
        bidirectional: read clips backwards too; without it, nothing depends on later frames.

    Source: Cho et al., Learning Phrase Representations using RNN Encoder-Decoder (2014).
    """

    trainable = True
    generative = True
    context_frames: int | None = None

    def __init__(
        self,
        channels: int,
        latent_dim: int,
        out_dim: int,
        *,
        width: int = 192,
        layers: int = 2,
        stride: int = 2,
        bidirectional: bool = True,
    ) -> None:
        super().__init__()
        require(1, width=width, layers=layers, stride=stride)
        self.stride = stride
        size, read = stride * channels, width * (2 if bidirectional else 1)
        self.encoder = nn.GRU(size, width, layers, batch_first=True, bidirectional=bidirectional)
        self.encoder_out = nn.Linear(read, out_dim)
        self.decoder = nn.GRU(latent_dim, width, layers, batch_first=True, bidirectional=bidirectional)
        self.decoder_out = nn.Linear(read, size)
        self.linear_encode = nn.Linear(size, latent_dim)
        self.linear_decode = nn.Linear(latent_dim, size)
        zero_last_layers(self.encoder_out, self.decoder_out, latent_dim)

    def fit(self, batches: Iterable[Features]) -> None:
        """Set the linear path to the principal components, with codes of unit variance."""
        set_to_principal_components(self.linear_encode, self.linear_decode, batches, self.stride)

    def encode(
        self, values: Float[Tensor, "batch channels frames"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch latent_frames out"]:
        """Numbers for the bottleneck, (batch, ceil(frames / stride), out_dim)."""
        stacked = stack_frames(values, lengths, self.stride)
        numbers = self.encoder_out(_read(self.encoder, stacked, units.n_latent_frames(lengths, self.stride)))
        return add_latents(numbers, self.linear_encode(stacked))

    def decode(
        self, latents: Float[Tensor, "batch latent_frames latent_dim"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch channels frames"]:
        """Normalised features, (batch, channels, latent_frames · stride)."""
        rows = self.decoder_out(_read(self.decoder, latents, lengths)) + self.linear_decode(latents)
        return unstack_frames(rows, self.stride)


def _read(
    gru: nn.GRU, x: Float[Tensor, "batch frames size"], lengths: Int[Tensor, " batch"]
) -> Float[Tensor, "batch frames read"]:
    """What the units say of each frame; zero beyond the lengths."""
    batch, frames, _ = x.shape
    if not frames:
        return x.new_zeros(batch, 0, gru.hidden_size * (2 if gru.bidirectional else 1))
    # Packing knows no empty sequence; of one, all that comes out lies beyond its length.
    packed = pack_padded_sequence(x, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
    out: Tensor = pad_packed_sequence(gru(packed)[0], batch_first=True, total_length=frames)[0]
    return out
