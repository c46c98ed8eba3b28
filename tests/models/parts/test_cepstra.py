"""Cepstra beside Kaldi's and a loop, and their differences beside a fitted line."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from headrace.models.parts.cepstra import cepstral_basis, differences, with_differences
from headrace.pipeline import Mel
from tests.conftest import require_peer
from tests.sounds import note


def test_cepstra_are_kaldis() -> None:
    """Of 13, from 23 bands behind its own window, without energy and dither: fairseq's dump_mfcc_feature.py."""
    kaldi = require_peer("kaldi-native-fbank")
    options = kaldi.MfccOptions()
    options.frame_opts.samp_freq, options.frame_opts.dither = 16_000, 0.0
    options.use_energy = False
    wave = np.resize(note(3, 16_000)[:, 0], 20_000) + np.float32(0.05)
    computer = kaldi.OnlineMfcc(options)
    computer.accept_waveform(16_000, wave.tolist())
    computer.input_finished()
    theirs = np.stack([computer.get_frame(i) for i in range(computer.num_frames_ready)])
    mel = Mel(bins=23, taper="povey").spectrogram(wave, 16_000)
    ours = torch.from_numpy(mel) @ cepstral_basis(23, 13)
    assert ours.shape == theirs.shape == (123, 13)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-2, rtol=1e-3)


def test_the_basis_is_that_of_a_loop() -> None:
    basis = cepstral_basis(23, 13)
    for order in range(13):
        for band in range(23):
            value = math.sqrt((1 if order == 0 else 2) / 23) * math.cos(math.pi * order * (band + 0.5) / 23)
            value *= 1 + 11 * math.sin(math.pi * order / 22)
            assert basis[band, order].item() == pytest.approx(value, abs=1e-5)


def test_differences_are_slopes() -> None:
    frames = torch.randn(2, 9, 3)
    found = differences(frames)
    for t in range(9):
        near = [min(max(t + k, 0), 8) for k in range(-2, 3)]
        slope = sum(k * frames[:, place] for k, place in zip(range(-2, 3), near, strict=True)) / 10
        torch.testing.assert_close(found[:, t], slope)
    line = torch.arange(9.0)[None, :, None] * 3
    torch.testing.assert_close(differences(line)[:, 2:-2], torch.full((1, 5, 1), 3.0))
    whole = with_differences(frames)
    torch.testing.assert_close(whole, torch.cat([frames, found, differences(found)], dim=2))
