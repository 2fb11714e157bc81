"""What the page does with a run, without HTTP: places, paths, new sounds, files of the user, and what is kept."""

import base64
import io
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import soundfile
from explorer import OLD_RUNS

from actseq import audio, pipeline
from actseq.audio.origin import is_made
from actseq.errors import ArtifactError, AudioError, ConfigError
from actseq.explore import orders, paths
from actseq.explore.effects import effect_choices
from actseq.explore.generated import CLIPS, GeneratedSounds
from actseq.explore.jobs import Message
from actseq.explore.shelf import Shelf, ShelfSound
from actseq.explore.studio import Studio
from actseq.inference import loaded_run
from actseq.inference.loaded_run import LoadedRun
from actseq.progress import SILENT
from actseq.registry import EFFECTS


def made(studio: Studio, work: Iterable[Message]) -> ShelfSound:
    """The sound that some work ends with; its samples came before, in pieces of the same sound."""
    messages = list(work)
    assert messages[0] == {"kind": "begin", "sample_rate": studio.sample_rate}
    sound = studio.shelf.get(messages[-1]["sound"]["id"])
    grown = np.concatenate([samples(message) for message in messages[1:-1]])
    gain = np.abs(sound.waveform).max() / np.abs(grown).max()
    np.testing.assert_allclose(grown * gain, sound.waveform, atol=1e-6)
    return sound


def samples(message: Message) -> np.ndarray:
    return np.frombuffer(base64.b64decode(message["data"]), "<f4")


def wav(waveform: np.ndarray, rate: int) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, waveform, rate, format="WAV")
    return content.getvalue()


def tone(seconds: float, rate: int = 8000) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * 300 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def test_the_plane_holds_as_much_of_the_variance_as_any_plane_can(studio: Studio) -> None:
    catalog = studio.catalog
    means = np.stack([catalog.latents(clip).mean(0, dtype=np.float64) for clip in catalog.clips])
    values = np.linalg.eigvalsh(np.cov(means.T, bias=True))[::-1]
    np.testing.assert_allclose(catalog.places.var(0), values[:2], rtol=1e-6)
    np.testing.assert_allclose(catalog.plane.explained, values[:2] / values.sum(), rtol=1e-6)
    assert catalog.plane.place(catalog.latents(catalog.clips[0])) == pytest.approx(tuple(catalog.places[0]))


def test_the_weights_of_a_mean_end_at_its_radius_without_a_jump() -> None:
    distances = np.array([0.5, 1.0, 1.5, 2.0])
    found = paths.weights(distances, 2.0)
    expected = ((2.0 - distances) / (2.0 * distances)) ** 2
    np.testing.assert_allclose(found, expected / expected.sum())
    assert found[-1] == 0
    np.testing.assert_allclose(paths.weights(np.array([0.0, 1.0]), 2.0), [1, 0], atol=1e-12)
    np.testing.assert_allclose(paths.weights(np.zeros(3), 0.0), np.full(3, 1 / 3))


def test_a_path_that_stays_at_a_clip_is_that_clip(studio: Studio) -> None:
    catalog = studio.catalog
    for clip, (x, y) in zip(catalog.clips, catalog.places.tolist(), strict=True):
        found = paths.walk(catalog, [(x, y)], None, 10_000)
        np.testing.assert_allclose(found.latents, catalog.latents(clip), atol=1e-5)
        assert found.clips[0] == clip.key


def test_a_path_is_the_weighted_mean_of_the_nearest_clips(studio: Studio) -> None:
    catalog = studio.catalog
    (x0, y0), (x1, y1) = catalog.places[0].tolist(), catalog.places[-1].tolist()
    frames = 9
    found = paths.walk(catalog, [(x0, y0), (x1, y1)], frames, 10_000)
    for number in range(frames):
        at = catalog.places[0] + number / (frames - 1) * (catalog.places[-1] - catalog.places[0])
        distances = np.linalg.norm(catalog.places - at, axis=1)
        order = np.argsort(distances)
        weights = paths.weights(distances[order[:4]], distances[order[4]])
        expected = 0.0
        for weight, row in zip(weights, order[:4], strict=True):
            latents = catalog.latents(catalog.clips[row])
            place = number if len(latents) > frames else number / (frames - 1) * (len(latents) - 1)
            expected += weight * np.array([np.interp(place, range(len(latents)), one) for one in latents.T])
        np.testing.assert_allclose(found.latents[number], expected, atol=1e-5)


def test_a_path_sounds_as_its_latents_decoded_and_says_what_it_is(studio: Studio) -> None:
    points = [tuple(place) for place in studio.catalog.places[:3].tolist()]
    sound = made(studio, studio.along(orders.AlongPath(points=points)))
    latents = paths.walk(studio.catalog, points, None, 10_000).latents
    decoded = studio.loaded.codec.decode([latents])[0]
    keep = len(decoded) - round(0.005 * studio.sample_rate)
    gain = np.abs(sound.waveform).max() / np.abs(decoded[:keep]).max()
    np.testing.assert_allclose(sound.waveform[:keep], decoded[:keep] * gain, atol=2e-3)
    assert (sound.how, sound.about["how"]) == (paths.LABEL, paths.LABEL)
    assert sound.about["path"] == [list(point) for point in points]


def test_a_new_clip_is_the_one_that_the_run_makes_with_the_same_seed(studio: Studio) -> None:
    sound = made(studio, studio.generate(orders.NewClip(label="kick", seconds=0.2, seed=5, temperature=0.5)))
    expected = studio.loaded.generate(1, label="kick", seconds=0.2, seed=5, temperature=0.5)[0]
    np.testing.assert_allclose(sound.waveform, expected, atol=1e-6)
    assert sound.about["settings"]["temperature"] == 0.5
    fresh = {made(studio, studio.generate(orders.NewClip(seconds=0.05))).about["settings"]["seed"] for _ in range(2)}
    assert len(fresh) == 2


def test_a_clip_can_be_continued_and_varied(studio: Studio) -> None:
    clip = studio.catalog.clips[0]
    longer = made(studio, studio.generate(orders.NewClip(start="continue", sound=clip.id, seconds=0.1, seed=1)))
    assert longer.seconds == pytest.approx(clip.seconds + 0.1, abs=1e-3)
    varied = made(studio, studio.generate(orders.NewClip(start="vary", sound=longer.id, amount=0.2, seed=1)))
    assert varied.about["of"]["of"] == {
        "clip": clip.key,
        "label": clip.label,
        "latents": studio.catalog.fingerprint,
    }


def test_the_latents_are_read_for_the_first_variation_alone(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    order = orders.NewClip(start="vary", sound=studio.catalog.clips[0].id, amount=0.4, seed=1)
    first = made(studio, studio.generate(order))
    monkeypatch.setattr(loaded_run, "make_prior", None)
    np.testing.assert_array_equal(made(studio, studio.generate(order)).waveform, first.waveform)


def test_a_continuation_begins_with_its_recording_before_anything_is_made(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = studio.receive("tone.wav", wav(tone(3.0, studio.sample_rate), studio.sample_rate))["sound"]["id"]
    order = orders.NewClip(start="continue", sound=given, seconds=0.1, seed=1)
    whole = made(studio, studio.generate(order))
    with monkeypatch.context() as patched:
        patched.setattr(type(studio.loaded), "stream", lambda *_: iter(()))
        work = studio.generate(order)
        first = [next(work), next(work)][1]
    begun = samples(first)
    assert 1.0 < len(begun) / studio.sample_rate < 3.0
    np.testing.assert_array_equal(begun, whole.waveform[: len(begun)])
    np.testing.assert_array_equal(begun, studio.named(given).waveform[: len(begun)])


def test_a_sound_is_kept_once_under_a_name_that_is_not_taken(studio: Studio) -> None:
    kept = studio.loaded.run.kept
    kept.mkdir(exist_ok=True)
    (kept / "hat-01.json").write_text("not of actseq")
    sound = made(studio, studio.generate(orders.NewClip(label="hat", seconds=0.1, seed=2)))
    for _ in range(2):
        answer = studio.keep(orders.Keep(sound=sound.id))
        assert answer["sound"]["kept"] == "hat-02.wav"
    assert (kept / "hat-01.json").read_text() == "not of actseq"
    assert is_made(kept / "hat-02.wav")
    about = json.loads((kept / "hat-02.json").read_text())
    assert (about["settings"]["seed"], about["title"], about["run"]) == (2, "hat", "drums")
    waveform, rate = audio.load(kept / "hat-02.wav")
    assert rate == studio.sample_rate
    np.testing.assert_allclose(waveform, sound.waveform, atol=1 / 32768)
    again = made(studio, studio.generate(orders.NewClip(label="hat", seconds=0.1, seed=2)))
    assert studio.keep(orders.Keep(sound=again.id))["sound"]["kept"] == "hat-03.wav"


def test_a_file_of_the_user_is_resampled_with_a_note_and_not_kept_again(studio: Studio) -> None:
    answer = studio.receive("../../tom tom.wav", wav(tone(0.5, 16000), 16000))
    assert answer["sound"]["title"] == "tom tom.wav"
    assert answer["sound"]["seconds"] == pytest.approx(0.5, abs=1e-3)
    assert answer["notes"] == ["tom tom.wav: resampled from 16000 to 8000 Hz"]
    with pytest.raises(ConfigError, match="your own file"):
        studio.keep(orders.Keep(sound=answer["sound"]["id"]))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "mine.wav"),
        (b"RIFF no sound", "mine.wav"),
        (wav(np.zeros(8000, np.float32), 8000), "silent"),
        (wav(np.tile(tone(1), 121), 8000), "more than 120 s"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_its_own_name(studio: Studio, content: bytes, said: str) -> None:
    before = list(studio.shelf.sounds)
    with pytest.raises(AudioError, match=said) as caught:
        studio.receive("mine.wav", content)
    assert str(caught.value).startswith("mine.wav")
    assert "tmp" not in str(caught.value)
    assert list(studio.shelf.sounds) == before


def test_effects_make_a_new_sound_and_those_with_files_are_refused(studio: Studio) -> None:
    given = studio.receive("a.wav", wav(tone(0.3), 8000))["sound"]["id"]
    quieter = {"sound": given, "effects": [{"kind": "gain", "gain_db": -6.0}]}
    sound = made(studio, studio.affect(orders.WithEffects.model_validate(quieter)))
    np.testing.assert_allclose(sound.waveform, studio.shelf.get(given).waveform * 10 ** (-6 / 20), atol=1e-6)
    reading = {"sound": given, "effects": [{"kind": "convolution", "impulse_response": "/etc/passwd"}]}
    with pytest.raises(ConfigError, match="reads a file"):
        list(studio.affect(orders.WithEffects.model_validate(reading)))
    assert {choice["kind"] for choice in effect_choices()} == set(EFFECTS) - {"convolution"}


def test_the_oldest_sounds_make_room() -> None:
    shelf = Shelf(most_bytes=4 * 250)
    sounds = [ShelfSound(str(k), "", np.zeros(100, np.float32), 8000, {}, None) for k in range(3)]
    dropped: list[Any] = [shelf.add(sound) for sound in sounds]
    assert dropped == [[], [], [sounds[0].id]]
    with pytest.raises(ConfigError, match="no sound of that identifier"):
        shelf.get(sounds[0].id)
    assert shelf.get(sounds[2].id) is sounds[2]


@pytest.fixture(scope="module")
def packed(studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> Studio:
    """The same run without its corpus."""
    folder = tmp_path_factory.mktemp("packed") / "drums-packed"
    pipeline.pack(OLD_RUNS / "drums", out=folder)
    return Studio(LoadedRun.open(folder, device="cpu"))


def test_the_map_of_a_packed_run_shows_clips_that_its_prior_makes(packed: Studio) -> None:
    shown = packed.described()
    labels = packed.loaded.usable_labels
    assert shown["generated"]
    assert len(packed.catalog.clips) == CLIPS // len(labels) * len(labels)
    assert {clip.label for clip in packed.catalog.clips} == set(labels)
    assert all("generated" in clip.key for clip in packed.catalog.clips)
    again = GeneratedSounds(packed.loaded, SILENT).catalog()
    assert [clip.id for clip in again.clips] == [clip.id for clip in packed.catalog.clips]
    second = packed.catalog.clips[1]
    about = packed.catalog.about(second)
    expected = packed.loaded.generate_clips(about["n"], label=about["label"], seed=about["seed"])[about["number"] - 1]
    np.testing.assert_allclose(packed.catalog.waveform(second), expected.waveform, atol=1e-6)
    np.testing.assert_allclose(packed.catalog.latents(second), expected.latents, atol=1e-6)


def test_a_packed_run_is_walked_over_continued_and_kept(packed: Studio) -> None:
    first, last = packed.catalog.clips[0], packed.catalog.clips[-1]
    points = [packed.catalog.place(first), packed.catalog.place(last)]
    sound = made(packed, packed.along(orders.AlongPath(points=points)))
    assert any("generated" in name for name in sound.about["clips"])
    longer = made(packed, packed.generate(orders.NewClip(start="continue", sound=first.id, seconds=0.1, seed=1)))
    assert longer.about["of"]["clip"] == first.key
    made(packed, packed.through(orders.ThroughSounds(sounds=(first.id, last.id))))
    answer = packed.keep(orders.Keep(sound=longer.id))
    assert is_made(packed.loaded.run.kept / answer["sound"]["kept"])
    with pytest.raises(ArtifactError, match="no corpus"):
        list(packed.generate(orders.NewClip(start="vary", sound=first.id)))
    assert not packed.described()["varies"]


def test_a_packed_run_without_a_prior_has_no_map(packed: Studio) -> None:
    with pytest.raises(ArtifactError, match="no prior to make some"):
        Studio(replace(packed.loaded, prior=None, prior_name=None))
