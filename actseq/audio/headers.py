"""What the headers of a sound file say: whether it is whole, and what a decoder has to be shown to read all of it.

libsndfile does not report that a file is cut short, and it stops where the first of several sounds in one file ends.
`inspect` checks WAV, AIFF, 8SVX, AU, CAF and W64 by the size in their header and Ogg page by page; the FLAC decoder
reports it itself. An MP3 is read as far as it goes, because its header is often wrong, and so are the rarer old formats
(MAT, VOC, PAF, IRCAM, NIST, …).
"""

import itertools
import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from actseq.audio.formats import CONVERT, HEADERLESS, OGG_CODECS, identify
from actseq.errors import AudioError

HUGE = 2**62
"""A size from here on stands for an unknown one in 64 bits."""
UNFINISHED = "its header was never finished; it is read to the end of the file"
GSM = 0x31
"""Number of GSM 6.10 in a WAV file."""
FLAC_TAIL = 1 << 20
"""The last frame of a FLAC file begins within this many bytes before its end."""
WINDOW = 1 << 20
"""Bytes of a file that are searched at a time."""
REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))
"""Every byte with its bits in reverse order."""


@dataclass(frozen=True)
class Part:
    """One sound in a file, and what the decoder is shown.

    Attributes:
        start: first byte.
        stop: the byte after the last.
        patches: position in the file → bytes that the decoder sees there.
        most: most samples in this part; None if any number is right.
    """

    start: int
    stop: int
    patches: dict[int, bytes] = field(default_factory=dict)
    most: int | None = None


@dataclass(frozen=True)
class Layout:
    """How a file is read.

    Attributes:
        parts: the sounds in it, one after another; empty if the decoder needs no help.
        note: what is unusual about the file; "" if nothing is.
    """

    parts: tuple[Part, ...] = ()
    note: str = ""


def inspect(file: BinaryIO, ending: str) -> Layout:
    """Check that a file holds all the sound that its header declares, and find out how to read it.

    Args:
        file: the file.
        ending: the ending of its name, in lower case and without the dot.

    Raises:
        AudioError: the file is empty, cut short or damaged, or cannot be decoded because of what it is.

    Source: the specifications of RIFF, RF64 (EBU Tech 3306), BW64 (ITU-R BS.2088), AIFF-C, AU, CAF, Wave64, FLAC;
    RFC 3533, section 6 (Ogg pages).
    """
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        raise AudioError("empty: no bytes")
    begin = _behind_tags(file)
    file.seek(begin)
    head = file.read(64).ljust(64, b"\0")
    foreign = identify(head, ending)
    if foreign is not None:
        what, action = foreign
        raise AudioError(f"cannot be decoded: it is {what}", action=action)
    if begin and head[:4] != b"fLaC" and _mpeg(head) is None:
        # A tag does not belong there, and what follows is read as if it began there.
        return Layout((Part(begin, size),), "a tag lies before its header")
    match head[:4]:
        case b"RIFF" | b"RIFX" | b"RF64" | b"BW64":
            return _wav(file, size, head)
        case b"FORM":
            # An SSND chunk begins with 8 bytes about its own layout.
            extra = 8 if head[8:12] in (b"AIFF", b"AIFC") else 0
            _check_size(find_chunk(file, size, 12, ">4sI", (b"SSND", b"BODY")), size, extra)
        case b".snd":
            _check_size(struct.unpack_from(">2I", head, 4), size)
        case b"riff":
            return _wave64(file, size)
        case b"caff":
            # The chunk begins with 4 bytes of edit count.
            _check_size(find_chunk(file, size, 8, ">4sq", (b"data",)), size, 4)
        case b"fLaC":
            return _flac(file, size, begin)
        case b"OggS":
            return _ogg(file, size)
        case _ if _mpeg(head) is not None:
            return _mp3(file, size, begin)
    # A decoder that sees the ending of such a file expects no header.
    return Layout((Part(0, size),)) if ending in HEADERLESS else Layout()


def _behind_tags(file: BinaryIO) -> int:
    """Position behind the ID3v2 tags at the start of a file."""
    at = 0
    while True:
        file.seek(at)
        length = _id3(file.read(10))
        if not length:
            return at
        at += length


def _id3(head: bytes) -> int:
    """Bytes of the ID3v2 tag that begins with these ten bytes; 0 if there is none."""
    if head[:3] != b"ID3" or len(head) < 10 or head[3] > 4 or any(byte & 0x80 for byte in head[6:10]):
        return 0
    footer = 10 if head[5] & 0x10 else 0
    return 10 + footer + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])


def _check_size(found: tuple[int, int] | None, size: int, extra: int = 0) -> None:
    """Check that a chunk, given by the start of its content and its size, lies within the file.

    Raises:
        AudioError: the file is cut short.
    """
    if found is None:
        return
    start, declared = found
    # Recorders and encoders that cannot rewrite the header leave 0 or the largest size in it; some encoders count a
    # final padding byte that they do not write.
    if declared - (size - start) > 1 and not _placeholder(declared):
        raise AudioError(
            f"cut short: header says {declared - extra} bytes of sound, file holds {max(0, size - start - extra)}"
        )


def _placeholder(declared: int) -> bool:
    """Whether a size in a header stands for an unknown one."""
    return (
        declared == 0
        or 0x7FFFF000 <= declared <= 0x80000000
        or 0xFFFFF000 <= declared <= 0xFFFFFFFF
        or declared >= HUGE
    )


def chunks(file: BinaryIO, size: int, start: int, layout: str) -> Iterator[tuple[bytes, int, int]]:
    """Name, start of the content and declared size in bytes of every chunk."""
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
        yield name, start + step, length
        start += step + padded


def find_chunk(file: BinaryIO, size: int, start: int, layout: str, names: tuple[bytes, ...]) -> tuple[int, int] | None:
    """Start of the content of the first chunk with one of these names, and its declared size in bytes."""
    found = (chunk for chunk in chunks(file, size, start, layout) if chunk[0] in names)
    return next(((at, length) for _, at, length in found), None)


# -- WAV and its relatives ---------------------------------------------------------------------------------------------


def _wav(file: BinaryIO, size: int, head: bytes) -> Layout:
    order = ">" if head[:4] == b"RIFX" else "<"
    patches: dict[int, bytes] = {}
    if head[:4] == b"BW64":
        # The same layout as RF64, under a name that libsndfile does not know.
        patches[0] = b"RF64"
    form: bytes | None = None
    most, note = None, ""
    for name, at, length in chunks(file, size, 12, f"{order}4sI"):
        if name == b"fmt ":
            file.seek(at)
            content = file.read(min(length, 64))
            if form is None:
                form = content
            elif content == form:
                patches[at - 8] = b"JUNK"
            else:
                raise AudioError("cannot be decoded: its header describes two formats", action=CONVERT)
        if name != b"data":
            continue
        declared = length
        if head[:4] in (b"RF64", b"BW64") and length == 2**32 - 1 and head[12:16] == b"ds64":
            declared = struct.unpack_from("<Q", head, 28)[0]
        left = size - at
        if (
            head[:4] in (b"RIFF", b"RIFX")
            and _placeholder(declared)
            and left
            and not _chunk_follows(file, at, size, order)
        ):
            # A decoder of 32-bit sizes reads a larger file to its end.
            known = min(left, 2**32 - 1)
            patches[at - 4] = struct.pack(f"{order}I", known)
            patches[4] = struct.pack(f"{order}I", min(size - 8, 2**32 - 1))
            declared, note = left, UNFINISHED
        _check_size((at, declared), size)
        most = _whole_blocks(form, order, min(declared, left))
        break
    return Layout((Part(0, size, patches, most),), note)


def _chunk_follows(file: BinaryIO, at: int, size: int, order: str) -> bool:
    """Whether another chunk, and no sound, begins at a position."""
    file.seek(at)
    head = file.read(8)
    named = len(head) == 8 and re.fullmatch(rb"[A-Za-z][\w ]{3}", head[:4]) is not None
    return named and at + 8 + int(struct.unpack(f"{order}I", head[4:])[0]) <= size


def _whole_blocks(form: bytes | None, order: str, length: int) -> int | None:
    """Samples in the whole blocks of a GSM chunk. libsndfile takes the padding of an odd chunk for a further block."""
    if form is None or len(form) < 20 or struct.unpack_from(f"{order}H", form)[0] != GSM:
        return None
    (block,) = struct.unpack_from(f"{order}H", form, 12)
    (samples,) = struct.unpack_from(f"{order}H", form, 18)
    return int(length // block * samples) if block else None


def _wave64(file: BinaryIO, size: int) -> Layout:
    found = find_chunk(file, size, 40, "<16sQ", (b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a",))
    if found is not None and _placeholder(found[1]) and size > found[0]:
        at = found[0]
        sizes = {16: struct.pack("<Q", size), at - 8: struct.pack("<Q", size - at + 24)}
        return Layout((Part(0, size, sizes),), UNFINISHED)
    _check_size(found, size)
    return Layout()


# -- FLAC --------------------------------------------------------------------------------------------------------------


def _flac(file: BinaryIO, size: int, begin: int) -> Layout:
    """A header that states too few samples is corrected, so that the decoder reads all frames."""
    file.seek(begin + 8)
    info = file.read(34)
    if len(info) < 34:
        raise AudioError("cut short: its header is not whole")
    packed = int.from_bytes(info[10:18], "big")
    declared, smallest = packed & (2**36 - 1), int.from_bytes(info[:2], "big")
    fixed = smallest == int.from_bytes(info[2:4], "big")
    start = max(begin + 42, size - FLAC_TAIL)
    file.seek(start)
    ends = _last_frame(file.read(), smallest if fixed else 0, info)
    if not declared or ends is None or ends <= declared:
        return Layout()
    sizes = {begin + 18: (packed & ~(2**36 - 1) | ends).to_bytes(8, "big")}
    return Layout((Part(0, size, sizes),), f"its header says {declared} samples, {ends} are there")


def _last_frame(tail: bytes, block: int, info: bytes) -> int | None:
    """The sample after the last frame of FLAC that begins in some bytes; None if none does.

    Args:
        tail: the last bytes of a file.
        block: samples in a block; 0 if they vary.
        info: the STREAMINFO block.
    """
    channels, bits = (info[12] >> 1 & 7) + 1, (info[12] & 1) << 4 | info[13] >> 4
    sync, at = bytes([0xFF, 0xF8 if block else 0xF9]), len(tail)
    while (at := tail.rfind(sync, 0, at)) >= 0:
        ends = _frame_end(tail[at : at + 16], block, channels, bits + 1)
        if ends is not None:
            return ends
    return None


def _frame_end(head: bytes, block: int, channels: int, bits: int) -> int | None:
    """The sample after a frame of FLAC, if these bytes are the header of one."""
    if len(head) < 16 or head[3] & 1:
        return None
    size, rate, layout, depth = head[2] >> 4, head[2] & 15, head[3] >> 4, head[3] >> 1 & 7
    depths = {0: bits, 1: 8, 2: 12, 4: 16, 5: 20, 6: 24, 7: 32}
    if size == 0 or rate == 15 or layout > 10 or depths.get(depth) != bits:
        return None
    if (layout + 1 if layout < 8 else 2) != channels:
        return None
    # The number of the frame, or of its first sample, is coded as in UTF-8.
    ones = 8 - (head[4] ^ 0xFF).bit_length()
    more = max(0, ones - 1)
    if ones == 1 or any(byte >> 6 != 2 for byte in head[5 : 5 + more]):
        return None
    number = head[4] & (0x7F >> ones if ones else 0x7F)
    for byte in head[5 : 5 + more]:
        number = number << 6 | byte & 63
    at = 5 + more
    if size in (6, 7):
        length = int.from_bytes(head[at : at + size - 5], "big") + 1
        at += size - 5
    else:
        length = 192 if size == 1 else 576 << size - 2 if size < 6 else 256 << size - 8
    at += {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if at >= len(head) or _crc8(head[:at]) != head[at]:
        return None
    return (number * block if block else number) + length


def _crc8(content: bytes) -> int:
    """Checksum with the polynomial x⁸ + x² + x + 1."""
    value = 0
    for byte in content:
        value ^= byte
        for _ in range(8):
            value = (value << 1 ^ (0x07 if value & 0x80 else 0)) & 0xFF
    return value


# -- Ogg ---------------------------------------------------------------------------------------------------------------


def _ogg(file: BinaryIO, size: int) -> Layout:
    """Check every page, and find the sounds that lie one after another.

    Raises:
        AudioError: a page is cut short, damaged or missing, or the codec cannot be decoded.
    """
    starts: list[int] = []
    numbers: dict[int, int] = {}
    at, ended, opening = 0, True, False
    while at < size:
        file.seek(at)
        head = file.read(27)
        if head[:4] != b"OggS" and starts:
            if next(_occurrences(file, at, size, b"OggS"), None) is not None:
                raise AudioError(f"damaged: no Ogg page at byte {at}")
            # A tag may follow the last page.
            break
        sizes = file.read(head[26]) if len(head) == 27 else b""
        body = file.read(sum(sizes))
        if len(head) < 27 or len(sizes) < head[26] or len(body) < sum(sizes):
            raise AudioError("cut short: the last page of the Ogg stream is not whole")
        serial, number, checksum = struct.unpack_from("<3I", head, 14)
        if _ogg_checksum(head[:22] + bytes(4) + head[26:] + sizes + body) != checksum:
            raise AudioError(f"damaged: the Ogg page at byte {at} does not have its checksum")
        if head[5] & 2:
            for signature, codec in OGG_CODECS.items():
                if body.startswith(signature):
                    raise AudioError(f"cannot be decoded: it is {codec} in Ogg", action=CONVERT)
            if not opening:
                starts.append(at)
                numbers.clear()
            opening = True
        else:
            opening = False
            if numbers.get(serial, number - 1) != number - 1:
                raise AudioError(f"damaged: pages before byte {at} of the Ogg stream are missing")
        numbers[serial], ended = number, bool(head[5] & 4)
        at += 27 + len(sizes) + len(body)
    note = "" if ended else "its Ogg stream has no last page"
    if len(starts) < 2:
        return Layout((), note)
    return _joined([*starts, size], note)


def _ogg_checksum(page: bytes) -> int:
    # The polynomial is that of zlib, with the bits in the other order and nothing inverted.
    value = zlib.crc32(page.translate(REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(value.to_bytes(4, "big").translate(REVERSED), "little")


def _joined(bounds: list[int], note: str = "") -> Layout:
    parts = tuple(Part(start, stop) for start, stop in itertools.pairwise(bounds))
    return Layout(parts, note or f"{len(parts)} sounds are joined in it")


# -- MP3 ---------------------------------------------------------------------------------------------------------------


def _mpeg(head: bytes) -> tuple[bool, bool] | None:
    """Whether it is MPEG-1, and whether it has one channel, if these bytes are the header of an MP3 frame."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer, rate = head[1] >> 3 & 3, head[1] >> 1 & 3, head[2] >> 2 & 3
    if version == 1 or layer != 1 or head[2] >> 4 in (0, 15) or rate == 3:
        return None
    return version == 3, head[3] >> 6 == 3


def _mp3(file: BinaryIO, size: int, begin: int) -> Layout:
    """Find the sounds that lie one after another: every information frame after the first begins one."""
    bounds = [0]
    for at, word in _occurrences(file, 0, size, b"Xing|Info|VBRI"):
        start = _information_frame(file, at, word == b"VBRI")
        if start is not None and start > begin:
            bounds.append(_with_tag(file, start, bounds[-1]))
    return _joined([*bounds, size]) if len(bounds) > 1 else Layout()


def _occurrences(file: BinaryIO, start: int, stop: int, words: bytes) -> Iterator[tuple[int, bytes]]:
    """Positions of words of four letters in a part of a file, and the words."""
    for first in range(start, stop, WINDOW):
        file.seek(first)
        # A word may begin in this window and end in the next.
        for found in re.finditer(words, file.read(min(WINDOW + 3, stop - first))):
            yield first + found.start(), found.group()


def _information_frame(file: BinaryIO, at: int, vbri: bool) -> int | None:
    """Start of the MP3 frame that holds the words of an information frame at a position."""
    # The words lie behind the side information, whose length depends on version and channels; VBRI always at 36.
    for kind, distance in (((True, False), 36), ((True, True), 21), ((False, False), 21), ((False, True), 13)):
        start = at - (36 if vbri else distance)
        found = _mpeg(_bytes(file, start, 4)) if start >= 0 else None
        if found is not None and (vbri or found == kind):
            return start
    return None


def _with_tag(file: BinaryIO, start: int, after: int) -> int:
    """Start of the ID3v2 tag that ends where a frame starts; the frame's own start if there is none."""
    first = max(after, start - FLAC_TAIL)
    at = first + _bytes(file, first, start - first).rfind(b"ID3")
    return at if at > after and at >= first and at + _id3(_bytes(file, at, 10)) == start else start


def _bytes(file: BinaryIO, start: int, count: int) -> bytes:
    file.seek(start)
    return file.read(count)
