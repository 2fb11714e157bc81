"""What a run makes of a request: lengths that are kept, settings that do not apply, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actseq
from actseq import audio, pipeline
from actseq.errors import ArtifactError, ConfigError
from actseq.inference.loaded_run import LoadedRun
from actseq.inference.request import FromPrior, GenerationRequest, Through, Variations
from actseq.storage.artifacts import content_hash

OLD = Path(__file__).parents[1] / "old_runs"
KICKS = [OLD / "sounds" / "kick" / f"kick-{i:03d}.wav" for i in (2, 3)]


@pytest.fixture(scope="module")
def drums() -> LoadedRun:
    """A run with an LSTM that ends its clips."""
    return LoadedRun.open(OLD / "drums", device="cpu")


def test_a_variation_is_as_long_as_its_sound(drums: LoadedRun) -> None:
    for samples in (1500, 1501, 1600):
        sound = audio.load(KICKS[0])[0][:samples]
        for amount in (0.0, 0.3):
            [varied] = drums.generate(source=Variations(sound, amount), seed=1)
            assert len(varied) == len(drums.reconstruct(sound)) == samples


def test_a_glide_needs_a_length(drums: LoadedRun) -> None:
    with pytest.raises(ConfigError, match=r"the glide kick:hat has no length, .*; give it, such as --seconds 4"):
        drums.generate(label="kick:hat")
    [clip] = drums.generate(label="kick:hat", seconds=0.2, seed=1)
    assert len(clip) == round(0.2 * drums.sample_rate)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"seconds": 0.2, "max_seconds": 0.1}, "--max-seconds bounds where the prior ends a clip; each is 0.2 s long"),
        ({"label": "kick:hat", "seconds": 0.2, "min_seconds": 0.1}, "--min-seconds bounds"),
        ({"source": Variations(KICKS[0]), "max_seconds": 0.1}, "a variation is as long as its sound"),
        ({"source": Variations(KICKS[0]), "min_seconds": 0.1}, "a variation is as long as its sound"),
        ({"seconds": -1.0}, "--seconds is -1; expected a finite number of seconds above 0"),
        ({"seconds": float("nan")}, "--seconds is nan"),
        ({"seed": -1}, "seed is -1; expected 0 or more"),
        ({"seed_seconds": 0.1}, "--seed-seconds without --seed-audio"),
        ({"include_seed": False}, "--without-seed without --seed-audio"),
        ({"seed_audio": KICKS[0], "seed_seconds": 0.0}, "--seed-seconds is 0"),
    ],
)
def test_numbers_that_would_change_nothing_or_mean_nothing_are_refused(
    drums: LoadedRun, given: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        drums.generate(**given)


def test_sequences_in_a_row_have_a_shortest_length(drums: LoadedRun) -> None:
    """As a setting of the run has."""
    configured = LoadedRun.open(OLD / "drums", device="cpu", overrides=["generate.min_seconds=0.35"])
    given = drums.generate(4, seconds=0.8, seed=1, min_seconds=0.35)
    assert all(map(np.array_equal, given, configured.generate(4, seconds=0.8, seed=1)))
    assert not all(map(np.array_equal, given, drums.generate(4, seconds=0.8, seed=1)))


def test_bounds_are_refused_where_the_run_has_a_length() -> None:
    run = LoadedRun.open(OLD / "drums", device="cpu", overrides=["generate.seconds=0.2"])
    with pytest.raises(ConfigError, match=r"each is 0\.2 s long; leave it out, or let the prior end the clips"):
        run.generate(max_seconds=0.1)
    [clip] = run.generate(max_seconds=0.1, until_stop=True, seed=1)
    assert len(clip) <= 0.13 * run.sample_rate


def test_latents_are_sampled_as_clips_are(drums: LoadedRun) -> None:
    [latents] = drums.sample(1, label="kick", seed=2)
    [clip] = drums.generate_clips(1, label="kick", seed=2)
    np.testing.assert_array_equal(latents, clip.latents)
    with pytest.raises(ConfigError, match="prior default is loaded, not iid"):
        drums.sample(1, prior="iid")
    with pytest.raises(ConfigError, match="latents of a cycle"):
        drums.sample(1, loop=True, seconds=0.2)


def test_a_configured_choice_of_the_best_counts_only_where_there_is_a_likelihood() -> None:
    several = LoadedRun.open(OLD / "drums", device="cpu", overrides=["generate.best_of=3"])
    one = LoadedRun.open(OLD / "drums", device="cpu")
    glide: dict[str, Any] = {"label": "kick:hat", "seconds": 0.2, "seed": 1}
    np.testing.assert_array_equal(several.generate(**glide)[0], one.generate(**glide)[0])
    varied: dict[str, Any] = {"source": Variations(KICKS[0]), "seed": 1}
    np.testing.assert_array_equal(several.generate(**varied)[0], one.generate(**varied)[0])
    assert not np.array_equal(several.generate(seconds=0.3, seed=1)[0], one.generate(seconds=0.3, seed=1)[0])
    with pytest.raises(ConfigError, match="the likeliest of several cannot be chosen here"):
        one.generate(**glide, best_of=2)


def test_what_needs_no_prior_works_beside_one_that_no_longer_fits(tmp_path: Path) -> None:
    run = Path(shutil.copytree(OLD / "drums", tmp_path / "drums"))
    path = run / "priors" / "default" / "model.json"
    about = json.loads(path.read_text())
    about["inputs"]["autoencoder"] = content_hash({"another": 1})
    path.write_text(json.dumps(about))
    for lists in run.rglob("hashes.json"):
        lists.unlink()
    compute = pipeline.Compute("cpu", 1)
    with pytest.raises(ArtifactError, match="another autoencoder"):
        pipeline.generate(run, GenerationRequest(seed=1), compute=compute)
    for source in (Through(tuple(KICKS)), Variations(KICKS[0])):
        made = pipeline.generate(run, GenerationRequest(source=source, seed=1), compute=compute)
        about = json.loads(Path(made.files[0]).with_suffix(".json").read_text())
        assert "prior" not in about["fingerprints"]
        assert about["prior"] == ("interpolate" if isinstance(source, Through) else "vary")


@pytest.mark.parametrize("kind", ["prior", "vocoder"])
@pytest.mark.parametrize("words", [["train_prior.learning_rate=0.001"], []])
def test_a_training_that_goes_on_takes_no_other_settings(tmp_path: Path, kind: str, words: list[str]) -> None:
    run = Path(shutil.copytree(OLD / "drums", tmp_path / "drums"))
    if kind == "vocoder":
        words = [word.replace("train_prior", "train_vocoder") for word in words]
        shutil.copytree(run / "priors" / "default", run / "vocoders" / "default")
    train = pipeline.train_prior if kind == "prior" else pipeline.train_vocoder
    seed = None if words else 3
    with pytest.raises(ConfigError, match=f"--more and {words[0] if words else '--seed 3'}: a finished training"):
        train(run, overrides=words, seed=seed, budget=pipeline.Budget(more=0.1), compute=pipeline.Compute("cpu", 1))


def test_the_api_loads_it_too() -> None:
    run = actseq.load_run(OLD / "drums", device="cpu")
    request = GenerationRequest(seconds=0.2)
    assert run.length_of(request) == 0.2
    assert run.length_of(GenerationRequest()) is None
    assert run.length_of(GenerationRequest(source=FromPrior(seed_audio=KICKS[0], redo=(0.1, 0.2)))) is None
