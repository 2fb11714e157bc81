"""The data that an autoencoder is trained on: clips, statistics of their features, segments."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch

from actseq import build, units
from actseq.autoencoders.base import Autoencoder
from actseq.commands.common import GAIN_DB
from actseq.config import Config, Member, suggest_name, with_sections
from actseq.corruptions.base import Damage
from actseq.data.corpus import Corpus
from actseq.data.features import FeatureBatches, FeatureSource, store_features
from actseq.data.segments import ClipSource, SegmentSource, WithNoiseClips, label_rows
from actseq.errors import ConfigError
from actseq.objectives.autoencoding import Autoencoding
from actseq.progress import SILENT, Reporter
from actseq.representations.base import Representation, margin_hops
from actseq.storage.processes import here
from actseq.storage.run_folder import RunFolder
from actseq.storage.store import SequenceStore
from actseq.training.sources import Source

NOISE_CLIPS_SEED = 2**32
"""Added to the seed for noise clips, so that they are not drawn in step with the training clips."""


def divide_labels(
    labels: Collection[str], config: Config, objective: Autoencoding, reporter: Reporter = SILENT
) -> tuple[Collection[str] | None, list[str]]:
    """Divide the labels into those whose clips are learned (None: all) and those whose clips serve as noise.

    Without labels for noise, the corruption of the objective does without it, and the user is told.

    Raises:
        ConfigError: a target is not a label, or nothing but noise of other labels is configured and no label is left.
    """
    targets = config.train_ae.targets
    for target in targets or ():
        if target not in labels:
            raise ConfigError(
                f"train_ae.targets names '{target}', but no training clip has that label",
                action=suggest_name(target, labels),
            )
    others = [] if targets is None else sorted(set(labels) - set(targets))
    corruption = objective.corruption
    if corruption is not None and corruption.uses_noise_clips and not others:
        found = f"only clips of {', '.join(targets)}" if targets else "train_ae.targets is null: all clips are learned"
        if isinstance(corruption, Damage) and corruption.do_without_noise_clips():
            reporter.say(
                f"all noise is synthesised, since there is none of other classes ({found}); recorded noise in a folder "
                "of its own helps: then name the other folders, --set 'train_ae.targets=[…]'"
            )
            return targets, others
        raise ConfigError(
            f"there is no noise of other classes ({found})",
            "training clips of labels that are not learned",
            "name those that are (here are: "
            + ", ".join(sorted(labels))
            + "), --set 'train_ae.targets=[…]', or give the noise a white_weight or coloured_weight above 0",
        )
    return targets, others


def segment_samples(config: Config, hop_length: int) -> int:
    """Length of a training segment in samples, rounded down to whole hops; 0 samples make a single frame."""
    seconds = config.train_ae.segment_seconds or config.corpus.segment_seconds
    return units.seconds_to_samples(seconds, config.corpus.sample_rate) // hop_length * hop_length


def _require_frames(config: Config, model: Autoencoder, hop_length: int) -> None:
    """Refuse segments of a single frame for a network that looks at several frames.

    Raises:
        ConfigError: the segments are too short.
    """
    seconds = config.train_ae.segment_seconds or config.corpus.segment_seconds
    if model.network.trainable and model.context_frames != 0 and segment_samples(config, hop_length) == 0:
        raise ConfigError(
            f"a training segment of {seconds:g} s is a single frame, "
            f"and network {config.autoencoder.network.kind} looks at several",
            f"{2 * hop_length / config.corpus.sample_rate:.2g} s or more",
            "--set train_ae.segment_seconds=null takes that of the corpus",
        )


MOST_CLIP_SECONDS = 3.0
CLIP_QUANTILE = 0.95


def clip_samples(model: Autoencoder, hop_length: int) -> int:
    """Samples that the frames of one clip cover, for a network of whole clips."""
    return (model.stride - 1) * hop_length


def _with_clip_seconds(config: Config, corpus: Corpus, reporter: Reporter) -> Config:
    """The configuration with the length of a clip, for a network of whole clips; clips that are longer are named."""
    network = config.autoencoder.network
    if not build.takes_whole_clips(network):
        return config
    seconds = {
        record.key: units.samples_to_seconds(record.length, config.corpus.sample_rate)
        for record in corpus.store.records
    }
    if network.options.get("seconds") is None:
        known = [seconds[corpus.store.records[i].key] for i in corpus.indices("train", config.train_ae.targets)]
        usual = min(MOST_CLIP_SECONDS, math.ceil(100 * float(np.quantile(known, CLIP_QUANTILE))) / 100)
        reporter.say(f"a clip is {usual:g} s with its silence: the length of 95 % of the training clips, at most 3 s")
        network = Member(kind=network.kind, **network.options | {"seconds": usual})
        section = config.autoencoder.model_dump() | {"network": network.model_dump()}
        config = with_sections(config, {"autoencoder": section})
    cut = [key for key, length in seconds.items() if length > network.options["seconds"]]
    if cut:
        more = f" and {len(cut) - 5} more" if len(cut) > 5 else ""
        reporter.warn(
            f"{len(cut)} of {len(seconds)} clips are longer than {network.options['seconds']:g} s and are faded out "
            f"there: {', '.join(cut[:5])}{more}"
        )
    return config


@dataclass(frozen=True)
class AutoencoderData:
    """A model with the statistics of its clips set, and the data to train it on.

    Attributes:
        config: complete configuration.
        corpus: the clips.
        representation: analysis of waveforms into features.
        model: the autoencoder.
        objective: the training objective.
        targets: labels whose clips are learned; None: all labels.
        others: labels whose clips serve as noise.
        features: features of the clips that are learned, in batches.
        stored: the stored features, if `train_ae.stored_features` is on.
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
        """Segments to train and to validate on; None if no clips are held out."""
        held_out = bool(self.corpus.indices("validation", self.targets))
        validation = self._source("validation", (0.0, 0.0), 0, 0.0, reporter) if held_out else None
        hop = self.representation.hop_length
        return self._source("train", GAIN_DB, hop, self.config.train_ae.speed, reporter), validation

    def _source(
        self, split: str, gain_db: tuple[float, float], jitter: int, speed: float, reporter: Reporter
    ) -> Source:
        config, corpus, hop = self.config, self.corpus, self.representation.hop_length
        whole = self.model.whole_clips
        segment = clip_samples(self.model, hop) if whole else segment_samples(config, hop)
        size, seed, balance = config.train_ae.batch_size, config.seed, config.train_ae.folder_balance
        if self.stored is not None:
            frames = units.n_frames(segment, hop)
            return FeatureSource(corpus, self.stored, split, frames, hop, size, seed, self.targets, whole, balance)
        given = (segment, self.objective.margin, size)
        if whole:
            return ClipSource(corpus, split, *given, seed, gain_db, speed, self.targets)
        sounds = SegmentSource(corpus, split, *given, seed, gain_db, jitter, speed, self.targets, balance)
        if self.objective.corruption is None or not self.objective.corruption.uses_noise_clips:
            return sounds
        if not corpus.indices(split, self.others):
            reporter.warn(f"no {split} clips of other labels: their training clips are the noise there too")
            split = "train"
        noise = SegmentSource(
            corpus,
            split,
            *given,
            seed + NOISE_CLIPS_SEED,
            speed=speed,
            labels=self.others,
            folder_balance=balance,
        )
        return WithNoiseClips(sounds, noise)


def prepare_autoencoder_data(
    run: RunFolder, config: Config, corpus_fingerprint: str, reporter: Reporter
) -> AutoencoderData:
    """Build the model of a complete configuration, and fit its statistics to a run's corpus."""
    representation = build.build_representation(config)
    corpus = Corpus(run.corpus, config.corpus.level_dbfs)
    config = _with_clip_seconds(config, corpus, reporter)
    hop = representation.hop_length
    margin = margin_hops(representation) * hop
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build.build_autoencoder(config, representation, list(label_rows(corpus)))
        # The objective may have networks of its own, which are initialised from the same seed.
        objective = build.build_autoencoding(config, model, representation, margin)
    _require_frames(config, model, hop)
    targets, others = divide_labels(corpus.split_labels("train"), config, objective, reporter)
    stored = None
    if config.train_ae.stored_features:
        inputs = {
            "corpus": corpus_fingerprint,
            "level_dbfs": config.corpus.level_dbfs,
            "representation": config.representation.model_dump(mode="json"),
        }
        samples = clip_samples(model, hop) if model.whole_clips else None
        if samples is not None:
            inputs["clip_samples"] = samples
        what = f"the features of run {run.name}"
        stored = store_features(run.features, corpus, representation, inputs, what, reporter, samples)
        if here().first:
            run.seal(run.features)
    reporter.say("statistics of the features")
    # Of the learned clips alone: errors are measured in their standard deviations, outputs are kept in their range.
    features = FeatureBatches(corpus, representation, torch.device("cpu"), targets, stored)
    model.fit(features)
    return AutoencoderData(config, corpus, representation, model, objective, targets, others, features, stored)
