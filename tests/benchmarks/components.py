"""Autoencoders beside principal components: `python tests/benchmarks/components.py RUN [RUN …]`.

Principal components have as many values a second as the autoencoder of a run, and are taken of its training clips. They
are measured with all their rate, for real numbers have no bound, and through a Gaussian channel of the rate of the
autoencoder (see docs/benchmarks.md). Printed are, over the test clips, the log-mel L1 distance in dB of all three and
the paired difference of the autoencoder to the other two with its 95 % interval: below 0 the autoencoder wins. The
lines `features` compare the features before the vocoder, by the L1 distance in dB that the training makes small.
"""

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float

from actseq import load_run, units
from actseq.arrays import Waveform
from actseq.autoencoders.base import Latents
from actseq.data.corpus import Corpus
from actseq.data.excerpts import spread
from actseq.evaluation import fidelity, metrics
from actseq.inference.codec import Codec
from actseq.inference.loaded_run import LoadedRun
from actseq.progress import SILENT

Errors = dict[str, Float[np.ndarray, " clips"]]


def main(words: Sequence[str] | None = None) -> None:
    """Print three lines for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--split", default="test")
    parser.add_argument("--clips", type=int, help="most clips")
    given = parser.parse_args(words)
    for name in given.runs:
        run = load_run(name, device="cpu")
        corpus = Corpus(run.run.corpus, run.config.corpus.level_dbfs)
        chosen = spread(corpus.indices(given.split), given.clips)
        measured = fidelity.systems(run.codec, corpus, chosen, 0, SILENT)
        rate, steps = measured.rate, run.run.trained_autoencoder.meta["best_step"]
        bits = "no rate" if rate["kbit_per_s"] is None else f"{rate['kbit_per_s']:.2f} kbit/s"
        values = rate["frames_per_s"] * rate["latent_dim"]
        print(f"{name}: {steps} steps, {len(chosen)} {given.split} clips, {values:.0f} values a second, {bits}")
        show("log-mel dB", waveform_errors(measured, corpus, chosen))
        show("features dB", feature_errors(run, corpus, chosen))


def waveform_errors(measured: fidelity.ComparedSystems, corpus: Corpus, chosen: list[int]) -> Errors:
    """Log-mel L1 distance in dB of each clip as the systems make it, the autoencoder first."""
    names = [name for name in measured.renders if name == "reconstructed" or name.startswith("pca")]
    rate = measured.codec.sample_rate
    found: dict[str, list[float]] = {name: [] for name in names}
    for index in chosen:
        clean = corpus.waveform(index)
        for name in names:
            [made] = measured.renders[name]([index], [clean])
            found[name].append(metrics.mel_l1_db(clean, made, rate))
    return {name: np.array(errors) for name, errors in found.items()}


def feature_errors(run: LoadedRun, corpus: Corpus, chosen: list[int]) -> Errors:
    """L1 distance in dB between the features of each clip and those that are decoded, the autoencoder first."""
    codecs = {"autoencoder": run.codec, "pca": fidelity.components(run.codec, corpus)}
    clips = [corpus.waveform(index) for index in chosen]
    found = {name: [feature_error(codec, clean) for clean in clips] for name, codec in codecs.items()}
    return {name: np.array(errors) for name, errors in found.items()}


@torch.inference_mode()
def feature_error(codec: Codec, clean: Waveform) -> float:
    """L1 distance in dB between the features of a clip and those that are decoded from its latents."""
    features = codec.analyse([clean])
    posterior = codec.autoencoder.encode(features)
    decoded = codec.autoencoder.decode(Latents(posterior.mean, posterior.lengths)).values
    error = (decoded[:, :, : features.values.shape[2]] - features.values).abs().mean()
    return float(error) * units.DB_PER_NEPER


def show(title: str, errors: Errors, write: Callable[[str], None] = print) -> None:
    """Write a line with the means, and the differences of the first system to the others."""
    (name, own), *others = errors.items()
    parts = [f"{name} {own.mean():.3f}"]
    for other, error in others:
        low, high = metrics.bootstrap_interval(own - error)
        parts.append(f"{other} {error.mean():.3f}, difference {(own - error).mean():+.3f} [{low:+.3f}, {high:+.3f}]")
    write(f"  {title:12} " + "; ".join(parts))


if __name__ == "__main__":
    main()
