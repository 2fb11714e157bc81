"""Trained vocoders beside `phase`: `python tests/benchmarks/compare_vocoders.py RUN [NAME …]`; see `--help`.

Clips of a run go through the autoencoder and each vocoder, and through each vocoder with their true features: log-mel
and log-STFT distance, PESQ-nb where the rate allows it, their difference from `phase`, and the speed on one core.
"""

import argparse
import copy

import numpy as np
import torch

from actseq import build
from actseq.config import Member
from actseq.data.corpus import Corpus
from actseq.evaluation import metrics, vocoder_choice
from actseq.inference.loading import load_codec, load_vocoder, stage_config
from actseq.progress import Silent
from actseq.storage.run_folder import RunFolder
from actseq.vocoders.base import Vocoder
from actseq.vocoders.wavenet import WaveNet


def main(words: list[str] | None = None) -> None:
    """A line for each vocoder, with reconstructed features and with true ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--split", default="test")
    parser.add_argument("--clips", type=int)
    parser.add_argument("--noise", type=float, nargs="*", default=[])
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    run = RunFolder.open(given.run)
    codec, config = load_codec(run, "cpu", stage_config(run, (), "generate"), vocoder=False)
    corpus = Corpus(run.corpus, config.corpus.level_dbfs)
    indices = corpus.indices(given.split)
    if given.clips is not None:
        indices = indices[:: -(-len(indices) // given.clips)]
    vocoders: dict[str, Vocoder] = {"phase": build.build_vocoder(Member(kind="phase"), codec.representation)}
    for name in given.names or run.vocoders.names:
        vocoder = load_vocoder(run, name, codec.representation, config)
        if not isinstance(vocoder, WaveNet) or not given.noise:
            vocoders[name] = vocoder
            continue
        for noise in given.noise:
            other = copy.deepcopy(vocoder)
            other.noise = noise
            vocoders[f"{name}, noise {noise:g}"] = other
    print(f"{len(indices)} clips, {given.split}", flush=True)
    speeds = vocoder_choice.speeds(vocoders, codec, corpus, indices)
    scores = vocoder_choice.score(vocoders, codec, corpus, indices, Silent())
    for way in vocoder_choice.WAYS:
        for name in vocoders:
            cells = [line(scores[name][way], scores["phase"][way], measure) for measure in scores[name][way]]
            print(f"{way}, {name}: {'; '.join(cells)}; {speeds[name]:.3g} × real time", flush=True)


def line(own: dict[str, list[float | None]], first: dict[str, list[float | None]], measure: str) -> str:
    """Mean of a measure, and its paired difference from the first vocoder with its interval."""
    pairs = [(a, b) for a, b in zip(own[measure], first[measure], strict=True) if a is not None and b is not None]
    values, beside = np.array(pairs).reshape(-1, 2).T
    if not len(values):
        return f"{measure} –"
    low, high = metrics.bootstrap_interval(values - beside)
    return f"{measure} {values.mean():.3f} ({(values - beside).mean():+.3f} [{low:+.3f}, {high:+.3f}])"


if __name__ == "__main__":
    main()
