"""Sounds that an evaluation keeps, so that a report can show what the figures are about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actseq import audio, units
from actseq.arrays import Waveform

if TYPE_CHECKING:
    from actseq.evaluation.fidelity import ShownClip


@dataclass(frozen=True)
class KeptSound:
    """A sound of an evaluation.

    Attributes:
        title: what it is: a label, or the system that made it.
        detail: more about it, such as its error; may be empty.
        waveform: the sound, (samples,).
    """

    title: str
    detail: str
    waveform: Waveform


@dataclass(frozen=True)
class KeptRow:
    """Sounds that are shown next to each other.

    Attributes:
        title: what they have in common.
        detail: why they were chosen; may be empty.
        sounds: the sounds.
    """

    title: str
    detail: str
    sounds: list[KeptSound]


def of_reconstruction(clips: Iterable[ShownClip]) -> Iterable[KeptRow]:
    """A row for each clip: the original, and what each system makes of it with its log-mel L1."""
    for clip in clips:
        errors = {name: f"{error:.2f} dB" for name, error in clip.mel_l1_db.items()}
        sounds = [KeptSound(name, errors.get(name, ""), waveform) for name, waveform in clip.waveforms.items()]
        yield KeptRow(clip.name, clip.why, sounds)


def keep(folder: Path, rows: Iterable[KeptRow], sample_rate: int) -> list[dict[str, Any]]:
    """Write sounds as WAV, in place of those of an earlier evaluation.

    Args:
        folder: created if missing; its files `clip-NN….wav` are replaced, all others stay.
        rows: the sounds.
        sample_rate: their sample rate in Hz.

    Returns:
        The rows as they are stored in the JSON of the evaluation, with the file name of each sound.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("clip-[0-9][0-9]*.*"):
        path.unlink()
    kept: list[dict[str, Any]] = []
    number = 0
    for row in rows:
        sounds = []
        for sound in row.sounds:
            number += 1
            path = folder / f"clip-{number:02d}.wav"
            gain = audio.write(path, sound.waveform, sample_rate)
            turned = [] if gain == 1 else [f"turned down by {-units.amplitude_to_db(gain):.1f} dB so as not to clip"]
            detail = ", ".join([*filter(None, [sound.detail]), *turned])
            sounds.append({"title": sound.title, "detail": detail, "file": path.name})
        kept.append({"title": row.title, "detail": row.detail, "sounds": sounds})
    return kept
