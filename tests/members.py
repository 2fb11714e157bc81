"""Cheap options of registered members. One that is not listed here is tested with its defaults."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actseq import audio, build, registry
from actseq.autoencoders.base import Autoencoder
from actseq.config import Member, load_preset
from actseq.priors.sequence import SequencePrior
from actseq.representations.base import Features

SAMPLE_RATE = 8000
LATENT_DIM = 4

REPRESENTATIONS: dict[str, dict[str, Any]] = defaultdict(
    dict,
    {
        "mel": {"n_fft": 256, "hop_length": 64, "n_mels": 24},
        "linear": {"n_fft": 256, "hop_length": 64},
        "stft": {"n_fft": 256, "hop_length": 64},
        "grain": {"grain_length": 256, "overlap": 0.75, "bands": 24},
        "spectrum": {"grain_length": 256, "overlap": 0.75},
        "harmonic": {"n_fft": 256, "hop_length": 64, "bands": 24, "shares": 6, "f_min": 100.0},
    },
)
NETWORKS: dict[str, list[dict[str, Any]]] = defaultdict(
    lambda: [{}],
    {
        "conv": [
            {"width": 12, "inner": 16, "blocks": 1, "latent_blocks": 1, "stride": 2},
            {"width": 12, "inner": 16, "blocks": 2, "stride": 3},
            {"width": 12, "inner": 16, "blocks": 1, "stride": 2, "attention": 3, "heads": 3},
        ],
        "dense": [
            {"width": 12, "layers": 1, "stride": 1},
            {"width": 12, "layers": 2, "stride": 3},
            {"width": 12, "layers": 2, "energies": True, "stride": 1},
        ],
        "recurrent": [
            {"width": 8, "layers": 2, "stride": 3},
            {"width": 8, "layers": 1, "stride": 1, "bidirectional": False},
        ],
        "pca": [{"stride": 1}, {"stride": 3}],
        # At 125 frames a second: 4 and 6 frames.
        "clip": [
            {"seconds": 0.032, "width": 4, "levels": 1},
            {"seconds": 0.048, "width": 4, "levels": 2},
            {"seconds": 0.048, "width": 4, "levels": 1, "principal": True},
        ],
        "circular": [{"pairs": 6, "width": 12, "layers": 1}, {"pairs": 4, "taps": 24, "width": 12}],
        "unet": [{"width": 12, "inner": 16, "stride": 1}, {"width": 12, "inner": 16, "blocks": 1, "stride": 4}],
    },
)
SKIPPING = {"unet"}
"""Networks that decode nothing: what they make needs more than the latents."""
BOTTLENECKS: dict[str, dict[str, Any]] = defaultdict(dict)
ONLY_WITH: dict[str, set[str]] = {"unet": {"stft"}, "clip": {"linear", "mel", "stft"}, "circular": {"grain"}}
"""Networks that take only some representations."""
CORRUPTIONS: dict[str, dict[str, Any]] = defaultdict(dict)
REFUSED = {("pca", "variational"): "plain", ("unet", "variational"): "plain", ("unet", "adversarial"): "plain"}
"""Network and bottleneck that do not fit, and the member that the refusal must name."""
VOCODERS: dict[str, dict[str, Any]] = defaultdict(
    dict,
    {
        "phase": {"n_turns": 2, "block_frames": 16},
        "griffin-lim": {"n_iter": 4, "block_frames": 16, "overlap_frames": 4},
        "istft": {"block_frames": 16},
        "granular": {"block_frames": 16},
        "harmonic": {"n_corrections": 1, "block_frames": 16},
    },
)
VOCODER_NETWORKS: dict[str, dict[str, Any]] = defaultdict(
    dict,
    {
        "magnitude": {"width": 12, "inner": 16, "blocks": 1},
        "neural": {"width": 12, "inner": 16, "blocks": 1, "block_frames": 16},
        "wavenet": {"width": 4, "layers": 4, "condition": 4, "inner": 8, "ahead": 40, "noise": 1.0, "block_frames": 16},
    },
)
PRIOR_NETWORKS: dict[str, dict[str, Any]] = defaultdict(
    dict,
    {
        "lstm": {"width": 12, "layers": 2, "dropout": 0.0},
        "gru": {"width": 12, "layers": 2, "dropout": 0.0},
        # A window that is shorter than what the tests show it.
        "transformer": {"width": 12, "inner": 20, "layers": 2, "heads": 3, "window": 4, "dropout": 0.0},
        "gan": {"width": 8, "blocks": 1},
        "clip-flow": {"width": 8, "layers": 1, "heads": 2, "inner": 12, "patch": 2, "steps": 2, "information": 0.5},
    },
)
HEADS: dict[str, dict[str, Any]] = defaultdict(
    dict,
    {
        "gaussian": {},
        "mixture": {"n_components": 3},
        "flow": {"width": 12, "blocks": 1, "dropout": 0.0, "information": 0.5},
    },
)
SEQUENCE_NETWORKS = sorted(kind for kind, one in registry.PRIOR_NETWORKS.items() if not build.is_whole_sequence(one))
"""Prior networks that take a head."""


def representation(kind: str, **options: Any) -> Any:
    """At 8 kHz."""
    member = Member(kind=kind, **(REPRESENTATIONS[kind] | options))
    return build.construct(registry.REPRESENTATIONS, member, "representation", SAMPLE_RATE)


def analysis(network: str, n_mels: int = 24) -> Any:
    """Made-up features with this many channels."""
    if ONLY_WITH.get(network) == {"stft"}:
        return representation("stft", n_fft=n_mels, hop_length=n_mels // 2)
    if ONLY_WITH.get(network) == {"grain"}:
        return representation("grain", grain_length=n_mels)
    return representation("mel", n_mels=n_mels)


def autoencoder(
    network: str,
    bottleneck: str,
    options: dict[str, Any],
    latent_dim: int = LATENT_DIM,
    n_mels: int = 24,
    awake: bool = True,
) -> Autoencoder:
    """A member with seeded weights, fitted to made-up features (mel if they fit); `awake` leaves no layer at zero."""
    given = [
        f"autoencoder.network={json.dumps({'kind': network, **options})}",
        f"autoencoder.bottleneck={json.dumps({'kind': bottleneck, **BOTTLENECKS[bottleneck]})}",
        f"autoencoder.latent_dim={latent_dim}",
    ]
    config = build.complete(load_preset("smoke", given))
    torch.manual_seed(0)
    model = build.build_autoencoder(config, analysis(network, n_mels)).eval()
    with torch.random.fork_rng(), torch.no_grad():
        for parameter in model.parameters() if awake else ():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.fit([features(40, 3, n_mels), features(31, 2, n_mels)])
    return model


def vocoder_network(kind: str, analysis: Any, **options: Any) -> Any:
    """Seeded weights that matter, statistics of made-up features."""
    member = Member(kind=kind, **(VOCODER_NETWORKS[kind] | options))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build.construct(registry.VOCODER_NETWORKS, member, "train_vocoder.network", analysis)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    network.normaliser.fit([features(40, 3, analysis.channels)])
    return network.eval()


def prior(
    network: str, head: str, latent_dim: int = 5, n_active: int = 3, condition: str = "everywhere"
) -> SequencePrior:
    """Seeded weights large enough to matter, statistics away from zero and one, every other dimension active."""
    config = load_preset(
        "smoke",
        [
            f"prior.network={json.dumps({'kind': network, **PRIOR_NETWORKS[network]})}",
            f"prior.head={json.dumps({'kind': head, **HEADS[head]})}",
            f"prior.condition={condition}",
        ],
    )
    torch.manual_seed(0)
    model = build.build_prior(config, latent_dim, n_active, ["a", "b"]).prior.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.standardiser.active.copy_(torch.arange(0, latent_dim, 2)[:n_active])
    model.standardiser.mean.copy_(torch.linspace(-1, 2, n_active))
    model.standardiser.deviation.copy_(torch.linspace(0.4, 1.8, n_active))
    model.keep_precision(torch.linspace(0.05, 0.8, n_active))
    return model


def features(frames: int, batch: int, channels: int) -> Features:
    """Smooth random features of the size of log-mel ones; the rows have different lengths."""
    generator = torch.Generator().manual_seed(frames)
    steps = torch.randn((batch, channels, frames), generator=generator)
    lengths = torch.tensor([max(1, frames - 5 * i) for i in range(batch)])
    return Features(steps.cumsum(2) * 0.5 - 5, lengths)


def digits(data_dir: Path, n: int = 4) -> list[np.ndarray]:
    """Spoken digits as recorded, at 8 kHz."""
    paths = audio.find(data_dir / "digits_fsdd")
    return [audio.load(path, SAMPLE_RATE)[0] for path in paths[:: len(paths) // n][:n]]


def padded(waveforms: list[np.ndarray], fill: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """One batch, and its lengths; what lies beyond a clip is noise of deviation `fill`."""
    longest = max(len(waveform) for waveform in waveforms)
    batch = torch.randn((len(waveforms), longest), generator=torch.Generator().manual_seed(1)) * fill
    for row, waveform in zip(batch, waveforms, strict=True):
        row[: len(waveform)] = torch.from_numpy(np.asarray(waveform, dtype=np.float32))
    return batch, torch.tensor([len(waveform) for waveform in waveforms])
