"""A prior with its labels: where condition vectors come from."""

from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from actseq.priors.base import Prior
from actseq.priors.places import N_PLACE, TimedRow, frame_places, frame_rows

P = TypeVar("P", bound=Prior)


class LabelledPrior(nn.Module, Generic[P]):
    """A prior with its table of labels; row 0 of the table is the condition "no label".

    Args:
        prior: the prior.
        labels: names of the rows from 1 on.
        table: maps label indices (batch,) to condition vectors (batch, condition_dim): an embedding, or `OneHot`.
        place_dim: size of the condition vector, for a prior that learns labels in time: the place of a frame in its
            span is added to the vector. 0: it learns one label for a whole clip.
    """

    prior: P

    def __init__(self, prior: P, labels: list[str], table: nn.Module, place_dim: int = 0) -> None:
        super().__init__()
        self.prior, self.labels = prior, labels
        self.table = table
        self.place = nn.Linear(N_PLACE, place_dim, bias=False) if place_dim else None

    def condition(
        self, label_index: Int[Tensor, "*batch"], place: Float[Tensor, "*batch n_place"] | None = None
    ) -> Float[Tensor, "*batch condition_dim"]:
        """Condition vectors of label indices, and of places in spans where they are known; see `frame_places`.

        A prior that does not learn labels in time uses the label alone.
        """
        out: Tensor = self.table(label_index)
        return out if place is None or self.place is None else out + self.place(place)

    def condition_of(
        self,
        data: Mapping[str, Tensor],
        shown: Bool[Tensor, " batch"] | None = None,
        placed: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch frames_or_1 condition_dim"]:
        """Condition vectors of a batch of `SequenceSource`: one for each sequence, or for each frame.

        Args:
            data: the batch.
            shown: sequences that are shown with their labels; None: all.
            placed: sequences whose frames know their places, if they are shown with their labels; None: all.
        """
        if "frame_label" not in data:
            label = data["label"]
            return self.condition(label if shown is None else label * shown)[:, None]
        label, place = data["frame_label"], data["frame_place"]
        if shown is not None:
            label, place = label * shown[:, None], place * shown[:, None, None]
        return self.condition(label, place if placed is None else place * placed[:, None, None])

    def condition_in_time(
        self, clips: Sequence[Sequence[TimedRow]], rate: float, frames: int
    ) -> Float[Tensor, "clips frames condition_dim"]:
        """Condition vectors of the frames of clips; behind its last span a clip has no label.

        Args:
            clips: the spans of each clip.
            rate: latent frames a second.
            frames: number of frames.
        """
        rows = np.stack([frame_rows(spans, rate, 0, frames) for spans in clips])
        places = np.stack([frame_places(spans, rate, 0, frames) for spans in clips])
        device = next((one.device for one in self.parameters()), torch.device("cpu"))
        return self.condition(torch.from_numpy(rows).to(device), torch.from_numpy(places).to(device))


class OneHot(nn.Module):
    """A table without parameters: 1 at the index of the label, 0 elsewhere.

    Args:
        rows: number of labels, "no label" included.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, label_index: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch rows"]:
        """Rows of the identity matrix."""
        return F.one_hot(label_index, self.rows).float()
