"""Calibration of the hazard on sequences that the prior itself makes.

The hazard learns from real sequences. A prior's own sequences differ a little from them, so it may end them too early
or too late; lengths depend on many small probabilities and show this first. After training, the prior makes sequences
without ending them. Slope and offset of the hazard's logit are then fitted so that the lengths of the corpus are most
likely, label by label. Nothing else in the prior changes.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray

from actseq.errors import TrainingError
from actseq.priors.base import PLAIN
from actseq.priors.labels import LabelledPrior
from actseq.priors.sequence import SequencePrior

SEQUENCES = 256
RARE = 4
"""Sequences of each label that would have none."""
FRAMES = 1024
"""Frames of a sequence. For longer sequences of the corpus only their not having ended counts."""
SMALLEST = 20
"""Smallest number of lengths for a calibration."""


def calibrate(
    model: LabelledPrior[Any], lengths: Int[np.ndarray, " m"], labels: Int[np.ndarray, " m"], seed: int
) -> bool:
    """Set a prior's `end_calibration`; return False and change nothing if too few lengths are known.

    Args:
        model: a sequence prior with its labels.
        lengths: latent frames of those sequences of the corpus that really begin and end.
        labels: row in the table of labels, for each of the lengths.
        seed: seed of the prior's sequences.
    """
    prior = model.prior
    if not isinstance(prior, SequencePrior) or len(lengths) < SMALLEST:
        return False
    made = np.sort(labels)[np.arange(SEQUENCES) * len(labels) // SEQUENCES]
    # A rare label has fewer clips than one in `SEQUENCES`.
    made = np.concatenate([made, np.repeat(np.setdiff1d(labels, made), RARE)])
    frames = min(FRAMES, int(lengths.max()))
    logits = _end_logits(model, made, frames, seed)
    slope, offset = fit(logits, made, lengths, labels)
    prior.end_calibration.copy_(torch.tensor([slope, offset]))
    return True


@torch.no_grad()
def _end_logits(
    model: LabelledPrior[SequencePrior], labels: Int[np.ndarray, " n"], frames: int, seed: int
) -> Float[np.ndarray, "n frames"]:
    """Logits of having ended with length 1 … frames, on sequences that are not ended."""
    prior, n = model.prior, len(labels)
    device = prior.start.device
    generator = torch.Generator(device).manual_seed(seed)
    condition = model.condition(torch.from_numpy(labels).to(device))
    prediction, state = prior.step(None, condition, prior.init_state(n), n)
    logits = []
    for _ in range(frames):
        value = prior.head.sample(prediction.numbers[:, 0], PLAIN, generator)
        prediction, state = prior.step(value, condition, state, n)
        logits.append(prediction.end_logit[:, 0])
    return torch.stack(logits, dim=1).double().cpu().numpy()


def fit(
    logits: Float[np.ndarray, "n frames"],
    made: Int[np.ndarray, " n"],
    lengths: Int[np.ndarray, " m"],
    labels: Int[np.ndarray, " m"],
) -> tuple[float, float]:
    """Slope and offset of the logits under which lengths are most likely, with a slight preference for 1 and 0.

    Args:
        logits: logits of having ended with length 1 … frames, for each generated sequence.
        made: label of each generated sequence.
        lengths: lengths of sequences of the corpus.
        labels: label of each of the lengths.
    """
    from scipy.optimize import minimize

    last = logits.shape[1]
    at = {label: np.minimum(lengths[labels == label], last + 1) - 1 for label in np.unique(labels)}

    def cost(parameters: NDArray[np.float64]) -> float:
        slope, offset = parameters
        z = slope * logits + offset
        on = np.cumsum(np.concatenate([np.zeros((len(z), 1)), -np.logaddexp(0, z)], axis=1), axis=1)
        # Ended with length 1 … last, or not by then.
        ended = np.concatenate([np.exp(on[:, :-1] - np.logaddexp(0, -z)), np.exp(on[:, -1:])], axis=1)
        nats = -sum(np.log(ended[made == label].mean(axis=0)[own] + 1e-6).sum() for label, own in at.items())
        return float(nats / len(lengths) + 1e-3 * ((slope - 1) ** 2 + offset**2))

    if not np.isfinite(cost(np.array([1.0, 0.0]))):
        raise TrainingError("ends cannot be calibrated: what the prior says about ends is not finite")
    found = minimize(cost, np.array([1.0, 0.0]), method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-6})
    return float(found.x[0]), float(found.x[1])
