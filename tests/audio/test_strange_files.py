"""Files as strangers have them: used in full, or named with what they are and what to do."""

import io
import os
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped, unused-ignore]

from actseq import audio
from actseq.audio import headers
from actseq.audio.formats import known_extensions
from actseq.errors import AudioError

RATE = 16000


def tone(n: int = 12001, peak: float = 0.5) -> np.ndarray:
    return (peak * np.sin(2 * np.pi * 440 * np.arange(n) / RATE)).astype(np.float32)


def encoded(waveform: np.ndarray, form: str, subtype: str, rate: int = RATE) -> bytes:
    made = io.BytesIO()
    soundfile.write(made, waveform, rate, format=form, subtype=subtype)
    return made.getvalue()


def scanned(path: Path) -> audio.ScanRow:
    (path.parent / "good.wav").write_bytes(encoded(tone(), "WAV", "PCM_16"))
    rows = {row.path: row for row in audio.SoundFolder(path.parent).scan().rows}
    assert rows["good.wav"].status == "usable"
    return rows[path.name]


# -- what was reported -------------------------------------------------------------------------------------------------

SKIPPED = {
    "aac_m4a_named.mp3": "it is MP4 (AAC or ALAC); convert",
    "html_login_page_named.mp3": "it is a web page; download",
    "flac_in_ogg.ogg": "it is FLAC in Ogg; convert",
    "constant_offset_only.wav": "silent: it holds a constant offset of",
    "dither_only_1LSB.wav": "silent: its peak is -90 dBFS",
    "float32_denormal_peak_1e-42.wav": "silent: its peak is",
    "header_rate_1_Hz.wav": "rate: its header says 1 Hz; expected 1,000 to 768,000 Hz",
}
USED = {
    "quiet_24bit_minus60dBFS.wav": 24000,
    "gsm610_odd_blocks_expect_5440_samples_peak_0.585.wav": 5440,
    "mp3_in_wav_fact_more_than_decoded.wav": 46080,
    "mp3_two_files_concatenated_first_has_xing_expect_about_180911.mp3": 2 * 89754,
    "ogg_vorbis_chained_two_streams_expect_78729_samples.ogg": 78729,
    "ogg_vorbis_complete_without_eos_flag_44877_samples.ogg": 44877,
    "wav_unfinalised_data_size_zero_44877_samples.wav": 44877,
    "tone_8s_then_silence_12s.flac": 160000,
}


@pytest.mark.data
def test_reported_files_come_out_right(data_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = {row.path: row for row in audio.SoundFolder(data_dir / "reported").scan().rows}
    assert rows.keys() == SKIPPED.keys() | USED.keys()
    for name, reason in SKIPPED.items():
        assert rows[name].status == "skipped", name
        assert reason in rows[name].reason
    for name, samples in USED.items():
        assert rows[name].status == "usable", rows[name]
        waveform, rate = audio.load(data_dir / "reported" / name)
        assert len(waveform) == samples, name
        assert rows[name].seconds == samples / rate
    gsm, _ = audio.load(data_dir / "reported" / "gsm610_odd_blocks_expect_5440_samples_peak_0.585.wav")
    assert np.abs(gsm).max() == pytest.approx(0.585, abs=0.001)
    assert "never finished" in rows["wav_unfinalised_data_size_zero_44877_samples.wav"].reason
    assert "2 sounds are joined" in rows["ogg_vorbis_chained_two_streams_expect_78729_samples.ogg"].reason
    assert capfd.readouterr().err == ""


# -- endings and contents ----------------------------------------------------------------------------------------------

FOREIGN = {
    b"\x00\x00\x00\x20ftypM4A ": "MP4",
    b"\xff\xf1\x50\x80\x02\x1f\xfc": "AAC",
    b"ID3\x04\x00\x00\x00\x00\x00\x02ab\xff\xf1\x50\x80": "AAC",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "WMA",
    b"\x1a\x45\xdf\xa3": "Matroska or WebM",
    b"wvpk": "WavPack",
    b"MAC ": "Monkey's Audio",
    b"\r\n<html><head>": "a web page",
    b"version https://git-lfs.github.com/spec/v1\n": "git lfs pull",
    b"PK\x03\x04": "ZIP",
    b"MThd": "MIDI",
}


@pytest.mark.parametrize("ending", ["m4a", "aac", "wma", "webm", "wv", "wav", "mp3", "ogg"])
@pytest.mark.parametrize("head", FOREIGN)
def test_what_is_no_sound_here_is_named_whatever_its_ending(tmp_path: Path, head: bytes, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    path.write_bytes(head + bytes(2000))
    row = scanned(path)
    assert row.status == "skipped"
    assert FOREIGN[head] in row.reason
    assert ";" in row.reason


@pytest.mark.parametrize("ending", sorted(known_extensions()))
def test_a_file_of_every_known_ending_is_used_or_named(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    path.write_bytes(encoded(tone(), "WAV", "PCM_16"))
    assert scanned(path).status == "usable"
    path.write_bytes(b"noise " * 500)
    row = scanned(path)
    assert (row.status, row.sha256 != "") == ("skipped", True)
    assert row.reason.startswith("cannot be decoded: ")


@pytest.mark.skipif(os.name != "posix", reason="pipes and sockets")
def test_what_is_no_file_is_named_and_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "socket.wav"))
    (tmp_path / "device.wav").symlink_to("/dev/zero")
    for name, what in (("pipe", "a pipe"), ("socket", "a socket"), ("device", "a device")):
        assert scanned(tmp_path / f"{name}.wav").reason == f"no file: it is {what}"


# -- headers that are wrong --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1, 999, 768_001, 2_000_000_000])
def test_absurd_rates_are_named(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "a.wav"
    content = bytearray(encoded(tone(), "WAV", "PCM_16"))
    struct.pack_into("<I", content, 24, rate)
    path.write_bytes(content)
    with pytest.raises(AudioError, match=f"rate: its header says {rate} Hz"):
        audio.load(path)


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content


def riff(*chunks: bytes) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


FORM = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16))
OTHER = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, RATE // 2, RATE, 2, 16))
SOUND = (np.round(tone() * 32768)).astype("<i2")


def test_a_second_format_chunk_is_passed_over_if_it_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(riff(FORM, FORM, chunk(b"data", SOUND.tobytes())))
    np.testing.assert_array_equal(audio.load(path)[0], SOUND / 32768)
    path.write_bytes(riff(FORM, OTHER, chunk(b"data", SOUND.tobytes())))
    with pytest.raises(AudioError, match="describes two formats"):
        audio.load(path)


def test_bw64_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    sizes = chunk(b"ds64", struct.pack("<QQQI", 80 + SOUND.nbytes, SOUND.nbytes, len(SOUND), 0))
    body = b"WAVE" + sizes + FORM + b"data" + struct.pack("<I", 2**32 - 1) + SOUND.tobytes()
    path.write_bytes(b"BW64" + struct.pack("<I", 2**32 - 1) + body)
    np.testing.assert_array_equal(audio.load(path)[0], SOUND / 32768)


@pytest.mark.parametrize("size", [0, 2**63 - 1, 2**64 - 1])
def test_a_wave64_from_a_stream_has_no_size(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.w64"
    content = bytearray(encoded(tone(), "W64", "PCM_16"))
    struct.pack_into("<Q", content, 16, 2**64 - 1)
    struct.pack_into("<Q", content, content.index(b"data\xf3\xac") + 16, size)
    path.write_bytes(content)
    assert len(audio.load(path)[0]) == 12001


def test_a_wav_whose_sound_is_empty_is_not_unfinished(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(riff(FORM, chunk(b"data", b""), chunk(b"LIST", b"INFOsome words")))
    with pytest.raises(AudioError, match="empty: no samples"):
        audio.load(path)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_S8"])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_flac_whose_header_says_too_little_is_read_to_its_end(tmp_path: Path, subtype: str, channels: int) -> None:
    path = tmp_path / "a.flac"
    waveform = np.stack([tone(30000), tone(30000, 0.2)], axis=1)[:, :channels]
    content = encoded(waveform, "FLAC", subtype)
    path.write_bytes(content)
    whole, _ = audio.load(path)
    assert len(whole) == 30000
    for ahead in (b"", b"ID3\x04\x00\x00\x00\x00\x00\x05title"):
        patched = bytearray(content)
        packed = int.from_bytes(content[18:26], "big") - 30000 + 9000
        patched[18:26] = packed.to_bytes(8, "big")
        path.write_bytes(ahead + patched + b"TAG" + bytes(125))
        np.testing.assert_array_equal(audio.load(path)[0], whole)
    assert scanned(path).reason == "its header says 9000 samples, 30000 are there"


# -- several sounds in one file, and damage ----------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")])
def test_joined_sounds_are_read_one_after_another(tmp_path: Path, form: str, subtype: str) -> None:
    one, two = (encoded(tone(n), form, subtype) for n in (12001, 30000))
    parts = []
    for content in (one, two, one):
        (tmp_path / "part").write_bytes(content)
        parts.append(audio.load(tmp_path / "part")[0])
    path = tmp_path / f"a.{form.lower()}"
    tag = b"ID3\x04\x00\x00\x00\x00\x00\x05title" if form == "MP3" else b""
    path.write_bytes(one + tag + two + one)
    np.testing.assert_array_equal(audio.load(path)[0], np.concatenate(parts))
    recording = audio.measure(path, RATE)
    np.testing.assert_array_equal(np.concatenate(list(recording.blocks())), np.concatenate(parts))
    assert recording.note == "3 sounds are joined in it"
    assert scanned(path).reason == recording.note


@pytest.mark.parametrize("window", [5, 64, 1000])
def test_sounds_are_found_wherever_a_window_of_the_search_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    one = encoded(tone(3001), "MP3", "MPEG_LAYER_III")
    path = tmp_path / "a.mp3"
    path.write_bytes(one + b"ID3\x04\x00\x00\x00\x00\x00\x05title" + one + one)
    monkeypatch.setattr(headers, "WINDOW", window)
    with path.open("rb") as file:
        layout = headers.inspect(file, "mp3")
    assert [part.start for part in layout.parts] == [0, len(one), 2 * len(one) + 15]


def test_joined_sounds_of_several_rates_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.ogg"
    path.write_bytes(encoded(tone(), "OGG", "VORBIS") + encoded(tone(), "OGG", "VORBIS", 8000))
    with pytest.raises(AudioError, match="joined: it holds sounds of 16000 and of 8000 Hz; split it"):
        audio.load(path)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_a_flipped_bit_in_an_ogg_is_noticed(tmp_path: Path, subtype: str) -> None:
    content = encoded(np.random.default_rng(0).normal(0, 0.1, 3 * RATE), "OGG", subtype)
    path = tmp_path / "a.ogg"
    path.write_bytes(content)
    assert len(audio.load(path)[0]) == 3 * RATE
    for at in np.random.default_rng(1).integers(0, 8 * len(content), 100).tolist():
        damaged = bytearray(content)
        damaged[at // 8] ^= 1 << at % 8
        path.write_bytes(damaged)
        with pytest.raises(AudioError):
            audio.load(path)


def test_a_missing_page_in_an_ogg_is_noticed(tmp_path: Path) -> None:
    content = encoded(np.random.default_rng(0).normal(0, 0.1, 20 * RATE), "OGG", "VORBIS")
    starts = [at for at in range(len(content)) if content[at : at + 5] == b"OggS\0"]
    assert len(starts) > 5
    path = tmp_path / "a.ogg"
    path.write_bytes(content[: starts[4]] + content[starts[5] :])
    with pytest.raises(AudioError, match="damaged: pages before byte"):
        audio.load(path)
    # Cut between two pages it has only lost its end.
    path.write_bytes(content[: starts[-1]])
    assert scanned(path).reason == "its Ogg stream has no last page"


# -- silence -----------------------------------------------------------------------------------------------------------

LSB = 1 / 32768


@pytest.mark.parametrize(
    ("waveform", "reason"),
    [
        (np.full(5000, 0.5), r"a constant offset of 0\.5 and no sound"),
        (0.25 + LSB * np.sign(tone(5000)), r"a constant offset of 0\.25 and no sound"),
        (LSB * np.sign(tone(5000)), "its peak is -90 dBFS"),
        (np.full(5000, 1e-42), "its peak is"),
        (np.stack([tone(5000), -tone(5000)], axis=1), "its channels cancel"),
        (np.stack([tone(5000), -tone(5000) * 0.985], axis=1), "its channels cancel"),
        (np.stack([tone(5000), -tone(5000)], axis=1) + 0.1, "its channels cancel"),
    ],
)
def test_what_cannot_be_heard_is_silent(tmp_path: Path, waveform: np.ndarray, reason: str) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, waveform, RATE, subtype="FLOAT")
    row = scanned(path)
    assert row.status == "skipped"
    for read in (audio.load, lambda path: audio.measure(path, RATE), lambda path: audio.measure(path, 8000)):
        with pytest.raises(AudioError, match=f"silent: .*{reason}"):
            read(path)
    assert row.reason.startswith("silent: ")


@pytest.mark.parametrize(
    "waveform",
    [
        tone(5000, 1e-4),
        0.5 + tone(5000, 1e-4),
        np.stack([tone(5000), -tone(5000) * 0.95], axis=1),
        np.stack([tone(5000, 0.01), tone(5000, 0.01)], axis=1) + 0.5,
    ],
)
def test_what_is_quiet_is_used(tmp_path: Path, waveform: np.ndarray) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, waveform, RATE, subtype="FLOAT")
    assert scanned(path).status == "usable"


def test_the_envelope_is_the_peak_of_every_span(tmp_path: Path) -> None:
    waveform = np.random.default_rng(0).normal(0, 0.1, 200_003).astype(np.float32)
    path = tmp_path / "a.wav"
    soundfile.write(path, waveform, RATE, subtype="FLOAT")
    expected = [np.abs(waveform[at : at + audio.SPAN]).max() for at in range(0, len(waveform), audio.SPAN)]
    envelope = scanned(path).envelope
    assert envelope is not None
    np.testing.assert_array_equal(envelope, expected)


# -- anything at all ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "subtype"), [("WAV", "PCM_16"), ("OGG", "VORBIS"), ("FLAC", "PCM_16")])
def test_a_tag_before_the_header_does_not_matter(tmp_path: Path, form: str, subtype: str) -> None:
    path = tmp_path / f"a.{form.lower()}"
    content = encoded(tone(), form, subtype)
    path.write_bytes(content)
    whole, _ = audio.load(path)
    path.write_bytes(b"ID3\x04\x00\x00\x00\x00\x00\x05title" + content)
    np.testing.assert_array_equal(audio.load(path)[0], whole)


MUTATED = [
    ("WAV", "PCM_16", "wav"), ("WAV", "IMA_ADPCM", "wav"), ("RF64", "PCM_16", "rf64"), ("W64", "PCM_16", "w64"),
    ("AU", "PCM_16", "au"), ("CAF", "PCM_16", "caf"), ("AIFF", "PCM_16", "aiff"), ("FLAC", "PCM_16", "flac"),
    ("OGG", "VORBIS", "ogg"), ("OGG", "OPUS", "opus"), ("MP3", "MPEG_LAYER_III", "mp3"),
]  # fmt: skip


@pytest.mark.parametrize(("form", "subtype", "ending"), MUTATED)
def test_a_mutated_file_is_used_or_refused(tmp_path: Path, form: str, subtype: str, ending: str) -> None:
    content = encoded(tone(6000), form, subtype)
    path = tmp_path / f"a.{ending}"
    rng = np.random.default_rng(0)
    refused = []
    for _ in range(30):
        mutated = bytearray(content)
        for at in rng.integers(0, min(200, len(content) - 4), 2).tolist():
            if rng.random() < 0.5:
                mutated[at] ^= 1 << int(rng.integers(0, 8))
            else:
                mutated[at : at + 4] = struct.pack("<I", rng.choice([0, 2**31 - 1, 2**31, 2**32 - 1]))
        path.write_bytes(mutated[: int(rng.integers(100, len(mutated) + 1)) if rng.random() < 0.3 else None])
        try:
            audio.load(path)
        except AudioError as error:
            refused.append(error.found)
    assert refused
    assert all(": " in reason for reason in refused)
