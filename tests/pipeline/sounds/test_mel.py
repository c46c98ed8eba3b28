"""Mel spectrograms beside those of librosa, Kaldi and transformers, and a loop that follows the definition."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from headrace.pipeline import Mel
from headrace.pipeline.sounds.mel import from_mel, to_mel
from tests.conftest import require_peer
from tests.sounds import note


def wave(samples: int = 20_000) -> np.ndarray:
    return np.resize(note(3, 16_000)[:, 0], samples) + np.float32(0.05)


LIBROSAS: list[dict[str, Any]] = [
    {},
    {"fft": 1024, "window": 1024, "bins": 64, "low": 60.0, "high": 7800.0},
    {"window": 399, "hop": 100, "bins": 40, "scale": "slaney", "log": "db", "floor": 1e-10},
]


@pytest.mark.parametrize("settings", LIBROSAS)
def test_librosas_definition_is_librosas(settings: dict[str, Any]) -> None:
    librosa = require_peer("librosa")
    mel = Mel(definition="librosa", **settings)
    theirs = librosa.feature.melspectrogram(
        y=wave().astype(np.float64),
        sr=16_000,
        n_fft=mel.fft,
        win_length=mel.window,
        hop_length=mel.hop,
        n_mels=mel.bins,
        fmin=mel.low,
        fmax=mel.high,
        htk=mel.scale == "htk",
    ).T
    theirs = np.maximum(theirs, mel.floor)
    ours = mel.spectrogram(wave(), 16_000)
    assert ours.dtype == np.float32
    assert ours.shape == (mel.frames(20_000), mel.bins)
    np.testing.assert_allclose(ours, np.log(theirs) if mel.log == "ln" else 10 * np.log10(theirs), atol=1e-5)


def test_kaldis_definition_is_kaldis() -> None:
    """Its own arithmetic is float32."""
    kaldi = require_peer("kaldi-native-fbank")
    options = kaldi.FbankOptions()
    options.frame_opts.samp_freq, options.frame_opts.dither, options.frame_opts.window_type = 16_000, 0.0, "hanning"
    options.mel_opts.num_bins, options.mel_opts.low_freq = 64, 40.0
    options.use_energy = False
    fbank = kaldi.OnlineFbank(options)
    fbank.accept_waveform(16_000, wave().tolist())
    fbank.input_finished()
    theirs = np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])
    ours = Mel(bins=64, low=40.0).spectrogram(wave(), 16_000)
    assert ours.shape == theirs.shape == (123, 64)
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


def loop(sound: np.ndarray, rate: int, mel: Mel) -> np.ndarray:
    """Kaldi's definition number by number, in float64."""
    found = []
    for start in range(0, len(sound) - mel.window + 1, mel.hop):
        piece = [float(x) for x in sound[start : start + mel.window]]
        middle = sum(piece) / len(piece)
        piece = [x - middle for x in piece]
        piece = [x - 0.97 * before for x, before in zip(piece, [piece[0], *piece[:-1]], strict=True)]
        piece = [x * (0.5 - 0.5 * math.cos(2 * math.pi * i / (mel.window - 1))) for i, x in enumerate(piece)]
        power = []
        for k in range(mel.fft // 2):
            angles = [2 * math.pi * k * i / mel.fft for i in range(mel.window)]
            real = sum(x * math.cos(angle) for x, angle in zip(piece, angles, strict=True))
            imaginary = sum(x * math.sin(angle) for x, angle in zip(piece, angles, strict=True))
            power.append(real**2 + imaginary**2)
        low, high = (1127 * math.log(1 + f / 700) for f in (mel.low, rate / 2))
        step = (high - low) / (mel.bins + 1)
        bands = []
        for band in range(mel.bins):
            left = low + band * step
            total = 0.0
            for k, value in enumerate(power):
                at = 1127 * math.log(1 + k * rate / mel.fft / 700)
                total += value * max(0.0, min((at - left) / step, (left + 2 * step - at) / step))
            bands.append(math.log(max(total, mel.floor)))
        found.append(bands)
    return (np.array(found) - mel.mean) / mel.std


def test_a_slow_loop_gives_the_same() -> None:
    mel = Mel(bins=20, window=100, hop=40, fft=128, mean=-3.0, std=4.0)
    ours = mel.spectrogram(wave(500), 8_000)
    np.testing.assert_allclose(ours, loop(wave(500), 8_000, mel), atol=1e-5)


def test_it_is_what_transformers_feeds_to_ast() -> None:
    """128 bands, AudioSet's mean and twice its deviation, zeros behind the sound."""
    require_peer("transformers")
    from transformers import ASTFeatureExtractor

    sound = wave(20_000)
    theirs = ASTFeatureExtractor(max_length=200)(sound, sampling_rate=16_000, return_tensors="np").input_values[0]
    mel = Mel(mean=-4.2677393, std=2 * 4.5689974)
    padded = np.zeros(mel.samples(200), np.float32)
    padded[: len(sound)] = sound
    ours = mel.spectrogram(padded, 16_000, len(sound))
    assert ours.shape == theirs.shape == (200, 128)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert np.allclose(ours[mel.frames(len(sound)) :], 4.2677393 / (2 * 4.5689974))


def test_twice_as_loud_is_a_constant_more() -> None:
    mel = Mel(bins=32, window=400)
    difference = mel.spectrogram(2 * wave(), 16_000) - mel.spectrogram(wave(), 16_000)
    np.testing.assert_allclose(difference, math.log(4), atol=1e-4)


def test_a_tone_is_in_its_band() -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32)
    for definition in ("kaldi", "librosa"):
        mel = Mel(definition=definition, bins=64)  # type: ignore[arg-type]
        edges = from_mel(np.linspace(to_mel(20.0, "htk"), to_mel(8000.0, "htk"), 66), "htk")
        loudest = mel.spectrogram(tone, 16_000)[5:-5].argmax(axis=1)
        assert np.all((edges[loudest] < 1000) & (edges[loudest + 2] > 1000))


@pytest.mark.parametrize("scale", ["htk", "slaney"])
def test_scales_have_their_inverse(scale: str) -> None:
    hertz = np.linspace(0, 8000, 100)
    np.testing.assert_allclose(from_mel(to_mel(hertz, scale), scale), hertz, atol=1e-9)
    assert to_mel(1000.0, "slaney") == 15.0
    assert to_mel(1000.0, "htk") == pytest.approx(2595 * math.log10(1 + 1000 / 700), rel=1e-4)


@pytest.mark.parametrize("definition", ["kaldi", "librosa"])
def test_so_many_frames_need_so_many_samples(definition: Any) -> None:
    mel = Mel(definition=definition, window=100, hop=40, fft=128, bins=8)
    for frames in (1, 2, 17):
        samples = mel.samples(frames)
        assert mel.frames(samples) == frames
        assert mel.frames(samples - 1) == frames - 1
        if samples:
            assert mel.spectrogram(wave(samples), 8_000).shape == (frames, 8)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"definition": "htk"}, "Mel.definition must be kaldi or librosa, got htk"),
        ({"bins": 0}, "Mel.bins must be at least 1, got 0"),
        ({"window": 513}, "Mel.fft must be even and at least 513, got 512"),
        ({"low": 100.0, "high": 50.0}, "Mel.high must be above 100.0, or None, got 50.0"),
        ({"scale": "slaney"}, "Mel.scale must be htk in Kaldi's definition, got slaney"),
        ({"floor": 0.0}, "Mel.floor must be above 0, got 0.0"),
        ({"std": 0.0}, "Mel.std must be above 0, got 0.0"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}$"):
        Mel(**settings)
