"""`plot` and `train-ae --find-lr` as a user gives them: what they write, and what they leave alone."""

import csv
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from actseq_cli.main import main  # type: ignore[import-untyped, unused-ignore]
from click.testing import CliRunner, Result
from matplotlib.image import imread

USE = ["--threads", "1", "--device", "cpu"]
SMOKE = ["--preset", "smoke", *USE, "--steps", "3"]
OF_EVERY_RUN = {"losses-autoencoder", "frames", "spectrum", "octaves", "latent-map"} | {
    f"code-{name}" for name in ("distributions", "quantiles", "correlations", "dimensions", "kl")
}


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def read(*arguments: object) -> dict[str, Any]:
    """The result of a command as JSON; nothing else may be on standard output."""
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def refused(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 1, result.output
    return result.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def sounds(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Spoken digits of two speakers, in a folder to work in."""
    import torch

    folder = tmp_path_factory.mktemp("plots")
    before, threads = Path.cwd(), torch.get_num_threads()
    os.chdir(folder)
    found = sorted((data_dir / "digits_fsdd").rglob("*.wav"))
    for label in ("0", "1"):
        (folder / "sounds" / label).mkdir(parents=True)
        for path in [path for path in found if path.name.startswith(f"{label}_")][:12]:
            shutil.copyfile(path, folder / "sounds" / label / path.name)
    assert len(list((folder / "sounds").rglob("*.wav"))) == 24
    yield folder / "sounds"
    os.chdir(before)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def run(sounds: Path) -> Path:
    read("train-ae", sounds, *SMOKE, "--run", "plain")
    return Path("runs/plain")


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_plot_writes_pictures_and_their_numbers(run: Path) -> None:
    result = read("plot", "plain", *USE)
    pictures = [Path(path) for path in result["pictures"]]
    assert {path.stem for path in pictures} == OF_EVERY_RUN
    assert {path.parent for path in pictures} == {Path(result["folder"])} == {run / "plots"}
    for path in pictures:
        height, width = imread(path).shape[:2]
        assert min(height, width) > 200
        assert len(rows(path.with_suffix(".csv"))) > 1
    assert (run / "plots" / "losses-autoencoder.csv").read_bytes() == (run / "autoencoder" / "metrics.csv").read_bytes()
    assert (result["split"], result["clips"], result["clips_in_split"]) == ("test", 2, 2)
    heading, *dimensions = rows(run / "plots" / "code-dimensions.csv")
    distances = [float(row[heading.index("ks")]) for row in dimensions]
    assert len(distances) == result["codes"]["dims"]
    assert max(distances) == pytest.approx(result["codes"]["ks"]["largest"], abs=1e-6)
    assert int(np.argmax(distances)) == result["codes"]["ks"]["largest_in"]


def test_plot_for_a_person_and_elsewhere(run: Path, tmp_path: Path) -> None:
    shown = call("plot", "plain", *USE, "--out", tmp_path / "here", "--split", "validation", "--n", 1, "--seed", 3)
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    assert "1 validation clip, " in lines[0]
    assert "1 of 2 clips, drawn at random" in lines
    assert any(line.startswith("distance from the prior (KS)") for line in lines)
    assert any(line.startswith("output − original, dB") for line in lines)
    assert lines[-1].endswith(str(tmp_path / "here"))
    assert (tmp_path / "here" / "spectrum.png").is_file()


def test_plot_needs_a_trained_run(run: Path, tmp_path: Path) -> None:
    assert "no run at" in refused("plot", "nowhere", *USE)
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(run / "config.yaml", unfinished)
    assert "train-ae" in refused("plot", f"{unfinished}/", *USE)
    assert not (unfinished / "plots").exists()


def test_plot_zooms_into_the_losses(run: Path, tmp_path: Path) -> None:
    whole = rows(run / "autoencoder" / "metrics.csv")
    result = read("plot", "plain", *USE, "--steps", "2:3", "--out", tmp_path / "zoom")
    assert [Path(path).name for path in result["pictures"]] == ["losses-autoencoder-2-3.png"]
    assert result["steps"] == [2, 3]
    assert imread(result["pictures"][0]).shape[0] > 200
    heading, *found = rows(tmp_path / "zoom" / "losses-autoencoder-2-3.csv")
    assert heading[0] == "step"
    assert set(heading) <= set(whole[0])
    expected = {row[0]: dict(zip(whole[0], row, strict=True)) for row in whole[1:] if 2 <= int(row[0]) <= 3}
    assert [row[0] for row in found] == list(expected)
    for row in found:
        for name, cell in zip(heading, row, strict=True):
            assert float(cell or "nan") == pytest.approx(float(expected[row[0]][name] or "nan"), nan_ok=True)
    assert sorted(path.name for path in (tmp_path / "zoom").iterdir()) == [
        "losses-autoencoder-2-3.csv", "losses-autoencoder-2-3.png", "plot.json",
    ]  # fmt: skip
    assert "losses-autoencoder-2-3.png" in refused("plot", "plain", *USE, "--steps", "2:3", "--out", tmp_path / "zoom")
    again = call("plot", "plain", *USE, "--steps", "2:3", "--out", tmp_path / "zoom", "--overwrite")
    assert again.stdout.splitlines()[-1].startswith("1 picture, ")


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("7:9", "no values from step 7 to 9; expected steps with values: there are"),
        ("3:2", "--steps 3:2; expected 0 ≤ A ≤ B"),
        ("-1:2", "--steps -1:2; expected 0 ≤ A ≤ B"),
        ("all", "--steps is 'all'; expected A:B, the first and the last step, such as 0:1000"),
    ],
)
def test_plot_says_which_steps_there_are(run: Path, steps: str, message: str) -> None:
    assert message in refused("plot", "plain", *USE, f"--steps={steps}")


@pytest.mark.parametrize("option", [["--n", 3], ["--split", "test"], ["--set", "vocoder.kind=phase"]])
def test_steps_look_at_no_clip(run: Path, option: list[object]) -> None:
    assert f"{option[0]} with --steps, which looks at no clip" in refused("plot", "plain", "--steps", "2:3", *option)


def test_damaged_losses_are_not_passed_over(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "plain")
    shutil.copytree(tmp_path / "plain" / "autoencoder", tmp_path / "plain" / "priors" / "damaged")
    losses = tmp_path / "plain" / "priors" / "damaged" / "metrics.csv"
    losses.write_text(losses.read_text() + "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n")
    assert "as the header" in refused("plot", tmp_path / "plain", *USE, "--steps", "1:20")


def kept(run: Path) -> dict[str, bytes]:
    """All of a run but its settings' time and place, and its pictures."""
    files = [
        path for path in run.rglob("*") if path.is_file() and path.suffix in (".safetensors", ".json", ".csv", ".jsonl")
    ]
    return {str(path.relative_to(run)): path.read_bytes() for path in files if path.parent.name != "plots"}


def test_find_lr_trains_nothing_and_is_as_if_it_had_not_been(run: Path, sounds: Path) -> None:
    command = ["train-ae", sounds, *SMOKE, "--run", "looked"]
    result = read(*command, "--find-lr")
    picture = Path(result["picture"])
    assert picture == Path("runs/looked/plots/learning-rate.png")
    assert imread(picture).shape[0] > 200
    heading, *steps = rows(picture.with_suffix(".csv"))
    assert heading == ["step", "learning_rate", "loss", "smoothed"]
    assert len(steps) == result["steps"] > 50
    rates = [float(row[1]) for row in steps]
    assert rates == sorted(rates)
    assert result["configured"] == 0.002
    assert 1e-5 < result["suggested"] < result["lowest"] < 1
    assert not Path("runs/looked/autoencoder").exists()
    before = picture.read_bytes()
    assert f"--set train_ae.learning_rate={result['suggested']:.2g} " in call(*command, "--find-lr").stdout
    assert picture.read_bytes() == before
    read(*command)
    assert kept(Path("runs/looked")) == kept(run)


def test_a_rate_that_was_found_can_be_taken_up_until_the_training_has_begun(sounds: Path) -> None:
    command = ["train-ae", sounds, *SMOKE, "--run", "taken", "--set"]
    read(*command, "train_ae.learning_rate=0.002", "--find-lr")
    read(*command, "train_ae.learning_rate=0.001")
    assert "learning_rate: 0.001" in Path("runs/taken/config.yaml").read_text()
    assert "train_ae.learning_rate 0.001 instead of 0.002" in refused(*command, "train_ae.learning_rate=0.002")
    assert "train_ae.learning_rate" in refused(*command, "train_ae.learning_rate=0.002", "--find-lr")


def test_what_is_fitted_has_no_learning_rate(sounds: Path) -> None:
    fitted = ["--set", "autoencoder.network={kind: pca}", "--set", "autoencoder.bottleneck={kind: plain}"]
    assert "fitted, not trained" in refused("train-ae", sounds, *SMOKE, "--run", "fitted", *fitted, "--find-lr")
    assert not Path("runs/fitted").exists()
