"""The table of labels: files with a label, files with several labels in time."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped, unused-ignore]

from actseq import audio
from actseq.audio.labels import Span
from actseq.errors import ConfigError

RATE = 8000


def wav(path: Path, seconds: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(np.arange(round(seconds * RATE)) * 0.3), RATE)
    return path


def test_read_labels(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("\ufefffile,speaker,label\r\n./a/b.wav,x,low\r\na\\c.wav,y,höher\r\n", encoding="utf-8", newline="")
    table = audio.read_labels(path)
    assert {name: table.label(name) for name in table.spans} == {"a/b.wav": "low", "a/c.wav": "höher"}
    assert not table.timed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,label\na.wav,x\n", "has the columns name, label; expected .*`file`"),
        ("", "an empty file"),
        (
            "file,label\na.wav,x\n./a.wav,y\n",
            r"line 3: a\.wav a second time; .*; give each file one row, or add both columns",
        ),
        ("file,label\na.wav\n", "line 2: no file or no label"),
        ("file,label\n,x\n", "line 2: no file or no label"),
    ],
)
def test_read_labels_refuses(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        audio.read_labels(path)


def test_read_labels_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.csv cannot be read"):
        audio.read_labels(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes(b"file,label\na.wav,\xe9\n")
    with pytest.raises(ConfigError, match="UTF-8"):
        audio.read_labels(tmp_path / "latin.csv")


def test_rows_with_times_are_labels_in_time(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("file,start,end,label\na.wav,0.5,,b\na.wav,0.1,0.4,a\nb.wav,,,c\nd.wav,0.2,0.3,c\n")
    table = audio.read_labels(path)
    assert table.timed
    assert table.spans == {
        "a.wav": (Span(0.1, 0.4, "a"), Span(0.5, None, "b")),
        "b.wav": (Span(0.0, None, "c"),),
        "d.wav": (Span(0.2, 0.3, "c"),),
    }
    assert [table.label(name) for name in table.spans] == ["", "c", "c"], "several labels count as none"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a.wav,0.1,0.5,x\na.wav,0.4,0.6,y\n", "in a.wav, 'y' begins at 0.4 s, before 'x' ends"),
        ("a.wav,0.4,0.6,y\na.wav,,,x\n", "'y' begins at 0.4 s, before 'x' ends"),
        ("a.wav,0.1,,x\na.wav,0.5,0.6,y\n", "before 'x' ends"),
        ("a.wav,0.5,0.5,x\n", "line 2: from 0.5 to 0.5; expected 0 ≤ start < end, in seconds; correct the times"),
        ("a.wav,-1,0.5,x\n", "0 ≤ start"),
        ("a.wav,nan,0.5,x\n", "0 ≤ start"),
        ("a.wav,0,inf,x\n", "0 ≤ start"),
        ("a.wav,0,soon,x\n", "from '0' to 'soon'; expected seconds, such as 0.25; correct the times"),
    ],
)
def test_times_that_cannot_be_are_refused(tmp_path: Path, rows: str, message: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(f"file,start,end,label\n{rows}")
    with pytest.raises(ConfigError, match=message):
        audio.read_labels(path)


def test_a_start_needs_an_end(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("file,start,label\na.wav,0,x\n")
    with pytest.raises(ConfigError, match="the column `start` alone; expected both `start` and `end`"):
        audio.read_labels(path)


def test_a_scan_holds_the_times_and_notices_other_ones(tmp_path: Path) -> None:
    wav(tmp_path / "in" / "x" / "a.wav")
    wav(tmp_path / "in" / "y" / "b.wav")
    table, scan_csv = tmp_path / "labels.csv", tmp_path / "scan.csv"
    text = "file,start,end,label\nx/a.wav,0.1,0.4,one\nx/a.wav,0.5,,two\n"
    table.write_text(text)
    sounds = audio.SoundFolder(tmp_path / "in", table)
    rows = sounds.scan().rows
    assert [row.label for row in rows] == ["", "y"]
    assert rows[0].spans == (Span(0.1, 0.4, "one"), Span(0.5, None, "two"))
    assert rows[1].spans == (Span(0.0, None, "y"),), "a file without a row has the label of its folder"
    sounds.scan().write_csv(scan_csv)
    os.utime(tmp_path / "in" / "x" / "a.wav", (1, 1))
    assert audio.SoundFolder(tmp_path / "in", table).same_as(scan_csv)
    table.write_text(text.replace("0.4", "0.3"))
    assert not audio.SoundFolder(tmp_path / "in", table).same_as(scan_csv)


def test_a_label_after_the_end_of_its_file_is_refused(tmp_path: Path) -> None:
    wav(tmp_path / "in" / "a.wav")
    (tmp_path / "labels.csv").write_text("file,start,end,label\na.wav,0,0.5,x\na.wav,100,400,y\n")
    with pytest.raises(ConfigError, match="'y' begins at 100 s, and the file ends at 1 s"):
        audio.SoundFolder(tmp_path / "in", tmp_path / "labels.csv").scan()


def test_an_end_long_after_that_of_its_file_is_refused(tmp_path: Path) -> None:
    wav(tmp_path / "in" / "a.wav")
    for end, refused in (("1.09", False), ("1.11", True), ("2.5", True)):
        (tmp_path / "labels.csv").write_text(f"file,start,end,label\na.wav,0.5,{end},x\n")
        sounds = audio.SoundFolder(tmp_path / "in", tmp_path / "labels.csv")
        if refused:
            with pytest.raises(ConfigError, match=f"'x' ends at {end} s, and the file ends at 1 s.*correct the times"):
                sounds.scan()
        else:
            assert sounds.scan().rows[0].spans == (Span(0.5, float(end), "x"),)
