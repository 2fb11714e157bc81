"""The synthesised drum machine: repeatable, varied, clean at both ends, and shaped like drums."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile

from actseq.data import drumkit
from actseq.data.drumkit import KINDS, synthesise, write_drumkit
from actseq.errors import ConfigError

RATES = (8_000, 22_050, 44_100)
N_HITS = 30


@cache
def hits(kind: str, sample_rate: int = 22_050) -> list[np.ndarray]:
    return [synthesise(kind, seed, sample_rate) for seed in range(N_HITS)]


def power(waveform: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies in Hz and the share of the energy in each."""
    spectrum = np.abs(np.fft.rfft(waveform, 2 * sample_rate)) ** 2
    return np.fft.rfftfreq(2 * sample_rate, 1 / sample_rate), spectrum / spectrum.sum()


def centroid(waveform: np.ndarray, sample_rate: int = 22_050) -> float:
    frequencies, share = power(waveform, sample_rate)
    return float(frequencies @ share)


def share_between(waveform: np.ndarray, low: float, high: float, sample_rate: int = 22_050) -> float:
    frequencies, share = power(waveform, sample_rate)
    return float(share[(frequencies >= low) & (frequencies < high)].sum())


def strongest(waveform: np.ndarray, sample_rate: int) -> float:
    frequencies, share = power(waveform, sample_rate)
    return float(frequencies[np.argmax(share)])


@pytest.mark.parametrize("kind", KINDS)
def test_same_arguments_same_samples(kind: str) -> None:
    assert np.array_equal(synthesise(kind, 7), synthesise(kind, 7))


@pytest.mark.parametrize("kind", KINDS)
def test_different_seeds_are_different_drums(kind: str) -> None:
    # Magnitude spectra in third octaves, so that another draw of the same noise would not count as another drum.
    edges = 40.0 * 2.0 ** (np.arange(25) / 3.0)
    bands = []
    for hit in hits(kind):
        frequencies, share = power(hit, 22_050)
        sums = np.histogram(frequencies, edges, weights=share)[0]
        bands.append(10 * np.log10(sums + 1e-6))
    distances = [np.abs(a - b).max() for i, a in enumerate(bands) for b in bands[:i]]
    assert min(distances) > 1.0
    assert np.median(distances) > 4.0
    assert len({len(hit) for hit in hits(kind)}) > N_HITS // 2


@pytest.mark.parametrize("sample_rate", RATES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_hit_is_clean(kind: str, sample_rate: int) -> None:
    last = round(0.008 * sample_rate)
    for hit in hits(kind, sample_rate):
        peak = np.abs(hit).max()
        assert hit.dtype == np.float32
        assert hit.ndim == 1
        assert np.isfinite(hit).all()
        assert 0.08 <= len(hit) / sample_rate <= 0.9
        assert -9.01 <= 20 * np.log10(peak) <= -0.99
        assert np.argmax(np.abs(hit) > 0.1 * peak) <= 0.001 * sample_rate
        assert np.abs(hit[-last:]).max() <= 1e-3 * peak
        assert abs(hit[-1]) < 1e-6
        assert abs(hit.mean(dtype=np.float64)) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_peaks_and_lengths_vary(kind: str) -> None:
    peaks = [20 * np.log10(np.abs(hit).max()) for hit in hits(kind)]
    lengths = [len(hit) / 22_050 for hit in hits(kind)]
    assert max(peaks) - min(peaks) > 5.0
    assert max(lengths) > 1.8 * min(lengths)


@pytest.mark.parametrize("sample_rate", RATES)
def test_centroids_are_ordered(sample_rate: int) -> None:
    mean = {kind: np.mean([centroid(hit, sample_rate) for hit in hits(kind, sample_rate)]) for kind in KINDS}
    assert mean["kick"] < mean["tom"] < mean["snare"] < mean["hat"]


def test_kick_is_low_and_falls() -> None:
    assert np.mean([share_between(hit, 20, 150) for hit in hits("kick")]) > 0.75
    for hit in hits("kick"):
        # Up to 600 Hz, where the body is: the beater's click would count as a fall of its own.
        start, late = hit[: round(0.030 * 22_050)], hit[round(0.080 * 22_050) : round(0.150 * 22_050)]
        spectra = [np.abs(np.fft.rfft(part, 22_050))[:600] ** 2 for part in (start, late)]
        before, after = (np.arange(600) @ spectrum / spectrum.sum() for spectrum in spectra)
        assert before > 1.2 * after


def test_snare_has_head_and_wires() -> None:
    assert np.mean([share_between(hit, 120, 600) for hit in hits("snare")]) > 0.3
    assert np.mean([share_between(hit, 1_500, 11_025) for hit in hits("snare")]) > 0.1


def test_hat_is_high_and_closed_or_open() -> None:
    assert np.mean([share_between(hit, 5_000, 11_025) for hit in hits("hat")]) > 0.8
    lengths = np.array([len(hit) / 22_050 for hit in hits("hat")])
    assert (lengths < 0.2).sum() >= 5
    assert (lengths > 0.25).sum() >= 5


def test_tom_rings_at_its_own_pitch() -> None:
    pitches = [strongest(hit, 22_050) for hit in hits("tom")]
    assert min(pitches) > 75
    assert max(pitches) < 400
    assert max(pitches) > 1.7 * min(pitches)


def test_clap_is_several_bursts() -> None:
    window = np.hanning(round(0.003 * 22_050))
    for hit in hits("clap"):
        energy = np.convolve(hit[: round(0.07 * 22_050)] ** 2, window, "same")
        step = energy[::22]  # about 1 ms
        # A burst: the energy grows at least fourfold within 4 ms of a quieter moment.
        rises = [i for i in range(4, len(step)) if step[i] > 4 * step[i - 4 : i].min()]
        bursts = 1 + sum(b - a > 4 for a, b in zip([-5, *rises], rises, strict=False))
        assert bursts >= 3


def test_one_seed_is_the_same_drum_at_every_rate() -> None:
    for low, middle, high in zip(*(hits("tom", rate) for rate in RATES), strict=True):
        pitch = strongest(middle, 22_050)
        assert strongest(low, 8_000) == pytest.approx(pitch, rel=0.03)
        assert strongest(high, 44_100) == pytest.approx(pitch, rel=0.03)
        assert len(high) / 44_100 == pytest.approx(len(middle) / 22_050, rel=0.05)


def test_partials_are_damped_sines_below_nyquist() -> None:
    frequencies, t60 = np.array([300.0, 3_900.0, 4_100.0, 7_900.0]), np.array([0.1, 0.2, 0.3, 0.4])
    levels, phases = np.array([1.0, 0.5, 2.0, 2.0]), np.array([0.0, 1.0, 2.0, 3.0])
    time = np.arange(1_001)[:, None] / 8_000
    sines = levels * np.sin(2 * np.pi * frequencies * time + phases) * 10 ** (-3 * time / t60)
    found = drumkit._partials(1_001, 4_000.0, frequencies, t60, levels, phases)
    np.testing.assert_allclose(found, sines[:, :2].sum(1), atol=1e-9)


def test_modes_that_start_above_nyquist_are_left_out() -> None:
    time, one = np.arange(800) / 8_000, np.ones(1)
    # 2500 Hz bent up by 0.7 starts at 4250 Hz.
    assert not drumkit._modes(time, 4_000.0, 2_500.0, 0.7, 0.01, one, one, one).any()
    assert drumkit._modes(time, 4_000.0, 2_500.0, 0.5, 0.01, one, one, one).std() > 0.1


def test_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'snair'.*did you mean 'snare'"):
        synthesise("snair", 0)


@pytest.mark.parametrize(("seed", "sample_rate"), [(-1, 22_050), (0, 7_999)])
def test_values_out_of_range_are_refused(seed: int, sample_rate: int) -> None:
    with pytest.raises(ConfigError):
        synthesise("kick", seed, sample_rate)


def test_written_files_hold_the_hits(tmp_path: Path) -> None:
    paths = write_drumkit(tmp_path / "kit", n_per_kind=2, sample_rate=8_000)
    assert [path.relative_to(tmp_path / "kit").as_posix() for path in paths] == [
        f"{kind}/{kind}-{i:03d}.wav" for kind in KINDS for i in range(2)
    ]
    assert sorted(path for path in (tmp_path / "kit").rglob("*") if path.is_file()) == sorted(paths)
    for path in paths:
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype, info.format) == (8_000, 1, "PCM_16", "WAV")
    written = soundfile.read(paths[1], dtype="float32")[0]
    np.testing.assert_allclose(written, synthesise(KINDS[0], 1, 8_000), atol=2 / 32_768)


def test_same_arguments_same_bytes(tmp_path: Path) -> None:
    first = [path.read_bytes() for path in write_drumkit(tmp_path / "a", n_per_kind=2)]
    assert [path.read_bytes() for path in write_drumkit(tmp_path / "b", n_per_kind=2)] == first
    other = [path.read_bytes() for path in write_drumkit(tmp_path / "c", n_per_kind=2, seed=1)]
    assert not set(first) & set(other)


def test_a_killed_run_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {path.name: path.read_bytes() for path in write_drumkit(tmp_path / "whole", n_per_kind=2)}
    write, calls = Path.write_bytes, []

    def dies_in_the_fourth(file: Path, content: bytes) -> int:
        calls.append(file)
        if len(calls) == 4:
            write(file, content[:4])
            raise KeyboardInterrupt
        return write(file, content)

    monkeypatch.setattr(Path, "write_bytes", dies_in_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        write_drumkit(tmp_path / "kit", n_per_kind=2)
    done = list((tmp_path / "kit").rglob("*.wav"))
    assert len(done) == 3
    assert all(path.read_bytes() == whole[path.name] for path in done)

    monkeypatch.undo()
    paths = write_drumkit(tmp_path / "kit", n_per_kind=2)
    assert {path.name: path.read_bytes() for path in paths} == whole
    assert not list((tmp_path / "kit").rglob("*.part"))


@pytest.mark.parametrize("name", ["mine.wav", "snare/mine.wav", "snare/snare-002.wav"])
def test_a_folder_with_other_files_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(ConfigError, match=name):
        write_drumkit(tmp_path, n_per_kind=2)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kit").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="is a file"):
        write_drumkit(tmp_path / "kit", n_per_kind=1)


@pytest.mark.parametrize(("n_per_kind", "seed"), [(0, 0), (1, -1)])
def test_kit_values_out_of_range_are_refused(tmp_path: Path, n_per_kind: int, seed: int) -> None:
    with pytest.raises(ConfigError):
        write_drumkit(tmp_path / "kit", n_per_kind=n_per_kind, seed=seed)
    assert not (tmp_path / "kit").exists()
