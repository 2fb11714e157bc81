"""`train-ae`: decode a folder into a corpus and train an autoencoder on it; with `--find-lr`, find a learning rate.

Everything that can be checked is checked before anything is written: an `AutoencoderRequest` is a training that has
passed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from actseq import audio, build
from actseq import config as configuration
from actseq.commands.autoencoder_data import AutoencoderData, divide_labels, prepare_autoencoder_data
from actseq.commands.common import AUTO, NO_BUDGET, Compute, Result, compared, is_trained, trained_result, won
from actseq.commands.corpus import make_corpus
from actseq.commands.previews import few_active, watch_autoencoder
from actseq.config import Config
from actseq.corruptions.base import Damage
from actseq.errors import ArtifactError, ConfigError
from actseq.evaluation.damages import Distances, distances, without_help
from actseq.inference.codec import Codec
from actseq.progress import Reporter
from actseq.storage.artifacts import same_settings, write_artifact
from actseq.storage.processes import here
from actseq.storage.remote import checked_url
from actseq.storage.run_folder import RunFolder
from actseq.storage.store import write_table
from actseq.training import learning_rate
from actseq.training.conduct import Budget, Conduct
from actseq.training.devices import resolve_device
from actseq.training.loop import train


def train_ae(
    folder: Path,
    preset: str | None = None,
    *,
    run: str | None = None,
    overrides: Iterable[str] = (),
    compute: Compute = AUTO,
    budget: Budget = NO_BUDGET,
) -> Result:
    """Decode a folder into a corpus and train an autoencoder on it. An interrupted training resumes.

    Args:
        folder: the sounds.
        preset: name of a preset, or path of a YAML file; None: that of the run, which must exist.
        budget: a plan to repeat, or minutes by which a finished training goes on, with the settings of the run.

    Raises:
        AudioError: the folder has no usable sound.
        ConfigError: preset or overrides are wrong, or the run exists with other settings.
        TrainingError: the training cannot go on.
    """
    budget = budget.begin()
    stored = stored_preset(run)
    chosen = stored if budget.more is not None and stored is not None else preset
    return train_configured(folder, _loaded(chosen, run, overrides), run, compute, budget)


def _loaded(preset: str | None, run: str | None, overrides: Iterable[str]) -> Config:
    """The configuration of a preset; without one, that of the run.

    Raises:
        ConfigError: there is neither, or preset or overrides are wrong.
    """
    chosen = preset or stored_preset(run)
    if chosen is None:
        raise ConfigError(
            "train-ae without --preset",
            "a preset, or --run with a run that exists",
            "actseq presets lists them; actseq run FOLDER chooses one",
        )
    return configuration.load_preset(chosen, overrides)


def stored_preset(run: str | None) -> str | None:
    """The configuration of a run, which can serve as a preset; None if the run does not exist."""
    path = None if run is None else RunFolder.locate(run).path / "config.yaml"
    return str(path) if path is not None and path.is_file() else None


def train_configured(folder: Path, config: Config, run: str | None, compute: Compute, budget: Budget) -> Result:
    """As `train_ae`, with a configuration instead of a preset and overrides."""
    asked = request_autoencoder(folder, config, run, compute)
    made, config, reporter = asked.run, asked.config, compute.reporter
    compute.use_threads()
    processes = here()
    with made.lock(made.path):
        corpus_fingerprint = make_corpus(made, asked.sounds, config, reporter, asked.store)
        if processes.first and not asked.begun and made.read_config() != config:
            made.write_config(config, str(folder), corpus_fingerprint)
        finished = processes.share(is_trained(made.autoencoder, reporter))
        if finished and made.trained_autoencoder.meta["inputs"]["corpus"] != corpus_fingerprint:
            raise ArtifactError(
                f"the autoencoder of run {made.name} was trained on another corpus",
                action="name another run with --run",
            )
        if budget.more is not None and not asked.trainable:
            raise ConfigError(f"{config.autoencoder.network.kind} is fitted, not trained: it cannot go on")
        if finished and budget.more is None:
            reporter.say(f"autoencoder: already trained ({made.autoencoder})")
        else:
            _train(asked, corpus_fingerprint, compute, budget)
        if processes.first:
            made.seal(made.autoencoder)
    keys = ("figures", "total_steps", "n_parameters", "latent_rate", "generative")
    # The run has read its autoencoder, which may be another one now.
    return trained_result(made, "autoencoder", RunFolder(made.path).trained_autoencoder, *keys)


def find_learning_rate(
    folder: Path,
    preset: str | None = None,
    *,
    run: str | None = None,
    overrides: Iterable[str] = (),
    compute: Compute = AUTO,
) -> Result:
    """Make the corpus and find a learning rate for the autoencoder, without training it; the curve goes to `plots/`.

    Raises:
        AudioError: the folder has no usable sound.
        ConfigError: as `train_ae`, or the network is fitted instead of trained.
    """
    from actseq.plots.sound_charts import learning_rates

    asked = request_autoencoder(folder, _loaded(preset, run, overrides), run, compute)
    made, config, reporter = asked.run, asked.config, compute.reporter
    if not asked.trainable:
        raise ConfigError(f"{config.autoencoder.network.kind} is fitted, not trained: it has no learning rate")
    compute.use_threads()
    with made.lock(made.path):
        corpus_fingerprint = make_corpus(made, asked.sounds, config, reporter, asked.store)
        data = prepare_autoencoder_data(made, config, corpus_fingerprint, reporter)
        training, validation = data.sources(reporter)
        found = learning_rate.find_learning_rate(
            data.objective,
            training,
            validation or training,
            config.train_ae,
            seed=config.seed,
            device=asked.device,
            reporter=reporter,
        )
        picture = made.path / "plots" / "learning-rate.png"
        learning_rates(picture, found.rates, found.losses, found.smooth, found.suggested, made.name)
        steps = np.arange(1, len(found.rates) + 1)
        columns = {"step": steps, "learning_rate": found.rates, "loss": found.losses, "smoothed": found.smooth}
        write_table(picture.with_suffix(".csv"), columns)
    return {
        "run": str(made.path),
        "configured": config.train_ae.learning_rate,
        "suggested": found.suggested,
        "lowest": found.lowest,
        "steps": len(found.rates),
        "picture": str(picture),
    }


def learning_rate_lines(result: Result) -> list[str]:
    """The result of `find_learning_rate` as lines for a person."""
    suggested = result["suggested"]
    if suggested is None:
        found = "the loss fell at no rate: look at the curve, the data and the network"
    else:
        found = f"suggested: --set train_ae.learning_rate={suggested:.2g} (configured is {result['configured']:g})"
    return [found, f"the loss is lowest at {result['lowest']:.2g}: {result['picture']}"]


# -- what both commands start with -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AutoencoderRequest:
    """A training that has passed all checks.

    Attributes:
        run: the run, which may not exist yet.
        config: complete configuration.
        device: device to compute on.
        sounds: the folder of sounds.
        trainable: whether the network is trained in steps.
        begun: whether training the autoencoder has started before.
        store: URL of a folder for the shards of the run; None: none is given.
    """

    run: RunFolder
    config: Config
    device: torch.device
    sounds: audio.SoundFolder
    trainable: bool
    begun: bool
    store: str | None


def request_autoencoder(folder: Path, config: Config, run: str | None, compute: Compute) -> AutoencoderRequest:
    """Check all that can be checked before anything is written.

    Raises:
        AudioError: the folder holds no sound file.
        ConfigError: the configuration is wrong, or the run exists with other settings.
    """
    store = None if compute.store is None else checked_url(compute.store)
    config = build.complete(config, compute.reporter)
    representation = build.build_representation(config)
    model = build.build_autoencoder(config, representation)
    objective = build.build_autoencoding(config, model, representation, representation.hop_length)
    resolved = resolve_device(compute.device)
    sounds = audio.SoundFolder(folder, config.corpus.labels, include_generated=config.corpus.include_generated)
    divide_labels(set(sounds.labels.values()), config, objective)
    made = RunFolder.locate(run or f"{folder.resolve().name}-{Path(config.preset).stem}")
    # After `--find-lr` the learning rate of the run may still change.
    begun = (made.autoencoder / "plan.json").is_file() or (made.autoencoder / "model.json").is_file()
    bound = [name for name in configuration.STAGE_SECTIONS["train-ae"] if begun or name != "train_ae"]
    asked = compared(config)
    sections = {name: asked[name] for name in bound}
    if (made.path / "config.yaml").is_file():
        stored = compared(made.read_config())
        same_settings(
            {name: stored[name] for name in sections} | {"seed": stored["seed"]},
            sections | {"seed": config.seed},
            f"run {made.name}",
            "name another with --run, or delete it",
            f"{made.training_command('autoencoder')} --more 5 trains five minutes more"
            if (made.autoencoder / "model.json").is_file()
            else "",
        )
    elif made.path.exists() and (not made.path.is_dir() or any(made.path.glob("[!.]*"))):
        raise ConfigError(f"{made.path} exists and is no run", action="name another with --run")
    return AutoencoderRequest(made, config, resolved, sounds, model.network.trainable, begun, store)


def _train(asked: AutoencoderRequest, corpus_fingerprint: str, compute: Compute, budget: Budget) -> None:
    run, reporter = asked.run, compute.reporter
    data = prepare_autoencoder_data(run, asked.config, corpus_fingerprint, reporter)
    config, model, representation = data.config, data.model, data.representation
    figures: dict[str, float] = {}
    steps = best = 0
    if asked.trainable:
        watch = watch_autoencoder(run, config, data.corpus, representation, model, asked.device)
        outcome = train(
            data.objective,
            data.sources(reporter),
            config.train_ae,
            run.autoencoder,
            name="autoencoder",
            seed=config.seed,
            conduct=Conduct(asked.device, reporter, budget, watch, compute.events, compute.threads),
        )
        if not here().first:
            return
        if budget.more is not None and not won(run.autoencoder, outcome, "autoencoder", reporter):
            return
        model.cpu().load_state_dict(outcome.tensors)
        figures, steps, best = outcome.figures, outcome.total_steps, outcome.best_step
    elif not here().first:
        return
    if model.generative:
        model.eval().calibrate(data.features)
    restoration = _restoration(data, asked.device, reporter)
    states = {"autoencoder": model.state_dict()}
    states["representation"] = representation.state_dict()  # type: ignore[attr-defined]
    write_artifact(
        run.autoencoder,
        {f"{part}.{name}": value for part, state in states.items() for name, value in state.items()},
        {
            "kind": "autoencoder",
            "config": config.model_dump(mode="json"),
            "inputs": {"corpus": corpus_fingerprint},
            "sample_rate": representation.sample_rate,
            "feature_rate": representation.feature_rate,
            "latent_rate": model.latent_rate,
            "latent_dim": model.latent_dim,
            "generative": model.generative,
            **({"labels": model.labels} if model.labels else {}),
            "n_parameters": build.n_parameters(model),
            "total_steps": steps,
            "best_step": best,
            "figures": figures,
            **({"restoration": restoration} if restoration else {}),
        },
    )
    if budget.more is not None:
        then = f"{run.extraction_command}, then {run.training_command('prior')}"
        reporter.say(f"latents and priors of the old one no longer fit; next: {then}")
    if few := few_active(figures, model.latent_dim):
        reporter.warn(few)


def _restoration(data: AutoencoderData, device: torch.device, reporter: Reporter) -> Distances:
    """What a run that restores does against each kind of damage, on validation clips; empty for other runs."""
    corruption, corpus = data.objective.corruption, data.corpus
    held_out = corpus.indices("validation", data.targets)
    if not isinstance(corruption, Damage) or not held_out:
        return {}
    member = data.config.train_ae.corruption
    assert member is not None
    vocoder = build.build_vocoder(build.untrained_vocoder(data.representation), data.representation)
    codec = Codec(data.representation, data.model.to(device).eval(), vocoder, data.config.corpus.level_dbfs, device)
    others = corpus.indices("validation", data.others) or corpus.indices("train", data.others)
    found = distances(codec, corpus, corruption.parts or {member.kind: corruption}, (held_out, others), reporter)
    data.model.cpu()
    for line in without_help(found):
        reporter.warn(f"the run does not help against {line}")
    return found
