"""`sample-likelihood`: the likelihood of each sample given those before it, of sounds with the phases of a sketch.

A network that is given a sketch of the sound cannot know the true phases. So it learns the sound that the sketch would
be with the true magnitudes. It is heard as the original is, and matches the sketch sample by sample.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from actseq.autoencoders.base import Autoencoder
from actseq.errors import require
from actseq.objectives.base import Batch, Loss
from actseq.objectives.vocoding import Crop, Crops
from actseq.representations.base import Representation
from actseq.vocoders.base import SampleNetwork


class SampleLikelihood(nn.Module):
    """Negative log-likelihood of samples under normal distributions, in nats per sample.

    Args:
        model: the network.
        representation: the representation of its features.
        autoencoder: the autoencoder of the run.
        autoencoder_share: fraction of segments that are shown as the autoencoder reconstructs them.
        n_turns: iterations of Griffin-Lim that bring the true magnitudes to the sketch; more are nearer to them, and
            farther from the sketch.

    Source: van den Oord et al., WaveNet: A Generative Model for Raw Audio (2016), section 2, with densities.
    """

    monitor = "loss"

    def __init__(
        self,
        model: nn.Module,
        representation: Representation,
        autoencoder: Autoencoder,
        *,
        autoencoder_share: float = 0.0,
        n_turns: int = 0,
    ) -> None:
        super().__init__()
        require(0, n_turns=n_turns)
        assert isinstance(model, SampleNetwork)
        self.model, self.n_turns = model, n_turns
        self.uses_autoencoder = autoencoder_share > 0
        self.crops = Crops(representation, autoencoder, autoencoder_share, model.context_frames)

    @property
    def margin(self) -> int:
        """Samples that crops must carry to either side."""
        return self.crops.margin

    def exported(self) -> nn.Module:
        """The network."""
        return self.model

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """One group: all of the network."""
        return {"vocoder": list(self.model.parameters())}

    @torch.no_grad()
    def pairs(
        self, crop: Crop, inside: Bool[Tensor, "batch all_frames"]
    ) -> tuple[Float[Tensor, "batch all_samples"], Float[Tensor, "batch all_samples"]]:
        """Sketches of crops with their context, and the sounds to be learned; zero outside the clips.

        Args:
            crop: crops, with features of their context.
            inside: which of all these frames belong to the clip; they follow each other.
        """
        model, context, hop = self.model, self.model.context_frames, self.model.hop_length
        magnitude, true = self.crops.magnitude(crop, context), self.crops.sound(crop, context)
        sketches, sounds = true.new_zeros(2, len(true), inside.shape[1] * hop)
        if not model.sketched:
            return sketches, true * inside.repeat_interleave(hop, dim=1)
        for row, own in enumerate(inside):
            first, n = int(own.int().argmax()), int(own.sum())
            frames, samples = slice(first, first + n), slice(first * hop, (first + n) * hop)
            sketches[row, samples] = model.sketch(crop.values[row, :, frames].contiguous())
            sounds[row, samples] = model.impose(magnitude[row, :, frames], sketches[row, samples], self.n_turns)
        return sketches, sounds

    def _measure(self, batch: Batch) -> dict[str, Tensor]:
        crop, context = self.crops(batch), self.model.context_frames
        inside = self.crops.places(batch, crop.values.shape[2], context)[1]
        sketch, sound = self.pairs(crop, inside)
        mean, log_deviation, target = self.model.predict(crop.values, sketch, sound)
        weight = crop.inside.repeat_interleave(self.model.hop_length, dim=1).to(mean.dtype)
        weight = weight / weight.sum().clamp(min=1)
        square = (target - mean).square()
        nats = 0.5 * square * (-2 * log_deviation).exp() + log_deviation + 0.5 * math.log(2 * math.pi)
        error = (weight * square).sum().clamp(min=1e-20).log10() * 10
        return {"loss": (weight * nats).sum(), "error_db": error}

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """The loss; `error_db` is the squared error of the mean relative to the squared level."""
        figures = self._measure(batch)
        return {"vocoder": Loss(figures["loss"], {name: value.detach() for name, value in figures.items()})}

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """The same."""
        return self._measure(batch)
