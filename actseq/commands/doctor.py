"""`doctor`: what this installation can do, and how to mend what does not work."""

from __future__ import annotations

from typing import Any

from actseq.errors import ActseqError


def doctor() -> dict[str, Any]:
    """What this installation can do, and how to mend what does not work."""
    from actseq.storage.run_folder import versions

    result: dict[str, Any] = {"versions": versions(), "devices": {}, "audio": {}, "problems": []}
    problems: list[str] = result["problems"]
    try:
        import torch

        result["devices"] = {
            "cpu": f"{torch.get_num_threads()} threads",
            "cuda": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "not available",
            "mps": "available" if torch.backends.mps.is_available() else "not available",
        }
    except (ImportError, OSError) as error:
        problems.append(f"torch does not load ({error}); pip install 'torch>=2.11,<2.15'")
    try:
        import soundfile

        result["audio"] = {
            "libsndfile": soundfile.__libsndfile_version__,
            "formats": sorted(soundfile.available_formats()),
        }
    except (ImportError, OSError) as error:
        problems.append(
            f"soundfile does not load ({error}); pip install soundfile, and on some systems libsndfile itself"
        )
    try:
        from actseq.vocoders.phase import compile_loops

        result["phase vocoder"] = f"its compiled loops are ready, {compile_loops():.1f} s"
    except (ImportError, OSError, RuntimeError) as error:
        problems.append(f"the phase vocoder does not run ({error}); pip install --force-reinstall numba")
    try:
        from actseq.vocoders.griffin_lim import load_griffinlim

        load_griffinlim()
        result["torchaudio"] = "loads"
    except (ActseqError, ImportError, OSError) as error:
        result["torchaudio"] = "does not load"
        problems.append(str(error))
    return result
