"""The report of a run: one page that holds everything, its sounds included, and a contact sheet beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import numpy as np

from actseq import units
from actseq.evaluation.sounds import KeptRow
from actseq.inference.loaded_run import LoadedRun
from actseq.pages import run_facts
from actseq.pages.evaluations import ShownEvaluation, evaluations, kept_first_look
from actseq.pages.examples import KINDS, LONGEST, Example, Examples, LabelExamples, make_examples
from actseq.pages.rendering import render
from actseq.pages.sounds import ShownSound
from actseq.plots.contact_sheet import Panel, contact_sheet
from actseq.plots.spectra import FLOOR_DB, LogBands
from actseq.progress import Reporter
from actseq.storage.store import write_file

MOST_MB = 15
"""Largest page; sounds that do not fit are left out and counted."""
EXAMPLE_BYTES, EVALUATION_BYTES = 9_000_000, 4_500_000
"""How much of it the sounds of the examples and those of the evaluations may take."""


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        page: the page.
        sheet: the contact sheet; None where there is nothing to draw.
        size: size of the page in bytes.
        notes: what was left out, and why.
    """

    page: Path
    sheet: Path | None
    size: int
    notes: list[str]


@dataclass(frozen=True)
class ShownRow:
    """Sounds of an evaluation next to each other, on one time axis."""

    title: str
    detail: str
    sounds: list[ShownSound]


@dataclass(frozen=True)
class ShownLabel:
    """Examples of a label: rows of sounds on one time axis; None leaves a place empty.

    Attributes:
        title: the label; empty in a corpus without labels.
        command: the command that makes its generated clips; may be empty.
        rows: one place for each kind of example.
    """

    title: str
    command: str
    rows: list[list[ShownSound | None]]


def write_report(loaded: LoadedRun, folder: Path, n_per_label: int | None, seed: int, reporter: Reporter) -> Report:
    """Make the report of a run and write it into `folder`.

    Args:
        loaded: the run; without a prior nothing is generated.
        folder: folder of `report.html` and `contact-sheet.png`.
        n_per_label: number of clips of each label; None makes about 20 in total.
        seed: seed of the generation.
        reporter: receives the progress.
    """
    run, rate = loaded.run, loaded.sample_rate
    examples = make_examples(loaded, n_per_label, seed, reporter)
    reporter.say("writing the page")
    notes = list(examples.notes)
    labels = _shown_labels(loaded, examples, notes)
    measured = evaluations(run)
    kept = {one.prior: _kept_rows(one, rate, EVALUATION_BYTES // len(measured), notes) for one in measured}
    bands = LogBands.of(rate)
    page = render(
        "report.html",
        run=run.name,
        preset=loaded.config.preset,
        prior=loaded.prior_name if loaded.prior is not None else None,
        corpus=run_facts.corpus_facts(run, rate),
        trainings=run_facts.trainings(run),
        latents=run_facts.latent_facts(run),
        columns=[kind for kind in KINDS if examples.of_kind(kind)],
        labels=labels,
        evaluations=measured,
        first_look=kept_first_look(run, loaded.prior_name) if loaded.prior is not None else None,
        kept=kept,
        notes=notes,
        settings=run_facts.settings(run),
        provenance=run_facts.provenance(run),
        band=(bands.low, bands.high, -FLOOR_DB),
    )
    path = folder / "report.html"
    content = page.encode()
    write_file(path, content)
    return Report(path, _sheet(loaded, examples, folder), len(content), notes)


def _shown_labels(loaded: LoadedRun, examples: Examples, notes: list[str]) -> list[ShownLabel]:
    """The examples as they are shown: first rows of all labels, then second rows, as long as there is room."""
    kinds = [kind for kind in KINDS if examples.of_kind(kind)]
    shown = [ShownLabel(label.label or "", _command(loaded, label), []) for label in examples.labels]
    room, left_out = EXAMPLE_BYTES, 0
    for number in range(max((len(label.rows) for label in examples.labels), default=0)):
        for label, own in zip(examples.labels, shown, strict=True):
            if number >= len(label.rows):
                continue
            row = _example_row(label.rows[number], kinds, loaded.sample_rate)
            size = sum(sound.size for sound in row if sound is not None)
            if size > room:
                left_out += 1
                continue
            room -= size
            own.rows.append(row)
    if left_out:
        notes.append(f"{left_out} rows of examples are left out: the page would be larger than {MOST_MB} MB")
    return [own for own in shown if own.rows]


def _command(loaded: LoadedRun, examples: LabelExamples) -> str:
    """The command that makes the generated clips of a label; empty where there are none."""
    n = sum(one.kind == "generated" for row in examples.rows for one in row)
    label = f" --label {quote(examples.label)}" if examples.label in loaded.usable_labels else ""
    command = f"actseq generate {quote(str(loaded.run.path))} --prior {loaded.prior_name}{label}"
    return f"{command} --n {n} --seed {examples.seed}" if n else ""


def _example_row(row: Sequence[Example], kinds: Sequence[str], rate: int) -> list[ShownSound | None]:
    axis = max(len(one.waveform) for one in row)
    by_kind = {one.kind: ShownSound.of(one.waveform, rate, one.kind, _detail(one), axis) for one in row}
    return [by_kind.get(kind) for kind in kinds]


def _detail(one: Example) -> str:
    """What is said about an example beside its kind."""
    parts = [one.name] if one.kind in ("real", "generated") else []
    if one.cut:
        parts.append(f"first {LONGEST:g} s")
    if one.join is not None:
        parts.append(f"new from {one.join:.2f} s")
    return ", ".join(parts)


def _kept_rows(evaluation: ShownEvaluation, rate: int, room: int, notes: list[str]) -> list[ShownRow]:
    """The sounds that an evaluation kept, as many as fit into `room` bytes."""
    left_out = 0
    rows = []
    for kept in evaluation.sounds:
        fitting = []
        for sound in _kept_sounds(kept, rate):
            if sound.size > room:
                left_out += 1
                continue
            room -= sound.size
            fitting.append(sound)
        if fitting:
            rows.append(ShownRow(kept.title, kept.detail, fitting))
    if left_out:
        of = "the autoencoder" if evaluation.prior is None else f"prior {evaluation.prior}"
        notes.append(f"{left_out} sounds of the evaluation of {of} are left out: the page would be larger than "
                     f"{MOST_MB} MB")  # fmt: skip
    return rows


def _kept_sounds(kept: KeptRow, rate: int) -> list[ShownSound]:
    longest = units.seconds_to_samples(LONGEST, rate)
    axis = min(longest, max(len(sound.waveform) for sound in kept.sounds))
    return [
        ShownSound.of(
            sound.waveform[:longest],
            rate,
            sound.title,
            ", ".join(filter(None, [sound.detail, f"first {LONGEST:g} s" if len(sound.waveform) > longest else ""])),
            axis,
        )
        for sound in kept.sounds
    ]


def _sheet(loaded: LoadedRun, examples: Examples, folder: Path) -> Path | None:
    """The contact sheet of all examples."""
    rate = loaded.sample_rate
    rows = {kind: list(_panels(examples.of_kind(kind))) for kind in KINDS}
    durations = [units.samples_to_seconds(len(panel.waveform), rate) for row in rows.values() for panel in row]
    if not durations:
        return None
    # One long clip would shrink all the others: the axis ends where 90 % of the clips do.
    shown = max(0.1, float(np.percentile(durations, 90)))
    title = loaded.run.name + (f", first {shown:.2g} s of each" if max(durations) > shown else "")
    filled = {name: row for name, row in rows.items() if row}
    return contact_sheet(folder / "contact-sheet.png", filled, rate, title=title, seconds=shown)


def _panels(examples: Iterable[Example]) -> Iterable[Panel]:
    for one in examples:
        yield Panel(one.name, one.waveform, () if one.join is None else (one.join,))
