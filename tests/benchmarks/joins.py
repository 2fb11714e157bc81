"""How well continuations join their seed: `python tests/benchmarks/joins.py RUN [CLIPS [PRIOR]]`.

For each of some held-out clips the first half is the seed. At the join, the jump of the waveform and of the short-time
spectrum is compared with the largest 1 % of such jumps inside the seed itself.
"""

import sys

import numpy as np

from actseq import load_run
from actseq.data.corpus import Corpus
from actseq.evaluation import metrics


def main() -> None:
    """Print one line a clip and a summary."""
    run = load_run(sys.argv[1], prior=sys.argv[3] if len(sys.argv) > 3 else None, device="cpu")
    wanted = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    corpus = Corpus(run.run.corpus, run.config.corpus.level_dbfs)
    rate = run.sample_rate
    rows = []
    for index in corpus.indices("test")[:: max(1, len(corpus.indices("test")) // wanted)][:wanted]:
        whole = corpus.waveform(index)
        label = str(corpus.store.records[index].extra["label"]) or None
        seed = whole[: len(whole) // 2]
        clip = run.generate_clips(1, seconds=0.5, label=label, seed_audio=seed)[0]
        assert clip.join is not None
        at, own = metrics.spectral_jump(clip.waveform, rate, clip.join), metrics.clip_jumps(whole, rate)
        bounds = np.percentile(own.waveform, 99), np.percentile(own.spectral, 99)
        rows.append((at.waveform / bounds[0], at.spectral / bounds[1]))
        print(
            f"{corpus.store.records[index].key:34} waveform {at.waveform:.4f} (1 % above {bounds[0]:.4f})  "
            f"spectrum {at.spectral:.1f} dB (1 % above {bounds[1]:.1f})",
            flush=True,
        )
    ratios = np.array(rows)
    print(
        f"{len(rows)} joins; jump / 99th percentile inside the real clip: "
        f"waveform median {np.median(ratios[:, 0]):.2f}, largest {ratios[:, 0].max():.2f}; "
        f"spectrum median {np.median(ratios[:, 1]):.2f}, largest {ratios[:, 1].max():.2f}; "
        f"within: {(ratios <= 1).all(1).sum()} of {len(rows)}"
    )


if __name__ == "__main__":
    main()
