"""What fills the gaps of sentences best: `python tests/benchmarks/gaps.py GENERATIVE [RESTORING]`.

GENERATIVE is a run whose prior takes a suffix, RESTORING one that was trained to restore the same clips, of the same
sample rate. Of the clips that neither learned from (the test split of GENERATIVE; test or validation of RESTORING, by
file name), gaps of 50 ms, two a second, are silenced; `--seconds` takes longer and fewer ones. Printed are wide-band
PESQ (narrow-band under 16 kHz) and the log-mel L1 distance in dB of the clips with gaps, and of what each way makes of
them, with the paired differences to the clips with gaps and their 95 % intervals. The ways: the sound beside each gap
mirrored into it; GENERATIVE alone; GENERATIVE with latents of the clip without gaps, which is as good as its codec can
fill them; RESTORING alone; RESTORING, and then GENERATIVE in the gaps. The last line says how many of the gaps
`restore` would find. `--sheet PNG` draws the first clip.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from actseq import audio, load_run
from actseq.arrays import Waveform
from actseq.data.corpus import Corpus, level_gain
from actseq.data.excerpts import spread
from actseq.evaluation import metrics
from actseq.inference import filling
from actseq.inference.joins import patch
from actseq.inference.loaded_run import LoadedRun
from actseq.inference.redo import Region, decoded_around
from actseq.plots.contact_sheet import Panel, contact_sheet

LEAST_SECONDS = 0.5
"""Average time from the beginning of a gap to that of the next; for long gaps three times their length."""
Parts = list[tuple[int, int]]


def parts(samples: int, rate: int, seconds: float, rng: np.random.Generator) -> Parts:
    """Gaps at random places that do not touch each other or an end: their first samples, and those after their last."""
    length = round(seconds * rate)
    # Every other slot of a gap's length is free.
    slots = np.arange(1, samples // length - 1, 2)
    wanted = min(len(slots), max(1, samples // round(max(LEAST_SECONDS, 3 * seconds) * rate)))
    begins = np.sort(rng.choice(slots, wanted, replace=False)) * length
    return [(int(begin), int(begin) + length) for begin in begins]


def held_out(run: LoadedRun) -> dict[str, int]:
    """Index of each clip that a run did not learn from, by the name of its file."""
    corpus = Corpus(run.run.corpus, run.config.corpus.level_dbfs)
    indices = [index for split in ("test", "validation") for index in corpus.indices(split)]
    return {Path(str(corpus.store.records[index].key)).name: index for index in indices}


def through_codec(run: LoadedRun, clean: Waveform, gaps: Parts) -> Waveform:
    """The clip with its own reconstruction in the gaps."""
    gain = np.float32(level_gain(float(np.abs(clean).max()), run.codec.level_dbfs))
    latents, made = run.codec.encode([clean * gain])[0][0], clean
    for begin, end in gaps:
        region = Region.around(run.codec, len(clean), begin, end)
        sound, offset = decoded_around(run.prior_codec, latents, latents[region.first : region.stop], region)
        made = patch(made, sound / gain, offset, (begin, end), run.sample_rate)
    return made


def main(words: Sequence[str] | None = None) -> None:
    """Print a line for each way, and one for what is found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("generative")
    parser.add_argument("restoring", nargs="?")
    parser.add_argument("--prior")
    parser.add_argument("--split", default="test")
    parser.add_argument("--clips", type=int, help="most clips")
    parser.add_argument("--seconds", type=float, default=0.05, help="length of a gap")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    given = parser.parse_args(words)
    run = LoadedRun.open(given.generative, prior=given.prior, device="cpu", overrides=given.overrides, need_prior=True)
    restoring = None if given.restoring is None else load_run(given.restoring, device="cpu")
    corpus = Corpus(run.run.corpus, run.config.corpus.level_dbfs)
    known = None if restoring is None else held_out(restoring)
    chosen = [
        index
        for index in corpus.indices(given.split)
        if known is None or Path(str(corpus.store.records[index].key)).name in known
    ]
    ways = ways_of(run, restoring, given.temperature, given.seed)
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in ("gaps", *ways)}
    counts = np.zeros(3, int)
    panels: list[Panel] = []
    for index in spread(chosen, given.clips):
        clean, rate = corpus.waveform(index), run.sample_rate
        where = parts(len(clean), rate, given.seconds, np.random.default_rng(index))
        torn = clean.copy()
        for begin, end in where:
            torn[begin:end] = 0
        made = {"gaps": torn} | {name: way(clean, torn, where) for name, way in ways.items()}
        for name, waveform in made.items():
            rows[name].append(scores(clean, waveform, rate))
        if not panels:
            panels = [Panel(name, np.clip(one, -1, 1)) for name, one in ({"clean": clean} | made).items()]
        found, asked = set(audio.find_gaps([torn], rate, float(np.abs(torn).max()))), set(where)
        counts += np.array([len(asked), len(found & asked), len(found - asked)])
    show(rows)
    print("{} gaps, of which {} are found to the sample, and {} others".format(*counts))
    if given.sheet:
        contact_sheet(given.sheet, {"gaps": panels}, run.sample_rate)


def ways_of(
    run: LoadedRun, restoring: LoadedRun | None, temperature: float, seed: int
) -> dict[str, Callable[[Waveform, Waveform, Parts], Waveform]]:
    """Ways to fill gaps, by name: from the clean clip, that with gaps, and where they are."""

    def filled(torn: Waveform, where: Parts) -> Waveform:
        stream = run.filling_stream(where, len(torn), temperature, seed)
        return np.concatenate([stream.push(torn), stream.finish()])

    ways: dict[str, Callable[[Waveform, Waveform, Parts], Waveform]] = {
        "mirrored": lambda clean, torn, where: filling.bridged(torn, where),
        "generated": lambda clean, torn, where: filled(torn, where),
        "codec alone": lambda clean, torn, where: through_codec(run, clean, where),
    }
    if restoring is not None:
        ways["restored"] = lambda clean, torn, where: restoring.reconstruct(torn)
        ways["restored, generated"] = lambda clean, torn, where: filled(restoring.reconstruct(torn), where)
    return ways


def scores(clean: Waveform, made: Waveform, rate: int) -> tuple[float, float]:
    """PESQ, not a number where it finds no speech, and the log-mel L1 distance in dB."""
    pesq = metrics.pesq_mos(clean, made, rate, wide=rate >= 16_000)
    return np.nan if pesq is None else pesq, metrics.mel_l1_db(clean, made, rate)


def show(rows: dict[str, list[tuple[float, float]]]) -> None:
    """A line for each way: means, and differences to the clips with gaps."""
    before = np.array(rows["gaps"])
    for name, row in rows.items():
        after = np.array(row)
        cells = []
        for k, title in enumerate(("PESQ", "log-mel dB")):
            difference = (after - before)[:, k]
            difference = difference[np.isfinite(difference)]
            low, high = metrics.bootstrap_interval(difference)
            cells.append(f"{title} {np.nanmean(after[:, k]):.3f} ({difference.mean():+.3f} [{low:+.3f}, {high:+.3f}])")
        print(f"{name:22} " + "   ".join(cells), flush=True)


if __name__ == "__main__":
    main()
