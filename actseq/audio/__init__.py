"""Sound files."""

from actseq.audio.decoding import BLOCK, Recording, blocks, load, measure, remove_offset, resample, trim_bounds
from actseq.audio.files import Scan, ScanRow, find, label_of, read_labels, scan
from actseq.audio.formats import extensions
from actseq.audio.writing import Writer, write

__all__ = [
    "BLOCK",
    "Recording",
    "Scan",
    "ScanRow",
    "Writer",
    "blocks",
    "extensions",
    "find",
    "label_of",
    "load",
    "measure",
    "read_labels",
    "remove_offset",
    "resample",
    "scan",
    "trim_bounds",
    "write",
]
