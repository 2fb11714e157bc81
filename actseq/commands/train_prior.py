"""`train-prior`: train a prior, which has a name, on the latents of a run."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from actseq import build, registry
from actseq.commands.common import (
    AUTO,
    NO_BUDGET,
    Compute,
    Result,
    begin_training,
    check_name,
    longer_command,
    refuse_settings,
    trained_result,
    won,
)
from actseq.commands.previews import watch_prior
from actseq.commands.tune_decoder import TrainedPrior, prior_budget, tune_decoder, tuning_in_time, without_decoder
from actseq.config import Config
from actseq.data.latents import LatentSequences, SequenceSource
from actseq.errors import ConfigError
from actseq.evaluation.likelihood import likelihood
from actseq.inference.loading import DECODER, as_trained, load_latents, require_generative, stage_config
from actseq.priors.base import KeepsLengths, KeepsPrecision, KeepsSummaries
from actseq.priors.end_calibration import calibrate
from actseq.priors.labels import LabelledPrior
from actseq.progress import Reporter
from actseq.storage import hashes
from actseq.storage.artifacts import read_json, save_tensors, write_artifact
from actseq.storage.processes import here
from actseq.storage.run_folder import RunFolder
from actseq.training.conduct import Budget, Conduct
from actseq.training.devices import resolve_device
from actseq.training.loop import train


def train_prior(
    run: str | Path,
    *,
    name: str = "default",
    overrides: Iterable[str] = (),
    seed: int | None = None,
    compute: Compute = AUTO,
    budget: Budget = NO_BUDGET,
) -> Result:
    """Train a prior on a run's latents, and tune the decoder on what it makes if the configuration asks for it.

    An interrupted training resumes; a finished one is left alone.

    Args:
        name: name of the prior.
        seed: seed of the training; None: that of the run.
        budget: a plan to repeat, or minutes by which a finished training goes on, with the settings of the prior.

    Raises:
        ConfigError: the name is reserved or malformed, or the prior was started with other settings.
        ArtifactError: the run has no latents, or those of another autoencoder.
        TrainingError: the training cannot go on.
    """
    reporter, budget = compute.reporter, budget.begin()
    more = budget.more is not None
    check_name(name, "prior")
    if name in registry.UNTRAINED_PRIORS:
        raise ConfigError(
            f"'{name}' is the name of a prior that needs no training", action="give the new one another --name"
        )
    opened = RunFolder.open(run)
    opened.require_corpus()
    require_generative(opened)
    config = stage_config(opened, overrides, "train-prior", compute.reporter)
    if more:
        refuse_settings(overrides, seed)
        trained = opened.priors.read(name)
        config, seed = as_trained(config, trained, "train-prior"), int(trained.meta["seed"])
    _require_fitting(opened, config)
    seed = config.seed if seed is None else seed
    latents, latents_meta = load_latents(opened)
    inputs = {"autoencoder": latents_meta["inputs"]["autoencoder"], "latents": latents_meta["fingerprint"]}
    folder = opened.priors.path / name
    sections = {key: config.model_dump(mode="json")[key] for key in ("prior", "train_prior")} | {"seed": seed}
    compute.use_threads()
    with opened.lock(folder):
        if not more and here().first:
            _forget_stale(folder, inputs["autoencoder"], reporter)
        if not begin_training(opened, "prior", folder, sections | inputs, reporter, more=more):
            return _result(opened, name)
        section = config.train_prior
        tuning = tuning_in_time(section, budget, folder, reporter)
        labels, statistics = latents.labels, latents.statistics()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build.build_prior(config, latents.latent_dim, len(statistics.active), labels, timed=latents.timed)
        if isinstance(model.prior, KeepsLengths):
            model.prior.keep_lengths(*latents.known_lengths(labels), len(labels))
        standardiser = model.prior.standardiser
        standardiser.active.copy_(torch.from_numpy(statistics.active))
        standardiser.mean.copy_(torch.from_numpy(statistics.mean))
        standardiser.deviation.copy_(torch.from_numpy(statistics.deviation))
        if isinstance(model.prior, KeepsPrecision):
            model.prior.keep_precision(torch.from_numpy(statistics.posterior / statistics.deviation).float())
        if isinstance(model.prior, KeepsSummaries):
            model.prior.keep_summaries(latents.training_clips(labels), len(labels))
        dead = latents.latent_dim - len(statistics.active)
        if dead:
            reporter.say(f"{dead} of {latents.latent_dim} latent dimensions carry nothing; they are drawn from N(0, 1)")

        def source(split: str) -> SequenceSource:
            sizes = section.frames, section.batch_size
            return SequenceSource(latents, split, labels, *sizes, seed, folder_balance=section.folder_balance)

        validation = source("validation") if latents.indices("validation") else None
        outcome = train(
            build.build_sequence(config, model),
            (source("train"), validation),
            prior_budget(section, tuning),
            folder,
            name=f"prior {name}",
            seed=seed,
            conduct=Conduct(
                resolve_device(compute.device),
                reporter,
                replace(budget, more=without_decoder(budget.more, tuning)),
                watch_prior(opened, config, model, name, compute.device),
                compute.events,
                compute.threads,
            ),
        )
        if more and not won(folder, outcome, f"prior {name}", reporter):
            if here().first:
                opened.seal(folder)
            return _result(opened, name)
        model.load_state_dict(outcome.tensors)
        if calibrate(model.eval(), *latents.known_lengths(labels), seed):
            reporter.say("ends calibrated on sequences that the prior generates")
        # The tuning of the decoder freezes the prior, and only what can be trained is counted.
        n_parameters = build.n_parameters(model)
        decoder: dict[str, str] = {}
        if tuning is not None:
            if more and here().first:
                # The decoder was tuned on what the old prior makes.
                shutil.rmtree(folder / "decoder", ignore_errors=True)
            trained_prior = TrainedPrior(model, latents, outcome.total_steps, seed, folder)
            tuned = tune_decoder(opened, config, trained_prior, compute, budget)
            if here().first:
                decoder["decoder_sha256"] = save_tensors(folder / DECODER, tuned)
        if here().first:
            write_artifact(
                folder,
                {f"prior.{key}": value for key, value in model.state_dict().items()},
                {
                    "kind": "prior",
                    "config": config.model_dump(mode="json"),
                    "seed": seed,
                    "inputs": inputs,
                    "labels": labels,
                    "timed": latents.timed,
                    "durations": latents.durations(),
                    "latent_dim": latents.latent_dim,
                    "n_active": len(statistics.active),
                    "n_parameters": n_parameters,
                    "total_steps": outcome.total_steps,
                    "best_step": outcome.best_step,
                    "figures": outcome.figures,
                    **decoder,
                },
            )
            opened.seal(folder)
    if here().first:
        longer = longer_command(opened, "prior", name, section)
        _compare_with_baseline(model, latents, seed, longer, reporter)
    return _result(RunFolder(opened.path), name)


def _compare_with_baseline(
    model: LabelledPrior[Any], latents: LatentSequences, seed: int, longer: str, reporter: Reporter
) -> None:
    """Warn of a prior that predicts held-out latents no better than a linear prediction from the last frame does."""
    if not model.prior.has_likelihood or not latents.indices("validation"):
        return
    found = likelihood(model, latents, "validation", seed)
    if found["prior"] >= found["var1"]:
        reporter.warn(
            f"the prior is behind a simple baseline: {found['prior']:.3g} bits per dimension on held-out clips, and a "
            f"linear prediction from the last frame has {found['var1']:.3g}; more time ({longer}) or more "
            "sound may help"
        )


def _forget_stale(folder: Path, autoencoder: str, reporter: Reporter) -> None:
    """Delete a prior that belongs to an autoencoder which the run no longer has: nothing can use it."""
    plan = folder / "settings.json"
    if plan.is_file() and read_json(plan).get("autoencoder") != autoencoder:
        reporter.say(f"prior {folder.name} was made for another autoencoder: it is trained again")
        hashes.forget(folder / hashes.LIST)
        for path in folder.glob("[!.]*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _require_fitting(run: RunFolder, config: Config) -> None:
    """Refuse a prior of sequences for latents of one vector a clip.

    Raises:
        ConfigError: the prior makes sequences; the message names those that do not.
    """
    network = config.prior.network
    if build.takes_whole_clips(config.autoencoder.network) and config.prior.head is not None:
        fits = [kind for kind, one in registry.PRIOR_NETWORKS.items() if build.is_whole_sequence(one)]
        raise ConfigError(
            f"prior {network.kind} makes sequences, and in run {run.name} a clip is one vector",
            f"prior {' or '.join(fits)}, or normal or iid, which need no training",
            f"--set prior.network.kind={fits[-1]}, or actseq generate {run.argument} --prior normal",
        )


def _result(run: RunFolder, name: str) -> Result:
    # The run has read its prior, which may be another one now.
    made = RunFolder(run.path).priors.read(name)
    return trained_result(run, "prior", made, "labels", "figures", "total_steps", "n_parameters")
