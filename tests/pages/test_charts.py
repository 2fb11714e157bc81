"""Charts: points are where their values are, and what is drawn is said."""

from pathlib import Path

import numpy as np
import pytest

from actseq.pages.charts import BOTTOM, HEIGHT, LEFT, MOST_POINTS, RIGHT, TOP, WIDTH, bar_chart, dots, training_charts


def places(path: str) -> np.ndarray:
    return np.array([[float(part) for part in point.split(",")] for point in path.removeprefix("M").split("L")])


def test_curves_span_the_chart_and_share_it(tmp_path: Path) -> None:
    rows = [f"{step},{10 - step},{5 if step == 4 else ''}" for step in range(10)]
    (tmp_path / "metrics.csv").write_text("\n".join(["step,train/loss,validation/loss", *rows]) + "\n")
    [chart] = training_charts(tmp_path / "metrics.csv")
    assert (chart.title, [(line.kind, line.last) for line in chart.lines]) == (
        "loss",
        [("train", "1"), ("validation", "5")],
    )
    train, validation = (places(line.path) for line in chart.lines)
    assert train[0].tolist() == [LEFT, TOP]
    assert train[-1].tolist() == [WIDTH - RIGHT, HEIGHT - BOTTOM]
    assert validation.shape == (1, 2)
    assert validation[0, 0] == pytest.approx(train[4, 0])
    assert validation[0, 1] == pytest.approx(train[5, 1])
    assert [text for _, text in chart.y_ticks] == ["2.5", "5", "7.5", "10"]


def test_a_long_curve_becomes_means_and_a_wide_range_logarithmic(tmp_path: Path) -> None:
    rows = [f"{step},{1000 if step % 2 else 1}" for step in range(1000)]
    (tmp_path / "metrics.csv").write_text("\n".join(["step,loss", *rows]) + "\n")
    [chart] = training_charts(tmp_path / "metrics.csv")
    found = places(chart.lines[0].path)
    assert len(found) == MOST_POINTS
    # Five neighbours of 1 and 1000 each: means of 400.6 and 600.4, near the top of three decades.
    wanted = [TOP + (HEIGHT - BOTTOM - TOP) * (1 - np.log10(mean) / 3) for mean in (600.4, 400.6)]
    assert sorted(set(found[:, 1])) == pytest.approx(wanted, abs=0.1)
    assert [text for _, text in chart.y_ticks] == ["1", "10", "100", "1000"]


def test_bars_are_as_high_as_their_values() -> None:
    chart = bar_chart(np.array([4.0, 2.0, 0.0]), ["a", "b", "c"], [True, True, False])
    assert [bar.height for bar in chart.bars] == [HEIGHT - BOTTOM - TOP, (HEIGHT - BOTTOM - TOP) / 2, 0]
    assert all(bar.y + bar.height == HEIGHT - BOTTOM for bar in chart.bars)
    assert bar_chart(np.zeros(2), ["a", "b"], [False, False]).bars[0].height == 0


def test_dots_keep_their_order_and_stay_inside() -> None:
    found = dots(np.array([[0.0, 5.0], [2.0, 5.0], [1.0, 5.0]]), [0, 1, 2], ["a", "b", "c"])
    assert [dot.x for dot in found] == [2, 98, 50]
    assert all(0 <= dot.y <= 100 for dot in found)
    assert [(dot.colour, dot.text) for dot in found] == [(0, "a"), (1, "b"), (2, "c")]
