"""Modules of other packages whose loops numba compiles and keeps on disk."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from importlib import import_module
from types import ModuleType


def import_cached(name: str) -> ModuleType:
    """Import a module, such as one of librosa, that numba refuses where it finds no folder for its cache.

    Without such a folder, in a container for example, loops are kept in a temporary one until this process ends.
    """
    try:
        return import_module(name)
    except RuntimeError:
        from numba import config  # type: ignore[import-untyped, unused-ignore]

        folder = tempfile.mkdtemp(prefix="actseq-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        config.CACHE_DIR = folder  # type: ignore[attr-defined, unused-ignore]
        return import_module(name)
