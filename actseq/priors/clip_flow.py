"""`clip-flow`: a velocity field carries a whole window of latents from noise to a clip and sees all of it at once.

The network is a transformer without a causal mask. Its inputs are the time on the path, the label, the length of the
window, and whether the sequence begins at the window's first frame and ends after its last. Known frames, a prefix or
a suffix, are given without noise, and a mask marks them. So one network makes new clips, continues a recording and
fills a gap.

A window holds W latent frames at most. What is longer is made block after block: the last W/2 frames are the clean
prefix of the next block, and for a block that is not the last the end is marked as unknown. So the memory is that of
one window.

The path is a straight line, place = (1 − time) · noise + time · value. The mean of every dimension is 0 and its
deviation is known, so the best linear guess of the velocity is known for every time; the network learns only what
differs from it.

A dimension in which the autoencoder is exact, such as the level of a frame, is heard in small differences, and with a
deviation of 1 they would be settled at the very end of the path, which is hardly ever trained. So such dimensions can
have a larger deviation: they leave the noise sooner, and errors in them count for more.

The length of a sequence is not generated: it is asked for, or drawn from the lengths that the training sequences of
the label have, which are kept in the model. So are summaries of training clips, one of which a new clip can follow:
see `actseq.priors.summaries`.

Sources: Lipman et al., Flow Matching for Generative Modeling (2023); Liu et al., Flow Straight and Fast (2023);
Peebles, Xie, Scalable Diffusion Models with Transformers (2023), section 3.2, for scale, shift and gate; Su et al.
2021 for rotary positions; Kynkäänniemi et al., Applying Guidance in a Limited Interval (2024).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from actseq.errors import ConfigError, require
from actseq.modules.rotary import rotated, turns_of
from actseq.priors.base import Chunk, SamplingRequest, Standardiser, TransferRequest, deviations_by_precision
from actseq.priors.heads import normal
from actseq.priors.outline import Outline
from actseq.priors.places import REACHES
from actseq.priors.summaries import N_SUMMARIES, Summaries, TrainingClip
from actseq.priors.transfer import Part, TransferStream

KERNEL = 5
"""Frames under the convolution before attention."""
N_WAVES = 16
"""Number of cosines of the time among the inputs."""
N_SHARES = 4
N_POSITION = 2 * len(REACHES) + N_SHARES
N_LENGTH = 3
REMAKING_STEPS = 4
"""Steps by which `remake` goes what is left of a path."""
TRANSFER_STEPS = 6
"""Steps by which `transfer` goes a whole path, each with two evaluations."""
TRANSFER_GUIDANCE = 2.0
"""How much `transfer` exaggerates what distinguishes the wanted label from no label."""
OWN_LABEL_TIMES = (0.3, 0.5, 0.7)
"""Times of the path at which the labels of a sound are compared."""
GROUPS = 3
"""Number of groups of similar length in a batch; each group is padded by itself."""
SLOWEST = 1e3
"""The slowest pair of values turns by a radian in about this many frames."""
N_LENGTHS = N_SUMMARIES
"""Lengths that are kept for each label, all equally likely: the quantiles of those of its training sequences."""

Velocity = Callable[[Tensor, float], Tensor]
"""The velocity at places (batch, frames, dims) and a time of the path."""


@dataclass(frozen=True)
class Window:
    """What is known of some windows before anything is generated.

    Attributes:
        lengths: valid frames of each.
        begins: whether the sequence begins at the first frame.
        ends: whether it ends after the last valid frame; False where that is unknown.
        known: which frames are given.
        clean: standardised values of the known frames; the values elsewhere are not used.
        summary: what `Summaries.noised` gives; None: unknown.
    """

    lengths: Int[Tensor, " batch"]
    begins: Bool[Tensor, " batch"]
    ends: Bool[Tensor, " batch"]
    known: Bool[Tensor, "batch frames"]
    clean: Float[Tensor, "batch frames dims"]
    summary: Float[Tensor, "batch n_summary"] | None = None

    def of(self, rows: Int[Tensor, " some"]) -> "Window":
        """The windows of some rows, padded to the longest."""
        lengths = self.lengths[rows]
        frames = int(lengths.max())
        summary = None if self.summary is None else self.summary[rows]
        known, clean = self.known[rows, :frames], self.clean[rows, :frames]
        return Window(lengths, self.begins[rows], self.ends[rows], known, clean, summary)

    @property
    def inside(self) -> Bool[Tensor, "batch frames"]:
        """Frames inside each length."""
        return torch.arange(self.known.shape[1], device=self.lengths.device) < self.lengths[:, None]

    def positions(self, step: int) -> Float[Tensor, "batch positions n_features"]:
        """Nearness to the beginning and to the end, each 0 where it is unknown, and cosines over a whole sequence.

        Args:
            step: frames from one position to the next.
        """
        at = torch.arange(0, self.known.shape[1], step, device=self.lengths.device, dtype=self.clean.dtype)
        reaches = at.new_tensor(REACHES)
        left = self.lengths[:, None] - 1 - at
        begin = torch.exp(-at[:, None] / reaches) * self.begins[:, None, None]
        end = torch.exp(-left.clamp(min=0)[..., None] / reaches) * self.ends[:, None, None]
        share = (at + 0.5) / self.lengths[:, None]
        waves = torch.cos(math.pi * share[..., None] * torch.arange(1, N_SHARES + 1, device=at.device))
        return torch.cat([begin, end, waves * (self.begins & self.ends)[:, None, None]], dim=2)

    def length_features(self) -> Float[Tensor, "batch n_features"]:
        """Log of the number of frames, and which ends of the sequence lie in the window."""
        log = self.lengths.clamp(min=1).to(self.clean.dtype).log() - 2
        return torch.stack([log, self.begins.to(log.dtype), self.ends.to(log.dtype)], dim=1)


class ClipFlow(nn.Module):
    """`clip-flow`: carries noise to a whole clip along a velocity that looks both ways.

    Args:
        latent_dim: values per latent frame of the autoencoder.
        n_active: dimensions that carry information.
        condition_dim: size of the condition vector.
        frames: latent frames of a window, W.
        width: values per frame inside the network.
        layers: stacked layers.
        heads: attention heads, each with width / heads values.
        inner: width inside a layer's perceptron.
        patch: latent frames that are one position of the network; more are faster, and coarser.
        dropout: probability, in training, that a value which a layer adds is dropped, in all frames at once.
        steps: steps from noise to value by the midpoint rule, each with two evaluations.
        guided_from: time of the path from which on guidance is followed, 0 being noise.
        guided_until: time up to which it is followed, 1 being the value.
        summary: values of the summary that a new clip follows, at most two for each active dimension; 0: none.
        summary_noise: standard deviation of the noise on a summary, whose values have deviation 1.
        outline: windows of training recordings whose summaries are kept, for long sequences to follow one after
            another; 0: only the first window follows a summary. Needs a summary.
        information: how much wider a dimension is on the path the more exactly the autoencoder knows it: in proportion
            to (deviation / deviation of the posterior) to this power, with a geometric mean of 1. 0: all are alike.

    Raises:
        ValueError: sizes that do not fit each other, or an empty interval.
    """

    objective = "flow-matching"
    has_likelihood = False
    takes_suffix: Literal[True] = True
    takes_spans: Literal[True] = True
    controls: tuple[str, ...] = ("temperature", "noise_temperature", "noise_clamp", "guidance")
    likely_lengths: Tensor
    deviation: Tensor | None

    def __init__(
        self,
        latent_dim: int,
        n_active: int,
        condition_dim: int,
        frames: int,
        *,
        width: int = 160,
        layers: int = 4,
        heads: int = 4,
        inner: int = 480,
        patch: int = 1,
        dropout: float = 0.05,
        steps: int = 12,
        guided_from: float = 0.2,
        guided_until: float = 0.7,
        summary: int = 0,
        summary_noise: float = 0.3,
        outline: int = 0,
        information: float = 0.0,
    ) -> None:
        super().__init__()
        require(1, width=width, layers=layers, heads=heads, inner=inner, patch=patch, steps=steps)
        require(0, summary=summary, summary_noise=summary_noise, outline=outline, information=information)
        if width % (2 * heads):
            raise ValueError(f"width is {width}, expected a multiple of {2 * heads}, twice the heads")
        if not 0 <= guided_from < guided_until <= 1:
            found = f"guided_from is {guided_from} and guided_until {guided_until}"
            raise ValueError(f"{found}, expected 0 ≤ guided_from < guided_until ≤ 1")
        if outline and not summary:
            raise ValueError(f"outline is {outline} and summary 0, expected an outline only with a summary")
        self.latent_dim, self.condition_dim, self.frames, self.patch = latent_dim, condition_dim, frames, patch
        self.steps, self.guided_from, self.guided_until = steps, guided_from, guided_until
        self.standardiser = Standardiser(latent_dim, n_active)
        self.information = information
        self.register_buffer("deviation", torch.ones(n_active) if information else None)
        self.read = nn.Linear(patch * (n_active + 1) + N_POSITION, width)
        self.time = nn.Sequential(nn.Linear(N_WAVES, width), nn.SiLU(), nn.Linear(width, width))
        self.condition = nn.Linear(condition_dim, width, bias=False)
        self.length = nn.Linear(N_LENGTH, width)
        self.layers = nn.ModuleList(_Layer(width, heads, inner, dropout) for _ in range(layers))
        self.modulation = nn.Linear(width, (6 * layers + 2) * width)
        self.write = nn.Linear(width, patch * n_active)
        # Few dimensions have no more statistics than this.
        summary = min(summary, 2 * n_active)
        self.summaries = Summaries(n_active, summary, summary_noise) if summary else None
        self.summary = nn.Linear(summary + 1, width, bias=False) if summary else None
        self.outline = Outline(summary, outline) if outline else None
        # At first every layer does nothing, and the velocity is its best linear guess.
        for parameter in (*self.modulation.parameters(), *self.write.parameters()):
            nn.init.zeros_(parameter)
        self.register_buffer("likely_lengths", torch.zeros(1, N_LENGTHS, dtype=torch.long))
        # Neither a parameter nor a buffer: it is always the same.
        self.frequencies = SLOWEST ** -torch.linspace(0, 1, width // heads // 2)

    def keep_lengths(self, lengths: Int[np.ndarray, " m"], labels: Int[np.ndarray, " m"], n_labels: int) -> None:
        """Keep the lengths that later lengths are drawn from. A label without a length takes those of all labels.

        Args:
            lengths: latent frames of sequences that begin and end.
            labels: row of the label table for each length, 0 for no label.
            n_labels: number of labels, without the row for no label.
        """
        self.likely_lengths = self.likely_lengths.new_zeros(n_labels + 1, N_LENGTHS)
        if not len(lengths):
            return
        shares = (np.arange(N_LENGTHS) + 0.5) / N_LENGTHS
        for row in range(n_labels + 1):
            own = lengths[labels == row] if row else lengths
            found = np.quantile(own if len(own) else lengths, shares, method="inverted_cdf")
            self.likely_lengths[row].copy_(torch.from_numpy(found))

    def longest(self, label: int) -> int:
        """See `KeepsLengths.longest`."""
        return int(self.likely_lengths[label].max())

    def keep_precision(self, posterior: Float[Tensor, " dims"]) -> None:
        """See `KeepsPrecision.keep_precision`."""
        if self.deviation is None:
            return
        self.deviation.copy_(deviations_by_precision(posterior, self.information))
        self.standardiser.deviation.div_(self.deviation)

    def keep_summaries(self, clips: Iterable[TrainingClip], n_labels: int) -> None:
        """Keep the summaries and the outline that new clips follow.

        Args:
            clips: training sequences.
            n_labels: number of labels, without the row for no label.
        """
        if self.summaries is None:
            return
        cut = ((clip, self._windows(self.standardiser.standardise(clip.latents))) for clip in clips)
        recordings = self.summaries.fit(cut, n_labels)
        if self.outline is not None:
            self.outline.keep(recordings)

    def _windows(self, values: Float[Tensor, "frames dims"]) -> list[Float[Tensor, "_ dims"]]:
        """The first window and, for an outline, those that follow it."""
        starts = self._window_starts(len(values)) if self.outline is not None else range(1)
        return [values[start : start + self.frames] for start in starts]

    def _window_starts(self, n_frames: int) -> range:
        """Where the windows of a sequence begin, half a window apart; all but the first are more than half full."""
        half = self.frames // 2
        return range(0, max(1, n_frames - half), max(1, half))

    def forward(
        self,
        place: Float[Tensor, "batch frames dims"],
        time: Float[Tensor, " batch"],
        window: Window,
        condition: Float[Tensor, "batch frames_or_1 condition_dim"],
    ) -> Float[Tensor, "batch frames dims"]:
        """The velocity at a place on the path; its values for known frames and for padding are not used.

        Args:
            place: standardised values on the path; those of known frames are not used.
            time: from 0, noise, to 1, the value.
            window: what is known.
            condition: for each frame, or one for all.
        """
        inside, known, frames = window.inside, window.known[..., None], place.shape[1]
        at = time[:, None, None]
        linear, shrink, grow = self._linear_guess(at)
        clean = window.clean if self.deviation is None else window.clean / self.deviation
        seen = torch.where(known, clean, place * shrink).masked_fill(~inside[..., None], 0)
        waves = torch.cos(math.pi * torch.arange(N_WAVES, device=time.device) * time[:, None])
        about = self.time(waves) + self.length(window.length_features())
        if self.summary is not None and window.summary is not None:
            about = about + self.summary(window.summary)
        about = about[:, None] + self.condition(condition[:, :: self.patch])
        modulation = self.modulation(F.silu(about)).chunk(6 * len(self.layers) + 2, dim=2)
        shown = F.pad(torch.cat([seen, known.to(seen.dtype)], dim=2), (0, 0, 0, -frames % self.patch))
        shown = shown.reshape(len(shown), -1, self.patch * shown.shape[2])
        x = self.read(torch.cat([shown, window.positions(self.patch)], dim=2))
        turns = turns_of(torch.arange(x.shape[1], device=x.device)[:, None, None] * self.frequencies.to(x.device))
        for i, layer in enumerate(self.layers):
            x = layer(x, modulation[6 * i : 6 * i + 6], turns, inside[:, :: self.patch])
        residual: Tensor = self.write(_modulated(x, *modulation[-2:]))
        residual = residual.reshape(len(residual), -1, place.shape[2])[:, :frames]
        return linear * place + (residual if grow is None else grow * residual)

    def _linear_guess(
        self, at: Float[Tensor, "batch 1 1"]
    ) -> tuple[Float[Tensor, "batch 1 _"], Float[Tensor, "batch 1 _"], Float[Tensor, "batch 1 _"] | None]:
        """Factors at a time of the path: of a place, to its best linear guess of the velocity; of a place, to
        deviation 1; and of what the network adds, to the size that it has in each dimension; None: 1.
        """
        equal = (1 - at).square() + at.square()
        if self.deviation is None:
            return (2 * at - 1) / equal, equal.rsqrt(), None
        power = (1 - at).square() + (at * self.deviation).square()
        linear = (at * self.deviation.square() - (1 - at)) / power
        return linear, power.rsqrt(), self.deviation * (equal / power).sqrt()

    def window(self, data: Mapping[str, Tensor], clean: Float[Tensor, "batch frames dims"], dropout: float) -> Window:
        """The windows of a batch of training sequences, nothing being known but their summaries.

        Args:
            data: a batch of `SequenceSource`.
            clean: standardised latents of the batch.
            dropout: fraction of the windows without their summary.
        """
        known = torch.zeros(clean.shape[:2], dtype=torch.bool, device=clean.device)
        window = Window(data["lengths"], data["begins"], data["ends"], known, clean)
        if self.summaries is None:
            return window
        summary = self.summaries.summarise(self.standardiser.standardise(data["mean"]), window.inside)
        noised = self.summaries.noised(summary, torch.randn_like(summary))
        return replace(window, summary=noised * (torch.rand(len(noised), 1, device=noised.device) >= dropout))

    @torch.no_grad()
    def remake(
        self,
        data: Mapping[str, Tensor],
        latents: Float[Tensor, "batch frames latent_dim"],
        time: Float[Tensor, " batch"],
        condition: Float[Tensor, "batch frames_or_1 condition_dim"],
    ) -> Float[Tensor, "batch frames latent_dim"]:
        """See `Remakes.remake`."""
        values = self.standardiser.standardise(latents)
        whole, made = self.window(data, values, 0.0), latents.clone()
        for rows in whole.lengths.argsort(stable=True).chunk(GROUPS):
            window, at = whole.of(rows), time[rows]
            clean = window.clean.masked_fill(~window.inside[..., None], 0)
            place = torch.lerp(torch.randn_like(clean), clean, at[:, None, None])
            length, given = (1 - at) / REMAKING_STEPS, condition[rows, : clean.shape[1]]
            for _ in range(REMAKING_STEPS):
                half = (length / 2)[:, None, None]
                middle = place + half * self(place, at, window, given)
                place = place + 2 * half * self(middle, at + length / 2, window, given)
                at = at + length
            again = place * self.standardiser.deviation + self.standardiser.mean
            frames = torch.arange(place.shape[1], device=rows.device)[:, None]
            made[rows[:, None, None], frames, self.standardiser.active] = again
        return made

    # -- another label ------------------------------------------------------------------------------------------------

    def transfer(self, request: TransferRequest) -> TransferStream:
        """See `Transfers.transfer`.

        A sound is moved along the difference of two velocities with the same noise: that under the wanted label, where
        the sound has come to, and that under its own label, where the sound was. What the labels have in common
        cancels. All frames of a window move by the mean over its frames: what stays over time is the timbre, and what
        changes is what happens in the sound. The sound's own label is the one under which the velocity fits its first
        window best; a sound that has the wanted label already stays as it is.

        Sources: Kulikov et al., FlowEdit (2024), algorithm 1; Li et al., Your Diffusion Model is Secretly a Zero-Shot
        Classifier (2023), for the sound's own label.
        """
        own: list[int] = []

        def change(part: Part) -> Float[Tensor, "new latent_dim"]:
            if not request.amount:
                return part.latents[len(part.changed) :]
            if not own:
                own.append(self._own_label(part, request))
            if own[0] == request.label:
                return part.latents[len(part.changed) :]
            return self._transferred(part, request, own[0])

        return TransferStream(change, self.frames, self.standardiser.mean.new_zeros(0, self.latent_dim))

    @torch.no_grad()
    def _own_label(self, part: Part, request: TransferRequest) -> int:
        """Row of the label under which the velocity fits a first window best, over the same noise and times for all."""
        values = self.standardiser.standardise(part.latents)
        noise = self._noise_of(part, request)[None] * values.new_tensor([1.0, -1.0])[:, None, None]
        noise = noise.repeat(len(OWN_LABEL_TIMES), 1, 1)
        times = values.new_tensor(OWN_LABEL_TIMES).repeat_interleave(2)
        places, window = torch.lerp(noise, values, times[:, None, None]), _window_of(part, values.expand_as(noise))
        errors = [
            (self(places, times, window, condition.expand(len(times), 1, -1)) - (values - noise)).square().mean()
            for condition in request.conditions[1:]
        ]
        return 1 + int(torch.stack(errors).argmin())

    @torch.no_grad()
    def _transferred(self, part: Part, request: TransferRequest, own: int) -> Float[Tensor, "new latent_dim"]:
        """The new frames of a window, from the label in row `own` to the wanted one."""
        given, values = len(part.changed), self.standardiser.standardise(part.latents)
        changed = torch.cat([self.standardiser.standardise(part.changed), values[given:]])
        noise = self._noise_of(part, request)
        noise = torch.stack([noise, -noise])
        # The sound as it becomes, under the wanted label and under none, and as it was; each with both noises.
        window = _window_of(part, torch.stack([changed] * 4 + [values] * 2))
        conditions = request.conditions[[request.label, request.label, 0, 0, own, own]][:, None]

        def difference(place: Tensor, time: float) -> Tensor:
            before = torch.lerp(noise, values, time)
            after = before + (place - values)
            places = torch.cat([after, after, before])
            velocity = self(places, places.new_full((len(places),), time), window, conditions)
            wanted, bare, known = velocity.unflatten(0, (3, 2)).mean(1)[:, given:].mean(1)
            shift: Tensor = torch.lerp(bare, wanted, TRANSFER_GUIDANCE) - known
            return shift.expand_as(place)

        steps = math.ceil(TRANSFER_STEPS * request.amount)
        moved = _midpoint(difference, values, 1 - request.amount, steps)[given:]
        made = part.latents[given:].clone()
        made[:, self.standardiser.active] = moved * self.standardiser.deviation + self.standardiser.mean
        return made

    def _noise_of(self, part: Part, request: TransferRequest) -> Float[Tensor, "frames dims"]:
        generator = self._generator(request.seed, 0, part.number)
        shape = (self.frames, len(self.standardiser.mean))
        # Drawn for a whole window, so the beginning of a sound does not depend on its length.
        return torch.randn(shape, generator=generator, device=generator.device)[: len(part.latents)]

    # -- sampling -------------------------------------------------------------------------------------------------

    def sample(self, request: SamplingRequest) -> Iterator[Chunk]:
        """Block after block; see `Prior.sample`. A clip depends on its number and the seed, not on how many there are.

        Raises:
            ConfigError: an unsupported control, or a suffix without a length.
        """
        request.sampling.require_supported(self.controls, "prior clip-flow")
        if request.suffix is not None and request.until_stop:
            raise ConfigError("prior clip-flow cannot choose the length of what comes before a suffix", "a length")
        device = self.likely_lengths.device
        lengths, places = self._lengths(request)
        new = min(request.max_frames, int(lengths.max()))
        made = torch.zeros(request.n, 0, self.latent_dim, device=device)
        start = 0
        for block in self._blocks(request, lengths, self._course(request, lengths, places)):
            made = torch.cat([made, block], dim=1)
            while start < new and made.shape[1] >= min(request.chunk_frames, new - start):
                stop = min(start + request.chunk_frames, new)
                stopped = torch.arange(start, stop, device=device) >= lengths[:, None]
                yield Chunk(made[:, : stop - start], stopped)
                made, start = made[:, stop - start :], stop

    def _lengths(self, request: SamplingRequest) -> tuple[Int[Tensor, " n"], list[int]]:
        """Number of new frames of each sequence, and its place among the likely lengths.

        Without known lengths the end lies beyond the window. A length is drawn from those of the label that are longer
        than the prompt. Where hardly any is longer, the sequence goes on for as long as those of the longest eighth go
        on after the shortest of that eighth.
        """
        n, device = request.n, self.likely_lengths.device
        shares = [np.random.default_rng([request.seed, clip]).random() for clip in range(n)]
        places = [int(share * N_LENGTHS) for share in shares]
        if request.lengths is not None:
            return request.lengths.to(device), places
        if not request.until_stop:
            return torch.full((n,), request.max_frames, device=device), places
        likely = self.likely_lengths[request.label]
        if not likely.any():
            return torch.full((n,), request.max_frames + 2 * self.frames, device=device), places
        before = 0 if request.prompt is None else request.prompt.shape[1]
        earliest = max(request.min_frames, 1)
        # The sequence is longer than `certain`. Beyond the longest eighth too few lengths are known.
        certain = before + earliest - 1
        since = torch.clamp(likely[-N_LENGTHS // 8], max=certain)
        shorter = int((likely <= since).sum())
        if shorter == N_LENGTHS:
            return torch.full((n,), earliest, device=device), places
        places = [shorter + int(share * (N_LENGTHS - shorter)) for share in shares]
        return likely[places] - since + earliest - 1, places

    def _summary(self, request: SamplingRequest, places: list[int]) -> Float[Tensor, "n n_summary"] | None:
        """What each new clip follows; unknown where a recording, or labels in time, say what it is like."""
        if self.summaries is None:
            return None
        if request.prompt is not None or request.suffix is not None or request.changes:
            return self.summaries.unknown(request.n)
        return self.summaries.noised(self.summaries.kept[request.label][places], self._summary_noise(request))

    def _summary_noise(self, request: SamplingRequest) -> Float[Tensor, "n size"]:
        assert self.summaries is not None
        device, size = self.summaries.kept.device, self.summaries.size
        return torch.stack([torch.randn(size, generator=g, device=device) for g in self._generators(request, 0)])

    def _course(
        self, request: SamplingRequest, lengths: Int[Tensor, " n"], places: list[int]
    ) -> Callable[[int], Float[Tensor, "n n_summary"] | None]:
        """What each window follows: to be called for one window after another with the window's first new frame.

        Of a glide the first window follows the first label alone, and the last window the second.
        """
        first = self._summary(request, places)
        if self.outline is None or self.summaries is None or request.suffix is not None or request.in_time:
            return lambda start: first
        outline, summaries, noise = self.outline, self.summaries, self._summary_noise(request)
        ends = (request.until_stop or request.ends) and outline.has_whole(request.label)
        alone = request.prompt is None and request.condition_end is None
        everywhere = lengths.new_ones(request.n, 1, dtype=torch.bool)
        long = (lengths > self.frames)[:, None] if alone or ends else everywhere
        labels = [request.label] if request.condition_end is None else [request.label, request.label_end]
        # The lengths are drawn with [seed, clip], which is [seed, clip, 0] too. Where a whole recording is chosen by
        # its length, the same numbers would always choose the same one for a length.
        draws = [np.random.default_rng([request.seed, clip, int(ends)]) for clip in range(request.n)]
        followed: list[list[int]] = []

        def begin() -> list[list[int]]:
            if request.prompt is None and ends:
                sizes = [len(self._window_starts(length)) for length in lengths.tolist()]
                # A length that is asked for says nothing of the recording: any that is long enough will do.
                longer = not request.until_stop
                return [
                    [outline.whole(label, draw.random(), size, longer=longer) for label in labels]
                    for draw, size in zip(draws, sizes, strict=True)
                ]
            if request.prompt is None:
                return [[outline.begin(label, draw.random()) for label in labels] for draw in draws]
            values = self._given(request.prompt[:, -self.frames :], request.n)
            like = summaries.summarise(values, torch.ones_like(values[..., 0], dtype=torch.bool))
            return [
                [outline.behind(own, k, draw.random()) for k in labels] for own, draw in zip(like, draws, strict=True)
            ]

        def course(start: int) -> Float[Tensor, "n n_summary"] | None:
            nonlocal followed
            if not followed:
                followed = begin()
            else:
                followed = [
                    [outline.after(place, k, draw.random()) for place, k in zip(own, labels, strict=True)]
                    for own, draw in zip(followed, draws, strict=True)
                ]
            share = min(1.0, max(0.0, start / max(1, request.max_frames - self.frames)))
            kept = outline.kept[torch.tensor(followed)]
            assert first is not None
            return torch.where(long, summaries.noised(torch.lerp(kept[:, 0], kept[:, -1], share), noise), first)

        return course

    def _blocks(
        self,
        request: SamplingRequest,
        lengths: Int[Tensor, " n"],
        course: Callable[[int], Float[Tensor, "n n_summary"] | None],
    ) -> Iterator[Float[Tensor, "n frames latent_dim"]]:
        """New frames, block after block; frames beyond the end of a sequence are undefined."""
        n, device, half = request.n, lengths.device, self.frames // 2
        prompt = self._given(request.prompt, n)
        suffix = self._given(request.suffix, n)
        asked = min(request.max_frames, int(lengths.max()))
        before, after = _context(prompt.shape[1], asked, suffix.shape[1], self.frames)
        # Frames are counted from the first frame of the prompt that is kept.
        begun = before == prompt.shape[1]
        known, suffix = prompt[:, prompt.shape[1] - before :], suffix[:, :after]
        ends_with_suffix = after == (0 if request.suffix is None else request.suffix.shape[1])
        first, made, block = 0, 0, 1
        while made < asked:
            stops = (before + lengths + after - first).clamp(max=self.frames)
            active = lengths > made
            rows = active.nonzero()[:, 0]
            frames = int(stops[rows].max())
            own = stops[rows]
            new = before + lengths[rows] - first
            at = torch.arange(frames, device=device)
            clean = known.new_zeros(len(rows), frames, known.shape[2])
            given = min(known.shape[1], frames)
            clean[:, :given] = known[rows, :given]
            mask = (at < given).expand(len(rows), -1)
            if after:
                # All sequences are of one length here.
                there = (at >= new[:, None]) & (at < own[:, None])
                clean[there] = suffix[rows, : int(there[0].sum())].flatten(0, 1)
                mask = mask | there
            ends = before + lengths[rows] + after - first <= self.frames
            ends &= ends_with_suffix and not request.goes_on
            summary = course(first - before)
            about = None if summary is None else summary[rows]
            window = Window(own, torch.full_like(ends, begun), ends, mask, clean, about)
            values, filler = self._drawn(request, rows.tolist(), block, frames)
            if request.guess is not None:
                guess = self._given(request.guess, n)[rows, made : made + frames - given]
                drawn = values[:, given : given + guess.shape[1]]
                values[:, given : given + guess.shape[1]] = torch.lerp(drawn, guess, request.nearness)
            values = self._in_groups(values, window, request, rows, made - given)
            latents = filler
            latents[..., self.standardiser.active] = values * self.standardiser.deviation + self.standardiser.mean
            left = asked - made
            count = min(int(torch.minimum(new, own).max()) - given, left)
            if after and given + left + after > self.frames:
                # The last window has new frames, and holds all of the suffix that is kept.
                count = min(count, left - self.frames // 4)
            out = latents.new_zeros(n, count, self.latent_dim)
            out[rows] = latents[:, given : given + count]
            yield out
            made += count
            whole = known.new_zeros(n, given + count, known.shape[2])
            whole[rows] = values[:, : given + count]
            known = whole[:, -half:]
            first, begun, block = first + given + count - known.shape[1], False, block + 1

    def _given(self, latents: Tensor | None, n: int) -> Float[Tensor, "n frames dims"]:
        if latents is None:
            return self.standardiser.mean.new_zeros(n, 0, len(self.standardiser.mean))
        return self.standardiser.standardise(latents).expand(n, -1, -1)

    def _drawn(
        self, request: SamplingRequest, rows: list[int], block: int, frames: int
    ) -> tuple[Float[Tensor, "rows frames dims"], Float[Tensor, "rows frames latent_dim"]]:
        """Starting noise, and latents for the dimensions without information, from (seed, clip, block)."""
        device, dims = self.likely_lengths.device, len(self.standardiser.mean)
        noise, filler = [], []
        for generator in self._generators(request, block, rows):
            # Drawn for a whole window, so the beginning of a clip does not depend on its length.
            noise.append(normal((self.frames, dims), request.sampling, generator, device)[:frames])
            filler.append(torch.randn((self.frames, self.latent_dim), generator=generator, device=device)[:frames])
        return torch.stack(noise), torch.stack(filler)

    def _generators(
        self, request: SamplingRequest, block: int, rows: Iterable[int] | None = None
    ) -> Iterator[torch.Generator]:
        """Random numbers for the clips in some rows, by default all, from (seed, clip, block); block 0 is no block."""
        for clip in range(request.n) if rows is None else rows:
            yield self._generator(request.seed, clip, block)

    def _generator(self, seed: int, clip: int, block: int) -> torch.Generator:
        own = int(np.random.SeedSequence([seed, clip, block]).generate_state(1, np.uint64)[0]) >> 1
        return torch.Generator(self.likely_lengths.device).manual_seed(own)

    def _in_groups(
        self, noise: Tensor, window: Window, request: SamplingRequest, rows: Tensor, first: int
    ) -> Float[Tensor, "rows frames dims"]:
        """`_carried` for groups of windows of similar length, so short windows are not padded to the longest."""
        values = torch.zeros_like(noise)
        for group in window.lengths.argsort(stable=True).chunk(GROUPS):
            own = window.of(group)
            frames = own.known.shape[1]
            values[group, :frames] = self._carried(noise[group, :frames], own, request, rows[group], first)
        return values

    @torch.no_grad()
    def _carried(
        self, noise: Tensor, window: Window, request: SamplingRequest, rows: Tensor, first: int
    ) -> Float[Tensor, "rows frames dims"]:
        """From noise to values by the midpoint rule; known frames are returned as they were given.

        Args:
            noise: where the path begins.
            window: what is known.
            request: the request.
            rows: rows of the request's sequences.
            first: number of the new frame at which the window begins; negative inside a prompt.
        """
        condition = self._condition(request, rows, range(first, first + noise.shape[1]))
        bare = None
        if request.sampling.guidance != 1 and request.condition is not None and request.unconditional is not None:
            bare = request.unconditional[:, None].expand(len(rows), condition.shape[1], -1)
        velocity = self._velocity(window, condition, bare, request.sampling.guidance)
        # Noise that is mixed with a guess lies on the path at the time that is its share.
        begin = 0.0 if request.guess is None else request.nearness
        place = _midpoint(velocity, noise, begin, max(1, round(self.steps * (1 - begin))))
        return torch.where(window.known[..., None], window.clean, place)

    def _velocity(self, window: Window, condition: Tensor, bare: Tensor | None, guidance: float) -> Velocity:
        """The velocity under a condition, which is exaggerated against a bare one if there is one."""

        def velocity(place: Tensor, time: float) -> Tensor:
            n = len(place)
            if bare is None or not self.guided_from <= time < self.guided_until:
                return self.forward(place, place.new_full((n,), time), window, condition)
            both = self.forward(
                torch.cat([place, place]),
                place.new_full((2 * n,), time),
                window.of(torch.arange(n, device=place.device).repeat(2)),
                torch.cat([condition, bare]),
            )
            given, without = both.chunk(2)
            return torch.lerp(without, given, guidance)

        return velocity

    def _condition(
        self, request: SamplingRequest, rows: Int[Tensor, " rows"], frames: range
    ) -> Float[Tensor, "rows frames_or_1 condition_dim"]:
        first = request.condition_at(0)
        if first is None:
            return self.standardiser.mean.new_zeros(len(rows), 1, self.condition_dim)
        if not request.changes:
            return first[rows][:, None]
        if request.condition is not None and request.in_time:
            # Nothing is known of the frames of a prompt.
            before = first if request.unconditional is None else request.unconditional.expand_as(first)
            own = [before if frame < 0 else request.condition_at(frame) for frame in frames]
            return torch.stack(own, dim=1)[rows]  # type: ignore[arg-type]
        glide = [request.condition_at(max(0, frame)) for frame in frames]
        return torch.stack(glide, dim=1)[rows]  # type: ignore[arg-type]


class _Layer(nn.Module):
    """A convolution over neighbours and attention over the window, then a perceptron; scaled, shifted and gated."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.near = nn.Conv2d(width, width, (1, KERNEL), padding=(0, KERNEL // 2), groups=width, bias=False)
        nn.init.normal_(self.near.weight, std=0.1)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, modulation: tuple[Tensor, ...], turns: Tensor, inside: Tensor) -> Tensor:
        hidden = _modulated(x, *modulation[:2]).masked_fill(~inside[..., None], 0)
        # A convolution over an image of one row is twice as fast on a CPU as one over one dimension.
        hidden = hidden + self.near(hidden.transpose(1, 2)[:, :, None])[:, :, 0].transpose(1, 2)
        qkv = self.qkv(hidden).reshape(*x.shape[:2], 3 * self.heads, -1)
        both, values = qkv[:, :, : 2 * self.heads], qkv[:, :, 2 * self.heads :]
        queries, keys = rotated(both, turns).transpose(1, 2).chunk(2, dim=1)
        mask = inside[:, None, None]
        attended = F.scaled_dot_product_attention(queries, keys, values.transpose(1, 2), attn_mask=mask)
        x = torch.addcmul(x, self.drop(modulation[2]), self.out(attended.transpose(1, 2).flatten(2)))
        hidden = self.down(F.silu(self.up(_modulated(x, *modulation[3:5]))))
        return torch.addcmul(x, self.drop(modulation[5]), hidden)


def _window_of(part: Part, clean: Float[Tensor, "batch frames dims"]) -> Window:
    """The window of a sound, for each row of values; what was changed already is known."""
    rows, frames, device = len(clean), clean.shape[1], clean.device
    begins, ends = (torch.full((rows,), flag, device=device) for flag in (part.number == 1, part.ends))
    known = (torch.arange(frames, device=device) < len(part.changed)).expand(rows, -1)
    return Window(torch.full((rows,), frames, device=device), begins, ends, known, clean)


def _midpoint(velocity: Velocity, place: Tensor, begin: float, steps: int) -> Tensor:
    """Along a velocity from a place at some time to time 1, by the midpoint rule."""
    length = (1 - begin) / steps
    for step in range(steps):
        time = begin + step * length
        middle = place + length / 2 * velocity(place, time)
        place = place + length * velocity(middle, time + length / 2)
    return place


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    size = int(x.shape[-1])  # the same for every input, also where the network is traced
    return torch.addcmul(shift, F.layer_norm(x, (size,)), 1 + scale)


def _context(before: int, new: int, after: int, frames: int) -> tuple[int, int]:
    """How many frames of a prompt and of a suffix the window holds.

    At most half a window of a prompt. Where a suffix follows, the new frames lie in the middle of the window if they
    fit there; otherwise the last window ends with a quarter of a window of the suffix.
    """
    if not after:
        return min(before, frames // 2), 0
    left = frames - new
    if new > frames // 2:
        return min(before, frames // 2), min(after, frames // 4)
    kept = min(after, max(left // 2, left - before))
    return min(before, left - kept), kept
