"""The minutes of all stages, with a clock that the tests move."""

import time
from pathlib import Path

import pytest

from actseq.commands.common import TurnedDown
from actseq.commands.run import CLOSING_SECONDS, StageClock, configured
from actseq.progress import SILENT, Silent
from actseq.training.conduct import Budget


def clock_of(minutes: float | None, vocoder: bool = False, overrides: tuple[str, ...] = ()) -> StageClock:
    config = configured(Path("x"), "smoke", None, minutes, vocoder, overrides, SILENT)
    return StageClock.of(Budget(100.0), config, minutes, vocoder)


@pytest.mark.parametrize(
    ("now", "begun"),
    [
        (180.0, 180.0),  # the autoencoder ended early: the prior has no more time than was planned
        (184.0, 184.0),
        (189.0, 184.0),  # 5 seconds late: they count as preparation of the prior
    ],
)
def test_the_prior_makes_up_for_the_autoencoder(monkeypatch: pytest.MonkeyPatch, now: float, begun: float) -> None:
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    assert clock_of(2.0).budget("train_prior").begun == pytest.approx(begun - CLOSING_SECONDS)
    # With a vocoder, the vocoder is the last, and the autoencoder has 60 %.
    both = clock_of(2.0, vocoder=True)
    assert both.budget("train_prior").begun == pytest.approx(min(now, 172.0))
    assert both.budget("train_vocoder").begun == pytest.approx(min(now, 202.0) - CLOSING_SECONDS)
    # A prior that needs no training leaves all minutes to the autoencoder.
    alone = clock_of(2.0, overrides=("generate.prior=random-walk",))
    assert alone.budget("train_ae").begun == pytest.approx(100 - CLOSING_SECONDS)
    # Without minutes nothing is moved.
    assert clock_of(None).budget("train_prior").begun == now


def test_few_minutes_keep_most_of_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter", lambda: 107.0)
    assert clock_of(0.1).budget("train_prior").begun == pytest.approx(104.2 - 0.6)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (225.0, "all stages took 2.08 minutes, 5 seconds more than the 2 minutes that were asked for"),
        (219.5, "all stages took 120 seconds, 500 ms less than the 2 minutes that were asked for"),
    ],
)
def test_the_whole_time_is_told(monkeypatch: pytest.MonkeyPatch, now: float, said: str) -> None:
    lines: list[str] = []

    class Listener(Silent):
        def say(self, text: str) -> None:
            lines.append(text)

    clock = clock_of(2.0)
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    clock.say(Listener())
    assert not lines  # some stages were trained before
    clock.whole = True
    clock.say(Listener())
    assert lines == [said]


def test_sounds_that_are_turned_down_are_counted() -> None:
    lines: list[str] = []

    class Listener(Silent):
        def warn(self, text: str) -> None:
            lines.append(text)

    lowered = TurnedDown()
    lowered.note(Path("a.wav"), 1.0, 1.0)
    lowered.warn(Listener())
    assert not lines
    lowered.note(Path("b.wav"), 0.5, 1.0)
    lowered.warn(Listener())
    lowered.note(Path("c.wav"), 1.0, 0.25)
    lowered.warn(Listener())
    assert lines == [
        "b.wav was turned down by 6.0 dB so as not to clip",
        "2 sounds were turned down, c.wav the most, by 12.0 dB, so as not to clip",
    ]
