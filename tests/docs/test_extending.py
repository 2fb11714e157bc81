"""The examples of docs/extending.md: each printed file and its one line in a table make a member that works."""

import functools
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import members
import pytest
import torch
from autoencoders import test_autoencoder_contract as autoencoders
from priors import test_prior_contract as priors
from representations import test_representation_contract as representations
from torch import distributions
from vocoders import test_vocoder_contract as vocoders

from actseq import pipeline, registry
from actseq.pipeline import GenerationRequest, Output
from actseq.storage.run_folder import RunFolder

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
EXAMPLE = re.compile(
    r"^`actseq/(?P<package>\w+)/(?P<module>\w+)\.py`, and `(?P<line>\"(?P<kind>[\w-]+)\": \w+)` "
    r"in `(?P<table>[A-Z_]+)`:\n\n```python\n(?P<text>.*?)^```$",
    flags=re.M | re.S,
)
EXAMPLES = list(EXAMPLE.finditer(PAGE.read_text(encoding="utf-8")))
OPTIONS: dict[str, dict[str, Any]] = {
    "dct": {"grain_length": 256, "hop_length": 64},
    "bounded": {"limit": 2.0},
    "taps": {"width": 12, "taps": 4},
    "laplace": {"min_scale": 0.02},
    "edge": {"edge_weight": 0.5},
    "still": {"spread": 0.5},
    "tilt": {"n_updates": 4},
}
CHOSEN = [kind for kind in OPTIONS if f".kind={kind}" in PAGE.read_text(encoding="utf-8")]
"""Members that a command on the page chooses; the others follow from these."""
QUICK = ["train_ae.steps=3", "train_prior.steps=3", "train_vocoder.steps=3"]
USE: dict[str, Any] = {"compute": pipeline.Compute("cpu", 1)}


@pytest.fixture
def documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The examples in their packages and tables; shapes are checked as in the library's own modules."""
    names = [f"actseq.{example['package']}.{example['module']}" for example in EXAMPLES]
    assert not sys.modules.keys() & {*names}
    for example in EXAMPLES:
        folder = tmp_path / "actseq" / example["package"]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{example['module']}.py").write_text(example["text"], encoding="utf-8")
        package = importlib.import_module(f"actseq.{example['package']}")
        monkeypatch.setattr(package, "__path__", [str(folder), *package.__path__])
    importlib.invalidate_caches()
    try:
        for name, example in zip(names, EXAMPLES, strict=True):
            kind, found = example["kind"], vars(importlib.import_module(name))
            monkeypatch.setitem(getattr(registry, example["table"]), kind, eval(f"{{{example['line']}}}", found)[kind])
            monkeypatch.setitem(getattr(members, example["table"], {}), kind, OPTIONS[kind])
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)


@pytest.fixture
def sounds(tmp_path: Path, data_dir: Path) -> Path:
    """A dozen spoken digits of three kinds."""
    for label in "027":
        (tmp_path / "sounds" / label).mkdir(parents=True)
        for path in sorted((data_dir / "digits_fsdd").rglob(f"{label}_jackson_*.wav"))[:4]:
            (tmp_path / "sounds" / label / path.name).symlink_to(path)
    return tmp_path / "sounds"


def test_the_page_has_an_example_of_each_kind_of_member() -> None:
    assert {example["table"] for example in EXAMPLES} == {
        "REPRESENTATIONS",
        "BOTTLENECKS",
        "REGULARISERS",
        "PRIOR_NETWORKS",
        "HEADS",
        "OBJECTIVES",
        "VOCODER_NETWORKS",
    }
    text = PAGE.read_text(encoding="utf-8")
    assert text.count("```python") == len(EXAMPLES)
    tables = {name for name, value in vars(registry).items() if name.isupper() and isinstance(value, dict)}
    assert not {name for name in tables - {"FAMILIES", "FOLLOWING"} if f"`{name}`" not in text}


@pytest.mark.usefixtures("documented")
def test_the_representation_keeps_its_contract(data_dir: Path) -> None:
    representations.test_padding_changes_nothing_inside("dct")
    representations.check_alone_equals_batch("dct", members.digits(data_dir))
    representations.test_declared_size_and_rate_are_true("dct")
    representations.test_context_is_true("dct")
    representations.test_silence_and_a_single_sample_are_finite("dct")
    representations.test_state_dict_makes_a_copy("dct")
    vocoders.test_streamed_equals_whole_bit_for_bit("granular", "dct", 7)
    vocoders.test_real_digits_survive("granular", "dct", data_dir)


@pytest.mark.usefixtures("documented")
def test_the_representation_is_scipys_transform() -> None:
    from scipy.fft import dct

    analysis = members.representation("dct")
    grains = torch.randn((2, 256, 5), generator=torch.Generator().manual_seed(0))
    values = analysis.features_of(grains)
    torch.testing.assert_close(values, torch.from_numpy(dct(grains.numpy(), axis=1, norm="ortho")), atol=1e-5, rtol=0)
    torch.testing.assert_close(analysis.grains(values), grains, atol=1e-5, rtol=0)


@pytest.mark.usefixtures("documented")
@pytest.mark.parametrize("network", ["conv", "dense", "pca"])
def test_the_bottleneck_keeps_its_contract(network: str) -> None:
    given = (network, "bounded", members.NETWORKS[network][0])
    autoencoders.test_padding_changes_no_code(*given)
    autoencoders.test_padding_changes_no_decoded_frame(*given)
    autoencoders.test_padding_changes_no_reconstruction(*given)
    autoencoders.test_state_dict_makes_a_copy(*given)
    autoencoders.test_every_trainable_number_learns(*given)
    autoencoders.test_a_draw_and_the_mode_keep_the_lengths(*given)
    model = members.autoencoder(*given)
    wild = 100 * members.features(11, 2, autoencoders.CHANNELS).values
    with torch.no_grad():
        encoded = model.encode_normalised(wild, torch.tensor([11, 6])).mean
    assert 1.9 < encoded.abs().max() <= 2
    assert torch.equal(model.bottleneck.decode(encoded), encoded)
    assert model.bottleneck.decode(3 * encoded).abs().max() == 2


@pytest.mark.usefixtures("documented")
def test_the_prior_network_and_the_head_keep_their_contracts(monkeypatch: pytest.MonkeyPatch) -> None:
    for pair in (("taps", "laplace"), ("taps", "mixture"), ("gru", "laplace")):
        for way in ("everywhere", "input"):
            priors.test_step_is_forward(*pair, way)
            priors.test_a_condition_for_every_frame(*pair, way)
            priors.test_prefill_then_step_is_forward(*pair, way)
        priors.test_a_long_prompt_is_consumed_in_pieces(*pair, monkeypatch)
        priors.test_no_gradient_comes_from_the_future(*pair)
        priors.test_rows_of_a_batch_do_not_meet(*pair)
        priors.test_unknown_controls_are_refused(*pair)
        priors.test_state_dict_makes_a_copy(*pair)
    priors.test_states_are_values("taps")


@pytest.mark.usefixtures("documented")
def test_the_head_is_a_density(monkeypatch: pytest.MonkeyPatch) -> None:
    def laplace(head: Any, parameters: torch.Tensor, dims: int) -> Any:
        scale = (1 + parameters[..., dims:].exp()).log() + head.min_scale
        return distributions.Independent(distributions.Laplace(parameters[..., :dims], scale), 1)

    monkeypatch.setitem(priors.REFERENCE, "laplace", laplace)
    priors.test_log_prob_is_that_of_torch_distributions("laplace")
    priors.test_density_integrates_to_one("laplace")
    priors.test_samples_follow_the_density("laplace")
    priors.test_temperature_zero_takes_the_likeliest("laplace")


@pytest.mark.usefixtures("documented")
@pytest.mark.parametrize("kind", CHOSEN)
def test_a_member_goes_from_sounds_to_new_sounds(kind: str, sounds: Path, tmp_path: Path) -> None:
    """Chosen by the settings on the page, trained, stored with all of its keys; the same seed gives the same bytes."""
    run = tmp_path / "run"
    [command] = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if f".kind={kind}" in line]
    settings = re.findall(r"--set ([^\s`]+)", command)
    where = settings[0].removesuffix(f".kind={kind}")
    settings += [f"{where}.{key}={value}" for key, value in OPTIONS[kind].items()]
    made = pipeline.train_ae(sounds, "smoke", run=str(run), overrides=[*QUICK, *settings], **USE)
    pipeline.extract_latents(run, **USE)
    assert made["total_steps"] == pipeline.train_prior(run, **USE)["total_steps"] == 3
    written = functools.reduce(
        dict.__getitem__, where.split("."), RunFolder.open(run).read_config().model_dump(mode="json")
    )
    assert written == {"kind": kind, **OPTIONS[kind]}
    overrides = []
    if where.startswith("train_vocoder"):
        pipeline.train_vocoder(run, name=kind, **USE)
        overrides = ["vocoder.kind=trained", f"vocoder.name={kind}"]
    first, again, other = (
        [
            Path(file).read_bytes()
            for file in pipeline.generate(
                run, GenerationRequest(n=2, seconds=0.3, seed=seed), Output(out), overrides=overrides, **USE
            ).files
        ]
        for seed, out in ((3, tmp_path / "first"), (3, tmp_path / "again"), (4, tmp_path / "other"))
    )
    assert first == again
    assert len({*first, *other}) == 4


@pytest.mark.usefixtures("documented")
def test_a_bottleneck_brings_its_price(sounds: Path, tmp_path: Path) -> None:
    widths = []
    for weight in (0.0, 100.0):
        given = ["autoencoder.bottleneck.kind=bounded", f"train_ae.regulariser.edge_weight={weight}"]
        run = tmp_path / f"run{weight:g}"
        made = pipeline.train_ae(sounds, "smoke", run=str(run), overrides=[*given, "train_ae.steps=30"], **USE)
        found = RunFolder.open(run).read_config().train_ae.regulariser
        assert found is not None
        assert found.model_dump() == {"kind": "edge", "edge_weight": weight}
        widths.append(made["figures"]["square"])
    assert widths[1] < 0.8 * widths[0]
