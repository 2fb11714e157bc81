"""`demo`: a kit of new sounds from a voice that comes with actseq."""

from __future__ import annotations

import time
from pathlib import Path

from actseq.commands.clip_writer import Output
from actseq.commands.common import AUTO, Compute
from actseq.commands.generate import GenerationResult, generate
from actseq.commands.kit import MAPS
from actseq.inference.request import GenerationRequest
from actseq.storage.run_folder import RunFolder

DEMO = "voice:drumkit"


def demo(*, out: Path | None = None, n: int = 2, seed: int = 0, compute: Compute = AUTO) -> GenerationResult:
    """Generate sounds of every label from the voice `drumkit`, as a kit for a sampler.

    Args:
        out: a new or empty folder for the sounds; None: a new one under `runs/voice-drumkit/generated/`.
        n: number of sounds of each label.
        seed: seed of the generation.
        compute: where to compute, and who is told.

    Raises:
        AudioError: the folder exists and is not empty.
    """
    folder = out or RunFolder.open(DEMO).generated / f"demo-{time.strftime('%Y%m%d-%H%M%S')}"
    return generate(DEMO, GenerationRequest(n=n, seed=seed), Output(kit=folder), compute=compute)


def demo_lines(result: GenerationResult) -> list[str]:
    """The result of `demo` as lines for a person."""
    return [
        f"{len(result.files)} new sounds in {result.folder}, and {' and '.join(MAPS)} for samplers",
        f"next: actseq generate {DEMO} --label snare --n 8",
        "or learn from sounds of your own: actseq run FOLDER",
    ]
