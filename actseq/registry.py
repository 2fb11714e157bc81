"""The members of every family, by the name that a configuration gives them.

A new member is one file and one line here. Where a configuration names no member, the first of its table that fits is
taken.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping
from typing import Any

from actseq import effects
from actseq.autoencoders.bottlenecks import Adversarial, Plain, Variational
from actseq.autoencoders.circular import Circular
from actseq.autoencoders.clip import Clip
from actseq.autoencoders.conv import Conv
from actseq.autoencoders.dense import Dense
from actseq.autoencoders.pca import Pca
from actseq.autoencoders.recurrent import Recurrent
from actseq.autoencoders.unet import Unet
from actseq.config import Member
from actseq.corruptions.added import Crackle, Hum, Notes
from actseq.corruptions.missing import BandLimit, Clipping, Gaps, Reverb
from actseq.corruptions.mix import Mix
from actseq.corruptions.noise import Noise
from actseq.corruptions.rotation import Rotation
from actseq.objectives.adversarial_sequence import AdversarialSequences
from actseq.objectives.autoencoding import Autoencoding
from actseq.objectives.flow_matching import FlowMatching
from actseq.objectives.latent_discriminator import LatentDiscriminator
from actseq.objectives.regularisers import KlPrice
from actseq.objectives.sample_likelihood import SampleLikelihood
from actseq.objectives.sequence import SequenceLikelihood
from actseq.objectives.vocoding import AdversarialVocoding, MagnitudeLikeness
from actseq.priors.clip_flow import ClipFlow
from actseq.priors.flow import Flow
from actseq.priors.gan import Gan
from actseq.priors.heads import Gaussian, Mixture
from actseq.priors.recurrent import Gru, Lstm
from actseq.priors.transformer import Transformer
from actseq.priors.untrained import Iid, Normal, RandomWalk, TrainingFrames
from actseq.representations.grain import Grain
from actseq.representations.harmonic import Harmonic
from actseq.representations.linear import Linear
from actseq.representations.mel import Mel
from actseq.representations.spectrum import Spectrum
from actseq.representations.stft import Stft
from actseq.vocoders.granular import GrainSynthesis
from actseq.vocoders.griffin_lim import GriffinLim
from actseq.vocoders.harmonic import HarmonicSynthesis
from actseq.vocoders.istft import Istft
from actseq.vocoders.magnitude import LearnedMagnitude
from actseq.vocoders.neural import Neural
from actseq.vocoders.phase import Phase
from actseq.vocoders.wavenet import WaveNet

Table = dict[str, Callable[..., Any]]

REPRESENTATIONS: Table = {
    "mel": Mel,
    "linear": Linear,
    "stft": Stft,
    "grain": Grain,
    "spectrum": Spectrum,
    "harmonic": Harmonic,
}
NETWORKS: Table = {
    "conv": Conv,
    "dense": Dense,
    "recurrent": Recurrent,
    "pca": Pca,
    "unet": Unet,
    "clip": Clip,
    "circular": Circular,
}
BOTTLENECKS: Table = {"plain": Plain, "variational": Variational, "adversarial": Adversarial}
CORRUPTIONS: Table = {
    "noise": Noise,
    "hum": Hum,
    "notes": Notes,
    "crackle": Crackle,
    "clipping": Clipping,
    "band-limit": BandLimit,
    "gaps": Gaps,
    "reverb": Reverb,
    "mix": Mix,
    "rotation": Rotation,
}
PRIOR_NETWORKS: Table = {"lstm": Lstm, "gru": Gru, "transformer": Transformer, "gan": Gan, "clip-flow": ClipFlow}
"""Causal networks, which take a head, and priors that make whole sequences, which take none."""
HEADS: Table = {"mixture": Mixture, "gaussian": Gaussian, "flow": Flow}
UNTRAINED_PRIORS: dict[str, Callable[[TrainingFrames], Iid | RandomWalk | Normal]] = {
    "iid": Iid,
    "random-walk": RandomWalk,
    "normal": Normal,
}
"""Made on the spot from a run's latents; no trained prior may have such a name."""
OBJECTIVES: Table = {
    "autoencoding": Autoencoding,
    "sequence": SequenceLikelihood,
    "gan": AdversarialSequences,
    "flow-matching": FlowMatching,
    "magnitude": MagnitudeLikeness,
    "adversarial-vocoding": AdversarialVocoding,
    "sample-likelihood": SampleLikelihood,
}
"""What trains a network; the network names it in its attribute `objective`."""
REGULARISERS: Table = {"kl": KlPrice, "latent-discriminator": LatentDiscriminator}
"""What a bottleneck asks of its latents in training; it names it in its attribute `regulariser`."""
VOCODERS: Table = {
    "phase": Phase,
    "griffin-lim": GriffinLim,
    "istft": Istft,
    "granular": GrainSynthesis,
    "harmonic": HarmonicSynthesis,
}
"""Best first: `vocoder: {kind: auto}` stands for the first that takes the representation."""
VOCODER_NETWORKS: Table = {"magnitude": LearnedMagnitude, "neural": Neural, "wavenet": WaveNet}
EFFECTS: Table = {
    "high-pass": effects.high_pass,
    "low-pass": effects.low_pass,
    "eq-band": effects.eq_band,
    "gain": effects.gain,
    "compressor": effects.compressor,
    "limiter": effects.limiter,
    "loudness": effects.loudness,
    "reverb": effects.reverb,
    "convolution": effects.convolution,
    "chorus": effects.chorus,
    "fade": effects.fade,
    "trim": effects.trim,
}


def prior_kinds(ability: str) -> list[str]:
    """Kinds of prior networks whose class has an attribute, such as `takes_suffix`."""
    return [kind for kind, made in PRIOR_NETWORKS.items() if hasattr(made, ability)]


def auto() -> Member:
    """`vocoder: {kind: auto}`: the winner that `train-vocoder` recorded, or the best that needs no training."""
    return Member(kind="auto")


def trained(*, name: str = "default") -> Member:
    """`vocoder: {kind: trained}`: a vocoder that `train-vocoder` made; it is in the files of the run.

    Args:
        name: its name.
    """
    return Member.model_validate({"kind": "trained", "name": name})


FAMILIES: dict[str, Mapping[str, Callable[..., Any]]] = {
    "representation": REPRESENTATIONS,
    "autoencoder.network": NETWORKS,
    "autoencoder.bottleneck": BOTTLENECKS,
    "train_ae.objective": OBJECTIVES,
    "train_ae.regulariser": REGULARISERS,
    "train_ae.corruption": CORRUPTIONS,
    "prior.network": PRIOR_NETWORKS,
    "prior.head": HEADS,
    "train_prior.objective": OBJECTIVES,
    "train_vocoder.network": VOCODER_NETWORKS,
    "train_vocoder.objective": OBJECTIVES,
    "vocoder": ChainMap({"auto": auto, "trained": trained}, VOCODERS),
    "generate.effects": EFFECTS,
}
"""Where a configuration holds a member, and of which table."""
FOLLOWING: dict[str, tuple[str, str | None]] = {
    "autoencoder.network": ("train_ae.objective", "autoencoding"),
    "autoencoder.bottleneck": ("train_ae.regulariser", None),
    "prior.network": ("train_prior.objective", "sequence"),
    "train_vocoder.network": ("train_vocoder.objective", "magnitude"),
}
"""What follows from a member, and which one where the member names none in the attribute of that name."""
