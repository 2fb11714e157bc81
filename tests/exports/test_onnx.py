"""Exports to ONNX: they compute what the run computes, and their program generates with them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jaxtyping
import members
import numpy as np
import pytest
import torch
from actseq_cli.main import main  # type: ignore[import-untyped, unused-ignore]
from click.testing import CliRunner

import actseq
from actseq import audio, build, pipeline
from actseq.config import load_preset, preset_names
from actseq.data.drumkit import write_drumkit
from actseq.errors import AudioError, ConfigError
from actseq.exports import onnx, standalone
from actseq.exports.graphs import Graph, codec_graphs, flow_graphs, prior_graphs, sequence_graphs
from actseq.inference.loaded_run import LoadedRun
from actseq.priors.base import PLAIN, Sampling, SamplingRequest
from actseq.priors.summaries import TrainingClip
from actseq.representations.base import Features
from actseq.representations.linear import Linear
from actseq.storage.activations import read_activations, write_activations
from actseq.vocoders.base import synthesise
from actseq.vocoders.phase import Phase

DRUMS = Path(__file__).parents[1] / "old_runs" / "drums"
NO_NOISE = Sampling(temperature=0.0)
LONG = ((1, 1.0, 20), (1, 3.0, 40), (2, 2.0, 35))
"""Label, level and frames of recordings of several windows."""


@pytest.fixture(autouse=True, scope="module")
def without_shape_checks() -> Iterator[None]:
    """Sizes are tensors where a network is traced, so the checks of `tests/conftest.py` would refuse them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def session(graph: Graph, folder: Path) -> Any:
    import onnxruntime

    onnx.write_graph(graph, folder / f"{graph.name}.onnx")
    return onnxruntime.InferenceSession(str(folder / f"{graph.name}.onnx"))


def run(session: Any, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    made: list[np.ndarray] = session.run(None, inputs)
    return made


@pytest.fixture(scope="module")
def drums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of an old run with a sequence prior."""
    folder: Path = tmp_path_factory.mktemp("onnx") / "drums"
    result = CliRunner().invoke(main, ["export", str(DRUMS), "--to", "onnx", "--out", str(folder), "--json"])
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert set(made["parity"]) == {"generated latents", "decoded features", "encoded latents"}
    assert max(made["parity"].values()) < 1e-4
    [line] = pipeline.export_lines(made)
    assert line.startswith(f"next: python {made['folder']}/generate.py --n 4")
    assert made["files"] == sorted(path.name for path in folder.iterdir())
    return folder


@pytest.mark.parametrize(
    ("network", "head"),
    [*((network, "gaussian") for network in members.SEQUENCE_NETWORKS), ("lstm", "mixture"), ("gru", "flow")],
)
def test_step_and_draw_repeat_the_prior(network: str, head: str, tmp_path: Path) -> None:
    prior = members.prior(network, head)
    step, draw = (session(graph, tmp_path) for graph in sequence_graphs(prior, PLAIN))
    condition = torch.randn(1, prior.condition_dim, generator=torch.Generator().manual_seed(0))
    [chunk] = prior.sample(SamplingRequest(n=1, max_frames=9, condition=condition, sampling=NO_NOISE))
    wanted = prior.standardiser.standardise(chunk.latents)[0].numpy()

    value, shapes = np.zeros((1, wanted.shape[1]), np.float32), {one.name: one for one in step.get_inputs()}
    state = {
        name: np.zeros(one.shape, np.int64 if one.type == "tensor(int64)" else np.float32)
        for name, one in shapes.items()
        if name.startswith("state")
    }
    for frame in range(9):
        given = {"value": value, "begins": np.full(1, frame == 0, np.float32), "condition": condition.numpy()}
        hidden, *new = run(step, given | state)
        state = dict(zip(state, new, strict=True))
        noise = {"hidden": hidden, "value": value, "noise": np.zeros_like(value)}
        if prior.head.n_choices[0]:  # type: ignore[union-attr]
            noise["preference"] = np.zeros((1, *prior.head.n_choices), np.float32)  # type: ignore[union-attr]
        value, _ = run(draw, noise)
        assert np.abs(value[0] - wanted[frame]).max() < 1e-4, f"frame {frame}"


@pytest.mark.parametrize("network", ["conv", "dense", "pca"])
def test_encoder_and_decoder_work_on_other_lengths_than_they_were_traced_with(network: str, tmp_path: Path) -> None:
    bottleneck = "plain" if network == "pca" else "variational"
    for options in (one for one in members.NETWORKS[network] if "attention" not in one):
        model = members.autoencoder(network, bottleneck, options)
        encoder, decoder = (session(graph, tmp_path) for graph in codec_graphs(model, 24))
        given = Features(members.features(31, 3, 24).values, torch.tensor([31, 30, 4]))
        with torch.no_grad():
            posterior = model.encode(given)
            decoded = model.decode(posterior.mode()).values.numpy()
        found = run(encoder, {"features": given.values.numpy(), "lengths": given.lengths.numpy()})
        assert len(found) == (1 if bottleneck == "plain" else 2)
        for row, length in enumerate(posterior.lengths.tolist()):
            assert np.abs(found[0][row, :length] - posterior.mean[row, :length].numpy()).max() < 1e-4
        latents = posterior.mean[:1].numpy()
        assert np.abs(run(decoder, {"latents": latents})[0] - decoded[:1]).max() < 1e-4


def clip_flow(summary: int = 0, outline: int = 0) -> Any:
    from actseq.priors.clip_flow import ClipFlow

    torch.manual_seed(0)
    options = members.PRIOR_NETWORKS["clip-flow"] | {"summary": summary, "outline": outline}
    prior = ClipFlow(4, 3, 8, 12, **options).eval()
    prior.keep_precision(torch.tensor([0.1, 0.5, 1.0]))
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return prior


def test_the_velocity_of_clip_flow_carries_noise_to_the_same_clip(tmp_path: Path) -> None:
    prior = clip_flow()
    [graph] = flow_graphs(prior)
    velocity = session(graph, tmp_path)
    condition = torch.randn(1, 8, generator=torch.Generator().manual_seed(0))
    # Two blocks and a half: windows of 12 frames, each after the first with six known ones.
    chunks = list(prior.sample(SamplingRequest(n=1, max_frames=27, condition=condition, sampling=NO_NOISE)))
    wanted = torch.cat([chunk.latents for chunk in chunks], 1)[0, :, prior.standardiser.active].numpy()
    about = {
        "latent_dim": 4,
        "latent_rate": 10.0,
        "whole_clips": False,
        "defaults": {"seconds": 2.7, "min_seconds": 0, "guidance": 1, "noise_clamp": None, "sharpness": 1}
        | {"restarts": True},
        "prior": {
            "kind": "clip-flow",
            "labels": [],
            "conditions": condition.tolist(),
            "mean": [0, 0, 0],
            "deviation": prior.standardiser.deviation.tolist(),
            "active": [0, 1, 2],
            "lengths": [[0] * 4],
            "summaries": None,
            "outline": None,
            "frames": 12,
            "steps": 2,
            "guided_from": 0.2,
            "guided_until": 0.7,
        },
    }
    model = standalone.Model(about, lambda _, inputs: run(velocity, dict(inputs)))
    latents, _ = model.latents(np.random.default_rng(0), standalone.Request(temperature=0.0))
    assert latents.shape == (27, 4)
    assert np.abs(latents[:, :3] - wanted).max() < 1e-4
    # Where no training clip is as long, clips follow each other: without noise, always the same.
    model.prior["lengths"] = [[9] * 4]
    latents, ended = model.latents(np.random.default_rng(0), standalone.Request(temperature=0.0))
    assert latents.shape == (27, 4)
    assert not ended
    np.testing.assert_allclose(latents[9:18, :3], latents[:9, :3], atol=1e-6)
    assert np.abs(latents[:9, :3] - wanted[:9]).max() > 1e-3
    model.defaults["restarts"] = False
    latents, _ = model.latents(np.random.default_rng(0), standalone.Request(temperature=0.0))
    assert np.abs(latents[:, :3] - wanted).max() < 1e-4


def test_a_velocity_with_a_summary_takes_it(tmp_path: Path) -> None:
    [graph] = flow_graphs(clip_flow(summary=4))
    inputs = {name: tensor.numpy() for name, tensor in graph.inputs.items()}
    [wanted] = graph.run(list(graph.inputs.values()))
    assert np.abs(run(session(graph, tmp_path), inputs)[0] - wanted.numpy()).max() < 1e-4
    with torch.no_grad():
        inputs["summary"] = inputs["summary"] + 1
    assert np.abs(run(session(graph, tmp_path), inputs)[0] - wanted.numpy()).max() > 1e-3


def test_the_windows_of_a_long_clip_follow_a_recording_of_its_length(tmp_path: Path) -> None:
    prior = clip_flow(summary=4, outline=20)
    generator = torch.Generator().manual_seed(0)
    clips = [
        TrainingClip(torch.linspace(-level, level, n)[:, None] + torch.randn(n, 4, generator=generator), label, True)
        for label, level, n in LONG
    ]
    prior.keep_summaries(clips, 2)
    prior.summaries.noise = 0.0
    velocity = session(flow_graphs(prior)[0], tmp_path)
    conditions = torch.randn(3, 8, generator=generator)
    about = {
        "latent_dim": 4,
        "latent_rate": 10.0,
        "whole_clips": False,
        "defaults": {"seconds": None, "max_seconds": 9, "min_seconds": 0, "guidance": 1, "noise_clamp": None}
        | {"sharpness": 1, "restarts": True},
        "prior": {
            "kind": "clip-flow",
            "labels": ["a", "b"],
            "conditions": conditions.tolist(),
            "mean": [0, 0, 0],
            "deviation": prior.standardiser.deviation.tolist(),
            "active": [0, 1, 2],
            "summaries": prior.summaries.kept.tolist(),
            "summary_noise": 0.0,
            "outline": onnx._outline(prior.outline),
            "frames": 12,
            "steps": 2,
            "guided_from": 0.2,
            "guided_until": 0.7,
        },
    }
    assert [len(about["prior"]["outline"][name]) for name in ("kept", "next", "labels")] == [14] * 3
    model = standalone.Model(about, lambda _, inputs: run(velocity, dict(inputs)))
    made = {}
    for label, n, seconds in (("a", 20, 9.0), ("a", 40, 9.0), ("a", 40, 2.3), ("b", 35, 9.0)):
        model.prior["lengths"], model.defaults["max_seconds"] = [[n] * 4] * 3, seconds
        row = 1 + ["a", "b"].index(label)
        asked = {"n": 1, "max_frames": round(10 * seconds), "label": row, "condition": conditions[row : row + 1]}
        request = SamplingRequest(until_stop=True, lengths=torch.tensor([n]), sampling=NO_NOISE, **asked)
        wanted = torch.cat([chunk.latents for chunk in prior.sample(request)], 1)[0, :, prior.standardiser.active]
        request_ = standalone.Request(label=label, temperature=0.0)
        made[label, n, seconds], ended = model.latents(np.random.default_rng(0), request_)
        assert ended == (n <= 10 * seconds)
        assert np.abs(made[label, n, seconds][:, :3] - wanted.numpy()).max() < 1e-4
    first, second = made["a", 20, 9.0], made["a", 40, 9.0]
    assert np.abs(first[:12, :3] - second[:12, :3]).max() > 1e-3, "they follow different recordings"
    assert np.array_equal(made["a", 40, 2.3][:, :3], second[:23, :3])


def test_a_recording_that_is_not_whole_is_followed_from_any_window() -> None:
    outline = {"kept": [[0.0], [1.0], [2.0], [9.0]], "next": [1, 2, -1, -1], "labels": [1, 1, 1, 2]}
    about = {"defaults": {"restarts": False}, "prior": {"kind": "clip-flow", "frames": 12, "outline": outline}}
    model = standalone.Model(about, lambda *_: [])

    def course(label: int, seed: int, stops: bool = True, frames: int = 30) -> list[float]:
        windows = model._outline(np.random.default_rng(seed), label, frames, stops)
        return [float(next(windows)[0]) for _ in range(4)]

    assert {course(1, seed)[0] for seed in range(20)} == {0, 1, 2}
    assert all(course(1, seed)[i + 1] in (1, 2) for seed in range(20) for i in range(3))
    assert {course(0, seed)[0] for seed in range(40)} == {0, 1, 2, 9}
    assert course(2, 0) == [9, 9, 9, 9], "a recording of one window"
    outline["next"] = [1, 2, -2, -1]
    assert {course(1, seed)[0] for seed in range(20)} == {0}
    assert {course(1, seed, False)[0] for seed in range(20)} == {0, 1, 2}, "a texture"
    about["defaults"]["restarts"] = True
    outline["next"], outline["labels"] = [1, 2, -2, -2], [1, 1, 1, 1]
    assert {course(1, seed, True, 10)[0] for seed in range(20)} == {9}, "as long as a recording"
    assert {course(1, seed, False, 10)[0] for seed in range(20)} == {0, 9}, "any that is long enough"


def test_the_program_cuts_where_the_run_has_a_length(drums: Path) -> None:
    model = standalone.load(drums)
    model.defaults = {**model.defaults, "seconds": 0.25}
    rate = model.about["sample_rate"]
    for seconds in (None, 0.25, 0.1):
        clip = model.clip(np.random.default_rng(0), standalone.Request(seconds=seconds))
        assert len(clip) == round((seconds or 0.25) * rate)
        assert abs(clip[-1]) < 1e-6


def test_the_program_keeps_the_shortest_length_in_a_row(drums: Path) -> None:
    model = standalone.load(drums)
    rate, begun = model.about["latent_rate"], list[float]()
    run = model.run

    def eager(name: str, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        made = run(name, inputs)
        if name == "step":
            begun.append(float(inputs["begins"][0]))
        # The prior would always end.
        return [made[0], np.full_like(made[1], 50.0)] if name == "draw" else made

    model.run = eager
    model.defaults = {**model.defaults, "restarts": True, "min_seconds": 4 / rate}
    latents, _ = model.latents(np.random.default_rng(0), standalone.Request(seconds=12 / rate))
    assert len(latents) == 12
    # Every fifth step finds that a sequence of four frames has ended.
    assert [i for i, one in enumerate(begun) if one] == [0, 5, 10]


def test_the_program_draws_lengths_for_normal_latents() -> None:
    defaults = {"seconds": None, "max_seconds": 2.0, "min_seconds": 0.3, "noise": 1.0, "choice": 1.0}
    prior = {"kind": "normal", "labels": ["a"], "centres": [[0.0]] * 2, "spreads": [[[1.0]]] * 2}
    prior |= {"mean": [0.0], "deviation": [1.0], "active": [0], "lengths": [[2, 5, 30], []]}
    about = {"latent_dim": 1, "latent_rate": 10.0, "whole_clips": False, "prior": prior}
    model = standalone.Model({**about, "defaults": defaults | {"noise_clamp": None}}, lambda *_: [])
    for label in (None, "a"):
        random = np.random.default_rng(0)
        made = [model.latents(random, standalone.Request(label=label)) for _ in range(20)]
        assert {(len(latents), ended) for latents, ended in made} == {(5, True), (20, False)}
    prior["lengths"] = [[], []]
    assert [len(latents) for latents, _ in made[:1]]
    assert len(model.latents(np.random.default_rng(0), standalone.Request())[0]) == 20
    model.about["whole_clips"] = True
    assert len(model.latents(np.random.default_rng(0), standalone.Request())[0]) == 1
    with pytest.raises(SystemExit, match=r"0\.5 s are too long: .* 0\.10 s at most"):
        model.latents(np.random.default_rng(0), standalone.Request(seconds=0.5))


def test_the_program_names_files_safely_and_refuses_labels_that_change_nothing(drums: Path) -> None:
    assert [standalone.file_name(one) for one in (None, "kick", "a/b", "../x", "..")] == [
        "clip",
        "kick",
        "a-b",
        "x",
        "clip",
    ]
    model = standalone.load(drums)
    with pytest.raises(SystemExit, match="the decoder knows no label 'kick'; it knows none"):
        model.decoded(drums / "nothing.npz", "kick")


def test_controls_that_the_prior_does_not_know_are_left_out(drums: Path) -> None:
    loaded = LoadedRun.open(DRUMS, device="cpu", overrides=["generate.bias=1", "generate.guidance=1.5"])
    assert onnx.sampling_of(loaded) == Sampling(bias=1.0, guidance=1.5)
    assert loaded.prior is not None
    loaded.prior.prior.head.controls = ("temperature",)
    unknown = set(Sampling.__dataclass_fields__) - set(loaded.prior.prior.controls)
    assert "bias" in unknown
    assert onnx.sampling_of(loaded).bias == 0


def test_the_program_generates_without_torch(drums: Path, tmp_path: Path) -> None:
    """A module that hides torch and actseq comes first on the path of the program."""
    for name in ("torch", "actseq"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('hidden')")
    labels = json.loads((drums / "export.json").read_text())["prior"]["labels"]
    command = [sys.executable, str(drums / "generate.py"), "--n", "2", "--label", labels[0], "--out", "made"]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    clips = [audio.load(tmp_path / "made" / f"{labels[0]}-{i:02d}.wav", None)[0] for i in (1, 2)]
    assert all(np.abs(clip).max() > 0.1 for clip in clips)
    assert not np.array_equal(*(clip[:500] for clip in clips))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose decoder was tuned on what its prior makes, so much that the two decoders make other sounds."""
    folder = tmp_path_factory.mktemp("tuned")
    write_drumkit(folder / "kit", n_per_kind=8, sample_rate=8000, seed=0)
    network = {"kind": "clip-flow"} | members.PRIOR_NETWORKS["clip-flow"]
    settings = [f"prior.network={json.dumps(network)}", "prior.head=null", "train_prior.frames=16"]
    settings += ["train_ae.steps=4", "train_prior.steps=4"]
    settings += ['train_prior.decoder={"share": 2, "batch_size": 4, "frames": 6, "learning_rate": 0.05}']
    compute = pipeline.Compute("cpu", 1)
    pipeline.run_all(folder / "kit", "smoke", run=str(folder / "run"), overrides=settings, compute=compute)
    return folder / "run"


def test_latents_of_a_sound_and_of_a_prior_have_each_its_decoder(tuned: Path, tmp_path: Path) -> None:
    made = pipeline.export(tuned, "onnx", out=tmp_path / "export")
    assert "sound_decoder.onnx" in made["files"]
    model, loaded = standalone.load(tmp_path / "export"), actseq.load_run(tuned, device="cpu")
    sound = next((tuned.parent / "kit").rglob("*.wav"))
    [file] = pipeline.encode(tuned, [sound], out=tmp_path, npz=True).files
    encoded = read_activations(Path(file))
    theirs, ours = model.decoded(Path(file)), loaded.decode(encoded)
    assert len(theirs) == len(ours) == encoded.samples
    assert np.abs(theirs - ours).mean() < 0.01 * np.abs(ours).mean()
    # Edited to another number of frames, it keeps all of them.
    write_activations(tmp_path / "long.npz", replace(encoded, mean=np.concatenate([encoded.mean] * 2)))
    assert len(model.decoded(tmp_path / "long.npz")) == 2 * len(encoded.mean) * loaded.codec.samples_per_latent

    generated, [of_sound] = loaded.prior_codec.decode([encoded.mean]), loaded.codec.decode([encoded.mean])
    assert np.abs(model.waveform(model.features(encoded.mean)) - generated[0]).mean() < 0.01 * np.abs(generated).mean()
    assert np.abs(of_sound - generated[0]).mean() > 0.1 * np.abs(of_sound).mean(), "the tuning has changed nothing"


PHASE_PRESETS = [
    name
    for name in preset_names()
    if build.untrained_vocoder(build.build_representation(build.complete(load_preset(name)))).kind == "phase"
]


@pytest.mark.parametrize("preset", PHASE_PRESETS)
def test_the_program_makes_the_phases_of_every_preset(preset: str) -> None:
    config = build.complete(load_preset(preset))
    representation = build.build_representation(config)
    vocoder = build.untrained_vocoder(representation)
    rng, n = np.random.default_rng(0), config.corpus.sample_rate // 2
    hit = np.sin(4 * np.cumsum(np.geomspace(0.1, 0.01, n))) + 0.3 * rng.standard_normal(n)
    waveform = torch.from_numpy((hit * np.geomspace(0.5, 5e-4, n)).astype(np.float32))[None]
    features = representation.analyse(waveform, torch.tensor([n]))
    ours = synthesise(build.build_vocoder(vocoder, representation), features)
    about = {
        "representation": config.representation.model_dump(),
        "basis": onnx._basis(representation),
        "vocoder": vocoder.model_dump(),
        "defaults": {},
        "prior": None,
    }
    theirs = torch.from_numpy(standalone.Model(about, lambda *_: []).waveform(features.values[0].numpy()))[None]
    assert theirs.shape == ours.shape
    analysed = [representation.analyse(sound, torch.tensor([sound.shape[1]])).values for sound in (theirs, ours)]
    assert float((analysed[0] - analysed[1]).abs().mean()) * 20 / np.log(10) < 0.1


def test_the_program_makes_as_many_iterations_as_the_run() -> None:
    mel = members.representation("mel")
    features = members.features(40, 1, mel.channels)
    ours = synthesise(Phase(mel, n_turns=3, block_frames=16), features)[0].numpy()
    about = {"representation": {"kind": "mel", "n_fft": 256, "hop_length": 64}, "basis": onnx._basis(mel)}
    about |= {"defaults": {}, "prior": None, "vocoder": {"kind": "phase", "n_turns": 3, "block_frames": 16}}
    theirs = standalone.Model(about, lambda *_: []).waveform(features.values[0].numpy())
    assert np.abs(theirs - ours).mean() < 0.01 * np.abs(ours).mean()


def test_an_exported_file_of_latents_decodes_to_the_same_features(drums: Path) -> None:
    loaded = actseq.load_run(DRUMS, device="cpu")
    model = standalone.load(drums)
    latents = np.random.default_rng(3).standard_normal((40, loaded.codec.autoencoder.latent_dim)).astype(np.float32)
    sound = model.waveform(model.features(latents))
    ours = loaded.decode(latents)
    assert len(sound) == len(ours)
    analysed = loaded.codec.analyse([sound, ours]).values
    assert float((analysed[0] - analysed[1]).abs().mean()) * 20 / np.log(10) < 0.1


@pytest.mark.parametrize("frames", [1, 3, 8, 128, 131, 132, 300])
def test_the_program_makes_sound_of_magnitudes_as_actseq_does(frames: int) -> None:
    rng = np.random.default_rng(frames)
    linear = Linear(8000, n_fft=256, hop_length=64)
    hum = np.sin(np.arange(frames * 64) * 0.3) * rng.random(frames * 64) ** 2
    waveform = torch.from_numpy(hum.astype(np.float32))[None]
    features = linear.analyse(waveform, torch.tensor([frames * 64])).values[0, :, :frames]
    ours = synthesise(Phase(linear), Features(features[None], torch.tensor([frames])))[0].numpy()
    theirs = standalone.from_magnitudes(features.exp().numpy(), 256, 64)
    assert theirs.shape == ours.shape
    # Rounding decides some ties between bins of one level.
    assert np.abs(theirs - ours).mean() < 0.01 * np.abs(ours).mean()


def test_the_programs_inverse_transform_is_that_of_actseq() -> None:
    analysis = members.representation("stft")
    sound = np.random.default_rng(0).standard_normal(2000).astype(np.float32) * 0.1
    features = analysis.analyse(torch.from_numpy(sound)[None], torch.tensor([2000]))
    from actseq.vocoders.istft import Istft

    ours = synthesise(Istft(analysis), features)[0].numpy()
    settings = {"kind": "stft", "n_fft": 256, "hop_length": 64, "compression": 0.65, "scale": 0.34}
    model = standalone.Model({"representation": settings, "defaults": {}, "prior": None}, lambda *_: [])
    made = model.waveform(features.values[0].numpy())
    assert len(made) == len(ours)
    assert np.abs(made - ours).max() < 1e-4
    assert np.abs(made[:2000] - sound).max() < 1e-3


def test_what_cannot_be_exported_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="recurrent cannot be exported"):
        codec_graphs(members.autoencoder("recurrent", "plain", members.NETWORKS["recurrent"][0]), 24)
    with pytest.raises(ConfigError, match="attention cannot be exported"):
        codec_graphs(members.autoencoder("conv", "plain", members.NETWORKS["conv"][-1]), 24)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(AudioError, match="not an empty folder"):
        pipeline.export(DRUMS, "onnx", out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(ConfigError, match="prior gan"):
        prior_graphs(torch.nn.Identity(), "gan", PLAIN)


def test_an_export_that_differs_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "TOLERANCE", 1e-12)
    with pytest.raises(actseq.errors.ArtifactError, match="onnxruntime differs"):
        pipeline.export(DRUMS, "onnx", out=tmp_path / "new")
    assert not (tmp_path / "new").exists()
