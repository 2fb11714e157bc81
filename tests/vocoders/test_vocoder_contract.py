"""What every vocoder promises, over every representation that it takes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import members
import numpy as np
import pytest
import torch

from actseq import build, registry, units
from actseq.config import Member
from actseq.errors import ConfigError
from actseq.evaluation import metrics
from actseq.representations.base import Features, Granular
from actseq.representations.normaliser import Normaliser
from actseq.vocoders.base import BlockBuffer, Vocoder, synthesise

TAKES = {
    "phase": {"mel", "linear"},
    "griffin-lim": {"mel", "linear"},
    "istft": {"stft"},
    "granular": {"grain", "spectrum"},
    "harmonic": {"harmonic"},
    "magnitude": {"mel", "linear"},
    "neural": {"mel", "linear"},
    "wavenet": {"mel", "linear"},
}
"""The representations that each vocoder, ready-made or trained, takes; the others in `AUTO` it must refuse."""
AUTO = {
    "mel": "phase",
    "linear": "phase",
    "stft": "istft",
    "grain": "granular",
    "spectrum": "granular",
    "harmonic": "harmonic",
}
FINE = {"mel": {"n_mels": 80}, "harmonic": {"bands": 64, "shares": 16, "floor": 1e-5}}
"""Bands enough for speech, and a floor for its quiet recordings."""
ROUGH = {"harmonic": 2.0}
"""Largest log-mel L1 in dB of a vocoder whose features are fewer and smoother than a spectrogram."""
PAIRS = [
    (vocoder, kind)
    for vocoder in sorted({*registry.VOCODERS, *registry.VOCODER_NETWORKS})
    for kind in sorted(registry.REPRESENTATIONS)
]


def takes(vocoder: str, kind: str) -> bool:
    """The listed member; for a member that is not listed, what it declares itself."""
    if vocoder in TAKES and kind in AUTO:
        return kind in TAKES[vocoder]
    table = registry.VOCODERS if vocoder in registry.VOCODERS else registry.VOCODER_NETWORKS
    try:
        table[vocoder](members.representation(kind))
    except TypeError:
        return False
    return True


LEGAL = [pair for pair in PAIRS if takes(*pair)]
every_pair = pytest.mark.parametrize(("vocoder", "kind"), LEGAL)


def test_auto_is_the_one_of_the_representation() -> None:
    for kind, vocoder in AUTO.items():
        made = build.build_vocoder(Member(kind="auto"), members.representation(kind))
        assert type(made) is registry.VOCODERS[vocoder]


def test_a_representation_that_does_not_fit_is_refused() -> None:
    for vocoder, kind in PAIRS:
        if vocoder in TAKES and (vocoder, kind) not in LEGAL:
            with pytest.raises(ConfigError, match="|".join(TAKES[vocoder])):
                make(vocoder, members.representation(kind))
    known = members.representation("mel")
    names = (
        "sample_rate",
        "hop_length",
        "channels",
        "log_magnitude",
        "signed",
        "feature_rate",
        "context_samples",
        "analyse",
    )
    stranger = SimpleNamespace(**{name: getattr(known, name) for name in names})
    for vocoder, fitting in TAKES.items():
        with pytest.raises(ConfigError) as refusal:
            make(vocoder, stranger)
        assert all(kind in str(refusal.value) for kind in fitting)
    with pytest.raises(ConfigError, match=r"no vocoder takes these features.*phase: .*; istft: .*; granular: "):
        build.build_vocoder(Member(kind="auto"), stranger)


def make(vocoder: str, analysis: Any, **options: Any) -> Vocoder:
    if vocoder in registry.VOCODER_NETWORKS:
        return build.vocoder_of(members.vocoder_network(vocoder, analysis, **options), analysis)
    return build.build_vocoder(Member(kind=vocoder, **(members.VOCODERS[vocoder] | options)), analysis)


def sounds() -> list[np.ndarray]:
    """A rising tone with a click, and two shorter clips: 93, 2 and 21 frames at hop 64."""
    t = np.arange(92 * 64 + 5) / members.SAMPLE_RATE
    rising = 0.4 * np.sin(2 * np.pi * (200 * t + 900 * t**2))
    rising[3000:3020] += 0.5
    noise = 0.2 * np.random.default_rng(0).standard_normal(20 * 64)
    return [rising, rising[:70], noise]


def analysed(kind: str) -> tuple[Any, Features]:
    analysis = members.representation(kind)
    return analysis, analysis.analyse(*members.padded(sounds(), fill=1.0))


def streamed(vocoder: Vocoder, values: torch.Tensor, size: int) -> torch.Tensor:
    stream = vocoder.stream()
    pieces = [stream.push(values[:, i : i + size]) for i in range(0, values.shape[1], size)]
    return torch.cat([*pieces, stream.finish()])


@every_pair
@pytest.mark.parametrize("size", [1, 7, 50, 93])
def test_streamed_equals_whole_bit_for_bit(vocoder: str, kind: str, size: int) -> None:
    analysis, features = analysed(kind)
    synthesis = make(vocoder, analysis)
    whole = synthesise(synthesis, features)
    for i, length in enumerate(features.lengths.tolist()):
        made = streamed(synthesis, features.values[i, :, :length], size)
        assert torch.equal(made, whole[i, : len(made)])
        assert len(made) == length * analysis.hop_length


@every_pair
def test_memory_layout_does_not_matter(vocoder: str, kind: str) -> None:
    """Decoders hand over transposed tensors."""
    analysis, features = analysed(kind)
    synthesis = make(vocoder, analysis)
    values = features.values[0]
    turned = values.T.contiguous().T
    assert torch.equal(streamed(synthesis, turned, 93), streamed(synthesis, turned, 7))
    other = synthesise(synthesis, Features(turned[None], features.lengths[:1]))[0]
    torch.testing.assert_close(other[: 93 * 64], synthesise(synthesis, features)[0], atol=1e-3, rtol=0)


@every_pair
def test_a_batch_sounds_as_its_clips_alone(vocoder: str, kind: str) -> None:
    analysis, features = analysed(kind)
    synthesis = make(vocoder, analysis)
    whole = synthesise(synthesis, features)
    assert whole.shape == (3, features.values.shape[2] * analysis.hop_length)
    assert whole.dtype == torch.float32
    for i, length in enumerate(features.lengths.tolist()):
        n = length * analysis.hop_length
        alone = synthesise(synthesis, Features(features.values[i : i + 1, :, :length], features.lengths[i : i + 1]))
        assert alone.shape == (1, n)
        assert torch.equal(whole[i, :n], alone[0])
        assert not whole[i, n:].any()


@every_pair
def test_same_features_same_bytes_whatever_the_global_seed(vocoder: str, kind: str) -> None:
    analysis, features = analysed(kind)
    synthesis = make(vocoder, analysis)
    torch.manual_seed(1)
    first = synthesise(synthesis, features)
    after = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), after)
    torch.manual_seed(2)
    assert torch.equal(synthesise(synthesis, features), first)
    assert torch.equal(synthesise(make(vocoder, analysis), features), first)


@every_pair
def test_silence_stays_silent(vocoder: str, kind: str) -> None:
    analysis = members.representation(kind)
    features = analysis.analyse(torch.zeros(1, 3000), torch.tensor([3000]))
    waveform = synthesise(make(vocoder, analysis), features)
    assert waveform.isfinite().all()
    assert waveform.abs().max() < units.db_to_amplitude(-50.0)


@every_pair
def test_the_wildest_features_that_a_decoder_may_make_are_finite(vocoder: str, kind: str) -> None:
    analysis, features = analysed(kind)
    normaliser = Normaliser(analysis.channels, log_magnitude=analysis.log_magnitude, signed=analysis.signed)
    normaliser.fit([features])
    generator = torch.Generator().manual_seed(0)
    wild = normaliser.restore(1e6 * torch.randn((1, analysis.channels, 40), generator=generator))
    assert wild.min() == normaliser.bounds[0]
    assert wild.max() == normaliser.bounds[1]
    waveform = synthesise(make(vocoder, analysis), Features(wild, torch.tensor([40])))
    assert waveform.isfinite().all()
    assert waveform.abs().max() < 1000


@every_pair
def test_nothing_comes_of_nothing(vocoder: str, kind: str) -> None:
    analysis = members.representation(kind)
    stream = make(vocoder, analysis).stream()
    assert len(stream.finish()) == 0
    empty = Features(torch.zeros(1, analysis.channels, 3), torch.tensor([0]))
    assert not synthesise(make(vocoder, analysis), empty).any()


@pytest.mark.parametrize(("vocoder", "kind"), [pair for pair in LEGAL if pair[0] in registry.VOCODERS])
def test_real_digits_survive(vocoder: str, kind: str, data_dir: Path) -> None:
    options: dict[str, Any] = {"n_fft": 512, "hop_length": 128} | FINE.get(kind, {})
    options = {"grain_length": 182} if isinstance(members.representation(kind), Granular) else options
    analysis = members.representation(kind, **options)
    waveforms = members.digits(data_dir, 8)
    features = analysis.analyse(*members.padded(waveforms))
    made = synthesise(build.build_vocoder(Member(kind=vocoder), analysis), features).numpy()
    distances = [
        metrics.mel_l1_db(clip, row[: len(clip)], members.SAMPLE_RATE)
        for clip, row in zip(waveforms, made, strict=True)
    ]
    assert np.mean(distances) < ROUGH.get(vocoder, 1.5)


@pytest.mark.parametrize("size", [1, 3, 10, 40])
@pytest.mark.parametrize(("overlap", "context"), [(0, 0), (3, 0), (5, 2)])
def test_windows_of_a_buffer_depend_on_nothing_but_the_frames(size: int, overlap: int, context: int) -> None:
    values = torch.arange(1.0, 41.0).expand(2, 40)
    buffer = BlockBuffer(8, overlap, context=context, silence=-1.0)
    windows = [window for i in range(0, 40, size) for window in buffer.push(values[:, i : i + size])]
    rest = buffer.finish()
    rest = values[:, :0] if rest is None else rest
    silence = values.new_full((2, context), -1.0)
    padded = torch.cat([silence, values, silence], dim=1)
    assert [window.shape[1] for window in windows] == [8 + overlap] * len(windows)
    assert all(torch.equal(window, padded[:, 8 * i :][:, : 8 + overlap]) for i, window in enumerate(windows))
    assert torch.equal(rest, padded[:, 8 * len(windows) :] if rest.shape[1] else rest)
    assert BlockBuffer(8, overlap, context=context).finish() is None
