"""Maps for samplers, read by parsers that are not ours."""

from xml.etree import ElementTree

import pytest
from sfzlint.parser import validate_s  # type: ignore[import-untyped, unused-ignore]

from actseq.audio.samplers import Pad, drum_key, dspreset, keys, sfz
from actseq.errors import ConfigError

PADS = [Pad("kick", 36, ("kick_01.wav", "kick_02.wav")), Pad("a <b> & c", 60, ("a-b-c_01.flac",))]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("kick", 36),
        ("Kick 808", 36),
        ("bass drum", 36),
        ("snares", 38),
        ("side-stick", 37),
        ("closed_hi-hat", 42),
        ("HiHat", 42),
        ("OpenHat", 46),
        ("claps", 39),
        ("hi tom", 50),
        ("low floor tom", 41),
        ("ride bell", 53),
        ("drums/cymbal", 49),
        ("wood block", 76),
        ("piano", None),
        ("chat", None),
        ("bass", None),
        ("0", None),
    ],
)
def test_a_name_says_which_drum_it_is(name: str, key: int | None) -> None:
    assert drum_key(name) == key


def test_other_names_take_the_free_keys_from_60_up() -> None:
    assert keys(["bongo", "kick", "kick2", "piano", "snare"]) == [60, 36, 61, 62, 38]
    many = keys([f"bank-{'ab'[i % 2] * (i + 1)}" for i in range(68)])
    assert many == list(range(60, 128))
    with pytest.raises(ConfigError, match="a kit of 70 labels; expected at most 69"):
        keys(["kick", *("x" * (i + 1) for i in range(69))])


def test_an_sfz_parser_finds_every_sound_in_its_turn() -> None:
    complaints: list[tuple[object, ...]] = []
    read = validate_s(sfz(PADS), err_cb=lambda *said: complaints.append(said))
    assert not complaints
    found, inherited = [], {}
    for header in read.headers:
        inherited[header.token] = {str(name): str(value) for name, value in header.items()}
        if header.token == "region":
            one = inherited["global"] | inherited["group"] | inherited["region"]
            found.append(tuple(one[name] for name in ("sample", "key", "seq_position", "seq_length", "loop_mode")))
    assert found == [
        ("kick_01.wav", "36", "1", "2", "one_shot"),
        ("kick_02.wav", "36", "2", "2", "one_shot"),
        ("a-b-c_01.flac", "60", "1", "1", "one_shot"),
    ]


def test_an_xml_parser_finds_every_sound_in_its_turn() -> None:
    root = ElementTree.fromstring(dspreset(PADS))
    assert (root.tag, [child.tag for child in root]) == ("DecentSampler", ["groups"])
    kick, other = root.findall("groups/group")
    assert kick.attrib == {"name": "kick", "ampEnvEnabled": "false", "seqMode": "round_robin", "seqLength": "2"}
    assert (other.get("name"), other.get("seqLength")) == ("a <b> & c", "1")
    samples = [
        (sample.get("path"), sample.get("seqPosition"), {sample.get(name) for name in ("rootNote", "loNote", "hiNote")})
        for sample in root.iter("sample")
    ]
    assert samples == [
        ("kick_01.wav", "1", {"36"}),
        ("kick_02.wav", "2", {"36"}),
        ("a-b-c_01.flac", "1", {"60"}),
    ]
