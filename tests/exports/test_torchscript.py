"""The file for nn~: its methods keep the protocol, and a stream computes what the run computes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import members
import numpy as np
import pytest
import torch

import actseq
from actseq import pipeline
from actseq.errors import ArtifactError, ConfigError
from actseq.exports import torchscript
from actseq.vocoders.base import synthesise
from actseq.vocoders.istft import Istft

DRUMS = Path(__file__).parents[1] / "old_runs" / "drums"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("nn") / "drums"
    # In a process of its own: TorchScript cannot read functions whose shapes `tests/conftest.py` has checked.
    command = [sys.executable, "-m", "actseq", "export", str(DRUMS), "--to", "torchscript"]
    done = subprocess.run([*command, "--out", str(folder), "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), folder / "drums.ts"


@pytest.fixture
def model(exported: tuple[dict[str, Any], Path]) -> Any:
    """Loaded for each test: it carries a state."""
    return torch.jit.load(str(exported[1]))


def test_the_export_says_how_far_it_is_from_the_run(exported: tuple[dict[str, Any], Path]) -> None:
    found, path = exported
    assert found["files"] == [path.name]
    assert found["parity"]["latents"] < 1e-4
    assert found["parity"]["features"] < 1e-4
    assert 0 < found["parity"]["sound in dB"] < 3
    assert f"give {found['folder']}/{found['files'][0]} to" in pipeline.export_lines(found)[0]
    assert found["latency"]["encode"] > 0 < found["latency"]["decode"]


def test_methods_take_and_give_what_their_parameters_say(model: Any) -> None:
    assert model.get_methods() == ["encode", "decode", "generate"]
    for name in model.get_methods():
        channels, ratio, made, out_ratio = getattr(model, f"{name}_params").tolist()
        for samples in (1024, 2048):
            with torch.inference_mode():
                out = getattr(model, name)(torch.rand(1, channels, samples // ratio))
            assert out.shape == (1, made, samples // out_ratio)
            assert out.dtype == torch.float32
            assert bool(out.isfinite().all())


def test_attributes_are_set_and_wrong_ones_refused(model: Any) -> None:
    assert model.get_attributes() == ["label", "temperature"]
    assert model.label_params.tolist() == [3]
    assert model.temperature_params.tolist() == [2]
    label = json.loads((DRUMS / "priors" / "default" / "model.json").read_text())["labels"][0]
    assert model.set_label(label) == 0
    assert model.get_label() == label
    assert model.set_label("no such label") == -1
    assert model.get_label() == label
    assert model.set_temperature(0.5) == 0
    assert model.get_temperature() == 0.5
    assert model.set_temperature(-1.0) == -1


def test_a_stream_does_not_depend_on_the_size_of_its_blocks(exported: tuple[dict[str, Any], Path]) -> None:
    latents = torch.randn(1, int(torch.jit.load(str(exported[1])).decode_params[0]), 24)
    made = []
    for size in (1, 3, 24):
        model = torch.jit.load(str(exported[1]))
        with torch.inference_mode():
            made.append(torch.cat([model.encode(model.decode(part)) for part in torch.split(latents, size, 2)], 2))
    # Magnitudes pass through Griffin-Lim block by block, so only the lengths are equal.
    assert len({one.shape for one in made}) == 1


def test_a_gate_begins_a_clip_and_silence_stays_silent(model: Any) -> None:
    ratio = int(model.generate_params[1])
    with torch.inference_mode():
        torch.manual_seed(0)
        quiet = torch.cat([model.generate(torch.zeros(1, 1, 8)) for _ in range(4)], 2)
        gate = torch.zeros(1, 1, 32)
        gate[..., 3] = 1
        loud = model.generate(gate)
    assert quiet.shape[2] == 32 * ratio
    assert float(quiet.abs().max()) < 0.01 < float(loud.abs().max())


def test_a_clip_ends_at_the_bounds_of_the_run(model: Any) -> None:
    assert 1 <= model.shortest <= model.longest
    held = torch.ones(1, 1, 1)
    begun: list[int] = []
    with torch.inference_mode():
        model.shortest = model.longest = 3
        for frame in range(12):
            model.generate(held)
            if model.age <= 1 and (not begun or frame - begun[-1] > 1):
                begun.append(frame)
    # Three frames, and the frame in which the clip has ended.
    assert np.diff(begun).tolist() == [4, 4]


def test_complex_spectra_become_the_sound_of_the_run() -> None:
    analysis = members.representation("stft")
    sound = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 64 * 40)).astype(np.float32))
    features = analysis.analyse(sound, torch.tensor([64 * 40]))
    stream = torchscript.OverlapStream(torchscript.PhaseStream(analysis.window, 64, True))
    spectra = analysis.spectrum(features.values)[0]
    made = torch.cat([stream(part) for part in torch.split(spectra, 3, 1)])
    ours = synthesise(Istft(analysis), features)[0]
    late = 128
    assert float((made[late : 64 * 30] - ours[: 64 * 30 - late])[128:].abs().max()) < 1e-4


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    loaded = actseq.load_run(DRUMS, device="cpu")
    loaded.prior = None
    with pytest.raises(ConfigError, match="cannot be exported to TorchScript"):
        torchscript.check(loaded)
    with pytest.raises(ArtifactError, match="no prior 'no-such'"):
        pipeline.export(DRUMS, "torchscript", prior="no-such", out=tmp_path / "new")
    assert not (tmp_path / "new").exists()
