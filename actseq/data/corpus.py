"""Audio folder → store of clips with splits.

A clip is one source file, or a block of one if a label has too few files to be split by file. `Corpus.waveform` gives
clips at the corpus's level; `Corpus.gain` is the gain that was applied.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, groupby
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actseq import audio, units
from actseq.arrays import Waveform
from actseq.config import CorpusConfig
from actseq.errors import AudioError, named_after
from actseq.progress import Reporter
from actseq.storage.processes import here
from actseq.storage.shards import Pieces
from actseq.storage.store import SequenceStore, group_shards, unfinished

SPLITS = ("train", "validation", "test")
FEW_FILES = 10
"""A label with fewer files is split within files."""
LONG_IN_SEGMENTS = 6
"""A file of this many segments is long enough to be split."""
LONGEST_NOTE_SECONDS = 60.0
"""A longer file is no single hit or note."""
FADED_DB = -30.0
"""The last tenth of a hit or note stays under this level, relative to its peak."""
QUIET_DB = -50.0
"""A block of a file is not used if its peak is lower than this, relative to the file's."""


@dataclass(frozen=True)
class Clip:
    """A clip to be made from a part of a source file.

    Attributes:
        key: unique name.
        source: path of the file relative to the folder of sounds.
        source_sha256: hash of the file.
        label: label of the file.
        split: `train`, `validation` or `test`.
        start: first sample, at the corpus's sample rate.
        stop: the sample after the last; None: to the end of the file.
        begins: the sound of the file begins in this clip.
        ends: the sound of the file ends with this clip.
        spans: labels of the file in time, each with its end; None where there are no times.
    """

    key: str
    source: str
    source_sha256: str
    label: str
    split: str
    start: int
    stop: int | None
    begins: bool = True
    ends: bool = True
    spans: tuple[audio.Span, ...] | None = None


ONSET_DB = -60.0
"""A sound begins where it reaches this level, relative to its peak."""
IN_MEMORY = 4 << 20
"""Bytes of a decoded clip from which on it waits on the disk."""


def assign_splits(rows: tuple[audio.ScanRow, ...], config: CorpusConfig, seed: int) -> list[Clip]:
    """Split files at random into training, validation and test clips, each label on its own; the seed fixes the split.

    If a label has fewer than ten files, its long files (six segments or more) are cut into a training, a validation and
    a test block, with a guard of one segment between them, and its short files are for training. Blocks are cut from
    where the file has sound; a quiet block is not used. Copies of a file are in the same split, that of training where
    they would be in several. If that leaves no clip for validation or test, a file of any label is held out. A split
    whose fraction is 0 gets nothing. Loops, which are shorter than `repeat_seconds`, are not cut: a part of a loop
    does not repeat. Nor are, with `trim: onset`, files of less than a minute that have faded at their end: a block from
    there would have no attack.
    """
    held_out = _held_out(config)
    by_label: dict[str, list[audio.ScanRow]] = defaultdict(list)
    for row in rows:
        by_label[row.label].append(row)
    clips: list[Clip] = []
    for label in sorted(by_label):
        members = sorted(by_label[label], key=lambda row: row.path)
        order = np.random.default_rng([seed, len(members), *label.encode("utf-8", "surrogateescape")]).permutation(
            len(members)
        )
        if len(members) >= FEW_FILES:
            splits = [split for split, share in held_out.items() for _ in range(max(1, round(share * len(members))))]
            splits += ["train"] * (len(members) - len(splits))
            clips.extend(_whole(members[i], split) for i, split in zip(order, splits, strict=True))
        else:
            for row in members:
                clips.extend(_blocks(row, config))
    clips, copied = _copies_together(clips, rows)
    for missing in held_out:
        candidates = [i for i, clip in enumerate(clips) if clip.split == "train" and clip.source not in copied]
        if not any(clip.split == missing for clip in clips) and len(candidates) > 1:
            chosen = candidates[int(np.random.default_rng([seed, len(clips)]).integers(len(candidates)))]
            clips[chosen] = replace(clips[chosen], split=missing)
    return sorted(clips, key=lambda clip: clip.key)


def _held_out(config: CorpusConfig) -> dict[str, float]:
    """The fractions of validation and test, without those that are 0."""
    return {split: share for split, share in (("validation", config.validation), ("test", config.test)) if share}


def _whole(row: audio.ScanRow, split: str) -> Clip:
    return Clip(row.path, row.path, row.sha256, row.label, split, 0, None, spans=_with_ends(row))


def _with_ends(row: audio.ScanRow) -> tuple[audio.Span, ...] | None:
    """The labels of a file in time, none of which goes on after the end of the file."""
    if row.spans is None:
        return None
    return tuple(replace(span, end=min(span.last, row.seconds)) for span in row.spans)


def _blocks(row: audio.ScanRow, config: CorpusConfig) -> list[Clip]:
    begin, end = _sounding(row, config.segment_seconds)
    spans = _with_ends(row)
    first = units.seconds_to_samples(begin, config.sample_rate)
    last = None if end is None else units.seconds_to_samples(end, config.sample_rate)
    total = units.seconds_to_samples(row.seconds if end is None else end, config.sample_rate) - first
    guard = units.seconds_to_samples(config.segment_seconds, config.sample_rate)
    held_out = _held_out(config)
    is_loop = row.seconds < (config.repeat_seconds or 0.0)
    is_whole = is_loop or (config.trim == "onset" and _is_note(row))
    if not held_out or is_whole or total < LONG_IN_SEGMENTS * guard:
        return [_whole(row, "train")]
    usable = total - len(held_out) * guard
    lengths = {split: round(share * usable) for split, share in held_out.items()}
    stop = first + usable - sum(lengths.values())
    bounds: list[tuple[str, int, int | None]] = [("train", first, stop)]
    for split, length in lengths.items():
        start, stop = stop + guard, stop + guard + length
        bounds.append((split, start, stop))
    bounds[-1] = (*bounds[-1][:2], last)
    return [
        Clip(
            f"{row.path}#{split}",
            row.path,
            row.sha256,
            row.label,
            split,
            start,
            stop,
            split == "train",
            split == bounds[-1][0],
            spans,
        )
        for split, start, stop in bounds
        if not _is_quiet(row, start / config.sample_rate, None if stop is None else stop / config.sample_rate)
    ]


def _sounding(row: audio.ScanRow, segment_seconds: float) -> tuple[float, float | None]:
    """Where in a file there is sound, in seconds; None: to its end. Silence of less than a segment is left on."""
    if row.envelope is None:
        return 0.0, None
    span = audio.SPAN / row.sample_rate
    loud = np.flatnonzero(row.envelope >= _quiet(row.envelope))
    begin, end = float(loud[0]) * span, float(loud[-1] + 1) * span
    return begin if begin >= segment_seconds else 0.0, end if row.seconds - end >= segment_seconds else None


def _is_quiet(row: audio.ScanRow, begin: float, end: float | None) -> bool:
    """Whether a part of a file, in seconds, has hardly any sound."""
    if row.envelope is None:
        return False
    span = audio.SPAN / row.sample_rate
    inside = row.envelope[int(begin / span) : None if end is None else int(np.ceil(end / span))]
    return float(inside.max(initial=0.0)) < _quiet(row.envelope)


def _is_note(row: audio.ScanRow) -> bool:
    """Whether a file has faded at its end, as a hit or a note has, and is not too long for one."""
    if row.envelope is None or row.seconds > LONGEST_NOTE_SECONDS:
        return False
    end = row.envelope[-max(1, len(row.envelope) // 10) :]
    return float(end.max()) < float(row.envelope.max()) * units.db_to_amplitude(FADED_DB)


def _quiet(envelope: NDArray[np.float32]) -> float:
    """The peak below which a part of a file is quiet."""
    return max(audio.SILENCE, float(envelope.max()) * units.db_to_amplitude(QUIET_DB))


def _copies_together(clips: list[Clip], rows: tuple[audio.ScanRow, ...]) -> tuple[list[Clip], set[str]]:
    """The clips, with copies of one file in the same split, and the files of which there are several."""
    groups: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        groups[row.sha256].add(row.path)
    several = [names for hashed, names in groups.items() if hashed and len(names) > 1]
    for names in several:
        # Copies that are cut into blocks are cut at the same places.
        of_each = {
            name: sorted(clip.key.removeprefix(name) + clip.split for clip in clips if clip.source == name)
            for name in names
        }
        if len({tuple(keys) for keys in of_each.values()}) == 1:
            continue
        kept = [clip for clip in clips if clip.source not in names]
        clips = kept + [_whole(row, "train") for row in rows if row.path in names]
    return clips, {name for names in several for name in names}


def build_corpus(
    sounds: audio.SoundFolder, out: Path, config: CorpusConfig, seed: int, reporter: Reporter
) -> audio.Scan:
    """Decode sounds into a store of clips, with `scan.csv`, at `out`; an unfinished store is resumed.

    Of several processes that work together, the first one scans, and each decodes its share of the shards.

    Args:
        sounds: folder of sounds.
        out: folder of the store.
        config: sample rate, splits and the like; its `labels` are not used, those of `sounds` are.
        seed: seed of the splits.
        reporter: receives progress.

    Raises:
        AudioError: the folder is missing or holds nothing usable, or a file changed while it was read.
    """
    processes = here()
    found: audio.Scan | None = None
    if processes.first:
        reporter.begin("scan", 0, unit="files")
        found = sounds.scan(lambda done, total: reporter.advance(done))
        reporter.end()
        out.mkdir(parents=True, exist_ok=True)
        found.write_csv(out / "scan.csv")
    scan = processes.share(found)
    assert scan is not None
    clips = assign_splits(scan.usable, config, seed)
    rows = {row.path: row for row in scan.usable}
    # Clips of one file follow each other and are in one shard: it is decoded once.
    files = [list(group) for _, group in groupby(clips, key=lambda clip: clip.source)]
    seconds = [max(rows[group[0].source].seconds, config.repeat_seconds or 0.0) for group in files]
    shards = group_shards([int(2 * config.sample_rate * length) for length in seconds])
    writer, left = unfinished(out, len(shards), processes)
    mine = set(processes.mine(left))
    n_done = len(clips) - sum(len(files[i]) for number in mine for i in shards[number])
    reporter.begin("corpus", len(clips), n_done, unit="clips")
    for number, members in enumerate(shards):
        if number not in mine:
            continue
        items = []
        with ExitStack() as waiting:
            decoded = audio.in_workers(
                lambda i: _decode(sounds, rows[files[i][0].source], files[i], config, out),
                members,
                audio.n_workers(len(members), sounds.n_bytes),
            )
            for clip in chain.from_iterable(decoded):
                waiting.callback(clip.close)
                items.append((clip.clip.key, clip.stored(), clip.record()))
                n_done += 1
                reporter.advance(n_done)
            writer.write_shard(number, items)
    reporter.end()
    processes.wait()
    return scan


def _decode(
    sounds: audio.SoundFolder, row: audio.ScanRow, clips: list[Clip], config: CorpusConfig, folder: Path
) -> list[_WaitingClip]:
    """Decode the clips of one file.

    Raises:
        AudioError: the file has changed since it was scanned, or cannot be read any more.
    """
    path = sounds.files[row.path]
    waiting = [_WaitingClip(clip, config, folder) for clip in clips]
    reading, at = audio.Reading(path, config.sample_rate, row.offset), 0
    with named_after(folder), audio.named(path):
        for block in reading:
            for one in waiting:
                one.take(block, at)
            at += len(block)
    if audio.file_digest(path) != row.sha256:
        raise AudioError(f"{path} has changed since it was scanned", action="leave it as it is, and start again")
    for one in waiting:
        one.end({"peak": reading.content.peak, "offset": row.offset})
    return waiting


class _WaitingClip:
    """A clip whose samples wait as 32-bit floats until its peak is known.

    Args:
        clip: which part of its file it is.
        config: how it is stored.
        folder: where a long one waits, in an unnamed file.
    """

    def __init__(self, clip: Clip, config: CorpusConfig, folder: Path) -> None:
        self.clip, self.config = clip, config
        self.file = SpooledTemporaryFile(IN_MEMORY, dir=str(folder))  # noqa: SIM115 - `close` closes it
        self.samples, self.low, self.high = 0, np.float32(0), np.float32(0)

    def take(self, block: Waveform, at: int) -> None:
        """Keep what belongs to the clip of a block that begins at sample `at` of the file."""
        stop = None if self.clip.stop is None else max(0, self.clip.stop - at)
        part = block[max(0, self.clip.start - at) : stop]
        self.samples += len(part)
        self.low, self.high = min(self.low, part.min(initial=0)), max(self.high, part.max(initial=0))
        self.file.write(part.tobytes())

    def end(self, of_file: Mapping[str, float]) -> None:
        """All blocks are there."""
        self.of_file = of_file
        self.first = self._onset() if self.config.trim == "onset" and self.clip.begins else 0
        # Full scale is the peak of the clip, so that a quiet one keeps its bits; but a power of two where it is not
        # above 1, so that the values of 16-bit files stay as they are.
        most = max(float(-self.low), float(self.high) * 32768 / 32767)
        self.scale = most if most > 1 else 2.0 ** np.ceil(np.log2(most)) if most > 0 else 1.0
        # A block of a longer file is not a loop.
        is_whole = self.clip.start == 0 and self.clip.stop is None
        seconds = self.config.repeat_seconds if is_whole else None
        wanted = units.seconds_to_samples(seconds or 0.0, self.config.sample_rate)
        self.repeats = max(1, -(-wanted // max(1, self.samples - self.first)))

    def stored(self) -> Pieces:
        """The samples as they are stored."""
        return Pieces(
            (self.repeats * (self.samples - self.first),),
            np.dtype(self.config.dtype),
            lambda: (self._as_stored(block) for _ in range(self.repeats) for block in self._blocks(self.first)),
        )

    def record(self) -> dict[str, Any]:
        """What the store says about the clip."""
        timed = {} if self.clip.spans is None else {"spans": self._spans(self.clip.spans)}
        return {
            "source": self.clip.source,
            "source_sha256": self.clip.source_sha256,
            "label": self.clip.label,
            "split": self.clip.split,
            "sample_rate": self.config.sample_rate,
            "start": self.clip.start + self.first,
            "scale": float(self.scale),
            "begins": self.clip.begins,
            "ends": self.clip.ends,
            **({"repeats": self.repeats} if self.repeats > 1 else {}),
            **timed,
            **self.of_file,
        }

    def _spans(self, spans: Sequence[audio.Span]) -> list[list[float | str]]:
        """Beginning, end and label of each span that the clip has a part of, in seconds of the clip.

        A clip that is stored several times in a row has them as often.
        """
        begin, end = (
            units.samples_to_seconds(self.clip.start + at, self.config.sample_rate) for at in (self.first, self.samples)
        )
        found = audio.spans_inside(spans, begin, end, begins=self.clip.begins, ends=self.clip.ends)
        return [
            [round(span.begin + at, 6), round(span.last + at, 6), span.label]
            for at in (turn * (end - begin) for turn in range(self.repeats))
            for span in found
        ]

    def close(self) -> None:
        """Let the samples go."""
        self.file.close()

    def _onset(self) -> int:
        """The first sample that is not under `ONSET_DB`."""
        at, least = 0, max(-self.low, self.high) * units.db_to_amplitude(ONSET_DB)
        for block in self._blocks(0):
            loud = np.flatnonzero(np.abs(block) >= least)
            if loud.size:
                return at + int(loud[0])
            at += len(block)
        return 0

    def _as_stored(self, waveform: Waveform) -> NDArray[np.generic]:
        if self.config.dtype == "int16":
            return np.clip(np.round(waveform / self.scale * 32768), -32768, 32767).astype(np.int16)
        return (waveform / self.scale).astype(np.float16)

    def _blocks(self, first: int) -> Iterator[Waveform]:
        self.file.seek(4 * first)
        for piece in iter(lambda: self.file.read(4 * audio.BLOCK), b""):
            yield np.frombuffer(piece, np.float32)


class Corpus:
    """The clips of a store as waveforms.

    Args:
        folder: folder of the store.
        level_dbfs: peak level in dBFS that every clip is scaled to; None leaves clips as they are.
    """

    def __init__(self, folder: Path, level_dbfs: float | None) -> None:
        self.store = SequenceStore(folder)
        self.level_dbfs = level_dbfs
        if not len(self.store):
            raise AudioError(f"the corpus at {folder} holds no clip", action="delete it and run train-ae again")

    def __len__(self) -> int:
        return len(self.store)

    def indices(self, split: str, labels: Collection[str] | None = None) -> list[int]:
        """Indices of the clips of a split that have one of `labels`; None means all labels."""
        return [
            i
            for i, record in enumerate(self.store.records)
            if record.extra["split"] == split and (labels is None or record.extra["label"] in labels)
        ]

    @cached_property
    def labels(self) -> list[str]:
        """All labels, sorted."""
        return sorted({str(record.extra["label"]) for record in self.store.records})

    def split_labels(self, split: str) -> list[str]:
        """All labels of a split, sorted."""
        return sorted({str(self.store.records[i].extra["label"]) for i in self.indices(split)})

    def gain(self, index: int) -> float:
        """Gain that brings a clip to the corpus's level."""
        return level_gain(float(self.store.records[index].extra["peak"]), self.level_dbfs)

    def place(self, index: int, start: int = 0) -> str:
        """The file of a clip, and the time in it of sample `start` of the clip."""
        record = self.store.records[index]
        extra, once = record.extra, max(1, record.length // int(record.extra.get("repeats", 1)))
        seconds = units.samples_to_seconds(int(extra["start"]) + max(0, start) % once, int(extra["sample_rate"]))
        return f"{extra['source']} at {seconds:.2f} s"

    def waveform(self, index: int, start: int = 0, stop: int | None = None) -> Waveform:
        """Samples `start` to `stop` at the corpus's level; outside the clip there is silence."""
        record = self.store.records[index]
        stop = record.length if stop is None else stop
        inside = self.store.read(index, max(0, start), min(max(stop, 0), record.length))
        full_scale = 32768 if record.dtype == "int16" else 1
        factor = self.gain(index) * float(record.extra["scale"]) / full_scale
        waveform = inside.astype(np.float32) * np.float32(factor)
        before, after = max(0, -start), max(0, stop - record.length)
        return np.pad(waveform, (before, after)) if before or after else waveform

    def waveform_at_speed(self, index: int, speed: float, origin: int, start: int, stop: int) -> Waveform:
        """A part (stop − start,) of a clip that is played at another speed, which changes its pitch too.

        Values between samples are interpolated by cubic Catmull-Rom splines.

        Args:
            index: index of the clip.
            speed: 2 is twice as fast.
            origin: sample of the clip at which playing starts.
            start: first sample that is returned, counted from the start of playing.
            stop: the sample after the last.
        """
        at = np.arange(start, stop) * speed
        first = int(np.floor(at[0])) - 1
        read = self.waveform(index, origin + first, origin + int(at[-1]) + 3)
        whole = np.floor(at).astype(np.int64)
        t = (at - whole).astype(np.float32)
        p0, p1, p2, p3 = (read[whole - first + k] for k in (-1, 0, 1, 2))
        made: Waveform = p1 + 0.5 * t * (p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * (p1 - p2) + p3 - p0)))
        return made

    def summary(self) -> dict[str, int]:
        """Number of clips in each split."""
        return dict(Counter(str(record.extra["split"]) for record in self.store.records))


def random_speed(rng: np.random.Generator, most: float) -> float:
    """A random speed between 1 / (1 + most) and 1 + most."""
    return float(np.exp(rng.uniform(-1, 1) * np.log1p(most)))


def level_gain(peak: float, level_dbfs: float | None) -> float:
    """Gain that brings a peak to a level in dBFS; 1 if the level is None or the peak 0."""
    return 1.0 if level_dbfs is None or peak <= 0 else units.db_to_amplitude(level_dbfs) / peak
