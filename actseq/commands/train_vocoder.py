"""`train-vocoder`: train a vocoder, which has a name, on a corpus, and record the best vocoder of the run."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import torch

from actseq import build, registry
from actseq.commands.common import (
    AUTO,
    GAIN_DB,
    NO_BUDGET,
    Compute,
    Result,
    aligned,
    begin_training,
    check_name,
    refuse_settings,
    trained_result,
    won,
)
from actseq.config import Config
from actseq.data.corpus import Corpus
from actseq.data.excerpts import spread
from actseq.data.features import FeatureBatches
from actseq.data.segments import SegmentSource
from actseq.errors import ArtifactError
from actseq.evaluation import vocoder_choice
from actseq.evaluation.vocoder_choice import table
from actseq.inference.codec import Codec
from actseq.inference.loading import as_trained, load_codec, load_vocoder, stage_config
from actseq.progress import Reporter
from actseq.storage.artifacts import read_json, write_artifact, write_json
from actseq.storage.processes import here
from actseq.storage.run_folder import RunFolder
from actseq.training.conduct import Budget, Conduct
from actseq.training.loop import train


def train_vocoder(
    run: str | Path,
    *,
    name: str = "default",
    overrides: Iterable[str] = (),
    seed: int | None = None,
    compute: Compute = AUTO,
    budget: Budget = NO_BUDGET,
) -> Result:
    """Train a vocoder, then compare the run's vocoders with the one that needs no training.

    The winner is what `vocoder.kind=auto` stands for. An interrupted training resumes; a finished one is left alone.

    Args:
        name: name of the vocoder.
        seed: seed of the training; None: that of the run.
        budget: a plan to repeat, or minutes by which a finished training goes on, with the settings of the vocoder.

    Raises:
        ConfigError: the name is malformed, or the vocoder was started with other settings.
        ArtifactError: the corpus is not the one that the autoencoder was trained on.
        TrainingError: the training cannot go on.
    """
    reporter, more = compute.reporter, budget.more is not None
    check_name(name, "vocoder")
    opened = RunFolder.open(run)
    opened.require_corpus()
    config = stage_config(opened, overrides, "train-vocoder", compute.reporter)
    if more:
        refuse_settings(overrides, seed)
        trained = opened.vocoders.read(name)
        config, seed = as_trained(config, trained, "train-vocoder"), int(trained.meta["seed"])
    section, seed = config.train_vocoder, config.seed if seed is None else seed
    compute.use_threads()
    codec, _ = load_codec(opened, compute.device, config, vocoder=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build.build_vocoder_network(config, codec.representation)
        objective = build.build_vocoding(config, model, codec.representation, codec.autoencoder)
    inputs = opened.vocoder_inputs(config)
    if read_json(opened.corpus / "corpus.json")["fingerprint"] != inputs["corpus"]:
        raise ArtifactError(
            f"the autoencoder of run {opened.name} was trained on another corpus", action="copy the run again"
        )
    made_from = {key: value for key, value in inputs.items() if key != "autoencoder" or objective.uses_autoencoder}
    corpus = Corpus(opened.corpus, config.corpus.level_dbfs)
    folder = opened.vocoders.path / name
    settings = {"train_vocoder": section.model_dump(mode="json"), "seed": seed} | made_from
    with opened.lock(folder):
        if begin_training(opened, "vocoder", folder, settings, reporter, more=more):
            model.normaliser.fit(FeatureBatches(corpus, codec.representation, codec.device))
            hop = codec.representation.hop_length

            def source(split: str, gain_db: tuple[float, float], jitter: int) -> SegmentSource:
                samples = section.frames * hop
                return SegmentSource(
                    corpus,
                    split,
                    samples,
                    objective.margin,
                    section.batch_size,
                    seed,
                    gain_db,
                    jitter,
                    folder_balance=section.folder_balance,
                )

            outcome = train(
                objective,
                (
                    source("train", GAIN_DB, hop),
                    source("validation", (0.0, 0.0), 0) if corpus.indices("validation") else None,
                ),
                section,
                folder,
                name=f"vocoder {name}",
                seed=seed,
                conduct=Conduct(codec.device, reporter, budget, events=compute.events, threads=compute.threads),
            )
            taken = not more or won(folder, outcome, f"vocoder {name}", reporter)
            if taken and here().first:
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
            if here().first:
                opened.seal(folder)
    # The run has read its vocoder, which may be another one now.
    opened = RunFolder(opened.path)
    made = opened.vocoders.read(name)
    result = trained_result(opened, "vocoder", made, "figures", "total_steps", "n_parameters")
    return result | {"choice": _choose(opened, name, codec, corpus, config, reporter)}


def _choose(
    run: RunFolder,
    just_trained: str,
    codec: Codec,
    corpus: Corpus,
    config: Config,
    reporter: Reporter,
) -> Result:
    """Score all vocoders of a run on its validation clips and record the winner, unless that is done already."""
    inputs, untrained = run.vocoder_inputs(config), build.untrained_vocoder(codec.representation)
    first = f"{untrained.kind} (untrained)"
    vocoders = {first: build.build_vocoder(untrained, codec.representation)}
    members: dict[str, Result] = {first: {"vocoder": untrained.model_dump(), "fingerprint": None}}
    for name in run.vocoders.names:
        try:
            vocoders[name] = load_vocoder(run, name, codec.representation, config)
        except ArtifactError as error:
            if name == just_trained:
                raise
            reporter.warn(f"not compared: {error}")
            continue
        members[name] = {
            "vocoder": registry.trained(name=name).model_dump(),
            "fingerprint": run.vocoders.read(name).fingerprint,
        }
    processes = here()
    with run.lock(run.vocoders.path):
        if not processes.first:
            return processes.share({})
        if run.choice.is_file():
            made = read_json(run.choice)
            known = {name: {key: row[key] for key in members[first]} for name, row in made["candidates"].items()}
            if made["inputs"] == inputs and known == members:
                run.seal(run.vocoders.path)
                return processes.share(made)
        indices = spread(corpus.indices("validation"), vocoder_choice.CLIPS)
        for vocoder in vocoders.values():
            vocoder.to(codec.device)
        if indices:
            scores = vocoder_choice.score(vocoders, codec, corpus, indices, reporter)
            found = vocoder_choice.figures(scores, first)
            for name, speed in vocoder_choice.speeds(vocoders, codec, corpus, indices).items():
                # Rounded down: what is too slow stays so.
                found[name][vocoder_choice.SPEED] = math.floor(100 * speed) / 100
            slow = [name for name, row in found.items() if vocoder_choice.is_slow(row)]
            winner = vocoder_choice.decide(scores, first, slow)
            why = vocoder_choice.reason(found, first, winner)
        else:
            found, winner = {}, first
            why = f"chosen: {first}. The run has no validation clips to compare on."
        result = {
            "inputs": inputs,
            "split": "validation",
            "clips": len(indices),
            "seconds": vocoder_choice.SECONDS,
            "decided_by": f"{vocoder_choice.DECIDES} of {vocoder_choice.WAYS[0]}, mean over clips",
            "candidates": {name: member | found.get(name, {}) for name, member in members.items()},
            "winner": {"name": winner, **members[winner]},
            "reason": why,
        }
        write_json(run.choice, result)
        run.seal(run.vocoders.path)
        return processes.share(result)


def choice_lines(result: Result) -> list[str]:
    """The comparison of `train-vocoder` as lines for a person, and the winner."""
    rows = table(result["candidates"]) if result["clips"] else []
    return [f"on {result['clips']} validation clips", *aligned(rows), result["reason"]]
