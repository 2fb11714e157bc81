"""The table of labels: which label a file has, or which labels it has when."""

import csv
import json
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath

from actseq.errors import ConfigError


@dataclass(frozen=True)
class Span:
    """A stretch of time with a label.

    Attributes:
        begin: seconds from the beginning of the sound.
        end: seconds; None: the end of the sound.
        label: the label.
    """

    begin: float
    end: float | None
    label: str

    @property
    def last(self) -> float:
        """End in seconds; infinity for a span that lasts until the end of the sound."""
        return math.inf if self.end is None else self.end


@dataclass(frozen=True)
class LabelTable:
    """The labels of files.

    Attributes:
        timed: whether the table has the columns `start` and `end`.
        spans: relative path, as from `plain_name` → labels in the order of time.
    """

    timed: bool
    spans: Mapping[str, tuple[Span, ...]]

    def label(self, name: str) -> str:
        """The label of a file of the table; empty for a file with several rows, which counts as unlabelled."""
        spans = self.spans[name]
        return spans[0].label if len(spans) == 1 else ""


NO_TABLE = LabelTable(False, {})


def plain_name(name: str) -> str:
    """A relative path as tables of labels are compared with: composed letters (NFC), no blanks around its parts."""
    return unicodedata.normalize("NFC", "/".join(part.strip() for part in name.split("/")))


def read_labels(path: Path) -> LabelTable:
    """Read a CSV with the columns `file` and `label`, or `file`, `start`, `end` and `label`.

    Times are seconds of the file. An empty start is the beginning of the file, an empty end is its end.

    Raises:
        ConfigError: the table cannot be read, or lacks a column, a file or a label; a time is not one; a file has two
            labels at a time.
    """
    found: dict[str, list[Span]] = {}
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as table:
            reader = csv.DictReader(table)
            timed = _is_timed(path, reader.fieldnames or [])
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if not row["file"] or not row["file"].strip() or row["label"] is None:
                    raise ConfigError(f"{where}: no file or no label", action="add it")
                name = plain_name(PurePosixPath(row["file"].replace("\\", "/").strip()).as_posix())
                if not timed and name in found:
                    raise ConfigError(
                        f"{where}: {name} a second time",
                        "each file once, or the columns `start` and `end`",
                        "give each file one row, or add both columns",
                    )
                begin, end = _times(where, row) if timed else (0.0, None)
                found.setdefault(name, []).append(Span(begin, end, row["label"].strip()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as a table of labels ({error})", "a CSV file in UTF-8") from error
    return LabelTable(timed, {name: _in_order(path, name, spans) for name, spans in found.items()})


def _is_timed(path: Path, columns: Sequence[str]) -> bool:
    """Whether a table with these columns has times.

    Raises:
        ConfigError: a column is missing.
    """
    if not {"file", "label"} <= set(columns):
        raise ConfigError(
            f"{path} has the columns {', '.join(columns) or 'of an empty file'}",
            "a first line with `file` and `label`, separated by commas",
            "add it",
        )
    times = [name for name in ("start", "end") if name in columns]
    if len(times) == 1:
        raise ConfigError(
            f"{path} has the column `{times[0]}` alone",
            "both `start` and `end`, or neither",
            "add the other column; an empty start or end is that of the file",
        )
    return bool(times)


def _times(where: str, row: Mapping[str, str | None]) -> tuple[float, float | None]:
    """Beginning and end of a row, in seconds.

    Raises:
        ConfigError: one of them is not a number, or they are not in order.
    """
    texts = [(row[name] or "").strip() for name in ("start", "end")]
    try:
        begin, end = float(texts[0] or 0), float(texts[1]) if texts[1] else None
    except ValueError:
        raise ConfigError(
            f"{where}: from '{texts[0]}' to '{texts[1]}'", "seconds, such as 0.25", "correct the times"
        ) from None
    # Not a number is not in order either.
    if not 0 <= begin < (math.inf if end is None else end) or end == math.inf:
        raise ConfigError(
            f"{where}: from {texts[0] or 0} to {texts[1] or 'the end'}",
            "0 ≤ start < end, in seconds",
            "correct the times",
        )
    return begin, end


def _in_order(path: Path, name: str, spans: Sequence[Span]) -> tuple[Span, ...]:
    """Spans in the order of time.

    Raises:
        ConfigError: two of them overlap.
    """
    ordered = sorted(spans, key=lambda span: span.begin)
    for one, two in pairwise(ordered):
        if two.begin < one.last:
            raise ConfigError(
                f"{path}: in {name}, '{two.label}' begins at {two.begin:g} s, before '{one.label}' ends",
                "one label at a time",
                "correct the times",
            )
    return tuple(ordered)


def spans_text(spans: Sequence[Span]) -> str:
    """Spans as a text that `scan.csv` holds; empty for none."""
    return json.dumps([[span.begin, span.end, span.label] for span in spans], ensure_ascii=False) if spans else ""


def spans_inside(spans: Sequence[Span], begin: float, end: float, *, begins: bool, ends: bool) -> list[Span]:
    """The spans of a part of a sound, in seconds from the beginning of the part.

    A span that the part cuts keeps its own beginning and end, which then lie outside the part, so that it is still
    known how far into the span a time is. Where the sound itself begins or ends with the part, the span does too.

    Args:
        spans: those of the whole sound, each with its end.
        begin: where the part begins, in seconds of the sound.
        end: where it ends.
        begins: whether nothing of the sound lies before the part, or nothing but silence.
        ends: whether nothing of the sound lies after the part, or nothing but silence.
    """
    found = []
    for span in spans:
        first, last = max(span.begin, begin), min(span.last, end)
        if first < last:
            own = (first if begins else span.begin, last if ends else span.last)
            found.append(Span(own[0] - begin, own[1] - begin, span.label))
    return found
