"""Kinds of damage: what each does to a sound, measured independently; and what all have in common."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from actseq import build, registry
from actseq.config import Member
from actseq.corruptions.base import Corrupted, Damage
from actseq.corruptions.mix import PARTS
from actseq.corruptions.noise import another, filtered
from actseq.errors import ConfigError

RATE, SAMPLES = 16000, 16000
DAMAGES = sorted(name for name, one in registry.CORRUPTIONS.items() if issubclass(one, Damage))


def sounds(rows: int = 6) -> torch.Tensor:
    """Tones with an envelope over a little noise, peak 0.7."""
    rng, at = np.random.default_rng(1), np.arange(SAMPLES) / RATE
    tones = [np.sin(2 * np.pi * 200 * (k + 1) * at) * np.exp(-2 * at) for k in range(rows)]
    made = np.array(tones) + 0.05 * rng.standard_normal((rows, SAMPLES))
    return torch.from_numpy((0.7 * made / np.abs(made).max(1, keepdims=True)).astype(np.float32))


def build_damage(kind: str, **options: Any) -> Damage:
    made: Damage = build.construct(registry.CORRUPTIONS, Member(kind=kind, **options), "train_ae.corruption", RATE)
    return made


def seeded(made: Damage, clean: torch.Tensor, seed: int = 0) -> Corrupted:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return made.corrupt(clean, clean.flip(0).roll(999, 1))


def damaged(kind: str, clean: torch.Tensor, seed: int = 0, **options: Any) -> np.ndarray:
    """What is heard of the damage, without the scaling that follows it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_damage(kind, **options).damage(clean, None).numpy().astype(np.float64)


def rms(rows: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(rows).mean(-1))


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_seed_gives_one_damage_and_the_target_is_the_sound(kind: str) -> None:
    clean, made = sounds(), build_damage(kind)
    first, again, other = (seeded(made, clean, seed) for seed in (3, 3, 4))
    assert torch.equal(first.input, again.input)
    assert not torch.equal(first.input, other.input)
    assert not torch.equal(first.input, first.target)
    gains = first.target.abs().amax(1) / clean.abs().amax(1)
    torch.testing.assert_close(first.target, clean * gains[:, None])
    assert first.input.isfinite().all()


@pytest.mark.parametrize("kind", [name for name in DAMAGES if name != "noise"])
def test_the_input_has_the_peak_that_the_sound_had(kind: str) -> None:
    clean = sounds()
    torch.testing.assert_close(seeded(build_damage(kind), clean).input.abs().amax(1), clean.abs().amax(1))


@pytest.mark.parametrize("kind", DAMAGES)
def test_silent_short_and_long_sounds_stay_finite(kind: str) -> None:
    for clean in (torch.zeros(3, SAMPLES), 0.1 * sounds()[:, :64], sounds(2).repeat(1, 30)):
        pair = seeded(build_damage(kind), clean)
        assert pair.input.isfinite().all()
        assert pair.target.isfinite().all()
        assert pair.input.shape == clean.shape


@pytest.mark.parametrize(("kind", "snr_db"), [("hum", 3.0), ("notes", -5.0), ("notes", 12.0)])
def test_what_is_added_has_its_ratio(kind: str, snr_db: float) -> None:
    clean = sounds()
    added = damaged(kind, clean, snr_db=(snr_db, snr_db)) - clean.numpy()
    np.testing.assert_allclose(20 * np.log10(rms(clean.numpy()) / rms(added)), snr_db, atol=0.01)


def test_hum_is_a_fundamental_with_harmonics() -> None:
    clean = sounds()
    added = damaged("hum", clean, frequency_hz=(50.0, 50.0), harmonics=4, snr_db=(0.0, 0.0)) - clean.numpy()
    power = np.square(np.abs(np.fft.rfft(added)))
    lines = np.zeros(power.shape[1], bool)
    lines[[50, 100, 150, 200]] = True  # a bin is 1 Hz
    assert (power[:, lines].sum(1) > 0.999 * power.sum(1)).all()
    assert (power[:, lines] > 0).all()


def test_a_note_begins_and_dies_away() -> None:
    options = {"count": 1, "decay_seconds": (0.2, 0.2), "snr_db": (0.0, 0.0), "frequency_hz": (300.0, 300.0)}
    clean = sounds(40)
    added = np.abs(damaged("notes", clean, **options) - clean.numpy())
    blocks = added.reshape(40, 40, -1).max(2)  # 25 ms each
    loudest = blocks.argmax(1)
    for row, at in zip(blocks, loudest, strict=True):
        if 0 < at < 28:
            assert row[: max(0, at - 1)].max(initial=0) < 1e-6, "nothing before it begins"
            assert row[at + 10] < 10 ** (-60 / 20) * row[at] * 10, "60 dB in 0.2 s"
    assert np.ptp(loudest) > 20


def test_clicks_are_as_many_and_as_loud_as_asked_for() -> None:
    clean = sounds(20)
    options = {"clicks": (20.0, 20.0), "level_db": (-6.0, -6.0), "click_seconds": (0.0005, 0.0005)}
    added = damaged("crackle", clean, **options) - clean.numpy()
    np.testing.assert_allclose(np.abs(added).max(1), 0.7 * 10 ** (-6 / 20), rtol=1e-4)
    begins = [np.diff(np.flatnonzero(np.abs(row) > 1e-5), prepend=-100) > 8 for row in added]
    assert np.mean([one.sum() for one in begins]) == pytest.approx(20, abs=5)


def test_clipping_cuts_at_its_level() -> None:
    clean = sounds()
    bound = 0.7 * 10 ** (-9 / 20)
    expected = np.clip(clean.numpy(), -bound, bound)
    np.testing.assert_allclose(damaged("clipping", clean, level_db=(-9.0, -9.0)), expected, atol=1e-6)


def test_a_band_has_its_edges_and_no_delay() -> None:
    noise = 0.2 * torch.randn((20, SAMPLES), generator=torch.Generator().manual_seed(0))
    band = {"highest_hz": (2000.0, 2000.0), "lowest_hz": (100.0, 100.0), "order": (8.0, 8.0)}
    made = damaged("band-limit", noise, **band)
    before, after = (np.square(np.abs(np.fft.rfft(rows))).mean(0) for rows in (noise.numpy(), made))
    gain_db = 10 * np.log10(after / before)
    at = {hz: gain_db[hz - 20 : hz + 20].mean() for hz in (500, 1000, 2000, 4000)}
    assert abs(at[500]) < 0.1
    assert abs(at[1000]) < 0.1
    assert at[2000] == pytest.approx(-3, abs=0.5)
    assert at[4000] == pytest.approx(-48, abs=1)
    assert gain_db[100] == pytest.approx(-3, abs=0.5)
    assert gain_db[25] < -20
    lag = np.correlate(made[0, 8000:8100], noise[0, 7950:8150].numpy(), "valid").argmax()
    assert lag == 50


def test_gaps_are_silent_and_as_long_as_asked_for() -> None:
    tone = torch.full((60, SAMPLES), 0.5)
    made = damaged("gaps", tone, per_second=(3.0, 3.0), gap_seconds=(0.01, 0.02))
    for row in made:
        silent = np.concatenate([[0], (row == 0).astype(int), [0]])
        starts, stops = np.flatnonzero(np.diff(silent) == 1), np.flatnonzero(np.diff(silent) == -1)
        assert 1 <= len(starts) <= 3
        assert (stops - starts).min() >= 160
        assert (stops - starts).sum() <= 3 * 320
        assert set(np.unique(row)) == {0.0, 0.5}


def test_a_room_has_its_energy_and_its_decay() -> None:
    click = torch.zeros(200, SAMPLES)
    click[:, 0] = 0.5
    room = {"decay_seconds": (0.3, 0.3), "wet_db": (-6.0, -6.0), "delay_seconds": 0.0}
    response = (damaged("reverb", click, **room) - click.numpy()) / 0.5
    np.testing.assert_allclose(10 * np.log10(np.square(response).sum(1)), -6, atol=0.01)
    level = 10 * np.log10(np.square(response).mean(0).reshape(-1, 160).mean(1))  # 10 ms each
    assert level[0] - level[20] == pytest.approx(40, abs=2), "60 dB in 0.3 s"


def test_convolution_agrees_with_a_filter() -> None:
    clean, response = sounds(3), torch.randn((3, SAMPLES), generator=torch.Generator().manual_seed(0))
    response[:, 50:] = 0
    found = filtered(clean, response).numpy()
    for row, taps, sound in zip(found, response.numpy(), clean.numpy(), strict=True):
        np.testing.assert_allclose(row, lfilter(taps[:50], 1, sound), atol=1e-4)


def test_changed_noise_is_another_one_in_each_row() -> None:
    noise = torch.randn((1, SAMPLES), generator=torch.Generator().manual_seed(0)).expand(40, -1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = another(noise).numpy()
    level = 20 * np.log10(np.sqrt(np.square(made).reshape(40, 20, -1).mean(2)) + 1e-9)
    assert np.median(np.ptp(level, axis=1)) > 8, "its level moves"
    bands = np.square(np.abs(np.fft.rfft(made)))[:, 1:8001].reshape(40, 8, -1).mean(2)
    tilt = 10 * np.log10(bands[:, -1] / bands[:, 1])
    assert np.std(tilt) > 3, "and so does its colour"
    assert np.abs(np.corrcoef(made) - np.eye(40)).mean() < 0.3


def test_a_mix_damages_its_shares_of_the_segments() -> None:
    clean = torch.full((400, 800), 0.5) * torch.linspace(0, 1, 800)
    options = {"clipping": {"level_db": [-6.0, -6.0]}, "gaps": {"per_second": [30.0, 30.0]}}
    made = build_damage("mix", shares={"gaps": 0.25, "clipping": 0.5}, options=options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        rows = made.damage(clean, None).numpy()
    clipped = rows.max(1) < 0.26
    torn = ((rows == 0) & (clean.numpy() > 0.01)).any(1)
    assert clipped.mean() == pytest.approx(0.5, abs=0.1)
    assert torn.mean() == pytest.approx(0.25, abs=0.1)
    assert (clipped & torn).mean() == pytest.approx(0.125, abs=0.06)
    untouched = ~(clipped | torn)
    np.testing.assert_array_equal(rows[untouched], clean.numpy()[untouched])
    assert list(made.parts) == ["clipping", "gaps"], "in the order of a recording's life"


def test_every_kind_can_be_in_a_mix() -> None:
    assert set(PARTS) == set(DAMAGES) - {"mix"}
    assert set(build_damage("mix").parts) == set(PARTS)


def test_noise_of_other_classes_can_be_left_out() -> None:
    mixed = build_damage("mix")
    assert mixed.uses_noise_clips
    with pytest.raises(ValueError, match="no segments of other classes"):
        build_damage("mix", shares={"noise": 1.0}).corrupt(sounds(), None)
    assert mixed.do_without_noise_clips()
    assert not mixed.uses_noise_clips
    for _ in range(20):
        assert mixed.corrupt(sounds(), None).input.isfinite().all()
    only = build_damage("noise", white_weight=0, coloured_weight=0)
    assert not only.do_without_noise_clips()


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("mix", {"shares": {"hiss": 0.5}}, "shares names 'hiss', expected reverb, notes"),
        ("mix", {"shares": {"hum": 1.5}}, "shares.hum is 1.5, expected above 0 and at most 1"),
        ("mix", {"shares": {}}, "shares is empty"),
        ("mix", {"shares": {"hum": 0.5}, "options": {"gaps": {}}}, "options names 'gaps', expected one of shares: hum"),
        ("mix", {"options": {"hum": {"volume": 3}}}, "volume"),
        ("hum", {"frequency_hz": (60.0, 50.0)}, r"frequency_hz is \[60.0, 50.0\].*lower bound first"),
        ("notes", {"count": 0}, "count is 0, expected at least 1"),
        ("crackle", {"clicks": (-1.0, 3.0)}, r"clicks is \[-1.0, 3.0\], expected 0 or more"),
        ("clipping", {"level_db": (0.0, float("nan"))}, "level_db"),
        ("band-limit", {"highest_hz": (0.0, 100.0)}, "highest_hz"),
        ("gaps", {"gap_seconds": (0.0, 0.1)}, "gap_seconds"),
        ("reverb", {"delay_seconds": -1.0}, "delay_seconds is -1.0"),
        ("noise", {"changed": 2.0}, "changed is 2.0, expected at most 1"),
    ],
)
def test_what_makes_no_sense_is_refused(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_damage(kind, **options)
