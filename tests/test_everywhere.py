"""actseq on systems that are not Unix, as far as one can see from here: modules, functions and signals are missing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import soundfile  # type: ignore[import-untyped, unused-ignore]

TOP = Path(__file__).parents[1]
UNIX = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog")
"""Modules of the standard library that Windows does not have."""
PROGRAM = f"""
import importlib, os, pkgutil, signal, sys

sys.modules.update(dict.fromkeys({UNIX}))  # None makes their import fail
for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGALRM", "SIGKILL", "SIGSTOP"):
    delattr(signal, name)
for name in ("fork", "forkpty", "setsid", "mkfifo", "statvfs"):
    delattr(os, name)

import actseq
import actseq_cli

for package in (actseq, actseq_cli):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if module.name != "actseq.__main__":
            importlib.import_module(module.name)

from actseq_cli.main import main

main(["--help"], standalone_mode=False)
main(["drumkit", "kit", "--n-per-kind", "2", "--sample-rate", "8000"], standalone_mode=False)
threads = ["--threads", "1", "--device", "cpu"]
main(["train-prior", "./run", "--name", "new", "--steps", "1", *threads], standalone_mode=False)
main(["generate", "./run", "--out", "new", "--prior", "new", "--seconds", "0.1", *threads], standalone_mode=False)
main(["verify", "./run"], standalone_mode=False)
"""


def test_nothing_needs_what_only_unix_has(tmp_path: Path) -> None:
    shutil.copytree(TOP / "tests" / "old_runs" / "drums", tmp_path / "run")
    search = os.pathsep.join([str(TOP), str(TOP / "cli"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", "-W", "error::EncodingWarning:actseq", "-c", PROGRAM],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": search},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "generate" in done.stdout
    [made] = (tmp_path / "new").glob("*.wav")
    assert soundfile.info(str(made)).frames == 800
    assert len(list((tmp_path / "kit").rglob("*.wav"))) == 10
