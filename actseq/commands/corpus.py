"""Make the corpus of a run from a folder of sounds, unless it exists.

The folder is recognised by the names, sizes and times of its files, or else by their content: a run can move to another
disk together with its sounds.
"""

from __future__ import annotations

import shutil
from collections import Counter

from actseq import audio, units
from actseq.config import Config
from actseq.data.corpus import Corpus, build_corpus
from actseq.data.survey import little
from actseq.errors import ArtifactError
from actseq.progress import Reporter
from actseq.storage.artifacts import content_hash, read_json, write_json
from actseq.storage.processes import here
from actseq.storage.remote import delete_shards, place, remote_of
from actseq.storage.run_folder import RunFolder

RULES = 3
"""Number of the rules by which files become clips; an unfinished corpus of other rules is begun again."""


def make_corpus(
    run: RunFolder, sounds: audio.SoundFolder, config: Config, reporter: Reporter, store: str | None = None
) -> str:
    """Make the corpus of a run unless it exists; returns its fingerprint.

    Args:
        store: URL of the folder behind which the shards of the run lie, under the name of the run; None: in the run, or
            where those of an unfinished corpus lie.

    Raises:
        ArtifactError: the corpus was made from other files, or the place of the shards cannot be reached.
        AudioError: the folder has no usable sound.
        ConfigError: the shards of the corpus lie elsewhere.
    """
    processes = here()
    url = None if store is None else f"{store}/{run.name}/{run.corpus.name}"
    listing = content_hash(sounds.listing)
    marker = run.corpus / "corpus.json"
    if processes.share(marker.is_file()):
        meta = read_json(marker)
        if meta["listing"] != listing and not sounds.same_as(run.corpus / "scan.csv"):
            raise ArtifactError(
                f"{sounds.path} is not what run {run.name} was made from (files were added, removed or changed)",
                action="name another run with --run"
                + (", or take what actseq made with --include-generated" if sounds.found.n_made else ""),
            )
        reporter.say(f"corpus: already made ({run.corpus})")
        if processes.first:
            place(run.corpus, url)
            run.seal(run.corpus)
        return str(meta["fingerprint"])
    plan = run.corpus / "plan.json"
    planned = {"listing": listing, "rules": RULES}
    if processes.first:
        if plan.is_file() and read_json(plan) != planned:
            delete_shards(run.corpus)
            shutil.rmtree(run.corpus)
        # Written first: the folder is recognised as a run even if the process is killed right after.
        run.write_config(config, str(sounds.path), None)
        write_json(plan, planned)
        place(run.corpus, url)
        if (remote := remote_of(run.corpus)) is not None:
            reporter.say(f"corpus: its shards go to {remote.url}")
    scan = build_corpus(sounds, run.corpus, config.corpus, config.seed, reporter)
    if not processes.first:
        return processes.share("")
    _report_scan(scan, config.corpus.sample_rate, reporter)
    for names, what in zip(
        sounds.unmatched, ("rows that name no file", "files without a row, labelled by their folder"), strict=True
    ):
        if names:
            reporter.warn(
                f"{sounds.labels_csv}: {len(names)} {what} ({', '.join(names[:4])}{', …' if len(names) > 4 else ''})"
            )
    if sounds.found.n_made or sounds.found.n_runs:
        words = audio.left_out(sounds.found.n_made, sounds.found.n_runs)
        reporter.say(f"{words} (--include-generated takes what is in these too)")
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
    run.seal(run.corpus)
    shifted = len({record.extra["source"] for record in corpus.store.records if record.extra["offset"]})
    if shifted:
        reporter.say(f"a constant offset was removed: {shifted} files")
    summary = corpus.summary()
    reporter.say(
        "corpus: "
        + ", ".join(f"{summary.get(split, 0)} {split}" for split in ("train", "validation", "test"))
        + " clips"
    )
    shares = {"validation": config.corpus.validation, "test": config.corpus.test}
    missing = [split for split, share in shares.items() if share and not summary.get(split)]
    if chosen := [f"corpus.{split} is 0" for split, share in shares.items() if not share]:
        reporter.say(f"{' and '.join(chosen)}: nothing is held out there, and memorisation will not be noticed")
    if words := little(scan.seconds, len(scan.usable)):
        reporter.warn(words)
    if missing:
        reporter.warn(f"too few clips to hold any out for {' and '.join(missing)}: memorisation will not be noticed")
    return processes.share(found)


def _report_scan(scan: audio.Scan, sample_rate: int, reporter: Reporter) -> None:
    """Report a scan: counts, changes that decoding will make, and the files that were left out."""
    reporter.say(f"found   {len(scan.rows):6} files")
    reporter.say(f"usable  {len(scan.usable):6} files  {units.duration(scan.seconds)}")
    reporter.say(f"skipped {len(scan.skipped):6} files")
    rates = Counter(row.sample_rate for row in scan.usable if row.sample_rate != sample_rate)
    if rates:
        changed = ", ".join(f"{n} from {rate} Hz" for rate, n in rates.most_common(6)) + (
            ", …" if len(rates) > 6 else ""
        )
        reporter.say(f"resampled to {sample_rate} Hz: {changed}")
    copies = len(scan.usable) - len({row.sha256 for row in scan.usable})
    if copies:
        reporter.say(f"{copies} files are copies of others: copies are in the same split")
    unusual = [row for row in scan.usable if row.reason]
    if unusual:
        reporter.say(f"used, but unusual: {len(unusual)} files")
        _list_files(unusual, reporter)
    mixed = sum(row.channels > 1 for row in scan.usable)
    if mixed:
        reporter.say(f"mixed to mono: {mixed} files")
    _list_files(list(scan.skipped), reporter)
    if len(scan.skipped) > 0.01 * len(scan.rows):
        reporter.warn(
            f"{len(scan.skipped) / len(scan.rows):.1%} of the files were skipped; scan.csv gives every reason"
        )


def _list_files(rows: list[audio.ScanRow], reporter: Reporter) -> None:
    """Name up to 20 files, each with the reason; the others are in the table."""
    width = max((len(row.path) for row in rows[:20]), default=0)
    for row in rows[:20]:
        reporter.say(f"  {row.path:{width}}  {row.reason}")
    if len(rows) > 20:
        reporter.say(f"  … and {len(rows) - 20} more, all in scan.csv")
