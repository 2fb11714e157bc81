"""A report of a run: new, real, reconstructed and continued clips on a contact sheet and in one wav."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actseq import audio, units
from actseq.arrays import Waveform
from actseq.data.corpus import Corpus
from actseq.inference.generation import compile_clips
from actseq.inference.loaded_run import LoadedRun
from actseq.plots.contact_sheet import Panel, contact_sheet
from actseq.plots.training_curves import training_curves

CLIPS = 20
REAL_SECONDS = 8.0
"""Longest part of a real clip that is shown."""
CONTINUATIONS = 5


@dataclass(frozen=True)
class Report:
    """Paths of the written files."""

    sheet: Path
    compiled: Path
    curves: list[Path]


def write_report(loaded: LoadedRun, folder: Path, n_per_label: int | None, seed: int) -> Report:
    """Make the report and write it into `folder`.

    Args:
        loaded: a run with a prior.
        folder: folder of `contact-sheet.png`, `all.wav`, training curves, `generated/` and `continued/`.
        n_per_label: number of clips of each label; None makes about 20 in total.
        seed: seed of the generation.
    """
    corpus = Corpus(loaded.run.corpus, loaded.config.corpus.level_dbfs)
    rate = loaded.sample_rate
    labels: list[str | None] = list(loaded.labels[:CLIPS])
    labels = labels or [None]
    each = n_per_label or max(1, CLIPS // len(labels))
    rows: dict[str, list[Panel]] = {"real": [], "reconstructed": [], "generated": [], "continued": []}
    for number, label in enumerate(labels):
        # Each label has its own seed: the same seed would make similar clips of every label.
        own_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        name = (label or "new").replace("/", "-")
        own = _real(corpus, label)[:each]
        for index in own:
            waveform = corpus.waveform(index)[: units.seconds_to_samples(REAL_SECONDS, rate)]
            title = label or Path(corpus.store.records[index].key).stem
            rows["real"].append(Panel(title, waveform))
            rows["reconstructed"].append(Panel(title, loaded.reconstruct(waveform)))
        for k, waveform in enumerate(loaded.generate(each, label=label, seed=own_seed)):
            rows["generated"].append(Panel(f"{name} {k}", waveform))
            _write(folder / "generated" / f"{name}-{k:02d}.wav", waveform, rate)
        if own and len(rows["continued"]) < CONTINUATIONS:
            whole = corpus.waveform(own[0])[: units.seconds_to_samples(REAL_SECONDS, rate)]
            half = whole[: max(1, len(whole) // 2)]
            seconds = units.samples_to_seconds(len(half), rate)
            # As long as the given half, unless the prior ends it earlier: a second event would be confusing.
            bound = max(0.25, seconds)
            made = loaded.generate(1, until_stop=True, max_seconds=bound, label=label, seed_audio=half, seed=own_seed)[
                0
            ]
            rows["continued"].append(Panel(f"{name} + new", made, (seconds,)))
            _write(folder / "continued" / f"{name}.wav", made, rate)
    # One long clip would shrink all the others: the axis ends where 90 % of the clips do.
    durations = [units.samples_to_seconds(len(panel.waveform), rate) for row in rows.values() for panel in row]
    shown = max(0.1, float(np.percentile(durations, 90)))
    title = loaded.run.name + (f", first {shown:.2g} s of each" if max(durations) > shown else "")
    filled = {name: row for name, row in rows.items() if row}
    sheet = contact_sheet(folder / "contact-sheet.png", filled, rate, title=title, seconds=shown)
    compiled = folder / "all.wav"
    _write(compiled, compile_clips([panel.waveform for row in rows.values() for panel in row], rate), rate)
    curves = []
    trained = {"autoencoder": loaded.run.autoencoder}
    if loaded.prior_folder is not None:
        trained[loaded.prior_folder.name] = loaded.prior_folder
    if loaded.vocoder_folder is not None:
        trained[f"vocoder-{loaded.vocoder_folder.name}"] = loaded.vocoder_folder
    for title, model in trained.items():
        if (model / "metrics.csv").is_file():
            curves.append(training_curves(folder / f"{title}.png", model / "metrics.csv", title=title))
    return Report(sheet, compiled, curves)


def _real(corpus: Corpus, label: str | None) -> list[int]:
    """Clips of a label, held-out ones first."""
    ordered = corpus.indices("test") + corpus.indices("validation") + corpus.indices("train")
    return [i for i in ordered if label is None or corpus.store.records[i].extra["label"] == label]


def _write(path: Path, waveform: Waveform, sample_rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    audio.write(path, waveform, sample_rate)
