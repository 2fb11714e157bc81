"""Bits per dimension of a prior on held-out sequences."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from actseq.data.latents import LatentSequences
from actseq.evaluation.baselines import likelihood_baselines
from actseq.priors.labels import LabelledPrior
from actseq.priors.places import frame_places, frame_rows
from actseq.priors.sequence import SequencePrior


@torch.inference_mode()
def likelihood(
    prior: LabelledPrior[SequencePrior], latents: LatentSequences, split: str, seed: int = 0
) -> dict[str, float]:
    """Held-out bits per dimension of one draw from each posterior, in the prior's standardised coordinates.

    Returns:
        `prior` (given the label), `prior without label`, and the baselines fitted on the training split:
        `standard_normal`, `gaussian` (full covariance), `var1`, `mixture` (unconditional); `end nats` per position of
        the end's hazard.
    """
    model = prior.prior
    device = model.start.device

    def standardised(index: int) -> NDArray[np.float64]:
        drawn = torch.from_numpy(latents.draw(index, seed)).to(device)
        return model.standardiser.standardise(drawn).double().cpu().numpy()

    train = [standardised(i) for i in latents.indices("train")]
    held_out, nats, bare, ends, count = [], 0.0, 0.0, [], 0
    for index in latents.indices(split):
        values = standardised(index)
        record = latents.records[index]
        begins = bool(record.extra["begins"]) or len(values) < 2
        # A block from the middle of a file has no beginning: every model is given its first frame.
        scored = values if begins else values[1:]
        held_out.append(scored)
        tensor = torch.from_numpy(scored).float()[None].to(device)
        previous = torch.from_numpy(values[:1]).float().to(device)
        flag, length = torch.tensor([begins], device=device), torch.tensor([len(scored)], device=device)
        ended = torch.tensor([bool(record.extra["ends"])], device=device)
        label = str(record.extra["label"])
        shown = prior.labels.index(label) + 1 if label in prior.labels else 0
        given = prior.condition(torch.tensor([shown], device=device))
        if latents.timed:
            spans, first = latents.spans(index, prior.labels), len(values) - len(scored)
            of_frames = (spans, latents.latent_rate, first, len(scored))
            rows, places = (torch.from_numpy(made(*of_frames)).to(device) for made in (frame_rows, frame_places))
            given = prior.condition(rows, places)[None]
        bare_condition = prior.condition(torch.tensor([0], device=device))
        for condition, which in ((given, "with"), (bare_condition, "without")):
            prediction = model.forward(tensor, condition, previous, flag)
            losses = model.losses(prediction, tensor, length, ended)
            if which == "with":
                nats += float(losses.latent.sum())
                ends.append(float(losses.end.sum() / losses.asked.sum().clamp(min=1)))
            else:
                bare += float(losses.latent.sum())
        count += scored.size
    baselines = likelihood_baselines(train, held_out)
    return {
        "prior": nats / count / math.log(2),
        "prior without label": bare / count / math.log(2),
        **baselines,
        "end nats": float(np.mean(ends)),
    }
