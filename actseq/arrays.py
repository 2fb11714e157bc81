"""Types of arrays that occur in every part of the library."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from actseq.errors import AudioError

Waveform = NDArray[np.float32]
"""Samples of a clip, (samples,), in [-1, 1]."""
LatentArray = NDArray[np.float32]
"""Latents of a clip, (frames, latent_dim)."""


def one_channel(waveform: NDArray[Any]) -> Waveform:
    """A waveform that the library was given, as 32-bit floats.

    Raises:
        AudioError: it has several channels, holds integers, or is not finite.
    """
    if waveform.ndim != 1:
        action = "mix its channels, for example with waveform.mean(axis=1)"
        raise AudioError(f"the given waveform has the shape {waveform.shape}", "(samples,)", action)
    if not np.issubdtype(waveform.dtype, np.floating):
        raise AudioError(
            f"the given waveform holds {waveform.dtype}", "floats in [-1, 1]", "divide it by its full scale"
        )
    if not np.isfinite(waveform).all():
        raise AudioError("the given waveform holds NaN or infinite samples", "finite samples")
    return waveform.astype(np.float32)
