"""A part of a file as a file of its own, for decoders that must not see the rest or a wrong header."""

import os
from typing import BinaryIO

from actseq.audio.headers import Part


class PartFile:
    """What a `Part` shows of a file.

    Args:
        file: the whole file.
        part: what is shown.
    """

    def __init__(self, file: BinaryIO, part: Part) -> None:
        self.file, self.part, self.at = file, part, 0

    def tell(self) -> int:
        """Position in the part."""
        return self.at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position in the part."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.part.stop - self.part.start}[whence]
        self.at = max(0, base + offset)
        return self.at

    def read(self, count: int = -1) -> bytes:
        """At most `count` bytes from the position on; all that are left if it is negative."""
        first = self.part.start + self.at
        left = max(0, self.part.stop - first)
        self.file.seek(first)
        content = bytearray(self.file.read(left if count < 0 else min(count, left)))
        for position, patch in self.part.patches.items():
            # The overlap of the patch with what was read.
            begin, end = max(position, first), min(position + len(patch), first + len(content))
            if begin < end:
                content[begin - first : end - first] = patch[begin - position : end - position]
        self.at += len(content)
        return bytes(content)
