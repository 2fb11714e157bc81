"""The latents of a sound that exists under another label: they arrive in pieces and are changed window after window.

Windows overlap by half, as where a long clip is generated: what was changed in one window is the clean prefix of the
next. So the memory is that of one window, and the result does not depend on the sizes of the pieces.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from actseq.arrays import LatentArray


@dataclass(frozen=True)
class Part:
    """A window of a sound.

    Attributes:
        latents: the sound's latents in the window.
        changed: what the first of these frames have become already; the others are to be changed.
        ends: whether the sound ends after the last frame.
        number: number of the window, from 1 on.
    """

    latents: Float[Tensor, "frames latent_dim"]
    changed: Float[Tensor, "known latent_dim"]
    ends: bool
    number: int


class TransferStream:
    """Latents → changed latents of one sound.

    Args:
        change: the frames of a part that are to be changed → what they become.
        frames: most latent frames of a window, at least 2.
        empty: latents (0, latent_dim) on the device to compute on.
    """

    def __init__(
        self, change: Callable[[Part], Float[Tensor, "new latent_dim"]], frames: int, empty: Float[Tensor, "0 dim"]
    ) -> None:
        self.change, self.frames = change, frames
        self.held = self.changed = empty
        self.number = 1

    def push(self, latents: LatentArray) -> LatentArray:
        """Take more latents (frames, latent_dim); return those that are now final."""
        self.held = torch.cat([self.held, torch.tensor(latents, device=self.held.device)])
        made = [self.held[:0]]
        # Whether a window is the last one is known when there is something behind it.
        while len(self.held) > self.frames:
            made.append(self._next(ends=False))
        return _array(torch.cat(made))

    def finish(self) -> LatentArray:
        """Return the rest."""
        rest = len(self.held) > len(self.changed)
        return _array(self._next(ends=True) if rest else self.held[:0])

    def _next(self, *, ends: bool) -> Float[Tensor, "new latent_dim"]:
        window, given = self.held[: self.frames], len(self.changed)
        new = self.change(Part(window, self.changed, ends, self.number))
        keep = self.frames // 2
        self.changed = torch.cat([self.changed, new])[-keep:]
        self.held, self.number = self.held[given + len(new) - len(self.changed) :], self.number + 1
        return new


def _array(latents: Tensor) -> LatentArray:
    found: LatentArray = latents.cpu().numpy()
    return found
