"""Nothing that actseq did not write is ever replaced, and nothing that a call reads."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from actseq import audio, pipeline
from actseq.audio.origin import safe_name
from actseq.commands.clip_writer import FORMATS
from actseq.commands.outputs import numbered
from actseq.data.drumkit import write_drumkit
from actseq.errors import ActseqError, AudioError, ConfigError
from actseq.inference.request import FromPrior, GenerationRequest, Through, Variations

CPU = pipeline.Compute("cpu", 1)
RATE = 8000
QUICK = ["vocoder={kind: griffin-lim, n_iter: 1}"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is hardly trained."""
    made: Path = tmp_path_factory.mktemp("outputs")
    write_drumkit(made / "sounds", n_per_kind=2, sample_rate=RATE)
    sounds = made / "sounds"
    pipeline.train_ae(sounds, "smoke", run=str(sounds / "run"), overrides=["train_ae.steps=2"], compute=CPU)
    pipeline.extract_latents(sounds / "run", compute=CPU)
    return sounds / "run"


def sound(path: Path) -> Path:
    audio.write(path, (0.3 * np.sin(np.arange(4000) / 5)).astype(np.float32), RATE)
    return path


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def generate(run: Path, out: Path, request: GenerationRequest | None = None, **output: object) -> list[str]:
    request = request or GenerationRequest(FromPrior("iid"), n=2, seconds=0.2)
    where = pipeline.Output(out, **output)  # type: ignore[arg-type]
    return pipeline.generate(run, request, where, overrides=QUICK, compute=CPU).files


def reconstruct(run: Path, out: Path, *paths: Path, **more: bool) -> list[str]:
    found = pipeline.reconstruct(run, paths, out=out, overrides=QUICK, compute=CPU, **more)
    return list(found["files"])


Call = Callable[[Path, Path], object]
OVER = {
    "a clip": ("clip-01.wav", lambda run, d: generate(run, d)),
    "the JSON of a clip": ("clip-02.json", lambda run, d: generate(run, d)),
    "a dry clip": (
        "clip-01.dry.wav",
        lambda run, d: pipeline.generate(
            run,
            GenerationRequest(FromPrior("iid"), seconds=0.2),
            pipeline.Output(d, keep_dry=True, overwrite=True),
            overrides=[*QUICK, "generate.effects=[{kind: fade}]"],
            compute=CPU,
        ),
    ),
    "overwrite": ("clip-01.wav", lambda run, d: generate(run, d, overwrite=True)),
    "compiled": ("all.wav", lambda run, d: generate(run, d / "new", compile_to=d / "all.wav", overwrite=True)),
    "neighbour": ("kick.wav", lambda run, d: reconstruct(run, d, sound(d / "kick.flac"), overwrite=True)),
    "folder": ("clip-01.wav", lambda run, d: reconstruct(run, d, d)),
    "picture": ("frames.png", lambda run, d: pipeline.plot(run, out=d, overwrite=True, overrides=QUICK, compute=CPU)),
    "table": ("octaves.csv", lambda run, d: pipeline.plot(run, out=d, overrides=QUICK, compute=CPU)),
    "drumkit": ("kick/kick-000.wav", lambda run, d: write_drumkit(d, n_per_kind=1, sample_rate=RATE)),
}


def test_a_run_and_its_sounds_inside_the_sound_folder_change_nothing(run: Path) -> None:
    generate(run, run.parent / "new")
    reconstruct(run, run.parent / "new", run.parent / "kick" / "kick-000.wav")
    again = pipeline.train_ae(run.parent, "smoke", run=str(run), overrides=["train_ae.steps=2"], compute=CPU)
    assert again["run"] == str(run)
    more = ["train_ae.steps=2", "corpus.include_generated=true"]
    with pytest.raises(ActseqError, match="is not what run run was made from"):
        pipeline.train_ae(run.parent, "smoke", run=str(run), overrides=more, compute=CPU)


def test_a_table_of_labels_may_lie_elsewhere_but_not_say_other_things(run: Path, tmp_path: Path) -> None:
    names = sorted(path.relative_to(run.parent).as_posix() for path in run.parent.glob("*/*.wav"))
    table = "file,label\n" + "".join(f"{name},{'ab'[i % 2]}\n" for i, name in enumerate(names))

    def train(path: Path) -> Any:
        settings = ["train_ae.steps=2", f"corpus.labels={path}"]
        return pipeline.train_ae(run.parent, "smoke", run=str(tmp_path / "r"), overrides=settings, compute=CPU)

    (tmp_path / "one.csv").write_text(table)
    (tmp_path / "moved.csv").write_text(table)
    (tmp_path / "other.csv").write_text(table.replace(",a", ",c"))
    first = train(tmp_path / "one.csv")
    assert train(tmp_path / "moved.csv")["fingerprint"] == first["fingerprint"]
    with pytest.raises(ActseqError, match="is not what run r was made from"):
        train(tmp_path / "other.csv")


@pytest.mark.parametrize("what", OVER)
def test_a_file_of_the_user_is_never_replaced(run: Path, tmp_path: Path, what: str) -> None:
    name, call = OVER[what]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(ActseqError, match=Path(name).name) as raised:
        call(run, tmp_path)
    assert raised.value.action
    left = everything(tmp_path)
    assert left.pop(name) == b"mine"
    assert not {other for other in left if other != "kick.flac"}


def test_an_input_is_never_replaced_even_if_actseq_made_it(run: Path, tmp_path: Path) -> None:
    generate(run, tmp_path, GenerationRequest(FromPrior("iid"), n=2, label="kick", seconds=0.2))
    before = everything(tmp_path)
    given = tmp_path / "kick-01.wav"
    (tmp_path / "link").symlink_to(tmp_path)
    os.link(given, tmp_path / "again.wav")
    seeded = GenerationRequest(FromPrior("iid", given), label="kick", seconds=0.2)
    varied = GenerationRequest(Variations(tmp_path / "again.wav"), label="kick")
    through = GenerationRequest(Through((tmp_path / "kick-02.wav", given)))
    calls: list[Callable[[], object]] = [
        lambda: generate(run, tmp_path, seeded, overwrite=True),
        lambda: generate(run, tmp_path / "link", seeded, overwrite=True),
        lambda: generate(run, tmp_path, varied, overwrite=True),
        lambda: generate(run, tmp_path / "new", GenerationRequest(Variations(given)), compile_to=given, overwrite=True),
        lambda: generate(run, tmp_path / "new", through, compile_to=given, overwrite=True),
        lambda: reconstruct(run, tmp_path, given, overwrite=True),
    ]
    for call in calls:
        with pytest.raises(AudioError, match="is an input of this call"):
            call()
        assert everything(tmp_path) == before | {"again.wav": before["kick-01.wav"]}


def test_overwrite_replaces_what_actseq_made(run: Path, tmp_path: Path) -> None:
    three = GenerationRequest(FromPrior("iid"), n=3, seconds=0.2)
    generate(run, tmp_path, three, compile_to=tmp_path / "all.wav")
    before = everything(tmp_path)
    with pytest.raises(AudioError, match=r"--overwrite"):
        generate(run, tmp_path)
    assert everything(tmp_path) == before
    other = GenerationRequest(FromPrior("iid"), n=2, seconds=0.2, seed=1)
    generate(run, tmp_path, other, compile_to=tmp_path / "all.wav", overwrite=True)
    after = everything(tmp_path)
    assert after.keys() == before.keys()
    assert {name for name in before if after[name] == before[name]} == {"clip-03.wav", "clip-03.json"}
    assert json.loads(after["all.json"])["clips"] == [str(tmp_path / name) for name in ("clip-01.wav", "clip-02.wav")]


def test_reconstructions_and_pictures_are_replaced_on_request(run: Path, tmp_path: Path) -> None:
    given = sound(tmp_path / "kick.flac")
    for _ in range(2):
        reconstruct(run, tmp_path / "out", given, overwrite=True)
        pipeline.plot(run, out=tmp_path / "plots", overwrite=True, n=2, overrides=QUICK, compute=CPU)
    about = json.loads((tmp_path / "out" / "kick.json").read_text())
    assert about["file"] == "kick.wav"
    assert about["source"] == str(given)
    with pytest.raises(AudioError, match=r"kick\.wav"):
        reconstruct(run, tmp_path / "out", given)
    with pytest.raises(AudioError, match=r"--overwrite"):
        pipeline.plot(run, out=tmp_path / "plots", n=2, overrides=QUICK, compute=CPU)


def test_results_of_one_name_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="several results"):
        generate(run, tmp_path, compile_to=tmp_path / "clip-02.flac")
    with pytest.raises(AudioError, match="several results"):
        reconstruct(run, tmp_path / "out", sound(tmp_path / "a.wav"), sound(tmp_path / "a.flac"))
    assert not (tmp_path / "clip-01.wav").exists()


@pytest.mark.parametrize(
    ("label", "name"),
    [
        (None, "clip"),
        ("snare", "snare"),
        ("kick:hat", "kick-hat"),
        ("../a b/c.wav", "a-b-c-wav"),
        ("?*", "clip"),
        ("Bo\u0308se", "B\u00f6se"),
        ("Bo\u0308se" * 99, ("B\u00f6se" * 99)[:48]),
    ],
)
def test_a_label_becomes_the_name_of_a_file(label: str | None, name: str) -> None:
    assert safe_name(label) == name


@pytest.mark.parametrize(
    ("request_", "called"),
    [
        (GenerationRequest(), ""),
        (GenerationRequest(label="snare"), "snare"),
        (GenerationRequest(FromPrior(seed_audio=Path("a/my kick.wav"))), "my kick"),
        (GenerationRequest(FromPrior(seed_audio=Path("a/my kick.wav")), label="snare"), "snare"),
        (GenerationRequest(FromPrior(seed_latents=Path("hat.safetensors"))), "hat"),
        (GenerationRequest(Variations(Path("tom.flac"))), "tom"),
        (GenerationRequest(Variations(np.zeros(9, np.float32))), ""),
        (GenerationRequest(Through((Path("a.wav"), Path("b.wav"), Path("c.wav")))), "a-c"),
        (GenerationRequest(Through((Path("a.wav"), Path("b.wav"), Path("a.wav")))), "a"),
    ],
)
def test_clips_are_called_after_their_label_or_their_sound(request_: GenerationRequest, called: str) -> None:
    assert request_.called == called


@pytest.mark.parametrize(("kind", "bits"), [(kind, bits) for kind in FORMATS for bits in (16, 24, 32)])
def test_clips_have_the_format_and_the_bits_of_the_call(run: Path, tmp_path: Path, kind: str, bits: int) -> None:
    if (kind, bits) == ("flac", 32):
        with pytest.raises(ConfigError, match="--format flac with --bits 32; expected --bits 16 or 24"):
            pipeline.Output(tmp_path, format=kind, bits=bits)
        return
    request = GenerationRequest(FromPrior("iid"), seconds=0.1, seed=1)
    [file] = generate(run, tmp_path, request, format=kind, bits=bits, compile_to=tmp_path / f"all.{kind}")
    for path in (Path(file), tmp_path / f"all.{kind}"):
        found = soundfile.info(path)
        assert (path.suffix, found.format, found.frames) == (f".{kind}", kind.upper(), RATE // 10)
        assert found.subtype == {16: "PCM_16", 24: "PCM_24", 32: "FLOAT"}[bits]
    [whole] = generate(run, tmp_path / "float", request, bits=32)
    np.testing.assert_allclose(audio.load(Path(file))[0], audio.load(Path(whole))[0], atol=2.0**-bits)


def test_a_format_that_is_not_offered_is_refused() -> None:
    with pytest.raises(ConfigError, match="--format is ogg; expected one of wav, flac, aiff"):
        pipeline.Output(format="ogg")


def test_numbers_are_wide_enough_to_sort() -> None:
    assert numbered("snare", 2) == ["snare-01", "snare-02"]
    names = numbered("snare", 100)
    assert (names[0], names[-1], sorted(names)) == ("snare-001", "snare-100", names)


def test_a_wrong_ending_is_refused_before_the_first_clip(run: Path, tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="a path ending in"):
        generate(run, tmp_path / "out", compile_to=tmp_path / "all.xyz")
    assert not (tmp_path / "out").exists()


def test_a_kit_is_completed_but_never_changed(tmp_path: Path) -> None:
    paths = write_drumkit(tmp_path, n_per_kind=1, sample_rate=RATE)
    whole = everything(tmp_path)
    paths[2].unlink()
    write_drumkit(tmp_path, n_per_kind=1, sample_rate=RATE)
    assert everything(tmp_path) == whole
    with pytest.raises(ConfigError, match="is not the hit"):
        write_drumkit(tmp_path, n_per_kind=1, sample_rate=RATE, seed=1)
    assert everything(tmp_path) == whole
