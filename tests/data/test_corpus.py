"""Folder → clips, splits, training segments; and the same for latent sequences."""

import itertools
import shutil
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped, unused-ignore]

from actseq import audio
from actseq.audio.worker import Reading
from actseq.config import CorpusConfig
from actseq.data import corpus as corpus_module
from actseq.data.corpus import Clip, Corpus, assign_splits, build_corpus, level_gain
from actseq.data.latents import LatentSequences, SequenceSource
from actseq.data.segments import RandomWindows, SegmentSource, drawing_weights
from actseq.errors import AudioError, ConfigError
from actseq.progress import Silent
from actseq.storage.store import StoreWriter

RATE = 8000
CONFIG = CorpusConfig.model_validate({"sample_rate": RATE, "segment_seconds": 0.25, "level_dbfs": None})


def rows(label: str, n: int, seconds: float = 1.0) -> list[audio.ScanRow]:
    return [
        audio.ScanRow(f"{label}/{i:03d}.wav", label, RATE, 1, seconds, "usable", "", f"{label}{i}") for i in range(n)
    ]


def splits(clips: list[Clip]) -> Counter[str]:
    return Counter(clip.split for clip in clips)


def noise(n: int, seed: int = 0, peak: float = 0.5) -> np.ndarray:
    sound = np.random.default_rng(seed).uniform(-1, 1, n)
    return np.asarray(sound / np.abs(sound).max() * peak, np.float64)


def save(path: Path, sound: np.ndarray, subtype: str = "PCM_16", rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if subtype == "PCM_16" and sound.dtype != np.int16:
        sound = np.round(sound * 32767).astype(np.int16)
    soundfile.write(path, sound, rate, subtype=subtype)
    return path


def build(folder: Path, config: CorpusConfig = CONFIG, seed: int = 0) -> Corpus:
    out = folder.parent / f"{folder.name}-corpus"
    build_corpus(audio.SoundFolder(folder), out, config, seed, Silent())
    return Corpus(out, config.level_dbfs)


def by_key(corpus: Corpus) -> dict[str, int]:
    return {record.key: i for i, record in enumerate(corpus.store.records)}


# -- splits ------------------------------------------------------------------------------------------------------------


def test_labels_with_enough_files_are_split_by_file_and_stratified() -> None:
    scanned = (*rows("a", 40), *rows("b", 20), *rows("c", 10))
    clips = assign_splits(scanned, CONFIG, 0)
    assert Counter(clip.source for clip in clips) == Counter(row.path for row in scanned)
    assert all((clip.start, clip.stop) == (0, None) for clip in clips)
    for label, held_out in (("a", 4), ("b", 2), ("c", 1)):
        found = splits([clip for clip in clips if clip.label == label])
        assert found["validation"] == found["test"] == held_out
    shares = CONFIG.model_copy(update={"validation": 0.25, "test": 0.4})
    assert splits(assign_splits(tuple(rows("a", 20)), shares, 0)) == {"train": 7, "validation": 5, "test": 8}


@pytest.mark.parametrize("none", [["validation"], ["test"], ["validation", "test"]])
def test_a_split_whose_share_is_zero_gets_nothing(none: list[str]) -> None:
    shares = CONFIG.model_copy(update=dict.fromkeys(none, 0.0))
    held_out = {"validation", "test"} - set(none)
    for scanned in (rows("a", 40), rows("a", 3, 30.0), rows("a", 3, 0.1)):
        clips = assign_splits(tuple(scanned), shares, 0)
        assert set(splits(clips)) == {"train"} | held_out
        assert {clip.source for clip in clips} == {row.path for row in scanned}
        # What is at a file's end is used.
        assert all(any(clip.ends for clip in clips if clip.source == row.path) for row in scanned)


def test_loops_are_repeated_and_not_cut(tmp_path: Path) -> None:
    short, long = noise(3000, seed=1), noise(30000, seed=2)
    save(tmp_path / "loops" / "short.wav", short)
    save(tmp_path / "loops" / "long.wav", long)
    shares = {"repeat_seconds": 1.0, "validation": 0.0, "test": 0.0}
    corpus = build(tmp_path / "loops", CONFIG.model_copy(update=shares))
    assert sorted(by_key(corpus)) == ["long.wav", "short.wav"]
    repeated = corpus.waveform(by_key(corpus)["short.wav"])
    # 8,000 samples are a second: three times is the fewest that lasts as long.
    np.testing.assert_array_equal(repeated, np.tile(np.round(short * 32767).astype(np.float32) / 32768, 3))
    assert len(corpus.waveform(by_key(corpus)["long.wav"])) == 30000
    assert corpus.place(by_key(corpus)["short.wav"], 3800) == "short.wav at 0.10 s"
    again, longer = (Path(shutil.copytree(tmp_path / "loops", tmp_path / name)) for name in ("again", "longer"))
    held_out = build(again, CONFIG.model_copy(update={"repeat_seconds": 5.0}), seed=1)
    assert sorted(by_key(held_out)) == ["long.wav", "short.wav"]
    # A file that is longer is cut as usual, and its blocks are not repeated.
    cut = build(longer, CONFIG.model_copy(update={"repeat_seconds": 3.0}), seed=1)
    blocks = [record for record in cut.store.records if record.extra["source"] == "long.wav"]
    assert len(blocks) == 3
    assert sum(record.length for record in blocks) < 30000


def test_splits_depend_on_the_seed_and_not_on_the_order() -> None:
    scanned = (*rows("a", 40), *rows("b", 5))
    first = assign_splits(scanned, CONFIG, 3)
    assert first == assign_splits(scanned[::-1], CONFIG, 3)
    assert first == assign_splits(scanned, CONFIG, 3)
    held_out = [
        {clip.key for clip in assign_splits(scanned, CONFIG, seed) if clip.split == "test"} for seed in range(5)
    ]
    assert len(set(map(frozenset, held_out))) > 1


def test_a_label_does_not_change_the_split_of_another() -> None:
    alone = {clip.key: clip.split for clip in assign_splits(tuple(rows("a", 30)), CONFIG, 0)}
    beside = {clip.key: clip.split for clip in assign_splits((*rows("a", 30), *rows("b", 50)), CONFIG, 0)}
    assert alone.items() <= beside.items()


@pytest.mark.parametrize("seconds", [1.5, 1.9, 30.0])
@pytest.mark.parametrize("n", [1, 2, 9])
def test_long_files_of_a_small_label_are_cut_with_a_guard(n: int, seconds: float) -> None:
    guard = round(CONFIG.segment_seconds * RATE)
    clips = assign_splits(tuple(rows("a", n, seconds)), CONFIG, 0)
    assert splits(clips) == {"train": n, "validation": n, "test": n}
    assert len({clip.key for clip in clips}) == 3 * n
    for source in {clip.source for clip in clips}:
        blocks = {clip.split: clip for clip in clips if clip.source == source}
        train, validation, test = blocks["train"], blocks["validation"], blocks["test"]
        assert train.start == 0
        assert train.stop is not None
        assert validation.stop is not None
        assert test.stop is None
        assert validation.start - train.stop >= guard
        assert test.start - validation.stop >= guard
        total = round(seconds * RATE)
        assert train.stop - train.start > validation.stop - validation.start > 0
        assert 0 < test.start < total


def test_short_files_of_a_small_label_are_for_training() -> None:
    clips = assign_splits((*rows("a", 4, 1.49), *rows("b", 20)), CONFIG, 0)
    assert {clip.split for clip in clips if clip.label == "a"} == {"train"}


def test_where_nothing_would_be_held_out_some_files_are() -> None:
    for n in (3, 9):
        found = splits(assign_splits(tuple(rows("a", n, 0.1)), CONFIG, 0))
        assert found == {"train": n - 2, "validation": 1, "test": 1}
    assert splits(assign_splits(tuple(rows("a", 2, 0.1)), CONFIG, 0)) == {"train": 1, "validation": 1}
    assert splits(assign_splits(tuple(rows("a", 1, 0.1)), CONFIG, 0)) == {"train": 1}


def test_no_sample_is_in_two_splits(tmp_path: Path) -> None:
    # Each sample's value is its position, so that shared ones are found.
    ramp = np.arange(-15000, 15000, dtype=np.int16)
    save(tmp_path / "sea" / "long.wav", ramp)
    corpus = build(tmp_path / "sea")
    seen: dict[str, set[int]] = {}
    for i, record in enumerate(corpus.store.records):
        seen[str(record.extra["split"])] = set(np.round(corpus.waveform(i) * 32768).astype(int).tolist())
        assert record.extra["start"] == min(seen[str(record.extra["split"])]) + 15000
        assert (record.extra["begins"], record.extra["ends"]) == (
            record.extra["split"] == "train",
            record.extra["split"] == "test",
        )
    assert set(seen) == {"train", "validation", "test"}
    assert not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]
    assert min(seen["validation"]) - max(seen["train"]) > 0.25 * RATE
    assert min(seen["test"]) - max(seen["validation"]) > 0.25 * RATE
    assert max(seen["test"]) == 14999


# -- what is stored ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lowest", [-32767, -32768])
def test_16_bit_sources_come_back_exactly(tmp_path: Path, lowest: int) -> None:
    pcm = np.random.default_rng(0).integers(-32767, 32768, 5000).astype(np.int16)
    pcm[:4] = 32767, lowest, 0, -1
    save(tmp_path / "in" / "a.wav", pcm)
    save(tmp_path / "in" / "b.wav", np.array([17], np.int16))
    corpus = build(tmp_path / "in")
    keys = by_key(corpus)
    np.testing.assert_array_equal(corpus.waveform(keys["a.wav"]) * 32768, pcm.astype(np.float32))
    np.testing.assert_array_equal(corpus.store.read(keys["a.wav"]), pcm)
    assert corpus.waveform(keys["b.wav"]).tolist() == [17 / 32768]


@pytest.mark.parametrize("dtype", ["int16", "float16"])
def test_what_exceeds_full_scale_is_not_clipped(tmp_path: Path, dtype: str) -> None:
    sound = noise(4000, peak=3.7)
    save(tmp_path / "in" / "loud.wav", sound, "FLOAT")
    corpus = build(tmp_path / "in", CONFIG.model_copy(update={"dtype": dtype}))
    found = corpus.waveform(0)
    assert found.dtype == np.float32
    assert np.abs(found).max() == pytest.approx(3.7, rel=1e-3)
    np.testing.assert_allclose(found, sound, atol=3.7 * (2**-15 if dtype == "int16" else 2**-11))


@pytest.mark.parametrize("peak", [1e-3, 0.5, 1.0, 2.5])
def test_the_level_is_given_and_can_be_undone(tmp_path: Path, peak: float) -> None:
    sound = noise(3000, peak=peak)
    save(tmp_path / "in" / "a.wav", sound, "FLOAT")
    corpus = build(tmp_path / "in", CONFIG.model_copy(update={"level_dbfs": -3.0, "dtype": "float16"}))
    presented = corpus.waveform(0)
    assert np.abs(presented).max() == pytest.approx(10 ** (-3 / 20), rel=1e-3)
    np.testing.assert_allclose(presented / corpus.gain(0), sound, atol=peak * 2**-10)


def test_the_gain_of_silence_and_of_no_level_is_one() -> None:
    assert level_gain(0.0, -3.0) == 1.0
    assert level_gain(0.2, None) == 1.0
    assert level_gain(0.5, 0.0) == pytest.approx(2.0)


def test_onset_trimming_cuts_only_what_lies_before_the_sound(tmp_path: Path) -> None:
    sound = np.concatenate([np.zeros(700), noise(1000), np.zeros(300)])
    sound[700] = 0.5
    save(tmp_path / "in" / "a.wav", sound)
    whole = build(tmp_path / "in")
    assert whole.store.records[0].length == 2000
    trimmed_config = CONFIG.model_copy(update={"trim": "onset"})
    build_corpus(audio.SoundFolder(tmp_path / "in"), tmp_path / "trimmed", trimmed_config, 0, Silent())
    trimmed = Corpus(tmp_path / "trimmed", None)
    assert trimmed.store.records[0].extra["start"] == 700
    np.testing.assert_array_equal(trimmed.waveform(0), whole.waveform(0)[700:])


def test_short_files_are_padded_and_never_dropped(tmp_path: Path) -> None:
    for i in range(12):
        save(tmp_path / "in" / f"{i:02d}.wav", noise(10 + i, i))
    corpus = build(tmp_path / "in")
    assert len(corpus) == 12
    assert sorted(record.length for record in corpus.store.records) == list(range(10, 22))
    batch = SegmentSource(corpus, "train", 2000, 256, 4, seed=0).batch(0)
    assert batch["waveform"].shape == (4, 2512)
    for row, n in zip(batch["waveform"], batch["n_samples"], strict=True):
        assert 10 <= n <= 21
        assert np.abs(row[256 : 256 + n]).max() > 0
        assert not row[:256].any()
        assert not row[256 + n :].any()


def test_a_sound_too_short_for_the_rate_does_not_stop_the_others(tmp_path: Path) -> None:
    save(tmp_path / "in" / "click.wav", noise(2), rate=44100)
    for i in range(3):
        save(tmp_path / "in" / f"{i}.wav", noise(500, i), rate=44100)
    corpus = build(tmp_path / "in")
    assert {"0.wav", "1.wav", "2.wav"} <= set(by_key(corpus))


def test_clips_are_resampled(tmp_path: Path) -> None:
    time = np.arange(44100) / 44100
    save(tmp_path / "in" / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * time), rate=44100)
    corpus = build(tmp_path / "in", CONFIG.model_copy(update={"segment_seconds": 1.0}))
    found = corpus.waveform(0)
    assert len(found) == RATE
    inside = slice(400, -400)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    np.testing.assert_allclose(found[inside], expected[inside], atol=2e-3)


def test_labels_are_folders_or_a_table(tmp_path: Path) -> None:
    for name in ("kick/a.wav", "kick/deep/b.wav", "snare/c.wav", "d.wav"):
        save(tmp_path / "in" / name, noise(800))
    corpus = build(tmp_path / "in")
    assert {r.key: r.extra["label"] for r in corpus.store.records} == {
        "kick/a.wav": "kick",
        "kick/deep/b.wav": "kick/deep",
        "snare/c.wav": "snare",
        "d.wav": "",
    }
    table = tmp_path / "labels.csv"
    table.write_text("file,label\nkick/a.wav,low\nd.wav,high\n")
    build_corpus(audio.SoundFolder(tmp_path / "in", table), tmp_path / "labelled", CONFIG, 0, Silent())
    found = {r.key: r.extra["label"] for r in Corpus(tmp_path / "labelled", None).store.records}
    assert (found["kick/a.wav"], found["d.wav"], found["snare/c.wav"]) == ("low", "high", "snare")
    table.write_text("file,label\nelsewhere.wav,low\n")
    with pytest.raises(ConfigError, match=r"elsewhere\.wav"):
        build_corpus(audio.SoundFolder(tmp_path / "in", table), tmp_path / "none", CONFIG, 0, Silent())


def test_the_same_folder_gives_the_same_corpus(tmp_path: Path) -> None:
    for i in range(11):
        save(tmp_path / "in" / f"{i}.wav", noise(300 + i, i))
    for name in "ab":
        build_corpus(audio.SoundFolder(tmp_path / "in"), tmp_path / name, CONFIG, 5, Silent())
    for name in ("manifest.jsonl", "shard-00000.safetensors", "scan.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    StoreWriter(tmp_path).write_shard(0, [])
    with pytest.raises(AudioError, match="holds no clip"):
        Corpus(tmp_path, None)


def test_outside_a_clip_there_is_silence(tmp_path: Path) -> None:
    sound = noise(100)
    save(tmp_path / "in" / "a.wav", sound)
    corpus = build(tmp_path / "in")
    whole = corpus.waveform(0)
    laid_out = np.zeros(400, np.float32)
    laid_out[150:250] = whole
    for start in (-150, -20, 0, 30, 99):
        for stop in (1, 60, 100, 180, 250):
            if stop > start:
                np.testing.assert_array_equal(corpus.waveform(0, start, stop), laid_out[150 + start : 150 + stop])


# -- training segments -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("mixed") / "in"
    for i in range(30):
        save(folder / f"{i:02d}.wav", noise((50, 700, 2600)[i % 3], i))
    return build(folder)


def source(corpus: Corpus, **changes: object) -> SegmentSource:
    settings = {"split": "train", "samples": 512, "margin": 96, "batch_size": 8, "seed": 4} | changes
    return SegmentSource(corpus, **settings)  # type: ignore[arg-type]


def test_a_batch_is_a_pure_function_of_seed_step_and_rank(mixed: Corpus) -> None:
    first = source(mixed).batch(3, 1)
    again = source(mixed)
    again.batch(0)
    for name, array in again.batch(3, 1).items():
        np.testing.assert_array_equal(array, first[name])
    for other in (source(mixed, seed=5).batch(3, 1), source(mixed).batch(4, 1), source(mixed).batch(3, 0)):
        assert not np.array_equal(other["waveform"], first["waveform"])


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Folder `a` with two folders of 40 and 10 short files, and folder `b` with one long file."""
    folder = tmp_path_factory.mktemp("nested") / "in"
    for name, count, length in (("a/x", 40, 300), ("a/y", 10, 300), ("b", 1, 3000)):
        for i in range(count):
            save(folder / name / f"{i:02d}.wav", noise(length, i))
    return build(folder, CONFIG.model_copy(update={"validation": 0.0, "test": 0.0}))


@pytest.mark.parametrize(
    ("balance", "expected"),
    [
        (0.0, {"a/x": 40 / 60, "a/y": 10 / 60, "b": 10 / 60}),
        (1.0, {"a/x": 1 / 4, "a/y": 1 / 4, "b": 1 / 2}),
        # √50 to √10, and within the first √40 to √10.
        (0.5, {"a/x": 0.6910 * 2 / 3, "a/y": 0.6910 / 3, "b": 0.3090}),
    ],
)
def test_folders_beside_each_other_are_drawn_as_evenly_as_is_asked_for(
    nested: Corpus, balance: float, expected: dict[str, float]
) -> None:
    records = nested.store.records
    assert len(records) == 51
    weights = [float(record.length) for record in records]
    for power in (1.0, 7.0):
        shares = drawing_weights([power * weight for weight in weights], records, balance)
        shares /= shares.sum()
        for label, share in expected.items():
            own = shares[[record.extra["label"] == label for record in records]]
            assert own.sum() == pytest.approx(share, abs=1e-4)
            np.testing.assert_allclose(own, own[0])
    windows = RandomWindows(nested.store, range(len(records)), 100, balance)
    rng = np.random.default_rng(0)
    drawn = Counter(str(records[windows.draw(rng)[0]].extra["label"]) for _ in range(4000))
    assert {label: n / 4000 for label, n in drawn.items()} == pytest.approx(expected, abs=0.03)


def test_labels_of_a_table_are_balanced_within_their_folder(nested: Corpus) -> None:
    """In one folder, labels count as folders; files of one label in several folders do not count together."""
    records = [
        replace(record, extra={**record.extra, "label": "odd" if i % 2 else "even"})
        for i, record in enumerate(nested.store.records)
    ]
    shares = drawing_weights([1.0] * len(records), records, 1.0)
    odd = np.array([record.extra["label"] == "odd" for record in records])
    inside = np.array([record.key.startswith("a/x/") for record in records])
    assert shares[inside].sum() == pytest.approx(0.25)
    assert shares[inside & odd].sum() == pytest.approx(0.125)


def test_training_segments_balance_folders(nested: Corpus) -> None:
    """By the files that they say they come from."""
    for balance, expected in ((1.0, 0.5), (0.0, 10 / 60)):
        source = SegmentSource(nested, "train", 100, 0, 16, 0, folder_balance=balance)
        origins = [name for step in range(60) for name in source.origins(step)]
        assert np.mean([name.startswith("b/") for name in origins]) == pytest.approx(expected, abs=0.06)


def test_a_crop_at_another_speed_is_the_sound_itself_faster_or_slower(tmp_path: Path) -> None:
    """A tone keeps its shape and changes its pitch; what was silent around the clip still is, and lengths follow."""
    tone = 0.5 * np.sin(2 * np.pi * 200 * np.arange(900) / RATE)
    for i in range(10):
        save(tmp_path / "in" / f"{i}.wav", tone)
    corpus = build(tmp_path / "in")
    speeds = []
    for step in range(6):
        batch = source(corpus, samples=1200, batch_size=4, speed=0.2).batch(step)
        for segment, n in zip(batch["waveform"], batch["n_samples"], strict=True):
            speed = 900 / float(n)
            assert 1 / 1.2 - 1e-2 < speed < 1.2 + 1e-2
            speeds.append(speed)
            assert not segment[: 96 - 1].any()
            assert not segment[96 + int(n) + 2 :].any()
            # The length is rounded: the speed is one of those that give it.
            distances = [
                np.abs(segment[96 : 92 + n] - 0.5 * np.sin(2 * np.pi * 200 * np.arange(n - 4) * exact / RATE)).max()
                for exact in 900 / np.linspace(n - 0.5, n + 0.5, 41)
            ]
            assert min(distances) < 0.01
    assert min(speeds) < 0.92 < 1.08 < max(speeds)


def test_start_and_length_are_told_at_the_speed_of_the_crop(mixed: Corpus) -> None:
    ratios = []
    for step in range(40):
        still, moved = (source(mixed, batch_size=1, speed=speed).batch(step) for speed in (0.0, 0.3))
        if still["start"][0] > 100:
            ratios.append(float(moved["n_samples"][0] / still["n_samples"][0]))
            assert moved["start"][0] / still["start"][0] == pytest.approx(ratios[-1], rel=0.02)
    assert min(ratios) < 0.9 < 1.1 < max(ratios)


def test_at_its_own_speed_a_crop_is_what_it_was(mixed: Corpus) -> None:
    for start in (-40, 0, 33):
        at_speed = mixed.waveform_at_speed(1, 1.0, start, -96, 608)
        np.testing.assert_array_equal(at_speed, mixed.waveform(1, start - 96, start + 608))


def locate(corpus: Corpus, segment: np.ndarray, margin: int, length: int) -> tuple[int, int]:
    """Clip and start of the first `length` samples of a segment."""
    wanted = segment[margin : margin + length]
    for i in corpus.indices("train"):
        whole = corpus.waveform(i)
        for start in np.flatnonzero(whole == wanted[0]):
            if np.array_equal(whole[start : start + length], wanted):
                return i, int(start)
    raise AssertionError("the segment is nowhere in the corpus")


def test_margins_are_what_lies_around_the_crop(mixed: Corpus) -> None:
    seen = set()
    for step in range(20):
        batch = source(mixed).batch(step)
        for segment, given, n_samples in zip(batch["waveform"], batch["start"], batch["n_samples"], strict=True):
            inside = int(min(n_samples, 512))
            index, start = locate(mixed, segment, 96, inside)
            assert start == given
            length = mixed.store.records[index].length
            assert n_samples == length - start
            assert start == 0 or start + 512 <= length
            around = np.zeros(length + 2000, np.float32)
            around[1000 : 1000 + length] = mixed.waveform(index)
            np.testing.assert_array_equal(segment, around[1000 + start - 96 : 1000 + start + 512 + 96])
            seen |= {"begins"} if start == 0 else {"inside"} if start + 512 < length else {"ends"}
    assert seen == {"begins", "inside", "ends"}


def test_every_clip_is_drawn_and_long_ones_more_often(mixed: Corpus) -> None:
    drawn: Counter[int] = Counter()
    segments = source(mixed, batch_size=64)
    for step in range(30):
        batch = segments.batch(step)
        for segment, n in zip(batch["waveform"], batch["n_samples"], strict=True):
            drawn[locate(mixed, segment, 96, int(min(n, 512)))[0]] += 1
    assert set(drawn) == set(mixed.indices("train"))
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, count in drawn.items():
        by_length[mixed.store.records[index].length].append(count)
    mean = {length: np.mean(counts) for length, counts in by_length.items()}
    assert mean[2600] / mean[50] == pytest.approx(2600 / 512, rel=0.25)
    assert mean[700] / mean[50] == pytest.approx(700 / 512, rel=0.25)


def test_the_gain_of_crops_stays_within_its_bounds(mixed: Corpus) -> None:
    plain, gained = source(mixed).batch(0), source(mixed, gain_db=(-6.0, 2.0))
    assert np.abs(plain["waveform"]).max() == pytest.approx(0.5, abs=1e-3)
    peaks = np.concatenate([np.abs(gained.batch(s)["waveform"][:, 96:-96]).max(1) for s in range(20)])
    assert peaks.max() <= 0.5 * 10 ** (2 / 20) + 1e-3
    assert peaks.min() >= 0.4 * 10 ** (-6 / 20)
    assert peaks.max() / peaks.min() > 1.8


def test_splits_are_kept_apart_in_batches(mixed: Corpus) -> None:
    held_out = [mixed.waveform(i) for i in mixed.indices("validation")]
    batch = source(mixed, split="validation").batch(0)
    for segment, n in zip(batch["waveform"], batch["n_samples"], strict=True):
        wanted = segment[96 : 96 + min(int(n), 512)]
        assert any(wanted[0] in whole and wanted[-1] in whole for whole in held_out)


# -- latent sequences --------------------------------------------------------------------------------------------------

DIM = 3


@pytest.fixture
def latents(tmp_path: Path) -> LatentSequences:
    """Sequence k holds 1000·k + frame in every dimension, and log-variances of minus that."""
    items = []
    train = [(40, True, True), (5, True, True), (30, False, False), (1, False, True)]
    for k, (length, begins, ends) in enumerate([*train, (20, True, True)]):
        split = "train" if k < len(train) else "validation"
        values = np.repeat(1000.0 * k + np.arange(length)[:, None], DIM, 1)
        extra = {"label": "ab"[k % 2], "split": split, "begins": begins, "ends": ends}
        items.append((str(k), np.concatenate([values, -values], 1).astype(np.float32), extra))
    StoreWriter(tmp_path).write_shard(0, items)
    return LatentSequences(tmp_path, DIM, 10.0)


def test_windows_know_what_lies_before_and_whether_they_begin_and_end(latents: LatentSequences) -> None:
    windows = SequenceSource(latents, "train", ["a", "b"], 16, 8, seed=1)
    kinds = set()
    for step in range(60):
        batch = windows.batch(step)
        longest = int(batch["lengths"].max())
        assert batch["mean"].shape == batch["log_variance"].shape == (8, longest, DIM)
        for row in range(8):
            n = int(batch["lengths"][row])
            mean, before = batch["mean"][row], batch["previous_mean"][row]
            np.testing.assert_array_equal(batch["log_variance"][row, :n], -mean[:n])
            assert not mean[n:].any()
            k, start = divmod(int(mean[0, 0]), 1000)
            record = latents.records[k]
            np.testing.assert_array_equal(mean[:n, 0], 1000 * k + np.arange(start, start + n))
            assert 1 <= n <= 16
            assert batch["label"][row] == {"a": 1, "b": 2}[str(record.extra["label"])]
            assert bool(batch["ends"][row]) == (start + n == record.length and bool(record.extra["ends"]))
            if start:
                assert not batch["begins"][row]
                assert before[0] == mean[0, 0] - 1
                assert batch["previous_log_variance"][row, 0] == -before[0]
            else:
                assert batch["begins"][row]
                assert record.extra["begins"] or record.length == 1
            assert start + n == record.length or n >= 15
            kinds.add((k, bool(batch["begins"][row]), bool(batch["ends"][row])))
    assert {(0, True, False), (0, False, False), (0, False, True), (1, True, True), (2, False, False)} <= kinds
    assert not {kind for kind in kinds if kind[0] == 4}, "held-out sequences are not trained on"
    assert not {kind for kind in kinds if kind[0] == 2 and (kind[1] or kind[2])}


def test_a_batch_of_sequences_is_a_pure_function(latents: LatentSequences) -> None:
    def batch(seed: int, step: int, rank: int) -> np.ndarray:
        return np.asarray(SequenceSource(latents, "train", ["a", "b"], 16, 8, seed).batch(step, rank)["mean"])

    first = batch(0, 1, 2)
    np.testing.assert_array_equal(first, batch(0, 1, 2))
    for other in ((1, 1, 2), (0, 2, 2), (0, 1, 3)):
        again = batch(*other)
        assert again.shape != first.shape or not np.array_equal(again, first)


def test_unknown_labels_are_no_label(latents: LatentSequences) -> None:
    assert set(SequenceSource(latents, "train", ["b"], 16, 16, 0).batch(0)["label"].tolist()) == {0, 1}


def test_statistics_are_those_of_all_training_frames(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    mean = rng.normal([1.0, 0.0, -2.0], [2.0, 0.001, 0.5], (4000, 3))
    log_variance = np.tile(np.log([0.25, 1.0, 0.01]), (4000, 1))
    both = np.concatenate([mean, log_variance], 1).astype(np.float32)
    extra = {"label": "", "begins": True, "ends": True}
    outlier = (both + 100).astype(np.float32)
    StoreWriter(tmp_path).write_shard(
        0,
        [
            ("a", both[:1500], extra | {"split": "train"}),
            ("b", both[1500:], extra | {"split": "train"}),
            ("c", outlier, extra | {"split": "test"}),
        ],
    )
    found = LatentSequences(tmp_path, 3, 10.0).statistics()
    assert found.active.tolist() == [0, 2]
    np.testing.assert_allclose(found.mean, mean.mean(0)[[0, 2]], rtol=1e-4)
    np.testing.assert_allclose(found.deviation, np.sqrt(mean.var(0)[[0, 2]] + [0.25, 0.01]), rtol=1e-4)


def test_draws_have_the_spread_of_the_posterior(tmp_path: Path) -> None:
    both = np.concatenate([np.full((20000, 1), 3.0), np.full((20000, 1), np.log(0.25))], 1).astype(np.float32)
    extra = {"label": "", "split": "train", "begins": True, "ends": True}
    StoreWriter(tmp_path).write_shard(0, [("a", both, extra), ("b", both[:5, :1], extra)])
    latents = LatentSequences(tmp_path, 1, 10.0)
    drawn = latents.draw(0, seed=1)
    assert drawn.mean() == pytest.approx(3.0, abs=0.02)
    assert drawn.std() == pytest.approx(0.5, abs=0.02)
    np.testing.assert_array_equal(drawn, latents.draw(0, seed=1))
    assert not np.array_equal(drawn, latents.draw(0, seed=2))
    np.testing.assert_array_equal(latents.draw(1, seed=1), both[:5, :1])


# -- real sound --------------------------------------------------------------------------------------------------------


def link(data: Path, folder: Path, pattern: str, n: int) -> Path:
    for path in sorted(data.glob(pattern))[:n]:
        target = folder / path.relative_to(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    return folder


def test_digits_are_split_by_file(tmp_path: Path, data_dir: Path) -> None:
    for digit in "012":
        link(data_dir / "digits_fsdd", tmp_path / "digits", f"{digit}/*.wav", 20)
    corpus = build(tmp_path / "digits")
    assert corpus.labels == ["0", "1", "2"]
    assert corpus.summary() == {"train": 48, "validation": 6, "test": 6}
    index = corpus.indices("test")[0]
    pcm, _ = soundfile.read(tmp_path / "digits" / corpus.store.records[index].key, dtype="int16")
    np.testing.assert_array_equal(corpus.waveform(index) * 32768, pcm)


def test_long_recordings_are_cut_with_guards(tmp_path: Path, data_dir: Path) -> None:
    folder = link(data_dir / "ambience", tmp_path / "ambience", "*/*", 1000)
    corpus = build(folder, CONFIG.model_copy(update={"segment_seconds": 0.5}))
    blocks: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for record in corpus.store.records:
        begin = int(record.extra["start"])
        blocks[str(record.extra["source"])].append((begin, begin + record.length, str(record.extra["split"])))
    cut = {source: sorted(found) for source, found in blocks.items() if len(found) > 1}
    assert len(cut) >= 5
    assert len(blocks) == len(audio.find(folder))
    for found in cut.values():
        assert [split for *_, split in found] == ["train", "validation", "test"]
        for (_, stop, _), (start, _, _) in itertools.pairwise(found):
            assert start - stop >= 0.5 * RATE
    assert corpus.labels == ["forest", "rain", "sea_waves", "storm", "stream", "wind"]


# -- what strangers' folders hold --------------------------------------------------------------------------------------


@pytest.mark.parametrize("peak", [1e-3, 0.04, 0.9])
def test_quiet_recordings_keep_their_bits(tmp_path: Path, peak: float) -> None:
    sound = noise(RATE, peak=peak)
    save(tmp_path / "in" / "a.wav", sound, "FLOAT")
    save(tmp_path / "in" / "b.wav", noise(RATE, 1), "FLOAT")
    corpus = build(tmp_path / "in", CONFIG.model_copy(update={"level_dbfs": -3.0}))
    index = by_key(corpus)["a.wav"]
    seen = corpus.waveform(index).astype(np.float64) / corpus.gain(index)
    error = 10 * np.log10(np.mean(sound**2) / np.mean((seen - sound) ** 2))
    assert error > 85


@pytest.mark.data
def test_the_reported_quiet_recording_keeps_its_bits(tmp_path: Path, data_dir: Path) -> None:
    name = "quiet_24bit_minus60dBFS.wav"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes((data_dir / "reported" / name).read_bytes())
    corpus = build(tmp_path / "in")
    original, _ = soundfile.read(data_dir / "reported" / name)
    for i, record in enumerate(corpus.store.records):
        start = int(record.extra["start"])
        part = original[start : start + record.length]
        error = corpus.waveform(i).astype(np.float64) - part
        assert 10 * np.log10(np.mean(part**2) / np.mean(error**2)) > 60


def test_a_corpus_that_was_stored_at_full_scale_still_loads(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path)
    sound = np.round(noise(RATE, peak=0.1) * 32768).astype(np.int16)
    extra = {"split": "train", "label": "", "source": "a", "peak": 0.1, "scale": 1.0, "begins": True, "ends": True}
    writer.write_shard(0, [("a", sound, extra)])
    np.testing.assert_array_equal(Corpus(tmp_path, None).waveform(0), sound / 32768)


def test_held_out_blocks_are_cut_from_where_there_is_sound(tmp_path: Path) -> None:
    sound = np.concatenate([np.zeros(4 * RATE), noise(8 * RATE), np.zeros(12 * RATE)])
    save(tmp_path / "in" / "a.wav", sound)
    corpus = build(tmp_path / "in", CONFIG.model_copy(update={"level_dbfs": -3.0}))
    assert corpus.summary() == {"train": 1, "validation": 1, "test": 1}
    covered = 0
    for i, record in enumerate(corpus.store.records):
        waveform = corpus.waveform(i)
        assert (np.abs(waveform) > 0.01).mean() > 0.8, record.key
        covered += len(waveform)
        assert record.extra["begins"] == (record.extra["split"] == "train")
        assert record.extra["ends"] == (record.extra["split"] == "test")
    assert covered > 7 * RATE


@pytest.mark.data
def test_the_reported_tone_has_held_out_blocks_with_sound(tmp_path: Path, data_dir: Path) -> None:
    name = "tone_8s_then_silence_12s.flac"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes((data_dir / "reported" / name).read_bytes())
    corpus = build(tmp_path / "in", CONFIG.model_copy(update={"level_dbfs": -3.0}))
    for split in ("train", "validation", "test"):
        [index] = corpus.indices(split)
        assert np.abs(corpus.waveform(index)).max() > 0.5


def test_a_long_note_is_never_cut(tmp_path: Path) -> None:
    """The end of a note is no note. What has not faded, and what is longer than a minute, is cut as ever."""
    fading = np.exp(-np.arange(12 * RATE) / RATE)
    for k in range(3):
        save(tmp_path / "in" / "piano" / f"{k}.wav", noise(12 * RATE, k) * fading)
    save(tmp_path / "in" / "organ" / "steady.wav", noise(12 * RATE))
    long = np.concatenate([noise(61 * RATE), noise(12 * RATE) * fading])
    save(tmp_path / "in" / "set" / "long.wav", long)
    found = build(tmp_path / "in", CONFIG.model_copy(update={"trim": "onset"}))
    keys = {label: sorted(r.key for r in found.store.records if r.extra["label"] == label) for label in found.labels}
    assert keys["piano"] == ["piano/0.wav", "piano/1.wav", "piano/2.wav"]
    notes = [record for record in found.store.records if record.extra["label"] == "piano"]
    assert all(record.extra["begins"] and record.extra["ends"] for record in notes)
    assert [len(keys[label]) for label in ("organ", "set")] == [3, 3]
    (tmp_path / "in").rename(tmp_path / "again")
    assert len(build(tmp_path / "again").store.records) > 9, "without trim: onset notes are cut too"


@pytest.mark.data
def test_piano_notes_stay_whole(tmp_path: Path, data_dir: Path) -> None:
    config = CONFIG.model_copy(update={"trim": "onset", "sample_rate": 11025})
    (tmp_path / "in").mkdir()
    for name in ("piano", "bass_staccato"):
        (tmp_path / "in" / name).symlink_to(data_dir / "instruments" / name)
    found = build(tmp_path / "in", config)
    lengths = [r.length / 11025 for r in found.store.records if r.extra["label"] == "piano"]
    assert len(lengths) == 9
    assert min(lengths) > 5


def test_blocks_are_scaled_with_their_file_and_quiet_ones_are_not_used(tmp_path: Path) -> None:
    sound = noise(20 * RATE)
    sound[15 * RATE :] *= 0.1
    quiet = noise(20 * RATE, 1)
    quiet[15 * RATE : 19 * RATE] *= 1e-4
    save(tmp_path / "in" / "a.wav", sound, "FLOAT")
    save(tmp_path / "in" / "b.wav", quiet, "FLOAT")
    corpus = build(tmp_path / "in", CONFIG.model_copy(update={"level_dbfs": -3.0}))
    keys = by_key(corpus)
    assert keys.keys() == {"a.wav#train", "a.wav#validation", "a.wav#test", "b.wav#train", "b.wav#test"}
    loud, soft = (np.abs(corpus.waveform(keys[f"a.wav#{split}"])).max() for split in ("train", "test"))
    assert loud == pytest.approx(10 ** (-3 / 20), abs=0.01)
    assert soft == pytest.approx(loud / 10, rel=0.05)


def test_copies_of_a_file_are_in_one_split() -> None:
    many = rows("a", 40)
    copies = [audio.ScanRow(f"{row.path}.copy.wav", "b", RATE, 1, 1.0, "usable", "", row.sha256) for row in many]
    clips = assign_splits(tuple(many + copies), CONFIG, 0)
    found: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        found[clip.source_sha256].add(clip.split)
    assert all(len(of_one) == 1 for of_one in found.values())
    assert len(clips) == 80
    # Blocks of copies lie at the same places, so none of their sound is on both sides.
    long = [audio.ScanRow(f"c/{i}.wav", "c", RATE, 1, 60.0, "usable", "", "same") for i in range(2)]
    assert splits(assign_splits(tuple(long), CONFIG, 0)) == {"train": 2, "validation": 2, "test": 2}


def test_a_file_that_changes_between_scan_and_decoding_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "in" / "a.wav", noise(RATE))
    sounds = audio.SoundFolder(tmp_path / "in")
    scan = sounds.scan()

    class Changing(audio.SoundFolder):
        def scan(self, on_file: object = None) -> audio.Scan:
            save(path, noise(RATE, 1))
            return scan

    with pytest.raises(AudioError, match="has changed since it was scanned"):
        build_corpus(Changing(tmp_path / "in"), tmp_path / "out", CONFIG, 0, Silent())


@pytest.mark.parametrize("dtype", ["int16", "float16"])
def test_a_long_file_passes_through_the_disk_and_is_decoded_twice_in_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    monkeypatch.setattr(corpus_module, "IN_MEMORY", 1000)
    read: list[Path] = []
    begin = Reading.__iter__
    monkeypatch.setattr(Reading, "__iter__", lambda self: (read.append(self.request["path"]), begin(self))[1])
    sound = np.concatenate([np.zeros(700), noise(400_000, peak=0.4)]) + 0.5
    path = save(tmp_path / "sounds" / "a.wav", sound, "FLOAT", rate=2 * RATE)
    changes = {"dtype": dtype, "trim": "onset", "validation": 0.2, "test": 0.2}
    corpus = build(tmp_path / "sounds", CONFIG.model_copy(update=changes))
    assert read == [str(path)] * 2
    assert {record.shard for record in corpus.store.records} == {0}
    own, _ = audio.load(path)
    shifted, offset = audio.remove_offset(own)
    whole = audio.resample(shifted, 2 * RATE, RATE)
    assert len(corpus) == 3
    for i, record in enumerate(corpus.store.records):
        assert record.extra["offset"] == offset
        assert record.extra["peak"] == np.abs(whole).max()
        start = record.extra["start"]
        expected = whole[start : start + record.length]
        # Half a step of the stored values.
        step = record.extra["scale"] / (65536 if dtype == "int16" else 4096)
        assert np.abs(corpus.waveform(i) - expected).max() <= step
    first = corpus.store.records[by_key(corpus)["a.wav#train"]]
    begun = int(first.extra["start"])
    assert begun == audio.trim_bounds(whole[: begun + first.length])[0] > 0


# -- labels in time ----------------------------------------------------------------------------------------------------


def timed(tmp_path: Path, sounds: dict[str, np.ndarray], rows: str, rate: int = RATE, **settings: object) -> Corpus:
    """The corpus of some sounds with a table of labels in time."""
    for name, sound in sounds.items():
        save(tmp_path / "in" / name, sound, rate=rate)
    (tmp_path / "labels.csv").write_text(f"file,start,end,label\n{rows}")
    folder = audio.SoundFolder(tmp_path / "in", tmp_path / "labels.csv")
    build_corpus(folder, tmp_path / "corpus", CONFIG.model_copy(update=settings), 0, Silent())
    return Corpus(tmp_path / "corpus", None)


def test_clips_keep_labels_in_time(tmp_path: Path) -> None:
    # The times are those of the file at its own rate.
    corpus = timed(
        tmp_path,
        {"a.wav": noise(16000), "b.wav": noise(16000)},
        "a.wav,0.1,0.4,one\na.wav,0.6,,two\nb.wav,0.25,1.05,one\n",
        rate=16000,
    )
    found = {record.key: (record.extra["label"], record.extra["spans"]) for record in corpus.store.records}
    assert found["a.wav"] == ("", [[0.1, 0.4, "one"], [0.6, 1.0, "two"]])
    assert found["b.wav"] == ("one", [[0.25, 1.0, "one"]])
    assert all(record.length == RATE for record in corpus.store.records)


def test_labels_follow_what_is_cut_from_the_beginning(tmp_path: Path) -> None:
    sound = np.concatenate([np.zeros(RATE // 2), noise(RATE // 2)])
    rows = "a.wav,0,0.2,silence\na.wav,0.25,0.75,one\na.wav,0.75,,two\n"
    corpus = timed(tmp_path, {"a.wav": sound, "b.wav": noise(RATE)}, rows, trim="onset")
    spans = next(record.extra["spans"] for record in corpus.store.records if record.key == "a.wav")
    np.testing.assert_allclose([span[:2] for span in spans], [[0.0, 0.25], [0.25, 0.5]], atol=2 / RATE)
    assert [span[2] for span in spans] == ["one", "two"], "what is cut away has no label"


def test_labels_follow_blocks_and_are_not_cut_with_them(tmp_path: Path) -> None:
    seconds = 10.0
    rows = "".join(f"a.wav,{k},{k + 0.75},{'ab'[k % 2]}\n" for k in range(10))
    corpus = timed(tmp_path, {"a.wav": noise(round(seconds * RATE))}, rows)
    assert len(corpus) == 3
    for record in corpus.store.records:
        start, length = record.extra["start"] / RATE, record.length / RATE
        inside = [k for k in range(10) if k < start + length and k + 0.75 > start]
        expected = [[k - start, k + 0.75 - start, "ab"[k % 2]] for k in inside]
        assert [span[2] for span in record.extra["spans"]] == [span[2] for span in expected]
        for span, wanted in zip(record.extra["spans"], expected, strict=True):
            np.testing.assert_allclose(span[:2], wanted[:2], atol=1e-5)
    assert any(record.extra["spans"][0][0] < 0 for record in corpus.store.records)


def test_without_times_nothing_is_said_about_them(tmp_path: Path) -> None:
    save(tmp_path / "in" / "x" / "a.wav", noise(RATE))
    assert "spans" not in build(tmp_path / "in").store.records[0].extra


def test_labels_follow_a_clip_that_is_repeated(tmp_path: Path) -> None:
    corpus = timed(tmp_path, {"a.wav": noise(RATE // 2)}, "a.wav,0.1,0.2,one\n", repeat_seconds=1.5, test=0.0)
    [record] = corpus.store.records
    assert record.length == 3 * (RATE // 2)
    assert record.extra["spans"] == [[0.1, 0.2, "one"], [0.6, 0.7, "one"], [1.1, 1.2, "one"]]
