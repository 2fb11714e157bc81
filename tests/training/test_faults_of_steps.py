"""Faults of a step: what is not finite takes the training back, what does not fit into memory goes in parts."""

import json
import math
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from actseq.config import Member, TrainingConfig
from actseq.errors import ArtifactError, Interrupted, TrainingError
from actseq.objectives.base import Batch, Loss
from actseq.progress import Silent
from actseq.training.conduct import Budget, Conduct
from actseq.training.faults import in_parts, is_out_of_memory
from actseq.training.learning_rate import find_learning_rate
from actseq.training.loop import Outcome, train
from actseq.training.plan import Plan

STEPS, EVERY, ROWS = 24, 6, 16
"""Steps of a training, between its validations, and rows of a batch."""
Before = Callable[["Plane", Batch], None]


class Plane(nn.Module):
    """Fits a plane with two groups of parameters; its loss is the mean over the rows.

    Args:
        before: called before a loss is computed.
        noise: deviation of the noise in training, from the random numbers of the step.
    """

    monitor = "loss"

    def __init__(self, before: Before | None = None, noise: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        self.before, self.noise = before, noise
        self.spoiled: str | None = None
        self.steps: list[int] = []
        self.held_out_spoiled: Callable[[], bool] = lambda: False

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"first": list(self.model[0].parameters()), "last": list(self.model[2].parameters())}

    def exported(self) -> nn.Module:
        return self.model

    def losses(self, batch: Batch) -> dict[str, Loss]:
        self.spoiled = None
        self.steps.append(step_of(batch))
        if self.before is not None:
            self.before(self, batch)
        x, y = batch.data["x"], batch.data["y"]
        loss = (self.model(x + self.noise * torch.randn_like(x)) - y).square().mean()
        size = (self.model[2](self.model[0](x).detach()) - y).square().mean()
        if self.spoiled == "loss":
            size = size * math.nan
        if self.spoiled == "gradient":
            size = size + (0 * self.model[2].get_parameter("weight")).abs().sum().sqrt()
        return {"first": Loss(loss, {"loss": loss.detach()}), "last": Loss(size, {"size": size.detach()})}

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        loss = (self.model(batch.data["x"]) - batch.data["y"]).square().mean()
        return {"loss": loss * (math.nan if self.held_out_spoiled() else 1.0)}


def step_of(batch: Batch) -> int:
    return round(batch.progress * STEPS)


class Points:
    """Points near a plane. One row of one batch may be infinite."""

    def __init__(self, seed: int = 1, broken: tuple[int, int] | None = None) -> None:
        self.seed, self.broken = seed, broken

    def batch(self, step: int, rank: int = 0) -> Mapping[str, np.ndarray]:
        x = np.random.default_rng([self.seed, step, rank]).standard_normal((ROWS, 3)).astype(np.float32)
        y = (x @ np.array([[1.0], [-2.0], [0.5]])).astype(np.float32)
        if self.broken is not None and step == self.broken[0]:
            x[self.broken[1]] = np.inf
        return {"x": x, "y": y}


class NamedPoints(Points):
    def origins(self, step: int, rank: int = 0) -> list[str]:
        return [f"{step}/{row}.wav at 0.00 s" for row in range(ROWS)]


class Listener(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, text: str) -> None:
        self.lines.append(text)


def settings(**changes: Any) -> TrainingConfig:
    given: dict[str, Any] = {
        "objective": Member(kind="plane"),
        "steps": STEPS,
        "batch_size": ROWS,
        "learning_rate": 0.02,
        "warmup_steps": 2,
        "ema": 0.5,
        "validations": STEPS // EVERY,
        "validation_batches": 2,
    }
    return TrainingConfig(**(given | changes))


def run(
    folder: Path,
    objective: Plane,
    *,
    sources: tuple[Points, Points | None] | None = None,
    budget: Budget | None = None,
    listener: Silent | None = None,
    **changes: Any,
) -> Outcome:
    return train(
        objective,
        (Points(), Points(2)) if sources is None else sources,
        settings(**changes),
        folder,
        name="plane",
        seed=3,
        conduct=Conduct(torch.device("cpu"), listener or Silent(), budget or Budget()),
    )


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same(a: Outcome, b: Outcome) -> bool:
    equal = all(torch.equal(a.tensors[name], value) for name, value in b.tensors.items())
    return equal and (a.figures, a.best_step, a.total_steps) == (b.figures, b.best_step, b.total_steps)


def changes_of(folder: Path) -> list[dict[str, Any]]:
    return list(json.loads((folder / "plan.json").read_text()).get("changes", []))


def once(step: int, how: str = "loss") -> Before:
    """Spoils the first attempt at a step."""
    met: list[int] = []

    def before(objective: Plane, batch: Batch) -> None:
        if step_of(batch) == step and not met:
            met.append(step)
            objective.spoiled = how

    return before


class AtFullRate:
    """Spoils a step, but not where the weights differ from those that the planned learning rates lead to.

    So it is a function of the state alone, whatever stops the training in between.
    """

    def __init__(self, step: int) -> None:
        self.step, self.known, self.all_steps = step, torch.empty(0), 0

        def note(objective: Plane, batch: Batch) -> None:
            if step_of(batch) == step:
                self.known = objective.model[0].get_parameter("weight").detach().clone()

        self.note = note

    def __call__(self, objective: Plane, batch: Batch) -> None:
        if step_of(batch) == self.step and torch.equal(objective.model[0].get_parameter("weight"), self.known):
            objective.spoiled = "loss"


# -- numbers that are not finite ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["loss", "gradient"])
@pytest.mark.parametrize(("step", "anchor"), [(0, 0), (3, 0), (6, 6), (14, 12), (23, 18)])
def test_the_training_goes_back_to_its_last_validation(tmp_path: Path, how: str, step: int, anchor: int) -> None:
    listener, objective = Listener(), Plane(once(step, how), noise=0.1)
    outcome = run(tmp_path / "hit", objective, listener=listener)
    assert objective.steps == [*range(step + 1), *range(anchor, STEPS)]
    assert changes_of(tmp_path / "hit") == [{"from_step": anchor, "retries": 1, "rate": 0.3, "parts": 1}]
    said = f"the {how} of 'last' became nan at step {step}: back to step {anchor}, and on with 0.3 of the learning rate"
    assert listener.lines == [f"{said} (try 1 of 3)"]
    # Without the fault, the plan alone gives the same bytes; and the fault has an effect.
    budget = Budget(plan=tmp_path / "hit" / "plan.json")
    assert same(run(tmp_path / "again", Plane(noise=0.1), budget=budget), outcome)
    assert files(tmp_path / "again") == files(tmp_path / "hit")
    assert not same(run(tmp_path / "without", Plane(noise=0.1)), outcome)


def test_rates_are_lower_from_there_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []

    class Recorded(torch.optim.AdamW):
        def step(self, *given: Any, **named: Any) -> Any:
            rates.append(self.param_groups[0]["lr"])
            return super().step(*given, **named)

    monkeypatch.setattr(torch.optim, "AdamW", Recorded)
    run(tmp_path / "whole", Plane())
    expected, _ = rates[::2], rates.clear()
    run(tmp_path / "hit", Plane(once(14)))
    assert rates[::2] == pytest.approx(expected[:14] + [0.3 * rate for rate in expected[12:]])


def test_the_third_retry_is_the_last(tmp_path: Path) -> None:
    def always(objective: Plane, batch: Batch) -> None:
        objective.spoiled = "loss" if step_of(batch) == 8 else None

    objective = Plane(always)
    words = (
        r"loss of 'last' became nan at step 8, also after 3 tries with lower learning rates; .*the model has diverged"
    )
    with pytest.raises(TrainingError, match=words):
        run(tmp_path, objective)
    assert objective.steps[:18] == [*range(9), 6, 7, 8, 6, 7, 8, 6, 7, 8]
    assert [change["retries"] for change in changes_of(tmp_path)] == [3]
    assert changes_of(tmp_path)[0]["rate"] == pytest.approx(0.027)
    assert [path.name for path in (tmp_path / "checkpoints").glob("step-*")] == ["step-00000006"]
    # The same command says the same, without trying again.
    again = Plane(always)
    with pytest.raises(TrainingError, match=words):
        run(tmp_path, again)
    assert again.steps[:3] == [6, 7, 8]


def test_three_faults_at_different_places_are_the_most(tmp_path: Path) -> None:
    faults = [once(step) for step in (2, 8, 14)]

    def before(objective: Plane, batch: Batch) -> None:
        for fault in faults:
            fault(objective, batch)

    run(tmp_path / "three", Plane(before))
    assert [(one["from_step"], one["retries"]) for one in changes_of(tmp_path / "three")] == [(0, 1), (6, 2), (12, 3)]
    faults[:] = [once(step) for step in (2, 8, 14, 20)]
    with pytest.raises(TrainingError, match="at step 20, also after 3 tries"):
        run(tmp_path / "four", Plane(before))


@pytest.fixture(scope="module")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> tuple[AtFullRate, dict[str, bytes], int]:
    """A fault at step 15, the files of a training that has met it, and the number of its losses."""
    folder, fault = tmp_path_factory.mktemp("lowered"), AtFullRate(15)
    run(folder / "noted", Plane(fault.note, noise=0.1))
    objective = Plane(fault, noise=0.1)
    run(folder / "hit", objective)
    assert [one["from_step"] for one in changes_of(folder / "hit")] == [12]
    return fault, files(folder / "hit"), len(objective.steps)


@pytest.mark.parametrize("at", [13, 15, 16, 17, 19, 22])
def test_a_crash_around_a_retry_changes_nothing(
    lowered: tuple[AtFullRate, dict[str, bytes], int], tmp_path: Path, at: int
) -> None:
    fault, expected, _ = lowered

    def before(objective: Plane, batch: Batch) -> None:
        if len(objective.steps) == at + 1:
            raise RuntimeError("power cut")
        fault(objective, batch)

    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path, Plane(before, noise=0.1))
    run(tmp_path, Plane(fault, noise=0.1))
    assert files(tmp_path) == expected


@pytest.mark.skipif(os.name != "posix", reason="signals between processes")
def test_signals_around_a_retry_change_nothing(
    lowered: tuple[AtFullRate, dict[str, bytes], int], tmp_path: Path
) -> None:
    fault, expected, n = lowered

    def before(objective: Plane, batch: Batch) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        fault(objective, batch)

    previous = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        stops = 0
        while stops <= n:
            try:
                run(tmp_path, Plane(before if stops < STEPS else fault, noise=0.1))
                break
            except Interrupted:
                stops += 1
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert stops >= STEPS - 1
    assert files(tmp_path) == expected


def test_a_kill_before_the_plan_is_written_changes_nothing(
    lowered: tuple[AtFullRate, dict[str, bytes], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault, expected, _ = lowered

    def cut(plan: Plan, path: Path) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patched:

        def before(objective: Plane, batch: Batch) -> None:
            if step_of(batch) == 15:
                patched.setattr(Plan, "write", cut)
            fault(objective, batch)

        with pytest.raises(RuntimeError, match="power cut"):
            run(tmp_path, Plane(before, noise=0.1))
    assert not changes_of(tmp_path)
    run(tmp_path, Plane(fault, noise=0.1))
    assert files(tmp_path) == expected


def test_an_edit_of_what_a_fault_has_changed_is_refused(
    lowered: tuple[AtFullRate, dict[str, bytes], int], tmp_path: Path
) -> None:
    fault = lowered[0]

    def before(objective: Plane, batch: Batch) -> None:
        if len(objective.steps) == 24:
            raise RuntimeError("power cut")
        fault(objective, batch)

    with pytest.raises(RuntimeError):
        run(tmp_path, Plane(before, noise=0.1))
    path = tmp_path / "plan.json"
    for text in (path.read_text().replace('"rate": 0.3', '"rate": 0.4'), path.read_text().replace('"retries"', '"x"')):
        path.write_text(text)
        with pytest.raises(ArtifactError, match=r"had other faults|no list of changes"):
            run(tmp_path, Plane(fault, noise=0.1))


def test_a_held_out_figure_that_is_not_finite_takes_the_training_back(tmp_path: Path) -> None:
    objective, met = Plane(), []

    def spoiled() -> bool:
        hit = len(objective.steps) == 12 and len(met) < 2
        met.extend([1] * hit)
        return hit

    objective.held_out_spoiled = spoiled
    listener = Listener()
    assert run(tmp_path / "hit", objective, listener=listener).total_steps == STEPS
    assert listener.lines[0].startswith("the held-out loss became nan at step 12: back to step 6, and on with 0.3")
    objective = Plane()
    objective.held_out_spoiled = lambda: len(objective.steps) > 6
    with pytest.raises(TrainingError, match="held-out loss became nan at step 12, also after 3 tries"):
        run(tmp_path / "all", objective)


def test_an_untrained_model_that_is_not_finite_is_not_trained(tmp_path: Path) -> None:
    objective = Plane()
    sources = (Points(), NamedPoints(2, broken=(1, 5)))
    with pytest.raises(TrainingError, match=r"held-out loss became (nan|inf) at step 0; .*it comes from 1/5\.wav"):
        run(tmp_path, objective, sources=sources)
    assert not objective.steps


def spoiled_at_9(objective: Plane, batch: Batch) -> None:
    objective.spoiled = "loss" if step_of(batch) == 9 else None


@pytest.mark.parametrize(
    ("before", "points", "words"),
    [
        (None, NamedPoints(1, broken=(9, 11)), r"it comes from 9/11\.wav at 0\.00 s: leave that sound out"),
        (
            spoiled_at_9,
            NamedPoints(1),
            r"no sound of the batch gives it alone.*diverged.*; the batch was made of 9/0\.wav .* and 11 more",
        ),
        (None, Points(1, broken=(9, 11)), "the model has diverged"),
    ],
    ids=["one", "all", "unnamed"],
)
def test_the_file_is_named(tmp_path: Path, before: Before | None, points: Points, words: str) -> None:
    with pytest.raises(TrainingError, match=rf"at step 9, also after 3 tries .*{words}"):
        run(tmp_path, Plane(before), sources=(points, None))


def test_a_rate_that_is_far_too_high_is_lowered(tmp_path: Path) -> None:
    """What diverges in the first steps learns at a lower rate, and nothing that is not finite is in what is kept."""

    def overflow(objective: Plane, batch: Batch) -> None:
        if float(objective.model[0].get_parameter("weight").detach().abs().max()) > 20:
            objective.spoiled = "loss"

    outcome = run(tmp_path, Plane(overflow), learning_rate=5.0, warmup_steps=0)
    assert changes_of(tmp_path)
    assert all(bool(value.isfinite().all()) for value in outcome.tensors.values())


def test_a_fault_while_steps_are_timed_does_not_end_the_training(tmp_path: Path) -> None:
    met: list[int] = []

    def before(objective: Plane, batch: Batch) -> None:
        met.append(1)
        objective.spoiled = "loss" if len(met) == 2 else None

    outcome = run(tmp_path, Plane(before), steps=None, minutes=0.02)
    assert outcome.total_steps == Plan.read(tmp_path / "plan.json").total
    assert not changes_of(tmp_path)


# -- memory ------------------------------------------------------------------------------------------------------------

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 1099511627776 bytes. Error code 12 (Cannot allocate memory)"
    ),
    RuntimeError("MPS backend out of memory (MPS allocated: 17.06 GB)"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1048576 bytes."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
]


def needing(rows: int, from_step: int = 0, error: Exception = OUT_OF_MEMORY[1]) -> Before:
    """Memory suffices for so many rows."""

    def before(objective: Plane, batch: Batch) -> None:
        if step_of(batch) >= from_step and len(batch.data["x"]) > rows:
            raise error

    return before


def test_the_errors_of_allocators_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(map(is_out_of_memory, OUT_OF_MEMORY))
    assert not any(map(is_out_of_memory, [RuntimeError("shapes cannot be multiplied"), ValueError("out of memory")]))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: f"{type(error).__name__}-{str(error)[:12]}")
def test_a_batch_that_does_not_fit_goes_in_parts(tmp_path: Path, error: Exception) -> None:
    listener = Listener()
    halved = run(tmp_path / "halved", Plane(needing(4, 5, error)), listener=listener)
    whole = run(tmp_path / "whole", Plane())
    assert changes_of(tmp_path / "halved") == [{"from_step": 5, "retries": 0, "rate": 1.0, "parts": 4}]
    assert listener.lines == [
        "step 5: not enough memory for 16 at a time; from here on a batch of 16 goes in 2 parts, and their gradients "
        "are added",
        "step 5: not enough memory for 8 at a time; from here on a batch of 16 goes in 4 parts, and their gradients "
        "are added",
    ]
    for name, value in whole.tensors.items():
        torch.testing.assert_close(halved.tensors[name], value, rtol=1e-4, atol=1e-5)
    assert halved.figures["loss"] == pytest.approx(whole.figures["loss"], rel=1e-4)


@pytest.mark.parametrize("rows", [1, 3, 5, 11])
def test_any_part_keeps_the_effective_batch(tmp_path: Path, rows: int) -> None:
    """Also where parts differ in size, at every step from the first on, and in what is logged."""
    parts = run(tmp_path / "parts", Plane(needing(rows)))
    whole = run(tmp_path / "whole", Plane())
    for name, value in whole.tensors.items():
        torch.testing.assert_close(parts.tensors[name], value, rtol=1e-4, atol=1e-5)
    logs = [(tmp_path / name / "metrics.csv").read_text().splitlines() for name in ("parts", "whole")]
    for one, other in zip(*logs, strict=True):
        if one[0].isdigit():
            assert [float(x or 0) for x in one.split(",")] == pytest.approx(
                [float(x or 0) for x in other.split(",")], rel=1e-3
            )


def test_a_training_in_parts_resumes_and_repeats(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", Plane(needing(4, 5), noise=0.1))

    def cut(objective: Plane, batch: Batch) -> None:
        needing(4, 5)(objective, batch)
        if step_of(batch) == 9:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "cut", Plane(cut, noise=0.1))
    # On a machine with more memory, too.
    assert same(run(tmp_path / "cut", Plane(noise=0.1)), whole)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    budget = Budget(plan=tmp_path / "whole" / "plan.json")
    assert same(run(tmp_path / "again", Plane(noise=0.1), budget=budget), whole)


def test_parts_survive_a_retry(tmp_path: Path) -> None:
    fault = once(9)

    def before(objective: Plane, batch: Batch) -> None:
        needing(4, 8)(objective, batch)
        fault(objective, batch)

    run(tmp_path, Plane(before))
    assert changes_of(tmp_path) == [{"from_step": 6, "retries": 1, "rate": 0.3, "parts": 4}]


def test_memory_that_does_not_suffice_for_one_row_is_explained(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"not enough memory for step 4, though its batch of 16 goes one by one; "):
        run(tmp_path, Plane(needing(0, 4)))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        run(tmp_path / "other", Plane(needing(0, 4, RuntimeError("shapes cannot be multiplied"))))


def test_held_out_batches_go_in_parts(tmp_path: Path) -> None:
    class Small(Plane):
        def validate(self, batch: Batch) -> dict[str, Tensor]:
            if self.steps and len(batch.data["x"]) > 8:
                raise MemoryError
            return super().validate(batch)

    found, whole = run(tmp_path / "small", Small()), run(tmp_path / "whole", Plane())
    assert changes_of(tmp_path / "small") == [{"from_step": 6, "retries": 0, "rate": 1.0, "parts": 2}]
    assert found.figures["loss"] == pytest.approx(whole.figures["loss"], rel=1e-4)


def test_the_learning_rate_finder_and_the_timing_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = [
        find_learning_rate(
            Plane(before), Points(), Points(2), settings(), seed=3, device=torch.device("cpu"), reporter=Silent()
        )
        for before in (None, needing(4))
    ]
    assert not list(tmp_path.iterdir())
    n = min(len(one.losses) for one in found) // 2
    np.testing.assert_allclose(found[0].losses[:n], found[1].losses[:n], rtol=1e-3)
    run(tmp_path / "timed", Plane(needing(4)), steps=None, minutes=0.02)
    assert changes_of(tmp_path / "timed") == [{"from_step": 0, "retries": 0, "rate": 1.0, "parts": 4}]


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 16, 40])
def test_parts_cover_a_batch_once(parts: int) -> None:
    batch = Batch({"x": torch.arange(16), "y": torch.arange(32).reshape(16, 2)}, 0.5)
    found = list(in_parts(batch, parts))
    assert len(found) == min(parts, 16)
    assert sum(fraction for fraction, _ in found) == pytest.approx(1)
    for name, whole in batch.data.items():
        assert torch.equal(torch.cat([part.data[name] for _, part in found]), whole)
    sizes = [len(part.data["x"]) for _, part in found]
    assert max(sizes) - min(sizes) <= 1
    assert [fraction for fraction, _ in found] == [size / 16 for size in sizes]
