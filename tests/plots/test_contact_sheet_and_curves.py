"""Pictures: what they show where it can be measured, and that odd input never breaks them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread

from actseq.errors import ArtifactError, ConfigError
from actseq.plots import style
from actseq.plots.contact_sheet import CLIPPED, MAX_COLUMNS, Panel, _title, contact_sheet
from actseq.plots.spectra import FLOOR_DB, LogBands
from actseq.plots.style import DPI, fit
from actseq.plots.training_curves import training_curves as draw_curves

RATE = 8000

# numpy and matplotlib warn where something was drawn from nothing.
pytestmark = pytest.mark.filterwarnings("error")


def tone(hertz: float = 440.0, seconds: float = 0.5, sample_rate: int = RATE) -> np.ndarray:
    times = np.arange(round(seconds * sample_rate)) / sample_rate
    return (0.5 * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


def pixels(path: Path) -> np.ndarray:
    return imread(path)[..., :3]


def count_colour(path: Path, rgb: tuple[int, int, int]) -> int:
    return int((np.abs(pixels(path) * 255 - rgb) < 2).all(axis=-1).sum())


def test_sheet_is_written_whole_and_alone(tmp_path: Path) -> None:
    rows = {name: [Panel(f"{name} {n}", tone()) for n in range(8)] for name in ("real", "reconstructed", "generated")}
    path = tmp_path / "previews" / "sheet.png"
    assert contact_sheet(path, rows, RATE, title="digits") == path
    assert [entry.name for entry in path.parent.iterdir()] == ["sheet.png"]
    height, width, _ = pixels(path).shape
    assert 1500 < width < 2500
    assert 3 * DPI < height < 1200


@pytest.mark.parametrize(("n", "lines", "columns"), [(10, 1, 10), (11, 2, 6), (21, 3, 7)])
def test_long_rows_wrap_into_even_lines(tmp_path: Path, n: int, lines: int, columns: int) -> None:
    assert columns <= MAX_COLUMNS
    sheet = pixels(contact_sheet(tmp_path / "n.png", {"real": [Panel("", tone())] * n}, RATE))
    # The same picture made of rows that need no wrapping, but for the space between rows.
    rows = {str(line): [Panel("", tone())] * columns for line in range(lines)}
    unwrapped = pixels(contact_sheet(tmp_path / "rows.png", rows, RATE))
    assert sheet.shape[1] == unwrapped.shape[1]
    assert 0 <= unwrapped.shape[0] - sheet.shape[0] < 0.2 * lines * DPI


@pytest.mark.parametrize(
    "waveform",
    [
        np.zeros(0, np.float32),
        np.zeros(4000, np.float32),
        np.full(4000, np.nan, np.float32),
        np.full(4000, 1e-42, np.float32),
    ],
    ids=["empty", "silent", "not-a-number", "subnormal"],
)
def test_nothing_to_hear_is_an_empty_panel(tmp_path: Path, waveform: np.ndarray) -> None:
    alone = contact_sheet(tmp_path / "alone.png", {"real": [Panel("nothing", waveform)]}, RATE)
    audible = contact_sheet(tmp_path / "audible.png", {"real": [Panel("nothing", tone())]}, RATE)
    wave = (0x3B, 0x4A, 0x6B)
    assert count_colour(alone, wave) == 0 < count_colour(audible, wave)
    contact_sheet(tmp_path / "mixed.png", {"real": [Panel("a", tone()), Panel("nothing", waveform)]}, RATE)


@pytest.mark.parametrize(
    "waveform",
    [
        np.ones(1, np.float32),
        np.full(4000, 0.5, np.float32),
        np.array([0.1, np.inf, -0.2], np.float32),
        np.full(300, 3e38, np.float32),
        tone().astype(np.float64),
    ],
    ids=["one-sample", "constant", "infinite", "huge", "float64"],
)
def test_odd_waveforms_are_drawn(tmp_path: Path, waveform: np.ndarray) -> None:
    assert pixels(contact_sheet(tmp_path / "odd.png", {"real": [Panel("odd", waveform)]}, RATE)).size


def test_long_clip_is_cut_to_the_seconds_asked_for(tmp_path: Path) -> None:
    quiet_start = np.concatenate([np.zeros(44100 * 2, np.float32), tone(3000.0, 28.0, 44100)])
    whole = contact_sheet(tmp_path / "whole.png", {"real": [Panel("storm", quiet_start)]}, 44100)
    start = contact_sheet(tmp_path / "start.png", {"real": [Panel("storm", quiet_start)]}, 44100, seconds=2.0)
    wave = (0x3B, 0x4A, 0x6B)
    assert count_colour(start, wave) == 0 < count_colour(whole, wave)


def test_marks_are_drawn_where_they_lie(tmp_path: Path) -> None:
    def mark_columns(*marks: float) -> np.ndarray:
        path = contact_sheet(tmp_path / "marks.png", {"real": [Panel("join", tone(seconds=1.0), marks)]}, RATE)
        return np.flatnonzero((np.abs(pixels(path) * 255 - (0x00, 0xA0, 0x8A)) < 12).all(axis=-1).sum(axis=0) > 80)

    assert mark_columns().size == 0
    quarter, half, three_quarters = (mark_columns(time).mean() for time in (0.25, 0.5, 0.75))
    assert half - quarter == pytest.approx(2.8 * DPI / 4, abs=2)
    assert three_quarters - half == pytest.approx(2.8 * DPI / 4, abs=2)
    assert mark_columns(0.25, 0.75).size > mark_columns(0.25).size
    assert mark_columns(7.0).size == 0


def test_same_input_same_bytes_even_under_a_dark_style(tmp_path: Path, metrics: Path) -> None:
    import matplotlib.style

    rows = {"real": [Panel("a", tone(), (0.1,)), Panel("b", tone(880.0))]}
    first = contact_sheet(tmp_path / "1.png", rows, RATE, title="t"), draw_curves(tmp_path / "2.png", metrics)
    with matplotlib.style.context(["dark_background", {"font.size": 30.0}]):
        second = contact_sheet(tmp_path / "3.png", rows, RATE, title="t"), draw_curves(tmp_path / "4.png", metrics)
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert b"Software" not in one.read_bytes()


def test_titles_of_any_letters(tmp_path: Path) -> None:
    rows = {"ré$el$ 音": [Panel("$\\frac{ 鼓 \n" + "long " * 30, tone())]}
    assert pixels(contact_sheet(tmp_path / "sheet.png", rows, RATE, title="$_$ 🥁")).size


def test_long_texts_keep_both_ends() -> None:
    fitted = fit("frankensnare__hit_vl4_rr1", 1.0, 6.5)
    assert len(fitted) < 25
    assert (fitted[0], fitted[-3:]) == ("f", "rr1")
    assert fit("kick", 1.0, 6.5) == "kick"


@pytest.mark.parametrize("rows", [{}, {"real": []}])
def test_no_panels(tmp_path: Path, rows: dict[str, list[Panel]]) -> None:
    with pytest.raises(ConfigError, match="without panels"):
        contact_sheet(tmp_path / "sheet.png", rows, RATE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_impossible_lengths(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(ConfigError, match="seconds"):
        contact_sheet(tmp_path / "sheet.png", {"real": [Panel("", tone())]}, RATE, seconds=seconds)


@pytest.mark.parametrize("hertz", [60.0, 440.0, 3500.0])
def test_spectrogram_shows_a_tone_at_its_frequency_and_0_db(hertz: float) -> None:
    bands = LogBands.of(RATE)
    levels = bands.spectrogram(tone(hertz, 1.0), 25)
    assert levels.shape == (bands.weights.shape[1], 321)
    assert (levels.max(), levels.min()) == (0.0, pytest.approx(FLOOR_DB))
    centres = np.geomspace(40.0, RATE / 2, bands.weights.shape[1])
    assert centres[levels[:, 160].argmax()] == pytest.approx(hertz, rel=0.02, abs=RATE / bands.n_fft)


def test_click_between_sparse_columns_is_seen() -> None:
    bands = LogBands.of(RATE)
    waveform = np.zeros(30 * RATE, np.float32)
    waveform[10 * RATE + 377] = 1.0
    levels = bands.spectrogram(waveform, RATE)
    assert levels.shape[1] in (30, 31, 32)
    assert levels.max(axis=0).argmax() in (9, 10)
    assert levels.max() == 0.0


def test_offset_does_not_wash_out_the_rest() -> None:
    bands = LogBands.of(RATE)
    plain, offset = (bands.spectrogram(0.02 * tone() + shift, 25) for shift in (np.float32(0), np.float32(0.9)))
    np.testing.assert_allclose(plain, offset, atol=3.0)
    assert bands.spectrogram(np.full(4000, 0.9, np.float32), 25).max() == pytest.approx(FLOOR_DB)


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    path = tmp_path / "metrics.csv"
    path.write_text(
        "step,train/loss,validation/loss,train/kl,learning_rate\n0,2.0,,0.1,0.001\n10,1.5,1.6,nan,0.001\n20,1,,-0.1,0\n"
    )
    return path


def test_train_and_validation_share_a_chart(tmp_path: Path, metrics: Path) -> None:
    widths = []
    for header in ("train/loss,validation/loss", "train/loss,validation/kl"):
        metrics.write_text(f"step,{header}\n0,1,2\n1,0.5,1\n")
        path = draw_curves(tmp_path / "curves.png", metrics)
        assert min(count_colour(path, (0x48, 0x78, 0xA8)), count_colour(path, (0xD9, 0x62, 0x2B))) > 0
        widths.append(pixels(path).shape[1])
    assert widths[1] > 1.5 * widths[0]


def test_many_measures_and_a_long_training(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    rows = [",".join([str(step), *(f"{np.exp(-step / 300) + n:.5f}" for n in range(9))]) for step in range(1000)]
    path.write_text("step," + ",".join(f"train/m{n}" for n in range(9)) + "\n" + "\n".join(rows) + "\n")
    height, width, _ = pixels(draw_curves(tmp_path / "curves.png", path, title="prior")).shape
    assert 3 * DPI < height < width < 2200


@pytest.mark.parametrize(
    "text",
    [
        "step,loss\n5,1\n",
        "step,loss,kl\n0,1,\n10,2,\n",
        "step,loss\n0,1\n10,inf\n",
        "step,loss\n0,1\n10,0.5\n5,0.7\n10,0.4\n",
        "step,loss,kl\n0,1,1\n10,0.",
    ],
    ids=["one-row", "no-values-in-one", "infinite", "resumed", "last-line-unfinished"],
)
def test_sparse_csv_is_drawn(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.csv").write_text(text)
    assert pixels(draw_curves(tmp_path / "curves.png", tmp_path / "metrics.csv")).size


def test_repeated_step_shows_the_later_row(tmp_path: Path) -> None:
    drawn = []
    for text in ("step,loss\n0,1\n10,9\n10,0.5\n", "step,loss\n10,0.5\n0,1\n"):
        (tmp_path / "metrics.csv").write_text(text)
        drawn.append(draw_curves(tmp_path / "curves.png", tmp_path / "metrics.csv").read_bytes())
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "no column step"),
        (b"epoch,loss\n1,2\n", "no column step"),
        (b"step,loss\n", "holds no values"),
        (b"step,loss\n0,\n", "holds no values"),
        (b"step\n0\n", "holds no values"),
        (b"step,loss\n0,1\n10,low\n", "row 2, loss: 'low'"),
        (b"step,loss\n,1\n", "row 1 has no step"),
        (b"step,loss\n0,1,2\n", "row 1 has 3 cells"),
        (b"step,loss\n0\n10,1\n", "row 1 has 1 cells"),
        (b'step,loss\n0,"1\n', "not a CSV"),
        (b"\xff\xfe\x00step", "cannot be read"),
    ],
)
def test_bad_csv(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "metrics.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=message) as caught:
        draw_curves(tmp_path / "curves.png", path)
    assert "metrics.csv" in str(caught.value)
    assert not (tmp_path / "curves.png").exists()


def test_real_clips(tmp_path: Path, data_dir: Path) -> None:
    panels = []
    for file in sorted((data_dir / "digits_fsdd").rglob("*.wav"))[:12]:
        waveform, sample_rate = soundfile.read(file, dtype="float32")
        panels.append(Panel(file.stem, waveform))
    path = contact_sheet(tmp_path / "digits.png", {"real": panels}, sample_rate, seconds=1.0)
    assert count_colour(path, (0x3B, 0x4A, 0x6B)) > 1000


@pytest.mark.parametrize(("amplitude", "said"), [(0.9, False), (1.2, True)])
def test_a_sheet_with_a_peak_beyond_full_scale_says_what_becomes_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, amplitude: float, said: bool
) -> None:
    words: list[str] = []
    drawn = style.text

    def noted(where: Any, x: float, y: float, text: str, *rest: Any, **more: Any) -> Any:
        words.append(text)
        return drawn(where, x, y, text, *rest, **more)

    monkeypatch.setattr(style, "text", noted)
    loud = tone() * np.float32(amplitude / np.abs(tone()).max())
    contact_sheet(tmp_path / "sheet.png", {"generated": [Panel("loud", loud)]}, RATE)
    assert any(CLIPPED in one for one in words) is said


@pytest.mark.parametrize("words", ["kick", "frankensnare__hit_vl4_rr1", "a very long name of a sound, " * 4])
def test_a_title_has_two_lines_where_one_is_too_short(words: str) -> None:
    inches = 0.9
    lines = _title(words, inches)
    assert [fit(line, inches, 6.5) for line in lines] == lines
    assert len(lines) == (1 if len(words) < 10 else 2)
    assert "…" in "".join(lines) if len(words) > 40 else "".join(lines) == words
