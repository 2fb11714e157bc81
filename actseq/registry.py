"""The members of every family, by the name that a configuration gives them.

A new member is one file and one line here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from actseq import effects
from actseq.autoencoders.bottlenecks import Adversarial, Plain, Variational
from actseq.autoencoders.conv import Conv
from actseq.autoencoders.dense import Dense
from actseq.autoencoders.pca import Pca
from actseq.autoencoders.recurrent import Recurrent
from actseq.autoencoders.unet import Unet
from actseq.config import Member
from actseq.corruptions.noise import Noise
from actseq.corruptions.rotation import Rotation
from actseq.objectives.adversarial_sequence import AdversarialSequences
from actseq.objectives.autoencoding import Autoencoding
from actseq.objectives.sequence import SequenceLikelihood
from actseq.objectives.vocoding import AdversarialVocoding, MagnitudeLikeness
from actseq.priors.flow import Flow
from actseq.priors.gan import Gan
from actseq.priors.heads import Gaussian, Mixture
from actseq.priors.recurrent import Gru, Lstm
from actseq.priors.transformer import Transformer
from actseq.priors.untrained import Iid, RandomWalk, TrainingFrames
from actseq.representations.grain import Grain
from actseq.representations.linear import Linear
from actseq.representations.mel import Mel
from actseq.representations.spectrum import Spectrum
from actseq.representations.stft import Stft
from actseq.vocoders.granular import GrainSynthesis
from actseq.vocoders.griffin_lim import GriffinLim
from actseq.vocoders.istft import Istft
from actseq.vocoders.magnitude import LearnedMagnitude
from actseq.vocoders.neural import Neural
from actseq.vocoders.phase import Phase

REPRESENTATIONS: dict[str, Callable[..., Any]] = {
    "mel": Mel,
    "linear": Linear,
    "stft": Stft,
    "grain": Grain,
    "spectrum": Spectrum,
}
NETWORKS: dict[str, Callable[..., Any]] = {
    "conv": Conv,
    "dense": Dense,
    "recurrent": Recurrent,
    "pca": Pca,
    "unet": Unet,
}
BOTTLENECKS: dict[str, Callable[..., Any]] = {"plain": Plain, "variational": Variational, "adversarial": Adversarial}
CORRUPTIONS: dict[str, Callable[..., Any]] = {"noise": Noise, "rotation": Rotation}
PRIOR_NETWORKS: dict[str, Callable[..., Any]] = {"lstm": Lstm, "gru": Gru, "transformer": Transformer}
WHOLE_PRIORS: dict[str, Callable[..., Any]] = {"gan": Gan}
"""Priors that make a sequence in one go, and have no head."""
HEADS: dict[str, Callable[..., Any]] = {"gaussian": Gaussian, "mixture": Mixture, "flow": Flow}
AUTOENCODER_OBJECTIVES: dict[str, Callable[..., Any]] = {"autoencoding": Autoencoding}
PRIOR_OBJECTIVES: dict[str, Callable[..., Any]] = {"sequence": SequenceLikelihood, "gan": AdversarialSequences}
WHOLE_PRIOR_OBJECTIVES = {"gan": "gan"}
"""The objective of a prior of whole sequences; that of the others is `sequence`."""
UNTRAINED_PRIORS: dict[str, Callable[[TrainingFrames], Iid | RandomWalk]] = {"iid": Iid, "random-walk": RandomWalk}
"""Made on the spot from a run's latents; no trained prior may have such a name."""
VOCODERS: dict[str, Callable[..., Any]] = {
    "phase": Phase,
    "griffin-lim": GriffinLim,
    "istft": Istft,
    "granular": GrainSynthesis,
}
"""Best first: `vocoder: {kind: auto}` stands for the first that takes the representation."""
VOCODER_NETWORKS: dict[str, Callable[..., Any]] = {"magnitude": LearnedMagnitude, "neural": Neural}
VOCODER_OBJECTIVES: dict[str, Callable[..., Any]] = {
    "magnitude": MagnitudeLikeness,
    "adversarial-vocoding": AdversarialVocoding,
}

EFFECTS: dict[str, Callable[..., effects.Effect]] = {
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


def trained(*, name: str = "default") -> Member:
    """`vocoder: {kind: trained}`: what `train-vocoder` made under a name; a run's files are needed to build it."""
    return Member.model_validate({"kind": "trained", "name": name})


TRAINED: dict[str, Callable[..., Any]] = {"trained": trained}
