"""File name endings of sound files, and what a file really is, by its first bytes."""

import soundfile  # type: ignore[import-untyped, unused-ignore]

# Common endings in addition to the formats' own names.
ALIASES = {
    "aif": "AIFF", "aifc": "AIFF", "wave": "WAV", "bwf": "WAV", "bw64": "RF64", "oga": "OGG", "opus": "OGG",
    "mp2": "MP3", "snd": "AU", "sf": "IRCAM", "sph": "NIST", "8svx": "SVX", "16sv": "SVX",
}  # fmt: skip
HEADERLESS = frozenset({"raw", "pcm", "s8", "u8", "s16", "s24", "s32", "f32", "f64", "vox", "al", "ul", "gsm"})
"""Endings of sound without a header: its sample rate is not known."""
OTHERS = frozenset({
    "3ga", "3gp", "aa", "aac", "aax", "ac3", "adts", "amr", "ape", "asf", "awb", "dff", "dsf", "dts", "dtshd", "eac3",
    "m4a", "m4b", "m4p", "m4r", "mka", "mlp", "mp+", "mp4", "mpc", "mpp", "ofr", "qcp", "ra", "ram", "rm", "shn", "spx",
    "tak", "thd", "tta", "vqf", "weba", "webm", "wma", "wv",
})  # fmt: skip
"""Endings of sound that cannot be decoded."""
CONVERT = "convert it to WAV or FLAC, for example with ffmpeg -i FILE FILE.wav"
AGAIN = "download the sound itself"
UNPACK = "unpack it"
NO_SOUND = "leave it out"
HEADERS = (
    b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM", b".snd", b"dns.", b"OggS", b"fLaC", b"caff", b"riff", b"NIST",
)  # fmt: skip
"""What sound with a header begins with."""
# (position, first bytes, what it is, what to do)
SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (
    (4, b"ftyp", "MP4 (AAC or ALAC)", CONVERT),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "WMA", CONVERT),
    (0, b"\x1a\x45\xdf\xa3", "Matroska or WebM", CONVERT),
    (0, b"wvpk", "WavPack", CONVERT),
    (0, b"MAC ", "Monkey's Audio", CONVERT),
    (0, b"MPCK", "Musepack", CONVERT),
    (0, b"MP+", "Musepack", CONVERT),
    (0, b"TTA1", "True Audio", CONVERT),
    (0, b"tBaK", "TAK", CONVERT),
    (0, b"OFR ", "OptimFROG", CONVERT),
    (0, b"ajkg", "Shorten", CONVERT),
    (0, b"DSD ", "DSD", CONVERT),
    (0, b"FRM8", "DSD", CONVERT),
    (0, b"#!AMR", "AMR", CONVERT),
    (0, b"ADIF", "AAC", CONVERT),
    (0, b"\x0b\x77", "AC-3", CONVERT),
    (0, b"\x7f\xfe\x80\x01", "DTS", CONVERT),
    (0, b".RMF", "RealAudio", CONVERT),
    (0, b".ra\xfd", "RealAudio", CONVERT),
    (8, b"AVI LIST", "an AVI video", CONVERT),
    (8, b"RMID", "MIDI, notes without sound", NO_SOUND),
    (0, b"MThd", "MIDI, notes without sound", NO_SOUND),
    (8, b"sfbk", "a SoundFont", NO_SOUND),
    (8, b"WEBP", "a picture", NO_SOUND),
    (0, b"\x89PNG", "a picture", NO_SOUND),
    (0, b"\xff\xd8\xff", "a picture", NO_SOUND),
    (0, b"GIF8", "a picture", NO_SOUND),
    (0, b"%PDF", "a PDF document", NO_SOUND),
    (0, b"PK\x03\x04", "a ZIP archive", UNPACK),
    (0, b"Rar!", "a RAR archive", UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (0, b"\x1f\x8b", "a gzip archive", UNPACK),
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "fetch the files with git lfs pull"),
)  # fmt: skip
OGG_CODECS = {b"\x7fFLAC": "FLAC", b"Speex": "Speex", b"\x80theora": "Theora video", b"CELT": "CELT", b"PCM ": "PCM"}
"""What an Ogg stream that cannot be decoded begins with."""


def extensions() -> frozenset[str]:
    """Endings of the formats that can be read, in lower case and without the dot."""
    return frozenset({name.lower() for name in soundfile.available_formats()} | set(ALIASES)) - {"raw"}


def known_extensions() -> frozenset[str]:
    """Endings of all sound files, those that cannot be decoded included."""
    return extensions() | HEADERLESS | OTHERS


def identify(head: bytes, ending: str) -> tuple[str, str] | None:
    """What a file is that cannot be decoded, and what to do about it; None for everything else.

    Args:
        head: the first bytes, without tags before the sound.
        ending: the file's ending, in lower case and without the dot.
    """
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:15].lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "a web page", AGAIN
    if text.startswith((b"<?xml", b"{", b"[")):
        return "a text, not sound", AGAIN
    for position, signature, what, action in SIGNATURES:
        if head[position : position + len(signature)] == signature:
            return what, action
    # AAC and MPEG share the first eleven bits; the two bits of the layer are zero in AAC.
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "AAC", CONVERT
    if ending in (*HEADERLESS, "au", "snd") and head[:4] not in HEADERS:
        return f".{ending} without a header: its sample rate is not known", CONVERT
    return None
