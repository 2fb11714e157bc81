"""The plan of a training, and the words about its figures."""

import itertools
import math
from pathlib import Path

import pytest

from actseq.config import TrainingConfig
from actseq.errors import ArtifactError
from actseq.training.advice import by_heart, outlook
from actseq.training.plan import Plan, Stretch, replanned

CONFIG = TrainingConfig(steps=1, batch_size=1, learning_rate=0.01, final_learning_rate=0.001, warmup_steps=50)


def test_progress_and_rate_go_on_evenly_where_the_end_is_moved() -> None:
    short = Plan.of(1000)
    longer = short.extended(Stretch(400, 2000))
    for step in (0, 30, 49, 50, 399, 400):
        assert longer.progress(step) == short.progress(step)
        assert longer.learning_rate(step, CONFIG) == short.learning_rate(step, CONFIG)
    assert longer.progress(1200) == pytest.approx(0.4 + 0.6 * 0.5)
    assert longer.progress(2000) == pytest.approx(1)
    assert longer.learning_rate(2000, CONFIG) == pytest.approx(0.001)
    rates = [longer.learning_rate(step, CONFIG) for step in range(50, 2001)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates))
    assert max(abs(b - a) for a, b in itertools.pairwise(rates)) < 2e-5


def test_a_restart_begins_at_a_fraction_of_the_highest_rate() -> None:
    plan = Plan.of(1000).extended(Stretch(1000, 1500, 0.3, 2.0))
    assert plan.learning_rate(1000, CONFIG) == pytest.approx(0.003)
    assert plan.learning_rate(1250, CONFIG) == pytest.approx(0.001 + 0.002 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert plan.progress(1250) == 1
    assert (plan.budget, Plan.of(5, 3.0).budget) == (2.0, 3.0)
    assert plan.may_change(1399)
    assert not plan.may_change(1400)


@pytest.mark.parametrize(
    ("step", "left", "each", "total"),
    [
        (500, 100.0, 0.1, 1500),
        (500, 50.5, 0.1, 1000),
        (799, 1.0, 1.0, 800),
        (800, 1.0, 1.0, 1000),
        (500, -9.0, 1.0, 501),
    ],
)
def test_the_number_of_steps_changes_only_early_and_where_it_matters(
    step: int, left: float, each: float, total: int
) -> None:
    assert replanned(Plan.of(1000, 1.0), step, left, each).total == total


def test_plans_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plan = Plan((Stretch(0, 100, validations=5),), 0.5).extended(Stretch(50, 80)).extended(Stretch(80, 120, 0.3, 2.0))
    plan.write(path)
    assert Plan.read(path) == plan
    assert plan.validate_every(CONFIG) == 20
    assert Plan.of(100).validate_every(CONFIG) == 5, "those of the settings"
    path.write_text('{"total_steps": 7, "minutes": 3.0}')
    assert Plan.read(path) == Plan.of(7), "an older version never changed a plan"
    for broken in (
        "5",
        "[]",
        '[{"from_step": 1, "total_steps": 7}]',
        '[{"from_step": 0, "total_steps": 8}]',
        '[{"a": 1}]',
        '[{"from_step": 0, "total_steps": 7, "validations": 0}]',
        '[{"from_step": 0, "total_steps": 7, "threads": "2"}]',
    ):
        path.write_text(f'{{"total_steps": 7, "plan": {broken}}}')
        with pytest.raises(ArtifactError, match="no list of stretches"):
            Plan.read(path)


def rows(held_out: list[float], losses: list[float], every: int = 10) -> list[dict[str, str]]:
    return [
        {"step": str(every * (k + 1)), "train/loss": str(loss), "validation/loss": str(value)}
        for k, (value, loss) in enumerate(zip(held_out, losses, strict=True))
    ]


def test_learning_by_heart_is_named() -> None:
    falling = [1.0, 0.8, 0.6, 0.5, 0.4, 0.3]
    assert "since step 20" in by_heart(rows([1.0, 0.8, 0.85, 0.9, 0.95, 1.0], falling), "loss")
    assert by_heart(rows([1.0, 0.8, 0.85, 0.9, 0.95, 1.0], [1.0] * 6), "loss") == ""
    assert by_heart(rows([1.0, 0.8, 0.7, 0.6, 0.55, 0.5], falling), "loss") == ""
    assert by_heart([], "loss") == ""
    last = by_heart(rows([1.0, 0.8, 0.85, 0.9, 0.95, 1.0], falling), "loss", last=True)
    assert "since step 20" in last
    assert "The last weights are kept." in last
    assert "by heart" not in last


@pytest.mark.parametrize(
    ("held_out", "every", "words"),
    [
        ([1.0, 0.8, 0.6, 0.5, 0.4, 0.3], 100, "more time would help (train --more 4)"),
        ([1.0, 0.4, 0.31, 0.305, 0.302, 0.3], 100, "more time would change little"),
        ([1.0, 0.4, 0.5, 0.6, 0.7, 0.8], 10, "more sound would help, more time would not"),
        ([2.5, 2.4, 2.6], 10, "30 steps are too few for a usable result: more time is needed (train --more 4)"),
        # What few steps have brought says nothing of what more would bring, however it is spread.
        ([1.9, 1.0, 0.5], 1, "3 steps are too few for a usable result"),
        ([0.5, 0.49, 0.48], 1, "3 steps are too few for a usable result"),
        ([2.5] * 30, 10, "is no better than before the training"),
    ],
)
def test_the_outlook_follows_the_held_out_figure(held_out: list[float], every: int, words: str) -> None:
    assert words in outlook(rows(held_out, held_out, every), "loss", 2.0, "train --more 4")
    assert outlook(rows(held_out[:1], held_out[:1]), "loss", 2.0, "train --more 4") == ""
    last = outlook(rows(held_out, held_out, every), "loss", 2.0, "train --more 4", last=True)
    assert ("The last weights are kept." if "more sound would help, more" in words else words) in last


def test_a_figure_that_grows_at_first_is_not_taken_for_the_start() -> None:
    held_out = [1.30, 1.10, 1.08, 1.07, 1.06, 1.05]
    assert "12% of what was learned" in outlook(rows(held_out, held_out, 100), "loss", 1.06, "--more")
