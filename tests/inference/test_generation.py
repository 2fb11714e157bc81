"""From a prior to waveforms: streams, lengths, joins and choices. Chunks do not change the clip."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import members
import numpy as np
import pytest
import torch

from actseq.config import GenerateConfig
from actseq.errors import ConfigError
from actseq.inference.codec import Codec
from actseq.inference.generation import (
    BATCH_CLIPS,
    END_FADE_SECONDS,
    ResolvedRequest,
    SeedAudio,
    best,
    collect,
    generate,
)
from actseq.inference.joins import ALIGN_SECONDS, CROSSFADE_SECONDS
from actseq.priors.base import Chunk, SamplingRequest
from actseq.priors.sequence import SequencePrior
from actseq.vocoders.phase import Phase

LATENT_DIM = 5


def codec_of(chunk_frames: int = 2048) -> Codec:
    analysis = members.representation("mel")
    model = members.autoencoder("conv", "variational", {"width": 8, "inner": 16, "blocks": 1, "stride": 2}, LATENT_DIM)
    assert model.latent_dim == LATENT_DIM
    vocoder = Phase(analysis, n_turns=2)
    return Codec(analysis, model, vocoder, None, torch.device("cpu"), chunk_frames)


def prior_of(hazard_bias: float = -3.0) -> SequencePrior:
    model = members.prior("lstm", "mixture", latent_dim=LATENT_DIM)
    model.end.bias.data.fill_(hazard_bias)
    return model


def wanted(n: int = 1, seed_audio: SeedAudio | None = None, **settings: Any) -> ResolvedRequest:
    settings = {"seconds": 0.5, "max_seconds": 2.0} | settings
    return ResolvedRequest(
        GenerateConfig.model_validate(settings), n, condition=torch.ones(1, 8), seed_audio=seed_audio
    )


def a_digit(data_dir: Path, in_output: bool = True) -> SeedAudio:
    return SeedAudio(members.digits(data_dir)[0], 2.0, in_output)


@pytest.fixture(scope="module")
def codec() -> Codec:
    return codec_of()


class Cut:
    """A prior that hands out the chunks of another in another size."""

    has_likelihood = False
    controls: tuple[str, ...] = ()

    def __init__(self, prior: SequencePrior, chunk_frames: int) -> None:
        self.prior, self.chunk_frames, self.latent_dim = prior, chunk_frames, prior.latent_dim

    def sample(self, request: SamplingRequest) -> Any:
        return self.prior.sample(replace(request, chunk_frames=self.chunk_frames))


@pytest.mark.parametrize("seconds", [0.7, None])
@pytest.mark.parametrize("seeded", [False, True])
def test_chunks_do_not_change_a_clip(codec: Codec, data_dir: Path, seconds: float | None, seeded: bool) -> None:
    prior = prior_of()
    given = wanted(n=3, seconds=seconds, seed_audio=a_digit(data_dir) if seeded else None)
    whole = collect(generate(codec, prior, given), 3)
    for chunk_frames in (1, 5, 1000):
        cut = collect(generate(codec, Cut(prior, chunk_frames), given), 3)
        for a, b in zip(whole, cut, strict=True):
            # The dimensions that carry nothing are drawn chunk by chunk from the same row of numbers.
            assert (a.stopped, a.join, len(a.waveform)) == (b.stopped, b.join, len(b.waveform))
            active = prior.standardiser.active.numpy()
            np.testing.assert_array_equal(a.latents[:, active], b.latents[:, active])


def test_small_decoder_chunks_give_the_same_sound(data_dir: Path) -> None:
    prior, given = prior_of(), wanted(n=2, seconds=0.8, seed_audio=a_digit(data_dir))
    made = [collect(generate(codec_of(size), prior, given), 2) for size in (2048, 8)]
    for a, b in zip(*made, strict=True):
        # Rounding grows with the largest values that a layer sums; these waveforms reach 47.
        np.testing.assert_allclose(a.waveform, b.waveform, rtol=0, atol=1e-6 * np.abs(b.waveform).max())


def test_a_clip_is_the_decoded_latents(codec: Codec) -> None:
    for seconds in (None, 0.6):
        for clip in collect(generate(codec, prior_of(-1.0), wanted(n=4, seconds=seconds)), 4):
            decoded = codec.decode([clip.latents])[0]
            fade = 0 if clip.stopped else round(END_FADE_SECONDS * codec.sample_rate)
            n = len(clip.waveform) - fade
            assert n > 0
            np.testing.assert_allclose(clip.waveform[:n], decoded[:n], atol=1e-5)
            if clip.stopped:
                assert len(clip.waveform) == len(decoded)
            else:
                assert clip.waveform[-1] == 0


def test_lengths_are_as_asked(codec: Codec, data_dir: Path) -> None:
    rate, prior = codec.sample_rate, prior_of()
    seed = a_digit(data_dir)
    for seconds in (0.01, 0.5, 1.234):
        [clip] = collect(generate(codec, prior, wanted(seconds=seconds)), 1)
        assert len(clip.waveform) == round(seconds * rate)
        [clip] = collect(generate(codec, prior, wanted(seconds=seconds, seed_audio=seed)), 1)
        assert len(clip.waveform) == len(seed.waveform) + round(seconds * rate)
        assert clip.join == len(seed.waveform)
        [clip] = collect(generate(codec, prior, wanted(seconds=seconds, seed_audio=replace(seed, in_output=False))), 1)
        assert len(clip.waveform) == round(seconds * rate)
        assert clip.join is None


def test_bounds_of_what_the_prior_ends(codec: Codec) -> None:
    per_frame = codec.samples_per_latent / codec.sample_rate
    eager, endless = prior_of(20.0), prior_of(-20.0)
    [short] = collect(generate(codec, eager, wanted(seconds=None, min_seconds=0.4)), 1)
    assert short.stopped
    assert len(short.latents) == round(0.4 / per_frame)
    [cut] = collect(generate(codec, endless, wanted(seconds=None, max_seconds=0.5)), 1)
    assert not cut.stopped
    assert len(cut.latents) == pytest.approx(0.5 / per_frame, abs=1)


def test_a_prior_that_ends_starts_again(codec: Codec, data_dir: Path) -> None:
    """With `seconds`: sequence after sequence, each as the prior makes it, until the length is reached."""
    prior, n = prior_of(-1.0), 3
    active = prior.standardiser.active.numpy()
    single = collect(generate(codec, prior, wanted(n=n, seconds=None)), n)
    row = collect(generate(codec, prior, wanted(n=n, seconds=2.0)), n)
    for one, many in zip(single, row, strict=True):
        assert one.stopped
        assert not many.stopped
        assert len(many.waveform) == 2 * codec.sample_rate
        assert len(many.latents) > len(one.latents)
        np.testing.assert_array_equal(many.latents[: len(one.latents), active], one.latents[:, active])
    ignored = collect(generate(codec, prior, wanted(n=n, seconds=2.0, after_end="ignore")), n)
    assert all(len(a.latents) == len(b.latents) for a, b in zip(row, ignored, strict=True))
    assert any(np.abs(a.latents - b.latents).max() > 1e-3 for a, b in zip(row, ignored, strict=True))
    # A prior that has nothing to add to a seed starts a new sequence too.
    seed = a_digit(data_dir)
    [clip] = collect(generate(codec, prior_of(50.0), wanted(seconds=0.5, seed_audio=seed)), 1)
    assert len(clip.waveform) == len(seed.waveform) + codec.sample_rate // 2


def test_sequences_in_a_row_are_all_as_long_as_the_shortest_may_be(codec: Codec) -> None:
    asked: list[int] = []

    class Counting(SequencePrior):
        def sample(self, request: SamplingRequest) -> Any:
            asked.append(request.min_frames)
            return super().sample(request)

    prior = prior_of(20.0)
    prior.__class__ = Counting
    [clip] = collect(generate(codec, prior, wanted(seconds=1.0, min_seconds=0.2)), 1)
    assert len(clip.waveform) == codec.sample_rate
    assert len(asked) > 2
    assert len(set(asked)) == 1


def test_a_seed_is_untouched_and_goes_on(codec: Codec, data_dir: Path) -> None:
    seed = a_digit(data_dir)
    clips = collect(generate(codec, prior_of(), wanted(n=3, seconds=0.5, seed_audio=seed)), 3)
    fade = round(CROSSFADE_SECONDS * codec.sample_rate)
    for clip in clips:
        np.testing.assert_array_equal(clip.waveform[: clip.join - fade], seed.waveform[:-fade])
    assert np.abs(clips[0].waveform[clips[0].join :] - clips[1].waveform[clips[1].join :]).max() > 1e-3


def test_an_eager_prior_leaves_the_seed_alone(codec: Codec, data_dir: Path) -> None:
    """Where nothing new is said, the clip is the seed, or a single frame where the seed is left out."""
    seed = a_digit(data_dir)
    [clip] = collect(generate(codec, prior_of(50.0), wanted(seconds=None, seed_audio=seed)), 1)
    reach = round(ALIGN_SECONDS * codec.sample_rate) + codec.samples_per_latent
    assert abs(len(clip.waveform) - len(seed.waveform)) <= reach
    [clip] = collect(
        generate(codec, prior_of(50.0), wanted(seconds=None, seed_audio=replace(seed, in_output=False))), 1
    )
    assert len(clip.latents) == 1


def test_the_seed_of_a_long_recording_is_its_end(codec: Codec, data_dir: Path) -> None:
    """The sound that follows does not depend on whether all of the prompt or only its end is decoded."""
    long = np.concatenate(members.digits(data_dir, 4) * 2)
    [clip] = collect(generate(codec, prior_of(), wanted(seconds=0.3, seed_audio=SeedAudio(long, 1.0))), 1)
    np.testing.assert_array_equal(clip.waveform[: len(long) - 400], long[:-400])
    assert np.isfinite(clip.waveform).all()


def test_more_clips_than_grow_side_by_side(codec: Codec) -> None:
    n = BATCH_CLIPS + 3
    clips = collect(generate(codec, prior_of(2.0), wanted(n=n, seconds=None)), n)
    firsts = np.stack([clip.latents[0] for clip in clips])
    distances = np.abs(firsts[:, None] - firsts[None]).max(2) + np.eye(n)
    assert distances.min() > 1e-6
    again = collect(generate(codec, prior_of(2.0), wanted(n=n, seconds=None)), n)
    for a, b in zip(clips, again, strict=True):
        np.testing.assert_array_equal(a.waveform, b.waveform)


@torch.no_grad()
def test_the_best_of_several_is_the_likeliest() -> None:
    prior, n, candidates = prior_of(-1.0), 3, 5
    for prompt in (None, torch.randn(1, 4, LATENT_DIM, generator=torch.Generator().manual_seed(0))):
        condition = torch.ones(n, 8)
        request = SamplingRequest(n=n, max_frames=12, until_stop=True, condition=condition, prompt=prompt, seed=3)
        [chosen] = list(best(prior, request, candidates))
        many = replace(request, n=n * candidates, condition=torch.ones(n * candidates, 8))
        chunks = list(prior.sample(many))
        latents = torch.cat([chunk.latents for chunk in chunks], 1)
        lengths = (~torch.cat([chunk.stopped for chunk in chunks], 1)).sum(1)
        scores = []
        for row, length in zip(latents, lengths.tolist(), strict=True):
            whole = row[None, :length] if prompt is None else torch.cat([prompt, row[None, :length]], 1)
            density = prior.log_prob(whole, torch.tensor([whole.shape[1]]), torch.ones(1, 8))
            scores.append(float(density[0, -length:].mean()) if length else -np.inf)
        for i in range(n):
            k = i * candidates + int(np.argmax(scores[i * candidates : (i + 1) * candidates]))
            torch.testing.assert_close(chosen.latents[i], latents[k])


@torch.no_grad()
def test_the_best_of_several_continuations_is_not_the_empty_one() -> None:
    prior, n = prior_of(-2.0), 20
    prompt = torch.randn(1, 4, LATENT_DIM, generator=torch.Generator().manual_seed(0))
    request = SamplingRequest(n=n, max_frames=12, min_frames=0, until_stop=True, condition=torch.ones(n, 8), seed=3)
    request = replace(request, prompt=prompt)
    single = int((~next(iter(prior.sample(request))).stopped).sum(1).eq(0).sum())
    [chosen] = list(best(prior, request, 8))
    assert single > 0
    assert int((~chosen.stopped).sum(1).eq(0).sum()) == 0
    # Where nothing new is said by any, the clip is empty.
    assert not list(best(prior_of(50.0), request, 3))


def test_the_best_is_refused_where_there_is_no_likelihood() -> None:
    class Other:
        latent_dim, has_likelihood, controls = LATENT_DIM, False, ()

        def sample(self, request: SamplingRequest) -> list[Chunk]:
            return []

    with pytest.raises(ConfigError, match="likeliest"):
        list(best(Other(), SamplingRequest(n=1, max_frames=3), 2))  # type: ignore[arg-type]
    glide = SamplingRequest(n=1, max_frames=3, condition=torch.zeros(1, 8), condition_end=torch.ones(1, 8))
    with pytest.raises(ConfigError, match="one label"):
        list(best(prior_of(), glide, 2))


def test_a_glide_begins_as_one_and_ends_as_the_other(codec: Codec) -> None:
    """At temperature 0: the first frame is that of A alone, and the way is not that of A."""
    prior = prior_of()
    cold = wanted(temperature=0.0, seconds=1.0)
    a, b = torch.ones(1, 8), -torch.ones(1, 8)
    [gliding] = collect(generate(codec, prior, replace(cold, condition=a, condition_end=b)), 1)
    [staying] = collect(generate(codec, prior, replace(cold, condition=a)), 1)
    active = prior.standardiser.active.numpy()
    np.testing.assert_allclose(gliding.latents[0, active], staying.latents[0, active], atol=1e-5)
    assert np.abs(gliding.latents[-1, active] - staying.latents[-1, active]).max() > 1e-3
