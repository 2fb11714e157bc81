"""The decoder that is tuned on what a prior makes: where it lies, who uses it, what is refused, what it learns."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from actseq import build, pipeline
from actseq.commands import tune_decoder as tuning
from actseq.commands.common import NO_BUDGET
from actseq.config import load_preset
from actseq.data.corpus import Corpus
from actseq.data.drumkit import write_drumkit
from actseq.data.latents import DecoderSource, SequenceSource
from actseq.errors import ArtifactError, ConfigError, Interrupted
from actseq.inference.loaded_run import LoadedRun
from actseq.inference.loading import DECODER, load_latents
from actseq.progress import Silent
from actseq.storage.artifacts import load_tensors, read_json
from actseq.training.conduct import Budget

CPU = pipeline.Compute("cpu", 1)
NETWORK = {"kind": "clip-flow", "width": 24, "layers": 1, "heads": 2, "inner": 32, "steps": 2}
PRIOR = [f"prior.network={json.dumps(NETWORK)}", "prior.head=null", "train_prior.frames=16", "train_prior.steps=4"]
DECODING = [*PRIOR, 'train_prior.decoder={"share": 1.5, "batch_size": 4, "frames": 6}']


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the embedded drums with two priors: `plain`, and `tuned` with a decoder of its own."""
    folder = tmp_path_factory.mktemp("tuned")
    write_drumkit(folder / "kit", n_per_kind=8, sample_rate=8000, seed=0)
    made = folder / "run"
    pipeline.train_ae(
        folder / "kit",
        preset="smoke",
        run=str(made),
        overrides=["train_ae.steps=4", "corpus.sample_rate=8000"],
        compute=CPU,
    )
    pipeline.extract_latents(made, compute=CPU)
    pipeline.train_prior(made, name="plain", overrides=PRIOR, compute=CPU)
    pipeline.train_prior(made, name="tuned", overrides=DECODING, compute=CPU)
    return made


def test_only_the_decoder_differs_and_only_that_prior_uses_it(run: Path) -> None:
    plain, tuned = (LoadedRun.open(run, prior=name, device="cpu") for name in ("plain", "tuned"))
    assert plain.prior_codec is plain.codec
    before, after = tuned.codec.autoencoder.state_dict(), tuned.prior_codec.autoencoder.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert changed <= set(load_tensors(run / "priors" / "tuned" / DECODER))
    assert not any("encode" in name for name in changed)
    sound = np.sin(np.arange(8000) / 20).astype(np.float32)
    np.testing.assert_array_equal(plain.reconstruct(sound), tuned.reconstruct(sound))
    clips = [loaded.generate(1, seconds=0.3, seed=1)[0] for loaded in (plain, tuned)]
    assert clips[0].shape == clips[1].shape
    assert not np.array_equal(*clips)


def test_half_the_strength_is_half_the_change(run: Path) -> None:
    half = [*PRIOR, 'train_prior.decoder={"share": 1.5, "batch_size": 4, "frames": 6, "strength": 0.5}']
    pipeline.train_prior(run, name="half", overrides=half, compute=CPU)
    before = LoadedRun.open(run, prior="tuned", device="cpu").codec.autoencoder.state_dict()
    whole, found = (load_tensors(run / "priors" / name / DECODER) for name in ("tuned", "half"))
    assert set(found) == set(whole)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, (before[name] + whole[name]) / 2)


def test_the_prior_itself_is_the_same(run: Path) -> None:
    metas = [read_json(run / "priors" / name / "model.json") for name in ("plain", "tuned")]
    assert metas[0]["weights_sha256"] == metas[1]["weights_sha256"]
    assert "decoder_sha256" in metas[1]
    assert metas[0]["total_steps"] == 4
    assert read_json(run / "priors" / "tuned" / "decoder" / "plan.json")["total_steps"] == 6


def test_an_interrupted_tuning_goes_on_to_the_same_bytes(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tuning.train

    def stop(*given: object, **named: object) -> None:
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr(tuning, "train", stop)
    with pytest.raises(Interrupted):
        pipeline.train_prior(run, name="again", overrides=DECODING, compute=CPU)
    monkeypatch.setattr(tuning, "train", real)
    pipeline.train_prior(run, name="again", overrides=DECODING, compute=CPU)
    files = [(run / "priors" / name / DECODER).read_bytes() for name in ("tuned", "again")]
    assert files[0] == files[1]


@pytest.mark.parametrize("damage", ["gone", "flipped"])
def test_a_damaged_decoder_is_refused(run: Path, damage: str) -> None:
    path = run / "priors" / "tuned" / DECODER
    kept = path.read_bytes()
    try:
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        with pytest.raises(ArtifactError, match=DECODER):
            LoadedRun.open(run, prior="tuned", device="cpu")
        with pytest.raises(ArtifactError):
            pipeline.verify(run)
    finally:
        path.write_bytes(kept)


def test_a_whole_one_is_verified(run: Path) -> None:
    assert any("priors/tuned" in line for line in pipeline.verify(run)["checked"])


def test_a_prior_that_cannot_make_latents_again_is_refused_by_name(run: Path) -> None:
    words = ["prior.network.kind=lstm", 'train_prior.decoder={"share": 0.5}', "train_prior.steps=2"]
    with pytest.raises(ConfigError, match=r"lstm cannot make given latents again.*clip-flow"):
        pipeline.train_prior(run, name="lstm", overrides=words, compute=CPU)
    assert not (run / "priors" / "lstm").exists()


@pytest.mark.parametrize("words", [["prior.network.kind=lstm"], ["autoencoder.network.kind=pca"]])
def test_a_preset_s_tuning_gives_way_to_what_was_typed(words: list[str]) -> None:
    heard: list[str] = []

    class Saying(Silent):
        def say(self, text: str) -> None:
            heard.append(text)

    assert build.complete(load_preset("digits")).train_prior.decoder is not None
    completed = build.complete(load_preset("digits", words), Saying())
    assert completed.train_prior.decoder is None
    assert any(line.startswith("the decoder stays as it is") for line in heard)
    assert build.complete(completed) == completed


def test_without_the_corpus_it_says_what_is_missing(run: Path) -> None:
    corpus, away = run / "corpus", run / "elsewhere"
    corpus.rename(away)
    try:
        with pytest.raises(ArtifactError, match="is not in"):
            pipeline.train_prior(run, name="bare", overrides=DECODING, compute=CPU)
    finally:
        away.rename(corpus)


def test_the_waveform_is_that_of_the_latents(run: Path) -> None:
    """What is cut out, encoded, gives the latents that it comes with, away from the edges of the cut."""
    loaded = LoadedRun.open(run, prior="plain", device="cpu")
    latents, codec = load_latents(loaded.run)[0], loaded.codec
    windows = SequenceSource(latents, "train", loaded.labels, 16, 6, seed=0, copies=False)
    margin = 4 * codec.samples_per_latent
    corpus = Corpus(loaded.run.corpus, loaded.config.corpus.level_dbfs)
    batch = DecoderSource(windows, corpus, 6, codec.samples_per_latent, margin).batch(0)
    for row, waveform in enumerate(batch["waveform"]):
        kept = min(
            6,
            int(batch["lengths"][row]) - int(batch["crop"][row]),
            int(batch["n_samples"][row] // codec.samples_per_latent),
        )
        found = codec.encode([waveform])[0][0][4 : 4 + kept]
        expected = batch["mean"][row, batch["crop"][row] : batch["crop"][row] + kept]
        np.testing.assert_allclose(found[1:-1], expected[1:-1], atol=0.15)


@pytest.mark.parametrize("name", ["plain", "tuned"])
def test_a_packed_run_has_all_that_a_prior_of_whole_clips_needs(run: Path, tmp_path: Path, name: str) -> None:
    packed = pipeline.pack(run, out=tmp_path / "packed").packed
    request = pipeline.GenerationRequest(n=2, seed=4, source=pipeline.FromPrior(prior=name))
    made = [
        pipeline.generate(given, request, pipeline.Output(tmp_path / key), compute=CPU).files
        for key, given in (("a", run), ("b", packed))
    ]
    assert [Path(file).read_bytes() for file in made[0]] == [Path(file).read_bytes() for file in made[1]]


def test_a_decoder_is_tuned_where_the_minutes_leave_it_time(tmp_path: Path) -> None:
    heard: list[str] = []

    class Saying(Silent):
        def say(self, text: str) -> None:
            heard.append(text)

    def tuned(budget: Budget = NO_BUDGET, folder: Path = tmp_path, **section: float | None) -> bool:
        config = load_preset("digits").train_prior.model_copy(update=section)
        return tuning.tuning_in_time(config, budget, folder, Saying()) is not None

    assert tuned(minutes=10.0)
    assert tuned(minutes=None, steps=3)
    assert not heard
    assert not tuned(minutes=0.6)
    assert heard == ["the decoder is not tuned: of 36 seconds it would have 3.27 seconds, and needs 15 seconds"]
    assert not tuned(Budget(more=0.6), minutes=10.0)
    assert tuned(Budget(more=10.0), minutes=0.6)
    # One that was tuned is tuned again, and a plan is repeated.
    (tmp_path / "prior").mkdir()
    (tmp_path / "prior" / DECODER).touch()
    assert tuned(Budget(more=0.6), tmp_path / "prior", minutes=10.0)
    (tmp_path / "decoder").mkdir()
    (tmp_path / "decoder" / "plan.json").touch()
    assert tuned(Budget(plan=tmp_path / "plan.json"), minutes=0.6)
