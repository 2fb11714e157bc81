"""The data of an autoencoder's training: it follows from the seed, and segments fit the network."""

import hashlib
from pathlib import Path

import pytest
import torch

from actseq import audio, pipeline
from actseq.errors import ConfigError

CPU = pipeline.Compute("cpu", 1)

GRAINS = [
    "representation={kind: grain, grain_length: 128, overlap: 0.75, bands: 16}",
    "autoencoder.network={kind: dense, width: 16, energies: true}",
    "autoencoder.bottleneck={kind: adversarial}",
    "train_ae.objective={kind: autoencoding, value_weight: 0, delta_weight: 0, magnitude_weight: 1}",
    "train_ae.regulariser.adjudicator_width=8",
    "train_ae.corruption={kind: rotation, output_fade: 0}",
    "train_ae.steps=6",
]


@pytest.fixture
def sounds(data_dir: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "sounds"
    folder.mkdir()
    for path in audio.find(data_dir / "digits_fsdd")[::180]:
        (folder / path.name).symlink_to(path)
    return folder


def weights(run: Path) -> str:
    return hashlib.sha256((run / "autoencoder" / "model.safetensors").read_bytes()).hexdigest()


def test_an_adversarial_training_repeats_whatever_was_drawn_before(sounds: Path, tmp_path: Path) -> None:
    made = []
    for k in range(2):
        torch.manual_seed(k)
        pipeline.train_ae(sounds, "smoke", run=str(tmp_path / f"run{k}"), overrides=GRAINS, compute=CPU)
        made.append(weights(tmp_path / f"run{k}"))
    assert made[0] == made[1]
    pipeline.train_ae(sounds, "smoke", run=str(tmp_path / "other"), overrides=[*GRAINS, "seed=1"], compute=CPU)
    assert weights(tmp_path / "other") != made[0]


def test_segments_of_one_frame_are_refused_for_a_network_that_looks_at_several(sounds: Path, tmp_path: Path) -> None:
    short = [*GRAINS, "train_ae.segment_seconds=0.001"]
    pipeline.train_ae(sounds, "smoke", run=str(tmp_path / "dense"), overrides=short, compute=CPU)
    several = [*short, "autoencoder.network={kind: recurrent, width: 8}"]
    with pytest.raises(ConfigError, match=r"a training segment of 0\.001 s is a single frame, and network recurrent"):
        pipeline.train_ae(sounds, "smoke", run=str(tmp_path / "several"), overrides=several, compute=CPU)
