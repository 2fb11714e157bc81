"""`flow`: a learned velocity moves noise to the next latent frame. It has no density.

The path from noise to value is an arc: at angle θ from 0 to π/2 it is cos θ · noise + sin θ · value. Values are
standardised, so the deviation is 1 everywhere on the arc; on a straight line it is 0.7 in the middle. This is why few
steps are enough. For a value as wide as the noise, eight Euler steps on the straight line give a deviation of 0.85, and
eight on the arc exaggerate the mean by 9 %. Four midpoint steps on the arc cost the same and are within 1 % for both,
and within 10 % if the value is five times as narrow.

With `information`, a value is d times as wide in a dimension that the autoencoder knows exactly. On the path that is
the same as an angle of its own for each dimension, φ with tan φ = d tan θ: exact dimensions leave the noise sooner, as
in `clip-flow`. Averaged over its arc, the squared error of a dimension has the weight d, as on the wider path. Such
dimensions change faster, so eight steps are better than four.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from actseq.errors import require
from actseq.priors.base import Sampling, deviations_by_precision
from actseq.priors.heads import normal

N_WAVES = 16
"""Number of cosines of the angle in the input of the network."""
CROWDING = 1.25
"""Steps of a draw get shorter towards the value, because narrow distributions form late; 1 would be equal steps."""
N_CHECKS = 8
"""Number of angles at which a position is measured in validation."""


class Flow(nn.Module):
    """A velocity field: a multilayer perceptron; condition and angle scale and shift its normalised activations.

    Args:
        dims: values per latent frame.
        width: width of its network, and of the condition.
        blocks: residual blocks of its network.
        steps: steps from noise to value by the midpoint rule, with two evaluations each. More are slower and more
            exact.
        draws: angles at which a position is learned at a time, one in each of this many equal parts of the arc.
        dropout: fraction of the condition and of values inside blocks that is dropped in training.
        information: how much wider a dimension is on the path the more exactly the autoencoder knows it: in proportion
            to (deviation / deviation of the posterior) to this power, with a geometric mean of 1. 0: all are alike.

    Sources: Liu et al. 2023, Lipman et al. 2023 (matching velocities); Albergo, Vanden-Eijnden 2023 (the arc); Li et
    al. 2024 (a small network per position, section 3.2; several angles a position); Peebles, Xie 2023 (scale, shift and
    gate from the condition, section 3.2).
    """

    controls = ("temperature", "noise_temperature", "noise_clamp")
    deviation: Tensor | None

    def __init__(
        self,
        dims: int,
        *,
        width: int = 192,
        blocks: int = 3,
        steps: int = 4,
        draws: int = 4,
        dropout: float = 0.0,
        information: float = 0.0,
    ) -> None:
        super().__init__()
        require(1, width=width, blocks=blocks, steps=steps, draws=draws)
        require(0, information=information)
        self.n_params, self.n_choices = width, (0, 0)
        self.dims, self.draws, self.information = dims, draws, information
        self.register_buffer("deviation", torch.ones(dims) if information else None)
        self.angles = [math.pi / 2 * (1 - (1 - k / steps) ** CROWDING) for k in range(steps + 1)]
        self.drop = nn.Dropout(dropout)
        n_modulations = (3 * blocks + 2) * width
        self.condition = nn.Linear(width, n_modulations)
        self.angle = nn.Linear(N_WAVES, n_modulations, bias=False)
        self.read = nn.Linear(dims, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, width))
            for _ in range(blocks)
        )
        self.write = nn.Linear(width, dims)
        # At first every scale is 1, every block is the identity, and the velocity is 0, its mean over the data.
        for parameter in (*self.condition.parameters(), *self.angle.parameters(), *self.write.parameters()):
            nn.init.zeros_(parameter)
        nn.init.ones_(self.condition.bias.data.view(-1, width)[1::3])

    def keep_precision(self, posterior: Float[Tensor, " dims"]) -> None:
        """See `KeepsPrecision.keep_precision`."""
        if self.deviation is not None:
            self.deviation.copy_(deviations_by_precision(posterior, self.information))

    def _own_angles(self, angle: Float[Tensor, "*any"]) -> Float[Tensor, "*any dims_or_1"]:
        """The angle that each dimension has at an angle of the path; one for all where they are alike."""
        if self.deviation is None:
            return angle[..., None]
        return torch.atan2(self.deviation * angle.sin()[..., None], angle.cos()[..., None])

    def _modulation(self, numbers: Tensor, angle: Tensor) -> tuple[Tensor, ...]:
        """Shift, scale and gate of every block, then shift and scale of the output, for each condition and angle.

        The maps of condition and angle are added, so the larger map is applied once a position for all angles.
        """
        waves = torch.cos(2 * torch.arange(N_WAVES, device=angle.device) * angle[..., None])
        out: Tensor = self.condition(self.drop(F.silu(numbers))) + self.angle(waves)
        return out.chunk(3 * len(self.blocks) + 2, dim=-1)

    def _velocity(self, place: Tensor, modulation: tuple[Tensor, ...]) -> Tensor:
        hidden = self.read(place)
        for i, block in enumerate(self.blocks):
            shift, scale, gate = modulation[3 * i : 3 * i + 3]
            hidden = torch.addcmul(hidden, gate, block(_normalised(hidden, shift, scale)))
        out: Tensor = self.write(_normalised(hidden, *modulation[-2:]))
        return out

    def loss(
        self, numbers: Float[Tensor, "*batch n_params"], value: Float[Tensor, "*batch dims"]
    ) -> Float[Tensor, "*batch"]:
        """Squared error of the velocity, as a mean over angles.

        Training draws new angles and noise every time. Validation always uses the same, so that two states of a
        training can be compared.
        """
        parts = self.draws if self.training else N_CHECKS
        shape, device = (parts, *value.shape[:-1]), value.device
        if self.training:
            within, noise = torch.rand(shape, device=device), torch.randn((parts, *value.shape), device=device)
        else:
            within = torch.full(shape, 0.5, device=device)
            noise = torch.randn((parts, *value.shape), generator=torch.Generator().manual_seed(0)).to(device)
        part = torch.arange(parts, device=device).reshape(parts, *(1,) * (value.ndim - 1))
        angle = (part + within) / parts * (math.pi / 2)
        own = self._own_angles(angle)
        sine, cosine = own.sin(), own.cos()
        velocity = self._velocity(cosine * noise + sine * value, self._modulation(numbers, angle))
        error = (velocity - (cosine * value - sine * noise)).square()
        if self.deviation is not None:
            # The velocity is by the own angle, at deviation 1. By the common angle it is d / power times as large, and
            # the wider path is √power times as wide: d / √power in all.
            power = angle.cos().square()[..., None] + (self.deviation * angle.sin()[..., None]).square()
            error = error * self.deviation.square() / power
        return error.sum(-1).mean(0)

    def sample(
        self, numbers: Float[Tensor, "batch n_params"], sampling: Sampling, generator: torch.Generator
    ) -> Float[Tensor, "batch dims"]:
        """One draw for each row. The temperature scales the noise at the start; 0 starts at its mean."""
        noise = normal((len(numbers), self.dims), sampling, generator, numbers.device)
        return self.drawn(numbers, noise, noise.new_zeros(len(numbers), 0, 0), sampling)

    def drawn(
        self,
        numbers: Float[Tensor, "batch n_params"],
        noise: Float[Tensor, "batch dims"],
        preference: Float[Tensor, "batch choices components"],
        sampling: Sampling,
    ) -> Float[Tensor, "batch dims"]:
        """As `sample`, from random numbers that are given; see `DrawsFromNoise.drawn`."""
        place = noise
        begins, ends = torch.tensor(self.angles, device=numbers.device).unfold(0, 2, 1).unbind(1)
        middles = (begins + ends) / 2
        angles = torch.stack([begins, middles], 1).flatten()
        if self.deviation is None:
            whole = (ends - begins)[:, None]
            half, share = whole / 2, torch.ones_like(whole)
        else:
            begin, middle, end = map(self._own_angles, (begins, middles, ends))
            # In the middle of the common angle the own angle is not half-way: the share that keeps second order.
            half, whole = middle - begin, end - begin
            share = whole / (2 * half)
        # For all angles of the draw at once.
        modulation = list(zip(*self._modulation(numbers, angles[:, None]), strict=True))
        for k, (at_begin, at_middle) in enumerate(zip(modulation[::2], modulation[1::2], strict=True)):
            first = self._velocity(place, at_begin)
            second = self._velocity(place + half[k] * first, at_middle)
            place = place + whole[k] * torch.lerp(first, second, share[k])
        return place


def _normalised(hidden: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, F.layer_norm(hidden, hidden.shape[-1:]), scale)
