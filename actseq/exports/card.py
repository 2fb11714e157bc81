"""The model card of a run: the README.md of its repository at Hugging Face."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from actseq.errors import ArtifactError
from actseq.storage.artifacts import read_json
from actseq.storage.run_folder import RunFolder, without_paths

SECTIONS = ("corpus", "representation", "autoencoder", "prior", "generate")
"""Sections of the configuration that the card shows."""
WARNING = (
    "**The models can reproduce sounds that they were trained on**, or parts of them. Whoever publishes or uses what "
    "they make is responsible for the rights in those sounds."
)


def model_card(run: RunFolder, name: str, licence: str) -> str:
    """The text of a model card.

    Args:
        run: the run that is pushed, with its corpus if it still has one.
        name: `OWNER/NAME` of the repository.
        licence: identifier of the licence, as Hugging Face knows it.
    """
    labels = sorted({label for model in _models(run) for label in model.get("labels", [])})
    front = {"license": licence, "library_name": "actseq", "tags": ["audio", "actseq"]}
    blocks = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {name.rpartition('/')[2]}",
        "A model of sounds that [actseq](https://pypi.org/project/actseq/) has learned: an autoencoder"
        + (f", {_listed('prior', run.priors.names)}" if run.priors.names else "")
        + (f", {_listed('vocoder', run.vocoders.names)}" if run.vocoders.names else "")
        + ". The sounds themselves are not in this repository.",
        WARNING,
        "## Use",
        _use(run, name, labels),
        "## Corpus",
        "\n".join(_corpus(run, labels)),
        "## Evaluation",
        "Measured on held-out clips while training; `actseq evaluate` in the original run measures more.",
        "\n".join(_figures(run)),
        "## Settings",
        f"```yaml\n{_settings(run)}```",
    ]
    return "\n\n".join(blocks) + "\n"


def _models(run: RunFolder) -> list[Mapping[str, Any]]:
    return [run.trained_autoencoder.meta, *(run.priors.read(name).meta for name in run.priors.names)]


def _listed(what: str, names: list[str]) -> str:
    return f"the {what}{'s' if len(names) > 1 else ''} {', '.join(f'`{name}`' for name in names)}"


def _use(run: RunFolder, name: str, labels: list[str]) -> str:
    lines = ["pip install 'actseq[hub]'", f"actseq pull {name}"]
    local = name.rpartition("/")[2]
    if run.priors.names:
        lines.append(f"actseq generate {local} --n 10" + (f" --label '{labels[0]}'" if labels else ""))
    lines.append(f"actseq reconstruct {local} FOLDER --out reconstructed")
    return "```sh\n" + "\n".join(lines) + "\n```"


def _corpus(run: RunFolder, labels: list[str]) -> Iterator[str]:
    """What is known of the sounds. A packed run has no corpus, and says only what its models keep."""
    meta = run.trained_autoencoder.meta
    try:
        corpus = read_json(run.corpus / "corpus.json")
        clips = corpus["clips"]
        shown = ", ".join(f"{count} {split}" for split, count in clips.items()) if isinstance(clips, Mapping) else clips
        yield f"- clips: {shown}"
    except ArtifactError:
        yield "- clips: not recorded, because the run was packed before it was pushed"
    yield f"- labels: {', '.join(labels) or 'none'}"
    yield f"- sample rate: {meta['sample_rate']} Hz"
    yield f"- latent frames: {meta['latent_dim']} values, {meta['latent_rate']:.4g} per second"


def _figures(run: RunFolder) -> Iterator[str]:
    yield "| model | steps | figures |"
    yield "|---|---|---|"
    named = [("autoencoder", run.trained_autoencoder)]
    named += [(f"prior `{name}`", run.priors.read(name)) for name in run.priors.names]
    named += [(f"vocoder `{name}`", run.vocoders.read(name)) for name in run.vocoders.names]
    for name, artifact in named:
        figures = ", ".join(f"{key} {value:.4g}" for key, value in artifact.meta["figures"].items())
        yield f"| {name} | {artifact.meta['total_steps']} | {figures} |"


def _settings(run: RunFolder) -> str:
    tree = without_paths(run.read_config().model_dump(mode="json"))
    shown = {section: tree[section] for section in SECTIONS}
    # The table of labels is a file of the user's.
    shown["corpus"].pop("labels", None)
    return yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)
