"""The package as it is built, installed and run by somebody who has no checkout."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import Distribution
from pathlib import Path

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped, unused-ignore]
import yaml

TOP = Path(__file__).parents[1]
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def python(*arguments: str | Path, cwd: Path, search: Path | None = None) -> str:
    """What a child process prints; `search` is the one folder besides installed packages that it imports from."""
    # The loops of the phase vocoder are compiled anew in each place; without optimisation that takes a second.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"NUMBA_OPT": "0"}
    if search is not None:
        environment["PYTHONPATH"] = str(search)
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from the source distribution as pip builds it, without a network."""
    folder = tmp_path_factory.mktemp("dist")
    python("-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=TOP)
    [archive] = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    python("-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=folder / archive.name.removesuffix(".tar.gz"))
    [made] = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and nothing else: the checkout is out of reach."""
    folder = tmp_path_factory.mktemp("installed")
    options = ("--quiet", "--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check")
    python("-m", "pip", "install", *options, "--target", folder, wheel, cwd=folder)
    return folder


def test_the_wheel_has_all_that_a_user_needs_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
        voices = [part for part in packed.infolist() if part.filename.startswith("actseq/voices/")]
    assert {"README.md", "drumkit"} == {part.filename.split("/")[2] for part in voices}
    assert sum(part.compress_size for part in voices) < 4e6
    parts = ((TOP, "actseq"), (TOP / "cli", "actseq_cli"))
    wanted = {path.relative_to(top).as_posix() for top, name in parts for path in (top / name).rglob("*.*")}
    assert {name for name in wanted if "__pycache__" not in name} <= set(names)
    assert {"actseq/py.typed", "actseq/configs/_base.yaml", "actseq/configs/drums.yaml"} <= set(names)
    assert {name.split("/")[0] for name in names} == {"actseq", "actseq_cli", f"actseq-{PROJECT['version']}.dist-info"}
    assert not [name for name in names if name.endswith((".wav", ".pyc")) or "/." in name]


def test_the_installed_package_says_what_it_is(installed: Path) -> None:
    found = Distribution.at(next(installed.glob("*.dist-info")))
    assert found.version == PROJECT["version"]
    assert [entry.value for entry in found.entry_points if entry.name == "actseq"] == ["actseq_cli.program:start"]
    assert set(found.metadata.get_all("Provides-Extra") or ()) == set(PROJECT["optional-dependencies"])
    assert found.metadata["License-Expression"] == "MIT"
    assert "Typing :: Typed" in (found.metadata.get_all("Classifier") or ())


def test_the_installed_package_runs_in_another_folder(installed: Path, tmp_path: Path) -> None:
    def actseq(*arguments: str) -> str:
        return python("-m", "actseq", *arguments, cwd=tmp_path, search=installed)

    where = python("-c", "import actseq, actseq_cli; print(actseq.__file__)", cwd=tmp_path, search=installed)
    assert Path(where.strip()).is_relative_to(installed)
    assert "generate" in actseq("--help")
    assert "drumkit" in actseq("presets")
    assert "all as it was written" in actseq("verify", "voice:drumkit")
    before = sorted((installed / "actseq" / "voices").rglob("*"))
    shown = actseq("demo", "--n", "1", "--out", "kit", "--threads", "1", "--device", "cpu")
    assert "5 new sounds in kit, and kit.sfz and kit.dspreset for samplers" in shown
    for label in ("clap", "hat", "kick", "snare", "tom"):
        waveform, rate = soundfile.read(tmp_path / "kit" / f"{label}_01.wav")
        assert (rate, np.abs(waveform).max() > 0.5, len(waveform) > 0.02 * rate) == (22050, True, True)
    assert sorted((installed / "actseq" / "voices").rglob("*")) == before
    assert [path.name for path in tmp_path.iterdir()] == ["kit"]


def test_the_readme_names_every_extra() -> None:
    text = (TOP / "README.md").read_text(encoding="utf-8")
    assert not [
        name for name in PROJECT["optional-dependencies"] if not re.search(rf"^\| `{name}` \|", text, flags=re.M)
    ]


def test_the_citation_is_that_of_this_version() -> None:
    cited = yaml.safe_load((TOP / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "authors", "title"} <= cited.keys()
    assert (cited["title"], cited["version"], cited["license"]) == ("actseq", PROJECT["version"], PROJECT["license"])


def test_the_workflow_runs_what_runs_here() -> None:
    jobs = yaml.safe_load((TOP / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    commands = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert commands["linux"] == [".ci/run"]
    assert "python -m pytest" in commands["macos-and-windows"]
    assert (TOP / ".ci" / "run").is_file()
