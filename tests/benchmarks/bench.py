"""Speed of every stage, by default on one thread: `make bench`, or `tests/benchmarks/bench.py [THREADS [priors]]`.

The networks are untrained and have the sizes of the presets: speed does not depend on weights. Each figure is the best
of several runs. Compare figures of one run only, because machines are noisy.
"""

import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from actseq import build, registry
from actseq.config import Member, load_preset
from actseq.data.drumkit import synthesise
from actseq.inference.codec import Codec
from actseq.objectives.base import Batch
from actseq.priors.base import SamplingRequest
from actseq.representations.linear import Linear
from actseq.representations.mel import Mel
from actseq.representations.stft import Stft
from actseq.vocoders.base import synthesise as synthesise_features

SECONDS = 10.0


def best(work: Callable[[], object], repeats: int = 3) -> float:
    """Shortest of several runs after one that is not counted, in seconds."""
    work()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)


def row(what: str, figure: str) -> None:
    """One line of the table."""
    print(f"{what:58} {figure}", flush=True)


def start_up() -> None:
    """Import and help, as whole processes."""
    for what, command in (
        ("import actseq", [sys.executable, "-c", "import actseq"]),
        ("actseq --help", [sys.executable, "-m", "actseq", "--help"]),
    ):
        row(what, f"{best(lambda c=command: subprocess.run(c, check=True, capture_output=True), 5) * 1e3:8.0f} ms")


def vocoders() -> None:
    """The vocoders that need no training, at 44.1 kHz."""
    rate = 44100
    hits = [synthesise(kind, seed, rate) for seed in range(30) for kind in ("snare", "tom", "hat")]
    waveform = torch.from_numpy(np.resize(np.concatenate(hits), int(SECONDS * rate)).astype(np.float32))[None]
    for representation in (
        Linear(rate, n_fft=2048, hop_length=512),
        Mel(rate, n_fft=2048, hop_length=512, n_mels=128),
        Stft(rate, n_fft=2048, hop_length=512),
    ):
        kind = type(representation).__name__.lower()
        features = representation.analyse(waveform, torch.tensor([waveform.shape[1]]))
        print(f"\n{kind} {representation.channels} at {rate} Hz, 2048/512 → waveform")
        for name in ("istft",) if kind == "stft" else ("phase", "griffin-lim"):
            vocoder = build.build_vocoder(Member(kind=name), representation)
            seconds = best(lambda v=vocoder, f=features: synthesise_features(v, f), 2 if name == "griffin-lim" else 5)
            row(f"  {name}", f"{SECONDS / seconds:8.0f} × real time")


def preset(name: str, overrides: tuple[str, ...] = ()) -> None:
    """Analysis, encoding, decoding, synthesis, training step and prior steps at a preset's size."""
    config = build.complete(load_preset(name, overrides))
    torch.manual_seed(0)
    representation = build.build_representation(config)
    model = build.build_autoencoder(config, representation).eval()
    prior = build.build_prior(config, model.latent_dim, model.latent_dim, ["a"]).eval()
    rate = config.corpus.sample_rate
    n = int(SECONDS * rate)
    hits = [synthesise("snare", seed, max(rate, 8000)) for seed in range(60)]
    waveform = np.resize(np.concatenate(hits), n).astype(np.float32)
    vocoder = build.build_vocoder(config.vocoder, representation)
    codec = Codec(representation, model, vocoder, config.corpus.level_dbfs, torch.device("cpu"))
    shape = f"{rate} Hz, {config.representation.options['n_fft']}/{representation.hop_length}/{representation.channels}"
    size = f"{build.n_parameters(model) / 1e6:.2f} M, {model.latent_rate:.4g} Hz × {model.latent_dim}"
    print(
        f"\n{' '.join((name, *overrides))}: {shape}; autoencoder {size}; prior {build.n_parameters(prior) / 1e6:.2f} M"
    )
    features = codec.analyse([waveform])
    latents = codec.encode([waveform])[0][0]
    with torch.inference_mode():
        row("  waveform → features", f"{SECONDS / best(lambda: codec.analyse([waveform])):8.0f} × real time")
        row("  waveform → latents", f"{SECONDS / best(lambda: codec.encode([waveform])):8.0f} × real time")
        row(
            "  features → waveform (vocoder alone)",
            f"{SECONDS / best(lambda: codec.synthesise(features), 2):8.0f} × real time",
        )
        row("  latents → waveform", f"{SECONDS / best(lambda: codec.decode([latents]), 2):8.0f} × real time")
        for batch in (1, 64):
            frames = 100
            request = SamplingRequest(
                n=batch, max_frames=frames, condition=prior.condition(torch.ones(batch, dtype=torch.long))
            )
            seconds = best(lambda r=request: list(prior.prior.sample(r)))
            row(
                f"  prior step, {batch} streams",
                f"{seconds / frames * 1e3:8.3f} ms ({seconds / frames / batch * 1e6:.0f} µs a stream)",
            )
    hop = representation.hop_length
    samples = int(config.corpus.segment_seconds * rate) // hop * hop
    margin = -(-representation.context_samples // hop) * hop
    objective = build.build_autoencoding(config, model.train(), representation, margin)
    size = config.train_ae.batch_size
    segments = torch.from_numpy(np.resize(waveform, (size, samples + 2 * margin)).copy())
    batch_data = Batch({"waveform": segments, "n_samples": torch.full((size,), samples)}, 0.5)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimiser.zero_grad()
        objective.losses(batch_data)["autoencoder"].total.backward()
        optimiser.step()

    row(f"  training step, {size} × {samples // hop + 1} frames", f"{best(step, 5) * 1e3:8.0f} ms")


@torch.inference_mode()
def priors() -> None:
    """A step of sampling at 48 dimensions, beside the bare matrix products of the same weights, timed in turn."""
    print(
        "\npriors, 48 dimensions, steps 257 to 356 (a transformer's window is full): step, bare products of its weights"
    )
    heads: tuple[dict[str, object], ...] = (
        {"kind": "mixture", "n_components": 8, "blocks": 1},
        {"kind": "mixture", "n_components": 4, "blocks": 4},
        {"kind": "flow"},
    )
    for network in (kind for kind, one in registry.PRIOR_NETWORKS.items() if not build.is_whole_sequence(one)):
        for head in heads:
            config = load_preset("mel-vae", [f"prior.network.kind={network}", f"prior.head={head}".replace("'", "")])
            torch.manual_seed(0)
            model = build.build_prior(build.complete(config), 48, 48, ["a"]).eval()
            weights = [weight for weight in model.prior.parameters() if weight.ndim == 2]
            for batch in (1, 64):
                condition = model.condition(torch.ones(batch, dtype=torch.long))
                inputs = [torch.zeros(batch, weight.shape[1]) for weight in weights]
                steps, bare = [], []
                for _ in range(3):
                    chunks = model.prior.sample(
                        SamplingRequest(n=batch, max_frames=356, condition=condition, chunk_frames=1)
                    )
                    for _ in range(256):
                        next(chunks)
                    begun = time.perf_counter()
                    for _ in chunks:
                        pass
                    steps.append((time.perf_counter() - begun) / 100)
                    begun = time.perf_counter()
                    for _ in range(100):
                        for weight, x in zip(weights, inputs, strict=True):
                            x @ weight.T
                    bare.append((time.perf_counter() - begun) / 100)
                what = f"  {network}, {' '.join(map(str, head.values()))}, {batch} streams"
                each = f" ({min(steps) / batch * 1e6:.0f} µs a stream)" if batch > 1 else ""
                row(what, f"{min(steps) * 1e3:8.3f} ms{each}, bare {min(bare) * 1e3:.3f} ms")


def main() -> None:
    """Everything, or `priors` alone."""
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    torch.set_num_threads(threads)
    print(f"torch {torch.__version__}, {threads} thread(s)")
    priors()
    if sys.argv[2:] == ["priors"]:
        return
    start_up()
    vocoders()
    for name in ("digits", "drumkit", "speech", "drums", "ambience"):
        preset(name)
    preset("drums", ("representation.n_fft=2048", "representation.hop_length=512", "autoencoder.network.stride=2"))
    preset("drums", ("representation={kind: linear, n_fft: 2048, hop_length: 512}",))


if __name__ == "__main__":
    main()
