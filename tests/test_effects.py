"""Effects do what they say, measured; what they need, refuse and leave alone."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.signal import resample_poly, sosfreqz

from actseq import audio, build, effects, registry
from actseq.config import Member, load_preset
from actseq.errors import AudioError, ConfigError

RATE = 22050
WITHOUT_PEDALBOARD: dict[str, dict[str, Any]] = {
    "high-pass": {"cutoff_hz": 200},
    "low-pass": {"cutoff_hz": 2000},
    "gain": {"gain_db": -3},
    "loudness": {"lufs": -23},
    "convolution": {},
    "fade": {"in_seconds": 0.01, "out_seconds": 0.1},
    "trim": {},
}
WITH_PEDALBOARD: dict[str, dict[str, Any]] = {
    "eq-band": {"frequency_hz": 1000, "gain_db": 6},
    "compressor": {},
    "limiter": {"ceiling_db": -12},
    "reverb": {},
    "chorus": {},
}
ALL = WITHOUT_PEDALBOARD | WITH_PEDALBOARD
LONGER = {"reverb", "chorus", "convolution"}


def sine(frequency: float, amplitude: float = 0.5, rate: int = RATE, seconds: float = 1.0) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return (amplitude * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def noise(seconds: float = 1.0, amplitude: float = 0.1, rate: int = RATE) -> np.ndarray:
    drawn = np.random.default_rng(0).standard_normal(round(seconds * rate))
    return (amplitude * drawn).astype(np.float32)


def process(kind: str, rate: int = RATE, **keys: Any) -> Callable[[np.ndarray], np.ndarray]:
    member = Member.model_validate({"kind": kind, **keys})
    return effects.chain([build.construct(registry.EFFECTS, member, "effect", rate)])


def wet(kind: str, waveform: np.ndarray, rate: int = RATE, **keys: Any) -> np.ndarray:
    changed = process(kind, rate, **keys)(waveform)
    assert changed.dtype == np.float32
    return changed


def level_db(waveform: np.ndarray) -> float:
    """RMS of the second half, where a sine has settled, in dB."""
    return 20 * float(np.log10(np.sqrt(np.square(waveform[len(waveform) // 2 :], dtype=np.float64).mean())))


def change_db(kind: str, frequency: float, **keys: Any) -> float:
    clip = sine(frequency)
    return level_db(wet(kind, clip, **keys)) - level_db(clip)


@pytest.fixture
def impulse(tmp_path: Path) -> Path:
    """A room that rings for 0.3 s."""
    path = tmp_path / "room, large.wav"
    decay = np.exp(-np.arange(round(0.3 * RATE)) / (0.04 * RATE))
    audio.write(path, noise(0.3) * decay.astype(np.float32), RATE)
    return path


@pytest.fixture
def keys(impulse: Path) -> dict[str, dict[str, Any]]:
    return ALL | {"convolution": {"impulse_response": str(impulse)}}


@pytest.fixture(scope="module")
def hits(data_dir: Path) -> list[tuple[np.ndarray, int]]:
    paths = [*audio.find(data_dir / "drums")[::40], *audio.find(data_dir / "digits_fsdd")[::150]]
    return [audio.load(path) for path in paths]


# -- every effect ------------------------------------------------------------------------------------------------------


def test_each_one_is_tested() -> None:
    assert ALL.keys() == registry.EFFECTS.keys()


@pytest.mark.parametrize("kind", ALL)
def test_same_clip_same_bytes_whatever_went_before(kind: str, keys: dict[str, dict[str, Any]]) -> None:
    clip = noise(0.2)
    one = process(kind, **keys[kind])
    first = one(clip)
    one(noise(0.5, amplitude=0.9))
    assert one(clip).tobytes() == first.tobytes() == wet(kind, clip, **keys[kind]).tobytes()
    np.testing.assert_array_equal(clip, noise(0.2))


@pytest.mark.parametrize("kind", ALL)
def test_silence_stays_silence_and_one_sample_is_a_clip(kind: str, keys: dict[str, dict[str, Any]]) -> None:
    silence = np.zeros(1000, np.float32)
    np.testing.assert_array_equal(wet(kind, silence, **keys[kind]), silence)
    for samples in (1, 2, 7):
        changed = wet(kind, np.full(samples, 0.5, np.float32), **keys[kind])
        assert np.isfinite(changed).all()
        assert len(changed) == samples or kind in LONGER


@pytest.mark.parametrize("kind", ALL)
def test_real_sound(kind: str, keys: dict[str, dict[str, Any]], hits: list[tuple[np.ndarray, int]]) -> None:
    assert len(hits) >= 4
    for clip, rate in hits:
        changed = wet(kind, clip, rate, **keys[kind])
        assert np.isfinite(changed).all()
        assert np.abs(changed).max() > 0
        if kind in LONGER:
            assert len(clip) <= len(changed) <= len(clip) + effects.TAIL_SECONDS * rate
        else:
            assert len(changed) == len(clip) or kind == "trim"


def test_a_chain_is_its_effects_in_order() -> None:
    clip = noise()
    first, second = {"gain_db": 12.0}, {"ceiling_db": -12.0}
    made = [registry.EFFECTS["gain"](RATE, **first), registry.EFFECTS["limiter"](RATE, **second)]
    there = effects.chain(made)(clip)
    np.testing.assert_array_equal(there, wet("limiter", wet("gain", clip, **first), **second))
    assert np.abs(there).max() < 0.26
    assert np.abs(effects.chain(reversed(made))(clip)).max() > 0.9


# -- filters -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slope", [6, 12, 24, 48])
def test_filters_have_their_cutoff_and_slope(slope: int) -> None:
    octave = {"slope_db_per_octave": slope}
    assert change_db("high-pass", 800, cutoff_hz=800, **octave) == pytest.approx(-3.01, abs=0.05)
    assert change_db("low-pass", 800, cutoff_hz=800, **octave) == pytest.approx(-3.01, abs=0.05)
    ratio = np.tan(np.pi * 800 / RATE) / np.tan(np.pi * 200 / RATE)
    expected = -10 * np.log10(1 + ratio ** (slope / 3))
    assert change_db("high-pass", 200, cutoff_hz=800, **octave) == pytest.approx(expected, abs=0.05)
    assert change_db("low-pass", 3200, cutoff_hz=800, **octave) < -2 * slope
    assert change_db("high-pass", 6400, cutoff_hz=800, **octave) == pytest.approx(0, abs=0.1)
    assert change_db("low-pass", 100, cutoff_hz=800, **octave) == pytest.approx(0, abs=0.1)


def test_a_steep_filter_at_a_low_frequency_is_what_it_says() -> None:
    rate = 44100
    click = np.zeros(2 * rate, np.float32)
    click[0] = 1
    spectrum = np.abs(np.fft.rfft(wet("high-pass", click, rate, cutoff_hz=30, slope_db_per_octave=48)))
    hz = np.fft.rfftfreq(len(click), 1 / rate)
    expected = 1 / np.sqrt(1 + (np.tan(np.pi * 30 / rate) / np.tan(np.pi * hz[1:-1] / rate)) ** 16)
    np.testing.assert_allclose(spectrum[1:-1], expected, atol=1e-4)


def test_an_equaliser_band_moves_its_band_alone() -> None:
    for gain_db in (9.0, -9.0):
        band = {"frequency_hz": 1000, "gain_db": gain_db, "q": 2}
        assert change_db("eq-band", 1000, **band) == pytest.approx(gain_db, abs=0.05)
        assert change_db("eq-band", 60, **band) == pytest.approx(0, abs=0.1)
        assert change_db("eq-band", 9000, **band) == pytest.approx(0, abs=0.1)
    narrow, wide = (change_db("eq-band", 1300, frequency_hz=1000, gain_db=9, q=q) for q in (8, 0.7))
    assert narrow < 2 < 7 < wide


# -- level -------------------------------------------------------------------------------------------------------------


def test_gain_is_exact() -> None:
    clip = noise()
    np.testing.assert_allclose(wet("gain", clip, gain_db=-6), clip * 10 ** (-6 / 20), rtol=1e-6)


def test_a_compressor_divides_what_is_above_its_threshold() -> None:
    clip = sine(440, amplitude=1.0)
    below = sine(440, amplitude=0.05)
    for threshold, ratio in ((-20.0, 4.0), (-12.0, 2.0)):
        turned = level_db(wet("compressor", clip, threshold_db=threshold, ratio=ratio, attack_ms=1)) - level_db(clip)
        assert turned == pytest.approx(threshold * (1 - 1 / ratio), abs=0.5)
        np.testing.assert_allclose(wet("compressor", below, threshold_db=threshold, ratio=ratio), below, atol=1e-6)


def test_a_limiter_keeps_its_ceiling_and_leaves_the_rest_alone(hits: list[tuple[np.ndarray, int]]) -> None:
    for ceiling in (-1.0, -12.0):
        highest = 10 ** (ceiling / 20)
        for clip, rate in [*hits, (noise(amplitude=2.0), RATE), (sine(60, 1.0), RATE)]:
            loud = clip / np.abs(clip).max() * np.float32(4)
            assert np.abs(wet("limiter", loud, rate, ceiling_db=ceiling)).max() == pytest.approx(highest, rel=1e-3)
            quiet = clip / np.abs(clip).max() * np.float32(0.9 * highest)
            np.testing.assert_allclose(wet("limiter", quiet, rate, ceiling_db=ceiling), quiet, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_the_standards_sine_has_the_standards_loudness(rate: int) -> None:
    """BS.1770-5: 997 Hz at full scale in one channel reads −3.01 LKFS."""
    assert effects.integrated_loudness(sine(997, 1.0, rate, 5), rate) == pytest.approx(-3.01, abs=0.01)


def test_loudness_weights_frequencies_as_an_independent_computation() -> None:
    """The standard's coefficients, and pyloudnorm 0.2's value (filter class DeMan) for the same noise at 48 kHz."""
    frequencies = np.array([31.5, 100, 997, 3000, 10000, 20000])
    _, response = sosfreqz(np.array(effects.K_WEIGHTING), frequencies, fs=48000)
    for frequency, power in zip(frequencies, 20 * np.log10(np.abs(response)), strict=True):
        found = effects.integrated_loudness(sine(frequency, 0.5, 48000, 4), 48000)
        assert found == pytest.approx(-0.691 + power + 20 * np.log10(0.5) - 3.0103, abs=0.02)
    steps = np.repeat([0.001, 0.1, 0.02, 0.4, 0.0], 48000).astype(np.float32)
    assert effects.integrated_loudness(noise(5, 1.0, 48000) * steps, 48000) == pytest.approx(-8.328, abs=0.005)


def test_quiet_passages_are_gated() -> None:
    """As in EBU Tech 3341: 10 s at −36, 60 s at −23, 10 s at −36 read −23; and below −70 nothing counts."""
    loud = sine(1000, 10 ** (-20 / 20), RATE, 60)
    quiet = sine(1000, 10 ** (-33 / 20), RATE, 10)
    alone = effects.integrated_loudness(loud, RATE)
    assert alone == pytest.approx(-23, abs=0.05)
    assert effects.integrated_loudness(np.concatenate([quiet, loud, quiet]), RATE) == pytest.approx(alone, abs=0.1)
    assert effects.integrated_loudness(loud * np.float32(1e-3), RATE) == -np.inf


def test_loudness_reaches_its_target(hits: list[tuple[np.ndarray, int]]) -> None:
    lengths = set()
    for clip, rate in [*hits, (noise(3, 1e-5), RATE), (noise(0.05), RATE), (sine(440, 0.9), RATE)]:
        lengths.add(len(clip) < 0.4 * rate)
        for lufs in (-14.0, -30.0):
            made = wet("loudness", clip, rate, lufs=lufs)
            assert effects.integrated_loudness(made, rate) == pytest.approx(lufs, abs=0.1)
            np.testing.assert_allclose(made / np.abs(made).max(), clip / np.abs(clip).max(), atol=1e-6)
    assert lengths == {True, False}


def test_a_short_clip_is_as_loud_as_in_silence() -> None:
    for seconds in (0.01, 0.1, 0.39):
        clip = sine(997, 1.0, 48000, seconds)
        among = np.concatenate([clip, np.zeros(48000, np.float32)])
        expected = -3.01 + 10 * np.log10(seconds / 0.4)
        assert effects.integrated_loudness(clip, 48000) == pytest.approx(expected, abs=0.2)
        assert effects.integrated_loudness(clip, 48000) >= effects.integrated_loudness(among, 48000)
    # Sound behind the last whole gating block is no silence either.
    late = np.concatenate([np.zeros(round(0.45 * 48000), np.float32), sine(997, 1.0, 48000, 0.04)])
    assert effects.integrated_loudness(late, 48000) == pytest.approx(-13 - 0.5, abs=1)


# -- space -------------------------------------------------------------------------------------------------------------


def tail_seconds(room_size: float) -> float:
    click = np.zeros(RATE // 10, np.float32)
    click[-1] = 1.0
    return (len(wet("reverb", click, room_size=room_size)) - len(click)) / RATE


def test_a_reverb_rings_out() -> None:
    small, middle, large = (tail_seconds(size) for size in (0.1, 0.5, 0.9))
    assert 0.4 < small < middle < large < effects.TAIL_SECONDS
    clip = noise(0.5)
    made = wet("reverb", clip, room_size=0.8, wet=0.5)
    peak = np.abs(made).max()
    assert 1e-4 * peak <= np.abs(made[-1])
    pieces = [np.abs(piece).max() for piece in np.array_split(made[len(clip) :], 5)]
    assert pieces == sorted(pieces, reverse=True)
    assert pieces[-1] < 1e-3 * peak


def test_a_reverb_without_wet_is_the_clip_and_without_dry_has_none_of_it() -> None:
    click = np.zeros(RATE, np.float32)
    click[100] = 0.5
    np.testing.assert_allclose(wet("reverb", click, wet=0), click, atol=1e-7)
    alone, both = (wet("reverb", click, wet=0.4, dry=dry)[: len(click)] for dry in (0, 1))
    assert np.abs(alone[: 100 + RATE // 100]).max() == 0
    np.testing.assert_allclose(both - alone, click, atol=1e-6)


def test_damping_takes_high_frequencies_from_a_reverb() -> None:
    def brightness(damping: float) -> float:
        late = wet("reverb", noise(0.2), damping=damping, dry=0)[RATE // 2 :]
        spectrum = np.abs(np.fft.rfft(late)) ** 2
        return float(spectrum[len(spectrum) // 2 :].sum() / spectrum.sum())

    assert brightness(0.9) < 0.5 * brightness(0.1)


def test_a_chorus_swings_and_rings_out() -> None:
    clip = noise(1.0)
    np.testing.assert_allclose(wet("chorus", clip, mix=0)[: len(clip)], clip, atol=1e-6)
    still = wet("chorus", clip, depth=0, delay_ms=10, mix=1)
    delay = int(np.argmax(np.correlate(still[:4000], clip[:3000], "valid")))
    assert delay == pytest.approx(0.01 * RATE, abs=2)
    assert len(still) == pytest.approx(len(clip) + 0.01 * RATE, abs=3)
    swinging = wet("chorus", sine(440), depth=0.5, mix=1)
    spectra = [np.abs(np.fft.rfft(one[2000 : 2000 + RATE // 2])) for one in (sine(440), swinging)]
    widths = [int((spectrum > 0.1 * spectrum.max()).sum()) for spectrum in spectra]
    assert widths[0] < widths[1]
    assert len(wet("chorus", clip, feedback=0.7)) > len(wet("chorus", clip)) > len(clip)


@pytest.mark.parametrize("own_rate", [8000, 22050, 44100])
def test_convolution_with_a_click_is_the_clip(own_rate: int, tmp_path: Path) -> None:
    clip = noise_below(3000)
    for seconds in (0.0, 0.02):
        click = np.zeros(own_rate // 10, np.float32)
        click[round(seconds * own_rate)] = 0.25
        audio.write(tmp_path / "click.wav", click, own_rate)
        made = wet("convolution", clip, impulse_response=str(tmp_path / "click.wav"))
        delayed = made[round(seconds * RATE) :][: len(clip)]
        tolerance = 1e-6 if own_rate == RATE else 0.04
        # A clip that begins at once holds more at its ends than the frequencies of the response.
        np.testing.assert_allclose(delayed[20:-20], clip[20:-20], atol=tolerance * np.abs(clip).max())


def noise_below(hz: float) -> np.ndarray:
    spectrum = np.fft.rfft(noise(0.5))
    spectrum[np.fft.rfftfreq(round(0.5 * RATE), 1 / RATE) > hz] = 0
    return np.fft.irfft(spectrum, round(0.5 * RATE)).astype(np.float32)


def test_convolution_is_convolution(impulse: Path) -> None:
    clip = noise(0.2)
    response, _ = audio.load(impulse)
    response = response / np.linalg.norm(response)
    expected = np.convolve(clip.astype(np.float64), response)
    made = wet("convolution", clip, impulse_response=str(impulse))
    assert len(clip) < len(made) <= len(expected)
    np.testing.assert_allclose(made, expected[: len(made)], atol=1e-6)
    assert np.abs(expected[len(made) :]).max(initial=0) < 1e-4 * np.abs(expected).max()
    expected *= 0.3
    expected[: len(clip)] += 0.9 * clip
    mixed = wet("convolution", clip, impulse_response=str(impulse), wet=0.3, dry=0.9)
    np.testing.assert_allclose(mixed, expected[: len(mixed)], atol=1e-6)


def test_an_impulse_response_is_resampled_to_the_clip(impulse: Path, tmp_path: Path) -> None:
    double = resample_poly(audio.load(impulse)[0], 2, 1).astype(np.float32)
    audio.write(tmp_path / "double.wav", double, 2 * RATE)
    clip = noise_below(6000)
    own, other = (wet("convolution", clip, impulse_response=str(path)) for path in (impulse, tmp_path / "double.wav"))
    samples = min(len(own), len(other))
    correlation = np.corrcoef(own[:samples], other[:samples])[0, 1]
    assert correlation > 0.999
    assert level_db(other[: len(clip)]) == pytest.approx(level_db(own[: len(clip)]), abs=0.5)


def test_what_is_no_impulse_response(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"nowhere\.wav.*no such file"):
        process("convolution", impulse_response=str(tmp_path / "nowhere.wav"))
    audio.write(tmp_path / "long.wav", noise(61, rate=1000), 1000)
    with pytest.raises(AudioError, match=r"long\.wav lasts 61 s; expected an impulse response of at most 60 s; cut it"):
        process("convolution", impulse_response=str(tmp_path / "long.wav"))


# -- ends --------------------------------------------------------------------------------------------------------------


def test_fades_are_straight_lines() -> None:
    clip = np.ones(1000, np.float32)
    made = wet("fade", clip, 1000, in_seconds=0.1, out_seconds=0.2)
    expected = np.ones(1000)
    expected[:100] = np.arange(100) / 100
    expected[800:] = np.arange(200)[::-1] / 200
    np.testing.assert_allclose(made, expected, atol=1e-7)
    assert made[0] == made[-1] == 0
    np.testing.assert_array_equal(wet("fade", clip, 1000), clip)
    np.testing.assert_allclose(wet("fade", clip, 1000, in_seconds=5), np.arange(1000) / 1000, atol=1e-7)


def test_trim_cuts_what_is_silent_at_the_ends() -> None:
    clip = np.concatenate([np.full(300, 1e-5), np.zeros(200), noise(0.1), np.zeros(500)]).astype(np.float32)
    inside = clip[500:-500]
    np.testing.assert_array_equal(wet("trim", clip), inside)
    np.testing.assert_array_equal(wet("trim", clip, ends="start"), clip[500:])
    np.testing.assert_array_equal(wet("trim", clip, ends="end"), clip[:-500])
    np.testing.assert_array_equal(wet("trim", clip, threshold_db=-100), clip[:-500])


# -- configuration -----------------------------------------------------------------------------------------------------


def completed(*overrides: str) -> Any:
    return build.complete(load_preset("smoke", overrides)).generate.effects


def test_a_configuration_lists_every_key() -> None:
    assert completed() == ()
    found = completed("generate.effects=[{kind: reverb, room_size: 0.4}, {kind: fade, out_seconds: 1}]")
    assert [effect.model_dump() for effect in found] == [
        {"kind": "reverb", "room_size": 0.4, "damping": 0.5, "wet": 0.3, "dry": 1.0},
        {"kind": "fade", "in_seconds": 0.0, "out_seconds": 1.0},
    ]


@pytest.mark.parametrize(
    ("effect", "words"),
    [
        ("{kind: revreb}", "'generate.effects.0.kind' is 'revreb'; did you mean 'reverb'?"),
        ("{kind: zzz}", "there are: chorus, compressor, convolution, eq-band, fade, gain, high-pass, limiter"),
        ("{kind: reverb, roomsize: 1}", "'generate.effects.0.roomsize' is no key.*did you mean 'room_size'?"),
        ("{kind: reverb, wet: much}", "'generate.effects.0.wet' is 'much'; Input should be a valid number"),
        ("{kind: gain}", "'generate.effects.0.gain_db' is missing"),
        ("{room_size: 1}", "'generate.effects.0.kind' is missing"),
        ("reverb", "'generate.effects.0' is 'reverb'"),
        ("{kind: reverb, wet: 2}", "generate.effects.0 reverb: wet is 2.0, expected 0 to 1"),
        ("{kind: reverb, wet: .nan}", "wet is nan"),
        ("{kind: high-pass, cutoff_hz: 4000}", "cutoff_hz is 4000.0, expected above 0 and below 4000, half the sample"),
        ("{kind: low-pass, cutoff_hz: 100, slope_db_per_octave: 10}", "expected a multiple of 6 from 6 to 48"),
        ("{kind: fade, in_seconds: -1}", "in_seconds is -1.0, expected 0 to 3600"),
        ("{kind: trim, ends: left}", "'generate.effects.0.ends' is 'left'"),
        ("{kind: chorus, feedback: 1}", "feedback is 1.0, expected -0.95 to 0.95"),
    ],
)
def test_what_is_no_effect_is_refused_by_name(effect: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("?", r"\?")):
        completed(f"generate.effects=[{effect}]")


def test_without_pedalboard(monkeypatch: pytest.MonkeyPatch, keys: dict[str, dict[str, Any]]) -> None:
    monkeypatch.setitem(sys.modules, "pedalboard", None)
    for kind in WITHOUT_PEDALBOARD:
        wet(kind, noise(0.1), **keys[kind])
    for kind in WITH_PEDALBOARD:
        with pytest.raises(ConfigError) as caught:
            process(kind, **keys[kind])
        assert "pedalboard is not installed" in caught.value.found
        assert all(named in caught.value.found for named in WITH_PEDALBOARD)
        assert not any(named in caught.value.found for named in WITHOUT_PEDALBOARD)
        assert caught.value.action == "pip install 'actseq[effects]'"


def test_nothing_slow_is_imported_before_it_is_needed() -> None:
    import subprocess

    program = "import sys; from actseq import effects; effects.reverb(8000); effects.high_pass(8000, cutoff_hz=100)\n"
    program += "print([name for name in ('pedalboard', 'scipy.signal', 'torch') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "[]"


# -- in a file ---------------------------------------------------------------------------------------------------------


def test_a_writer_sends_the_whole_through_at_its_final_level(tmp_path: Path) -> None:
    clip = noise(0.5)
    heard = []

    def louder(waveform: np.ndarray) -> np.ndarray:
        heard.append(waveform)
        return np.concatenate([waveform, waveform]) * np.float32(4)

    with audio.Writer(tmp_path / "plain.wav", RATE, peak=0.5) as plain:
        plain.write(clip)
    with audio.Writer(tmp_path / "a.wav", RATE, peak=0.5, through=louder, dry=tmp_path / "a.dry.wav") as writer:
        for piece in np.array_split(clip, 7):
            writer.write(piece)
    assert (tmp_path / "plain.wav").read_bytes() == (tmp_path / "a.dry.wav").read_bytes()
    [whole] = heard
    assert np.abs(whole).max() == pytest.approx(0.5)
    assert writer.gain == plain.gain
    assert writer.through_gain == pytest.approx(0.5)
    assert writer.samples == 2 * len(clip)
    made, _ = audio.load(tmp_path / "a.wav")
    np.testing.assert_allclose(made, np.concatenate([whole, whole]) * 2, atol=1 / 32768)
    with audio.Writer(tmp_path / "b.wav", RATE, through=lambda waveform: waveform) as writer:
        writer.write(clip)
    assert {path.name for path in tmp_path.iterdir()} == {"plain.wav", "a.wav", "a.dry.wav", "b.wav"}
