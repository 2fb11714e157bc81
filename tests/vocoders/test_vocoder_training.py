"""Training of vocoders: losses against numpy, segments against whole clips, steps against a loop by hand."""

import copy
import math
from pathlib import Path
from typing import Any

import members
import numpy as np
import pytest
import torch

from actseq import build, losses, registry
from actseq.autoencoders.base import Autoencoder, Posterior
from actseq.config import Member, TrainingConfig
from actseq.modules.frames import frame_mask
from actseq.objectives.base import Batch
from actseq.objectives.discriminators import PERIODS, WINDOWS, Discriminators
from actseq.objectives.vocoding import Crops
from actseq.progress import Silent
from actseq.representations.base import Features
from actseq.training.conduct import Conduct
from actseq.training.loop import train
from actseq.training.sources import step_seed
from actseq.vocoders.base import synthesise
from actseq.vocoders.inversion import MagnitudeInversion
from actseq.vocoders.magnitude import LearnedMagnitude

HOP = 64
LENGTHS = (7, 1, 4)
both_kinds = pytest.mark.parametrize("kind", ["mel", "linear"])


def untrained(kind: str, analysis: Any) -> Any:
    """With the tables' cheap options, as the constructor leaves it."""
    torch.manual_seed(0)
    member = Member(kind=kind, **members.VOCODER_NETWORKS[kind])
    return build.construct(registry.VOCODER_NETWORKS, member, "train_vocoder.network", analysis)


def magnitudes() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Output, target (3, 5, 9) and what is inside; outside the lengths they differ wildly."""
    output, target = torch.rand((2, 3, 5, 9), generator=torch.Generator().manual_seed(0)) ** 4
    inside = frame_mask(torch.tensor(LENGTHS), 9)
    return output + 1e3 * ~inside[:, None], target, inside


def valid(values: torch.Tensor) -> np.ndarray:
    """What lies inside the lengths, as numpy knows it."""
    return np.concatenate([values[i, :, :n].double().numpy() for i, n in enumerate(LENGTHS)], axis=1)


# -- losses ------------------------------------------------------------------------------------------------------------


def test_log_magnitude_l1_is_numpys() -> None:
    output, target, inside = magnitudes()
    error = np.abs(np.log(np.maximum(valid(output), 0.01)) - np.log(np.maximum(valid(target), 0.01)))
    assert (valid(output) < 0.01).any(), "the floor must matter"
    assert float(losses.log_magnitude_l1(output, target, inside, 0.01)) == pytest.approx(error.mean(), rel=1e-5)


def test_spectral_convergence_is_numpys() -> None:
    output, target, inside = magnitudes()
    expected = np.linalg.norm(valid(output) - valid(target)) / np.linalg.norm(valid(target))
    assert float(losses.spectral_convergence(output, target, inside)) == pytest.approx(expected, rel=1e-5)
    silent = losses.spectral_convergence(0 * target, 0 * target, inside)
    assert silent.isfinite()


def test_adversarial_losses_are_numpys() -> None:
    generator = torch.Generator().manual_seed(0)
    real = [1.5 * torch.randn((2, n, 3), generator=generator) for n in (4, 9)]
    made = [1.5 * torch.randn((2, n, 3), generator=generator) for n in (4, 9)]
    paid = [
        np.maximum(0, 1 - r.numpy()).mean() + np.maximum(0, 1 + m.numpy()).mean()
        for r, m in zip(real, made, strict=True)
    ]
    assert float(losses.hinge_of_discriminators(real, made)) == pytest.approx(np.mean(paid), rel=1e-5)
    wanted = [np.maximum(0, 1 - m.numpy()).mean() for m in made]
    assert float(losses.hinge_of_generator(made)) == pytest.approx(np.mean(wanted), rel=1e-5)
    apart = [np.abs(r.numpy() - m.numpy()).mean() for r, m in zip(real, made, strict=True)]
    matched = losses.feature_matching([[real[0], real[1]], [real[1]]], [[made[0], made[1]], [made[1]]])
    assert float(matched) == pytest.approx((apart[0] + 2 * apart[1]) / 3, rel=1e-5)


# -- networks ----------------------------------------------------------------------------------------------------------


@both_kinds
def test_an_untrained_magnitude_is_the_inversion(kind: str) -> None:
    analysis = members.representation(kind)
    values = members.features(40, 2, analysis.channels).values
    for n_updates in (0, 3):
        learned = LearnedMagnitude(analysis, width=12, inner=16, blocks=2, n_updates=n_updates)
        learned.normaliser.fit([members.features(30, 2, analysis.channels)])
        torch.testing.assert_close(learned(values), MagnitudeInversion(analysis, n_updates=n_updates)(values))
        assert torch.equal(learned(values[0]), learned(values)[0])


@both_kinds
def test_a_trained_magnitude_sees_its_context_and_no_more(kind: str) -> None:
    analysis = members.representation(kind)
    learned = members.vocoder_network("magnitude", analysis)
    assert learned.context_frames == 6
    values = members.features(40, 1, analysis.channels).values
    changed = values.clone()
    changed[:, :, 20] += 1
    differs = (learned(changed) - learned(values)).abs().amax((0, 1)) > 1e-6
    assert differs.nonzero()[:, 0].tolist() == list(range(14, 27))


def test_what_lies_outside_a_clip_is_silence() -> None:
    analysis = members.representation("mel")
    learned = members.vocoder_network("magnitude", analysis)
    values = members.features(40, 1, analysis.channels).values
    silence = torch.full((1, analysis.channels, 30), float(np.log(analysis.floor)))
    longer = learned(torch.cat([silence, values, silence], dim=2))
    torch.testing.assert_close(longer[:, :, 30:70], learned(values), rtol=1e-4, atol=1e-7)


@both_kinds
def test_neural_renders_in_training_what_it_synthesises_in_use(kind: str) -> None:
    analysis = members.representation(kind)
    neural = members.vocoder_network("neural", analysis)
    features = members.features(60, 1, analysis.channels)
    rim = neural.context_frames + neural.reach
    rendered = neural.render(features.values).detach()
    used = synthesise(neural, features)[:, rim * HOP : (60 - rim) * HOP]
    torch.testing.assert_close(rendered, used, rtol=1e-3, atol=1e-5 * float(used.abs().max()))


def test_shapes_of_discriminators() -> None:
    judgements = Discriminators(width=2)(torch.randn(3, 2000))
    assert len(judgements) == len(PERIODS) + len(WINDOWS)
    for period, judgement in zip(PERIODS, judgements, strict=False):
        rows = -(-2000 // period)
        channels = []
        for layer in judgement.maps:
            channels.append(layer.shape[1])
            rows = rows if len(channels) == 5 else -(-rows // 3)
            assert layer.shape == (3, channels[-1], rows, period)
        assert channels == [2, 8, 32, 64, 64]
        assert judgement.scores.shape == (3, rows, period)
    for n_fft, judgement in zip(WINDOWS, judgements[len(PERIODS) :], strict=True):
        bins, frames = n_fft // 2 + 1, 1 + 2000 // (n_fft // 4)
        assert [layer.shape[2] for layer in judgement.maps] == [bins, *[1 + n_fft // 2**k for k in (2, 3, 4, 4)]]
        assert judgement.scores.shape == (3, judgement.maps[-1].shape[2], frames)


def test_discriminators_tell_a_shifted_phase() -> None:
    torch.manual_seed(0)
    discriminators = Discriminators(width=2)
    sound = torch.randn(1, 1100)
    moved = torch.fft.irfft(torch.fft.rfft(sound) * torch.exp(torch.tensor(0.7j)), 1100)
    for one, other in zip(discriminators(sound), discriminators(moved), strict=True):
        assert not torch.allclose(one.scores, other.scores, atol=1e-6)


# -- segments ----------------------------------------------------------------------------------------------------------


def autoencoder(latent_blocks: int = 1) -> Autoencoder:
    """Seeded weights that matter, stride 2, statistics of log-mel features."""
    options = {"width": 12, "inner": 16, "blocks": 1, "latent_blocks": latent_blocks, "stride": 2}
    model = members.autoencoder("conv", "plain", options, awake=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    return model.requires_grad_(False)


def clip() -> torch.Tensor:
    """Gliding harmonics in a little noise: 101 frames."""
    t = torch.arange(100 * HOP + 17) / members.SAMPLE_RATE
    glide = 2 * math.pi * (150 * t + 60 * t**2)
    noise = torch.randn(len(t), generator=torch.Generator().manual_seed(5))
    return 0.01 * noise + sum(0.2 / k * torch.sin(k * glide) for k in range(1, 12))


def cut(sound: torch.Tensor, starts: list[int], samples: int, margin: int) -> Batch:
    """As `SegmentSource` cuts: silence outside the clip."""
    padded = torch.nn.functional.pad(sound, (margin + 1000, margin + samples + 1000))
    rows = [padded[1000 + start : 1000 + start + 2 * margin + samples] for start in starts]
    left = torch.tensor([len(sound) - start for start in starts])
    return Batch({"waveform": torch.stack(rows), "start": torch.tensor(starts), "n_samples": left}, 0.5)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_frames_of_a_crop_are_those_of_the_whole_clip(share: float) -> None:
    analysis, model, sound = members.representation("mel"), autoencoder(), clip()
    crops = Crops(analysis, model, share, 6)
    starts = [0, 40 * HOP, 90 * HOP]
    crop = crops(cut(sound, starts, 16 * HOP, crops.margin))
    whole = analysis.analyse(sound[None], torch.tensor([len(sound)]))
    known = (model.reconstruct(whole) if share else whole).values[0]
    for row, start in enumerate(starts):
        for j in range(16 + 12):
            frame = start // HOP - 6 + j
            inside = 0 <= frame <= 100
            expected = known[:, frame] if inside else torch.full((24,), float(np.log(analysis.floor)))
            torch.testing.assert_close(crop.values[row, :, j], expected, rtol=1e-4, atol=1e-4)
        assert crop.inside[row].tolist() == [start // HOP + t <= 100 for t in range(16)]
        end = min(len(sound), start + 16 * HOP)
        inside = torch.zeros(16 * HOP)
        inside[: end - start] = sound[start:end]
        assert torch.equal(crops.sound(crop)[row], inside)
        true = analysis.framing(sound[None], torch.tensor([len(sound)]))[0].abs()[0]
        n = int(crop.inside[row].sum())
        torch.testing.assert_close(crops.magnitude(crop)[row, :, :n], true[:, start // HOP : start // HOP + n])


def test_a_crop_that_begins_before_its_clip() -> None:
    """Jitter moves a segment by less than a hop: its first frame inside the clip is not the first of the segment."""
    analysis, model, sound = members.representation("mel"), autoencoder(), clip()
    crops = Crops(analysis, model, 1.0, 6)
    crop = crops(cut(sound, [-20], 16 * HOP, crops.margin))
    assert crop.inside[0].tolist() == [False] + [True] * 15
    assert torch.all(crop.values[0, :, :7] == float(np.log(analysis.floor)))
    true = Crops(analysis, model, 0.0, 6)
    features = true(cut(sound, [-20], 95 * HOP, true.margin)).values[:, :, 7:]
    expected = model.reconstruct(Features(features, torch.tensor([features.shape[2]]))).values
    torch.testing.assert_close(crop.values[:, :, 7:20], expected[:, :, :13], rtol=1e-4, atol=1e-4)


def test_the_share_went_through_the_autoencoder_from_a_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    analysis, model = members.representation("mel"), autoencoder()
    draws: list[int] = []
    sample = Posterior.sample

    def counted(posterior: Posterior) -> Any:
        draws.append(len(posterior.mean))
        return sample(posterior)

    monkeypatch.setattr(Posterior, "sample", counted)
    for share, n in ((0.0, 0), (0.5, 2), (1.0, 4)):
        crops = Crops(analysis, model, share, 6)
        crop = crops(cut(clip(), [0, 640, 1280, 1920], 16 * HOP, crops.margin))
        true = Crops(analysis, model, 0.0, 6)
        plain = true(cut(clip(), [0, 640, 1280, 1920], 16 * HOP, true.margin)).values
        same = [torch.allclose(a, b, atol=1e-4) for a, b in zip(crop.values, plain, strict=True)]
        assert same == [False] * n + [True] * (4 - n)
        assert draws == ([n] if n else [])
        draws.clear()


# -- objectives --------------------------------------------------------------------------------------------------------


def test_a_share_is_at_most_all() -> None:
    with pytest.raises(ValueError, match=r"autoencoder_share is 1\.5"):
        Crops(members.representation("mel"), autoencoder(), 1.5, 6)


def objective(kind: str, **options: Any) -> Any:
    """An objective with its seeded network, over log-mel features."""
    analysis = members.representation("mel")
    network = untrained({"magnitude": "magnitude", "adversarial-vocoding": "neural"}[kind], analysis)
    network.normaliser.fit([members.features(40, 3, analysis.channels)])
    member = Member(kind=kind, autoencoder_share=0.5, **options)
    return build.construct(registry.OBJECTIVES, member, "train_vocoder.objective", network, analysis, autoencoder())


def test_the_magnitude_objective_is_numpys() -> None:
    vocoding = objective("magnitude", convergence_weight=0.5)
    batch = cut(clip(), [0, 30 * HOP], 16 * HOP, vocoding.margin)
    crop = vocoding.crops(batch)
    made = vocoding.model.magnitude(crop.values).detach().double().numpy()
    target = vocoding.crops.magnitude(crop).double().numpy()
    floor = 1e-4 * 256 / 4
    error = np.abs(np.log(np.maximum(made, floor)) - np.log(np.maximum(target, floor))).mean()
    convergence = np.linalg.norm(made - target) / np.linalg.norm(target)
    for found in (vocoding.validate(batch), vocoding.losses(batch)["vocoder"].figures):
        assert float(found["spectral_convergence"]) == pytest.approx(convergence, rel=1e-4)
        assert float(found["magnitude_db"]) == pytest.approx(20 / math.log(10) * error, rel=1e-4)
        assert float(found["loss"]) == pytest.approx(error + 0.5 * convergence, rel=1e-4)


class Repeated:
    """The same two segments at every step."""

    def __init__(self, margin: int) -> None:
        self.data = cut(clip(), [0, 30 * HOP], 16 * HOP, margin).data

    def batch(self, step: int, rank: int = 0) -> dict[str, np.ndarray]:
        return {name: value.numpy() for name, value in self.data.items()}


def trained(vocoding: Any, folder: Path, steps: int) -> Any:
    settings = {"steps": steps, "batch_size": 2, "learning_rate": 0.01, "clip_norm": 1e9, "ema": 0.0, "validations": 1}
    return train(
        vocoding,
        (Repeated(vocoding.margin), None),
        TrainingConfig(objective=Member(kind="vocoding"), **settings),
        folder,
        name="vocoder",
        seed=3,
        conduct=Conduct(torch.device("cpu"), Silent()),
    )


def test_a_magnitude_learns(tmp_path: Path) -> None:
    vocoding = objective("magnitude")
    batch = Batch(Repeated(vocoding.margin).data, 1.0)
    before = float(vocoding.validate(batch)["loss"])
    trained(vocoding, tmp_path, 15)
    assert float(vocoding.validate(batch)["loss"]) < 0.9 * before


def test_both_sides_step_as_by_hand(tmp_path: Path) -> None:
    options = {"discriminator_width": 2, "feature_weight": 3.0, "matching_weight": 1.5}
    vocoding, hand = objective("adversarial-vocoding", **options), objective("adversarial-vocoding", **options)
    hand.load_state_dict(vocoding.state_dict())
    first = copy.deepcopy(vocoding.state_dict())
    outcome = trained(vocoding, tmp_path, 2)
    steppers = [
        torch.optim.AdamW(part.parameters(), lr=0.01, betas=(0.9, 0.99), weight_decay=0.0)
        for part in (hand.model, hand.discriminators)
    ]
    for step, rate in enumerate((0.01, 0.005)):
        torch.manual_seed(step_seed(3, step, 0))
        crop = hand.crops(Batch(Repeated(hand.margin).data, 0.0))
        real, made = hand.crops.sound(crop), hand.model.render(crop.values)
        still = copy.deepcopy(hand.discriminators).requires_grad_(False)
        made_outputs, wanted = still(made), still(real)
        analysed = [hand.representation.analyse(sound, torch.tensor([1024, 1024])).values for sound in (made, real)]
        loss = (
            losses.hinge_of_generator([one.scores for one in made_outputs])
            + 1.5 * losses.feature_matching([one.maps for one in wanted], [one.maps for one in made_outputs])
            + 3.0 * (analysed[0] - analysed[1]).abs().mean()
        )
        discriminator_loss = losses.hinge_of_discriminators(
            [one.scores for one in hand.discriminators(real)],
            [one.scores for one in hand.discriminators(made.detach())],
        )
        for stepper, total in zip(steppers, (loss, discriminator_loss), strict=True):
            stepper.param_groups[0]["lr"] = rate
            stepper.zero_grad()
            total.backward()
            stepper.step()
    for name, value in vocoding.state_dict().items():
        torch.testing.assert_close(
            value, hand.state_dict()[name], rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
    moved = {name.split(".")[0] for name, value in vocoding.state_dict().items() if not torch.equal(value, first[name])}
    assert moved == {"model", "discriminators"}
    assert set(outcome.tensors) == set(vocoding.model.state_dict()), "no discriminator is kept"
