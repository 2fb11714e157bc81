"""`gan`: sequences of activations against a discriminator.

A generated sequence gets the label and the length of a real one, and the two are compared: the discriminator learns to
score the real one and its frames higher, the generator to prevent that. So neither labels nor lengths distinguish them.

Training is kept stable by gradient penalties on real and generated sequences; by noise: activations are drawn from
their posterior for every batch, and generated ones get the same noise; by matching distributions, which corrects coarse
errors while the discriminator finds fine ones; by weights that learn at one rate, the discriminator's at twice the
generator's; and by averaging the generator's weights (the loop does that).

Sources: Huang et al., The GAN is dead; long live the GAN! (2024), equations 2 to 4; Heusel et al. 2017 (two rates).
"""

import math
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from actseq.errors import require
from actseq.modules.gaussian import draw
from actseq.objectives.base import Batch, Loss
from actseq.priors.gan import (
    GAIN,
    N_POSITION_FEATURES,
    SLOPE,
    EqualizedLinear,
    Gan,
    GeneratorNoise,
    PackedBlock,
    PackedPositions,
)
from actseq.priors.labels import LabelledPrior

PACE = 2.0
WAVES = 4
DRAWS = 4
"""Sequences generated for each held-out one."""


class Discriminator(nn.Module):
    """Says how real sequences of known labels and lengths are, and each of their frames.

    Args:
        dims: numbers per frame.
        n_labels: labels, the one for none included.
        width: numbers per frame inside.
        blocks: residual blocks, each with twice the reach of the one before.

    Source of how labels come in at the end: Miyato, Koyama, cGANs with Projection Discriminator (2018), equation 3.
    """

    def __init__(self, dims: int, n_labels: int, width: int, blocks: int) -> None:
        super().__init__()
        self.begin = EqualizedLinear(dims + N_POSITION_FEATURES, width, pace=PACE)
        self.begin_label, self.label = nn.Embedding(n_labels, width), nn.Embedding(n_labels, width)
        self.blocks = nn.ModuleList(PackedBlock(width, 2 ** (i % 4), pace=PACE) for i in range(blocks))
        self.frame_score = EqualizedLinear(width, 1, pace=PACE)
        self.whole = EqualizedLinear(width, width, GAIN, PACE)
        self.score = EqualizedLinear(width, 1, pace=PACE)

    def forward(
        self,
        values: Float[Tensor, "packed dims"],
        places: PackedPositions,
        label: Int[Tensor, " batch"],
        in_time: Int[Tensor, " packed"] | None = None,
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " packed"]]:
        """Scores of sequences and of frames; higher is more real.

        Args:
            values: activations.
            places: their places.
            label: of each sequence.
            in_time: label of each frame, where labels have times.
        """
        named = self.begin_label(label)[places.row] if in_time is None else self.begin_label(in_time)
        values = self.begin(torch.cat([values, places.position_features()], dim=1)) + named
        for block in self.blocks:
            values = block(values, places)
        frames = F.leaky_relu(values, SLOPE)
        whole = F.leaky_relu(self.whole(places.mean(frames)), SLOPE)
        wanted = self.label(label) if in_time is None else places.mean(self.label(in_time))
        fits = (whole * wanted).sum(1) / math.sqrt(whole.shape[1])
        return self.score(whole)[:, 0] + fits, self.frame_score(frames)[:, 0]


class AdversarialSequences(nn.Module):
    """Paired relativistic losses with gradient penalties, matching, and the likelihood of lengths and of noise.

    Batches are those of `SequenceLikelihood`. The generator is stepped first, against the discriminator before its
    step.

    Args:
        model: prior and label table.
        label_dropout: fraction of sequences that are shown without their label. Where labels have times, the same
            fraction of the others is shown without the places of their frames.
        penalty: weight of the discriminator's squared gradient on real and generated sequences; more is more stable.
        matching_weight: weight of the energy distance between the real and the generated sequences of a batch.
        discriminator_width: channels inside the discriminator.
        discriminator_blocks: residual blocks of the discriminator.
    """

    monitor = "distance"

    def __init__(
        self,
        model: LabelledPrior[Gan],
        *,
        label_dropout: float = 0.1,
        penalty: float = 1.0,
        matching_weight: float = 1.0,
        discriminator_width: int = 128,
        discriminator_blocks: int = 3,
    ) -> None:
        super().__init__()
        require(0, label_dropout=label_dropout, penalty=penalty, matching_weight=matching_weight)
        require(1, discriminator_width=discriminator_width, discriminator_blocks=discriminator_blocks)
        self.model = model
        self.label_dropout, self.penalty, self.matching_weight = label_dropout, penalty, matching_weight
        dims = len(self.prior.log_spread)
        self.discriminator = Discriminator(dims, len(model.labels) + 1, discriminator_width, discriminator_blocks)

    @property
    def prior(self) -> Gan:
        """The generator, a part of the model."""
        return self.model.prior

    def exported(self) -> nn.Module:
        """The model, without the discriminator."""
        return self.model

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The prior, then the discriminator."""
        return {"prior": list(self.model.parameters()), "discriminator": list(self.discriminator.parameters())}

    def _make(self, places: PackedPositions, condition: Float[Tensor, "batch frames_or_1 condition_dim"]) -> Tensor:
        prior, n = self.prior, len(places.row)
        shapes = ((len(condition), prior.noise_dim), (n, prior.frame_noise_dim), (n, len(prior.log_spread)))
        noise = GeneratorNoise(*(torch.randn(shape, device=condition.device) for shape in shapes))
        return prior.generate(places, condition, noise)

    def _in_time(self, data: Mapping[str, Tensor], places: PackedPositions, shown: Tensor) -> Tensor | None:
        """Label of each frame; None where labels have no times."""
        if "frame_label" not in data:
            return None
        return data["frame_label"][places.row, places.position] * shown[places.row]

    def _real(self, data: Mapping[str, Tensor], places: PackedPositions) -> tuple[Tensor, Tensor]:
        """A draw from the posteriors of the frames, without the padding, and their log-deviations; standardised."""
        mean, log_variance = (data[name][places.row, places.position] for name in ("mean", "log_variance"))
        standardiser = self.prior.standardiser
        log_deviation = 0.5 * log_variance[:, standardiser.active] - standardiser.deviation.log()
        return standardiser.standardise(draw(mean, log_variance, torch.randn_like(mean))), log_deviation

    def _judge(
        self, values: Tensor, places: PackedPositions, label: Tensor, in_time: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Scores of sequences and frames, and the squared gradient of either score by a sequence, on average."""
        values = values.detach().requires_grad_()
        whole, frames = self.discriminator(values, places, label, in_time)
        # With random signs the square of the sum is, on average, the sum of the squares.
        signs = 2.0 * torch.randint(2, frames.shape, device=frames.device) - 1
        total = whole.sum() + (signs * frames / places.lengths[places.row].sqrt()).sum()
        (slope,) = torch.autograd.grad(total, values, create_graph=True)
        return [whole, frames], slope.square().sum() / len(label)

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """The prior's loss, with the discriminator frozen, and the discriminator's loss, with sequences detached."""
        lengths = batch.data["lengths"]
        places = PackedPositions.of(lengths)
        self.prior.lengths_seen[lengths - 1] = True
        shown = torch.rand(len(lengths), device=lengths.device) >= self.label_dropout
        placed = None
        if self.model.place is not None:
            placed = torch.rand(len(lengths), device=lengths.device) >= self.label_dropout
        label = batch.data["label"] * shown
        real, log_deviation = self._real(batch.data, places)
        made = self._make(places, self.model.condition_of(batch.data, shown, placed))
        about = (places, label, self._in_time(batch.data, places, shown))

        real_scores, real_slope = self._judge(real, *about)
        made_scores, made_slope = self._judge(made, *about)
        told = _behind(made_scores, real_scores)
        slope = real_slope + made_slope

        self.discriminator.requires_grad_(False)
        fooled = _behind([scores.detach() for scores in real_scores], self.discriminator(made, *about))
        self.discriminator.requires_grad_(True)
        matching = energy_distance(time_courses(real, places), time_courses(made, places)[None], label)
        length, spread = self.prior.likelihood_loss(lengths, self.model.condition(label), log_deviation)
        loss = fooled + self.matching_weight * matching + length + spread
        figures = {"adversarial": fooled, "matching": matching, "length_nats": length}
        found = {"discriminator": told, "slope": slope}
        return {
            "prior": Loss(loss, {name: value.detach() for name, value in figures.items()}),
            "discriminator": Loss(
                told + 0.5 * self.penalty * slope, {name: value.detach() for name, value in found.items()}
            ),
        }

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """How far generated sequences are from held-out ones of the same labels and lengths."""
        lengths, label = batch.data["lengths"], batch.data["label"]
        places = PackedPositions.of(lengths)
        real, log_deviation = self._real(batch.data, places)
        condition = self.model.condition_of(batch.data)
        made = [time_courses(self._make(places, condition), places) for _ in range(DRAWS)]
        length, _ = self.prior.likelihood_loss(lengths, self.model.condition(label), log_deviation)
        return {
            "distance": energy_distance(time_courses(real, places), torch.stack(made), label),
            "length_nats": length,
        }


def _behind(low: Iterable[Tensor], high: Iterable[Tensor]) -> Float[Tensor, ""]:
    """What is paid for scores not being above others, summed over sequences and frames, each on average."""
    return torch.stack([F.softplus(a - b).mean() for a, b in zip(low, high, strict=True)]).sum()


def time_courses(values: Float[Tensor, "packed dims"], places: PackedPositions) -> Float[Tensor, "batch numbers"]:
    """The first `WAVES` cosine coefficients of every dimension over each sequence: how it goes, whatever its length."""
    length = places.lengths[places.row]
    share = (places.position + 0.5) / length
    waves = torch.arange(WAVES, device=values.device)
    # A sequence has no more coefficients than frames.
    basis = torch.cos(math.pi * waves * share[:, None]) * (waves < length[:, None]) * (1 + (waves > 0)) ** 0.5
    products = (basis[:, :, None] * values[:, None]).flatten(1)
    return places.mean(products) * places.lengths[:, None].sqrt()


def energy_distance(
    real: Float[Tensor, "batch numbers"], made: Float[Tensor, "draws batch numbers"], label: Int[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """Energy distance of sequences, over all pairs plus over pairs of one label; 0 on average where all is alike.

    A sequence is never compared with what was made in its place, whose length is the same by design.

    Args:
        real: what sequences are like.
        made: the same of sequences made in their places, any number of times.
        label: of both.

    Source: Székely, Rizzo, Energy statistics (2013), equation 1.3.
    """
    others = ~torch.eye(len(real), dtype=torch.bool, device=real.device)
    alike = (label[:, None] == label)[others].to(real.dtype)
    weight = 1 / others.sum() + alike / alike.sum().clamp(min=1)

    def mean(a: Tensor, b: Tensor) -> Tensor:
        return (torch.cdist(a, b)[..., others] * weight).sum(-1).mean()

    between = [mean(one, two) for i, one in enumerate(made) for two in made[i:]]
    return 2 * mean(made, real) - mean(real, real) - torch.stack(between).mean()
