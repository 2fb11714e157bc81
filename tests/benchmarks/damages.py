"""What a run does against damage that it was not trained with: `python tests/benchmarks/damages.py RUN DATA`.

RUN was trained with preset `restore` on the speech of DATA, with recordings of forest, wind and rain as noise. Its test
sentences are damaged in ten ways. Sea waves, a storm, drums, piano notes and bass notes are put over them, one sound of
a folder after another, at 5 and 10 dB by RMS over the sentence. And they are clipped at −12 dB, or get hum, crackle, a
band limit at 4 kHz or gaps of 50 ms. Printed are wide-band PESQ and the log-mel L1 distance in dB before and after
restoration, and the paired difference with its 95 % interval. `--sheet PNG` draws the first sentence with each damage,
clean, damaged and restored.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from actseq import audio, load_run
from actseq.arrays import Waveform
from actseq.corruptions.added import Crackle, Hum
from actseq.corruptions.base import Damage
from actseq.corruptions.missing import BandLimit, Clipping
from actseq.data.corpus import Corpus
from actseq.data.excerpts import spread
from actseq.evaluation import metrics
from actseq.plots.contact_sheet import Panel, contact_sheet

NOISES = {
    "sea waves": "ambience/sea_waves",
    "storm": "ambience/storm",
    "drums": "drums",
    "piano": "instruments/piano",
    "bass": "instruments/bass_staccato",
}
SNRS_DB = (5, 10)
MOST_SECONDS = 4.0
"""Of each sound in a row no more than this is taken."""
GAP_SECONDS, GAPS_PER_SECOND = 0.05, 2
Harm = Callable[[Waveform, np.random.Generator], Waveform]


def in_a_row(folder: Path, rate: int) -> Callable[[int, np.random.Generator], Waveform]:
    """So many samples of the sounds of a folder, in a drawn order."""
    paths = audio.find(folder)

    def drawn(samples: int, rng: np.random.Generator) -> Waveform:
        row: list[Waveform] = []
        while sum(map(len, row)) < samples:
            sound, own_rate = audio.beginning(paths[int(rng.integers(len(paths)))], MOST_SECONDS)
            row.append(audio.resample(sound[: int(MOST_SECONDS * own_rate)], own_rate, rate))
        return np.concatenate(row)[:samples]

    return drawn


def by(damage: Damage) -> Harm:
    """A damage with the draws of a generator."""

    def harm(clean: Waveform, rng: np.random.Generator) -> Waveform:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**32)))
            return damage.damage(torch.from_numpy(clean)[None], None)[0].numpy()

    return harm


def harms(data: Path, rate: int) -> Iterator[tuple[str, Harm]]:
    """What is done to sentences, by its name."""
    for name, place in NOISES.items():
        noise = in_a_row(data / place, rate)
        for snr_db in SNRS_DB:

            def noisy(
                clean: Waveform,
                rng: np.random.Generator,
                noise: Callable[[int, np.random.Generator], Waveform] = noise,
                snr_db: int = snr_db,
            ) -> Waveform:
                added = noise(len(clean), rng)
                level = np.sqrt(np.mean(np.square(clean)) / np.mean(np.square(added)))
                return (clean + added * level * 10 ** (-snr_db / 20)).astype(np.float32)

            yield f"{name}, {snr_db} dB", noisy
    yield "clipped at −12 dB", by(Clipping(rate, level_db=(-12.0, -12.0)))
    yield "hum of 50 Hz, 5 dB", by(Hum(rate, snr_db=(5.0, 5.0), frequency_hz=(50.0, 50.0)))
    yield "crackle, 20 a second", by(Crackle(rate, clicks=(20.0, 20.0), level_db=(-3.0, -3.0)))
    yield (
        "band limit, 4 kHz",
        by(BandLimit(rate, highest_hz=(4000.0, 4000.0), lowest_hz=(20.0, 20.0), order=(20.0, 20.0))),
    )

    def torn(clean: Waveform, rng: np.random.Generator) -> Waveform:
        dirty, length = clean.copy(), int(GAP_SECONDS * rate)
        for start in rng.integers(len(clean) - length, size=max(1, GAPS_PER_SECOND * len(clean) // rate)):
            dirty[start : start + length] = 0
        return dirty

    yield "gaps of 50 ms, 2 a second", torn


def scores(clean: Waveform, made: Waveform, rate: int) -> tuple[float, float]:
    """Wide-band PESQ, not a number where it finds no speech, and the log-mel L1 distance in dB."""
    pesq = metrics.pesq_mos(clean, made, rate, wide=True)
    return np.nan if pesq is None else pesq, metrics.mel_l1_db(clean, made, rate)


def main(words: list[str] | None = None) -> None:
    """Print a row for every damage, and the gains with unseen noises."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--clips", type=int, help="most sentences")
    parser.add_argument("--sheet", type=Path)
    given = parser.parse_args(words)
    run = load_run(given.run, device="cpu")
    corpus = Corpus(run.run.corpus, run.config.corpus.level_dbfs)
    clips = spread(corpus.indices(given.split, run.config.train_ae.targets), given.clips)
    print(f"{given.run}: {len(clips)} sentences of the {given.split} split")
    print(f"{'':28}{'PESQ-wb':>9}{'after':>7}{'difference':>22}{'log-mel dB':>12}{'after':>7}{'difference':>24}")
    gains: list[float] = []
    panels: dict[str, list[Panel]] = {}
    for title, harm in harms(given.data, run.sample_rate):
        rows = []
        for index in clips:
            clean = corpus.waveform(index)
            dirty = harm(clean, np.random.default_rng(index))
            made = run.reconstruct(dirty)
            rows.append((*scores(clean, dirty, run.sample_rate), *scores(clean, made, run.sample_rate)))
            if index == clips[0]:
                panels[title] = [
                    Panel(name, np.clip(one, -1, 1))
                    for name, one in (("clean", clean), ("damaged", dirty), ("restored", made))
                ]
        table = np.array(rows)
        print(f"{title:28}" + "".join(columns(table[:, k], table[:, k + 2]) for k in (0, 1)), flush=True)
        if "dB" in title and title.split(",")[0] in NOISES:
            gains.append(float(np.nanmean(table[:, 2] - table[:, 0])))
    print(f"unseen noises: PESQ-wb {np.mean(gains):+.2f} on average, {min(gains):+.2f} at worst")
    if given.sheet:
        contact_sheet(given.sheet, panels, run.sample_rate)


def columns(before: np.ndarray, after: np.ndarray) -> str:
    """Means before and after, and the mean difference with its interval."""
    difference = (after - before)[np.isfinite(after - before)]
    low, high = metrics.bootstrap_interval(difference)
    paired = f"{difference.mean():+.2f} [{low:+.2f}, {high:+.2f}]"
    return f"{np.nanmean(before):9.2f}{np.nanmean(after):7.2f}{paired:>24}"


if __name__ == "__main__":
    main()
