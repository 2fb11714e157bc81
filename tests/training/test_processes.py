"""Two processes that train together make what one makes: the same weights, stores and files."""

import json
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from actseq_cli.main import TOGETHER, main
from click.testing import CliRunner
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.distributed.run import get_args_parser

from actseq.commands.common import Compute
from actseq.commands.extract_latents import extract_latents
from actseq.commands.train_ae import train_ae
from actseq.commands.train_prior import train_prior
from actseq.config import Member, TrainingConfig
from actseq.errors import ConfigError, Interrupted
from actseq.objectives.base import Batch, Loss
from actseq.progress import Silent
from actseq.storage.processes import Processes, here
from actseq.storage.run_folder import RunFolder
from actseq.training.conduct import Conduct
from actseq.training.loop import train

# Children of a server that has imported what is slow start at once.
multiprocessing.set_forkserver_preload(["__main__", "actseq.pipeline", "actseq.training.loop", "lightning_fabric"])
CONTEXT = multiprocessing.get_context("forkserver")
CLOSE = 1e-4
"""Largest relative difference of weights."""


def elastic(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun tells its processes."""
    return {
        "TORCHELASTIC_RUN_ID": "test",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "GLOO_SOCKET_IFNAME": "lo",
    }


def _begin(environment: dict[str, str], work: Callable[..., None], given: tuple[Any, ...]) -> None:
    os.environ.update(environment)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    torch.set_num_threads(1)
    try:
        work(*given)
    except Interrupted as stop:
        os._exit(stop.number)
    os._exit(0)


def together(work: Callable[..., None], *given: Any, size: int = 2) -> list[Any]:
    """Start processes that work together, as torchrun does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [CONTEXT.Process(target=_begin, args=(elastic(rank, size, port), work, given)) for rank in range(size)]
    for one in started:
        one.start()
    return started


def codes(started: list[Any]) -> list[int]:
    for one in started:
        one.join(60)
    return [one.exitcode for one in started]


class Two(nn.Module):
    """Fits a noisy plane with two groups of parameters; one parameter has a gradient in every second batch only."""

    monitor = "loss"

    def __init__(self, pause: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        self.sometimes, self.never = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
        self.pause = pause

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {
            "first": [*self.model[0].parameters(), self.sometimes, self.never],
            "last": list(self.model[2].parameters()),
        }

    def exported(self) -> nn.Module:
        return self.model

    def losses(self, batch: Batch) -> dict[str, Loss]:
        time.sleep(self.pause)
        x, y = batch.data["x"], batch.data["y"]
        loss = (self.model(x + 0.1 * torch.randn_like(x)) - y).square().mean()
        if batch.data["number"] % 2:
            loss = loss + (self.sometimes - 2).square().sum() * (x.mean() + 3)
        size = (self.model[2](self.model[0](x).detach()) - y).abs().mean()
        return {"first": Loss(loss, {"loss": loss.detach()}), "last": Loss(size, {"size": size.detach()})}

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": (self.model(batch.data["x"]) - batch.data["y"]).square().mean()}


class Points:
    def batch(self, step: int, rank: int = 0) -> Mapping[str, np.ndarray]:
        # Batches of unequal sizes, as those of sequences are.
        x = np.random.default_rng([step, rank]).standard_normal((8 + rank, 3)).astype(np.float32)
        return {"x": x, "y": (x @ np.array([[1.0], [-2.0], [0.5]])).astype(np.float32), "number": np.array(rank)}


def fit(folder: Path, accumulate: int, pause: float = 0.0) -> None:
    config = TrainingConfig(
        objective=Member(kind="two"),
        steps=50,
        batch_size=8,
        accumulate=accumulate,
        learning_rate=0.05,
        ema=0.8,
        validations=5,
        validation_batches=3,
    )
    conduct = Conduct(torch.device("cpu"), Silent())
    train(Two(pause), (Points(), Points()), config, folder, name="two", seed=3, conduct=conduct)


def state(folder: Path) -> dict[str, np.ndarray]:
    [path] = (folder / "checkpoints").glob("step-00000050/state.safetensors")
    return load_file(path)


def close(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    assert one.keys() == other.keys()
    return all(
        np.linalg.norm(one[name] - other[name]) <= CLOSE * max(np.linalg.norm(other[name]), 1e-6)
        for name in one
        if one[name].dtype.kind == "f"
    )


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    fit(tmp_path / "one", 4)
    assert codes(together(fit, tmp_path / "two", 4)) == [0, 0]
    one, two = state(tmp_path / "one"), state(tmp_path / "two")
    assert close(two, one)
    # The parameter without a gradient is left alone by both.
    assert one["model.never"] == two["model.never"] == 1
    assert one["model.sometimes"] > 1.5
    rows = [(folder / "metrics.csv").read_text().splitlines() for folder in (tmp_path / "one", tmp_path / "two")]
    for a, b in zip(*(row[1:] for row in rows), strict=True):
        numbers = [[float(cell or 0) for cell in line.split(",")] for line in (a, b)]
        np.testing.assert_allclose(*numbers, rtol=1e-4)


def test_a_step_of_several_batches_is_not_one_of_the_first_alone(tmp_path: Path) -> None:
    fit(tmp_path / "one", 1)
    fit(tmp_path / "two", 2)
    one, two = state(tmp_path / "one"), state(tmp_path / "two")
    assert not close({"weight": two["model.model.0.weight"]}, {"weight": one["model.model.0.weight"]})


def test_a_signal_to_one_process_stops_both_with_one_checkpoint(tmp_path: Path) -> None:
    fit(tmp_path / "one", 2)
    started = together(fit, tmp_path / "two", 2, 0.05)
    while not (tmp_path / "two" / "checkpoints").is_dir():
        time.sleep(0.02)
        assert all(one.is_alive() for one in started)
    os.kill(started[1].pid, signal.SIGTERM)
    assert codes(started) == [signal.SIGTERM, signal.SIGTERM]
    # Beside that of the last validation.
    checkpoint = max((tmp_path / "two" / "checkpoints").glob("step-*"))
    assert json.loads((checkpoint / "state.json").read_text())["step"] < 50
    # One process ends what two began.
    fit(tmp_path / "two", 2)
    assert close(state(tmp_path / "two"), state(tmp_path / "one"))


def signalled_between_sum_and_decision(folder: Path) -> None:
    """A training whose last process receives SIGTERM when the processes have just told each other that none did."""
    kept, calls = Processes.add, iter(range(1000))

    def add(processes: Processes, tensor: Tensor) -> None:
        kept(processes, tensor)
        if next(calls) == 7 and not processes.first:
            os.kill(os.getpid(), signal.SIGTERM)

    Processes.add = add  # type: ignore[method-assign]
    fit(folder, accumulate=4)


def test_a_signal_that_arrives_while_a_step_is_decided_stops_both(tmp_path: Path) -> None:
    started = together(signalled_between_sum_and_decision, tmp_path)
    try:
        assert codes(started) == [signal.SIGTERM, signal.SIGTERM]
    finally:
        for one in started:
            one.kill()
    # That of the last validation, and that of the step after the signal.
    assert {path.name for path in (tmp_path / "checkpoints").glob("step-*")} == {"step-00000000", "step-00000009"}
    fit(tmp_path, accumulate=4)
    fit(tmp_path / "whole", accumulate=4)
    assert close(state(tmp_path), state(tmp_path / "whole"))


def test_a_training_needs_a_batch_for_each_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in elastic(0, 2, 1).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="accumulate is 3; expected a multiple of 2"):
        fit(tmp_path, 3)


def test_what_is_the_work_of_one_process_is_refused_to_several(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in elastic(1, 2, 1).items():
        monkeypatch.setenv(name, value)
    for words in (["presets"], ["train-ae", "sounds", "--find-lr"]):
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 1
        assert f"2 processes were started with {' '.join((words[0], *words[2:]))}" in done.output


def test_torchrun_passes_the_commands_of_the_documentation_on() -> None:
    text = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.startswith("torchrun ")]
    assert len(lines) == 4
    for line in lines:
        given = get_args_parser().parse_args(line.split()[1:])
        assert (given.module, given.training_script) == (True, "actseq")
        assert given.training_script_args[0] in TOGETHER


def test_processes_are_known_by_what_started_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert here() == Processes()
    for name, value in elastic(1, 4, 1).items():
        monkeypatch.setenv(name, value)
    assert here() == Processes(1, 4, 4)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    # A script of sbatch has this without srun; it is one process.
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert here() == Processes()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "2")
    monkeypatch.setenv("SLURM_PROCID", "5")
    assert here() == Processes(5, 8, 4)
    assert list(Processes(1, 3).mine(range(8))) == [1, 4, 7]


def stages(run: str, sounds: Path) -> None:
    """Corpus, autoencoder, latents and prior, in shards of few clips."""
    import actseq.commands.extract_latents as extraction
    import actseq.data.corpus as corpus
    from actseq.storage import store

    def small(sizes: list[int]) -> list[range]:
        return store.group_shards(sizes, max_items=3)

    corpus.group_shards = extraction.group_shards = small  # type: ignore[assignment]
    compute = Compute("cpu", 1)
    few = [f"train_ae.{key}" for key in ("steps=50", "accumulate=2")]
    train_ae(sounds, "smoke", run=run, overrides=[*few, "latents.copies=1"], compute=compute)
    extract_latents(run, compute=compute)
    train_prior(run, overrides=["train_prior.steps=20", "train_prior.accumulate=2"], compute=compute)


def lines(folder: Path) -> list[str]:
    return sorted((folder / "manifest.jsonl").read_text().splitlines())


def test_all_stages_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(22):
        path = tmp_path / "sounds" / "ab"[i % 2] / f"{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.3 * rng.standard_normal(3000) * np.exp(-np.arange(3000) / 600), 8000)
    alone = CONTEXT.Process(target=_begin, args=({}, stages, (str(tmp_path / "one"), tmp_path / "sounds")))
    alone.start()
    assert codes([alone]) == [0]
    assert codes(together(stages, str(tmp_path / "two"), tmp_path / "sounds")) == [0, 0]
    one, two = RunFolder(tmp_path / "one"), RunFolder(tmp_path / "two")
    assert len({json.loads(line)["shard"] for line in lines(two.corpus)}) > 4
    assert lines(two.corpus) == lines(one.corpus)
    assert close(load_file(two.autoencoder / "model.safetensors"), load_file(one.autoencoder / "model.safetensors"))
    assert [path.name for path in sorted(two.latents.glob("shard-*"))] == [
        path.name for path in sorted(one.latents.glob("shard-*"))
    ]
    for path in one.latents.glob("shard-*"):
        assert close(load_file(two.latents / path.name), load_file(path))
    priors = [run.priors.path / "default" / "model.safetensors" for run in (two, one)]
    assert close(*(load_file(path) for path in priors))
    assert not list(two.path.rglob(".*.part"))
