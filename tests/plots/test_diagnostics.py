"""Statistics of latents, spectra and learning rates, against independent computations; every run can be drawn."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import scipy.stats
import torch
from torch import Tensor, nn

from actseq import build
from actseq.autoencoders.bottlenecks import Adversarial
from actseq.config import Member, TrainingConfig, load_preset
from actseq.data.corpus import Corpus
from actseq.data.features import FeatureBatches
from actseq.errors import TrainingError
from actseq.inference.codec import Codec
from actseq.objectives.base import Batch, Loss
from actseq.plots import latent_charts, latent_statistics, sound_charts
from actseq.plots import spectra as bands
from actseq.plots.diagnostics import Selection, write_diagnostics
from actseq.plots.latent_statistics import LatentValues
from actseq.plots.observation import SECONDS, choose_excerpts
from actseq.progress import Silent
from actseq.storage.run_folder import RunFolder
from actseq.storage.store import StoreWriter
from actseq.training.learning_rate import HIGHEST, LOWEST, STEPS, LearningRateTest, find_learning_rate, judge

RATE = 8000

# numpy and matplotlib warn where something was drawn from nothing.
pytestmark = pytest.mark.filterwarnings("error")


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def compared(values: np.ndarray, deviation: float | None = 1.0, log_variance: np.ndarray | None = None) -> LatentValues:
    return LatentValues(values, values, log_variance, deviation)


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deviation", [1.0, 5.0, None])
def test_distances_are_those_of_scipy(deviation: float | None) -> None:
    values = normal(500, 4) * [1.0, 0.3, 5.0, 2.0] + [0.0, 0.5, -2.0, 9.0]
    found = latent_statistics.kolmogorov_smirnov(compared(values, deviation).standardised())
    for column, distance in zip(values.T, found, strict=True):
        given = (column.mean(), column.std()) if deviation is None else (0.0, deviation)
        assert distance == pytest.approx(scipy.stats.kstest(column, "norm", args=given).statistic, rel=1e-9)


def test_distance_of_draws_from_their_own_distribution_is_small_and_of_others_large() -> None:
    distances = latent_statistics.kolmogorov_smirnov(np.stack([normal(4000), 3 + normal(4000)], axis=1))
    assert distances[0] < 0.03
    assert distances[1] > 0.8


def test_quantiles_are_those_of_scipy() -> None:
    values = normal(999, 3) ** 3
    probabilities, expected, found = latent_statistics.quantiles(values)
    np.testing.assert_allclose(expected, scipy.stats.norm.ppf(probabilities), atol=1e-12)
    for column, quantile in zip(values.T, found.T, strict=True):
        np.testing.assert_allclose(quantile, scipy.stats.mstats.mquantiles(column, probabilities, 1, 1), rtol=1e-9)


def test_histogram_is_a_density_and_leaves_hardly_anything_out() -> None:
    values = np.stack([normal(5000), 4 * normal(5000, seed=1)], axis=1)
    found = latent_statistics.histogram(values)
    widths = np.diff(found.edges)
    inside = (np.abs(values) <= found.edges[-1]).mean(0)
    np.testing.assert_allclose((found.density * widths[:, None]).sum(0), inside, atol=1e-12)
    assert inside.min() >= 0.999
    for column, density, share in zip(values.T, found.density.T, inside, strict=True):
        np.testing.assert_allclose(density, share * np.histogram(column, found.edges, density=True)[0], atol=1e-12)
    fine = np.linspace(found.edges[:-1], found.edges[1:], 401)
    np.testing.assert_allclose(found.prior, scipy.stats.norm.pdf(fine).mean(0), atol=1e-4)


def test_correlations_are_those_of_numpy_and_nothing_beside_a_constant() -> None:
    values = normal(300, 4)
    values[:, 2] = 0.8 * values[:, 0] + 0.2 * values[:, 2]
    values[:, 3] = 7.0
    found = latent_statistics.correlations(values)
    np.testing.assert_allclose(found[:3, :3], np.corrcoef(values[:, :3].T), atol=1e-12)
    np.testing.assert_array_equal(found[3], [0, 0, 0, 1])
    largest, which = latent_statistics.nearest_relative(found)
    assert largest[0] == largest[2] == found[0, 2]
    assert which[[0, 2, 3]].tolist() == [2, 0, 3]
    alone = latent_statistics.nearest_relative(latent_statistics.correlations(values[:, :1]))
    assert (alone[0].tolist(), alone[1].tolist()) == ([0.0], [0])


def test_kl_is_that_of_torch() -> None:
    mean, log_variance = normal(50, 3), normal(50, 3, seed=1) - 1
    found = latent_statistics.kl_nats(LatentValues(mean, mean, log_variance, 1.0))
    posterior = torch.distributions.Normal(torch.from_numpy(mean), torch.from_numpy(np.exp(0.5 * log_variance)))
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).mean(0)
    assert found is not None
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-9)
    assert latent_statistics.kl_nats(compared(mean)) is None


def test_principal_components_have_the_variances_of_the_covariance() -> None:
    values = normal(200, 5) @ normal(5, 5, seed=1)
    places, shares = latent_statistics.principal(values)
    variances = np.sort(np.linalg.eigvalsh(np.cov(values.T, bias=True)))[::-1]
    np.testing.assert_allclose(places.var(0), variances[:2], rtol=1e-9)
    np.testing.assert_allclose(shares, variances[:2] / variances.sum(), rtol=1e-9)
    assert abs(np.corrcoef(places.T)[0, 1]) < 1e-9
    flat, share = latent_statistics.principal(values[:, :1])
    np.testing.assert_allclose(flat[:, 0], values[:, 0] - values[:, 0].mean(), atol=1e-9)
    assert (flat[:, 1] == 0).all()
    assert share.tolist() == pytest.approx([1.0, 0.0])
    assert latent_statistics.principal(np.ones((1, 3)))[1].tolist() == [0.0, 0.0]


def test_power_is_that_of_welch_and_adds_up() -> None:
    waveform = normal(64 * 129).astype(np.float32)
    total, n = bands.power(waveform, 128)
    _, density = scipy.signal.welch(
        waveform.astype(float), 1.0, "hann", nperseg=128, noverlap=64, detrend=False, scaling="density"
    )
    np.testing.assert_allclose(total / n, density / 128, rtol=1e-6)
    assert (total / n).sum() == pytest.approx(np.square(waveform).mean(), rel=0.02)
    short, one = bands.power(waveform[:5], 128)
    assert one == 1
    assert short.sum() > 0
    assert bands.power(waveform[:0], 128) == (pytest.approx(np.zeros(65)), 1)


def test_octaves_tell_how_much_louder_each_is() -> None:
    n_fft = bands.window_length(RATE)
    times = np.arange(2 * RATE) / RATE
    low, high = (np.sin(2 * np.pi * hz * times).astype(np.float32) for hz in (250.0, 1000.0))
    spectra = np.stack([bands.power(sound, n_fft)[0] for sound in (low + high, 2 * low + high / 2, -2 * low)])
    found = bands.octaves(spectra, RATE)
    assert found.centre.tolist() == [31.25, 62.5, 125.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0]
    np.testing.assert_allclose(found.low[1:], found.high[:-1])
    assert found.high[-1] == RATE / 2
    levels = bands.decibels(found.power, found.power[0])
    place = {hz: k for k, hz in enumerate(found.centre.tolist())}
    assert levels[1, place[250.0]] - levels[0, place[250.0]] == pytest.approx(6.02, abs=0.01)
    assert levels[1, place[1000.0]] - levels[0, place[1000.0]] == pytest.approx(-6.02, abs=0.01)
    assert levels[2, place[250.0]] == pytest.approx(levels[1, place[250.0]], abs=0.01) == levels.max()
    assert bands.decibels(np.zeros(3), np.zeros(3)).tolist() == [bands.NOTHING_DB] * 3


# -- the choice of clips -----------------------------------------------------------------------------------------------


def corpus_of(folder: Path, seconds: list[float], splits: list[str], labels: list[str] | None = None) -> Corpus:
    rng = np.random.default_rng(0)
    items = []
    for k, (length, split) in enumerate(zip(seconds, splits, strict=True)):
        times = np.arange(round(length * RATE)) / RATE
        sound = np.sin(2 * np.pi * (200 + 150 * k) * times) * np.exp(-3 * times) + 0.01 * rng.standard_normal(
            len(times)
        )
        samples = np.round(8000 * sound).astype(np.int16)
        extra = {"source": f"{k}.wav", "label": labels[k] if labels else "", "split": split}
        extra |= {"peak": float(np.abs(samples).max(initial=0)) / 32768, "scale": 1.0, "start": 0}
        items.append((f"{k}.wav", samples, extra | {"begins": True, "ends": True, "offset": 0.0}))
    StoreWriter(folder).write_shard(0, items)
    return Corpus(folder, -3.0)


def test_choice_is_bounded_seeded_and_spread(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, [0.0, *[8.0] * 20, *[0.5] * 10], ["test"] * 31, ["a", *["long"] * 20, *["short"] * 10])
    found = choose_excerpts(corpus, "test", None, RATE, None, 3)
    assert (
        found
        == choose_excerpts(corpus, "test", None, RATE, None, 3)
        != choose_excerpts(corpus, "test", None, RATE, None, 4)
    )
    assert sum(excerpt.samples for excerpt in found) <= SECONDS * RATE
    assert len(found) >= 12
    assert {excerpt.samples for excerpt in found if excerpt.label == "long"} == {5 * RATE}
    assert len({excerpt.start for excerpt in found if excerpt.label == "long"}) > 5
    for excerpt in found:
        assert 0 <= excerpt.start < excerpt.stop <= corpus.store.records[excerpt.index].length
    assert {excerpt.label for excerpt in choose_excerpts(corpus, "test", ["short"], RATE, None, 0)} == {"short"}
    assert len(choose_excerpts(corpus, "test", None, RATE, 2, 0)) == 2
    assert len(choose_excerpts(corpus, "test", None, RATE, 999, 0)) == 30


def test_a_single_long_clip_gives_a_minute(tmp_path: Path) -> None:
    [found] = choose_excerpts(corpus_of(tmp_path, [70.0], ["test"]), "test", None, RATE, None, 0)
    assert found.samples == 60 * RATE


# -- pictures of whole runs --------------------------------------------------------------------------------------------


def codec_of(corpus: Corpus, *settings: str) -> Codec:
    """A run of its first step: nothing is trained."""
    config = build.complete(load_preset("smoke", ["autoencoder.latent_dim=3", *settings]))
    representation = build.build_representation(config)
    torch.manual_seed(0)
    model = build.build_autoencoder(config, representation)
    model.fit(FeatureBatches(corpus, representation, torch.device("cpu")))
    vocoder = build.build_vocoder(Member(kind="griffin-lim"), representation)
    return Codec(representation, model.eval(), vocoder, -3.0, torch.device("cpu"))


def draw(
    folder: Path, corpus: Corpus, codec: Codec, split: str = "test"
) -> tuple[dict[str, object], list[str], set[str]]:
    run = RunFolder(folder / "run")
    run.autoencoder.mkdir(parents=True, exist_ok=True)
    (run.autoencoder / "metrics.csv").write_text("step,train/loss\n1,2\n2,1\n")
    made = write_diagnostics(run, codec, corpus, folder / "plots", Selection(split), Silent())
    for picture in made.pictures:
        assert picture.read_bytes().startswith(b"\x89PNG")
        with picture.with_suffix(".csv").open(newline="") as file:
            rows = list(csv.reader(file))
        assert len(rows) > 1
        assert len({len(row) for row in rows}) == 1
    names = {path.stem for path in made.pictures}
    assert {path.name for path in (folder / "plots").iterdir()} == {
        f"{name}.{end}" for name in names for end in ("png", "csv")
    }
    return made.figures, made.notes, names


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    splits = ["train"] * 4 + ["validation"] + ["test"] * 3
    return corpus_of(tmp_path / "corpus", [0.5] * 8, splits, ["a", "b"] * 4)


def table(folder: Path, name: str) -> dict[str, np.ndarray]:
    with (folder / "plots" / f"{name}.csv").open(newline="") as file:
        header, *rows = list(csv.reader(file))
    return {key: np.array(column, float) for key, column in zip(header, zip(*rows, strict=True), strict=True)}


EVERY = {"losses-autoencoder", "frames", "spectrum", "octaves"}
OF_LATENTS = {"code-distributions", "code-quantiles", "code-correlations", "code-dimensions", "latent-map"}


def test_variational_run_and_the_same_bytes_again_even_under_a_dark_style(tmp_path: Path, corpus: Corpus) -> None:
    import matplotlib.style

    codec = codec_of(corpus)
    figures, notes, names = draw(tmp_path / "1", corpus, codec)
    assert names == EVERY | OF_LATENTS | {"code-kl"}
    assert notes == []
    assert figures["clips"] == figures["clips_in_split"] == 3
    found, matrix = (table(tmp_path / "1", f"code-{name}") for name in ("dimensions", "correlations"))
    assert (found["deviation"] > found["deviation_of_mean"]).all()
    np.testing.assert_allclose([matrix[str(k)][k] for k in range(3)], 1.0)
    largest = [np.abs(np.delete(matrix[str(k)], k)).max() for k in range(3)]
    np.testing.assert_allclose(found["largest_correlation"], largest, atol=1e-5)
    with matplotlib.style.context(["dark_background", {"font.size": 30.0}]):
        torch.manual_seed(99)
        draw(tmp_path / "2", corpus, codec)
    for path in (tmp_path / "1" / "plots").iterdir():
        assert path.read_bytes() == (tmp_path / "2" / "plots" / path.name).read_bytes(), path.name


def test_plain_code_is_compared_with_its_own_gaussian(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "corpus", [0.3, 0.3], ["train", "validation"])
    codec = codec_of(corpus, "autoencoder.network={kind: pca}", "autoencoder.bottleneck.kind=plain")
    figures, notes, names = draw(tmp_path, corpus, codec)
    assert names == EVERY | OF_LATENTS
    assert figures["split"] == "validation"
    assert notes == ["nothing is in the test split: these are validation clips"]
    assert isinstance(figures["codes"], dict)
    assert figures["codes"]["prior"] is None
    assert figures["codes"]["active_dims"] is None
    assert abs(table(tmp_path, "code-quantiles")["codes"].mean()) < 0.2


def test_adversarial_code_is_compared_with_the_deviation_that_it_declares(tmp_path: Path, corpus: Corpus) -> None:
    codec = codec_of(corpus, "autoencoder.bottleneck={kind: adversarial, deviation: 3.0}")
    assert isinstance(codec.autoencoder.bottleneck, Adversarial)
    figures, _, _ = draw(tmp_path, corpus, codec)
    assert isinstance(figures["codes"], dict)
    assert figures["codes"]["prior"] == "N(0, 9)"
    with torch.inference_mode():
        latents = [codec.encode([corpus.waveform(i)])[0][0] for i in corpus.indices("test")]
    expected = [scipy.stats.kstest(column, "norm", args=(0, 3)).statistic for column in np.concatenate(latents).T]
    np.testing.assert_allclose(table(tmp_path, "code-dimensions")["ks"], expected, atol=1e-4)


def test_network_with_skip_connections_has_no_codes_to_draw(tmp_path: Path, corpus: Corpus) -> None:
    codec = codec_of(corpus)
    codec.autoencoder.generative = False
    figures, notes, names = draw(tmp_path, corpus, codec)
    assert names == EVERY
    assert figures["codes"] is None
    assert any("skip connections" in note for note in notes)


def test_run_that_holds_nothing_out_says_so(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "corpus", [0.3], ["train"])
    figures, notes, names = draw(tmp_path, corpus, codec_of(corpus))
    assert names >= EVERY | OF_LATENTS
    assert figures["split"] == "train"
    assert any("nothing was held out" in note for note in notes)


def test_silence_is_drawn(tmp_path: Path, corpus: Corpus) -> None:
    samples = np.zeros(RATE // 2, np.int16)
    extra = {"source": "s.wav", "label": "", "split": "test", "peak": 0.0, "scale": 1.0}
    StoreWriter(tmp_path / "silence").write_shard(0, [("s.wav", samples, extra)])
    figures, _, _ = draw(tmp_path, Corpus(tmp_path / "silence", -3.0), codec_of(corpus))
    assert isinstance(figures["octaves"], list)
    assert all(row["original_db"] == bands.NOTHING_DB for row in figures["octaves"])


@pytest.mark.parametrize("dims", [1, 9])
def test_any_number_of_dimensions_labels_and_constants(
    tmp_path: Path, dims: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latent_charts, "MAX_DIMENSIONS", 4)
    values = normal(60, dims) * 30.0
    values[:, 0] = 1.0
    found = compared(values, None)
    standardised = found.standardised()
    distances = latent_statistics.kolmogorov_smirnov(standardised)
    assert distances[0] == 0.5
    path = tmp_path / "chart.png"
    latent_charts.distributions(path, latent_statistics.histogram(standardised), distances, None, "run")
    _, expected, quantiles = latent_statistics.quantiles(standardised)
    latent_charts.quantiles(path, expected, quantiles, distances, None, "run")
    latent_charts.correlations(path, latent_statistics.correlations(values), "run")
    nats = np.sort(np.abs(normal(dims)))[::-1] * 1e-3
    latent_charts.kl(path, nats, np.arange(dims), 0.01, "run")
    labels = [f"label {k % 13} $" for k in range(60)]
    places, shares = latent_statistics.principal(values)
    latent_charts.latent_map(path, {"frames": (places, labels, shares)}, "run")
    frame = sound_charts.Frame("long " * 30, 0.1, np.zeros((2, 3)), np.zeros((2, 64)))
    sound_charts.frames(path, [frame], RATE, "dB", "run")
    assert path.stat().st_size > 1000


# -- learning rates ----------------------------------------------------------------------------------------------------


class Bowl(nn.Module):
    """Two groups of parameters, each `distance` away from where its loss is lowest."""

    monitor = "height"

    def __init__(self, distance: float = 1.0, noise: float = 0.0) -> None:
        super().__init__()
        self.model = nn.ParameterDict({"a": nn.Parameter(torch.zeros(8)), "b": nn.Parameter(torch.zeros(8))})
        self.distance, self.noise = distance, noise

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {name: [self.model[name]] for name in ("a", "b")}

    def exported(self) -> nn.Module:
        return self.model

    def losses(self, batch: Batch) -> dict[str, Loss]:
        noise = 1 + self.noise * torch.randn(())
        return {name: Loss((self.model[name] / self.distance - noise).square().mean()) for name in ("a", "b")}

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        return {"height": self.losses(batch)["a"].total.detach()}


class Endless(Bowl):
    """Gets worse the further it goes, and then is nothing at all."""

    def __init__(self, start: float = 1.0) -> None:
        super().__init__()
        self.start = start

    def losses(self, batch: Batch) -> dict[str, Loss]:
        far = self.model["a"].abs().mean()
        worse = torch.where(far < 1e-3, self.start - self.model["a"].mean() + 1e4 * far, torch.nan)
        return {"a": Loss(worse), "b": Loss(self.model["b"].mean())}


class Nothing:
    def batch(self, step: int, rank: int = 0) -> Mapping[str, np.ndarray]:
        return {"step": np.array([step])}


def looked_for(objective: Bowl) -> LearningRateTest:
    config = TrainingConfig(objective=Member(kind="bowl"), steps=1, batch_size=1, learning_rate=0.5)
    return find_learning_rate(
        objective, Nothing(), Nothing(), config, seed=0, device=torch.device("cpu"), reporter=Silent()
    )


def test_a_rate_is_found_for_a_bowl_of_any_size() -> None:
    near, far = looked_for(Bowl(0.01, noise=0.01)), looked_for(Bowl(1.0, noise=0.01))
    assert near.suggested is not None
    assert far.suggested is not None
    # Adam's steps are as long as the rate: what lies a hundred times as near needs a hundredth of it.
    assert far.suggested / near.suggested == pytest.approx(100, rel=0.25)
    # The steps up to a rate r are about 11 r long together; within them lies the way.
    assert 0.01 < far.suggested < far.lowest < 0.2


def test_all_groups_are_raised_together() -> None:
    bowl = Bowl()
    looked_for(bowl)
    np.testing.assert_array_equal(bowl.model["a"].detach(), bowl.model["b"].detach())
    assert bowl.model["a"].abs().min() > 0.1


def test_a_search_is_repeatable_and_leaves_the_random_numbers_alone() -> None:
    before = torch.get_rng_state()
    first, second = looked_for(Bowl(noise=0.3)), looked_for(Bowl(noise=0.3))
    np.testing.assert_array_equal(first.losses, second.losses)
    assert torch.equal(before, torch.get_rng_state())


def test_the_search_ends_where_the_loss_does() -> None:
    found = looked_for(Endless())
    assert 10 < len(found.rates) < STEPS
    assert found.suggested is None
    assert found.rates[0] == LOWEST < HIGHEST
    with pytest.raises(TrainingError, match="finite"):
        looked_for(Endless(float("nan")))


def test_smoothing_and_the_steepest_descent() -> None:
    rates = np.geomspace(1e-6, 1.0, 100)
    way = np.arange(100) - 50.0
    losses = np.where(way < 20, 1 - scipy.stats.norm.cdf(way, 0, 8), 0.05 * (way - 20))
    found = judge(rates, losses)
    assert found.suggested == pytest.approx(rates[50], rel=0.2)
    assert found.lowest == pytest.approx(rates[69], rel=0.5)
    np.testing.assert_allclose(judge(rates, np.full(100, 2.0)).smooth, 2.0)
    assert judge(rates, np.full(100, 2.0)).suggested is None
    assert judge(rates, 2 + 1e-3 * normal(100)).suggested is None
    assert judge(rates[:1], losses[:1]).suggested is None
