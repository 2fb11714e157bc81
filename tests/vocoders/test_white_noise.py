"""White noise that belongs to the numbers of samples."""

import numpy as np
import pytest
import torch

from actseq.vocoders.noise import white_noise


def test_noise_belongs_to_the_number_of_a_sample_and_to_the_seed() -> None:
    whole = white_noise(-5000, 20000, 3)
    assert torch.equal(whole[5000:9000], white_noise(0, 4000, 3))
    assert torch.equal(whole[100:17000], white_noise(-4900, 16900, 3))
    many = white_noise(0, 200_000, 0)
    for other in (white_noise(0, 200_000, 1), white_noise(1, 200_000, 0), white_noise(2**40, 200_000, 0)):
        assert abs(np.corrcoef(many, other)[0, 1]) < 0.01


def test_it_is_gaussian_and_white() -> None:
    many = white_noise(0, 200_000, 0).numpy()
    assert abs(many.mean()) < 0.01
    assert many.std() == pytest.approx(1, abs=0.01)
    assert (many**4).mean() == pytest.approx(3, abs=0.1)
    spectrum = np.abs(np.fft.rfft(many[:65_536])) ** 2
    assert spectrum[1:].max() < 20 * spectrum.mean()
