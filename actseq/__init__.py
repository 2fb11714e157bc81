"""actseq: learn from a folder of sounds and make new ones.

    import actseq
    run = actseq.load_run("drumkit-drumkit")
    waveforms = run.generate(n=4, label="snare", seed=1)

Importing this package imports neither torch nor anything else that is slow; the first call does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from actseq.inference.loaded_run import LoadedRun

__version__: str
__all__ = ["__version__", "load_run"]


def __getattr__(name: str) -> Any:
    if name != "__version__":
        raise AttributeError(f"module {__name__} has no attribute {name}")
    # Costs more than all the rest of this import.
    from importlib.metadata import version

    return version("actseq")


def load_run(run: str | Path, *, prior: str | None = None, device: str = "auto") -> LoadedRun:
    """Open a trained run for use in Python.

    Args:
        run: a name under `runs/`, a path, or `voice:NAME`.
        prior: name of the prior; None takes `default`, or the only one, if there is one.
        device: `auto`, `cpu`, `cuda`, `mps`.

    Raises:
        ArtifactError: the run is missing, unfinished or damaged.
    """
    from actseq.inference.loaded_run import LoadedRun

    return LoadedRun.open(run, prior=prior, device=device)
