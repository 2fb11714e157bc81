"""Waveforms that the library is given."""

import numpy as np
import pytest

from actseq.arrays import one_channel
from actseq.errors import AudioError
from actseq.inference.request import GenerationRequest


def test_floats_of_one_channel_are_taken() -> None:
    made = one_channel(np.array([0.5, -0.25]))
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made, [0.5, -0.25])


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (np.zeros((10, 2)), r"shape \(10, 2\); expected \(samples,\); mix"),
        (np.zeros(10, np.int16), "holds int16; expected floats"),
        (np.array([0.1, np.nan]), "NaN"),
    ],
)
def test_other_arrays_are_named(waveform: np.ndarray, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        one_channel(waveform)


def test_integers_of_numpy_are_numbers() -> None:
    # The checks of types that the tests switch on would refuse these in the constructor.
    request = GenerationRequest()
    object.__setattr__(request, "seed", np.uint8(7))
    request.__post_init__()
    assert type(request.seed) is int
