"""Lines for a person, broken at words to the width of the terminal; elsewhere they stay as they are."""

from __future__ import annotations

import os
import re
import textwrap
from typing import IO

COMMAND = re.compile(r"\b(actseq|python|pip) [^;,()]+")
"""A command stays on one line, so that it can be copied; it goes to the end of its clause."""
COLUMN = re.compile(r"(\s*)(\S+ {2,})?")
"""Indentation and the first column of a table."""
BLANK, LEAST = "\ue000", 20


def wrapped(text: str, stream: IO[str]) -> str:
    """A text with lines that fit the terminal that a stream is; as it is where the stream is none."""
    columns = _columns(stream) if stream.isatty() else 0
    return text if columns < LEAST else "\n".join(wrap(line, columns) for line in text.split("\n"))


def wrap(line: str, columns: int) -> str:
    """A line broken at blanks into lines of at most `columns` characters; a longer word or command stays whole."""
    if len(line) <= columns:
        return line
    found = COLUMN.match(line)
    assert found is not None
    column = found.end() if found[2] and found.end() < columns // 2 else len(found[1]) + 2
    whole = COMMAND.sub(lambda command: command.group().rstrip().replace(" ", BLANK) + _end(command.group()), line)
    broken = textwrap.wrap(
        whole,
        columns,
        subsequent_indent=" " * column,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
        expand_tabs=False,
    )
    return "\n".join(broken).replace(BLANK, " ")


def _end(text: str) -> str:
    """The blanks at the end of a text."""
    return text[len(text.rstrip()) :]


def _columns(stream: IO[str]) -> int:
    """Width of a terminal; 0 if it is not known."""
    given = os.environ.get("COLUMNS", "")
    if given.isdigit():
        return int(given)
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return 0
