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
from actseq.evaluation import critic, generated_clips, separation, set_distances, sounds, tables
from actseq.evaluation.clip_features import ClipFeatures
from actseq.evaluation.clip_sources import ClipSources, evenly, halves
from actseq.evaluation.generated_clips import ROWS, ClipSet, PriorEvaluation, default_clips, equal_sized, evaluate_prior
from actseq.inference.codec import Codec
from actseq.inference.loaded_run import LoadedRun
from actseq.inference.loading import load_latents
from actseq.progress import Silent
from actseq.storage.store import write_file

CPU = pipeline.Compute("cpu", 1)

RATE = 8000
LABELS = ["0", "6", "7"]
QUICK = ["vocoder.kind=griffin-lim", "vocoder.n_iter=2", "generate.max_seconds=0.4"]
STEPS = 10


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


def test_everything_is_measured(found: PriorEvaluation) -> None:
    figures = found.figures
    assert figures["clips"] == {
        "real": 18, "reconstructed": 18, "oracle": 20, "generated": 20, "iid": 20, "train": 36, "copies": 36,
    }  # fmt: skip
    assert (figures["reference"], figures["seconds"], figures["one_shots"]) == (18, None, False)
    assert list(figures["rows"]) == list(ROWS)
    with_intervals = ("accuracy", "mmd_mfcc", "mmd_envelope", "mmd_statistics")
    for row in figures["rows"].values():
        assert set(row) == {
            *with_intervals, "level_db", "level_deviation_db", "level_difference_db", "unlevelled_deviation_db",
            "level_drift_db", "mfcc_drift_db", "length_ks", "length_p", "overlap_mfcc", "memorisation", "by_label",
        }  # fmt: skip
        for name in (*with_intervals, "memorisation", "level_drift_db"):
            assert row[name]["low"] <= row[name]["value"] <= row[name]["high"]
        assert list(row["by_label"]) == LABELS
        of_label = row["by_label"].values()
        assert sum(own["n"] for own in of_label) in (18, 20)
        right = sum(own["n"] * own["accuracy"]["value"] for own in of_label) / sum(own["n"] for own in of_label)
        assert row["accuracy"]["value"] == pytest.approx(right)
        mean = np.mean([own["mmd_statistics"]["value"] for own in of_label])
        assert row["mmd_statistics"]["value"] == pytest.approx(mean)
    # 18 clips of each label in training are too few for a network.
    assert figures["judge"]["kind"] == "linear discriminants"
    assert figures["judge"]["accuracy"] > 0.6
    assert any("linear discriminants judge labels" in note for note in found.notes)
    assert json.loads(json.dumps(figures)) == figures
    assert any("generated clips had not ended after max_seconds = 0.4" in note for note in found.notes)


def test_real_clips_are_the_measure(found: PriorEvaluation) -> None:
    rows = found.figures["rows"]
    assert rows["real"]["level_difference_db"] == 0
    assert rows["real"]["memorisation"]["value"] == 1
    assert rows["real"]["length_p"] == rows["reconstructed"]["length_p"] > 0.01
    assert found.figures["memorisation_of_copies"]["value"] < rows["reconstructed"]["memorisation"]["value"]
    # A prior of two steps makes noise.
    for name in ("mmd_mfcc", "mmd_envelope", "mmd_statistics"):
        assert rows["real"][name]["value"] < rows["generated"][name]["value"]
    assert rows["generated"]["overlap_mfcc"]["coverage"] < rows["real"]["overlap_mfcc"]["coverage"]


def test_differences_from_the_oracle(found: PriorEvaluation) -> None:
    rows, differences = found.figures["rows"], found.figures["against_oracle"]
    assert list(differences) == ["real", "reconstructed", "generated", "iid"]
    for name, own in differences.items():
        assert set(own) == {"accuracy", "mmd_mfcc", "mmd_envelope", "mmd_statistics"}
        for measure, value in own.items():
            assert value["value"] == pytest.approx(rows[name][measure]["value"] - rows["oracle"][measure]["value"])
            assert value["low"] <= value["value"] <= value["high"]


def test_figures_are_those_of_the_clips(run: Path, found: PriorEvaluation) -> None:
    """Lengths and levels counted again from the waveforms."""
    loaded, corpus, latents = opened(run, QUICK)
    held_out = excerpts(corpus, "test", RATE, None)
    waveforms = [excerpt.read(corpus) for excerpt in held_out]
    for name, clips in (("real", waveforms), ("reconstructed", loaded.codec.reconstruct(waveforms))):
        row = found.figures["rows"][name]
        level = [20 * np.log10(np.sqrt(np.mean(clip.astype(np.float64) ** 2))) for clip in clips]
        assert row["level_db"] == pytest.approx(np.mean(level), abs=0.05)
        assert row["level_deviation_db"] == pytest.approx(np.std(level), abs=0.05)
        own = [
            np.std([one for one, excerpt in zip(level, held_out, strict=True) if excerpt.label == k]) for k in LABELS
        ]
        assert row["unlevelled_deviation_db"] == pytest.approx(np.sqrt(np.mean(np.square(own))), abs=0.05)
    frames = {split: [latents.records[i].length for i in latents.indices(split)] for split in ("train", "test")}
    expected = ks_2samp(frames["test"], frames["train"], method="asymp")
    assert found.figures["rows"]["real"]["length_p"] == pytest.approx(expected.pvalue)
    assert found.figures["rows"]["real"]["length_ks"] == pytest.approx(expected.statistic)


def test_the_level_of_new_clips_is_that_before_levelling(run: Path) -> None:
    loaded, corpus, latents = opened(run, QUICK)
    for group in ClipSources(loaded, corpus, latents, 0).generated(6):
        assert group.gains is not None
        for waveform, gain in zip(group.waveforms, group.gains, strict=True):
            assert np.abs(waveform).max() == pytest.approx(10 ** (-3 / 20), rel=1e-4)
            assert gain != 1


def test_with_many_clips_a_network_judges(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from actseq.evaluation.classifier import trained_classifier

    monkeypatch.setattr(generated_clips, "ENOUGH", 5)
    found = measured(run, split="validation")
    assert any("chosen on the validation clips" in note for note in found.notes)
    loaded, corpus, _ = opened(run, QUICK)
    half = halves(corpus).b
    inputs = json.loads((run / "classifier" / "settings.json").read_text())
    steps = inputs.pop("steps")
    assert inputs["learned_from"] == "half B"
    model = trained_classifier(loaded.run, loaded.codec, corpus, inputs, Silent(), clips=half, steps=steps)[0]
    held_out = excerpts(corpus, "validation", RATE, None)
    waveforms = [excerpt.read(corpus) for excerpt in held_out]
    for name, clips in (("real", waveforms), ("reconstructed", loaded.codec.reconstruct(waveforms))):
        predicted = model.classify(clips).probabilities.argmax(axis=1)
        hits = np.mean([model.labels[k] == excerpt.label for k, excerpt in zip(predicted, held_out, strict=True)])
        assert found.figures["rows"][name]["accuracy"]["value"] == pytest.approx(hits)
    for name in ("oracle", "generated", "iid"):
        assert {"frechet", "mmd_embedding", "overlap_embedding"} <= set(found.figures["rows"][name])
    assert set(found.figures["judge"]["accuracy"]) == {"real", "copy synthesis", "reconstructed"}
    lines = pipeline.evaluation_lines(shown(found))
    assert any(line.startswith("generated against oracle: of the label asked for") for line in lines)
    assert "Fréchet distance" in lines[2]


def test_hits_are_counted_for_clips_that_end(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generated_clips.hits, "ENDED_DB", 0.0)
    found = measured(run)
    assert found.figures["one_shots"] is True
    for row in found.figures["rows"].values():
        assert row["usable"]["value"] <= min(1 - row["not_ended"]["value"], row["accuracy"]["value"])
        assert all({"usable", "not_ended"} <= set(own) for own in row["by_label"].values())
    text = "\n".join(pipeline.evaluation_lines(shown(found)))
    assert "usable hits by label, % ↑" in text


def test_critics_rank_the_clips_that_are_kept(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SMALLEST_TRAIN": 5, "SMALLEST_TEST": 3, "SEEDS": range(2), "NULL_SEEDS": range(1)}.items():
        monkeypatch.setattr(separation, name, value)
    monkeypatch.setattr(critic, "EPOCHS", 4)
    monkeypatch.setattr(separation, "RECOGNISED", 0.0)
    monkeypatch.setattr(separation, "UNTOLD", (0.0, 1.0))
    found = measured(run, n=60)
    assert set(found.figures["critics"]) == {"latents", "log_mel"}
    for figures in found.figures["critics"].values():
        assert 0 <= figures["auc"]["low"] <= figures["auc"]["value"] <= figures["auc"]["high"] <= 1
    assert [(row.title, len(row.sounds)) for row in found.shown] == [("worst", 10), ("best", 10)]
    worst, best = ([sound.waveform.tobytes() for sound in row.sounds] for row in found.shown)
    assert not set(worst) & set(best)
    text = "\n".join(pipeline.evaluation_lines(shown(found)))
    assert f"the critic's AUC {found.figures['critics']['latents']['auc']['value']:.2f} (0.5 as real)" in text
    kept = sounds.keep(tmp_path / "kept", found.shown, RATE)
    names = [sound["file"] for row in kept for sound in row["sounds"]]
    assert (
        names
        == sorted(path.name for path in (tmp_path / "kept").iterdir())
        == [f"clip-{k:02d}.wav" for k in range(1, 21)]
    )

    # Where a critic fails its checks, its figure is left out and the clips are not ranked.
    monkeypatch.setattr(separation, "RECOGNISED", 1.1)
    found = measured(run, n=60)
    assert all("auc" not in figures for figures in found.figures["critics"].values())
    assert sum("where at least 1.1 is expected" in note for note in found.notes) == 2
    assert [row.title for row in found.shown] == ["generated"]


def test_critics_get_clips_that_they_have_not_learned_from(run: Path) -> None:
    sources = ClipSources(*opened(run, QUICK), 0)
    two = halves(sources.corpus)
    own = separation.roles(sources, two, "test")
    assert (set(own.a), set(own.b)) == (two.a, two.b)
    assert (own.stop, own.test) == tuple(sources.corpus.indices(split) for split in ("validation", "test"))
    own = separation.roles(sources, two, "validation")
    assert {*own.stop, *own.test} == set(sources.corpus.indices("validation"))
    assert not set(own.stop) & set(own.test)


def test_the_halves_share_nothing(run: Path) -> None:
    _, corpus, _ = opened(run, QUICK)
    two = halves(corpus)
    assert not two.a & two.b
    assert two.a | two.b == set(corpus.indices("train"))
    for half in (two.a, two.b):
        assert Counter(corpus.store.records[k].extra["label"] for k in half) == dict.fromkeys(LABELS, 6)
    assert halves(corpus) == two
    assert two.shared == []


def test_the_oracle_is_drawn_from_half_a(run: Path) -> None:
    loaded, corpus, latents = opened(run, QUICK)
    half = sorted(halves(corpus).a)
    sources = ClipSources(loaded, corpus, latents, 0)
    draws = list(sources.draws(half, 45, 0))
    # 15 of each label from six clips: three clips occur three times, each time with other noise.
    assert Counter(one.label for one in draws) == dict.fromkeys(LABELS, 15)
    assert set(Counter(one.clip for one in draws).values()) == {2, 3}
    assert {one.clip for one in draws} == set(half)
    for one in draws:
        record = corpus.store.records[one.clip]
        assert record.extra["label"] == one.label
        index = [other.key for other in latents.records].index(record.key)
        mean, log_variance = latents.read(index)
        assert np.abs((one.latents - mean) / np.exp(0.5 * log_variance)).max() < 6
    same = [one for one in draws if one.clip == draws[0].clip]
    assert not np.array_equal(same[0].latents, same[1].latents)
    again = list(sources.draws(half, 45, 0))
    assert all(np.array_equal(one.latents, two.latents) for one, two in zip(draws, again, strict=True))
    other = list(sources.draws(half, 45, 1))
    assert not any(np.array_equal(one.latents, two.latents) for one, two in zip(draws, other, strict=True))


@pytest.mark.parametrize(
    ("train", "half", "labels", "seconds", "expected"),
    [(2160, 1080, 10, None, 1200), (292, 146, 3, None, 300), (102, 51, 0, 6.0, 51), (9, 4, 0, None, 20),
     (800, 400, 50, None, 1200)],
)  # fmt: skip
def test_default_number_of_clips(train: int, half: int, labels: int, seconds: float | None, expected: int) -> None:
    assert default_clips(train, half, labels, seconds) == expected


def test_same_seed_same_figures(run: Path, found: PriorEvaluation) -> None:
    assert measured(run) == found
    other = measured(run, seed=1).figures["rows"]
    assert other["generated"] != found.figures["rows"]["generated"]
    assert other["real"]["mmd_mfcc"]["value"] == found.figures["rows"]["real"]["mmd_mfcc"]["value"]


def test_clips_of_a_set_length_are_compared_with_pieces(run: Path) -> None:
    found = measured(run, n=12, split="validation", overrides=[*QUICK, "generate.seconds=0.15"])
    assert found.figures["seconds"] == 0.15
    assert found.figures["clips"]["real"] > 6
    assert all("length_p" not in row for row in found.figures["rows"].values())
    assert any("0.15 s of generate.seconds" in note for note in found.notes)
    assert not any("max_seconds" in note for note in found.notes)


def test_few_clips_are_not_compared(run: Path) -> None:
    found = measured(run, n=4, split="validation")
    assert any("too few to compare sets" in note for note in found.notes)
    for name in ("real", "oracle", "generated"):
        row = found.figures["rows"][name]
        assert not {"mmd_mfcc", "overlap_mfcc"} & set(row)
        assert {"accuracy", "memorisation"} <= set(row)
    assert set(found.figures["against_oracle"]["generated"]) == {"accuracy"}


def test_without_labels_there_is_no_classifier(data_dir: Path, tmp_path: Path) -> None:
    run = made_run(tmp_path, data_dir, 14, labels=False)
    found = measured(run, n=13)
    assert not (run / "classifier").exists()
    assert found.figures["judge"] is None
    assert any("there are fewer than two labels" in note for note in found.notes)
    for row in found.figures["rows"].values():
        assert not {"accuracy", "frechet", "mmd_embedding", "overlap_embedding"} & set(row)
        assert {"mmd_mfcc", "mmd_envelope", "mmd_statistics", "overlap_mfcc", "length_p", "memorisation"} <= set(row)
    shown = tables.generation_tables({"generation": found.figures})
    assert not any("accuracy" in cell or "Fréchet" in cell for table in shown for row in table for cell in row)


# -- the command's function --------------------------------------------------------------------------------------------


def test_bad_requests(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no prior 'defualt'.*default"):
        pipeline.evaluate(run, prior="defualt", compute=CPU)
    shutil.copytree(run, tmp_path / "run")
    manifest = tmp_path / "run" / "corpus" / "manifest.jsonl"
    write_file(manifest, manifest.read_bytes().replace(b'"validation"', b'"train"'))
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
    rows = ClipFeatures(column, column, column, table, table, table, table, column, column)
    names = [label.strip() for label in labels]
    return ClipSet(names, np.arange(n), np.arange(n), column, rows, table, names)


def test_sets_are_thinned_alike() -> None:
    first, second = equal_sized(clip_set("aaaaaabbbbc"), clip_set("aaaabbbbbbbb"))
    # There are 4 of `b` for 8, so half of the 4 of `a` are taken.
    for clips in (first, second):
        assert Counter(clips.labels) == {"a": 2, "b": 4}
        np.testing.assert_array_equal(clips.of_clip.level_db, clips.frames)
    assert second.frames.tolist() == [0, 2, 4, 6, 8, 10]
    assert {len(clips) for clips in equal_sized(clip_set("aaa"), clip_set("bb"))} == {0}


def test_a_corpus_that_repeats_itself_has_no_memorisation() -> None:
    found = {name: clip_set("aabb") for name in (*ROWS, "known", "train", "reference", "copies")}
    measured = generated_clips._compared(found, None, None, [], 0)
    assert any("memorisation is left out" in note for note in measured.notes)
    assert "memorisation_of_copies" not in measured.figures
    assert all("memorisation" not in row for row in measured.figures["rows"].values())


def test_independent_frames_are_training_frames_of_the_label(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Latents without variance that contain the indices of their clip and frame are decoded to themselves.
    def read(latents: LatentSequences, index: int) -> tuple[np.ndarray, np.ndarray]:
        mean = (1000.0 * index + np.arange(latents.records[index].length, dtype=np.float32))[:, None]
        return mean, np.full_like(mean, -np.inf)

    monkeypatch.setattr(LatentSequences, "read", read)
    monkeypatch.setattr(Codec, "decode", lambda _, sequences, rows: [z[:, 0] for z in sequences])

    def made(n: int, seed: int, *more: str) -> list[tuple[str, list[float]]]:
        sources = ClipSources(*opened(run, [*QUICK, *more]), seed)
        return [
            (label, waveform.tolist())
            for group in sources.decoded(sources.independent(n))
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


def shown(found: PriorEvaluation) -> dict[str, object]:
    """The result of the command, as far as it is shown."""
    return {
        "run": "runs/x", "prior": "p", "split": "test", "clips_in_split": 18, "notes": [], "file": "f.json",
        "verdict": "Good.", "generation": found.figures, "bits_per_dim": {"prior": 0.5, "end nats": 9.0},
    }  # fmt: skip


def test_tables_hold_what_was_measured(found: PriorEvaluation) -> None:
    rows = found.figures["rows"]
    lines = pipeline.evaluation_lines(shown(found))
    assert lines[0] == "Good."
    assert lines[1] == (
        "runs/x, prior p: 20 generated clips of 3 labels and as many of the oracle; 18 of the test split; compared "
        "with 18 training clips"
    )
    accuracy, distance = (
        [1000 * rows[name][measure]["value"] for name in ("generated", "oracle")]
        for measure in ("accuracy", "mmd_statistics")
    )
    assert lines[2] == (
        f"generated against oracle: of the label asked for {accuracy[0] / 10:.1f} % (oracle {accuracy[1] / 10:.1f} %), "
        f"MMD² of statistics × 1000 {distance[0]:.0f} (oracle {distance[1]:.0f})"
    )
    assert lines[-2:] == ["all figures: f.json", "to look and listen: actseq report runs/x"]
    text = "\n".join(lines)
    for name, row in rows.items():
        for measure, digits in (("mmd_mfcc", 4), ("memorisation", 2)):
            value = f"{row[measure]['value'] + 0.0:.{digits}f} ["
            assert any(line.startswith(f"{name}  ") and value in line for line in lines)
        assert f"{row['overlap_mfcc']['precision']:.3f}" in text
        of_label = "  ".join(f"{own['accuracy']['value']:.3f} [" for own in row["by_label"].values())
        assert of_label.split("  ")[0] in text
    difference = found.figures["against_oracle"]["generated"]["mmd_mfcc"]["value"]
    assert f"{difference:.4f} [" in text
    assert f"{found.figures['memorisation_of_copies']['value']:.2f} [" in text
    assert any(line.split() == ["prior", "0.500"] for line in lines)
