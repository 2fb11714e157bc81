"""File name endings of the formats that can be decoded."""

# Usual endings beside the formats' own names; .raw is left out, as it says nothing about its rate.
ALIASES = {
    "aif": "AIFF", "aifc": "AIFF", "wave": "WAV", "bwf": "WAV", "bw64": "RF64", "oga": "OGG", "opus": "OGG",
    "mp2": "MP3", "snd": "AU", "sf": "IRCAM", "sph": "NIST", "8svx": "SVX", "16sv": "SVX",
}  # fmt: skip


def extensions() -> frozenset[str]:
    """Endings, in lower case and without the dot, that are taken for sound."""
    import soundfile  # type: ignore[import-untyped, unused-ignore]

    return frozenset({name.lower() for name in soundfile.available_formats()} | set(ALIASES)) - {"raw"}
