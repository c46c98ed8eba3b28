"""Spectrograms by `torch.stft` and a matrix of bands, as torchaudio's MelSpectrogram makes them, in a DataLoader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from headrace.benchmarks.peers import Views
from headrace.benchmarks.peers.sound_dataset import Spectrogram, batches
from headrace.pipeline import Mel, SoundSpec
from headrace.pipeline.sounds.mel import bands_of


def spectrograms(mel: Mel, rate: int) -> Spectrogram:
    """See `sound_dataset.Spectrogram`; the bands are Headrace's, which are librosa's."""
    bank = torch.from_numpy(bands_of(mel, rate)[0].T.astype(np.float32))  # (points, bins)
    window = torch.hann_window(mel.window)

    def spectrogram(wave: np.ndarray) -> Tensor:
        spectrum = torch.stft(
            torch.from_numpy(wave), mel.fft, mel.hop, mel.window, window, center=True, pad_mode="constant",
            return_complex=True,
        )  # fmt: skip
        power = spectrum.real.square() + spectrum.imag.square()  # (points, frames)
        return (power.T @ bank).clamp(min=mel.floor).log()

    return spectrogram


def torch_stft(files: Sequence[Path], spec: SoundSpec, batch_size: int, workers: int) -> Iterator[Views]:
    """Batches of spectrograms."""
    return batches(files, spec, spectrograms, batch_size, workers)
