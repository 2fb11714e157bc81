"""Features of clips: analysed in pieces, or analysed once and stored (`train_ae.stored_features`).

Stored features are 32-bit floats: with the 11 bits of half precision, an unwrapped phase of 1000 radians would have
steps of 0.5.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from actseq import units
from actseq.data.corpus import SPLITS, Corpus
from actseq.data.segments import EvenClips, RandomWindows, label_rows, whole_clip
from actseq.progress import Reporter
from actseq.representations.base import Features, Representation
from actseq.storage.artifacts import begin_store, write_json
from actseq.storage.processes import here
from actseq.storage.remote import place_beside
from actseq.storage.store import SequenceStore, group_shards, unfinished

STATISTICS_FRAMES = 200_000
"""Statistics of features are computed from about this many frames at most."""
PIECE_FRAMES = 5_040
"""Frames of a clip that are analysed at a time for statistics: a multiple of every stride up to 10, and of 16."""


def store_features(
    folder: Path,
    corpus: Corpus,
    representation: Representation,
    inputs: Mapping[str, Any],
    what: str,
    reporter: Reporter,
    samples: int | None = None,
) -> SequenceStore:
    """Store the features (frames, channels) of every clip, in the order of the corpus.

    An unfinished store is resumed, a finished one is opened. Several processes that work together share out the shards.

    Args:
        folder: folder of the store.
        corpus: the clips.
        representation: analyses the clips; on the CPU.
        inputs: everything that the features depend on.
        what: name of the features in messages.
        reporter: receives progress.
        samples: length that all clips are brought to, see `whole_clip`; None: their own.

    Raises:
        ConfigError: the features in the folder were made from other inputs.
    """
    if begin_store(folder, inputs, what) is not None:
        reporter.say(f"features: already stored ({folder})")
        return SequenceStore(folder)
    lengths = [samples or record.length for record in corpus.store.records]
    frames = [units.n_frames(length, representation.hop_length) for length in lengths]
    shards = group_shards([np.dtype(np.float32).itemsize * representation.channels * n for n in frames])
    processes = here()
    if processes.first:
        place_beside(folder, corpus.store.folder)
    writer, left = unfinished(folder, len(shards), processes)
    mine = set(processes.mine(left))
    n_done = len(corpus) - sum(len(shards[number]) for number in mine)
    reporter.begin("features", len(corpus), n_done, unit="clips")
    for number, members in enumerate(shards):
        if number not in mine:
            continue
        items = []
        for i in members:
            record = corpus.store.records[i]
            values = clip_features(corpus, i, representation, torch.device("cpu"), samples).values[0].T.numpy()
            extra = {name: record.extra[name] for name in ("label", "split")}
            items.append((record.key, values, extra | {"clip_sha256": record.sha256}))
            n_done += 1
            reporter.advance(n_done)
        writer.write_shard(number, items)
    reporter.end()
    processes.wait()
    store = SequenceStore(folder)
    meta = {
        "channels": representation.channels,
        "feature_rate": representation.feature_rate,
        "n_sequences": len(store),
        "n_frames": sum(record.length for record in store.records),
        "fingerprint": store.fingerprint(),
    }
    if processes.first:
        write_json(folder / "features.json", meta | {"inputs": inputs})
    return store


@dataclass(frozen=True)
class FeatureSource:
    """Random training segments of stored features; a batch is a pure function of (seed, step, rank).

    Attributes:
        corpus: the clips.
        store: features (frames, channels) of all clips, in the order of the corpus.
        split: `train`, `validation` or `test`.
        frames: length of a segment.
        hop_length: samples between frames.
        batch_size: segments in a batch.
        seed: seed of the choice of segments.
        labels: labels of the clips to use; None: all.
        whole: the features are those of whole clips with the silence after their end, all of `frames` frames; then
            clips are drawn as by `EvenClips`.
        folder_balance: as for `drawing_weights`; not used where the features are whole.
    """

    corpus: Corpus
    store: SequenceStore
    split: str
    frames: int
    hop_length: int
    batch_size: int
    seed: int
    labels: Collection[str] | None = None
    whole: bool = False
    folder_balance: float = 0.0

    @cached_property
    def _windows(self) -> RandomWindows:
        indices = self.corpus.indices(self.split, self.labels)
        return RandomWindows(self.store, indices, self.frames, self.folder_balance)

    @cached_property
    def _clips(self) -> EvenClips:
        return EvenClips(self.corpus, self.corpus.indices(self.split, self.labels))

    def batch(self, step: int, rank: int = 0) -> dict[str, NDArray[np.generic]]:
        """A batch of segments.

        Returns:
            `features (batch, frames, channels)`, zero after the end of a clip; `n_samples (batch,)`, the samples of the
            clip from the segment's first frame on; `label (batch,)` as in `ClipSource`.
        """
        rows_of = label_rows(self.corpus)
        segments, lengths, labels = [], [], []
        for index, start in self._drawn(step, rank):
            rows = self.store.read(index, start, start + self.frames)
            segments.append(np.pad(rows, ((0, self.frames - len(rows)), (0, 0))))
            record = self.corpus.store.records[index]
            length = (self.frames - 1) * self.hop_length if self.whole else record.length
            lengths.append(length - start * self.hop_length)
            labels.append(rows_of.get(str(record.extra["label"]), 0))
        return {"features": np.stack(segments), "n_samples": np.array(lengths), "label": np.array(labels)}

    def origins(self, step: int, rank: int = 0) -> list[str]:
        """For each row of a batch, the file, and where in it the segment begins."""
        return [self.corpus.place(index, start * self.hop_length) for index, start in self._drawn(step, rank)]

    def _drawn(self, step: int, rank: int) -> Iterator[tuple[int, int]]:
        """Clip and first frame of each segment of a batch."""
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), step, rank])
        for _ in range(self.batch_size):
            yield (self._clips.draw(rng), 0) if self.whole else self._windows.draw(rng)


def clip_features(
    corpus: Corpus, index: int, representation: Representation, device: torch.device, samples: int | None = None
) -> Features:
    """Features of one whole clip; of `samples` samples, see `whole_clip`, or of its own length."""
    clip = corpus.waveform(index) if samples is None else whole_clip(corpus, index, samples)
    waveform = torch.from_numpy(clip)[None].to(device)
    return representation.analyse(waveform, torch.tensor([waveform.shape[1]], device=device))


def clip_pieces(corpus: Corpus, index: int, representation: Representation, device: torch.device) -> Iterator[Features]:
    """Features of one clip, `PIECE_FRAMES` at a time; together they are the features of the whole clip.

    Features of unbounded context come in one piece.
    """
    if representation.context_samples is None:
        yield clip_features(corpus, index, representation, device)
        return
    hop, samples = representation.hop_length, corpus.store.records[index].length
    frames, context = units.n_frames(samples, hop), units.n_hops(representation.context_samples, hop)
    for first in range(0, frames, PIECE_FRAMES):
        last = min(first + PIECE_FRAMES, frames) - 1
        begin, stop = max(0, first - context), min(samples, last * hop + representation.context_samples + 1)
        waveform = torch.from_numpy(corpus.waveform(index, begin * hop, stop))[None].to(device)
        whole = representation.analyse(waveform, torch.tensor([waveform.shape[1]], device=device))
        values = whole.values[:, :, first - begin : last + 1 - begin]
        yield Features(values, torch.tensor([values.shape[2]], device=device))


class FeatureBatches:
    """Features of training clips one by one, long clips in pieces. They can be iterated more than once.

    Of a large corpus a random selection of clips is used, with about `STATISTICS_FRAMES` frames.

    Args:
        corpus: the clips.
        representation: analyses the clips.
        device: device of the representation.
        labels: labels of the clips to use; None: all.
        stored: features (frames, channels) of all clips, in the order of the corpus; None: analyse the clips.
    """

    def __init__(
        self,
        corpus: Corpus,
        representation: Representation,
        device: torch.device,
        labels: Collection[str] | None = None,
        stored: SequenceStore | None = None,
    ) -> None:
        self.corpus, self.representation, self.device, self.stored = corpus, representation, device, stored
        order = np.random.default_rng(0).permutation(np.array(corpus.indices("train", labels)))
        lengths = [units.n_frames(corpus.store.records[i].length, representation.hop_length) for i in order]
        enough = int(np.searchsorted(np.cumsum(lengths), STATISTICS_FRAMES)) + 1
        self.chosen = [int(i) for i in order[:enough]]

    def __iter__(self) -> Iterator[Features]:
        for i in self.chosen:
            if self.stored is None:
                yield from clip_pieces(self.corpus, i, self.representation, self.device)
            else:
                yield from _stored_pieces(self.stored, i, self.device)


def _stored_pieces(store: SequenceStore, index: int, device: torch.device) -> Iterator[Features]:
    for first in range(0, store.records[index].length, PIECE_FRAMES):
        values = torch.from_numpy(store.read(index, first, first + PIECE_FRAMES)).T[None].to(device)
        yield Features(values, torch.tensor([values.shape[2]], device=device))
