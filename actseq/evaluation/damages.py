"""Which kinds of damage a run that restores takes away: each by itself, on held-out clips."""

from __future__ import annotations

from collections.abc import Mapping

from actseq import units
from actseq.corruptions.base import Damage
from actseq.data.corpus import Corpus
from actseq.data.excerpts import spread
from actseq.evaluation import metrics
from actseq.evaluation.fidelity import corrupted, restored
from actseq.inference.codec import Codec
from actseq.progress import Reporter

CLIPS = 12
"""Number of clips for each kind of damage."""
LONGEST_SECONDS = 10.0
"""Of longer clips only the middle is damaged."""
Distances = dict[str, dict[str, float]]
"""For each kind of damage, the log-mel L1 distance in dB to the undamaged clips, `before` and `after`."""


def distances(
    codec: Codec, corpus: Corpus, kinds: Mapping[str, Damage], clips: tuple[list[int], list[int]], reporter: Reporter
) -> Distances:
    """Distances before and after restoration, on average over the clips; kinds that need other clips may be left out.

    Args:
        codec: codec of the run.
        corpus: corpus of the run.
        kinds: damage by its name.
        clips: clips to be damaged, and clips of other classes, which serve as noise.
        reporter: receives the progress.
    """
    wanted, others = spread(clips[0], CLIPS), clips[1]
    kinds = {name: kind for name, kind in kinds.items() if others or not kind.uses_noise_clips}
    found: Distances = {}
    longest = units.seconds_to_samples(LONGEST_SECONDS, codec.sample_rate)
    reporter.begin("kinds of damage", len(kinds))
    for done, (name, kind) in enumerate(kinds.items(), 1):
        before, after = 0.0, 0.0
        for index in wanted:
            target, given = corrupted(kind, corpus, index, others, 0, longest)
            before += metrics.mel_l1_db(target, given, codec.sample_rate) / len(wanted)
            after += metrics.mel_l1_db(target, restored(codec, given), codec.sample_rate) / len(wanted)
        found[name] = {"before": round(before, 4), "after": round(after, 4)}
        reporter.advance(done)
    reporter.end()
    return found


def without_help(found: Distances) -> list[str]:
    """The kinds of damage that are no smaller after restoration, in words."""
    return [
        f"{name} (log-mel distance {one['before']:.2g} dB before, {one['after']:.2g} dB after)"
        for name, one in found.items()
        if one["after"] >= one["before"]
    ]
