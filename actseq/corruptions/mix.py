"""Several kinds of damage, each in some of the segments."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from actseq.corruptions.added import Crackle, Hum, Notes
from actseq.corruptions.base import Damage, chosen
from actseq.corruptions.missing import BandLimit, Clipping, Gaps, Reverb
from actseq.corruptions.noise import Noise

PARTS: dict[str, type[Damage]] = {
    "reverb": Reverb,
    "notes": Notes,
    "noise": Noise,
    "hum": Hum,
    "crackle": Crackle,
    "clipping": Clipping,
    "band-limit": BandLimit,
    "gaps": Gaps,
}
"""In the order in which a recording suffers them: in the room, on the way, in the device, in the archive."""
SHARES = {
    "reverb": 0.1,
    "notes": 0.35,
    "noise": 0.7,
    "hum": 0.15,
    "crackle": 0.15,
    "clipping": 0.1,
    "band-limit": 0.1,
    "gaps": 0.1,
}


class Mix(Damage):
    """`mix`: does each kind of damage to a share of the segments, one after another; some segments stay clean.

    Args:
        shares: fraction of the segments that have a damage, by its kind; null: all kinds, noise in most segments. Kinds
            that are not named are left out.
        options: keys of a damage, by its kind, for example `{noise: {snr_db: [0, 20]}}`.
    """

    def __init__(
        self,
        sample_rate: int,
        *,
        shares: dict[str, float] | None = None,
        options: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(sample_rate)
        self.shares = dict(SHARES if shares is None else shares)
        for name, share in self.shares.items():
            if name not in PARTS:
                raise ValueError(f"shares names '{name}', expected {', '.join(PARTS)}")
            if not 0 < share <= 1:
                raise ValueError(f"shares.{name} is {share}, expected above 0 and at most 1")
        if not self.shares:
            raise ValueError("shares is empty, expected at least one kind of damage")
        if unknown := set(options or ()) - set(self.shares):
            raise ValueError(f"options names '{min(unknown)}', expected one of shares: {', '.join(self.shares)}")
        # Bounds are lists in a configuration.
        given = {
            kind: {key: tuple(value) if isinstance(value, list) else value for key, value in keys.items()}
            for kind, keys in (options or {}).items()
        }
        self._parts = nn.ModuleDict(
            {name: made(sample_rate, **given.get(name, {})) for name, made in PARTS.items() if name in self.shares}
        )

    @property
    def parts(self) -> Mapping[str, Damage]:
        """The kinds of damage, by name, in their order."""
        return {name: part for name, part in self._parts.items() if isinstance(part, Damage)}

    @property
    def uses_noise_clips(self) -> bool:  # type: ignore[override]
        """Whether one of its parts does."""
        return any(part.uses_noise_clips for part in self.parts.values())

    def do_without_noise_clips(self) -> bool:
        """Use no segments of other classes from now on; False if a part would have nothing left."""
        return all(part.do_without_noise_clips() for part in self.parts.values())

    def damage(
        self, waveform: Float[Tensor, "batch samples"], noise: Float[Tensor, "batch samples"] | None
    ) -> Float[Tensor, "batch samples"]:
        """Each damage in its share of the rows."""
        dirty = waveform.clone()
        for name, part in self.parts.items():
            rows = chosen(self.shares[name], dirty)[:, 0]
            if bool(rows.any()):
                dirty[rows] = part.damage(dirty[rows], None if noise is None else noise[rows])
        return dirty
