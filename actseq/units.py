"""Samples, frames, seconds, decibels and nepers. Nobody else converts.

Convention: a frame t of hop h is centred on sample t·h, and what lies outside the clip is silence. A clip of n samples
therefore has 1 + n // h frames, the last centred at or just before its end. A network with stride s over frames makes
ceil(frames / s) latent frames, one for every s frames.
"""

import math
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Count = TypeVar("Count", int, Tensor)
    Level = TypeVar("Level", float, NDArray[Any], Tensor)
    Magnitude = TypeVar("Magnitude", float, NDArray[Any])
else:  # Numbers, arrays and tensors alike, without the time that importing torch takes.
    Count, Level, Magnitude = TypeVar("Count"), TypeVar("Level"), TypeVar("Magnitude")

DB_PER_NEPER = 20 / math.log(10)


def n_frames(n_samples: Count, hop_length: int) -> Count:
    """Frames that cover a clip of `n_samples`."""
    return 1 + n_samples // hop_length


def n_latent_frames(frames: Count, stride: int) -> Count:
    """Latent frames of `frames` feature frames."""
    return -(-frames // stride)


def n_hops(n_samples: int, hop_length: int) -> int:
    """Fewest hops that last at least `n_samples`."""
    return -(-n_samples // hop_length)


def seconds_to_samples(seconds: float, sample_rate: int) -> int:
    """Nearest whole number of samples."""
    return round(seconds * sample_rate)


def samples_to_seconds(samples: int, sample_rate: int) -> float:
    """Duration in seconds."""
    return samples / sample_rate


def seconds_to_frames(seconds: float, rate: float) -> int:
    """Fewest frames (feature or latent, at `rate` Hz) that last at least `seconds`."""
    return max(1, math.ceil(seconds * rate - 1e-9))


def db_to_amplitude(db: Level) -> Level:
    """Amplitude ratio of a level in dB."""
    ratio: Level = 10.0 ** (db / 20.0)
    return ratio


def db_to_power(db: Level) -> Level:
    """Power ratio of a level in dB."""
    ratio: Level = 10.0 ** (db / 10.0)
    return ratio


def amplitude_to_db(amplitude: Magnitude, floor: float = 0.0) -> Magnitude:
    """Level in dB of an amplitude ratio; below `floor` that of the floor."""
    level: Magnitude = 20 * np.log10(np.maximum(amplitude, floor))
    return level


def power_to_db(power: Magnitude, floor: float = 0.0) -> Magnitude:
    """Level in dB of a power ratio; below `floor` that of the floor."""
    level: Magnitude = 10 * np.log10(np.maximum(power, floor))
    return level
