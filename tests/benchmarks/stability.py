"""Whether a prior stays in the range of the corpus: `python tests/benchmarks/stability.py RUN PRIOR [MINUTES]`.

Every window of two seconds has a mean and a deviation in each latent dimension. The program prints the share of these
values outside the corpus's 1 to 99 % range: for held-out sequences in a row, and for one generated sequence, as a whole
and in each quarter.
"""

import sys
import time

import numpy as np
from numpy.typing import NDArray

from actseq import load_run
from actseq.data.latents import LatentSequences
from actseq.pipeline import GenerationRequest

WINDOW_SECONDS = 2.0


def statistics(frames: NDArray[np.float32], size: int) -> NDArray[np.float64]:
    """Mean and deviation in each dimension of windows half overlapping (windows, 2 · dims)."""
    windows = np.stack([frames[i : i + size] for i in range(0, len(frames) - size + 1, size // 2)]).astype(np.float64)
    return np.concatenate([windows.mean(1), windows.std(1)], axis=1)


def main() -> None:
    """Print the shares."""
    name, prior = sys.argv[1:3]
    minutes = float(sys.argv[3]) if len(sys.argv) > 3 else 10.0
    run = load_run(name, prior=prior, device="cpu")
    assert run.prior is not None
    rate, dims = run.codec.autoencoder.latent_rate, run.codec.autoencoder.latent_dim
    size = round(WINDOW_SECONDS * rate)
    latents = LatentSequences(run.run.latents, dims, rate)

    def drawn(*splits: str) -> NDArray[np.float32]:
        return np.concatenate([latents.draw(i, 0) for split in splits for i in latents.indices(split)])

    low, high = np.percentile(statistics(drawn("train"), size), [1, 99], axis=0)

    def outside(frames: NDArray[np.float32]) -> float:
        found = statistics(frames, size)
        return float(((found < low) | (found > high)).mean())

    held_out = {split: outside(drawn(split)) for split in ("validation", "test")}
    both = outside(drawn("validation", "test"))
    begun = time.perf_counter()
    pieces = [piece.latents for piece in run.stream(GenerationRequest(seconds=60 * minutes, seed=1))]
    elapsed = time.perf_counter() - begun
    made = np.concatenate(pieces)
    quarters = [outside(part) for part in np.array_split(made, 4)]
    print(
        f"{name} {prior}: {minutes:g} minutes in {elapsed:.0f} s, finite: {bool(np.isfinite(made).all())}; outside: "
        f"made {outside(made):.3f} (quarters {', '.join(f'{share:.3f}' for share in quarters)}), held out {both:.3f} "
        f"(validation {held_out['validation']:.3f}, test {held_out['test']:.3f}); ratio {outside(made) / both:.2f}"
    )


if __name__ == "__main__":
    main()
