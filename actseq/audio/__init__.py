"""Sound files."""

from actseq.audio.decoding import BLOCK, SILENCE, SPAN
from actseq.audio.files import Scan, ScanRow, SoundFolder, file_digest, find, left_out, search
from actseq.audio.formats import extensions
from actseq.audio.gaps import find_gaps
from actseq.audio.labels import Span, read_labels, spans_inside
from actseq.audio.recording import (
    Recording,
    beginning,
    blocks,
    load,
    measure,
    named,
    remove_offset,
    resample,
    trim_bounds,
)
from actseq.audio.similar import similar
from actseq.audio.worker import Reading, in_workers, n_workers
from actseq.audio.writing import SUBTYPES, Writer, as_flac, check_writable, subtype, write

__all__ = [
    "BLOCK",
    "SILENCE",
    "SPAN",
    "SUBTYPES",
    "Reading",
    "Recording",
    "Scan",
    "ScanRow",
    "SoundFolder",
    "Span",
    "Writer",
    "as_flac",
    "beginning",
    "blocks",
    "check_writable",
    "extensions",
    "file_digest",
    "find",
    "find_gaps",
    "in_workers",
    "left_out",
    "load",
    "measure",
    "n_workers",
    "named",
    "read_labels",
    "remove_offset",
    "resample",
    "search",
    "similar",
    "spans_inside",
    "subtype",
    "trim_bounds",
    "write",
]
