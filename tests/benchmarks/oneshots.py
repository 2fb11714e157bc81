"""New one-shots of a run, kind by kind, beside real ones: `python tests/benchmarks/oneshots.py RUN`; see `--help`.

The rows are the real clips of all splits, the held-out ones reconstructed with their label, and new clips of each
label. The columns give for each kind, in the order of the alphabet,

- the share of clips that linear discriminants recognise as of the requested kind. They learn from the real clips of
  RUN, or of `--judge`, for a run of a single kind; a real clip is judged by those that have not learned from its file;
- the squared maximum mean discrepancy between the statistics of the clips and of real clips of the kind, × 1000; real
  clips are not compared with themselves;
- the share of clips that have not ended, in %;
- the share of clips with exactly one onset.

All of it is measured as `actseq evaluate RUN --prior NAME` does. `--sheet` draws nine steps between two held-out clips
of a kind, new clips of each label, and held-out clips.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from actseq.arrays import Waveform
from actseq.commands.common import aligned
from actseq.data.corpus import SPLITS, Corpus
from actseq.data.excerpts import Excerpt, excerpts, spread
from actseq.evaluation.clip_sources import ClipSources
from actseq.evaluation.generated_clips import ClipSet, compare_by_label, judge_clips, measure_clips
from actseq.inference.generation import collect
from actseq.inference.loaded_run import LoadedRun
from actseq.inference.loading import load_latents
from actseq.inference.request import GenerationRequest, Through
from actseq.plots.contact_sheet import Panel, contact_sheet
from actseq.progress import SILENT
from actseq.storage.run_folder import RunFolder

HEADING = ["clips", "n", "of the kind", "MMD² × 1000", "not ended, %", "one onset"]
STEPS = 9
SHEET_SECONDS = 0.8


def corpus_of(run: str) -> Corpus:
    """The clips that a run was trained on, at the level that it knows."""
    folder = RunFolder.open(run)
    return Corpus(folder.corpus, folder.read_config().corpus.level_dbfs)


def whole(corpus: Corpus, splits: Sequence[str], rate: int) -> list[Excerpt]:
    """All clips of some splits."""
    return [excerpt for split in splits for excerpt in excerpts(corpus, split, rate, None)]


def reconstruct(loaded: LoadedRun, clips: Sequence[Excerpt], corpus: Corpus) -> list[Waveform]:
    """Clips that were encoded, and decoded with their label, at their length."""
    waveforms = [clip.read(corpus) for clip in clips]
    row = {label: k for k, label in enumerate(loaded.codec.autoencoder.labels, 1)}
    latents = [mean for mean, _ in loaded.codec.encode(waveforms)]
    made = loaded.codec.decode(latents, [row.get(clip.label, 0) for clip in clips])
    return [new[: len(old)] for new, old in zip(made, waveforms, strict=True)]


def sets(loaded: LoadedRun, judge: Corpus, kind: str, n: int, seed: int) -> dict[str, ClipSet]:
    """Measured clips: the real ones of the judge, the run's held-out ones reconstructed, and its new ones.

    Args:
        loaded: the run with its prior.
        judge: clips of all kinds.
        kind: kind of the clips of a run without labels.
        n: number of new clips of each label.
        seed: seed of the new clips.
    """
    rate, corpus = loaded.sample_rate, corpus_of(str(loaded.run.path))
    sources = ClipSources(loaded, corpus, load_latents(loaded.run)[0], seed)
    held_out = [clip for clip in whole(corpus, ["test"], rate) if fits(loaded, clip)]
    groups = {
        "real": replace(sources, corpus=judge).real(whole(judge, SPLITS, rate)),
        "reconstructed": sources.real(held_out, lambda _: reconstruct(loaded, held_out, corpus)),
        f"prior {loaded.prior_name}": sources.generated(n * max(1, len(loaded.usable_labels))),
    }
    found = {name: measure_clips(made, rate, None, SILENT)[0] for name, made in groups.items()}
    found = {name: replace(clips, labels=[label or kind for label in clips.labels]) for name, clips in found.items()}
    if judge.store.folder != corpus.store.folder:
        # The numbers are those of the run's own clips, which the judge does not know.
        found["reconstructed"] = replace(found["reconstructed"], clips=np.full(len(held_out), -1))
    return judge_clips(found | {"known": found["real"]}, judge, [])[0]


def fits(loaded: LoadedRun, clip: Excerpt) -> bool:
    """Whether one vector holds the clip."""
    longest = loaded.codec.longest_samples
    return longest is None or clip.samples <= longest


def row(name: str, clips: ClipSet, known: ClipSet, seed: int) -> list[str]:
    """Cells of one line of the table."""
    of_kind = compare_by_label(clips, known, True, seed)
    onsets = [float(np.mean(clips.of_clip.onsets[clips.rows_of(kind)] == 1)) for kind in of_kind]

    def shown(key: str, factor: float, digits: int) -> str:
        return " / ".join(f"{factor * one[key].value:.{digits}f}" if key in one else "–" for one in of_kind.values())

    return [
        name,
        " / ".join(str(one["n"]) for one in of_kind.values()),
        shown("accuracy", 1, 2),
        "–" if name == "real" else shown("mmd_statistics", 1000, 0),
        shown("not_ended", 100, 0),
        " / ".join(f"{share:.2f}" for share in onsets),
    ]


def sheet(path: Path, loaded: LoadedRun, kind: str, seed: int) -> None:
    """Steps between the first and the last held-out clip of a kind, new clips of each label, and held-out clips."""
    rate, corpus = loaded.sample_rate, corpus_of(str(loaded.run.path))
    held_out = [clip for clip in whole(corpus, ["test"], rate) if fits(loaded, clip)]
    own = [clip for clip in held_out if (clip.label or kind) == kind]
    if not own:
        raise SystemExit(f"no held-out clip of the kind {kind}: name another with --kind")
    label = kind if kind in loaded.usable_labels else None
    passage = Through((own[0].read(corpus), own[-1].read(corpus)))
    rows = {
        f"steps, {kind}": loaded.stream(GenerationRequest(n=STEPS, label=label, source=passage)),
        **{
            f"new, {one}": loaded.stream(GenerationRequest(n=STEPS, label=one or None, seed=seed))
            for one in loaded.usable_labels or [""]
        },
    }
    panels = {name: [Panel("", clip.waveform) for clip in collect(made, STEPS)] for name, made in rows.items()}
    panels["held out"] = [Panel(clip.label, clip.read(corpus)) for clip in spread(held_out, STEPS)]
    contact_sheet(path, panels, rate, title=f"{loaded.run.name}, prior {loaded.prior_name}", seconds=SHEET_SECONDS)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure a run, and draw its sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run with latents")
    parser.add_argument("--judge", help="a run of the same sample rate on all kinds; default: RUN itself")
    parser.add_argument("--kind", default="snare", help="kind of a run without labels, and of the steps")
    parser.add_argument("--prior", help="default: that of the run")
    parser.add_argument("--n", type=int, default=100, help="number of new clips of each label")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="key=value, as for generate")
    parser.add_argument("--sheet", type=Path, help="PNG to write")
    given = parser.parse_args(arguments)
    loaded = LoadedRun.open(given.run, prior=given.prior, device="cpu", overrides=given.overrides, need_prior=True)
    judge = corpus_of(given.judge or given.run)
    found = sets(loaded, judge, given.kind, given.n, given.seed)
    kinds = " / ".join(sorted(set(found["real"].labels)))
    print(f"{loaded.run.name}: {kinds}")
    table = [
        HEADING,
        *(row(name, clips, found["known"], given.seed) for name, clips in found.items() if name != "known"),
    ]
    print("\n".join(aligned(table)))
    if given.sheet is not None:
        sheet(given.sheet, loaded, given.kind, given.seed)


if __name__ == "__main__":
    main()
