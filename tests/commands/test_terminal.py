"""What reaches the terminal, and what the command line makes of names."""

import io
import re
import sys
from pathlib import Path

import pytest
from actseq_cli.options import _files  # type: ignore[import-untyped, unused-ignore]
from actseq_cli.progress import Terminal, _speed, _Task, printable  # type: ignore[import-untyped, unused-ignore]
from actseq_cli.wrapping import wrap  # type: ignore[import-untyped, unused-ignore]


def test_control_characters_of_names_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b[2J\x07b\x9b31m\u202egnp.wav"
    assert printable(f"{name}\n\tend") == "a\\x1b[2J\\x07b\\x9b31m\\u202egnp.wav\n\tend"
    assert printable("plain café 音 \U0001f941") == "plain café 音 \U0001f941"
    terminal = Terminal()
    terminal.warn(f"skipped {name}")
    written = capsys.readouterr().err
    assert "\x1b" not in written
    assert "skipped a\\x1b[2J" in written


def test_a_comma_may_be_part_of_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one, two.wav", "three.wav"):
        Path(name).touch()
    assert _files("one, two.wav,three.wav") == [Path("one, two.wav"), Path("three.wav")]
    assert _files("three.wav,gone.wav") == [Path("three.wav"), Path("gone.wav")]


class FakeTerminal(io.StringIO):
    """A text that says that it is a terminal, and keeps what it is told to show."""

    def isatty(self) -> bool:
        return True


FIGURES = {"loss": 0.12345, "error_db": 3.5, "kbit_per_s": 8.25, "active_dims": 30.0}
HELD = {f"held-out {name}": value for name, value in FIGURES.items()}


def last_line(monkeypatch: pytest.MonkeyPatch, columns: int, figures: dict[str, float]) -> str:
    """The live line of a training at step 300 of 1000, without the commands to the terminal."""
    shown = FakeTerminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    terminal.begin("autoencoder", 800, 100)
    terminal.resize(1000)
    terminal.advance(300, figures)
    terminal.end()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue())
    return [line for line in re.split(r"[\r\n]+", plain) if line.strip()][-1]


@pytest.mark.parametrize("columns", [60, 80, 160, 240])
@pytest.mark.parametrize("figures", [{}, FIGURES, FIGURES | HELD])
def test_bar_steps_eta_and_speed_are_always_shown(
    monkeypatch: pytest.MonkeyPatch, columns: int, figures: dict[str, float]
) -> None:
    line = last_line(monkeypatch, columns, figures)
    assert len(line) <= columns
    assert re.match(r"autoencoder +[━╸╺─-]{7,} +300/1000 steps +ETA \d+:\d\d +[\d.]+/s", line), line


LONG = "verdict: " + "the sounds are near the real ones, " * 5 + "so train on: actseq train-ae x --run mine --more 4"
TABLE = "drums        " + "One-shots of several kinds at 44.1 kHz, with short windows for sharp attacks. " * 2


@pytest.mark.parametrize("columns", [40, 80, 120])
@pytest.mark.parametrize("line", [LONG, TABLE, "    indented: " + "words and more " * 20, "short"])
def test_lines_break_at_words_and_never_within_a_command(line: str, columns: int) -> None:
    broken = wrap(line, columns).split("\n")
    assert " ".join(" ".join(broken).split()) == " ".join(line.split())
    assert all(len(one) <= columns or "actseq train-ae" in one for one in broken)
    assert not line.count("actseq") or any("actseq train-ae x --run mine --more 4" in one for one in broken)
    assert line != TABLE or columns == 40 or all(one.startswith(13 * " ") or one == broken[0] for one in broken)


def test_only_a_terminal_gets_broken_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    for stream, lines in ((FakeTerminal(), 5), (io.StringIO(), 1)):
        monkeypatch.setattr(sys, "stderr", stream)
        Terminal().warn(LONG)
        assert len(stream.getvalue().splitlines()) == lines


@pytest.mark.parametrize(
    ("total", "done", "count"),
    [(1.5, 0, "0.0/1.5"), (1.5, 0.75, "0.8/1.5"), (3, 1, "1/3"), (119.6, 119.6, "120/120"), (0, 4, "4")],
)
def test_counts_are_whole_unless_there_are_few_seconds(total: float, done: float, count: str) -> None:
    assert _Task("t", total, "units", 0, done).parts()[0] == f"{count} units"


@pytest.mark.parametrize(
    ("per_second", "shown"), [(300, ["300.0/s"]), (1, ["1.0/s"]), (0.04, ["2.4/min"]), (0.002, ["7.2/h"]), (0, [])]
)
def test_a_speed_is_shown_in_a_unit_that_says_something(per_second: float, shown: list[str]) -> None:
    assert _speed(per_second) == shown


def test_held_out_figures_give_way_first(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow, wide, widest = (last_line(monkeypatch, columns, HELD | FIGURES) for columns in (100, 160, 240))
    assert "loss 0.1235" in narrow
    assert "held-out" not in narrow
    assert all(f"  {name} {value:.4g}" in wide for name, value in FIGURES.items())
    assert all(f"{name} {value:.4g}" in widest for name, value in HELD.items())
    assert "loss 0.1235" in last_line(monkeypatch, 80, HELD | FIGURES)
