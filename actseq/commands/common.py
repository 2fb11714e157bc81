"""What several commands share: device and threads, named trainings, output folders, effects, messages."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actseq import units
from actseq.config import Config, TrainingConfig
from actseq.errors import AudioError, ConfigError
from actseq.progress import SILENT, Reporter
from actseq.storage.artifacts import BUDGET, WEIGHTS, Artifact, read_json, same_settings, write_json
from actseq.storage.processes import here
from actseq.storage.run_folder import RunFolder
from actseq.training.conduct import THREAD_VARIABLES, Budget

if TYPE_CHECKING:
    from actseq.effects import Process
    from actseq.training.loop import Outcome

Result = dict[str, Any]
ONE_THREAD = 1
"""Commands that make or pass single sounds compute with one thread: several gain little on what is small, and take many
times as long where other programs use the cores."""
GAIN_DB = (-3.0, 2.0)
"""Range of the random gain of training segments: peaks of −6 to −1 dBFS at the default level of the corpus."""


@dataclass(frozen=True)
class Compute:
    """Where a command computes, and to whom it reports.

    Attributes:
        device: `auto`, `cpu`, `cuda` or `mps`.
        threads: threads that torch computes with; None: one where single sounds are made, elsewhere torch's default.
        reporter: receives progress and messages.
        events: trainings also write their figures for TensorBoard, into `events/` of their folders.
        store: URL of a folder behind which the shards of a new run lie, under its name; see `actseq.storage.remote`.
            None: in the run.
    """

    device: str = "auto"
    threads: int | None = None
    reporter: Reporter = SILENT
    events: bool = False
    store: str | None = None

    def use_threads(self, usual: int | None = None) -> None:
        """Tell torch how many threads to compute with.

        Args:
            usual: number for commands that the user gave none; None: torch's own. An environment variable that says how
                many decides too.
        """
        import torch

        said = self.threads is not None or any(os.environ.get(name) for name in THREAD_VARIABLES)
        wanted = self.threads if said else usual
        if _usual.set is not None and _usual.set == torch.get_num_threads():
            torch.set_num_threads(_usual.before)
        _usual.set = None
        if wanted is None:
            return
        if not said:
            _usual.before, _usual.set = torch.get_num_threads(), wanted
        torch.set_num_threads(wanted)


@dataclass
class _Usual:
    """The number of threads that a command set without being told, and the one that torch had before."""

    set: int | None = None
    before: int = 1


_usual = _Usual()
AUTO = Compute()
NO_BUDGET = Budget()


# -- trainings with a name: priors and vocoders ------------------------------------------------------------------------


def check_name(name: str, what: str) -> None:
    """Refuse a name that cannot be the name of a folder.

    Args:
        name: name of a prior or vocoder.
        what: `prior` or `vocoder`.

    Raises:
        ConfigError: the name has other characters than letters, digits and `-_. `.
    """
    if not re.fullmatch(r"\w[\w .-]*", name):
        raise ConfigError(f"'{name}' cannot be the name of a {what}", "letters, digits, blanks, '-', '_' and '.'")


def begin_training(
    run: RunFolder, what: str, folder: Path, settings: Mapping[str, Any], reporter: Reporter, *, more: bool = False
) -> bool:
    """Start or resume a training: record its settings, or compare them with the recorded ones.

    Of several processes, the first one does it.

    Returns:
        False if the training is already finished, and is not to go on with `more`.

    Raises:
        ConfigError: the training was started with other settings.
    """
    processes = here()
    return processes.share(processes.first and _begun(run, what, folder, settings, reporter, more))


def _begun(
    run: RunFolder, what: str, folder: Path, settings: Mapping[str, Any], reporter: Reporter, more: bool
) -> bool:
    from actseq import build

    plan = folder / "settings.json"
    if plan.is_file():
        command = run.training_command(what, folder.name)
        finished = (folder / "model.json").is_file()
        same_settings(
            without_previews(build.with_defaults(read_json(plan))),
            without_previews(settings),
            f"{what} {folder.name} of run {run.name}",
            f"give the new one another name: {run.training_command(what, 'NAME')}; or delete {folder}",
            f"it is finished; {command} --more 5 trains five minutes more" if finished else "",
        )
    if is_trained(folder, reporter):
        if more:
            return True
        reporter.say(f"{what}: already trained ({folder})")
        run.seal(folder)
        return False
    write_json(plan, settings)
    return True


def longer_command(run: RunFolder, kind: str, name: str, section: TrainingConfig) -> str:
    """The command by which a finished training goes on for as many minutes again as it had, or for five."""
    minutes = 5 if section.minutes is None else max(1, round(section.minutes))
    return f"{run.training_command(kind, name)} --more {minutes}"


def own_budget(run: RunFolder, what: str, name: str, config: Config, reporter: Reporter) -> list[str]:
    """Overrides with the budget that a prior or vocoder was begun with by itself, where it is not that of the run.

    Args:
        run: a run with a finished autoencoder.
        what: `prior` or `vocoder`.
        name: name of the prior or vocoder.
        config: configuration of the run.
        reporter: is told of such a budget.
    """
    models, section = (run.priors, "train_prior") if what == "prior" else (run.vocoders, "train_vocoder")
    plan = models.path / name / "settings.json"
    if not plan.is_file():
        return []
    made = read_json(plan)
    own = made.get(section)
    others = made.get("autoencoder", run.trained_autoencoder.fingerprint) != run.trained_autoencoder.fingerprint
    if others or not isinstance(own, dict) or all(own.get(key) is None for key in BUDGET):
        return []
    usual = getattr(config, section).model_dump(mode="json")
    if all(own.get(key) == usual[key] for key in BUDGET):
        return []
    then = "it stays as it is" if (plan.parent / "model.json").is_file() else "it goes on with them"
    reporter.say(f"{what} {name} was begun with {_budget(own)}, where the run has {_budget(usual)}: {then}")
    return [f"{section}.{key}={'null' if own.get(key) is None else own[key]}" for key in BUDGET]


def _budget(section: Mapping[str, Any]) -> str:
    """The budget of a training in words."""
    minutes = section.get("minutes")
    return f"{section.get('steps')} steps" if minutes is None else f"{minutes:g} minutes"


def is_trained(folder: Path, reporter: Reporter) -> bool:
    """Whether the weights of a finished training are in its folder; says so if only the weights have gone."""
    finished = (folder / "model.json").is_file()
    if finished and not (folder / WEIGHTS).is_file():
        reporter.warn(
            f"the weights in {folder} have gone: it is trained again, from its last checkpoint if there is one"
        )
        return False
    return finished


def refuse_settings(overrides: Iterable[str], seed: int | None) -> None:
    """Refuse settings for a finished training that goes on.

    Raises:
        ConfigError: there are some.
    """
    given = [*overrides, *([] if seed is None else [f"--seed {seed}"])]
    if given:
        raise ConfigError(
            f"--more and {', '.join(given)}: a finished training goes on with the settings that it had",
            action="leave the settings out, or train another one: --name NAME",
        )


def won(folder: Path, outcome: Outcome, what: str, reporter: Reporter) -> bool:
    """Whether a training that went on has another model to keep than the one in its folder; says so.

    It has if a later validation was better, or if the weights of the last step are kept.
    """
    better = int(read_json(folder / "model.json")["best_step"]) != outcome.best_step
    if better:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in outcome.figures.items())
        reporter.say(f"{what}: the new one is taken ({figures or 'no clips are held out to compare with'})")
    else:
        reporter.say(f"{what}: no better after {outcome.total_steps} steps, that of step {outcome.best_step} stays")
    return better


def compared(config: Config) -> dict[str, Any]:
    """The settings that two calls with the same run must have in common, later keys than the run at their defaults.

    The path of the table of labels and `include_generated` are not among these: what they lead to is compared, the
    listing of the sounds and their labels.
    """
    from actseq import build

    tree = without_previews(build.with_defaults(config.model_dump(mode="json")))
    return tree | {"corpus": {k: v for k, v in tree["corpus"].items() if k not in ("labels", "include_generated")}}


def without_previews(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without the time between previews, which changes nothing that is trained."""
    return {
        name: {key: value for key, value in section.items() if key != "preview_minutes"}
        if isinstance(section, Mapping)
        else section
        for name, section in settings.items()
    }


def trained_result(run: RunFolder, what: str, made: Artifact, *keys: str) -> Result:
    """The result of a training: its folder, its fingerprint, and the values that its JSON has under `keys`."""
    return {
        "run": str(run.path),
        what: str(made.folder),
        "fingerprint": made.fingerprint,
        **{key: made.meta[key] for key in keys},
    }


# -- output ------------------------------------------------------------------------------------------------------------


def effects_of(config: Config, keep_dry: bool) -> Process | None:
    """The chain of effects that clips are sent through; None if there are no effects.

    Raises:
        ConfigError: `keep_dry` without effects.
    """
    from actseq import build
    from actseq.effects import chain

    if config.generate.effects:
        return chain(build.build_effects(config))
    if keep_dry:
        raise ConfigError("--keep-dry without effects: every clip is dry", action="give an --effect, or leave it out")
    return None


def make_folder(folder: Path) -> None:
    """Make a folder to write into.

    Raises:
        AudioError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AudioError(
            f"the folder {folder} cannot be made ({error.strerror})", action="name another with --out"
        ) from None


def check_written(files: Iterable[str | Path]) -> None:
    """Check that results are still there at the end of a command.

    Raises:
        AudioError: some have gone, as where their folder was removed meanwhile.
    """
    gone = [str(file) for file in files if not Path(file).is_file()]
    if gone:
        raise AudioError(
            f"{len(gone)} results have vanished since they were written, first {gone[0]}: their folder was removed",
            action="give the same command again",
        )


class TurnedDown:
    """The files that were turned down when they were written."""

    def __init__(self) -> None:
        self.gains: dict[str, float] = {}

    def note(self, path: Path, *gains: float) -> None:
        """Remember a file and the gains that it was written with."""
        if (least := min(gains)) != 1.0:
            self.gains[path.name] = least

    def warn(self, reporter: Reporter) -> None:
        """Warn once: of the file, or of how many there are and the one that was turned down most."""
        if not self.gains:
            return
        name = min(self.gains, key=self.gains.__getitem__)
        by, n = f"by {-units.amplitude_to_db(self.gains[name]):.1f} dB", len(self.gains)
        one, many = f"{name} was turned down {by}", f"{n} sounds were turned down, {name} the most, {by},"
        reporter.warn(f"{one if n == 1 else many} so as not to clip")


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """The rows of a table as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
