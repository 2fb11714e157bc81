"""Reconstruction quality of a run on its held-out clips, compared with baselines and upper bounds.

A system turns clips into waveforms of the same length: the run itself, its upper bounds and the baselines. Systems are
rendered group by group and only their scores are kept, so a long split needs no more memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from actseq import build, units
from actseq.arrays import Waveform
from actseq.autoencoders.base import Autoencoder, Latents, Posterior
from actseq.autoencoders.bottlenecks import Plain
from actseq.autoencoders.pca import Pca
from actseq.config import Member
from actseq.corruptions.base import Corruption
from actseq.data.corpus import Corpus, level_gain
from actseq.data.features import FeatureBatches
from actseq.errors import ConfigError
from actseq.evaluation import metrics
from actseq.inference.codec import BATCH_FRAMES, Codec, in_batches
from actseq.modules.gaussian import ACTIVE_NATS, draw, kl_nats
from actseq.progress import Reporter
from actseq.representations.base import Features

Render = Callable[[list[int], list[Waveform]], list[Waveform]]
"""Indices and waveforms of clips → waveforms that a system makes from them."""

SPEECH_RATE_MAX = 24_000
"""PESQ and STOI measure speech: they are reported for corpora up to this rate, and are valid for voices only."""
WIDE_BAND_RATE = 16_000
"""Least rate of a corpus for which wide-band PESQ is reported."""
SHOWN = 12
"""Number of clips on the page."""


@dataclass(frozen=True)
class ComparedSystems:
    """Systems to be measured on the same clips.

    Attributes:
        codec: codec of the run.
        corpus: corpus of the run.
        renders: function of each system, by the name of its row.
        speech: available measures of speech.
        rate: rate of the run's latents.
        notes: what was left out, and why.
    """

    codec: Codec
    corpus: Corpus
    renders: dict[str, Render]
    speech: set[str]
    rate: dict[str, Any]
    notes: list[str]


@dataclass(frozen=True)
class Fidelity:
    """Results.

    Attributes:
        figures: by row and measure, `mean` over clips, 95 % interval `low` to `high`, and `n` clips with a score; all
            but `n` are None where no clip has a score.
        mel_l1_db: log-mel L1 of `reconstructed` for each clip.
    """

    figures: dict[str, dict[str, dict[str, Any]]]
    mel_l1_db: list[float]


@dataclass(frozen=True)
class ShownClip:
    """A clip to listen to.

    Attributes:
        name: its key in the corpus.
        why: why it was chosen.
        waveforms: the original and the output of each system, by name.
        mel_l1_db: log-mel L1 of each system.
    """

    name: str
    why: str
    waveforms: dict[str, Waveform]
    mel_l1_db: dict[str, float]


def systems(
    codec: Codec,
    corpus: Corpus,
    indices: list[int],
    seed: int,
    reporter: Reporter,
    labels: Collection[str] | None = None,
) -> ComparedSystems:
    """The run, its upper bounds and its baselines.

    Args:
        codec: codec of the run.
        corpus: corpus of the run.
        indices: clips on which the rate is measured.
        seed: seed of the draw from the posterior.
        reporter: receives the progress.
        labels: labels of the training clips whose principal components are computed; None for all.

    Returns:
        `reconstructed` (posterior mean) · `reconstructed from a draw` of the posterior, which is what the rate measures
        · `copy synthesis` (representation and the run's vocoder) · `griffin-lim` (copy synthesis through it) · `pca D`
        (principal components of equal dimension and frame rate) · `pca D at R kbit/s` (through a channel of equal rate
        too, also at the mean). Latents without a rate, or with skip connections, have neither the draw nor the last.
    """
    rate = latent_rate(codec, corpus, indices, reporter)
    reporter.say("principal components of the training clips")
    network, model = _fit_pca(codec, corpus, labels)
    pca = replace(codec, autoencoder=model)
    notes: list[str] = []
    renders: dict[str, Render] = {"reconstructed": lambda _, waveforms: codec.reconstruct(waveforms)}
    kbit_per_s = rate["kbit_per_s"] if codec.autoencoder.generative else None
    if kbit_per_s is not None:
        renders["reconstructed from a draw"] = lambda chosen, waveforms: through(
            codec, waveforms, lambda posterior: _draw(posterior, chosen, seed)
        )
    renders["copy synthesis"] = lambda _, waveforms: _copy(codec, waveforms)
    try:
        vocoder = build.build_vocoder(Member(kind="griffin-lim"), codec.representation)
        vocoder.to(codec.device)
        through_griffin_lim = replace(codec, vocoder=vocoder)
        renders["griffin-lim"] = lambda _, waveforms: _copy(through_griffin_lim, waveforms)
    except ConfigError as error:
        notes.append(f"griffin-lim is left out: {error}")
    name = f"pca {model.latent_dim}"
    renders[name] = lambda _, waveforms: pca.reconstruct(waveforms)
    if kbit_per_s is not None:
        variances = network.scale.double().square().cpu().numpy()
        level = water_level(variances, 1000 * kbit_per_s / model.latent_rate)
        shrink = torch.from_numpy(np.maximum(0, 1 - level / variances)).float().to(codec.device)
        renders[f"{name} at {kbit_per_s:.2f} kbit/s"] = lambda _, waveforms: through(
            pca, waveforms, lambda posterior: posterior.mean * shrink
        )
    return ComparedSystems(codec, corpus, renders, _speech_measures(codec.sample_rate, notes), rate, notes)


def fidelity(measured: ComparedSystems, indices: list[int], reporter: Reporter) -> Fidelity:
    """Every measure of every system on the given clips."""
    codec, corpus = measured.codec, measured.corpus
    lengths = [corpus.store.records[index].length for index in indices]
    order = sorted(range(len(indices)), key=lambda at: lengths[at])
    scores: dict[str, list[dict[str, float]]] = {name: [{} for _ in indices] for name in measured.renders}
    done = 0
    total = len(measured.renders) * sum(lengths)
    reporter.begin("fidelity", total / codec.sample_rate, unit="seconds of sound")
    for group in _groups(codec, corpus, [indices[at] for at in order]):
        chosen = [indices[order[at]] for at in group]
        originals = [corpus.waveform(index) for index in chosen]
        for name, render in measured.renders.items():
            for at, original, made in zip(group, originals, render(chosen, originals), strict=True):
                scores[name][order[at]] = _score(original, made, codec.sample_rate, measured.speech)
                done += len(original)
                reporter.advance(done / codec.sample_rate)
    reporter.end()
    figures = {
        name: {measure: _mean([row[measure] for row in rows]) for measure in rows[0]} for name, rows in scores.items()
    }
    return Fidelity(figures, [row["mel_l1_db"] for row in scores["reconstructed"]])


def restoration(
    measured: ComparedSystems,
    corruption: Corruption,
    indices: list[int],
    others: list[int],
    seed: int,
    reporter: Reporter,
) -> dict[str, dict[str, dict[str, Any]]]:
    """How much of a corruption remains, as in training but on whole clips, each a pure function of (seed, index).

    Args:
        measured: systems of the run.
        corruption: corruption that the run has learned to remove.
        indices: clips to be corrupted.
        others: clips of other classes.
        seed: seed of the corruption.
        reporter: receives the progress.

    Returns:
        Metrics as in `Fidelity.figures`: rows `corrupted` and `restored`; measures `si_sdr_db`, `mel_l1_db` and those
        of speech.
    """
    codec, corpus = measured.codec, measured.corpus
    scores: dict[str, list[dict[str, float]]] = {"corrupted": [], "restored": []}
    reporter.begin("restoration", len(indices), unit="clips")
    for done, index in enumerate(indices, 1):
        target, given = corrupted(corruption, corpus, index, others, seed)
        made = {"corrupted": given, "restored": restored(codec, given)}
        for name, waveform in made.items():
            ratio = metrics.si_sdr_db(target, waveform)
            whole = _score(target, waveform, codec.sample_rate, measured.speech)
            kept = {measure: value for measure, value in whole.items() if measure in measured.speech | {"mel_l1_db"}}
            scores[name].append({"si_sdr_db": math.nan if ratio is None else ratio, **kept})
        reporter.advance(done)
    reporter.end()
    return {
        name: {measure: _mean([row[measure] for row in rows]) for measure in rows[0]} for name, rows in scores.items()
    }


def corrupted(
    corruption: Corruption, corpus: Corpus, index: int, others: list[int], seed: int, longest: int | None = None
) -> tuple[Waveform, Waveform]:
    """A clip as a target, and corrupted: a pure function of (seed, index).

    Args:
        corruption: what is done to the clip.
        corpus: its corpus.
        index: the clip.
        others: clips of other classes.
        seed: seed of the draws.
        longest: number of samples; of a longer clip only the middle is taken. None: any number.
    """
    length = corpus.store.records[index].length
    samples = length if longest is None else min(length, longest)
    begin = (length - samples) // 2
    clean = corpus.waveform(index, begin, begin + samples)
    rng = np.random.default_rng([seed, index])
    noise = None
    if corruption.uses_noise_clips:
        noise = torch.from_numpy(other_sound(corpus, others, len(clean), rng))[None]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**32)))
        pair = corruption.corrupt(torch.from_numpy(clean)[None], noise)
    return pair.target[0].numpy(), pair.input[0].numpy()


def restored(codec: Codec, given: Waveform) -> Waveform:
    """What the codec makes of a corrupted clip, which is brought to the level of the corpus and back."""
    gain = np.float32(level_gain(float(np.abs(given).max(initial=0.0)), codec.level_dbfs))
    return codec.reconstruct([given * gain])[0] / gain


def other_sound(corpus: Corpus, others: list[int], samples: int, rng: np.random.Generator) -> Waveform:
    """`samples` of a random clip from a random position; a clip that is too short is repeated."""
    index = others[int(rng.integers(len(others)))]
    length = corpus.store.records[index].length
    begin = int(rng.integers(length))
    if begin + samples <= length:
        return corpus.waveform(index, begin, begin + samples)
    return np.resize(np.roll(corpus.waveform(index), -begin), samples)


def shown_clips(
    measured: ComparedSystems, indices: list[int], errors: list[float], reporter: Reporter
) -> Iterator[ShownClip]:
    """Yield the clips that `choose_clips` chooses, with the output of the run and of the other systems."""
    names = ["reconstructed", "copy synthesis", next(name for name in measured.renders if name.startswith("pca"))]
    rate = measured.codec.sample_rate
    chosen = choose_clips(errors)
    reporter.begin("page", len(chosen), unit="clips")
    for done, (at, why) in enumerate(chosen.items(), 1):
        index = indices[at]
        original = measured.corpus.waveform(index)
        made = {name: measured.renders[name]([index], [original])[0] for name in names}
        yield ShownClip(
            measured.corpus.store.records[index].key,
            why,
            {"original": original, **made},
            {name: metrics.mel_l1_db(original, waveform, rate) for name, waveform in made.items()},
        )
        reporter.advance(done)
    reporter.end()


def choose_clips(errors: list[float]) -> dict[int, str]:
    """Choose clips to listen to: the three worst, the three around the median, the three best, and the first others.

    Args:
        errors: error of every clip.

    Returns:
        Position → why it was chosen, at most `SHOWN`, in that order.
    """
    ranked = sorted(range(len(errors)), key=lambda at: errors[at])
    middle = max(0, (len(ranked) - 3) // 2)
    wanted = {"worst": ranked[:-4:-1], "median": ranked[middle : middle + 3], "best": ranked[:3]}
    chosen: dict[int, str] = {}
    for why, positions in wanted.items():
        for at in positions:
            chosen.setdefault(at, why)
    for at in range(len(errors)):
        if len(chosen) < SHOWN:
            chosen.setdefault(at, "first of the split")
    return chosen


def water_level(variances: Float[np.ndarray, " components"], bits: float) -> float:
    """Distortion at which independent Gaussians of these variances have a rate of `bits` in total.

    A component whose variance is above the level has ½ log2(variance / level) bits; the others are dropped and have
    none. In logarithms, Σ max(0, l − d) is the largest of Σ (l − d) over the k largest l, for any k. So the level is
    the highest of the levels at which the k largest components alone would have all the bits.

    Source: Cover and Thomas, Elements of Information Theory (2006), theorem 10.3.3.
    """
    logs = np.sort(np.log(variances))[::-1]
    return float(np.exp(np.max((np.cumsum(logs) - 2 * math.log(2) * bits) / np.arange(1, len(logs) + 1))))


def components(codec: Codec, corpus: Corpus) -> Codec:
    """The codec with principal components of equal dimension and frame rate, those of the training clips."""
    return replace(codec, autoencoder=_fit_pca(codec, corpus, None)[1])


def _speech_measures(sample_rate: int, notes: list[str]) -> set[str]:
    """Measures of speech that are available at this rate with the installed packages."""
    if sample_rate > SPEECH_RATE_MAX:
        return set()
    found = set()
    for package, names in (("pesq", {"pesq_nb", "pesq_wb"}), ("pystoi", {"stoi"})):
        if find_spec(package):
            found |= names
        else:
            notes.append(f"{package} is not installed, its measures are left out: pip install 'actseq[evaluate]'")
    return found if sample_rate >= WIDE_BAND_RATE else found - {"pesq_wb"}


def _score(original: Waveform, made: Waveform, sample_rate: int, speech: set[str]) -> dict[str, float]:
    """Every measure of a clip; NaN or infinite where it has no score."""
    stft = metrics.multi_resolution_stft(original, made)
    crest = metrics.crest_difference_db(original, made)
    scores: dict[str, float | None] = {
        "mel_l1_db": metrics.mel_l1_db(original, made, sample_rate),
        "stft_log_l1_db": stft.log_l1_db,
        "spectral_convergence": stft.spectral_convergence,
        "envelope_correlation": metrics.envelope_correlation(original, made, sample_rate),
        "crest_error_db": None if crest is None else abs(crest),
        "crest_bias_db": crest,
    }
    if "pesq_nb" in speech:
        scores["pesq_nb"] = metrics.pesq_mos(original, made, sample_rate)
    if "pesq_wb" in speech:
        scores["pesq_wb"] = metrics.pesq_mos(original, made, sample_rate, wide=True)
    if "stoi" in speech:
        scores["stoi"] = metrics.stoi(original, made, sample_rate)
    return {name: math.nan if value is None else value for name, value in scores.items()}


def latent_rate(codec: Codec, corpus: Corpus, indices: list[int], reporter: Reporter) -> dict[str, Any]:
    """Frame rate, dimensions and KL divergence to N(0, 1) of the latents of the given clips."""
    kl, frames, point = np.zeros(codec.autoencoder.latent_dim), 0, True
    reporter.begin("rate", len(indices), unit="clips")
    for group in _groups(codec, corpus, indices):
        for mean, log_variance in codec.encode([corpus.waveform(indices[at]) for at in group]):
            frames += len(mean)
            if log_variance is not None:
                point = False
                kl += kl_nats(mean, log_variance).sum(0, dtype=np.float64)
        reporter.advance(group[-1] + 1)
    reporter.end()
    per_frame = kl / frames
    rate = codec.autoencoder.latent_rate
    return {
        "frames_per_s": rate,
        "latent_dim": codec.autoencoder.latent_dim,
        "kbit_per_s": None if point else float(per_frame.sum() / math.log(2) * rate / 1000),
        "active_dims": None if point else int((per_frame > ACTIVE_NATS).sum()),
    }


def _groups(codec: Codec, corpus: Corpus, indices: list[int]) -> Iterator[list[int]]:
    """Positions in `indices` that form one batch."""
    hop = codec.representation.hop_length
    return in_batches([units.n_frames(corpus.store.records[index].length, hop) for index in indices], BATCH_FRAMES)


def _copy(codec: Codec, waveforms: list[Waveform]) -> list[Waveform]:
    """Features straight to the vocoder."""
    made = codec.synthesise(codec.analyse(waveforms))
    return [new[: len(old)] for new, old in zip(made, waveforms, strict=True)]


@torch.inference_mode()
def through(codec: Codec, waveforms: list[Waveform], code: Callable[[Posterior], Tensor]) -> list[Waveform]:
    """Like `Codec.reconstruct`, but decodes the latents that `code` makes from the posterior.

    `Codec.decode` would also render the frames that pad the last latent frame: on short clips their effect is as large
    as the differences that are measured here.
    """
    features = codec.analyse(waveforms)
    posterior = codec.autoencoder.encode(features)
    decoded = codec.autoencoder.decode(Latents(code(posterior), posterior.lengths)).values
    made = codec.synthesise(Features(decoded[:, :, : features.values.shape[2]], features.lengths))
    return [new[: len(old)] for new, old in zip(made, waveforms, strict=True)]


def _draw(posterior: Posterior, indices: list[int], seed: int) -> Float[Tensor, "batch frames latent_dim"]:
    """One draw for each clip, a pure function of (seed, index), independent of the batch."""
    assert posterior.log_variance is not None
    frames, dims = posterior.mean.shape[1:]
    noise = np.stack([np.random.default_rng([seed, i]).standard_normal((frames, dims), np.float32) for i in indices])
    return draw(posterior.mean, posterior.log_variance, torch.from_numpy(noise).to(posterior.mean.device))


def _mean(values: list[float]) -> dict[str, Any]:
    found = [value for value in values if math.isfinite(value)]
    if not found:
        return {"mean": None, "low": None, "high": None, "n": 0}
    low, high = metrics.bootstrap_interval(found)
    return {"mean": float(np.mean(found)), "low": low, "high": high, "n": len(found)}


def _fit_pca(codec: Codec, corpus: Corpus, labels: Collection[str] | None) -> tuple[Pca, Autoencoder]:
    representation, dim = codec.representation, codec.autoencoder.latent_dim
    stride = codec.autoencoder.stride
    dim = min(dim, representation.channels * stride)
    network = Pca(representation.channels, dim, dim, stride=stride)
    model = Autoencoder(
        network,
        Plain(dim),
        channels=representation.channels,
        feature_rate=representation.feature_rate,
        log_magnitude=representation.log_magnitude,
        signed=representation.signed,
        latent_dim=dim,
    )
    model.fit(FeatureBatches(corpus, representation, codec.device, labels))
    return network, model.to(codec.device)
