"""`evaluate`: measure a run on its held-out clips."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from shlex import quote

from actseq import build
from actseq.commands.common import AUTO, Compute, Result, aligned
from actseq.commands.restore import restores
from actseq.corruptions.base import Damage
from actseq.data.corpus import Corpus
from actseq.data.excerpts import spread
from actseq.data.latents import LatentSequences
from actseq.errors import ArtifactError
from actseq.evaluation import fidelity, likelihood, sounds, tables
from actseq.evaluation.generated_clips import evaluate_prior
from actseq.evaluation.verdict import verdict
from actseq.inference.loaded_run import LoadedRun
from actseq.inference.loading import load_latents
from actseq.progress import Reporter
from actseq.storage.artifacts import write_json
from actseq.storage.run_folder import RunFolder


def evaluate(
    run: str | Path,
    *,
    prior: str | None = None,
    split: str = "test",
    n: int | None = None,
    overrides: Iterable[str] = (),
    seed: int = 0,
    compute: Compute = AUTO,
) -> Result:
    """Measure the fidelity of a run on its held-out clips, or with `prior` what that prior generates.

    Fidelity is written to `evaluation.json` in the run, a prior to `evaluation-NAME.json`; each has a folder of the
    same name with some of the sounds, which `report` shows.

    Args:
        prior: name of the prior to measure; None measures fidelity.
        split: `test`, or `validation` for choosing settings.
        n: number of clips, spread evenly over the split (None: all), or number of generated clips.
        seed: seed of the draws from posteriors, and of generation.

    Raises:
        ArtifactError: the split is empty, or the prior does not exist.
    """
    compute.use_threads()
    reporter = compute.reporter
    opened = RunFolder.open(run)
    opened.require_corpus()
    loaded = LoadedRun.open(opened, prior=prior, device=compute.device, overrides=overrides)
    corpus = Corpus(loaded.run.corpus, loaded.config.corpus.level_dbfs)
    targets = loaded.config.train_ae.targets
    whole = corpus.indices(split, targets)
    if not whole:
        chosen = getattr(loaded.config.corpus, split) == 0
        raise ArtifactError(
            f"run {loaded.run.name} has no clips in its {split} split",
            action=f"make a run with --set corpus.{split}=0.1" if chosen else "train on more files",
        )
    if prior is not None:
        return _evaluate_prior(loaded, corpus, split, n, seed, reporter)
    latents = None if loaded.prior is None else load_latents(loaded.run)[0]
    indices = spread(whole, n)
    measured = fidelity.systems(loaded.codec, corpus, indices, seed, reporter, targets)
    found = fidelity.fidelity(measured, indices, reporter)
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
        result["notes"].append("the latents are not the only path: the output has also come through skip connections")
    if restores(loaded.config):
        others = [] if targets is None else corpus.indices(split, set(corpus.labels) - set(targets))
        corruption = build.build_corruption(loaded.config)
        # Where there are no other labels at all, the run was trained without their clips.
        if isinstance(corruption, Damage) and (targets is None or set(corpus.labels) <= set(targets)):
            corruption.do_without_noise_clips()
        if corruption.uses_noise_clips and not others:
            result["notes"].append(f"restoration is left out: there are no clips of other labels in the {split} split")
        else:
            result["restoration"] = fidelity.restoration(measured, corruption, indices, others, seed, reporter)
    if latents is not None:
        _add_likelihood(result, loaded, latents, split, seed)
    elif loaded.run.priors.names:
        known = ", ".join(loaded.run.priors.names)
        result["notes"].append(f"likelihood is left out: none of the priors {known} is the default, --prior names one")
    shown = fidelity.shown_clips(measured, indices, found.mel_l1_db, reporter)
    folder = loaded.run.path / "evaluation"
    result["sounds"] = sounds.keep(folder, sounds.of_reconstruction(shown), loaded.sample_rate)
    write_json(loaded.run.path / "evaluation.json", result)
    return result


def _evaluate_prior(
    loaded: LoadedRun, corpus: Corpus, split: str, n: int | None, seed: int, reporter: Reporter
) -> Result:
    latents = load_latents(loaded.run)[0]
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
    _add_likelihood(result, loaded, latents, split, seed)
    found = evaluate_prior(loaded, corpus, latents, split, n, seed, reporter)
    path = loaded.run.path / f"evaluation-{loaded.prior_name}.json"
    result |= {"generation": found.figures, "notes": result["notes"] + found.notes, "file": str(path)}
    result["verdict"] = verdict(result)
    folder = loaded.run.path / f"evaluation-{loaded.prior_name}"
    result["sounds"] = sounds.keep(folder, found.shown, loaded.sample_rate)
    write_json(path, result)
    return result


def _add_likelihood(result: Result, loaded: LoadedRun, latents: LatentSequences, split: str, seed: int) -> None:
    """Add bits per dimension of the run's prior to the result, or a note that it has no likelihood."""
    if loaded.prior is not None and loaded.prior.prior.has_likelihood:
        result["bits_per_dim"] = likelihood.likelihood(loaded.prior, latents, split, seed)
    else:
        result["notes"].append(f"likelihood is left out: prior {loaded.prior_name} has none")


def evaluation_lines(result: Result) -> list[str]:
    """The result of `evaluate` as lines for a person."""
    if "generation" in result:
        found = tables.generation_tables(result)
        lines = [result["verdict"], *tables.generation_headline(result), *tables.GENERATION_LEGEND, *result["notes"]]
        last = [f"all figures: {result['file']}"]
    else:
        found = tables.tables(result)
        lines, last = [tables.headline(result), tables.LEGEND, *result["notes"]], []
    look = f"to look and listen: actseq report {quote(result['run'])}"
    return [*lines, *below_each_other(found), "", *last, look]


def below_each_other(tables: Iterable[list[list[str]]]) -> list[str]:
    """Tables as lines, with an empty line before each table."""
    return [line for table in tables for line in ("", *aligned(table))]
