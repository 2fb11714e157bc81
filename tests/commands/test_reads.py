"""How often a command reads a file, lists a folder and parses the configuration."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actseq import pipeline
from actseq.data.drumkit import write_drumkit

USE = pipeline.Compute("cpu", 1)


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    folder = tmp_path / "sounds"
    write_drumkit(folder, n_per_kind=10, sample_rate=8000, seed=0)
    return folder


def count_paths(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, counts: Counter[Path]) -> None:
    real: Callable[..., Any] = getattr(module, name)

    def counted(path: Any = ".", *args: Any, **options: Any) -> Any:
        if isinstance(path, str | os.PathLike):
            counts[Path(path)] += 1
        return real(path, *args, **options)

    monkeypatch.setattr(module, name, counted)


def test_train_ae_lists_the_folder_once(sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: Counter[Path] = Counter()
    for name in ("listdir", "scandir"):
        count_paths(monkeypatch, os, name, listed)
    for _ in ("trained", "already trained"):
        listed.clear()
        pipeline.train_ae(sounds, "smoke", run=str(tmp_path / "run"), overrides=["train_ae.steps=2"], compute=USE)
        inside = {path: n for path, n in listed.items() if path.is_relative_to(sounds)}
        assert inside == dict.fromkeys([sounds, *(path for path in sounds.iterdir() if path.is_dir())], 1)
