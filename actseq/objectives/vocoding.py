"""`magnitude` and `adversarial-vocoding`: from the features of random segments back to their sound.

Some segments are shown as the autoencoder reconstructs them, since a vocoder gets such features in use; the target is
always the true sound. Segments carry enough of their surroundings for their frames to equal those of the whole clip.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from actseq import units
from actseq.autoencoders.base import Autoencoder
from actseq.errors import require
from actseq.losses import (
    feature_matching,
    hinge_of_discriminators,
    hinge_of_generator,
    log_magnitude_l1,
    masked_l1,
    spectral_convergence,
)
from actseq.objectives.base import Batch, Loss
from actseq.objectives.discriminators import Discriminators, Judgement
from actseq.representations.base import Features, Representation, magnitudes_of, margin_hops
from actseq.vocoders.base import MagnitudeNetwork, WaveformNetwork

UNBOUNDED_FRAMES = 64
"""Feature frames on either side that stand for the context of an autoencoder without bound."""


@dataclass(frozen=True)
class Crop:
    """What a step of a vocoder's training works on.

    Attributes:
        values: features with the frames that the network sees around the crop; outside the clip those of silence.
        waveform: the crop, with `margin` samples to either side.
        inside: which frames of the crop belong to the clip.
    """

    values: Float[Tensor, "batch channels frames_and_context"]
    waveform: Float[Tensor, "batch samples_and_margin"]
    inside: Bool[Tensor, "batch frames"]


class Crops(nn.Module):
    """Cuts batches of `waveform`, `n_samples` and `start`, as `SegmentSource` makes them, into crops.

    Args:
        representation: of the features.
        autoencoder: of the run; it stays as it is.
        share: of the crops whose features went through the autoencoder, from a draw of the posterior.
        context_frames: frames that the network sees to either side.
    """

    def __init__(
        self, representation: Representation, autoencoder: Autoencoder, share: float, context_frames: int
    ) -> None:
        super().__init__()
        require(0, autoencoder_share=share)
        if share > 1:
            raise ValueError(f"autoencoder_share is {share}, expected at most 1")
        self.representation, self.share, self.context_frames = representation, share, context_frames
        # Kept out of the modules: neither trained nor written into checkpoints.
        self.autoencoder = [autoencoder] if share else []
        # Analysis at the rim of what is cut from a clip sees its end where there is none: these frames are left out.
        self.rim = margin_hops(representation)
        seen = autoencoder.context_frames
        self.around = context_frames + (2 * (UNBOUNDED_FRAMES if seen is None else seen) if share else 0)
        self.margin = (self.rim + self.around) * representation.hop_length
        self.silence = magnitudes_of(representation).silence

    @torch.no_grad()
    def forward(self, batch: Batch) -> Crop:
        """Crops with true features, but for the first of the batch, a `share` of it."""
        waveform = batch.data["waveform"]
        whole = torch.full((len(waveform),), waveform.shape[1], device=waveform.device)
        values = self.representation.analyse(waveform, whole).values[:, :, self.rim : -self.rim]
        frames = values.shape[2]
        before, inside = self.places(batch, frames, self.around)
        n_decoded = round(self.share * len(values))
        if n_decoded:
            decoded = self._through_autoencoder(
                values[:n_decoded], before[:n_decoded].sum(1), inside[:n_decoded].sum(1)
            )
            values = torch.cat([decoded, values[n_decoded:]])
        values = torch.where(inside[:, None], values, self.silence)
        last = frames - 1 - self.around
        return Crop(
            values[:, :, self.around - self.context_frames : last + self.context_frames],
            waveform,
            inside[:, self.around : last],
        )

    def places(
        self, batch: Batch, frames: int, context_frames: int
    ) -> tuple[Bool[Tensor, "batch frames"], Bool[Tensor, "batch frames"]]:
        """Which frames of the segments lie before their clip, and which in it; the first is `context_frames` early."""
        start, n_samples = batch.data["start"][:, None], batch.data["n_samples"][:, None]
        # In samples from where the crop starts; a clip has frames from its first sample to its last.
        centre = (torch.arange(frames, device=start.device) - context_frames) * self.representation.hop_length
        before = centre < -start
        return before, ~before & (centre <= n_samples)

    def _through_autoencoder(self, values: Tensor, begins: Tensor, lengths: Tensor) -> Tensor:
        """Features as decoded from a draw of the posterior. A clip begins at frame 0 there, as it does in use."""
        longest, at = max(1, int(lengths.max())), torch.arange(values.shape[2], device=values.device)
        moved = torch.take_along_dim(values, (at[:longest] + begins[:, None]).clamp(max=len(at) - 1)[:, None], 2)
        model = self.autoencoder[0]
        decoded = model.decode(model.encode(Features(moved, lengths)).sample()).values
        return torch.take_along_dim(decoded, (at - begins[:, None]).clamp(0, decoded.shape[2] - 1)[:, None], 2)

    def magnitude(self, crop: Crop, context_frames: int = 0) -> Float[Tensor, "batch bins frames"]:
        """The true magnitudes of a crop, with `context_frames` to either side."""
        whole = torch.full((len(crop.waveform),), crop.waveform.shape[1], device=crop.waveform.device)
        first = self.rim + self.around - context_frames
        spectrum = magnitudes_of(self.representation).framing(crop.waveform, whole)[0]
        found: Tensor = spectrum[:, :, first : first + crop.inside.shape[1] + 2 * context_frames].abs()
        return found

    def sound(self, crop: Crop, context_frames: int = 0) -> Float[Tensor, "batch samples"]:
        """The true sound of a crop, with `context_frames` to either side."""
        rim = self.margin - context_frames * self.representation.hop_length
        return crop.waveform[:, rim : crop.waveform.shape[1] - rim]


class MagnitudeLikeness(nn.Module):
    """L1 of log-magnitudes + `convergence_weight` · spectral convergence.

    Args:
        model: the network.
        representation: the representation of its features.
        autoencoder: the autoencoder of the run.
        autoencoder_share: fraction of segments that are shown as the autoencoder reconstructs them.
        convergence_weight: weight of the spectral convergence relative to the error of log-magnitudes.
        floor_db: magnitudes further below that of a full-scale sine count as silence.

    Source: Arık, Jun, Diamos, Fast Spectrogram Inversion using Multi-head CNN (2018), sections 3.1 and 3.2.
    """

    monitor = "loss"

    def __init__(
        self,
        model: nn.Module,
        representation: Representation,
        autoencoder: Autoencoder,
        *,
        autoencoder_share: float = 0.0,
        convergence_weight: float = 1.0,
        floor_db: float = -80.0,
    ) -> None:
        super().__init__()
        require(0, convergence_weight=convergence_weight)
        assert isinstance(model, MagnitudeNetwork)
        self.model, self.convergence_weight = model, convergence_weight
        self.uses_autoencoder = autoencoder_share > 0
        self.crops = Crops(representation, autoencoder, autoencoder_share, model.context_frames)
        n_fft = magnitudes_of(representation).framing.n_fft
        full_scale = n_fft / 4  # magnitude of a sine of amplitude 1 under a Hann window
        self.floor = units.db_to_amplitude(floor_db) * full_scale

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

    def _measure(self, batch: Batch) -> dict[str, Tensor]:
        crop = self.crops(batch)
        made, target = self.model.magnitude(crop.values), self.crops.magnitude(crop)
        error = log_magnitude_l1(made, target, crop.inside, self.floor)
        convergence = spectral_convergence(made, target, crop.inside)
        loss = error + self.convergence_weight * convergence
        return {"loss": loss, "magnitude_db": error * units.DB_PER_NEPER, "spectral_convergence": convergence}

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """The loss."""
        figures = self._measure(batch)
        return {"vocoder": Loss(figures["loss"], {name: value.detach() for name, value in figures.items()})}

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """The same."""
        return self._measure(batch)


class AdversarialVocoding(nn.Module):
    """Hinge losses against discriminators, feature matching, and L1 of the features of what was made.

    The vocoder is stepped first, against the discriminators before their step; they then learn from the same sound.

    Args:
        model: the network.
        representation: the representation of its features.
        autoencoder: the autoencoder of the run.
        autoencoder_share: fraction of segments that are shown as the autoencoder reconstructs them.
        feature_weight: weight of the L1 distance between features of generated and real sound, in nepers.
        matching_weight: weight of feature matching inside the discriminators.
        discriminator_width: channels of the first layers of the discriminators.

    Source: Siuzdak, Vocos (2023), section 3.3.
    """

    monitor = "feature_db"

    def __init__(
        self,
        model: nn.Module,
        representation: Representation,
        autoencoder: Autoencoder,
        *,
        autoencoder_share: float = 0.5,
        feature_weight: float = 45.0,
        matching_weight: float = 2.0,
        discriminator_width: int = 32,
    ) -> None:
        super().__init__()
        require(0, feature_weight=feature_weight, matching_weight=matching_weight)
        assert isinstance(model, WaveformNetwork)
        self.model, self.representation = model, representation
        self.feature_weight, self.matching_weight = feature_weight, matching_weight
        self.uses_autoencoder = autoencoder_share > 0
        self.crops = Crops(representation, autoencoder, autoencoder_share, model.context_frames + model.reach)
        self.discriminators = Discriminators(width=discriminator_width)

    @property
    def margin(self) -> int:
        """Samples that crops must carry to either side."""
        return self.crops.margin

    def exported(self) -> nn.Module:
        """The vocoder, without the discriminators."""
        return self.model

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The vocoder, then the discriminators."""
        return {"vocoder": list(self.model.parameters()), "discriminators": list(self.discriminators.parameters())}

    def _feature_l1(self, made: Tensor, real: Tensor) -> Tensor:
        lengths = torch.full((len(real),), real.shape[1], device=real.device)
        target = self.representation.analyse(real, lengths).values
        everything = torch.ones(len(real), target.shape[2], dtype=torch.bool, device=real.device)
        return masked_l1(self.representation.analyse(made, lengths).values, target, everything)

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """The vocoder's loss, with discriminators frozen, and the discriminators' loss, with the sound detached."""
        crop = self.crops(batch)
        real, made = self.crops.sound(crop), self.model.render(crop.values)
        feature = self._feature_l1(made, real)
        told_real = self.discriminators(real)
        told_made = self.discriminators(made.detach())
        self.discriminators.requires_grad_(False)
        judged = self.discriminators(made)
        self.discriminators.requires_grad_(True)
        hinge = hinge_of_generator(_scores(judged))
        matching = feature_matching(_maps(told_real), _maps(judged))
        loss = hinge + self.matching_weight * matching + self.feature_weight * feature
        told = hinge_of_discriminators(_scores(told_real), _scores(told_made))
        figures = {"loss": loss, "feature_db": feature * units.DB_PER_NEPER, "hinge": hinge, "matching": matching}
        return {
            "vocoder": Loss(loss, {name: value.detach() for name, value in figures.items()}),
            "discriminators": Loss(told, {"discriminators": told.detach()}),
        }

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """How far the features of what was made are from those of the sound, in dB."""
        crop = self.crops(batch)
        return {
            "feature_db": self._feature_l1(self.model.render(crop.values), self.crops.sound(crop)) * units.DB_PER_NEPER
        }


def _scores(judgements: list[Judgement]) -> list[Tensor]:
    return [judgement.scores for judgement in judgements]


def _maps(judgements: list[Judgement]) -> list[list[Tensor]]:
    return [judgement.maps for judgement in judgements]
