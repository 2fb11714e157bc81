"""Ten thousand damaged files of a run: weights, shards, JSON, YAML and tables. Each is read, or refused with an error
of actseq, within two seconds of computing and 500 MB. Half of the trials take the lists of hashes away first, so that
what parses the files is tried too; with the lists, a flipped bit in weights or a shard must be noticed.
"""

import json
import os
import random
import shutil
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from common import CPU, Row, kit, must

from actseq import load_run
from actseq.commands.verify import verify
from actseq.errors import ActseqError
from actseq.storage.run_folder import RunFolder
from actseq.storage.store import SequenceStore

TRIALS = 10_000
SECONDS, MEGABYTES = 2.0, 500.0
VALUES = (
    None, True, -1, 0, 1, 3, 2**31, 2**63, 10**30, 1e308, float("nan"), float("inf"), "", "x", "../../etc/passwd",
    "/dev/zero", [], {}, [[]], [1, 2], {"a": 1}, "9" * 5000,
)  # fmt: skip
"""What a value in a JSON is replaced with."""


def _flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    at = rng.randrange(8 * len(content))
    changed[at // 8] ^= 1 << at % 8
    return bytes(changed)


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def _blank(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + bytes(rng.randrange(1, 64)) + content[at + 64 :]


def _junk(content: bytes, rng: random.Random) -> bytes:
    return rng.choice((b"[" * 100_000, b'{"a":' * 20_000, b"\x80\x04N.", b"PK\x03\x04", b"\xff" * 999, b"", b"null"))


def _length(content: bytes, rng: random.Random) -> bytes:
    """Another length of the header of a safetensors file."""
    return struct.pack("<Q", rng.choice((0, 2, 2**20, 2**31, 2**40, 2**63, 2**64 - 1))) + content[8:]


def _header(content: bytes, rng: random.Random) -> bytes:
    """A value in the header of a safetensors file is replaced."""
    (size,) = struct.unpack("<Q", content[:8])
    header = _value(content[8 : 8 + size], rng)
    return struct.pack("<Q", len(header)) + header + content[8 + size :]


def _value(content: bytes, rng: random.Random) -> bytes:
    """A value in a JSON is replaced, or goes."""
    value = json.loads(content)
    places = list(_places(value))
    if not places:
        return content
    holder, key = rng.choice(places)
    if rng.random() < 0.2:
        del holder[key]
    else:
        holder[key] = rng.choice(VALUES)
    return json.dumps(value).encode()


def _places(value: object) -> "list[tuple[dict[object, object] | list[object], object]]":
    pairs = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    return [(value, key) for key, _ in pairs] + [place for _, inner in pairs for place in _places(inner)]


def _line(content: bytes, rng: random.Random) -> bytes:
    """A value in one line of a manifest is replaced."""
    lines = content.splitlines()
    at = rng.randrange(len(lines))
    lines[at] = _value(lines[at], rng)
    return b"\n".join(lines) + b"\n"


ANY = (_flip, _cut, _blank, _junk)
OF = {".safetensors": (*ANY, _length, _header, _header), ".json": (*ANY, *[_value] * 8), ".jsonl": (*ANY, *[_line] * 6)}
"""Changes by the ending of the file."""


def _read(run: Path, part: str) -> None:
    """Read what a part of the run holds, as commands do."""
    if part in ("corpus", "latents"):
        store = SequenceStore(run / part)
        for i in range(len(store)):
            store.read(i, 0, 100)
    elif part in ("hashes.json", "config.yaml", "vocoders"):
        RunFolder.open(run).read_config()
        verify(run)
    else:
        load_run(run, prior="p", device="cpu")


def _memory(name: str) -> float:
    """A line of this process's status, in MB."""
    text = Path("/proc/self/status").read_text()
    return float(text.split(f"{name}:")[1].split()[0]) / 1024


def _outcome(run: Path, part: str) -> tuple[str, str]:
    """How reading a damaged part ends, and what was wrong with that."""
    Path("/proc/self/clear_refs").write_text("5")
    before, begun = _memory("VmRSS"), time.process_time()
    try:
        _read(run, part)
        outcome = "read"
    except ActseqError:
        outcome = "refused"
    except Exception as error:
        return "fault", f"{type(error).__name__}: {error}"
    seconds, above = time.process_time() - begun, _memory("VmHWM") - before
    if seconds > SECONDS or above > MEGABYTES:
        return "fault", f"{seconds:.1f} s, {above:.0f} MB"
    return outcome, ""


def _without_lists(run: Path) -> None:
    for path in run.rglob("hashes.json"):
        path.unlink()


def _damage(path: Path, rng: random.Random) -> tuple[bytes, Callable[[bytes, random.Random], bytes]]:
    content, change = path.read_bytes(), rng.choice(OF.get(path.suffix, ANY))
    damaged = change(content, rng)
    while damaged == content:
        change = _flip
        damaged = change(content, rng)
    return damaged, change


def trial() -> list[Row]:
    """All files of a run with two stages of weights and two stores."""
    rng, found, flips, faults = random.Random(0), Counter[str](), Counter[str](), []
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        kit(base / "sounds")
        must(base, "train-ae", "sounds", "--preset", "smoke", "--run", "r", "--steps", 2, *CPU)
        must(base, "extract-latents", "r", *CPU)
        must(base, "train-prior", "r", "--name", "p", "--steps", 2, *CPU)
        listed, plain = base / "runs" / "r", base / "runs" / "plain"
        shutil.copytree(listed, plain)
        _without_lists(plain)
        for i in range(TRIALS):
            run = (listed, plain)[i % 2]
            path = rng.choice(sorted(one for one in run.rglob("*") if one.is_file() and one.suffix in SUFFIXES))
            content = path.read_bytes()
            damaged, change = _damage(path, rng)
            # Another time and number, so that no shard passes for one that was checked.
            path.unlink()
            path.write_bytes(damaged)
            outcome, wrong = _outcome(run, path.relative_to(run).parts[0])
            found[outcome] += 1
            if change is _flip and path.suffix == ".safetensors" and "checkpoints" not in path.parts and run == listed:
                flips[outcome] += 1
            if wrong:
                faults.append(f"{path.relative_to(run)} {change.__name__}: {wrong}")
                (Path(tempfile.gettempdir()) / f"fault-{os.getpid()}-{len(faults)}").write_bytes(damaged)
            path.write_bytes(content)
    for fault in faults:
        print(fault)
    return [
        Row("damaged inputs: typed errors only", TRIALS, TRIALS - found["fault"], f"{found['refused']} refused"),
        Row("a flipped bit in weights or a shard is noticed", flips.total(), flips["refused"]),
    ]


SUFFIXES = (".json", ".jsonl", ".safetensors", ".yaml", ".csv")
"""Files that are damaged."""
