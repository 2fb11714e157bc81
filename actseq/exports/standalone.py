"""Generate sound from a run that was exported to ONNX, with onnxruntime and numpy alone.

    python generate.py --n 4 --label snare --out sounds
    python generate.py --latents sound.npz --out decoded

The file lies beside the networks and `export.json`, and may be changed and passed on like the rest of actseq. Written
by `actseq export RUN --to onnx`. The random numbers are numpy's: a seed gives other sounds here than in actseq.
"""

import argparse
import json
import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Run = Callable[[str, Mapping[str, Array]], list[Array]]
"""Runs a network by name: inputs by name → outputs in order."""
TURNS = 16
"""Iterations of fast Griffin-Lim, after phases that follow from the magnitudes, unless the run says otherwise."""
MOMENTUM = 0.99
BLOCK = 128
"""Frames that are settled at a time, unless the run says otherwise."""
GAUSSIAN = 0.25645
"""Time-frequency ratio γ / n² of the Gaussian window nearest to a Hann window of n samples."""
SOFTEST = 1e-6
"""Bins this far below the loudest one of a block have a random phase."""
LEVELS = 480
"""Number of levels between the loudest bin and the softest."""
UPDATES = 30
"""Multiplicative updates from bands to bins."""
LEAST_WEIGHT = 0.05
SILENT, SILENT_SECONDS = 1e-3, 0.01
"""A clip that is made as a whole has ended where its level over this time stays under this part of the peak: −60 dB."""
FADE_SECONDS = 0.005
NEAREST, WHOLE = 4, -2
"""Where the followed recording ends, a long clip continues after one of this many most similar windows. The other
number is in place of the next window at the end of a recording that is a whole clip."""


@dataclass(frozen=True)
class Request:
    """What to generate; None is the run's default.

    Attributes:
        label: one of the labels; None: no label.
        seconds: length; None leaves the end to the prior, if the run does.
        temperature: of noise and choices.
        guidance: 1 follows the label as learned, more exaggerates it.
    """

    label: str | None = None
    seconds: float | None = None
    temperature: float | None = None
    guidance: float | None = None


class Model:
    """An exported run.

    Args:
        about: content of `export.json`.
        run: runs a network.
    """

    def __init__(self, about: Mapping[str, Any], run: Run) -> None:
        self.about, self.run = about, run
        self.defaults: Mapping[str, Any] = about["defaults"]
        self.prior: Mapping[str, Any] = about["prior"] or {"kind": "none", "labels": []}

    def latents(self, random: np.random.Generator, request: Request) -> tuple[Array, bool]:
        """New latents (frames, latent_dim), and whether the prior has ended them."""
        makers = {"sequence": self._sequence, "clip-flow": self._flow, "normal": self._normal}
        if self.prior["kind"] not in makers:
            raise SystemExit("this run was exported without a prior: give --latents")
        seconds = self._seconds(request)
        longest = self._frames(self.defaults["max_seconds"] if seconds is None else seconds)
        if self.about["whole_clips"]:
            frame = 1 / self.about["latent_rate"]
            if seconds is not None and seconds > frame:
                raise SystemExit(
                    f"{seconds:g} s are too long: each clip comes from one vector and lasts {frame:.2f} s at most"
                )
            longest = 1
        values, ended = makers[self.prior["kind"]](random, request, longest, seconds is None)
        filled = random.standard_normal((len(values), self.about["latent_dim"]))
        filled[:, self.prior["active"]] = values * self.prior["deviation"] + self.prior["mean"]
        return filled.astype(np.float32), ended

    def features(self, latents: Array, label: str | None = None, *, of_sound: bool = False) -> Array:
        """Features (channels, frames).

        Args:
            latents: (frames, latent_dim).
            label: for a decoder that is given it.
            of_sound: an encoder has made the latents, not a prior. A decoder that was tuned on what a prior makes is
                not the one for them.
        """
        inputs = {"latents": latents[None].astype(np.float32)}
        if self.about["decoder_conditions"]:
            row = 0 if label is None else 1 + self.about["decoder_labels"].index(label)
            inputs["condition"] = np.array([self.about["decoder_conditions"][row]], np.float32)
        made: Array = self.run(self.about["sound_decoder"] if of_sound else "decoder", inputs)[0][0]
        return made

    def waveform(self, features: Array) -> Array:
        """Sound (frames · hop_length samples,) of features."""
        analysis = self.about["representation"]
        if analysis["kind"] == "stft":
            bins = analysis["n_fft"] // 2 + 1
            compressed = np.zeros((bins, features.shape[1]), np.complex64)
            compressed.real = features[:bins]
            compressed.imag[1:-1] = features[bins:]
            compressed /= analysis["scale"]
            power = np.maximum(np.abs(compressed) ** 2, 1e-20)
            spectrum = compressed * power ** ((1 / analysis["compression"] - 1) / 2)
            return inverse(spectrum, analysis["n_fft"], analysis["hop_length"])
        basis = self.about["basis"]
        magnitude = np.exp(features) if basis is None else bins_of(features, np.array(basis, np.float32))
        settings = self.about["vocoder"] if self.about["vocoder"]["kind"] == "phase" else {}
        turns, size = settings.get("n_turns", TURNS), settings.get("block_frames", BLOCK)
        return from_magnitudes(magnitude, analysis["n_fft"], analysis["hop_length"], turns, size)

    def decoded(self, path: Path, label: str | None = None) -> Array:
        """Sound (samples,) of a file of `actseq encode --npz`, as long and as loud as the sound that was encoded.

        Latents that were edited to another number of frames give all their frames.
        """
        if label is not None and label not in self.about["decoder_labels"]:
            known = ", ".join(self.about["decoder_labels"]) or "none"
            raise SystemExit(f"the decoder knows no label '{label}'; it knows {known}")
        with np.load(path) as file:
            latents, encoded = file["mean"], json.loads(str(file["actseq"]))
        features, samples = self.features(latents, label, of_sound=True), encoded["samples"]
        hop, stride = self.about["hop_length"], self.about["stride"]
        frames = samples // hop + 1
        # A recording that is to be continued is encoded without the frame that is centred just after its last sample.
        if len(latents) in (-(-frames // stride), -(-samples // (hop * stride))):
            made = self.waveform(features[:, :frames])[:samples]
        else:
            made = self.waveform(features)
        return made / np.float32(encoded["gain"])

    def clip(self, random: np.random.Generator, request: Request) -> Array:
        """One new clip (samples,), at the level of the run."""
        latents, ended = self.latents(random, request)
        made = self.waveform(self.features(latents, request.label))
        if self.about["whole_clips"]:
            made, ended = made[: audible_samples(made, self.about["sample_rate"])], True
        seconds = self._seconds(request)
        if seconds is not None:
            made = made[: round(seconds * self.about["sample_rate"])]
        if not ended or seconds is not None:
            fade = min(len(made), round(FADE_SECONDS * self.about["sample_rate"]))
            made[len(made) - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
        peak = np.abs(made).max(initial=0.0)
        wanted = self.defaults["peak"]
        return made if wanted is None or not peak else made * np.float32(wanted / peak)

    # -- priors: standardised values (frames, dims), and whether they have ended ------------------------------------

    def _sequence(self, random: np.random.Generator, request: Request, longest: int, stops: bool) -> tuple[Array, bool]:
        prior, frames = self.prior, list[Array]()
        conditions, guidance = self._conditions(request)
        noise_scale, choice_scale = self._temperatures(request)
        dims, choices = len(prior["mean"]), prior["choices"]
        restarts = self.defaults["restarts"]
        states, value, age = [self._first_state() for _ in conditions], np.zeros((1, dims), np.float32), 0
        while len(frames) < longest:
            hidden = []
            for i, condition in enumerate(conditions):
                begins = np.full(1, age == 0, np.float32)
                inputs = {"value": value, "begins": begins, "condition": condition, **states[i]}
                seen, *state = self.run("step", inputs)
                hidden.append(seen)
                states[i] = dict(zip(states[i], state, strict=True))
            mixed = hidden[-1] + np.float32(guidance) * (hidden[0] - hidden[-1])
            inputs = {"hidden": mixed, "value": value, "noise": noise_scale * self._normal_noise(random, (1, dims))}
            if choices[0]:
                inputs["preference"] = (choice_scale * random.gumbel(size=(1, *choices))).astype(np.float32)
            following, logit = self.run("draw", inputs)
            earliest = self._earliest()
            if (stops or restarts) and age >= earliest and random.random() < 1 / (1 + math.exp(-float(logit[0]))):
                if stops:
                    return np.concatenate(frames), True
                states, value, age = [self._first_state() for _ in conditions], np.zeros_like(value), 0
                continue
            value, age = following, age + 1
            frames.append(value)
        return np.concatenate(frames), False

    def _first_state(self) -> dict[str, Array]:
        return {one["name"]: np.zeros(one["shape"], one["type"]) for one in self.prior["state"]}

    def _flow(self, random: np.random.Generator, request: Request, longest: int, stops: bool) -> tuple[Array, bool]:
        known = np.array(self.prior["lengths"][self._label(request)]).max()
        if stops or not self.defaults["restarts"] or not 0 < known < longest:
            return self._whole(random, request, longest, stops)
        # No training clip is as long: clips follow each other.
        made = [self._whole(random, request, longest, True)[0]]
        while sum(map(len, made)) < longest:
            made.append(self._whole(random, request, longest, True)[0])
        return np.concatenate(made)[:longest], False

    def _whole(self, random: np.random.Generator, request: Request, longest: int, stops: bool) -> tuple[Array, bool]:
        prior, label = self.prior, self._label(request)
        dims, window = len(prior["mean"]), prior["frames"]
        share, whole, ended = random.random(), longest, False
        kept = np.array(prior["lengths"][label])
        place = int(share * len(kept))
        if stops and not kept.any():
            # No length is known, so the network is not told of an end.
            whole = longest + 2 * window
        elif stops:
            earliest = self._earliest()
            since = min(kept[-len(kept) // 8], earliest - 1)
            shorter = int((kept <= since).sum())
            whole = earliest
            if shorter < len(kept):
                place = shorter + int(share * (len(kept) - shorter))
                whole = int(kept[place]) - since + earliest - 1
            ended = whole <= longest
        summaries: Iterator[Array] | None = None
        if prior["summaries"] is not None:
            followed: Iterator[Array] = repeat(np.array(prior["summaries"][label][place], np.float32))
            if prior["outline"] is not None and whole > window:
                followed = self._outline(random, label, whole, stops)
            noise = prior["summary_noise"] * random.standard_normal(len(prior["summaries"][label][place]))
            summaries = (np.append(one + noise, 1).astype(np.float32)[None] for one in followed)
        noise_scale, _ = self._temperatures(request)
        values = np.zeros((0, dims), np.float32)
        # A clip that is longer than the longest is made as if it went on, and cut.
        while len(values) < min(whole, longest):
            before = values[max(0, len(values) - window // 2) :]
            left = len(before) + whole - len(values)
            frames = min(left, window)
            clean = np.zeros((1, frames, dims), np.float32)
            clean[0, : len(before)] = before
            known = (np.arange(frames) < len(before)).astype(np.float32)[None]
            ends = np.array([[not len(values), left <= window]], np.float32)
            inputs = {"clean": clean, "known": known, "ends": ends}
            if summaries is not None:
                inputs["summary"] = next(summaries)
            place_ = noise_scale * self._normal_noise(random, (1, frames, dims))
            made = self._carried(place_, inputs, request)
            values = np.concatenate([values, made[0, len(before) :]])
        return values[:longest], ended

    def _outline(self, random: np.random.Generator, label: int, frames: int, stops: bool) -> Iterator[Array]:
        """What the windows of a long clip follow: those of a training recording, one after another.

        If the clip ends and whole recordings of the label are known, it follows one of about its length from the
        beginning, or if its length was asked for, any that is long enough. Otherwise it begins at any window. Where its
        recording ends, it continues after a window that is like the last.
        """
        kept, after, labels = (np.array(self.prior["outline"][name]) for name in ("kept", "next", "labels"))
        every = np.arange(len(kept))
        own = every[labels == label] if label and (labels == label).any() else every
        firsts, half = np.setdiff1d(every, after), max(1, self.prior["frames"] // 2)
        begins, lasts = np.intersect1d(own, firsts), own[after[own] < 0]
        whole, starts = after[lasts] == WHOLE, own
        if (stops or self.defaults["restarts"]) and whole.any():
            more = (lasts - begins)[whole] + 1 - max(1, math.ceil((frames - half) / half))
            apart = abs(more if stops else np.minimum(more, 0))
            starts = begins[whole][apart == apart.min()]
        place = random.choice(starts)
        while True:
            yield kept[place].astype(np.float32)
            if after[place] < 0:
                earlier = np.arange(firsts[firsts <= place].max(), place)
                nearest = earlier[np.square(kept[earlier] - kept[place]).sum(1).argsort(kind="stable")[:NEAREST]]
                place = after[random.choice(nearest)] if len(earlier) else random.choice(own)
            else:
                place = after[place]

    def _carried(self, place: Array, inputs: Mapping[str, Array], request: Request) -> Array:
        """From noise to values by the midpoint rule."""
        conditions, guidance = self._conditions(request)

        def velocity(place: Array, time: float) -> Array:
            found = []
            guided = self.prior["guided_from"] <= time < self.prior["guided_until"]
            for condition in conditions if guided else conditions[:1]:
                given = {"place": place, "time": np.full(1, time, np.float32), "condition": condition, **inputs}
                found.append(self.run("velocity", given)[0])
            return found[-1] + np.float32(guidance) * (found[0] - found[-1])

        length = 1 / self.prior["steps"]
        for step in range(self.prior["steps"]):
            middle = place + np.float32(length / 2) * velocity(place, step * length)
            place = place + np.float32(length) * velocity(middle, step * length + length / 2)
        return place

    def _normal(self, random: np.random.Generator, request: Request, longest: int, stops: bool) -> tuple[Array, bool]:
        scale, _ = self._temperatures(request)
        frames, row, ended = longest, self._label(request), False
        known = np.array(self.prior["lengths"][row] or self.prior["lengths"][0])
        if stops and len(known) and not self.about["whole_clips"]:
            possible = known[known >= self._earliest()]
            drawn = int(random.choice(possible)) if len(possible) else self._earliest()
            frames, ended = min(longest, drawn), drawn <= longest
        centre, spread = (np.array(self.prior[name][row], np.float32) for name in ("centres", "spreads"))
        noise = scale * self._normal_noise(random, (frames, len(centre)))
        return centre + noise @ spread.T, ended

    # -- small things -----------------------------------------------------------------------------------------------

    def _seconds(self, request: Request) -> float | None:
        """The length that is asked for; None leaves the end to the prior."""
        seconds: float | None = self.defaults["seconds"] if request.seconds is None else request.seconds
        return seconds

    def _frames(self, seconds: float) -> int:
        rate: float = self.about["latent_rate"]
        return max(1, math.ceil(seconds * rate - 1e-9))

    def _earliest(self) -> int:
        """Least number of frames of a clip."""
        return self._frames(self.defaults["min_seconds"]) if self.defaults["min_seconds"] else 1

    def _label(self, request: Request) -> int:
        if request.label is not None and request.label not in self.prior["labels"]:
            raise SystemExit(f"no label '{request.label}'; this run has {', '.join(self.prior['labels']) or 'none'}")
        return 0 if request.label is None else 1 + self.prior["labels"].index(request.label)

    def _conditions(self, request: Request) -> tuple[list[Array], float]:
        """Condition vectors, that of no label last if guidance needs it; and the guidance."""
        guidance = self.defaults["guidance"] if request.guidance is None else request.guidance
        rows = [self._label(request)]
        if guidance != 1 and rows[0]:
            rows.append(0)
        return [np.array([self.prior["conditions"][row]], np.float32) for row in rows], guidance

    def _temperatures(self, request: Request) -> tuple[np.float32, float]:
        """Factors of noise and of choices."""
        given = request.temperature
        noise, choice = (
            (self.defaults["noise"], self.defaults["choice"])
            if given is None
            else (given * self.defaults["sharpness"], given)
        )
        return np.float32(noise), choice

    def _normal_noise(self, random: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Normal noise, truncated where the run says so."""
        made, limit = random.standard_normal(shape), self.defaults["noise_clamp"]
        while limit is not None and (beyond := np.abs(made) > limit).any():
            made[beyond] = random.standard_normal(int(beyond.sum()))
        return made.astype(np.float32)


# -- sound ------------------------------------------------------------------------------------------------------------


def audible_samples(waveform: Array, sample_rate: int) -> int:
    """Samples up to where a clip stays silent; a silent clip has all."""
    size = max(1, round(SILENT_SECONDS * sample_rate))
    power = np.square(np.pad(waveform, (0, -len(waveform) % size))).reshape(-1, size).mean(axis=1)
    loud = np.flatnonzero(power > np.square(SILENT * np.abs(waveform).max(initial=0.0)))
    return min(len(waveform), (int(loud[-1]) + 1) * size) if len(loud) else len(waveform)


def window_of(n_fft: int) -> Array:
    """Hann window, periodic."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)).astype(np.float32)


def inverse(spectrum: Array, n_fft: int, hop: int) -> Array:
    """Overlap-add of spectra (bins, frames); the first frame is centred on the first sample."""
    total = overlapped(spectrum, n_fft, hop)
    first, n_samples = n_fft // 2, spectrum.shape[1] * hop
    padded = np.pad(total, ((0, 0), (0, max(0, first + n_samples - total.shape[1]))))
    made: Array = padded[0, first : first + n_samples] / np.maximum(padded[1, first : first + n_samples], LEAST_WEIGHT)
    return made


def overlapped(spectrum: Array, n_fft: int, hop: int) -> Array:
    """The sum of windowed pieces of spectra (bins, frames), and that of the squared windows (2, samples)."""
    frames, window = spectrum.shape[1], window_of(n_fft)
    pieces = np.fft.irfft(spectrum.T, n_fft).astype(np.float32) * window
    total = np.zeros((2, (frames - 1) * hop + n_fft), np.float32)
    for t in range(frames):
        total[0, t * hop : t * hop + n_fft] += pieces[t]
        total[1, t * hop : t * hop + n_fft] += window**2
    return total


def bins_of(features: Array, basis: Array) -> Array:
    """Magnitudes (bins, frames) that fit log-magnitudes of bands: interpolated, then updated by multiplication."""
    bins, area = np.arange(basis.shape[1]), basis.sum(1)
    centre = basis @ bins / area
    level = features - np.log(area)[:, None]
    right = np.clip(np.searchsorted(centre, bins), 1, len(centre) - 1)
    weight = np.clip((bins - centre[right - 1]) / np.maximum(centre[right] - centre[right - 1], 1e-3), 0, 1)[:, None]
    x: Array = np.exp((1 - weight) * level[right - 1] + weight * level[right]).astype(np.float32)
    covered, numerator = (basis.sum(0) > 0)[:, None], basis.T @ np.exp(features)
    for _ in range(UPDATES):
        x = np.where(covered, x * numerator / (basis.T @ (basis @ x) + 1e-20), x)
    return x


def from_magnitudes(magnitude: Array, n_fft: int, hop: int, turns: int = TURNS, size: int = BLOCK) -> Array:
    """Sound of magnitudes (bins, frames). A block keeps what is settled, and sees some frames of the next block."""
    reach, at, last = -(-n_fft // hop), 0, False
    known, parts = np.zeros((len(magnitude), 2 * reach), np.complex64), list[Array]()
    while not last:
        last = magnitude.shape[1] - at < size + reach
        block = magnitude[:, at:] if last else magnitude[:, at : at + size + reach]
        new = block.shape[1] - (0 if last else reach)
        around = np.abs(known), block, np.zeros((len(block), 2 * reach if last else 0), np.float32)
        spectra, signal = settled(np.concatenate(around, axis=1), known, at, n_fft, hop, turns)
        begin = n_fft // 2 + (1 if at else 2) * reach * hop
        parts.append(signal[begin : n_fft // 2 + (reach + new + (reach if last else 0)) * hop])
        known, at = spectra[:, new : new + 2 * reach], at + new
    return np.concatenate(parts)


def settled(magnitude: Array, known: Array, first: int, n_fft: int, hop: int, turns: int) -> tuple[Array, Array]:
    """Spectra (bins, frames) of magnitudes whose first spectra are known, and the signal; by fast Griffin-Lim."""
    window, free = window_of(n_fft), slice(known.shape[1], None)
    spectra = (magnitude * np.exp(1j * phases(magnitude, known, first, n_fft, hop))).astype(np.complex64)
    spectra[:, : known.shape[1]] = known
    previous = None
    for _ in range(turns):
        signal, weight = overlapped(spectra, n_fft, hop)
        pieces = np.lib.stride_tricks.sliding_window_view(signal / (weight + 1e-8), n_fft)[::hop] * window
        consistent = np.fft.rfft(pieces).T.astype(np.complex64)
        ahead = consistent if previous is None else consistent + MOMENTUM * (consistent - previous)
        spectra[:, free] = (magnitude * ahead / (np.abs(ahead) + 1e-20))[:, free]
        previous = consistent
    signal, weight = overlapped(spectra, n_fft, hop)
    return spectra, signal / (weight + 1e-8)


def phases(magnitude: Array, known: Array, first: int, n_fft: int, hop: int) -> Array:
    """Phases (bins, frames) along the gradients that the magnitudes imply, from the loudest bin to the softest.

    Source: Průša, Balazs and Søndergaard, A Noniterative Method for Reconstruction of Phase from STFT Magnitude (2017).
    """
    (bins, frames), n_known = magnitude.shape, known.shape[1]
    floor = max(magnitude.max() * SOFTEST, 1e-30)
    log = np.log(np.maximum(magnitude, floor))
    padded, ratio = np.pad(log, 1, mode="edge"), hop / (GAUSSIAN * n_fft)
    # Half of what the phase advances in a frame, and in a bin, so that the trapezoid rule is a sum.
    along = ratio / 4 * (padded[2:, 1:-1] - padded[:-2, 1:-1]) + np.pi * hop / n_fft * np.arange(bins)[:, None]
    across = (padded[1:-1, :-2] - padded[1:-1, 2:]) / (4 * ratio) - np.pi / 2
    level = np.minimum((log.max() - log) * (LEVELS / -math.log(SOFTEST)), LEVELS - 1).astype(int)

    # Bins are numbered row by row in a grid with a border, which has its phase already. A stack for each level.
    def flat(values: Array, border: float) -> list[Any]:
        listed: list[Any] = np.pad(values.T, 1, constant_values=border).ravel().tolist()
        return listed

    width, waiting = bins + 2, flat(magnitude > floor, False)
    levels, by_frame, by_bin = flat(level, 0), flat(along, 0), flat(across, 0)
    found = flat(np.pad(np.angle(known), ((0, 0), (0, frames - n_known))), 0)
    order = np.flatnonzero(waiting)
    stacks: list[list[int]] = [[] for _ in range(LEVELS)]
    for i in order[order < (n_known + 1) * width].tolist():
        waiting[i] = False
        stacks[levels[i]].append(i)
    lowest = 0
    for start in [-1, *order[np.argsort(np.array(levels)[order], kind="stable")].tolist()]:
        if start >= 0 and waiting[start]:
            waiting[start], lowest = False, levels[start]
            stacks[lowest].append(start)
        while lowest < LEVELS:
            if not stacks[lowest]:
                lowest += 1
                continue
            i = stacks[lowest].pop()
            for j, slope, sign in (
                (i + width, by_frame, 1),
                (i - width, by_frame, -1),
                (i + 1, by_bin, 1),
                (i - 1, by_bin, -1),
            ):
                if waiting[j]:
                    waiting[j] = False
                    found[j] = found[i] + sign * (slope[i] + slope[j])
                    stacks[levels[j]].append(j)
                    lowest = min(lowest, levels[j])
    # The softest bins have phases that look random and depend on frame and bin alone.
    mixed = (np.arange(frames) + first - n_known).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = mixed + np.arange(bins, dtype=np.uint64)[:, None] * np.uint64(0xC2B2AE3D27D4EB4F)
    mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
    noise = (mixed >> np.uint64(40)) * (2 * math.pi / 16777216)
    return np.where(magnitude > floor, np.array(found).reshape(frames + 2, width)[1:-1, 1:-1].T, noise)


def write(path: Path, waveform: Array, sample_rate: int) -> None:
    """A WAV file of 32-bit floats; an existing file is not replaced."""
    data = waveform.astype("<f4").tobytes()
    head = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 1, sample_rate, 4 * sample_rate, 4, 32)
    fact = struct.pack("<4sII", b"fact", 4, len(waveform))
    body = b"WAVE" + head + fact + struct.pack("<4sI", b"data", len(data)) + data
    with path.open("xb") as file:
        file.write(struct.pack("<4sI", b"RIFF", len(body)) + body)


def file_name(label: str | None) -> str:
    """A label as part of a file name: letters, digits, `_` and `-`; `clip` where nothing is left."""
    return re.sub(r"[^\w-]+", "-", label or "").strip("-") or "clip"


def load(folder: Path) -> Model:
    """The exported run in a folder."""
    import onnxruntime

    about = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    sessions = {name: onnxruntime.InferenceSession(str(folder / f"{name}.onnx")) for name in about["networks"]}

    def run(name: str, inputs: Mapping[str, Array]) -> list[Array]:
        made: list[Array] = sessions[name].run(None, dict(inputs))
        return made

    return Model(about, run)


def _made(model: Model, given: argparse.Namespace) -> Iterator[tuple[str, Array]]:
    for path in given.latents:
        yield path.stem, model.decoded(path, given.label)
    random, called = np.random.default_rng(given.seed), file_name(given.label)
    request = Request(given.label, given.seconds, given.temperature, given.guidance)
    for i in range(0 if given.latents else given.n):
        yield f"{called}-{i + 1:02d}", model.clip(random, request)


def main() -> None:
    """Parse the command line and write the clips."""
    parser = argparse.ArgumentParser(description="Generate sound from an exported run.")
    parser.add_argument("--n", type=int, default=1, help="number of clips")
    parser.add_argument("--label", help="one of the run's labels")
    parser.add_argument("--seconds", type=float, help="length of each clip")
    parser.add_argument("--temperature", type=float, help="below 1 is tamer, above 1 wilder")
    parser.add_argument("--guidance", type=float, help="above 1 exaggerates the label")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers")
    parser.add_argument("--latents", type=Path, nargs="+", default=[], help="decode .npz files of actseq encode")
    parser.add_argument("--out", type=Path, default=Path("sounds"), help="folder for the clips")
    given = parser.parse_args()
    model = load(Path(__file__).parent)
    given.out.mkdir(parents=True, exist_ok=True)
    for name, waveform in _made(model, given):
        write(given.out / f"{name}.wav", waveform, model.about["sample_rate"])
        print(given.out / f"{name}.wav")


if __name__ == "__main__":
    main()
