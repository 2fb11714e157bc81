"""Latents and resynthesis of an autoencoder over grains, on its held-out clips.

python tests/benchmarks/grains.py RUN [--split test] [--set key=value of the vocoder]…

Resynthesis: the level in every octave band, and the level of the spectral line at the hop rate above its neighbours,
next to the same decoder with a low-pass and no jitter. Latents: mean, deviation and Kolmogorov–Smirnov distance from
the prior in every dimension, and the largest correlation. Draws: maximum mean discrepancy between log-spectra of real
grains and those of grains decoded from draws of the prior, of reconstructed grains, and of other real grains. Where a
bottleneck has no prior, draws come from the Gaussian with the mean and deviation of the latents.
"""

import argparse
import json

import numpy as np
import torch

from actseq.autoencoders.base import Latents
from actseq.config import Member
from actseq.data.corpus import Corpus
from actseq.evaluation import metrics, set_distances
from actseq.inference.loading import load_codec, stage_config
from actseq.plots import latent_statistics
from actseq.plots import spectra as bands
from actseq.storage.run_folder import RunFolder

LINE_N_FFT = 32768
"""Transform in which the line at the hop rate is looked for."""
RECIPE = Member(kind="granular", low_pass_hz=8000.0)
GRAINS = 1000


def spectrum(clips: list[np.ndarray], n_fft: int) -> np.ndarray:
    """Mean power spectrum of clips; each counts as long as it is."""
    found = [bands.power(clip, n_fft) for clip in clips]
    return np.sum([power for power, _ in found], axis=0) / sum(n for _, n in found)


def line_db(power: np.ndarray, rate: int, hop_hz: float) -> float:
    """Highest of the lines at the hop rate and its next four multiples, over the median of what lies within 5 %."""
    bin_hz = rate / 2 / (len(power) - 1)
    found = []
    for multiple in range(1, 6):
        at, around = round(multiple * hop_hz / bin_hz), max(8, round(0.05 * multiple * hop_hz / bin_hz))
        if at + around < len(power):
            near = np.concatenate([power[at - around : at - 3], power[at + 4 : at + around + 1]])
            found.append(10 * np.log10(power[at - 1 : at + 2].mean() / np.median(near)))
    return float(max(found))


def resynthesis(run: RunFolder, members: dict[str, Member], clips: list[np.ndarray], labels: list[str]) -> None:
    """Octave levels, lines and distances of what every vocoder makes of the decoder's grains."""
    made = {"original": clips}
    for name, member in members.items():
        config = stage_config(run, (), "generate").model_copy(update={"vocoder": member})
        codec, _ = load_codec(run, "cpu", config)
        made[name] = codec.reconstruct(clips)
    rate, hop_hz = codec.sample_rate, codec.sample_rate / codec.representation.hop_length
    octaves = bands.octaves(np.stack([spectrum(sounds, 4096) for sounds in made.values()]), rate)
    levels = 10 * np.log10(octaves.power)
    print("octave, Hz         " + " ".join(f"{centre:7.0f}" for centre in octaves.centre))
    print("original, dB       " + " ".join(f"{level:7.1f}" for level in levels[0] - levels[0].max()))
    for row, name in enumerate(made):
        if row:
            print(f"{name:18} " + " ".join(f"{level:+7.1f}" for level in levels[row] - levels[0]))
    for label in sorted(set(labels)) if len(set(labels)) > 1 else []:
        chosen = [i for i, found in enumerate(labels) if found == label]
        pair = np.stack([spectrum([made[name][i] for i in chosen], 4096) for name in ("original", "run")])
        own = 10 * np.log10(bands.octaves(pair, rate).power)
        print(f"  run, {label:11} " + " ".join(f"{level:+7.1f}" for level in own[1] - own[0]))
    for name, sounds in made.items():
        print(f"line at the hop rate, {name}: {line_db(spectrum(sounds, LINE_N_FFT), rate, hop_hz):.1f} dB")
        if name != "original":
            distances = [metrics.mel_l1_db(a, b, rate) for a, b in zip(clips, sounds, strict=True)]
            print(f"log-mel L1, {name}: {np.mean(distances):.2f} dB")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--split", default="test")
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = RunFolder.open(arguments.run)
    changes = {key: json.loads(value) for key, value in (pair.split("=", 1) for pair in arguments.set)}
    members = {"run": Member(**(run.read_config().vocoder.model_dump() | changes)), "recipe": RECIPE}
    config = stage_config(run, (), "generate")
    codec, _ = load_codec(run, "cpu", config.model_copy(update={"vocoder": members["run"]}))
    corpus = Corpus(run.corpus, config.corpus.level_dbfs)
    indices = corpus.indices(arguments.split)
    clips = [corpus.waveform(i) for i in indices]
    print(f"{run.name}: {len(clips)} clips of {arguments.split}")
    resynthesis(run, members, clips, [str(corpus.store.records[i].extra["label"]) for i in indices])

    encoded = np.concatenate([mean for mean, _ in codec.encode(clips)])
    prior = codec.autoencoder.bottleneck.deviation
    # Without a prior: the Gaussian of equal mean and deviation in every dimension.
    centre, deviation = (0.0, prior) if prior else (encoded.mean(0), encoded.std(0))
    standardised = (encoded - centre) / deviation
    print("mean      " + " ".join(f"{value:6.2f}" for value in encoded.mean(0)))
    print("deviation " + " ".join(f"{value:6.2f}" for value in encoded.std(0)))
    print("KS        " + " ".join(f"{value:6.3f}" for value in latent_statistics.kolmogorov_smirnov(standardised)))
    correlations = latent_statistics.correlations(encoded)
    print(f"largest correlation {latent_statistics.nearest_relative(correlations)[0].max():.3f}")

    rng = np.random.default_rng(0)
    features = codec.analyse(clips)
    grains = torch.cat([features.values[i, :, :n].T for i, n in enumerate(features.lengths.tolist())])
    real, also = np.split(rng.permutation(len(grains))[: 2 * GRAINS], 2)
    drawn = (rng.standard_normal((GRAINS, encoded.shape[1])) * deviation + centre).astype(np.float32)
    sounds = {"real": grains[real].T[None], "other real": grains[also].T[None]}
    with torch.inference_mode():
        for name, chosen in {"reconstructed": encoded[also], "drawn": drawn}.items():
            latents = Latents(torch.from_numpy(chosen)[None], torch.tensor([GRAINS]))
            sounds[name] = codec.autoencoder.decode(latents).values
        spectra = {
            name: codec.representation.log_power(values)[0].T.double().numpy() for name, values in sounds.items()
        }
    found = {}
    for name in ("other real", "reconstructed", "drawn"):
        found[name] = set_distances.discrepancy(spectra["real"], spectra[name], np.zeros(GRAINS, np.int64)).value
        print(f"MMD² of log-spectra, {name}: {found[name]:.5f}")
    print(f"drawn over reconstructed: MMD² {found['drawn'] / found['reconstructed']:.2f}")


if __name__ == "__main__":
    main()
