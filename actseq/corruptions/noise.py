"""Noise added to sounds: white, coloured, or other sounds of the corpus."""

import torch
from jaxtyping import Float
from torch import Tensor

from actseq import units
from actseq.corruptions.base import Corrupted, Damage, chosen, uniform
from actseq.errors import require

LEAST_RMS = 0.01
"""−40 dBFS: quieter segments get as much noise as a segment of this level."""


class Noise(Damage):
    """`noise`: adds noise to a segment and clips, quantises or cuts gaps into some segments; the target is clean.

    A segment gets noise of one kind, drawn by the weights, at a signal-to-noise ratio drawn within bounds; the ratio is
    by the RMS of segment and noise. At the end, input and target are turned down together. In use, a noisy sound is
    brought to the corpus's level together with its noise, so the sound in it is quieter than the clips of the corpus.

    Args:
        snr_db: bounds of the signal-to-noise ratio, by RMS over the segment.
        white_weight: how often the noise is white, relative to the other weights.
        coloured_weight: how often the power of the noise falls as 1 / frequency^slope.
        other_weight: how often the noise is a segment of a label that is not in `train_ae.targets`.
        slope: bounds of the slope; 1 is pink, 2 brown, below 0 blue.
        clipping: fraction of segments that are clipped.
        clipping_db: bounds of the clipping level, relative to the peak.
        quantisation: fraction of segments that are quantised to few bits.
        bits: bounds of the number of bits.
        dropouts: fraction of segments with gaps of silence.
        dropout_gaps: number of gaps in such a segment.
        dropout_samples: bounds of the length of a gap, in samples.
        turned_down_db: largest amount in dB by which input and target are turned down.
        changed: fraction of segments whose noise is changed: played at another speed, filtered, mixed with that of
            another segment, and given another course of its level. A network then knows more kinds of noise than there
            are recordings.
    """

    def __init__(
        self,
        sample_rate: int,
        *,
        snr_db: tuple[float, float] = (-5.0, 20.0),
        white_weight: float = 1.0,
        coloured_weight: float = 1.0,
        other_weight: float = 1.0,
        slope: tuple[float, float] = (0.0, 2.0),
        clipping: float = 0.0,
        clipping_db: tuple[float, float] = (-15.0, -3.0),
        quantisation: float = 0.0,
        bits: tuple[int, int] = (5, 10),
        dropouts: float = 0.0,
        dropout_gaps: int = 4,
        dropout_samples: tuple[int, int] = (50, 500),
        turned_down_db: float = 6.0,
        changed: float = 0.0,
    ) -> None:
        super().__init__(sample_rate)
        weights = {"white_weight": white_weight, "coloured_weight": coloured_weight, "other_weight": other_weight}
        shares = {"clipping": clipping, "quantisation": quantisation, "dropouts": dropouts, "changed": changed}
        require(0, **weights, **shares, turned_down_db=turned_down_db)
        require(1, dropout_gaps=dropout_gaps, bits=bits[0], dropout_samples=dropout_samples[0])
        if not sum(weights.values()):
            raise ValueError("white_weight, coloured_weight and other_weight are all 0, expected one above it")
        for name, share in shares.items():
            if share > 1:
                raise ValueError(f"{name} is {share}, expected at most 1")
        bounds = {"snr_db": snr_db, "slope": slope, "clipping_db": clipping_db, "bits": bits}
        for name, (low, high) in (bounds | {"dropout_samples": dropout_samples}).items():
            if not low <= high:
                raise ValueError(f"{name} is [{low}, {high}], expected the lower bound first")
        self.snr_db, self.slope, self.turned_down_db = snr_db, slope, turned_down_db
        self.weights = torch.tensor(list(weights.values()))
        self.clipping, self.clipping_db = clipping, clipping_db
        self.quantisation, self.bits = quantisation, bits
        self.dropouts, self.dropout_gaps, self.dropout_samples = dropouts, dropout_gaps, dropout_samples
        self.changed = changed
        self.uses_noise_clips = other_weight > 0

    def do_without_noise_clips(self) -> bool:
        """Take white and coloured noise alone; False if neither is asked for."""
        self.weights[2] = 0.0
        self.uses_noise_clips = False
        return bool(self.weights.sum() > 0)

    def corrupt(
        self, waveform: Float[Tensor, "batch samples"], noise: Float[Tensor, "batch samples"] | None
    ) -> Corrupted:
        """As `damage`; then input and target are turned down together."""
        dirty = self.damage(waveform, noise)
        gain = 10 ** (-self.turned_down_db / 20 * torch.rand(len(waveform), 1, device=waveform.device))
        return Corrupted(dirty * gain, waveform * gain)

    def damage(
        self, waveform: Float[Tensor, "batch samples"], noise: Float[Tensor, "batch samples"] | None
    ) -> Float[Tensor, "batch samples"]:
        """Add noise, then clip, quantise and cut gaps, with separate draws for every row.

        Raises:
            ValueError: `other_weight` is above 0 and there are no segments of other classes.
        """
        if self.uses_noise_clips and noise is None:
            raise ValueError("other_weight is above 0, but there are no segments of other classes")
        n, device = len(waveform), waveform.device
        kinds = torch.multinomial(self.weights.to(device), n, replacement=True)[:, None]
        slope = torch.where(kinds == 1, uniform(self.slope, waveform), 0.0)
        added = coloured(torch.randn_like(waveform), slope)
        if noise is not None:
            added = torch.where(kinds == 2, noise, added)
        if self.changed:
            added = torch.where(chosen(self.changed, added), another(added), added)
        dirty = waveform + at_ratio(added, waveform, uniform(self.snr_db, waveform))
        peak = dirty.abs().amax(1, keepdim=True)
        bound = torch.where(
            chosen(self.clipping, dirty), peak * units.db_to_amplitude(uniform(self.clipping_db, dirty)), peak
        )
        dirty = torch.clamp(dirty, -bound, bound)
        step = 2.0 ** (1 - torch.randint(self.bits[0], self.bits[1] + 1, (n, 1), device=device))
        dirty = torch.where(chosen(self.quantisation, dirty), (dirty / step).round() * step, dirty)
        return torch.where(chosen(self.dropouts, dirty) & self._gaps(dirty), 0.0, dirty)

    def _gaps(self, waveform: Tensor) -> Tensor:
        """True in the gaps of each row."""
        (n, size), device = waveform.shape, waveform.device
        at = torch.arange(size, device=device)
        gaps = torch.zeros_like(waveform, dtype=torch.bool)
        for _ in range(self.dropout_gaps):
            length = torch.randint(self.dropout_samples[0], self.dropout_samples[1] + 1, (n, 1), device=device)
            start = (torch.rand(n, 1, device=device) * (size - length).clamp(min=1)).long()
            gaps |= (at >= start) & (at < start + length)
        return gaps


def coloured(white: Float[Tensor, "batch samples"], slope: Float[Tensor, "batch 1"]) -> Float[Tensor, "batch samples"]:
    """White noise filtered so that its power falls as 1 / frequency^slope, and is constant below sample rate / 400.

    Frequencies below that are hardly audible, but would hold most of the power of brown noise.
    """
    size = white.shape[1]
    frequency = torch.fft.rfftfreq(size, device=white.device).clamp(min=1 / 400)
    filtered: Tensor = torch.fft.irfft(torch.fft.rfft(white) * frequency ** (-slope / 2), size)
    return filtered


def at_ratio(
    noise: Float[Tensor, "batch samples"], sound: Float[Tensor, "batch samples"], snr_db: Float[Tensor, "batch 1"]
) -> Float[Tensor, "batch samples"]:
    """Noise scaled to this ratio of RMS; sound below −40 dBFS counts as −40 dBFS, silent noise stays silent."""
    level = sound.square().mean(1, keepdim=True).sqrt().clamp(min=LEAST_RMS)
    own = noise.square().mean(1, keepdim=True).sqrt().clamp(min=1e-8)
    return noise * (level / own * units.db_to_amplitude(-snr_db))


SPEEDS = (-1.0, 1.0)
"""Bounds of the speed of changed noise, in octaves."""
TILTS_DB, BANDS = 15.0, 9
"""Changed noise is filtered with a smooth curve through so many gains, each drawn within ± this."""
DIPS_DB, TURNS = 24.0, (1, 24)
"""Its level moves through so many points, each drawn down to this below the highest."""


def another(noise: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch samples"]:
    """Noise of another kind: at another speed, filtered, some with the noise of another row, in waves or bursts."""
    n, size, device = len(noise), noise.shape[1], noise.device
    speed = 2 ** uniform(SPEEDS, noise)
    at = (torch.arange(size, device=device) * speed) % (size - 1)
    before = at.long()
    noise = noise.gather(1, before).lerp(noise.gather(1, before + 1), at - before)
    gains = units.db_to_amplitude(TILTS_DB * (2 * torch.rand(n, BANDS, device=device) - 1))
    # Bands are octaves: the curve is drawn over the logarithm of the frequency.
    octave = (torch.arange(size // 2 + 1, device=device).clamp(min=1) * (2.0**BANDS / size)).log2().clamp(min=0)
    curve = _through(gains, (octave / (BANDS - 1)).clamp(max=1).expand(n, -1))
    noise = torch.fft.irfft(torch.fft.rfft(noise) * curve, size)
    noise = noise + noise.roll(1, 0) * torch.where(chosen(0.5, noise), uniform((0.0, 1.0), noise), 0.0)
    turns = torch.randint(TURNS[0], TURNS[1] + 1, (n, 1), device=device)
    levels = units.db_to_amplitude(-DIPS_DB * torch.rand(n, TURNS[1] + 1, device=device))
    place = torch.arange(size, device=device) / size * (turns / TURNS[1])
    return noise * _through(levels, place)


def _through(points: Float[Tensor, "batch points"], place: Float[Tensor, "batch samples"]) -> Tensor:
    """Straight lines through points, at places from 0, the first, to 1, the last."""
    at = place * (points.shape[1] - 1)
    before = at.long().clamp(max=points.shape[1] - 2)
    return points.gather(1, before).lerp(points.gather(1, before + 1), at - before)


def filtered(
    waveform: Float[Tensor, "batch samples"], response: Float[Tensor, "batch samples"]
) -> Float[Tensor, "batch samples"]:
    """Every row convolved with an impulse response; what comes after its end is cut off."""
    size = waveform.shape[1]
    spectra = torch.fft.rfft(waveform, 2 * size) * torch.fft.rfft(response, 2 * size)
    found: Tensor = torch.fft.irfft(spectra, 2 * size)[:, :size]
    return found
