"""Whether a prior knows which halves belong together: `python tests/benchmarks/halves.py RUN PRIOR…`; see `--help`.

Held-out clips are cut in two. For all ordered pairs of clips the program compares how well a prior predicts a second
half after its own first half and after another clip's, per frame over the common length. A second comparison first
subtracts how well it predicts the second half on its own: some halves are more predictable than others.

The measure of a sequence prior is the log-likelihood. That of `clip-flow` is its training loss, negated, at 64 times of
the path with the same noise for all pairs. Its window holds half a window of the first half, as in generation.

With a gap, as many seconds are left out on both sides of the cut: what is recognised then is not the join.
"""

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from actseq import load_run, units
from actseq.data.latents import LatentSequences
from actseq.objectives.flow_matching import FlowMatching
from actseq.priors.clip_flow import ClipFlow, Window
from actseq.priors.labels import LabelledPrior
from actseq.priors.sequence import SequencePrior

N_DRAWS = 64
Half = Float[Tensor, "frames latent_dim"]
Measure = Callable[[Half, Half], Float[Tensor, " some"]]
"""How well each frame of a second half is predicted after a first; only the first frames, if the window is short."""


def likelihood(model: LabelledPrior[SequencePrior]) -> Measure:
    """Log-likelihood in nats."""
    condition = model.condition(torch.zeros(1, dtype=torch.long))

    def measured(first: Half, second: Half) -> Float[Tensor, " some"]:
        whole = torch.cat([first, second])[None]
        return model.prior.log_prob(whole, torch.tensor([whole.shape[1]]), condition)[0, len(first) :]

    return measured


def negative_loss(model: LabelledPrior[ClipFlow], seed: int = 0) -> Measure:
    """Training loss of a flow, negated, over shared draws of the noise."""
    prior, frames = model.prior, model.prior.frames
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(N_DRAWS, frames, len(prior.standardiser.mean), generator=generator)
    times = FlowMatching(model).times(torch.tensor(0.5), N_DRAWS)
    condition = model.condition(torch.zeros(N_DRAWS, dtype=torch.long))[:, None]
    unknown = None if prior.summaries is None else prior.summaries.unknown(N_DRAWS)

    def measured(first: Half, second: Half) -> Float[Tensor, " some"]:
        before, after = min(len(first), frames // 2), min(len(second), frames - frames // 2)
        known = torch.arange(before + after) < before
        values = prior.standardiser.standardise(torch.cat([first[len(first) - before :], second[:after]]))

        def rows(value: Tensor) -> Tensor:
            return value.expand(N_DRAWS, *value.shape)

        lengths, begins, ends = torch.tensor(before + after), before == len(first) > 0, after == len(second)
        flags = rows(torch.tensor(begins)), rows(torch.tensor(ends))
        window = Window(rows(lengths), *flags, rows(known), rows(values), unknown)
        source = torch.cat([torch.zeros(N_DRAWS, before, values.shape[1]), noise[:, :after]], dim=1)
        place = torch.lerp(source, window.clean, times[:, None, None])
        velocity: Tensor = prior(place, times, window, condition)
        return -(velocity - (window.clean - source)).square().mean((0, 2))[before:]

    return measured


def compare(measure: Measure, halves: list[tuple[Half, Half]]) -> tuple[np.ndarray, np.ndarray]:
    """For each ordered pair, by how much the own second half is better predicted, and gains more; per frame."""
    alone = [measure(second[:0], second) for _, second in halves]
    after = [[measure(first, second) for _, second in halves] for first, _ in halves]
    raw, gained = [], []
    for i in range(len(halves)):
        for j in range(len(halves)):
            if i != j:
                common = min(len(alone[i]), len(alone[j]), len(after[i][i]), len(after[i][j]))
                own, other = after[i][i][:common], after[i][j][:common]
                raw.append(float(own.mean() - other.mean()))
                gained.append(raw[-1] - float(alone[i][:common].mean() - alone[j][:common].mean()))
    return np.array(raw), np.array(gained)


def cut(sequences: list[Half], gap: int) -> list[tuple[Half, Half]]:
    """Halves without `gap` frames on both sides of the cut; clips that leave nothing of a half are left out."""
    return [(z[: len(z) // 2 - gap], z[len(z) // 2 + gap :]) for z in sequences if len(z) // 2 > gap]


@torch.inference_mode()
def main(arguments: Sequence[str] | None = None) -> None:
    """Print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("priors", nargs="+")
    parser.add_argument("--split", action="append", default=[], help="default: test")
    parser.add_argument("--gap", action="append", default=[], type=float, help="seconds; default: 0 and 1")
    parser.add_argument("--means", action="store_true", help="means of the posteriors in place of draws")
    given = parser.parse_args(arguments)
    for name in given.priors:
        run = load_run(given.run, prior=name, device="cpu")
        assert run.prior is not None
        prior, rate = run.prior.prior, run.codec.autoencoder.latent_rate
        if isinstance(prior, SequencePrior):
            measure = likelihood(run.prior)
        elif isinstance(prior, ClipFlow):
            measure = negative_loss(run.prior)
        else:
            raise SystemExit(f"prior {name} has neither a likelihood nor the loss of a flow")
        latents = LatentSequences(run.run.latents, run.codec.autoencoder.latent_dim, rate)
        for split in given.split or ["test"]:
            drawn = [latents.read(i)[0].copy() if given.means else latents.draw(i, 0) for i in latents.indices(split)]
            sequences = [torch.from_numpy(one) for one in drawn]
            for gap in given.gap or [0.0, 1.0]:
                halves = cut(sequences, units.seconds_to_frames(gap, rate) if gap else 0)
                raw, gained = compare(measure, halves)
                print(
                    f"{given.run} {name} {split}, gap {gap:g} s, {len(halves)} clips: own half likelier in "
                    f"{(raw > 0).mean():.1%} of {len(raw)} pairs, gains more in {(gained > 0).mean():.1%} "
                    f"(median {np.median(gained):.3f})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
