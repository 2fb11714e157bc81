"""Frames of padded sequences: masks, valid frames, and moments summed over pieces."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def frame_mask(lengths: Int[Tensor, " batch"], frames: int) -> Bool[Tensor, "batch frames"]:
    """True inside each length."""
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


def valid_frames(
    values: Float[Tensor, "batch frames values"], lengths: Int[Tensor, " batch"]
) -> Float[Tensor, "valid values"]:
    """The frames inside each length, one clip after the other."""
    return values[frame_mask(lengths, values.shape[1])]


class Moments(NamedTuple):
    """Statistics over all frames, in double precision.

    Attributes:
        mean: mean of each value of a frame.
        square: mean of each value's square.
        low: smallest value of all.
        high: greatest value of all.
    """

    mean: Float[Tensor, " values"]
    square: Float[Tensor, " values"]
    low: float
    high: float


def moments(pieces: Iterable[Float[Tensor, "frames values"]]) -> Moments:
    """Statistics of frames that come in pieces."""
    count, total, square, low, high = 0, torch.zeros(()), torch.zeros(()), math.inf, -math.inf
    for piece in pieces:
        frames = piece.double().cpu()
        count, total, square = count + len(frames), total + frames.sum(0), square + frames.square().sum(0)
        low, high = min(low, float(frames.min())), max(high, float(frames.max()))
    return Moments(total / count, square / count, low, high)
