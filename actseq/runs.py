"""The run folder: artifacts, fingerprints, provenance.

An artifact is a folder with `model.safetensors` and `model.json`; the JSON is written last, names the hash of the weights
and is the commit. Its fingerprint is the hash of that JSON. Nothing is ever unpickled.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from actseq.config import Config, nearest, parse
from actseq.errors import ArtifactError, ConfigError
from actseq.store import write_file

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
RUNS = Path("runs")


def canonical(value: Any) -> bytes:
    """JSON with sorted keys: what hashes are taken of."""
    return json.dumps(value, sort_keys=True, default=str).encode()


def content_hash(value: Any) -> str:
    """Hash of a JSON value."""
    return hashlib.sha256(canonical(value)).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Readable JSON, written whole or not at all."""
    write_file(path, (json.dumps(value, indent=2, default=str) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ArtifactError: missing or damaged.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist") from None
    except ValueError:
        raise ArtifactError(
            f"{path} is damaged (not JSON)", action=f"delete {path.parent} and run its stage again"
        ) from None
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} holds no JSON object")
    return value


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write safetensors whole or not at all; the hash of the file."""
    from safetensors.torch import save

    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    write_file(path, content)
    return hashlib.sha256(content).hexdigest()


def load_tensors(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Read safetensors.

    Raises:
        ArtifactError: missing, cut short, not the file that was written, or a pickle.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise ArtifactError(f"{path} does not exist", action="run its stage again") from None
    # Safetensors begin with the length of their header, whose first byte may be any, and then the header's brace.
    if content[8:9] != b"{" and (content[:2] == b"PK" or content[:1] == b"\x80"):
        raise ArtifactError(
            f"{path} is a pickle (a .ckpt or .pt file)",
            "safetensors",
            "nothing is unpickled, since a pickle can run any code",
        )
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise ArtifactError(
            f"{path} is cut short or damaged ({error})",
            "whole safetensors",
            "copy the run again, or delete the stage's folder and run the stage again",
        ) from None
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise ArtifactError(
            f"{path} is not the file that its JSON describes", action="copy the run again, or run its stage again"
        )
    return dict(tensors)


def write_artifact(folder: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> str:
    """Write weights, then their JSON; the fingerprint."""
    (folder / "model.json").unlink(missing_ok=True)
    sha256 = save_tensors(folder / "model.safetensors", tensors)
    write_json(folder / "model.json", {"format": FORMAT, **meta, "weights_sha256": sha256})
    return fingerprint(folder)


def read_meta(folder: Path, made_by: str) -> dict[str, Any]:
    """The JSON of a finished artifact.

    Raises:
        ArtifactError: the stage has not finished, or another format.
    """
    path = folder / "model.json"
    if not path.is_file():
        raise ArtifactError(f"{folder} holds no finished model", action=f"run {made_by} first")
    meta = read_json(path)
    if meta.get("format") != FORMAT:
        raise ArtifactError(
            f"{path} has format {meta.get('format')}", f"format {FORMAT}", "use the version of actseq that made it"
        )
    return meta


def read_weights(folder: Path, meta: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights that the JSON of an artifact names."""
    return load_tensors(folder / "model.safetensors", str(meta["weights_sha256"]))


def fingerprint(folder: Path) -> str:
    """Content hash of a finished artifact."""
    return content_hash(read_json(folder / "model.json"))


def versions() -> dict[str, str]:
    """What computed a run."""
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
    """Commit of the checkout that actseq runs from, `-dirty` where it has changes; None for an installed package."""
    here = Path(__file__).parent
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


class Run:
    """Paths and provenance of one run.

    Args:
        path: the run's folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.corpus, self.features, self.autoencoder = path / "corpus", path / "features", path / "autoencoder"
        self.latents, self.priors, self.generated = path / "latents", path / "priors", path / "generated"
        self.vocoders, self.choice = path / "vocoders", path / "vocoders" / "choice.json"

    @staticmethod
    def locate(run: str | Path) -> Run:
        """A run that may not exist yet: a name under `runs/`, or a path."""
        text = str(run)
        if (
            "/" in text
            or text in (".", "..")
            or (Path(text) / "config.yaml").is_file()
            or text.endswith((".ckpt", ".pt", ".pth", ".pkl"))
        ):
            return Run(Path(text))
        return Run(RUNS / text)

    @staticmethod
    def open(run: str | Path) -> Run:
        """A run that exists.

        Raises:
            ArtifactError: no such folder, or it is no run; names what there is.
        """
        found = Run.locate(run)
        if found.path.is_file():
            kind = (
                "; checkpoints of other programs and pickles are not read"
                if found.path.suffix in (".ckpt", ".pt", ".pth", ".pkl")
                else ""
            )
            raise ArtifactError(f"{found.path} is a file", f"the folder of a run{kind}")
        if not found.path.is_dir():
            known = sorted(p.name for p in RUNS.iterdir() if (p / "config.yaml").is_file()) if RUNS.is_dir() else []
            hint = nearest(found.path.name, known) if known else "train one first: actseq train-ae FOLDER --preset NAME"
            raise ArtifactError(f"no run at {found.path}", action=hint)
        if not (found.path / "config.yaml").is_file():
            raise ArtifactError(
                f"{found.path} is no run (it has no config.yaml)", action="give the folder that train-ae made"
            )
        return found

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    def trained_priors(self) -> list[str]:
        """Names of the finished ones."""
        return sorted(path.parent.name for path in self.priors.glob("*/model.json"))

    def usual_prior(self) -> str | None:
        """The prior that is meant where none is named: `default`, or the only one there is; None where that leaves it open."""
        known = self.trained_priors()
        return "default" if "default" in known else known[0] if len(known) == 1 else None

    def prior_folder(self, name: str | None) -> Path:
        """The folder of a finished prior; None takes `usual_prior`.

        Raises:
            ArtifactError: none, or not that one; names what there is.
        """
        known = self.trained_priors()
        if not known:
            raise ArtifactError(
                f"run {self.name} has no finished prior", action=f"run actseq train-prior {self.name} first"
            )
        if name is None:
            name = self.usual_prior() or "default"
        if name not in known:
            raise ArtifactError(f"run {self.name} has no prior '{name}'", action=nearest(name, known))
        return self.priors / name

    def vocoder_folder(self, name: str) -> Path:
        """The folder of a finished vocoder.

        Raises:
            ArtifactError: none, or not that one; names what there is.
        """
        known = self.trained_vocoders()
        if not known:
            raise ArtifactError(
                f"run {self.name} has no trained vocoder", action=f"run actseq train-vocoder {self.name} first"
            )
        if name not in known:
            raise ArtifactError(f"run {self.name} has no vocoder '{name}'", action=nearest(name, known))
        return self.vocoders / name

    def trained_vocoders(self) -> list[str]:
        """Names of the finished ones."""
        return sorted(path.parent.name for path in self.vocoders.glob("*/model.json"))

    def write_config(self, config: Config, source: str, corpus_fingerprint: str | None) -> None:
        """Write what the run is made from."""
        tree = {
            "config": config.model_dump(mode="json"),
            "provenance": {
                "source": source,
                "seed": config.seed,
                "corpus_fingerprint": corpus_fingerprint,
                "commit": commit(),
                "versions": versions(),
            },
        }
        write_file(self.path / "config.yaml", yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode())

    def read_provenance(self) -> dict[str, Any]:
        """The provenance part of config.yaml."""
        return dict(self._read_config()["provenance"])

    def read_config(self) -> Config:
        """The configuration that the run was started with."""
        return parse(Config, self._read_config()["config"], "config")

    def _read_config(self) -> dict[str, Any]:
        path = self.path / "config.yaml"
        try:
            tree = yaml.safe_load(path.read_text(encoding="utf-8"))
            if not isinstance(tree["config"], dict) or not isinstance(tree["provenance"], dict):
                raise TypeError
        except (OSError, yaml.YAMLError, TypeError, KeyError):
            raise ArtifactError(f"{path} is damaged", "a config.yaml as train-ae writes it") from None
        return dict(tree)

    @contextmanager
    def lock(self, stage: Path) -> Iterator[None]:
        """Hold a stage's folder against a second process that would train in it.

        Raises:
            ArtifactError: another process holds it.
        """
        stage.mkdir(parents=True, exist_ok=True)
        with (stage / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ArtifactError(
                    f"another process is working in {stage}", action="wait for it, or stop it"
                ) from None
            yield


def same_settings(made: Mapping[str, Any], asked: Mapping[str, Any], what: str, remedy: str) -> None:
    """Refuse to go on with other settings than an artifact was begun with; the differing keys are named.

    Raises:
        ConfigError: they differ.
    """
    differing = [f"{key} ({old} → {new})" for key, old, new in _differences(dict(made), dict(asked))]
    if differing:
        shown = ", ".join(differing[:4]) + (f" and {len(differing) - 4} more" if len(differing) > 4 else "")
        raise ConfigError(f"{what} was made with other settings: {shown}", action=remedy)


def begin_store(folder: Path, inputs: Mapping[str, Any], what: str) -> dict[str, Any] | None:
    """Make ready to begin a store at `folder`, or to go on with one; what its JSON says, where it is done already.

    Args:
        folder: where it lies; its JSON has the folder's name.
        inputs: what the content depends on; a store that was begun from other inputs is begun anew.
        what: what it holds, for the user.

    Raises:
        ConfigError: it is done, from other inputs.
    """
    marker, plan = folder / f"{folder.name}.json", folder / "plan.json"
    if marker.is_file():
        meta = read_json(marker)
        same_settings(meta["inputs"], inputs, what, f"delete {folder} to make them again")
        return meta
    if plan.is_file() and read_json(plan) != inputs:
        for path in folder.glob("[!.]*"):
            path.unlink()
    write_json(plan, inputs)
    return None


def _differences(made: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for key in sorted({*made, *asked}):
        old, new = made.get(key), asked.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif json.loads(canonical(old)) != json.loads(canonical(new)):
            yield f"{prefix}{key}", old, new
