"""Outlines: what the windows of training recordings are like, one after another.

A long sequence is made window after window. A summary tells the first window what to be like, see
`actseq.priors.summaries`. An outline goes on from there: each later window follows the summary of the training window
that comes next in the same recording. At the end of the recording the outline continues with the window after an
earlier one that is like the last, so it does not jump from one recording to another. After a prompt it begins with the
window after a training window that is like what is continued. A sound whose label has whole clips, which begin and end,
follows one of about its length from the first window to the last. So what lasts longer than a window changes as in the
corpus.

Source: Khandelwal et al., Generalization through Memorization (2020), for the nearest stored example as the guide.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

N_NEAREST = 4
"""An outline continues after one of this many most similar windows."""
CUT, WHOLE = -1, -2
"""In place of the next window, at the end of a recording: it is cut from a longer one, or its last windows are not
kept; it is a whole clip, which begins and ends."""


class Outline(nn.Module):
    """Summaries of training windows in the order of time.

    Two windows that follow each other are half a window apart. Recordings are kept whole while there is room, and the
    first windows of the one that does not fit.

    Args:
        size: values of a summary.
        room: number of windows that can be kept.
    """

    kept: Tensor
    next: Tensor
    labels: Tensor

    def __init__(self, size: int, room: int) -> None:
        super().__init__()
        self.room = room
        self.register_buffer("kept", torch.zeros(room, size))
        # Where no window follows: `CUT` or `WHOLE`; label -1: no window here.
        self.register_buffer("next", torch.full((room,), CUT))
        self.register_buffer("labels", torch.full((room,), -1))

    def keep(self, recordings: list[tuple[int, Float[Tensor, "_ size"], bool]]) -> None:
        """Keep recordings while there is room: one of each label in turn, in the order they come in.

        Args:
            recordings: label, as a row of the label table, summaries of the successive windows, and whether the
                recording begins and ends as a clip does.
        """
        self.labels.fill_(-1)
        self.next.fill_(CUT)
        start = 0
        for at in _in_turn([label for label, *_ in recordings]):
            label, summaries, whole = recordings[at]
            stop = min(start + len(summaries), self.room)
            self.kept[start:stop] = summaries[: stop - start]
            self.labels[start:stop] = label
            if stop > start:
                self.next[start : stop - 1] = torch.arange(start + 1, stop)
                self.next[stop - 1] = WHOLE if whole and stop == start + len(summaries) else CUT
            start = stop

    def begin(self, label: int, share: float) -> int:
        """A window of a label to begin at; a label without a window takes those of all. −1: there is no window.

        Args:
            label: row of the label table, 0 for no label.
            share: from 0 to 1, which of the windows.
        """
        return _chosen(self._of(label), share)

    def has_whole(self, label: int) -> bool:
        """Whether whole recordings of a label are kept; a label without a window takes those of all."""
        return bool((self.next[self._of(label)] == WHOLE).any())

    def whole(self, label: int, share: float, n_windows: int, *, longer: bool = False) -> int:
        """The first window of a whole recording that has the wanted number of windows, or the nearest number.

        If no recording of the label is whole, any window is taken, as in `begin`.

        Args:
            label: row of the label table, 0 for no label; a label without a window takes the recordings of all.
            share: from 0 to 1, which of the recordings that come nearest.
            n_windows: the wanted number.
            longer: recordings with more windows come as near as those with the wanted number.
        """
        own = self._of(label)
        following = self.next[own]
        # The windows of a recording lie in a row.
        first, last = own[~torch.isin(own, following)], own[following < 0]
        whole = self.next[last] == WHOLE
        if not whole.any():
            return self.begin(label, share)
        more = last[whole] - first[whole] + 1 - n_windows
        apart = (more.clamp(max=0) if longer else more).abs()
        return _chosen(first[whole][apart == apart.min()], share)

    def after(self, place: int, label: int, share: float) -> int:
        """The window that follows another.

        Args:
            place: number of the other window.
            label: row of the label table of what follows a recording of a single window, 0 for no label.
            share: see `behind`.
        """
        following = int(self.next[place])
        if following >= 0:
            return following
        first = self._first_of(place)
        recording = torch.arange(first, place, device=self.next.device)
        return self._behind(self.kept[place], recording, share) if first < place else self.begin(label, share)

    def behind(self, made: Float[Tensor, " size"], label: int, share: float) -> int:
        """The window that follows one of those that are most like what was made.

        Args:
            made: summary of what was made.
            label: row of the label table of what follows, 0 for no label.
            share: from 0 to 1, which of the most similar windows.
        """
        own = self._of(label)
        led = own[self.next[own] >= 0]
        return self._behind(made, led, share) if len(led) else self.begin(label, share)

    def _behind(self, made: Float[Tensor, " size"], led: Int[Tensor, " some"], share: float) -> int:
        nearest = (self.kept[led] - made).square().sum(1).argsort(stable=True)[:N_NEAREST]
        return int(self.next[led[_chosen(nearest, share)]])

    def _first_of(self, place: int) -> int:
        """The first window of the recording that a window belongs to."""
        while place > 0 and int(self.next[place - 1]) == place:
            place -= 1
        return place

    def _of(self, label: int) -> Int[Tensor, " own"]:
        own = (self.labels == label if label else self.labels >= 0).nonzero()[:, 0]
        return own if len(own) else (self.labels >= 0).nonzero()[:, 0]


def _chosen(places: Int[Tensor, " some"], share: float) -> int:
    """The place at a share from 0 to 1 of the places; −1 if there is none."""
    return int(places[min(int(share * len(places)), len(places) - 1)]) if len(places) else -1


def _in_turn(labels: list[int]) -> list[int]:
    """The places of a list, so that its first places hold each label about equally often."""
    rank = dict.fromkeys(labels, 0)
    order = []
    for at, label in enumerate(labels):
        order.append((rank[label], at))
        rank[label] += 1
    return [at for _, at in sorted(order)]
