"""Every training meets numbers that are not finite and memory that does not suffice, and does what it promises.

The trainings work on a run of an older version, which is small: see `tests/old_runs`.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import members
import numpy as np
import pytest

from actseq import pipeline, registry
from actseq.data.corpus import Corpus
from actseq.data.latents import LatentSequences
from actseq.errors import TrainingError
from actseq.objectives.base import Batch
from actseq.objectives.decoder_tuning import DecoderTuning
from actseq.progress import Silent
from actseq.storage.artifacts import load_tensors
from actseq.training.trainer import Trainer

OLD = Path(__file__).parents[1] / "old_runs"
STEPS, ROWS = 8, 4
SHORT = {"steps": STEPS, "batch_size": ROWS, "validations": 2, "validation_batches": 1, "patience": None}


class Listener(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, text: str) -> None:
        self.lines.append(text)


class Training:
    """A training of the small run.

    Args:
        stage: what is trained.
        settings: what the network and others are.
    """

    def __init__(self, stage: str, *settings: str) -> None:
        self.stage = stage
        section = {"train-ae": "train_ae", "train-prior": "train_prior", "train-vocoder": "train_vocoder"}[stage]
        given = {name: json.dumps(value) for name, value in SHORT.items()}
        self.settings = [*(f"{section}.{name}={value}" for name, value in given.items()), *settings]

    def __call__(self, folder: Path, listener: Listener) -> Path:
        """Train; the folder of the training."""
        use: dict[str, Any] = {"overrides": self.settings, "compute": pipeline.Compute("cpu", 1, listener)}
        if self.stage == "train-ae":
            pipeline.train_ae(folder / "sounds", "smoke", run=str(folder / "new"), **use)
            return folder / "new" / "autoencoder"
        if self.stage == "train-prior":
            pipeline.train_prior(folder / "drums", name="new", **use)
            return folder / "drums" / "priors" / "new"
        pipeline.train_vocoder(folder / "drums", name="new", **use)
        return folder / "drums" / "vocoders" / "new"


def member(kind: str, options: dict[str, Any]) -> str:
    return json.dumps({"kind": kind, **options})


SMALL = [
    "corpus.validation=0.2",
    "corpus.test=0.2",
    f"representation={member('mel', members.REPRESENTATIONS['mel'])}",
    "autoencoder.latent_dim=4",
    "train_ae.segment_seconds=0.1",
]
TRAININGS = {
    f"ae-{bottleneck}": Training(
        "train-ae",
        *SMALL,
        f"autoencoder.network={member('conv', members.NETWORKS['conv'][0])}",
        f"autoencoder.bottleneck={member(bottleneck, members.BOTTLENECKS[bottleneck])}",
    )
    for bottleneck in registry.BOTTLENECKS
}
CLIP = f"autoencoder.network={member('clip', members.NETWORKS['clip'][0])}"
TRAININGS["ae-clip"] = Training("train-ae", *SMALL, CLIP)
HEADED: list[tuple[str, str | None]] = [("lstm", head) for head in registry.HEADS]
HEADED += [(network, "gaussian") for network in members.SEQUENCE_NETWORKS if network != "lstm"]
HEADED += [(network, None) for network in registry.PRIOR_NETWORKS if network not in members.SEQUENCE_NETWORKS]
TRAININGS |= {
    f"prior-{network}-{head}": Training(
        "train-prior",
        f"prior.network={member(network, members.PRIOR_NETWORKS[network])}",
        f"prior.head={'null' if head is None else member(head, members.HEADS[head])}",
    )
    for network, head in HEADED
}
TRAININGS |= {
    f"vocoder-{network}": Training(
        "train-vocoder",
        f"train_vocoder.network={member(network, members.VOCODER_NETWORKS[network])}",
        *(["train_vocoder.objective={discriminator_width: 2}"] if network == "neural" else []),
    )
    for network in registry.VOCODER_NETWORKS
}
every_training = pytest.mark.parametrize("training", TRAININGS.values(), ids=list(TRAININGS))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    for name in ("sounds", "drums"):
        shutil.copytree(OLD / name, tmp_path / name)
    for path in (tmp_path / "sounds").rglob("*.wav"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return tmp_path


class Poison:
    """From the second step of a training on, what is read of one sound is not a number.

    It is the sound that the first row of the batch of that step is made of.

    Args:
        monkeypatch: changes what reads sounds and latents.
        times: number of batches that it is in; None: it stays.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int | None) -> None:
        self.times, self.met = times, 0
        self.key: str | None = None
        self.whole = Trainer.batch

        def batch(trainer: Trainer, source: Any, step: int, *given: Any) -> Batch:
            if source is trainer.train_source and step == 1 and self.key is None:
                self.key = source.origins(1)[0].partition(" at ")[0]
            found = self.whole(trainer, source, step, *given)
            self.met += any(bool(tensor.isnan().any()) for tensor in found.data.values())
            return found

        monkeypatch.setattr(Trainer, "batch", batch)
        for owner, name, store in ((Corpus, "waveform", "store"), (LatentSequences, "read", "store")):
            monkeypatch.setattr(owner, name, self.spoiling(getattr(owner, name), store))

    def spoiling(self, read: Callable[..., Any], store: str) -> Callable[..., Any]:
        def spoiled(owner: Any, index: int, *given: Any) -> Any:
            found = read(owner, index, *given)
            if self.key is None or (self.times is not None and self.met >= self.times):
                return found
            if getattr(owner, store).records[index].key != self.key:
                return found
            both = found if isinstance(found, tuple) else (found,)
            broken = tuple(np.full_like(one, np.nan) for one in both)
            return broken if isinstance(found, tuple) else broken[0]

        return spoiled


def changes_of(folder: Path) -> list[dict[str, Any]]:
    return list(json.loads((folder / "plan.json").read_text()).get("changes", []))


@every_training
def test_a_sound_that_gives_no_number_is_named_after_three_tries(
    training: Training, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener, poison = Listener(), Poison(monkeypatch, None)
    with pytest.raises(TrainingError, match=r"became nan at step \d, also after 3 tries") as caught:
        training(small, listener)
    assert poison.key is not None
    assert f"it comes from {poison.key} at " in str(caught.value)
    assert len([line for line in listener.lines if "back to step" in line]) == 3
    assert poison.met >= 4


@every_training
def test_a_retry_and_half_a_batch_lead_to_a_model(
    training: Training, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number that is not finite once, and memory for half a batch."""
    for objective in {*registry.OBJECTIVES.values(), DecoderTuning}:
        monkeypatch.setattr(objective, "losses", limited(objective.losses))  # type: ignore[attr-defined]
    listener, poison = Listener(), Poison(monkeypatch, 1)
    folder = training(small, listener)
    assert poison.met == 1
    assert changes_of(folder) == [{"from_step": 0, "retries": 1, "rate": 0.3, "parts": 2}]
    assert [line for line in listener.lines if f"not enough memory for {ROWS} at a time" in line]
    assert [line for line in listener.lines if "back to step 0, and on with 0.3 of the learning rate" in line]
    tensors = load_tensors(folder / "model.safetensors")
    # Buffers may hold bounds that are infinite.
    assert not any(bool(value.isnan().any()) for value in tensors.values())
    meta = json.loads((folder / "model.json").read_text())
    assert meta["total_steps"] == STEPS
    assert all(np.isfinite(value) for value in meta["figures"].values())


def limited(losses: Callable[[Any, Batch], Any]) -> Callable[[Any, Batch], Any]:
    """The losses of an objective for which memory suffices for two rows."""

    def found(self: Any, batch: Batch) -> Any:
        if len(next(iter(batch.data.values()))) > ROWS // 2:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")
        return losses(self, batch)

    return found


def test_the_tuning_of_a_decoder_is_taken_back_too(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuning = "train_prior.decoder={share: 1.0, batch_size: 4, frames: 4, real: 0.5}"
    network = f"prior.network={member('clip-flow', members.PRIOR_NETWORKS['clip-flow'])}"
    training, losses, met = Training("train-prior", network, "prior.head=null", tuning), DecoderTuning.losses, []

    def once(self: DecoderTuning, batch: Batch) -> Any:
        found = losses(self, batch)
        met.append(1)
        return (
            {name: type(one)(one.total * np.nan, one.figures) for name, one in found.items()} if met == [1] else found
        )

    monkeypatch.setattr(DecoderTuning, "losses", once)
    listener = Listener()
    folder = training(small, listener)
    assert [one["retries"] for one in changes_of(folder / "decoder")] == [1]
    assert not changes_of(folder)
    assert (folder / "decoder.safetensors").is_file()
