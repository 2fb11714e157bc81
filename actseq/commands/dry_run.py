"""`run --dry-run`: what a run would read, train and write, without writing anything."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actseq import build, registry, units
from actseq.commands.autoencoder_data import MOST_CLIP_SECONDS
from actseq.commands.common import AUTO, Compute, aligned
from actseq.commands.run import configured
from actseq.commands.train_ae import request_autoencoder
from actseq.config import Config, Member, TrainingConfig, with_sections
from actseq.data.survey import read_headers
from actseq.storage.run_folder import RunFolder

VALUE_BYTES = 4
"""Bytes of a parameter or a feature."""
COPIES_OF_WEIGHTS = 6
"""The result, the best weights, and a checkpoint: the weights, their average and two moments of the optimiser."""


@dataclass(frozen=True)
class Training:
    """A training that would take place.

    Attributes:
        stage: what is trained.
        network: kind of the network.
        parameters: number of its parameters.
        minutes: its budget in minutes; None if it is given in steps.
        steps: its budget in steps; None if it is given in minutes.
        done: whether it has finished.
    """

    stage: str
    network: str
    parameters: int
    minutes: float | None
    steps: int | None
    done: bool

    @property
    def budget(self) -> str:
        """The budget in words."""
        if self.done:
            return "already trained"
        return f"{self.steps} steps" if self.minutes is None else units.duration(60 * self.minutes)


@dataclass(frozen=True)
class Forecast:
    """What a run would do.

    Attributes:
        run: its folder.
        preset: its preset.
        files: number of sound files.
        unread: number of files whose header cannot be read; they may be skipped.
        seconds: length of all others.
        trainings: in order.
        megabytes: what would be written, by part of the run.
    """

    run: str
    preset: str
    files: int
    unread: int
    seconds: float
    trainings: list[Training]
    megabytes: dict[str, float]


def dry_run(
    folder: Path,
    preset: str | None = None,
    *,
    run: str | None = None,
    minutes: float | None = None,
    vocoder: bool = False,
    overrides: Iterable[str] = (),
    compute: Compute = AUTO,
) -> Forecast:
    """What `run_all` would do with the same arguments; it writes nothing.

    Raises:
        ConfigError, AudioError: as `run_all`, for what can be found without decoding the sounds.
    """
    config = configured(folder, preset, run, minutes, vocoder, overrides, compute.reporter)
    asked = request_autoencoder(folder, config, run, compute)
    headers = read_headers(asked.sounds)
    seconds = sum(header.seconds for header in headers.values())
    least = asked.config.corpus.repeat_seconds or 0.0
    # Loops are stored as often as they are repeated.
    stored = sum(one.seconds * max(1, math.ceil(least / one.seconds)) for one in headers.values() if one.seconds)
    labels = sorted(set(asked.sounds.labels.values()) - {""})
    trainings = list(_trainings(_sized(asked.config), asked.run, labels, vocoder))
    megabytes = {
        name: round(size / 1e6, 1)
        for name, size in _sizes(_sized(asked.config), stored, len(headers), trainings).items()
    }
    return Forecast(
        str(asked.run.path),
        asked.config.preset,
        len(asked.sounds.files),
        len(asked.sounds.files) - len(headers),
        round(seconds, 1),
        trainings,
        megabytes,
    )


def forecast_lines(found: Forecast) -> list[str]:
    """The result of `dry_run` as lines for a person."""
    unread = f", {found.unread} of which cannot be opened" if found.unread else ""
    rows = [
        (one.stage, one.network, f"{one.parameters / 1e6:.2g} million parameters", one.budget)
        for one in found.trainings
    ]
    left = [one for one in found.trainings if not one.done]
    timed = [one.minutes for one in left if one.minutes is not None]
    total = units.duration(60 * sum(timed)) if len(timed) == len(left) else "as long as its steps need on this machine"
    sizes = ", ".join(f"{name} {size:.3g} MB" for name, size in found.megabytes.items())
    return [
        f"it would read {found.files} files{unread}, {units.duration(found.seconds)} of sound",
        f"it would train, with preset {found.preset}, {total}:",
        *(f"  {line}" for line in aligned(rows)),
        f"it would write {found.run}, about {sum(found.megabytes.values()):.3g} MB: {sizes}",
        "nothing was written",
    ]


def _sized(config: Config) -> Config:
    """The configuration with the longest clip of a network of whole clips, which its corpus may shorten."""
    network = config.autoencoder.network
    if not build.takes_whole_clips(network) or network.options.get("seconds") is not None:
        return config
    member = Member(kind=network.kind, **network.options | {"seconds": MOST_CLIP_SECONDS})
    return with_sections(config, {"autoencoder": config.autoencoder.model_dump() | {"network": member.model_dump()}})


def _trainings(config: Config, run: RunFolder, labels: list[str], vocoder: bool) -> Iterator[Training]:
    representation = build.build_representation(config)
    model = build.build_autoencoder(config, representation, labels)

    def training(stage: str, network: Member, parameters: int, section: TrainingConfig, folder: Path) -> Training:
        done = (folder / "model.json").is_file()
        return Training(stage, network.kind, parameters, section.minutes, section.steps, done)

    network = config.autoencoder.network
    yield training("autoencoder", network, build.n_parameters(model), config.train_ae, run.autoencoder)
    if not build.is_generative(network):
        return
    name = config.generate.prior or "default"
    if name not in registry.UNTRAINED_PRIORS:
        dim = config.autoencoder.latent_dim
        prior = build.n_parameters(build.build_prior(config, dim, dim, labels))
        yield training(f"prior {name}", config.prior.network, prior, config.train_prior, run.priors.path / name)
    if vocoder:
        section = config.train_vocoder
        size = build.n_parameters(build.build_vocoder_network(config, representation))
        yield training("vocoder", section.network, size, section, run.vocoders.path / "default")


def _sizes(config: Config, seconds: float, n_files: int, trainings: list[Training]) -> dict[str, float]:
    """Bytes of each part of the run."""
    representation = build.build_representation(config)
    model = build.build_autoencoder(config, representation)
    found = {"corpus": seconds * config.corpus.sample_rate * np.dtype(config.corpus.dtype).itemsize}
    if config.train_ae.stored_features:
        found["features"] = seconds * representation.feature_rate * representation.channels * VALUE_BYTES
    for one in trainings:
        found[one.stage] = float(one.parameters * VALUE_BYTES * COPIES_OF_WEIGHTS)
        if one.stage.startswith("prior") and config.train_prior.decoder is not None:
            found[one.stage] += trainings[0].parameters * VALUE_BYTES * COPIES_OF_WEIGHTS
    if build.is_generative(config.autoencoder.network):
        frames = n_files if model.whole_clips else units.seconds_to_frames(seconds, model.latent_rate)
        trained = 1 - config.corpus.validation - config.corpus.test
        values = config.autoencoder.latent_dim * model.bottleneck.params_per_dim
        dtype = np.dtype(config.latents.dtype)
        found["latents"] = frames * values * dtype.itemsize * (1 + trained * config.latents.copies)
    return found
