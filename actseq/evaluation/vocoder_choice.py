"""Chooses the vocoder of a run: every candidate on the same held-out clips, the winner by one measure."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from actseq import units
from actseq.arrays import Waveform
from actseq.data.corpus import Corpus
from actseq.evaluation import metrics
from actseq.evaluation.fidelity import SPEECH_RATE_MAX
from actseq.inference.codec import Codec
from actseq.progress import Reporter
from actseq.representations.base import Features
from actseq.vocoders.base import Vocoder, synthesise

Scores = dict[str, dict[str, dict[str, list[float | None]]]]
"""Scores of each clip, by candidate, by features (`reconstructed`, `copy synthesis`), by measure."""
CLIPS = 24
SECONDS = 10.0
"""Length of the beginning of a clip that is scored."""
WAYS = ("reconstructed", "copy synthesis")
DECIDES = "stft_log_l1_db"
SPEED = "times_real_time"
MEASURES: dict[str, str] = {DECIDES: "log-STFT L1, dB ↓", "mel_l1_db": "log-mel L1, dB ↓", "pesq_nb": "PESQ-nb ↑"}


@torch.inference_mode()
def score(
    candidates: Mapping[str, Vocoder], codec: Codec, corpus: Corpus, indices: list[int], reporter: Reporter
) -> Scores:
    """Scores of each vocoder, from reconstructed features, as in use, and from true ones.

    Args:
        candidates: vocoders by name, on the codec's device.
        codec: representation and autoencoder; its own vocoder is not used.
        corpus: corpus of the clips.
        indices: clips to score.
        reporter: receives the progress.
    """
    rate = codec.sample_rate
    measures: dict[str, Callable[[Waveform, Waveform], float | None]] = {
        DECIDES: lambda original, made: metrics.multi_resolution_stft(original, made).log_l1_db,
        "mel_l1_db": lambda original, made: metrics.mel_l1_db(original, made, rate),
    }
    if rate <= SPEECH_RATE_MAX and find_spec("pesq") is not None:
        measures["pesq_nb"] = lambda original, made: metrics.pesq_mos(original, made, rate)
    scores: Scores = {name: {way: {measure: [] for measure in measures} for way in WAYS} for name in candidates}
    reporter.begin("vocoders", len(indices) * len(candidates), unit="clips")
    done = 0
    for index in indices:
        length = corpus.store.records[index].length
        original = corpus.waveform(index, 0, min(length, units.seconds_to_samples(SECONDS, rate)))
        true = codec.analyse([original])
        given = dict(zip(WAYS, (codec.autoencoder.reconstruct(true), true), strict=True))
        for name, vocoder in candidates.items():
            for way, features in given.items():
                made = synthesise(vocoder, features)[0].cpu().numpy()[: len(original)]
                for measure, figure in measures.items():
                    scores[name][way][measure].append(figure(original, made))
            done += 1
            reporter.advance(done)
    reporter.end()
    return scores


@torch.inference_mode()
def speeds(candidates: Mapping[str, Vocoder], codec: Codec, corpus: Corpus, indices: list[int]) -> dict[str, float]:
    """Seconds of sound that each vocoder makes in a second of one processor core, on the longest of the clips.

    Args:
        candidates: vocoders by name; they are timed on the CPU, and stay where they are.
        codec: its representation is used.
        corpus: corpus of the clips.
        indices: clips, one at least.
    """
    longest = max(indices, key=lambda index: corpus.store.records[index].length)
    length = min(corpus.store.records[longest].length, units.seconds_to_samples(SECONDS, codec.sample_rate))
    features = codec.analyse([corpus.waveform(longest, 0, length)])
    features = Features(features.values.cpu(), features.lengths.cpu())
    found = {}
    for name, candidate in candidates.items():
        vocoder = copy.deepcopy(candidate)
        vocoder.to(torch.device("cpu"))
        # The first sound waits for loops to be compiled.
        synthesise(vocoder, Features(features.values[:, :, :2], features.lengths.clamp(max=2)))
        begun = time.process_time()
        synthesise(vocoder, features)
        found[name] = length / codec.sample_rate / max(time.process_time() - begun, 1e-6)
    return found


def decide(scores: Scores, untrained: str, slow: Collection[str] = ()) -> str:
    """The candidate with the least log-STFT distance on reconstructions; `untrained` where no other has less.

    Args:
        scores: scores of all candidates.
        untrained: the one that needs no training.
        slow: trained ones that cannot be chosen.
    """
    means = {name: _deciding(scores, name).mean() for name in scores if name == untrained or name not in slow}
    best = min(means, key=lambda name: means[name])
    return best if means[best] < means[untrained] else untrained


def figures(scores: Scores, untrained: str) -> dict[str, dict[str, Any]]:
    """By candidate: mean, 95 % interval and number of clips of each measure, and paired difference from `untrained`."""
    found: dict[str, dict[str, Any]] = {}
    for name, ways in scores.items():
        found[name] = {
            way: {
                measure: _mean(np.array([value for value in values if value is not None]))
                for measure, values in measures.items()
                if any(value is not None for value in values)
            }
            for way, measures in ways.items()
        }
        if name != untrained:
            found[name]["difference"] = _mean(_deciding(scores, name) - _deciding(scores, untrained))
    return found


def reason(found: Mapping[str, Mapping[str, Any]], untrained: str, winner: str) -> str:
    """One sentence: the chosen vocoder and why."""
    if winner != untrained:
        difference = found[winner]["difference"]
        return (
            f"chosen: {winner}. On reconstructions its log-STFT distance is {-difference['mean']:.3f} dB less than "
            f"that of {untrained} (95 % {-difference['high']:.3f} to {-difference['low']:.3f}, "
            f"{difference['n']} clips)."
        )
    others = ", ".join(
        f"{name} is {abs(row['difference']['mean']):.3f} dB {'above' if row['difference']['mean'] > 0 else 'below'} it"
        + (" and too slow" if is_slow(row) else "")
        for name, row in found.items()
        if name != untrained
    )
    return (
        f"chosen: {untrained}, which needs no training. No trained one that is fast enough has less log-STFT distance "
        f"on reconstructions: {others}."
    )


def is_slow(row: Mapping[str, Any]) -> bool:
    """Whether a candidate makes less than a second of sound in a second of one processor core."""
    return bool(row.get(SPEED, 1.0) < 1)


def table(found: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Rows of text; the first row is the heading."""
    measures = [measure for measure in MEASURES if any(measure in row["reconstructed"] for row in found.values())]
    timed = all(SPEED in row for row in found.values())
    rows = [["", *(MEASURES[measure] for measure in measures), *(["× real time"] if timed else [])]]
    for way in WAYS:
        for name, row in found.items():
            cells = [row[way].get(measure) for measure in measures]
            speed = [f"{row[SPEED]:.3g}"] if timed else []
            rows.append([f"{way}, {name}", *("-" if cell is None else f"{cell['mean']:.3f}" for cell in cells), *speed])
    return rows


def _deciding(scores: Scores, name: str) -> NDArray[np.float64]:
    return np.array(scores[name]["reconstructed"][DECIDES], dtype=np.float64)


def _mean(values: NDArray[np.float64]) -> dict[str, Any]:
    low, high = metrics.bootstrap_interval(values)
    return {"mean": float(values.mean()), "low": low, "high": high, "n": len(values)}
