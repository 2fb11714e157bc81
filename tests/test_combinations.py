"""Every legal combination works from training to sound, at the smallest size; an illegal one is refused with a cure."""

import functools
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
from actseq.autoencoders.base import Autoencoder
from actseq.config import Config, Member, TrainingConfig, load_preset, override
from actseq.errors import ConfigError
from actseq.inference.codec import Codec
from actseq.objectives.base import Batch, Objective
from actseq.priors.base import SamplingRequest
from actseq.progress import Silent
from actseq.representations.base import margin_hops
from actseq.training.conduct import Conduct
from actseq.training.loop import Outcome, train
from actseq.training.sources import Source
from actseq.vocoders.base import synthesise

STEPS = 5
TRIPLES = list(
    itertools.product(sorted(registry.REPRESENTATIONS), sorted(registry.NETWORKS), sorted(registry.BOTTLENECKS))
)
PRIORS: list[tuple[str, str | None]] = [
    (network, head) for network in members.SEQUENCE_NETWORKS for head in sorted(registry.HEADS)
]
PRIORS += [(network, None) for network in sorted(registry.PRIOR_NETWORKS) if network not in members.SEQUENCE_NETWORKS]


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


class Segments:
    """Noise under tones, two segments a batch, each of this many samples with its surroundings."""

    def __init__(self, samples: int, inside: int | None = None) -> None:
        self.samples, self.inside = samples, samples if inside is None else inside

    def batch(self, step: int, rank: int = 0) -> Mapping[str, np.ndarray]:
        waveform = 0.1 * np.random.default_rng(step).standard_normal((2, self.samples))
        waveform += 0.3 * np.sin(np.arange(self.samples) * (0.2 + 0.1 * step))
        lengths = np.array([self.inside, self.inside // 2])
        return {"waveform": waveform.astype(np.float32), "n_samples": lengths, "start": np.zeros(2, dtype=np.int64)}


class Saying(Silent):
    """Keeps what is said."""

    def __init__(self, said: list[str]) -> None:
        self.said = said

    def say(self, text: str) -> None:
        self.said.append(text)


def learn(objective: Objective, source: Source, section: TrainingConfig, folder: Path) -> Outcome:
    """The loop, on what it is also validated on."""
    device = torch.device("cpu")
    return train(objective, (source, source), section, folder, name="it", seed=0, conduct=Conduct(device, Silent()))


def fitted(config: Config, analysis: Any, segments: Segments) -> Autoencoder:
    """A seeded model that knows the statistics of its segments."""
    torch.manual_seed(0)
    model = build.build_autoencoder(config, analysis)
    waveform = torch.from_numpy(segments.batch(0)["waveform"])
    model.fit([analysis.analyse(waveform, torch.full((2,), waveform.shape[1]))])
    return model


@pytest.mark.parametrize(("representation", "network", "bottleneck"), LEGAL, ids=["-".join(triple) for triple in LEGAL])
def test_a_legal_triple_goes_from_training_to_sound(
    representation: str, network: str, bottleneck: str, tmp_path: Path
) -> None:
    config = build.complete(configuration(representation, network, bottleneck))
    analysis = build.build_representation(config)
    segments = Segments(1600)
    waveform = segments.batch(0)["waveform"]
    model = fitted(config, analysis, segments)
    # A segment is short here: less surrounds it than an unbounded context is given.
    margin = min(margin_hops(analysis), 4) * analysis.hop_length
    if model.network.trainable:
        before = {name: value.clone() for name, value in model.state_dict().items()}
        outcome = learn(build.build_autoencoding(config, model, analysis, margin), segments, config.train_ae, tmp_path)
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
    with pytest.raises(ConfigError, match=f"{network}.*({fits})"):
        build.complete(configuration(representation, network, bottleneck))


@pytest.mark.parametrize("corruption", sorted(registry.CORRUPTIONS))
@pytest.mark.parametrize("representation", sorted(registry.REPRESENTATIONS))
def test_a_corruption_trains_or_is_refused(representation: str, corruption: str) -> None:
    member = f"train_ae.corruption={json.dumps({'kind': corruption, **members.CORRUPTIONS[corruption]})}"
    magnitudes = f"train_ae.objective.magnitude_weight={int(representation in ('grain', 'spectrum', 'stft'))}"
    config = build.complete(configuration(representation, "dense", "plain", member, magnitudes))
    analysis = build.build_representation(config)
    torch.manual_seed(0)
    model = build.build_autoencoder(config, analysis)
    segments = Segments(1600).batch(0)
    model.fit([analysis.analyse(torch.from_numpy(segments["waveform"]), torch.tensor([1600, 800]))])
    grains = representation in ("grain", "spectrum")
    if build.build_corruption(config).works_on_grains and not grains:
        with pytest.raises(ConfigError, match="grain"):
            build.build_autoencoding(config, model, analysis, 256)
        return
    objective = build.build_autoencoding(config, model, analysis, 256)
    data = {name: torch.from_numpy(array) for name, array in segments.items()}
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
    config = build.complete(
        load_preset(
            "smoke",
            [
                f"prior.network={json.dumps({'kind': network, **members.PRIOR_NETWORKS[network]})}",
                f"prior.head={'null' if head is None else json.dumps({'kind': head, **members.HEADS[head]})}",
                f"train_prior.steps={STEPS}",
                "train_prior.validations=1",
                "train_prior.validation_batches=1",
            ],
        )
    )
    assert trained_prior(config, tmp_path).total_steps == STEPS


def trained_prior(config: Config, folder: Path) -> Outcome:
    """Latents of a prior after its training."""
    torch.manual_seed(0)
    model = build.build_prior(config, members.LATENT_DIM, members.LATENT_DIM, ["a", "b"])
    standardiser = model.prior.standardiser
    standardiser.active.copy_(torch.arange(members.LATENT_DIM))
    outcome = learn(build.build_sequence(config, model), Sequences(), config.train_prior, folder)
    model.load_state_dict(outcome.tensors)
    model.eval()
    request = SamplingRequest(n=2, max_frames=7, seed=3, condition=model.condition(torch.tensor([1, 2])))
    with torch.inference_mode():
        chunks = list(model.prior.sample(request))
    assert all(chunk.latents.isfinite().all() for chunk in chunks)
    assert sum(chunk.latents.shape[1] for chunk in chunks) <= 7
    return outcome


# -- by its kind alone ------------------------------------------------------------------------------------------------

ALONE = [
    (where, kind)
    for where, table in registry.FAMILIES.items()
    for kind in sorted(table)
    if not where.endswith(("objective", "regulariser", "effects"))
]


def alone(where: str, kind: str) -> list[Config]:
    """A preset with one member named by its kind: as it is loaded, and from a run that lists all keys."""
    stored = build.complete(load_preset("smoke"))
    given = [f"{where}.kind={kind}"]
    return [build.complete(config) for config in (load_preset("smoke", given), override(stored, given, "run"))]


@pytest.mark.parametrize(("where", "kind"), ALONE)
def test_the_kind_alone_chooses_a_member(where: str, kind: str) -> None:
    fresh, again = alone(where, kind)
    assert fresh == again == build.complete(again)
    chosen = functools.reduce(dict.__getitem__, where.split("."), fresh.model_dump())
    assert chosen["kind"] == kind


@pytest.mark.parametrize(("where", "kind"), [pair for pair in ALONE if pair[0].startswith(("auto", "repr"))])
def test_an_autoencoder_trains_by_a_kind_alone(where: str, kind: str, tmp_path: Path) -> None:
    config = alone(where, kind)[0]
    analysis = build.build_representation(config)
    segments = Segments(1600)
    model = fitted(config, analysis, segments)
    if model.network.trainable:
        objective = build.build_autoencoding(config, model, analysis, analysis.hop_length)
        assert learn(objective, segments, few(config.train_ae), tmp_path).total_steps == 2


@pytest.mark.parametrize(("where", "kind"), [pair for pair in ALONE if pair[0].startswith("prior")])
def test_a_prior_trains_by_a_kind_alone(where: str, kind: str, tmp_path: Path) -> None:
    config = alone(where, kind)[0]
    assert trained_prior(config.model_copy(update={"train_prior": few(config.train_prior)}), tmp_path).total_steps == 2


@pytest.mark.parametrize("kind", sorted(registry.VOCODER_NETWORKS))
def test_a_vocoder_trains_by_a_kind_alone(kind: str, tmp_path: Path) -> None:
    config = alone("train_vocoder.network", kind)[0]
    analysis = build.build_representation(config)
    model = build.build_vocoder_network(config, analysis)
    objective = build.build_vocoding(config, model, analysis, fitted(config, analysis, Segments(1600)))
    samples = 4 * analysis.hop_length
    source = Segments(samples + 2 * objective.margin, samples)
    assert learn(objective, source, few(config.train_vocoder), tmp_path).total_steps == 2
    made = synthesise(build.vocoder_of(model.eval(), analysis), members.features(9, 1, analysis.channels))
    assert made.isfinite().all()


def few(section: TrainingConfig) -> Any:
    """Two steps."""
    return section.model_copy(update={"steps": 2, "minutes": None, "validations": 1, "validation_batches": 1})


@pytest.mark.parametrize(
    ("given", "replaced"),
    [
        (["prior.network.kind=gan"], "prior.network gan: no head in place of mixture"),
        (["autoencoder.bottleneck.kind=plain"], "autoencoder.bottleneck plain: no regulariser in place of kl"),
        (
            ["autoencoder.bottleneck.kind=adversarial", "train_ae.regulariser.matching_weight=2"],
            "autoencoder.bottleneck adversarial: regulariser latent-discriminator in place of kl",
        ),
        (["prior.network.kind=gru"], None),
        (["prior.network.kind=gan", "prior.head=null"], None),
    ],
)
def test_what_a_preset_brought_and_does_not_fit_goes_with_one_line(given: list[str], replaced: str | None) -> None:
    said: list[str] = []
    build.complete(load_preset("smoke", given), Saying(said))
    assert said == ([] if replaced is None else [replaced])


def test_what_follows_from_what_was_replaced_goes_too() -> None:
    said: list[str] = []
    build.complete(load_preset("smoke", ["autoencoder.network.kind=unet"]), Saying(said))
    assert said == [
        "autoencoder.network unet: representation stft in place of mel, bottleneck plain in place of variational",
        "autoencoder.bottleneck plain: no regulariser in place of kl",
    ]


def test_a_run_that_lists_all_keys_loses_those_of_the_old_objective() -> None:
    said: list[str] = []
    stored = build.complete(load_preset("smoke", ["train_prior.objective.end_weight=0.2"]))
    given = ["prior.network.kind=gan", "train_prior.objective.penalty=2"]
    changed = build.complete(override(stored, given, "train-prior"), Saying(said))
    assert said == ["prior.network gan: no head in place of mixture, objective gan in place of sequence"]
    assert changed.train_prior.objective.options["penalty"] == 2
    back = build.complete(override(changed, ["prior.network.kind=lstm"], "train-prior"))
    assert (back.prior.head or Member(kind="")).kind == "mixture"
    assert back.train_prior.objective.kind == "sequence"


def test_a_presets_own_keys_of_an_objective_that_is_not_chosen_go_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "include: smoke\ntrain_prior: {objective: {end_weight: 0.2, label_dropout: 0.3}}\n", encoding="utf-8"
    )
    said: list[str] = []
    found = build.complete(load_preset(str(path), ["prior.network.kind=gan"]), Saying(said))
    assert found.train_prior.objective.options["label_dropout"] == 0.3
    assert said == [
        "prior.network gan: no head in place of mixture, without train_prior.objective.end_weight",
    ]
    path.write_text("include: smoke\ntrain_prior: {objective: {end_wait: 0.2}}\n")
    with pytest.raises(ConfigError, match="did you mean 'end_weight'"):
        build.complete(load_preset(str(path)))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["prior.network.kind=gan", "prior.head.kind=flow"], "prior.network gan with head flow; expected no head"),
        (["prior.network.kind=gan", "prior.head.n_components=3"], "gan with head mixture; .*--set prior.head=null"),
        (["prior.network.kind=gan", "train_prior.objective.end_weight=1"], "train_prior.objective.end_weight"),
        (["prior.head=null"], "lstm with head null; .*--set prior.head.kind=mixture"),
        (["train_prior.objective.kind=gan"], "lstm with objective gan; .*--set train_prior.objective.kind=sequence"),
        (
            ["train_vocoder.objective.kind=adversarial-vocoding"],
            "magnitude with objective adversarial-vocoding; expected objective magnitude",
        ),
        (["autoencoder.network.kind=unet", "representation.kind=mel"], "unet with representation mel; .*stft"),
        (["autoencoder.network.kind=pca", "autoencoder.bottleneck.kind=variational"], "pca with bottleneck variat"),
        (["prior.network.kind=gann"], "did you mean 'gan'"),
        (["prior.network.kind=gan", "prior.network.widht=4"], "did you mean 'width'"),
    ],
)
def test_what_was_given_and_does_not_fit_is_refused(given: list[str], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        build.complete(load_preset("smoke", given))
