"""What an autoencoder is to learn: whose clips, in which statistics, from which crops."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch

from actseq import build, units
from actseq.autoencoders.base import Autoencoder
from actseq.commands.common import GAIN_DB
from actseq.config import Config, suggest_name
from actseq.data.corpus import Corpus
from actseq.data.features import FeatureBatches, FeatureSource, store_features
from actseq.data.segments import SegmentSource, WithNoiseClips
from actseq.errors import ConfigError
from actseq.objectives.autoencoding import Autoencoding
from actseq.progress import Reporter
from actseq.representations.base import Representation
from actseq.storage.run_folder import RunFolder
from actseq.storage.store import SequenceStore
from actseq.training.loop import Source

NOISE_CLIPS_SEED = 2**32
"""Added to the seed of what draws noise of other classes: it must not draw as what draws the clips does."""


def divide_labels(
    labels: Collection[str], config: Config, objective: Autoencoding
) -> tuple[Collection[str] | None, list[str]]:
    """Labels whose clips are learned, None for all, and those whose clips are noise for them.

    Raises:
        ConfigError: a target that is no label, or nothing left for noise of other classes.
    """
    targets = config.train_ae.targets
    for target in targets or ():
        if target not in labels:
            raise ConfigError(
                f"train_ae.targets names '{target}', but no training clip has that label",
                action=suggest_name(target, labels),
            )
    others = [] if targets is None else sorted(set(labels) - set(targets))
    if objective.corruption is not None and objective.corruption.uses_noise_clips and not others:
        found = f"only clips of {', '.join(targets)}" if targets else "train_ae.targets is null: all clips are learned"
        raise ConfigError(
            f"there is no noise of other classes ({found})",
            "training clips of labels that are not learned",
            "name those that are (here are: "
            + ", ".join(sorted(labels))
            + "), --set 'train_ae.targets=[…]', or do without: --set train_ae.corruption.other_weight=0",
        )
    return targets, others


def segment_samples(config: Config, hop_length: int) -> int:
    """Length of a training crop, in whole hops: none, where it is shorter than one, makes one frame."""
    seconds = config.train_ae.segment_seconds or config.corpus.segment_seconds
    return units.seconds_to_samples(seconds, config.corpus.sample_rate) // hop_length * hop_length


def _long_enough(config: Config, model: Autoencoder, hop_length: int) -> None:
    """Whether a crop has the frames that a network looks at together.

    Raises:
        ConfigError: it has one, and the network looks at several.
    """
    if model.network.trainable and model.context_frames != 0 and segment_samples(config, hop_length) == 0:
        raise ConfigError(
            f"a training segment of {config.train_ae.segment_seconds or config.corpus.segment_seconds:g} s is a single frame, "
            f"and network {config.autoencoder.network.kind} looks at several",
            f"{2 * hop_length / config.corpus.sample_rate:.2g} s or more",
            "--set train_ae.segment_seconds=null takes that of the corpus",
        )


@dataclass(frozen=True)
class AutoencoderData:
    """A model that has been told the statistics of its clips, and all that it is to learn from.

    Attributes:
        config: complete.
        corpus: the clips.
        representation: of the features.
        model: the autoencoder.
        objective: of its training.
        targets: labels whose clips are learned; None for all.
        others: labels whose clips are noise for them.
        features: of the clips, in batches; of the targets alone.
        stored: the same as a store, where training is to read them.
    """

    config: Config
    corpus: Corpus
    representation: Representation
    model: Autoencoder
    objective: Autoencoding
    targets: Collection[str] | None
    others: list[str]
    features: FeatureBatches
    stored: SequenceStore | None

    def sources(self, reporter: Reporter) -> tuple[Source, Source | None]:
        """Crops to train and to validate on; None where no clips are held out."""
        held_out = bool(self.corpus.indices("validation", self.targets))
        validation = self._source("validation", (0.0, 0.0), 0, 0.0, reporter) if held_out else None
        hop = self.representation.hop_length
        return self._source("train", GAIN_DB, hop, self.config.train_ae.speed, reporter), validation

    def _source(
        self, split: str, gain_db: tuple[float, float], jitter: int, speed: float, reporter: Reporter
    ) -> Source:
        config, corpus, hop = self.config, self.corpus, self.representation.hop_length
        segment = segment_samples(config, hop)
        size, seed = config.train_ae.batch_size, config.seed
        if self.stored is not None:
            frames = units.n_frames(segment, hop)
            return FeatureSource(corpus, self.stored, split, frames, hop, size, seed, self.targets)
        given = (segment, self.objective.margin, size)
        sounds = SegmentSource(corpus, split, *given, seed, gain_db, jitter, speed, self.targets)
        if self.objective.corruption is None or not self.objective.corruption.uses_noise_clips:
            return sounds
        if not corpus.indices(split, self.others):
            reporter.warn(f"no {split} clips of other labels: their training clips are the noise there too")
            split = "train"
        noise = SegmentSource(corpus, split, *given, seed + NOISE_CLIPS_SEED, speed=speed, labels=self.others)
        return WithNoiseClips(sounds, noise)


def prepare_autoencoder_data(
    run: RunFolder, config: Config, corpus_fingerprint: str, reporter: Reporter
) -> AutoencoderData:
    """The model of a complete configuration, and what a run's corpus has for it."""
    representation = build.build_representation(config)
    corpus = Corpus(run.corpus, config.corpus.level_dbfs)
    hop = representation.hop_length
    margin = -(-representation.context_samples // hop) * hop
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build.build_autoencoder(config, representation)
        # It may hold networks of its own.
        objective = build.build_autoencoding(config, model, representation, margin)
    _long_enough(config, model, hop)
    targets, others = divide_labels(corpus.split_labels("train"), config, objective)
    stored = None
    if config.train_ae.stored_features:
        inputs = {
            "corpus": corpus_fingerprint,
            "level_dbfs": config.corpus.level_dbfs,
            "representation": config.representation.model_dump(mode="json"),
        }
        what = f"the features of run {run.name}"
        stored = store_features(run.features, corpus, representation, inputs, what, reporter)
    reporter.say("statistics of the features")
    # Of what is to come out alone: errors are told in its deviations, and the output is kept within what it spans.
    features = FeatureBatches(corpus, representation, torch.device("cpu"), targets, stored)
    model.fit(features)
    return AutoencoderData(config, corpus, representation, model, objective, targets, others, features, stored)
