"""A run measured on its held-out clips, beside the baselines it has to beat."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from actseq import metrics
from actseq.autoencoders.base import Autoencoder
from actseq.autoencoders.bottlenecks import Plain
from actseq.autoencoders.networks import Pca
from actseq.corpus import Corpus, FeatureBatches
from actseq.generation import Codec
from actseq.latents import INACTIVE_NATS, LatentSequences
from actseq.priors.baselines import likelihood_baselines
from actseq.priors.conditions import ConditionedPrior
from actseq.progress import Reporter

Waveform = NDArray[np.float32]
SPEECH_RATE_MAX = 24_000
"""PESQ judges telephone speech: it is reported for corpora up to this rate, and means something for voices only."""


def fidelity(codec: Codec, corpus: Corpus, indices: list[int], reporter: Reporter) -> dict[str, Any]:
    """Reconstruction of clips, copy synthesis (features straight to the vocoder), and PCA of equal rate and dimension.

    Returns:
        By row: `mel_l1_db` and, for rates up to 24 kHz, `pesq_nb`, each with mean, 95 % interval and n; and the rate of the
        code: `kbit_per_s`, `active_dims`, `frames_per_s`.
    """
    scored = codec.sample_rate <= SPEECH_RATE_MAX and find_spec("pesq") is not None
    if codec.sample_rate <= SPEECH_RATE_MAX and not scored:
        reporter.warn("PESQ is left out: pip install 'actseq[evaluate]'")
    pca = replace(codec, autoencoder=_fit_pca(codec, corpus))
    rows: dict[str, Callable[[Waveform], Waveform]] = {
        "reconstructed": lambda waveform: codec.reconstruct([waveform])[0],
        "copy synthesis": lambda waveform: codec.synthesise(codec.analyse([waveform]))[0][: len(waveform)],
        f"pca {codec.autoencoder.latent_dim}": lambda waveform: pca.reconstruct([waveform])[0],
    }
    error: dict[str, list[float]] = {name: [] for name in rows}
    quality: dict[str, list[float]] = {name: [] for name in rows}
    kl = np.zeros(codec.autoencoder.latent_dim)
    frames = 0
    reporter.begin("fidelity", len(indices), unit="clips")
    for done, index in enumerate(indices, 1):
        waveform = corpus.waveform(index)
        for name, render in rows.items():
            made = render(waveform)
            error[name].append(metrics.mel_l1_db(waveform, made, codec.sample_rate))
            score = metrics.pesq_nb(waveform, made, codec.sample_rate) if scored else None
            if score is not None:
                quality[name].append(score)
        mean, log_variance = codec.encode([waveform])[0]
        if log_variance is not None:
            kl += 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum(0, dtype=np.float64)
        frames += len(mean)
        reporter.advance(done)
    reporter.end()
    result: dict[str, Any] = {
        name: {"mel_l1_db": _mean(error[name])} | ({"pesq_nb": _mean(quality[name])} if quality[name] else {})
        for name in rows
    }
    per_frame = kl / frames
    return result | {
        "rate": {
            "frames_per_s": codec.autoencoder.latent_rate,
            "latent_dim": codec.autoencoder.latent_dim,
            "kbit_per_s": float(per_frame.sum() / math.log(2) * codec.autoencoder.latent_rate / 1000) or None,
            "active_dims": int((per_frame > INACTIVE_NATS).sum()) if per_frame.any() else None,
        }
    }


def _mean(values: list[float]) -> dict[str, Any]:
    low, high = metrics.bootstrap_interval(values)
    return {"mean": float(np.mean(values)), "low": low, "high": high, "n": len(values)}


def _fit_pca(codec: Codec, corpus: Corpus) -> Autoencoder:
    representation, dim = codec.representation, codec.autoencoder.latent_dim
    stride = codec.autoencoder.stride
    dim = min(dim, representation.channels * stride)
    network = Pca(representation.channels, dim, dim, stride=stride)
    model = Autoencoder(
        network, Plain(), channels=representation.channels, feature_rate=representation.feature_rate, latent_dim=dim
    )
    model.fit(FeatureBatches(corpus, representation, codec.device))
    return model.to(codec.device)


@torch.inference_mode()
def likelihood(prior: ConditionedPrior, latents: LatentSequences, split: str, seed: int = 0) -> dict[str, float]:
    """Held-out bits per dimension of one draw from each posterior, in the prior's standardised coordinates.

    Returns:
        `prior` (label shown), `prior without label`, and the baselines fitted on the training split: `standard_normal`,
        `gaussian` (full covariance), `var1`, `mixture` (unconditional); `end nats` per position of the end's hazard.
    """
    model = prior.prior
    device = model.start.device

    def standardised(index: int) -> NDArray[np.float64]:
        drawn = torch.from_numpy(latents.draw(index, seed)).to(device)
        return model.standardiser.standardise(drawn).double().cpu().numpy()

    train = [standardised(i) for i in latents.indices("train")]
    held_out, nats, bare, ends, count = [], 0.0, 0.0, [], 0
    for index in latents.indices(split):
        values = standardised(index)
        record = latents.records[index]
        begins = bool(record.extra["begins"]) or len(values) < 2
        # A block cut from the middle of a file has no beginning: its first frame is given, to every model.
        scored = values if begins else values[1:]
        held_out.append(scored)
        tensor = torch.from_numpy(scored).float()[None].to(device)
        previous = torch.from_numpy(values[:1]).float().to(device)
        flag, length = torch.tensor([begins], device=device), torch.tensor([len(scored)], device=device)
        ended = torch.tensor([bool(record.extra["ends"])], device=device)
        label = str(record.extra["label"])
        shown = prior.labels.index(label) + 1 if label in prior.labels else 0
        for row, which in ((shown, "with"), (0, "without")):
            condition = prior.condition(torch.tensor([row], device=device))
            prediction = model.forward(tensor, condition, previous, flag)
            latent, end = model.sequence_loss(prediction, tensor, length, ended)
            if which == "with":
                nats += float(latent) * scored.size
                ends.append(float(end))
            else:
                bare += float(latent) * scored.size
        count += scored.size
    baselines = likelihood_baselines(train, held_out)
    return {
        "prior": nats / count / math.log(2),
        "prior without label": bare / count / math.log(2),
        **baselines,
        "end nats": float(np.mean(ends)),
    }
