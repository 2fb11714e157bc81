"""How many threads a command computes with: what the user says, else the command's own number, else torch's."""

import pytest
import torch

from actseq.commands import common
from actseq.commands.common import ONE_THREAD, Compute
from actseq.training.conduct import THREAD_VARIABLES


class Threads:
    """Torch's number of threads, kept apart from the real one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.n = 4
        monkeypatch.setattr(torch, "get_num_threads", lambda: self.n)
        monkeypatch.setattr(torch, "set_num_threads", lambda n: setattr(self, "n", n))
        monkeypatch.setattr(common, "_usual", common._Usual())
        for name in THREAD_VARIABLES:
            monkeypatch.delenv(name, raising=False)


def test_single_sounds_take_one_thread_and_the_next_training_has_all_again(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads(monkeypatch)
    for _ in range(2):
        Compute().use_threads(ONE_THREAD)
        assert threads.n == 1
    Compute().use_threads()
    assert threads.n == 4


def test_who_says_how_many_threads_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads(monkeypatch)
    Compute(threads=3).use_threads(ONE_THREAD)
    assert threads.n == 3
    threads.n = 2  # by torch.set_num_threads in a program that uses the library
    Compute().use_threads()
    assert threads.n == 2
    Compute().use_threads(ONE_THREAD)
    threads.n = 3
    Compute().use_threads()
    assert threads.n == 3
    monkeypatch.setenv(THREAD_VARIABLES[0], "3")
    Compute().use_threads(ONE_THREAD)
    assert threads.n == 3
