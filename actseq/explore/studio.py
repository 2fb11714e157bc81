"""A loaded run with its clips and the sounds made so far: what the page can do, without any HTTP.

What makes sound is a generator of messages: `begin`, then `samples` as soon as some are final, and at the end `sound`.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import tempfile
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from actseq import audio, units
from actseq.arrays import Waveform
from actseq.audio.origin import safe_name
from actseq.errors import ActseqError, AudioError, ConfigError
from actseq.explore import orders, paths
from actseq.explore.catalog import CorpusSounds, Place
from actseq.explore.effects import effect_choices, process_of
from actseq.explore.generated import GeneratedSounds
from actseq.explore.jobs import Message
from actseq.explore.keeping import keep_sound
from actseq.explore.shelf import Shelf, ShelfSound
from actseq.inference.codec import Codec
from actseq.inference.generation import BATCH_CLIPS, Piece, untouched_samples
from actseq.inference.loaded_run import LoadedRun, read_sound
from actseq.inference.loading import require_generative
from actseq.inference.request import FromPrior, GenerationRequest, Source, Through, Variations
from actseq.pages.rendering import readable
from actseq.progress import SILENT, Reporter, Silent

CHUNK_SECONDS = 0.75
"""Sound that is decoded at a time: the first of it is heard while the rest is made."""
STEPS = 8
"""Clips of an interpolation where each clip is one vector."""
Work = Generator[Message]
About = dict[str, Any]


class Notes(Silent):
    """A reporter that remembers messages, to show them beside the result."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def say(self, text: str) -> None:
        """Remember a message."""
        self.texts.append(text)

    warn = say


@dataclass(frozen=True)
class Named:
    """A clip or a sound, found by its identifier.

    Attributes:
        title: its name in a list.
        waveform: (samples,).
        about: what it is, for the JSON of what is made from it.
        stem: beginning of the name of what is made from it.
        place: where it lies on the plane; None if that is not known.
    """

    title: str
    waveform: Waveform
    about: About
    stem: str
    place: Place | None


class Studio:
    """Everything that the page does with a run.

    Args:
        loaded: the run. The map of a packed one shows clips that its prior generates.
        reporter: receives how far these are.

    Raises:
        ConfigError: the latents of the run do not hold the sound.
        ArtifactError: the run has no latents or no corpus, or they are damaged; or it is packed and has no prior.
    """

    def __init__(self, loaded: LoadedRun, reporter: Reporter = SILENT) -> None:
        require_generative(loaded.run)
        packed = loaded.run.packed is not None
        sounds = GeneratedSounds(loaded, reporter) if packed else CorpusSounds(loaded)
        self.loaded = replace(loaded, codec=_quick(loaded.codec), prior_codec=_quick(loaded.prior_codec))
        self.catalog, self.shelf = sounds.catalog(), Shelf()

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.loaded.sample_rate

    def warm_up(self) -> None:
        """Make a short sound in each way, so that the first one of the user comes as fast as all others."""
        clip = self.catalog.clips[0]
        seconds = self.loaded.codec.samples_per_latent / self.sample_rate
        short = self.catalog.waveform(clip, 4 * seconds)
        sources: list[Source] = [Variations(short), Through((short, short))]
        with suppress(ActseqError):
            for _ in self.loaded.stream_latents(self.catalog.latents(clip)[:2]):
                pass
        for source in [FromPrior(), *sources]:
            with suppress(ActseqError):
                for _ in self.loaded.stream(GenerationRequest(source=source)):
                    break

    # -- what is there -------------------------------------------------------------------------------------------------

    def described(self) -> dict[str, Any]:
        """The run, for the page; places are rounded to what a screen can show."""
        catalog, loaded = self.catalog, self.loaded
        prior = None if loaded.prior is None else loaded.prior.prior
        step = max(float(np.ptp(catalog.places)), 1e-9) * 1e-5
        rounded = np.round(catalog.places / step) * step
        labels = catalog.labels
        row = {label: number for number, label in enumerate(labels)}
        return {
            "name": loaded.run.name,
            "sample_rate": self.sample_rate,
            "prior": loaded.prior_name,
            "controls": []
            if prior is None
            else [name for name in ("temperature", "guidance") if name in prior.controls],
            "labels": [readable(label) for label in labels],
            "prior_labels": [
                readable(label)
                for label in (loaded.codec.autoencoder.labels if prior is None else loaded.usable_labels)
            ],
            "generated": catalog.generated,
            # A variation goes as far as the latents of the corpus do.
            "varies": not catalog.generated,
            "whole_clips": loaded.codec.autoencoder.whole_clips,
            "seconds": loaded.config.generate.seconds,
            "max_seconds": min(loaded.config.generate.max_seconds, orders.LONGEST_SECONDS),
            "temperature": loaded.config.generate.temperature,
            "guidance": loaded.config.generate.guidance,
            "longest_seconds": orders.LONGEST_SECONDS,
            "explained": catalog.plane.explained.tolist(),
            "path": paths.LABEL,
            "effects": effect_choices(),
            "clips": [
                [clip.id, x, y, row.get(clip.label, -1), round(clip.seconds, 3), readable(clip.key)]
                for clip, (x, y) in zip(catalog.clips, rounded.tolist(), strict=True)
            ],
            "sounds": [sound.described() for sound in self.shelf.sounds.values()],
        }

    def named(self, sound_id: str) -> Named:
        """A sound on the shelf, or a clip on the map.

        Raises:
            ConfigError: there is none of this identifier.
        """
        if sound_id in self.shelf.sounds:
            sound = self.shelf.get(sound_id)
            return Named(sound.title, sound.waveform, sound.about, sound.stem, sound.place)
        clip = self.catalog.clip(sound_id)
        if clip.seconds > orders.LONGEST_SECONDS:
            raise ConfigError(
                f"{clip.key} lasts {clip.seconds:.0f} s", f"at most {orders.LONGEST_SECONDS:g} s", "take a shorter clip"
            )
        title, about = readable(Path(clip.key).name), self.catalog.about(clip)
        return Named(title, self.catalog.waveform(clip), about, safe_name(clip.label), self.catalog.place(clip))

    # -- new sounds ----------------------------------------------------------------------------------------------------

    def generate(self, order: orders.NewClip) -> Work:
        """A new clip from the prior, or a continuation or variation of a sound."""
        given = None if order.sound is None else self.named(order.sound)
        source: Source = FromPrior(seed_audio=None if given is None else given.waveform)
        if given is not None and order.start == "vary":
            source = Variations(given.waveform, order.amount)
        request = GenerationRequest(
            source=source,
            label=order.label,
            seconds=order.seconds,
            controls={"temperature": order.temperature, "guidance": order.guidance},
            seed=secrets.randbelow(2**31) if order.seed is None else order.seed,
        )
        about, stem = self.loaded.provenance(request), safe_name(order.label)
        sound = self._planned(order.label or "new clip", f"seed {request.seed}", about, stem)
        if given is not None:
            sound.title = f"{given.title}, {'continued' if order.start == 'continue' else 'varied'}"
            sound.about["of"] = given.about
        known = None
        if given is not None and order.start == "continue":
            known = given.waveform[: untouched_samples(self.loaded.codec, len(given.waveform))]
        yield from self._stream(self.loaded.stream(request), source, sound, known)

    def along(self, order: orders.AlongPath) -> Work:
        """The sound of a path on the map."""
        coder = self.loaded.codec.autoencoder
        most = BATCH_CLIPS if coder.whole_clips else units.seconds_to_frames(orders.LONGEST_SECONDS, coder.latent_rate)
        frames = STEPS if coder.whole_clips else None
        if order.seconds is not None:
            frames = units.seconds_to_frames(order.seconds, coder.latent_rate)
        found = paths.walk(self.catalog, order.points, frames, most)
        source = Through(())
        request = GenerationRequest(source=source, label=order.label, seconds=order.seconds)
        about = self.loaded.provenance(request) | {
            "prior": None,
            "how": paths.LABEL,
            "path": [list(point) for point in order.points],
            "clips": found.clips,
            "latents": self.catalog.fingerprint,
        }
        sound = self._planned("path", paths.LABEL, about, "path", found.place)
        yield from self._stream(self.loaded.stream_latents(found.latents, order.label), source, sound)

    def through(self, order: orders.ThroughSounds) -> Work:
        """An interpolation from the first of some sounds to the last."""
        given = [self.named(sound) for sound in order.sounds]
        if sum(len(one.waveform) for one in given) > units.seconds_to_samples(orders.LONGEST_SECONDS, self.sample_rate):
            raise ConfigError(
                "the sounds are too long together", f"at most {orders.LONGEST_SECONDS:g} s", "take shorter ones"
            )
        source = Through(tuple(one.waveform for one in given))
        n = max(STEPS, len(given)) if self.loaded.codec.autoencoder.whole_clips else 1
        request = GenerationRequest(source=source, n=n, seconds=order.seconds)
        about = self.loaded.provenance(request) | {"of": [one.about for one in given]}
        title = f"{given[0].title} → {given[-1].title}"
        sound = self._planned(title, f"interpolation through {len(given)} sounds", about, "interpolation")
        yield from self._stream(self.loaded.stream(request), source, sound)

    def affect(self, order: orders.WithEffects) -> Work:
        """A sound that is sent through effects."""
        given = self.named(order.sound)
        made = process_of(order.effects, self.sample_rate)(given.waveform)
        kinds = ", ".join(effect.kind for effect in order.effects)
        about = {
            "run": self.loaded.run.name,
            "fingerprints": self.loaded.fingerprints,
            "effects": [effect.model_dump() for effect in order.effects],
            "of": given.about,
        }
        sound = self._planned(f"{given.title} + {kinds}", "effects", about, given.stem, given.place)
        yield self._begun()
        yield _samples(made)
        yield self._shelved(sound, made)

    def _planned(self, title: str, how: str, about: About, stem: str, place: Place | None = None) -> ShelfSound:
        """A sound that has no samples yet."""
        return ShelfSound(title, how, np.zeros(0, np.float32), self.sample_rate, about, place, stem)

    def _stream(
        self, pieces: Iterator[Piece], source: Source, sound: ShelfSound, known: Waveform | None = None
    ) -> Work:
        """Hand on what grows, and put it on the shelf when it is whole.

        Args:
            pieces: what grows.
            source: what it is made from.
            sound: what it is to be.
            known: how it begins, where that is known before: this is heard at once.
        """
        yield self._begun()
        if known is not None and len(known):
            yield _samples(known)
        made: list[Piece] = []
        ahead = 0 if known is None else len(known)
        for piece in pieces:
            made.append(piece)
            yield _samples(piece.waveform[ahead:])
            ahead = max(0, ahead - len(piece.waveform))
        waveform = np.concatenate([piece.waveform for piece in made])
        if sound.place is None:
            sound.place = self.catalog.plane.place(np.concatenate([piece.latents for piece in made]))
        yield self._shelved(sound, waveform * self.loaded.gain_of_new(waveform, source))

    def _begun(self) -> Message:
        return {"kind": "begin", "sample_rate": self.sample_rate}

    def _shelved(self, sound: ShelfSound, waveform: Waveform) -> Message:
        sound.waveform = waveform
        dropped = self.shelf.add(sound)
        return {"kind": "sound", "sound": sound.described(), "dropped": dropped}

    # -- sounds that come and go ---------------------------------------------------------------------------------------

    def receive(self, name: str, content: bytes) -> Message:
        """A sound that the user gives, at the run's sample rate.

        Args:
            name: name of the file, which is shown and whose ending is looked at.
            content: the file.

        Raises:
            AudioError: it cannot be decoded, is silent, or too long.
        """
        shown = Path(name.replace("\\", "/")).name[:100] or "sound"
        ending = Path(shown).suffix.lower()
        notes = Notes()
        with tempfile.TemporaryDirectory(prefix="actseq-") as folder:
            path = Path(folder) / f"sound{ending if ending[1:] in audio.extensions() else ''}"
            path.write_bytes(content)
            try:
                waveform = read_sound(path, self.sample_rate, notes, orders.LONGEST_SECONDS)
            except AudioError as error:
                raise AudioError(str(error).replace(str(path), shown)) from None
        longest = self.loaded.codec.longest_samples
        place = None
        if longest is None or len(waveform) <= longest:
            place = self.catalog.plane.place(self.loaded.encode(waveform))
        about = {"file": shown, "sha256": hashlib.sha256(content).hexdigest()}
        sound = ShelfSound(shown, "your sound", waveform, self.sample_rate, about, place, made=False)
        dropped = self.shelf.add(sound)
        said = [text.replace(path.name, shown) for text in notes.texts]
        return {"sound": sound.described(), "dropped": dropped, "notes": said}

    def keep(self, order: orders.Keep) -> Message:
        """Write a sound and how it was made into `kept/` of the run.

        Raises:
            ConfigError: there is no such sound, or actseq did not make it.
            ArtifactError: another process writes there.
            AudioError: it cannot be written.
        """
        sound = self.shelf.get(order.sound)
        if not sound.made:
            raise ConfigError(f"{sound.title} is your own file", "a sound that was made here")
        if sound.kept is None:
            sound.kept = keep_sound(self.loaded.run, sound)
        return {"sound": sound.described(), "folder": str(self.loaded.run.kept)}


def _samples(waveform: Waveform) -> Message:
    little = np.ascontiguousarray(waveform, dtype="<f4")
    return {"kind": "samples", "data": base64.b64encode(little.tobytes()).decode()}


def _quick(codec: Codec) -> Codec:
    """The codec with chunks that are short in time."""
    rate = codec.sample_rate / codec.representation.hop_length
    return replace(codec, chunk_frames=max(codec.autoencoder.stride, round(CHUNK_SECONDS * rate)))
