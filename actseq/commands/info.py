"""`info`: what a run contains and which stages are finished."""

from __future__ import annotations

from pathlib import Path

from actseq.commands.common import Result
from actseq.errors import ArtifactError
from actseq.storage.artifacts import read_json
from actseq.storage.remote import remote_of
from actseq.storage.run_folder import RunFolder


def info(run: str | Path) -> Result:
    """What a run contains and which stages are finished."""
    opened = RunFolder.open(run)
    config = opened.read_config()
    provenance = opened.read_provenance()
    result: Result = {
        "run": str(opened.path),
        "preset": config.preset,
        "source": provenance["source"],
        "seed": config.seed,
        "versions": provenance["versions"],
        "commit": provenance["commit"],
    }
    if opened.packed is not None:
        result["packed from"] = opened.packed["run"]
    result |= _stored(opened.corpus, "clips", "found", "skipped", "fingerprint")
    result |= _stored(opened.features, "n_sequences", "n_frames", "channels", "fingerprint")
    if (opened.autoencoder / "model.json").is_file():
        meta = opened.trained_autoencoder.meta
        result["autoencoder"] = {
            key: meta[key]
            for key in (
                "sample_rate",
                "latent_rate",
                "latent_dim",
                "n_parameters",
                "total_steps",
                "best_step",
                "figures",
            )
        }
        result["autoencoder"]["fingerprint"] = opened.trained_autoencoder.fingerprint
    result |= _stored(opened.latents, "n_sequences", "n_frames", "fingerprint")
    result["priors"] = {}
    for name in opened.priors.names:
        meta = opened.priors.read(name).meta
        result["priors"][name] = {
            "network": meta["config"]["prior"]["network"]["kind"],
            "head": (meta["config"]["prior"]["head"] or {"kind": None})["kind"],
            **{key: meta[key] for key in ("labels", "n_active", "n_parameters", "total_steps", "best_step", "figures")},
        }
    result["vocoders"] = {}
    for name in opened.vocoders.names:
        made = opened.vocoders.read(name)
        meta = made.meta
        result["vocoders"][name] = {
            "network": meta["config"]["train_vocoder"]["network"]["kind"],
            **{key: meta[key] for key in ("n_parameters", "total_steps", "best_step", "figures")},
            "fingerprint": made.fingerprint,
        }
    if result["vocoders"] or opened.choice.is_file():
        try:
            chosen = opened.chosen_vocoder(config)
            result["chosen vocoder"] = "untrained" if chosen is None else chosen.options["name"]
        except ArtifactError as error:
            result["chosen vocoder"] = str(error)
    if begun := _begun(opened):
        result["begun, not finished"] = begun
    return result


def _begun(run: RunFolder) -> list[str]:
    """Trainings that have begun and are not finished, because they go on or were stopped."""
    folders = [(run.autoencoder, "autoencoder")]
    for models, what in ((run.priors, "prior"), (run.vocoders, "vocoder")):
        inside = sorted(models.path.iterdir()) if models.path.is_dir() else []
        folders += [(folder, f"{what} {folder.name}") for folder in inside]
    started = [(folder, what) for folder, what in folders if (folder / "plan.json").exists()]
    return [what for folder, what in started if not (folder / "model.json").exists()]


def _stored(folder: Path, *keys: str) -> Result:
    """The values that a folder's JSON has under `keys`, under the folder's name; empty if the stage is not finished."""
    marker = folder / f"{folder.name}.json"
    if not marker.is_file():
        return {}
    meta, remote = read_json(marker), remote_of(folder)
    return {folder.name: {key: meta[key] for key in keys} | ({} if remote is None else {"shards": remote.url})}
