"""What a sound has lost: peaks, high and low frequencies, stretches of time, or its closeness."""

import torch
from jaxtyping import Float
from torch import Tensor

from actseq import units
from actseq.corruptions.base import Damage, dying_away, peak, require_bounds, uniform
from actseq.corruptions.noise import filtered
from actseq.errors import require


class Clipping(Damage):
    """`clipping`: cuts peaks.

    Args:
        level_db: bounds of the level at which they are cut, relative to the peak of the segment.
    """

    def __init__(self, sample_rate: int, *, level_db: tuple[float, float] = (-18.0, -3.0)) -> None:
        super().__init__(sample_rate)
        require_bounds(-100, level_db=level_db)
        self.level_db = level_db

    def damage(
        self, waveform: Float[Tensor, "batch samples"], noise: Float[Tensor, "batch samples"] | None
    ) -> Float[Tensor, "batch samples"]:
        """The sound, no louder than a bound in every row."""
        bound = peak(waveform) * units.db_to_amplitude(uniform(self.level_db, waveform))
        return torch.clamp(waveform, -bound, bound)


class BandLimit(Damage):
    """`band-limit`: takes away high and low frequencies, as a telephone or a narrow-band codec does.

    Args:
        highest_hz: bounds of the highest frequency that is left; it is drawn evenly in octaves.
        lowest_hz: bounds of the lowest.
        order: bounds of the order of the filters; their slope is 6 dB an octave times the order.
    """

    def __init__(
        self,
        sample_rate: int,
        *,
        highest_hz: tuple[float, float] = (2500.0, 8000.0),
        lowest_hz: tuple[float, float] = (20.0, 300.0),
        order: tuple[float, float] = (4.0, 40.0),
    ) -> None:
        super().__init__(sample_rate)
        require_bounds(1, highest_hz=highest_hz, lowest_hz=lowest_hz, order=order)
        self.highest_hz, self.lowest_hz, self.order = highest_hz, lowest_hz, order

    def damage(
        self, waveform: Float[Tensor, "batch samples"], noise: Float[Tensor, "batch samples"] | None
    ) -> Float[Tensor, "batch samples"]:
        """The sound with a narrower band in every row; Butterworth filters without a shift of phase."""
        size = waveform.shape[1]
        octaves = torch.tensor(self.highest_hz).log2().tolist()
        highest = 2 ** uniform((octaves[0], octaves[1]), waveform)
        lowest, order = uniform(self.lowest_hz, waveform), uniform(self.order, waveform)
        frequency = torch.fft.rfftfreq(size, 1 / self.sample_rate, device=waveform.device).clamp(min=1e-3)
        # Beyond 60 dB below, powers of the ratio would overflow.
        high = ((frequency / highest).log() * 2 * order).clamp(max=60).exp()
        low = ((lowest / frequency).log() * 4).clamp(max=60).exp()
        found: Tensor = torch.fft.irfft(torch.fft.rfft(waveform) * ((1 + high) * (1 + low)).rsqrt(), size)
        return found


class Gaps(Damage):
    """`gaps`: silences short stretches.

    Args:
        per_second: bounds of the number of gaps in a second; a segment has one at least.
        gap_seconds: bounds of their length.
    """

    def __init__(
        self,
        sample_rate: int,
        *,
        per_second: tuple[float, float] = (1.0, 8.0),
        gap_seconds: tuple[float, float] = (0.002, 0.06),
    ) -> None:
        super().__init__(sample_rate)
        require_bounds(0, per_second=per_second)
        require_bounds(0.0001, gap_seconds=gap_seconds)
        self.per_second, self.gap_seconds = per_second, gap_seconds

    def damage(
        self, waveform: Float[Tensor, "batch samples"], noise: Float[Tensor, "batch samples"] | None
    ) -> Float[Tensor, "batch samples"]:
        """The sound with gaps of silence in every row."""
        size = waveform.shape[1]
        at = torch.arange(size, device=waveform.device)
        wanted = (uniform(self.per_second, waveform) * size / self.sample_rate).round().clamp(min=1)
        silent = torch.zeros_like(waveform, dtype=torch.bool)
        for number in range(int(wanted.max())):
            length = (uniform(self.gap_seconds, waveform) * self.sample_rate).clamp(min=1)
            start = (uniform((0.0, 1.0), waveform) * (size - length).clamp(min=0)).floor()
            silent |= (at >= start) & (at < start + length) & (number < wanted)
        return torch.where(silent, 0.0, waveform)


class Reverb(Damage):
    """`reverb`: puts a sound into a room, which is noise that dies away after a click.

    Args:
        decay_seconds: bounds of the time in which the room falls by 60 dB.
        wet_db: bounds of the energy of the room relative to that of the click.
        delay_seconds: longest time from the click to the room.
    """

    def __init__(
        self,
        sample_rate: int,
        *,
        decay_seconds: tuple[float, float] = (0.15, 1.2),
        wet_db: tuple[float, float] = (-12.0, 3.0),
        delay_seconds: float = 0.02,
    ) -> None:
        super().__init__(sample_rate)
        require(0, delay_seconds=delay_seconds)
        require_bounds(0.001, decay_seconds=decay_seconds)
        require_bounds(-100, wet_db=wet_db)
        self.decay_seconds, self.wet_db, self.delay_seconds = decay_seconds, wet_db, delay_seconds

    def damage(
        self, waveform: Float[Tensor, "batch samples"], noise: Float[Tensor, "batch samples"] | None
    ) -> Float[Tensor, "batch samples"]:
        """The sound in a room of its own in every row."""
        at = torch.arange(waveform.shape[1], device=waveform.device) / self.sample_rate
        after = at - uniform((0.0, self.delay_seconds), waveform)
        room = torch.randn_like(waveform) * dying_away(after, uniform(self.decay_seconds, waveform))
        level = units.db_to_amplitude(uniform(self.wet_db, waveform))
        return waveform + filtered(waveform, room * level / room.norm(dim=1, keepdim=True).clamp(min=1e-12))
