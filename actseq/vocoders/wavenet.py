"""`wavenet`: the waveform sample by sample, each drawn given those before it, the features, and a sketch of the sound.

The sketch is what `phase` makes of the same features. What it lacks, the residual, is predicted from its own past by
linear prediction, whose coefficients follow from the features. The network only has to find what drives this filter: it
gives the excitation of each sample a normal distribution. Dilated causal convolutions learn all samples of a segment at
once, which makes training short; in use their past inputs are kept in rings, in a loop that numba compiles. Samples are
divided by the level that the features imply. Noise is a function of the sample's number.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from actseq.errors import require
from actseq.representations.base import Representation, magnitudes_of
from actseq.representations.normaliser import Normaliser
from actseq.vocoders.base import BlockBuffer, Stream
from actseq.vocoders.inversion import MagnitudeInversion
from actseq.vocoders.noise import white_noise
from actseq.vocoders.phase import Phase

Array = NDArray[Any]
TAPS = 16
"""Order of the linear prediction, and neighbouring samples that the first layer sees."""
LARGEST_MEAN = 4.0
"""Largest mean of an excitation, relative to that of the linear prediction."""
LOG_DEVIATION = (-6.0, 6.0)
"""Least and greatest logarithm of the standard deviation of an excitation, relative to that of the prediction."""
LARGEST_RESIDUAL = 32.0
"""Largest difference between a sample and its sketch in use, in levels: what is fed back stays finite."""
LAG_HZ = 40.0
"""Bandwidth of the lag window, which keeps the filters away from the edge of stability."""
WHITE = 1e-5
"""Power of the white noise that is added to a spectrum before its prediction, relative to its own."""
LARGEST_REFLECTION = 0.9999
"""Largest size of a reflection coefficient."""
CONDITION_CONTEXT = 3
"""Frames to either side of a frame that its condition depends on: convolutions over five and over three frames."""


class WaveNet(nn.Module):
    """A gated causal convolutional network over samples.

    Args:
        representation: one of log-magnitudes.
        width: values of a sample between layers.
        layers: number of layers; the dilation doubles from each to the next, from 1 on.
        condition: values of a frame that the layers are given, between frames by linear interpolation.
        inner: width of the network that makes them.
        ahead: samples of the sketch that are seen ahead.
        sketched: whether the network is given a sketch; without it the features alone must do.
        noise: factor to the standard deviation of a sample in use: 1 draws as was learned, 0 takes the mean.
        noise_seed: seed of the noise.
        block_frames: frames whose condition is computed at a time.

    Raises:
        TypeError: the representation has no log-magnitudes.

    Source: van den Oord et al., WaveNet: A Generative Model for Raw Audio (2016), section 2; the linear prediction from
        Valin and Skoglund, LPCNet: Improving Neural Speech Synthesis through Linear Prediction (2019), section 3.
    """

    objective = "sample-likelihood"
    lag_window: Tensor

    def __init__(
        self,
        representation: Representation,
        *,
        width: int = 32,
        layers: int = 10,
        condition: int = 32,
        inner: int = 96,
        ahead: int = 256,
        sketched: bool = True,
        noise: float = 0.0,
        noise_seed: int = 0,
        block_frames: int = 64,
    ) -> None:
        super().__init__()
        require(1, width=width, layers=layers, condition=condition, inner=inner, block_frames=block_frames)
        require(TAPS, ahead=ahead)
        require(0, noise=noise, noise_seed=noise_seed)
        if layers > 16:
            raise ValueError(f"layers is {layers}, expected at most 16: the last one sees 2 ** 16 samples back")
        framing = magnitudes_of(representation).framing
        require(2 * TAPS + 2, n_fft=framing.n_fft)
        self.phase = Phase(representation)
        self.inversion = MagnitudeInversion(representation)
        self.hop_length, self.silence = representation.hop_length, magnitudes_of(representation).silence
        self.width, self.ahead, self.sketched = width, ahead, sketched
        self.noise, self.noise_seed, self.block_frames = noise, noise_seed, block_frames
        self.dilations = tuple(2**layer for layer in range(layers))
        self.receptive_field = TAPS + sum(self.dilations)
        # Silent frames before a sound, with which the network starts: they hold all that it sees, and one more.
        self.past_frames = 1 + -(-max(self.receptive_field, ahead) // self.hop_length)
        self.context_frames = self.past_frames + CONDITION_CONTEXT + self.phase.reach
        self.log_energy = math.log(framing.n_fft * float(framing.window.square().sum()))
        lags = 2 * math.pi * LAG_HZ / representation.sample_rate * torch.arange(TAPS + 1)
        lag_window = (-0.5 * lags.square()).exp()
        lag_window[0] += WHITE
        self.register_buffer("lag_window", lag_window[:, None])
        self.normaliser = Normaliser(representation.channels, log_magnitude=True)
        self.read = nn.Sequential(
            nn.Conv1d(representation.channels, inner, 5),
            nn.GELU(),
            nn.Conv1d(inner, inner, 3),
            nn.GELU(),
            nn.Conv1d(inner, condition, 1),
        )
        self.front = nn.Linear(5 * TAPS, width)
        # What a gate takes from the past, from the present, and from the condition.
        self.gates = nn.ModuleList(nn.Linear(2 * width + condition, 2 * width) for _ in range(layers))
        # What goes on to the next layer, and what to the output.
        self.mix = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(layers))
        self.hidden, self.last = nn.Linear(width, width), nn.Linear(width, 2)
        self.direct = nn.Linear(5 * TAPS, 1, bias=False)
        with torch.no_grad():
            # Training starts from noise around the sketch.
            self.direct.weight.zero_()
            self.last.weight.zero_()
            self.last.bias.copy_(torch.tensor([0.0, -1.0]))

    # -- features -------------------------------------------------------------------------------------------------

    def log_level(self, values: Float[Tensor, "*batch channels frames"]) -> Float[Tensor, "*batch frames"]:
        """Natural logarithm of the root mean square under the window that the features imply."""
        log_power = 2 * self.inversion.interpolated(values)
        return 0.5 * (math.log(2) + log_power.logsumexp(-2) - self.log_energy)

    def reflections(self, values: Float[Tensor, "*batch channels frames"]) -> Float[Tensor, "*batch order frames"]:
        """Reflection coefficients of the linear prediction under the spectrum that the features imply.

        Source: Makhoul, Linear Prediction: A Tutorial Review (1975), section II.
        """
        # In double precision, which not every device has.
        log_power = 2 * self.inversion.interpolated(values).cpu().double()
        power = (log_power - log_power.amax(-2, keepdim=True)).exp()
        lags = torch.fft.irfft(power, dim=-2)[..., : TAPS + 1, :] * self.lag_window.cpu().double()
        error, found = lags[..., 0, :], []
        predictor = lags[..., :0, :]
        for order in range(TAPS):
            known = (predictor * lags[..., 1 : order + 1, :].flip(-2)).sum(-2)
            one = ((lags[..., order + 1, :] - known) / error).clamp(-LARGEST_REFLECTION, LARGEST_REFLECTION)
            predictor = torch.cat([predictor - one[..., None, :] * predictor.flip(-2), one[..., None, :]], dim=-2)
            error = error * (1 - one.square())
            found.append(one)
        return torch.stack(found, dim=-2).to(values)

    def condition(self, values: Float[Tensor, "batch channels frames"]) -> Float[Tensor, "batch values inner"]:
        """What the layers are given of all but the first and last `CONDITION_CONTEXT` frames."""
        found: Tensor = self.read(self.normaliser.normalise(values))
        return found

    def impose(
        self, magnitude: Float[Tensor, "bins frames"], sketch: Float[Tensor, " samples"], n_turns: int
    ) -> Float[Tensor, " samples"]:
        """The sound that is to be learned: a sketch with the true magnitudes, after some iterations of Griffin-Lim."""
        return self.phase.impose(magnitude, sketch, n_turns)

    def sketch(self, values: Float[Tensor, "channels frames"]) -> Float[Tensor, " samples"]:
        """What `phase` makes of whole features, frames · hop_length samples; silence where there is no sketch."""
        if not self.sketched:
            return values.new_zeros(values.shape[1] * self.hop_length)
        stream = self.phase.stream()
        return torch.cat([stream.push(values), stream.finish()])

    # -- training -------------------------------------------------------------------------------------------------

    def predict(
        self,
        values: Float[Tensor, "batch channels frames"],
        sketch: Float[Tensor, "batch all_samples"],
        sound: Float[Tensor, "batch all_samples"],
    ) -> tuple[Float[Tensor, "batch samples"], Float[Tensor, "batch samples"], Float[Tensor, "batch samples"]]:
        """See `SampleNetwork.predict`; the scale is the level that the features imply."""
        hop, context, past = self.hop_length, self.context_frames, self.past_frames
        first, last = (context - past) * hop, (values.shape[2] - context) * hop
        with torch.no_grad():
            level = _between(self.log_level(values)[:, None], hop)[:, 0].exp()
            filters, scale = predictors(_between(self.reflections(values), hop))
        sketch, sound = (samples[:, : level.shape[1]] / level for samples in (sketch, sound))
        residual = sound - sketch
        early = first - TAPS
        predicted = (filters[:, early:last] * _taps(residual, -1, early, last)).sum(2)
        scale = scale[:, early:last]
        excitation = (residual[:, early:last] - predicted) / scale
        inputs = torch.cat(
            [
                _taps(excitation.asinh(), -1, TAPS, excitation.shape[1]),
                _taps(sound, -1, first, last),
                _taps(sketch, 0, first, last),
                _taps(sketch, TAPS, first, last).flip(2),
                _taps(sketch, self.ahead, first, last),
            ],
            dim=2,
        )
        near = slice(context - past - CONDITION_CONTEXT, values.shape[2] - context + 1 + CONDITION_CONTEXT)
        condition = _between(self.condition(values[:, :, near]), hop).transpose(1, 2)
        size = last - context * hop
        raw, own = self._network(inputs, condition)[:, -size:], slice(context * hop, last)
        scale, predicted = scale[:, -size:], predicted[:, -size:]
        mean = sketch[:, own] + predicted + scale * LARGEST_MEAN * (raw[..., 0] / LARGEST_MEAN).tanh()
        return mean, scale.log() + raw[..., 1].clamp(*LOG_DEVIATION), sound[:, own]

    def _network(
        self, inputs: Float[Tensor, "batch samples taps"], condition: Float[Tensor, "batch samples condition"]
    ) -> Float[Tensor, "batch fewer 2"]:
        """Raw mean and deviation of the excitations of all samples that have a whole past."""
        x, size = self.front(inputs), inputs.shape[1] - sum(self.dilations)
        skipped = x.new_zeros(())
        for dilation, gates, mix in zip(self.dilations, self.gates, self.mix, strict=True):
            length = x.shape[1] - dilation
            gate = gates(torch.cat([x[:, :length], x[:, dilation:], condition[:, -length:]], dim=2))
            gated = gate[..., : self.width].tanh() * gate[..., self.width :].sigmoid()
            mixed = mix(gated)
            x = x[:, dilation:] + mixed[..., : self.width]
            skipped = skipped + mixed[:, -size:, self.width :]
        found: Tensor = self.last(F.relu(self.hidden(F.relu(skipped))))
        return found + F.pad(self.direct(inputs[:, -size:]), (0, 1))

    # -- use ------------------------------------------------------------------------------------------------------

    def stream(self) -> Stream:
        """Start a sequence."""
        return _WaveNetStream(self)

    def tables(self) -> tuple[Array, ...]:
        """Weights as the loop reads them, (inputs, outputs)."""

        def table(*layers: nn.Module) -> Tensor:
            return torch.stack([layer.get_parameter("weight").T for layer in layers])

        def bias(*layers: nn.Module) -> Tensor:
            return torch.stack([layer.get_parameter("bias") for layer in layers])

        width, gates = self.width, table(*self.gates)
        tensors = (
            table(self.front)[0],
            bias(self.front)[0],
            gates[:, :width],
            gates[:, width : 2 * width],
            table(*self.mix),
            bias(*self.mix),
            table(self.hidden)[0],
            bias(self.hidden)[0],
            table(self.last)[0],
            bias(self.last)[0],
            self.direct.weight[0],
        )
        arrays = (np.ascontiguousarray(tensor.detach().cpu().numpy()) for tensor in tensors)
        return (*arrays, np.array(self.dilations))


def _between(values: Float[Tensor, "batch values frames"], hop_length: int) -> Float[Tensor, "batch values samples"]:
    """Linear interpolation from each frame to the next, (frames − 1) · hop_length samples."""
    share = torch.arange(hop_length, device=values.device, dtype=values.dtype) / hop_length
    here, there = values[:, :, :-1, None], values[:, :, 1:, None]
    return (here + share * (there - here)).flatten(2)


def _taps(samples: Float[Tensor, "batch all"], newest: int, first: int, last: int) -> Float[Tensor, "batch n taps"]:
    """For each sample from `first` to `last`, the one that is `newest` samples later and those before it."""
    return samples[:, first + newest - TAPS + 1 : last + newest].unfold(1, TAPS, 1).flip(2)


def predictors(
    reflections: Float[Tensor, "batch order samples"],
) -> tuple[Float[Tensor, "batch samples order"], Float[Tensor, "batch samples"]]:
    """Coefficients of linear predictors, that of the last sample first, and the deviation of what they leave."""
    found: list[Tensor] = []
    scale = torch.ones_like(reflections[:, 0])
    for one in reflections.unbind(1):
        found = [*(a - one * b for a, b in zip(found, reversed(found), strict=True)), one]
        scale = scale * (1 - one.square())
    return torch.stack(found, dim=2), scale.sqrt()


class _WaveNetStream:
    """Frame 0 of the loop is the first of `past_frames` silent ones before the sequence."""

    def __init__(self, vocoder: WaveNet) -> None:
        self.vocoder, self.past = vocoder, vocoder.past_frames
        self.sketcher = vocoder.phase.stream() if vocoder.sketched else None
        context = CONDITION_CONTEXT
        self.buffer = BlockBuffer(vocoder.block_frames, 2 * context, context=context, silence=vocoder.silence)
        self.weights = vocoder.tables()
        n_past = sum(vocoder.dilations)
        self.state = (
            np.zeros((3, TAPS), np.float32),
            np.zeros(2 * TAPS + vocoder.ahead, np.float32),
            np.zeros((n_past, vocoder.width), np.float32),
        )
        layers, width = len(vocoder.dilations), vocoder.width
        self.sketch = np.zeros(self.past * vocoder.hop_length, np.float32)
        self.levels = np.zeros(0, np.float32)
        self.reflections = np.zeros((0, TAPS), np.float32)
        self.conditions = np.zeros((0, layers, 2 * width), np.float32)
        self.done = self.frames = 0  # frames that the loop has gone through, and that were pushed

    def push(self, values: Float[Tensor, "channels frames"]) -> Float[Tensor, " samples"]:
        if self.buffer.waiting is None:
            self._read(self._silence(values))
        self.frames += values.shape[1]
        self._sketch(values if self.sketcher is None else self.sketcher.push(values))
        self._read(values)
        return self._advance(values)

    def finish(self) -> Float[Tensor, " samples"]:
        last = self.buffer.waiting
        if last is None or not self.frames:
            return torch.zeros(0)
        self._read(self._silence(last))
        self._condition(self.buffer.finish())
        if self.sketcher is not None:
            self._sketch(self.sketcher.finish())
        ahead = self.vocoder.ahead + self.vocoder.hop_length
        self.sketch = np.concatenate([self.sketch, np.zeros(ahead, np.float32)])
        return self._advance(last)

    def _silence(self, like: Tensor) -> Tensor:
        """The features before and after a sequence."""
        return like.new_full((len(like), self.past), self.vocoder.silence)

    def _read(self, values: Tensor) -> None:
        for window in self.buffer.push(values):
            self._condition(window)

    def _sketch(self, made: Tensor) -> None:
        """Keep more of the sketch; what is made of no sketch is silence."""
        samples = (
            np.zeros(made.shape[1] * self.vocoder.hop_length, np.float32)
            if self.sketcher is None
            else made.cpu().numpy()
        )
        self.sketch = np.concatenate([self.sketch, samples])

    @torch.no_grad()
    def _condition(self, window: Tensor | None) -> None:
        """Keep levels and conditions of the inner frames of a window."""
        if window is None or window.shape[1] <= 2 * CONDITION_CONTEXT:
            return
        vocoder = self.vocoder
        condition = vocoder.condition(window[None])[0].T.contiguous()
        added = torch.stack(
            [
                F.linear(condition, layer.get_parameter("weight")[:, 2 * vocoder.width :], layer.get_parameter("bias"))
                for layer in vocoder.gates
            ],
            dim=1,
        )
        inner = window[:, CONDITION_CONTEXT : window.shape[1] - CONDITION_CONTEXT].contiguous()
        self.levels = np.concatenate([self.levels, vocoder.log_level(inner).cpu().numpy()])
        self.reflections = np.concatenate([self.reflections, vocoder.reflections(inner).T.contiguous().cpu().numpy()])
        self.conditions = np.concatenate([self.conditions, added.cpu().numpy()])

    def _advance(self, like: Tensor) -> Tensor:
        """Draw the samples of all frames whose sketch and conditions are there."""
        from actseq.vocoders import wavenet_loop

        vocoder, hop = self.vocoder, self.vocoder.hop_length
        seen = -(-vocoder.ahead // hop)
        ready = min((len(self.sketch) - vocoder.ahead) // hop, len(self.levels) - 1 - seen)
        ready = min(ready, self.past + self.frames - self.done)
        if ready <= 0:
            return like.new_zeros(0)
        first, out = (self.done - self.past) * hop, np.empty(ready * hop, np.float32)
        noise = white_noise(first, len(out), vocoder.noise_seed).numpy()
        wavenet_loop.draw_samples(
            first,
            self.sketch[: ready * hop + vocoder.ahead],
            self.levels,
            self.reflections,
            self.conditions,
            noise * np.float32(vocoder.noise),
            hop,
            vocoder.ahead,
            self.weights,
            np.array([LARGEST_MEAN, *LOG_DEVIATION, LARGEST_RESIDUAL], np.float32),
            self.state,
            out,
        )
        silent = max(0, self.past - self.done) * hop
        self.sketch, self.done = self.sketch[ready * hop :], self.done + ready
        self.levels, self.reflections = self.levels[ready:], self.reflections[ready:]
        self.conditions = self.conditions[ready:]
        return torch.from_numpy(out[silent:].copy()).to(like.device)
