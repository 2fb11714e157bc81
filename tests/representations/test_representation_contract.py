"""What every representation promises."""

import copy
from pathlib import Path

import members
import numpy as np
import pytest
import torch

from actseq import audio, registry, units
from actseq.errors import ConfigError

KINDS = sorted(registry.REPRESENTATIONS)
every_kind = pytest.mark.parametrize("kind", KINDS)


def clips() -> list[np.ndarray]:
    """A tone, a click, noise: 3001, 1, 64 and 1000 samples."""
    rng = np.random.default_rng(0)
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(3001) / members.SAMPLE_RATE)
    return [tone, np.array([0.7]), 0.1 * rng.standard_normal(64), 0.3 * rng.standard_normal(1000)]


def check_alone_equals_batch(kind: str, waveforms: list[np.ndarray]) -> None:
    analysis = members.representation(kind)
    together = analysis.analyse(*members.padded(waveforms, fill=10.0))
    for i, waveform in enumerate(waveforms):
        alone = analysis.analyse(*members.padded([waveform]))
        frames = int(alone.lengths[0])
        assert alone.values.shape[2] >= frames
        assert int(together.lengths[i]) == frames == units.n_frames(len(waveform), analysis.hop_length)
        # Unwrapping sums phases: an error of a large value stays in the small ones that follow it.
        atol = 1e-6 * float(alone.values.abs().max())
        torch.testing.assert_close(together.values[i, :, :frames], alone.values[0, :, :frames], atol=atol, rtol=1e-6)


@every_kind
def test_padding_changes_nothing_inside(kind: str) -> None:
    check_alone_equals_batch(kind, clips())


@every_kind
def test_padding_changes_nothing_inside_real_sounds(kind: str, data_dir: Path) -> None:
    drums = audio.find(data_dir / "drums")
    drum, rate = audio.load(drums[0], members.SAMPLE_RATE)
    assert rate == members.SAMPLE_RATE
    waveforms = [*members.digits(data_dir), drum]
    check_alone_equals_batch(kind, waveforms)
    analysis = members.representation(kind)
    features = analysis.analyse(*members.padded(waveforms))
    assert features.values.isfinite().all()
    assert features.values[0].std() > (0.5 if analysis.log_magnitude else 0.05 * features.values[0].abs().max())


@every_kind
def test_declared_size_and_rate_are_true(kind: str) -> None:
    analysis = members.representation(kind)
    assert analysis.sample_rate == members.SAMPLE_RATE
    assert analysis.feature_rate == pytest.approx(members.SAMPLE_RATE / analysis.hop_length)
    for n in (1, analysis.hop_length - 1, analysis.hop_length, 1000):
        features = analysis.analyse(torch.rand(2, n), torch.tensor([n, n]))
        assert features.values.shape == (2, analysis.channels, units.n_frames(n, analysis.hop_length))
        assert features.values.dtype == torch.float32


BOUNDED = [kind for kind in KINDS if members.representation(kind).context_samples is not None]


@pytest.mark.parametrize("kind", BOUNDED)
def test_context_is_true(kind: str) -> None:
    analysis = members.representation(kind)
    hop, n = analysis.hop_length, 40 * analysis.hop_length
    frame, generator = 20, torch.Generator().manual_seed(0)
    waveform, other = torch.rand((2, 1, n), generator=generator)
    near = (torch.arange(n) - frame * hop).abs() <= analysis.context_samples
    lengths = torch.tensor([n])
    values, same, changed = (
        analysis.analyse(sound, lengths).values[0, :, frame]
        for sound in (waveform, torch.where(near, waveform, other), torch.where(near, other, waveform))
    )
    torch.testing.assert_close(same, values, atol=1e-6, rtol=1e-6)
    assert (changed - values).abs().max() > 0.1


@every_kind
def test_silence_and_a_single_sample_are_finite(kind: str) -> None:
    analysis = members.representation(kind)
    silence = analysis.analyse(torch.zeros(1, 500), torch.tensor([500])).values
    assert silence.isfinite().all()
    assert (silence == silence[:, :, :1]).all()
    for value in (0.0, 1.0, -1.0):
        assert analysis.analyse(torch.full((1, 1), value), torch.tensor([1])).values.isfinite().all()


@every_kind
def test_state_dict_makes_a_copy(kind: str) -> None:
    analysis = members.representation(kind)
    other = copy.deepcopy(analysis)
    for buffer in other.buffers():
        buffer.zero_()
    other.load_state_dict(analysis.state_dict())
    batch = members.padded(clips())
    assert torch.equal(other.analyse(*batch).values, analysis.analyse(*batch).values)


@every_kind
def test_an_impossible_hop_is_refused_by_name(kind: str) -> None:
    granular = "overlap" in members.REPRESENTATIONS[kind]
    option, value = ("overlap", 0.97) if granular else ("hop_length", 200)
    with pytest.raises(ConfigError, match=f"representation {kind}: .*{option} is {value}"):
        members.representation(kind, **{option: value})
