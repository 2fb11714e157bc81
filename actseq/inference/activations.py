"""Sound ↔ the `Activations` of a file: encode a sound or a seed, and decode to the sound's own length and level."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from actseq.arrays import LatentArray, Waveform
from actseq.data.corpus import level_gain
from actseq.errors import ArtifactError
from actseq.inference.codec import Codec
from actseq.inference.generation import SeedAudio, encode_seed
from actseq.storage.activations import Activations

DECODE_FRAMES = 1024
"""Number of latent frames that are decoded at a time."""


def encode_sound(codec: Codec, autoencoder: str, pieces: Iterable[Waveform], samples: int, peak: float) -> Activations:
    """Encode a sound that arrives in pieces; its label is not known here.

    Args:
        codec: encoder.
        autoencoder: fingerprint of the codec's autoencoder.
        pieces: the waveform.
        samples: number of samples in all pieces.
        peak: largest absolute value in the pieces.
    """
    gain = np.float32(level_gain(peak, codec.level_dbfs))
    mean, log_variance = codec.encode_pieces(piece * gain for piece in pieces)
    return _activations(codec, autoencoder, (mean, log_variance), samples, float(gain))


def encode_as_seed(codec: Codec, autoencoder: str, waveform: Waveform) -> Activations:
    """Encode a sound (samples,) as one that is to be continued: mirrored at its end."""
    gain = np.float32(level_gain(float(np.abs(waveform).max(initial=0.0)), codec.level_dbfs))
    encoded = encode_seed(codec, SeedAudio(waveform, float(gain)))
    return _activations(codec, autoencoder, encoded, len(waveform), float(gain))


def _activations(
    codec: Codec, autoencoder: str, encoded: tuple[LatentArray, LatentArray | None], samples: int, gain: float
) -> Activations:
    return Activations(
        *encoded,
        latent_rate=codec.autoencoder.latent_rate,
        sample_rate=codec.sample_rate,
        samples=samples,
        gain=gain,
        label=None,
        autoencoder=autoencoder,
    )


def check_activations(activations: Activations, codec: Codec, autoencoder: str, name: str) -> None:
    """Refuse activations that the codec cannot decode; `name` is theirs in the message.

    Raises:
        ArtifactError: they are of another autoencoder, or have another number of dimensions.
    """
    if activations.autoencoder != autoencoder:
        raise ArtifactError(
            f"{name} was encoded by another autoencoder than that of this run",
            action="use the run that encoded it, or encode the sound with this one: actseq encode RUN PATH… --out DIR",
        )
    dims = activations.mean.shape[1]
    if dims != codec.autoencoder.latent_dim:
        raise ArtifactError(
            f"the mean in {name} has {dims} dimensions", f"(frames, {codec.autoencoder.latent_dim})", "keep them all"
        )


def own_samples(activations: Activations, codec: Codec) -> int | None:
    """Number of samples in the sound; None if its mean was edited to another number of frames."""
    return activations.own_length(codec.representation.hop_length, codec.autoencoder.stride)


def decode_activations(activations: Activations, codec: Codec) -> Iterator[Waveform]:
    """Yield the sound, piece by piece, at its own level and length; edited to another length, all its frames."""
    samples, gain = own_samples(activations, codec), np.float32(activations.gain)
    stream, left = codec.decode_stream(samples), samples
    for start in range(0, len(activations.mean), DECODE_FRAMES):
        piece = stream.push(activations.mean[start : start + DECODE_FRAMES])[:left]
        left = None if left is None else left - len(piece)
        yield np.divide(piece, gain)
    yield np.divide(stream.finish()[:left], gain)
