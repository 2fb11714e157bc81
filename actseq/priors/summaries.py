"""Summaries of clips: what a clip is like as a whole, in a few values.

A summary is the mean and the deviation over time of a clip's latents, in the principal components of the training
clips. A prior that gets the summary of the clip it is to make does not have to invent it, and what is the same over a
whole clip varies between new clips as it does in the corpus. The summaries of training clips are kept in the model. A
new clip takes that of a training clip of its label, with noise, so that a summary says what kind of clip to make and
not which one.

Source: Li, Katabi, He, Return of Unconditional Generation (2024), for a drawn representation as the condition.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

N_SUMMARIES = 128
"""Summaries that are kept for each label."""


@dataclass(frozen=True)
class TrainingClip:
    """A training sequence.

    Attributes:
        latents: (frames, latent_dim), means of the posterior.
        label: row of the label table, 0 for no label.
        whole: whether the sequence begins and ends as a clip does, rather than being cut from a longer recording.
    """

    latents: Float[Tensor, "frames latent_dim"]
    label: int
    whole: bool


class Summaries(nn.Module):
    """Makes summaries, and keeps those of training clips.

    Args:
        dims: values per latent frame.
        size: values of a summary, at most 2 · dims.
        noise: standard deviation of the noise on a summary, whose values have deviation 1 over the training clips.
    """

    mean: Tensor
    axes: Tensor
    kept: Tensor

    def __init__(self, dims: int, size: int, noise: float) -> None:
        super().__init__()
        self.size, self.noise = size, noise
        self.register_buffer("mean", torch.zeros(2 * dims))
        self.register_buffer("axes", torch.zeros(2 * dims, size))
        self.register_buffer("kept", torch.zeros(1, N_SUMMARIES, size))

    def make_room(self, n_labels: int) -> None:
        """Empty summaries for a number of labels, and for no label."""
        self.kept = self.kept.new_zeros(n_labels + 1, N_SUMMARIES, self.size)

    def fit(
        self, clips: Iterable[tuple[TrainingClip, list[Float[Tensor, "_ dims"]]]], n_labels: int
    ) -> list[tuple[int, Float[Tensor, "_ size"], bool]]:
        """Find the principal components of training clips, and keep summaries for each label.

        The clips of a label are kept in order of their lengths, evenly over that order, whole clips if there are any.
        So the summary in some place belongs to a clip of the length in the same place.

        Args:
            clips: the training clips, each with the standardised latents of its windows. The first windows are what
                is kept here.
            n_labels: number of labels, without the row for no label.

        Returns:
            Label and summaries of the windows of each clip, and whether it is whole.
        """
        self.make_room(n_labels)
        raw, lengths, labels, whole = [], [], [], []
        for clip, windows in clips:
            raw.append(
                torch.cat([_statistics(one[None], torch.ones(1, len(one), dtype=torch.bool)) for one in windows])
            )
            lengths.append(len(clip.latents))
            labels.append(clip.label)
            whole.append(clip.whole)
        if not raw:
            return []
        table = torch.stack([windows[0] for windows in raw]).double()
        centred = table - table.mean(0)
        _, scales, axes = torch.linalg.svd(centred, full_matrices=False)
        found = min(self.size, int((scales > 1e-6 * scales[:1].clamp(min=1e-9)).sum()))
        self.mean.copy_(table.mean(0))
        self.axes[:, :found].copy_(axes[:found].T / scales[:found] * len(raw) ** 0.5)
        summaries = centred.to(self.axes.dtype) @ self.axes
        for row in range(n_labels + 1):
            self.kept[row] = summaries[_places(np.array(lengths), np.array(labels), np.array(whole), row)]
        of_windows = [(one - self.mean) @ self.axes for one in raw]
        return list(zip(labels, of_windows, whole, strict=True))

    def summarise(
        self, values: Float[Tensor, "batch frames dims"], inside: Bool[Tensor, "batch frames"]
    ) -> Float[Tensor, "batch size"]:
        """Summaries of standardised latents; frames outside are not looked at."""
        return (_statistics(values, inside) - self.mean) @ self.axes

    def noised(
        self, summary: Float[Tensor, "batch size"], noise: Float[Tensor, "batch size"]
    ) -> Float[Tensor, "batch size_and_1"]:
        """What a network is given: the summary with noise, and 1; zeros mean that the summary is unknown."""
        return F.pad(summary + self.noise * noise, (0, 1), value=1.0)

    def unknown(self, batch: int) -> Float[Tensor, "batch size_and_1"]:
        """What a network is given where the summary is unknown."""
        return self.kept.new_zeros(batch, self.size + 1)


def _statistics(
    values: Float[Tensor, "batch frames dims"], inside: Bool[Tensor, "batch frames"]
) -> Float[Tensor, "batch two_dims"]:
    values = values.masked_fill(~inside[..., None], 0)
    n = inside.sum(1).clamp(min=1)[:, None]
    mean = values.sum(1) / n
    rest = (values - mean[:, None]).masked_fill(~inside[..., None], 0)
    return torch.cat([mean, (rest.square().sum(1) / n + 1e-4).sqrt()], dim=1)


def _places(
    lengths: Int[np.ndarray, " m"], labels: Int[np.ndarray, " m"], whole: Bool[np.ndarray, " m"], row: int
) -> Int[np.ndarray, " kept"]:
    """Which clips are kept for a label; a label without a clip takes those of all labels."""
    own = np.flatnonzero(labels == row) if row else np.arange(len(labels))
    own = own if len(own) else np.arange(len(labels))
    own = own[whole[own]] if whole[own].any() else own
    shares = (np.arange(N_SUMMARIES) + 0.5) / N_SUMMARIES
    return own[np.argsort(lengths[own], kind="stable")][np.ceil(shares * len(own)).astype(np.int64) - 1]
