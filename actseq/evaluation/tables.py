"""The metrics of an evaluation as tables of text, and the sentences that go with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Table = list[list[str]]
"""Rows of cells; the first row is the heading."""
Measure = tuple[str, int, float]
"""Title, decimals, and factor with which a metric is shown."""

MEASURES: dict[str, dict[str, tuple[str, int]]] = {
    "spectrum": {
        "mel_l1_db": ("log-mel L1, dB ↓", 2),
        "stft_log_l1_db": ("log-STFT L1, dB ↓", 2),
        "spectral_convergence": ("spectral convergence ↓", 3),
    },
    "shape in time": {
        "envelope_correlation": ("envelope correlation ↑", 3),
        "crest_error_db": ("crest factor error, dB ↓", 2),
        "crest_bias_db": ("crest factor bias, dB", 2),
    },
    "speech": {"pesq_nb": ("PESQ-nb ↑", 2), "pesq_wb": ("PESQ-wb ↑", 2), "stoi": ("STOI ↑", 3)},
}
"""Title and decimals of every measure, one table for each kind."""
RESTORATION = {"si_sdr_db": ("SI-SDR, dB ↑", 2), "mel_l1_db": ("log-mel L1, dB ↓", 2), **MEASURES["speech"]}
"""The same for the restoration of corrupted clips."""
GENERATION: dict[str, dict[str, Measure]] = {
    "distance from half of the training clips": {
        "accuracy": ("accuracy ↑", 3, 1),
        "frechet": ("Fréchet ↓", 2, 1),
        "mmd_embedding": ("MMD² embedding ↓", 4, 1),
        "mmd_mfcc": ("MMD² MFCC ↓", 4, 1),
        "mmd_envelope": ("MMD² envelope ↓", 4, 1),
        "mmd_statistics": ("MMD² statistics × 1000 ↓", 0, 1000),
    },
    "overlap with training clips, embedding": {
        "overlap_embedding.precision": ("precision ↑", 3, 1),
        "overlap_embedding.recall": ("recall ↑", 3, 1),
        "overlap_embedding.density": ("density ↑", 3, 1),
        "overlap_embedding.coverage": ("coverage ↑", 3, 1),
    },
    "overlap with training clips, MFCC": {
        "overlap_mfcc.precision": ("precision ↑", 3, 1),
        "overlap_mfcc.recall": ("recall ↑", 3, 1),
        "overlap_mfcc.density": ("density ↑", 3, 1),
        "overlap_mfcc.coverage": ("coverage ↑", 3, 1),
    },
    "clip by clip": {
        "usable": ("usable hits, % ↑", 0, 100),
        "not_ended": ("not ended, %", 0, 100),
        "length_ks": ("KS of lengths", 3, 1),
        "length_p": ("its p", 3, 1),
        "level_db": ("level, dB", 1, 1),
        "level_deviation_db": ("its deviation", 1, 1),
        "level_difference_db": ("from real", 1, 1),
        "unlevelled_deviation_db": ("deviation before levelling, dB", 1, 1),
        "level_drift_db": ("level drift, dB", 1, 1),
        "mfcc_drift_db": ("MFCC drift, dB", 2, 1),
        "memorisation": ("memorisation", 2, 1),
    },
}
"""The same for sets of clips, with a factor; a point in a name leads into a nested metric."""
AGAINST_ORACLE: dict[str, Measure] = {
    **GENERATION["distance from half of the training clips"],
    "usable": ("usable hits, % ↑", 0, 100),
    "not_ended": ("not ended, %", 0, 100),
}
BY_LABEL: dict[str, Measure] = {
    "accuracy": ("accuracy by label ↑", 3, 1),
    "mmd_statistics": ("MMD² statistics × 1000 by label ↓", 0, 1000),
    "not_ended": ("not ended by label, %", 0, 100),
    "usable": ("usable hits by label, % ↑", 0, 100),
    "unlevelled_deviation_db": ("deviation of the level before levelling by label, dB", 1, 1),
}
CRITICS: dict[str, Measure] = {
    "auc": ("AUC, 0.5 is best", 2, 1),
    "iid": ("of iid against real draws", 2, 1),
    "real": ("of real draws against others", 2, 1),
}
MOST_LABELS = 12
"""Tables by label are shown for at most this many labels."""
HEADLINE: dict[str, tuple[str, int, float, str]] = {
    "accuracy": ("of the label asked for", 1, 100, " %"),
    "frechet": ("Fréchet distance", 2, 1, ""),
    "mmd_statistics": ("MMD² of statistics × 1000", 0, 1000, ""),
    "mmd_mfcc": ("MMD² of MFCC × 1000", 0, 1000, ""),
    "usable": ("usable hits", 0, 100, " %"),
}
"""Words, decimals, factor and unit of the measures in the sentence about generated clips and the oracle."""
GENERATION_LEGEND = (
    "real: held-out clips; reconstructed: these through the codec; oracle: training clips drawn from their posterior "
    "and decoded, as a perfect prior with this codec would make them; generated: one label requested for each; iid: "
    "frames drawn one by one from training clips of the label, which keeps the spectrum but not its order",
    "[95 % interval]; ↓ lower is better, ↑ higher, the rest should be as for real; n: number of clips; KS, p: how far "
    "lengths are from those of the training clips, and whether by more than chance; memorisation: distance from the "
    "nearest training clip, 1 for real",
)
LEGEND = "mean over clips [95 % interval]; n where not every clip has a score; ↓ lower is better, ↑ higher"


def headline(result: Mapping[str, Any]) -> str:
    """One line: run, clips, and the rate of the latents."""
    rate = result["fidelity"]["rate"]
    of = f" of {result['clips_in_split']}" if result["clips"] < result["clips_in_split"] else ""
    bits = (
        ""
        if rate["kbit_per_s"] is None
        else f"{rate['kbit_per_s']:.2f} kbit/s of KL, {rate['active_dims']} active dimensions, "
    )
    frames = f"{rate['frames_per_s']:.2f} latent frames/s of {rate['latent_dim']}"
    return f"{result['run']}, {result['clips']}{of} clips of the {result['split']} split: {bits}{frames}"


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The metrics of an evaluation; systems are rows, measures of a kind are columns."""
    rows = {name: row for name, row in result["fidelity"].items() if name != "rate"}
    made = [_measured(kind, measures, rows, result["clips"]) for kind, measures in MEASURES.items()]
    if "restoration" in result:
        made.append(_measured("restoration", RESTORATION, result["restoration"], result["clips"]))
    return [table for table in made if len(table[0]) > 1] + _likelihood(result)


def _measured(kind: str, measures: Mapping[str, tuple[str, int]], rows: Mapping[str, Any], clips: int) -> Table:
    """Systems by measures, as far as they were measured."""
    shown = {key: measure for key, measure in measures.items() if key in next(iter(rows.values()))}
    cells = {name: [_cell(row[key], digits, clips) for key, (_, digits) in shown.items()] for name, row in rows.items()}
    return [[kind, *(title for title, _ in shown.values())], *([name, *line] for name, line in cells.items())]


def generation_headline(result: Mapping[str, Any]) -> list[str]:
    """Two lines: run, prior and sizes of sets; and a sentence that compares generated clips with the oracle."""
    found = result["generation"]
    clips, labels = found["clips"], found["rows"]["generated"]["by_label"]
    by = f" of {len(labels)} labels" if len(labels) > 1 else ""
    return [
        f"{result['run']}, prior {result['prior']}: {clips['generated']} generated clips{by} and as many of the "
        f"oracle; {clips['real']} of the {result['split']} split; compared with {found['reference']} training clips",
        against_oracle(found),
    ]


def against_oracle(found: Mapping[str, Any]) -> str:
    """One sentence: how generated clips differ from what a perfect prior would make with this codec."""
    parts: list[str] = []
    for name, (words, digits, factor, unit) in HEADLINE.items():
        if name not in found["against_oracle"]["generated"] or (name == "mmd_mfcc" and parts):
            continue
        generated, oracle = (factor * found["rows"][row][name]["value"] for row in ("generated", "oracle"))
        parts.append(f"{words} {_number(generated, digits)}{unit} (oracle {_number(oracle, digits)}{unit})")
    if "auc" in found["critics"].get("latents", {}):
        parts.append(f"the critic's AUC {_number(found['critics']['latents']['auc']['value'], 2)} (0.5 as real)")
    return f"generated against oracle: {', '.join(parts)}" if parts else "generated against oracle: too few clips"


def generation_tables(result: Mapping[str, Any]) -> list[Table]:
    """The metrics of generated clips; sets of clips are rows."""
    found = result["generation"]
    first, *others = (_of_sets(kind, measures, found["rows"]) for kind, measures in GENERATION.items())
    for line in first:
        line.insert(1, "n" if line is first[0] else str(found["clips"][line[0]]))
    made = [first, _of_sets("difference from the oracle", AGAINST_ORACLE, found["against_oracle"])]
    labels = [label for label in found["rows"]["generated"]["by_label"] if label]
    if 1 < len(labels) <= MOST_LABELS:
        for name, (title, digits, factor) in BY_LABEL.items():
            measures = {label: (label, digits, factor) for label in labels}
            rows = {
                row: {label: own[name] for label, own in figures["by_label"].items() if name in own}
                for row, figures in found["rows"].items()
            }
            made.append(_of_sets(title, measures, rows))
    if found["critics"]:
        made.append(_of_sets("critic of generated against real draws", CRITICS, found["critics"]))
    made += others
    if "memorisation_of_copies" in found:
        copies = _set_cell(found["memorisation_of_copies"], 2, 1)
        made.append([["memorisation, were training clips only repeated"], [copies]])
    return [table for table in made if len(table[0]) > 1 or len(table) == 2] + _likelihood(result)


def _of_sets(kind: str, measures: Mapping[str, Measure], rows: Mapping[str, Any]) -> Table:
    """Sets of clips by measures, as far as they were measured."""
    cells = {
        name: [_set_cell(_at(row, path), digits, factor) for path, (_, digits, factor) in measures.items()]
        for name, row in rows.items()
    }
    shown = [k for k in range(len(measures)) if any(line[k] for line in cells.values())]
    titles = [title for title, *_ in measures.values()]
    lines = [[name, *(line[k] or "–" for k in shown)] for name, line in cells.items()]
    return [[kind, *(titles[k] for k in shown)], *lines]


def _likelihood(result: Mapping[str, Any]) -> list[Table]:
    if "bits_per_dim" not in result:
        return []
    bits = [[name, f"{value:.3f}"] for name, value in result["bits_per_dim"].items() if name != "end nats"]
    return [[["held-out bits per dimension ↓", f"all {result['clips_in_split']} clips"], *bits]]


def _at(row: Mapping[str, Any], path: str) -> Any:
    """The metric that a name with points leads to; None if it is missing."""
    if path in row:
        return row[path]
    value: Any = row
    for key in path.split("."):
        value = value.get(key, {})
    return None if value == {} else value


def _set_cell(value: Any, digits: int, factor: float) -> str:
    """A metric, with its interval if it has one; empty if it is missing."""
    if value is None:
        return ""
    if not isinstance(value, Mapping):
        return _number(factor * value, digits)
    middle, low, high = (_number(factor * value[key], digits) for key in ("value", "low", "high"))
    return f"{middle} [{low}, {high}]"


def _number(value: float, digits: int) -> str:
    """A rounded number, without a sign of zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def _cell(value: Mapping[str, Any], digits: int, n: int) -> str:
    """Mean and interval, and the number of clips with a score where not all `n` have one."""
    if not value["n"]:
        return "– n=0"
    mean, low, high = (f"{round(value[key], digits) + 0.0:.{digits}f}" for key in ("mean", "low", "high"))  # no −0.00
    return f"{mean} [{low}, {high}]" + (f" n={value['n']}" if value["n"] < n else "")
