"""Export to TorchScript: one file with the methods `encode`, `decode` and `generate` for nn~ in Max and Pure Data.

nn~ gives a method blocks (1, channels, frames) and takes back blocks of the same duration; `<method>_params` holds
channels in, samples per frame in, channels out, samples per frame out. So everything here works on a stream. What a
network needs on both sides of a block is carried from block to block, and the output is late by that much. Encoder,
decoder, inversion and prior are traced; only what joins the blocks is scripted.

Source of the protocol: nn_tilde (https://github.com/acids-ircam/nn_tilde), its module `python_tools`.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actseq import units
from actseq.arrays import Waveform
from actseq.errors import ArtifactError, ConfigError
from actseq.exports.graphs import Decoder, Draw, Encoder, Step, codec_graphs
from actseq.exports.onnx import TOLERANCE, sampling_of
from actseq.inference.loaded_run import LoadedRun
from actseq.priors.sequence import SequencePrior
from actseq.representations.base import ComplexSpectrum, LogMagnitude, Representation
from actseq.vocoders.inversion import MagnitudeInversion

TURNS = 16
"""Iterations of fast Griffin-Lim for each block."""
MOMENTUM = 0.99
LEAST_WEIGHT = 0.05
BLOCK = 4
"""Latent frames of the blocks of the comparison."""


@dataclass(frozen=True)
class Scripted:
    """What an export to TorchScript wrote.

    Attributes:
        parity: largest differences of latents and features from the run; then the mean difference of log-magnitudes
            from the sound of the run in dB, or for complex spectra the largest difference of samples.
        latency: samples by which each method is late.
    """

    parity: dict[str, float]
    latency: dict[str, int]


def export_torchscript(loaded: LoadedRun, path: Path) -> Scripted:
    """Write the file.

    Args:
        loaded: a run on the CPU.
        path: does not exist.

    Raises:
        ConfigError: a part of the run cannot be exported.
        ArtifactError: what was written computes something else than the run.
    """
    check(loaded)
    model = Stream(loaded)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript warns that it is deprecated.
        torch.jit.script(model).save(str(path))  # type: ignore[no-untyped-call]
        read = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
    parity = _compared(loaded, read)
    wrong = [name for name, value in parity.items() if name in ("latents", "features") and not value <= TOLERANCE]
    if wrong:
        raise ArtifactError(
            f"TorchScript differs from torch by {parity[wrong[0]]:.2g} in {wrong[0]}", f"at most {TOLERANCE:g}"
        )
    return Scripted(parity, {"encode": model.encode_latency, "decode": model.decode_latency})


def check(loaded: LoadedRun) -> None:
    """Check that all parts of a run can be exported.

    Raises:
        ConfigError: one of them cannot.
    """
    autoencoder, ratio = loaded.prior_codec.autoencoder, loaded.codec.samples_per_latent
    if ratio & (ratio - 1):
        raise ConfigError(f"a latent frame lasts {ratio} samples", "a power of two, as nn~ works on such blocks")
    if autoencoder.whole_clips:
        raise ConfigError("one vector for a whole clip cannot be exported to TorchScript", "a sequence of vectors")
    if not isinstance(loaded.codec.representation, LogMagnitude | ComplexSpectrum):
        kind = loaded.config.representation.kind
        raise ConfigError(f"representation {kind} cannot be exported", "mel, linear or stft")
    codec_graphs(autoencoder, loaded.codec.representation.channels)  # refuses networks that cannot be traced
    if loaded.prior is None or not isinstance(loaded.prior.prior, SequencePrior):
        raise ConfigError(
            f"prior {loaded.prior_name or 'none'} cannot be exported to TorchScript",
            "a sequence prior (lstm, gru, transformer)",
            "name another with --prior, or export to ONNX",
        )


class _Analysis(nn.Module):
    """Waveform (1, samples) → mean (1, frames, latent_dim)."""

    def __init__(self, representation: Representation, encoder: Encoder) -> None:
        super().__init__()
        self.representation, self.encoder = representation, encoder

    def forward(self, waveform: Tensor) -> Tensor:
        lengths = torch.ones_like(waveform[:, 0], dtype=torch.long) * waveform.shape[1]
        features = self.representation.analyse(waveform, lengths)
        mean: Tensor = self.encoder(features.values, features.lengths)[0]
        return mean


class _Spectrum(nn.Module):
    """Features (1, channels, frames) of complex spectra → spectra (bins, frames)."""

    def __init__(self, representation: ComplexSpectrum) -> None:
        super().__init__()
        self.representation = representation

    def forward(self, features: Tensor) -> Tensor:
        return self.representation.spectrum(features)[0]


class _Magnitude(nn.Module):
    """Log-magnitude features (1, channels, frames) → magnitudes (bins, frames)."""

    def __init__(self, representation: LogMagnitude) -> None:
        super().__init__()
        self.inversion = MagnitudeInversion(representation)
        self.inversion.compiled = False

    def forward(self, features: Tensor) -> Tensor:
        made: Tensor = self.inversion(features[0])
        return made


class _FlatStep(nn.Module):
    """As `Step`, with the state as one vector: a script cannot pass on a list as arguments."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step
        self.like = step.state()

    def first(self) -> Tensor:
        return torch.cat([part.float().flatten() for part in self.like])

    def forward(self, value: Tensor, begins: Tensor, condition: Tensor, flat: Tensor) -> tuple[Tensor, Tensor]:
        parts = torch.split(flat, [part.numel() for part in self.like])
        state = [part.reshape(one.shape).to(one.dtype) for part, one in zip(parts, self.like, strict=True)]
        hidden, *new = self.step(value, begins, condition, *state)
        return hidden, torch.cat([part.float().flatten() for part in new])


class _FlatDraw(nn.Module):
    """As `Draw`, then the latent frame: the standardised values, and latents (latent_dim,)."""

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        self.draw = draw

    def forward(
        self, hidden: Tensor, value: Tensor, noise: Tensor, preference: Tensor, filler: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        made, ended = self.draw(hidden, value, noise, preference)
        standardiser = self.draw.prior.standardiser
        return (
            made,
            ended,
            filler.index_copy(0, standardiser.active, made[0] * standardiser.deviation + standardiser.mean),
        )


class PhaseStream(nn.Module):
    """Magnitudes → spectra, block by block: phases go on from the last settled frames, then some fast Griffin-Lim.

    Args:
        window: n_fft samples.
        hop_length: samples between frames.
        passes: the input is spectra already, and passes as it is.
    """

    known: Tensor
    pending: Tensor
    advance: Tensor
    window: Tensor

    def __init__(self, window: Tensor, hop_length: int, passes: bool) -> None:
        super().__init__()
        self.n_fft, self.hop_length, self.passes = len(window), hop_length, passes
        self.turns, self.momentum = TURNS, MOMENTUM
        reach, bins = units.n_hops(self.n_fft, hop_length), self.n_fft // 2 + 1
        self.register_buffer("window", window.clone())
        self.register_buffer("known", torch.zeros(bins, 2 * reach, dtype=torch.complex64))
        self.register_buffer("pending", torch.zeros(bins, reach))
        self.register_buffer("advance", torch.arange(bins)[:, None] * (2 * math.pi * hop_length / self.n_fft))

    def overlapped(self, grains: Tensor) -> Tensor:
        """Sum of grains (n_fft, frames) at their places."""
        size = (grains.shape[1] - 1) * self.hop_length + self.n_fft
        shape, step = [1, self.n_fft], [1, self.hop_length]  # a script takes no tuples here
        total: Tensor = F.fold(grains[None], [1, size], shape, stride=step)  # type: ignore[arg-type]
        return total[0, 0, 0]

    def consistent(self, spectra: Tensor) -> Tensor:
        """The transform of the signal that spectra make."""
        window = self.window[:, None]
        signal = self.overlapped(torch.fft.irfft(spectra, self.n_fft, dim=0) * window)
        signal = signal / (self.overlapped((window**2).expand(-1, spectra.shape[1])) + 1e-8)
        made: Tensor = torch.fft.rfft(signal.unfold(0, self.n_fft, self.hop_length).T * window, dim=0)
        return made

    def forward(self, found: Tensor) -> Tensor:
        """Spectra (bins, frames); for magnitudes they are late by `pending`."""
        if self.passes:
            return found
        kept, frames = self.known.shape[1], found.shape[1]
        new = torch.cat([self.pending, found], 1)
        steps = torch.arange(1, new.shape[1] + 1, device=found.device)
        spectra = torch.cat([self.known, torch.polar(new, self.known[:, -1:].angle() + self.advance * steps)], 1)
        before = spectra
        for turn in range(self.turns):
            now = self.consistent(spectra)
            ahead = (now if turn == 0 else now + self.momentum * (now - before))[:, kept:]
            before = now
            spectra = torch.cat([self.known, ahead * (new / (ahead.abs() + 1e-20))], 1)
        self.known = spectra[:, frames : frames + kept].clone()
        self.pending = new[:, frames:].clone()
        return spectra[:, kept : kept + frames]


class OverlapStream(nn.Module):
    """Spectra → samples, hop_length for each frame; late by half a window.

    Args:
        phase: its window and hop length are used.
    """

    tail: Tensor
    weight: Tensor

    def __init__(self, phase: PhaseStream) -> None:
        super().__init__()
        self.phase = phase
        n_fft, hop = phase.n_fft, phase.hop_length
        squares = F.pad(phase.window**2, (0, -n_fft % hop)).reshape(-1, hop).sum(0)
        self.register_buffer("weight", squares.clamp(min=LEAST_WEIGHT))
        self.register_buffer("tail", torch.zeros(n_fft - hop))

    def forward(self, found: Tensor) -> Tensor:
        """Samples (frames · hop_length,) of spectra or magnitudes (bins, frames)."""
        spectra = self.phase(found)
        total = self.phase.overlapped(torch.fft.irfft(spectra, self.phase.n_fft, dim=0) * self.phase.window[:, None])
        total[: self.tail.shape[0]] += self.tail
        ready = spectra.shape[1] * self.phase.hop_length
        self.tail = total[ready:].clone()
        return total[:ready] / self.weight.repeat(spectra.shape[1])


class Stream(nn.Module):
    """The model that nn~ loads: `encode`, `decode`, `generate`, and the attributes `label` and `temperature`.

    Args:
        loaded: a run on the CPU for which `check` has found nothing.
    """

    heard: Tensor
    seen: Tensor
    sounding: Tensor
    rest: Tensor
    value: Tensor
    first: Tensor
    flat: Tensor
    conditions: Tensor

    def __init__(self, loaded: LoadedRun) -> None:
        super().__init__()
        self.ratio = loaded.codec.samples_per_latent
        self.methods = ["encode", "decode", "generate"]
        self.attributes = ["label", "temperature"]
        self._add_codec(loaded)
        self._add_prior(loaded)
        dims = loaded.codec.autoencoder.latent_dim
        shapes = {"encode": [1, 1, dims, self.ratio], "decode": [dims, self.ratio, 1, 1]}
        for name, shape in (shapes | {"generate": [1, self.ratio, 1, 1]}).items():
            self.register_buffer(f"{name}_params", torch.tensor(shape))
        for name, kind in (("label", 3), ("temperature", 2)):  # nn~ counts: bool, int, float, text
            self.register_buffer(f"{name}_params", torch.tensor([kind]))

    def _add_codec(self, loaded: LoadedRun) -> None:
        autoencoder, representation = loaded.prior_codec.autoencoder.eval(), loaded.codec.representation
        assert autoencoder.context_frames is not None
        assert representation.context_samples is not None
        self.stride = autoencoder.stride
        self.context = units.n_latent_frames(autoencoder.context_frames, self.stride)
        self.reach = self.context + units.n_hops(representation.context_samples, self.ratio)
        waveform = torch.zeros(1, (2 * self.reach + BLOCK) * self.ratio)
        self.analysis = _traced(_Analysis(representation, Encoder(autoencoder)), waveform)
        rest = self.analysis(waveform)[:, self.reach : self.reach + 1].detach()
        latents = rest.repeat(1, 2 * self.context + BLOCK, 1)
        self.decoder = _traced(Decoder(autoencoder), latents)
        features = self.decoder(latents).detach()
        logarithmic = isinstance(representation, LogMagnitude)
        if isinstance(representation, LogMagnitude):
            self.silence, window = representation.magnitudes.silence, representation.magnitudes.framing.window
            self.inversion = _traced(_Magnitude(representation), features)
        else:
            assert isinstance(representation, ComplexSpectrum)
            self.silence, window = 0.0, representation.window
            self.inversion = _traced(_Spectrum(representation), features)
        phase = PhaseStream(window, representation.hop_length, not logarithmic)
        self.overlap = OverlapStream(phase)
        late = phase.pending.shape[1] * representation.hop_length if logarithmic else 0
        self.encode_latency = self.reach * self.ratio
        self.decode_latency = self.context * self.ratio + late + len(window) // 2
        self.register_buffer("rest", rest[0, 0].clone())
        self.register_buffer("heard", torch.zeros(1, 2 * self.reach * self.ratio))
        self.register_buffer("seen", rest.repeat(1, 2 * self.context, 1))
        self.register_buffer("sounding", torch.zeros(2 * self.context, dtype=torch.bool))

    def _add_prior(self, loaded: LoadedRun) -> None:
        labelled, sampling = loaded.prior, sampling_of(loaded)
        assert labelled is not None
        step, draw = _FlatStep(Step(labelled.prior)), _FlatDraw(Draw(labelled.prior, sampling))
        self.labels = ["", *labelled.labels]
        self.choices, self.components = draw.draw.head.n_choices
        self.noise_scale, self.choice_scale = sampling.of_noise, sampling.of_components
        self.within = 1.0 if sampling.noise_clamp is None else math.erf(sampling.noise_clamp / math.sqrt(2))
        self.row, self.temperature = 0, 1.0
        self.gate, self.playing, self.age = False, False, 0
        rate, settings = loaded.codec.autoencoder.latent_rate, loaded.config.generate
        self.shortest = units.seconds_to_frames(settings.min_seconds, rate)
        self.longest = max(self.shortest, units.seconds_to_frames(settings.max_seconds, rate))
        conditions = labelled.condition(torch.arange(len(self.labels))).detach()
        self.register_buffer("conditions", conditions)
        self.register_buffer("value", torch.zeros(1, len(labelled.prior.standardiser.mean)))
        self.register_buffer("first", step.first())
        self.register_buffer("flat", step.first())
        with torch.no_grad():
            self.step = _traced(step, self.value, torch.ones(1), conditions[:1], self.flat)
            hidden = self.step(self.value, torch.ones(1), conditions[:1], self.flat)[0]
            preference = torch.zeros(1, self.choices, self.components)
            self.draw = _traced(draw, hidden, self.value, self.value, preference, torch.zeros_like(self.rest))

    @torch.jit.export
    def get_methods(self) -> list[str]:
        """Names of the methods that nn~ offers."""
        return self.methods

    @torch.jit.export
    def get_attributes(self) -> list[str]:
        """Names of what can be set."""
        return self.attributes

    @torch.jit.export
    def get_label(self) -> str:
        """The label of new clips."""
        return self.labels[self.row]

    @torch.jit.export
    def set_label(self, label: str) -> int:
        """Choose the label of new clips; −1 if there is none of this name."""
        if label not in self.labels:
            return -1
        self.row = self.labels.index(label)
        return 0

    @torch.jit.export
    def get_temperature(self) -> float:
        """Factor to the noise and the choices; 1 draws as the run does."""
        return self.temperature

    @torch.jit.export
    def set_temperature(self, temperature: float) -> int:
        """Set it; −1 if it is negative."""
        if temperature < 0:
            return -1
        self.temperature = temperature
        return 0

    @torch.jit.export
    def encode(self, sound: Tensor) -> Tensor:
        """Means (1, latent_dim, frames) of samples (1, 1, frames · ratio)."""
        window = torch.cat([self.heard, sound[:, 0]], 1)
        self.heard = window[:, sound.shape[2] :].clone()
        mean: Tensor = self.analysis(window)[:, self.reach : self.reach + sound.shape[2] // self.ratio]
        return mean.transpose(1, 2)

    @torch.jit.export
    def decode(self, latents: Tensor) -> Tensor:
        """Samples (1, 1, frames · ratio) of latents (1, latent_dim, frames)."""
        return self.decoded(latents.transpose(1, 2), torch.ones(latents.shape[2]) > 0)

    @torch.jit.export
    def generate(self, gate: Tensor) -> Tensor:
        """New clips (1, 1, frames · ratio).

        Args:
            gate: (1, 1, frames). A clip begins where it rises above 0.5, and another after each end while it stays so.
        """
        made: list[Tensor] = []
        sounding: list[bool] = []
        for frame in range(gate.shape[2]):
            on = bool(gate[0, 0, frame] > 0.5)
            if on and not (self.gate and self.playing):
                self.value, self.flat = torch.zeros_like(self.value), self.first.clone()
                self.playing, self.age = True, 0
            self.gate = on
            made.append(self.following() if self.playing else self.rest)
            sounding.append(self.playing)
        return self.decoded(torch.stack(made)[None], torch.tensor(sounding))

    @torch.jit.export
    def following(self) -> Tensor:
        """The next latent frame (latent_dim,) of the clip; where it ends, that of silence."""
        begins = torch.ones(1) if self.age == 0 else torch.zeros(1)
        hidden, flat = self.step(self.value, begins, self.conditions[self.row : self.row + 1], self.flat)
        noise = torch.randn_like(self.value)
        if self.within < 1:
            noise = torch.erfinv(torch.erf(noise / math.sqrt(2.0)) * self.within) * math.sqrt(2.0)
        noise = noise * (self.noise_scale * self.temperature)
        uniform = torch.rand(1, self.choices, self.components).clamp(1e-9, 1 - 1e-7)
        preference = -torch.log(-torch.log(uniform)) * (self.choice_scale * self.temperature)
        value, ended, latent = self.draw(hidden, self.value, noise, preference, torch.randn_like(self.rest))
        hears_end = self.age >= self.shortest and float(torch.rand(1)) < float(torch.sigmoid(ended))
        if hears_end or self.age >= self.longest:
            self.playing = False
            return self.rest
        self.value, self.flat = value, flat
        self.age += 1
        made: Tensor = latent
        return made

    @torch.jit.export
    def decoded(self, latents: Tensor, sounding: Tensor) -> Tensor:
        """Sound (1, 1, samples) of latents (1, frames, latent_dim); silence where nothing is sounding."""
        frames = latents.shape[1]
        window, inside = torch.cat([self.seen, latents], 1), torch.cat([self.sounding, sounding])
        self.seen, self.sounding = window[:, frames:].clone(), inside[frames:].clone()
        first, last = self.context, self.context + frames
        features = self.decoder(window)[:, :, first * self.stride : last * self.stride]
        shown = inside[first:last].repeat_interleave(self.stride)
        features = torch.where(shown, features, torch.full_like(features, self.silence))
        made: Tensor = self.overlap(self.inversion(features))
        return made.reshape(1, 1, -1)


def _traced(module: nn.Module, *inputs: Tensor) -> torch.jit.ScriptModule:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes that are the same in every call
        made: torch.jit.ScriptModule = torch.jit.trace(  # type: ignore[no-untyped-call]
            module.eval(), inputs, check_trace=False
        )
    return made


# -- comparison -------------------------------------------------------------------------------------------------------


def _compared(loaded: LoadedRun, model: torch.jit.ScriptModule) -> dict[str, float]:
    """Differences of a model, which works block by block, from the run, which is given all at once."""
    codec, ratio = loaded.prior_codec, loaded.codec.samples_per_latent
    late, parity = model.encode_latency // ratio, dict[str, float]()
    frames = 4 * late + 4 * BLOCK
    sound = (0.1 * np.random.default_rng(0).standard_normal(frames * ratio)).astype(np.float32)
    means = _blocks(model.encode, torch.from_numpy(np.pad(sound, (0, late * ratio)))[None, None], ratio)
    encoded = means[0].T[late : late + frames].numpy()
    wanted = loaded.codec.encode([sound])[0][0][:frames]
    # A network sees the beginning and the end of a clip, and a stream has neither.
    parity["latents"] = float(np.abs(encoded - wanted)[late:-late].max())
    with torch.no_grad():
        latents = torch.from_numpy(wanted)[None]
        features = Decoder(codec.autoencoder)(latents)
        parity["features"] = float((model.decoder(latents) - features).abs().max())
    ours = codec.decode([wanted])[0]
    more = units.n_hops(model.decode_latency, ratio) + BLOCK
    shown = F.pad(latents.transpose(1, 2), (0, more))
    theirs = _blocks(model.decode, shown, 1)[0, 0].numpy()[model.decode_latency :][: len(ours)]
    return parity | _sound_difference(loaded, ours, theirs)


def _sound_difference(loaded: LoadedRun, ours: Waveform, theirs: Waveform) -> dict[str, float]:
    """The difference of the middle of two sounds: at the end, the stream goes on with other latents."""
    n = len(ours) // 4
    if not isinstance(loaded.codec.representation, LogMagnitude):
        return {"samples": float(np.abs(ours - theirs)[n:-n].max())}
    found = loaded.codec.analyse([ours[n:-n], theirs[n:-n]]).values
    return {"sound in dB": float((found[0] - found[1]).abs().mean()) * units.DB_PER_NEPER}


def _blocks(method: Callable[[Tensor], Tensor], given: Tensor, ratio: int) -> Tensor:
    """What a method makes of its input, block by block."""
    with torch.no_grad():
        return torch.cat([method(part) for part in torch.split(given, BLOCK * ratio, dim=2)], 2)
