"""The page of `actseq explore` in a browser, as a user goes through it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explorer import OLD_RUNS, Server, serving

from actseq import audio, pipeline
from actseq.explore import paths
from actseq.explore.studio import Studio
from actseq.inference.loaded_run import LoadedRun

RECORD = """
window.heard = [];
const start = AudioBufferSourceNode.prototype.start;
AudioBufferSourceNode.prototype.start = function (...given) {
  const peak = this.buffer.getChannelData(0).reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  window.heard.push({ seconds: this.buffer.duration, peak, rate: this.buffer.sampleRate });
  return start.apply(this, given);
};
"""
"""Remembers what the page plays."""
SIZES = {"desktop": (1360, 900), "phone": (390, 844)}


def opened(
    browser: Any, server: Server, size: str = "desktop", scheme: str = "light", touch: bool = False
) -> Iterator[Any]:
    """The page, ready; whatever the browser complains about and any request to another host fail the test."""
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, has_touch=touch)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: elsewhere(request.url, server, complaints))
    page.add_init_script(RECORD)
    page.goto(f"http://{server.host}/")
    page.wait_for_selector("body[data-ready]")
    yield page
    context.close()
    assert complaints == page_expected(page)


def page_expected(page: Any) -> list[str]:
    """Complaints that a test has caused on purpose: answers that refuse something."""
    return list(getattr(page, "expected", []))


def elsewhere(url: str, server: Server, complaints: list[str]) -> None:
    if not url.startswith((f"http://{server.host}/", "data:", "blob:")):
        complaints.append(f"a request to {url}")


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    yield from opened(browser, server)


def places(page: Any, server: Server) -> list[tuple[float, float]]:
    """Where the dots are on the screen: one scale for both axes, the plane in the middle of the canvas."""
    box = page.locator("#map").bounding_box()
    width, height = page.evaluate(
        "() => { const map = document.getElementById('map'); return [map.clientWidth, map.clientHeight]; }"
    )
    at = server.studio.catalog.places
    low, high = at.min(0), at.max(0)
    room = 0.02 * (high - low).max()
    factor = min((width - 52) / (high - low + 2 * room)[0], (height - 52) / (high - low + 2 * room)[1])
    middle = (low + high) / 2
    edge = (box["width"] - width) / 2
    x = box["x"] + edge + width / 2 + factor * (at[:, 0] - middle[0])
    y = box["y"] + edge + height / 2 - factor * (at[:, 1] - middle[1])
    return list(zip(x.tolist(), y.tolist(), strict=True))


def status(page: Any, words: str) -> str:
    """What the page says, once it says these words."""
    page.wait_for_function("words => document.getElementById('status').textContent.includes(words)", arg=words)
    return str(page.inner_text("#status"))


def last_heard(page: Any) -> Any:
    return page.evaluate("() => window.heard[window.heard.length - 1]")


def test_a_dot_is_heard_when_it_is_pressed(page: Any, server: Server) -> None:
    page.mouse.click(*places(page, server)[3])
    said = status(page, "first sound after")
    clip = server.studio.catalog.clips[3]
    assert clip.key.rsplit("/", 1)[-1] in said
    heard = last_heard(page)
    assert heard["rate"] == server.studio.sample_rate
    assert heard["seconds"] == pytest.approx(clip.seconds, abs=0.01)
    assert heard["peak"] > 0.1


def test_the_map_can_be_used_with_the_keyboard_alone(page: Any) -> None:
    page.focus("#map")
    page.keyboard.press("ArrowRight")
    first = page.inner_text("#hand-name")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#hand-name") != first
    page.keyboard.press("Enter")
    status(page, "first sound after")
    page.click("[data-tool=path]")
    page.focus("#map")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.click("#hear-path")
    status(page, "Path: ")


def magnified(page: Any) -> float:
    return float(page.inner_text("#zoom-all").removesuffix("×"))


def neighbours(dots: list[tuple[float, float]]) -> tuple[int, int]:
    """Two dots that are near each other, and far enough apart to be told apart once the map is magnified."""
    apart = np.hypot(*np.subtract(np.array(dots)[:, None], np.array(dots)[None]).transpose(2, 0, 1))
    apart[apart < 4] = np.inf
    i, j = np.unravel_index(apart.argmin(), apart.shape)
    return int(i), int(j)


def heard_at(page: Any, server: Server, at: tuple[float, float], wanted: int) -> None:
    """A press at this place sounds this clip."""
    page.mouse.click(*at)
    status(page, server.studio.catalog.clips[wanted].key.rsplit("/", 1)[-1])


def test_the_wheel_magnifies_the_map_where_the_mouse_is(page: Any, server: Server) -> None:
    dots = places(page, server)
    first, second = neighbours(dots)
    page.mouse.move(*dots[first])
    page.mouse.wheel(0, -600)
    page.wait_for_function("() => document.getElementById('zoom-all').textContent !== '1 ×'")
    ratio = np.exp(0.002 * 600)
    assert magnified(page) == pytest.approx(ratio, abs=0.06)
    assert page.evaluate("() => window.scrollY") == 0
    heard_at(page, server, dots[first], first)
    x, y = dots[first] + ratio * np.subtract(dots[second], dots[first])
    heard_at(page, server, (x, y), second)
    # The ground is dragged: the dot goes with it.
    box = page.locator("#map").bounding_box()
    ground = next(
        (box["x"] + u, box["y"] + v)
        for u in range(60, int(box["width"]) - 160, 20)
        for v in range(60, int(box["height"]) - 60, 20)
        if np.hypot(*(dots[first] + ratio * np.subtract(dots, dots[first]) - [box["x"] + u, box["y"] + v]).T).min() > 40
    )
    towards = np.sign(np.add(box["x"] + box["width"] / 2, 0) - dots[first][0]) * 30
    page.mouse.move(*ground)
    page.mouse.down()
    page.mouse.move(ground[0] + towards, ground[1], steps=4)
    page.mouse.up()
    heard_at(page, server, (dots[first][0] + towards, dots[first][1]), first)
    page.keyboard.press("0")
    assert magnified(page) == 1
    heard_at(page, server, dots[second], second)


def test_keys_buttons_and_a_double_click_magnify(page: Any, server: Server) -> None:
    for press, wanted in (("+", 1.5), ("=", 2.25), ("-", 1.5), ("0", 1.0)):
        page.keyboard.press(press)
        assert magnified(page) == pytest.approx(wanted, abs=0.06)
    page.focus("[name=seconds]")
    page.keyboard.type("10")
    assert magnified(page) == 1, "what is typed into a field is no key of the map"
    page.click("#zoom-in")
    page.click("#zoom-out")
    page.click("#zoom-out")
    assert magnified(page) == pytest.approx(0.7)
    page.click("#zoom-all")
    dot = places(page, server)[2]
    page.mouse.dblclick(*dot)
    assert magnified(page) == 2
    heard_at(page, server, dot, 2)
    for _ in range(20):
        page.keyboard.press("+")
    assert magnified(page) == 64
    # The arrows find the dots that are out of sight.
    page.focus("#map")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    box = page.locator("#map").bounding_box()
    assert page.evaluate("() => document.getElementById('over').textContent") != ""
    heard = len(page.evaluate("() => window.heard"))
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_function("heard => window.heard.length > heard", arg=heard)


def test_two_fingers_magnify_and_one_finger_presses(browser: Any, server: Server) -> None:
    for page in opened(browser, server, "phone", touch=True):
        page.locator("#map").scroll_into_view_if_needed()
        dot = places(page, server)[1]
        touches = page.context.new_cdp_session(page)

        def fingers(kind: str, *points: tuple[float, float], touches: Any = touches) -> None:
            shown = [{"x": x, "y": y, "id": k} for k, (x, y) in enumerate(points)]
            touches.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": shown})

        x, y = dot
        fingers("touchStart", (x - 20, y))
        fingers("touchStart", (x - 20, y), (x + 20, y))
        for step in range(1, 5):
            fingers("touchMove", (x - 20 - 5 * step, y), (x + 20 + 5 * step, y))
        fingers("touchEnd")
        assert magnified(page) == pytest.approx(2, abs=0.06)
        assert page.evaluate("() => window.heard.length") == 0, "a pinch is no press"
        fingers("touchStart", dot)
        fingers("touchEnd")
        status(page, server.studio.catalog.clips[1].key.rsplit("/", 1)[-1])
        page.click("[data-tool=path]")
        page.locator("#map").scroll_into_view_if_needed()
        x, y = page.locator("#map").bounding_box()["x"] + 60, page.locator("#map").bounding_box()["y"] + 60
        fingers("touchStart", (x, y))
        fingers("touchMove", (x + 40, y))
        fingers("touchStart", (x + 40, y), (x + 80, y))
        fingers("touchEnd")
        assert page.is_disabled("#hear-path"), "what one finger has begun to draw before a pinch is no path"


def test_a_path_is_drawn_and_decoded_and_labelled(page: Any, server: Server) -> None:
    page.click("[data-tool=path]")
    assert paths.LABEL in page.inner_text("#tool-hint")
    dots = places(page, server)
    page.mouse.move(*dots[0])
    page.mouse.down()
    page.mouse.move(*dots[-1], steps=12)
    page.mouse.up()
    assert paths.LABEL in status(page, "Path: ")
    assert paths.LABEL in page.inner_text(".shelf li >> nth=0")
    assert last_heard(page)["peak"] > 0.01
    made = next(reversed(server.studio.shelf.sounds.values()))
    assert len(made.about["path"]) > 5


def test_way_points_are_passed_through(page: Any, server: Server) -> None:
    page.click("[data-tool=waypoints]")
    dots = places(page, server)
    assert page.is_disabled("#hear-path")
    page.mouse.click(*dots[0])
    page.mouse.click(*dots[-1])
    page.click("#hear-path")
    assert "through 2 sounds" in status(page, "Interpolation: ")


def test_a_clip_is_generated_and_kept_with_its_provenance(page: Any, server: Server) -> None:
    page.select_option("[name=label]", "kick")
    page.fill("[name=seconds]", "0.2")
    page.fill("[name=seed]", "3")
    page.click("text=Generate")
    assert "seed 3" in status(page, "New sound: ")
    page.click(".shelf li >> nth=0 >> text=Keep")
    status(page, "Kept as kick-")
    kept = max(server.studio.loaded.run.kept.glob("kick-*.wav"))
    waveform, rate = audio.load(kept)
    assert len(waveform) == pytest.approx(0.2 * rate, abs=1)
    about = json.loads(kept.with_suffix(".json").read_text())
    assert (about["settings"]["label"], about["settings"]["seed"], about["file"]) == ("kick", 3, kept.name)
    assert about["fingerprints"] == server.studio.loaded.fingerprints
    assert page.is_disabled(".shelf li >> nth=0 >> text=Kept")


def test_a_glide_asks_for_its_length(page: Any) -> None:
    seconds = page.locator("[name=seconds]")
    assert (seconds.get_attribute("placeholder"), seconds.evaluate("one => one.required")) == ("until it ends", False)
    page.select_option("[name=label]", "kick")
    page.select_option("[name=glide]", "hat")
    assert (seconds.get_attribute("placeholder"), seconds.evaluate("one => one.required")) == ("of the glide", True)
    page.fill("[name=seconds]", "0.3")
    page.click("text=Generate")
    assert "0.30 s" in status(page, "New sound: ")
    page.select_option("[name=glide]", "")
    assert not seconds.evaluate("one => one.required")


def test_a_sound_of_the_user_is_continued_and_changed_by_effects(page: Any, server: Server, tmp_path: Path) -> None:
    wave = 0.4 * np.sin(2 * np.pi * 220 * np.arange(8820) / 44100).astype(np.float32)
    audio.write(tmp_path / "mine.wav", wave, 44100)
    page.set_input_files("#file", tmp_path / "mine.wav")
    assert "resampled from 44100 to 8000 Hz" in status(page, "is the chosen sound")
    page.check("[value=continue]")
    page.fill("[name=seconds]", "0.2")
    page.click("text=Generate")
    status(page, "Continuation: 0.40 s")
    page.select_option("#effect", "fade")
    page.click("#add-effect")
    page.fill("[name=out_seconds]", "0.1")
    page.click("#apply")
    status(page, "Effects: 0.40 s")
    assert server.studio.shelf.get(page.get_attribute(".shelf li >> nth=0", "data-id")).about["effects"] == [
        {"kind": "fade", "in_seconds": 0, "out_seconds": 0.1}
    ]


def test_a_bad_file_is_refused_with_a_sentence_and_the_page_goes_on(page: Any, server: Server, tmp_path: Path) -> None:
    page.expected = ["Failed to load resource: the server responded with a status of 400 (Bad Request)"]
    (tmp_path / "notes.wav").write_text("this is no sound")
    page.set_input_files("#file", tmp_path / "notes.wav")
    page.wait_for_selector("#status.bad")
    said = page.inner_text("#status")
    assert said.startswith("notes.wav")
    assert said.endswith(".")
    assert "/tmp" not in said
    page.mouse.click(*places(page, server)[0])
    status(page, "first sound after")
    assert page.query_selector("#status.bad") is None


def test_two_sounds_are_compared_in_step(page: Any, server: Server) -> None:
    dots = places(page, server)
    page.mouse.click(*dots[0])
    page.click("#hand-a")
    page.mouse.click(*dots[-1])
    page.click("#hand-b")
    page.click("#compare")
    status(page, "You hear A")
    page.keyboard.press("x")
    status(page, "You hear B")
    page.keyboard.press("Escape")
    assert page.is_disabled("#switch")


def test_a_packed_run_has_a_map_of_generated_clips(browser: Any, tmp_path: Path) -> None:
    pipeline.pack(OLD_RUNS / "drums", out=tmp_path / "drums-packed")
    with serving(Studio(LoadedRun.open(tmp_path / "drums-packed", device="cpu"))) as server:
        for page in opened(browser, server):
            assert "generated clips" in page.inner_text("#about")
            assert re.search(r"The map shows \d+ % of the differences", page.inner_text("#about"))
            assert page.is_hidden("[value=vary]")
            page.mouse.click(*places(page, server)[0])
            assert "generated" in status(page, "first sound after")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_page_fits_and_is_named_for_readers(browser: Any, server: Server, size: str, scheme: str) -> None:
    for page in opened(browser, server, size, scheme):
        assert page.evaluate("() => document.scrollingElement.scrollWidth <= window.innerWidth")
        unnamed = (
            "button:not([aria-label]):empty, img:not([alt]), canvas:not([aria-label]), input:not([id]):not([name])"
        )
        assert page.query_selector_all(unnamed) == []
        background = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, background.strip("rgb()").split(","))) < 384) == (scheme == "dark")
