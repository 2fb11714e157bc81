"""Where the clips of an evaluation come from: the corpus, its posteriors, a prior, single frames.

Training clips are halved by file, the same way in every run. Half A gives the oracle: its clips are drawn from their
posteriors and decoded, as a perfect prior would make them. Half B is what all sets are compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

import numpy as np

from actseq import units
from actseq.arrays import LatentArray, Waveform
from actseq.data.corpus import Corpus
from actseq.data.excerpts import Excerpt
from actseq.data.latents import LatentSequences
from actseq.inference.codec import BATCH_FRAMES, Codec, in_batches
from actseq.inference.generation import collect
from actseq.inference.loaded_run import LoadedRun
from actseq.inference.request import GenerationRequest
from actseq.modules.gaussian import draw
from actseq.priors.base import PLAIN

Render = Callable[[list[Waveform]], list[Waveform]]
GROUP = 32
"""Number of clips generated at a time."""


@dataclass(frozen=True)
class Group:
    """Some clips of a set.

    Attributes:
        waveforms: the clips.
        labels: label of each clip, or the requested one; empty where there is none.
        frames: number of latent frames of each clip.
        clips: index of the clip of the corpus that each is made from; −1 for none.
        gains: gain that brought each clip to the level of the corpus after it was generated; None: there was none.
        endless: number of clips that had not ended at the greatest length.
    """

    waveforms: list[Waveform]
    labels: list[str]
    frames: list[int]
    clips: list[int]
    gains: list[float] | None = None
    endless: int = 0


@dataclass(frozen=True)
class Draw:
    """Latents that were drawn.

    Attributes:
        latents: the draw.
        label: label of the clips that it comes from.
        clip: index of the clip of the corpus that it comes from; −1: several.
    """

    latents: LatentArray
    label: str
    clip: int


@dataclass(frozen=True)
class Halves:
    """The training clips in two halves, each label on its own. A label with a single file is in both.

    Attributes:
        a: indices of the clips of the corpus in half A.
        b: the same for half B.
        shared: labels that are in both halves.
    """

    a: set[int]
    b: set[int]
    shared: list[str]


def halves(corpus: Corpus) -> Halves:
    """The halves of a corpus; they depend on nothing but its files."""
    files: dict[str, dict[str, list[int]]] = {}
    for index in corpus.indices("train"):
        about = corpus.store.records[index].extra
        files.setdefault(str(about["label"]), {}).setdefault(str(about["source"]), []).append(index)
    a: set[int] = set()
    b: set[int] = set()
    for _, of_file in sorted(files.items()):
        order = np.random.default_rng(0).permutation(len(of_file))
        names = sorted(of_file)
        for rank, k in enumerate(order):
            if len(names) == 1 or rank < len(names) // 2:
                a.update(of_file[names[k]])
            if len(names) == 1 or rank >= len(names) // 2:
                b.update(of_file[names[k]])
    return Halves(a, b, sorted(label for label, of_file in files.items() if len(of_file) == 1))


@dataclass(frozen=True)
class ClipSources:
    """Sources of clips for one run.

    Attributes:
        loaded: a run with a prior.
        corpus: corpus of the run.
        latents: latents of the run.
        seed: seed of all draws.
    """

    loaded: LoadedRun
    corpus: Corpus
    latents: LatentSequences
    seed: int

    @property
    def codec(self) -> Codec:
        """Codec of the run."""
        return self.loaded.codec

    @property
    def seconds(self) -> float | None:
        """Length of every generated clip; None if the prior ends clips."""
        return self.loaded.config.generate.seconds

    @property
    def most_frames(self) -> int:
        """Latent frames of a generated clip, at most."""
        settings = self.loaded.config.generate
        return units.seconds_to_frames(settings.seconds or settings.max_seconds, self.codec.autoencoder.latent_rate)

    @cached_property
    def sequence_of(self) -> dict[int, int]:
        """Index of the latents of each clip of the corpus."""
        at = {record.key: index for index, record in enumerate(self.latents.records)}
        return {index: at[record.key] for index, record in enumerate(self.corpus.store.records) if record.length}

    def real(self, chosen: Sequence[Excerpt], render: Render | None = None) -> Iterator[Group]:
        """Clips of the corpus, unchanged or rendered."""
        hop, stride = self.codec.representation.hop_length, self.codec.autoencoder.stride
        frames = [units.n_frames(excerpt.samples, hop) for excerpt in chosen]
        for group in in_batches(frames, BATCH_FRAMES):
            waveforms = [chosen[i].read(self.corpus) for i in group]
            yield Group(
                waveforms if render is None else render(waveforms),
                [chosen[i].label for i in group],
                [units.n_latent_frames(frames[i], stride) for i in group],
                [chosen[i].index for i in group],
            )

    def decoded(self, draws: Iterable[Draw]) -> Iterator[Group]:
        """The sound of latents that were drawn; a decoder that is given the label is given that of each draw."""
        row_of = {label: row for row, label in enumerate(self.codec.autoencoder.labels, 1)}
        for chosen in batched(draws, GROUP):
            rows = [row_of.get(one.label, 0) for one in chosen]
            made = self.codec.decode([one.latents for one in chosen], rows)
            if self.seconds is not None:
                samples = units.seconds_to_samples(self.seconds, self.codec.sample_rate)
                made = [waveform[:samples] for waveform in made]
            frames = [len(one.latents) for one in chosen]
            yield Group(made, [one.label for one in chosen], frames, [one.clip for one in chosen])

    def draws(self, clips: Sequence[int], n: int, stream: int) -> Iterator[Draw]:
        """`n` draws from the posteriors of clips of the corpus, spread evenly over the labels of these clips.

        The clips of a label are used in a random order, and again with another draw where there are not enough. If
        generated clips have a given length, a draw has it too and begins at a random frame.

        Args:
            clips: indices of the clips.
            n: number of draws.
            stream: tells apart draws that must differ.
        """
        of_label: dict[str, list[int]] = {}
        for index in sorted(clips):
            if index in self.sequence_of:
                of_label.setdefault(self.label_of(index), []).append(index)
        for number, (label, count) in enumerate(evenly(sorted(of_label), n)):
            rng = np.random.default_rng([self.seed, 3, stream, number])
            order: list[int] = []
            while len(order) < count:
                order += rng.permutation(of_label[label]).tolist()
            for index in order[:count]:
                mean, log_variance = self.latents.read(self.sequence_of[index])
                if self.seconds is not None:
                    start = int(rng.integers(max(1, len(mean) - self.most_frames + 1)))
                    mean, log_variance = (part[start : start + self.most_frames] for part in (mean, log_variance))
                yield Draw(_drawn(mean, log_variance, rng), label, index)

    def whole(self, clips: Sequence[int], stream: int) -> list[Draw]:
        """One draw from the whole posterior of each of the clips; arguments as for `draws`."""
        rng = np.random.default_rng([self.seed, 5, stream])
        return [
            Draw(_drawn(*self.latents.read(self.sequence_of[index]), rng), self.label_of(index), index)
            for index in clips
            if index in self.sequence_of
        ]

    def label_of(self, index: int) -> str:
        """Label of a clip of the corpus; empty if it has none."""
        return str(self.corpus.store.records[index].extra["label"])

    def generated(self, n: int) -> Iterator[Group]:
        """New clips, with each label in turn."""
        for number, (label, count) in enumerate(evenly(self.loaded.usable_labels or [""], n)):
            for start in range(0, count, GROUP):
                # Each group has its own seed: the same seed would give the same clips again.
                own = int(np.random.SeedSequence([self.seed, number, start]).generate_state(1)[0])
                request = GenerationRequest(n=min(GROUP, count - start), label=label or None, seed=own)
                made = collect(self.loaded.stream(request), request.n)
                gains = [float(self.loaded.gain_of_new(clip.waveform, request.source)) for clip in made]
                yield Group(
                    [clip.waveform * np.float32(gain) for clip, gain in zip(made, gains, strict=True)],
                    [label] * len(made),
                    [len(clip.latents) for clip in made],
                    [-1] * len(made),
                    gains,
                    sum(not clip.stopped for clip in made) if self.seconds is None else 0,
                )

    def plain(self, counts: Sequence[tuple[str, int]], stream: int) -> Iterator[Draw]:
        """Latents of new clips at plain settings: temperature 1, no guidance; arguments as for `memoryless`."""
        settings = self.loaded.config.generate
        plain = {**vars(PLAIN), "best_of": 1}
        config = self.loaded.config.model_copy(update={"generate": settings.model_copy(update=plain)})
        loaded = replace(self.loaded, config=config)
        for number, (label, count) in enumerate(counts):
            own = int(np.random.SeedSequence([self.seed, 4, stream, number]).generate_state(1)[0])
            known = label if label in self.loaded.usable_labels else None
            for latents in loaded.sample(count, label=known, seed=own) if count else ():
                yield Draw(latents, label, -1)

    def independent(self, n: int) -> Iterator[Draw]:
        """Draws without memory, spread evenly over the labels."""
        labels = sorted({str(self.latents.records[index].extra["label"]) for index in self.latents.indices("train")})
        return self.memoryless(evenly(labels, n), 0)

    def memoryless(self, counts: Sequence[tuple[str, int]], stream: int) -> Iterator[Draw]:
        """Draws without memory: each frame is from the posterior of a random training frame of the label.

        A draw is as long as a random training clip of its label, `generate.max_seconds` at most; or `generate.seconds`
        long where that is set.

        Args:
            counts: number of draws of each label.
            stream: tells apart draws that must differ.
        """
        rng = np.random.default_rng([self.seed, 1, stream])
        of_label: dict[str, list[int]] = {}
        for index in self.latents.indices("train"):
            of_label.setdefault(str(self.latents.records[index].extra["label"]), []).append(index)
        for label, count in counts:
            means, log_variances = (
                np.concatenate(part)
                for part in zip(*(self.latents.read(index) for index in of_label[label]), strict=True)
            )
            lengths = [min(self.most_frames, self.latents.records[index].length) for index in of_label[label]]
            for frames in rng.choice(lengths if self.seconds is None else [self.most_frames], count):
                rows = rng.integers(len(means), size=frames)
                yield Draw(_drawn(means[rows], log_variances[rows], rng), label, -1)


def evenly(labels: Sequence[str], n: int) -> list[tuple[str, int]]:
    """Number of clips of each label, `n` in total."""
    bounds = [k * n // len(labels) for k in range(len(labels) + 1)]
    return [(label, stop - start) for label, start, stop in zip(labels, bounds, bounds[1:], strict=False)]


def _drawn(mean: LatentArray, log_variance: LatentArray, rng: np.random.Generator) -> LatentArray:
    """One draw from a posterior."""
    return draw(mean, log_variance, rng.standard_normal(mean.shape, np.float32))


def batched(draws: Iterable[Draw], n: int) -> Iterator[list[Draw]]:
    """The draws in groups of `n`."""
    left = iter(draws)
    while group := list(islice(left, n)):
        yield group
