"""A folder of sounds → the corpus of a run, or the finding that it is made.

A folder is known again by the names, sizes and times of its files, and where those have changed by their content: a run
moves with its sounds to another disk.
"""

from __future__ import annotations

import csv
import hashlib
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from actseq import audio
from actseq.config import Config
from actseq.data.corpus import Corpus, build_corpus
from actseq.errors import ArtifactError
from actseq.progress import Reporter
from actseq.storage.artifacts import content_hash, read_json, write_json
from actseq.storage.run_folder import RunFolder


def labels_of(folder: Path, labels: Path | None) -> set[str]:
    """Labels of the files in a folder, whether or not they turn out to be sound."""
    given = audio.read_labels(labels) if labels else {}
    names = (path.relative_to(folder).as_posix() for path in audio.find(folder))
    return {given.get(name, audio.label_of(name)) for name in names}


def listing_of(folder: Path, labels: Path | None) -> str:
    """Hash of what lies in a folder, without reading the sound: names, sizes, times; and of the table of labels."""
    rows: list[Any] = [_digest(labels) if labels else None]
    for path in audio.find(folder):
        # A link that leads nowhere is found too; the scan will say so.
        stat = path.stat() if path.exists() else path.lstat()
        rows.append([str(path.relative_to(folder)), stat.st_size, stat.st_mtime_ns])
    return content_hash(rows)


def _digest(path: Path) -> str:
    """Hash of a file's bytes; empty where it cannot be read, as in a scan."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _same_content(folder: Path, labels: Path | None, scan_csv: Path) -> bool:
    """Whether a folder holds the very files that a scan saw: copies and touched files do, whatever their dates."""
    given = audio.read_labels(labels) if labels else {}
    with scan_csv.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    seen = {row["path"]: row["sha256"] for row in rows}
    if labels and any(given.get(row["path"], row["label"]) != row["label"] for row in rows):
        return False
    found = {path.relative_to(folder).as_posix(): path for path in audio.find(folder)}
    return found.keys() == seen.keys() and all(_digest(path) == seen[name] for name, path in found.items())


def make_corpus(run: RunFolder, folder: Path, listing: str, config: Config, reporter: Reporter) -> str:
    """Make the corpus, or see that it is made; its fingerprint."""
    marker = run.corpus / "corpus.json"
    if marker.is_file():
        meta = read_json(marker)
        if meta["listing"] != listing and not _same_content(folder, config.corpus.labels, run.corpus / "scan.csv"):
            raise ArtifactError(
                f"{folder} is not what run {run.name} was made from (files were added, removed or changed)",
                action="name another run with --run",
            )
        reporter.say(f"corpus: already made ({run.corpus})")
        return str(meta["fingerprint"])
    plan = run.corpus / "plan.json"
    if plan.is_file() and read_json(plan)["listing"] != listing:
        shutil.rmtree(run.corpus)
    # First of all, so that a run killed at any time after is known as one.
    run.write_config(config, str(folder), None)
    write_json(plan, {"listing": listing})
    scan = build_corpus(folder, run.corpus, config.corpus, config.seed, reporter)
    _tell_scan(scan, config.corpus.sample_rate, reporter)
    corpus = Corpus(run.corpus, config.corpus.level_dbfs)
    found = corpus.store.fingerprint()
    write_json(
        marker,
        {
            "listing": listing,
            "fingerprint": found,
            "source": str(folder),
            "clips": corpus.summary(),
            "found": len(scan.rows),
            "skipped": len(scan.skipped),
        },
    )
    run.write_config(config, str(folder), found)
    shifted = len({record.extra["source"] for record in corpus.store.records if record.extra["offset"]})
    if shifted:
        reporter.say(f"freed of a constant offset: {shifted} files")
    summary = corpus.summary()
    reporter.say(
        "corpus: "
        + ", ".join(f"{summary.get(split, 0)} {split}" for split in ("train", "validation", "test"))
        + " clips"
    )
    missing = [split for split in ("validation", "test") if not summary.get(split)]
    if missing:
        reporter.warn(
            f"too few clips to hold any out for {' and '.join(missing)}: nothing will tell when the model only memorises"
        )
    return found


def _tell_scan(scan: audio.Scan, sample_rate: int, reporter: Reporter) -> None:
    """The scan report: counts, what will be changed in decoding, and one line for each file that was left out."""
    reporter.say(f"found   {len(scan.rows):6} files")
    reporter.say(f"usable  {len(scan.usable):6} files  {scan.seconds / 60:.1f} minutes")
    reporter.say(f"skipped {len(scan.skipped):6} files")
    rates = Counter(row.sample_rate for row in scan.usable if row.sample_rate != sample_rate)
    if rates:
        told = ", ".join(f"{n} from {rate} Hz" for rate, n in rates.most_common(6)) + (", …" if len(rates) > 6 else "")
        reporter.say(f"resampled to {sample_rate} Hz: {told}")
    mixed = sum(row.channels > 1 for row in scan.usable)
    if mixed:
        reporter.say(f"mixed to mono: {mixed} files")
    width = max((len(row.path) for row in scan.skipped[:20]), default=0)
    for row in scan.skipped[:20]:
        reporter.say(f"  {row.path:{width}}  {row.reason}")
    if len(scan.skipped) > 20:
        reporter.say(f"  … and {len(scan.skipped) - 20} more, all in scan.csv")
    if len(scan.skipped) > 0.01 * len(scan.rows):
        reporter.warn(
            f"{len(scan.skipped) / len(scan.rows):.1%} of the files were skipped; scan.csv gives every reason"
        )
