"""A thousand sound files of which a hundred are bad: each bad one is named with its reason, each good one is used."""

import io
import random
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile  # type: ignore[import-untyped, unused-ignore]
from common import Row, hit

from actseq import audio

GOOD = (
    ("wav", "WAV", "PCM_16"), ("wav", "WAV", "PCM_24"), ("wav", "WAV", "FLOAT"), ("wav", "WAV", "IMA_ADPCM"),
    ("flac", "FLAC", "PCM_16"), ("flac", "FLAC", "PCM_24"), ("ogg", "OGG", "VORBIS"), ("opus", "OGG", "OPUS"),
    ("mp3", "MP3", "MPEG_LAYER_III"), ("aiff", "AIFF", "PCM_16"), ("au", "AU", "PCM_16"), ("caf", "CAF", "PCM_16"),
    ("w64", "W64", "PCM_16"), ("rf64", "RF64", "PCM_16"),
)  # fmt: skip
"""Ending, format and subtype of files that can be used."""


def _encoded(waveform: np.ndarray, form: str, subtype: str, rate: int = 16_000) -> bytes:
    made = io.BytesIO()
    soundfile.write(made, waveform, rate, format=form, subtype=subtype)
    return made.getvalue()


def _wav(waveform: np.ndarray) -> bytes:
    return _encoded(waveform, "WAV", "FLOAT")


def _flipped(content: bytes) -> bytes:
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :]


def _rate(rate: int) -> bytes:
    content = bytearray(_encoded(hit(1), "WAV", "PCM_16"))
    struct.pack_into("<I", content, 24, rate)
    return bytes(content)


LONG = np.concatenate([hit(i) for i in range(8)])
# (ending, content, beginning of the reason)
BAD: tuple[tuple[str, Callable[[], bytes], str], ...] = (
    ("wav", lambda: b"", "empty: no bytes"),
    ("wav", lambda: _wav(np.zeros(9000)), "silent: all samples are zero"),
    ("wav", lambda: _wav(np.full(9000, 0.3)), "silent: it holds a constant offset"),
    ("wav", lambda: _wav(np.stack([hit(2), -hit(2)], axis=1)), "silent: its channels cancel"),
    ("wav", lambda: _wav(np.where(np.arange(9000) == 4000, np.nan, 0.1)), "not finite: "),
    ("wav", lambda: _encoded(LONG, "WAV", "PCM_16")[:-3000], "cut short: "),
    ("flac", lambda: _encoded(LONG, "FLAC", "PCM_16")[:-3000], "cannot be decoded: "),
    ("ogg", lambda: _encoded(LONG, "OGG", "VORBIS")[:-300], "cut short: "),
    ("ogg", lambda: _flipped(_encoded(LONG, "OGG", "VORBIS")), "damaged: "),
    ("opus", lambda: _flipped(_encoded(LONG, "OGG", "OPUS")), "damaged: "),
    ("wav", lambda: _rate(1), "rate: its header says 1 Hz"),
    ("wav", lambda: _rate(2_000_000_000), "rate: its header says 2000000000 Hz"),
    ("m4a", lambda: b"\0\0\0\x20ftypM4A " + bytes(3000), "cannot be decoded: it is MP4"),
    ("mp3", lambda: b"<!doctype html><html>" + b"x" * 3000, "cannot be decoded: it is a web page"),
    ("wma", lambda: b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + bytes(3000), "cannot be decoded: it is WMA"),
    ("wav", lambda: b"version https://git-lfs.github.com/spec/v1\n", "cannot be decoded: it is a pointer of Git LFS"),
    ("wav", lambda: b"PK\x03\x04" + bytes(3000), "cannot be decoded: it is a ZIP archive"),
    ("flac", lambda: b"noise " * 500, "cannot be decoded: "),
    ("raw", lambda: bytes(3000), "cannot be decoded: it is .raw without a header"),
    ("aac", lambda: b"\xff\xf1\x50\x80" + bytes(3000), "cannot be decoded: it is AAC"),
)


def trial() -> list[Row]:
    """One folder with all files."""
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder, reasons = Path(name), {}
        for i in range(100):
            ending, content, reason = BAD[i % len(BAD)]
            path = folder / rng.choice("abc") / f"bad {i:03d}.{ending}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content())
            reasons[path.relative_to(folder).as_posix()] = reason
        for i in range(900):
            ending, form, subtype = GOOD[i % len(GOOD)]
            sound = np.stack([hit(i), 0.5 * hit(i + 1)], axis=1) if i % 5 == 0 else hit(i)
            (folder / rng.choice("abc") / f"good {i:03d}.{ending}").write_bytes(_encoded(sound, form, subtype))
        scan = audio.SoundFolder(folder).scan()
        bad = {row.path: row.reason for row in scan.skipped}
        named = sum(bad.get(path, "").startswith(reason) for path, reason in reasons.items())
        used = sum(Path(row.path).name.startswith("good") for row in scan.usable)
    return [Row("bad sounds are named with their reason", 100, named), Row("good sounds are used", 900, used)]
