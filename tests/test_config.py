"""Presets, overrides and what they build; every mistake names the nearest thing that exists."""

import functools
from pathlib import Path

import pytest
import yaml

from actseq import build, config, registry
from actseq.config import Config, load_preset, override, preset_folder, preset_names, resolve, suggest_name
from actseq.errors import ConfigError

PRESETS = preset_names()


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


# -- presets -----------------------------------------------------------------------------------------------------------


def test_there_are_presets() -> None:
    assert {"drums", "drumkit", "digits", "speech", "ambience", "smoke"} <= set(PRESETS)
    assert not [name for name in PRESETS if name.startswith("_")]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_everything(name: str) -> None:
    completed = build.complete(load_preset(name))
    assert completed.preset == name
    representation = build.build_representation(completed)
    assert representation.sample_rate == completed.corpus.sample_rate
    model = build.build_autoencoder(completed, representation)
    assert model.latent_dim == completed.autoencoder.latent_dim
    assert (0.2 if model.whole_clips else 5) < model.latent_rate < 500
    objective = build.build_autoencoding(completed, model, representation, representation.hop_length)
    groups = objective.parameter_groups()
    assert {id(one) for one in groups["autoencoder"]} == {id(one) for one in model.parameters()}
    assert {id(one) for group in groups.values() for one in group} == {id(one) for one in objective.parameters()}
    labels = ["a", "b"]
    prior = build.build_prior(completed, model.latent_dim, model.latent_dim - 1, labels)
    assert prior.table.num_embeddings == len(labels) + 1
    build.build_sequence(completed, prior)
    vocoder = build.build_vocoder(completed.vocoder, representation)
    auto = build.build_vocoder(config.Member(kind="auto"), representation)
    assert vocoder.hop_length == auto.hop_length == representation.hop_length
    assert build.n_parameters(model) > 0
    assert completed.corpus.segment_seconds * representation.feature_rate >= 8


@pytest.mark.parametrize("name", PRESETS)
def test_a_completed_preset_lists_every_key_and_reads_back(name: str) -> None:
    completed = build.complete(load_preset(name))
    assert build.complete(completed) == completed
    written = yaml.safe_load(yaml.safe_dump(completed.model_dump(mode="json")))
    assert config.parse(Config, written) == completed
    for where, table in registry.FAMILIES.items():
        member = functools.reduce(dict.__getitem__, where.split("."), written)
        if isinstance(member, dict):
            assert member.keys() - {"kind"} == build.options_model(table[member["kind"]]).model_fields.keys()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_says_what_it_is_for(name: str) -> None:
    first = (preset_folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert len(first) > 20


def test_presets_are_found_in_a_wheel_and_in_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = (preset_folder() / "_base.yaml").read_text(encoding="utf-8")
    for layout, folder in (("checkout", "configs"), ("wheel", "actseq/configs")):
        top = tmp_path / layout
        (top / folder).mkdir(parents=True)
        (top / "actseq").mkdir(exist_ok=True)
        write(top / folder / "_base.yaml", content)
        write(top / folder / f"in-{layout}.yaml", "include: _base\n")
        monkeypatch.setattr(config, "__file__", str(top / "actseq" / "config.py"))
        assert preset_folder() == top / folder
        assert preset_names() == [f"in-{layout}"]
        assert load_preset(f"in-{layout}").preset == f"in-{layout}"


# -- includes ----------------------------------------------------------------------------------------------------------


def test_includes_form_a_chain(tmp_path: Path) -> None:
    write(tmp_path / "middle.yaml", "include: drums\ntrain_ae: {batch_size: 5, ema: 0.5}\n")
    path = write(tmp_path / "mine.yaml", "include: middle\ntrain_ae: {batch_size: 6}\nseed: 9\n")
    found, drums = load_preset(path), load_preset("drums")
    assert found.preset == "mine"
    assert found.seed == 9
    assert (found.train_ae.batch_size, found.train_ae.ema) == (6, 0.5)
    assert found.train_ae.minutes == drums.train_ae.minutes
    assert found.corpus == drums.corpus


def test_an_include_names_a_file_beside_before_a_preset(tmp_path: Path) -> None:
    write(tmp_path / "digits.yaml", "include: drums\nseed: 3\n")
    path = write(tmp_path / "mine.yaml", "include: digits\n")
    assert load_preset(path).corpus.sample_rate == 44100
    assert load_preset(path).seed == 3


def test_includes_in_a_circle(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "include: b\n")
    write(tmp_path / "b.yaml", "include: a\n")
    with pytest.raises(ConfigError, match="includes itself"):
        load_preset(str(tmp_path / "a.yaml"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1", "is not YAML"),
        ("- 1\n- 2\n", "holds a list"),
        ("include: drumz\n", "did you mean 'drums'"),
        ("include: [drums, digits]\n", "include"),
        ("", "is missing"),
    ],
)
def test_a_damaged_preset_file(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        load_preset(write(tmp_path / "mine.yaml", text))
    assert "\n" not in str(caught.value)


def test_a_preset_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01RIFF\x80")
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        load_preset(str(path))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("drum", "drums"), ("drumset", "drum"), ("speach", "'speech'"), ("zzz", "there are: ambience, attention-ae")],
)
def test_an_unknown_preset_names_the_nearest(name: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        load_preset(name)
    assert f"'{name}'" in str(caught.value)


def test_a_preset_path_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no configuration at .*gone\.yaml; presets: ambience"):
        load_preset(str(tmp_path / "gone.yaml"))


# -- keys of older versions -------------------------------------------------------------------------------------------


def older(bottleneck: str, **more: float) -> dict[str, object]:
    """What the configuration of a run used to say: all keys in the objective, whatever the bottleneck."""
    tree = build.complete(load_preset("smoke", [f"autoencoder.bottleneck.kind={bottleneck}"])).model_dump(mode="json")
    del tree["train_ae"]["regulariser"]
    fields = [build.options_model(registry.REGULARISERS[kind]).model_fields for kind, _ in config.MOVED.values()]
    for (_, keys), own in zip(config.MOVED.values(), fields, strict=True):
        tree["train_ae"]["objective"] |= {key: own[key].default for key in keys}
    tree["train_ae"]["objective"] |= more
    return tree


def test_old_runs_name_what_is_now_the_regulariser() -> None:
    found = config.parse(Config, older("variational", kl_weight=0.7))
    assert found.train_ae.regulariser == config.Member.model_validate(
        {"kind": "kl", "kl_weight": 0.7, "kl_warmup": 0.2, "free_bits_nats": 0.25}
    )
    assert "kl_weight" not in found.train_ae.objective.options
    other = config.parse(Config, older("adversarial", matching_weight=0.7)).train_ae.regulariser
    assert other == config.Member.model_validate(
        {"kind": "latent-discriminator", "adversarial_weight": 1.0, "matching_weight": 0.7, "adjudicator_width": 1000}
    )
    assert config.parse(Config, older("plain", kl_weight=0.7)).train_ae.regulariser is None
    for bottleneck in ("variational", "adversarial", "plain"):
        found = config.parse(Config, older(bottleneck))
        completed = build.complete(found)
        old, new = found.train_ae.regulariser, completed.train_ae.regulariser
        assert (old is None) == (new is None)
        assert old is None or new is None or old.model_dump().items() <= new.model_dump().items()
        assert completed.model_copy(update={"train_ae": found.train_ae}) == found


def test_old_presets_and_overrides_are_understood(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.yaml", "include: drums\ntrain_ae: {objective: {kl_weight: 0.7, delta_weight: 0.1}}\n")
    found = load_preset(path)
    assert found.train_ae.regulariser == config.Member.model_validate({"kind": "kl", "kl_weight": 0.7})
    assert found.train_ae.objective.options == {"delta_weight": 0.1}
    typed = load_preset("drums", ["train_ae.objective.kl_weight=0.7"])
    assert build.complete(typed).train_ae.regulariser == build.complete(found).train_ae.regulariser
    path = write(
        tmp_path / "aae.yaml",
        "include: smoke\nautoencoder: {bottleneck: {kind: adversarial}}\n"
        "train_ae: {objective: {kind: autoencoding, matching_weight: 3}}\n",
    )
    member = build.complete(load_preset(path)).train_ae.regulariser
    assert member is not None
    assert (member.kind, member.options["matching_weight"]) == ("latent-discriminator", 3)
    with pytest.raises(ConfigError, match="bottleneck plain with regulariser kl"):
        build.complete(load_preset("mel-ae", ["train_ae.objective.kl_weight=0.7"]))


# -- overrides ---------------------------------------------------------------------------------------------------------


def test_overrides_apply_in_order() -> None:
    found = load_preset(
        "smoke",
        [
            "seed=4",
            "train_ae.batch_size=2",
            "train_ae.batch_size=3",
            "corpus.level_dbfs=null",
            "train_ae.betas=[0.5, 0.6]",
            "generate.seconds=1e0",
            "representation.floor=1.0e-5",
        ],
    )
    assert (found.seed, found.train_ae.batch_size, found.corpus.level_dbfs) == (4, 3, None)
    assert found.train_ae.betas == (0.5, 0.6)
    assert found.generate.seconds == 1.0
    assert found.representation.options["floor"] == 1e-5


@pytest.mark.parametrize("text", ["1e-4", "0.0001", "1.0e-4"])
def test_numbers_are_read_however_they_are_written(text: str) -> None:
    completed = build.complete(load_preset("smoke", [f"train_ae.learning_rate={text}", f"representation.floor={text}"]))
    assert completed.train_ae.learning_rate == 1e-4
    assert completed.representation.options["floor"] == 1e-4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train_ae.batchsize=4", "'train_ae.batchsize' .*did you mean 'batch_size'"),
        ("trian_ae.steps=4", "did you mean 'train_ae'"),
        ("sed=4", "'sed' is no key .*did you mean 'seed'"),
        ("corpus.sample_rates=8000", "did you mean 'sample_rate'"),
        ("representation.n_mel=8", "'representation.n_mel' .*did you mean 'n_mels'"),
        ("representation.kind=mell", "'representation.kind' is 'mell'; did you mean 'mel'"),
        ("autoencoder.network.kind=convv", "did you mean 'conv'"),
        ("autoencoder.network.widht=8", "'autoencoder.network.widht' .*did you mean 'width'"),
        ("autoencoder.bottleneck.kind=variatonal", "did you mean 'variational'"),
        ("prior.network.kind=lstn", "did you mean 'lstm'"),
        ("prior.head.kind=gausian", "did you mean 'gaussian'"),
        ("prior.head.n_component=3", "did you mean 'n_components'"),
        ("train_ae.regulariser.kl_wait=3", "did you mean 'kl_weight'"),
        ("vocoder.kind=grifin-lim", "did you mean 'griffin-lim'"),
        ("seed.deep=4", "'seed"),
        ("prior.steps=4", "'prior.steps' is no key"),
        ("corpus.sample_rate=fast", "'corpus.sample_rate' is 'fast'"),
        ("corpus.sample_rate=-1", "'corpus.sample_rate' is -1"),
        ("corpus.dtype=int8", "'corpus.dtype' is 'int8'; .*int16"),
        ("corpus.validation=0.9", "'corpus.validation' is 0.9"),
        ("train_ae.batch_size=2.5", "'train_ae.batch_size' is 2.5"),
        ("train_ae.betas=[0.9]", "train_ae.betas"),
        ("representation.n_mels=many", "'representation.n_mels' is 'many'"),
        ("prior.network.width=[1]", "'prior.network.width'"),
        ("representation=mel", "'representation' is 'mel'"),
        ("corpus=null", "'corpus' is None"),
        ("autoencoder.network.kind=null", "autoencoder.network.kind"),
        ("train_ae.steps", "no override; expected key=value"),
        ("=4", "no override"),
        ("train_ae.steps=0", "'train_ae.steps' is 0"),
    ],
)
def test_a_wrong_override_names_its_key(text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        build.complete(load_preset("smoke", [text]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "representation.n_fft=0",
        "representation.n_fft=-4",
        "representation.hop_length=0",
        "representation.hop_length=10000",
        "representation.n_mels=0",
        "representation.n_mels=4000",
        "representation.floor=0",
        "autoencoder.network.stride=0",
        "autoencoder.network.width=0",
        "prior.network.layers=0",
        "prior.network.width=0",
        "prior.network.dropout=2",
        "prior.head.n_components=0",
        "vocoder.block_frames=0",
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_value_that_a_member_cannot_use_is_a_config_error(text: str) -> None:
    def everything() -> None:
        completed = build.complete(load_preset("smoke", [text]))
        representation = build.build_representation(completed)
        build.build_autoencoder(completed, representation)
        build.build_prior(completed, 4, 4, [])
        build.build_vocoder(completed.vocoder, representation)

    with pytest.raises(ConfigError, match=text.split(".")[0]) as caught:
        everything()
    assert "\n" not in str(caught.value)


def test_a_loop_that_is_repeated_keeps_its_beginning() -> None:
    with pytest.raises(ConfigError, match=r"a loop whose beginning is cut does not repeat; set corpus\.trim=none"):
        load_preset("drums", ["corpus.repeat_seconds=5"])
    assert load_preset("drums", ["corpus.repeat_seconds=5", "corpus.trim=none"]).corpus.repeat_seconds == 5


def test_steps_and_minutes_exclude_each_other(tmp_path: Path) -> None:
    assert load_preset("smoke").train_ae.steps == 20
    minutes = load_preset("smoke", ["train_ae.minutes=2"]).train_ae
    assert (minutes.steps, minutes.minutes) == (None, 2)
    steps = load_preset("drums", ["train_ae.steps=7"]).train_ae
    assert (steps.steps, steps.minutes) == (7, None)
    last = load_preset("drums", ["train_ae.steps=7", "train_ae.minutes=1", "train_ae.steps=8"]).train_ae
    assert (last.steps, last.minutes) == (8, None)
    untouched = load_preset("drums", ["train_ae.steps=7"]).train_prior
    assert untouched.steps is None
    both = write(tmp_path / "both.yaml", "include: _base\ntrain_ae: {steps: 5}\n")
    with pytest.raises(ConfigError, match="either steps or minutes"):
        load_preset(both)
    neither = write(tmp_path / "neither.yaml", "include: _base\ntrain_ae: {minutes: null}\n")
    with pytest.raises(ConfigError, match="either steps or minutes"):
        load_preset(neither)


def test_another_kind_replaces_the_section() -> None:
    completed = build.complete(load_preset("smoke", ["prior.network.kind=gru", "prior.head.kind=gaussian"]))
    assert completed.prior.network.kind == "gru"
    assert completed.prior.network.options["width"] == 256, "the default, not what smoke gives its lstm"
    assert completed.prior.head.options == {}
    same = build.complete(load_preset("smoke", ["prior.network.kind=lstm"]))
    assert same.prior.network.options["width"] == 16
    after = load_preset("smoke", ["prior.network.kind=gru", "prior.network.width=8"])
    assert after.prior.network.options == {"width": 8}


def test_auto_takes_no_keys() -> None:
    with pytest.raises(ConfigError, match=r"'vocoder.n_iter' is no key of auto, which has none"):
        build.complete(load_preset("drums", ["vocoder.n_iter=3"]))


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("extract-latents", "train_ae.steps=3"),
        ("extract-latents", "prior.condition_dim=3"),
        ("train-prior", "autoencoder.latent_dim=3"),
        ("train-prior", "latents.dtype=float16"),
        ("train-prior", "seed=3"),
        ("generate", "prior.condition_dim=3"),
        ("generate", "corpus.sample_rate=3"),
    ],
)
def test_a_stage_sets_only_its_own_sections(command: str, text: str) -> None:
    completed = build.complete(load_preset("smoke"))
    with pytest.raises(ConfigError, match=f"{command} cannot set '{text.partition('.')[0].partition('=')[0]}'"):
        override(completed, [text], command)


def test_a_stage_sets_its_own_section() -> None:
    completed = build.complete(load_preset("smoke"))
    changed = override(completed, ["train_prior.minutes=2", "prior.network.kind=gru"], "train-prior")
    assert (changed.train_prior.minutes, changed.train_prior.steps) == (2, None)
    assert changed.prior.network.kind == "gru"
    assert changed.autoencoder == completed.autoencoder
    with pytest.raises(ConfigError, match="did you mean 'train_prior'"):
        override(completed, ["train_priors.minutes=2"], "train-prior")


def test_resolving_leaves_the_tree_alone() -> None:
    tree = load_preset("smoke").model_dump(mode="json")
    before = yaml.safe_dump(tree)
    resolve(tree, ["train_ae.minutes=2", "prior.network.width=99", "vocoder.kind=auto"])
    assert yaml.safe_dump(tree) == before


def test_a_configuration_is_frozen() -> None:
    found = load_preset("smoke")
    with pytest.raises(ValueError, match="frozen"):
        found.seed = 3
    with pytest.raises(ValueError, match="frozen"):
        found.train_ae.steps = 3


def test_the_nearest_name() -> None:
    assert suggest_name("snar", ["snare", "kick"]) == "did you mean 'snare'?"
    assert suggest_name("xyz", ["snare", "kick"]) == "there are: kick, snare"


@pytest.mark.parametrize(
    ("text", "network", "head"),
    [
        ("{include: drums, prior: {network: {kind: lstm}, head: {kind: mixture}}}", "lstm", "mixture"),
        (
            "{include: drums, prior: {network: {kind: lstm}}, train_prior: {objective: {kind: sequence}}}",
            "lstm",
            "mixture",
        ),
        ("{include: digits, prior: {network: {dropout: 0.2}, head: {blocks: 8}}}", "clip-flow", None),
    ],
)
def test_a_preset_of_a_user_may_name_another_prior(tmp_path: Path, text: str, network: str, head: str | None) -> None:
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    completed = build.complete(load_preset(str(tmp_path / "mine.yaml")))
    assert completed.prior.network.kind == network
    assert (completed.prior.head.kind if completed.prior.head else None) == head
    assert completed.train_prior.objective.kind == ("sequence" if head else "flow-matching")


def test_a_key_of_a_head_that_the_preset_does_not_have_needs_no_kind() -> None:
    completed = build.complete(load_preset("drums", ["prior.network.kind=lstm", "prior.head.n_components=3"]))
    assert completed.prior.head is not None
    assert completed.prior.head.options["n_components"] == 3
    with pytest.raises(ConfigError, match="no head"):
        build.complete(load_preset("drums", ["prior.head.n_components=3"]))


def test_old_keys_of_two_regularisers_are_not_dropped_unsaid(tmp_path: Path) -> None:
    objective = "{kl_weight: 0.1, adversarial_weight: 0.7}"
    (tmp_path / "mine.yaml").write_text(
        f"{{include: grain-aae, train_ae: {{objective: {objective}}}}}", encoding="utf-8"
    )
    with pytest.raises(ConfigError, match="keys of two regularisers"):
        load_preset(str(tmp_path / "mine.yaml"))
    with pytest.raises(ConfigError, match="keys of two regularisers"):
        load_preset("grain-aae", [f"train_ae.objective={objective}"])


def test_what_an_older_version_recorded_has_the_keys_that_came_since() -> None:
    network = {"kind": "lstm", "width": 8}
    old = {
        "prior": {"network": network, "head": {"kind": "gone", "size": 3}, "condition_dim": 4},
        "train_prior": {"objective": {"kind": "sequence", "end_weight": 0.2}, "frames": 16},
        "seed": 5,
        "autoencoder": "030f1782",
    }
    filled = build.with_defaults(old)
    assert filled["prior"]["network"] == {"kind": "lstm", "width": 8, "layers": 2, "dropout": 0.0}
    assert filled["prior"]["head"] == {"kind": "gone", "size": 3}
    assert (filled["prior"]["condition"], filled["prior"]["condition_dim"]) == ("input", 4)
    assert (filled["train_prior"]["frames"], filled["train_prior"]["ema"]) == (16, 0.99)
    assert filled["train_prior"]["objective"]["end_weight"] == 0.2
    assert filled["train_prior"]["objective"]["balance"] == 0
    assert (filled["seed"], filled["autoencoder"]) == (5, "030f1782")
    assert network == {"kind": "lstm", "width": 8}


def test_only_true_and_false_are_truth_values(tmp_path: Path) -> None:
    assert load_preset("smoke", ["train_ae.targets=[no,on,Yes,off,y]"]).train_ae.targets == (
        "no",
        "on",
        "Yes",
        "off",
        "y",
    )
    assert load_preset("smoke", ["train_ae.stored_features=true"]).train_ae.stored_features
    assert load_preset("smoke", ["train_ae.stored_features=on"]).train_ae.stored_features
    path = tmp_path / "mine.yaml"
    path.write_text("include: smoke\ntrain_ae: {targets: [on, no]}\n")
    assert load_preset(str(path)).train_ae.targets == ("on", "no")
