"""The report of a run: one file that loads nothing, and in it what the run holds, heard, seen and in figures."""

import json
import re
import shlex
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from actseq import pipeline
from actseq.data.drumkit import write_drumkit
from actseq.errors import ArtifactError
from actseq.evaluation import sounds
from actseq.evaluation.first_look import FILE, fingerprints
from actseq.evaluation.sounds import KeptRow, KeptSound
from actseq.evaluation.verdict import verdict
from actseq.pages import report as pages
from actseq.pages.evaluations import kept_first_look
from actseq.pages.rendering import breakable
from actseq.storage.run_folder import RunFolder

RATE = 8000
HERE = pipeline.Compute("cpu", 1)
QUICK = ["vocoder.kind=griffin-lim", "vocoder.n_iter=1", "generate.max_seconds=0.3"]
HOSTILE = "<img src=x onerror=alert(1)>&'\".wav"
VOID = {"meta", "link", "img", "br", "hr", "input", "wbr"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of few steps, made of a folder with a name that looks like markup and a file that is no sound."""
    folder = tmp_path_factory.mktemp("report")
    write_drumkit(folder / "sounds", n_per_kind=3, sample_rate=RATE)
    (folder / "sounds" / "kick" / "kick-000.wav").rename(folder / "sounds" / "kick" / HOSTILE)
    (folder / "sounds" / "kick" / "broken.wav").write_bytes(b"RIFF")
    use: dict[str, Any] = {"run": str(folder / "run"), "compute": HERE}
    pipeline.train_ae(folder / "sounds", "smoke", overrides=["train_ae.steps=2"], **use)
    pipeline.extract_latents(**use)
    pipeline.train_prior(overrides=["train_prior.steps=2"], **use)
    return folder / "run"


class Page(HTMLParser):
    """The elements of a page, each closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str]]] = []
        self.shown = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.shown += data

    def every(self, tag: str, attribute: str) -> list[str]:
        return [attributes[attribute] for name, attributes in self.found if name == tag and attribute in attributes]

    def sounds(self) -> list[np.ndarray]:
        found = []
        for uri in self.every("audio", "src"):
            assert uri.startswith("data:audio/flac;base64,")
            waveform, rate = soundfile.read(BytesIO(b64decode(uri.partition(",")[2], validate=True)), dtype="float32")
            assert rate == RATE
            found.append(waveform)
        return found


def made(run: Path, **more: Any) -> tuple[Page, dict[str, Any]]:
    result = pipeline.report(run, n=2, overrides=QUICK, compute=HERE, **more)
    text = Path(result["page"]).read_bytes()
    assert len(text) == result["bytes"] < 15e6
    return Page(text.decode()), result


def test_the_page_loads_nothing_and_all_its_sounds_and_pictures_decode(run: Path) -> None:
    page, result = made(run)
    links = [value for _, attributes in page.found for name, value in attributes.items() if name in ("src", "href")]
    assert all(link.startswith(("data:", "#")) for link in links)
    assert not re.findall(r"url\((?!#)|@import|https?:", Path(result["page"]).read_text(encoding="utf-8"))
    assert [name for name, _ in page.found].count("script") == 1
    # Five labels: two real, reconstructed and generated clips of each, and one continuation.
    assert len(page.sounds()) == 5 * (2 * 3 + 1)
    pictures = [uri for uri in page.every("img", "src") if uri.startswith("data:image/png;base64,")]
    assert len(pictures) == len(page.sounds())
    for uri in pictures:
        Image.open(BytesIO(b64decode(uri.partition(",")[2]))).load()
    assert Path(result["sheet"]).stat().st_size > 10_000
    targets = {link[1:] for link in page.every("a", "href")}
    assert targets <= {attributes.get("id") for _, attributes in page.found}


def test_what_a_user_named_is_text_and_what_was_skipped_is_told(run: Path) -> None:
    page, _ = made(run)
    assert HOSTILE in page.shown
    assert not any(name.startswith("on") for _, attributes in page.found for name in attributes)
    assert "kick/broken.wav" in page.shown
    assert "1 of 16 files cannot be used" in page.shown
    assert json.loads((run / "autoencoder" / "model.json").read_text())["weights_sha256"] not in page.shown
    for name in ("config.yaml", "corpus/corpus.json"):
        assert (run / name).is_file()
    fingerprint = json.loads((run / "corpus" / "corpus.json").read_text())["fingerprint"]
    assert fingerprint in page.shown
    assert "train_ae.batch_size" in page.shown


def test_the_same_call_writes_the_same_page_and_the_told_command_the_same_clips(run: Path, tmp_path: Path) -> None:
    page, result = made(run)
    before = Path(result["page"]).read_bytes()
    assert Path(made(run)[1]["page"]).read_bytes() == before
    words = shlex.split(re.findall(r"actseq generate .*? --seed \d+", page.shown)[0])
    given = dict(zip(words[3::2], words[4::2], strict=True))
    request = pipeline.GenerationRequest.of(
        int(given["--n"]),
        label=given["--label"],
        seed=int(given["--seed"]),
        source=pipeline.FromPrior(prior=given["--prior"]),
    )
    clips = pipeline.generate(run, request, pipeline.Output(tmp_path / "new"), overrides=QUICK, compute=HERE)
    wanted = [soundfile.read(file, dtype="float32")[0] for file in clips.files]
    captions = page.every("audio", "aria-label")
    shown = [waveform for waveform, name in zip(page.sounds(), captions, strict=True) if name.startswith("generated")]
    for one, other in zip(wanted, shown, strict=False):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_sounds_that_do_not_fit_are_left_out_and_counted(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "EXAMPLE_BYTES", 60_000)
    page, result = made(run)
    [note] = [note for note in result["notes"] if "left out" in note]
    left_out = int(note.split()[0])
    assert 0 < left_out < 10
    assert note in page.shown
    assert sum(name.startswith("real") for name in page.every("audio", "aria-label")) == 10 - left_out


def figures(**more: Any) -> dict[str, Any]:
    """What `evaluate --prior` measures, as far as the verdict reads it."""
    accuracy = {"value": 0.5, "low": 0.4, "high": 0.6}
    rows = {name: {"accuracy": accuracy, "by_label": {}} for name in ("real", "oracle", "generated")}
    return {
        "clips": dict.fromkeys(rows, 10),
        "reference": 10,
        "rows": rows,
        "against_oracle": {"generated": {}},
        "critics": {},
        **more,
    }


def test_an_evaluation_is_shown_with_its_sounds_until_the_model_changes(run: Path) -> None:
    measured = pipeline.evaluate(run, n=1, overrides=QUICK, compute=HERE)
    path = run / "evaluation-default.json"
    tone = (0.5 * np.sin(np.arange(800) / 5)).astype(np.float32)
    kept = sounds.keep(run / "evaluation-default", [KeptRow("worst", "why", [KeptSound("<b>", "", tone)] * 2)], RATE)
    kept[0]["sounds"][1]["file"] = "../../elsewhere.wav"
    result = {
        "run": "run", "prior": "default", "split": "test", "clips_in_split": 5, "notes": [], "sounds": kept,
        "generation": figures(critics={"log_mel": {"auc": {"value": 0.6, "low": 0.5, "high": 0.7}}}),
    }  # fmt: skip
    info = pipeline.info(run)
    prints = {"autoencoder": info["autoencoder"]["fingerprint"], "prior": "another"}
    path.write_text(json.dumps(result | {"fingerprints": prints}))
    page, _ = made(run)
    assert "Generated clips are hard to tell from real ones" in page.shown
    assert "measured before the prior was trained again" in page.shown
    assert "1 sounds of this evaluation are no longer in evaluation-default/" in page.shown
    assert len(page.sounds()) == 5 * (2 * 3 + 1) + len(measured["sounds"][0]["sounds"]) + 1
    assert "log-mel L1, dB ↓" in page.shown
    path.write_text(json.dumps(result | {"fingerprints": prints, "generation": {"rows": 3}}))
    with pytest.raises(ArtifactError, match="evaluate the run again"):
        made(run)


def test_a_first_look_is_shown_until_there_is_more_or_a_model_changes(run: Path) -> None:
    opened = RunFolder(run)
    prints = fingerprints(opened, "default")
    kept = {
        "verdict": "6 of 24 are <i>right</i>",
        "clips": 24,
        "poor": True,
        "prior": "default",
        "fingerprints": prints,
    }
    path, evaluated = run / FILE, run / "evaluation-default.json"
    evaluated.unlink(missing_ok=True)

    def seen(**other: object) -> bool:
        path.write_text(json.dumps(kept | other))
        return kept_first_look(opened, "default") is not None

    assert seen()
    said = " ".join(made(run)[0].shown.split())
    assert "In a first look at 24 generated clips: 6 of 24 are <i>right</i>." in said
    assert "is not measured yet" not in said
    assert "actseq evaluate run --prior default measures more" in said
    assert not any(seen(fingerprints=prints | {name: "another"}) for name in prints)
    assert not seen(prior="other")
    assert not seen(clips=0)
    with pytest.raises(ArtifactError, match=r"first-look\.json is damaged"):
        seen(clips="many")
    assert seen()
    evaluated.write_text(
        json.dumps({"run": "run", "prior": "default", "split": "test", "clips_in_split": 5, "notes": [], "sounds": [],
                    "fingerprints": prints, "generation": figures()})
    )  # fmt: skip
    said = made(run)[0].shown
    assert "first look" not in said
    assert "is not measured yet" not in said
    path.unlink()
    evaluated.unlink()


@pytest.mark.parametrize(
    ("auc", "generated", "words"),
    [
        (0.4, 0.95, ("hard to tell from", "50 % of the cases", "Their labels are right: 95 %")),
        (0.8, 0.7, ("often told from", "80 % of the cases", "Most of their labels are right: 70 %")),
        (0.97, 0.3, ("easy to tell from", "97 % of the cases", "Many of their labels are wrong: 30 %")),
        (None, 0.3, ("differ from real ones by more than", "are recognised as the label that was asked for, 98 %")),
    ],
)
def test_the_verdict_is_plain(auc: float | None, generated: float, words: tuple[str, ...]) -> None:
    found = figures(critics={} if auc is None else {"log_mel": {"auc": {"value": auc}}})
    found["against_oracle"]["generated"]["mmd_statistics"] = {"value": 2.0, "low": 1.0, "high": 3.0}
    found["rows"]["generated"] = {"accuracy": {"value": generated}}
    found["rows"]["real"] = {"accuracy": {"value": 0.98}}
    said = verdict({"generation": found})
    assert all(part in said for part in words)
    assert said.count(". ") == 1


def test_without_labels_and_measures_the_verdict_says_so() -> None:
    assert verdict({"generation": figures(rows={"generated": {}, "real": {}})}) == (
        "Whether generated clips are like real ones was not measured, since there were too few clips."
    )


def test_a_long_name_may_be_broken_and_is_escaped() -> None:
    assert breakable("a_<b>-c 0.2 s") == "a_&lt;b&gt;-<wbr>c 0.2 s"
    assert breakable("kit__open_hat") == "kit_<wbr>_<wbr>open_<wbr>hat"
