"""Priors that need no training, on the latents of a tiny autoencoder of real spoken digits; figures are in numerics."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actseq import audio, pipeline
from actseq.data.latents import LatentSequences
from actseq.errors import ArtifactError, ConfigError
from actseq.inference import loading
from actseq.inference.loaded_run import LoadedRun
from actseq.inference.loading import load_latents
from actseq.inference.spans import read_spans, timed
from actseq.priors import morphs
from actseq.priors.base import Chunk, Prior, Sampling, SamplingRequest
from actseq.priors.labels import LabelledPrior
from actseq.priors.morphs import Interpolate, Vary, spherical
from actseq.priors.untrained import Normal, TrainingFrames
from actseq.storage.artifacts import Artifact, read_json
from actseq.storage.run_folder import RunFolder
from actseq.storage.store import StoreWriter, write_file

CPU = pipeline.Compute("cpu", 1)

LABELS = ["3", "7"]
EACH = 12
KINDS = ["iid", "random-walk", "normal", "interpolate", "vary"]
FREE = KINDS[:3]
every_kind = pytest.mark.parametrize("kind", KINDS)
every_free = pytest.mark.parametrize("kind", FREE)
MAX_FRAMES = 60


@pytest.fixture(scope="module")
def made(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run without a prior: some digits of two labels, and their latents."""
    folder = tmp_path_factory.mktemp("walks")
    threads = torch.get_num_threads()
    for label in LABELS:
        for path in audio.find(data_dir / "digits_fsdd" / label)[:: 300 // EACH][:EACH]:
            (folder / "sounds" / label).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / "sounds" / label / path.name)
    pipeline.train_ae(
        folder / "sounds", preset="smoke", run=str(folder / "run"), overrides=["train_ae.steps=2"], compute=CPU
    )
    pipeline.extract_latents(folder / "run", compute=CPU)
    yield folder / "run"
    torch.set_num_threads(threads)


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copied"))


@pytest.fixture(scope="module")
def latents(made: Path) -> LatentSequences:
    return load_latents(RunFolder(made))[0]


@pytest.fixture(scope="module")
def free(made: Path) -> Callable[[str], LabelledPrior[Any]]:
    opened = RunFolder(made)
    config = loading.stage_config(opened, (), "generate")
    return lambda name: loading.make_prior(opened, name, "cpu", config)


@pytest.fixture(scope="module")
def prior_of(latents: LatentSequences, free: Callable[[str], LabelledPrior[Any]]) -> Callable[[str], Any]:
    """Each kind, made from held-out sounds where it is made from sounds."""
    sounds = [tuple(map(torch.from_numpy, latents.read(i))) for i in latents.indices("test")]

    def build(kind: str) -> Any:
        if kind in FREE:
            return free(kind).prior
        if kind == "interpolate":
            return Interpolate([mean for mean, _ in sounds])
        return Vary(*sounds[0], free("random-walk").prior, amount=0.4)

    return build


def joined(chunks: list[Chunk]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([chunk.latents for chunk in chunks], 1), torch.cat([chunk.stopped for chunk in chunks], 1)


def sampled(prior: Any, n: int = 3, max_frames: int = MAX_FRAMES, **settings: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return joined(list(prior.sample(SamplingRequest(n=n, max_frames=max_frames, **settings))))


def lengths_of(stopped: torch.Tensor) -> np.ndarray:
    return np.asarray((~stopped).sum(1))


# -- what all of them promise ------------------------------------------------------------------------------------------


@every_kind
def test_the_contract_of_a_prior(kind: str, prior_of: Callable[[str], Any], latents: LatentSequences) -> None:
    prior = prior_of(kind)
    assert isinstance(prior, Prior)
    assert prior.latent_dim == latents.latent_dim
    assert prior.has_likelihood is False
    made, stopped = sampled(prior, until_stop=True)
    assert made.dtype == torch.float32
    assert made.shape == (3, stopped.shape[1], latents.latent_dim)
    assert made.isfinite().all()
    assert not made.requires_grad
    assert not stopped[:, 0].any()
    assert not (stopped[:, :-1] & ~stopped[:, 1:]).any()
    assert not stopped[:, -1].all()


@every_kind
def test_the_same_seed_gives_the_same_bytes(kind: str, prior_of: Callable[[str], Any]) -> None:
    prior = prior_of(kind)
    torch.manual_seed(1)
    first = sampled(prior, seed=3, until_stop=True)
    torch.manual_seed(2)
    for a, b in zip(first, sampled(prior, seed=3, until_stop=True), strict=True):
        assert torch.equal(a, b)
    if kind == "interpolate":
        assert torch.equal(first[0][0], first[0][1])
    else:
        other = sampled(prior, seed=4, until_stop=True)[0]
        frames = min(other.shape[1], first[0].shape[1])
        assert (first[0][:, :frames] - other[:, :frames]).abs().amin(2).max() > 1e-3
        assert (first[0][0] - first[0][1]).abs().max() > 1e-3


@every_kind
@pytest.mark.parametrize("until_stop", [False, True])
def test_chunks_do_not_change_what_is_said(kind: str, until_stop: bool, prior_of: Callable[[str], Any]) -> None:
    prior = prior_of(kind)
    max_frames = prior.natural_frames if kind == "vary" else MAX_FRAMES
    settings = {"n": 3, "max_frames": max_frames, "seed": 5, "until_stop": until_stop}
    whole = sampled(prior, chunk_frames=max_frames, **settings)
    for chunk_frames in (1, 7, max_frames - 1):
        chunks = list(prior.sample(SamplingRequest(chunk_frames=chunk_frames, **settings)))
        assert all(chunk.latents.shape[1] == chunk_frames for chunk in chunks[:-1])
        assert 0 < chunks[-1].latents.shape[1] <= chunk_frames
        for a, b in zip(joined(chunks), whole, strict=True):
            assert torch.equal(a, b)


@every_free
def test_an_endless_one_is_made_piece_by_piece(kind: str, prior_of: Callable[[str], Any]) -> None:
    chunks = prior_of(kind).sample(SamplingRequest(n=1, max_frames=10**12))
    first, second = next(chunks), next(chunks)
    assert first.latents.shape == second.latents.shape == (1, 64, prior_of(kind).latent_dim)
    assert not second.stopped.any()


@every_kind
def test_foreign_controls_are_refused_by_name(kind: str, prior_of: Callable[[str], Any]) -> None:
    for name, value in (("top_p", 0.9), ("guidance", 2.0), ("mixture_temperature", 0.5)):
        with pytest.raises(ConfigError, match=f"knows no {name}"):
            sampled(prior_of(kind), sampling=Sampling(**{name: value}), until_stop=True)
    with pytest.raises(ConfigError, match="an interpolation knows no temperature; expected no sampling controls"):
        sampled(prior_of("interpolate"), sampling=Sampling(temperature=0.5))


# -- frames to learn from ----------------------------------------------------------------------------------------------


def test_training_frames_are_those_of_the_store(latents: LatentSequences) -> None:
    frames, labels = latents.training_frames()
    assert labels == LABELS
    train = latents.indices("train")
    assert 0 < len(train) < len(latents.records)
    in_order = sorted(train, key=lambda i: (latents.records[i].extra["label"], i))
    np.testing.assert_array_equal(frames.mean, np.concatenate([latents.read(i)[0] for i in in_order]))
    np.testing.assert_array_equal(frames.log_variance, np.concatenate([latents.read(i)[1] for i in in_order]))
    lengths = [latents.records[i].length for i in in_order]
    names = np.array(["", *labels])[frames.label]
    assert list(names) == [
        latents.records[i].extra["label"] for i in in_order for _ in range(latents.records[i].length)
    ]
    assert list(np.flatnonzero(~frames.follows)) == list(np.cumsum([0, *lengths[:-1]]))
    own = [sorted(latents.records[i].length for i in train if latents.records[i].extra["label"] == k) for k in LABELS]
    assert [sorted(part.tolist()) for part in frames.lengths] == [sorted(lengths), *own]


def numbered(folder: Path) -> LatentSequences:
    """A store in which each frame says where it is: (sequence, position)."""
    sizes = [("a", 700), ("b", 130), ("b", 5), ("", 90), ("rare", 3), ("test", 40), ("a", 1)]
    items = []
    for i, (label, size) in enumerate(sizes):
        mean = np.stack([np.full(size, i), np.arange(size)], axis=1).astype(np.float32)
        split = "test" if label == "test" else "train"
        whole = {"begins": size < 500, "ends": True}
        items.append((f"{i}", mean, {"label": label, "split": split, **whole}))
    StoreWriter(folder).write_shard(0, items)
    return LatentSequences(folder, 2, 10.0)


def test_of_many_frames_an_even_share_is_taken(tmp_path: Path) -> None:
    latents = numbered(tmp_path)
    everything, labels = latents.training_frames()
    assert labels == ["a", "b", "rare"]
    assert len(everything.mean) == 929
    assert [sorted(part.tolist()) for part in everything.lengths] == [[1, 3, 5, 90, 130], [1], [5, 130], [3]]
    assert np.isneginf(everything.log_variance).all()
    some, _ = latents.training_frames(most=300)
    assert 200 <= len(some.mean) <= 500
    counted = np.bincount(some.label, minlength=4)
    assert counted[3] == 3, "a rare label is not lost"
    assert counted[1] > counted[2] > 0
    assert counted[0] > 0
    # Each frame once; what follows does so in the sequence, and in 64 frames at most one follows nothing.
    assert len(np.unique(some.mean, axis=0)) == len(some.mean)
    after = np.flatnonzero(some.follows)
    np.testing.assert_array_equal(some.mean[after] - some.mean[after - 1], np.tile([[0, 1]], (len(after), 1)))
    assert (~some.follows).sum() <= len(some.mean) / 64 + 7
    assert [part.tolist() for part in some.lengths] == [part.tolist() for part in everything.lengths]
    np.testing.assert_array_equal(some.mean, latents.training_frames(most=300)[0].mean)
    assert not np.array_equal(some.mean, latents.training_frames(most=300, seed=1)[0].mean)


def test_nothing_to_learn_from_is_said(tmp_path: Path) -> None:
    mean = np.zeros((3, 2), np.float32)
    StoreWriter(tmp_path).write_shard(0, [("x", mean, {"label": "", "split": "test", "begins": True, "ends": True})])
    with pytest.raises(ArtifactError, match=r"no sequence .* is for training"):
        LatentSequences(tmp_path, 2, 10.0).training_frames()


def test_labels_that_no_training_frame_has_are_unknown(tmp_path: Path) -> None:
    # The label `short` lies between the middles of two frames.
    spans = {"train": [[0.0, 0.8, "high"], [0.86, 0.94, "short"], [1.0, 2.0, "low"]], "validation": [[0.0, 1.0, "end"]]}
    items = []
    for split, own in spans.items():
        extra = {"label": "", "split": split, "begins": True, "ends": True, "spans": own}
        items.append((split, np.arange(40, dtype=np.float32).reshape(20, 2), extra))
    StoreWriter(tmp_path).write_shard(0, items)
    latents = LatentSequences(tmp_path, 2, 10.0)
    assert latents.labels == ["end", "high", "low", "short"]
    frames, labels = latents.training_frames()
    assert labels == ["high", "low"]
    assert np.bincount(frames.label).tolist() == [2, 8, 10]
    assert [own.tolist() for own in frames.lengths] == [[20], [8], [10]]
    np.testing.assert_array_equal(frames.mean[frames.label == 2], latents.read(0, 10, 20)[0])
    with pytest.raises(ConfigError, match=r"no label 'end'.*high, low"):
        timed(read_spans("end:0.2"), labels, {}, (0, 0), 0.1)


# -- iid ---------------------------------------------------------------------------------------------------------------


def rows_of(made: torch.Tensor, mean: np.ndarray) -> np.ndarray:
    """Which row of `mean` each frame is, exactly."""
    same = (made.reshape(-1, 1, made.shape[2]).numpy() == mean).all(2)
    assert same.any(1).all()
    return same.argmax(1).reshape(made.shape[:2])


def test_iid_frames_are_training_frames_of_the_label(
    latents: LatentSequences, free: Callable[[str], LabelledPrior[Any]]
) -> None:
    labelled, (frames, _) = free("iid"), latents.training_frames()
    cold = Sampling(temperature=0)
    condition = labelled.condition(torch.tensor([0, 1, 2]))
    assert torch.equal(condition, torch.eye(3))
    made, _ = sampled(labelled.prior, sampling=cold, condition=condition, max_frames=2000)
    rows = rows_of(made, frames.mean)
    assert set(frames.label[rows[1]]) == {1}
    assert set(frames.label[rows[2]]) == {2}
    # Without a label every frame is as likely as any other.
    counted = np.bincount(rows[0], minlength=len(frames.mean))
    expected = 2000 / len(frames.mean)
    assert ((counted - expected) ** 2 / expected).sum() < len(counted) + 5 * np.sqrt(2 * len(counted))
    # A glide flips in the middle.
    glide = rows_of(
        sampled(labelled.prior, sampling=cold, condition=condition[1:], condition_end=condition[1:].flip(0), n=2)[0],
        frames.mean,
    )
    half = MAX_FRAMES // 2
    np.testing.assert_array_equal(frames.label[glide], [[1] * half + [2] * half, [2] * half + [1] * half])


def test_iid_draws_from_the_posterior_of_a_frame(
    latents: LatentSequences, free: Callable[[str], LabelledPrior[Any]]
) -> None:
    frames, _ = latents.training_frames()
    cold = sampled(free("iid").prior, n=200, sampling=Sampling(temperature=0))[0]
    deviation = np.exp(0.5 * frames.log_variance)[rows_of(cold, frames.mean)]
    for temperature in (0.5, 1.0):
        warm = sampled(free("iid").prior, n=200, sampling=Sampling(temperature=temperature))[0]
        noise = (warm - cold).numpy() / deviation
        assert abs(noise.mean()) < 0.02
        assert noise.std() == pytest.approx(temperature, rel=0.02)


# -- normal ------------------------------------------------------------------------------------------------------------


def test_draws_for_a_label_lie_where_the_whole_clips_of_the_label_lie() -> None:
    rng, sizes = np.random.default_rng(0), [4000, 3000, 1]
    turns = [np.linalg.qr(rng.standard_normal((3, 3)))[0] * deviations for deviations in ([2, 1, 0.1], [0.5, 3, 1])]
    means = [np.array([4.0, 0, -1]), np.array([-3.0, 2, 0]), np.array([9.0, 9, 9])]
    mean = np.concatenate([rng.standard_normal((n, 3)) @ t.T for n, t in zip(sizes, [*turns, np.eye(3)], strict=True)])
    mean += np.repeat(means, sizes, axis=0)
    variance = np.full_like(mean, [0.25, 0, 0.04])
    label, ones = np.repeat([1, 2, 3], sizes), [np.ones(n, np.int64) for n in (sum(sizes), *sizes)]
    with np.errstate(divide="ignore"):
        frames = TrainingFrames(
            mean.astype(np.float32), np.log(variance), label, np.zeros(len(mean), bool), ones, 1.0, whole_clips=True
        )
    prior, n = Normal(frames), 20_000
    for row in range(4):
        condition = torch.eye(4)[row].expand(n, -1)
        drawn = sampled(prior, n=n, max_frames=1, condition=condition)[0][:, 0].double().numpy()
        own = mean[label == row] if row else mean
        wanted = np.cov(own.T, bias=True) + np.diag(variance[0]) if row != 3 else np.diag(variance[0])
        np.testing.assert_allclose(drawn.mean(0), own.mean(0), atol=0.1)
        np.testing.assert_allclose(np.cov(drawn.T), wanted, atol=0.03 * np.abs(wanted).max())
        half = sampled(prior, n=n, max_frames=1, condition=condition, sampling=Sampling(temperature=0.5))[0][:, 0]
        np.testing.assert_allclose(half - prior.centre[row], 0.5 * (drawn - prior.centre[row].numpy()), atol=1e-4)
    assert torch.equal(
        sampled(prior, n=5, max_frames=1)[0],
        sampled(prior, n=5, max_frames=1, condition=torch.eye(4)[:1].expand(5, -1))[0],
    )
    # Frames of a sequence are as the bottleneck has them, whatever the label.
    free = Normal(replace(frames, deviation=5.0, whole_clips=False))
    drawn = sampled(free, n=n, max_frames=1, condition=torch.eye(4)[1].expand(n, -1))[0][:, 0]
    np.testing.assert_allclose(np.cov(drawn.T), 25 * np.eye(3), atol=1)
    assert drawn.mean(0).abs().max() < 0.2


# -- how long ----------------------------------------------------------------------------------------------------------


@every_free
def test_lengths_are_those_of_training(
    kind: str, latents: LatentSequences, free: Callable[[str], LabelledPrior[Any]]
) -> None:
    labelled, (frames, _), n = free(kind), latents.training_frames(), 1500
    for k in range(3):
        condition = labelled.condition(torch.full((n,), k))
        _, stopped = sampled(labelled.prior, n=n, until_stop=True, condition=condition)
        found = lengths_of(stopped)
        assert set(found) <= set(frames.lengths[k])
        for length in set(frames.lengths[k]):
            share = (frames.lengths[k] == length).mean()
            assert (found == length).mean() == pytest.approx(share, abs=4.5 * np.sqrt(share * (1 - share) / n) + 1e-9)


@every_free
def test_limits_of_the_length(kind: str, latents: LatentSequences, prior_of: Callable[[str], Any]) -> None:
    prior, known = prior_of(kind), latents.training_frames()[0].lengths[0]
    latent_dim, longest = latents.latent_dim, int(known.max())
    assert sampled(prior)[0].shape[1] == MAX_FRAMES
    assert lengths_of(sampled(prior, n=50, max_frames=2, until_stop=True)[1]).tolist() == [2] * 50
    least = int(np.median(known))
    found = lengths_of(sampled(prior, n=200, until_stop=True, min_frames=least)[1])
    assert set(found) == set(known[known >= least])
    assert set(lengths_of(sampled(prior, n=9, until_stop=True, min_frames=longest + 3)[1])) == {longest + 3}
    # What was given counts; of what is too long already, nothing is added but what is asked for.
    prompt = torch.zeros(1, least, latent_dim)
    found = lengths_of(sampled(prior, n=200, until_stop=True, prompt=prompt)[1])
    assert set(found) == set(known[known > least] - least)
    prompt = torch.zeros(1, longest, latent_dim)
    assert not list(prior.sample(SamplingRequest(n=2, max_frames=9, min_frames=0, until_stop=True, prompt=prompt)))
    assert sampled(prior, until_stop=True, min_frames=2, prompt=prompt)[0].shape[1] == 2
    # Frames do not depend on whether the end is drawn.
    ended = sampled(prior, until_stop=True)[0]
    assert torch.equal(ended, sampled(prior)[0][:, : ended.shape[1]])


@every_free
def test_without_whole_sequences_there_is_no_end(
    kind: str, copied: Path, free: Callable[[str], LabelledPrior[Any]]
) -> None:
    manifest = copied / "latents" / "manifest.jsonl"
    write_file(manifest, manifest.read_bytes().replace(b'"begins": true', b'"begins": false'))
    opened = RunFolder(copied)
    labelled = loading.make_prior(opened, kind, "cpu", loading.stage_config(opened, (), "generate"))
    made, stopped = sampled(labelled.prior, until_stop=True)
    assert made.shape[1] == MAX_FRAMES
    assert not stopped.any()
    assert torch.equal(made, sampled(free(kind).prior)[0])


@every_free
def test_a_condition_of_another_prior_is_refused(kind: str, prior_of: Callable[[str], Any]) -> None:
    with pytest.raises(ConfigError, match="a condition of 8 numbers; expected 3"):
        sampled(prior_of(kind), condition=torch.zeros(3, 8))


# -- interpolation and variation ---------------------------------------------------------------------------------------


def test_an_interpolation_goes_through_the_sounds(latents: LatentSequences, prior_of: Callable[[str], Any]) -> None:
    sounds = [torch.from_numpy(latents.read(i)[0]) for i in latents.indices("test")]
    lengths = [len(sound) for sound in sounds]
    prior = Interpolate([*sounds, sounds[0]])
    natural = sum(lengths)
    assert prior.natural_frames == natural
    assert sampled(prior, n=2, max_frames=natural + 5, until_stop=True)[0].shape == (2, natural, latents.latent_dim)
    for settings in ({"max_frames": 4}, {"max_frames": natural - 3, "until_stop": True}, {"max_frames": 997}):
        made = sampled(prior, n=1, **settings)[0][0]
        assert len(made) == settings["max_frames"]
        assert torch.equal(made[0], sounds[0][0])
        assert torch.equal(made[-1], sounds[0][-1])
    # The passages are as long as their sounds are on average, and meet at the end of the one between.
    there = sampled(Interpolate(sounds), n=1, until_stop=True)[0][0]
    assert len(there) == round(natural / 2)
    assert torch.equal(there[-1], sounds[1][-1])
    assert torch.equal(sampled(prior, n=1, until_stop=True, max_frames=natural)[0][0, natural // 2], sounds[1][0])
    made = sampled(prior_of("interpolate"), n=1, max_frames=natural, min_frames=natural - 1, until_stop=True)[0]
    assert made.shape[1] == natural - 1


def test_from_a_sound_to_itself_it_stays(latents: LatentSequences) -> None:
    sound = torch.from_numpy(latents.read(latents.indices("test")[0])[0])
    made = sampled(Interpolate([sound, sound]), n=1, until_stop=True)[0][0]
    torch.testing.assert_close(made, sound)
    # And at another speed: three frames of the one belong to each of the other, between them lies the way to the next.
    slow = sound.repeat_interleave(3, dim=0)
    made = sampled(Interpolate([slow, sound]), n=1, max_frames=4 * len(sound) - 1)[0][0]
    for k in range(3):
        torch.testing.assert_close(made[k::4], sound)
    between = torch.from_numpy(np.stack([spherical(*pair, 0.5) for pair in pairwise(sound.double().numpy())])).float()
    torch.testing.assert_close(made[3::4], between)


def test_long_sounds_are_aligned_by_every_few_frames(monkeypatch: pytest.MonkeyPatch, latents: LatentSequences) -> None:
    sound = torch.from_numpy(latents.read(0)[0])
    slow = sound.repeat_interleave(3, dim=0)
    whole = sampled(Interpolate([slow, sound]), n=1, max_frames=60)[0][0]
    monkeypatch.setattr(morphs, "MAX_CELLS", len(sound) * len(slow) // 4)
    thinned = sampled(Interpolate([slow, sound]), n=1, max_frames=60)[0][0]
    path = morphs.warping_path(slow.numpy(), sound.numpy())
    assert len(path) < 0.7 * len(slow)
    assert path[0].tolist() == [0, 0]
    assert path[-1].tolist() == [len(slow) - 1, len(sound) - 1]
    assert (np.diff(path, axis=0) >= 0).all()
    torch.testing.assert_close(thinned[0], whole[0])
    torch.testing.assert_close(thinned[-1], whole[-1])
    assert float((thinned - whole).norm()) < 0.7 * float((thinned - thinned.mean(0)).norm())


def test_what_an_interpolation_cannot_do_is_said(latents: LatentSequences) -> None:
    sound = torch.from_numpy(latents.read(0)[0])
    with pytest.raises(ConfigError, match="through 1 sounds; expected at least 2"):
        Interpolate([sound])
    prior = Interpolate([sound, sound, sound])
    with pytest.raises(ConfigError, match="through 3 sounds was given 3 latent frames; expected at least 4"):
        sampled(prior, max_frames=3)
    with pytest.raises(ConfigError, match="takes no label"):
        sampled(prior, condition=torch.eye(3))
    with pytest.raises(ConfigError, match="cannot continue a recording"):
        sampled(prior, prompt=torch.zeros(1, 5, 4))


def test_a_variation_is_the_sound_or_nothing_of_it(
    latents: LatentSequences, free: Callable[[str], LabelledPrior[Any]]
) -> None:
    walk = free("random-walk").prior
    one, other = (tuple(torch.from_numpy(part) for part in latents.read(i)) for i in latents.indices("test"))
    still = sampled(Vary(*one, walk, amount=0), until_stop=True, seed=7)[0]
    assert torch.equal(still, one[0].expand(3, -1, -1))
    for sound in (one, other):
        made = sampled(Vary(*sound, walk, amount=1), until_stop=True, seed=7)[0]
        assert made.shape == (3, len(sound[0]), latents.latent_dim)
    # All that is left of the sound is how long it is, and which random numbers its posterior took.
    far = tuple(part + 3 for part in one)
    torch.testing.assert_close(
        sampled(Vary(*one, walk, amount=1), until_stop=True)[0],
        sampled(Vary(*far, walk, amount=1), until_stop=True)[0],
        atol=1e-4,
        rtol=1e-4,
    )
    mean, amounts = one[0], (0.0, 0.02, 0.1, 0.3, 0.6, 0.9)
    strayed = [(sampled(Vary(*one, walk, amount=a), until_stop=True, n=50)[0] - mean).norm() for a in amounts]
    assert (np.diff(strayed) > 0).all()


def test_a_variation_follows_the_limits_of_the_request(
    latents: LatentSequences, free: Callable[[str], LabelledPrior[Any]]
) -> None:
    labelled = free("random-walk")
    mean = torch.from_numpy(latents.read(latents.indices("test")[0])[0])
    prior, frames = Vary(mean, None, labelled.prior, amount=0.5), len(mean)
    assert prior.natural_frames == frames
    assert sampled(prior, max_frames=frames - 1, until_stop=True)[0].shape[1] == frames - 1
    assert sampled(prior, max_frames=2)[0].shape[1] == 2
    for settings in ({"max_frames": frames + 1}, {"min_frames": frames + 1, "until_stop": True}):
        with pytest.raises(ConfigError, match=f"asked for {frames + 1} latent frames; expected at most {frames}"):
            sampled(prior, **settings)
    with pytest.raises(ConfigError, match="cannot continue a recording"):
        sampled(prior, prompt=mean[None], until_stop=True)
    for amount in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match=f"amount of variation {amount:g}; expected 0"):
            Vary(mean, None, labelled.prior, amount=amount)
    # The label says which statistics it is drawn to.
    cold = Sampling(temperature=0)
    whole = Vary(mean, None, labelled.prior, amount=1)
    made = sampled(whole, until_stop=True, condition=labelled.condition(torch.arange(3)), sampling=cold)[0]
    for k in range(3):
        torch.testing.assert_close(made[k], labelled.prior.centre[k].expand(frames, -1))


# -- in a run ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["iid", "random-walk"])
def test_a_run_has_them_without_training(kind: str, made: Path) -> None:
    loaded = LoadedRun.open(made, prior=kind, device="cpu")
    assert isinstance(loaded.prior, LabelledPrior)
    assert (loaded.labels, loaded.prior_name, loaded.prior_folder) == (LABELS, kind, None)
    assert loaded.fingerprints == {
        "autoencoder": Artifact.read(made / "autoencoder").fingerprint,
        "latents": read_json(made / "latents" / "latents.json")["fingerprint"],
    }
    first = loaded.generate(2, until_stop=True, label="7", seed=3)
    for a, b in zip(first, loaded.generate(2, until_stop=True, label="7", seed=3), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.isfinite(a).all()
        assert a.any()
    assert len(loaded.generate(1, seconds=0.5, label="3:7")[0]) == 4000
    seed = np.sin(np.arange(4000) * 0.1).astype(np.float32)
    assert len(loaded.generate(1, seconds=0.5, seed_audio=seed)[0]) == 8000


def test_no_other_prior_may_have_their_names(copied: Path) -> None:
    for name in FREE:
        with pytest.raises(ConfigError, match=f"'{name}' is the name of a prior that needs no training"):
            pipeline.train_prior(copied, name=name)
    # One that is there all the same is the one that is meant.
    pipeline.train_prior(copied, name="mine", compute=CPU, overrides=["train_prior.steps=2"])
    (copied / "priors" / "mine").rename(copied / "priors" / "iid")
    loaded = LoadedRun.open(copied, prior="iid", device="cpu")
    assert isinstance(loaded.prior, LabelledPrior)
    assert loaded.fingerprints["prior"] == Artifact.read(copied / "priors" / "iid").fingerprint


def test_several_priors_and_none_named(copied: Path) -> None:
    for name in ("one", "two"):
        pipeline.train_prior(copied, name=name, compute=CPU, overrides=["train_prior.steps=2"])
    loaded = LoadedRun.open(copied, device="cpu")
    assert (loaded.prior, loaded.prior_name, loaded.prior_folder) == (None, None, None)
    with pytest.raises(ArtifactError, match="no prior 'default'; there are: one, two"):
        LoadedRun.open(copied, device="cpu", need_prior=True)
    result = pipeline.evaluate(copied, n=1, compute=CPU, overrides=["vocoder.kind=griffin-lim", "vocoder.n_iter=1"])
    assert "bits_per_dim" not in result
    assert any("none of the priors one, two is the default" in note for note in result["notes"])


def test_they_need_latents(copied: Path) -> None:
    shutil.rmtree(copied / "latents")
    with pytest.raises(ArtifactError, match="has no latents; run actseq extract-latents"):
        LoadedRun.open(copied, prior="iid", device="cpu")
