"""Autoencoders of grains: what comes back, what the latents look like, and what shapes them.

    python tests/benchmarks/grains.py measure RUN [--split test] [--set key=value of the vocoder]… [--sheet PNG]
    python tests/benchmarks/grains.py compare RUN… [--split test] [--clips N] [--speech] [--set …]… [--sheet PNG]
    python tests/benchmarks/grains.py ablate FOLDER OUT [--steps N] [--seeds 0 1 2] [--set key=value]…

`measure` puts the held-out clips of a run together in three ways: as the run does; without overlap, grain after grain;
and with 90 % overlap under a Blackman window, after the upper 85 % of the bins of every grain are set to zero. For each
it prints the level in every octave band, the level of the spectral line at the hop rate above its neighbours, and the
log-mel distance; and for true grains, without a network, how far below the sound their error is. Then the noise in
single grains: the power per hertz of original, output and error in every octave band, and the flatness of the error
above 1 kHz, the geometric over the arithmetic mean of its power, 0 dB for white noise. Latents: mean, deviation and
Kolmogorov–Smirnov distance from the prior in every dimension, and the largest correlation. Draws: maximum mean
discrepancy between log-spectra of real grains and those of grains decoded from draws of the prior, of reconstructed
grains, and of other real grains. Where a bottleneck has no prior, draws come from the Gaussian with the mean and
deviation of the latents.

`compare` prints a line for each run, which may be of any preset: steps, values a second, the rate of the latents,
log-mel L1 with its 95 % interval, and PESQ if it is speech, from the mean of the latents and, where they have a rate,
from a draw. `--set` changes the vocoder of all of the runs, as in `measure`. Runs of one folder at one sample rate have
the same clips.

`ablate` trains the preset grain-aae with and without each of the two terms that shape its latents, and
grain-aae-original, several seeds each, and compares the latents with the prior, as they come out of the encoder and
whitened by statistics of training clips. Grains do not overlap there.
"""

import argparse
import copy
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from actseq import build, pipeline
from actseq.arrays import LatentArray, Waveform
from actseq.autoencoders.base import Latents
from actseq.autoencoders.bottlenecks import Adversarial
from actseq.commands.common import Compute
from actseq.config import Config, Member
from actseq.data.corpus import Corpus
from actseq.data.excerpts import spread
from actseq.evaluation import fidelity, metrics, set_distances
from actseq.inference.codec import Codec
from actseq.inference.loading import load_codec, stage_config
from actseq.plots import latent_statistics
from actseq.plots import spectra as bands
from actseq.plots.contact_sheet import Panel, contact_sheet
from actseq.progress import SILENT
from actseq.representations.base import Granular
from actseq.representations.grain import Grain
from actseq.storage.run_folder import RunFolder

LINE_N_FFT = 32768
"""Transform in which the line at the hop rate is looked for."""
GRAINS = 1000
NOISY_HZ = 1000.0
"""Above this the error is compared with white noise."""
SHEET_SECONDS = 10.0
SHOWN = 3
"""Clips of `compare` on the sheet."""
APART, LOW_PASSED = "without overlap", "90 %, low-pass"
WEIGHTS = ("train_ae.regulariser.adversarial_weight={}", "train_ae.regulariser.matching_weight={}")
SETTINGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "blog post": ("grain-aae-original", ()),
    **{
        name: ("grain-aae", tuple(text.format(weight) for text, weight in zip(WEIGHTS, weights, strict=True)))
        for name, weights in {
            "neither": (0.0, 0.0),
            "adversary": (0.2, 0.0),
            "matching": (0.0, 3.0),
            "both": (0.2, 3.0),
        }.items()
    },
}
"""Preset and overrides of what `ablate` trains."""


# -- putting grains together ------------------------------------------------------------------------------------------


def at_overlap(codec: Codec, config: Config, overlap: float, **options: float) -> Codec:
    """The codec of a run with other overlap and a granular vocoder that leaves grains where they are.

    Raises:
        SystemExit: the network sees more than one grain at a time.
    """
    if codec.autoencoder.context_frames != 0 or codec.autoencoder.stride != 1:
        sys.exit("grains of another overlap need a network that sees one grain at a time, such as dense with stride 1")
    member = Member(**(config.representation.model_dump() | {"overlap": overlap}))
    changed = config.model_copy(update={"representation": member})
    representation = build.build_representation(changed)
    vocoder = build.build_vocoder(Member(kind="granular", rotate=False, **options), representation)
    return replace(codec, representation=representation, vocoder=vocoder)


def spectrum(clips: Sequence[Waveform], n_fft: int) -> Float[np.ndarray, " bins"]:
    """Mean power spectrum of clips; each counts as long as it is."""
    found = [bands.power(clip, n_fft) for clip in clips]
    return np.asarray(np.sum([power for power, _ in found], axis=0) / sum(n for _, n in found))


def line_db(power: Float[np.ndarray, " bins"], rate: int, hop_hz: float) -> float:
    """Highest of the lines at the hop rate and its next four multiples, over the median of what lies within 5 %."""
    bin_hz = rate / 2 / (len(power) - 1)
    found = []
    for multiple in range(1, 6):
        at, around = round(multiple * hop_hz / bin_hz), max(8, round(0.05 * multiple * hop_hz / bin_hz))
        if at + around < len(power):
            near = np.concatenate([power[at - around : at - 3], power[at + 4 : at + around + 1]])
            found.append(10 * np.log10(power[at - 1 : at + 2].mean() / np.median(near)))
    return float(max(found))


def error_db(original: Sequence[Waveform], made: Sequence[Waveform]) -> float:
    """Power of the difference to that of the original, in dB; silence is −400."""
    error = sum(float(np.sum((a.astype(np.float64) - b) ** 2)) for a, b in zip(original, made, strict=True))
    whole = sum(float(np.sum(a.astype(np.float64) ** 2)) for a in original)
    return 10 * float(np.log10(max(error / whole, 1e-40)))


def resynthesis(codecs: Mapping[str, Codec], clips: list[Waveform], labels: Sequence[str]) -> dict[str, list[Waveform]]:
    """Print octave levels, lines and distances of what the decoder's grains become; what they became."""
    made = {"original": clips} | {name: codec.reconstruct(clips) for name, codec in codecs.items()}
    rate = next(iter(codecs.values())).sample_rate
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
    for name, codec in codecs.items():
        hop_hz = rate / codec.representation.hop_length
        lines = [line_db(spectrum(sounds, LINE_N_FFT), rate, hop_hz) for sounds in (made[name], clips)]
        print(f"line at the hop rate, {name}: {lines[0]:.1f} dB (original {lines[1]:.1f})")
        distances = [metrics.mel_l1_db(a, b, rate) for a, b in zip(clips, made[name], strict=True)]
        print(f"log-mel L1, {name}: {np.mean(distances):.2f} dB")
        true = [whole[: len(clip)] for whole, clip in zip(codec.synthesise(codec.analyse(clips)), clips, strict=True)]
        print(f"true grains, {name}: error {error_db(clips, true):.1f} dB")
    return made


# -- single grains ----------------------------------------------------------------------------------------------------


def grains_of(codec: Codec, values: Float[Tensor, "batch channels frames"]) -> Float[Tensor, "batch samples frames"]:
    """Samples of every frame."""
    assert isinstance(codec.representation, Granular)
    return codec.representation.grains(values)


def noise(codec: Codec, clips: list[Waveform]) -> None:
    """Print the power per hertz of original, output and error of single grains under a Blackman window."""
    features = codec.analyse(clips)
    with torch.inference_mode():
        both = [grains_of(codec, one.values) for one in (features, codec.autoencoder.reconstruct(features))]
    lengths = features.lengths.tolist()
    original, output = (
        np.concatenate([row[:, :n].T for row, n in zip(one.numpy(), lengths, strict=True)]) for one in both
    )
    window = np.blackman(original.shape[1])
    powers = np.stack(
        [(np.abs(np.fft.rfft(rows * window)) ** 2).mean(0) for rows in (original, output, output - original)]
    )
    octaves = bands.octaves(powers, codec.sample_rate)
    density = 10 * np.log10(octaves.power / (octaves.high - octaves.low))
    print("grains, per Hz, dB " + " ".join(f"{centre:7.0f}" for centre in octaves.centre))
    for name, row in zip(("original", "output", "error"), density, strict=True):
        print(f"{name:18} " + " ".join(f"{level:7.1f}" for level in row - density[0].max()))
    high = powers[:, round(NOISY_HZ * original.shape[1] / codec.sample_rate) :]
    flatness = 10 * (np.log10(high).mean(1) - np.log10(high.mean(1)))
    print("flatness above 1 kHz: " + ", ".join(
        f"{name} {value:.1f} dB" for name, value in zip(("original", "output", "error"), flatness, strict=True)
    ))  # fmt: skip


# -- latents ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Discrepancy:
    """Squared maximum mean discrepancies of log-spectra of real grains from those of others.

    Attributes:
        other: of other real grains.
        reconstructed: of reconstructed grains.
        drawn: of grains decoded from draws of the prior.
    """

    other: float
    reconstructed: float
    drawn: float


def encoded(codec: Codec, clips: list[Waveform]) -> LatentArray:
    """Latent frames of all clips."""
    return np.concatenate([mean for mean, _ in codec.encode(clips)])


def discrepancy(
    codec: Codec, clips: list[Waveform], latents: LatentArray, centre: LatentArray, deviation: LatentArray
) -> Discrepancy:
    """How far grains of draws from a Gaussian are from real ones; at most `GRAINS` grains of each kind."""
    rng = np.random.default_rng(0)
    features = codec.analyse(clips)
    rows = torch.cat([features.values[i, :, :n].T for i, n in enumerate(features.lengths.tolist())])
    n = min(GRAINS, len(rows) // 2)
    real, also = np.split(rng.permutation(len(rows))[: 2 * n], 2)
    drawn = (rng.standard_normal((n, latents.shape[1])) * deviation + centre).astype(np.float32)
    values = {"real": rows[real].T[None], "other": rows[also].T[None]}
    assert isinstance(codec.representation, Granular)
    heard = Grain(codec.sample_rate, grain_length=codec.representation.grain_length)
    with torch.inference_mode():
        for name, chosen in {"reconstructed": latents[also], "drawn": drawn}.items():
            values[name] = codec.autoencoder.decode(Latents(torch.from_numpy(chosen)[None], torch.tensor([n]))).values
        spectra = {name: heard.log_power(grains_of(codec, one))[0].T.double().numpy() for name, one in values.items()}
    strata = np.zeros(n, np.int64)
    return Discrepancy(
        *(
            set_distances.discrepancy(spectra["real"], spectra[name], strata).value
            for name in ("other", "reconstructed", "drawn")
        )
    )


def latents_of(codec: Codec, clips: list[Waveform]) -> None:
    """Print how the latents of a run compare with their prior, and grains from draws with real ones."""
    found = encoded(codec, clips)
    prior = codec.autoencoder.bottleneck.deviation
    # Without a prior: the Gaussian of equal mean and deviation in every dimension.
    centre = np.zeros(found.shape[1]) if prior else found.mean(0)
    deviation = np.full(found.shape[1], prior) if prior else found.std(0)
    print("mean      " + " ".join(f"{value:6.2f}" for value in found.mean(0)))
    print("deviation " + " ".join(f"{value:6.2f}" for value in found.std(0)))
    distances = latent_statistics.kolmogorov_smirnov((found - centre) / deviation)
    print("KS        " + " ".join(f"{value:6.3f}" for value in distances) + f", median {np.median(distances):.3f}")
    print(f"largest correlation {largest_correlation(found):.3f}")
    of = discrepancy(codec, clips, found, centre, deviation)
    for name, value in (("other real", of.other), ("reconstructed", of.reconstructed), ("drawn", of.drawn)):
        print(f"MMD² of log-spectra, {name}: {value:.5f}")
    print(f"drawn over reconstructed: MMD² {of.drawn / of.reconstructed:.2f}")


def largest_correlation(latents: LatentArray) -> float:
    """Of two dimensions, in absolute value."""
    return float(latent_statistics.nearest_relative(latent_statistics.correlations(latents))[0].max())


# -- measure ----------------------------------------------------------------------------------------------------------


def held_out(run: RunFolder, config: Config, split: str) -> tuple[list[Waveform], list[str]]:
    """Clips of a split, and their labels."""
    corpus = Corpus(run.corpus, config.corpus.level_dbfs)
    indices = corpus.indices(split)
    return [corpus.waveform(i) for i in indices], [str(corpus.store.records[i].extra["label"]) for i in indices]


def opened(run: RunFolder, changes: Sequence[str]) -> tuple[Codec, Config]:
    """The codec of a run, with keys of its vocoder as they are written in JSON, and its configuration."""
    keys = {key: json.loads(value) for key, value in (pair.split("=", 1) for pair in changes)}
    vocoder = Member(**(run.read_config().vocoder.model_dump() | keys))
    return load_codec(run, "cpu", stage_config(run, (), "generate").model_copy(update={"vocoder": vocoder}))


def measure(run: RunFolder, given: argparse.Namespace) -> None:
    """Print everything about one run."""
    codec, config = opened(run, given.set)
    clips, labels = held_out(run, config, given.split)
    print(f"{run.name}: {len(clips)} clips of {given.split}")
    apart = at_overlap(codec, config, 0.0)
    codecs = {"run": codec, APART: apart, LOW_PASSED: at_overlap(codec, config, 0.9, zeroed_bins=0.85)}
    made = resynthesis(codecs, clips, labels)
    noise(apart, clips)
    latents_of(codec, clips)
    if given.sheet:
        size = round(SHEET_SECONDS * codec.sample_rate)
        chosen = [labels.index(label) for label in sorted(set(labels))]
        rows = {name: [Panel(labels[i], sounds[i][:size]) for i in chosen] for name, sounds in made.items()}
        contact_sheet(given.sheet, rows, codec.sample_rate, title=run.name)


# -- compare ----------------------------------------------------------------------------------------------------------


def compare(given: argparse.Namespace) -> None:
    """Print a line for each run, and draw the first clips of each."""
    rows: dict[str, list[Panel]] = {}
    for name in given.runs:
        run = RunFolder.open(name)
        codec, config = opened(run, given.set)
        corpus = Corpus(run.corpus, config.corpus.level_dbfs)
        chosen = spread(corpus.indices(given.split), given.clips)
        clips = [corpus.waveform(index) for index in chosen]
        rate = fidelity.latent_rate(codec, corpus, chosen, SILENT)
        bits = "no rate" if rate["kbit_per_s"] is None else f"{rate['kbit_per_s']:.2f} kbit/s"
        made = {"mean": codec.reconstruct(clips)}
        if rate["kbit_per_s"] is not None:
            torch.manual_seed(0)
            made["draw"] = [from_draw(codec, clip) for clip in clips]
        cells = [f"{way}: {quality(clips, sounds, codec.sample_rate, given.speech)}" for way, sounds in made.items()]
        for row, sounds in {"original": clips, run.name: made["mean"]}.items():
            rows[row] = [
                Panel(str(i), sound[: round(SHEET_SECONDS * codec.sample_rate)]) for i, sound in enumerate(sounds)
            ]
        values = rate["frames_per_s"] * rate["latent_dim"]
        steps = run.trained_autoencoder.meta["best_step"]
        print(
            f"{run.name}: {steps} steps, {len(clips)} clips, {values:.0f} values a second, {bits}; {'; '.join(cells)}",
            flush=True,
        )
    if given.sheet:
        shown = {name: panels[:SHOWN] for name, panels in rows.items()}
        contact_sheet(given.sheet, shown, codec.sample_rate, title="test clips, reconstructed")


@torch.inference_mode()
def from_draw(codec: Codec, clip: Waveform) -> Waveform:
    """A clip decoded from one draw of its latents."""
    posterior = codec.autoencoder.encode(codec.analyse([clip]))
    return codec.synthesise(codec.autoencoder.decode(posterior.sample()))[0][: len(clip)]


def quality(clips: Sequence[Waveform], made: Sequence[Waveform], rate: int, speech: bool) -> str:
    """Log-mel L1 with its interval, and PESQ of speech."""
    errors = [metrics.mel_l1_db(a, b, rate) for a, b in zip(clips, made, strict=True)]
    low, high = metrics.bootstrap_interval(errors)
    text = f"log-mel L1 {np.mean(errors):.2f} dB [{low:.2f}, {high:.2f}]"
    if not speech:
        return text
    wide = rate >= fidelity.WIDE_BAND_RATE
    scores = [metrics.pesq_mos(a, b, rate, wide=wide) for a, b in zip(clips, made, strict=True)]
    found = [score for score in scores if score is not None]
    return f"{text}, PESQ-{'wb' if wide else 'nb'} {np.mean(found):.2f} of {len(found)}"


# -- ablate -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """How the latents of a run fit N(0, deviation²), before and after whitening.

    Attributes:
        train: median Kolmogorov–Smirnov distance over the dimensions, on training clips.
        test: the same on test clips.
        correlation: largest correlation of two dimensions, on test clips.
        draws: discrepancy of grains from draws over that of reconstructed grains, on test clips.
    """

    train: tuple[float, float]
    test: tuple[float, float]
    correlation: tuple[float, float]
    draws: tuple[float, float]


def fit(run: RunFolder) -> Fit:
    """Measure a run of `ablate`, without overlap."""
    codec, config = load_codec(run, "cpu", stage_config(run, (), "generate"))
    codec = at_overlap(codec, config, 0.0)
    clips = {split: held_out(run, config, split)[0] for split in ("train", "test")}
    dims, deviation = codec.autoencoder.latent_dim, codec.autoencoder.bottleneck.deviation
    assert deviation is not None
    raw, whitened = (Adversarial(dims, deviation=deviation) for _ in range(2))
    own = encoded(with_bottleneck(codec, raw), clips["train"])
    whitened.calibrate(iter([torch.from_numpy(own)]))
    rows = []
    for bottleneck in (raw, whitened):
        changed = with_bottleneck(codec, bottleneck)
        found = {split: encoded(changed, sounds) for split, sounds in clips.items()}
        medians = {
            split: float(np.median(latent_statistics.kolmogorov_smirnov(one / deviation)))
            for split, one in found.items()
        }
        of = discrepancy(changed, clips["test"], found["test"], np.zeros(dims), np.full(dims, deviation))
        correlation = largest_correlation(found["test"])
        rows.append((medians["train"], medians["test"], correlation, of.drawn / of.reconstructed))
    return Fit(*zip(*rows, strict=True))


def with_bottleneck(codec: Codec, bottleneck: Adversarial) -> Codec:
    """The codec with another map between the numbers of its network and latents."""
    autoencoder = copy.deepcopy(codec.autoencoder)
    autoencoder.bottleneck = bottleneck
    return replace(codec, autoencoder=autoencoder)


def ablate(given: argparse.Namespace) -> None:
    """Train every setting with every seed, and print a row for each, then the medians over the seeds."""
    print("before → after whitening       KS, train        KS, test         correlation      draws, MMD²")
    for name in given.settings:
        preset, overrides = SETTINGS[name]
        found = []
        for seed in given.seeds:
            folder = given.out / f"{name.replace(' ', '-')}-{seed}"
            budget = (f"train_ae.steps={given.steps}", "train_ae.minutes=null", "train_ae.preview_minutes=null")
            pipeline.train_ae(
                given.folder,
                preset,
                run=str(folder),
                overrides=(*overrides, *budget, f"seed={seed}", *given.set),
                compute=Compute("cpu", 1),
            )
            found.append(fit(RunFolder.open(folder)))
            print(row(f"{name}, seed {seed}", found[-1:]), flush=True)
        print(row(f"{name}, median", found), flush=True)


def row(name: str, found: Sequence[Fit]) -> str:
    """A line of the table: medians of some fits."""
    cells = []
    for key in ("train", "test", "correlation", "draws"):
        before, after = np.median([getattr(one, key) for one in found], axis=0)
        cells.append(f"{before:6.3f} → {after:5.3f}")
    return f"{name:28} " + "   ".join(cells)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one run, compare some, or train several and compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = parser.add_subparsers(dest="way", required=True)
    one = ways.add_parser("measure")
    one.add_argument("run")
    one.add_argument("--split", default="test")
    one.add_argument("--set", action="append", default=[])
    one.add_argument("--sheet", type=Path)
    some = ways.add_parser("compare")
    some.add_argument("runs", nargs="+")
    some.add_argument("--split", default="test")
    some.add_argument("--clips", type=int)
    some.add_argument("--sheet", type=Path)
    some.add_argument("--set", action="append", default=[])
    some.add_argument("--speech", action="store_true")
    several = ways.add_parser("ablate")
    several.add_argument("folder", type=Path)
    several.add_argument("out", type=Path)
    several.add_argument("--steps", type=int, default=400)
    several.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    several.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    several.add_argument("--set", action="append", default=[])
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if given.way == "measure":
        measure(RunFolder.open(given.run), given)
    elif given.way == "compare":
        compare(given)
    else:
        ablate(given)


if __name__ == "__main__":
    main()
