"""What an autoencoder learns: the end of a clip, and what a regulariser asks in turn."""

import pytest
import torch

from actseq import build
from actseq.config import load_preset
from actseq.objectives.autoencoding import Autoencoding, decoded_frames
from actseq.objectives.base import Batch

STRIDE, HOP, FRAMES = 4, 64, 16


def objective(kind: str) -> Autoencoding:
    torch.manual_seed(0)
    bands = ", n_mels: 24" if kind == "mel" else ""
    features = f"{{kind: {kind}, n_fft: 256, hop_length: {HOP}{bands}}}"
    config = load_preset("smoke", [f"representation={features}", f"autoencoder.network.stride={STRIDE}"])
    config = build.complete(config)
    representation = build.build_representation(config)
    made: Autoencoding = build.build_autoencoding(
        config, build.build_autoencoder(config, representation), representation, 0
    )
    return made


def test_the_last_latent_frame_counts_as_a_whole() -> None:
    assert decoded_frames(torch.tensor([5, 8, 9, 15]), STRIDE, 15).sum(1).tolist() == [8, 8, 12, 15]
    assert torch.equal(decoded_frames(torch.tensor([3]), 1, 4), torch.tensor([[True, True, True, False]]))


def test_what_is_decoded_after_the_end_of_a_clip_is_learned_to_be_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = objective("mel")
    waveform = torch.zeros(1, (FRAMES - 1) * HOP)
    waveform[:, : 4 * HOP] = torch.randn(1, 4 * HOP)
    batch = Batch({"waveform": waveform, "n_samples": torch.tensor([4 * HOP])}, 1.0)
    target = learner.pair(batch)[1]
    assert target.lengths.tolist() == [5]

    def loss(frame: int) -> float:
        output = target.values.clone()
        output[:, :, frame] += 1
        monkeypatch.setattr(learner.model, "decode_normalised", lambda latents, condition: output)
        return float(learner.validate(batch)["error_db"])

    assert loss(0) == pytest.approx(loss(5)) == pytest.approx(loss(7))
    assert loss(8) == loss(FRAMES - 1) == 0


@pytest.mark.parametrize("kind", ["mel", "stft"])
def test_stored_features_are_followed_by_silence(kind: str) -> None:
    learner = objective(kind)
    representation = learner.representation
    clip = torch.randn(1, 4 * representation.hop_length)
    found = representation.analyse(clip, torch.tensor([clip.shape[1]])).values
    stored = torch.nn.functional.pad(found, (0, FRAMES - found.shape[2])).transpose(1, 2)
    batch = Batch({"features": stored, "n_samples": torch.tensor([clip.shape[1]])}, 1.0)
    target = learner.pair(batch)[1]
    quiet = torch.zeros(1, FRAMES * representation.hop_length)
    silence = representation.analyse(quiet, torch.tensor([quiet.shape[1]])).values
    expected = torch.cat([found, silence[:, :, : FRAMES - found.shape[2]]], dim=2)
    torch.testing.assert_close(target.values, learner.model.normaliser.normalise(expected))


def grains(in_turn: bool) -> Autoencoding:
    torch.manual_seed(0)
    overrides = [
        f"train_ae.regulariser.in_turn={str(in_turn).lower()}",
        "train_ae.regulariser.adjudicator_width=8",
        "autoencoder.network.width=12",
        "representation.grain_length=64",
    ]
    config = build.complete(load_preset("grain-aae-original", overrides))
    representation = build.build_representation(config)
    model = build.build_autoencoder(config, representation)
    made: Autoencoding = build.build_autoencoding(config, model, representation, 64)
    return made


def test_an_encoder_learns_from_its_regulariser_in_turn_or_in_sum() -> None:
    waveform = torch.randn(3, 64 + 2 * 64)
    batch = Batch({"waveform": waveform, "n_samples": torch.full((3,), 64)}, 0.5)
    summed, turned = grains(False), grains(True)
    torch.manual_seed(1)
    together = summed.losses(batch)
    torch.manual_seed(1)
    apart = turned.losses(batch)
    assert list(together) == ["autoencoder", "adjudicator"]
    assert list(apart) == ["autoencoder", "encoder", "adjudicator"]
    assert list(apart) == list(turned.parameter_groups())
    total = apart["autoencoder"].total + apart["encoder"].total
    assert float(together["autoencoder"].total.detach()) == pytest.approx(float(total.detach()), rel=1e-5)
    assert "fooled" in apart["encoder"].figures
    apart["autoencoder"].total.backward()
    assert all(parameter.grad is not None for parameter in turned.model.parameters())
    turned.zero_grad()
    apart["encoder"].total.backward()
    learning = {name.split(".")[1] for name, one in turned.model.named_parameters() if one.grad is not None}
    assert learning == {"encoder"}
    assert all(one.grad is None for one in turned.adjudication.parameters())  # type: ignore[union-attr]


def test_what_is_validated_does_not_depend_on_turns() -> None:
    batch = Batch({"waveform": torch.randn(2, 64 + 2 * 64), "n_samples": torch.full((2,), 64)}, 1.0)
    figures = []
    for in_turn in (False, True):
        learner = grains(in_turn)
        torch.manual_seed(2)
        figures.append({name: float(value) for name, value in learner.validate(batch).items()})
    assert figures[0] == figures[1]
