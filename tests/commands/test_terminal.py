"""What reaches the terminal, and what the command line makes of names."""

from pathlib import Path

import pytest
from actseq_cli.options import _files  # type: ignore[import-untyped, unused-ignore]
from actseq_cli.progress import Terminal, printable  # type: ignore[import-untyped, unused-ignore]


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
