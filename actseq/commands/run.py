"""`run`: all stages, one after another."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from actseq import audio, build, registry, units
from actseq import config as configuration
from actseq.commands.common import AUTO, NO_BUDGET, Compute, Result, compared, longer_command, own_budget
from actseq.commands.extract_latents import extract_latents
from actseq.commands.train_ae import stored_preset, train_configured
from actseq.commands.train_prior import train_prior
from actseq.commands.train_vocoder import train_vocoder
from actseq.config import Config
from actseq.data.corpus import Corpus
from actseq.data.survey import survey
from actseq.errors import ArtifactError, ConfigError
from actseq.evaluation.first_look import FILE, FirstLook, fingerprints, first_look
from actseq.inference.loaded_run import LoadedRun
from actseq.inference.loading import as_trained, load_latents
from actseq.progress import Reporter
from actseq.storage.artifacts import BUDGET, read_json, same_settings, write_json
from actseq.storage.processes import here
from actseq.storage.run_folder import RunFolder
from actseq.training.conduct import Budget

MINUTES_SHARE = {"train_ae": 0.7, "train_prior": 0.3}
MINUTES_SHARE_WITH_VOCODER = {"train_ae": 0.6, "train_prior": 0.25, "train_vocoder": 0.15}
CLOSING_SECONDS = 6.0
"""The last training leaves this much of the minutes for its preview, for the weights and for the verdict."""


@dataclass(frozen=True)
class RunResult:
    """What `run` has trained.

    Attributes:
        run: folder of the run.
        preset: name of its preset.
        autoencoder: result of `train_ae`.
        latents: result of `extract_latents`; None for an autoencoder that only restores.
        prior: result of `train_prior`; None for an autoencoder that only restores, and where the prior of the preset
            needs no training.
        vocoder: result of `train_vocoder`; None where none was requested.
        verdict: a sentence about what the run generates; None for an autoencoder that only restores.
        longer: where the verdict asks for more time, the commands that train the prior longer, and those that train
            the autoencoder longer and the prior again, under the names of these models; None otherwise.
    """

    run: str
    preset: str
    autoencoder: Result
    latents: Result | None = None
    prior: Result | None = None
    vocoder: Result | None = None
    verdict: str | None = None
    longer: dict[str, list[str]] | None = None


def run_all(
    folder: Path,
    preset: str | None = None,
    *,
    run: str | None = None,
    minutes: float | None = None,
    vocoder: bool = False,
    overrides: Iterable[str] = (),
    compute: Compute = AUTO,
    budget: Budget = NO_BUDGET,
) -> RunResult:
    """Train all stages; a finished stage with the same inputs is skipped.

    For an autoencoder that only restores (one with skip connections) there are no further stages.

    Args:
        folder: the sounds.
        preset: name of a preset, or path of a YAML file; None: that of the run, if it exists, or else the one that
            fits the sounds, see `actseq.data.survey`.
        minutes: training time of all stages together; None: the preset's.
        vocoder: also train a vocoder; the run uses it if it is better than the one that needs no training.
        budget: when the command began.

    Raises:
        ConfigError: preset or overrides are wrong, or the run exists with other settings.
        AudioError: the folder has no usable sound.
        TrainingError: a training cannot go on.
    """
    budget = budget.begin()
    config = configured(folder, preset, run, minutes, vocoder, overrides, compute.reporter)
    clock = StageClock.of(budget, config, minutes, vocoder)
    if minutes is not None:
        name = _name(run, folder, config)
        _same_minutes(config, name, minutes)
        clock.whole = not (RunFolder.locate(name).path / "config.yaml").is_file()
        budget = clock.budget("train_ae")
    first = train_configured(folder, config, run, compute, budget)
    made = first["run"]
    _same_later_sections(RunFolder(Path(made)), config)
    if not build.is_generative(config.autoencoder.network):
        compute.reporter.say("latents and prior are left out: this autoencoder has skip connections, it restores")
        clock.say(compute.reporter)
        return RunResult(made, config.preset, first)
    budget = clock.budget("train_prior")
    latents = extract_latents(made, compute=compute)
    prior = None
    if config.generate.prior in registry.UNTRAINED_PRIORS:
        compute.reporter.say(f"prior: {config.generate.prior}, which needs no training")
    else:
        name = config.generate.prior or "default"
        own = own_budget(RunFolder(Path(made)), "prior", name, config, compute.reporter)
        prior = train_prior(made, name=name, overrides=own, compute=compute, budget=budget)
    budget = clock.budget("train_vocoder")
    trained = None
    if vocoder:
        own = own_budget(RunFolder(Path(made)), "vocoder", "default", config, compute.reporter)
        trained = train_vocoder(made, overrides=own, compute=compute, budget=budget)
    if not here().first:
        return RunResult(made, config.preset, first, latents, prior, trained)
    loaded = LoadedRun.open(made, device=compute.device, need_prior=True)
    corpus = Corpus(loaded.run.corpus, loaded.config.corpus.level_dbfs)
    compute.reporter.say("generating some clips, to see what they are like")
    seen = first_look(loaded, corpus, load_latents(loaded.run)[0])
    _keep(seen, loaded.run, loaded.prior_name)
    clock.say(compute.reporter)
    longer = _longer(loaded.run, loaded.prior_name) if seen.poor else None
    return RunResult(made, config.preset, first, latents, prior, trained, seen.verdict, longer)


def _keep(seen: FirstLook, run: RunFolder, prior: str | None) -> None:
    """Write down what was seen, for the report, unless that stands there already."""
    path = run.path / FILE
    kept = asdict(seen) | {"prior": prior, "fingerprints": fingerprints(run, prior)}
    known: Result = {}
    if path.is_file():
        # One that is damaged is written again.
        with suppress(ArtifactError):
            known = read_json(path)
    if known != kept:
        write_json(path, kept)


def _longer(run: RunFolder, prior: str | None) -> dict[str, list[str]]:
    """The commands that train a prior longer, and those that train the autoencoder longer and the prior again."""
    autoencoder = longer_command(run, "autoencoder", "", run.read_config().train_ae)
    if prior is None or prior not in run.priors.names:
        return {"autoencoder": [autoencoder, run.extraction_command]}
    section = as_trained(run.read_config(), run.priors.read(prior), "train-prior").train_prior
    alone = longer_command(run, "prior", prior, section)
    again = [run.extraction_command, run.training_command("prior", prior)]
    return {"prior": [alone], "autoencoder": [autoencoder, *again]}


@dataclass
class StageClock:
    """What is left of the minutes of all stages.

    Attributes:
        begun: `time.perf_counter()` when the command began.
        minutes: of all stages together; None: each has the budget of its preset.
        shares: minutes of the stages that are trained, in their order.
        whole: whether every stage is trained by this command.
    """

    begun: float
    minutes: float | None
    shares: dict[str, float]
    whole: bool = False

    @staticmethod
    def of(budget: Budget, config: Config, minutes: float | None, vocoder: bool) -> StageClock:
        """The clock of a command, by its configuration."""
        assert budget.begun is not None
        shares = {name: getattr(config, name).minutes or 0.0 for name in ("train_ae", "train_prior")}
        if config.generate.prior in registry.UNTRAINED_PRIORS:
            del shares["train_prior"]
        if vocoder:
            shares["train_vocoder"] = config.train_vocoder.minutes or 0.0
        return StageClock(budget.begun, minutes, shares)

    def budget(self, stage: str) -> Budget:
        """The budget of a stage that begins now; it began earlier if those before it took longer than planned.

        The last stage also begins earlier by the time of what follows it.
        """
        now = time.perf_counter()
        if self.minutes is None or stage not in self.shares:
            return Budget(now)
        stages = list(self.shares)
        planned = self.begun + 60 * sum(self.shares[name] for name in stages[: stages.index(stage)])
        closing = min(CLOSING_SECONDS, 60 * self.minutes / 10) if stage == stages[-1] else 0.0
        return Budget(min(now, planned) - closing)

    def say(self, reporter: Reporter) -> None:
        """Say how long all stages took, and by how much that misses the minutes that were asked for."""
        if self.minutes is None or not self.whole:
            return
        asked, spent = 60 * self.minutes, time.perf_counter() - self.begun
        missed = f"{units.duration(abs(spent - asked))} {'more' if spent > asked else 'less'}"
        reporter.say(
            f"all stages took {units.duration(spent)}, {missed} than the {units.duration(asked)} that were asked for"
        )


def configured(
    folder: Path,
    preset: str | None,
    run: str | None,
    minutes: float | None,
    vocoder: bool,
    overrides: Iterable[str],
    reporter: Reporter,
) -> Config:
    """The configuration of a run of all stages; arguments as for `run_all`.

    Raises:
        ConfigError: preset or overrides are wrong, or a vocoder cannot be trained.
        AudioError: a preset is to be chosen, and no file can be opened.
    """
    overrides = list(overrides)
    if preset is None:
        preset = _fitting_preset(folder, run, overrides, reporter)
    if minutes is not None:
        network = build.complete(configuration.load_preset(preset, overrides)).autoencoder.network
        shares = MINUTES_SHARE_WITH_VOCODER if vocoder else MINUTES_SHARE
        untrained = configuration.load_preset(preset, overrides).generate.prior in registry.UNTRAINED_PRIORS
        if untrained or not build.is_generative(network):
            whole = {name: share for name, share in shares.items() if name != "train_prior"}
            whole = whole if untrained else {"train_ae": 1.0}
            shares = {name: share / sum(whole.values()) for name, share in whole.items()}
        overrides = [f"{section}.minutes={share * minutes:g}" for section, share in shares.items()] + overrides
    config = configuration.load_preset(preset, overrides)
    if minutes is None:
        config = _budgets_of(config, run, folder, reporter)
    if vocoder:
        # A representation that no vocoder can be trained on is refused before hours of training.
        completed = build.complete(config)
        build.build_vocoder_network(completed, build.build_representation(completed))
    return config


def _fitting_preset(folder: Path, run: str | None, overrides: list[str], reporter: Reporter) -> str:
    """The configuration of a run that exists, or the name of the preset that fits the sounds; says why it fits."""
    if stored := stored_preset(run):
        return stored
    # The keys that say which files are taken, and their labels, are the same in every preset.
    section = configuration.load_preset(configuration.preset_names()[0], overrides).corpus
    seen = survey(audio.SoundFolder(folder, section.labels, include_generated=section.include_generated))
    for line in seen.lines():
        reporter.say(line)
    return seen.preset


def _name(run: str | None, folder: Path, config: Config) -> str:
    """The run that is meant: the one that was named, or that of the folder and the preset."""
    return run or f"{folder.resolve().name}-{Path(config.preset).stem}"


def _budgets_of(config: Config, run: str | None, folder: Path, reporter: Reporter) -> Config:
    """The configuration with the steps and minutes of a run that exists, where other ones are not given by key."""
    made = RunFolder.locate(_name(run, folder, config))
    if not (made.path / "config.yaml").is_file():
        return config
    stored, sections = made.read_config(), {}
    for name in MINUTES_SHARE_WITH_VOCODER:
        before, now = (getattr(one, name) for one in (stored, config))
        budget = {key: getattr(before, key) for key in BUDGET}
        changed = now.model_copy(update=budget)
        if changed != now and not config.given & {f"{name}.{key}" for key in BUDGET}:
            sections[name] = changed
    if sections:
        reporter.say(f"run {made.name} goes on with the steps and minutes that it was begun with")
    return config.model_copy(update=sections)


def _same_minutes(config: Config, run: str, minutes: float) -> None:
    """Refuse other minutes than those that a run was made with, in the numbers that the user knows.

    Raises:
        ConfigError: they differ; the message says how to go on.
    """
    made = RunFolder.locate(run)
    if not (made.path / "config.yaml").is_file():
        return
    stored = made.read_config()
    sections = [name for name in MINUTES_SHARE_WITH_VOCODER if getattr(config, name).minutes is not None]
    before, asked = ({name: getattr(one, name).minutes for name in sections} for one in (stored, config))
    if before == asked or None in before.values():
        return
    changed = [name for name in sections if before[name] != asked[name]]
    total = sum(before[name] for name in changed) / sum(asked[name] for name in changed) * minutes
    more = max(1.0, minutes - total)
    prior, autoencoder = (f"{made.training_command(kind)} --more {more:.3g}" for kind in ("prior", "autoencoder"))
    raise ConfigError(
        f"run {made.name} was made with --minutes {total:.3g}, and --minutes {minutes:g} is asked for",
        action="the same command without --minutes goes on as the run was begun, and a finished stage goes on with "
        f"--more: {prior}, or {autoencoder}; or name another run with --run",
    )


def _same_later_sections(run: RunFolder, config: Config) -> None:
    """Refuse a run whose configuration has other settings for the later stages than the ones given now."""
    stored, asked = compared(run.read_config()), compared(build.complete(config))
    same_settings(stored, asked, f"run {run.name}", "name another with --run, or delete it")
