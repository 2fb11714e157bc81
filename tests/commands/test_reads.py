"""How often a command reads a file, lists a folder and parses the configuration."""

import builtins
import io
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actseq import pipeline
from actseq.config import Config
from actseq.data.drumkit import write_drumkit
from actseq.inference.request import FromPrior, GenerationRequest

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


@pytest.mark.parametrize("prior", [None, "iid"])
def test_generate_reads_each_model_once_and_parses_the_configuration_once(
    sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prior: str | None
) -> None:
    run = tmp_path / "run"
    pipeline.run_all(
        sounds,
        "smoke",
        run=str(run),
        vocoder=True,
        overrides=["train_ae.steps=2", "train_prior.steps=2", "train_vocoder.steps=2"],
        compute=USE,
    )
    read: Counter[Path] = Counter()
    for module in (io, builtins):
        count_paths(monkeypatch, module, "open", read)
    parsed: list[str] = []
    parse = Config.model_validate
    monkeypatch.setattr(Config, "model_validate", lambda tree: (parsed.append("whole"), parse(tree))[1])
    pipeline.generate(
        str(run),
        GenerationRequest(FromPrior(prior), seconds=0.1, controls={"temperature": 0.5}),
        overrides=["vocoder.kind=trained", "generate.max_seconds=1"],
        compute=USE,
    )
    models = [run / "autoencoder", run / "vocoders" / "default", *([] if prior else [run / "priors" / "default"])]
    assert {path: n for path, n in read.items() if path.name == "model.json"} == {
        folder / "model.json": 1 for folder in models
    }
    assert parsed == ["whole"]
