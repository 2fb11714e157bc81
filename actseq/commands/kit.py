"""`generate --kit`: sounds of every label for a sampler, trimmed, faded and at one peak, with maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from actseq import audio, units
from actseq.arrays import Waveform
from actseq.audio.origin import safe_name
from actseq.audio.samplers import MOST_IN_TURN, Pad, dspreset, keys, sfz
from actseq.audio.writing import replacing
from actseq.commands.clip_writer import Batch, Output
from actseq.commands.outputs import Target, numbered
from actseq.effects import fade
from actseq.errors import AudioError, ConfigError
from actseq.inference.loaded_run import LoadedRun
from actseq.inference.request import FromPrior, GenerationRequest

MAPS = ("kit.sfz", "kit.dspreset")
"""Files of a kit for samplers."""
PEAK_DBFS = -1.0
START_DB, END_DB = -40.0, -60.0
"""A sound of a kit begins and ends at these levels, relative to its peak."""
FADE_IN_SECONDS, FADE_OUT_SECONDS = 0.001, 0.02
CUT_FADE_SECONDS = 0.1
"""Fade of a sound that has not died away where it ends; at most a quarter of the sound."""


def require_empty(folder: Path) -> None:
    """Refuse a folder for a kit that holds something.

    Raises:
        AudioError: the folder is not new and not empty, or is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AudioError(f"{folder} exists and is not empty", "a new or empty folder for the kit", "name another one")


def batches(loaded: LoadedRun, request: GenerationRequest, output: Output) -> list[Batch]:
    """The sounds of a kit, label by label, each label with its key.

    Args:
        loaded: the run.
        request: what is made for each label; with a label, of that one alone.
        output: where the kit goes.

    Raises:
        ConfigError: there are more labels than keys, or more sounds of a label than a sampler takes in turn; or labels
            in time are asked for.
    """
    if request.n > MOST_IN_TURN:
        raise ConfigError(f"--n is {request.n} with --kit", f"at most {MOST_IN_TURN} sounds in turn on a key")
    if request.labels is not None:
        raise ConfigError("--kit and --labels exclude each other: each sound of a kit has one label")
    assert output.kit is not None
    labels: Sequence[str | None] = [request.label]
    if request.label is None and isinstance(request.source, FromPrior) and not request.source.keeps_level:
        labels = loaded.usable_labels or [None]
    found = []
    finish = partial(finished, sample_rate=loaded.sample_rate)
    names = _names([replace(request, label=label).called for label in labels])
    for label, name, key in zip(labels, names, keys(names), strict=True):
        files = [output.kit / f"{one}.{output.format}" for one in numbered(name, request.n, "_")]
        targets = [Target(file, output.keep_dry) for file in files]
        found.append(Batch(replace(request, label=label), targets, finish, {"pad": name, "key": key}))
    return found


def kit_lines(folder: str, keys: Mapping[str, int]) -> list[str]:
    """A kit as lines for a person: the keys of its pads, and what to do with it."""
    return [
        f"keys: {', '.join(f'{name} {key}' for name, key in keys.items())}",
        f"next: open {' or '.join(str(Path(folder) / name) for name in MAPS)} in a sampler",
    ]


def write_maps(folder: Path, made: Sequence[Batch]) -> dict[str, int]:
    """Write the maps of a kit; the key of each pad."""
    pads = [
        Pad(batch.about["pad"], batch.about["key"], tuple(target.sound.name for target in batch.targets))
        for batch in made
    ]
    for name, text in zip(MAPS, (sfz(pads), dspreset(pads)), strict=True):
        with replacing(folder / name) as partial_path:
            partial_path.write_text(text, encoding="utf-8", newline="\n")
    return {pad.name: pad.key for pad in pads}


def finished(waveform: Waveform, sample_rate: int) -> Waveform:
    """A sound without silence at its ends, with short fades there, at the peak of a kit; silence stays as it is."""
    start, stop = audio.trim_bounds(waveform, START_DB)[0], audio.trim_bounds(waveform, END_DB)[1]
    if stop == 0:
        return waveform
    # What fades lies outside the sound where the clip has room for it.
    start = max(0, start - units.seconds_to_samples(FADE_IN_SECONDS, sample_rate))
    kept = waveform[start : stop + units.seconds_to_samples(FADE_OUT_SECONDS, sample_rate)]
    whole = units.samples_to_seconds(len(kept), sample_rate)
    out_seconds = FADE_OUT_SECONDS if stop < len(waveform) else min(CUT_FADE_SECONDS, whole / 4)
    faded = fade(sample_rate, in_seconds=FADE_IN_SECONDS, out_seconds=out_seconds)()(kept)
    peak = float(np.abs(faded).max())
    return faded * np.float32(units.db_to_amplitude(PEAK_DBFS) / peak) if peak else faded


def _names(labels: Sequence[str]) -> list[str]:
    """A name for the files of each label; no two are the same on a disk that ignores case."""
    names: list[str] = []
    for label in labels:
        name = safe_name(label)
        while name.casefold() in (other.casefold() for other in names):
            name += "_"
        names.append(name)
    return names
