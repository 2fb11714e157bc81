"""What lies over a sound: the hum of the mains, the crackle of a record, notes of other instruments."""

import torch
from jaxtyping import Float
from torch import Tensor

from actseq import units
from actseq.corruptions.base import Damage, dying_away, peak, require_bounds, uniform
from actseq.corruptions.noise import at_ratio, filtered
from actseq.errors import require


class Hum(Damage):
    """`hum`: adds a steady tone with harmonics, as the mains induce it.

    Args:
        snr_db: bounds of the ratio of the sound to the hum, by RMS over the segment.
        frequency_hz: bounds of the fundamental.
        harmonics: number of harmonics.
        slope: bounds of the fall of their power, which is 1 / number^slope; each is also changed by up to 6 dB.
    """

    def __init__(
        self,
        sample_rate: int,
        *,
        snr_db: tuple[float, float] = (0.0, 25.0),
        frequency_hz: tuple[float, float] = (48.0, 62.0),
        harmonics: int = 16,
        slope: tuple[float, float] = (0.5, 3.0),
    ) -> None:
        super().__init__(sample_rate)
        require(1, harmonics=harmonics)
        require_bounds(1, frequency_hz=frequency_hz)
        require_bounds(-60, snr_db=snr_db, slope=slope)
        self.snr_db, self.frequency_hz, self.harmonics, self.slope = snr_db, frequency_hz, harmonics, slope

    def damage(
        self, waveform: Float[Tensor, "batch samples"], noise: Float[Tensor, "batch samples"] | None
    ) -> Float[Tensor, "batch samples"]:
        """The sound with a hum in every row."""
        at = torch.arange(waveform.shape[1], device=waveform.device) / self.sample_rate
        hum = tone(at, uniform(self.frequency_hz, waveform), self.harmonics, uniform(self.slope, waveform))
        return waveform + at_ratio(hum, waveform, uniform(self.snr_db, waveform))


class Notes(Damage):
    """`notes`: adds synthesised notes that begin anywhere and die away, as music in the background.

    Args:
        snr_db: bounds of the ratio of the sound to the notes, by RMS over the segment.
        frequency_hz: bounds of the fundamental; it is drawn evenly in octaves.
        count: number of notes.
        decay_seconds: bounds of the time in which a note falls by 60 dB.
        harmonics: number of harmonics.
        slope: as for `hum`.
    """

    def __init__(
        self,
        sample_rate: int,
        *,
        snr_db: tuple[float, float] = (-5.0, 20.0),
        frequency_hz: tuple[float, float] = (40.0, 1500.0),
        count: int = 6,
        decay_seconds: tuple[float, float] = (0.1, 4.0),
        harmonics: int = 24,
        slope: tuple[float, float] = (0.5, 4.0),
    ) -> None:
        super().__init__(sample_rate)
        require(1, count=count, harmonics=harmonics)
        require_bounds(1, frequency_hz=frequency_hz)
        require_bounds(0.001, decay_seconds=decay_seconds)
        require_bounds(-60, snr_db=snr_db, slope=slope)
        self.slope = slope
        self.snr_db, self.frequency_hz, self.count = snr_db, frequency_hz, count
        self.decay_seconds, self.harmonics = decay_seconds, harmonics

    def damage(
        self, waveform: Float[Tensor, "batch samples"], noise: Float[Tensor, "batch samples"] | None
    ) -> Float[Tensor, "batch samples"]:
        """The sound with notes in every row."""
        seconds = waveform.shape[1] / self.sample_rate
        at = torch.arange(waveform.shape[1], device=waveform.device) / self.sample_rate
        octaves = torch.tensor(self.frequency_hz).log2().tolist()
        notes = torch.zeros_like(waveform)
        for _ in range(self.count):
            # Some have begun before the segment does.
            after = at - uniform((-0.5 * seconds, seconds), waveform)
            falling = dying_away(after, uniform(self.decay_seconds, waveform))
            frequency = 2 ** uniform((octaves[0], octaves[1]), waveform)
            notes = notes + falling * tone(at, frequency, self.harmonics, uniform(self.slope, waveform))
        return waveform + at_ratio(notes, waveform, uniform(self.snr_db, waveform))


class Crackle(Damage):
    """`crackle`: adds clicks at random times, as dust on a record makes them.

    Args:
        clicks: bounds of the number of clicks in a second.
        level_db: bounds of the level of the loudest clicks, relative to the peak of the segment.
        click_seconds: bounds of the time in which a click falls by 60 dB.
    """

    def __init__(
        self,
        sample_rate: int,
        *,
        clicks: tuple[float, float] = (3.0, 60.0),
        level_db: tuple[float, float] = (-20.0, 0.0),
        click_seconds: tuple[float, float] = (0.0005, 0.006),
    ) -> None:
        super().__init__(sample_rate)
        require_bounds(0, clicks=clicks)
        require_bounds(0.0001, click_seconds=click_seconds)
        require_bounds(-100, level_db=level_db)
        self.clicks, self.level_db, self.click_seconds = clicks, level_db, click_seconds

    def damage(
        self, waveform: Float[Tensor, "batch samples"], noise: Float[Tensor, "batch samples"] | None
    ) -> Float[Tensor, "batch samples"]:
        """The sound with clicks in every row; all clicks of a row have one shape."""
        there = torch.rand_like(waveform) < uniform(self.clicks, waveform) / self.sample_rate
        # Loud clicks are rare.
        height = torch.rand_like(waveform).square() * torch.randn_like(waveform).sign()
        at = torch.arange(waveform.shape[1], device=waveform.device) / self.sample_rate
        shape = torch.randn_like(waveform) * dying_away(at, uniform(self.click_seconds, waveform))
        clicks = filtered(there * height, shape / shape.abs().amax(1, keepdim=True).clamp(min=1e-12))
        loudest = clicks.abs().amax(1, keepdim=True)
        wanted = peak(waveform) * units.db_to_amplitude(uniform(self.level_db, waveform))
        return waveform + clicks * torch.where(loudest > 0, wanted / loudest.clamp(min=1e-12), 0.0)


def tone(
    at: Float[Tensor, " samples"],
    frequency_hz: Float[Tensor, "batch 1"],
    harmonics: int,
    slope: Float[Tensor, "batch 1"],
) -> Float[Tensor, "batch samples"]:
    """Tones with harmonics of random phases, whose power falls as 1 / number^slope and is changed by up to 6 dB each.

    Args:
        at: times in seconds.
        frequency_hz: fundamental of every row.
        harmonics: number of harmonics; those above half the sample rate are left out.
        slope: of every row.
    """
    most = 0.5 / float(at[1] - at[0]) if len(at) > 1 else 0.0
    made = torch.zeros(len(frequency_hz), len(at), device=at.device)
    # A harmonic is a power of the fundamental, as complex numbers; a product takes a tenth of the time of a sine.
    angle = 2 * torch.pi * (frequency_hz * at).frac()
    fundamental = torch.polar(torch.ones_like(angle), angle)
    harmonic = torch.ones_like(fundamental)
    for number in range(1, harmonics + 1):
        phase, change = torch.rand(2, len(frequency_hz), 1, device=at.device)
        level = number ** (-slope / 2) * units.db_to_amplitude(12 * change - 6) * (number * frequency_hz < most)
        harmonic = harmonic * fundamental
        turn = 2 * torch.pi * phase
        made = made + level * (harmonic.real * turn.cos() + harmonic.imag * turn.sin())
    return made
