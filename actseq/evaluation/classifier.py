"""A small classifier of clips by label: it measures whether a generated clip has the requested label.

It is trained in equal parts on real clips and on the same clips through the run's codec, with and without its
autoencoder, so that its decision does not depend on the vocoder. Clips are brought to the same level first.

Sets of clips are compared in its embedding, 64 values per clip.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from actseq import units
from actseq.arrays import Waveform
from actseq.config import TrainingConfig
from actseq.data.corpus import Corpus
from actseq.data.excerpts import Excerpt, excerpts, spread
from actseq.evaluation.clip_features import BANDS, analysis
from actseq.inference.codec import BATCH_FRAMES, Codec, in_batches
from actseq.modules.convnext import ConvNeXtBlock, run_blocks
from actseq.modules.frames import frame_mask
from actseq.objectives.base import Batch, Loss
from actseq.progress import Reporter
from actseq.storage.artifacts import Artifact, read_json, write_artifact, write_json
from actseq.storage.run_folder import RunFolder
from actseq.training.conduct import Conduct
from actseq.training.loop import train

STEPS = 800
BATCH = (12, 48)
"""Fewest and most clips of a training step; within these bounds it has `BATCH_SECONDS` of sound."""
BATCH_SECONDS = 25.0
TRAINING: dict[str, Any] = {
    "objective": {"kind": "classification"},
    "batch_size": BATCH[1],
    "learning_rate": 2e-3,
    "final_learning_rate": 1e-5,
    "weight_decay": 0.05,
    "ema": 0.98,
    "validations": 10,
}
SECONDS = 2.0
"""Longer clips are cut into pieces of this length for training."""
MOST_SECONDS = 1200.0
"""Most sound used for training, evenly spread over the training clips."""
WAYS = ("real", "copy synthesis", "reconstructed")
RMS = 0.1
SHIFT_SECONDS = 0.1
GAIN_DB = 6.0
NOISE_DB = (-60.0, -15.0)
"""White noise relative to the clip's RMS."""
WIDTH, INNER, BLOCKS, EMBEDDING = 96, 192, 3, 64


@dataclass(frozen=True)
class ClassifierOutput:
    """Output of a classifier.

    Attributes:
        probabilities: probability of every label.
        embedding: values from which the probabilities are computed.
    """

    probabilities: Float[np.ndarray, "clips labels"]
    embedding: Float[np.ndarray, "clips dims"]


class Classifier(nn.Module):
    """ConvNeXt blocks over a mel spectrogram, then means and standard deviations over time.

    Args:
        sample_rate: Hz.
        labels: names of the classes.
        dropout: fraction of values dropped before each of the last two layers in training.

    Source of the pooling: Snyder et al., X-vectors: robust DNN embeddings for speaker recognition (2018).
    """

    def __init__(self, sample_rate: int, labels: list[str], *, dropout: float = 0.3) -> None:
        super().__init__()
        self.mel, self.labels = analysis(sample_rate), labels
        self.stem = nn.Linear(BANDS, WIDTH)
        self.blocks = nn.ModuleList(ConvNeXtBlock(WIDTH, INNER) for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(WIDTH)
        self.embed, self.decide = nn.Linear(2 * WIDTH, EMBEDDING), nn.Linear(EMBEDDING, len(labels))
        self.dropout = nn.Dropout(dropout)

    def embedding(
        self, waveform: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch dims"]:
        """Embedding of clips at an RMS of 0.1."""
        features = self.mel.analyse(waveform, lengths)
        levels = (features.values.transpose(1, 2) - math.log(self.mel.floor)) / 4 - 1
        mask = frame_mask(features.lengths, levels.shape[1])[:, :, None].to(levels.dtype)
        x = self.norm(run_blocks(self.blocks, self.stem(levels), mask))
        frames = mask.sum(1)
        mean = (x * mask).sum(1) / frames
        variance = ((x - mean[:, None]).square() * mask).sum(1) / frames
        out: Tensor = self.embed(self.dropout(torch.cat([mean, (variance + 1e-5).sqrt()], dim=1)))
        return out

    def logits(self, embedding: Float[Tensor, "batch dims"]) -> Float[Tensor, "batch labels"]:
        """Logits of every label."""
        out: Tensor = self.decide(self.dropout(F.gelu(embedding)))
        return out

    @torch.inference_mode()
    def classify(self, waveforms: list[Waveform]) -> ClassifierOutput:
        """Label probabilities and embedding of clips of at least one sample each, at any level."""
        device = self.stem.weight.device
        embedding = np.zeros((len(waveforms), EMBEDDING))
        probabilities = np.zeros((len(waveforms), len(self.labels)))
        order = sorted(range(len(waveforms)), key=lambda i: len(waveforms[i]))
        frames = [units.n_frames(len(waveforms[i]), self.mel.hop_length) for i in order]
        for group in in_batches(frames, BATCH_FRAMES):
            chosen = [order[i] for i in group]
            padded, lengths = _padded([_at_level(waveforms[i]) for i in chosen])
            found = self.embedding(torch.from_numpy(padded).to(device), torch.from_numpy(lengths).to(device))
            embedding[chosen] = found.double().cpu().numpy()
            probabilities[chosen] = self.logits(found).softmax(dim=1).double().cpu().numpy()
        return ClassifierOutput(probabilities, embedding)


class Classification(nn.Module):
    """Cross-entropy of the label. Batches hold `waveform (batch, samples)`, `lengths` and `label (batch,)`."""

    monitor = "loss"

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def exported(self) -> nn.Module:
        """The model."""
        return self.model

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """One group with all parameters."""
        return {"classifier": list(self.model.parameters())}

    def _measure(self, batch: Batch) -> dict[str, Tensor]:
        data = batch.data
        logits = self.model.logits(self.model.embedding(data["waveform"], data["lengths"]))
        return {
            "loss": F.cross_entropy(logits, data["label"]),
            "accuracy": (logits.argmax(1) == data["label"]).float().mean(),
        }

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """The loss."""
        figures = self._measure(batch)
        return {"classifier": Loss(figures["loss"], {name: value.detach() for name, value in figures.items()})}

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Loss and accuracy."""
        return self._measure(batch)


@dataclass(frozen=True)
class Clips:
    """Clips in every version (see `WAYS`), with the indices of their labels."""

    ways: dict[str, list[Waveform]]
    label: Int[np.ndarray, " clips"]


@dataclass(frozen=True)
class AugmentedClips:
    """Random clips for training: labels and versions in equal parts, shifted in time, with random level and noise."""

    clips: Clips
    sample_rate: int
    seed: int

    @cached_property
    def _of_label(self) -> list[NDArray[np.int64]]:
        return [np.flatnonzero(self.clips.label == label) for label in np.unique(self.clips.label)]

    @cached_property
    def _size(self) -> int:
        seconds = np.mean([len(waveform) for waveform in self.clips.ways["real"]]) / self.sample_rate
        return int(np.clip(BATCH_SECONDS / seconds, *BATCH))

    def batch(self, step: int, rank: int = 0) -> Mapping[str, NDArray[Any]]:
        """A pure function of (seed, step, rank)."""
        rng = np.random.default_rng([self.seed, step, rank])
        chosen, waveforms = [], []
        for _ in range(self._size):
            index = int(rng.choice(self._of_label[rng.integers(len(self._of_label))]))
            waveform = _at_level(self.clips.ways[WAYS[rng.integers(len(WAYS))]][index])
            waveform = np.pad(waveform, rng.integers(units.seconds_to_samples(SHIFT_SECONDS, self.sample_rate), size=2))
            noise = RMS * units.db_to_amplitude(rng.uniform(*NOISE_DB)) * rng.standard_normal(len(waveform))
            gain = units.db_to_amplitude(rng.uniform(-GAIN_DB, GAIN_DB))
            waveforms.append((gain * (waveform + noise)).astype(np.float32))
            chosen.append(index)
        return _batch(waveforms, self.clips.label[chosen])


@dataclass(frozen=True)
class EvaluationBatches:
    """All clips, real and reconstructed, unchanged: batch k of n has every n-th clip."""

    clips: Clips
    n: int

    def batch(self, step: int, rank: int = 0) -> Mapping[str, NDArray[Any]]:
        """A pure function of the step."""
        chosen = np.arange(step, len(self.clips.label), self.n)
        waveforms = [_at_level(self.clips.ways[way][i]) for way in ("real", "reconstructed") for i in chosen]
        return _batch(waveforms, np.tile(self.clips.label[chosen], 2))


def trained_classifier(
    run: RunFolder,
    codec: Codec,
    corpus: Corpus,
    inputs: Mapping[str, Any],
    reporter: Reporter,
    *,
    clips: Collection[int] | None = None,
    steps: int = STEPS,
    folder: Path | None = None,
) -> tuple[Classifier, dict[str, Any]]:
    """The classifier of a run's clips, trained unless the run already has one that was made from the same inputs.

    Args:
        run: the run, which keeps the classifier.
        codec: codec of the run.
        corpus: corpus of the run, with two labels or more.
        inputs: fingerprints of corpus, autoencoder and vocoder.
        reporter: receives the progress.
        clips: indices of the training clips to learn from; None: all. `inputs` must tell apart different choices.
        steps: number of training steps.
        folder: where the classifier is kept, a folder of the run; None: `classifier/`.

    Returns:
        The classifier, and its accuracy on validation clips in each version.
    """
    folder = run.path / "classifier" if folder is None else folder
    labels = [label for label in corpus.labels if label]
    settings = {**inputs, "steps": steps}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Classifier(codec.sample_rate, labels)
    with run.lock(folder):
        made = folder / "settings.json"
        if not made.is_file() or read_json(made) != settings:
            for path in (folder / "checkpoints", folder / "model.json", folder / "metrics.csv", folder / "plan.json"):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            write_json(made, settings)
        if not (folder / "model.json").is_file():
            found = {split: _labelled(corpus, split, codec.sample_rate, clips) for split in ("train", "validation")}
            _train(folder, codec, corpus, model, settings, found, reporter)
        run.seal(folder)
        artifact = Artifact.read(folder, f"actseq evaluate {run.argument} --prior NAME")
        model.load_state_dict(artifact.weights())
    return model.to(codec.device).eval(), artifact.meta["figures"]


def _train(
    folder: Path,
    codec: Codec,
    corpus: Corpus,
    model: Classifier,
    settings: Mapping[str, Any],
    found: Mapping[str, list[Excerpt]],
    reporter: Reporter,
) -> None:
    reporter.begin("clips for the classifier", sum(map(len, found.values())), unit="clips")
    clips, done = {}, 0
    for split, chosen in found.items():
        clips[split] = _in_all_ways(codec, corpus, chosen, model.labels, reporter, done)
        done += len(chosen)
    reporter.end()
    n_batches = min(8, len(found["validation"]))
    config = TrainingConfig.model_validate(
        TRAINING | {"steps": settings["steps"], "validation_batches": max(1, n_batches)}
    )
    outcome = train(
        Classification(model),
        (
            AugmentedClips(clips["train"], codec.sample_rate, 0),
            EvaluationBatches(clips["validation"], n_batches) if n_batches else None,
        ),
        config,
        folder,
        name="classifier",
        seed=0,
        conduct=Conduct(codec.device, reporter),
    )
    model.load_state_dict(outcome.tensors)
    model.eval()
    outputs = (
        {way: model.classify(waveforms) for way, waveforms in clips["validation"].ways.items()} if n_batches else {}
    )
    write_artifact(
        folder,
        outcome.tensors,
        {
            "kind": "classifier",
            "labels": model.labels,
            "inputs": dict(settings),
            "total_steps": outcome.total_steps,
            "best_step": outcome.best_step,
            "figures": {
                way: float((made.probabilities.argmax(axis=1) == clips["validation"].label).mean())
                for way, made in outputs.items()
            },
        },
    )


def _labelled(corpus: Corpus, split: str, sample_rate: int, clips: Collection[int] | None) -> list[Excerpt]:
    """Pieces of clips with a label, those of the training from `clips`; evenly spread where there are too many."""
    found = [excerpt for excerpt in excerpts(corpus, split, sample_rate, SECONDS) if excerpt.label]
    if split == "train" and clips is not None:
        found = [excerpt for excerpt in found if excerpt.index in clips]
    share = MOST_SECONDS * sample_rate / max(1, sum(excerpt.samples for excerpt in found))
    return spread(found, round(min(share, 1.0) * len(found)))


def _in_all_ways(
    codec: Codec, corpus: Corpus, chosen: list[Excerpt], labels: list[str], reporter: Reporter, done: int
) -> Clips:
    """Clips unchanged and through the codec."""
    chosen = sorted(chosen, key=lambda excerpt: excerpt.samples)
    hop = codec.representation.hop_length
    ways: dict[str, list[Waveform]] = {way: [] for way in WAYS}
    for group in in_batches([units.n_frames(excerpt.samples, hop) for excerpt in chosen], BATCH_FRAMES):
        waveforms = [chosen[i].read(corpus) for i in group]
        copies = codec.synthesise(codec.analyse(waveforms))
        ways["real"] += waveforms
        ways["copy synthesis"] += [new[: len(old)] for new, old in zip(copies, waveforms, strict=True)]
        ways["reconstructed"] += codec.reconstruct(waveforms)
        reporter.advance(done + group[-1] + 1)
    return Clips(ways, np.array([labels.index(excerpt.label) for excerpt in chosen], dtype=np.int64))


def _at_level(waveform: Waveform) -> Waveform:
    """The waveform at an RMS of 0.1; silence is unchanged."""
    rms = float(np.sqrt(np.square(waveform, dtype=np.float64).mean()))
    return waveform * np.float32(RMS / rms) if rms else waveform


def _padded(waveforms: list[Waveform]) -> tuple[Float[np.ndarray, "batch samples"], Int[np.ndarray, " batch"]]:
    lengths = np.array([len(waveform) for waveform in waveforms])
    padded = np.zeros((len(waveforms), int(lengths.max())), dtype=np.float32)
    for row, waveform in zip(padded, waveforms, strict=True):
        row[: len(waveform)] = waveform
    return padded, lengths


def _batch(waveforms: list[Waveform], label: Int[np.ndarray, " batch"]) -> Mapping[str, NDArray[Any]]:
    padded, lengths = _padded(waveforms)
    return {"waveform": padded, "lengths": lengths, "label": label}
