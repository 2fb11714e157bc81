"""The evaluation of generated clips: on a run over real digits, and on sets made by hand."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from actseq import pipeline
from actseq.data.corpus import Corpus
from actseq.data.excerpts import excerpts
from actseq.data.latents import LatentSequences
from actseq.errors import ArtifactError
from actseq.evaluation import page, set_distances
from actseq.evaluation.clip_features import ClipFeatures
from actseq.evaluation.generated_clips import (
    ClipSet,
    PriorEvaluation,
    _compared,
    equal_sized,
    evaluate_prior,
    evenly,
    independent,
)
from actseq.inference.codec import Codec
from actseq.inference.loaded_run import LoadedRun
from actseq.inference.loading import load_latents
from actseq.progress import Silent

CPU = pipeline.Compute("cpu", 1)

RATE = 8000
LABELS = ["0", "6", "7"]
QUICK = ["vocoder.kind=griffin-lim", "vocoder.n_iter=2", "generate.max_seconds=0.4"]
STEPS = 10
ROWS = ["real", "reconstructed", "reconstructed from a draw", "generated", "iid"]


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(set_distances, "RESAMPLES", 30)
        yield
    torch.set_num_threads(before)


def made_run(folder: Path, data_dir: Path, n: int, *, labels: bool) -> Path:
    for label in LABELS:
        for path in sorted((data_dir / "digits_fsdd").rglob(f"{label}_jackson_*.wav"))[:n]:
            target = folder / "sounds" / label if labels else folder / "sounds"
            target.mkdir(parents=True, exist_ok=True)
            (target / path.name).symlink_to(path)
    settings = ["corpus.test=0.3", "train_ae.steps=2", "train_prior.steps=2"]
    pipeline.run_all(folder / "sounds", "smoke", run=str(folder / "run"), overrides=settings, compute=CPU)
    return folder / "run"


@pytest.fixture(scope="module")
def run(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three labels, 20 clips each, 6 of them held out."""
    return made_run(tmp_path_factory.mktemp("labelled"), data_dir, 20, labels=True)


def opened(run: Path, overrides: list[str]) -> tuple[LoadedRun, Corpus, LatentSequences]:
    loaded = LoadedRun.open(run, prior="default", device="cpu", overrides=overrides)
    corpus = Corpus(loaded.run.corpus, loaded.config.corpus.level_dbfs)
    return loaded, corpus, load_latents(loaded.run)[0]


def measured(
    run: Path, n: int = 20, seed: int = 0, split: str = "test", overrides: list[str] | None = None
) -> PriorEvaluation:
    return evaluate_prior(*opened(run, overrides or QUICK), split, n, seed, Silent(), steps=STEPS)


@pytest.fixture(scope="module")
def found(run: Path) -> PriorEvaluation:
    return measured(run)


# -- on a run ----------------------------------------------------------------------------------------------------------


def test_everything_is_measured_and_at_equal_size(found: PriorEvaluation) -> None:
    figures = found.figures
    assert figures["clips"] == {
        "train": 36, "real": 18, "reconstructed": 18, "reconstructed from a draw": 18, "generated": 20, "iid": 20,
        "copies": 20,
    }  # fmt: skip
    # 20 over three labels are 6, 7 and 7; there are 6 real ones of each.
    assert (figures["compared"], figures["reference"], figures["seconds"]) == (18, 36, None)
    assert list(figures["rows"]) == ROWS
    for row in figures["rows"].values():
        assert set(row) == {
            "accuracy", "level_db", "level_deviation_db", "level_difference_db", "level_drift_db", "mfcc_drift_db",
            "length_p", "frechet", "mmd_embedding", "mmd_mfcc", "mmd_envelope", "overlap_embedding", "overlap_mfcc",
            "memorisation",
        }  # fmt: skip
        for name in (
            "accuracy",
            "frechet",
            "mmd_embedding",
            "mmd_mfcc",
            "mmd_envelope",
            "memorisation",
            "level_drift_db",
        ):
            assert row[name]["low"] <= row[name]["value"] <= row[name]["high"]
    assert set(figures["classifier"]) == {"real", "copy synthesis", "reconstructed"}
    assert json.loads(json.dumps(figures)) == figures
    assert any("generated clips had not ended after max_seconds = 0.4" in note for note in found.notes)


def test_real_clips_are_the_measure(found: PriorEvaluation) -> None:
    rows = found.figures["rows"]
    assert rows["real"]["level_difference_db"] == 0
    assert rows["real"]["memorisation"]["value"] == 1
    assert rows["real"]["length_p"] == rows["reconstructed"]["length_p"] > 0.01
    assert found.figures["memorisation_of_copies"]["value"] < rows["reconstructed"]["memorisation"]["value"]
    # A prior of two steps makes noise.
    for name in ("frechet", "mmd_mfcc", "mmd_envelope"):
        assert rows["real"][name]["value"] < rows["generated"][name]["value"]
    assert rows["generated"]["overlap_mfcc"]["coverage"] < rows["real"]["overlap_mfcc"]["coverage"]


def test_what_follows_from_the_rows(found: PriorEvaluation) -> None:
    rows, relative = found.figures["rows"], found.figures["relative"]
    assert set(relative) == {"generated", "iid"}
    bound = rows["reconstructed"]
    for name, own in relative.items():
        accuracy = rows[name]["accuracy"]["value"] - bound["accuracy"]["value"]
        assert own["accuracy_difference"] == pytest.approx(accuracy)
        assert own["frechet_ratio"] == pytest.approx(rows[name]["frechet"]["value"] / bound["frechet"]["value"])
        assert own["mmd_mfcc_ratio"] == pytest.approx(rows[name]["mmd_mfcc"]["value"] / bound["mmd_mfcc"]["value"])


def test_figures_are_those_of_the_clips(run: Path, found: PriorEvaluation) -> None:
    """Lengths, levels and hits counted again from the waveforms."""
    from actseq.evaluation.classifier import trained_classifier
    from actseq.evaluation.generated_clips import _made_from

    loaded, corpus, latents = opened(run, QUICK)
    held_out = excerpts(corpus, "test", RATE, None)
    waveforms = [excerpt.read(corpus) for excerpt in held_out]
    model = trained_classifier(loaded.run, loaded.codec, corpus, _made_from(loaded), Silent(), steps=STEPS)[0]
    for name, clips in (("real", waveforms), ("reconstructed", loaded.codec.reconstruct(waveforms))):
        row = found.figures["rows"][name]
        level = [20 * np.log10(np.sqrt(np.mean(clip.astype(np.float64) ** 2))) for clip in clips]
        assert row["level_db"] == pytest.approx(np.mean(level), abs=0.05)
        assert row["level_deviation_db"] == pytest.approx(np.std(level), abs=0.05)
        predicted = model.classify(clips).probabilities.argmax(axis=1)
        hits = np.mean([model.labels[k] == excerpt.label for k, excerpt in zip(predicted, held_out, strict=True)])
        assert row["accuracy"]["value"] == pytest.approx(hits)
    frames = {split: [latents.records[i].length for i in latents.indices(split)] for split in ("train", "test")}
    expected = ks_2samp(frames["test"], frames["train"], method="asymp").pvalue
    assert found.figures["rows"]["real"]["length_p"] == pytest.approx(expected)


def test_same_seed_same_figures(run: Path, found: PriorEvaluation) -> None:
    assert measured(run) == found
    other = measured(run, seed=1).figures["rows"]
    assert other["generated"] != found.figures["rows"]["generated"]
    assert other["real"]["frechet"]["value"] == found.figures["rows"]["real"]["frechet"]["value"]


def test_clips_of_a_set_length_are_compared_with_pieces(run: Path) -> None:
    found = measured(run, n=12, split="validation", overrides=[*QUICK, "generate.seconds=0.15"])
    assert found.figures["seconds"] == 0.15
    assert found.figures["clips"]["real"] > 6
    assert all("length_p" not in row for row in found.figures["rows"].values())
    assert any("0.15 s of generate.seconds" in note for note in found.notes)
    assert any("validation clips" in note for note in found.notes)
    assert not any("max_seconds" in note for note in found.notes)


def test_few_clips_are_not_compared(run: Path) -> None:
    found = measured(run, n=4, split="validation")
    assert found.figures["compared"] < 10
    assert any("too few to compare sets" in note for note in found.notes)
    for row in found.figures["rows"].values():
        assert not {"frechet", "mmd_mfcc", "overlap_mfcc"} & set(row)
        assert {"accuracy", "memorisation"} <= set(row)


def test_without_labels_there_is_no_classifier(data_dir: Path, tmp_path: Path) -> None:
    run = made_run(tmp_path, data_dir, 14, labels=False)
    found = measured(run, n=13)
    assert not (run / "classifier").exists()
    assert found.figures["classifier"] is None
    assert any("there are fewer than two labels" in note for note in found.notes)
    assert found.figures["compared"] == 13
    for row in found.figures["rows"].values():
        assert not {"accuracy", "frechet", "mmd_embedding", "overlap_embedding"} & set(row)
        assert {"mmd_mfcc", "mmd_envelope", "overlap_mfcc", "length_p", "memorisation"} <= set(row)
    shown = page.generation_tables({"generation": found.figures})
    assert not any("accuracy" in cell or "Fréchet" in cell for table in shown for row in table for cell in row)


# -- the command's function --------------------------------------------------------------------------------------------


def test_bad_requests(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no prior 'defualt'.*default"):
        pipeline.evaluate(run, prior="defualt", compute=CPU)
    shutil.copytree(run, tmp_path / "run")
    manifest = tmp_path / "run" / "corpus" / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace('"validation"', '"train"'))
    with pytest.raises(ArtifactError, match="no clips in its validation split"):
        pipeline.evaluate(tmp_path / "run", prior="default", split="validation", compute=CPU)


# -- sets of clips -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "expected"), [(300, [75, 75, 75, 75]), (6, [1, 2, 1, 2]), (2, [0, 1, 0, 1])])
def test_clips_are_spread_over_labels(n: int, expected: list[int]) -> None:
    assert evenly("abcd", n) == list(zip("abcd", expected, strict=True))


def clip_set(labels: str) -> ClipSet:
    """A clip for each letter; its number is its number of frames."""
    n = len(labels)
    column, table = np.arange(n, dtype=np.float64), np.zeros((n, 2))
    rows = ClipFeatures(column, column, column, table, table, table)
    return ClipSet([label.strip() for label in labels], np.arange(n), rows, table, list(labels))


def test_sets_are_thinned_alike() -> None:
    found = {"real": clip_set("aaaaaabbbc"), "made": clip_set("aaaabbbbdd"), "more": clip_set("bababababaaaabbbb")}
    thinned = equal_sized(found, "real")
    # `c` and `d` are not everywhere; of the made there are four `a` for six real ones.
    for clips in thinned.values():
        assert Counter(clips.labels) == {"a": 4, "b": 2}
    assert thinned["real"].frames.tolist() == [0, 1, 3, 4, 6, 7]
    for name, clips in thinned.items():
        assert [found[name].labels[k] for k in clips.frames] == clips.labels == clips.predicted
        np.testing.assert_array_equal(clips.of_clip.level_db, clips.frames)
    nameless = equal_sized(found | {"made": clip_set("     ")}, "real")
    assert {len(clips) for clips in nameless.values()} == {5}
    assert {len(clips) for clips in equal_sized({"real": clip_set("aa"), "made": clip_set("bb")}, "real").values()} == {
        0
    }


def test_a_corpus_that_repeats_itself_has_no_memorisation() -> None:
    found = {name: clip_set("aabb") for name in ("train", "real", "reconstructed", "generated", "iid", "copies")}
    measured = _compared(found, None, None, [], 0)
    assert any("memorisation is left out" in note for note in measured.notes)
    assert "memorisation_of_copies" not in measured.figures
    assert all("memorisation" not in row for row in measured.figures["rows"].values())


def test_independent_frames_are_training_frames_of_the_label(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Latents without variance that contain the indices of their clip and frame are decoded to themselves.
    def read(latents: LatentSequences, index: int) -> tuple[np.ndarray, np.ndarray]:
        mean = (1000.0 * index + np.arange(latents.records[index].length, dtype=np.float32))[:, None]
        return mean, np.full_like(mean, -np.inf)

    monkeypatch.setattr(LatentSequences, "read", read)
    monkeypatch.setattr(Codec, "decode", lambda _, sequences: [z[:, 0] for z in sequences])

    def made(n: int, seed: int, *more: str) -> list[tuple[str, list[float]]]:
        loaded, _, latents = opened(run, [*QUICK, *more])
        return [
            (label, waveform.tolist())
            for group in independent(loaded, latents, n, seed)
            for label, waveform, frames in zip(group.labels, group.waveforms, group.frames, strict=True)
            if more or frames == len(waveform)
        ]

    clips = made(300, 0)
    assert Counter(label for label, _ in clips) == dict.fromkeys(LABELS, 100)
    loaded, _, latents = opened(run, QUICK)
    bound = int(np.ceil(0.4 * loaded.codec.autoencoder.latent_rate))
    records = {i: latents.records[i] for i in latents.indices("train")}
    for label in LABELS:
        own = {i: record.length for i, record in records.items() if record.extra["label"] == label}
        assert {len(frames) for name, frames in clips if name == label} <= {min(bound, n) for n in own.values()}
        drawn = Counter(frame for name, frames in clips if name == label for frame in frames)
        assert set(drawn) <= {1000.0 * i + t for i, n in own.items() for t in range(n)}
        assert len(drawn) > 0.9 * sum(own.values())
    assert made(40, 0) == made(40, 0) != made(40, 1)
    assert {len(frames) for _, frames in made(9, 0, "generate.seconds=0.1")} == {
        int(np.ceil(0.1 * loaded.codec.autoencoder.latent_rate))
    }


# -- how it is shown ---------------------------------------------------------------------------------------------------


def test_tables_hold_what_was_measured(found: PriorEvaluation) -> None:
    result = {
        "run": "runs/x", "prior": "p", "split": "test", "clips_in_split": 18, "notes": [], "file": "f.json",
        "generation": found.figures, "bits_per_dim": {"prior": 0.5, "end nats": 9.0},
    }  # fmt: skip
    lines = pipeline.evaluation_lines(result)
    assert lines[0] == (
        "runs/x, prior p: 20 generated clips and 18 of the test split; sets of 18 compared with 36 training clips"
    )
    assert lines[-1] == "all figures: f.json"
    text = "\n".join(lines)
    for name, row in found.figures["rows"].items():
        for measure, digits in (("frechet", 2), ("mmd_mfcc", 4), ("memorisation", 2)):
            value = f"{row[measure]['value'] + 0.0:.{digits}f} ["
            assert any(line.startswith(f"{name}  ") and value in line for line in lines)
        assert f"{row['overlap_mfcc']['precision']:.3f}" in text
    assert f"{found.figures['memorisation_of_copies']['value']:.2f} [" in text
    assert any(line.split() == ["prior", "0.500"] for line in lines)
    no_multiple = found.figures | {"relative": {"generated": {"frechet_ratio": None}, "iid": {"frechet_ratio": 2.0}}}
    shown = page.generation_tables(result | {"generation": no_multiple})
    assert [["relative to reconstructed", "Fréchet, multiple"], ["generated", "–"], ["iid", "2.00"]] in shown


def test_a_bound_of_nothing_has_no_multiples() -> None:
    from actseq.evaluation.generated_clips import _relative

    bound = {"accuracy": {"value": 0.9}, "frechet": {"value": 2.0}, "mmd_mfcc": {"value": -0.001}}
    row = {"accuracy": {"value": 0.7}, "frechet": {"value": 3.0}, "mmd_mfcc": {"value": 0.004}}
    assert _relative(row, bound) == pytest.approx(
        {"accuracy_difference": -0.2, "frechet_ratio": 1.5, "mmd_mfcc_ratio": None}
    )
