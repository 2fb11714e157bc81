"""Pictures of a run on some of its clips: its latents, its output, its error and its trainings.

Next to every picture is a table of the same name with the values that are drawn.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from actseq import units
from actseq.data.corpus import Corpus
from actseq.errors import ArtifactError
from actseq.inference.codec import Codec
from actseq.modules.gaussian import ACTIVE_NATS
from actseq.plots import latent_charts, latent_statistics, sound_charts
from actseq.plots import spectra as bands
from actseq.plots.latent_statistics import LatentValues
from actseq.plots.observation import choose_excerpts, observe
from actseq.plots.training_curves import NothingThere, Steps, read_metrics, training_curves
from actseq.progress import Reporter
from actseq.storage.run_folder import RunFolder
from actseq.storage.store import write_file, write_table

MAP_FRAMES = 3000

Table = Mapping[str, Sequence[Any] | NDArray[Any]]
"""Columns by name."""


@dataclass(frozen=True)
class Selection:
    """Which clips to draw.

    Attributes:
        split: `test` or `validation`; if it is empty, the other one, and then training clips.
        targets: labels that the run learns; None: all labels.
        n: number of clips; None: up to 200 clips, one minute in all.
        seed: seed of the choice of clips and frames, and of the draws from posteriors.
    """

    split: str = "test"
    targets: Collection[str] | None = None
    n: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Diagnostics:
    """Results.

    Attributes:
        figures: metrics: `codes` (of the latents; None where there are none), `octaves`, and the clips that were used.
        pictures: files, each with a table of the same name next to it.
        notes: what was left out or differs from the request, and why.
    """

    figures: dict[str, Any]
    pictures: list[Path]
    notes: list[str]


def write_diagnostics(
    run: RunFolder, codec: Codec, corpus: Corpus, folder: Path, selection: Selection, reporter: Reporter
) -> Diagnostics:
    """Draw all pictures of a run.

    Args:
        run: the run, whose training curves are drawn.
        codec: codec of the run.
        corpus: corpus of the run.
        folder: folder of the pictures and their tables.
        selection: which clips to draw.
        reporter: receives the progress.

    Raises:
        ArtifactError: there is no clip to draw.
    """
    notes: list[str] = []
    split, targets = selection.split, selection.targets
    used = next((name for name in (split, "test", "validation") if corpus.indices(name, targets)), "train")
    shown_as = "training" if used == "train" else used
    if used != split:
        why = "nothing was held out" if used == "train" else f"nothing is in the {split} split"
        notes.append(
            f"{why}: these are {shown_as} clips" + (", which the model was trained on" if used == "train" else "")
        )
    rate = codec.sample_rate
    chosen = choose_excerpts(corpus, used, targets, rate, selection.n, selection.seed)
    if not chosen:
        raise ArtifactError(f"run {run.name} has no clip with any sound to draw", action="train on other files")
    seconds = units.samples_to_seconds(sum(excerpt.samples for excerpt in chosen), rate)
    whole = corpus.indices(used, targets)
    cut = sum(excerpt.samples < corpus.store.records[excerpt.index].length for excerpt in chosen)
    if targets is not None:
        notes.append(f"only clips of the labels that this run learns: {', '.join(targets)}")
    if len(chosen) < len(whole):
        notes.append(f"{len(chosen)} of {len(whole)} clips, drawn at random")
    if cut:
        notes.append(f"{cut} clips were cut to {max(e.samples for e in chosen) / rate:.3g} s, from a random position")
    observed = observe(codec, corpus, chosen, selection.seed, reporter)
    about = f"{run.name}, {len(chosen)} {shown_as} clip{'s' * (len(chosen) > 1)}"
    sheet = _Folder(folder, about)
    for title, model in _trainings(run).items():
        if (model / "metrics.csv").is_file():
            training_curves(sheet.picture(f"losses-{title}"), model / "metrics.csv", title=f"{run.name}: {title}")
            write_file(folder / f"losses-{title}.csv", (model / "metrics.csv").read_bytes())
        else:
            notes.append(f"{title} was fitted, not trained: it has no losses")
    names = [str(corpus.store.records[excerpt.index].key) for excerpt in chosen]
    labels = [excerpt.label for excerpt in chosen]
    found = None
    if observed.codes is None:
        notes.append(
            "pictures of latents are left out: this network has skip connections, so its latents do not hold the "
            "sound; its input were uncorrupted clips"
        )
    else:
        found = _draw_codes(sheet, observed.codes, observed.clip, names, labels)
    _draw_frames(sheet, observed.frames, codec)
    octaves = _draw_spectra(sheet, observed.spectra, rate)
    figures = {
        "split": used,
        "clips": len(chosen),
        "clips_in_split": len(whole),
        "seconds": seconds,
        "codes": found,
        "octaves": octaves,
    }
    return Diagnostics(figures, sheet.pictures, notes)


def write_losses(run: RunFolder, folder: Path, steps: Steps) -> list[Path]:
    """Draw a part of the trainings of a run, each with a table; the pictures.

    Args:
        run: the run.
        folder: folder of the pictures and their tables.
        steps: what is drawn of each training.

    Raises:
        ArtifactError: no training has values there, nothing was trained, or the losses of a training are damaged.
    """
    sheet = _Folder(folder, run.name)
    missing = None
    for title, model in _logged(run).items():
        try:
            curves = read_metrics(model / "metrics.csv", steps)
        except NothingThere as error:
            missing = error
            continue
        name, about = _losses(title, steps), f"{run.name}: {title}, steps {steps[0]} to {steps[1]}"
        training_curves(sheet.picture(name), model / "metrics.csv", title=about, steps=steps)
        at = sorted({step for points in curves.values() for step, _ in points})
        values = {column: dict(points) for column, points in curves.items()}
        cells = {column: [found.get(step, "") for step in at] for column, found in values.items()}
        sheet.table(name, {"step": [int(step) for step in at], **cells})
    if not sheet.pictures:
        raise missing or ArtifactError(f"run {run.name} has no losses", action="train first: actseq train-ae")
    return sheet.pictures


def _losses(title: str, steps: Steps | None) -> str:
    return f"losses-{title}" if steps is None else f"losses-{title}-{steps[0]}-{steps[1]}"


def _logged(run: RunFolder) -> dict[str, Path]:
    return {title: model for title, model in _trainings(run).items() if (model / "metrics.csv").is_file()}


PICTURES = (
    "code-distributions", "code-quantiles", "code-correlations", "code-dimensions", "code-kl", "latent-map", "frames",
    "spectrum", "octaves",
)  # fmt: skip


def picture_names(run: RunFolder, steps: Steps | None = None) -> list[str]:
    """Names, without ending, of all pictures and tables that may be drawn of a run; of the losses alone with steps."""
    return [*(_losses(title, steps) for title in _trainings(run)), *(PICTURES if steps is None else ())]


class _Folder:
    """Where pictures are written, and what all of them have in common."""

    def __init__(self, path: Path, about: str) -> None:
        self.path, self.about = path, about
        self.pictures: list[Path] = []

    def picture(self, name: str) -> Path:
        assert name in PICTURES or name.startswith("losses-")
        self.pictures.append(self.path / f"{name}.png")
        return self.pictures[-1]

    def table(self, name: str, columns: Table) -> None:
        write_table(self.path / f"{name}.csv", columns)


def _trainings(run: RunFolder) -> dict[str, Path]:
    return (
        {"autoencoder": run.autoencoder}
        | {f"prior-{name}": run.priors.path / name for name in run.priors.names}
        | {f"vocoder-{name}": run.vocoders.path / name for name in run.vocoders.names}
    )


def _draw_codes(
    sheet: _Folder, found: LatentValues, clip: NDArray[np.int64], names: list[str], labels: list[str]
) -> dict[str, Any]:
    standardised = found.standardised()
    frames, dims = standardised.shape
    prior = None if found.deviation is None else f"N(0, {found.deviation**2:g})"
    about = f"{sheet.about}, {frames} latent frames"

    distances = latent_statistics.kolmogorov_smirnov(standardised)
    histogram = latent_statistics.histogram(standardised)
    latent_charts.distributions(sheet.picture("code-distributions"), histogram, distances, prior, about)
    bins = len(histogram.prior)
    sheet.table(
        "code-distributions",
        {
            "dimension": np.repeat(np.arange(dims), bins),
            "low": np.tile(histogram.edges[:-1], dims),
            "high": np.tile(histogram.edges[1:], dims),
            "density": histogram.density.T.ravel(),
            "prior": np.tile(histogram.prior, dims),
        },
    )
    probabilities, expected, quantiles = latent_statistics.quantiles(standardised)
    latent_charts.quantiles(sheet.picture("code-quantiles"), expected, quantiles, distances, prior, about)
    sheet.table(
        "code-quantiles",
        {
            "dimension": np.repeat(np.arange(dims), len(expected)),
            "probability": np.tile(probabilities, dims),
            "prior": np.tile(expected, dims),
            "codes": quantiles.T.ravel(),
        },
    )
    correlation = latent_statistics.correlations(found.drawn)
    latent_charts.correlations(sheet.picture("code-correlations"), correlation, about)
    sheet.table(
        "code-correlations",
        {"dimension": np.arange(dims)} | {str(k): column for k, column in enumerate(correlation.T)},
    )
    largest, relative = latent_statistics.nearest_relative(correlation)
    columns: dict[str, NDArray[Any]] = {
        "dimension": np.arange(dims),
        "mean": found.drawn.mean(0, dtype=np.float64),
        "deviation": found.drawn.std(0, dtype=np.float64),
    }
    nats = latent_statistics.kl_nats(found)
    if nats is not None:
        columns["deviation_of_mean"] = found.mean.std(0, dtype=np.float64)
        columns["kl_nats"] = nats
    columns |= {"ks": distances, "largest_correlation": largest, "correlates_with": relative}
    latent_charts.dimensions(sheet.picture("code-dimensions"), columns, found.deviation, about)
    sheet.table("code-dimensions", columns)
    if nats is not None:
        order = np.argsort(-nats, kind="stable")
        latent_charts.kl(sheet.picture("code-kl"), nats[order], order, ACTIVE_NATS, about)
        sheet.table("code-kl", {"dimension": order, "kl_nats": nats[order], "active": (nats > ACTIVE_NATS)[order]})
    explained = _draw_map(sheet, found, clip, names, labels)
    one, other = int(largest.argmax()), int(relative[largest.argmax()])
    return {
        "frames": frames,
        "dims": dims,
        "prior": prior,
        "active_dims": None if nats is None else int((nats > ACTIVE_NATS).sum()),
        **{name: _spread(columns[name]) for name in SPREADS if name in columns},
        "correlated": [one, other],
        "explained_by_two": explained,
    }


SPREADS = {
    "ks": "distance from the prior (KS)",
    "deviation": "deviation",
    "deviation_of_mean": "deviation of the means",
    "largest_correlation": "largest correlation",
    "kl_nats": "KL, nats",
}
"""Metrics over all dimensions, and their names in a table."""


def _spread(values: NDArray[Any]) -> dict[str, Any]:
    return {
        "median": float(np.median(values)),
        "smallest": float(values.min()),
        "largest": float(values.max()),
        "largest_in": int(values.argmax()),
    }


def _draw_map(
    sheet: _Folder, found: LatentValues, clip: NDArray[np.int64], names: list[str], labels: list[str]
) -> dict[str, float]:
    """Frames, and clips as means over their frames, each projected onto their own first two principal components."""
    frames, shares = latent_statistics.principal(found.mean)
    means = np.stack([found.mean[clip == at].mean(0) for at in range(len(names))])
    clips, clip_shares = latent_statistics.principal(means)
    kept = np.unique(np.linspace(0, len(frames) - 1, MAP_FRAMES).round().astype(np.int64))
    frames, clip = frames[kept], clip[kept]
    latent_charts.latent_map(
        sheet.picture("latent-map"),
        {
            "frames": (frames, [labels[at] for at in clip], shares),
            "clips, each the mean of its frames": (clips, labels, clip_shares),
        },
        sheet.about,
    )
    everything = np.concatenate([frames, clips])
    owners = [*clip.tolist(), *range(len(names))]
    sheet.table(
        "latent-map",
        {
            "what": ["frame"] * len(frames) + ["clip"] * len(clips),
            "clip": [names[at] for at in owners],
            "label": [labels[at] for at in owners],
            "first": everything[:, 0],
            "second": everything[:, 1],
        },
    )
    return {"frames": float(shares.sum()), "clips": float(clip_shares.sum())}


def _draw_frames(sheet: _Folder, frames: list[sound_charts.Frame], codec: Codec) -> None:
    log_magnitude, rate = codec.representation.log_magnitude, codec.sample_rate
    if log_magnitude:
        frames = [replace(frame, features=frame.features * units.DB_PER_NEPER) for frame in frames]
    sound_charts.frames(sheet.picture("frames"), frames, rate, "dB" if log_magnitude else "value", sheet.about)
    rows: list[tuple[Any, ...]] = []
    for k, frame in enumerate(frames):
        at = (np.arange(frame.waveforms.shape[1]) - frame.waveforms.shape[1] // 2) / rate
        hertz, spectra = sound_charts.frame_spectra(frame, rate)
        parts = {
            "feature": (np.arange(frame.features.shape[1]), frame.features),
            "waveform": (at, frame.waveforms),
            "spectrum": (hertz, spectra),
        }
        for part, (x, (original, output)) in parts.items():
            rows += [(k, frame.name, frame.seconds, part, *row) for row in zip(x, original, output, strict=True)]
    heading = ("frame", "clip", "seconds", "part", "at", "original", "output")
    sheet.table("frames", dict(zip(heading, zip(*rows, strict=True), strict=True)))


def _draw_spectra(sheet: _Folder, spectra: Float[np.ndarray, "3 bins"], rate: int) -> list[dict[str, float]]:
    hertz = np.linspace(0.0, rate / 2, spectra.shape[1])
    levels = bands.decibels(spectra, spectra[0])
    sound_charts.spectra(sheet.picture("spectrum"), hertz, levels, sheet.about)
    names = ("original_db", "output_db", "error_db")
    sheet.table("spectrum", {"hz": hertz} | dict(zip(names, levels, strict=True)))
    octaves = bands.octaves(spectra, rate)
    by_band = bands.decibels(octaves.power, octaves.power[0])
    columns = {
        "centre_hz": octaves.centre,
        "low_hz": octaves.low,
        "high_hz": octaves.high,
        **dict(zip(names, by_band, strict=True)),
        "difference_db": by_band[1] - by_band[0],
        "error_to_original_db": by_band[2] - by_band[0],
    }
    sound_charts.octaves(sheet.picture("octaves"), columns, sheet.about)
    sheet.table("octaves", columns)
    kept = ("centre_hz", "original_db", "difference_db", "error_to_original_db")
    return [dict(zip(kept, map(float, row), strict=True)) for row in zip(*(columns[k] for k in kept), strict=True)]


def headline(figures: Mapping[str, Any]) -> str:
    """One line: run, clips and latents."""
    found = figures["codes"]
    split = "training" if figures["split"] == "train" else figures["split"]
    looked = (
        f"{figures['run']}, {figures['clips']} {split} clip{'s' * (figures['clips'] > 1)}, {figures['seconds']:.1f} s"
    )
    if found is None:
        return looked
    active = "" if found["active_dims"] is None else f", {found['active_dims']} dimensions in use"
    return f"{looked}, {found['frames']} latent frames of {found['dims']} dimensions{active}"


def tables(figures: Mapping[str, Any]) -> list[list[list[str]]]:
    """The metrics as tables of text, each with a heading."""
    made = []
    found = figures["codes"]
    if found is not None:
        rows = [[f"{found['dims']} latent dimensions", "median", "smallest", "largest", "largest in"]]
        for name, title in SPREADS.items():
            if name in found:
                cells = [f"{found[name][key]:.3g}" for key in ("median", "smallest", "largest")]
                rows.append([title, *cells, str(found[name]["largest_in"])])
        made.append(rows)
    octaves = figures["octaves"]
    made.append(
        [
            ["octave around, Hz", *(f"{row['centre_hz']:.4g}" for row in octaves)],
            ["level of original, dB", *(f"{row['original_db']:.1f}" for row in octaves)],
            ["output − original, dB", *(f"{row['difference_db']:+.1f}" for row in octaves)],
            ["error to original, dB", *(f"{row['error_to_original_db']:+.1f}" for row in octaves)],
        ]
    )
    return made
