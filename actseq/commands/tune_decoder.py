"""Tune the decoder on what a prior makes: the last part of `train-prior`, where the configuration asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from actseq import units
from actseq.commands.common import Compute
from actseq.config import Config, DecoderTuningConfig, TrainingConfig
from actseq.data.corpus import Corpus
from actseq.data.latents import DecoderSource, LatentSequences, SequenceSource
from actseq.errors import ArtifactError
from actseq.inference.loading import load_codec
from actseq.objectives.decoder_tuning import DecoderTuning
from actseq.priors.base import Remakes
from actseq.priors.labels import LabelledPrior
from actseq.storage.artifacts import read_json
from actseq.storage.run_folder import RunFolder
from actseq.training.conduct import Conduct
from actseq.training.loop import train

VALIDATIONS = 5
VALIDATION_BATCHES = 2


def prior_budget(section: TrainingConfig, tuning: DecoderTuningConfig | None) -> TrainingConfig:
    """The budget of the prior itself: its minutes without those of the decoder."""
    if tuning is None or section.minutes is None:
        return section
    return section.model_copy(update={"minutes": section.minutes / (1 + tuning.share)})


def tune_decoder(
    run: RunFolder,
    config: Config,
    model: LabelledPrior[Any],
    latents: LatentSequences,
    total_steps: int,
    seed: int,
    folder: Path,
    compute: Compute,
) -> dict[str, Tensor]:
    """The tensors of the autoencoder that decoding uses, tuned on what a trained prior makes.

    Args:
        run: the run.
        config: the complete configuration, with `train_prior.decoder`.
        model: the trained prior.
        latents: the latents that it learned from.
        total_steps: steps that the prior was trained for.
        seed: seed of the training.
        folder: folder of the training's checkpoints and figures.
        compute: where to compute.

    Raises:
        ArtifactError: the corpus is not the one that the autoencoder was trained on.
        TrainingError: the training cannot go on.
    """
    tuning = config.train_prior.decoder
    assert tuning is not None
    assert isinstance(model.prior, Remakes)
    codec, _ = load_codec(run, compute.device, config, vocoder=False)
    marker = run.corpus / "corpus.json"
    if not marker.is_file() or read_json(marker)["fingerprint"] != run.vocoder_inputs(config)["corpus"]:
        raise ArtifactError(
            f"the corpus that the autoencoder of run {run.name} was trained on is not in {run.corpus}, "
            "and the decoder is tuned on its clips",
            action="copy the run again; or --set train_prior.decoder=null leaves the decoder as it is",
        )
    corpus = Corpus(run.corpus, config.corpus.level_dbfs)
    hop = codec.representation.hop_length
    margin = units.n_hops(codec.representation.context_samples, hop) * hop

    def source(split: str) -> DecoderSource:
        frames = config.train_prior.frames
        windows = SequenceSource(latents, split, model.labels, frames, tuning.batch_size, seed, copies=False)
        return DecoderSource(windows, corpus, tuning.frames, codec.samples_per_latent, margin)

    objective = DecoderTuning(
        codec.autoencoder,
        model,
        codec.representation,
        margin,
        tuning.frames,
        real=tuning.real,
        earliest=tuning.earliest,
        latest=tuning.latest,
    )
    outcome = train(
        objective,
        (source("train"), source("validation") if latents.indices("validation") else None),
        TrainingConfig.model_validate(
            {
                "steps": max(1, round(tuning.share * total_steps)),
                "batch_size": tuning.batch_size,
                "learning_rate": tuning.learning_rate,
                "validations": VALIDATIONS,
                "validation_batches": VALIDATION_BATCHES,
            }
        ),
        folder,
        name="decoder for it",
        seed=seed,
        conduct=Conduct(codec.device, compute.reporter),
    )
    return {name: outcome.tensors[name] for name in objective.decoding}
