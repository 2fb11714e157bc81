"""Finding, decoding, resampling and writing sound; every way in which a file can be wrong."""

import csv
import hashlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped, unused-ignore]

from actseq import audio
from actseq.errors import AudioError, ConfigError

RATE = 16000
WRITTEN = [
    ("WAV", "PCM_U8", "wav", 1e-2),
    ("WAV", "PCM_16", "wav", 1e-4),
    ("WAV", "PCM_24", "wav", 1e-6),
    ("WAV", "PCM_32", "wav", 1e-6),
    ("WAV", "FLOAT", "wav", 1e-7),
    ("WAV", "DOUBLE", "wav", 1e-7),
    ("WAVEX", "PCM_24", "wav", 1e-6),
    ("RF64", "PCM_16", "rf64", 1e-4),
    ("W64", "PCM_16", "w64", 1e-4),
    ("AU", "PCM_16", "au", 1e-4),
    ("CAF", "PCM_16", "caf", 1e-4),
    ("AIFF", "PCM_16", "aiff", 1e-4),
    ("AIFF", "FLOAT", "aifc", 1e-7),
    ("SVX", "PCM_16", "8svx", 1e-4),
    ("FLAC", "PCM_16", "flac", 1e-4),
    ("FLAC", "PCM_24", "flac", 1e-6),
    ("OGG", "VORBIS", "ogg", 0.2),
    ("OGG", "OPUS", "opus", 0.2),
    ("MP3", "MPEG_LAYER_III", "mp3", 0.2),
]


def sine(n: int = 12001, rate: int = RATE, hz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(n) / rate)).astype(np.float32)


def save(path: Path, waveform: np.ndarray, form: str, subtype: str, rate: int = RATE) -> Path:
    if form not in soundfile.available_formats() or not soundfile.check_format(form, subtype):
        pytest.skip(f"this libsndfile cannot write {form} {subtype}")
    soundfile.write(path, waveform, rate, subtype=subtype, format=form)
    return path


def wav(path: Path, waveform: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(path, sine() if waveform is None else waveform, "WAV", "FLOAT")


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


@pytest.mark.parametrize(("form", "subtype", "ending", "tolerance"), WRITTEN)
def test_every_format_loads_as_it_was_written(
    tmp_path: Path, form: str, subtype: str, ending: str, tolerance: float
) -> None:
    path = save(tmp_path / f"a.{ending}", sine(), form, subtype)
    waveform, rate = audio.load(path)
    assert waveform.dtype == np.float32
    assert (waveform.shape, rate) == ((12001,), RATE)
    np.testing.assert_allclose(waveform[500:-500], sine()[500:-500], atol=tolerance)
    assert audio.find(tmp_path) == [path]


@pytest.mark.parametrize(("form", "subtype", "ending", "tolerance"), [row for row in WRITTEN if row[0] != "MP3"])
@pytest.mark.parametrize("share", [0.5, 0.97])
def test_a_file_cut_short_is_refused(
    tmp_path: Path, form: str, subtype: str, ending: str, tolerance: float, share: float
) -> None:
    # No chunk follows the sound, so that any cut loses some.
    path = cut(save(tmp_path / f"a.{ending}", sine(), form, subtype), share)
    with pytest.raises(AudioError, match=r"cut short: |cannot be decoded: "):
        audio.load(path)


@pytest.mark.parametrize(("form", "ending"), [("WAV", "wav"), ("AIFF", "aiff")])
def test_what_is_missing_is_counted(tmp_path: Path, form: str, ending: str) -> None:
    path = save(tmp_path / f"a.{ending}", sine(12000), form, "PCM_16")
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(AudioError, match="cut short: header says 24000 bytes of sound, file holds 20000") as raised:
        audio.load(path)
    assert str(path) in str(raised.value)


def test_an_ogg_file_is_cut_within_its_last_page(tmp_path: Path) -> None:
    path = save(tmp_path / "a.ogg", sine(), "OGG", "VORBIS")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(AudioError, match="last page"):
        audio.load(path)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0xFFFFFFFF - 36, 0x7FFFF000, 0x80000000])
def test_a_wav_from_a_stream_has_no_size(tmp_path: Path, size: int) -> None:
    path = save(tmp_path / "a.wav", sine(), "WAV", "PCM_16")
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"data") + 4, size)
    path.write_bytes(data)
    assert len(audio.load(path)[0]) == 12001


def test_an_odd_wav_may_lack_its_padding_and_have_chunks_around(tmp_path: Path) -> None:
    sound = bytes(range(100, 151))
    odd_note = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    layout = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 8000, 1, 8)
    path = tmp_path / "a.wav"

    def load(declared: int, after: bytes) -> np.ndarray:
        body = b"WAVE" + odd_note + layout + b"data" + struct.pack("<I", declared) + sound + after
        path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
        return audio.load(path)[0]

    for declared, after in ((51, b""), (51, b"\0" + odd_note), (52, b"")):
        np.testing.assert_array_equal(load(declared, after), (np.arange(100, 151) - 128) / 128)
    with pytest.raises(AudioError, match="header says 53 bytes of sound, file holds 51"):
        load(53, b"")


def test_flac_of_unknown_length(tmp_path: Path) -> None:
    path = save(tmp_path / "a.flac", sine(), "FLAC", "PCM_16")
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert len(audio.load(path)[0]) == 12001


def mp3(path: Path, waveform: np.ndarray, level: float, mode: str) -> bytes:
    try:
        with soundfile.SoundFile(
            path, "w", 44100, 1, "MPEG_LAYER_III", format="MP3", compression_level=level, bitrate_mode=mode
        ) as file:
            file.write(waveform)
    except (soundfile.SoundFileError, ValueError, TypeError) as error:
        pytest.skip(f"this libsndfile cannot write MP3 of a chosen rate ({error})")
    return path.read_bytes()


def test_an_mp3_is_heard_to_its_end_whatever_its_header_says(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.2, 5 * 44100)
    path = tmp_path / "a.mp3"
    fast = mp3(path, noise[:44100], 0.0, "CONSTANT")
    slow = mp3(path, noise, 0.95, "CONSTANT")
    second_frame = fast.index(fast[:2], 100)
    # Without its information frame, which would begin another sound.
    slow = slow[slow.index(slow[:2], 100) :]
    # Fast frames first, no header: the length, taken from the first frame, is far too short …
    path.write_bytes(fast[second_frame:] + slow)
    short = soundfile.info(path).frames
    assert short < 3 * 44100
    if os.name == "posix":
        waveform, _ = audio.load(path)
        assert len(waveform) > 6 * 44100 - 2 * 1152
        # Whole MPEG frames: nothing lost or doubled where the two ways of reading meet.
        assert len(waveform) % 1152 == 0
        assert short % 1152 != 0
        begin, _ = soundfile.read(path, dtype="float32")
        np.testing.assert_array_equal(waveform[:short], begin)
        assert 0.05 < waveform[-44100:].std() < 0.5
    # … and slow frames first: far too long.
    path.write_bytes(slow + fast[second_frame:] * 5)
    assert soundfile.info(path).frames > 11 * 44100
    assert 9 * 44100 < len(audio.load(path)[0]) < 10.5 * 44100


def test_an_mp3_cut_short_or_with_a_tag_is_usable(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    data = mp3(path, np.random.default_rng(0).normal(0, 0.2, 44100), 0.0, "CONSTANT")
    whole, _ = audio.load(path)
    assert len(whole) == 44100
    path.write_bytes(data + b"TAG" + bytes(125))
    np.testing.assert_array_equal(audio.load(path)[0], whole)
    path.write_bytes(data[: len(data) // 2])
    half, _ = audio.load(path)
    assert 15000 < len(half) < 30000
    np.testing.assert_array_equal(half[:15000], whole[:15000])


def test_long_mp3_is_the_same_in_blocks(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    mp3(path, np.random.default_rng(0).normal(0, 0.2, 4 * audio.BLOCK), 0.5, "VARIABLE")
    np.testing.assert_array_equal(audio.load(path)[0], soundfile.read(path, dtype="float32")[0])


@pytest.mark.parametrize(
    ("waveform", "reason"),
    [
        (np.where(np.arange(100) == 50, np.nan, 0.5), "not finite"),
        (np.where(np.arange(100) == 50, np.inf, 0.5), "not finite"),
        (np.zeros(100), "silent: all samples are zero"),
        (np.zeros(0), "empty: no samples"),
        (np.stack([sine(), -sine()], axis=1), "silent: its channels cancel"),
    ],
)
def test_unusable_samples(tmp_path: Path, waveform: np.ndarray, reason: str) -> None:
    path = wav(tmp_path / "a.wav", waveform)
    with pytest.raises(AudioError, match=reason):
        audio.load(path)


def test_unusable_files(tmp_path: Path) -> None:
    text = tmp_path / "text.wav"
    text.write_text("this is no sound, whatever its name says\n" * 20)
    with pytest.raises(AudioError, match=r"text\.wav: cannot be decoded: .*[Ff]ormat"):
        audio.load(text)
    nothing = tmp_path / "nothing.wav"
    nothing.touch()
    with pytest.raises(AudioError, match="empty: no bytes"):
        audio.load(nothing)
    with pytest.raises(AudioError, match=r"gone\.wav: missing"):
        audio.load(tmp_path / "gone.wav")
    with pytest.raises(AudioError, match="no file: it is a folder"):
        audio.load(tmp_path)


def test_mono_is_the_mean_of_the_channels(tmp_path: Path) -> None:
    channels = np.random.default_rng(0).uniform(-1, 1, (70000, 3)).astype(np.float32)
    waveform, _ = audio.load(wav(tmp_path / "a.wav", channels))
    np.testing.assert_allclose(waveform, channels.mean(axis=1), atol=1e-7)


def test_resampling_a_sine_gives_the_sine(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", sine(44100, 44100, 1000.0), "WAV", "FLOAT", 44100)
    waveform, rate = audio.load(path, 22050)
    assert waveform.dtype == np.float32
    assert (waveform.shape, rate) == ((22050,), 22050)
    np.testing.assert_allclose(waveform[500:-500], sine(22050, 22050, 1000.0)[500:-500], atol=1e-3)
    same, _ = audio.load(path, 44100)
    np.testing.assert_array_equal(same, sine(44100, 44100, 1000.0))


def test_resampling_removes_what_the_new_rate_cannot_hold(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", sine(44100, 44100, 15000.0), "WAV", "FLOAT", 44100)
    assert np.abs(audio.load(path, 22050)[0][500:-500]).max() < 1e-3


def test_resampling_leaves_at_least_one_sample(tmp_path: Path) -> None:
    waveform, _ = audio.load(wav(tmp_path / "a.wav", np.ones(1)), 2000)
    assert waveform.shape == (1,)


def test_find_is_sorted_and_leaves_out_what_is_hidden(tmp_path: Path) -> None:
    names = ["b/2.flac", "b/10.wav", "a.WAV", "B.mp3", "café/ñandú 音.ogg", "b/c/d.AIF", "b-1/x.opus"]
    for name in [*names, ".hidden.wav", ".git/a.wav", "b/.cache/a.wav", "b/notes.txt", "wav"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in audio.find(tmp_path)]
    assert found == sorted(names)


@pytest.mark.skipif(os.name != "posix", reason="links and pipes")
def test_links_neither_loop_nor_double(tmp_path: Path) -> None:
    folder, outside = tmp_path / "in", tmp_path / "out"
    wav(folder / "z" / "a.wav")
    wav(outside / "b.wav")
    (folder / "z" / "up").symlink_to(folder)
    (folder / "a_link_to_z").symlink_to(folder / "z")
    (folder / "other").symlink_to(outside)
    (folder / "self.wav").symlink_to(folder / "self.wav")
    (folder / "nowhere.wav").symlink_to(folder / "gone.wav")
    os.mkfifo(folder / "pipe.wav")
    result = audio.SoundFolder(folder).scan()
    assert [(row.path, row.status) for row in result.rows] == [
        ("nowhere.wav", "skipped"),
        ("other/b.wav", "usable"),
        ("pipe.wav", "skipped"),
        ("self.wav", "skipped"),
        ("z/a.wav", "usable"),
    ]
    assert result.rows[2].reason == "no file: it is a pipe"
    assert result.rows[0].reason == "missing: there is no such file"
    assert result.rows[0].sha256 == ""


@pytest.mark.skipif(os.name != "posix", reason="names are bytes")
def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    try:
        wav(tmp_path / "a.wav").rename(tmp_path / os.fsdecode(b"\xff.wav"))
    except OSError:
        pytest.skip("this file system takes no such name")
    result = audio.SoundFolder(tmp_path).scan()
    assert len(result.usable) == 1
    result.write_csv(tmp_path / "scan.csv")
    assert b"\xff.wav" in (tmp_path / "scan.csv").read_bytes()


def made(path: Path) -> Path:
    """A sound with a JSON as `generate` writes it."""
    wav(path)
    path.with_suffix(".json").write_text(json.dumps({"file": path.name, "run": "r", "fingerprints": {}}))
    return path


def test_what_actseq_made_is_not_learned_from(tmp_path: Path) -> None:
    ours = [wav(tmp_path / "a.wav"), save(tmp_path / "b.flac", sine(), "FLAC", "PCM_16")]
    made(tmp_path / "generated" / "000.wav")
    made(tmp_path / "b.wav")  # made from b.flac, which is ours
    (tmp_path / "a.json").write_text('{"file": "a.wav", "bpm": 120}')
    wet = made(tmp_path / "wet.wav").with_suffix(".json")
    wet.write_text(json.dumps(json.loads(wet.read_text()) | {"dry": "wet.dry.wav"}))
    wav(tmp_path / "wet.dry.wav")
    made(tmp_path / "own.dry.wav")
    run = tmp_path / "runs" / "drums"
    wav(run / "report" / "all.wav")
    (run / "config.yaml").write_text("config:\n  seed: 0\nprovenance:\n  source: x\n")
    wav(tmp_path / "music" / "c.wav")
    (tmp_path / "music" / "config.yaml").write_text("player: loud\n")
    ours += [tmp_path / "music" / "c.wav", wav(tmp_path / "own.dry.dry.wav")]
    sounds = audio.SoundFolder(tmp_path)
    assert list(sounds.files.values()) == ours
    assert (sounds.found.n_made, sounds.found.n_runs) == (5, 1)
    assert audio.left_out(2, 1) == "left out 2 sounds that actseq made and 1 folders that hold a run"
    every = audio.SoundFolder(tmp_path, include_generated=True)
    assert len(every.files) == 10 == len(audio.find(tmp_path))
    with pytest.raises(AudioError, match=r"left out 1 folders that hold a run.*--include-generated"):
        _ = audio.SoundFolder(run).files


def test_a_wrong_folder_is_named_with_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "Drums").mkdir()
    with pytest.raises(AudioError, match=r"did you mean .*Drums\?"):
        audio.find(tmp_path / "drumz" / "kick")
    with pytest.raises(AudioError, match="exists, but has no voices"):
        audio.find(tmp_path / "voices")
    with pytest.raises(AudioError, match=r"a\.wav is a file; expected a folder"):
        audio.find(wav(tmp_path / "a.wav"))


def test_a_folder_without_sound_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no files at all"):
        audio.find(tmp_path)
    for name in ("a.txt", "b.TXT", "c/d.doc", "README"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(AudioError) as raised:
        audio.find(tmp_path)
    message = str(raised.value)
    for part in (str(tmp_path), "2 × .txt", "1 × .doc", "1 × without an ending", "flac", "wav", "mp3", "opus"):
        assert part in message


def test_scan_skips_by_name_and_goes_on(tmp_path: Path) -> None:
    wav(tmp_path / "top.wav")
    wav(tmp_path / "a" / "b" / "deep.wav", np.stack([sine(8000), sine(8000)], axis=1))
    wav(tmp_path / "a" / "nan.wav", np.full(10, np.nan))
    wav(tmp_path / "a" / "zero.wav", np.zeros(10))
    cut(wav(tmp_path / "é" / "cut.wav"), 0.5)
    (tmp_path / "é" / "text.flac").write_text("no sound")
    calls: list[tuple[int, int]] = []
    result = audio.SoundFolder(tmp_path).scan(lambda done, total: calls.append((done, total)))
    assert calls == [(i, 6) for i in range(1, 7)]
    assert [(row.path, row.label, row.reason.split(":")[0]) for row in result.rows] == [
        ("a/b/deep.wav", "a/b", ""),
        ("a/nan.wav", "a", "not finite"),
        ("a/zero.wav", "a", "silent"),
        ("top.wav", "", ""),
        ("é/cut.wav", "é", "cut short"),
        ("é/text.flac", "é", "cannot be decoded"),
    ]
    assert result.found == 6
    assert [row.path for row in result.usable] == ["a/b/deep.wav", "top.wav"]
    assert len(result.skipped) == 4
    deep = result.rows[0]
    assert (deep.sample_rate, deep.channels, deep.seconds, deep.status) == (RATE, 2, 0.5, "usable")
    assert result.seconds == pytest.approx(0.5 + 12001 / RATE)
    for row in result.rows:
        assert row.sha256 == hashlib.sha256((tmp_path / row.path).read_bytes()).hexdigest()


def test_a_scan_stops_when_its_listener_does(tmp_path: Path) -> None:
    for i in range(20):
        wav(tmp_path / f"{i}.wav")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audio.SoundFolder(tmp_path).scan(stop)


def test_scan_without_anything_usable_says_why(tmp_path: Path) -> None:
    wav(tmp_path / "a.wav", np.zeros(10))
    for name in ("b.flac", "c.flac"):
        (tmp_path / name).write_text("no sound")
    with pytest.raises(
        AudioError, match=r"none of the 3 sound files \(\.flac, \.wav\) in .*2 × cannot be decoded"
    ) as e:
        audio.SoundFolder(tmp_path).scan()
    assert str(tmp_path) in str(e.value)
    assert "b.flac" in str(e.value)


def test_scan_takes_labels_from_a_table(tmp_path: Path) -> None:
    wav(tmp_path / "x" / "a.wav")
    wav(tmp_path / "x" / "b.wav")
    table = tmp_path / "labels.csv"
    table.write_text("file,label\nx/b.wav,low\n")
    sounds = audio.SoundFolder(tmp_path, table)
    assert sounds.labels == {"x/a.wav": "x", "x/b.wav": "low"}
    assert [row.label for row in sounds.scan().rows] == ["x", "low"]
    table.write_text("file,label\nb.wav,low\n")
    with pytest.raises(ConfigError, match=r"b\.wav.*expected.*x/a\.wav"):
        audio.SoundFolder(tmp_path, table).scan()


def test_a_changed_folder_is_noticed(tmp_path: Path) -> None:
    table, folder = tmp_path / "labels.csv", tmp_path / "in"
    table.write_text("file,label\na.wav,low\n")
    path = wav(folder / "a.wav")
    wav(folder / "b.wav")
    sounds = audio.SoundFolder(folder, table)
    before, scan_csv = sounds.listing, tmp_path / "scan.csv"
    sounds.scan().write_csv(scan_csv)

    def found() -> tuple[bool, bool]:
        now = audio.SoundFolder(folder, table)
        return now.listing == before, now.same_as(scan_csv)

    assert found() == (True, True)
    os.utime(path, (1, 1))
    assert found() == (False, True), "the same content at another time"
    content = path.read_bytes()
    wav(path, sine(hz=441.0))
    assert found() == (False, False)
    path.write_bytes(content)
    wav(folder / "c.wav")
    assert found() == (False, False)
    (folder / "c.wav").rename(folder / "c.m4a")
    assert found() == (False, True), "earlier versions did not list what cannot be decoded"
    (folder / "c.m4a").unlink()
    assert found() == (False, True)
    table.write_text("file,label\na.wav,high\n")
    assert found() == (False, False)


def test_scan_writes_a_table(tmp_path: Path) -> None:
    wav(tmp_path / "in" / "a, b.wav")
    wav(tmp_path / "in" / "c.wav", np.zeros(10))
    result = audio.SoundFolder(tmp_path / "in").scan()
    result.write_csv(tmp_path / "out" / "scan.csv")
    with (tmp_path / "out" / "scan.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["a, b.wav", "c.wav"]
    assert [row["reason"] for row in rows] == ["", "silent: all samples are zero"]
    assert list(rows[0]) == ["path", "label", "sample_rate", "channels", "seconds", "status", "reason", "sha256"]
    assert float(rows[0]["seconds"]) == result.rows[0].seconds
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scan.csv"]


def test_sixteen_bit_values_come_back_as_they_were(tmp_path: Path) -> None:
    every = (np.arange(-32768, 32768) / 32768).astype(np.float32)
    path = tmp_path / "new" / "a.wav"
    assert audio.write(path, every, RATE) == 1.0
    np.testing.assert_array_equal(audio.load(path)[0], every)
    assert soundfile.info(path).subtype == "PCM_16"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.wav"]


def test_sixteen_bit_values_are_rounded_and_full_scale_does_not_wrap(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    assert audio.write(path, np.array([1.0, -1.0, 0.6 / 32768, -0.6 / 32768, 0.4 / 32768]), RATE) == 1.0
    assert soundfile.read(path, dtype="int16")[0].tolist() == [32767, -32768, 1, -1, 0]


@pytest.mark.parametrize(("name", "subtype"), [("a.wav", "PCM_16"), ("a.flac", "PCM_24"), ("a.wav", "PCM_32")])
def test_too_loud_is_turned_down_and_told(tmp_path: Path, name: str, subtype: str) -> None:
    waveform = 5.0 * sine()
    gain = audio.write(tmp_path / name, waveform, RATE, subtype)
    assert gain == pytest.approx(1 / np.abs(waveform).max())
    assert gain < 0.41
    np.testing.assert_allclose(audio.load(tmp_path / name)[0], waveform * gain, atol=1 / 32768)


def test_float_keeps_its_level(tmp_path: Path) -> None:
    assert audio.write(tmp_path / "a.wav", 5.0 * sine(), RATE, "FLOAT") == 1.0
    np.testing.assert_array_equal(audio.load(tmp_path / "a.wav")[0], 5.0 * sine())


def test_channels_are_kept(tmp_path: Path) -> None:
    channels = np.stack([sine(), 0.5 * sine()], axis=1)
    audio.write(tmp_path / "a.aif", channels, RATE)
    read, _ = soundfile.read(tmp_path / "a.aif")
    np.testing.assert_allclose(read, channels, atol=1 / 32768)


def test_long_ogg_is_written(tmp_path: Path) -> None:
    # Longer than what overflows the encoder's stack in one piece.
    audio.write(tmp_path / "a.ogg", np.tile(sine(), 250), 8000, "VORBIS")
    assert soundfile.info(tmp_path / "a.ogg").frames == 250 * 12001


@pytest.mark.parametrize(
    ("name", "waveform", "subtype", "message"),
    [
        ("a.wav", np.array([0.0, np.nan, np.inf]), "PCM_16", "2 of 3 samples to write are NaN or infinite"),
        ("a.wav", np.zeros(0), "PCM_16", "no samples to write"),
        ("a.ogg", np.ones(9), "PCM_16", "as PCM_16; expected for .ogg one of .*VORBIS"),
        ("a.xyz", np.ones(9), "PCM_16", "expected a path ending in .wav"),
        ("a", np.ones(9), "PCM_16", "expected a path ending in .wav"),
        ("taken/a.wav", np.ones(9), "PCM_16", "cannot be written"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, name: str, waveform: np.ndarray, subtype: str, message: str) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(AudioError, match=message):
        audio.write(tmp_path / name, waveform, RATE, subtype)
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = wav(tmp_path / "a.wav")
    before = path.read_bytes()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(soundfile.SoundFile, "write", full)
    with pytest.raises(AudioError, match="No space left"):
        audio.write(path, sine(), RATE)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.wav"]


def test_trim_bounds() -> None:
    waveform = np.zeros(100, np.float32)
    assert audio.trim_bounds(waveform) == (0, 0)
    assert audio.trim_bounds(waveform[:0]) == (0, 0)
    waveform[10:90] = 0.0004
    waveform[20:80] = -0.0006
    waveform[50] = 0.5
    assert audio.trim_bounds(waveform) == (20, 80)
    assert audio.trim_bounds(waveform, -70.0) == (10, 90)
    assert audio.trim_bounds(waveform, -6.0) == (50, 51)
    assert audio.trim_bounds(0.01 * waveform) == (20, 80)
    assert audio.trim_bounds(np.ones(7, np.float32), 0.0) == (0, 7)


@pytest.mark.data
def test_real_files_with_faults(data_dir: Path) -> None:
    result = audio.SoundFolder(data_dir / "broken").scan()
    reasons = {row.path: row.reason for row in result.skipped}
    flacs = [name for name in reasons if name.startswith("valid_flac_libsndfile_1.2.2_fails/")]
    assert reasons.pop("all_zero_hydrogen/emptySample.flac") == "silent: all samples are zero"
    # A later libsndfile may decode these; then they must come out whole.
    for row in result.usable:
        if row.path.startswith("valid_flac"):
            assert row.seconds == soundfile.info(data_dir / "broken" / row.path).duration
    if soundfile.__libsndfile_version__ == "1.2.2":
        assert len(flacs) == 14
    assert sorted(reasons) == sorted(flacs)
    assert all(reason.startswith("cannot be decoded: ") and "flac decoder" in reason for reason in reasons.values())
    usable = {row.path: row for row in result.usable if not row.path.startswith("valid_flac")}
    assert len(usable) == 19
    mp3s = {path.split("/")[1]: row for path, row in usable.items() if path.endswith(".mp3")}
    # Whole MPEG frames, counted in the files by hand; the header says up to 2.5 times as much.
    whole_frames = {
        "acidDrum": 141, "acidDrum2": 139, "acidDrum3": 251, "acidDrum4": 169, "common_voice_en_22058264": 171,
        "common_voice_en_22058266": 98, "common_voice_en_22058267": 77, "common_voice_ja_24511055": 181, "cymb": 19,
        "hiphop": 215, "sirene": 92, "vinyl": 147,
    }  # fmt: skip
    assert {name: row.seconds for name, row in mp3s.items()} == {
        f"{name}.mp3": pytest.approx(1152 * n / (32000 if "_ja_" in name else 48000))
        for name, n in whole_frames.items()
    }
    odd = {path.split("/")[1]: (row.sample_rate, row.channels) for path, row in usable.items() if "odd_format" in path}
    assert odd == {
        "132415__sajmund__hi-hat-hit.aiff": (44100, 2),
        "132418__sajmund__rimshot-sweet.aiff": (48000, 2),
        "13697_11991_000000.opus": (16000, 1),
        "cold_corpus_24bit.wav": (16000, 1),
        "cold_corpus_32bit_float.wav": (16000, 1),
        "michaelandsickmichael.wav": (16000, 2),
        "vibraphone-C6_downsampled.wav": (2756, 1),
    }


@pytest.mark.data
def test_all_digits_are_usable(data_dir: Path) -> None:
    result = audio.SoundFolder(data_dir / "digits_fsdd" / "0").scan()
    assert (result.found, len(result.usable), result.skipped) == (270, 270, ())
    assert {(row.sample_rate, row.channels, row.label) for row in result.rows} == {(8000, 1, "")}
    assert all(0.1 <= row.seconds <= 2.4 for row in result.rows)


def test_a_constant_offset_is_removed_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    clean = (0.1 * rng.standard_normal(8000)).astype(np.float32)
    freed, offset = audio.remove_offset(clean + np.float32(0.6))
    assert offset == pytest.approx(0.6, abs=0.01)
    assert abs(float(np.median(freed))) < 1e-6
    kick = np.exp(-np.arange(4000) / 200).astype(np.float32)  # all of one sign, and no offset
    untouched, none = audio.remove_offset(kick)
    assert none == 0.0
    np.testing.assert_array_equal(untouched, kick)
    assert audio.remove_offset(np.zeros(0, np.float32))[1] == 0.0


# -- in pieces ---------------------------------------------------------------------------------------------------------


def whole(path: Path, rate: int) -> tuple[np.ndarray, float]:
    """A file at `rate` without its offset, and that offset: all of it at once."""
    waveform, own_rate = audio.load(path)
    freed, offset = audio.remove_offset(waveform)
    return (freed if own_rate == rate else audio.resample(freed, own_rate, rate)), offset


def assert_blocks_are_the_whole(path: Path, rate: int) -> audio.Recording:
    expected, offset = whole(path, rate)
    recording = audio.measure(path, rate)
    blocks = list(recording.blocks())
    assert max(len(block) for block in blocks) <= 2 * audio.BLOCK * max(1, rate / recording.own_rate)
    found = np.concatenate(blocks)
    assert found.dtype == np.float32
    assert len(found) == len(expected) == recording.samples
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert recording.offset == offset
    assert recording.peak == np.abs(found).max()
    return recording


def outcome(read: Callable[[], object]) -> str:
    try:
        read()
    except AudioError as error:
        return str(error)
    return "usable"


def refusals(path: Path) -> list[str]:
    """What reading a file as a whole and in pieces, at its own rate and another, comes to."""
    return [
        outcome(read)
        for read in (
            lambda: audio.load(path),
            lambda: list(audio.measure(path, RATE).blocks()),
            lambda: list(audio.measure(path, 3 * RATE).blocks()),
        )
    ]


@pytest.mark.parametrize(("form", "subtype", "ending", "tolerance"), WRITTEN)
@pytest.mark.parametrize("rate", [RATE, 22050])
def test_blocks_of_every_format(
    tmp_path: Path, form: str, subtype: str, ending: str, tolerance: float, rate: int
) -> None:
    assert_blocks_are_the_whole(save(tmp_path / f"a.{ending}", sine(), form, subtype), rate)


@pytest.mark.parametrize("own_rate", [8000, 22050, 48000, 44100])
@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
def test_blocks_of_long_stereo_files(tmp_path: Path, own_rate: int, ending: str) -> None:
    rng = np.random.default_rng(own_rate)
    channels = rng.uniform(-0.9, 0.9, (3 * audio.BLOCK + 17, 2)).astype(np.float32)
    form, subtype = {"ogg": ("OGG", "VORBIS"), "mp3": ("MP3", "MPEG_LAYER_III")}.get(ending, (ending.upper(), "PCM_16"))
    # libvorbis overflows its stack when a long sound comes in one piece.
    path = tmp_path / f"a.{ending}"
    with soundfile.SoundFile(path, "w", own_rate, 2, subtype, format=form) as file:
        for start in range(0, len(channels), 5000):
            file.write(channels[start : start + 5000])
    for rate in (8000, 22050, 44100):
        assert assert_blocks_are_the_whole(path, rate).own_rate == own_rate


def test_blocks_of_few_samples(tmp_path: Path) -> None:
    for n in (1, 2, 7, 8, 9):
        path = wav(tmp_path / f"{n}.wav", sine(n) + 0.1)
        for rate in (2000, RATE, 48000):
            assert_blocks_are_the_whole(path, rate)


@pytest.mark.parametrize("n", [4095, 4096, 70001, 70002])
@pytest.mark.parametrize("offset", [0.4, -0.4, 0.031, 0.0])
@pytest.mark.parametrize("subtype", ["FLOAT", "PCM_16", "PCM_U8"])
def test_blocks_are_free_of_the_very_offset(tmp_path: Path, n: int, offset: float, subtype: str) -> None:
    clean = 0.1 * np.random.default_rng(n).standard_normal(n).clip(-4, 4)
    path = save(tmp_path / "a.wav", clean + offset, "WAV", subtype)
    recording = assert_blocks_are_the_whole(path, RATE)
    assert recording.offset == pytest.approx(offset if abs(offset) == 0.4 and n >= 4096 else 0.0, abs=0.01)
    assert_blocks_are_the_whole(path, 11025)


def test_an_offset_at_the_very_limit(tmp_path: Path) -> None:
    """Half the samples decide the median, and others the peak, on either side of the share that counts."""
    for middle in (0.29999, 0.3, 0.30001, -0.3, -0.30001):
        for n in (5000, 5001):
            steps = np.full(n, middle, np.float32)
            steps[: n // 3], steps[-(n // 3) :] = -1.0, 1.0
            assert_blocks_are_the_whole(wav(tmp_path / "a.wav", steps), RATE)
        between = np.repeat(np.array([-1.0, middle, middle + 1e-3, 1.0], np.float32), 2000)
        assert_blocks_are_the_whole(wav(tmp_path / "a.wav", between), RATE)


@pytest.mark.parametrize("share", [0.5, 0.97])
@pytest.mark.parametrize(("form", "subtype", "ending", "tolerance"), WRITTEN)
def test_a_file_cut_short_is_refused_in_the_same_words(
    tmp_path: Path, form: str, subtype: str, ending: str, tolerance: float, share: float
) -> None:
    said = refusals(cut(save(tmp_path / f"a.{ending}", sine(), form, subtype), share))
    assert len(set(said)) == 1
    assert (said[0] == "usable") == (form == "MP3")


def test_unusable_samples_are_refused_in_the_same_words(tmp_path: Path) -> None:
    late = np.where(np.arange(2 * audio.BLOCK) == 2 * audio.BLOCK - 5, np.nan, 0.5)
    for i, waveform in enumerate((late, np.zeros(100), np.zeros(0), np.stack([sine(), -sine()], axis=1))):
        said = refusals(wav(tmp_path / f"{i}.wav", waveform))
        assert len(set(said)) == 1
        assert said[0] != "usable"
    for name in ("gone.wav", "."):
        said = refusals(tmp_path / name)
        assert len(set(said)) == 1
        assert said[0] != "usable"


@pytest.mark.data
def test_broken_files_come_to_the_same(data_dir: Path) -> None:
    paths = audio.find(data_dir / "broken")
    usable = 0
    for path in paths:
        said = refusals(path)
        assert len(set(said)) == 1, said
        if said[0] == "usable":
            usable += 1
            assert_blocks_are_the_whole(path, RATE)
    assert 0 < usable < len(paths)


def test_an_mp3_is_heard_to_its_end_in_pieces_too(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.2, 3 * 44100)
    path = tmp_path / "a.mp3"
    fast = mp3(path, noise[:44100], 0.0, "CONSTANT")
    slow = mp3(path, noise, 0.95, "CONSTANT")
    # Fast frames first, no header: the length, taken from the first frame, is far too short.
    path.write_bytes(fast[fast.index(fast[:2], 100) :] + slow)
    assert_blocks_are_the_whole(path, 44100)
    assert_blocks_are_the_whole(path, 22050)


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    path = wav(tmp_path / "a.wav")
    recording = audio.measure(path, RATE)
    wav(path, sine(12000))
    with pytest.raises(AudioError, match=r"a\.wav: changed while it was read; leave it"):
        list(recording.blocks())
    path.unlink()
    with pytest.raises(AudioError, match=r"a\.wav: missing"):
        list(recording.blocks())


@pytest.mark.parametrize(("name", "subtype"), [("a.wav", "PCM_16"), ("a.flac", "PCM_24"), ("a.wav", "FLOAT")])
@pytest.mark.parametrize("peak", [0.5, 1.0, 1.7])
def test_pieces_make_the_file_that_the_whole_makes(tmp_path: Path, name: str, subtype: str, peak: float) -> None:
    waveform = np.concatenate([sine(audio.BLOCK + 3), np.float32(2 * peak) * sine(5000)])
    gain = audio.write(tmp_path / name, waveform, RATE, subtype)
    assert (gain < 1) == (peak > 1 and subtype != "FLOAT")
    for size in (1001, 200_000):
        path = tmp_path / str(size) / name
        with audio.Writer(path, RATE, subtype) as writer:
            writer.write(waveform[:0])
            for start in range(0, len(waveform), size):
                writer.write(waveform[start : start + size])
            assert not path.exists()
        assert writer.gain == gain
        assert path.read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.parametrize("name", ["a.wav", "a.aiff"])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_a_float_file_holds_no_time(tmp_path: Path, name: str, subtype: str) -> None:
    waveform = sine(100)
    audio.write(tmp_path / name, waveform, RATE, subtype)
    content = (tmp_path / name).read_bytes()
    order = ">" if name == "a.aiff" else "<"
    version, time, peak, position = struct.unpack_from(f"{order}IIfI", content, content.index(b"PEAK") + 8)
    assert (version, time) == (1, 0)
    assert (peak, position) == (np.abs(waveform).max(), np.abs(waveform).argmax())
    np.testing.assert_array_equal(soundfile.read(tmp_path / name)[0], waveform)


def test_pieces_are_brought_to_a_peak(tmp_path: Path) -> None:
    for name, amplitude in (("quiet", 0.01), ("loud", 7.0), ("silent", 0.0)):
        with audio.Writer(tmp_path / f"{name}.wav", RATE, peak=0.5) as writer:
            writer.write(np.float32(amplitude) * sine(4000))
            writer.write(np.float32(amplitude / 2) * sine(4000))
        found = soundfile.read(tmp_path / f"{name}.wav")[0]
        assert np.abs(found).max() == pytest.approx(0.5 if amplitude else 0.0, abs=1e-4)
        assert np.abs(found[4000:]).max() == pytest.approx(0.25 if amplitude else 0.0, abs=1e-4)


def test_what_cannot_be_written_in_pieces(tmp_path: Path) -> None:
    def write(path: Path, *pieces: np.ndarray, error: BaseException | None = None) -> None:
        with audio.Writer(path, RATE) as writer:
            for piece in pieces:
                writer.write(piece.astype(np.float32))
            if error:
                raise error

    path = wav(tmp_path / "a.wav")
    before = path.read_bytes()
    with pytest.raises(AudioError, match="2 of 6 samples to write are NaN or infinite"):
        write(path, np.zeros(3), np.array([0.0, np.nan, np.inf]))
    with pytest.raises(AudioError, match="no samples to write"):
        write(path)
    with pytest.raises(AudioError, match=r"cannot be written as PCM_16; expected a path ending in"):
        write(tmp_path / "a.txt", np.zeros(3))
    with pytest.raises(AudioError, match=r"a\.wav.*cannot be written"):
        write(path / "b.wav", np.zeros(3))
    with pytest.raises(KeyboardInterrupt):
        write(path, sine(), error=KeyboardInterrupt())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.data
@pytest.mark.parametrize("name", ["labels_typo.csv", "labels_nfd.csv"])
def test_reported_tables_of_labels(tmp_path: Path, data_dir: Path, name: str) -> None:
    for letter in ("f", "\u00e9"):
        for i in range(10):
            wav(tmp_path / f"{letter}{i}.wav")
    sounds = audio.SoundFolder(tmp_path, data_dir / "reported" / name)
    rows, files = sounds.unmatched
    if "nfd" in name:
        assert (rows, files) == ([], [])
        assert "" not in sounds.labels.values()
    else:
        assert rows == ["f55.wav", "f77.WAV"]
        assert len(files) == 15
        assert all(sounds.labels[file] == "" for file in files)


def test_blanks_around_names_do_not_matter(tmp_path: Path) -> None:
    wav(tmp_path / "d" / "a.wav")
    (tmp_path / "labels.csv").write_text("file,label\n d/a.wav , low \n")
    sounds = audio.SoundFolder(tmp_path, tmp_path / "labels.csv")
    assert sounds.labels == {"d/a.wav": "low"}
    assert sounds.unmatched == ([], [])
    (tmp_path / "labels.csv").write_text("file,label\nd/a.wav,low\n d/a.wav,high\n")
    with pytest.raises(ConfigError, match="a second time"):
        _ = audio.SoundFolder(tmp_path, tmp_path / "labels.csv").labels
