"""What every autoencoder promises: each network with each bottleneck."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import members
import numpy as np
import pytest
import torch

from actseq import registry
from actseq.autoencoders.base import Autoencoder, Latents, Skipping
from actseq.errors import ConfigError
from actseq.representations.base import Features

CHANNELS = 24
PAIRS = [(network, bottleneck) for network in sorted(registry.NETWORKS) for bottleneck in sorted(registry.BOTTLENECKS)]
LEGAL = [
    (network, bottleneck, options)
    for network, bottleneck in PAIRS
    if (network, bottleneck) not in members.REFUSED
    for options in members.NETWORKS.get(network, [{}])
]
DECODING = [row for row in LEGAL if row[0] not in members.SKIPPING]
every_model, every_decoder = (
    pytest.mark.parametrize(
        ("network", "bottleneck", "options"), rows, ids=[f"{n}-{b}-stride{o.get('stride')}" for n, b, o in rows]
    )
    for rows in (LEGAL, DECODING)
)


@pytest.mark.parametrize(("network", "bottleneck"), sorted(members.REFUSED))
def test_an_illegal_pair_is_refused_and_told_what_fits(network: str, bottleneck: str) -> None:
    with pytest.raises(ConfigError, match=f"{network}.*{members.REFUSED[network, bottleneck]}"):
        members.autoencoder(network, bottleneck, members.NETWORKS[network][0])


def ragged() -> list[torch.Tensor]:
    """Features of 13, 8, 1 and 2 frames."""
    whole = members.features(13, 4, CHANNELS).values
    return [whole[i, :, :n] for i, n in enumerate((13, 8, 1, 2))]


def in_garbage(rows: list[torch.Tensor], extra: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """(batch, channels, frames) with large noise beyond each row, and the lengths."""
    generator = torch.Generator().manual_seed(5)
    longest = max(row.shape[1] for row in rows) + extra
    batch = 50 * torch.randn((len(rows), rows[0].shape[0], longest), generator=generator)
    for i, row in enumerate(rows):
        batch[i, :, : row.shape[1]] = row
    return batch, torch.tensor([row.shape[1] for row in rows])


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@every_model
def test_padding_changes_no_code(network: str, bottleneck: str, options: dict[str, Any]) -> None:
    model, rows = members.autoencoder(network, bottleneck, options), ragged()
    with torch.no_grad():
        together = model.encode(Features(*in_garbage(rows)))
        for i, row in enumerate(rows):
            alone = model.encode(Features(row[None], torch.tensor([row.shape[1]])))
            n = math.ceil(row.shape[1] / model.stride)
            assert alone.mean.shape == (1, n, members.LATENT_DIM)
            assert int(together.lengths[i]) == int(alone.lengths[0]) == n
            close(together.mean[i, :n], alone.mean[0])
            assert (together.log_variance is None) == (alone.log_variance is None) == (bottleneck != "variational")
            if together.log_variance is not None and alone.log_variance is not None:
                close(together.log_variance[i, :n], alone.log_variance[0])


@every_decoder
def test_padding_changes_no_decoded_frame(network: str, bottleneck: str, options: dict[str, Any]) -> None:
    model = members.autoencoder(network, bottleneck, options)
    generator = torch.Generator().manual_seed(2)
    rows = [torch.randn((members.LATENT_DIM, n), generator=generator) for n in (7, 1, 4)]
    batch, lengths = in_garbage(rows)
    with torch.no_grad():
        together = model.decode(Latents(batch.transpose(1, 2), lengths))
        for i, row in enumerate(rows):
            n = row.shape[1]
            alone = model.decode(Latents(row.T[None], torch.tensor([n])))
            assert alone.values.shape == (1, CHANNELS, n * model.stride)
            assert int(together.lengths[i]) == int(alone.lengths[0]) == n * model.stride
            close(together.values[i, :, : n * model.stride], alone.values[0])


@every_model
def test_padding_changes_no_reconstruction(network: str, bottleneck: str, options: dict[str, Any]) -> None:
    model, rows = members.autoencoder(network, bottleneck, options), ragged()
    values, lengths = in_garbage(rows)
    with torch.no_grad():
        together = model.reconstruct(Features(values, lengths))
        assert together.values.shape == values.shape
        assert together.lengths.tolist() == lengths.tolist()
        for i, row in enumerate(rows):
            alone = model.reconstruct(Features(row[None], torch.tensor([row.shape[1]])))
            assert alone.values.shape == (1, *row.shape)
            assert alone.values.isfinite().all()
            close(together.values[i, :, : row.shape[1]], alone.values[0])


@every_model
def test_declared_rate_and_stride_are_true(network: str, bottleneck: str, options: dict[str, Any]) -> None:
    model = members.autoencoder(network, bottleneck, options)
    analysis = members.analysis(network)
    stride = round(options["seconds"] * analysis.feature_rate) if "seconds" in options else options.get("stride", 1)
    assert model.stride == stride
    assert model.latent_rate == pytest.approx(analysis.feature_rate / stride)
    assert model.latent_dim == members.LATENT_DIM
    assert model.generative == (network not in members.SKIPPING) == (not isinstance(model.network, Skipping))


@every_model
def test_state_dict_makes_a_copy(network: str, bottleneck: str, options: dict[str, Any]) -> None:
    model = members.autoencoder(network, bottleneck, options)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in (*other.parameters(), *other.buffers()):
            tensor.fill_(0.5)
    other.load_state_dict(model.state_dict())
    features = members.features(11, 2, CHANNELS)
    with torch.no_grad():
        assert torch.equal(other.reconstruct(features).values, model.reconstruct(features).values)


FRAMES = 60


def seen(function: Callable[[torch.Tensor], torch.Tensor], given: torch.Tensor) -> torch.Tensor:
    """At which of the places along its last axis what comes out looks; in double precision, however little it sees."""
    given = given.double().requires_grad_()
    function(given).sum().backward()
    assert given.grad is not None
    return given.grad.flatten(end_dim=-2).abs().sum(0) > 0


def frames_seen(model: Autoencoder, latent: int) -> torch.Tensor:
    """Which of FRAMES frames one latent frame depends on."""
    features, double = members.features(FRAMES, 1, CHANNELS), copy.deepcopy(model).double()
    return seen(lambda values: double.encode(Features(values, features.lengths)).mean[0, latent], features.values)


def latents_seen(model: Autoencoder, latent: int) -> torch.Tensor:
    """Which latent frames of those of FRAMES frames the decoded frames of one depend on."""
    n, double = FRAMES // model.stride, copy.deepcopy(model).double()
    inside = slice(latent * model.stride, (latent + 1) * model.stride)

    def decoded(rows: torch.Tensor) -> torch.Tensor:
        return double.decode_normalised(Latents(rows.transpose(1, 2), torch.tensor([n])))[0, :, inside]

    return seen(decoded, torch.randn((1, members.LATENT_DIM, n), generator=torch.Generator().manual_seed(3)))


@every_model
def test_encoder_looks_no_further_than_it_says(network: str, bottleneck: str, options: dict[str, Any]) -> None:
    model = members.autoencoder(network, bottleneck, options)
    if model.context_frames is None:  # and it looks that far
        assert frames_seen(model, FRAMES // model.stride // 2)[[0, -1]].any()
        return
    features = members.features(FRAMES, 1, CHANNELS)
    latent = FRAMES // model.stride // 2
    first, last = latent * model.stride, (latent + 1) * model.stride - 1
    position = torch.arange(FRAMES)
    near = (position >= first - model.context_frames) & (position <= last + model.context_frames)
    assert not near.all()
    own = (position >= first) & (position <= last)
    with torch.no_grad():
        mean, far_changed, own_changed = (
            model.encode(Features(features.values + 20 * changed, features.lengths)).mean[0, latent]
            for changed in (torch.zeros(FRAMES), (~near).float(), own.float())
        )
    close(far_changed, mean)
    assert (own_changed - mean).abs().max() > 1e-2


@every_decoder
def test_decoder_looks_no_further_than_it_says(network: str, bottleneck: str, options: dict[str, Any]) -> None:
    model = members.autoencoder(network, bottleneck, options)
    n, stride = FRAMES // model.stride, model.stride
    if model.context_frames is None:  # and it looks that far
        assert latents_seen(model, n // 2)[[0, -1]].any()
        return
    latents = torch.randn((1, n, members.LATENT_DIM), generator=torch.Generator().manual_seed(3))
    middle = n // 2
    # Frames between those of one latent frame and those of another.
    gap = ((torch.arange(n) - middle).abs() * stride - (stride - 1)).clamp(min=0)
    far, own = gap > model.context_frames, torch.arange(n) == middle
    assert far.any()
    with torch.no_grad():
        values, far_changed, own_changed = (
            model.decode_normalised(Latents(latents + 20 * changed[:, None], torch.tensor([n])))[
                0, :, middle * stride : (middle + 1) * stride
            ]
            for changed in (torch.zeros(n), far.float(), own.float())
        )
    close(far_changed, values)
    assert (own_changed - values).abs().max() > 1e-2


@pytest.mark.parametrize("bidirectional", [True, False])
def test_recurrent_units_see_everything_or_all_that_was(bidirectional: bool) -> None:
    options = {"width": 8, "layers": 2, "stride": 3, "bidirectional": bidirectional}
    model = members.autoencoder("recurrent", "variational", options)
    last = FRAMES if bidirectional else 30
    assert torch.equal(frames_seen(model, 9), torch.arange(FRAMES) < last)
    assert torch.equal(latents_seen(model, 9), torch.arange(FRAMES // 3) < last // 3)


def test_attention_reaches_as_far_as_it_is_told() -> None:
    """With nothing beside it but the last layer, which sees three frames to either side."""
    options = {"width": 12, "inner": 16, "blocks": 0, "stride": 2, "heads": 3}
    far = (torch.arange(FRAMES // 2) - 15).abs()
    for radius in (0, 1, 4):
        model = members.autoencoder("conv", "variational", options | {"attention": radius})
        assert model.context_frames == 3 + 2 * radius + 1
        assert torch.equal(latents_seen(model, 15), far <= 2 + radius)


def test_without_attention_there_is_nothing_of_it() -> None:
    options = members.NETWORKS["conv"][0]
    without, beside = (
        members.autoencoder("conv", "variational", options | {"attention": radius}, awake=False).state_dict()
        for radius in (0, 2)
    )
    assert {name for name in beside if name not in without} == {
        f"network.attention.{name}"
        for name in ("norm.weight", "norm.bias", "qkv.weight", "qkv.bias", "bias", "out.weight", "out.bias")
    }
    assert all(torch.equal(value, beside[name]) for name, value in without.items())


@pytest.mark.parametrize("heads", [0, 5])
def test_heads_that_do_not_fit_are_refused(heads: int) -> None:
    with pytest.raises(ConfigError, match=f"network conv.*heads.*{heads}"):
        members.autoencoder("conv", "plain", {"width": 12, "inner": 16, "blocks": 1, "attention": 2, "heads": heads})


BEGINS_AS_PCA = [(kind, options) for kind in ("conv", "recurrent") for options in members.NETWORKS[kind]]


@pytest.mark.parametrize(("network", "options"), BEGINS_AS_PCA)
def test_training_starts_from_principal_components(network: str, options: dict[str, Any]) -> None:
    model = members.autoencoder(network, "variational", options, awake=False)
    baseline = members.autoencoder("pca", "plain", {"stride": model.stride})
    features = Features(*in_garbage(ragged()))
    inside = torch.arange(features.values.shape[2]) < features.lengths[:, None]
    with torch.no_grad():
        made, expected = (one.reconstruct(features).values.movedim(1, 2)[inside] for one in (model, baseline))
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", members.NETWORKS["recurrent"])
def test_recurrent_units_of_nothing(options: dict[str, Any]) -> None:
    """No frames at all, and a batch in which one clip has none."""
    model = members.autoencoder("recurrent", "variational", options)
    stride = model.stride
    with torch.no_grad():
        empty = model.encode(Features(torch.zeros(2, CHANNELS, 0), torch.tensor([0, 0])))
        assert empty.mean.shape == (2, 0, members.LATENT_DIM)
        assert model.decode(empty.mode()).values.shape == (2, CHANNELS, 0)
        features = members.features(2 * stride, 2, CHANNELS)
        both = model.encode(Features(features.values, torch.tensor([2 * stride, 0])))
        alone = model.encode(Features(features.values[:1], torch.tensor([2 * stride])))
        close(both.mean[0], alone.mean[0])
        assert both.lengths.tolist() == [2, 0]


@every_model
def test_every_trainable_number_learns(network: str, bottleneck: str, options: dict[str, Any]) -> None:
    model = members.autoencoder(network, bottleneck, options).train()
    parameters = dict(model.named_parameters())
    assert bool(parameters) == model.network.trainable
    if not parameters:
        return
    with torch.no_grad():  # last layers that start at zero let nothing through to those before
        for parameter in parameters.values():
            parameter.add_(0.02 * torch.randn_like(parameter))
    features = members.features(21, 2, CHANNELS)
    posterior = model.encode(features)
    made = (
        model.network.reconstruct(features.values, features.lengths)
        if isinstance(model.network, Skipping)
        else model.decode_normalised(posterior.sample())[:, :, :21]
    )
    loss = (made - features.values).square().mean()
    kl = posterior.kl()
    if kl is not None:
        loss = loss + kl.mean()
    loss.backward()
    unreached = [name for name, p in parameters.items() if p.grad is None or not p.grad.abs().max() > 0]
    assert not unreached


@every_model
def test_a_draw_and_the_mode_keep_the_lengths(network: str, bottleneck: str, options: dict[str, Any]) -> None:
    model = members.autoencoder(network, bottleneck, options)
    with torch.no_grad():
        posterior = model.encode(members.features(17, 2, CHANNELS))
        draw, mode = posterior.sample(), posterior.mode()
    assert torch.equal(mode.values, posterior.mean)
    assert torch.equal(draw.lengths, posterior.lengths)
    assert torch.equal(draw.values, mode.values) == (posterior.log_variance is None)
    assert (posterior.kl() is None) == (posterior.log_variance is None)


def pca(latent_dim: int, data: list[Features], stride: int = 2) -> Autoencoder:
    """Fitted to `data`."""
    model = members.autoencoder("pca", "plain", {"stride": stride}, latent_dim, data[0].values.shape[1])
    model.fit(data)
    return model


def test_pca_is_numpys() -> None:
    stride, dims = 2, 6
    data = [members.features(41, 3, CHANNELS), members.features(30, 2, CHANNELS)]
    model = pca(dims, data, stride)
    rows = []
    clips = [features.values[i, :, : int(n)] for features in data for i, n in enumerate(features.lengths)]
    frames = torch.cat(clips, dim=1).double().numpy()
    mean, deviation = frames.mean(1, keepdims=True), np.sqrt(frames.var(1).mean())
    for clip in clips:
        scaled = (clip.double().numpy() - mean) / deviation
        scaled = np.pad(scaled, ((0, 0), (0, -scaled.shape[1] % stride)))
        rows.append(scaled.T.reshape(-1, stride * CHANNELS))
    stacked = np.concatenate(rows)
    centre = stacked.mean(0)
    _, singular, directions = np.linalg.svd(stacked - centre, full_matrices=False)
    first = (rows[0] - centre) @ directions[:dims].T
    with torch.no_grad():
        encoded = model.encode(Features(clips[0][None], torch.tensor([clips[0].shape[1]])))
        output = model.decode_normalised(encoded.mode())[0].T.reshape(-1, stride * CHANNELS).numpy()
    np.testing.assert_allclose(output, first @ directions[:dims] + centre, atol=1e-3)
    unit = first / (singular[:dims] / np.sqrt(len(stacked)))
    np.testing.assert_allclose(np.abs(encoded.mean[0].numpy()), np.abs(unit), atol=5e-3)


def test_whole_clips_begin_as_their_principal_components() -> None:
    stride, dims = 6, 3
    generator = torch.Generator().manual_seed(0)
    clips = [
        Features(torch.randn(1, CHANNELS, n, generator=generator) - 3, torch.tensor([n])) for n in (4, 5, 6, 6, 3, 11)
    ]
    model = members.autoencoder("clip", "variational", members.NETWORKS["clip"][2], dims, CHANNELS)
    model.fit(clips)
    # Silence behind the end of a clip counts, and what is longer than the clip of the network does not.
    silence = float(model.network.silence)
    padded = [torch.nn.functional.pad(one.values[0], (0, stride), value=silence)[:, :stride] for one in clips]
    rows = model.normaliser.normalise(torch.stack(padded)).flatten(1).double().numpy()
    centre = rows.mean(0)
    _, singular, directions = np.linalg.svd(rows - centre, full_matrices=False)
    places = (rows - centre) @ directions[:dims].T
    with torch.no_grad():
        posteriors = [model.encode(Features(one.values[:, :, :stride], one.lengths.clamp(max=stride))) for one in clips]
        codes = torch.cat([one.mean[:, 0] for one in posteriors])
        made = model.decode_normalised(Latents(codes[:, None], torch.ones(len(codes), dtype=torch.long)))
    np.testing.assert_allclose(codes.abs(), np.abs(places) / singular[:dims] * len(rows) ** 0.5, atol=1e-3)
    np.testing.assert_allclose(made.flatten(1), places @ directions[:dims] + centre, atol=1e-3)
    assert all(float(one.log_variance.max()) == -3 for one in posteriors if one.log_variance is not None)


def test_more_components_reconstruct_real_features_better(data_dir: Path) -> None:
    features = members.representation("mel").analyse(*members.padded(members.digits(data_dir, 8)))
    inside = torch.arange(features.values.shape[2]) < features.lengths[:, None]
    errors = []
    for dims in (1, 4, 12, 48):
        with torch.no_grad():
            error = pca(dims, [features]).reconstruct(features).values - features.values
        errors.append(float(error.movedim(1, 2)[inside].square().mean()))
    assert errors[0] > 1.5 * errors[1] > 2 * errors[2]
    assert errors[3] < 1e-3


def test_more_components_than_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"latent_dim is 25, but 1 frames of 24 channels"):
        members.autoencoder("pca", "plain", {"stride": 1}, latent_dim=25)
