"""Quality of the phase vocoder alone: `python tests/benchmarks/phase.py RUN [TURNS …]`.

Test clips of a run are analysed and resynthesised without the autoencoder: by `phase` from the run's own features, by
`phase` from `linear` features of the same framing, and by Griffin-Lim.
"""

import sys

import numpy as np
import torch

from actseq import build
from actseq.config import Member
from actseq.data.corpus import Corpus
from actseq.evaluation import metrics
from actseq.inference.loading import load_codec, stage_config
from actseq.representations.linear import Linear
from actseq.storage.run_folder import RunFolder
from actseq.vocoders.base import synthesise


def main() -> None:
    """One line for each."""
    torch.set_num_threads(1)
    run = RunFolder.open(sys.argv[1])
    codec, config = load_codec(run, "cpu", stage_config(run, (), "generate"), vocoder=False)
    corpus = Corpus(run.corpus, config.corpus.level_dbfs)
    clips = [corpus.waveform(index) for index in corpus.indices("test")]
    framing = codec.representation.framing  # type: ignore[attr-defined]
    linear = Linear(codec.sample_rate, n_fft=framing.n_fft, hop_length=framing.hop_length, floor=1e-6)
    members = [Member(kind="phase", n_turns=int(turns)) for turns in sys.argv[2:] or ["16"]]
    for representation in (linear, codec.representation):
        for member in (*members, Member(kind="griffin-lim")):
            vocoder = build.build_vocoder(member, representation)
            errors, scores = [], []
            for clip in clips:
                features = representation.analyse(torch.from_numpy(clip)[None], torch.tensor([len(clip)]))
                made = synthesise(vocoder, features)[0].numpy()[: len(clip)]
                errors.append(metrics.mel_l1_db(clip, made, codec.sample_rate))
                score = metrics.pesq_mos(clip, made, codec.sample_rate)
                scores += [] if score is None else [score]
            low, high = metrics.bootstrap_interval(scores)
            print(
                f"{type(representation).__name__.lower()} {representation.channels}, {member.kind} {member.options}: "
                f"log-mel L1 {np.mean(errors):.2f} dB, PESQ-nb {np.mean(scores):.2f} [{low:.2f}, {high:.2f}] "
                f"({len(scores)} of {len(clips)} clips)",
                flush=True,
            )


if __name__ == "__main__":
    main()
