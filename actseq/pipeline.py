"""One function per command: the public Python API. Each returns what it made as plain data."""

from __future__ import annotations

import csv
import hashlib
import re
import shutil
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from actseq import audio, units
from actseq import config as configuration
from actseq.config import Config
from actseq.corpus import (
    BesideOthers,
    Corpus,
    FeatureBatches,
    SegmentSource,
    build_corpus,
    level_gain,
    random_speed,
)
from actseq.errors import ArtifactError, AudioError, ConfigError
from actseq.features import FeatureSource, store_features
from actseq.latents import COPIES, SequenceSource
from actseq.loading import (
    LoadedRun,
    chosen_vocoder,
    load_codec,
    load_latents,
    load_vocoder,
    require_generative,
    stage_config,
    vocoder_inputs,
)
from actseq.progress import Reporter, Silent
from actseq.runs import (
    Run,
    begin_store,
    content_hash,
    fingerprint,
    read_json,
    read_meta,
    read_weights,
    same_settings,
    write_artifact,
    write_json,
)
from actseq.store import SequenceStore, StoreWriter, group_shards, write_table

if TYPE_CHECKING:
    import torch

    from actseq.codec import Codec
    from actseq.effects import Process
    from actseq.generation import Piece
    from actseq.objectives.autoencoding import Autoencoding
    from actseq.objectives.base import Objective
    from actseq.training import Source

Waveform = NDArray[np.float32]
Result = dict[str, Any]
MINUTES_SHARE = {"train_ae": 0.7, "train_prior": 0.3}
MINUTES_SHARE_WITH_VOCODER = {"train_ae": 0.6, "train_prior": 0.25, "train_vocoder": 0.15}
SEED_OF_OTHERS = 2**32
"""Added to the seed of what draws noise of other classes: it must not draw as what draws the clips does."""
GAIN_DB = (-3.0, 2.0)
"""Random gain of training crops around the corpus's level: peaks of −6 to −1 dBFS at the default level."""


def use_threads(threads: int | None) -> None:
    """How many threads torch computes with; None leaves its default."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def default_run(folder: Path, preset: str) -> str:
    """`<folder>-<preset>`."""
    return f"{folder.resolve().name}-{Path(preset).stem}"


# -- stage one ----------------------------------------------------------------------------------------------------------


def train_ae(
    folder: Path,
    preset: str,
    *,
    run: str | None = None,
    overrides: Iterable[str] = (),
    device: str = "auto",
    threads: int | None = None,
    reporter: Reporter | None = None,
) -> Result:
    """Decode a folder into a corpus and train an autoencoder on it. Resumes; does nothing where it is done.

    Raises:
        AudioError: nothing usable in the folder.
        ConfigError: preset or overrides; the run exists with other settings.
        TrainingError: the training cannot go on.
    """
    return _train_ae(folder, configuration.load_preset(preset, overrides), run, device, threads, reporter or Silent())


def find_rate(
    folder: Path,
    preset: str,
    *,
    run: str | None = None,
    overrides: Iterable[str] = (),
    device: str = "auto",
    threads: int | None = None,
    reporter: Reporter | None = None,
) -> Result:
    """Make the corpus, and find a learning rate for the autoencoder: drawn into `plots/` in the run, which is not trained.

    Raises:
        AudioError: nothing usable in the folder.
        ConfigError: preset or overrides; the run exists with other settings; the network is not trained.
    """
    config = configuration.load_preset(preset, overrides)
    return _train_ae(folder, config, run, device, threads, reporter or Silent(), only_rate=True)


def _train_ae(
    folder: Path,
    config: Config,
    run: str | None,
    device: str,
    threads: int | None,
    reporter: Reporter,
    only_rate: bool = False,
) -> Result:
    from actseq import build
    from actseq.training import resolve_device

    # What can be wrong is found out before anything is written.
    config = build.complete(config)
    representation = build.build_representation(config)
    model = build.build_autoencoder(config, representation)
    objective = build.build_autoencoding(config, model, representation, representation.hop_length)
    if only_rate and not model.network.trainable:
        raise ConfigError(f"{config.autoencoder.network.kind} is fitted, not trained: it has no learning rate")
    resolved = resolve_device(device)
    _divide_labels(_labels(folder, config.corpus.labels), config, objective)
    listing = _listing(folder, config.corpus.labels)
    made = Run.locate(run or default_run(folder, config.preset))
    # A learning rate that was looked for in this run can still be taken up in it.
    begun = (made.autoencoder / "plan.json").is_file() or (made.autoencoder / "model.json").is_file()
    bound = [name for name in configuration.STAGE_SECTIONS["train-ae"] if begun or name != "train_ae"]
    sections = {name: config.model_dump(mode="json")[name] for name in bound}
    if (made.path / "config.yaml").is_file():
        stored = made.read_config().model_dump(mode="json")
        same_settings(
            {name: stored[name] for name in sections} | {"seed": stored["seed"]},
            sections | {"seed": config.seed},
            f"run {made.name}",
            "name another with --run, or delete it",
        )
    elif made.path.exists() and (not made.path.is_dir() or any(made.path.glob("[!.]*"))):
        raise ConfigError(f"{made.path} exists and is no run", action="name another with --run")
    use_threads(threads)
    with made.lock(made.path):
        corpus_fingerprint = _corpus(made, folder, listing, config, reporter)
        if only_rate:
            return _train_autoencoder(made, config, corpus_fingerprint, resolved, reporter, only_rate=True)
        if not begun and made.read_config() != config:
            made.write_config(config, str(folder), corpus_fingerprint)
        if (made.autoencoder / "model.json").is_file():
            meta = read_meta(made.autoencoder, "actseq train-ae")
            if meta["inputs"]["corpus"] != corpus_fingerprint:
                raise ArtifactError(
                    f"the autoencoder of run {made.name} was trained on another corpus",
                    action="name another run with --run",
                )
            reporter.say(f"autoencoder: already trained ({made.autoencoder})")
            return _ae_result(made, meta)
        return _train_autoencoder(made, config, corpus_fingerprint, resolved, reporter)


def _ae_result(run: Run, meta: Mapping[str, Any]) -> Result:
    return {
        "run": str(run.path),
        "autoencoder": str(run.autoencoder),
        "fingerprint": fingerprint(run.autoencoder),
        **{key: meta[key] for key in ("figures", "total_steps", "n_parameters", "latent_rate", "generative")},
    }


def _labels(folder: Path, labels: Path | None) -> set[str]:
    """Labels of the files in a folder, whether or not they turn out to be sound."""
    given = audio.read_labels(labels) if labels else {}
    names = (path.relative_to(folder).as_posix() for path in audio.find(folder))
    return {given.get(name, audio.label_of(name)) for name in names}


def _divide_labels(
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
                action=configuration.nearest(target, labels),
            )
    others = [] if targets is None else sorted(set(labels) - set(targets))
    if objective.corruption is not None and objective.corruption.of_others and not others:
        found = f"only clips of {', '.join(targets)}" if targets else "train_ae.targets is null: all clips are learned"
        raise ConfigError(
            f"there is no noise of other classes ({found})",
            "training clips of labels that are not learned",
            "name those that are (here are: "
            + ", ".join(sorted(labels))
            + "), --set 'train_ae.targets=[…]', or do without: --set train_ae.corruption.other_weight=0",
        )
    return targets, others


def _listing(folder: Path, labels: Path | None) -> str:
    """Hash of what lies in a folder, without reading the sound: names, sizes, times; and of the table of labels."""
    rows: list[Any] = [_digest(labels) if labels else None]
    for path in audio.find(folder):
        # A link that leads nowhere is found too; the scan will say so.
        stat = path.stat() if path.exists() else path.lstat()
        rows.append([str(path.relative_to(folder)), stat.st_size, stat.st_mtime_ns])
    return content_hash(rows)


def _digest(path: Path) -> str:
    """Hash of a file's bytes; empty where it cannot be read, as in a scan."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _same_content(folder: Path, labels: Path | None, scan_csv: Path) -> bool:
    """Whether a folder holds the very files that a scan saw: copies and touched files do, whatever their dates."""
    given = audio.read_labels(labels) if labels else {}
    with scan_csv.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    seen = {row["path"]: row["sha256"] for row in rows}
    if labels and any(given.get(row["path"], row["label"]) != row["label"] for row in rows):
        return False
    found = {path.relative_to(folder).as_posix(): path for path in audio.find(folder)}
    return found.keys() == seen.keys() and all(_digest(path) == seen[name] for name, path in found.items())


def _corpus(run: Run, folder: Path, listing: str, config: Config, reporter: Reporter) -> str:
    """Make the corpus, or see that it is made; its fingerprint."""
    marker = run.corpus / "corpus.json"
    if marker.is_file():
        meta = read_json(marker)
        if meta["listing"] != listing and not _same_content(folder, config.corpus.labels, run.corpus / "scan.csv"):
            raise ArtifactError(
                f"{folder} is not what run {run.name} was made from (files were added, removed or changed)",
                action="name another run with --run",
            )
        reporter.say(f"corpus: already made ({run.corpus})")
        return str(meta["fingerprint"])
    plan = run.corpus / "plan.json"
    if plan.is_file() and read_json(plan)["listing"] != listing:
        shutil.rmtree(run.corpus)
    # First of all, so that a run killed at any time after is known as one.
    run.write_config(config, str(folder), None)
    write_json(plan, {"listing": listing})
    scan = build_corpus(folder, run.corpus, config.corpus, config.seed, reporter)
    _tell_scan(scan, config.corpus.sample_rate, reporter)
    corpus = Corpus(run.corpus, config.corpus.level_dbfs)
    found = corpus.store.fingerprint()
    write_json(
        marker,
        {
            "listing": listing,
            "fingerprint": found,
            "source": str(folder),
            "clips": corpus.summary(),
            "found": len(scan.rows),
            "skipped": len(scan.skipped),
        },
    )
    run.write_config(config, str(folder), found)
    shifted = len({record.extra["source"] for record in corpus.store.records if record.extra["offset"]})
    if shifted:
        reporter.say(f"freed of a constant offset: {shifted} files")
    summary = corpus.summary()
    reporter.say(
        "corpus: "
        + ", ".join(f"{summary.get(split, 0)} {split}" for split in ("train", "validation", "test"))
        + " clips"
    )
    missing = [split for split in ("validation", "test") if not summary.get(split)]
    if missing:
        reporter.warn(
            f"too few clips to hold any out for {' and '.join(missing)}: nothing will tell when the model only memorises"
        )
    return found


def _tell_scan(scan: audio.Scan, sample_rate: int, reporter: Reporter) -> None:
    """The scan report: counts, what will be changed in decoding, and one line for each file that was left out."""
    reporter.say(f"found   {len(scan.rows):6} files")
    reporter.say(f"usable  {len(scan.usable):6} files  {scan.seconds / 60:.1f} minutes")
    reporter.say(f"skipped {len(scan.skipped):6} files")
    rates = Counter(row.sample_rate for row in scan.usable if row.sample_rate != sample_rate)
    if rates:
        told = ", ".join(f"{n} from {rate} Hz" for rate, n in rates.most_common(6)) + (", …" if len(rates) > 6 else "")
        reporter.say(f"resampled to {sample_rate} Hz: {told}")
    mixed = sum(row.channels > 1 for row in scan.usable)
    if mixed:
        reporter.say(f"mixed to mono: {mixed} files")
    width = max((len(row.path) for row in scan.skipped[:20]), default=0)
    for row in scan.skipped[:20]:
        reporter.say(f"  {row.path:{width}}  {row.reason}")
    if len(scan.skipped) > 20:
        reporter.say(f"  … and {len(scan.skipped) - 20} more, all in scan.csv")
    if len(scan.skipped) > 0.01 * len(scan.rows):
        reporter.warn(
            f"{len(scan.skipped) / len(scan.rows):.1%} of the files were skipped; scan.csv gives every reason"
        )


def _train_autoencoder(
    run: Run,
    config: Config,
    corpus_fingerprint: str,
    device: torch.device,
    reporter: Reporter,
    only_rate: bool = False,
) -> Result:
    import torch

    from actseq import build
    from actseq.training import train

    representation = build.build_representation(config)
    corpus = Corpus(run.corpus, config.corpus.level_dbfs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build.build_autoencoder(config, representation)
    hop = representation.hop_length
    margin = -(-representation.context_samples // hop) * hop
    objective = build.build_autoencoding(config, model, representation, margin)
    targets, others = _divide_labels(corpus.split_labels("train"), config, objective)
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
    clips = FeatureBatches(corpus, representation, torch.device("cpu"), targets, stored)
    model.fit(clips)
    if model.network.trainable:
        seconds = config.train_ae.segment_seconds or config.corpus.segment_seconds
        segment = units.seconds_to_samples(seconds, config.corpus.sample_rate) // hop * hop

        def source(
            split: str, gain_db: tuple[float, float], jitter: int, speed: float
        ) -> FeatureSource | SegmentSource | BesideOthers:
            if stored is not None:
                frames = units.n_frames(segment, hop)
                size = config.train_ae.batch_size
                return FeatureSource(corpus, stored, split, frames, hop, size, config.seed, targets)
            given = (segment, margin, config.train_ae.batch_size)
            sounds = SegmentSource(corpus, split, *given, config.seed, gain_db, jitter, speed, targets)
            if objective.corruption is None or not objective.corruption.of_others:
                return sounds
            held_out = split
            if not corpus.indices(split, others):
                reporter.warn(f"no {split} clips of other labels: their training clips are the noise there too")
                held_out = "train"
            seed = config.seed + SEED_OF_OTHERS
            return BesideOthers(sounds, SegmentSource(corpus, held_out, *given, seed, speed=speed, labels=others))

        validation = source("validation", (0.0, 0.0), 0, 0.0) if corpus.indices("validation", targets) else None
        training = source("train", GAIN_DB, hop, config.train_ae.speed)
        if only_rate:
            return _find_rate(run, config, objective, training, validation or training, device, reporter)
        outcome = train(
            objective,
            training,
            validation,
            config.train_ae,
            run.autoencoder,
            name="autoencoder",
            seed=config.seed,
            device=device,
            reporter=reporter,
        )
        model.cpu().load_state_dict(outcome.tensors)
        figures, steps, best = outcome.figures, outcome.total_steps, outcome.best_step
    else:
        figures, steps, best = {}, 0, 0
    if model.generative:
        model.eval().calibrate(clips)
    dump = config.model_dump(mode="json")
    write_artifact(
        run.autoencoder,
        {f"autoencoder.{name}": value for name, value in model.state_dict().items()}
        | {f"representation.{name}": value for name, value in representation.state_dict().items()},
        {
            "kind": "autoencoder",
            "config": dump,
            "inputs": {"corpus": corpus_fingerprint},
            "sample_rate": representation.sample_rate,
            "feature_rate": representation.feature_rate,
            "latent_rate": model.latent_rate,
            "latent_dim": model.latent_dim,
            "generative": model.generative,
            "n_parameters": build.n_parameters(model),
            "total_steps": steps,
            "best_step": best,
            "figures": figures,
        },
    )
    active = figures.get("active_dims")
    if active is not None and active < model.latent_dim / 4:
        reporter.warn(
            f"only {active:.0f} of {model.latent_dim} latent dimensions are in use; lower kl_weight or latent_dim"
        )
    return _ae_result(run, read_meta(run.autoencoder, "actseq train-ae"))


def rate_lines(result: Result) -> list[str]:
    """The result of `find_rate` for a person."""
    suggested = result["suggested"]
    if suggested is None:
        found = "the loss fell at no rate: look at the curve, the data and the network"
    else:
        found = f"suggested: --set train_ae.learning_rate={suggested:.2g} (configured is {result['configured']:g})"
    return [found, f"the loss is lowest at {result['lowest']:.2g}: {result['picture']}"]


def _find_rate(
    run: Run,
    config: Config,
    objective: Objective,
    training: Source,
    held_out: Source,
    device: torch.device,
    reporter: Reporter,
) -> Result:
    from actseq.rates import find_rate
    from actseq.sound_charts import learning_rates

    found = find_rate(
        objective, training, held_out, config.train_ae, seed=config.seed, device=device, reporter=reporter
    )
    picture = run.path / "plots" / "learning-rate.png"
    learning_rates(picture, found.rates, found.losses, found.smooth, found.suggested, run.name)
    steps = np.arange(1, len(found.rates) + 1)
    columns = {"step": steps, "learning_rate": found.rates, "loss": found.losses, "smoothed": found.smooth}
    write_table(picture.with_suffix(".csv"), columns)
    return {
        "run": str(run.path),
        "configured": config.train_ae.learning_rate,
        "suggested": found.suggested,
        "lowest": found.lowest,
        "steps": len(found.rates),
        "picture": str(picture),
    }


# -- stage two ----------------------------------------------------------------------------------------------------------


def extract_latents(
    run: str | Path,
    *,
    overrides: Iterable[str] = (),
    device: str = "auto",
    threads: int | None = None,
    reporter: Reporter | None = None,
) -> Result:
    """Encode every clip of a run's corpus. Resumes; does nothing where it is done."""
    reporter = reporter or Silent()
    opened = Run.open(run)
    use_threads(threads)
    require_generative(opened)
    codec, config, autoencoder = load_codec(opened, device, None)
    section = stage_config(config, overrides, "extract-latents").latents
    inputs = {
        "autoencoder": autoencoder,
        "corpus": read_json(opened.corpus / "corpus.json")["fingerprint"],
        "latents": section.model_dump(mode="json"),
    }
    with opened.lock(opened.latents):
        done = begin_store(opened.latents, inputs, f"the latents of run {opened.name}")
        if done is not None:
            reporter.say(f"latents: already extracted ({opened.latents})")
            return done | {"run": str(opened.path)}
        corpus = Corpus(opened.corpus, config.corpus.level_dbfs)
        meta = _extract(opened, codec, corpus, section, config.seed, reporter) | {"inputs": inputs}
        write_json(opened.latents / "latents.json", meta)
    return meta | {"run": str(opened.path)}


@dataclass(frozen=True)
class _Pass:
    """One encoding of one clip: as it is, or a training clip at another speed."""

    index: int
    key: str
    split: str
    speed: float
    samples: int

    def waveform(self, corpus: Corpus, start: int, stop: int) -> Waveform:
        if self.speed == 1:
            return corpus.waveform(self.index, start, stop)
        return corpus.waveform_at_speed(self.index, self.speed, 0, start, stop)


def _passes(corpus: Corpus, section: configuration.LatentsConfig, seed: int) -> list[_Pass]:
    """All encodings to be made, short ones first."""
    passes = []
    for i, record in enumerate(corpus.store.records):
        passes.append(_Pass(i, record.key, str(record.extra["split"]), 1.0, record.length))
        for k in range(section.copies if record.extra["split"] == "train" else 0):
            speed = random_speed(np.random.default_rng([seed, i, k]), section.copy_speed)
            passes.append(_Pass(i, f"{record.key} copy {k + 1}", COPIES, speed, max(1, round(record.length / speed))))
    return sorted(passes, key=lambda one: (one.samples, one.key))


def _extract(
    run: Run, codec: Codec, corpus: Corpus, section: configuration.LatentsConfig, seed: int, reporter: Reporter
) -> dict[str, Any]:
    from actseq.codec import BATCH_FRAMES, in_batches

    dtype = np.dtype(section.dtype)
    hop = codec.representation.hop_length
    passes = _passes(corpus, section, seed)
    frames = [units.n_frames(one.samples, hop) for one in passes]
    sizes = [
        dtype.itemsize * 2 * codec.autoencoder.latent_dim * units.n_latent_frames(f, codec.autoencoder.stride)
        for f in frames
    ]
    shards = group_shards(sizes)
    writer = StoreWriter(run.latents)
    done = writer.committed()
    seconds = round(sum(one.samples for one in passes) / codec.sample_rate)
    finished = sum(passes[j].samples for shard in done for j in shards[shard])
    reporter.begin("latents", seconds, finished // codec.sample_rate, unit="seconds of sound")
    begun, at_start = time.perf_counter(), finished

    def advance(samples: int) -> None:
        nonlocal finished
        finished += samples
        elapsed = time.perf_counter() - begun
        reporter.advance(
            finished // codec.sample_rate,
            {"× real time": (finished - at_start) / codec.sample_rate / max(elapsed, 1e-9)},
        )

    def pieces(one: _Pass) -> Iterator[Waveform]:
        for start in range(0, one.samples, audio.BLOCK):
            stop = min(one.samples, start + audio.BLOCK)
            yield one.waveform(corpus, start, stop)
            advance(stop - start)

    for number, members in enumerate(shards):
        if number in done:
            continue
        items = []
        for group in in_batches([frames[j] for j in members], BATCH_FRAMES, section.batch_size):
            chosen = [passes[members[j]] for j in group]
            if len(chosen) == 1:
                encoded = [codec.encode_pieces(pieces(chosen[0]))]
            else:
                encoded = codec.encode([one.waveform(corpus, 0, one.samples) for one in chosen])
                advance(sum(one.samples for one in chosen))
            for one, (mean, log_variance) in zip(chosen, encoded, strict=True):
                record = corpus.store.records[one.index]
                both = mean if log_variance is None else np.concatenate([mean, log_variance], axis=1)
                items.append(
                    (
                        one.key,
                        both.astype(dtype),
                        {
                            "label": record.extra["label"],
                            "split": one.split,
                            "speed": one.speed,
                            "begins": record.extra["begins"],
                            "ends": record.extra["ends"],
                            "clip_sha256": record.sha256,
                        },
                    )
                )
        writer.write_shard(number, items)
    reporter.end()
    store = SequenceStore(run.latents)
    return {
        "latent_dim": codec.autoencoder.latent_dim,
        "latent_rate": codec.autoencoder.latent_rate,
        "n_sequences": len(store),
        "n_frames": sum(r.length for r in store.records),
        "fingerprint": store.fingerprint(),
    }


# -- stage three --------------------------------------------------------------------------------------------------------


def train_prior(
    run: str | Path,
    *,
    name: str = "default",
    overrides: Iterable[str] = (),
    seed: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    reporter: Reporter | None = None,
) -> Result:
    """Train a prior on a run's latents. Resumes; does nothing where it is done."""
    import torch

    from actseq import build
    from actseq.priors.ends import calibrate
    from actseq.training import resolve_device, train

    reporter = reporter or Silent()
    _check_name(name, "prior")
    if name in build.UNTRAINED_PRIORS:
        raise ConfigError(
            f"'{name}' is the name of a prior that needs no training", action="give the new one another --name"
        )
    opened = Run.open(run)
    require_generative(opened)
    meta_ae = read_meta(opened.autoencoder, f"actseq train-ae … --run {opened.name}")
    config = stage_config(configuration.parse(Config, meta_ae["config"]), overrides, "train-prior")
    seed = config.seed if seed is None else seed
    latents, latents_meta = load_latents(opened, fingerprint(opened.autoencoder))
    inputs = {"autoencoder": latents_meta["inputs"]["autoencoder"], "latents": latents_meta["fingerprint"]}
    folder = opened.priors / name
    sections = {key: config.model_dump(mode="json")[key] for key in ("prior", "train_prior")} | {"seed": seed}
    use_threads(threads)
    with opened.lock(folder):
        plan = folder / "settings.json"
        if plan.is_file():
            same_settings(
                read_json(plan),
                sections | inputs,
                f"prior {name} of run {opened.name}",
                f"give the new one another --name, or delete {folder}",
            )
        if (folder / "model.json").is_file():
            reporter.say(f"prior: already trained ({folder})")
            return _prior_result(opened, folder)
        write_json(plan, sections | inputs)
        labels, statistics = latents.labels, latents.statistics()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build.build_prior(config, latents.latent_dim, len(statistics.active), labels)
        standardiser = model.prior.standardiser
        standardiser.active.copy_(torch.from_numpy(statistics.active))
        standardiser.mean.copy_(torch.from_numpy(statistics.mean))
        standardiser.deviation.copy_(torch.from_numpy(statistics.deviation))
        dead = latents.latent_dim - len(statistics.active)
        if dead:
            reporter.say(f"{dead} of {latents.latent_dim} latent dimensions carry nothing and are drawn from N(0, 1)")
        section = config.train_prior

        def source(split: str) -> SequenceSource:
            return SequenceSource(latents, split, labels, section.frames, section.batch_size, seed)

        validation = source("validation") if latents.indices("validation") else None
        outcome = train(
            build.build_sequence(config, model),
            source("train"),
            validation,
            section,
            folder,
            name=f"prior {name}",
            seed=seed,
            device=resolve_device(device),
            reporter=reporter,
        )
        model.load_state_dict(outcome.tensors)
        if calibrate(model.eval(), *latents.known_lengths(labels), seed):
            reporter.say("ends calibrated on what the prior makes")
        write_artifact(
            folder,
            {f"prior.{key}": value for key, value in model.state_dict().items()},
            {
                "kind": "prior",
                "config": config.model_dump(mode="json"),
                "seed": seed,
                "inputs": inputs,
                "labels": labels,
                "latent_dim": latents.latent_dim,
                "n_active": len(statistics.active),
                "n_parameters": build.n_parameters(model),
                "total_steps": outcome.total_steps,
                "best_step": outcome.best_step,
                "figures": outcome.figures,
            },
        )
    return _prior_result(opened, folder)


def _prior_result(run: Run, folder: Path) -> Result:
    meta = read_meta(folder, "actseq train-prior")
    return {
        "run": str(run.path),
        "prior": str(folder),
        "fingerprint": fingerprint(folder),
        **{key: meta[key] for key in ("labels", "figures", "total_steps", "n_parameters")},
    }


def _check_name(name: str, what: str) -> None:
    if not re.fullmatch(r"\w[\w .-]*", name):
        raise ConfigError(f"'{name}' is no name for a {what}", "letters, digits, '-', '_' and '.'")


# -- vocoder ------------------------------------------------------------------------------------------------------------


def train_vocoder(
    run: str | Path,
    *,
    name: str = "default",
    overrides: Iterable[str] = (),
    seed: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    reporter: Reporter | None = None,
) -> Result:
    """Train a vocoder, then compare all of the run's with the one that needs no training; the winner is what `auto` means.

    Resumes; does nothing where it is done.
    """
    import torch

    from actseq import build
    from actseq.training import train

    reporter = reporter or Silent()
    _check_name(name, "vocoder")
    opened = Run.open(run)
    meta_ae = read_meta(opened.autoencoder, f"actseq train-ae … --run {opened.name}")
    config = stage_config(configuration.parse(Config, meta_ae["config"]), overrides, "train-vocoder")
    section, seed = config.train_vocoder, config.seed if seed is None else seed
    use_threads(threads)
    codec, _, _ = load_codec(opened, device, None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build.build_vocoder_network(config, codec.representation)
        objective = build.build_vocoding(config, model, codec.representation, codec.autoencoder)
    inputs = vocoder_inputs(opened, meta_ae, config)
    if read_json(opened.corpus / "corpus.json")["fingerprint"] != inputs["corpus"]:
        raise ArtifactError(
            f"the autoencoder of run {opened.name} was trained on another corpus", action="copy the run again"
        )
    made_from = {key: value for key, value in inputs.items() if key != "autoencoder" or objective.uses_autoencoder}
    corpus = Corpus(opened.corpus, config.corpus.level_dbfs)
    folder = opened.vocoders / name
    settings = {"train_vocoder": section.model_dump(mode="json"), "seed": seed} | made_from
    with opened.lock(folder):
        plan = folder / "settings.json"
        if plan.is_file():
            same_settings(
                read_json(plan),
                settings,
                f"vocoder {name} of run {opened.name}",
                f"give the new one another --name, or delete {folder}",
            )
        if (folder / "model.json").is_file():
            reporter.say(f"vocoder: already trained ({folder})")
        else:
            write_json(plan, settings)
            model.normaliser.fit(FeatureBatches(corpus, codec.representation, codec.device))
            hop = codec.representation.hop_length

            def source(split: str, gain_db: tuple[float, float], jitter: int) -> SegmentSource:
                samples = section.frames * hop
                return SegmentSource(
                    corpus, split, samples, objective.margin, section.batch_size, seed, gain_db, jitter
                )

            outcome = train(
                objective,
                source("train", GAIN_DB, hop),
                source("validation", (0.0, 0.0), 0) if corpus.indices("validation") else None,
                section,
                folder,
                name=f"vocoder {name}",
                seed=seed,
                device=codec.device,
                reporter=reporter,
            )
            write_artifact(
                folder,
                {f"vocoder.{key}": value for key, value in outcome.tensors.items()},
                {
                    "kind": "vocoder",
                    "config": config.model_dump(mode="json"),
                    "seed": seed,
                    "inputs": made_from,
                    "n_parameters": build.n_parameters(model),
                    "total_steps": outcome.total_steps,
                    "best_step": outcome.best_step,
                    "figures": outcome.figures,
                },
            )
    meta = read_meta(folder, "actseq train-vocoder")
    return {
        "run": str(opened.path),
        "vocoder": str(folder),
        "fingerprint": fingerprint(folder),
        **{key: meta[key] for key in ("figures", "total_steps", "n_parameters")},
        "choice": _choose_vocoder(opened, name, codec, corpus, inputs, reporter),
    }


def _choose_vocoder(
    run: Run,
    just_trained: str,
    codec: Codec,
    corpus: Corpus,
    inputs: dict[str, str],
    reporter: Reporter,
) -> Result:
    """Score all vocoders of a run on its validation clips and write down the winner, unless that is done."""
    from actseq import build, choice
    from actseq.excerpts import spread

    untrained = build.untrained_vocoder(codec.representation)
    first = f"{untrained.kind} (untrained)"
    vocoders = {first: build.build_vocoder(untrained, codec.representation)}
    members: dict[str, Result] = {first: {"vocoder": untrained.model_dump(), "fingerprint": None}}
    for name in run.trained_vocoders():
        try:
            vocoders[name] = load_vocoder(run, name, codec.representation, inputs)
        except ArtifactError as error:
            if name == just_trained:
                raise
            reporter.warn(f"not compared: {error}")
            continue
        members[name] = {
            "vocoder": build.trained(name=name).model_dump(),
            "fingerprint": fingerprint(run.vocoders / name),
        }
    with run.lock(run.vocoders):
        if run.choice.is_file():
            made = read_json(run.choice)
            known = {name: {key: row[key] for key in members[first]} for name, row in made["candidates"].items()}
            if made["inputs"] == inputs and known == members:
                return made
        indices = spread(corpus.indices("validation"), choice.CLIPS)
        for vocoder in vocoders.values():
            vocoder.to(codec.device)  # type: ignore[attr-defined]
        if indices:
            scores = choice.score(vocoders, codec, corpus, indices, reporter)
            found, winner = choice.figures(scores, first), choice.decide(scores, first)
            why = choice.reason(found, first, winner)
        else:
            found, winner = {}, first
            why = f"chosen: {first}. The run has no validation clips to compare on."
        result = {
            "inputs": inputs,
            "split": "validation",
            "clips": len(indices),
            "seconds": choice.SECONDS,
            "decided_by": f"{choice.DECIDES} of {choice.WAYS[0]}, mean over clips",
            "candidates": {name: member | found.get(name, {}) for name, member in members.items()},
            "winner": {"name": winner, **members[winner]},
            "reason": why,
        }
        write_json(run.choice, result)
    return result


def choice_lines(result: Result) -> list[str]:
    """The comparison of `train-vocoder` as a table, and what was chosen."""
    from actseq.choice import table

    rows = table(result["candidates"]) if result["clips"] else []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return [f"on {result['clips']} validation clips", *lines, result["reason"]]


# -- all stages ---------------------------------------------------------------------------------------------------------


def run_all(
    folder: Path,
    preset: str,
    *,
    run: str | None = None,
    minutes: float | None = None,
    vocoder: bool = False,
    overrides: Iterable[str] = (),
    device: str = "auto",
    threads: int | None = None,
    reporter: Reporter | None = None,
) -> Result:
    """All stages; each is skipped when it is done with the same inputs. An autoencoder that only restores is all of it.

    Args:
        minutes: of all stages together.
        vocoder: train one too, and keep the better of it and the one that needs no training.
    """
    from actseq import build

    reporter = reporter or Silent()
    overrides = list(overrides)
    if minutes is not None:
        network = configuration.load_preset(preset, overrides).autoencoder.network
        shares = MINUTES_SHARE_WITH_VOCODER if vocoder else MINUTES_SHARE
        shares = shares if build.is_generative(network) else {"train_ae": 1.0}
        overrides = [f"{section}.minutes={share * minutes:g}" for section, share in shares.items()] + overrides
    config = configuration.load_preset(preset, overrides)
    if vocoder:
        # A representation that no vocoder can be trained on is found out before hours of training.
        build.build_vocoder_network(build.complete(config), build.build_representation(config))
    first = _train_ae(folder, config, run, device, threads, reporter)
    made = first["run"]
    _same_later_sections(Run(Path(made)), config)
    if not build.is_generative(config.autoencoder.network):
        reporter.say("latents and prior are left out: this autoencoder has skip connections, it restores")
        return {"run": made, "autoencoder": first}
    result = {
        "run": made,
        "autoencoder": first,
        "latents": extract_latents(made, device=device, threads=threads, reporter=reporter),
        "prior": train_prior(made, device=device, threads=threads, reporter=reporter),
    }
    if vocoder:
        result["vocoder"] = train_vocoder(made, device=device, threads=threads, reporter=reporter)
    return result


def _same_later_sections(run: Run, config: Config) -> None:
    """`run` promises its own settings for every stage: refuse a run whose configuration says otherwise."""
    from actseq import build

    stored, asked = run.read_config().model_dump(mode="json"), build.complete(config).model_dump(mode="json")
    same_settings(stored, asked, f"run {run.name}", "name another with --run, or delete it")


# -- using a run --------------------------------------------------------------------------------------------------------


def generate(
    run: str | Path,
    *,
    prior: str | None = None,
    n: int = 1,
    seconds: float | None = None,
    until_stop: bool = False,
    label: str | None = None,
    seed_audio: Path | None = None,
    seed_seconds: float | None = None,
    include_seed: bool = True,
    through: Sequence[Path] = (),
    vary: Path | None = None,
    amount: float = 0.3,
    controls: Mapping[str, float | None] | None = None,
    seed: int = 0,
    out: Path | None = None,
    compile_to: Path | None = None,
    keep_dry: bool = False,
    overrides: Iterable[str] = (),
    device: str = "auto",
    threads: int | None = None,
    reporter: Reporter | None = None,
) -> Result:
    """Write new clips with a JSON beside each, as they grow: an hour needs no more memory than a minute.

    With effects (`generate.effects`) each clip is held in memory as a whole once it has grown, one at a time.

    Args:
        seed_seconds: use only so much of the beginning of `seed_audio`.
        include_seed: put the seed itself before what continues it.
        through: sounds to go through instead; see `LoadedRun.through`.
        vary: a sound to make variations of instead; see `LoadedRun.vary`.
        amount: of the variation.
        controls: as of `LoadedRun.stream`, like the other arguments.
        out: folder for the clips; default `generated/<time>-<seed>` in the run.
        compile_to: also write all clips in a row to this file.
        keep_dry: also write each clip as it is before the effects, as `000.dry.wav`.
    """
    reporter = reporter or Silent()
    use_threads(threads)
    if seconds is not None and until_stop:
        raise ConfigError("--seconds and --until-stop exclude each other")
    ways = {"--prior": prior, "--seed-audio": seed_audio, "--through": through, "--vary": vary}
    asked = [way for way, value in ways.items() if value]
    if len(asked) > 1 and asked != ["--prior", "--seed-audio"]:
        raise ConfigError(f"{' and '.join(asked)} exclude each other")
    if through and (label is not None or n != 1 or any(value is not None for value in (controls or {}).values())):
        raise ConfigError("--through knows no label, no --n and no sampling controls", action="leave them out")
    if vary and (seconds is not None or until_stop):
        raise ConfigError("a variation is as long as its sound", action="leave out the length")
    require_generative(Run.open(run))
    loaded = LoadedRun.open(run, prior=prior, device=device, overrides=overrides, need_prior=not through and not vary)
    through_effects = _effects(loaded.config, keep_dry)
    given = {name: value for name, value in (controls or {}).items() if value is not None}
    fingerprints, name = loaded.fingerprints, loaded.prior_name
    if through:
        sounds = [_load(path, loaded.sample_rate, reporter) for path in through]
        pieces, name = loaded.through(sounds, seconds=seconds), "interpolate"
        fingerprints.pop("prior", None)
    elif vary:
        sound = _load(vary, loaded.sample_rate, reporter)
        pieces, name = loaded.vary(sound, amount, n, label=label, seed=seed, **given), "vary"
        fingerprints.pop("prior", None)
        fingerprints["latents"] = str(read_json(loaded.run.latents / "latents.json")["fingerprint"])
    else:
        seed_waveform = None
        if seed_audio is not None:
            seed_waveform = _load(seed_audio, loaded.sample_rate, reporter)
            if seed_seconds is not None:
                seed_waveform = seed_waveform[: units.seconds_to_samples(seed_seconds, loaded.sample_rate)]
        pieces = loaded.stream(
            n,
            seconds=seconds,
            until_stop=until_stop,
            label=label,
            seed_audio=seed_waveform,
            include_seed=include_seed,
            seed=seed,
            **given,
        )
    common: Result = {
        "of": n,
        "settings": {
            "label": label,
            "seconds": seconds,
            "until_stop": until_stop,
            "seed": seed,
            "seed_audio": None if seed_audio is None else str(seed_audio),
            "seed_seconds": seed_seconds,
            "include_seed": include_seed,
            "through": [str(path) for path in through],
            "vary": None if vary is None else str(vary),
            "amount": amount if vary else None,
            **loaded.config.generate.model_dump(exclude={"seconds"}),
            **given,
            "vocoder": loaded.config.vocoder.model_dump(),
        },
        "fingerprints": fingerprints,
        "run": loaded.run.name,
        "prior": name,
    }
    folder = out or _unused(loaded.run.generated / f"{time.strftime('%Y%m%d-%H%M%S')}-{seed}")
    length = None if until_stop or through or vary else loaded.config.generate.seconds
    length = length if seconds is None else seconds
    begun = time.perf_counter()
    peak = None if seed_audio is not None or vary is not None else loaded.new_peak
    made = _write_pieces(pieces, folder, common, loaded.sample_rate, length, peak, through_effects, keep_dry, reporter)
    elapsed = time.perf_counter() - begun
    endless = sum(not clip["stopped"] for clip in made)
    if endless and length is None:
        bound = common["settings"]["max_seconds"]
        reporter.warn(
            f"{endless} of {n} clips had not ended after max_seconds = {bound:g} and were cut "
            "(--seconds sets a length, --max-seconds the bound)"
        )
    result: Result = {
        "run": str(loaded.run.path),
        "folder": str(folder),
        "files": [str(folder / clip["file"]) for clip in made],
        "seconds": sum(clip["seconds"] for clip in made),
    }
    reporter.say(f"{result['seconds']:.1f} s of sound in {elapsed:.1f} s")
    if compile_to is not None:
        _compile(result["files"], compile_to, loaded.sample_rate)
        result["compiled"] = str(compile_to)
    return result


def _write_pieces(
    pieces: Iterator[Piece],
    folder: Path,
    common: Result,
    sample_rate: int,
    seconds: float | None,
    peak: float | None,
    through_effects: Process | None,
    keep_dry: bool,
    reporter: Reporter,
) -> list[Result]:
    """Clips as they grow, each with its JSON once it is whole; what the JSONs hold, in order."""
    _make_folder(folder)
    n = common["of"]
    if seconds is None:
        reporter.begin("generate", n, unit="clips")
    else:
        reporter.begin("generate", round(n * seconds), unit="seconds of sound")
    growing: dict[int, tuple[ExitStack, audio.Writer, int]] = {}
    made: dict[int, Result] = {}
    done = 0
    for piece in pieces:
        if piece.clip not in growing:
            stack = ExitStack()
            path = folder / f"{piece.clip:03d}.wav"
            dry = path.with_suffix(".dry.wav") if keep_dry else None
            writer = stack.enter_context(audio.Writer(path, sample_rate, peak=peak, through=through_effects, dry=dry))
            growing[piece.clip] = (stack, writer, 0)
        stack, writer, frames = growing[piece.clip]
        writer.write(piece.waveform)
        growing[piece.clip] = (stack, writer, frames + len(piece.latents))
        done += len(piece.waveform)
        if piece.end is not None:
            stack.close()
            if peak is None:
                _tell_gain(writer.path, writer.gain, reporter)
            _tell_gain(writer.path, writer.through_gain, reporter)
            join = piece.end.join
            made[piece.clip] = common | {
                "index": piece.clip,
                "file": writer.path.name,
                "latent_frames": growing.pop(piece.clip)[2],
                "stopped": piece.end.stopped,
                "seconds": units.samples_to_seconds(writer.samples, sample_rate),
                "join_seconds": None if join is None else units.samples_to_seconds(join, sample_rate),
                "gain": writer.gain,
                "effects_gain": writer.through_gain,
                "dry": None if writer.dry is None else writer.dry.name,
            }
            write_json(writer.path.with_suffix(".json"), made[piece.clip])
        reporter.advance(len(made) if seconds is None else done // sample_rate)
    reporter.end()
    return [made[i] for i in sorted(made)]


def _effects(config: Config, keep_dry: bool) -> Process | None:
    """What clips are sent through; None where there are no effects."""
    from actseq import build
    from actseq.effects import chain

    if config.generate.effects:
        return chain(build.build_effects(config))
    if keep_dry:
        raise ConfigError("--keep-dry without effects: every clip is dry", action="give an --effect, or leave it out")
    return None


def _compile(files: Sequence[str], target: Path, sample_rate: int) -> None:
    """All clips in a row with silence between, from disk to disk."""
    from actseq.generation import GAP_SECONDS

    gap = np.zeros(units.seconds_to_samples(GAP_SECONDS, sample_rate), np.float32)
    with audio.Writer(target, sample_rate) as writer:
        for i, file in enumerate(files):
            if i:
                writer.write(gap)
            for block in audio.blocks(Path(file)):
                writer.write(block)


def _load(path: Path, sample_rate: int, reporter: Reporter) -> Waveform:
    """A file at the model's rate; what was changed is told."""
    waveform, own_rate = audio.load(path)
    waveform, offset = audio.remove_offset(waveform)
    _tell_changes(path, offset, own_rate, sample_rate, reporter)
    return waveform if own_rate == sample_rate else audio.resample(waveform, own_rate, sample_rate)


def _tell_changes(path: Path, offset: float, own_rate: int, sample_rate: int, reporter: Reporter) -> None:
    if offset:
        reporter.say(f"{path.name}: a constant offset of {offset:.3f} was removed")
    if own_rate != sample_rate:
        reporter.say(f"{path.name}: resampled from {own_rate} to {sample_rate} Hz")


def _unused(folder: Path) -> Path:
    """The folder, or with a number after its name where an earlier call has taken it."""
    names = (folder.with_name(folder.name + suffix) for suffix in ("", *(f"-{k}" for k in range(2, 1000))))
    return next(path for path in names if not path.exists())


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AudioError(
            f"the folder {folder} cannot be made ({error.strerror})", action="name another with --out"
        ) from None


def _tell_gain(path: Path, gain: float, reporter: Reporter) -> None:
    if gain != 1.0:
        reporter.warn(f"{path.name} was turned down by {-20 * np.log10(gain):.1f} dB so as not to clip")


def reconstruct(
    run: str | Path,
    paths: Sequence[Path],
    *,
    out: Path,
    keep_dry: bool = False,
    overrides: Iterable[str] = (),
    device: str = "auto",
    threads: int | None = None,
    reporter: Reporter | None = None,
) -> Result:
    """Files or folders through encoder, decoder and vocoder; relative names are kept. Foreign sounds are welcome.

    All files are read once before the first is reconstructed. Each then goes piece by piece from disk to disk, so that a
    long one needs no more memory than a short one (unless the network's context is unbounded, or there are effects).

    Args:
        keep_dry: also write each result as it is before the effects, as `<name>.dry.wav`.
    """
    reporter = reporter or Silent()
    use_threads(threads)
    opened = Run.open(run)
    meta = read_meta(opened.autoencoder, f"actseq train-ae … --run {opened.name}")
    config = stage_config(configuration.parse(Config, meta["config"]), overrides, "generate")
    through_effects = _effects(config, keep_dry)
    codec, used, _ = load_codec(opened, device, config.vocoder)
    jobs = [(path, relative) for given in paths for path, relative in _inputs(given)]
    targets = [out / relative.with_suffix(".wav") for _, relative in jobs]
    for (path, _), target in zip(jobs, targets, strict=True):
        if target.resolve() == path.resolve():
            raise ConfigError(
                f"{path} would be overwritten by its own reconstruction", action="give another folder with --out"
            )
    written = targets + [target.with_suffix(".dry.wav") for target in targets if keep_dry]
    twice = sorted({str(target) for target in written if written.count(target) > 1})
    if twice:
        raise ConfigError(
            f"several inputs would be written to {twice[0]}", action="reconstruct them into different folders"
        )
    reporter.begin("read", len(jobs), unit="files")
    recordings, failed = [], []
    for i, ((path, _), target) in enumerate(zip(jobs, targets, strict=True)):
        try:
            recording = audio.measure(path, codec.sample_rate)
        except AudioError as error:
            failed.append({"file": str(path), "reason": str(error)})
            reporter.warn(f"skipped {error}")
            continue
        _tell_changes(path, recording.offset, recording.own_rate, codec.sample_rate, reporter)
        recordings.append((recording, target))
        reporter.advance(i + 1)
    reporter.end()
    if not recordings:
        raise AudioError(
            "none of the given files could be read", action=failed[0]["reason"] if failed else "give audio files"
        )
    total = sum(recording.samples for recording, _ in recordings)
    reporter.begin("reconstruct", round(total / codec.sample_rate), unit="seconds of sound")
    files, done = [], 0
    for recording, target in recordings:
        gain = np.float32(level_gain(recording.peak, codec.level_dbfs))
        stream = codec.reconstruct_stream()
        _make_folder(target.parent)
        dry = target.with_suffix(".dry.wav") if keep_dry else None
        with audio.Writer(target, codec.sample_rate, through=through_effects, dry=dry) as writer:
            for block in recording.blocks():
                writer.write(stream.push(block * gain) / gain)
                done += len(block)
                reporter.advance(done // codec.sample_rate)
            writer.write(stream.finish() / gain)
        _tell_gain(target, writer.gain, reporter)
        _tell_gain(target, writer.through_gain, reporter)
        files.append(str(target))
    reporter.end()
    return {
        "run": str(opened.path),
        "folder": str(out),
        "files": files,
        "skipped": failed,
        "vocoder": used.vocoder.model_dump(),
        "effects": [effect.model_dump() for effect in config.generate.effects],
    }


def restore(
    run: str | Path,
    paths: Sequence[Path],
    *,
    out: Path,
    overrides: Iterable[str] = (),
    device: str = "auto",
    threads: int | None = None,
    reporter: Reporter | None = None,
) -> Result:
    """Files or folders freed of what a run has learned to take away; as `reconstruct`, which is what it does.

    The peak of each file is brought to the corpus's level, noise included, and the gain undone after.

    Raises:
        ConfigError: the run was not trained with a corruption of its crops.
    """
    opened = Run.open(run)
    meta = read_meta(opened.autoencoder, f"actseq train-ae … --run {opened.name}")
    if not restores(configuration.parse(Config, meta["config"])):
        raise ConfigError(
            f"run {opened.name} was not trained to take anything away from a sound",
            "a run with train_ae.corruption of kind noise, as preset restore has",
            f"use actseq reconstruct {opened.name} PATH… --out DIR, or train one with --preset restore",
        )
    return reconstruct(run, paths, out=out, overrides=overrides, device=device, threads=threads, reporter=reporter)


def restores(config: Config) -> bool:
    """Whether an autoencoder is shown corrupted sounds and asked for clean ones."""
    from actseq import build

    corruption = build.build_corruption(config)
    return corruption is not None and not corruption.of_grains


def _inputs(given: Path) -> list[tuple[Path, Path]]:
    if given.is_dir():
        return [(path, path.relative_to(given)) for path in audio.find(given)]
    if not given.is_file():
        raise AudioError(f"no file or folder {given}")
    return [(given, Path(given.name))]


# -- looking at a run ---------------------------------------------------------------------------------------------------


def info(run: str | Path) -> Result:
    """What a run holds and how far it is."""
    opened = Run.open(run)
    config = opened.read_config()
    provenance = opened.read_provenance()
    result: Result = {
        "run": str(opened.path),
        "preset": config.preset,
        "source": provenance["source"],
        "seed": config.seed,
        "versions": provenance["versions"],
        "commit": provenance["commit"],
    }
    if (opened.corpus / "corpus.json").is_file():
        meta = read_json(opened.corpus / "corpus.json")
        result["corpus"] = {key: meta[key] for key in ("clips", "found", "skipped", "fingerprint")}
    if (opened.features / "features.json").is_file():
        meta = read_json(opened.features / "features.json")
        result["features"] = {key: meta[key] for key in ("n_sequences", "n_frames", "channels", "fingerprint")}
    if (opened.autoencoder / "model.json").is_file():
        meta = read_meta(opened.autoencoder, "actseq train-ae")
        result["autoencoder"] = {
            key: meta[key]
            for key in (
                "sample_rate",
                "latent_rate",
                "latent_dim",
                "n_parameters",
                "total_steps",
                "best_step",
                "figures",
            )
        }
        result["autoencoder"]["fingerprint"] = fingerprint(opened.autoencoder)
    if (opened.latents / "latents.json").is_file():
        meta = read_json(opened.latents / "latents.json")
        result["latents"] = {key: meta[key] for key in ("n_sequences", "n_frames", "fingerprint")}
    result["priors"] = {}
    for path in sorted(opened.priors.glob("*/model.json")):
        meta = read_meta(path.parent, "actseq train-prior")
        result["priors"][path.parent.name] = {
            "network": meta["config"]["prior"]["network"]["kind"],
            "head": (meta["config"]["prior"]["head"] or {"kind": None})["kind"],
            **{key: meta[key] for key in ("labels", "n_active", "n_parameters", "total_steps", "best_step", "figures")},
        }
    result["vocoders"] = {}
    for name in opened.trained_vocoders():
        meta = read_meta(opened.vocoders / name, "actseq train-vocoder")
        result["vocoders"][name] = {
            "network": meta["config"]["train_vocoder"]["network"]["kind"],
            **{key: meta[key] for key in ("n_parameters", "total_steps", "best_step", "figures")},
            "fingerprint": fingerprint(opened.vocoders / name),
        }
    if result["vocoders"]:
        inputs = vocoder_inputs(opened, read_meta(opened.autoencoder, "actseq train-ae"), config)
        chosen = chosen_vocoder(opened, inputs)
        result["chosen vocoder"] = "untrained" if chosen is None else chosen.options["name"]
    return result


def verify(run: str | Path, *, reporter: Reporter | None = None) -> Result:
    """Read everything of a run again and compare it with its hashes.

    Raises:
        ArtifactError: something is not what was written; each case is named.
    """
    reporter = reporter or Silent()
    opened = Run.open(run)
    problems: list[str] = []
    checked: list[str] = []
    for folder in (opened.corpus, opened.features, opened.latents):
        marker = f"{folder.name}.json"
        if (folder / marker).is_file():
            store = SequenceStore(folder)
            found = store.verify()
            if not found and store.fingerprint() != read_json(folder / marker)["fingerprint"]:
                found = [f"{folder.name}: the manifest is not the one that {marker} names"]
            problems += found
            checked.append(f"{folder.name}: {len(store)} sequences")
    trained = ("priors/*/model.json", "vocoders/*/model.json", "classifier/model.json")
    made = sorted(path for pattern in trained for path in opened.path.glob(pattern))
    for folder in (opened.autoencoder, *(path.parent for path in made)):
        if (folder / "model.json").is_file():
            try:
                read_weights(folder, read_meta(folder, "its stage"))
                checked.append(f"{folder.relative_to(opened.path)}: weights")
            except ArtifactError as error:
                problems.append(str(error))
    if problems:
        for problem in problems:
            reporter.warn(problem)
        raise ArtifactError(
            f"{len(problems)} things in run {opened.name} are not what was written; the first: {problems[0]}"
        )
    return {"run": str(opened.path), "checked": checked}


def evaluate(
    run: str | Path,
    *,
    prior: str | None = None,
    split: str = "test",
    n: int | None = None,
    overrides: Iterable[str] = (),
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    reporter: Reporter | None = None,
) -> Result:
    """Measure a run on its held-out clips; also written to `evaluation.json` in the run, with a page to look and listen.

    With a prior by name, measure what that one generates; written to `evaluation-NAME.json`.

    Args:
        prior: name of the prior; None leaves generation out.
        split: `test`, or `validation` to choose settings by.
        n: measure fidelity on so many clips only, spread evenly over the split; of a prior, so many generated clips.
        seed: of what is drawn from posteriors, and of what is generated.
    """
    from actseq import build, evaluation
    from actseq.excerpts import spread
    from actseq.page import write_page
    from actseq.priors.conditions import ConditionedPrior

    reporter = reporter or Silent()
    use_threads(threads)
    loaded = LoadedRun.open(run, prior=prior, device=device, overrides=overrides)
    corpus = Corpus(loaded.run.corpus, loaded.config.corpus.level_dbfs)
    targets = loaded.config.train_ae.targets
    whole = corpus.indices(split, targets)
    if not whole:
        raise ArtifactError(f"run {loaded.run.name} has no clips in its {split} split", action="train on more files")
    if prior is not None:
        return _evaluate_prior(loaded, corpus, split, n, seed, reporter)
    latents = None if loaded.prior is None else load_latents(loaded.run, loaded.autoencoder)[0]
    indices = spread(whole, n)
    measured = evaluation.systems(loaded.codec, corpus, indices, seed, reporter, targets)
    found = evaluation.fidelity(measured, indices, reporter)
    result: Result = {
        "run": str(loaded.run.path),
        "autoencoder": loaded.autoencoder,
        "vocoder": loaded.config.vocoder.model_dump(),
        "seed": seed,
        "split": split,
        "clips": len(indices),
        "clips_in_split": len(whole),
        "fidelity": found.figures | {"rate": measured.rate},
        "notes": measured.notes,
    }
    if not loaded.codec.autoencoder.generative:
        result["notes"].append("the code is not all: what comes out has also come through skip connections")
    if restores(loaded.config):
        others = [] if targets is None else corpus.indices(split, set(corpus.labels) - set(targets))
        corruption = build.build_corruption(loaded.config)
        if corruption.of_others and not others:
            result["notes"].append(f"restoration is left out: there are no clips of other labels in the {split} split")
        else:
            result["restoration"] = evaluation.restoration(measured, corruption, indices, others, seed, reporter)
    if isinstance(loaded.prior, ConditionedPrior) and loaded.prior.prior.has_likelihood and latents is not None:
        result["bits_per_dim"] = evaluation.likelihood(loaded.prior, latents, split, seed)
    elif loaded.prior is not None:
        result["notes"].append(f"likelihood is left out: prior {loaded.prior_name} has none")
    elif loaded.run.trained_priors():
        known = ", ".join(loaded.run.trained_priors())
        result["notes"].append(f"likelihood is left out: none of the priors {known} is the default, --prior names one")
    shown = evaluation.shown_clips(measured, indices, found.mel_l1_db, reporter)
    page = write_page(loaded.run.path / "evaluation", result, shown, loaded.sample_rate)
    result["page"] = str(page)
    write_json(loaded.run.path / "evaluation.json", result)
    return result


def _evaluate_prior(
    loaded: LoadedRun, corpus: Corpus, split: str, n: int | None, seed: int, reporter: Reporter
) -> Result:
    from actseq import evaluation
    from actseq.likeness import CLIPS, likeness
    from actseq.priors.conditions import ConditionedPrior

    latents = load_latents(loaded.run, loaded.autoencoder)[0]
    result: Result = {
        "run": str(loaded.run.path),
        "prior": loaded.prior_name,
        "fingerprints": loaded.fingerprints,
        "vocoder": loaded.config.vocoder.model_dump(),
        "seed": seed,
        "split": split,
        "clips_in_split": len(corpus.indices(split)),
        "notes": [],
    }
    if isinstance(loaded.prior, ConditionedPrior) and loaded.prior.prior.has_likelihood:
        result["bits_per_dim"] = evaluation.likelihood(loaded.prior, latents, split, seed)
    else:
        result["notes"].append(f"likelihood is left out: prior {loaded.prior_name} has none")
    found = likeness(loaded, corpus, latents, split, n or CLIPS, seed, reporter)
    path = loaded.run.path / f"evaluation-{loaded.prior_name}.json"
    result |= {"generation": found.figures, "notes": result["notes"] + found.notes, "file": str(path)}
    write_json(path, result)
    return result


def evaluation_lines(result: Result) -> list[str]:
    """The result of `evaluate` as tables."""
    from actseq import page

    if "generation" in result:
        tables = page.generation_tables(result)
        lines = [page.generation_headline(result), *page.GENERATION_LEGEND, *result["notes"]]
        last = f"all figures: {result['file']}"
    else:
        tables = page.tables(result)
        lines = [page.headline(result), page.LEGEND, *result["notes"]]
        last = f"to look and listen: {result['page']}"
    return [*lines, *_aligned(tables), "", last]


def _aligned(tables: Iterable[list[list[str]]]) -> list[str]:
    lines: list[str] = []
    for table in tables:
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines.append("")
        lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
    return lines


def plot(
    run: str | Path,
    *,
    out: Path | None = None,
    split: str = "test",
    n: int | None = None,
    overrides: Iterable[str] = (),
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    reporter: Reporter | None = None,
) -> Result:
    """Pictures of what a run does to held-out clips, with the numbers of each in a CSV beside it.

    Args:
        out: folder for them; None: `plots/` in the run.
        split: `test` or `validation`.
        n: how many clips; None: up to 200 that make a minute together.
        seed: of the choice of clips and frames, and of what is drawn from posteriors.
    """
    from actseq.diagnostics import write_diagnostics

    use_threads(threads)
    opened = Run.open(run)
    meta = read_meta(opened.autoencoder, f"actseq train-ae … --run {opened.name}")
    config = stage_config(configuration.parse(Config, meta["config"]), overrides, "generate")
    codec, used, autoencoder = load_codec(opened, device, config.vocoder)
    corpus = Corpus(opened.corpus, codec.level_dbfs)
    folder = opened.path / "plots" if out is None else out
    _make_folder(folder)
    made = write_diagnostics(
        opened,
        codec,
        corpus,
        folder,
        split=split,
        targets=config.train_ae.targets,
        n=n,
        seed=seed,
        reporter=reporter or Silent(),
    )
    return {
        "run": str(opened.path),
        "autoencoder": autoencoder,
        "vocoder": used.vocoder.model_dump(),
        "seed": seed,
        **made.figures,
        "notes": made.notes,
        "folder": str(folder),
        "pictures": [str(path) for path in made.pictures],
    }


def plot_lines(result: Result) -> list[str]:
    """The result of `plot` as tables."""
    from actseq.diagnostics import headline, tables

    pictures = f"{len(result['pictures'])} pictures, each with its numbers in a CSV: {result['folder']}"
    return [headline(result), *result["notes"], *_aligned(tables(result)), "", pictures]


def report(
    run: str | Path,
    *,
    prior: str | None = None,
    n: int | None = None,
    overrides: Iterable[str] = (),
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
) -> Result:
    """A contact sheet of real, reconstructed, generated and continued clips, and all of them in one wav.

    Args:
        n: generated clips of each label; default: about 20 in all.
    """
    from actseq.report import write_report

    use_threads(threads)
    loaded = LoadedRun.open(run, prior=prior, device=device, overrides=overrides, need_prior=True)
    made = write_report(loaded, loaded.run.path / "report", n, seed)
    return {
        "run": str(loaded.run.path),
        "sheet": str(made.sheet),
        "compiled": str(made.compiled),
        "curves": [str(path) for path in made.curves],
    }
