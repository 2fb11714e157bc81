"""Labels in time as numbers for each latent frame: the row of its label, and its place in the label's span.

The row selects a vector of the table of labels. The place becomes another vector, and both are added to the condition
of the frame; see `actseq.priors.labels`. What else is given for each frame, such as a second tag, pitch or loudness,
becomes one more vector in the same way.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

REACHES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""Frames over which nearness to the beginning or the end, of a span or of a whole clip, falls to 1/e."""
N_WAVES = 4
"""Number of cosines over a span."""
N_PLACE = 2 * len(REACHES) + N_WAVES + 2
"""Numbers that say where in its span a frame lies."""

TimedRow = tuple[float, float, int]
"""Beginning and end of a span in seconds, and the row of its label in the table of labels."""


def frame_rows(spans: Sequence[TimedRow], rate: float, first: int, frames: int) -> Int[np.ndarray, " frames"]:
    """The row of the label at the middle of each frame; 0 where there is no label.

    Args:
        spans: they do not overlap; beginnings and ends may lie outside the frames.
        rate: frames a second.
        first: number of the first frame.
        frames: number of frames.
    """
    middle = (first + np.arange(frames) + 0.5) / rate
    rows = np.zeros(frames, np.int64)
    for begin, end, row in spans:
        rows[(begin <= middle) & (middle < end)] = row
    return rows


def frame_places(
    spans: Sequence[TimedRow], rate: float, first: int, frames: int
) -> Float[np.ndarray, "frames n_place"]:
    """The place of each frame in its span: 1, nearness to begin and end, cosines over the span, log of its length.

    Outside all spans only the 1 is left, which tells a frame without a label from one of which nothing is known; of
    the latter all numbers are 0. Arguments are those of `frame_rows`.
    """
    middle = (first + np.arange(frames) + 0.5) / rate
    places = np.zeros((frames, N_PLACE), np.float32)
    places[:, 0] = 1
    reaches, waves = np.array(REACHES) / rate, np.pi * np.arange(1, N_WAVES + 1)
    for begin, end, row in spans:
        inside = (begin <= middle) & (middle < end)
        if row and inside.any():
            since, left = middle[inside, None] - begin, end - middle[inside, None]
            share = since / (end - begin)
            length = np.full_like(share, np.log((end - begin) * rate) - 2)
            near = [np.exp(-since / reaches), np.exp(-left / reaches), np.cos(waves * share)]
            places[inside, 1:] = np.concatenate([*near, length], axis=1)
    return places
