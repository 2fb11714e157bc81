"""Regenerating a region of a recording: which frames, by which priors, and what stays as it was."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import members
import numpy as np
import pytest
import soundfile
import torch

from actseq import audio, pipeline, registry
from actseq.commands.common import Compute
from actseq.config import GenerateConfig
from actseq.errors import ConfigError
from actseq.inference import redo
from actseq.inference.codec import Codec
from actseq.inference.generation import ResolvedRequest, SeedAudio, collect
from actseq.inference.joins import CROSSFADE_SECONDS
from actseq.inference.loaded_run import LoadedRun
from actseq.inference.redo import Region, part_in_samples, regenerate, require_suffix
from actseq.inference.request import FromPrior, GenerationRequest
from actseq.priors.base import Chunk, SamplingRequest
from actseq.progress import Silent
from actseq.vocoders.phase import Phase

LATENT_DIM = 5


class Filler:
    """A prior that fills a region with the frames of the recording, or with noise, and keeps what it was asked."""

    has_likelihood = False
    controls: tuple[str, ...] = ()
    latent_dim = LATENT_DIM
    takes_suffix: Literal[True] = True

    def __init__(self, frames: torch.Tensor | None = None) -> None:
        self.frames, self.asked = frames, list[SamplingRequest]()

    def sample(self, request: SamplingRequest) -> Iterator[Chunk]:
        self.asked.append(request)
        shape = (request.n, request.max_frames, LATENT_DIM)
        made = torch.randn(shape, generator=torch.Generator().manual_seed(request.seed))
        if self.frames is not None:
            begin = 0 if request.prompt is None else request.prompt.shape[1]
            made = self.frames[None, begin : begin + request.max_frames].expand(request.n, -1, -1)
        for piece in made.split(2, dim=1):
            yield Chunk(piece, torch.zeros(piece.shape[:2], dtype=torch.bool))


@pytest.fixture(scope="module")
def codec() -> Codec:
    """128 samples in a latent frame, at 8 kHz."""
    analysis = members.representation("mel")
    model = members.autoencoder("conv", "variational", {"width": 8, "inner": 16, "blocks": 1, "stride": 2}, LATENT_DIM)
    return Codec(analysis, model, Phase(analysis, n_turns=2), None, torch.device("cpu"))


def wanted(recording: np.ndarray, n: int = 1, gain: float = 2.0) -> ResolvedRequest:
    return ResolvedRequest(GenerateConfig(), n, seed_audio=SeedAudio(recording, gain))


def noise(n: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(n)).astype(np.float32)


@pytest.mark.parametrize(
    ("begin", "end", "frames", "samples"),
    [
        (0.1, 0.2, (6, 13), (768, 1664)),
        (0.096, 0.208, (6, 13), (768, 1664)),
        (0.0, 0.016, (0, 1), (0, 128)),
        (0.1, None, (6, 32), (768, 4000)),
        (0.1, 0.5, (6, 32), (768, 4000)),
        (0.1, 0.497, (6, 32), (768, 4000)),
        (0.1, 0.495, (6, 31), (768, 3968)),
        (0.499, None, (31, 32), (3968, 4000)),
    ],
)
def test_a_region_is_rounded_outward(
    codec: Codec, begin: float, end: float | None, frames: tuple[int, int], samples: tuple[int, int]
) -> None:
    region = Region.of(codec, 4000, begin, end)
    assert (region.first, region.stop) == frames
    assert region.samples == samples


@pytest.mark.parametrize("n_samples", [4000, 4095, 4096, 4097, 4160])
def test_a_region_to_the_end_has_the_last_frame(codec: Codec, n_samples: int) -> None:
    assert Region.of(codec, n_samples, 0.1, None).stop == len(codec.encode([noise(n_samples)])[0][0])


@pytest.mark.parametrize(("begin", "end"), [(0.5, None), (0.6, 0.7), (0.1, 0.501)])
def test_a_region_lies_inside_the_recording(codec: Codec, begin: float, end: float | None) -> None:
    with pytest.raises(ConfigError, match=r"is not inside the recording; expected seconds from 0 to 0\.500"):
        Region.of(codec, 4000, begin, end)


@pytest.mark.parametrize("part", [(0.1, float("inf")), (0.1, 1e308), (1e308, None)])
def test_a_time_far_away_is_not_inside_the_recording(part: tuple[float, float | None]) -> None:
    with pytest.raises(ConfigError, match="is not inside the recording"):
        part_in_samples("gap", part, 4000, 8000)


@pytest.mark.parametrize(
    "part",
    [(0.3, 0.2), (-1.0, 0.2), (-1.0, None), (0.2, 0.2), (0.2, 0.20001), (float("nan"), 0.2), (0.1, float("nan"))],
)
def test_a_part_without_samples_is_refused(part: tuple[float, float | None]) -> None:
    found = re.escape(f"gap is {part[0]:g}:{'-' if part[1] is None else f'{part[1]:g}'}; expected 0 ≤ FROM < TO in")
    with pytest.raises(ConfigError, match=found + ".* at least one sample apart; correct the times"):
        part_in_samples("gap", part, 4000, 8000)
    assert part_in_samples("gap", (0.2, 0.2001), 4000, 8000) == (1600, 1601)


def test_only_priors_that_take_a_suffix_are_accepted() -> None:
    require_suffix(Filler(), "a", "mine")
    require_suffix(registry.PRIOR_NETWORKS["clip-flow"](4, 4, 4, 8, **members.PRIOR_NETWORKS["clip-flow"]), "a", "mine")
    with pytest.raises(ConfigError, match=r"prior b cannot regenerate a region.*a prior of kind clip-flow"):
        require_suffix(members.prior("lstm", "mixture", latent_dim=LATENT_DIM), "b", "mine")


@pytest.mark.parametrize(("begin", "end"), [(0.2, 0.3), (0.0, 0.3), (0.2, None), (0.0, None)])
def test_what_lies_outside_stays_to_the_sample(codec: Codec, begin: float, end: float | None) -> None:
    recording, prior = noise(4001), Filler()
    region = Region.of(codec, len(recording), begin, end)
    clips = collect(regenerate(codec, prior, wanted(recording, 3), region), 3)
    fade = round(CROSSFADE_SECONDS * codec.sample_rate)
    first, last = max(0, region.samples[0] - fade), region.samples[1] + fade
    for clip in clips:
        assert clip.waveform.dtype == np.float32
        np.testing.assert_array_equal(clip.waveform[:first], recording[:first])
        np.testing.assert_array_equal(clip.waveform[last:], recording[last:])
        assert len(clip.waveform) == len(recording)
        assert (clip.stopped, clip.join, clip.redone) == (True, None, region.samples)
        assert len(clip.latents) == region.stop - region.first
    inside = slice(*region.samples)
    assert np.abs(clips[0].waveform[inside] - clips[1].waveform[inside]).max() > 1e-3
    assert end is not None or clips[0].waveform[-1] == 0
    # The prior was given all frames before and after the region.
    latents = torch.from_numpy(codec.encode([2 * recording])[0][0])[None]
    [asked] = prior.asked
    assert (asked.max_frames, asked.min_frames, asked.until_stop) == (*[region.stop - region.first] * 2, False)
    for given, frames in ((asked.prompt, latents[:, : region.first]), (asked.suffix, latents[:, region.stop :])):
        assert given is None if not frames.shape[1] else torch.equal(given, frames)


def test_the_same_frames_give_the_reconstruction_at_the_recordings_level(codec: Codec) -> None:
    recording, gain = noise(8000), 4.0
    latents = codec.encode([recording * np.float32(gain)])[0][0]
    region = Region.of(codec, 8000, 0.4, 0.6)
    [clip] = collect(regenerate(codec, Filler(torch.from_numpy(latents)), wanted(recording, gain=gain), region), 1)
    whole = codec.decode([latents])[0] / gain
    inside = clip.waveform[slice(*region.samples)]
    lags = [whole[region.samples[0] + lag : region.samples[1] + lag] for lag in range(-64, 65)]
    assert min(float(np.abs(inside - one).max()) for one in lags) < 1e-4 * float(np.abs(whole).max())


def test_more_clips_than_are_sampled_together(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redo, "BATCH_CLIPS", 3)
    recording, prior, n = noise(2000), Filler(), 5
    clips = collect(regenerate(codec, prior, wanted(recording, n), Region.of(codec, 2000, 0.1, 0.14)), n)
    assert [request.n for request in prior.asked] == [3, 2]
    assert len({clip.latents.tobytes() for clip in clips}) == n


# -- in a run --------------------------------------------------------------------------------------------------------

SETTINGS = [
    "train_ae.steps=2",
    "train_prior.steps=2",
    *(f"prior.network.{text}" for text in ("kind=clip-flow", "width=16", "layers=1", "heads=2", "inner=24", "steps=2")),
]


@pytest.fixture(scope="module")
def run(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("redo")
    for path in sorted((data_dir / "digits_fsdd").rglob("?_jackson_*.wav"))[::5][:16]:
        target = folder / "sounds" / path.name[0] / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    made = folder / "run"
    pipeline.run_all(folder / "sounds", "smoke", run=str(made), overrides=SETTINGS, compute=Compute("cpu"))
    pipeline.train_prior(made, name="lstm", overrides=["prior.network.kind=lstm", "train_prior.steps=1"])
    return made


class Heard(Silent):
    """A reporter that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        """Keep it."""
        self.said.append(text)

    def warn(self, text: str) -> None:
        """Keep it."""
        self.said.append(text)


def test_a_file_comes_back_with_another_region(run: Path, data_dir: Path, tmp_path: Path) -> None:
    """The file is stereo and of another rate: the result is the sound that a seed is read as."""
    recording = members.digits(data_dir)[0]
    source = tmp_path / "stereo.wav"
    wide = audio.resample(0.3 * recording / np.abs(recording).max(), 8000, 11025)
    soundfile.write(source, np.stack([wide, wide], axis=1), 11025, "FLOAT")
    heard = Heard()
    compute = Compute("cpu", None, heard)
    for number, label in enumerate((None, "0", "0:1")):
        request = GenerationRequest(FromPrior("default", source, redo=(0.1, 0.2)), n=2, label=label, seed=4)
        result = pipeline.generate(run, request, pipeline.Output(tmp_path / str(number)), compute=compute)
        loaded = LoadedRun.open(run, prior="default", device="cpu")
        read = audio.resample(audio.remove_offset(audio.load(source)[0])[0], 11025, 8000)
        size = loaded.codec.samples_per_latent
        begin, end = 800 // size * size, -(-1600 // size) * size
        for index, file in enumerate(result.files):
            made, rate = soundfile.read(file, dtype="float32")
            assert (rate, len(made)) == (8000, len(read))
            changed = np.flatnonzero(np.abs(made - read) > 2**-15)
            fade = round(CROSSFADE_SECONDS * 8000)
            assert begin - fade <= changed[0] < begin
            assert end <= changed[-1] < end + fade
            beside = json.loads(Path(file).with_suffix(".json").read_text())
            assert beside["redone_seconds"] == [begin / 8000, end / 8000]
            assert beside["latent_frames"] == (end - begin) // size
            assert (beside["join_seconds"], beside["gain"], beside["index"]) == (None, 1.0, index)
            settings = beside["settings"]
            assert (settings["redo"], settings["seed_audio"], settings["label"]) == ([0.1, 0.2], str(source), label)
        both = [soundfile.read(file)[0] for file in result.files]
        assert np.abs(both[0] - both[1]).max() > 1e-3
    count = (end - begin) // size
    expected = f"regenerating {begin / 8000:.4g} to {end / 8000:.4g} s: {count} latent frames"
    assert any(text.startswith(expected) for text in heard.said)
    assert not any("max_seconds" in text for text in heard.said)


def test_the_api_takes_a_region(run: Path, data_dir: Path) -> None:
    loaded = LoadedRun.open(run, prior="default", device="cpu")
    recording = members.digits(data_dir)[0]
    [made] = loaded.generate(1, seed_audio=recording, redo=(0.1, None), seed=2)
    [again] = loaded.generate(1, seed_audio=recording, redo=(0.1, None), seed=2)
    np.testing.assert_array_equal(made, again)
    assert len(made) == len(recording)
    other = LoadedRun.open(run, prior="lstm", device="cpu")
    with pytest.raises(ConfigError, match=r"prior lstm cannot regenerate a region.*clip-flow"):
        other.generate(1, seed_audio=recording, redo=(0.1, None))
    with pytest.raises(ConfigError, match="likeliest"):
        loaded.generate(1, seed_audio=recording, redo=(0.1, None), best_of=2)
