"""What the documentation says can be done is done, and what can be done is said."""

import inspect
import os
import pkgutil
import re
import shlex
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from actseq_cli.main import main  # type: ignore[import-untyped, unused-ignore]
from click.testing import CliRunner

from actseq.config import preset_names
from actseq.data.drumkit import KINDS, write_drumkit

TOP = Path(__file__).parents[2]
README = TOP / "README.md"
LEFT_OUT = ("git clone", "cd ", "make", "pip", "source ", ". ", "#")
QUICK_TRAINING = ["corpus.segment_seconds=0.2", "autoencoder.network.width=16", "autoencoder.network.inner=32"]
QUICK_TRAINING += ["autoencoder.network.blocks=1", "train_ae.validations=1", "train_ae.validation_batches=1"]
QUICK_PRIOR = ["prior.network.width=16", "train_prior.validations=1", "train_prior.validation_batches=1"]
QUICK_VOCODER = ["train_vocoder.network.width=16", "train_vocoder.network.inner=16", "train_vocoder.validations=1"]
QUICK_SOUND = ["generate.max_seconds=0.3"]
QUICK = {
    "drumkit": ["--n-per-kind", "3"],
    "run": ["--set", "train_ae.steps=2", "--set", "train_prior.steps=2"],
    "train-ae": ["--set", "train_ae.steps=2"],
    "train-prior": ["--set", "train_prior.steps=2"],
    "train-vocoder": ["--set", "train_vocoder.steps=2"],
}
SETTINGS = {
    "run": QUICK_TRAINING + QUICK_PRIOR,
    "train-ae": QUICK_TRAINING,
    "train-prior": QUICK_PRIOR,
    "train-vocoder": QUICK_VOCODER,
    **dict.fromkeys(("generate", "reconstruct", "evaluate", "report"), QUICK_SOUND),
}


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.M | re.S)


def commands(path: Path) -> list[list[str]]:
    """Every command line of the shell blocks, split into words."""
    found = []
    for block in blocks(path, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and not line.strip().startswith(LEFT_OUT):
                found.append(words)
    return found


def quick(words: list[str]) -> list[str]:
    """The same command with as little to do as possible."""
    more = list(QUICK.get(words[0], []))
    for setting in SETTINGS.get(words[0], []):
        more += ["--set", setting]
    options = words[1:]
    # A budget that the text gives would win over the small one.
    for given in ("--minutes", "--steps"):
        if given in options:
            at = options.index(given)
            del options[at : at + 2]
    if words[0] in SETTINGS:
        more += ["--threads", "1", "--device", "cpu"]
    return [words[0], *options, *more]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    import torch

    before, threads = Path.cwd(), torch.get_num_threads()
    found = tmp_path_factory.mktemp("reader")
    os.chdir(found)
    yield found
    os.chdir(before)
    torch.set_num_threads(threads)


def test_the_readme_works_from_top_to_bottom(folder: Path) -> None:
    found = commands(README)
    assert len(found) >= 8
    [program] = entry_points(group="console_scripts", name="actseq")
    assert program.value == "actseq_cli.program:start", "which calls `main`"
    for words in found:
        assert words[0] == "actseq", f"`{' '.join(words)}` is nothing that this test can run"
        result = CliRunner().invoke(main, quick(words[1:]))
        allowed = (0, 1) if words[1] == "doctor" else (0,)
        assert result.exit_code in allowed, f"{' '.join(words)}\n{result.output}\n{result.exception!r}"
    programs = blocks(README, "python")
    assert programs
    for text in programs:
        scope: dict[str, Any] = {}
        exec(compile(text, str(README), "exec"), scope)


def test_the_tutorial_counts_the_hits_that_its_command_writes() -> None:
    given = inspect.signature(write_drumkit).parameters["n_per_kind"].default
    options = {one.name: one.default for one in main.commands["drumkit"].params}
    text = (TOP / "docs" / "tutorial.md").read_text(encoding="utf-8")
    assert f"an example folder of {options['n_per_kind'] * len(KINDS)} drum hits" in text
    assert options["n_per_kind"] == given


def test_commands_can_be_given_to_every_shell() -> None:
    """Outside quotes there is nothing that PowerShell or a Unix shell treats specially, and no line goes on."""
    for path in (README, *sorted((TOP / "docs").glob("*.md"))):
        for line in "\n".join(blocks(path, "sh")).splitlines():
            given = re.sub(r"(^|\s)#.*", "", line)
            assert not re.search(r"[$`|&;<>(){}@*?\\!%^]", re.sub(r"'[^']*'|\"[^\"$`]*\"", "", given)), (
                f"{path.name}: {line}"
            )


def test_commands_in_the_documents_exist() -> None:
    for path in (README, *sorted((TOP / "docs").glob("*.md"))):
        for words in commands(path):
            if words[0] == "actseq" and len(words) > 1 and not words[1].startswith("-"):
                assert words[1] in main.commands, f"{path.name}: {' '.join(words)}"
                known = {
                    name for option in main.commands[words[1]].params for name in (*option.opts, *option.secondary_opts)
                }
                given = {word.partition("=")[0] for word in words[2:] if re.match(r"--?[a-z]", word)}
                assert given <= known | {"--help", "-h"}, f"{path.name}: {' '.join(words)}"


def test_every_command_and_option_is_described() -> None:
    text = (TOP / "docs" / "cli.md").read_text(encoding="utf-8")
    for name, command in main.commands.items():
        assert re.search(rf"^## {name}$", text, flags=re.M), f"docs/cli.md has no section on {name}"
        for option in command.params:
            for given in option.opts:
                if given.startswith("--"):
                    assert f"`{given}" in text, f"docs/cli.md does not describe {given} of {name}"


def test_every_preset_and_key_is_described() -> None:
    from actseq import build, registry
    from actseq.config import Config, load_preset

    text = (TOP / "docs" / "configs.md").read_text(encoding="utf-8")
    readme = README.read_text(encoding="utf-8")
    for name in preset_names():
        assert f"| `{name}` |" in text
        assert f"| `{name}` |" in readme

    def keys(tree: Any) -> Iterator[str]:
        if isinstance(tree, dict):
            for key, value in tree.items():
                yield key
                yield from keys(value)

    for key in set(keys(build.complete(load_preset("digits")).model_dump(mode="json"))) | set(Config.model_fields):
        assert f"`{key}" in text or f"### {key}" in text, f"docs/configs.md does not describe {key}"
    for family in registry.FAMILIES.values():
        for kind, member in family.items():
            assert f"kind: {kind}" in text, f"docs/configs.md does not describe {kind}"
            for key in build.options_model(member).model_fields:
                assert f"`{key}`" in text, f"docs/configs.md does not describe {key} of {kind}"


def test_links_lead_somewhere() -> None:
    for path in (README, *sorted((TOP / "docs").glob("*.md"))):
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_code_that_the_documents_name_exists() -> None:
    """Old entries of the decisions keep the names of their time; Extending invents files."""
    documents = {path.name: path.read_text(encoding="utf-8") for path in (TOP / "docs").glob("*.md")}
    documents |= {name: (TOP / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md")}
    del documents["decisions.md"]
    for document, text in documents.items():
        for name in re.findall(r"`(actseq(?:\.\w+)+)", text):
            assert pkgutil.resolve_name(name), f"{document} names {name}"
        if document != "extending.md":
            for name in re.findall(r"\b(?:actseq|cli|tests|configs)/[\w/]*\.?\w+", text):
                assert (TOP / name).exists(), f"{document} names {name}"


def test_every_guarantee_names_tests_that_exist() -> None:
    text = (TOP / "docs" / "guarantees.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(named) > 5
    for file, name in named:
        assert f"def {name}(" in (TOP / file).read_text(encoding="utf-8"), f"{file}::{name}"
    for row in re.findall(r"^\| (?!promise|---).*$", text, flags=re.M):
        assert "`tests/" in row, row
