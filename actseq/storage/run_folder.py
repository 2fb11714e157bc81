"""The run folder: paths, configuration, models and provenance."""

from __future__ import annotations

import copy
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from shlex import quote
from typing import Any

import yaml

from actseq.config import LARGEST_YAML, Config, Member, parse, parse_yaml, suggest_name
from actseq.errors import ArtifactError, ConfigError
from actseq.storage import hashes
from actseq.storage.artifacts import Artifact, content_hash, is_finished, read_json
from actseq.storage.files import read_whole
from actseq.storage.processes import here
from actseq.storage.store import write_file

RUNS = Path("runs")
VOICE = "voice:"
"""Begins the name of a run that comes with the package."""
VOICES = Path(__file__).parents[1] / "voices"
PACKED = "packed.json"
"""Marks a packed run, and says what it was packed from."""


def without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration, as JSON, for others: of the table of labels and of files of effects only the names are kept."""
    found = copy.deepcopy(dict(config))
    options = [(found.get("corpus", {}), "labels")]
    options += [(effect, "impulse_response") for effect in found.get("generate", {}).get("effects", ())]
    for section, key in options:
        if section.get(key):
            section[key] = PurePath(section[key]).name
    return found


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of the libraries that a result depends on."""
    found = {"python": platform.python_version(), "actseq": _version("actseq")}
    for name in ("torch", "torchaudio", "numpy", "librosa", "soundfile", "soxr", "lightning-fabric"):
        found[name] = _version(name)
    return found


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def commit() -> str | None:
    """Commit of the checkout that actseq runs from, with `-dirty` if it has changes; None for an installed package."""
    here = Path(__file__).parents[1]
    if not (here.parent / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


class RunFolder:
    """Paths, models and provenance of one run. A model's JSON is read once: a command sees one state of the run.

    Args:
        path: folder of the run.

    Attributes:
        name: name of the folder; that of a voice begins with `voice:`.
        results: folder that commands write results into: the run itself, or for a voice one under `runs/`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = f"{VOICE}{path.name}" if path.parent == VOICES else path.resolve().name
        self.results = RUNS / f"voice-{path.name}" if path.parent == VOICES else path
        self.corpus, self.features, self.autoencoder = path / "corpus", path / "features", path / "autoencoder"
        self.latents, self.previews = path / "latents", path / "previews"
        self.generated, self.kept = self.results / "generated", self.results / "kept"
        self.priors, self.vocoders = Models(self, "prior"), Models(self, "vocoder")
        self.choice = self.vocoders.path / "choice.json"

    @staticmethod
    def locate(run: str | Path) -> RunFolder:
        """A run that may not exist yet: a name under `runs/`, a path, or `voice:NAME`."""
        text = str(run)
        if text.startswith(VOICE):
            return _voice(text)
        if (
            "/" in text
            or os.sep in text
            or text in (".", "..")
            or (Path(text) / "config.yaml").is_file()
            or text.endswith((".ckpt", ".pt", ".pth", ".pkl"))
        ):
            return RunFolder(Path(text))
        return RunFolder(RUNS / text)

    @staticmethod
    def open(run: str | Path | RunFolder) -> RunFolder:
        """A run that exists; a run that is open already is returned as it is.

        Raises:
            ArtifactError: there is no such folder, or it is not a run; the message names runs that exist.
        """
        if isinstance(run, RunFolder):
            return run
        found = RunFolder.locate(run)
        if found.path.is_file():
            kind = (
                "; checkpoints of other programs and pickles are not read"
                if found.path.suffix in (".ckpt", ".pt", ".pth", ".pkl")
                else ""
            )
            raise ArtifactError(f"{found.path} is a file", f"the folder of a run{kind}")
        if not found.path.is_dir():
            known = sorted(p.name for p in RUNS.iterdir() if (p / "config.yaml").is_file()) if RUNS.is_dir() else []
            hint = (
                suggest_name(found.path.name, known)
                if known
                else "train one first: actseq train-ae FOLDER --preset NAME"
            )
            raise ArtifactError(f"no run at {found.path}", action=hint)
        if not (found.path / "config.yaml").is_file():
            raise ArtifactError(
                f"{found.path} is not a run: it has no config.yaml", action="give the folder that train-ae made"
            )
        return found

    @property
    def argument(self) -> str:
        """How the run is named in a command: by its name under `runs/` or as a voice, or else by its path, quoted."""
        named = self.path == RUNS / self.name or self.path.parent == VOICES
        return quote(self.name if named else str(self.path))

    @property
    def extraction_command(self) -> str:
        """The command that makes the latents of this run."""
        return f"actseq extract-latents {self.argument}"

    def training_command(self, kind: str, name: str = "default") -> str:
        """The command that trains a model of this run.

        Args:
            kind: `autoencoder`, `prior` or `vocoder`.
            name: name of the prior or vocoder.
        """
        if kind == "autoencoder":
            known = (self.path / "config.yaml").is_file()
            folder = quote(str(self.read_provenance()["source"])) if known else "FOLDER"
            return f"actseq train-ae {folder} --run {self.argument}"
        return f"actseq train-{kind} {self.argument}" + ("" if name == "default" else f" --name {quote(name)}")

    @cached_property
    def trained_autoencoder(self) -> Artifact:
        """The autoencoder.

        Raises:
            ArtifactError: it is unfinished or damaged.
        """
        if not is_finished(self.autoencoder):
            raise self.not_yet("finished autoencoder", self.training_command("autoencoder"), self.path)
        return Artifact.read(self.autoencoder)

    def not_yet(self, what: str, command: str, *stages: Path) -> ArtifactError:
        """The error about something that the run does not have yet.

        Args:
            what: what is missing.
            command: the command that makes it.
            stages: folders that are locked while it is made.
        """
        found = f"run {self.name} has no {what}"
        if any(is_locked(stage) for stage in stages):
            return ArtifactError(
                f"{found} yet: another command is still training the run", action="wait until it has ended, or stop it"
            )
        return ArtifactError(found, action=f"run {command} first")

    @cached_property
    def packed(self) -> dict[str, Any] | None:
        """What `pack` said about a packed run; None for a run that has its corpus and latents."""
        return read_json(self.path / PACKED) if hashes.present(self.path / PACKED) else None

    def require_corpus(self, option: str = "") -> None:
        """Refuse a packed run, before anything that needs the sounds or latents that it was trained on.

        Args:
            option: what was asked for, if the command works without it.

        Raises:
            ArtifactError: the run is packed.
        """
        if self.packed is not None:
            generate, needs = (
                (f"generate without {option}", f"{option} needs latents: ") if option else ("generate", "")
            )
            works = f"{generate}, explore, reconstruct, encode and decode work with a voice"
            instead = f"{works}; actseq run FOLDER makes a whole run"
            raise ArtifactError(
                f"{needs}run {self.name} is packed: it has no corpus and no latents",
                action=instead
                if self.path.parent == VOICES
                else f"use the run that it was packed from ({self.packed['run']})",
            )

    def write_config(self, config: Config, source: str, corpus_fingerprint: str | None) -> None:
        """Write `config.yaml`: the configuration, and where, from what and with which versions the run was made."""
        provenance = {
            "source": source,
            "seed": config.seed,
            "corpus_fingerprint": corpus_fingerprint,
            "commit": commit(),
            "versions": versions(),
        }
        self._write_config({"config": config.model_dump(mode="json"), "provenance": provenance})

    def copy_config(self, to: RunFolder) -> None:
        """Write the `config.yaml` of this run into another folder. Of every path only the last name is kept."""
        tree = self._read_config()
        tree["config"] = without_paths(tree["config"])
        tree["provenance"]["source"] = PurePath(tree["provenance"]["source"]).name
        to._write_config(tree)

    def _write_config(self, tree: dict[str, Any]) -> None:
        write_file(self.path / "config.yaml", yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode())
        hashes.add(self.path, ["config.yaml"])

    def seal(self, stage: Path) -> None:
        """Write the list of hashes of a finished stage, and name it in the list of the run.

        What the lists name already keeps its hash. See `actseq.storage.hashes`.
        """
        names = [path.name for path in stage.iterdir() if path.is_file() and not path.name.startswith(".")]
        hashes.add(stage, sorted(name for name in names if name != hashes.LIST and not name.endswith(".safetensors")))
        hashes.add(self.path, ["config.yaml", (stage / hashes.LIST).relative_to(self.path).as_posix()])

    def read_provenance(self) -> dict[str, Any]:
        """The provenance part of config.yaml."""
        return dict(self._read_config()["provenance"])

    def vocoder_inputs(self, config: Config) -> dict[str, str]:
        """Fingerprints of what a vocoder of this run may have been made from."""
        return {
            "corpus": str(self.trained_autoencoder.meta["inputs"]["corpus"]),
            "representation": content_hash(config.representation.model_dump(mode="json")),
            "autoencoder": self.trained_autoencoder.fingerprint,
        }

    def chosen_vocoder(self, config: Config) -> Member | None:
        """The trained vocoder that `train-vocoder` recorded as the winner; None if an untrained one won, or none ran.

        Raises:
            ArtifactError: the winner is damaged, has gone or has changed since, or won with another autoencoder.
        """
        if not hashes.present(self.choice):
            return None
        choice = read_json(self.choice)
        winner = choice["winner"]
        member = parse(Member, winner["vocoder"], f"{self.choice}.winner.vocoder")
        name = member.options.get("name")
        if name is None:
            return None
        found = ""
        if name not in self.vocoders.names:
            found = "is missing"
        elif self.vocoders.read(name).fingerprint != winner["fingerprint"]:
            found = "is not the one that was compared"
        elif choice["inputs"] != self.vocoder_inputs(config):
            found = "was compared with another autoencoder, corpus or representation"
        if found:
            raise ArtifactError(
                f"vocoder '{name}', which run {self.name} uses, {found}",
                action=f"actseq train-vocoder {self.argument} chooses again; --set vocoder.kind=… takes one this time",
            )
        return member

    def read_config(self) -> Config:
        """The configuration in config.yaml."""
        return parse(Config, self._read_config()["config"], "config")

    def _read_config(self) -> dict[str, Any]:
        path = self.path / "config.yaml"
        content = read_whole(path, LARGEST_YAML)
        hashes.check(path, content)
        try:
            tree = parse_yaml(content, str(path))
            if not isinstance(tree["config"], dict) or not isinstance(tree["provenance"], dict):
                raise TypeError
        except (ConfigError, TypeError, KeyError):
            raise ArtifactError(f"{path} is damaged", "a config.yaml as train-ae writes it") from None
        return dict(tree)

    @contextmanager
    def lock(self, stage: Path) -> Iterator[None]:
        """As `exclusive`, for the folder of a stage.

        Raises:
            ArtifactError: as `exclusive`; or the run is packed.
        """
        self.require_corpus()
        with exclusive(stage):
            yield


def is_locked(folder: Path) -> bool:
    """Whether another process works in a folder; see `exclusive`."""
    from filelock import FileLock, Timeout

    path = folder / ".lock"
    if not path.is_file():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        # Where nothing can be written, nothing is being made.
        return False


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep other processes from working in a folder, and delete what a killed one left half written.

    Those that work together begin and end in it at the same time; see `actseq.storage.processes`.

    Raises:
        ArtifactError: another process works in it; or the folder was removed or replaced meanwhile.
    """
    from filelock import FileLock, Timeout

    processes = here()
    if not processes.first:
        processes.wait()
        yield
        processes.wait()
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    try:
        held = FileLock(path, timeout=0).acquire()
    except Timeout:
        raise ArtifactError(f"another process is working in {folder}", action="wait for it, or stop it") from None
    with held:
        begun = path.stat()
        for part in (*folder.glob(".*.part"), *folder.glob("checkpoints/.*.part")):
            shutil.rmtree(part) if part.is_dir() else part.unlink()
        processes.wait()
        yield
        processes.wait()
        if not path.exists() or not os.path.samestat(begun, path.stat()):
            raise ArtifactError(f"{folder} was removed or replaced while a command worked in it")


def _voice(text: str) -> RunFolder:
    """A run that comes with the package.

    Raises:
        ArtifactError: there is none of this name.
    """
    known = {f"{VOICE}{path.parent.name}": path.parent for path in VOICES.glob("*/config.yaml")}
    if text not in known:
        raise ArtifactError(f"no {text} comes with actseq", action=suggest_name(text, sorted(known)))
    return RunFolder(known[text])


class Models:
    """The trained priors of a run, or its trained vocoders; each lies in a folder of its own name.

    Args:
        run: the run.
        kind: `prior` or `vocoder`.

    Attributes:
        path: the folder above the folders of the models.
    """

    def __init__(self, run: RunFolder, kind: str) -> None:
        self.run, self.kind, self.path = run, kind, run.path / f"{kind}s"
        self._read: dict[str, Artifact] = {}

    @property
    def names(self) -> list[str]:
        """Names of the finished models, sorted; also of one whose JSON is missing though it was finished."""
        folders = self.path.iterdir() if self.path.is_dir() else ()
        return sorted(folder.name for folder in folders if is_finished(folder))

    @property
    def usual(self) -> str | None:
        """Name of the model to use if none is named: `default`, or the only one; None if there are several others."""
        known = self.names
        return "default" if "default" in known else known[0] if len(known) == 1 else None

    def read(self, name: str | None = None) -> Artifact:
        """A finished model; None takes the usual one.

        Raises:
            ArtifactError: there is none, or none of this name; the message names those that exist.
        """
        known = self.names
        if not known:
            raise self.missing
        if name is None:
            name = self.usual or "default"
        command = self.run.training_command(self.kind, name)
        if name not in known and is_locked(self.path / name):
            raise self.run.not_yet(f"finished {self.kind} '{name}'", command, self.path / name)
        if name not in known:
            raise ArtifactError(f"run {self.run.name} has no {self.kind} '{name}'", action=suggest_name(name, known))
        if name not in self._read:
            self._read[name] = Artifact.read(self.path / name, command)
        return self._read[name]

    @property
    def missing(self) -> ArtifactError:
        """The error about a run that has no finished model of this kind."""
        begun = self.path.iterdir() if self.path.is_dir() else ()
        command = self.run.training_command(self.kind)
        return self.run.not_yet(f"finished {self.kind}", command, self.run.path, self.run.latents, *begun)
