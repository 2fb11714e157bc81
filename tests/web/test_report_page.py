"""The report of a run in a browser: it opens without a network, and its sounds play, also by keyboard."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actseq import pipeline

OLD_RUNS = Path(__file__).parents[1] / "old_runs"
QUICK = ["vocoder.kind=griffin-lim", "vocoder.n_iter=1", "generate.max_seconds=0.3"]
WIDTHS = {"desktop": 1280, "phone": 360}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a small run: drums at 8 kHz."""
    run = tmp_path_factory.mktemp("report") / "drums"
    shutil.copytree(OLD_RUNS / "drums", run)
    compute = pipeline.Compute("cpu", 1)
    return Path(pipeline.report(run, n=1, overrides=QUICK, compute=compute)["page"])


def opened(browser: Any, report: Path, size: str = "desktop", scheme: str = "light") -> Iterator[Any]:
    """The page; whatever the browser complains about and any request fail the test."""
    context = browser.new_context(viewport={"width": WIDTHS[size], "height": 800}, color_scheme=scheme)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request", lambda sent: None if sent.url.startswith(("file:", "data:")) else complaints.append(sent.url[:200])
    )
    page.goto(report.as_uri())
    page.wait_for_selector(".player[data-ready]")
    yield page
    context.close()
    assert complaints == []


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    yield from opened(browser, report)


def test_every_sound_of_the_page_can_be_played(page: Any) -> None:
    lengths = page.evaluate("""() => Promise.all([...document.querySelectorAll("audio")].map((audio) =>
        new Promise((resolve, reject) => {
          audio.addEventListener("loadedmetadata", () => resolve([audio.duration, Number(audio.dataset.seconds)]));
          audio.addEventListener("error", () => reject(audio.getAttribute("aria-label") + audio.error.message));
          audio.preload = "metadata";
          audio.load();
        })))""")
    assert len(lengths) > 5
    for found, told in lengths:
        assert found == pytest.approx(told, abs=0.01)


def test_a_sound_is_found_played_and_searched_by_keyboard(page: Any) -> None:
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('play')"):
            break
    button = page.locator(".play").first
    assert button.evaluate("button => button === document.activeElement")
    assert button.evaluate("button => parseFloat(getComputedStyle(button).outlineWidth)") >= 2
    assert button.get_attribute("aria-label").startswith("Play real")
    # As slow as the browser allows, or a drum is over before anybody looks.
    page.evaluate("document.querySelector('audio').playbackRate = 0.0625")
    page.keyboard.press("Space")
    page.wait_for_function("document.querySelector('audio').currentTime > 0")
    assert button.get_attribute("aria-label").startswith("Pause real")
    # Another sound stops the first.
    page.evaluate("document.querySelectorAll('audio')[1].playbackRate = 0.0625")
    page.locator(".play").nth(1).press("Enter")
    page.wait_for_function("document.querySelectorAll('audio')[1].currentTime > 0")
    assert page.evaluate("document.querySelector('audio').paused")
    page.locator(".play").nth(1).press("Enter")
    slider = page.locator(".position").nth(1)
    page.evaluate("document.querySelectorAll('audio')[1].currentTime = 0")
    for _ in range(10):
        slider.press("ArrowRight")
    assert page.evaluate("document.querySelectorAll('audio')[1].currentTime") > 0
    page.wait_for_function("document.querySelectorAll('.position')[1].getAttribute('aria-valuetext') != '0.00 s'")


def test_everything_that_can_be_pressed_has_a_name(page: Any) -> None:
    names = page.evaluate("""() => [...document.querySelectorAll("button, input, summary, a")].map(
        (one) => one.getAttribute("aria-label") || one.textContent.trim())""")
    assert len(names) > 20
    assert all(names)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", WIDTHS)
def test_it_fits_the_screen_and_its_button_turns_the_light(browser: Any, report: Path, size: str, scheme: str) -> None:
    for page in opened(browser, report, size, scheme):
        assert page.evaluate("document.documentElement.scrollWidth") <= WIDTHS[size]
        paper = "getComputedStyle(document.body).backgroundColor"
        picture = "getComputedStyle(document.querySelector('.spectrogram')).filter"
        before = page.evaluate(f"[{paper}, {picture}]")
        assert f"spectrum-{scheme}" in before[1]
        page.locator("[data-theme-button]").click()
        after = page.evaluate(f"[{paper}, {picture}]")
        assert after[0] != before[0]
        assert after[1] != before[1]
        page.locator("[data-theme-button]").click()
        assert page.evaluate(f"[{paper}, {picture}]") == before
