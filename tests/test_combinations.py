"""Every legal combination works from training to sound, at the smallest size; an illegal one is refused with a cure."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import members
import numpy as np
import pytest
import torch

from actseq import build, registry
from actseq.config import Config, Member, load_preset
from actseq.errors import ConfigError
from actseq.inference.codec import Codec
from actseq.objectives.base import Batch
from actseq.priors.base import SamplingRequest
from actseq.progress import Silent
from actseq.training.loop import train

STEPS = 5
TRIPLES = list(
    itertools.product(sorted(registry.REPRESENTATIONS), sorted(registry.NETWORKS), sorted(registry.BOTTLENECKS))
)
PRIORS = [(network, head) for network in sorted(registry.PRIOR_NETWORKS) for head in sorted(registry.HEADS)]
PRIORS += [(network, None) for network in sorted(registry.WHOLE_PRIORS)]


def refusal(representation: str, network: str, bottleneck: str) -> str | None:
    """The member that the refusal of a triple must name; None where it is legal."""
    if representation not in members.ONLY_WITH.get(network, registry.REPRESENTATIONS):
        return "|".join(sorted(members.ONLY_WITH[network]))
    return members.REFUSED.get((network, bottleneck))


LEGAL = [triple for triple in TRIPLES if refusal(*triple) is None]
ILLEGAL = [triple for triple in TRIPLES if refusal(*triple) is not None]


def configuration(representation: str, network: str, bottleneck: str, *more: str) -> Config:
    def member(kind: str, options: dict[str, Any]) -> str:
        return json.dumps({"kind": kind, **options})

    return load_preset(
        "smoke",
        [
            f"representation={member(representation, members.REPRESENTATIONS[representation])}",
            f"autoencoder.network={member(network, members.NETWORKS[network][0])}",
            f"autoencoder.bottleneck={member(bottleneck, members.BOTTLENECKS[bottleneck])}",
            f"autoencoder.latent_dim={members.LATENT_DIM}",
            f"train_ae.steps={STEPS}",
            "train_ae.validations=1",
            "train_ae.validation_batches=1",
            *more,
        ],
    )


class Crops:
    """Noise under tones, two crops a batch."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def batch(self, step: int, rank: int = 0) -> Mapping[str, np.ndarray]:
        waveform = 0.1 * np.random.default_rng(step).standard_normal((2, self.samples))
        waveform += 0.3 * np.sin(np.arange(self.samples) * (0.2 + 0.1 * step))
        return {"waveform": waveform.astype(np.float32), "n_samples": np.array([self.samples, self.samples // 2])}


@pytest.mark.parametrize(("representation", "network", "bottleneck"), LEGAL, ids=["-".join(triple) for triple in LEGAL])
def test_a_legal_triple_goes_from_training_to_sound(
    representation: str, network: str, bottleneck: str, tmp_path: Path
) -> None:
    config = build.complete(configuration(representation, network, bottleneck))
    analysis = build.build_representation(config)
    torch.manual_seed(0)
    model = build.build_autoencoder(config, analysis)
    crops = Crops(1600)
    waveform = crops.batch(0)["waveform"]
    whole = torch.full((2,), waveform.shape[1])
    model.fit([analysis.analyse(torch.from_numpy(waveform), whole)])
    margin = -(-analysis.context_samples // analysis.hop_length) * analysis.hop_length
    if model.network.trainable:
        before = {name: value.clone() for name, value in model.state_dict().items()}
        outcome = train(
            build.build_autoencoding(config, model, analysis, margin),
            crops,
            crops,
            config.train_ae,
            tmp_path,
            name="autoencoder",
            seed=0,
            device=torch.device("cpu"),
            reporter=Silent(),
        )
        assert outcome.total_steps == STEPS
        assert np.isfinite(outcome.figures["loss"])
        model.load_state_dict(outcome.tensors)
        assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())
    vocoder = build.build_vocoder(Member(kind="auto"), analysis)
    codec = Codec(analysis, model.eval(), vocoder, None, torch.device("cpu"))
    clips = [waveform[0], waveform[1, :700]]
    rebuilt = codec.reconstruct(clips)
    assert [len(made) for made in rebuilt] == [1600, 700]
    assert all(np.isfinite(made).all() for made in rebuilt)
    if not model.generative:
        return
    encoded = [mean for mean, _ in codec.encode(clips)]
    decoded = codec.decode(encoded)
    for mean, made in zip(encoded, decoded, strict=True):
        assert len(made) == len(mean) * codec.samples_per_latent
        assert np.isfinite(made).all()
        assert np.abs(made).max() > 0


@pytest.mark.parametrize(
    ("representation", "network", "bottleneck"), ILLEGAL, ids=["-".join(triple) for triple in ILLEGAL]
)
def test_an_illegal_triple_is_refused_and_told_what_fits(representation: str, network: str, bottleneck: str) -> None:
    fits = refusal(representation, network, bottleneck)
    config = build.complete(configuration(representation, network, bottleneck))
    analysis = build.build_representation(config)
    with pytest.raises(ConfigError, match=f"{network}.*({fits})"):
        build.build_autoencoder(config, analysis)


@pytest.mark.parametrize("corruption", sorted(registry.CORRUPTIONS))
@pytest.mark.parametrize("representation", sorted(registry.REPRESENTATIONS))
def test_a_corruption_trains_or_is_refused(representation: str, corruption: str) -> None:
    member = f"train_ae.corruption={json.dumps({'kind': corruption, **members.CORRUPTIONS[corruption]})}"
    heard = f"train_ae.objective.magnitude_weight={int(representation in ('grain', 'spectrum', 'stft'))}"
    config = build.complete(configuration(representation, "dense", "plain", member, heard))
    analysis = build.build_representation(config)
    torch.manual_seed(0)
    model = build.build_autoencoder(config, analysis)
    crops = Crops(1600).batch(0)
    model.fit([analysis.analyse(torch.from_numpy(crops["waveform"]), torch.tensor([1600, 800]))])
    grains = representation in ("grain", "spectrum")
    if build.build_corruption(config).works_on_grains and not grains:
        with pytest.raises(ConfigError, match="grain"):
            build.build_autoencoding(config, model, analysis, 256)
        return
    objective = build.build_autoencoding(config, model, analysis, 256)
    data = {name: torch.from_numpy(array) for name, array in crops.items()}
    data["noise"] = data["waveform"].flip(0)
    loss = objective.losses(Batch(data, 0.5))["autoencoder"].total
    loss.backward()
    assert loss.isfinite()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


class Sequences:
    """Random walks with a label and an end."""

    def batch(self, step: int, rank: int = 0) -> Mapping[str, np.ndarray]:
        rng = np.random.default_rng(step)
        mean = rng.standard_normal((4, 12, members.LATENT_DIM)).cumsum(1).astype(np.float32) * 0.3
        return {
            "mean": mean,
            "log_variance": np.full_like(mean, -3.0),
            "previous_mean": np.zeros_like(mean[:, 0]),
            "previous_log_variance": np.full_like(mean[:, 0], -3.0),
            "lengths": np.array([12, 9, 5, 12]),
            "begins": np.array([True, True, False, True]),
            "ends": np.array([True, False, True, False]),
            "label": np.array([1, 2, 0, 1]),
        }


@pytest.mark.parametrize(("network", "head"), PRIORS)
def test_every_prior_goes_from_training_to_latents(network: str, head: str | None, tmp_path: Path) -> None:
    options = members.PRIOR_NETWORKS.get(network, members.WHOLE_PRIORS.get(network))
    config = build.complete(
        load_preset(
            "smoke",
            [
                f"prior.network={json.dumps({'kind': network, **(options or {})})}",
                f"prior.head={'null' if head is None else json.dumps({'kind': head, **members.HEADS[head]})}",
                f"train_prior.objective.kind={registry.WHOLE_PRIOR_OBJECTIVES.get(network, 'sequence')}",
                f"train_prior.steps={STEPS}",
                "train_prior.validations=1",
                "train_prior.validation_batches=1",
            ],
        )
    )
    torch.manual_seed(0)
    model = build.build_prior(config, members.LATENT_DIM, members.LATENT_DIM, ["a", "b"])
    standardiser = model.prior.standardiser
    standardiser.active.copy_(torch.arange(members.LATENT_DIM))
    outcome = train(
        build.build_sequence(config, model),
        Sequences(),
        Sequences(),
        config.train_prior,
        tmp_path,
        name="prior",
        seed=0,
        device=torch.device("cpu"),
        reporter=Silent(),
    )
    model.load_state_dict(outcome.tensors)
    model.eval()
    assert outcome.total_steps == STEPS
    request = SamplingRequest(n=2, max_frames=7, seed=3, condition=model.condition(torch.tensor([1, 2])))
    with torch.inference_mode():
        chunks = list(model.prior.sample(request))
    assert all(chunk.latents.isfinite().all() for chunk in chunks)
    assert sum(chunk.latents.shape[1] for chunk in chunks) <= 7


def test_every_member_has_options() -> None:
    assert set(members.CORRUPTIONS) == set(registry.CORRUPTIONS)
    assert set(members.WHOLE_PRIORS) == set(registry.WHOLE_PRIORS)
    assert set(members.ONLY_WITH) <= set(registry.NETWORKS)
