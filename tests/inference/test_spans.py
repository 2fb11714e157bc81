"""Labels in time: how they are asked for, what follows them, what they are refused with."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped, unused-ignore]
import torch

import actseq
from actseq import audio, pipeline, units
from actseq.data.latents import SequenceSource
from actseq.errors import ActseqError, ConfigError
from actseq.inference.loaded_run import LoadedRun
from actseq.inference.loading import load_latents
from actseq.inference.request import FromPrior, GenerationRequest, Through, Variations
from actseq.inference.spans import AskedSpan, read_spans, timed
from actseq.priors.places import frame_places, frame_rows
from actseq.storage import hashes
from actseq.storage.artifacts import read_json

CPU = pipeline.Compute("cpu", 1)
RATE = 8000
SMALL = ["train_ae.steps=2", "train_prior.steps=2", "train_prior.validations=1", "latents.copies=1"]
FLOW = [
    f"prior.network.{text}" for text in ("kind=clip-flow", "width=16", "layers=1", "heads=2", "inner=24", "steps=2")
]
PRIORS = {
    "flow": [*FLOW, "prior.network.summary=2", "train_prior.decoder={share: 0.5}"],
    "lstm": [],
    "gru": ["prior.network={kind: gru, width: 16}"],
    "transformer": ["prior.network={kind: transformer, width: 12, inner: 20, layers: 1, heads: 3}"],
    "gan": ["prior.network={kind: gan, width: 8, blocks: 1}", "prior.head=null", "train_prior.frames=128"],
}
UNTRAINED = ["iid", "random-walk"]


def write_sounds(folder: Path) -> None:
    """Twelve files, each of two to four tones, low ones and high ones, with pauses; and the table of labels."""
    rng, rows = np.random.default_rng(0), []
    for number in range(12):
        at, parts = 0.0, []
        for _ in range(rng.integers(2, 5)):
            label = str(rng.choice(["low", "high"]))
            seconds, pause = round(float(rng.uniform(0.1, 0.3)), 3), 0.05
            tone = np.sin(np.arange(round(seconds * RATE)) * (0.1 if label == "low" else 0.9))
            parts += [0.5 * tone, np.zeros(round(pause * RATE))]
            rows.append(f"{number}.wav,{at:.3f},{at + seconds:.3f},{label}")
            at += seconds + pause
        audio.write(folder / "sounds" / f"{number}.wav", np.concatenate(parts), RATE)
    (folder / "labels.csv").write_text("\n".join(["file,start,end,label", *rows]) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of sounds with labels in time, with a prior of each kind."""
    made = tmp_path_factory.mktemp("timed")
    threads = torch.get_num_threads()
    write_sounds(made)
    run, table = str(made / "run"), f"corpus.labels={made / 'labels.csv'}"
    pipeline.train_ae(made / "sounds", "smoke", run=run, overrides=[SMALL[0], table], compute=CPU)
    pipeline.extract_latents(run, overrides=[SMALL[3]], compute=CPU)
    for name, settings in PRIORS.items():
        pipeline.train_prior(run, name=name, overrides=[*SMALL[1:3], *settings], compute=CPU)
    yield made
    torch.set_num_threads(threads)


def opened(folder: Path, prior: str) -> LoadedRun:
    return actseq.load_run(folder / "run", prior=prior, device="cpu")


# -- the request -------------------------------------------------------------------------------------------------------


def test_labels_are_split_as_a_shell_does() -> None:
    assert read_spans('3 5:0.4 "bass drum:.25" a:b :0.2') == (
        AskedSpan("3"),
        AskedSpan("5", 0.4),
        AskedSpan("bass drum", 0.25),
        AskedSpan("a:b"),
        AskedSpan("", 0.2),
    )
    assert read_spans("a:b:1 -5:2 x:1e3") == (AskedSpan("a:b", 1.0), AskedSpan("-5", 2.0), AskedSpan("x:1e3"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no label"),
        (":0.3", "names no label"),
        ("3:0", "has '3:0'; expected .* more than 0 seconds"),
        ('3 ""', "has ''"),
        ('"3', "No closing quotation"),
    ],
)
def test_labels_that_cannot_be_read_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GenerationRequest(labels=text)


@pytest.mark.parametrize(
    ("option", "given"),
    [
        ("--label", {"label": "low"}),
        ("--seconds", {"seconds": 1.0}),
        ("--until-stop", {"until_stop": True}),
        ("--min-seconds", {"controls": {"min_seconds": 0.5}}),
        ("--max-seconds", {"controls": {"max_seconds": 2.0}}),
        ("--redo", {"source": FromPrior(seed_audio=Path("a.wav"), redo=(0.0, 0.1))}),
        ("--through", {"source": Through((Path("a.wav"), Path("b.wav")))}),
        ("--vary", {"source": Variations(Path("a.wav"))}),
    ],
)
def test_labels_in_time_say_what_is_made_and_for_how_long(option: str, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"--labels and {option} exclude each other"):
        GenerationRequest(labels="low high", **given)


def test_missing_durations_are_drawn_from_those_of_the_label() -> None:
    durations, asked = {"a": [0.2, 0.4], "b": [0.1, 1.0]}, read_spans("a b:0.5 :0.1 b")
    clips = [timed(asked, ["a", "b"], durations, (3, clip), 0.05) for clip in range(40)]
    assert clips[0] == timed(asked, ["a", "b"], durations, (3, 0), 0.05)
    assert {round(own[0].last, 6) for own in clips} == {0.2, 0.4}
    assert {round(own[3].last - own[3].begin, 6) for own in clips} == {0.1, 1.0}
    for own in clips:
        assert [span.label for span in own] == ["a", "b", "", "b"]
        assert [span.begin for span in own[1:]] == [span.last for span in own[:-1]]
        assert own[1].last - own[1].begin == pytest.approx(0.5)
    # No span is shorter than a latent frame, so that each has one.
    assert timed(read_spans("a"), ["a"], {"a": [0.01]}, (0, 0), 0.05)[0].last == 0.05


@pytest.mark.parametrize(
    ("text", "message"),
    [("lwo", "no label 'lwo'.*low"), ("high", "how long 'high' lasts.*high:SECONDS"), ("low:0.01", "at least 0.05 s")],
)
def test_spans_that_cannot_be_made_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        timed(read_spans(text), ["low", "high"], {"low": [0.3]}, (0, 0), 0.05)


# -- what is learned ---------------------------------------------------------------------------------------------------


def test_copies_at_other_speeds_have_their_own_times(folder: Path) -> None:
    latents = load_latents(opened(folder, "lstm").run)[0]
    of_key = {record.key: record for record in latents.records}
    copies = [record for record in latents.records if record.extra["split"] == "copies"]
    assert copies
    for record in copies:
        own, speed = of_key[record.key.removesuffix(" copy 1")], record.extra["speed"]
        assert abs(speed - 1) > 1e-4
        for span, source in zip(record.extra["spans"], own.extra["spans"], strict=True):
            np.testing.assert_allclose(np.array(span[:2]) * speed, source[:2], atol=1e-5)
            assert span[2] == source[2]


def test_batches_hold_label_and_place_of_each_frame(folder: Path) -> None:
    latents = load_latents(opened(folder, "lstm").run)[0]
    assert latents.timed
    assert latents.labels == ["high", "low"]
    source = SequenceSource(latents, "train", latents.labels, 12, 8, seed=0)
    for step in range(3):
        batch = source.batch(step)
        assert batch["frame_label"].shape == batch["mean"].shape[:2]
        assert {0, 1, 2} >= set(batch["frame_label"].ravel().tolist())
        for row, (index, start, length) in enumerate(
            zip(batch["index"], batch["start"], batch["lengths"], strict=True)
        ):
            given = (latents.spans(int(index), latents.labels), latents.latent_rate, int(start), int(length))
            np.testing.assert_array_equal(batch["frame_label"][row, :length], frame_rows(*given))
            np.testing.assert_array_equal(batch["frame_place"][row, :length], frame_places(*given))
            # What lies behind the end does not tell that it is the end.
            assert (batch["frame_label"][row, length:] == batch["frame_label"][row, length - 1]).all()
    assert (batch["label"] == 0).all(), "several labels count as none"


def test_durations_are_those_of_the_spans(folder: Path) -> None:
    rows = [line.split(",") for line in (folder / "labels.csv").read_text().splitlines()[1:]]
    latents = load_latents(opened(folder, "lstm").run)[0]
    train = {latents.records[i].key for i in latents.indices("train")}
    found = latents.durations()
    for label in ("high", "low"):
        seconds = [float(end) - float(start) for name, start, end, own in rows if own == label and name in train]
        assert found[label] == sorted(found[label])
        assert min(seconds) - 1e-3 <= found[label][0] <= found[label][-1] <= max(seconds) + 1e-3
    meta = read_json(folder / "run" / "priors" / "lstm" / "model.json")
    assert meta["durations"] == found
    assert meta["timed"] is True


# -- what is made ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [*PRIORS, *UNTRAINED])
def test_clips_are_as_long_as_their_spans(folder: Path, prior: str) -> None:
    run = opened(folder, prior)
    clips = run.generate_clips(5, labels="low high:0.2 :0.1 low", seed=3)
    for clip in clips:
        assert clip.spans is not None
        assert [span.label for span in clip.spans] == ["low", "high", "", "low"]
        assert len(clip.waveform) == pytest.approx(clip.spans[-1].last * RATE, abs=1)
        assert np.isfinite(clip.waveform).all()
    assert len({len(clip.waveform) for clip in clips}) > 1, "durations are drawn for each clip"
    again = run.generate_clips(2, labels="low high:0.2 :0.1 low", seed=3)
    for one, two in zip(again, clips, strict=False):
        assert one.spans == two.spans
    if prior == "flow":
        for one, two in zip(again, clips, strict=False):
            np.testing.assert_allclose(one.latents, two.latents, atol=1e-4)


@pytest.mark.parametrize("prior", [*PRIORS, *UNTRAINED])
def test_another_label_makes_other_frames(folder: Path, prior: str) -> None:
    run = opened(folder, prior)
    if run.prior_folder is not None:
        assert run.prior is not None
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in run.prior.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    one, two = (run.sample(1, labels=f"low:0.3 {label}:0.3", seed=3)[0] for label in ("low", "high"))
    first = units.seconds_to_frames(0.3, run.codec.autoencoder.latent_rate) - 1
    if prior not in ("flow", "gan"):  # which look both ways
        np.testing.assert_allclose(one[:first], two[:first], atol=1e-5)
    assert np.abs(one[first + 2 :] - two[first + 2 :]).max() > 1e-3


def test_frames_of_iid_are_those_of_the_label(folder: Path) -> None:
    run = opened(folder, "iid")
    latents = load_latents(run.run)[0]
    of_row: dict[int, list[np.ndarray]] = {}
    for index in latents.indices("train"):
        mean = latents.read(index)[0]
        rows = frame_rows(latents.spans(index, latents.labels), latents.latent_rate, 0, len(mean))
        for row in (1, 2):
            of_row.setdefault(row, []).append(mean[rows == row])
    [made] = run.sample(1, labels="low:0.5 high:0.5", temperature=0.0, seed=1)
    rows = frame_rows([(0.0, 0.5, 2), (0.5, 1.0, 1)], latents.latent_rate, 0, len(made))
    for value, row in zip(made, rows, strict=True):
        if row:
            assert np.abs(np.concatenate(of_row[int(row)]) - value).max(axis=1).min() < 1e-6


@pytest.mark.parametrize("prior", ["flow", "lstm"])
@pytest.mark.parametrize("in_output", [True, False])
def test_after_a_seed_the_spans_are_those_of_what_is_new(folder: Path, prior: str, in_output: bool) -> None:
    run = opened(folder, prior)
    seed = soundfile.read(folder / "sounds" / "0.wav", dtype="float32")[0]
    clips = run.generate_clips(2, labels="low high:0.2", seed_audio=seed, include_seed=in_output, seed=2)
    for clip in clips:
        assert clip.spans is not None
        assert clip.spans[0].begin == 0
        new = len(clip.waveform) - (len(seed) if in_output else 0)
        assert new == pytest.approx(clip.spans[-1].last * RATE, abs=1)


def test_spans_go_into_the_json(folder: Path, tmp_path: Path) -> None:
    request = GenerationRequest(source=FromPrior("lstm"), n=2, labels="low high:0.2", seed=4)
    result = pipeline.generate(str(folder / "run"), request, pipeline.Output(tmp_path / "out"), compute=CPU)
    assert [Path(file).name for file in result.files] == ["low-high-01.wav", "low-high-02.wav"]
    for file in result.files:
        about = json.loads(Path(file).with_suffix(".json").read_text())
        assert about["settings"]["labels"] == "low high:0.2"
        assert [span["label"] for span in about["spans"]] == ["low", "high"]
        assert about["spans"][0]["end"] == about["spans"][1]["start"]
        assert about["seconds"] == pytest.approx(about["spans"][-1]["end"], abs=2 / RATE)


def test_a_label_alone_still_works(folder: Path) -> None:
    for prior in ("flow", "lstm", "gan"):
        assert len(opened(folder, prior).generate(1, label="low", max_seconds=0.5, until_stop=True)[0])


class Held(torch.nn.Module):
    """A prior that follows one label through a whole clip."""

    has_likelihood = False
    controls: tuple[str, ...] = ()

    def __init__(self, other: Any) -> None:
        super().__init__()
        self.latent_dim, self.sample = other.latent_dim, other.sample


def test_what_takes_no_spans_says_so(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="prior normal draws the same for every label"):
        opened(folder, "normal").generate(1, labels="low")
    held = opened(folder, "flow")
    assert held.prior is not None
    held.prior.prior = Held(held.prior.prior)
    with pytest.raises(ConfigError, match=r"prior flow cannot change its label in time; expected .*lstm, .*clip-flow"):
        held.generate(1, labels="low")
    with pytest.raises(ConfigError, match=r"prior gan was asked for .*at most"):
        opened(folder, "gan").generate(1, labels="low:60")
    with pytest.raises(ConfigError, match="one label"):
        opened(folder, "lstm").generate(1, labels="low high", best_of=2)
    request = GenerationRequest(source=FromPrior("lstm"), labels="low")
    with pytest.raises(ConfigError, match="--kit and --labels"):
        pipeline.generate(str(folder / "run"), request, pipeline.Output(kit=tmp_path / "kit"), compute=CPU)


# -- one label a file, and older runs ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one label a file."""
    made = tmp_path_factory.mktemp("plain")
    rng = np.random.default_rng(1)
    for number in range(24):
        label = ("low", "high")[number % 2]
        tone = np.sin(np.arange(round(rng.uniform(0.1, 0.2) * RATE)) * (0.1 if label == "low" else 0.9))
        audio.write(made / "sounds" / label / f"{number}.wav", 0.5 * tone, RATE)
    pipeline.run_all(made / "sounds", "smoke", run=str(made / "run"), overrides=[*SMALL[:3], *FLOW], compute=CPU)
    return made / "run"


def test_with_one_label_a_file_a_clip_is_one_span(plain: Path) -> None:
    run = actseq.load_run(plain, device="cpu")
    assert run.prior is not None
    assert run.prior.place is None
    clips = run.generate_clips(4, labels="low high", seed=0)
    for clip in clips:
        assert clip.spans is not None
        assert all(0.09 < span.last - span.begin < 0.23 for span in clip.spans)
    latents = load_latents(run.run)[0]
    assert not latents.timed
    assert "frame_label" not in SequenceSource(latents, "train", latents.labels, 8, 4, seed=0).batch(0)


def test_a_prior_of_before_takes_durations_from_the_latents(plain: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(plain, copy)
    meta = copy / "priors" / "default" / "model.json"
    about = read_json(meta)
    expected = actseq.load_run(plain, device="cpu").generate_clips(2, labels="low high", seed=0)
    hashes.forget(meta)
    meta.write_text(json.dumps({key: value for key, value in about.items() if key not in ("timed", "durations")}))
    run = actseq.load_run(copy, device="cpu")
    for one, two in zip(run.generate_clips(2, labels="low high", seed=0), expected, strict=True):
        np.testing.assert_array_equal(one.waveform, two.waveform)
    shutil.rmtree(copy / "latents")
    run = actseq.load_run(copy, device="cpu")
    assert len(run.generate(1, labels="low:0.2 high:0.1")[0]) == pytest.approx(0.3 * RATE, abs=1)
    with pytest.raises(ActseqError, match="does not know how long its labels last"):
        run.generate(1, labels="low high")
