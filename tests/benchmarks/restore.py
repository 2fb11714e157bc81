"""How well a restoration run removes noise: `python tests/benchmarks/restore.py RUN [SPLIT [CLIPS]]`.

Held-out clips of the learned labels are damaged: by white noise or held-out clips of the other labels at 5 and 10 dB
(RMS over the clip), by clipping, coarse quantisation or gaps. The output of each system is scored by wide-band PESQ and
SI-SDR. `gating` is spectral gating by noisereduce with its defaults: stationary, non-stationary, and stationary with a
threshold taken from the very noise that was added. `best gating` is the better of the first two, for each clip and
measure. `oracle mask` brings magnitudes as close to the clean ones as a mask over the run's spectrum can, with noisy
phases. The program needs the package noisereduce.
"""

import sys
from collections.abc import Callable

import numpy as np
import torch
from noisereduce import reduce_noise as gate  # type: ignore[import-not-found, unused-ignore]
from numpy.typing import NDArray

from actseq import load_run
from actseq.data.corpus import Corpus
from actseq.data.excerpts import spread
from actseq.evaluation import metrics
from actseq.evaluation.fidelity import other_sound
from actseq.inference.codec import Codec
from actseq.representations.base import Features
from actseq.representations.stft import Stft

Waveform = NDArray[np.float32]
Harm = Callable[[Waveform, np.random.Generator], Waveform]
MEASURES = {"PESQ-wb": 2, "SI-SDR dB": 1}


def at_ratio(noise: Waveform, clean: Waveform, snr_db: float) -> Waveform:
    """Noise scaled so that the RMS of both has that ratio."""
    level = np.sqrt(np.mean(np.square(clean, dtype=np.float64)) / np.mean(np.square(noise, dtype=np.float64)))
    return (noise * level * 10 ** (-snr_db / 20)).astype(np.float32)


def oracle(codec: Codec, clean: Waveform, dirty: Waveform, limit: float) -> Waveform:
    """The dirty spectrum with the clean one's magnitudes, as far as a mask up to `limit` gets there."""
    analysis = codec.representation
    assert isinstance(analysis, Stft)
    spectra = codec.analyse([clean, dirty])
    wanted, there = analysis.compressed(spectra.values).abs()
    mask = (wanted / there.clamp(min=1e-8)).clamp(max=limit)
    values = spectra.values[1:] * torch.cat([mask, mask[1:-1]])
    return codec.synthesise(Features(values, spectra.lengths[1:]))[0][: len(clean)]


def main() -> None:
    """Print a table for every noise."""
    run = load_run(sys.argv[1], device="cpu")
    split = sys.argv[2] if len(sys.argv) > 2 else "test"
    rate, targets = run.sample_rate, run.config.train_ae.targets
    corpus = Corpus(run.run.corpus, run.config.corpus.level_dbfs)
    assert targets is not None
    clips = spread(corpus.indices(split, targets), int(sys.argv[3]) if len(sys.argv) > 3 else None)
    others = corpus.indices(split, set(corpus.labels) - set(targets))
    limit = float(run.config.autoencoder.network.options["limit"])
    systems: dict[str, Callable[[Waveform, Waveform], Waveform]] = {
        "noisy": lambda clean, dirty: dirty,
        "gating, stationary": lambda clean, dirty: gate(dirty, rate, stationary=True),
        "gating, not stationary": lambda clean, dirty: gate(dirty, rate, stationary=False),
        "gating, given the noise": lambda clean, dirty: gate(dirty, rate, stationary=True, y_noise=dirty - clean),
        "actseq": lambda clean, dirty: run.reconstruct(dirty),
        "oracle mask": lambda clean, dirty: oracle(run.codec, clean, dirty, limit),
    }
    print(f"{sys.argv[1]}: {len(clips)} clips and {len(others)} noises of the {split} split; mean [95 % interval]")
    for title, harm in conditions(corpus, others).items():
        scores: dict[str, list[tuple[float, float]]] = {name: [] for name in systems}
        for index in clips:
            clean = corpus.waveform(index)
            dirty = harm(clean, np.random.default_rng(index))
            for name, system in systems.items():
                scores[name].append(score(clean, system(clean, dirty), rate))
        print(f"\n{title:34}" + "".join(f"{name:>28}" for name in MEASURES))
        table = {name: np.array(rows) for name, rows in scores.items()}
        best = np.fmax(table["gating, stationary"], table["gating, not stationary"])
        opponents = {"best gating": best} | {name: table[name] for name in ("gating, given the noise", "noisy")}
        table |= {f"actseq − {name}": table["actseq"] - rows for name, rows in opponents.items()}
        for name, rows in table.items():
            print(f"{name:34}" + "".join(cell(rows[:, k], n) for k, n in enumerate(MEASURES.values())), flush=True)


def conditions(corpus: Corpus, others: list[int]) -> dict[str, Harm]:
    """What is done to clips, by its name."""

    def white(snr_db: float) -> Harm:
        return lambda clean, rng: clean + at_ratio(rng.standard_normal(len(clean), np.float32), clean, snr_db)

    def other(snr_db: float) -> Harm:
        return lambda clean, rng: clean + at_ratio(other_sound(corpus, others, len(clean), rng), clean, snr_db)

    def clipped(clean: Waveform, rng: np.random.Generator) -> Waveform:
        bound = np.abs(clean).max() * 10 ** (-12 / 20)
        return np.clip(clean, -bound, bound)

    def coarse(clean: Waveform, rng: np.random.Generator) -> Waveform:
        return np.asarray(np.round(clean * 16) / 16, np.float32)

    return {
        **{f"white noise, {snr_db} dB": white(snr_db) for snr_db in (5, 10)},
        **{f"other noise, {snr_db} dB": other(snr_db) for snr_db in (5, 10)},
        "clipped at −12 dB": clipped,
        "5 bits": coarse,
        "gaps, 10 a second": torn,
    }


def torn(clean: Waveform, rng: np.random.Generator) -> Waveform:
    """Gaps of 2 to 20 ms, at a rate of 22,050 Hz."""
    dirty = clean.copy()
    for start in rng.integers(len(clean), size=len(clean) // 2205):
        dirty[start : start + int(rng.integers(44, 441))] = 0
    return dirty


def score(clean: Waveform, made: Waveform, rate: int) -> tuple[float, float]:
    """Not a number where PESQ finds no speech."""
    pesq = metrics.pesq_mos(clean, made, rate, wide=True)
    ratio = metrics.si_sdr_db(clean, made)
    return np.nan if pesq is None else pesq, np.nan if ratio is None else ratio


def cell(values: NDArray[np.float64], digits: int) -> str:
    """Mean and interval of what there is."""
    found = values[np.isfinite(values)]
    low, high = metrics.bootstrap_interval(found)
    text = f"{found.mean():.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{text + (f' n={len(found)}' if len(found) < len(values) else ''):>28}"


if __name__ == "__main__":
    main()
