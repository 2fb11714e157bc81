"""`autoencoding`: reconstruct the features of random segments, at the price of the bottleneck's regulariser.

With a corruption the input is the corrupted segment and the target the clean one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Int
from torch import Tensor, nn

from actseq import units
from actseq.autoencoders.base import Autoencoder, Latents, Posterior, Skipping
from actseq.corruptions.base import Corruption
from actseq.errors import require
from actseq.losses import masked_delta_l1, masked_l1
from actseq.modules.frames import frame_mask
from actseq.objectives.base import Batch, Loss
from actseq.objectives.regularisers import Regulariser, TakesTurns
from actseq.representations.base import Features, Granular, HasMagnitude, Representation

LABEL_DROPOUT = 0.1
"""Share of the training clips whose label the decoder is not given."""


@dataclass(frozen=True)
class _Measured:
    """What one batch gave.

    Attributes:
        figures: scalars to be shown; `loss` is to be lowered.
        posterior: the latents; None beside skip connections.
        given: what the encoder has seen.
    """

    figures: dict[str, Tensor]
    posterior: Posterior | None
    given: Features


class Autoencoding(nn.Module):
    """Distances between features, between their changes in time, and between magnitudes, each with a weight.

    Batches hold `waveform (batch, margin + samples + margin)` and `n_samples (batch,)`, as `SegmentSource` makes them,
    and `noise` like `waveform` where the corruption needs segments of other labels; or `features (batch, frames,
    channels)` in place of the waveform, as `FeatureSource` makes them; and `label (batch,)` where the decoder is given
    the label.

    Args:
        model: the autoencoder.
        representation: the representation of its features.
        margin: samples around each segment, a multiple of the hop.
        corruption: what is done to the input; None leaves it as it is.
        regulariser: adds what the bottleneck asks of the latents; None adds nothing.
        value_weight: weight of the L1 distance between normalised features.
        delta_weight: weight of the L1 distance between their changes from frame to frame.
        magnitude_weight: weight of the distance between magnitudes, whatever the phase; only for `stft` and `spectrum`
            (compressed magnitudes) and `grain` (power in bands, the distance of Itakura and Saito).

    Raises:
        ValueError: `magnitude_weight` with a representation without phases, or a corruption of grains with a
            representation without grains.
    """

    monitor = "loss"

    def __init__(
        self,
        model: Autoencoder,
        representation: Representation,
        margin: int,
        corruption: Corruption | None,
        regulariser: Regulariser | None,
        *,
        value_weight: float = 1.0,
        delta_weight: float = 0.25,
        magnitude_weight: float = 0.0,
    ) -> None:
        super().__init__()
        require(0, value_weight=value_weight, delta_weight=delta_weight, magnitude_weight=magnitude_weight)
        if magnitude_weight and not isinstance(representation, HasMagnitude):
            raise ValueError(
                f"magnitude_weight is {magnitude_weight}, expected 0 but with representation stft, grain or spectrum"
            )
        if corruption is not None and corruption.works_on_grains and not isinstance(representation, Granular):
            raise ValueError("the corruption works on grains; use it with representation grain or spectrum")
        self.model, self.representation, self.margin, self.corruption = model, representation, margin, corruption
        self.value_weight, self.delta_weight, self.magnitude_weight = value_weight, delta_weight, magnitude_weight
        # The word of checkpoints.
        self.adjudication = regulariser
        self.in_turn = isinstance(regulariser, TakesTurns) and regulariser.in_turn

    def exported(self) -> nn.Module:
        """The model, without its regulariser."""
        return self.model

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All of the autoencoder; once more for a regulariser in turn; then the groups of the regulariser."""
        groups = {"autoencoder": list(self.model.parameters())}
        if self.adjudication is None:
            return groups
        if self.in_turn:
            # The decoder has no gradient there, and is left as it is.
            groups["encoder"] = list(self.model.parameters())
        return groups | self.adjudication.parameter_groups()

    @torch.no_grad()
    def pair(self, batch: Batch) -> tuple[Features, Features]:
        """Normalised features that the encoder sees, and those that are to come out."""
        corruption = self.corruption
        if corruption is None or corruption.works_on_grains:
            target = self._stored(batch) if "features" in batch.data else self._features(batch.data["waveform"], batch)
            if corruption is None:
                return target, target
            given = self._grain_by_grain(lambda grains: corruption.corrupt(grains, None).input, target.values)
            return Features(given, target.lengths), target
        both = corruption.corrupt(batch.data["waveform"], batch.data.get("noise"))
        return self._features(both.input, batch), self._features(both.target, batch)

    def _stored(self, batch: Batch) -> Features:
        values = batch.data["features"].transpose(1, 2)
        lengths = units.n_frames(batch.data["n_samples"], self.representation.hop_length).clamp(max=values.shape[2])
        nothing = values.new_zeros(1, self.representation.hop_length)
        silence = self.representation.analyse(nothing, lengths.new_tensor([nothing.shape[1]])).values[:, :, :1]
        values = torch.where(frame_mask(lengths, values.shape[2])[:, None], values, silence)
        return Features(self.model.normaliser.normalise(values), lengths)

    def _features(self, waveform: Tensor, batch: Batch) -> Features:
        return segment_features(self.representation, self.model, waveform, batch.data["n_samples"], self.margin)

    def _grain_by_grain(self, change: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
        """Normalised features with changed grains."""
        assert isinstance(self.representation, Granular)
        normaliser = self.model.normaliser
        grains = self.representation.grains(normaliser.restore(values))
        changed = rearrange(change(rearrange(grains, "b n t -> (b t) n")), "(b t) n -> b n t", b=len(grains))
        return normaliser.normalise(self.representation.features_of(changed))

    def _measure(self, batch: Batch, progress: float | None) -> _Measured:
        given, target = self.pair(batch)
        training = progress is not None
        frames = target.values.shape[2]
        posterior = None
        if isinstance(self.model.network, Skipping):
            output = self.model.network.reconstruct(given.values, given.lengths)
        else:
            posterior = self.model.encode_normalised(given.values, given.lengths)
            latents: Latents = posterior.mode() if progress is None else posterior.sample()
            condition = self._condition(batch, training, latents.values.shape[1])
            output = self.model.decode_normalised(latents, condition)[:, :, :frames]
        inside = decoded_frames(target.lengths, self.model.stride, frames)
        error = masked_l1(output, target.values, inside)
        loss = self.value_weight * error
        if self.delta_weight:
            loss = loss + self.delta_weight * masked_delta_l1(output, target.values, inside)
        deviation = self.model.normaliser.deviation
        figures = (
            {"error_db": error * deviation * units.DB_PER_NEPER}
            if self.representation.log_magnitude
            else {"error": error}
        )
        if self.magnitude_weight:
            assert isinstance(self.representation, HasMagnitude)
            heard = output
            if self.corruption is not None and self.corruption.works_on_grains:
                heard = self._grain_by_grain(self.corruption.perturb, output)
            restore = self.model.normaliser.restore
            magnitude = self.representation.magnitude_distance(restore(heard), restore(target.values), inside)
            loss = loss + self.magnitude_weight * magnitude
            figures["magnitude_error"] = magnitude
        if posterior is not None and self.adjudication is not None and not (training and self.in_turn):
            penalty = self.adjudication.penalty(posterior, progress)
            loss = loss + penalty.total
            figures |= penalty.figures
        return _Measured({"loss": loss, **figures}, posterior, given)

    def _condition(self, batch: Batch, training: bool, frames: int) -> Tensor | None:
        """What the decoder is given beside the latents; in training some clips have no label."""
        if self.model.table is None:
            return None
        rows = batch.data["label"]
        if training:
            rows = torch.where(torch.rand(rows.shape, device=rows.device) < LABEL_DROPOUT, 0, rows)
        return self.model.condition(rows, frames)

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """The loss with the regulariser's penalty, or each by itself; and the losses of the regulariser's groups."""
        measured = self._measure(batch, batch.progress)
        figures, posterior = measured.figures, measured.posterior
        losses = {"autoencoder": Loss(figures["loss"], {name: value.detach() for name, value in figures.items()})}
        if posterior is None or self.adjudication is None:
            return losses
        if self.in_turn:
            again = self.model.encode_normalised(measured.given.values, measured.given.lengths)
            losses["encoder"] = self.adjudication.penalty(again, batch.progress)
        return losses | self.adjudication.losses(posterior)

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """The same from the mean of the posterior, as in use, wherever the training is."""
        return self._measure(batch, None).figures


def decoded_frames(lengths: Int[Tensor, " batch"], stride: int, frames: int) -> Bool[Tensor, "batch frames"]:
    """Frames that the decoder makes of a clip, up to its last whole latent frame.

    They are heard at the end of a new clip. So the decoder learns the silence there too.

    Args:
        lengths: frames of each clip.
        stride: frames of a latent frame.
        frames: frames of the batch.
    """
    return frame_mask(units.n_latent_frames(lengths, stride) * stride, frames)


def segment_features(
    representation: Representation, model: Autoencoder, waveform: Tensor, n_samples: Tensor, margin: int
) -> Features:
    """Normalised features of crops that carry `margin` samples to either side: analysed with them, then cut to size."""
    hop = representation.hop_length
    everything = torch.full((len(waveform),), waveform.shape[1], device=waveform.device)
    values = representation.analyse(waveform, everything).values
    first = margin // hop
    frames = units.n_frames(waveform.shape[1] - 2 * margin, hop)
    values = model.normaliser.normalise(values[:, :, first : first + frames])
    return Features(values, units.n_frames(n_samples, hop).clamp(max=frames))
