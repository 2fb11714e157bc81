"""Features of all clips, analysed once and stored: what training crops are cut from with `train_ae.stored_features`.

They are kept as 32-bit floats: with the 11 bits of half precision an unwrapped phase of 1000 radians has steps of 0.5.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from actseq import units
from actseq.corpus import SPLITS, Corpus, clip_features
from actseq.progress import Reporter
from actseq.runs import begin_store, write_json
from actseq.store import SequenceStore, StoreWriter, Windows, group_shards

if TYPE_CHECKING:
    from actseq.representations.base import Representation


def store_features(
    folder: Path,
    corpus: Corpus,
    representation: Representation,
    inputs: Mapping[str, Any],
    what: str,
    reporter: Reporter,
) -> SequenceStore:
    """A store of (frames, channels) for every clip, in the order of the corpus. Resumes; does nothing where it is done.

    Args:
        folder: where it lies.
        corpus: the clips.
        representation: on the CPU.
        inputs: what the features depend on.
        what: whose features they are, for the user.
        reporter: is told of progress.

    Raises:
        ConfigError: the features there were made from other inputs.
    """
    import torch

    if begin_store(folder, inputs, what) is not None:
        reporter.say(f"features: already stored ({folder})")
        return SequenceStore(folder)
    frames = [units.n_frames(record.length, representation.hop_length) for record in corpus.store.records]
    shards = group_shards([np.dtype(np.float32).itemsize * representation.channels * n for n in frames])
    writer = StoreWriter(folder)
    done = writer.committed()
    n_done = sum(len(shards[number]) for number in done)
    reporter.begin("features", len(corpus), n_done, unit="clips")
    for number, members in enumerate(shards):
        if number in done:
            continue
        items = []
        for i in members:
            record = corpus.store.records[i]
            values = clip_features(corpus, i, representation, torch.device("cpu")).values[0].T.numpy()
            extra = {name: record.extra[name] for name in ("label", "split")}
            items.append((record.key, values, extra | {"clip_sha256": record.sha256}))
            n_done += 1
            reporter.advance(n_done)
        writer.write_shard(number, items)
    reporter.end()
    store = SequenceStore(folder)
    meta = {
        "channels": representation.channels,
        "feature_rate": representation.feature_rate,
        "n_sequences": len(store),
        "n_frames": sum(record.length for record in store.records),
        "fingerprint": store.fingerprint(),
    }
    write_json(folder / "features.json", meta | {"inputs": inputs})
    return store


@dataclass(frozen=True)
class FeatureSource:
    """Random training crops of stored features; a batch is a pure function of (seed, step, rank).

    Attributes:
        store: features (frames, channels) of all clips, in the order of the corpus.
        frames: length of a crop.
        hop_length: samples between frames.
        labels: of the clips; None for all.
    """

    corpus: Corpus
    store: SequenceStore
    split: str
    frames: int
    hop_length: int
    batch_size: int
    seed: int
    labels: Collection[str] | None = None

    @cached_property
    def _windows(self) -> Windows:
        return Windows(self.store, self.corpus.indices(self.split, self.labels), self.frames)

    def batch(self, step: int, rank: int = 0) -> dict[str, NDArray[np.generic]]:
        """Crops.

        Returns:
            `features (batch, frames, channels)`, zero behind the end of a clip; `n_samples (batch,)`, those of the clip from
            the crop's first frame on.
        """
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), step, rank])
        crops, lengths = [], []
        for _ in range(self.batch_size):
            index, start = self._windows.draw(rng)
            rows = self.store.read(index, start, start + self.frames)
            crops.append(np.pad(rows, ((0, self.frames - len(rows)), (0, 0))))
            lengths.append(self.corpus.store.records[index].length - start * self.hop_length)
        return {"features": np.stack(crops), "n_samples": np.array(lengths)}
