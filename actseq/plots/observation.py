"""Random clips of a run, and the output of the run for them, as plain arrays."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from actseq import units
from actseq.data.corpus import Corpus
from actseq.data.excerpts import Excerpt, excerpts
from actseq.inference.codec import BATCH_FRAMES, Codec, in_batches
from actseq.plots import spectra as bands
from actseq.plots.latent_statistics import LatentValues
from actseq.plots.sound_charts import Frame
from actseq.progress import Reporter

CLIPS = 200
SECONDS = 60.0
"""Total length of all clips, where their number is not given."""
SHORTEST_CUT = 5.0
"""Seconds to which a clip may be cut, however many clips there are."""
FRAMES = 6
"""Number of single frames that are shown."""
SOUNDING = 0.01
"""Least amplitude of a frame that is shown, relative to the clip's peak."""


@dataclass(frozen=True)
class Observed:
    """Output of the run for the chosen clips.

    Attributes:
        codes: all latent frames; None for networks with skip connections, whose latents do not hold the sound.
        clip: position, in the chosen clips, of the clip of each latent frame.
        frames: single frames, before and after.
        spectra: mean power of original, output and their difference, with the n_fft of `spectra.window_length`.
    """

    codes: LatentValues | None
    clip: NDArray[np.int64]
    frames: list[Frame]
    spectra: Float[np.ndarray, "3 bins"]


def choose_excerpts(
    corpus: Corpus, split: str, labels: Collection[str] | None, sample_rate: int, n: int | None, seed: int
) -> list[Excerpt]:
    """Random clips of a split; those that are too long are cut at a random position.

    Args:
        corpus: corpus of the clips.
        split: split of the clips.
        labels: labels of the clips; None for all.
        sample_rate: sample rate of the corpus in Hz.
        n: number of clips; None for up to 200 clips with one minute in total.
        seed: seed of the choice.

    Returns:
        Clips in the corpus's order, without empty ones.
    """
    whole = [
        excerpt for excerpt in excerpts(corpus, split, sample_rate, None) if labels is None or excerpt.label in labels
    ]
    rng = np.random.default_rng(seed)
    order = [whole[i] for i in rng.permutation(len(whole))[: CLIPS if n is None else n]]
    longest = units.seconds_to_samples(max(SHORTEST_CUT, SECONDS / max(1, len(order))), sample_rate)
    left = units.seconds_to_samples(SECONDS, sample_rate) if n is None else len(order) * longest
    chosen = []
    for excerpt in order:
        size = min(excerpt.samples, longest)
        if size > left:
            break
        start = excerpt.start + int(rng.integers(excerpt.samples - size + 1))
        chosen.append(replace(excerpt, start=start, stop=start + size))
        left -= size
    return sorted(chosen, key=lambda excerpt: excerpt.index)


@torch.inference_mode()
def observe(codec: Codec, corpus: Corpus, chosen: list[Excerpt], seed: int, reporter: Reporter) -> Observed:
    """Reconstruct clips batch by batch; only what will be drawn is kept."""
    hop, rate = codec.representation.hop_length, codec.sample_rate
    n_fft = bands.window_length(rate)
    shown = _places(corpus, chosen, hop, seed)
    drawn, means, log_variances, clip = [], [], [], []
    frames: list[Frame] = []
    spectra, windows = np.zeros((3, n_fft // 2 + 1)), 0
    reporter.begin("clips", len(chosen), unit="clips")
    for group in in_batches([units.n_frames(excerpt.samples, hop) for excerpt in chosen], BATCH_FRAMES):
        originals = [chosen[at].read(corpus) for at in group]
        features = codec.analyse(originals)
        output = codec.autoencoder.reconstruct(features)
        made = [new[: len(old)] for new, old in zip(codec.synthesise(output), originals, strict=True)]
        for row, at in enumerate(group):
            for k, signal in enumerate((originals[row], made[row], made[row] - originals[row])):
                total, n = bands.power(signal, n_fft)
                spectra[k] += total
            windows += n
            for frame in shown.get(at, []):
                t = min(frame, int(features.lengths[row]) - 1)
                pair = torch.stack([features.values[row, :, t], output.values[row, :, t]]).double().cpu().numpy()
                cut = [_window(signal, t * hop, n_fft) for signal in (originals[row], made[row])]
                key = corpus.store.records[chosen[at].index].key
                seconds = units.samples_to_seconds(chosen[at].start + t * hop, rate)
                frames.append(Frame(key, seconds, pair, np.stack(cut).astype(np.float64)))
        if codec.autoencoder.generative:
            posterior = codec.autoencoder.encode(features)
            for row, at in enumerate(group):
                length = int(posterior.lengths[row])
                mean = posterior.mean[row, :length].cpu().numpy()
                means.append(mean)
                clip.append(np.full(length, at))
                if posterior.log_variance is not None:
                    log_variances.append(posterior.log_variance[row, :length].cpu().numpy())
                    noise = np.random.default_rng([seed, chosen[at].index]).standard_normal(mean.shape, np.float32)
                    mean = mean + noise * np.exp(0.5 * log_variances[-1])
                drawn.append(mean)
        reporter.advance(group[-1] + 1)
    reporter.end()
    found = None
    if means:
        found = LatentValues(
            np.concatenate(drawn),
            np.concatenate(means),
            np.concatenate(log_variances) if log_variances else None,
            codec.autoencoder.bottleneck.deviation,
        )
    return Observed(found, np.concatenate(clip) if clip else np.zeros(0, np.int64), frames, spectra / max(1, windows))


def _places(corpus: Corpus, chosen: list[Excerpt], hop: int, seed: int) -> dict[int, list[int]]:
    """Random frames of each clip that are not silent; each from another clip, if there are enough clips."""
    rng = np.random.default_rng([seed, FRAMES])
    order = rng.permutation(len(chosen))
    places: dict[int, list[int]] = {}
    for at in (int(order[k % len(order)]) for k in range(FRAMES)):
        waveform = np.abs(chosen[at].read(corpus))
        peaks = np.maximum.reduceat(waveform, np.arange(0, len(waveform), hop))
        places.setdefault(at, []).append(int(rng.choice(np.flatnonzero(peaks >= SOUNDING * peaks.max()))))
    return places


def _window(waveform: NDArray[np.float32], centre: int, size: int) -> NDArray[np.float32]:
    """Samples around a position, silent beyond the ends."""
    padded = np.pad(waveform, size)
    return padded[centre + size - size // 2 :][:size]
