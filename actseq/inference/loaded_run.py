"""A trained run, loaded: the Python API."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actseq import audio, build, registry, units
from actseq import config as configuration
from actseq.arrays import LatentArray, Waveform, one_channel
from actseq.config import Config, GenerateConfig
from actseq.data.corpus import level_gain
from actseq.errors import ActseqError, AudioError, ConfigError
from actseq.inference.activations import (
    check_activations,
    decode_activations,
    encode_as_seed,
    encode_sound,
    own_samples,
)
from actseq.inference.codec import Codec
from actseq.inference.filling import FillingStream, gaps_of
from actseq.inference.generation import (
    BATCH_CLIPS,
    Generated,
    Piece,
    ResolvedRequest,
    SeedAudio,
    SeedLatents,
    collect,
    generate,
    sampled,
)
from actseq.inference.loading import (
    load_codec,
    load_latents,
    load_prior,
    make_prior,
    require_generative,
    stage_config,
    tuned_codec,
)
from actseq.inference.loops import loops
from actseq.inference.redo import Region, part_in_samples, regenerate, require_suffix
from actseq.inference.request import (
    TRANSFER_AMOUNT,
    FromPrior,
    GenerationRequest,
    Sound,
    Source,
    Through,
    Transfer,
    Variations,
)
from actseq.inference.spans import timed, unknown_label
from actseq.inference.streams import ReconstructionStream, SkippingStream
from actseq.priors.base import Prior, Sampling, TakesSpans, TransferRequest, Transfers
from actseq.priors.labels import LabelledPrior
from actseq.priors.morphs import Given, Interpolate, Steps, Vary
from actseq.progress import SILENT, Reporter
from actseq.storage.activations import Activations, read_activations
from actseq.storage.run_folder import RunFolder


@dataclass
class LoadedRun:
    """A trained run, for use in Python; see `actseq.load_run`.

    Attributes:
        run: folder of the run.
        codec: representation, autoencoder and vocoder.
        config: configuration of the run; where `vocoder` was `auto`, it is the vocoder that was chosen.
        autoencoder: fingerprint of the autoencoder.
        prior: the prior; None if none has been trained, or if there are several and none was named.
        prior_name: name of the prior.
        prior_folder: folder of the prior; None if it needed no training.
        prior_codec: as `codec`, with the decoder that was tuned on what the prior makes, if it was.
    """

    run: RunFolder
    codec: Codec
    config: Config
    autoencoder: str
    prior: LabelledPrior[Any] | None
    prior_name: str | None
    prior_folder: Path | None
    prior_codec: Codec

    @staticmethod
    def open(
        run: str | Path | RunFolder,
        *,
        prior: str | None = None,
        device: str = "auto",
        overrides: Iterable[str] = (),
        need_prior: bool = False,
        no_prior: bool = False,
    ) -> LoadedRun:
        """Load the models of a run.

        Args:
            run: a name under `runs/`, a path, or a run that is open already.
            prior: name of a trained prior, or `iid`, `random-walk` or `normal`; None takes that of the configuration,
                or the usual one, if there is one.
            device: `auto`, `cpu`, `cuda` or `mps`.
            overrides: `key=value` texts for the sections `generate` and `vocoder`.
            need_prior: refuse a run without a prior.
            no_prior: load none, so that neither its absence nor its age matters.

        Raises:
            ArtifactError: a model is missing, unfinished, damaged or belongs to another autoencoder.
        """
        opened = RunFolder.open(run)
        if need_prior or prior is not None:
            require_generative(opened)
        config = stage_config(opened, overrides, "generate")
        name = prior
        if name is None and (need_prior or (opened.latents / "latents.json").is_file()):
            name = config.generate.prior
        if name is None:
            name = opened.priors.usual
        model: LabelledPrior[Any] | None = None
        folder = None
        if no_prior:
            name = None
        elif name in registry.UNTRAINED_PRIORS and name not in opened.priors.names:
            model = make_prior(opened, name, device, config)
        elif need_prior or name is not None:
            model, folder = load_prior(opened, name, device, config)
        codec, config = load_codec(opened, device, config)
        found = opened.trained_autoencoder.fingerprint
        tuned = codec if folder is None else tuned_codec(codec, opened, folder.name)
        return LoadedRun(opened, codec, config, found, model, name, folder, tuned)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of autoencoder, prior and vocoder; for an untrained prior that of the latents it uses."""
        found = {"autoencoder": self.autoencoder}
        if self.prior_folder is not None:
            found["prior"] = self.run.priors.read(self.prior_folder.name).fingerprint
        elif self.prior is not None:
            found["latents"] = self._latents
        if self.vocoder_folder is not None:
            found["vocoder"] = self.run.vocoders.read(self.vocoder_folder.name).fingerprint
        return found

    @property
    def vocoder_folder(self) -> Path | None:
        """Folder of the vocoder in use; None if it needed no training."""
        name = self.config.vocoder.options.get("name")
        return None if name is None else self.run.vocoders.path / str(name)

    @property
    def sample_rate(self) -> int:
        """Sample rate in Hz of all waveforms that go in and come out."""
        return self.codec.sample_rate

    @property
    def labels(self) -> list[str]:
        """Labels that the prior knows."""
        return [] if self.prior is None else list(self.prior.labels)

    def encode(self, waveform: Waveform) -> LatentArray:
        """Latents (frames, latent_dim) of a waveform (samples,), which is first brought to the level of the corpus."""
        waveform = one_channel(waveform)
        self.codec.require_short(len(waveform), "the waveform")
        gain = level_gain(float(np.abs(waveform).max(initial=0.0)), self.codec.level_dbfs)
        return self.codec.encode([waveform * np.float32(gain)])[0][0]

    def activations(self, waveform: Waveform, *, as_seed: bool = False) -> Activations:
        """Encoder activations of a waveform (samples,), with what `decode` needs to restore its length and level.

        Args:
            waveform: at `sample_rate`.
            as_seed: encode it as a recording that is to be continued is: mirrored at its end, so that the last
                activations do not show silence after it.

        Raises:
            AudioError: the waveform is silent or empty.
            ConfigError: the latents of this run do not hold the sound.
        """
        require_generative(self.run)
        waveform, peak = one_channel(waveform), float(np.abs(waveform).max(initial=0.0))
        self._gain(waveform)  # refuses silence
        self.codec.require_short(len(waveform), "the waveform")
        if as_seed:
            return encode_as_seed(self.codec, self.autoencoder, waveform)
        return encode_sound(self.codec, self.autoencoder, [waveform], len(waveform), peak)

    def decode(self, latents: LatentArray | Activations) -> Waveform:
        """Waveform (samples,) of latents (frames, latent_dim), at the level of the corpus.

        `Activations` get the length and level of their sound back. If their mean was edited to another number of
        frames, the waveform has these frames in full.

        Raises:
            ArtifactError: the activations are of another autoencoder, or have another number of dimensions.
        """
        if not isinstance(latents, Activations):
            return self.codec.decode([latents.astype(np.float32)])[0]
        check_activations(latents, self.codec, self.autoencoder, "the activations")
        return np.concatenate(list(decode_activations(latents, self.codec)))

    def reconstruct(self, waveform: Waveform, label: str | None = None, **given: Any) -> Waveform:
        """Pass a waveform (samples,) through encoder, decoder and vocoder; its length stays.

        Its level stays too, if it is not given a label.

        Args:
            waveform: at `sample_rate`.
            label: give it the timbre of this label.
            given: with a label, the other attributes of a `Transfer`: `amount`, `seed`, and `prior`, the name of the
                prior that is loaded.

        Raises:
            ConfigError: as `transfer_stream`; or `given` without a label.
        """
        waveform = one_channel(waveform)
        self.codec.require_short(len(waveform), "the waveform")
        if label is None and given:
            raise ConfigError(f"{' and '.join(given)} without a label", action="say which label the sound is to have")
        gain = level_gain(float(np.abs(waveform).max(initial=0.0)), self.codec.level_dbfs)
        stream = self.codec.reconstruct_stream() if label is None else self.transfer_stream(Transfer(label, **given))
        pieces = [stream.push(waveform * np.float32(gain)), stream.finish()]
        made: Waveform = np.concatenate(pieces)
        return made / np.float32(gain)

    def fill(
        self,
        waveform: Waveform,
        gaps: Sequence[tuple[float, float | None]] | None = None,
        *,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Waveform:
        """A waveform (samples,) with sound of the prior in its gaps; the rest and its length stay.

        Args:
            waveform: at `sample_rate`.
            gaps: where they begin and end in seconds, an end of None being that of the waveform; None: as
                `actseq.audio.find_gaps` finds them.
            temperature: 0 fills a gap with the likeliest sound near what lies beside it, 1 with a draw.
            seed: seed of what the prior draws.

        Raises:
            ConfigError: the prior takes no suffix; or a gap is not inside the waveform, does not begin before it ends,
                or is shorter than a sample.
            ArtifactError: no prior was trained.
        """
        waveform, rate = one_channel(waveform), self.sample_rate
        if gaps is None:
            parts = list(audio.find_gaps([waveform], rate, float(np.abs(waveform).max(initial=0.0))))
        else:
            parts = [part_in_samples("gap", gap, len(waveform), rate) for gap in gaps]
        stream = self.filling_stream(parts, len(waveform), temperature, seed)
        return np.concatenate([stream.push(waveform), stream.finish()])

    def filling_stream(
        self, parts: Sequence[tuple[int, int]], n_samples: int, temperature: float = 0.0, seed: int = 0
    ) -> FillingStream:
        """A stream that fills the gaps of one recording.

        Args:
            parts: the gaps, each given by its first sample and the one after its last.
            n_samples: length of the recording.
            temperature: as in `fill`.
            seed: as in `fill`.

        Raises:
            ConfigError: the prior takes no suffix.
            ArtifactError: no prior was trained.
        """
        prior = self._trained
        require_suffix(prior.prior, self.prior_name, self.run.argument)
        known = [name for name in ("temperature", "noise_temperature") if name in prior.prior.controls]
        wanted = self._new(prior, GenerationRequest(seed=seed, controls=dict.fromkeys(known, temperature)))
        return FillingStream(self.prior_codec, prior.prior, wanted, gaps_of(self.codec, parts, n_samples))

    def transfer_stream(self, wanted: Transfer) -> ReconstructionStream | SkippingStream:
        """A stream that reconstructs one clip with another label; see `Transfer`.

        Raises:
            ConfigError: the run can give a sound no other label, or not in the way that is asked for; or no such label.
        """
        model = self._transferring(wanted)
        rows = _label_indices(wanted.label, self.codec.autoencoder.labels if model is None else model.labels)
        if len(rows) > 1:
            raise ConfigError(f"--label {wanted.label} is a glide", "one label, which the whole sound gets")
        if model is None:
            return self.codec.reconstruct_stream(rows[0])
        with torch.inference_mode():
            conditions = model.condition(torch.arange(len(model.labels) + 1, device=self.codec.device))
        how = self.transfer_provenance(wanted)
        request = TransferRequest(conditions, rows[0], how["amount"], how["seed"])
        return self.codec.reconstruct_stream(self._decoder_label(wanted.label), model.prior.transfer(request))

    def transfer_provenance(self, wanted: Transfer) -> dict[str, Any]:
        """How a sound is given another label, for the JSON beside it; what a decoder does not use is None."""
        fingerprints = self.fingerprints
        if self._transferring(wanted) is None:
            made_by = {name: fingerprints[name] for name in ("autoencoder", "vocoder") if name in fingerprints}
            unused = dict.fromkeys(("prior", "amount", "seed"))
            return {"fingerprints": made_by, "label": wanted.label, **unused}
        return {
            "fingerprints": fingerprints,
            "label": wanted.label,
            "prior": self.prior_name,
            "amount": TRANSFER_AMOUNT if wanted.amount is None else wanted.amount,
            "seed": wanted.seed or 0,
        }

    def _transferring(self, wanted: Transfer) -> LabelledPrior[Any] | None:
        """The prior that gives a sound another label; None where the decoder does.

        Raises:
            ConfigError: neither can.
        """
        require_generative(self.run)
        if wanted.prior is None and self.codec.autoencoder.table is not None:
            if wanted.amount is not None or wanted.seed is not None:
                option = "--amount" if wanted.seed is None else "--seed"
                raise ConfigError(
                    f"{option}: the decoder of run {self.run.name} is given the label, and draws nothing",
                    action=f"leave out {option}, or name a prior that changes the latents with --prior",
                )
            return None
        if wanted.prior not in (None, self.prior_name):
            raise ConfigError(
                f"prior {self.prior_name} is loaded, not {wanted.prior}", action="name the prior when the run is loaded"
            )
        if self.prior is not None and isinstance(self.prior.prior, Transfers):
            return self.prior
        kinds = registry.prior_kinds("transfer")
        trained = self.run.priors.names
        if self.prior is not None:
            found = f"prior {self.prior_name} cannot give a sound another label"
        elif trained:
            found = f"run {self.run.name} has several priors ({', '.join(trained)}), and none was named"
        else:
            what = "its decoder is not given the label, and it has no prior"
            found = f"run {self.run.name} cannot give a sound another label: {what}"
        raise ConfigError(
            found,
            f"a prior of kind {' or '.join(kinds)}, or a decoder that is given the label",
            f"name one with --prior, or train one: actseq train-prior {self.run.argument} --name NAME "
            f"--set prior.network.kind={kinds[0]}",
        )

    def generate(self, n: int = 1, **given: Any) -> list[Waveform]:
        """New waveforms (samples,) at `sample_rate`.

        Args:
            n: number of clips.
            given: attributes of `GenerationRequest` and `FromPrior`, and controls, by name: `label="snare"`, `seed=1`,
                `seed_audio=waveform`, `temperature=0.8`, `source=Variations(waveform)`. Without `seed` every call
                makes other clips; with it, the same call makes the same ones.

        Raises:
            ConfigError: a label or control that does not exist, or that the prior does not know.
            ArtifactError: no prior was trained.
            AudioError: a given sound is silent.
        """
        return [clip.waveform for clip in self.generate_clips(n, **given)]

    def generate_clips(self, n: int = 1, **given: Any) -> list[Generated]:
        """As `generate`, with latents, stops, joins and new regions. Clips are brought to the amplitude of `peak`."""
        request = GenerationRequest.of(n, **given)
        clips = collect(self.stream(request), n)
        return [
            replace(clip, waveform=clip.waveform * self.gain_of_new(clip.waveform, request.source)) for clip in clips
        ]

    def gain_of_new(self, waveform: Waveform, source: Source) -> np.float32:
        """Gain that brings a new clip to the amplitude of `peak`; 1 for silence."""
        wanted, peak = self.peak(source), float(np.abs(waveform).max(initial=0.0))
        return np.float32(1.0 if wanted is None or not peak else wanted / peak)

    def sample(self, n: int, **given: Any) -> list[LatentArray]:
        """Latents (frames, latent_dim) that the prior draws without their sound; arguments as for `generate`.

        Raises:
            ConfigError: as `generate`; or the clips are to continue a recording.
            ArtifactError: no prior was trained.
        """
        request = GenerationRequest.of(n, **given)
        if not isinstance(request.source, FromPrior) or request.source.keeps_level:
            raise ConfigError("latents are sampled from a given sound", "new clips from the prior alone")
        if request.loop:
            raise ConfigError("latents of a cycle are not sampled without its sound", action="leave loop out")
        self._check_whole_clips(request)
        prior = self._asked(request.source)
        return sampled(self.codec, prior.prior, self._new(prior, request))

    def peak(self, source: Source) -> float | None:
        """Amplitude that clips from a source are brought to; None leaves them as they are.

        Variations get the peak of their sound, at most full scale.
        """
        level = self.codec.level_dbfs
        if self.config.generate.level == "free":
            return None
        if isinstance(source, Variations):
            return min(1.0, float(np.abs(self._read(source.sound, SILENT)).max(initial=0.0)))
        return None if source.keeps_level or level is None else units.db_to_amplitude(level)

    def made_from(self, source: Source) -> tuple[str | None, dict[str, str]]:
        """Name of the prior that makes clips from a source, and fingerprints of all that makes them."""
        found = self.fingerprints
        if isinstance(source, FromPrior):
            return self.prior_name, found
        found.pop("prior", None)
        if isinstance(source, Through):
            return "interpolate", found
        return "vary", found | {"latents": self._latents}

    @property
    def _latents(self) -> str:
        """Fingerprint of the run's latents, which variations need."""
        return str(load_latents(self.run, "--vary")[1]["fingerprint"])

    def provenance(self, request: GenerationRequest) -> dict[str, Any]:
        """How clips of a request are made, for the JSON beside each."""
        prior, fingerprints = self.made_from(request.source)
        return {
            "of": request.n,
            "settings": request.settings()
            | self.config.generate.model_dump(exclude={"seconds"})
            | request.given
            | {"vocoder": self.config.vocoder.model_dump()},
            "fingerprints": fingerprints,
            "run": self.run.name,
            "prior": prior,
        }

    def stream(self, request: GenerationRequest, reporter: Reporter = SILENT) -> Iterator[Piece]:
        """Yield new clips piece by piece, in constant memory and not yet at the level of `peak`.

        Args:
            request: what to generate.
            reporter: receives what was changed when files were read.

        Raises:
            ConfigError, ArtifactError, AudioError: as `generate`.
        """
        self._check_whole_clips(request)
        if isinstance(request.source, Through):
            return self._through(request, request.source, reporter)
        if isinstance(request.source, Variations):
            return self._variations(request, request.source, reporter)
        return self._from_prior(request, request.source, reporter)

    def stream_latents(self, latents: LatentArray, label: str | None = None) -> Iterator[Piece]:
        """Decode given latents (frames, latent_dim) piece by piece, as `stream` does with those that a prior draws.

        An autoencoder of whole clips makes one clip of each frame.

        Args:
            latents: at least one frame.
            label: label for a decoder that is given one.

        Raises:
            ConfigError: no such label, or more than `BATCH_CLIPS` whole clips.
        """
        whole = self.codec.autoencoder.whole_clips
        if whole and len(latents) > BATCH_CLIPS:
            raise ConfigError(f"{len(latents)} clips of one vector each", f"at most {BATCH_CLIPS} at a time")
        # A whole clip is one frame: the frames are then sequences of their own.
        sequences = torch.from_numpy(latents).unsqueeze(1 if whole else 0)
        frames = sequences.shape[1] + 1
        settings = GenerateConfig.model_validate({"max_seconds": frames / self.codec.autoencoder.latent_rate})
        request = ResolvedRequest(settings, n=len(sequences), decoder_label=self._decoder_label(label))
        return generate(self.codec, Given(sequences.to(self.codec.device)), request)

    def _check_whole_clips(self, request: GenerationRequest) -> None:
        """Refuse what one vector a clip cannot do, in a run that makes clips from one vector.

        Raises:
            ConfigError: the request continues something, glides between labels, is too long, or asks for a walk.
        """
        if not self.codec.autoencoder.whole_clips:
            return
        source, longest = request.source, self.codec.samples_per_latent / self.sample_rate
        what = f"run {self.run.name} makes each clip from one vector"
        if isinstance(source, FromPrior) and source.keeps_level:
            raise ConfigError(
                f"{what}: it can neither continue a sound nor make a part of one again", action="use --vary FILE"
            )
        if isinstance(source, FromPrior) and self.prior_name == "random-walk":
            raise ConfigError(f"{what}: there is nothing to walk through", "prior normal or iid, or a trained one")
        if request.spans:
            raise ConfigError(f"{what}: it cannot change its label in time", "one label", "leave --labels out")
        if isinstance(source, Through) and request.label is not None and self.codec.autoencoder.table is None:
            raise ConfigError(f"{what}, and its decoder is not given the label", action="leave the label out")
        known = self._walk.labels if isinstance(source, Variations) else self._known_labels()
        if len(_label_indices(request.label, known)) > 1:
            raise ConfigError(
                f"{what}: it cannot glide from label to label", "one label", "use --through FILE,FILE --n N for steps"
            )
        seconds = self.length_of(request)
        if seconds is not None and seconds > longest:
            raise ConfigError(f"{what}: {seconds:g} s are too long", f"at most {longest:.2f} s")

    def _known_labels(self) -> list[str]:
        """Labels of the prior, or of the decoder where there is no prior."""
        return self.labels or self.codec.autoencoder.labels

    def _hears_labels(self, prior: Prior) -> bool:
        """Whether a label changes what is made, by the prior or by the decoder."""
        return self.codec.autoencoder.table is not None or bool(getattr(prior, "knows_labels", True))

    def _require_labels(self, prior: Prior) -> None:
        """Refuse a label that would change nothing."""
        if not self._hears_labels(prior):
            raise ConfigError(
                f"prior {self.prior_name} draws the same for every label, and the decoder is not given the label",
                action="leave out the label, or train a run with --set autoencoder.condition=label",
            )

    @property
    def usable_labels(self) -> list[str]:
        """Labels that change what is generated."""
        return self._known_labels() if self.prior is not None and self._hears_labels(self.prior.prior) else []

    def _from_prior(self, request: GenerationRequest, source: FromPrior, reporter: Reporter) -> Iterator[Piece]:
        prior = self._asked(source)
        if source.redo is not None:
            require_suffix(prior.prior, self.prior_name, self.run.argument)
        resolved = self._new(prior, request)
        if request.loop and resolved.condition_end is not None:
            raise ConfigError("--loop with a glide: a cycle ends where it begins", "one label")
        if request.loop and not self._clips_end_by_themselves:
            return loops(self.prior_codec, prior.prior, resolved)
        if source.seed_audio is not None:
            sound = self._read(source.seed_audio, reporter)
            if source.seed_seconds is not None:
                sound = sound[: units.seconds_to_samples(source.seed_seconds, self.sample_rate)]
            resolved = replace(resolved, seed_audio=SeedAudio(sound, self._gain(sound), source.include_seed))
            if source.redo is not None:
                region = Region.of(self.codec, len(sound), *source.redo)
                reporter.say(self._said(region))
                return regenerate(self.prior_codec, prior.prior, resolved, region)
        if source.seed_latents is not None:
            resolved = replace(resolved, seed_audio=self._seed_latents(source.seed_latents, source))
        return generate(self.prior_codec, prior.prior, resolved)

    @property
    def _clips_end_by_themselves(self) -> bool:
        """Whether clips of this run are hits or words, and not pieces of sound that goes on."""
        return self.config.generate.seconds is None or self.codec.autoencoder.whole_clips

    @property
    def _trained(self) -> LabelledPrior[Any]:
        """The prior, which there must be."""
        if self.prior is None:
            raise self.run.priors.missing
        return self.prior

    def _asked(self, source: FromPrior) -> LabelledPrior[Any]:
        """The prior, which there must be, and which must be the one that is asked for."""
        prior = self._trained
        if source.prior not in (None, self.prior_name):
            raise ConfigError(
                f"prior {self.prior_name} is loaded, not {source.prior}", action="name the prior when the run is loaded"
            )
        return prior

    def length_of(self, request: GenerationRequest) -> float | None:
        """Seconds of what is new in each clip; None where the prior, the labels or a given sound decide."""
        source = request.source
        if request.until_stop or request.labels is not None or not isinstance(source, FromPrior):
            return request.seconds
        if source.redo is not None:
            return None
        return self.config.generate.seconds if request.seconds is None else request.seconds

    def _new(self, prior: LabelledPrior[Any], request: GenerationRequest) -> ResolvedRequest:
        """A request for new clips from the prior, with the run's settings."""
        seconds = self.length_of(request)
        resolved = self._resolve(prior, request, seconds=seconds)
        settings = resolved.settings
        if request.spans:
            return self._in_time(prior, request, resolved)
        in_a_row = settings.after_end == "restart" and resolved.condition_end is None
        for name in ("max_seconds",) if in_a_row else ("min_seconds", "max_seconds"):
            if seconds is not None and name in request.given:
                raise ConfigError(
                    f"--{name.replace('_', '-')} bounds where the prior ends a clip; each is {seconds:g} s long",
                    action="leave it out, or let the prior end the clips: --until-stop",
                )
        redone = isinstance(request.source, FromPrior) and request.source.redo is not None
        if seconds is None and resolved.condition_end is not None and not redone:
            raise ConfigError(
                f"the glide {request.label} has no length, and the prior cannot know where it would end the clip",
                action="give it, such as --seconds 4",
            )
        if settings.seconds is None and settings.min_seconds > settings.max_seconds:
            raise ConfigError(
                f"min_seconds is {settings.min_seconds:g}", f"at most max_seconds, {settings.max_seconds:g}"
            )
        return resolved

    def _in_time(
        self, prior: LabelledPrior[Any], request: GenerationRequest, resolved: ResolvedRequest
    ) -> ResolvedRequest:
        """A request with labels in time."""
        self._require_labels(prior.prior)
        self._require_spans(prior.prior)
        rate = self.codec.autoencoder.latent_rate
        durations = self._durations if any(one.seconds is None for one in request.spans) else {}
        spans = tuple(
            timed(request.spans, prior.labels, durations, (request.seed, clip), 1 / rate) for clip in range(request.n)
        )
        longest = max(own[-1].last for own in spans)
        row = {label: k for k, label in enumerate(prior.labels, 1)}
        clips = [[(one.begin, one.last, row.get(one.label, 0)) for one in own] for own in spans]
        with torch.inference_mode():
            condition = prior.condition_in_time(clips, rate, units.seconds_to_frames(longest, rate))
        return replace(
            resolved,
            settings=resolved.settings.model_copy(update={"seconds": longest}),
            condition=condition.to(self.codec.device),
            spans=spans,
        )

    def _require_spans(self, prior: Prior) -> None:
        """Refuse labels in time for a prior that follows one label through a whole clip; those that do are named."""
        if not isinstance(prior, TakesSpans):
            kinds = [
                kind
                for kind, made in registry.PRIOR_NETWORKS.items()
                if hasattr(made, "takes_spans") or not build.is_whole_sequence(made)
            ]
            raise ConfigError(
                f"prior {self.prior_name} cannot change its label in time",
                f"a prior of kind {', '.join(kinds)}",
                f"use --label, or train one: actseq train-prior {self.run.argument} --name NAME "
                f"--set prior.network.kind={kinds[0]}",
            )

    @cached_property
    def _durations(self) -> dict[str, list[float]]:
        """Seconds that spans of each label last; of a prior that was trained before they were kept, if latents are."""
        if self.prior_folder is not None:
            found: dict[str, list[float]] | None = self.run.priors.read(self.prior_folder.name).meta.get("durations")
            if found is not None:
                return found
        try:
            return load_latents(self.run)[0].durations()
        except ActseqError:
            raise ConfigError(
                f"prior {self.prior_name} does not know how long its labels last, and the run has no latents that do",
                action='say so for each label, such as --labels "3:0.4 5:0.3"',
            ) from None

    def _seed_latents(self, given: Path | Activations, source: FromPrior) -> SeedLatents:
        found, name = (given, "the seed") if isinstance(given, Activations) else (read_activations(given), str(given))
        check_activations(found, self.codec, self.autoencoder, name)
        per_latent = self.codec.samples_per_latent
        samples = own_samples(found, self.codec) or len(found.mean) * per_latent
        if source.seed_seconds is not None:
            samples = min(samples, max(1, units.seconds_to_samples(source.seed_seconds, self.sample_rate)))
        mean = found.mean[: units.n_hops(samples, per_latent)]
        return SeedLatents(mean, samples, found.gain, source.include_seed)

    def _said(self, region: Region) -> str:
        begin, end = (units.samples_to_seconds(at, self.sample_rate) for at in region.samples)
        frame = units.samples_to_seconds(self.codec.samples_per_latent, self.sample_rate)
        count = region.stop - region.first
        return f"regenerating {begin:.4g} to {end:.4g} s: {count} latent frames of {frame:.4g} s, rounded outward"

    def _through(self, request: GenerationRequest, source: Through, reporter: Reporter) -> Iterator[Piece]:
        if self.codec.autoencoder.whole_clips:
            return self._steps(request, source, reporter)
        if request.label is not None or request.n != 1 or request.given:
            raise ConfigError("--through knows no label, no --n and no sampling controls", action="leave them out")
        sounds = [self._read(sound, reporter) for sound in source.sounds]
        latents = [self.codec.encode([sound * np.float32(self._gain(sound))])[0][0] for sound in sounds]
        prior = Interpolate([torch.from_numpy(sequence).to(self.codec.device) for sequence in latents])
        length = {"seconds": request.seconds, "max_seconds": self._natural_seconds(prior), "after_end": "ignore"}
        settings = GenerateConfig.model_validate(length)
        return generate(self.codec, prior, ResolvedRequest(settings))

    def _steps(self, request: GenerationRequest, source: Through, reporter: Reporter) -> Iterator[Piece]:
        """Clips at equal steps through the code space, from the first sound to the last."""
        if request.given or not 2 <= request.n <= BATCH_CLIPS:
            raise ConfigError(
                f"--through makes {request.n} clips of one vector each",
                f"--n from 2 to {BATCH_CLIPS}, the first sound and the last included, and no sampling controls",
            )
        means = [self._encoded(sound, reporter)[0] for sound in source.sounds]
        prior = Steps([torch.from_numpy(mean[0]).to(self.codec.device) for mean in means])
        settings = GenerateConfig.model_validate({"seconds": request.seconds, "after_end": "ignore"})
        label = self._decoder_label(request.label)
        return generate(self.codec, prior, ResolvedRequest(settings, n=request.n, decoder_label=label))

    def _encoded(self, sound: Sound, reporter: Reporter) -> tuple[LatentArray, LatentArray | None]:
        waveform = self._read(sound, reporter)
        self.codec.require_short(len(waveform), str(sound) if isinstance(sound, Path) else "the sound")
        return self.codec.encode([waveform * np.float32(self._gain(waveform))])[0]

    def _decoder_label(self, label: str | None) -> int:
        """Row of the decoder's table; 0 where there is no label, or the decoder is not given it."""
        if label is None or self.codec.autoencoder.table is None:
            return 0
        return _label_indices(label, self.codec.autoencoder.labels)[0]

    def _variations(self, request: GenerationRequest, source: Variations, reporter: Reporter) -> Iterator[Piece]:
        if request.seconds is not None or request.until_stop or {"min_seconds", "max_seconds"} & request.given.keys():
            raise ConfigError("a variation is as long as its sound", action="leave out the length")
        sound, device = self._read(source.sound, reporter), self.codec.device
        self.codec.require_short(len(sound), "the sound")
        gain = self._gain(sound)
        model = self._walk
        mean, variance = self.codec.encode([sound * np.float32(gain)])[0]
        prior = Vary(
            torch.from_numpy(mean).to(device),
            None if variance is None else torch.from_numpy(variance).to(device),
            model.prior,
            amount=source.amount,
        )
        length = {"seconds": None, "max_seconds": self._natural_seconds(prior), "min_seconds": 0.0}
        resolved = self._resolve(model, request, **length, after_end="ignore")
        samples = None if self.codec.autoencoder.whole_clips else len(sound)
        return generate(self.codec, prior, replace(resolved, gain=gain, samples=samples))

    @cached_property
    def _walk(self) -> LabelledPrior[Any]:
        """A random walk as the latents of the corpus go, which are all read for it."""
        return make_prior(self.run, "random-walk", str(self.codec.device), self.config)

    def _natural_seconds(self, prior: Interpolate | Vary) -> float:
        return (prior.natural_frames + 1) / self.codec.autoencoder.latent_rate

    def _read(self, sound: Sound, reporter: Reporter) -> Waveform:
        """A sound at the model's sample rate; changes made when its file is read are reported."""
        if not isinstance(sound, Path):
            return one_channel(sound)
        return read_sound(sound, self.sample_rate, reporter)

    def _gain(self, waveform: Waveform) -> float:
        """Gain that brings a sound to the level that the model knows."""
        peak = float(np.abs(waveform).max(initial=0.0))
        if peak == 0:
            raise AudioError("the given audio is silent or empty", "sound to work with")
        return level_gain(peak, self.codec.level_dbfs)

    def _resolve(self, model: LabelledPrior[Any], request: GenerationRequest, **length: Any) -> ResolvedRequest:
        """The request with the configured controls that the prior knows, and a length.

        A control that is given by name and that the prior does not know is kept: the prior refuses it when it samples.
        """
        configured = self.config.generate.model_dump(mode="json")
        settings = configuration.parse(GenerateConfig, configured | dict(request.given), "generate")
        ignored = {
            field.name: field.default
            for field in fields(Sampling)
            if field.name not in model.prior.controls and field.name not in request.given
        }
        rows = _label_indices(request.label, model.labels)
        if "best_of" not in request.given and (not model.prior.has_likelihood or len(rows) > 1 or request.spans):
            ignored["best_of"] = GenerateConfig.model_fields["best_of"].default
        if request.label is not None:
            self._require_labels(model.prior)
        indices = torch.tensor([0, *rows], device=self.codec.device)
        with torch.inference_mode():
            conditions = model.condition(indices)[:, None].unbind()
        return ResolvedRequest(
            settings.model_copy(update=ignored | length),
            n=request.n,
            seed=request.seed,
            condition=conditions[1],
            condition_end=conditions[2] if len(conditions) == 3 else None,
            unconditional=conditions[0],
            label=rows[0],
            label_end=rows[-1],
            decoder_label=self._decoder_label(request.label),
        )


def read_sound(path: Path, sample_rate: int, reporter: Reporter, most_seconds: float | None = None) -> Waveform:
    """A whole file as a waveform (samples,) at a sample rate in Hz; what was changed in reading it is reported.

    A file that is longer than `most_seconds` is refused.

    Raises:
        AudioError: as `audio.load`.
    """
    waveform, own_rate = audio.load(path, most_seconds=most_seconds)
    waveform, offset = audio.remove_offset(waveform)
    report_changes(path, offset, own_rate, sample_rate, reporter)
    return waveform if own_rate == sample_rate else audio.resample(waveform, own_rate, sample_rate)


def report_changes(path: Path, offset: float, own_rate: int, sample_rate: int, reporter: Reporter) -> None:
    """Report what was changed in reading a file."""
    if offset:
        reporter.say(f"{path.name}: a constant offset of {offset:.3f} was removed")
    if own_rate != sample_rate:
        reporter.say(f"{path.name}: resampled from {own_rate} to {sample_rate} Hz")


def _label_indices(label: str | None, labels: list[str]) -> list[int]:
    """Rows of the label table: the row of a label, the two rows of a glide `A:B`, or row 0 for no label."""
    if label is None:
        return [0]
    names = [label]
    if label not in labels and ":" in label:
        # A label may have a colon in its own name.
        pairs = [(label[:i], label[i + 1 :]) for i, letter in enumerate(label) if letter == ":"]
        names = list(next((pair for pair in pairs if set(pair) <= set(labels)), label.split(":", 1)))
    for name in names:
        if name not in labels:
            raise unknown_label(name, labels)
    return [labels.index(name) + 1 for name in names]
