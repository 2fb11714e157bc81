"""A cycle repeats without a seam, measured as the joins of continuations are, and has its exact length."""

from collections.abc import Iterator
from typing import Any, Literal

import members
import numpy as np
import pytest
import torch
from torch import Tensor

from actseq.config import GenerateConfig
from actseq.evaluation import metrics
from actseq.inference.codec import Codec
from actseq.inference.generation import End, Piece, ResolvedRequest
from actseq.inference.joins import cycle
from actseq.inference.loops import loops
from actseq.priors.base import Chunk, SamplingRequest
from actseq.priors.clip_flow import ClipFlow, Window
from actseq.vocoders.phase import Phase

LATENT_DIM, RATE = 5, 8000


class Smooth:
    """A prior of slow noise; it keeps what it was asked."""

    has_likelihood = False
    controls: tuple[str, ...] = ()
    latent_dim = LATENT_DIM

    def __init__(self) -> None:
        self.asked = list[SamplingRequest]()

    def sample(self, request: SamplingRequest) -> Iterator[Chunk]:
        self.asked.append(request)
        shape = (request.n, request.max_frames + 7, LATENT_DIM)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(request.seed))
        made = noise.unfold(1, 8, 1).mean(-1)
        yield Chunk(made, torch.zeros(made.shape[:2], dtype=torch.bool))


class Closing(Smooth):
    """The same, and it knows what follows."""

    takes_suffix: Literal[True] = True


@pytest.fixture(scope="module")
def codec() -> Codec:
    """128 samples in a latent frame, at 8 kHz."""
    torch.manual_seed(0)
    analysis = members.representation("mel")
    model = members.autoencoder("conv", "variational", {"width": 8, "inner": 16, "blocks": 1, "stride": 2}, LATENT_DIM)
    return Codec(analysis, model, Phase(analysis, n_turns=2), None, torch.device("cpu"))


def seam(waveform: np.ndarray) -> tuple[float, float]:
    """Jump where a cycle repeats: of the spectrum over the 99th percentile inside, of the waveform over the largest."""
    inside = metrics.clip_jumps(waveform, RATE)
    found = metrics.spectral_jump(np.tile(waveform, 2), RATE, len(waveform))
    spectral, waveform = np.percentile(inside.spectral, 99), inside.waveform.max()
    return float(found.spectral / spectral), float(found.waveform / waveform)


def made(codec: Codec, prior: Smooth, seconds: float, n: int = 1) -> list[Piece]:
    settings = GenerateConfig(seconds=seconds, after_end="ignore")
    return list(loops(codec, prior, ResolvedRequest(settings, n, seed=3)))


@pytest.mark.parametrize("kind", [Smooth, Closing])
@pytest.mark.parametrize("seconds", [1.0, 0.5, 0.4321])
def test_a_cycle_has_its_length_and_no_seam(codec: Codec, kind: type[Smooth], seconds: float) -> None:
    pieces = made(codec, kind(), seconds, n=3)
    assert [piece.clip for piece in pieces] == [0, 1, 2]
    for piece in pieces:
        assert len(piece.waveform) == round(seconds * RATE)
        assert max(seam(piece.waveform)) <= 1
        assert piece.end == End(False, None)


def test_a_prior_that_knows_what_follows_closes_the_circle(codec: Codec) -> None:
    prior = Closing()
    [piece] = made(codec, prior, 0.5)
    opened, closed = prior.asked
    assert (opened.max_frames, opened.prompt, opened.suffix) == (24, None, None)
    assert opened.max_frames + closed.max_frames == len(piece.latents) == 32
    assert closed.prompt is not None
    assert closed.suffix is closed.prompt
    np.testing.assert_array_equal(piece.latents[:24], closed.prompt[0])
    assert closed.seed != opened.seed


def test_a_flow_over_windows_closes_a_circle_that_is_longer_than_its_window(codec: Codec) -> None:
    torch.manual_seed(1)
    flow = ClipFlow(LATENT_DIM, 3, 4, 12, width=8, layers=1, heads=2, inner=12, steps=2).eval()
    settings = GenerateConfig(seconds=0.5)
    first, again = (list(loops(codec, flow, ResolvedRequest(settings, 2, seed=5))) for _ in range(2))
    for one, two in zip(first, again, strict=True):
        assert (len(one.waveform), len(one.latents)) == (4000, 32)
        np.testing.assert_array_equal(one.waveform, two.waveform)
        assert max(seam(one.waveform)) <= 1
    assert not np.array_equal(first[0].waveform, first[1].waveform)


def test_no_part_of_a_cycle_is_told_that_the_sound_ends(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = ClipFlow(LATENT_DIM, 3, 4, 12, width=8, layers=1, heads=2, inner=12, steps=2).eval()
    ends = list[bool]()
    draw = prior._in_groups

    def recorded(values: Tensor, window: Window, *others: Any) -> Tensor:
        ends.extend(window.ends.tolist())
        return draw(values, window, *others)

    monkeypatch.setattr(prior, "_in_groups", recorded)
    settings = GenerateConfig(seconds=0.5, after_end="restart")
    list(loops(codec, prior, ResolvedRequest(settings, 2, seed=3)))
    assert ends
    assert not any(ends)
    # A clip of that length is one that ends.
    ends.clear()
    list(prior.sample(SamplingRequest(n=1, max_frames=9)))
    assert ends == [True]


@pytest.mark.parametrize("seconds", [0.001, 0.01, 0.02])
def test_the_shortest_cycles(codec: Codec, seconds: float) -> None:
    for kind in (Smooth, Closing):
        [piece] = made(codec, kind(), seconds)
        assert len(piece.waveform) == round(seconds * RATE)
        assert np.isfinite(piece.waveform).all()


def test_a_crossfade_keeps_the_power_and_ends_in_what_was_made() -> None:
    sound = np.random.default_rng(0).standard_normal(20_000).astype(np.float32)
    out = cycle(sound[:11_000], 8000, 2000)
    assert len(out) == 8000
    assert 0.9 < np.std(out[:2000]) < 1.1
    at = next(i for i in range(1001) if sound[i + 2000] == out[2000])
    np.testing.assert_array_equal(out[2000:], sound[at + 2000 : at + 8000])
    assert out[0] == sound[at + 8000]


def test_a_cut_has_a_seam_that_a_crossfade_does_not_have() -> None:
    noise = np.random.default_rng(0).standard_normal((9, 10_400))
    sounds = [np.convolve(row, np.hanning(400), "valid").astype(np.float32) for row in noise]
    assert max(seam(cycle(sound, 8000, 2000))[1] for sound in sounds) <= 1
    assert min(seam(sound[:8000])[1] for sound in sounds) > 5


def test_a_sound_that_repeats_by_itself_is_left_as_it_is() -> None:
    period = np.random.default_rng(0).standard_normal(800).astype(np.float32)
    sound = np.tile(period, 4)
    np.testing.assert_allclose(cycle(sound[:1300], 800, 200), period, atol=1e-6)
