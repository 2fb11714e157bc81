"""Sounds in pages: what is heard and what is seen is the sound that was given."""

from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
import soundfile
from jinja2 import UndefinedError
from PIL import Image

from actseq.errors import AudioError
from actseq.pages.rendering import environment, render
from actseq.pages.sounds import COLUMNS, ShownSound, colours, spectrogram_png

RATE = 8000
PLAYER = "{% from 'player.html' import player %}{{ player(sound) }}"


def tone(hertz: float, seconds: float = 0.5) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def content(uri: str, kind: str) -> BytesIO:
    assert uri.startswith(f"data:{kind};base64,")
    return BytesIO(b64decode(uri.partition(",")[2], validate=True))


def test_a_shown_sound_is_the_sound_in_sixteen_bits() -> None:
    shown = ShownSound.of(tone(440), RATE, "a tone")
    decoded, rate = soundfile.read(content(shown.audio, "audio/flac"), dtype="float32")
    assert (rate, shown.seconds, shown.width) == (RATE, 0.5, 1.0)
    np.testing.assert_allclose(decoded, tone(440), atol=1 / 65536)
    assert shown.size == len(shown.audio) + len(shown.picture)


def test_a_sound_that_would_clip_is_turned_down_and_nothing_is_refused() -> None:
    decoded, _ = soundfile.read(content(ShownSound.of(4 * tone(440), RATE, "").audio, "audio/flac"))
    np.testing.assert_allclose(decoded, 2 * tone(440), atol=1e-4)
    with pytest.raises(AudioError, match="NaN"):
        ShownSound.of(np.full(10, np.nan, np.float32), RATE, "")


def test_the_picture_is_brightest_where_the_tone_is_and_black_in_silence() -> None:
    rows = {}
    for hertz in (100, 3000):
        picture = np.asarray(Image.open(BytesIO(spectrogram_png(tone(hertz), RATE))).convert("L"))
        rows[hertz] = int(picture.mean(axis=1).argmax())
        assert picture.max() == 252
    assert rows[3000] < rows[100]  # Low frequencies are below.
    silent = np.asarray(Image.open(BytesIO(spectrogram_png(np.zeros(RATE, np.float32), RATE))).convert("L"))
    assert silent.max() == 0


def test_light_and_dark_pages_have_the_same_colours_in_opposite_order() -> None:
    for light, dark in zip(colours(dark=False), colours(dark=True), strict=True):
        assert light.split() == dark.split()[::-1]
        assert f'tableValues="{light}"' in render("base.html")


def test_sounds_on_one_time_axis_are_as_wide_as_they_are_long() -> None:
    long, short = tone(440), tone(440)[:1000]
    shown = [ShownSound.of(sound, RATE, "", axis=len(long)) for sound in (long, short)]
    assert [one.width for one in shown] == [1.0, 0.25]
    columns = [Image.open(content(one.picture, "image/png")).width for one in shown]
    assert columns[0] == pytest.approx(COLUMNS, rel=0.1)
    assert columns[1] == pytest.approx(columns[0] / 4, abs=2)


def test_a_hostile_title_is_text_and_bytes_that_are_no_text_are_replaced() -> None:
    sound = ShownSound.of(tone(440), RATE, '"><script>alert(1)</script>', "\udce9")
    made = environment().from_string(PLAYER).render(sound=sound)
    assert "<script" not in made
    assert "&lt;script&gt;" in made


def test_a_page_needs_all_that_it_shows() -> None:
    with pytest.raises(UndefinedError, match="missing"):
        environment().from_string("{{ missing }}").render()
    assert "http" not in render("base.html")
