"""Commands of a user who may not read or write: one line with the path, and nothing that was there has changed.

Root may do everything, so the commands run in a copy of this process that has given up the rights of root. Python may
lie where only root can read: modules are imported, and a decoding worker is started, before.
"""

import hashlib
import importlib
import os
import pkgutil
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from actseq_cli.main import main

import actseq
from actseq import audio
from actseq.audio.decoding import Decoding
from actseq.audio.worker import end_all
from actseq.errors import AudioError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="users and permissions of POSIX")
OLD = Path(__file__).parents[1] / "old_runs"
NOBODY = 65_534
CPU = ("--device", "cpu", "--threads", "1")
LAZY = ("lightning_fabric", "scipy.signal", "scipy.stats", "matplotlib.backends.backend_agg", "filelock", "jinja2")


@pytest.fixture(scope="module")
def imported() -> None:
    """Everything that a command may import."""
    for module in pkgutil.walk_packages(actseq.__path__, "actseq."):
        if "__main__" not in module.name:
            importlib.import_module(module.name)
    for name in LAZY:
        importlib.import_module(name)


@pytest.fixture
def place(imported: None) -> Iterator[Path]:
    """A run and sounds in a folder that every user may enter; the folders of pytest are for one user alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        for part in ("drums", "sounds"):
            shutil.copytree(OLD / part, folder / part)
        (folder / "mine.yaml").write_text("train_ae: {steps: 3}\n")
        (folder / "labels.csv").write_text("file,label\n")
        (folder / "open").mkdir(mode=0o777)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        (folder / "open").chmod(0o777)
        yield folder
        for path in (folder, *folder.rglob("*")):
            with suppress(OSError):
                path.chmod(0o755)


def unprivileged(folder: Path, work: Callable[[], object]) -> tuple[int, str]:
    """Exit code of a work, and what it says, as a user who owns nothing in a folder, and works there."""
    said = Path(tempfile.mkstemp()[1])
    child = os.fork()
    if not child:
        code = 70
        try:
            log = os.open(said, os.O_WRONLY | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            os.chdir(folder)
            audio.load(next((folder / "sounds").rglob("*.wav")))
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            work()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(OSError):
                end_all()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    text = said.read_text(errors="replace")
    said.unlink()
    return code, text


def content(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "open" not in path.relative_to(folder).parts
    }


@pytest.mark.parametrize(
    ("closed", "command", "named"),
    [
        # What cannot be read.
        ("drums/config.yaml", "info drums", "drums/config.yaml"),
        ("drums/autoencoder", "info drums", "drums/autoencoder"),
        ("drums/autoencoder/model.json", "generate drums --out open/new", "autoencoder/model.json"),
        ("drums/autoencoder/model.safetensors", "generate drums --out open/new", "autoencoder/model.safetensors"),
        ("drums/priors/default/model.safetensors", "generate drums --out open/new", "default/model.safetensors"),
        ("drums/latents/manifest.jsonl", "generate drums --prior iid --out open/new", "latents/manifest.jsonl"),
        ("drums/latents/shard-00000.safetensors", "generate drums --prior iid --out open/new", "shard-00000"),
        ("drums", "generate drums --out open/new", "drums"),
        ("mine.yaml", "train-ae sounds --preset mine.yaml --run open/r", "mine.yaml"),
        ("labels.csv", "train-ae sounds --preset smoke --run open/r --set corpus.labels=labels.csv", "labels.csv"),
        # What cannot be written.
        (None, "generate drums --out new", "new"),
        (None, "generate drums --n 2 --out open/new --compile all.wav", "all.wav"),
        (None, "reconstruct drums sounds --out new", "new"),
        (None, "encode drums sounds --out new", "new"),
        (None, "extract-latents drums", "drums"),
        (None, "train-prior drums --name new --steps 2", "drums"),
        (None, "train-prior drums --name half --steps 2", "drums"),
        (None, "train-vocoder drums --steps 2", "drums"),
        (None, "train-ae sounds --preset smoke --run new --steps 2", "runs"),
        (None, "run sounds --preset smoke --run new", "runs"),
        (None, "plot drums", "drums"),
        (None, "drumkit kit", "kit"),
        (None, "pack drums --out new.zip", "new"),
    ],
)
def test_what_a_user_may_not_do_is_one_line_with_the_path(
    place: Path, closed: str | None, command: str, named: str
) -> None:
    before = content(place)
    if closed is not None:
        (place / closed).chmod(0)
    words = command.split()
    if words[0] in ("train-ae", "extract-latents", "train-prior", "train-vocoder", "generate", "reconstruct", "encode"):
        words += CPU
    code, said = unprivileged(place, lambda: main(words))
    assert code == 1, said
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, said
    assert named in lines[0], said
    assert "ermission" in lines[0] or "may not" in lines[0] or "not allowed" in lines[0], said
    assert "Traceback" not in said
    if closed is not None:
        (place / closed).chmod(0o755)
    assert content(place) == before


def test_a_sound_or_a_folder_that_may_not_be_read_is_named(place: Path) -> None:
    closed = sorted((place / "sounds").rglob("*.wav"))[3]
    closed.chmod(0)

    def decode() -> None:
        try:
            list(Decoding(closed))
        except AudioError as error:
            print(error)

    assert unprivileged(place, decode) == (0, "cannot be read: Permission denied\n")
    (place / "sounds").chmod(0)
    code, said = unprivileged(place, lambda: main(["train-ae", "sounds", "--preset", "smoke", "--run", "open/r"]))
    assert code == 2
    assert "Path 'sounds' is not readable" in said


def test_verify_names_what_it_may_not_read(place: Path) -> None:
    (place / "drums" / "corpus" / "shard-00000.safetensors").chmod(0)
    (place / "drums" / "autoencoder" / "model.safetensors").chmod(0)
    code, said = unprivileged(place, lambda: main(["verify", "drums"]))
    assert code == 1, said
    for name in ("corpus/shard-00000.safetensors", "autoencoder/model.safetensors"):
        assert name in said
    assert "Traceback" not in said
