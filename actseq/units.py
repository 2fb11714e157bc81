"""Conversions between samples, frames, seconds, decibels and nepers; no other module converts.

Convention: frame t with a hop of h samples is centred on sample t·h, and outside the clip there is silence. A clip of n
samples therefore has 1 + n // h frames, and the last one is centred at or just before the end of the clip. A network
with stride s makes ceil(frames / s) latent frames, one from every s frames.
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
else:  # Types are not needed at run time, where importing torch would take time.
    Count, Level, Magnitude = TypeVar("Count"), TypeVar("Level"), TypeVar("Magnitude")

DB_PER_NEPER = 20 / math.log(10)


def n_frames(n_samples: Count, hop_length: int) -> Count:
    """Frames that cover a clip of `n_samples`."""
    return 1 + n_samples // hop_length


def n_latent_frames(frames: Count, stride: int) -> Count:
    """Latent frames of a network with this stride for `frames` feature frames."""
    # Not -(-frames // stride): an exported model rounds a negative quotient towards zero.
    return (frames + stride - 1) // stride


def n_hops(n_samples: int, hop_length: int) -> int:
    """Least number of hops that last at least `n_samples`."""
    return -(-n_samples // hop_length)


def duration(seconds: float) -> str:
    """A time in words: in minutes from two of them on, below that in seconds, below one of these in milliseconds."""
    if seconds >= 120:
        return f"{seconds / 60:.3g} minutes"
    return f"{seconds:.3g} seconds" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def seconds_to_samples(seconds: float, sample_rate: int) -> int:
    """Duration in samples, to the nearest sample."""
    return round(seconds * sample_rate)


def samples_to_seconds(samples: int, sample_rate: int) -> float:
    """Duration in seconds."""
    return samples / sample_rate


def seconds_to_frames(seconds: float, rate: float) -> int:
    """Least number of frames (feature or latent frames, at `rate` Hz) that last at least `seconds`."""
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
    """Level in dB of an amplitude ratio; ratios below `floor` count as `floor`."""
    level: Magnitude = 20 * np.log10(np.maximum(amplitude, floor))
    return level


def power_to_db(power: Magnitude, floor: float = 0.0) -> Magnitude:
    """Level in dB of a power ratio; ratios below `floor` count as `floor`."""
    level: Magnitude = 10 * np.log10(np.maximum(power, floor))
    return level
