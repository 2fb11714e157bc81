"""Both ends of the version ranges in pyproject.toml train and generate, and so does a wheel; known weaknesses of what
is installed.

Each end gets an environment of its own with every direct dependency at that end. torch, torchaudio and lightning-fabric
are those of the environment that runs the trial, because they are large. This trial downloads packages.
"""

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path

from common import Row
from packaging.requirements import Requirement

TOP = Path(__file__).parents[2]
SHARED = ("torch", "torchaudio", "lightning-fabric")
USE = ["--threads", "1", "--device", "cpu"]
COMMANDS = [
    ["drumkit", "kit", "--n-per-kind", "10", "--sample-rate", "8000"],
    ["run", "kit", "--preset", "smoke", "--run", "r", *USE],
    ["generate", "r", "--n", "2", "--seconds", "0.3", "--out", "new", *USE],
    ["generate", "voice:drumkit", "--n", "1", "--out", "voice", *USE],
    ["reconstruct", "r", "kit/snare", "--out", "again", *USE],
    ["evaluate", "r", "--n", "2", *USE],
    ["report", "r", "--n", "1", *USE],
    ["verify", "r"],
]


def packages(end: str) -> list[str]:
    """The direct dependencies at one end of their ranges, as pip takes them."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = []
    for text in project["dependencies"]:
        requirement = Requirement(text)
        if requirement.name not in SHARED:
            [least] = [bound.version for bound in requirement.specifier if bound.operator == ">="]
            found.append(f"{requirement.name}=={least}" if end == "lowest" else text)
    return found


def environment(folder: Path, wanted: list[str], sources: list[Path]) -> Path:
    """Make an environment with these packages, and behind them some sources and the packages of this environment.

    Returns:
        Its Python.
    """
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
    where = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    )
    lines = [*map(str, sources), sysconfig.get_path("purelib")]
    Path(where.stdout.strip(), "behind.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return python


def installed(python: Path, wanted: list[str]) -> str:
    """The versions of packages in an environment, by name."""
    names = [Requirement(text).name for text in wanted] + list(SHARED)
    program = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    found = subprocess.run([python, "-c", program, *names], check=True, capture_output=True, text=True).stdout.split()
    return ", ".join(f"{name} {version}" for name, version in zip(names, found, strict=True))


def failure(python: Path, folder: Path) -> str:
    """The last line of the first command that fails; empty if none does."""
    # The sources must not come from elsewhere.
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for words in COMMANDS:
        done = subprocess.run([python, "-m", "actseq", *words], cwd=folder, capture_output=True, text=True, env=own)
        if done.returncode:
            return f"{words[0]}: {(done.stderr.strip() or 'no message').splitlines()[-1]}"
    return ""


def wheel(folder: Path) -> Path:
    """Build a wheel of the sources."""
    words = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, TOP]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    [made] = folder.glob("actseq-*.whl")
    return made


def audited() -> Row:
    """What pip-audit knows about the installed packages; where its service cannot be reached, nothing is checked."""
    promise = "No installed package has a known weakness."
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", "--progress-spinner", "off", "--format", "json", "--skip-editable"],
        capture_output=True,
        text=True,
    )
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        found = []
    checked = [package for package in found if "skip_reason" not in package]
    weak = [package["name"] for package in checked if package["vulns"]]
    figure = f"{len(checked)} of {len(found)} packages checked" if checked else "not checked"
    return Row(promise, len(checked), len(checked) - len(weak), ", ".join([figure, *weak]))


def trial() -> Iterator[Row]:
    """One row for each end, and one for the audit."""
    for end in ("lowest", "newest"):
        with tempfile.TemporaryDirectory() as name:
            folder, wanted = Path(name), packages(end)
            python = environment(folder / "venv", wanted, [TOP, TOP / "cli"])
            found = failure(python, folder)
            figure = found or installed(python, wanted)
            yield Row(f"The {end} versions train and generate.", 1, int(not found), figure)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = environment(folder / "venv", ["--no-deps", str(wheel(folder))], [])
        found = failure(python, folder)
        yield Row("A wheel trains and generates from another folder.", 1, int(not found), found)
    yield audited()
