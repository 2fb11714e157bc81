"""`wavenet`: training and use agree, no sample sees a later one, noise belongs to a sample's number, sketches."""

import math
from typing import Any

import members
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from actseq import build, registry
from actseq.config import Member
from actseq.errors import ConfigError
from actseq.objectives.base import Batch
from actseq.objectives.sample_likelihood import SampleLikelihood
from actseq.representations.base import Features
from actseq.vocoders.base import SampleNetwork, Vocoder, synthesise
from actseq.vocoders.noise import white_noise
from actseq.vocoders.phase import Phase
from actseq.vocoders.wavenet import TAPS, WaveNet

HOP = 64
both_kinds = pytest.mark.parametrize("kind", ["mel", "linear"])


def network(kind: str = "mel", **options: Any) -> WaveNet:
    """Seeded weights that matter."""
    made = members.vocoder_network("wavenet", members.representation(kind), **options)
    assert isinstance(made, WaveNet)
    return made


def voice(frames: int) -> torch.Tensor:
    """Gliding harmonics in some noise, frames · hop samples less a few."""
    t = torch.arange(frames * HOP - 30) / members.SAMPLE_RATE
    glide = 2 * math.pi * (150 * t + 60 * t**2)
    noise = torch.randn(len(t), generator=torch.Generator().manual_seed(5))
    return 0.02 * noise + sum(0.2 / k * torch.sin(k * glide) for k in range(1, 12))


def analysed(kind: str, frames: int) -> torch.Tensor:
    """Features (1, channels, frames) of a voice."""
    sound = voice(frames)
    found = members.representation(kind).analyse(sound[None], torch.tensor([len(sound)])).values
    return found[:, :, :frames]


# -- training and use --------------------------------------------------------------------------------------------------


@both_kinds
@pytest.mark.parametrize("options", [{}, {"sketched": False}, {"noise": 0.5, "noise_seed": 3}, {"layers": 1}])
def test_what_is_trained_is_what_is_drawn(kind: str, options: dict[str, Any]) -> None:
    """Each sample of a stream is the mean that training finds for it given those before it, plus its own noise."""
    wavenet, values = network(kind, **options), analysed(kind, 30)
    made = synthesise(wavenet, Features(values, torch.tensor([30])))
    rim = wavenet.context_frames
    silent = F.pad(values, (rim, rim), value=wavenet.silence)
    sketch = F.pad(wavenet.sketch(values[0])[None], (rim * HOP, rim * HOP))
    sound = F.pad(made, (rim * HOP, rim * HOP))
    mean, log_deviation, drawn = wavenet.predict(silent, sketch, sound)
    assert mean.shape == (1, 30 * HOP)
    own = wavenet.noise * white_noise(0, 30 * HOP, wavenet.noise_seed)
    torch.testing.assert_close(drawn[0], (mean + log_deviation.exp() * own)[0], atol=1e-4, rtol=1e-4)
    assert (log_deviation.exp() * own).abs().mean() > 1e-3


def test_no_sample_sees_a_later_one() -> None:
    wavenet = network()
    with torch.no_grad():
        wavenet.hidden.bias.fill_(2.0)  # no unit is silent
    rim, hop = wavenet.context_frames, wavenet.hop_length
    values = analysed("mel", 2 * rim + 4)
    sketch = wavenet.sketch(values[0])[None].requires_grad_()
    # Near the sketch, so that no unit is at its limit.
    noise_of_sound = 1e-3 * torch.randn(sketch.shape, generator=torch.Generator().manual_seed(1))
    sound = (sketch.detach() + noise_of_sound).requires_grad_()
    mean, log_deviation, _ = wavenet.predict(values, sketch, sound)
    at = 2 * hop + 11
    (mean[0, at] + log_deviation[0, at]).backward()
    place = rim * hop + at
    assert sound.grad is not None
    assert sketch.grad is not None
    seen, sketched = sound.grad[0].nonzero()[:, 0] - place, sketch.grad[0].nonzero()[:, 0] - place
    assert (int(seen.min()), int(seen.max())) == (-wavenet.receptive_field - TAPS, -1)
    assert wavenet.receptive_field == TAPS + 1 + 2 + 4 + 8
    assert int(sketched.max()) == wavenet.ahead
    assert int(sketched.min()) == -wavenet.receptive_field - TAPS


def test_training_starts_from_the_sketch() -> None:
    torch.manual_seed(0)
    member = Member(kind="wavenet", **(members.VOCODER_NETWORKS["wavenet"] | {"noise": 0.0}))
    wavenet = build.construct(registry.VOCODER_NETWORKS, member, "train_vocoder.network", members.representation("mel"))
    values = analysed("mel", 40)
    made = synthesise(wavenet, Features(values, torch.tensor([40])))
    torch.testing.assert_close(made, synthesise(wavenet.phase, Features(values, torch.tensor([40]))))


def test_levels_are_those_of_noise() -> None:
    """Where the magnitudes of a band are alike, the level is the root mean square of the sound."""
    sound = 0.1 * torch.randn(1, 40_000, generator=torch.Generator().manual_seed(0))
    for kind in ("mel", "linear"):
        values = members.representation(kind).analyse(sound, torch.tensor([40_000])).values[:, :, 4:-4]
        level = network(kind).log_level(values).exp().square().mean().sqrt()
        assert float(level) == pytest.approx(0.1, rel=0.15)


# -- noise -------------------------------------------------------------------------------------------------------------


def test_the_seed_and_the_factor_of_the_noise_matter() -> None:
    features = Features(analysed("mel", 30), torch.tensor([30]))
    one, same, other = (synthesise(network(noise_seed=seed), features) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    still = [synthesise(network(noise_seed=seed, noise=0.0), features) for seed in (0, 1)]
    assert torch.equal(*still)


@pytest.mark.parametrize("size", [1, 7, 50])
def test_without_a_sketch_streamed_equals_whole(size: int) -> None:
    wavenet, values = network(sketched=False), analysed("mel", 60)[0]
    stream: Any = wavenet.stream()
    pieces = [stream.push(values[:, i : i + size]) for i in range(0, 60, size)]
    whole = synthesise(wavenet, Features(values[None], torch.tensor([60])))[0]
    assert torch.equal(torch.cat([*pieces, stream.finish()]), whole)


# -- sketch and sound to be learned ------------------------------------------------------------------------------------


def test_a_sketch_gets_other_magnitudes_and_keeps_its_phases() -> None:
    analysis, phase = members.representation("mel"), Phase(members.representation("mel"))
    sound = voice(60)
    lengths = torch.tensor([len(sound)])
    true = analysis.framing(sound[None], lengths)[0][0].abs()
    frames = true.shape[1]
    values = analysis.analyse(sound[None], lengths).values
    sketch = synthesise(phase, Features(values, torch.tensor([frames])))[0]

    def distance(made: torch.Tensor) -> float:
        found = analysis.framing(made[None], torch.tensor([len(made)]))[0][0].abs()[:, :frames]
        return float((found - true).norm() / true.norm())

    made = [phase.impose(true, sketch, n_turns) for n_turns in (0, 4, 16)]
    assert all(len(one) == len(sketch) == frames * HOP for one in made)
    distances = [distance(one) for one in (sketch, *made)]
    assert distances == sorted(distances, reverse=True)
    correlation = np.corrcoef(sketch.numpy(), made[0].numpy())[0, 1]
    assert correlation > 0.9
    inner = slice(4 * HOP, 56 * HOP)  # the voice begins and ends in the middle of a window
    torch.testing.assert_close(phase.impose(true, sound, 0)[inner], sound[inner], atol=1e-3, rtol=0)


def objective(**options: Any) -> SampleLikelihood:
    autoencoder = members.autoencoder("conv", "plain", members.NETWORKS["conv"][0])
    found = SampleLikelihood(network(**options), members.representation("mel"), autoencoder)
    assert not found.uses_autoencoder
    return found


def batch_of(sound: torch.Tensor, starts: list[int], samples: int, margin: int) -> Batch:
    """As `SegmentSource` cuts: silence outside the clip."""
    padded = F.pad(sound, (margin + 1000, margin + samples + 1000))
    rows = [padded[1000 + start : 1000 + start + 2 * margin + samples] for start in starts]
    left = torch.tensor([len(sound) - start for start in starts])
    return Batch({"waveform": torch.stack(rows), "start": torch.tensor(starts), "n_samples": left}, 0.5)


@pytest.mark.parametrize("sketched", [True, False])
def test_pairs_lie_where_the_clip_does(sketched: bool) -> None:
    vocoding, sound = objective(sketched=sketched), voice(60)
    wavenet = vocoding.model
    assert isinstance(wavenet, WaveNet)
    rim = wavenet.context_frames
    starts = [0, 20 * HOP, 50 * HOP]
    batch = batch_of(sound, starts, 16 * HOP, vocoding.margin)
    crop = vocoding.crops(batch)
    inside = vocoding.crops.places(batch, 16 + 2 * rim, rim)[1]
    sketch, target = vocoding.pairs(crop, inside)
    assert sketch.shape == target.shape == (3, (16 + 2 * rim) * HOP)
    outside = ~inside.repeat_interleave(HOP, dim=1)
    assert not sketch[outside].any()
    assert not target[outside].any()
    assert bool(sketch.any()) == sketched
    if sketched:
        # The clip begins in the first row as it does in use.
        whole = analysed("mel", 60)[0]
        first = wavenet.sketch(whole[:, : 16 + rim])
        torch.testing.assert_close(sketch[0, rim * HOP :], first, atol=1e-4, rtol=1e-3)
    else:
        torch.testing.assert_close(target[1, rim * HOP : (rim + 16) * HOP], sound[20 * HOP : 36 * HOP])


def test_the_loss_is_the_likelihood_of_what_lies_inside() -> None:
    vocoding, sound = objective(), voice(60)
    wavenet = vocoding.model
    assert isinstance(wavenet, WaveNet)
    batch = batch_of(sound, [10 * HOP, 50 * HOP], 16 * HOP, vocoding.margin)
    crop = vocoding.crops(batch)
    inside = vocoding.crops.places(batch, crop.values.shape[2], wavenet.context_frames)[1]
    mean, log_deviation, own = wavenet.predict(crop.values, *vocoding.pairs(crop, inside))
    valid = crop.inside.repeat_interleave(HOP, dim=1)
    assert not valid.all()
    density = torch.distributions.Normal(mean, log_deviation.exp()).log_prob(own)
    expected = -float(density[valid].mean().detach())
    for found in (vocoding.validate(batch), vocoding.losses(batch)["vocoder"].figures):
        assert float(found["loss"]) == pytest.approx(expected, rel=1e-4)
        error = float((own - mean.detach())[valid].square().mean())
        assert float(found["error_db"]) == pytest.approx(10 * math.log10(error), rel=1e-4)


def test_a_wavenet_learns() -> None:
    vocoding = objective()
    batch = batch_of(voice(60), [0, 20 * HOP], 16 * HOP, vocoding.margin)
    optimiser = torch.optim.Adam(vocoding.parameter_groups()["vocoder"], lr=0.01)
    losses = []
    for _ in range(12):
        loss = vocoding.losses(batch)["vocoder"].total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.2


def test_a_wavenet_is_a_vocoder_that_learns_samples() -> None:
    wavenet = network()
    assert isinstance(wavenet, Vocoder)
    assert isinstance(wavenet, SampleNetwork)
    assert build.vocoder_of(wavenet, members.representation("mel")) is wavenet
    with pytest.raises(ConfigError, match="layers is 17"):
        network(layers=17)
