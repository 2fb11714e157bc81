"""`extract-latents`: encode every clip of a corpus, and training clips at other speeds too."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from actseq import audio, units
from actseq.arrays import Waveform
from actseq.commands.common import AUTO, Compute, Result
from actseq.config import LatentsConfig
from actseq.data.corpus import Corpus, random_speed
from actseq.data.latents import COPIES
from actseq.data.segments import whole_clip
from actseq.inference.codec import BATCH_FRAMES, Codec, in_batches
from actseq.inference.loading import load_codec, require_generative, stage_config
from actseq.progress import Reporter
from actseq.storage import hashes
from actseq.storage.artifacts import begin_store, read_json, write_json
from actseq.storage.processes import here
from actseq.storage.remote import place_beside
from actseq.storage.run_folder import RunFolder
from actseq.storage.store import Record, SequenceStore, group_shards, unfinished


def extract_latents(
    run: str | Path,
    *,
    overrides: Iterable[str] = (),
    compute: Compute = AUTO,
) -> Result:
    """Encode every clip of a run's corpus. An interrupted extraction resumes; a finished one is left alone."""
    opened = RunFolder.open(run)
    opened.require_corpus()
    compute.use_threads()
    require_generative(opened)
    codec, config = load_codec(
        opened, compute.device, stage_config(opened, overrides, "extract-latents"), vocoder=False
    )
    section = config.latents
    inputs = {
        "autoencoder": opened.trained_autoencoder.fingerprint,
        "corpus": read_json(opened.corpus / "corpus.json")["fingerprint"],
        "latents": section.model_dump(mode="json"),
    }
    processes = here()
    with opened.lock(opened.latents):
        if processes.first:
            _forget_others(opened, inputs["autoencoder"], compute.reporter)
        meta = begin_store(opened.latents, inputs, f"the latents of run {opened.name}")
        if meta is not None:
            compute.reporter.say(f"latents: already extracted ({opened.latents})")
        else:
            corpus = Corpus(opened.corpus, config.corpus.level_dbfs)
            meta = _extract(opened, codec, corpus, section, config.seed, compute.reporter) | {"inputs": inputs}
            if processes.first:
                write_json(opened.latents / "latents.json", meta)
        if processes.first:
            opened.seal(opened.latents)
    return meta | {"run": str(opened.path)}


def _forget_others(run: RunFolder, autoencoder: str, reporter: Reporter) -> None:
    """Begin again where the latents were made by an autoencoder that the run no longer has."""
    marker = run.latents / "latents.json"
    if marker.is_file() and read_json(marker)["inputs"]["autoencoder"] != autoencoder:
        reporter.say("the latents were made by another autoencoder: they are made again")
        hashes.forget(marker)
        marker.unlink()


@dataclass(frozen=True)
class _Pass:
    """One encoding of one clip: at its own speed, or of a training clip at another speed."""

    index: int
    key: str
    split: str
    speed: float
    samples: int
    whole: bool = False

    def waveform(self, corpus: Corpus, start: int, stop: int) -> Waveform:
        if self.whole:
            clip = whole_clip(corpus, self.index, self.samples, self.speed)
            return clip[start:stop]
        if self.speed == 1:
            return corpus.waveform(self.index, start, stop)
        return corpus.waveform_at_speed(self.index, self.speed, 0, start, stop)


def _spans(record: Record, speed: float) -> dict[str, Any]:
    """The labels of a clip in time, in seconds at another speed; nothing where the corpus has no times."""
    if (spans := record.extra.get("spans")) is None:
        return {}
    return {"spans": [[round(begin / speed, 6), round(end / speed, 6), label] for begin, end, label in spans]}


def _passes(corpus: Corpus, section: LatentsConfig, seed: int, longest: int | None) -> list[_Pass]:
    """All encodings to make, short clips first; of longer clips the first `longest` samples, if that is given."""
    passes = []
    for i, record in enumerate(corpus.store.records):
        passes.append(_Pass(i, record.key, str(record.extra["split"]), 1.0, record.length))
        for k in range(section.copies if record.extra["split"] == "train" else 0):
            speed = random_speed(np.random.default_rng([seed, i, k]), section.copy_speed)
            passes.append(_Pass(i, f"{record.key} copy {k + 1}", COPIES, speed, max(1, round(record.length / speed))))
    if longest is not None:
        passes = [replace(one, samples=min(one.samples, longest), whole=True) for one in passes]
    return sorted(passes, key=lambda one: (one.samples, one.key))


def _extract(
    run: RunFolder, codec: Codec, corpus: Corpus, section: LatentsConfig, seed: int, reporter: Reporter
) -> Result:
    dtype = np.dtype(section.dtype)
    hop = codec.representation.hop_length
    longest = (codec.autoencoder.stride - 1) * hop if codec.autoencoder.whole_clips else None
    passes = _passes(corpus, section, seed, longest)
    frames = [units.n_frames(one.samples, hop) for one in passes]
    sizes = [
        dtype.itemsize * 2 * codec.autoencoder.latent_dim * units.n_latent_frames(f, codec.autoencoder.stride)
        for f in frames
    ]
    shards = group_shards(sizes)
    processes = here()
    if processes.first:
        place_beside(run.latents, run.corpus)
    writer, left = unfinished(run.latents, len(shards), processes)
    mine = set(processes.mine(left))
    whole = sum(one.samples for one in passes)
    seconds = round(whole / codec.sample_rate)
    finished = whole - sum(passes[j].samples for shard in mine for j in shards[shard])
    unit = "seconds of sound and of its altered copies" if section.copies else "seconds of sound"
    reporter.begin("latents", seconds, finished // codec.sample_rate, unit=unit)
    begun, at_start = time.perf_counter(), finished

    def advance(samples: int) -> None:
        nonlocal finished
        finished += samples
        elapsed = time.perf_counter() - begun
        reporter.advance(
            finished // codec.sample_rate,
            {"× real time": (finished - at_start) / codec.sample_rate / max(elapsed, 1e-9)},
        )

    def pieces(one: _Pass) -> Iterator[Waveform]:
        for start in range(0, one.samples, audio.BLOCK):
            stop = min(one.samples, start + audio.BLOCK)
            yield one.waveform(corpus, start, stop)
            advance(stop - start)

    for number, members in enumerate(shards):
        if number not in mine:
            continue
        items = []
        for group in in_batches([frames[j] for j in members], BATCH_FRAMES, section.batch_size):
            chosen = [passes[members[j]] for j in group]
            if len(chosen) == 1:
                encoded = [codec.encode_pieces(pieces(chosen[0]))]
            else:
                encoded = codec.encode([one.waveform(corpus, 0, one.samples) for one in chosen])
                advance(sum(one.samples for one in chosen))
            for one, (mean, log_variance) in zip(chosen, encoded, strict=True):
                record = corpus.store.records[one.index]
                both = mean if log_variance is None else np.concatenate([mean, log_variance], axis=1)
                items.append(
                    (
                        one.key,
                        both.astype(dtype),
                        {
                            "label": record.extra["label"],
                            "split": one.split,
                            "speed": one.speed,
                            "begins": record.extra["begins"],
                            "ends": record.extra["ends"],
                            **_spans(record, one.speed),
                            "clip_sha256": record.sha256,
                        },
                    )
                )
        writer.write_shard(number, items)
    reporter.end()
    processes.wait()
    store = SequenceStore(run.latents)
    return {
        "latent_dim": codec.autoencoder.latent_dim,
        "latent_rate": codec.autoencoder.latent_rate,
        "n_sequences": len(store),
        "n_frames": sum(r.length for r in store.records),
        "fingerprint": store.fingerprint(),
    }
