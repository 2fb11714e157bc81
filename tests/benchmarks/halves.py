"""Whether a prior prefers halves that belong together: `python tests/benchmarks/halves.py RUN PRIOR [SPLIT]`.

Held-out sentences are cut in two. For all ordered pairs of sentences the program compares the log-likelihood of a
second half after its own first half and after another sentence's, in nats per frame over the halves' common length.
A second comparison first subtracts the second half's log-likelihood on its own: some halves are likelier than others.
"""

import sys

import numpy as np
import torch

from actseq import load_run
from actseq.data.latents import LatentSequences
from actseq.priors.sequence import SequencePrior


@torch.inference_mode()
def main() -> None:
    """Print the shares."""
    name, prior_name = sys.argv[1:3]
    split = sys.argv[3] if len(sys.argv) > 3 else "test"
    run = load_run(name, prior=prior_name, device="cpu")
    assert run.prior is not None
    prior = run.prior.prior
    assert isinstance(prior, SequencePrior)
    latents = LatentSequences(run.run.latents, run.codec.autoencoder.latent_dim)
    condition = run.prior.condition(torch.zeros(1, dtype=torch.long))
    sequences = [torch.from_numpy(latents.draw(i, 0)) for i in latents.indices(split)]
    halves = [(z[: len(z) // 2], z[len(z) // 2 :]) for z in sequences]

    def density(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        whole = torch.cat([first, second])[None]
        return prior.log_prob(whole, torch.tensor([whole.shape[1]]), condition)[0, len(first) :]

    n = len(halves)
    alone = [density(second[:0], second) for _, second in halves]
    after = [[density(first, second) for _, second in halves] for first, _ in halves]
    raw, gained = [], []
    for i in range(n):
        for j in range(n):
            if i != j:
                common = min(len(after[i][i]), len(after[i][j]))
                own, other = after[i][i][:common], after[i][j][:common]
                raw.append(float(own.mean() - other.mean()))
                gained.append(raw[-1] - float(alone[i][:common].mean() - alone[j][:common].mean()))
    for what, found in (("likelier", raw), ("gains more", gained)):
        print(
            f"{name} {prior_name} {split}: own half {what} in {np.mean(np.array(found) > 0):.1%} of {len(found)} pairs"
        )


if __name__ == "__main__":
    main()
