"""What all tests share: where the real audio is, and shape checks at run time."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

import actseq.vocoders.kernels
import actseq.vocoders.wavenet_loop  # noqa: F401 - before the hook: numba compiles plain functions only

# An int is welcome where a float is asked for, as everywhere in Python.
check_types = beartype(conf=BeartypeConf(is_pep484_tower=True))
# Every annotated shape of the library is checked while the tests run.
install_import_hook("actseq", "conftest.check_types")
# Made absolute here: tests change the working directory.
DATA = Path(os.environ["ACTSEQ_DATA"]).resolve() if "ACTSEQ_DATA" in os.environ else None


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real audio named by ACTSEQ_DATA."""
    if DATA is None or not DATA.is_dir():
        message = "ACTSEQ_DATA does not name a folder of audio"
        if os.environ.get("ACTSEQ_REQUIRE_DATA") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return DATA


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What `actseq explore` does with a small run; see `explorer`."""
    from explorer import small_studio

    return small_studio(tmp_path_factory.mktemp("explore"))


@pytest.fixture(scope="session")
def server(studio: Any) -> Iterator[Any]:
    """The page of that run, served from a thread."""
    from explorer import serving

    with serving(studio) as found:
        yield found


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """An installed Chromium, headless; the tests of `tests/web` need one."""
    from playwright.sync_api import sync_playwright

    named = os.environ.get("ACTSEQ_CHROMIUM")
    names = [named] if named else ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.fail(f"no browser: {', '.join(names)} not found; apt-get install chromium, or set ACTSEQ_CHROMIUM")
    quiet = ("background-networking", "component-update", "quic", "sync", "gpu")
    switches = ["--no-sandbox", "--no-first-run", *(f"--disable-{one}" for one in quiet)]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=switches)
        yield chromium
        chromium.close()
