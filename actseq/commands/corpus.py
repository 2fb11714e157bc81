"""A folder of sounds → the corpus of a run, or the finding that it is made.

A folder is known again by the names, sizes and times of its files, and where those have changed by their content: a run
moves with its sounds to another disk.
"""

from __future__ import annotations

import shutil
from collections import Counter

from actseq import audio
from actseq.config import Config
from actseq.data.corpus import Corpus, build_corpus
from actseq.errors import ArtifactError
from actseq.progress import Reporter
from actseq.storage.artifacts import content_hash, read_json, write_json
from actseq.storage.run_folder import RunFolder


def make_corpus(run: RunFolder, sounds: audio.SoundFolder, config: Config, reporter: Reporter) -> str:
    """Make the corpus of a run, unless it is made already; its fingerprint.

    Raises:
        ArtifactError: it was made from other files.
        AudioError: the folder holds nothing usable.
    """
    listing = content_hash(sounds.listing)
    marker = run.corpus / "corpus.json"
    if marker.is_file():
        meta = read_json(marker)
        if meta["listing"] != listing and not sounds.same_as(run.corpus / "scan.csv"):
            raise ArtifactError(
                f"{sounds.path} is not what run {run.name} was made from (files were added, removed or changed)",
                action="name another run with --run",
            )
        reporter.say(f"corpus: already made ({run.corpus})")
        return str(meta["fingerprint"])
    plan = run.corpus / "plan.json"
    if plan.is_file() and read_json(plan)["listing"] != listing:
        shutil.rmtree(run.corpus)
    # First of all, so that a run killed at any time after is known as one.
    run.write_config(config, str(sounds.path), None)
    write_json(plan, {"listing": listing})
    scan = build_corpus(sounds, run.corpus, config.corpus, config.seed, reporter)
    _tell_scan(scan, config.corpus.sample_rate, reporter)
    corpus = Corpus(run.corpus, config.corpus.level_dbfs)
    found = corpus.store.fingerprint()
    write_json(
        marker,
        {
            "listing": listing,
            "fingerprint": found,
            "source": str(sounds.path),
            "clips": corpus.summary(),
            "found": len(scan.rows),
            "skipped": len(scan.skipped),
        },
    )
    run.write_config(config, str(sounds.path), found)
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
