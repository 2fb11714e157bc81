"""Filling gaps: what a prior is given, what stays, and that a stream does not depend on the pieces it is given."""

from collections.abc import Iterator
from typing import Literal

import members
import numpy as np
import pytest
import torch

from actseq.config import GenerateConfig
from actseq.inference import filling
from actseq.inference.codec import Codec
from actseq.inference.filling import FillingStream, gaps_of, mirrored
from actseq.inference.generation import ResolvedRequest
from actseq.inference.joins import CROSSFADE_SECONDS
from actseq.priors.base import Chunk, SamplingRequest
from actseq.vocoders.phase import Phase

RATE, SIZE, LATENT_DIM = 8000, 128, 5
FADE = round(CROSSFADE_SECONDS * RATE)


class Drawn:
    """A prior that draws noise, and keeps what it was asked."""

    has_likelihood = False
    controls: tuple[str, ...] = ()
    latent_dim = LATENT_DIM
    takes_suffix: Literal[True] = True

    def __init__(self) -> None:
        self.asked = list[SamplingRequest]()

    def sample(self, request: SamplingRequest) -> Iterator[Chunk]:
        self.asked.append(request)
        shape = (request.n, request.max_frames, LATENT_DIM)
        made = torch.randn(shape, generator=torch.Generator().manual_seed(request.seed))
        yield Chunk(made, torch.zeros(shape[:2], dtype=torch.bool))


@pytest.fixture(scope="module")
def codec() -> Codec:
    """128 samples in a latent frame, at 8 kHz."""
    analysis = members.representation("mel")
    model = members.autoencoder("conv", "variational", {"width": 8, "inner": 16, "blocks": 1, "stride": 2}, LATENT_DIM)
    return Codec(analysis, model, Phase(analysis, n_turns=2), -3.0, torch.device("cpu"))


def noise(seconds: float) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(round(seconds * RATE))).astype(np.float32)


def torn(sound: np.ndarray, *gaps: tuple[int, int]) -> np.ndarray:
    made = sound.copy()
    for begin, end in gaps:
        made[begin:end] = 0
    return made


def filled(
    codec: Codec, sound: np.ndarray, *gaps: tuple[int, int], prior: Drawn | None = None, pieces: int = 1, **given: float
) -> np.ndarray:
    settings = GenerateConfig.model_validate({"temperature": given.get("temperature", 0.0)})
    wanted = ResolvedRequest(settings, seed=int(given.get("seed", 0)))
    stream = FillingStream(codec, prior or Drawn(), wanted, gaps_of(codec, gaps, len(sound)))
    made = [stream.push(piece) for piece in np.array_split(sound, pieces)]
    return np.concatenate([*made, stream.finish()])


@pytest.mark.parametrize("gap", [(8000, 8400), (8064, 8192), (0, 400), (15600, 16000), (8000, 8001)])
def test_only_the_gap_and_its_crossfades_change(codec: Codec, gap: tuple[int, int]) -> None:
    sound = torn(noise(2), gap)
    made = filled(codec, sound, gap)
    assert made.dtype == np.float32
    assert len(made) == len(sound)
    begin, end = gap
    np.testing.assert_array_equal(made[: max(0, begin - FADE)], sound[: max(0, begin - FADE)])
    np.testing.assert_array_equal(made[end + FADE :], sound[end + FADE :])
    assert np.abs(made[begin:end]).max() > 0
    assert end < len(sound) or made[-1] == 0


def test_latent_frames_are_rounded_outward_and_gaps_that_touch_are_one(codec: Codec) -> None:
    [first, second] = gaps_of(codec, [(1000, 1100), (256, 384), (1100, 1200), (1050, 1060)], 4000)
    assert (first.begin, first.end, first.frames, first.regenerated) == (256, 384, (2, 3), (256, 384))
    assert (second.begin, second.end, second.frames, second.regenerated) == (1000, 1200, (7, 10), (896, 1280))


@pytest.mark.parametrize("second", [(10000, 10800), (8900, 10000)])
def test_the_prior_sees_the_sound_beside_the_gap_and_no_silence(codec: Codec, second: tuple[int, int]) -> None:
    """What lies in a gap does not matter: neither in the one that is filled, nor in those that follow."""
    gaps, sound = [(8000, 8800), second], noise(2)
    asked = []
    for content in (0.0, 0.5):
        other, prior = sound.copy(), Drawn()
        for begin, end in gaps:
            other[begin:end] = content
        filled(codec, other, *gaps, prior=prior)
        asked.append(prior.asked)
    for silent, loud in zip(*asked, strict=True):
        for name in ("prompt", "suffix", "guess"):
            one, two = getattr(silent, name), getattr(loud, name)
            assert one is not None
            assert two is not None
            torch.testing.assert_close(one, two, rtol=0, atol=1e-5)
    first = asked[0][0]
    assert first.prompt is not None
    assert first.suffix is not None
    assert (first.prompt.shape[1], first.max_frames, first.min_frames) == (62, 7, 7)
    assert first.suffix.shape[1] == len(codec.encode([sound])[0][0]) - 69


def test_the_prior_sets_out_from_what_is_mirrored_unless_it_is_to_draw(codec: Codec) -> None:
    sound, prior = noise(2), Drawn()
    begin, end = gap = (8000, 8800)
    bridged = sound.copy()
    bridged[begin:end] = mirrored(sound[:begin], sound[end:], end - begin)
    gain = np.float32(10 ** (-3 / 20) / np.abs(bridged).max())
    for temperature in (0.0, 0.5, 1.0):
        filled(codec, torn(sound, gap), gap, prior=prior, temperature=temperature)
    near, between, free = prior.asked
    assert near.guess is not None
    expected = codec.encode([bridged * gain])[0][0][62:69]
    np.testing.assert_allclose(near.guess[0].numpy(), expected, atol=1e-5)
    assert (near.nearness, between.nearness) == (filling.NEARNESS, filling.NEARNESS / 2)
    assert free.guess is None


@pytest.mark.parametrize("pieces", [2, 9, 400])
def test_the_pieces_do_not_matter(codec: Codec, monkeypatch: pytest.MonkeyPatch, pieces: int) -> None:
    monkeypatch.setattr(filling, "AROUND_SECONDS", 0.5)
    gaps = [(100, 300), (6000, 6400), (7000, 7100), (20000, 20500), (31900, 32000)]
    sound = torn(noise(4), *gaps)
    np.testing.assert_array_equal(filled(codec, sound, *gaps, pieces=pieces), filled(codec, sound, *gaps))


def test_no_more_is_held_than_a_gap_needs_around_it(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "AROUND_SECONDS", 0.5)
    sound, gap = noise(8), (30000, 30400)
    stream = FillingStream(codec, Drawn(), ResolvedRequest(GenerateConfig()), gaps_of(codec, [gap], len(sound)))
    held = returned = 0
    for piece in np.array_split(sound, 128):
        returned += len(stream.push(piece))
        held = max(held, len(stream.held))
    assert held <= 2 * 0.5 * RATE + 400 + 3 * SIZE + 500
    assert returned == len(sound)


def test_each_gap_and_each_seed_has_its_own_draw(codec: Codec) -> None:
    gaps = [(4000, 4400), (12000, 12400)]
    sound = torn(noise(2), *gaps)
    prior = Drawn()
    made = filled(codec, sound, *gaps, prior=prior)
    assert len({request.seed for request in prior.asked}) == 2
    np.testing.assert_array_equal(made, filled(codec, sound, *gaps))
    assert np.abs(made - filled(codec, sound, *gaps, seed=1)).max() > 1e-3


def test_silence_around_a_gap_stays(codec: Codec) -> None:
    assert not filled(codec, np.zeros(RATE, np.float32), (3000, 3500)).any()


@pytest.mark.parametrize(("before", "after"), [(50, 0), (0, 50), (50, 50), (1, 1), (500, 500), (0, 0)])
def test_a_gap_is_bridged_by_what_lies_beside_it(before: int, after: int) -> None:
    """Steady sound stays steady in level, whatever there is of it."""
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal(n).astype(np.float32) for n in (before, after))
    made = mirrored(left, right, 120)
    assert len(made) == 120
    if before > 1:
        assert made[0] == pytest.approx(left[-2], abs=0.05)
    if after > 1:
        assert made[-1] == pytest.approx(right[1], abs=0.05)
    assert np.abs(made).max(initial=0.0) <= 1.5 * max(np.abs(left).max(initial=0.0), np.abs(right).max(initial=0.0))
