"""Samples ↔ frames ↔ seconds. Nobody else converts.

Convention: a frame t of hop h is centred on sample t·h, and what lies outside the clip is silence. A clip of n samples
therefore has 1 + n // h frames, the last centred at or just before its end. A network with stride s over frames makes
ceil(frames / s) latent frames, each standing for s frames.
"""

from math import ceil


def n_frames(n_samples: int, hop_length: int) -> int:
    """Frames that cover a clip of `n_samples`."""
    return 1 + n_samples // hop_length


def n_latent_frames(frames: int, stride: int) -> int:
    """Latent frames that stand for `frames` feature frames."""
    return -(-frames // stride)


def seconds_to_samples(seconds: float, sample_rate: int) -> int:
    """Nearest whole number of samples."""
    return round(seconds * sample_rate)


def samples_to_seconds(samples: int, sample_rate: int) -> float:
    """Duration in seconds."""
    return samples / sample_rate


def seconds_to_frames(seconds: float, rate: float) -> int:
    """Fewest frames (feature or latent, at `rate` Hz) that last at least `seconds`."""
    return max(1, ceil(seconds * rate - 1e-9))


def db_to_amplitude(db: float) -> float:
    """Amplitude ratio of a level in dB."""
    return float(10.0 ** (db / 20.0))
