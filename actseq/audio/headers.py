"""Find out from its headers whether a sound file is whole.

libsndfile does not report that a file is cut short. WAV, AIFF, 8SVX, AU, CAF and W64 are checked by the size in their
header, Ogg by its last page; the FLAC decoder reports it itself. An MP3 is read as far as it goes, because its header
is often wrong, and so are the rarer old formats (MAT, VOC, PAF, IRCAM, NIST, …).
"""

import os
import struct
from typing import BinaryIO

from actseq.errors import AudioError


def check_whole(file: BinaryIO) -> None:
    """Check that a file holds all the sound that its header declares.

    Raises:
        AudioError: the file is empty or cut short.

    Source: the specifications of RIFF, RF64 (EBU Tech 3306), AIFF-C, AU, CAF, Wave64; RFC 3533, section 6 (Ogg pages).
    """
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        raise AudioError("empty: no bytes")
    file.seek(0)
    head = file.read(40).ljust(40, b"\0")
    found = None
    extra = 0
    match head[:4]:
        case b"RIFF" | b"RF64" | b"BW64":
            found = find_chunk(file, size, 12, "<4sI", (b"data",))
            if found and head[:4] != b"RIFF" and found[1] == 2**32 - 1 and head[12:16] == b"ds64":
                found = found[0], struct.unpack_from("<Q", head, 28)[0]
        case b"RIFX":
            found = find_chunk(file, size, 12, ">4sI", (b"data",))
        case b"FORM":
            found = find_chunk(file, size, 12, ">4sI", (b"SSND", b"BODY"))
            # An SSND chunk begins with 8 bytes about its own layout.
            extra = 8 if head[8:12] in (b"AIFF", b"AIFC") else 0
        case b".snd":
            found = struct.unpack_from(">2I", head, 4)
        case b"riff":
            found = find_chunk(file, size, 40, "<16sQ", (b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a",))
        case b"caff":
            # The chunk begins with 4 bytes of edit count.
            found, extra = find_chunk(file, size, 8, ">4sq", (b"data",)), 4
        case b"OggS":
            _check_ogg(file, size)
    if found is None:
        return
    start, declared = found
    # Recorders and encoders that cannot rewrite the header leave 0 or the largest size in it.
    placeholder = declared == 0 or 0x7FFFF000 <= declared <= 0x80000000 or 0xFFFFF000 <= declared <= 0xFFFFFFFF
    # Some encoders count a final padding byte that they do not write.
    if declared - (size - start) > 1 and not placeholder:
        raise AudioError(
            f"cut short: header says {declared - extra} bytes of sound, file holds {max(0, size - start - extra)}"
        )


def find_chunk(file: BinaryIO, size: int, start: int, layout: str, names: tuple[bytes, ...]) -> tuple[int, int] | None:
    """Start of the content of the first chunk with one of these names, and its declared size in bytes."""
    step = struct.calcsize(layout)
    while start + step <= size:
        file.seek(start)
        name, length = struct.unpack(layout, file.read(step))
        padded = length + length % 2
        if step == 12:
            # Core Audio does not pad, and -1 means the rest of the file.
            padded = length = max(0, length)
        elif step == 24:
            # Wave64 includes the chunk's header in the size, and pads to 8 bytes.
            length = max(0, length - step)
            padded = -(-length // 8) * 8
        if name in names:
            return start + step, length
        start += step + padded
    return None


def _check_ogg(file: BinaryIO, size: int) -> None:
    # A page has at most 65,307 bytes; a tag may follow the last page.
    file.seek(max(0, size - 2 * 65307))
    tail = file.read()
    start = tail.rfind(b"OggS\0")
    whole = False
    if 0 <= start <= len(tail) - 27:
        lengths = tail[start + 27 : start + 27 + tail[start + 26]]
        whole = len(lengths) == tail[start + 26] and start + 27 + len(lengths) + sum(lengths) <= len(tail)
    if not whole or not tail[start + 5] & 4:
        raise AudioError("cut short: the Ogg stream has no last page")
