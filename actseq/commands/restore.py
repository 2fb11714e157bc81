"""`restore`: take noise and other damage away from sounds, with a run that was trained to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from actseq import audio, build, registry, units
from actseq.arrays import Waveform
from actseq.audio.gaps import RULE
from actseq.commands.common import AUTO, Compute, Result
from actseq.commands.reconstruct import Way, inputs, pass_through
from actseq.config import Config
from actseq.errors import ConfigError
from actseq.evaluation.damages import without_help
from actseq.inference.filling import FillingStream, Gap
from actseq.inference.loaded_run import LoadedRun
from actseq.inference.loading import require_generative, stage_config
from actseq.inference.redo import part_in_samples, require_suffix
from actseq.inference.request import require_part
from actseq.priors.base import TakesSuffix
from actseq.progress import Reporter
from actseq.storage.run_folder import RunFolder

SHOWN_GAPS = 12
"""Most gaps of a file that are listed; the JSON beside it has all."""


@dataclass(frozen=True)
class GapFilling:
    """How gaps are filled by a generative run.

    Attributes:
        run: the generative run.
        prior: name of its prior; None: its usual one.
        gaps: where gaps are, in seconds, an end of None being that of the file; empty: they are looked for.
        temperature: 0 fills a gap with the likeliest sound near what lies beside it, 1 with a draw.
        seed: seed of what the prior draws; nothing depends on it at temperature 0.

    Raises:
        ConfigError: a gap does not begin at 0 or later, and before it ends.
    """

    run: str | Path
    prior: str | None = None
    gaps: tuple[tuple[float, float | None], ...] = ()
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for gap in self.gaps:
            require_part("--gap", gap)


def restore(
    run: str | Path,
    paths: Sequence[Path],
    *,
    out: Path,
    filling: GapFilling | None = None,
    overwrite: bool = False,
    overrides: Iterable[str] = (),
    compute: Compute = AUTO,
) -> Result:
    """Take damage away from files or folders: `reconstruct`, for runs that were trained to restore.

    Kinds of damage that the run made no smaller on validation clips are named.

    The peak of each file, noise included, is brought to the level of the corpus; the result is brought back.

    Args:
        paths: files or folders.
        out: folder for the results; names relative to a given folder are kept.
        filling: how gaps are filled after that; None: with what the network makes of them.
        overwrite: as `reconstruct`.

    Raises:
        ConfigError: the run was not trained with a corruption of its waveforms; or the other run has another sample
            rate, or no prior that takes a suffix; or a gap is not inside its file, or there are several files.
        AudioError: as `reconstruct`.
    """
    opened = RunFolder.open(run)
    config = stage_config(opened, (), "generate")
    if not restores(config):
        raise ConfigError(
            f"run {opened.name} was not trained to take anything away from a sound",
            "a run with train_ae.corruption, as preset restore has",
            f"use actseq reconstruct {opened.argument} PATH… --out DIR, or train one with --preset restore",
        )
    mend = None if filling is None else _mender(opened, config.corpus.sample_rate, paths, filling, compute)
    for line in without_help(opened.trained_autoencoder.meta.get("restoration", {})):
        compute.reporter.warn(f"run {opened.name} does not help against {line}")
    way = Way(mend=mend)
    return pass_through(opened, paths, way, out=out, overwrite=overwrite, overrides=overrides, compute=compute)


def restores(config: Config) -> bool:
    """Whether the autoencoder learns to make clean sounds from corrupted ones."""
    corruption = build.build_corruption(config)
    return corruption is not None and not corruption.works_on_grains


# -- gaps --------------------------------------------------------------------------------------------------------------


@dataclass
class Filled:
    """The gaps of one recording being filled.

    Attributes:
        stream: fills them.
        about: what the JSON beside the file says of it.
    """

    stream: FillingStream
    about: Result

    def push(self, waveform: Waveform) -> Waveform:
        """Take more samples; return those that are now final."""
        return self.stream.push(waveform)

    def finish(self) -> Waveform:
        """Return the rest."""
        return self.stream.finish()


def _mender(
    restoring: RunFolder, rate: int, paths: Sequence[Path], filling: GapFilling, compute: Compute
) -> Callable[[audio.Recording], Filled]:
    """What fills the gaps of one recording after another.

    Args:
        restoring: the run that restores.
        rate: its sample rate in Hz.
        paths: what is to be restored.
        filling: how gaps are filled.
        compute: where.

    Raises:
        ConfigError: as `restore`.
    """
    opened = RunFolder.open(filling.run)
    require_generative(opened)
    own = stage_config(opened, (), "generate").corpus.sample_rate
    if own != rate:
        raise ConfigError(
            f"run {opened.name} makes sound at {own} Hz, and run {restoring.name} restores it at {rate} Hz",
            "two runs of one sample rate",
            f"train one with --set corpus.sample_rate={rate}",
        )
    if filling.gaps and sum(len(inputs(path)) for path in paths) > 1:
        raise ConfigError("--gap with several files", "the times of one file", "restore the files one by one")
    loaded = LoadedRun.open(opened, prior=filling.prior, device=compute.device, need_prior=True)
    _require_suffix(loaded)

    def mend(recording: audio.Recording) -> Filled:
        parts = _parts(recording, filling, compute.reporter)
        stream = loaded.filling_stream(parts, recording.samples, filling.temperature, filling.seed)
        for line in _lines(recording, stream.gaps, loaded):
            compute.reporter.say(line)
        seconds = [[at / rate for at in (gap.begin, gap.end, *gap.regenerated)] for gap in stream.gaps]
        made_by = {"run": opened.name, "prior": loaded.prior_name, "fingerprints": loaded.fingerprints}
        gaps = [{"gap_seconds": one[:2], "regenerated_seconds": one[2:]} for one in seconds]
        draws = {"temperature": filling.temperature, "seed": filling.seed}
        return Filled(stream, {"gaps": gaps, "gaps_filled_by": made_by | draws})

    return mend


def _require_suffix(loaded: LoadedRun) -> None:
    """As `require_suffix`; the priors of the run that take a suffix are named, if there are any."""
    assert loaded.prior is not None
    if isinstance(loaded.prior.prior, TakesSuffix):
        return
    kinds = registry.prior_kinds("takes_suffix")
    priors = loaded.run.priors
    able = [name for name in priors.names if _kind(priors.read(name).meta) in kinds]
    if able:
        raise ConfigError(
            f"prior {loaded.prior_name} of run {loaded.run.name} cannot fill a gap: it knows nothing of what follows",
            f"one of its priors that do: {', '.join(able)}",
            f"name it: --prior {able[0]}",
        )
    require_suffix(loaded.prior.prior, f"{loaded.prior_name} of run {loaded.run.name}", loaded.run.argument)


def _kind(meta: Result) -> str:
    """The kind of a prior's network, from its description."""
    return str(meta["config"]["prior"]["network"]["kind"])


def _parts(recording: audio.Recording, filling: GapFilling, reporter: Reporter) -> list[tuple[int, int]]:
    """Where the gaps of a recording are, in its samples; says so if none are found."""
    rate, own_rate = recording.sample_rate, recording.own_rate
    if filling.gaps:
        return [part_in_samples("--gap", gap, recording.samples, rate) for gap in filling.gaps]
    # They are looked for in the file as it is: after a change of its rate, silence rings at its ends.
    found = list(audio.find_gaps(audio.Reading(recording.path), own_rate, recording.peak))
    if not found:
        reporter.say(f"{recording.path.name}: no gaps found ({RULE}); --gap FROM:TO names one")
    return [(begin * rate // own_rate, min(recording.samples, -(-end * rate // own_rate))) for begin, end in found]


def _lines(recording: audio.Recording, gaps: Sequence[Gap], loaded: LoadedRun) -> list[str]:
    """What is filled, for a person."""
    rate = loaded.sample_rate
    frame = units.samples_to_seconds(loaded.codec.samples_per_latent, rate)
    lines = []
    for gap in gaps[:SHOWN_GAPS]:
        begin, end, first, last = (units.samples_to_seconds(at, rate) for at in (gap.begin, gap.end, *gap.regenerated))
        count = gap.frames[1] - gap.frames[0]
        lines.append(
            f"{recording.path.name}: filling the gap from {begin:.4g} to {end:.4g} s with {count} latent frames of "
            f"{frame:.4g} s, {first:.4g} to {last:.4g} s, rounded outward"
        )
    if len(gaps) > SHOWN_GAPS:
        lines.append(f"{recording.path.name}: and {len(gaps) - SHOWN_GAPS} more gaps, listed in its JSON")
    return lines
