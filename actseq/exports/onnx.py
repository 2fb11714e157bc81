"""Export to ONNX: encoder, decoder, what the prior needs, a description, and a program that generates with them.

The networks are traced. The newer exporter of torch, which needs onnxscript, makes the same networks in 30 times the
time; see `docs/decisions.md`. After writing, every network runs in onnxruntime and is compared with torch.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from actseq import units
from actseq.errors import ArtifactError, ConfigError
from actseq.exports import standalone
from actseq.exports.graphs import Graph, Step, codec_graphs, prior_graphs
from actseq.inference.loaded_run import LoadedRun
from actseq.priors.base import Sampling
from actseq.priors.clip_flow import N_LENGTHS
from actseq.priors.outline import Outline
from actseq.representations.base import LogMagnitude, Representation
from actseq.storage.run_folder import versions
from actseq.storage.store import write_file

OPSET = 17
FORMAT = 1
TOLERANCE = 1e-4
"""Largest difference of features and latents between onnxruntime and torch."""
CHECK_SECONDS = 1.0
DESCRIPTION, PROGRAM = "export.json", "generate.py"
SOUND_DECODER = "sound_decoder"
"""The decoder of latents that the encoder made, where the one of the prior was tuned on what the prior makes."""


def export_onnx(loaded: LoadedRun, folder: Path) -> dict[str, float]:
    """Write networks, description and program.

    Args:
        loaded: a run on the CPU.
        folder: an empty folder.

    Returns:
        The largest differences between onnxruntime and torch, in latents and in features.

    Raises:
        ConfigError: a part of the run cannot be exported; or onnx or onnxruntime is not installed.
        ArtifactError: onnxruntime computes something else than torch.
    """
    require_onnx()
    graphs = graphs_of(loaded)
    about = describe(loaded, graphs)
    for graph in graphs:
        write_graph(graph, folder / f"{graph.name}.onnx")
    write_file(folder / PROGRAM, Path(standalone.__file__).read_bytes())
    write_file(folder / DESCRIPTION, json.dumps(about).encode())
    parity = compared(standalone.load(folder), standalone.Model(about, run_by_torch(graphs)))
    worst = max(parity, key=lambda name: parity[name])
    if not parity[worst] <= TOLERANCE:
        raise ArtifactError(
            f"onnxruntime differs from torch by {parity[worst]:.2g} in {worst}", f"at most {TOLERANCE:g}"
        )
    return parity


def require_onnx() -> None:
    """Check that the libraries are there.

    Raises:
        ConfigError: one of them is not.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"an export to ONNX needs {error.name}, which is not installed",
            action="install it with: pip install 'actseq[export]'",
        ) from None


def graphs_of(loaded: LoadedRun) -> list[Graph]:
    """All networks of a run.

    Raises:
        ConfigError: a part of the run cannot be exported.
    """
    representation = loaded.codec.representation
    if not (isinstance(representation, LogMagnitude) or loaded.config.representation.kind == "stft"):
        raise ConfigError(
            f"representation {loaded.config.representation.kind} cannot be exported", "mel, linear or stft"
        )
    graphs = codec_graphs(loaded.prior_codec.autoencoder.eval(), representation.channels)
    if loaded.prior_codec is not loaded.codec:
        _, decoder = codec_graphs(loaded.codec.autoencoder.eval(), representation.channels)
        graphs.append(replace(decoder, name=SOUND_DECODER))
    if loaded.prior is not None:
        graphs += prior_graphs(loaded.prior.prior, str(loaded.prior_name), sampling_of(loaded))
    return graphs


def sampling_of(loaded: LoadedRun) -> Sampling:
    """How a run draws by default: as it is configured, but for controls that its prior does not know."""
    settings, known = loaded.config.generate, () if loaded.prior is None else loaded.prior.prior.controls
    return Sampling(**{name: getattr(settings, name) for name in Sampling.__dataclass_fields__ if name in known})


def write_graph(graph: Graph, path: Path) -> None:
    """Write a network to a file."""
    with warnings.catch_warnings(), torch.no_grad():
        # It warns of being the older exporter, and of sizes that are the same in every call.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph.module.eval(),
            tuple(graph.inputs.values()),
            str(path),
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_axes={name: dict(axes) for name, axes in graph.free.items()},
            opset_version=OPSET,
            dynamo=False,
        )


def run_by_torch(graphs: list[Graph]) -> standalone.Run:
    """As onnxruntime runs the exported networks, but by torch from the networks themselves."""
    by_name = {graph.name: graph for graph in graphs}

    def run(name: str, inputs: Mapping[str, standalone.Array]) -> list[standalone.Array]:
        graph = by_name[name]
        return [made.numpy() for made in graph.run([torch.from_numpy(inputs[key]) for key in graph.inputs])]

    return run


def compared(exported: standalone.Model, original: standalone.Model) -> dict[str, float]:
    """Largest differences between two models.

    Both generate a clip from the same random numbers, if there is a prior; both decode the latents of the second clip,
    or noise; and both encode what was decoded.

    Args:
        exported: run by onnxruntime.
        original: run by torch.
    """
    parity: dict[str, float] = {}
    latent_dim, rate = original.about["latent_dim"], original.about["latent_rate"]
    frames = 1 if original.about["whole_clips"] else units.seconds_to_frames(CHECK_SECONDS, rate)
    latents = np.random.default_rng(0).standard_normal((frames, latent_dim)).astype(np.float32)
    if original.about["prior"] is not None:
        labels = original.prior["labels"]
        seconds = None if original.about["whole_clips"] else CHECK_SECONDS
        request = standalone.Request(labels[0] if labels else None, seconds=seconds, guidance=1.5)
        made, latents = (model.latents(np.random.default_rng(0), request)[0] for model in (exported, original))
        parity["generated latents"] = _difference(made, latents)
    features = original.features(latents)
    parity["decoded features"] = max(
        _difference(*(model.features(latents, of_sound=of_sound) for model in (exported, original)))
        for of_sound in (False, True)
    )
    inputs = {"features": features[None], "lengths": np.array([features.shape[1]])}
    pairs = zip(exported.run("encoder", inputs), original.run("encoder", inputs), strict=True)
    parity["encoded latents"] = max(_difference(*pair) for pair in pairs)
    return parity


def _difference(one: standalone.Array, other: standalone.Array) -> float:
    return float(np.abs(one - other).max()) if one.shape == other.shape else float("inf")


# -- description ------------------------------------------------------------------------------------------------------


def describe(loaded: LoadedRun, graphs: list[Graph]) -> dict[str, Any]:
    """Content of `export.json`: what a program needs beside the networks; docs/elsewhere.md explains the keys."""
    codec, autoencoder = loaded.codec, loaded.prior_codec.autoencoder
    representation = codec.representation
    return {
        "format": FORMAT,
        "made_by": versions(),
        "run": loaded.run.name,
        "fingerprints": loaded.fingerprints,
        "sample_rate": codec.sample_rate,
        "hop_length": representation.hop_length,
        "feature_rate": representation.feature_rate,
        "channels": representation.channels,
        "stride": autoencoder.stride,
        "latent_rate": autoencoder.latent_rate,
        "latent_dim": autoencoder.latent_dim,
        "whole_clips": autoencoder.whole_clips,
        "level_dbfs": codec.level_dbfs,
        "representation": loaded.config.representation.model_dump(mode="json"),
        "basis": _basis(representation),
        "vocoder": loaded.config.vocoder.model_dump(mode="json"),
        "sound_decoder": SOUND_DECODER if loaded.prior_codec is not loaded.codec else "decoder",
        "decoder_labels": autoencoder.labels,
        "decoder_conditions": [] if autoencoder.table is None else _numbers(autoencoder.table.weight),
        "networks": {graph.name: {"inputs": list(graph.inputs), "outputs": list(graph.outputs)} for graph in graphs},
        "prior": None if loaded.prior is None else _prior(loaded),
        "defaults": _defaults(loaded),
    }


def _defaults(loaded: LoadedRun) -> dict[str, Any]:
    settings, sampling = loaded.config.generate, sampling_of(loaded)
    level = loaded.codec.level_dbfs
    return {
        "seconds": settings.seconds,
        "min_seconds": settings.min_seconds,
        "max_seconds": settings.max_seconds,
        "restarts": settings.after_end == "restart",
        "noise": sampling.of_noise,
        "choice": sampling.of_components,
        "sharpness": float(np.exp(-sampling.bias)),
        "noise_clamp": sampling.noise_clamp,
        "guidance": sampling.guidance,
        "peak": None if level is None or settings.level == "free" else units.db_to_amplitude(level),
    }


def _prior(loaded: LoadedRun) -> dict[str, Any]:
    """What a program must know of the prior, its tables included."""
    labelled = loaded.prior
    assert labelled is not None
    prior: Any = labelled.prior
    if loaded.prior_name == "normal":
        dims = prior.latent_dim
        return {
            "kind": "normal",
            "labels": labelled.labels,
            "mean": [0.0] * dims,
            "deviation": [1.0] * dims,
            "active": list(range(dims)),
            "centres": _numbers(prior.centre),
            "spreads": _numbers(prior.spread),
            "lengths": [_quantiles(own) for own in prior.lengths],
        }
    standardiser = prior.standardiser
    about = {
        "labels": labelled.labels,
        "conditions": _numbers(labelled.condition(torch.arange(len(labelled.labels) + 1))),
        "mean": _numbers(standardiser.mean),
        "deviation": _numbers(standardiser.deviation),
        "active": standardiser.active.tolist(),
    }
    if hasattr(prior, "head"):
        state = [
            {"name": f"state_{i}", "shape": list(part.shape), "type": str(part.numpy().dtype)}
            for i, part in enumerate(Step(prior).state())
        ]
        return {"kind": "sequence", **about, "choices": list(prior.head.n_choices), "state": state}
    summaries = prior.summaries
    return {
        "kind": "clip-flow",
        **about,
        "frames": prior.frames,
        "steps": prior.steps,
        "guided_from": prior.guided_from,
        "guided_until": prior.guided_until,
        "lengths": prior.likely_lengths.tolist(),
        "summaries": None if summaries is None else _numbers(summaries.kept),
        "summary_noise": None if summaries is None else summaries.noise,
        "outline": None if prior.outline is None else _outline(prior.outline),
    }


def _quantiles(lengths: Int[np.ndarray, " _sequences"]) -> list[int]:
    """Some of the lengths, in order and equally likely; none where there are none."""
    found = np.sort(lengths)
    return [int(found[i]) for i in (np.linspace(0, len(found) - 1, min(len(found), N_LENGTHS))).round().astype(int)]


def _outline(outline: Outline) -> dict[str, Any] | None:
    """The windows that are kept, if there are any; the places without one come last."""
    n = int((outline.labels >= 0).sum())
    if not n:
        return None
    tables = {"next": outline.next[:n].tolist(), "labels": outline.labels[:n].tolist()}
    return {"kept": _numbers(outline.kept[:n])} | tables


def _basis(representation: Representation) -> Any:
    """Bands of bins, (channels, bins); None where the channels are the bins."""
    basis = representation.magnitudes.basis if isinstance(representation, LogMagnitude) else None
    return None if basis is None else _numbers(basis)


def _numbers(tensor: Tensor) -> Any:
    """Nested lists with as many digits as single precision has."""
    values = tensor.detach().cpu().numpy()
    short = np.array([float(f"{value:.9g}") for value in values.ravel().tolist()])
    return short.reshape(values.shape).tolist()
