"""The loop: exact to the byte whatever interrupts it, and what it keeps is what it says."""

import csv
import json
import math
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from actseq.config import Member, TrainingConfig
from actseq.errors import SIGNALS, ArtifactError, ConfigError, Interrupted, TrainingError
from actseq.objectives.base import Batch, Loss
from actseq.progress import Silent
from actseq.storage.artifacts import write_artifact
from actseq.training import timing
from actseq.training.conduct import THREAD_VARIABLES, Budget, Conduct, Watch
from actseq.training.devices import resolve_device
from actseq.training.learner import Learner
from actseq.training.loop import Outcome, train
from actseq.training.sources import step_seed
from actseq.training.trainer import Trainer

STEPS = 24


@pytest.fixture(autouse=True)
def usual_signals() -> Iterator[None]:
    """Signals as a terminal has them: under `nohup`, or in the background of a script, some are ignored."""
    before = [signal.signal(number, signal.SIG_DFL) for number in SIGNALS]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


# Children of a server that has imported what is slow start at once.
multiprocessing.set_forkserver_preload(["__main__", "actseq.pipeline", "actseq.training.loop", "lightning_fabric"])


class Line(nn.Module):
    """Fits a noisy plane with two groups of parameters; its dropout and noise need the random numbers of the step."""

    monitor = "loss"

    def __init__(self, before: Callable[[int], None] | None = None, figures: list[float] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.3), nn.Linear(8, 1))
        self.model.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.before, self.figures = before, figures
        self.steps = 0
        self.draws: list[float] = []
        self.progress: list[float] = []
        self.weights: list[dict[str, Tensor]] = []

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"first": list(self.model[0].parameters()), "last": list(self.model[2].parameters())}

    def exported(self) -> nn.Module:
        return self.model

    def losses(self, batch: Batch) -> dict[str, Loss]:
        if self.before is not None:
            self.before(self.steps)
        self.steps += 1
        self.weights.append({k: v.detach().clone() for k, v in self.model.state_dict().items()})
        self.progress.append(batch.progress)
        self.draws.append(float(torch.rand(())))
        self.model.get_buffer("seen").add_(1)
        x, y = batch.data["x"], batch.data["y"]
        loss = (self.model(x + 0.1 * torch.randn_like(x)) - y).square().mean()
        size = (self.model[2](self.model[0](x).detach()) - y).abs().mean()
        return {"first": Loss(loss, {"loss": loss.detach()}), "last": Loss(size, {"size": size.detach()})}

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        if self.figures is not None:
            return {"loss": torch.tensor(self.figures.pop(0))}
        return {"loss": (self.model(batch.data["x"]) - batch.data["y"]).square().mean()}


class Points:
    def __init__(self, seed: int = 1) -> None:
        self.seed = seed
        self.asked: list[tuple[int, int]] = []

    def batch(self, step: int, rank: int = 0) -> Mapping[str, np.ndarray]:
        self.asked.append((step, rank))
        x = np.random.default_rng([self.seed, step, rank]).standard_normal((16, 3)).astype(np.float32)
        return {"x": x, "y": (x @ np.array([[1.0], [-2.0], [0.5]])).astype(np.float32)}


def settings(**changes: Any) -> TrainingConfig:
    given: dict[str, Any] = {
        "objective": Member(kind="line"),
        "steps": STEPS,
        "batch_size": 16,
        "learning_rate": 0.05,
        "final_learning_rate": 0.001,
        "warmup_steps": 2,
        "ema": 0.8,
        "validations": 4,
        "validation_batches": 2,
    }
    return TrainingConfig(**(given | changes))


CPU = Conduct(torch.device("cpu"), Silent())


def run(
    folder: Path, objective: Line | None = None, *, held_out: bool = True, conduct: Conduct = CPU, **changes: Any
) -> Outcome:
    return train(
        Line() if objective is None else objective,
        (Points(), Points(2) if held_out else None),
        settings(**changes),
        folder,
        name="line",
        seed=3,
        conduct=conduct,
    )


def same(a: Outcome, b: Outcome) -> bool:
    equal = set(a.tensors) == set(b.tensors) and all(torch.equal(a.tensors[k], b.tensors[k]) for k in a.tensors)
    return equal and (a.figures, a.total_steps, a.best_step) == (b.figures, b.total_steps, b.best_step)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    return run(folder), folder


def last_state(folder: Path) -> dict[str, Any]:
    return dict(json.loads(max((folder / "checkpoints").glob("step-*/state.json")).read_text()))


def raising(at: int) -> Callable[[int], None]:
    def before(step: int) -> None:
        if step == at:
            raise RuntimeError("power cut")

    return before


def signalling(at: int, number: int) -> Callable[[int], None]:
    def before(step: int) -> None:
        if step == at:
            os.kill(os.getpid(), number)

    return before


# -- exactness ---------------------------------------------------------------------------------------------------------


def test_it_learns_and_repeats_exactly(uninterrupted: tuple[Outcome, Path], tmp_path: Path) -> None:
    outcome, folder = uninterrupted
    again = run(tmp_path)
    assert same(outcome, again)
    assert files(folder) == files(tmp_path)
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, STEPS + 1))
    held_out = {int(row["step"]): float(row["validation/loss"]) for row in rows if row["validation/loss"]}
    assert sorted(held_out) == [6, 12, 18, 24]
    assert held_out[24] < 0.5 * held_out[6]
    assert int(outcome.tensors["seen"]) == outcome.best_step


def test_global_random_numbers_are_left_alone(tmp_path: Path) -> None:
    objective = Line()
    torch.manual_seed(77)
    expected = torch.rand(3)
    torch.manual_seed(77)
    run(tmp_path, objective)
    assert torch.equal(torch.rand(3), expected)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("at", [0, 6, 15])
def test_a_crash_changes_nothing(uninterrupted: tuple[Outcome, Path], tmp_path: Path, at: int) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path, Line(raising(at)))
    objective = Line()
    assert same(run(tmp_path, objective), uninterrupted[0])
    assert objective.steps == STEPS - at // 6 * 6, "only what was not saved is done again"
    assert files(tmp_path) == files(uninterrupted[1])


@pytest.mark.skipif(os.name != "posix", reason="signals between processes")
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("at", [7, 23])
def test_a_signal_saves_and_stops(
    uninterrupted: tuple[Outcome, Path], tmp_path: Path, at: int, number: signal.Signals
) -> None:
    with pytest.raises(Interrupted, match=f"stopped by {number.name}; the same command goes on") as caught:
        run(tmp_path, Line(signalling(at, number)))
    assert caught.value.number == number
    saved = last_state(tmp_path)
    assert (saved["step"], saved["total_steps"]) == (at + 1, STEPS)
    objective = Line()
    assert same(run(tmp_path, objective), uninterrupted[0])
    assert objective.steps == STEPS - at - 1
    assert files(tmp_path) == files(uninterrupted[1])


@pytest.mark.skipif(os.name != "posix", reason="signals between processes")
def test_a_signal_ends_the_timing_of_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "CALIBRATION_SECONDS", 1e9)
    objective = Line(signalling(1, signal.SIGTERM))
    with pytest.raises(Interrupted):
        run(tmp_path, objective, steps=None, minutes=1.0)
    assert objective.steps == 2
    assert not (tmp_path / "plan.json").exists()


@pytest.mark.skipif(os.name != "posix", reason="signals between processes")
@pytest.mark.parametrize("stopped", [1, 12, 24])
def test_a_signal_ends_a_validation(uninterrupted: tuple[Outcome, Path], tmp_path: Path, stopped: int) -> None:
    class Long(Line):
        asked = 0

        def validate(self, batch: Batch) -> dict[str, Tensor]:
            self.asked += 1
            # Two batches before the first step, and two after every sixth.
            if self.asked == (1 if stopped == 1 else 1 + stopped // 3):
                os.kill(os.getpid(), signal.SIGTERM)
            return super().validate(batch)

    objective = Long()
    with pytest.raises(Interrupted):
        run(tmp_path, objective)
    assert objective.asked % 2 == 1, "the second batch is left out"
    saved = sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*"))
    # Beside the checkpoint of the validation before.
    assert saved == ([] if stopped == 1 else [f"step-{stopped - 6:08d}", f"step-{stopped:08d}-unvalidated"])
    assert same(run(tmp_path), uninterrupted[0])
    assert files(tmp_path) == files(uninterrupted[1])


@pytest.mark.skipif(os.name != "posix", reason="signals between processes")
def test_a_signal_after_the_last_step_is_not_lost(
    uninterrupted: tuple[Outcome, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Trainer.judge
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "judge", lambda *given: (judge(*given), os.kill(os.getpid(), signal.SIGINT)))
        with pytest.raises(Interrupted, match="SIGINT"):
            run(tmp_path)
    assert same(run(tmp_path), uninterrupted[0])


@pytest.mark.skipif(os.name != "posix", reason="signals between processes")
def test_a_third_signal_ends_the_step_itself(tmp_path: Path) -> None:
    def thrice(step: int) -> None:
        if step == 8:
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGINT)

    objective = Line(thrice)
    with pytest.raises(Interrupted):
        run(tmp_path, objective)
    assert objective.steps == 8, "the step was not made"
    assert [path.name for path in (tmp_path / "checkpoints").glob("step-*")] == ["step-00000006"]


@pytest.mark.skipif(os.name != "posix", reason="signals between processes")
def test_an_ignored_signal_stays_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run(tmp_path, Line(signalling(3, signal.SIGHUP))).total_steps == STEPS
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_folder_that_is_removed_ends_the_training(tmp_path: Path) -> None:
    def remove(step: int) -> None:
        if step == 8:
            shutil.rmtree(tmp_path / "run")

    with pytest.raises(ArtifactError, match="run was removed or replaced while a training ran in it"):
        run(tmp_path / "run", Line(remove))
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(os.name != "posix", reason="signals between processes")
def test_stopped_after_every_step(uninterrupted: tuple[Outcome, Path], tmp_path: Path) -> None:
    for _ in range(STEPS):
        with pytest.raises(Interrupted):
            run(tmp_path, Line(signalling(0, signal.SIGTERM)))
    assert same(run(tmp_path), uninterrupted[0])
    assert files(tmp_path) == files(uninterrupted[1])


def _killed(folder: Path, before: Callable[[int], None] | None) -> None:
    write_artifact(folder, run(folder, Line(before)).tensors, {})


class Kill:
    def __init__(self, at: int) -> None:
        self.at = at

    def __call__(self, step: int) -> None:
        if step == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(os.name != "posix", reason="signals between processes")
def test_a_killed_process_changes_nothing(uninterrupted: tuple[Outcome, Path], tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    for before, code in ((Kill(15), -signal.SIGKILL), (None, 0)):
        process = context.Process(target=_killed, args=(tmp_path / "killed", before))
        process.start()
        process.join(120)
        assert process.exitcode == code
    write_artifact(tmp_path / "whole", uninterrupted[0].tensors, {})
    killed = files(tmp_path / "killed")
    for name in ("model.safetensors", "model.json"):
        assert killed[name] == (tmp_path / "whole" / name).read_bytes()
    assert killed["metrics.csv"] == (uninterrupted[1] / "metrics.csv").read_bytes()


def test_what_a_kill_left_half_written_is_ignored(uninterrupted: tuple[Outcome, Path], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        run(tmp_path, Line(raising(14)))
    torn = tmp_path / "checkpoints" / ".step-00000014.part"
    torn.mkdir()
    (torn / "state.safetensors").write_bytes(b"half")
    (tmp_path / "checkpoints" / "best-00000014.safetensors").write_bytes(b"half")
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("99,1")
    assert same(run(tmp_path), uninterrupted[0])
    assert (tmp_path / "metrics.csv").read_bytes() == (uninterrupted[1] / "metrics.csv").read_bytes()


@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "best", "plan.json", "settings.json"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "settings.json").write_text('{"seed": 33}')
    with pytest.raises(RuntimeError):
        run(tmp_path, Line(raising(14)))
    [path] = [path for path in tmp_path.rglob("*") if path.name.startswith(name)]
    content = path.read_bytes()
    changed = {
        "state.json": content.replace(b'"step": 12', b'"step": 11'),
        "plan.json": content.replace(b"24", b"25"),
        "settings.json": content.replace(b"3", b"4"),
    }.get(name, content[:-1] + bytes([content[-1] ^ 1]))
    assert changed != content
    path.write_bytes(changed)
    with pytest.raises(ArtifactError, match=r"begin again|copy the run again"):
        run(tmp_path)
    path.write_bytes(content)
    assert run(tmp_path).total_steps == STEPS


# -- random numbers and batches ----------------------------------------------------------------------------------------


def test_seeds_of_steps_differ() -> None:
    found = {step_seed(seed, step, rank) for seed in range(8) for step in range(50) for rank in range(4)}
    assert len(found) == 8 * 50 * 4
    assert step_seed(1, 2, 3) == step_seed(1, 2, 3)
    assert all(0 <= seed < 2**63 for seed in found)
    state = int(np.random.SeedSequence([1, 2, 3, 7]).generate_state(1, np.uint64)[0])
    assert step_seed(1, 2, 3) == state // 2, "numpy 1.26 cannot shift its own unsigned integers"


def test_each_step_has_its_own_batch_and_random_numbers(tmp_path: Path) -> None:
    objective, points = Line(), Points()
    train(
        objective,
        (points, None),
        settings(),
        tmp_path,
        name="line",
        seed=3,
        conduct=CPU,
    )
    assert points.asked == [(step, 0) for step in range(STEPS)]
    expected = []
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step_seed(3, step, 0))
        expected.append(float(torch.rand((), generator=generator)))
    assert objective.draws == expected
    assert objective.progress == pytest.approx([step / STEPS for step in range(STEPS)])


# -- what is kept ------------------------------------------------------------------------------------------------------


def average(weights: list[dict[str, Tensor]], ema: float) -> dict[str, Tensor]:
    """The weights after each step, in double precision; the first entry holds those before the training."""
    found = {name: value.double() for name, value in weights[0].items()}
    for step, new in enumerate(weights[1:]):
        decay = min(ema, (1 + step) / (10 + step))
        found = {name: decay * old + (1 - decay) * new[name].double() for name, old in found.items()}
    return found


@pytest.mark.parametrize("ema", [0.0, 0.3, 0.95])
def test_what_is_kept_is_the_average(tmp_path: Path, ema: float) -> None:
    objective = Line()
    outcome = run(tmp_path, objective, held_out=False, ema=ema)
    last = {name: value.detach().clone() for name, value in objective.model.state_dict().items()}
    expected = average([*objective.weights, last], ema)
    for name, value in outcome.tensors.items():
        if name != "seen":
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert int(outcome.tensors["seen"]) == STEPS
    assert (outcome.figures, outcome.best_step) == ({}, STEPS)


def test_the_best_validation_is_kept(tmp_path: Path) -> None:
    # Two batches a validation: means 1 before the first step, then 0.9, 0.4, 0.6, 0.4.
    objective = Line(figures=[1.0, 1.0, 1.0, 0.8, 0.3, 0.5, 0.6, 0.6, 0.5, 0.3])
    outcome = run(tmp_path, objective)
    assert outcome.best_step == 12, "the first of equals"
    assert outcome.figures == {"loss": pytest.approx(0.4)}
    assert int(outcome.tensors["seen"]) == 12
    expected = average(objective.weights[:13], 0.8)
    for name in ("0.weight", "2.bias"):
        torch.testing.assert_close(outcome.tensors[name].double(), expected[name], rtol=1e-5, atol=1e-6)
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == [
        "best-00000012.safetensors",
        "step-00000024",
    ]


def test_the_last_weights_are_kept_where_they_are_asked_for(tmp_path: Path) -> None:
    figures = [1.0, 1.0, 1.0, 0.8, 0.3, 0.5, 0.6, 0.6, 0.5, 0.7]
    objective = Line(figures=list(figures))
    outcome = run(tmp_path / "whole", objective, weights="last")
    last = {name: value.detach().clone() for name, value in objective.model.state_dict().items()}
    assert outcome.best_step == STEPS
    assert outcome.figures == {"loss": pytest.approx(0.6)}
    expected = average([*objective.weights, last], 0.8)
    for name in ("0.weight", "2.bias"):
        torch.testing.assert_close(outcome.tensors[name].double(), expected[name], rtol=1e-5, atol=1e-6)
    # Stopped in the middle and taken up again, it is the same.
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", Line(signalling(9, signal.SIGTERM), list(figures)), weights="last")
    rest = figures[-2 * (4 - 9 // 6) :]
    assert same(run(tmp_path / "cut", Line(figures=rest), weights="last"), outcome)
    with pytest.raises(ValueError, match="patience needs the best weights: give weights: best"):
        settings(weights="last", patience=2)


def test_an_objective_may_keep_the_last_weights(tmp_path: Path) -> None:
    figures = [1.0, 1.0, 1.0, 0.8, 0.3, 0.5, 0.6, 0.6, 0.5, 0.7]
    for name, changes, step in (("null", {}, STEPS), ("best", {"weights": "best"}, 12), ("p", {"patience": 4}, 12)):
        objective = Line(figures=list(figures))
        objective.keeps_last = True
        assert run(tmp_path / name, objective, **changes).best_step == step
    assert run(tmp_path / "plain", Line(figures=list(figures))).best_step == 12


def test_patience_ends_a_training_that_gets_no_better(tmp_path: Path) -> None:
    # Means 0.5, 0.4, 0.6, 0.7, 0.3: the last is never seen.
    figures = [0.5, 0.5, 0.4, 0.4, 0.6, 0.6, 0.7, 0.7, 0.3, 0.3, 0.2, 0.2]
    # The first two are those of the untrained model.
    objective = Line(figures=[1.0, 1.0, *figures])
    outcome = run(tmp_path / "whole", objective, patience=2, validations=6)
    assert (outcome.best_step, outcome.total_steps, objective.steps) == (8, 16, 16)
    # Stopped and taken up again at any point, it ends there too.
    for k in range(3):
        untrained = [] if k else [1.0, 1.0]
        with pytest.raises(Interrupted):
            run(
                tmp_path / "cut",
                Line(signalling(4, signal.SIGTERM), [*untrained, *figures]),
                patience=2,
                validations=6,
            )
        figures = figures[2:]
    assert same(run(tmp_path / "cut", Line(figures=list(figures)), patience=2, validations=6), outcome)
    # One that is asked again when it had just stopped does nothing more.
    idle = Line(figures=[])
    assert same(run(tmp_path / "cut", idle, patience=2, validations=6), outcome)
    assert idle.steps == 0


def test_the_learning_rate_follows_its_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []

    class Recorded(torch.optim.AdamW):
        def step(self, *given: Any, **named: Any) -> Any:
            rates.append(self.param_groups[0]["lr"])
            return super().step(*given, **named)

    monkeypatch.setattr(torch.optim, "AdamW", Recorded)
    run(tmp_path, steps=40, warmup_steps=3, held_out=False)
    expected = [0.05 * k / 3 for k in (1, 2, 3)]
    expected += [0.001 + 0.049 * 0.5 * (1 + math.cos(math.pi * k / 37)) for k in range(37)]
    assert rates[::2] == pytest.approx(expected)
    assert rates[1::2] == pytest.approx(expected), "every group has the same"
    assert max(rates) == pytest.approx(0.05)
    assert rates[-1] < 0.0012
    rates.clear()
    run(tmp_path / "short", steps=20, warmup_steps=500, held_out=False)
    assert rates[:6:2] == pytest.approx([0.025, 0.05, 0.05]), "a warm-up takes at most a tenth"


def test_gradients_are_clipped(tmp_path: Path) -> None:
    free, held = Line(), Line()
    run(tmp_path / "free", free, clip_norm=1e9)
    run(tmp_path / "held", held, clip_norm=1e-3)
    assert not torch.equal(free.model[0].get_parameter("weight"), held.model[0].get_parameter("weight"))


class Shared(nn.Module):
    """Two losses that pull one weight in opposite directions; one alone has a second weight."""

    monitor = "loss"

    def __init__(self) -> None:
        super().__init__()
        self.both, self.one = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def exported(self) -> nn.Module:
        return self

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"down": [self.both, self.one], "up": [self.both, self.one]}

    def losses(self, batch: Batch) -> dict[str, Loss]:
        return {"down": Loss(self.both + self.one), "up": Loss(-0.01 * self.both)}

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": torch.zeros(())}


def test_groups_that_share_a_weight_have_optimisers_of_their_own() -> None:
    objective = Shared()
    learner = Learner(objective, settings(), torch.device("cpu"))
    losses = learner.losses(Batch({}, 0.0))
    learner.step({name: learner.backward(name, loss, 0) for name, loss in losses.items()}, 0.1, 0)
    # The first step of Adam is as long as the rate, whatever the size of the gradient.
    assert float(objective.both.detach()) == pytest.approx(0.0, abs=1e-4)
    assert float(objective.one.detach()) == pytest.approx(-0.1, abs=1e-4)
    again = Learner(Shared(), settings(), torch.device("cpu"))
    again.load_state(learner.state())
    assert all(torch.equal(value, again.state()[name]) for name, value in learner.state().items())


def test_a_training_that_diverges_is_no_success(tmp_path: Path) -> None:
    expected = r"line has diverged: its held-out loss is .*, and was .*lower learning_rate"
    with pytest.raises(TrainingError, match=expected):
        run(tmp_path, learning_rate=100.0, final_learning_rate=100.0, clip_norm=1e9, warmup_steps=0, ema=0.0)


def test_weights_that_are_not_finite_are_no_result(tmp_path: Path) -> None:
    def spoil(step: int) -> None:
        if step >= STEPS - 1:
            objective.model[0].get_parameter("bias").data.fill_(math.inf)

    objective = Line(spoil)
    with pytest.raises(TrainingError, match=r"became (nan|inf)|is not finite"):
        run(tmp_path, objective, held_out=False)


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "step\n1,2,3\nx\n", "step,a\n\n,1\n3\n", "\0", 'step,a\n1,"x'])
def test_a_strange_log_does_not_stop_a_training(uninterrupted: tuple[Outcome, Path], tmp_path: Path, text: str) -> None:
    with pytest.raises(RuntimeError):
        run(tmp_path, Line(raising(14)))
    (tmp_path / "metrics.csv").write_text(text)
    assert same(run(tmp_path), uninterrupted[0])


# -- minutes -----------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that only steps move, each by half a second; by two seconds from `slow` on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, slow: float = math.inf) -> None:
        self.now, self.slow = 0.0, slow
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def __call__(self, step: int) -> None:
        self.now += 2.0 if self.now >= self.slow else 0.5


class Listener(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.lines.append(f"warning: {text}")


def plan_of(folder: Path) -> list[dict[str, Any]]:
    tree = json.loads((folder / "plan.json").read_text())
    assert tree["total_steps"] == tree["plan"][-1]["total_steps"]
    return list(tree["plan"])


def test_minutes_become_steps_and_leave_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_time = run(tmp_path / "minutes", Line(Clock(monkeypatch)), steps=None, minutes=0.3)
    [stretch] = plan_of(tmp_path / "minutes")
    by_steps = run(tmp_path / "steps", steps=stretch["total_steps"])
    assert by_time.total_steps >= 10
    assert same(by_time, by_steps)
    timed, counted = files(tmp_path / "minutes"), files(tmp_path / "steps")
    # The state holds the time that was spent.
    differing = {Path(name).name for name in timed if timed[name] != counted[name]}
    assert differing == {"plan.json", "state.json", "hashes.json"}


@pytest.mark.parametrize("slow", [12.0, 22.0])
def test_the_number_of_steps_follows_the_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: float) -> None:
    clock, listener = Clock(monkeypatch, slow), Listener()
    conduct = Conduct(torch.device("cpu"), listener)
    outcome = run(tmp_path / "timed", Line(clock), conduct=conduct, steps=None, minutes=0.5, validations=20)
    assert clock.now == pytest.approx(30, rel=0.1)
    assert not [line for line in listener.lines if "asked for" in line]
    assert len(plan_of(tmp_path / "timed")) > 1
    # The plan repeats the training, whatever the clock says.
    repeating = Conduct(torch.device("cpu"), Silent(), Budget(plan=tmp_path / "timed" / "plan.json"))
    again = run(tmp_path / "again", Line(), conduct=repeating, steps=None, minutes=0.5, validations=20)
    assert same(again, outcome)
    for name in ("plan.json", "metrics.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "timed" / name).read_bytes()


@pytest.mark.parametrize(("each", "validations"), [(0.02, None), (0.2, 12), (1.0, 4)])
def test_validations_leave_the_time_to_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, each: float, validations: int | None
) -> None:
    clock = Clock(monkeypatch)

    class Slow(Line):
        """A batch of its validations takes some seconds; there are two in each."""

        def validate(self, batch: Batch) -> dict[str, Tensor]:
            clock.now += each
            return super().validate(batch)

    conduct = Conduct(torch.device("cpu"), Silent(), threads=1)
    outcome = run(tmp_path / "timed", Slow(clock), conduct=conduct, steps=None, minutes=0.5, validations=20)
    assert plan_of(tmp_path / "timed")[0].get("validations") == validations
    assert clock.now == pytest.approx(30, rel=0.1)
    rows = csv.DictReader((tmp_path / "timed" / "metrics.csv").open())
    held_out = [int(row["step"]) for row in rows if row["validation/loss"] and int(row["step"])]
    assert len(held_out) == pytest.approx(validations or 20, abs=5)
    # The plan repeats the training with the same validations, and a plan that names none has those of the settings.
    repeating = Conduct(torch.device("cpu"), Silent(), Budget(plan=tmp_path / "timed" / "plan.json"))
    assert same(run(tmp_path / "again", Line(), conduct=repeating, steps=None, minutes=0.5, validations=20), outcome)


def test_load_that_comes_too_late_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, listener = Clock(monkeypatch, slow=27.0), Listener()
    run(tmp_path, Line(clock), conduct=Conduct(torch.device("cpu"), listener), steps=None, minutes=0.5, validations=20)
    assert clock.now > 33
    [said] = [line for line in listener.lines if "asked for" in line]
    assert said == f"line ended {clock.now - 30:.3g} seconds later than the 30 seconds that were asked for"


def test_what_a_command_prepares_counts_up_to_a_quarter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for prepared, left in ((5.0, 25), (50.0, 22.5)):
        clock = Clock(monkeypatch)
        clock.now = 1000.0
        conduct = Conduct(torch.device("cpu"), Silent(), Budget(begun=1000.0 - prepared))
        run(tmp_path / str(prepared), Line(clock), conduct=conduct, steps=None, minutes=0.5)
        assert clock.now - 1000 == pytest.approx(left, abs=2)


def test_a_stopped_training_counts_the_time_that_it_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def stop_once(step: int) -> None:
        clock(step)
        if clock.now == 15:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        run(tmp_path, Line(stop_once), steps=None, minutes=0.5, validations=20)
    clock.now = 5000.0
    run(tmp_path, Line(clock), steps=None, minutes=0.5, validations=20)
    assert clock.now - 5000 == pytest.approx(15, abs=3)


class Cores:
    """Threads as torch counts them, and a clock that moves by half a second a step with one, by `each` with two."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, each: float) -> None:
        self.now, self.n, self.each = 0.0, 2, each
        self.used: list[int] = []
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(torch, "get_num_threads", lambda: self.n)
        monkeypatch.setattr(torch, "set_num_threads", lambda n: setattr(self, "n", n))
        for name in THREAD_VARIABLES:
            monkeypatch.delenv(name, raising=False)

    def __call__(self, step: int) -> None:
        self.now += self.each if self.n > 1 else 0.5
        self.used.append(self.n)


@pytest.mark.parametrize(("each", "chosen"), [(8.0, 1), (0.7, 1), (0.6, 2), (0.3, 2)])
def test_the_threads_of_a_training_are_those_that_are_clearly_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, each: float, chosen: int
) -> None:
    cores, listener = Cores(monkeypatch, each), Listener()
    run(tmp_path, Line(cores), conduct=Conduct(torch.device("cpu"), listener), steps=None, minutes=2.0)
    assert plan_of(tmp_path)[0]["threads"] == chosen
    assert set(cores.used[20:]) == {chosen}
    assert cores.n == 2  # given back
    # Eight steps with one thread; several that are many times slower are timed no longer than it takes to see that.
    assert cores.used[:20].count(2) == {8.0: 2, 0.7: 8, 0.6: 12, 0.3: 12}[each]
    assert cores.now == pytest.approx(120, rel=0.1)
    said = [line for line in listener.lines if "thread" in line]
    lasts = {8.0: "8 seconds", 0.7: "700 ms", 0.6: "", 0.3: ""}[each]
    expected = [f"computing with one thread: a step takes 500 ms with it, and {lasts} with 2"] if lasts else []
    assert said == expected


@pytest.mark.parametrize("by", ["option", "environment"])
def test_who_says_how_many_threads_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    cores = Cores(monkeypatch, 8.0)
    if by == "environment":
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
    conduct = Conduct(torch.device("cpu"), Silent(), threads=2 if by == "option" else None)
    run(tmp_path, Line(cores), conduct=conduct, steps=None, minutes=5.0)
    assert set(cores.used) == {2}
    assert "threads" not in plan_of(tmp_path)[0]


def test_threads_that_collapse_meanwhile_give_way_to_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cores, listener = Cores(monkeypatch, 0.3), Listener()

    def busy_later(step: int) -> None:
        cores.each = 0.3 if cores.now < 30 else 3.0
        cores(step)

    conduct = Conduct(torch.device("cpu"), listener)
    outcome = run(tmp_path / "a", Line(busy_later), conduct=conduct, steps=None, minutes=2.0, validations=20)
    threads = [one.get("threads") for one in plan_of(tmp_path / "a")]
    assert threads[0] == 2
    assert [one for one in threads[1:] if one] == [1]
    assert [line for line in listener.lines if line.startswith("one thread from here on")]
    assert cores.now == pytest.approx(120, rel=0.1)
    # The plan repeats the training with the same threads, step by step, and so does a training that is resumed.
    used = cores.used[-outcome.total_steps :]
    cores.used.clear()
    repeating = Conduct(torch.device("cpu"), Silent(), Budget(plan=tmp_path / "a" / "plan.json"))
    again = run(tmp_path / "again", Line(cores), conduct=repeating, steps=None, minutes=2.0, validations=20)
    assert cores.used == used
    assert same(again, outcome)
    cores.used.clear()

    def cut(step: int) -> None:
        cores(step)
        if step == outcome.total_steps - 20:
            os.kill(os.getpid(), signal.SIGTERM)

    cut_short: dict[str, Any] = {"conduct": repeating, "steps": None, "minutes": 2.0, "validations": 20}
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", Line(cut), **cut_short)
    assert same(run(tmp_path / "cut", Line(cores), **cut_short), outcome)
    assert cores.used == used


# -- going on after the end --------------------------------------------------------------------------------------------


def going_on(minutes: float) -> Conduct:
    return Conduct(torch.device("cpu"), Silent(), Budget(more=minutes))


def test_a_finished_training_goes_on(
    uninterrupted: tuple[Outcome, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(uninterrupted[1], tmp_path / "run")
    folder, clock = tmp_path / "run", Clock(monkeypatch)
    first = 24

    def cut(step: int) -> None:
        clock(step)
        if step == 40:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        run(folder, Line(cut), conduct=going_on(0.5))
    restart = plan_of(folder)[-1]
    assert (restart["from_step"], restart["peak"], restart["minutes"]) == (first, 0.3, 0.5)
    # The same request resumes what was cut; it does not add another half minute.
    outcome = run(folder, Line(clock), conduct=going_on(0.5))
    assert plan_of(folder)[1] == restart
    assert outcome.total_steps > first
    assert outcome.figures["loss"] <= uninterrupted[0].figures["loss"]
    with pytest.raises(ConfigError, match="holds no training; train it first"):
        run(tmp_path / "new", Line(clock), conduct=going_on(0.5))


def test_the_old_weights_stay_if_more_steps_make_no_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run(tmp_path, Line(figures=[1.0, 1.0, *[0.3, 0.3] * 4]))
    after = run(tmp_path, Line(Clock(monkeypatch), figures=[0.4] * 200), conduct=going_on(0.5))
    assert after.total_steps > before.total_steps
    assert after.best_step == before.best_step == 6
    assert all(torch.equal(after.tensors[name], value) for name, value in before.tensors.items())


# -- previews and words ------------------------------------------------------------------------------------------------


def test_previews_leave_no_trace(uninterrupted: tuple[Outcome, Path], tmp_path: Path) -> None:
    objective, seen = Line(), []

    def preview(step: int) -> None:
        seen.append(step)
        torch.rand(3)
        assert not objective.model.training
        if step == 2:
            raise OSError("the disk is full")

    listener = Listener()
    watch = Watch(preview, preview_seconds=0.0, remark=lambda figures, progress: "look" * (progress > 0.4), advice=True)
    conduct = Conduct(torch.device("cpu"), listener, watch=watch)
    assert same(run(tmp_path, objective, conduct=conduct), uninterrupted[0])
    assert files(tmp_path) == files(uninterrupted[1])
    assert seen == list(range(1, STEPS + 1))
    assert listener.lines.count("warning: look") == 1
    assert [line for line in listener.lines if "no preview at step 2: the disk is full" in line]
    assert listener.lines[-1].startswith(f"line: {STEPS} steps are too few ")


# -- devices -----------------------------------------------------------------------------------------------------------


def test_devices_are_checked() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(ConfigError, match=r"device 'tpu'.*auto, cpu, cuda or mps"):
        resolve_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"'cuda' is not available.*--device cpu"):
            resolve_device("cuda")
