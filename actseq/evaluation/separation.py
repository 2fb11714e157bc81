"""What a critic sees of a run: latents at plain settings, and the log-mel spectrogram of the sound at default settings.

A critic learns from draws of half A and as many generated sequences. One part of the held-out clips stops its training,
the other part is judged against sequences that are new to it. Its figure counts only if such critics recognise frames
without memory, and cannot tell real draws from other real draws.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from actseq.arrays import Waveform
from actseq.data.excerpts import spread
from actseq.evaluation.clip_features import analysis
from actseq.evaluation.clip_sources import ClipSources, Halves
from actseq.evaluation.critic import Examples, Parts, Separation, separation
from actseq.evaluation.set_distances import scale_of

SEEDS = range(5)
NULL_SEEDS = range(3)
"""Seeds of the critics that are given two sets of real draws, each with another division of these."""
MOST_TRAIN, MOST_TEST = 600, 300
"""Most sequences of either kind to learn from and in each held-out part."""
SMALLEST_TRAIN, SMALLEST_TEST = 20, 10
FRAMES = 128
"""Frames of a clip that a critic sees."""
PIECES = 64, 32
"""Frames of the pieces, if generated clips have a given length: the first number that gives enough pieces."""
RECOGNISED = 0.95
"""Least area under the curve with which critics must recognise frames without memory."""
UNTOLD = (0.4, 0.6)
"""Bounds of the area for two sets of real draws."""
Pairs = list[tuple[NDArray[np.float32], str]]
"""Values (frames, dims) and label of each sequence."""


@dataclass(frozen=True)
class Roles:
    """The clips of the corpus that a critic uses, by index.

    Attributes:
        a: half A, to learn from.
        b: half B, for the check on real draws.
        stop: held-out clips that stop the training.
        test: held-out clips that are judged.
    """

    a: list[int]
    b: list[int]
    stop: list[int]
    test: list[int]


def roles(sources: ClipSources, two: Halves, split: str) -> Roles:
    """Validation clips stop the training and test clips are judged; with `validation`, one half of these each."""
    validation, test = (sources.corpus.indices(name) for name in ("validation", "test"))
    stop, judged = (validation, test) if split == "test" else (validation[::2], validation[1::2])
    most = MOST_TRAIN, MOST_TRAIN, MOST_TEST, MOST_TEST
    found = sorted(two.a), sorted(two.b), stop, judged
    return Roles(*(spread(clips, size) for clips, size in zip(found, most, strict=True)))


def of_latents(sources: ClipSources, own: Roles) -> dict[str, Any] | None:
    """Figures of critics on standardised latents at plain settings; None if there are too few clips."""
    drawn = [
        [(one.latents, one.label) for one in sources.whole(clips, k)]
        for k, clips in enumerate((own.a, own.stop, own.test, own.b))
    ]
    cut = _large_pieces(drawn, sources.seconds)
    if cut is None:
        return None
    size, real = cut
    made: list[Pairs] = []
    alone: list[Pairs] = []
    per_clip = 1 if sources.seconds is None else max(1, sources.most_frames // size)
    for number, part in enumerate(real[:3]):
        counts = [(label, -(-count // per_clip)) for label, count in sorted(Counter(k for _, k in part).items())]
        for parts, draws in ((made, sources.plain(counts, number)), (alone, sources.memoryless(counts, 1 + number))):
            parts.append(_pieces(((one.latents, one.label) for one in draws), sources.seconds, size))
    return Comparison(real).figures(made, alone)[0]


def levels(waveform: Waveform, sample_rate: int) -> NDArray[np.float32]:
    """Log-mel spectrogram (frames, 64) of a clip at a peak of 1, a frame about every 24 ms."""
    peak = float(np.abs(waveform).max(initial=0.0)) or 1.0
    with torch.inference_mode():
        scaled = torch.from_numpy(waveform / np.float32(peak))[None]
        values = analysis(sample_rate).analyse(scaled, torch.tensor([len(waveform)])).values[0]
    return np.ascontiguousarray(values.numpy().T[::2])


Sound = tuple[Waveform, str, int]
"""A clip, its label, and the clip of the corpus that it is made from; −1 for none."""


def of_sound(
    sources: ClipSources, own: Roles, oracle: Sequence[Sound], generated: Sequence[Sound], alone: Sequence[Sound]
) -> tuple[dict[str, Any], list[int]] | None:
    """Figures of critics on log-mel spectrograms; None if there are too few clips.

    Returns:
        The figures; and the generated clips that the critics have not learned from, by index, the one that differs most
        from real draws first.
    """
    rate, seconds = sources.codec.sample_rate, sources.seconds
    drawn = {clip: (waveform, label) for waveform, label, clip in reversed(oracle)}

    def seen(clips: Iterable[tuple[Waveform, str]]) -> Pairs:
        return _pieces(((levels(waveform, rate), label) for waveform, label in clips), seconds, PIECES[0])

    def decoded(clips: Sequence[int], stream: int) -> Pairs:
        groups = sources.decoded(sources.whole(clips, stream))
        return seen(pair for group in groups for pair in zip(group.waveforms, group.labels, strict=True))

    real = [seen(drawn[clip] for clip in own.a if clip in drawn), *map(decoded, (own.stop, own.test, own.b), (1, 2, 3))]
    if not _enough(real):
        return None
    divided = [_divided([label for _, label, _ in clips], real) for clips in (generated, alone)]
    made, lonely = (
        [seen((clips[row][0], clips[row][1]) for row in part) for part in parts]
        for clips, parts in zip((generated, alone), divided, strict=True)
    )
    if not (_enough([*made, real[3]]) and _enough([*lonely, real[3]])):
        return None
    comparison = Comparison(real)
    figures, critics = comparison.figures(made, lonely)
    fresh = sorted(set(range(len(generated))) - set(divided[0][0]))
    scores = [
        float(critics.scores(comparison.examples(seen([(generated[row][0], generated[row][1])]))).mean())
        if len(generated[row][0])
        else 0.0
        for row in fresh
    ]
    return figures, [fresh[k] for k in np.argsort(scores)[::-1]]


class Comparison:
    """Real draws, standardised, and what is compared with them.

    Args:
        real: sequences of half A, of the held-out clips that stop and that are judged, and of half B.
    """

    def __init__(self, real: Sequence[Pairs]) -> None:
        self.real = real
        frames = np.concatenate([values for values, _ in real[0]]).astype(np.float64)
        self.mean, self.deviation = scale_of(frames)
        self.labels = sorted({label for part in real for _, label in part})

    def examples(self, pairs: Pairs) -> Examples:
        """Sequences as the critics take them."""
        numbers = np.array([self.labels.index(label) for _, label in pairs], dtype=np.int64)
        return Examples([values for values, _ in pairs], numbers).standardised(self.mean, self.deviation)

    def against(self, made: Sequence[Pairs], seeds: Iterable[int]) -> Separation:
        """Critics of generated sequences, in as many parts as the real ones."""
        pairs = [_balanced(*two) for two in zip(self.real[:3], made, strict=True)]
        real, other = (Parts(*(self.examples(pair[side]) for pair in pairs)) for side in (0, 1))
        return separation(real, other, len(self.labels), list(seeds))

    def null(self) -> float:
        """Mean area under the curve for two sets of real draws: halves of A, judged on halves of B."""
        found = []
        for seed in NULL_SEEDS:
            rng = np.random.default_rng([seed, 6])
            first = [self.real[0][row] for row in rng.permutation(len(self.real[0]))]
            other = [self.real[3][row] for row in rng.permutation(len(self.real[3]))]
            third = len(other) // 3
            parts = first, other[:third], other[third:]
            real, made = (Parts(*(self.examples(part[side::2]) for part in parts)) for side in (0, 1))
            found.append(separation(real, made, len(self.labels), [seed]).auc.value)
        return float(np.mean(found))

    def figures(self, made: Sequence[Pairs], alone: Sequence[Pairs]) -> tuple[dict[str, Any], Separation]:
        """The area under the curve with the checks of the critics, and the critics."""
        found = self.against(made, SEEDS)
        recognised, untold = self.against(alone, SEEDS[:1]).auc.value, self.null()
        return {
            "auc": found.auc._asdict(),
            "iid": recognised,
            "real": untold,
            "valid": recognised >= RECOGNISED and UNTOLD[0] <= untold <= UNTOLD[1],
        }, found


def _pieces(sequences: Iterable[tuple[NDArray[np.float32], str]], seconds: float | None, size: int) -> Pairs:
    """The beginning of each sequence; or whole pieces of `size` frames, if generated clips have a given length."""
    found: Pairs = []
    for values, label in sequences:
        if seconds is None:
            found += [(values[:FRAMES], label)] if len(values) else []
        else:
            found += [(values[at : at + size], label) for at in range(0, len(values) - size + 1, size)]
    return found


def _large_pieces(drawn: Sequence[Pairs], seconds: float | None) -> tuple[int, list[Pairs]] | None:
    """The largest pieces of which there are enough, and their frames; None if there are too few of any size."""
    for size in PIECES:
        cut = [_pieces(part, seconds, size) for part in drawn]
        if _enough(cut):
            return size, cut
    return None


def _enough(real: Sequence[Pairs]) -> bool:
    least = SMALLEST_TRAIN, SMALLEST_TEST, SMALLEST_TEST, SMALLEST_TRAIN
    return all(len(part) >= size for part, size in zip(real, least, strict=True))


def _balanced(first: Pairs, second: Pairs) -> tuple[Pairs, Pairs]:
    """Both lists with equally many sequences of each label."""
    counts = [Counter(label for _, label in part) for part in (first, second)]

    def thinned(part: Pairs) -> Pairs:
        of_label = [([pair for pair in part if pair[1] == label], label) for label in sorted(counts[0])]
        return [pair for own, label in of_label for pair in spread(own, min(count[label] for count in counts))]

    return thinned(first), thinned(second)


def _divided(labels: Sequence[str], real: Sequence[Pairs]) -> list[list[int]]:
    """Indices of generated clips to learn from, to stop by and to judge: as many of each label as there are real ones.

    Where there are fewer, all three parts have fewer.
    """
    parts: list[list[int]] = [[], [], []]
    for label in sorted(set(labels)):
        rows = [row for row, own in enumerate(labels) if own == label]
        wanted = [sum(own == label for _, own in part) for part in real[:3]]
        share = min(1.0, len(rows) / max(1, sum(wanted)))
        bounds = np.cumsum([0, *(int(share * count) for count in wanted)])
        for part, start, stop in zip(parts, bounds, bounds[1:], strict=False):
            part += rows[start:stop]
    return parts
