"""Compressed activations beside Ogg Opus: `python tests/benchmarks/compress.py RUN [RUN …]`.

For clips of the test split: the KL divergence of their posteriors, the size of their `.acts` files without and with
headers, in kbit/s, and log-mel L1 in dB from the posteriors' means, from the rounded means and from a draw. Corpora of
speech, that is where PESQ has a score, get it too.

Two lines are Opus with its container, as libsndfile writes it: at its lowest setting, and at the lowest one whose
log-mel L1 (with `--speech` PESQ) is at least as good as that of the rounded means. Each clip is a file of its own, with
the header of its format.
"""

import argparse
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile
import soxr

from actseq import load_run, units
from actseq.arrays import Waveform
from actseq.data.corpus import Corpus
from actseq.data.excerpts import spread
from actseq.evaluation import metrics
from actseq.inference.activations import decode_activations, encode_sound
from actseq.inference.codec import Codec
from actseq.inference.compression import HEADER, compress, decompress, run_tables
from actseq.inference.loaded_run import LoadedRun
from actseq.modules.gaussian import kl_nats
from actseq.storage.activations import Activations

OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
"""Sample rates of Opus in Hz."""
LEVELS = (1.0, 0.99, 0.98, 0.97, 0.96, 0.95, 0.94, 0.92, 0.9, 0.87, 0.84, 0.8, 0.75, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.0)
"""Compression levels of libsndfile, the smallest files first."""


@dataclass(frozen=True)
class Coded:
    """A clip through a code.

    Attributes:
        sound: what comes back, (samples,).
        bits: size without header.
        header: size of the header in bits; 0 where both cannot be told apart.
    """

    sound: Waveform
    bits: float
    header: float = 0.0


class Measured:
    """Clips through a code: their size, and how near they are to the original."""

    def __init__(self, originals: list[Waveform], coded: list[Coded], rate: int, speech: bool) -> None:
        seconds = sum(units.samples_to_seconds(len(clip), rate) for clip in originals)
        pairs = [(clip, each.sound) for clip, each in zip(originals, coded, strict=True)]
        self.kbit = sum(each.bits for each in coded) / seconds / 1000
        self.whole = self.kbit + sum(each.header for each in coded) / seconds / 1000
        self.error = float(np.mean([metrics.mel_l1_db(clip, made, rate) for clip, made in pairs]))
        found = [metrics.pesq_mos(clip, made, rate, wide=rate >= 16000) for clip, made in pairs] if speech else []
        scores = [score for score in found if score is not None]
        self.pesq = float(np.mean(scores)) if scores else None

    def line(self, name: str) -> str:
        """A row of the table."""
        score = "" if self.pesq is None else f"  PESQ {self.pesq:.2f}"
        whole = f", with header {self.whole:6.2f}" if self.whole > self.kbit else ""
        return f"  {name:16} {self.kbit:6.2f} kbit/s{whole}  log-mel {self.error:.2f} dB{score}"

    def as_good_as(self, other: "Measured") -> bool:
        """By PESQ where there is one, else by log-mel."""
        if self.pesq is not None and other.pesq is not None:
            return self.pesq >= other.pesq
        return self.error <= other.error


def ours(run: LoadedRun, originals: list[Waveform]) -> dict[str, list[Coded]]:
    """Clips from the posteriors' means, from a draw, and from their `.acts` files."""
    codec, fingerprint, tables = run.codec, run.run.trained_autoencoder.fingerprint, run_tables(run.run, make=True)
    found: dict[str, list[Coded]] = {"means": [], "drawn": [], "rounded": []}
    rng = np.random.default_rng(0)
    with TemporaryDirectory() as folder:
        for clip in originals:
            made = encode_sound(codec, fingerprint, [clip], len(clip), float(np.abs(clip).max()))
            assert made.log_variance is not None
            bits = float(kl_nats(made.mean, made.log_variance).sum()) / np.log(2)
            noise = rng.standard_normal(made.mean.shape, np.float32)
            found["means"].append(Coded(decoded(made, codec), bits))
            drawn = replace(made, mean=made.mean + np.exp(0.5 * made.log_variance) * noise)
            found["drawn"].append(Coded(decoded(drawn, codec), bits))
            path = Path(folder) / "clip.acts"
            path.write_bytes(compress(made, tables))
            size, rounded = path.stat().st_size, decompress(path, codec, fingerprint, tables)
            found["rounded"].append(Coded(decoded(rounded, codec), 8 * (size - HEADER.size), 8 * HEADER.size))
    return found


def decoded(activations: Activations, codec: Codec) -> Waveform:
    """The sound of some activations, (samples,)."""
    return np.concatenate(list(decode_activations(activations, codec)))


def opus(clip: Waveform, rate: int, level: float) -> Coded:
    """A clip through Ogg Opus at a compression level of libsndfile, from 0 to 1."""
    own = next((each for each in OPUS_RATES if each >= rate), OPUS_RATES[-1])
    content = io.BytesIO()
    given = soxr.resample(clip, rate, own) if own != rate else clip
    soundfile.write(content, given, own, format="OGG", subtype="OPUS", compression_level=level)
    size = len(content.getvalue())
    content.seek(0)
    made, coded_at = soundfile.read(content, dtype="float32")
    made = soxr.resample(made, coded_at, rate) if coded_at != rate else made
    return Coded(np.pad(made[: len(clip)], (0, max(0, len(clip) - len(made)))), 8.0 * size)


def beside(
    originals: list[Waveform], rate: int, speech: bool, wanted: Measured, write: Callable[[str], None] = print
) -> None:
    """Lines for Opus: its lowest setting, and the first one that is as good as what is wanted."""
    for level in LEVELS:
        found = Measured(originals, [opus(clip, rate, level) for clip in originals], rate, speech)
        if level == LEVELS[0]:
            write(found.line("Opus, lowest"))
        if found.as_good_as(wanted):
            write(found.line(f"Opus, level {level}"))
            return
    write("  Opus does not get as near at any level")


def main(words: Sequence[str] | None = None) -> None:
    """Print a table for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--clips", type=int, default=30, help="most clips")
    parser.add_argument("--speech", action="store_true", help="measure PESQ too, and compare Opus by it")
    given = parser.parse_args(words)
    for name in given.runs:
        run = load_run(name, device="cpu")
        corpus, rate = Corpus(run.run.corpus, run.config.corpus.level_dbfs), run.config.corpus.sample_rate
        originals = [corpus.waveform(index) for index in spread(corpus.indices("test"), given.clips)]
        print(f"{name}: {len(originals)} test clips; the KL divergence is the size of means and draws")
        made = {way: Measured(originals, coded, rate, given.speech) for way, coded in ours(run, originals).items()}
        for way, measured in made.items():
            print(measured.line(way))
        beside(originals, rate, given.speech, made["rounded"])


if __name__ == "__main__":
    main()
