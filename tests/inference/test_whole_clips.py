"""One vector a clip, from the training to new clips: lengths, labels, steps, and what is refused."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped, unused-ignore]
import torch

import actseq
from actseq import audio, pipeline
from actseq.arrays import LatentArray, Waveform
from actseq.data.corpus import Corpus
from actseq.data.drumkit import write_drumkit
from actseq.data.segments import ClipSource, EvenClips, whole_clip
from actseq.errors import ConfigError
from actseq.evaluation.clip_sources import ClipSources
from actseq.exports import onnx, standalone
from actseq.inference import generation
from actseq.inference.codec import Codec
from actseq.inference.loaded_run import LoadedRun
from actseq.inference.loading import load_latents
from actseq.pipeline import FromPrior, GenerationRequest, Output, Through, Variations
from actseq.progress import Silent
from actseq.storage.artifacts import read_json
from actseq.storage.store import SequenceStore

CPU = pipeline.Compute("cpu", 1)
RATE, HOP = 8000, 64
SMALL = [
    f"corpus.sample_rate={RATE}",
    "train_ae.steps=4",
    "train_ae.validations=1",
    "train_ae.validation_batches=1",
    "train_ae.batch_size=4",
    "latents.copies=1",
    "generate.noise_clamp=null",
]
MEL = [
    f"representation={{kind: mel, n_fft: 256, hop_length: {HOP}, n_mels: 24}}",
    "autoencoder.network={kind: clip, seconds: null, width: 4, levels: 2}",
    "autoencoder.latent_dim=4",
]
STFT = [
    "autoencoder.network={kind: clip, width: 4, levels: 2, seconds: 0.2}",
    f"representation={{kind: stft, n_fft: 128, hop_length: {HOP}}}",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`sounds` with labels; `run` of the preset oneshot-vae at its smallest, `snares` of snare-vae."""
    made: Path = tmp_path_factory.mktemp("clips")
    threads = torch.get_num_threads()
    write_drumkit(made / "sounds", n_per_kind=3, sample_rate=RATE, seed=0)
    for path in audio.find(made / "sounds"):
        # Of different lengths, none longer than a third of a second but one.
        waveform = soundfile.read(path)[0][: RATE // 4 if "tom" not in path.name else RATE // 3]
        audio.write(path, waveform, RATE)
    audio.write(made / "sounds" / "tom" / "long.wav", 0.5 * np.sin(0.3 * np.arange(2 * RATE)), RATE)
    pipeline.run_all(made / "sounds", "oneshot-vae", run=str(made / "run"), overrides=SMALL + MEL, compute=CPU)
    snares = made / "sounds" / "snare"
    pipeline.run_all(snares, "snare-vae", run=str(made / "snares"), overrides=SMALL + STFT, compute=CPU)
    yield made
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def run(folder: Path) -> LoadedRun:
    return actseq.load_run(folder / "run", device="cpu")


def test_a_clip_is_as_long_as_most_and_one_vector(folder: Path, run: LoadedRun) -> None:
    corpus = Corpus(run.run.corpus, run.config.corpus.level_dbfs)
    lengths = [corpus.store.records[i].length / RATE for i in corpus.indices("train")]
    seconds = min(3.0, np.ceil(100 * np.quantile(lengths, 0.95)) / 100)
    network = run.run.trained_autoencoder.meta["config"]["autoencoder"]["network"]
    assert network["seconds"] == pytest.approx(seconds)
    assert run.codec.autoencoder.stride == np.ceil(seconds * RATE / HOP - 1e-9)
    latents = load_latents(run.run)[0]
    assert {record.length for record in latents.records} == {1}
    assert len(latents.indices("copies")) == len(latents.indices("train"))
    assert not run.run.priors.names


def test_training_takes_clips_from_their_start_with_silence(run: LoadedRun) -> None:
    corpus = Corpus(run.run.corpus, run.config.corpus.level_dbfs)
    long = next(i for i, record in enumerate(corpus.store.records) if "long" in record.key)
    short = next(i for i, record in enumerate(corpus.store.records) if "hat" in record.key)
    clip = whole_clip(corpus, long, 4000)
    np.testing.assert_array_equal(clip[:3600], corpus.waveform(long)[:3600])
    np.testing.assert_allclose(clip[3600:], corpus.waveform(long)[3600:4000] * np.linspace(1, 0, 400), atol=1e-6)
    own = corpus.waveform(short)
    np.testing.assert_array_equal(whole_clip(corpus, short, 4000), np.pad(own, (0, 4000 - len(own))))
    batch = ClipSource(corpus, "train", 4000, 128, 5, 0).batch(3)
    assert batch["waveform"].shape == (5, 4256)
    assert batch["n_samples"].tolist() == [4000] * 5
    assert not batch["waveform"][:, :128].any()
    names = ["", *sorted(set(corpus.split_labels("train")) - {""})]
    for row, waveform in zip(batch["label"], batch["waveform"], strict=True):
        own = [whole_clip(corpus, i, 4000) for i in corpus.indices("train", [names[row]])]
        assert any(np.array_equal(waveform[128:-128], one) for one in own)


def test_spectra_are_padded_to_one_size_and_stored(folder: Path) -> None:
    store = SequenceStore(folder / "snares" / "features")
    assert {record.shape for record in store.records} == {(25, 128)}
    codec = actseq.load_run(folder / "snares", device="cpu").codec
    assert codec.autoencoder.stride == 25
    corpus = Corpus(folder / "snares" / "corpus", codec.level_dbfs)
    padded = whole_clip(corpus, 0, 24 * HOP)
    features = codec.representation.analyse(torch.from_numpy(padded)[None], torch.tensor([len(padded)]))
    np.testing.assert_allclose(store.read(0), features.values[0].T.numpy(), atol=1e-6)


def test_new_clips_come_from_the_normal_distribution(folder: Path, run: LoadedRun, tmp_path: Path) -> None:
    assert run.prior_name == "normal"
    clips = run.generate_clips(100, seed=1)
    latents = np.stack([clip.latents for clip in clips])
    assert latents.shape == (100, 1, run.codec.autoencoder.latent_dim)
    assert run.prior is not None
    centre = run.prior.prior.centre.numpy()
    cold = np.stack([clip.latents[0] for clip in run.generate_clips(2, seed=1, temperature=0)])
    np.testing.assert_allclose(cold, centre[[0, 0]], atol=1e-6)
    colder = run.generate_clips(100, seed=1, temperature=0.5)
    moved = np.stack([clip.latents for clip in colder]) - centre[0]
    np.testing.assert_allclose(moved, 0.5 * (latents - centre[0]), atol=1e-6)
    request = GenerationRequest(n=2, label="snare", seed=2)
    made = pipeline.generate(folder / "run", request, Output(tmp_path, tmp_path / "all.flac"), compute=CPU)
    about = read_json(tmp_path / "snare-01.json")
    assert (about["prior"], about["settings"]["label"], about["latent_frames"]) == ("normal", "snare", 1)
    assert len(made.files) == 2
    snares = actseq.load_run(folder / "snares", device="cpu").generate(3)
    assert all(len(clip) <= 25 * HOP for clip in snares)


def test_draws_of_a_label_lie_where_its_training_clips_lie(run: LoadedRun) -> None:
    latents, labels = load_latents(run.run)[0], run.labels
    assert run.prior is not None
    for row, label in enumerate(labels, 1):
        own = [latents.read(i) for i in latents.indices("train") if latents.records[i].extra["label"] == label]
        mean, log_variance = (np.concatenate(part) for part in zip(*own, strict=True))
        drawn = np.concatenate(list(run.sample(300, label=label, seed=4)))
        variance = mean.var(axis=0) + np.exp(log_variance).mean(axis=0)
        np.testing.assert_allclose(drawn.mean(axis=0), mean.mean(axis=0), atol=5 * np.sqrt(variance.max() / 300))
        np.testing.assert_allclose(drawn.var(axis=0), variance, rtol=0.4)
        np.testing.assert_allclose(run.prior.prior.centre[row], mean.mean(axis=0), atol=1e-5)


def test_the_program_of_an_export_draws_where_the_label_lies(run: LoadedRun) -> None:
    model, rng = standalone.Model(onnx.describe(run, []), lambda *_: []), np.random.default_rng(0)
    assert run.prior is not None
    for row, label in ((0, None), (2, run.labels[1])):
        centre, spread = (values[row].numpy() for values in (run.prior.prior.centre, run.prior.prior.spread))
        cold = model.latents(rng, standalone.Request(label, temperature=0))[0]
        np.testing.assert_allclose(cold, centre[None], atol=1e-6)
        drawn = np.concatenate([model.latents(rng, standalone.Request(label))[0] for _ in range(2000)])
        covariance = spread @ spread.T
        np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.15 * np.abs(covariance).max())


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_a_clip_of_an_export_ends_where_it_does_here(rate: int) -> None:
    rng, at = np.random.default_rng(0), np.arange(rate) / rate
    decaying = rng.standard_normal(rate) * np.exp(-at * 20)
    floor = decaying + 4e-4 * np.abs(decaying).max() * rng.standard_normal(rate)
    endless, silent = rng.standard_normal(rate - 7), np.zeros(rate)
    for clip in (part.astype(np.float32) for part in (decaying, floor, endless, silent, silent[:3])):
        end = generation.audible_samples(clip, rate)
        assert standalone.audible_samples(clip, rate) == end <= len(clip)
    # Single samples of the noise floor are above −60 dB of the peak until the end; its level is not.
    assert np.abs(floor[-rate // 10 :]).max() > 1e-3 * np.abs(floor).max()
    assert generation.audible_samples(floor.astype(np.float32), rate) < 0.6 * rate
    assert generation.audible_samples(endless.astype(np.float32), rate) == len(endless)


def test_every_label_is_trained_equally_often(folder: Path, run: LoadedRun) -> None:
    corpus = Corpus(run.run.corpus, run.config.corpus.level_dbfs)
    common = corpus.indices("train", ["tom"])[:1] + corpus.indices("train", ["snare", "hat"])
    clips, rng = EvenClips(corpus, common), np.random.default_rng(0)
    drawn = [clips.draw(rng) for _ in range(900)]
    assert set(drawn) == set(common)
    counted = Counter(str(corpus.store.records[i].extra["label"]) for i in drawn)
    assert all(abs(number - 300) < 60 for number in counted.values())
    rows = ClipSource(corpus, "train", 2000, 0, 600, 0).batch(0)["label"]
    assert np.ptp(np.bincount(rows)[1:]) < 60


def test_an_evaluation_decodes_draws_with_their_label(run: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = Corpus(run.run.corpus, run.config.corpus.level_dbfs)
    sources, decode = ClipSources(run, corpus, load_latents(run.run)[0], 0), Codec.decode
    given: list[int] = []

    def spied(codec: Codec, latents: list[LatentArray], label: Sequence[int]) -> list[Waveform]:
        given.extend(label)
        return decode(codec, latents, label)

    monkeypatch.setattr(Codec, "decode", spied)
    [group] = sources.decoded(sources.independent(2 * len(run.labels)))
    assert group.labels == [label for label in run.labels for _ in range(2)]
    assert given == [row for row in range(1, len(run.labels) + 1) for _ in range(2)]
    monkeypatch.undo()
    z = [np.ones((1, run.codec.autoencoder.latent_dim), np.float32)] * 3
    together, alone = run.codec.decode(z, [1, 2, 0]), [run.codec.decode(z[:1], row)[0] for row in (1, 2, 0)]
    for a, own in zip(together, alone, strict=True):
        nearest = min(alone, key=lambda one: float(np.abs(a - one).sum()))
        assert nearest is own


def test_a_clip_ends_where_it_stays_silent_or_where_it_was_asked_to(run: LoadedRun) -> None:
    codec = run.codec
    for clip in run.generate_clips(4, seed=3, label="kick"):
        whole = codec.decode([clip.latents], label=codec.autoencoder.labels.index("kick") + 1)[0]
        frames = np.pad(whole, (0, -len(whole) % 80)).reshape(-1, 80)
        loud = np.sqrt(np.square(frames).mean(axis=1)) > np.abs(whole).max() / 1000
        assert len(clip.waveform) == min(len(whole), 80 * (int(np.flatnonzero(loud)[-1]) + 1))
        ratio = np.abs(whole).max() / np.abs(clip.waveform).max()
        n = len(clip.waveform) - 60
        np.testing.assert_allclose(ratio * clip.waveform[:n], whole[:n], rtol=1e-4, atol=1e-6)
    [short] = run.generate_clips(1, seed=3, label="kick", seconds=0.1)
    assert len(short.waveform) == round(0.1 * RATE)
    assert not short.stopped


def test_faint_noise_with_peaks_does_not_lengthen_a_clip(
    folder: Path, run: LoadedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = run.codec
    n = codec.samples_per_latent
    hit = np.zeros(n, np.float32)
    hit[: n // 4] = np.random.default_rng(0).uniform(-0.5, 0.5, n // 4)
    # The RMS of the rest is 75 dB under the peak, and every hundredth sample 55 dB.
    hit[n // 4 :: 100] = 0.5 * 10 ** (-55 / 20)

    class Stream:
        def push(self, latents: np.ndarray) -> np.ndarray:
            return np.zeros(0, np.float32)

        def finish(self) -> np.ndarray:
            return hit

    monkeypatch.setattr(type(codec), "decode_stream", lambda *_, **__: Stream())
    [clip] = run.generate_clips(1, seed=0, label="kick")
    assert clip.stopped
    assert n // 4 <= len(clip.waveform) <= n // 4 + RATE // 100


def test_the_decoder_is_given_the_label_and_the_encoder_is_not(run: LoadedRun) -> None:
    autoencoder = run.codec.autoencoder
    assert autoencoder.labels == sorted(autoencoder.labels) == run.labels
    assert autoencoder.table is not None
    z = np.zeros((1, autoencoder.latent_dim), np.float32)
    made = [run.codec.decode([z], label=row)[0] for row in range(len(autoencoder.labels) + 1)]
    assert len({tuple(np.round(one[:2000:50], 6)) for one in made}) == len(made)
    several = run.codec.decode([z, z + 1], label=2)
    assert [len(one) for one in several] == [len(made[2])] * 2


def test_steps_and_variations(folder: Path, run: LoadedRun) -> None:
    one, two = (folder / "sounds" / "snare" / f"snare-00{i}.wav" for i in (0, 1))
    clips = run.generate_clips(5, source=Through((one, two)))
    assert len(clips) == 5
    codes = [run.encode(soundfile.read(path)[0].astype(np.float32)) for path in (one, two)]
    np.testing.assert_allclose(clips[0].latents, codes[0], atol=1e-5)
    np.testing.assert_allclose(clips[-1].latents, codes[1], atol=1e-5)
    cosine = [
        float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        for a, b in zip(
            np.stack([c.latents[0] for c in clips[:-1]]), np.stack([c.latents[0] for c in clips[1:]]), strict=True
        )
    ]
    assert np.ptp(np.arccos(cosine)) < 1e-2
    varied = run.generate_clips(2, source=Variations(one, 0.0))
    np.testing.assert_allclose(varied[0].latents, codes[0], atol=1e-5)
    with pytest.raises(ConfigError, match="--n from 2 to 64"):
        run.generate(1, source=Through((one, two)))


def test_what_one_vector_cannot_do_is_refused_by_name(folder: Path, run: LoadedRun, tmp_path: Path) -> None:
    snare, long = folder / "sounds" / "snare" / "snare-000.wav", folder / "sounds" / "tom" / "long.wav"
    refusals = {
        "neither continue a sound nor make a part": {"seed_audio": snare},
        "cannot glide from label to label": {"label": "snare:kick"},
        "are too long; expected at most": {"seconds": 3.0},
    }
    for words, given in refusals.items():
        with pytest.raises(ConfigError, match=words):
            run.generate(1, **given)
    by_default = LoadedRun.open(folder / "run", device="cpu", overrides=["generate.seconds=3"], need_prior=True)
    for make in (by_default.generate, by_default.sample):
        with pytest.raises(ConfigError, match="3 s are too long; expected at most"):
            make(1)
    with pytest.raises(ConfigError, match="nothing to walk through"):
        actseq.load_run(folder / "run", prior="random-walk", device="cpu").generate(1)
    with pytest.raises(ConfigError, match=r"prior lstm makes sequences.*gan or clip-flow, or normal"):
        pipeline.train_prior(folder / "run", name="no", compute=CPU)
    for act in (pipeline.reconstruct, pipeline.encode):
        with pytest.raises(ConfigError, match=r"long\.wav lasts 2\.00 s; expected at most"):
            act(folder / "run", [long], out=tmp_path / "out", compute=CPU)
        act(folder / "run", [snare], out=tmp_path / act.__name__, compute=CPU)
    with pytest.raises(ConfigError, match="leave out --as-seed"):
        pipeline.encode(folder / "run", [snare], out=tmp_path / "out", as_seed=True, compute=CPU)
    unlabelled = ["autoencoder.condition=null", *SMALL, *MEL]
    pipeline.run_all(folder / "sounds", "oneshot-vae", run=str(tmp_path / "same"), overrides=unlabelled, compute=CPU)
    # The decoder is not given the label, but the draws follow it.
    same = actseq.load_run(tmp_path / "same", device="cpu")
    assert same.usable_labels == same.labels
    for name, source in (("varied", Variations(snare)), ("new", FromPrior())):
        request = GenerationRequest(source=source, label="kick", seed=1)
        pipeline.generate(tmp_path / "same", request, Output(tmp_path / name), compute=CPU)
    through = GenerationRequest(source=Through((snare, snare)), n=2, label="kick")
    with pytest.raises(ConfigError, match="its decoder is not given the label; leave the label out"):
        pipeline.generate(tmp_path / "same", through, Output(tmp_path / "through"), compute=CPU)
    for source in (Variations(snare), FromPrior()):
        with pytest.raises(ConfigError, match="cannot glide from label to label"):
            same.generate(1, source=source, label="snare:kick")
    drawn = [next(iter(same.sample(1, label=label, seed=1))) for label in ("hat", "snare")]
    assert not np.allclose(*drawn)
    plain = ["autoencoder.bottleneck={kind: plain}", "train_ae.regulariser=null", *SMALL, *MEL]
    pipeline.train_ae(folder / "sounds", "oneshot-vae", run=str(tmp_path / "plain"), overrides=plain, compute=CPU)
    pipeline.extract_latents(tmp_path / "plain", compute=CPU)
    with pytest.raises(ConfigError, match="latents follow no distribution; expected bottleneck variational or adv"):
        pipeline.generate(tmp_path / "plain", GenerationRequest(), Output(tmp_path / "new"), compute=CPU)
    with pytest.raises(ConfigError, match="the decoder of network conv takes no condition; expected network clip"):
        pipeline.train_ae(
            folder / "sounds", "smoke", run=str(tmp_path / "no"), overrides=["autoencoder.condition=label"], compute=CPU
        )


def test_a_clip_is_one_vector_also_where_no_length_is_known(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = actseq.load_run(folder / "run", device="cpu")
    assert run.prior is not None
    monkeypatch.setattr(run.prior.prior, "lengths", [np.array([], dtype=np.int64) for _ in run.prior.prior.lengths])
    assert [len(latents) for latents in run.sample(2, seed=1)] == [1, 1]


def test_a_clip_that_is_cut_by_its_vector_is_said_to_be(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "audible_samples", lambda waveform, rate: len(waveform))

    class Told(Silent):
        warnings: ClassVar[list[str]] = []

        def warn(self, message: str) -> None:
            self.warnings.append(message)

    told = Told()
    compute = pipeline.Compute("cpu", 1, told)
    pipeline.generate(folder / "run", GenerationRequest(n=2), Output(tmp_path / "new"), compute=compute)
    assert any("2 of 2 clips are still audible at their end, after the" in one for one in told.warnings)
    assert not any("max-seconds" in one for one in told.warnings)


@pytest.mark.parametrize("kind", ["clip-flow", "gan"])
def test_a_prior_of_whole_sequences_can_be_fitted(folder: Path, tmp_path: Path, kind: str) -> None:
    small = {"clip-flow": "width: 8, layers: 1, heads: 2, inner: 12, steps: 2", "gan": "width: 8, blocks: 1"}[kind]
    overrides = [f"prior.network={{kind: {kind}, {small}}}", "train_prior.steps=2", "train_prior.validations=1"]
    pipeline.train_prior(folder / "run", name=kind, overrides=overrides, compute=CPU)
    clips = actseq.load_run(folder / "run", prior=kind, device="cpu").generate_clips(2, label="hat")
    assert [clip.latents.shape[0] for clip in clips] == [1, 1]
