"""File name endings of the formats that can be decoded."""

import soundfile  # type: ignore[import-untyped, unused-ignore]

# Common endings in addition to the formats' own names. A .raw file is left out because it does not state its sample
# rate.
ALIASES = {
    "aif": "AIFF", "aifc": "AIFF", "wave": "WAV", "bwf": "WAV", "bw64": "RF64", "oga": "OGG", "opus": "OGG",
    "mp2": "MP3", "snd": "AU", "sf": "IRCAM", "sph": "NIST", "8svx": "SVX", "16sv": "SVX",
}  # fmt: skip


def extensions() -> frozenset[str]:
    """Endings of sound files, in lower case and without the dot."""
    return frozenset({name.lower() for name in soundfile.available_formats()} | set(ALIASES)) - {"raw"}
