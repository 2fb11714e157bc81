"""Stored features: what a segment of the sound would have given, at the same place."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actseq import audio, build
from actseq.config import Config, load_preset
from actseq.data import features
from actseq.data.corpus import Corpus, build_corpus
from actseq.data.drumkit import write_drumkit
from actseq.data.features import FeatureBatches, FeatureSource, clip_features, store_features
from actseq.errors import ConfigError
from actseq.objectives.base import Batch
from actseq.progress import Silent
from actseq.representations.base import Representation
from actseq.storage.store import SequenceStore, group_shards

KINDS = {
    "mel": "{kind: mel, n_fft: 256, hop_length: 64, n_mels: 24}",
    "stft": "{kind: stft, n_fft: 256, hop_length: 64}",
    "grain": "{kind: grain, grain_length: 256, overlap: 0.75}",
}
CPU = torch.device("cpu")
FRAMES = 40


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Hits of a drum machine, some shorter than a segment."""
    folder = tmp_path_factory.mktemp("features")
    write_drumkit(folder / "sounds", n_per_kind=5, sample_rate=8000, seed=0)
    config = load_preset("smoke").corpus
    build_corpus(audio.SoundFolder(folder / "sounds"), folder / "corpus", config, 0, Silent())
    return Corpus(folder / "corpus", config.level_dbfs)


def config_of(kind: str, *overrides: str) -> Config:
    return build.complete(load_preset("smoke", [f"representation={KINDS[kind]}", *overrides]))


def store(folder: Path, corpus: Corpus, representation: Representation, made_from: str = "a test") -> SequenceStore:
    return store_features(folder, corpus, representation, {"corpus": made_from}, "the features of run r", Silent())


def source(corpus: Corpus, stored: SequenceStore, **changes: Any) -> FeatureSource:
    given: dict[str, Any] = {"split": "train", "frames": FRAMES, "hop_length": 64, "batch_size": 20, "seed": 1}
    return FeatureSource(corpus, stored, **(given | changes))


def place(corpus: Corpus, stored: SequenceStore, frame: np.ndarray, n_samples: int, hop: int) -> tuple[int, int]:
    """The clip that has this first frame, the segment's first sample, and the samples from there to the end."""
    for i, record in enumerate(corpus.store.records):
        start = record.length - n_samples
        if start >= 0 and start % hop == 0 and np.array_equal(stored.read(i)[start // hop], frame):
            return i, start
    raise AssertionError("a frame that is in no clip")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_clip_is_stored_as_it_is_analysed(corpus: Corpus, tmp_path: Path, kind: str) -> None:
    representation = build.build_representation(config_of(kind))
    stored = store(tmp_path / "features", corpus, representation)
    assert [record.key for record in stored.records] == [record.key for record in corpus.store.records]
    for i, (record, values) in enumerate(stored):
        waveform = torch.from_numpy(corpus.waveform(i))[None]
        expected = representation.analyse(waveform, torch.tensor([waveform.shape[1]])).values[0].T.numpy()
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, expected)
        assert {name: record.extra[name] for name in ("label", "split")} == {
            name: corpus.store.records[i].extra[name] for name in ("label", "split")
        }
        assert record.extra["clip_sha256"] == corpus.store.records[i].sha256
    meta = json.loads((tmp_path / "features" / "features.json").read_text(encoding="utf-8"))
    assert meta["fingerprint"] == stored.fingerprint()
    assert (meta["n_sequences"], meta["channels"]) == (len(corpus), representation.channels)
    assert meta["inputs"] == {"corpus": "a test"}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_objective_is_told_the_same_by_a_crop_of_either(corpus: Corpus, tmp_path: Path, kind: str) -> None:
    assert_same_of_both(corpus, tmp_path, kind)


def test_it_is_with_real_digits(tmp_path: Path, data_dir: Path) -> None:
    (tmp_path / "sounds").mkdir()
    paths = audio.find(data_dir / "digits_fsdd")
    for path in paths[:: len(paths) // 12][:12]:
        (tmp_path / "sounds" / path.name).symlink_to(path)
    config = load_preset("smoke").corpus
    build_corpus(audio.SoundFolder(tmp_path / "sounds"), tmp_path / "corpus", config, 0, Silent())
    assert_same_of_both(Corpus(tmp_path / "corpus", config.level_dbfs), tmp_path, "stft", frames=70)


def assert_same_of_both(corpus: Corpus, tmp_path: Path, kind: str, frames: int = FRAMES) -> None:
    """Features of segments analysed with their surroundings, at the places where stored ones were drawn."""
    config = config_of(kind)
    representation = build.build_representation(config)
    model = build.build_autoencoder(config, representation)
    stored = store(tmp_path / "features", corpus, representation)
    model.fit(FeatureBatches(corpus, representation, CPU))
    hop = representation.hop_length
    margin = -(-representation.context_samples // hop) * hop
    objective = build.build_autoencoding(config, model, representation, margin)
    made = source(corpus, stored, frames=frames).batch(3)
    of_store, target = objective.pair(Batch({name: torch.from_numpy(value) for name, value in made.items()}, 0.0))
    assert target is of_store
    ends = False
    for i, n_samples in enumerate(made["n_samples"].tolist()):
        index, start = place(corpus, stored, made["features"][i, 0], n_samples, hop)
        assert corpus.store.records[index].extra["split"] == "train"
        segment = corpus.waveform(index, start - margin, start + (frames - 1) * hop + margin)
        data = {"waveform": torch.from_numpy(segment)[None], "n_samples": torch.tensor([n_samples])}
        of_crop, _ = objective.pair(Batch(data, 0.0))
        length = int(of_crop.lengths[0])
        assert int(of_store.lengths[i]) == length
        ends |= length < frames
        np.testing.assert_allclose(
            of_store.values[i, :, :length], of_crop.values[0, :, :length], atol=1e-5, err_msg=f"{index} at {start}"
        )
        assert not made["features"][i, length:].any()
    assert ends, "no segment lies over the end of a clip"


def test_statistics_are_those_of_the_sound(corpus: Corpus, tmp_path: Path) -> None:
    config = config_of("mel")
    representation = build.build_representation(config)
    stored = store(tmp_path / "features", corpus, representation)
    torch.manual_seed(0)
    first = build.build_autoencoder(config, representation)
    second = build.build_autoencoder(config, representation)
    second.load_state_dict(first.state_dict())
    first.fit(FeatureBatches(corpus, representation, CPU))
    second.fit(FeatureBatches(corpus, representation, CPU, stored=stored))
    for name, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, atol=1e-6, rtol=1e-6, msg=name)


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("of_store", [False, True])
def test_long_clips_come_in_pieces_that_make_up_the_whole(
    corpus: Corpus, tmp_path: Path, kind: str, of_store: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    representation = build.build_representation(config_of(kind))
    stored = store(tmp_path / "features", corpus, representation) if of_store else None
    batches = FeatureBatches(corpus, representation, CPU, stored=stored)
    wholes = [clip_features(corpus, i, representation, CPU).values for i in batches.chosen]
    monkeypatch.setattr("actseq.data.features.PIECE_FRAMES", 12)
    pieces = list(batches)
    assert len(pieces) > len(wholes)
    for piece in pieces:
        assert piece.lengths.tolist() == [piece.values.shape[2]]
        assert 0 < piece.values.shape[2] <= 12
    made = torch.cat([piece.values for piece in pieces], dim=2)
    torch.testing.assert_close(made, torch.cat(wholes, dim=2), atol=1e-6, rtol=1e-5)


def test_a_batch_is_a_pure_function_of_seed_step_and_rank(corpus: Corpus, tmp_path: Path) -> None:
    stored = store(tmp_path / "features", corpus, build.build_representation(config_of("mel")))

    def batch(seed: int = 1, step: int = 0, rank: int = 0, split: str = "train") -> np.ndarray:
        return np.asarray(source(corpus, stored, seed=seed, split=split).batch(step, rank)["features"])

    np.testing.assert_array_equal(batch(), batch())
    for other in (batch(seed=2), batch(step=1), batch(rank=1), batch(split="validation")):
        assert not np.array_equal(batch(), other)


def test_only_clips_of_the_split_and_the_labels_are_drawn(corpus: Corpus, tmp_path: Path) -> None:
    stored = store(tmp_path / "features", corpus, build.build_representation(config_of("mel")))
    wanted = [i for i in corpus.indices("train", ["kick"]) if corpus.store.records[i].extra["label"] == "kick"]
    rows = np.concatenate([stored.read(i) for i in wanted])
    known = {row.tobytes() for row in rows}
    drawn = source(corpus, stored, labels=["kick"]).batch(0)["features"]
    assert {row.tobytes() for row in drawn[:, 0]} <= known
    every = source(corpus, stored).batch(0)["features"]
    assert not {row.tobytes() for row in every[:, 0]} <= known


@pytest.mark.parametrize("at", [1, 2, 5, 6, 13])
def test_killed_at_any_write_it_goes_on_to_the_same_bytes(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr(features, "group_shards", lambda sizes: group_shards(sizes, max_items=4))
    representation = build.build_representation(config_of("mel"))
    whole = store(tmp_path / "whole" / "features", corpus, representation)
    counted, sync = [0], os.fsync

    def dying(descriptor: int) -> None:
        counted[0] += 1
        if counted[0] == at:
            raise KeyboardInterrupt
        sync(descriptor)

    folder = tmp_path / "killed" / "features"
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", dying)
        with pytest.raises(KeyboardInterrupt):
            store(folder, corpus, representation)
    assert not (folder / "features.json").exists()
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*")}
    manifest = (folder / "manifest.jsonl").read_text(encoding="utf-8") if (folder / "manifest.jsonl").exists() else ""
    again = store(folder, corpus, representation)
    assert again.fingerprint() == whole.fingerprint()
    for name, made in content(tmp_path / "whole" / "features").items():
        assert (folder / name).read_bytes() == made, name
    committed = {f"shard-{json.loads(line)['shard']:05d}.safetensors" for line in manifest.splitlines()}
    assert all((folder / name).stat().st_mtime_ns == before[name] for name in committed), "repeated what was done"


def test_done_with_the_same_inputs_nothing_is_made_again(corpus: Corpus, tmp_path: Path) -> None:
    folder, representation = tmp_path / "features", build.build_representation(config_of("mel"))
    first = store(folder, corpus, representation)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert store(folder, corpus, representation).fingerprint() == first.fingerprint()
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    with pytest.raises(ConfigError, match=r"features of run r .*corpus a test instead of another.*delete .*features"):
        store(folder, corpus, representation, "another")


def test_what_was_begun_from_other_inputs_is_begun_anew(corpus: Corpus, tmp_path: Path) -> None:
    folder = tmp_path / "features"
    store(folder, corpus, build.build_representation(config_of("stft")), "spectra")
    (folder / "features.json").unlink()
    made = store(folder, corpus, build.build_representation(config_of("mel")), "bands")
    assert {record.shape[1] for record in made.records} == {24}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["train_ae.speed=0.1"],
            r"stored_features with speed 0\.1.*speed 0 and no corruption.*--set train_ae\.speed=0",
        ),
        (["train_ae.corruption={kind: rotation}"], r"stored_features with corruption rotation"),
        (["train_ae.corruption={kind: rotation}", "train_ae.speed=0.2"], r"with speed 0\.2 and corruption rotation"),
    ],
)
def test_what_stored_features_cannot_give_is_refused(overrides: list[str], expected: str) -> None:
    config_of("mel", *overrides)
    with pytest.raises(ConfigError, match=expected):
        config_of("mel", "train_ae.stored_features=true", *overrides)
