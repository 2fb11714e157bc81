"""Types of arrays that occur in every part of the library."""

import numpy as np
from numpy.typing import NDArray

Waveform = NDArray[np.float32]
"""Samples of a clip, (samples,), in [-1, 1]."""
LatentArray = NDArray[np.float32]
"""Latents of a clip, (frames, latent_dim)."""
