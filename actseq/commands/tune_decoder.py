"""Tune the decoder on what a prior makes: the last part of `train-prior`, where the configuration asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actseq import units
from actseq.commands.common import NO_BUDGET, Compute
from actseq.config import Config, DecoderTuningConfig, PriorTrainingConfig, TrainingConfig
from actseq.data.corpus import Corpus
from actseq.data.latents import DecoderSource, LatentSequences, SequenceSource
from actseq.errors import ArtifactError
from actseq.inference.loading import DECODER, load_codec
from actseq.objectives.decoder_tuning import DecoderTuning
from actseq.priors.base import Remakes
from actseq.priors.labels import LabelledPrior
from actseq.progress import Reporter
from actseq.representations.base import margin_hops
from actseq.storage.artifacts import read_json
from actseq.storage.run_folder import RunFolder
from actseq.training.conduct import Budget, Conduct
from actseq.training.loop import train

VALIDATIONS = 5
VALIDATION_BATCHES = 2
SHORTEST_SECONDS = 15.0
"""A decoder that would have less time than this is not tuned: its preparation alone takes seconds."""


def prior_budget(section: TrainingConfig, tuning: DecoderTuningConfig | None) -> TrainingConfig:
    """The budget of the prior itself: its minutes without those of the decoder."""
    return section.model_copy(update={"minutes": without_decoder(section.minutes, tuning)})


def without_decoder(minutes: float | None, tuning: DecoderTuningConfig | None) -> float | None:
    """The part of some minutes that the prior itself has."""
    return minutes if minutes is None or tuning is None else minutes / (1 + tuning.share)


def tuning_in_time(
    section: PriorTrainingConfig, budget: Budget, folder: Path, reporter: Reporter
) -> DecoderTuningConfig | None:
    """How the decoder is tuned, or None: that was not asked for, or the minutes leave it too little time.

    However little that is, a decoder that was tuned before is tuned again, and so is one in a plan that is repeated.
    """
    tuning, minutes = section.decoder, section.minutes if budget.more is None else budget.more
    if tuning is None or minutes is None:
        return tuning
    seconds = 60 * (minutes - minutes / (1 + tuning.share))
    plan = _decoder_plan(budget)
    if seconds >= SHORTEST_SECONDS or (folder / DECODER).is_file() or (plan is not None and plan.is_file()):
        return tuning
    reporter.say(
        f"the decoder is not tuned: of {units.duration(60 * minutes)} it would have {units.duration(seconds)}, and "
        f"needs {units.duration(SHORTEST_SECONDS)}"
    )
    return None


def _decoder_plan(budget: Budget) -> Path | None:
    """The plan of the decoder that belongs to the plan of a prior."""
    return None if budget.plan is None else budget.plan.parent / "decoder" / "plan.json"


@dataclass(frozen=True)
class TrainedPrior:
    """A prior that has just been trained.

    Attributes:
        model: the prior.
        latents: the latents that it learned from.
        total_steps: number of steps of its training.
        seed: seed of its training.
        folder: its folder; that of the tuning is `decoder` in it.
    """

    model: LabelledPrior[Any]
    latents: LatentSequences
    total_steps: int
    seed: int
    folder: Path


def tune_decoder(
    run: RunFolder, config: Config, trained: TrainedPrior, compute: Compute, budget: Budget = NO_BUDGET
) -> dict[str, Tensor]:
    """The tensors of the autoencoder that decoding uses, tuned on what a trained prior makes.

    With a strength under 1 they are a weighted mean of those before and after the tuning, so that spectra are smoothed
    less. Source: Wortsman et al., Robust fine-tuning of zero-shot models (2022).

    Args:
        run: the run.
        config: the complete configuration, with `train_prior.decoder`.
        trained: the prior.
        compute: where to compute.
        budget: that of the prior; the plan of its decoder is in the folder `decoder` beside its own.

    Raises:
        ArtifactError: the corpus is not the one that the autoencoder was trained on.
        TrainingError: the training cannot go on.
    """
    tuning = config.train_prior.decoder
    assert tuning is not None
    model, latents, seed = trained.model, trained.latents, trained.seed
    assert isinstance(model.prior, Remakes)
    begun = Budget().begin().begun
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
    margin = margin_hops(codec.representation) * hop

    def source(split: str) -> DecoderSource:
        section = config.train_prior
        sizes = section.frames, tuning.batch_size
        windows = SequenceSource(
            latents, split, model.labels, *sizes, seed, copies=False, folder_balance=section.folder_balance
        )
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
    before = {name: parameter.detach().cpu().clone() for name, parameter in objective.decoding.items()}
    outcome = train(
        objective,
        (source("train"), source("validation") if latents.indices("validation") else None),
        TrainingConfig.model_validate(
            {
                **_tuning_budget(config.train_prior, tuning, trained.total_steps, budget),
                "batch_size": tuning.batch_size,
                "accumulate": config.train_prior.accumulate,
                "learning_rate": tuning.learning_rate,
                "validations": VALIDATIONS,
                "validation_batches": VALIDATION_BATCHES,
            }
        ),
        trained.folder / "decoder",
        name="decoder tuning",
        seed=seed,
        conduct=Conduct(
            codec.device,
            compute.reporter,
            Budget(begun, _decoder_plan(budget)),
            events=compute.events,
            threads=compute.threads,
        ),
    )
    return {name: torch.lerp(start, outcome.tensors[name].cpu(), tuning.strength) for name, start in before.items()}


def _tuning_budget(
    section: TrainingConfig, tuning: DecoderTuningConfig, total_steps: int, budget: Budget
) -> dict[str, float]:
    """Minutes where those of the prior were given, else steps; both in proportion to those of the prior."""
    minutes = section.minutes if budget.more is None else budget.more
    if minutes is None:
        return {"steps": max(1, round(tuning.share * total_steps))}
    return {"minutes": minutes - minutes / (1 + tuning.share)}
