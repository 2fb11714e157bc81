"""One request and one compute object: what `generate` is given by the library and by the command line."""

import inspect
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from actseq_cli.main import main  # type: ignore[import-untyped, unused-ignore]
from click.testing import CliRunner

from actseq import pipeline
from actseq.commands.generate import GenerationResult
from actseq.errors import ConfigError
from actseq.inference.request import FromPrior, GenerationRequest, Through, Variations
from actseq.priors.base import Sampling


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What the command line hands to `pipeline.generate`, which does nothing."""
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "config.yaml").touch()
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}

    def record(run: str, request: Any, output: Any, *, overrides: list[str], compute: Any) -> GenerationResult:
        found.update(run=run, request=request, output=output, overrides=overrides, compute=compute)
        return GenerationResult(run, "new", [], 0.0, request.seed)

    monkeypatch.setattr(pipeline, "generate", record, raising=False)
    return found


def called(*words: object) -> None:
    result = CliRunner().invoke(main, ["generate", "mine", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_the_library_takes_one_request_and_one_compute() -> None:
    hints = typing.get_type_hints(pipeline.generate)
    assert hints["request"] is GenerationRequest
    assert hints["compute"] is pipeline.Compute
    assert list(inspect.signature(pipeline.generate).parameters) == ["run", "request", "output", "overrides", "compute"]


def test_the_command_line_makes_one_request_and_one_compute(given: dict[str, Any]) -> None:
    called("--n", 3, "--label", "kick:hat", "--seconds", 0.5, "--temperature", 0.8, "--seed", 5, "--prior", "gru")
    request = given["request"]
    assert (request.n, request.label, request.seconds, request.seed) == (3, "kick:hat", 0.5, 5)
    assert request.source == FromPrior("gru")
    assert request.given == {"temperature": 0.8}
    called(
        "--device",
        "cpu",
        "--threads",
        2,
        "--out",
        "there",
        "--compile",
        "all.wav",
        "--keep-dry",
        "--effect",
        "eq:gain=3",
    )
    assert (given["compute"].device, given["compute"].threads) == ("cpu", 2)
    assert given["output"] == pipeline.Output(Path("there"), Path("all.wav"), True)
    assert given["overrides"] == ['generate.effects=[{"kind": "eq", "gain": "3"}]']


def test_each_way_of_the_command_line_is_a_source(given: dict[str, Any]) -> None:
    ways = {
        (): FromPrior(),
        ("--seed-audio", "a.wav", "--seed-seconds", 0.3, "--without-seed"): FromPrior(None, Path("a.wav"), 0.3, False),
        ("--seed-latents", "a.npz", "--prior", "gru"): FromPrior("gru", seed_latents=Path("a.npz")),
        ("--seed-audio", "a.wav", "--redo", "0.4:0.9", "--prior", "b"): FromPrior("b", Path("a.wav"), redo=(0.4, 0.9)),
        ("--redo", "0:-", "--seed-audio", "a.wav"): FromPrior(None, Path("a.wav"), redo=(0.0, None)),
        ("--through", "a.wav,b.wav"): Through((Path("a.wav"), Path("b.wav"))),
        ("--vary", "a.wav", "--amount", 0.7): Variations(Path("a.wav"), 0.7),
    }
    for words, source in ways.items():
        called(*words)
        assert given["request"].source == source


def test_a_name_may_have_a_comma(given: dict[str, Any]) -> None:
    Path("a,b.wav").touch()
    called("--through", "a,b.wav,c.wav")
    assert given["request"].source == Through((Path("a,b.wav"), Path("c.wav")))


def test_every_control_has_an_option_and_no_other_name_does(given: dict[str, Any]) -> None:
    called()
    names = set(given["request"].controls)
    assert names == set(Sampling.__dataclass_fields__) | {"min_seconds", "max_seconds", "best_of"}


def test_plain_names_make_a_request() -> None:
    sound = np.ones(8, np.float32)
    request = GenerationRequest.of(2, label="a", seed_audio=sound, include_seed=False, top_p=0.5, bias=None)
    assert (request.n, request.label, request.given) == (2, "a", {"top_p": 0.5})
    assert isinstance(request.source, FromPrior)
    assert request.source.seed_audio is sound
    assert not request.source.include_seed
    with pytest.raises(ConfigError, match="exclude each other"):
        GenerationRequest.of(source=Through((sound, sound)), seed_audio=sound)
    both = GenerationRequest.of(controls={"temperature": 0.5}, guidance=2.0)
    assert both.given == {"temperature": 0.5, "guidance": 2.0}
    with pytest.raises(ConfigError, match="exclude each other"):
        GenerationRequest(seconds=1.0, until_stop=True)
    assert GenerationRequest.of(seed=7).seed == 7
    assert GenerationRequest.of(seed=None).seed != GenerationRequest().seed
    with pytest.raises(ConfigError, match="n is 0; expected at least 1"):
        GenerationRequest(n=0)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--seed-audio a.wav --redo 0.4:0.9 --seconds 1", "--redo and --seconds exclude each other"),
        ("--seed-audio a.wav --redo 0.4:0.9 --until-stop", "--redo and --until-stop exclude"),
        ("--seed-audio a.wav --redo 0.4:0.9 --min-seconds 1", "--redo and --min-seconds exclude"),
        ("--seed-audio a.wav --redo 0.4:0.9 --max-seconds 1", "--redo and --max-seconds exclude"),
        ("--vary a.wav --redo 0.4:0.9", "--redo and --vary exclude each other"),
        ("--through a.wav,b.wav --redo 0.4:0.9", "--redo and --through exclude each other"),
        ("--seed-audio a.wav --redo 0.4:0.9 --seed-seconds 1", "--redo and --seed-seconds exclude each other"),
        ("--seed-audio a.wav --redo 0.4:0.9 --without-seed", "--redo and --without-seed exclude each other"),
        ("--redo 0.4:0.9", "name the recording: --seed-audio"),
        ("--redo 0.4:0.9 --seed-latents a.npz", "name the recording: --seed-audio"),
        ("--seed-audio a.wav --redo 0.9:0.4", "--redo is 0.9:0.4; expected 0 ≤ FROM < TO"),
        ("--seed-audio a.wav --redo nan:1", "expected 0 ≤ FROM < TO"),
        ("--seed-audio a.wav --redo=-1:1", "expected 0 ≤ FROM < TO"),
        ("--seed-audio a.wav --redo 0.4", "--redo is '0.4'; expected FROM:TO"),
        ("--seed-audio a.wav --redo a:b", "--redo is 'a:b'; expected FROM:TO"),
    ],
)
def test_what_does_not_go_with_a_region_is_refused(given: dict[str, Any], words: str, expected: str) -> None:
    result = CliRunner().invoke(main, ["generate", "mine", *words.split()])
    assert result.exit_code != 0
    assert expected in " ".join((result.output + str(result.exception)).split())
    assert not given


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--amount 0.5", "--amount without --vary"),
        ("--seed-seconds 1", "--seed-seconds without --seed-audio or --seed-latents"),
        ("--without-seed", "--with-seed or --without-seed without --seed-audio or --seed-latents"),
        ("--seconds nan", "nan is not a finite number"),
        ("--seconds inf", "inf is not a finite number"),
        ("--temperature nan", "nan is not a finite number"),
        ("--top-p nan", "nan is not a finite number"),
        ("--vary a.wav --amount nan", "nan is not a finite number"),
        ("--seed 9223372036854775808", "9223372036854775808 is out of bounds; expected a whole number from 0 up to"),
        ("--n 99999999999", "99999999999 is out of bounds; expected a whole number from 1 up to"),
    ],
)
def test_half_an_option_and_what_is_no_number_are_refused(given: dict[str, Any], words: str, expected: str) -> None:
    result = CliRunner().invoke(main, ["generate", "mine", *words.split()])
    assert result.exit_code != 0
    assert expected in " ".join((result.output + str(result.exception)).split())
    assert not given


def test_the_help_of_generate_is_in_groups() -> None:
    text = CliRunner().invoke(main, ["generate", "--help"]).output
    titles = ["What:", "How long:", "How to draw", "Effects:", "Output:", "Common options:"]
    places = [text.index(f"\n{title}") for title in titles]
    assert places == sorted(places)
    assert places[0] < text.index("--label") < places[1] < text.index("--seconds NUMBER") < places[2]


def test_each_example_of_set_is_accepted() -> None:
    from actseq.config import STAGE_SECTIONS, load_preset, override

    for name, command in main.commands.items():
        for option in command.params:
            if option.name == "overrides":
                example = option.help.split("e.g. ")[1].split(". ")[0]
                stage = name if name in STAGE_SECTIONS else "generate"
                override(load_preset("drums"), [example], "train-ae" if name == "run" else stage)
