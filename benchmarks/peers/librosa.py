"""Spectrograms by `librosa.feature.melspectrogram`, in a DataLoader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from headrace.benchmarks.peers import Views
from headrace.benchmarks.peers.sound_dataset import Spectrogram, batches
from headrace.pipeline import Mel, SoundSpec


def spectrograms(mel: Mel, rate: int) -> Spectrogram:
    """See `sound_dataset.Spectrogram`. Bands are made once: librosa would make them anew for each sound."""
    import librosa as peer

    bank = peer.filters.mel(
        sr=rate, n_fft=mel.fft, n_mels=mel.bins, fmin=mel.low, fmax=mel.high, htk=mel.scale == "htk"
    )

    def spectrogram(wave: np.ndarray) -> Tensor:
        spectrum = peer.stft(wave, n_fft=mel.fft, hop_length=mel.hop, win_length=mel.window, pad_mode="constant")
        power = bank @ np.abs(spectrum) ** 2
        return torch.from_numpy(np.log(np.maximum(power, mel.floor)).T.astype(np.float32))

    return spectrogram


def librosa(files: Sequence[Path], spec: SoundSpec, batch_size: int, workers: int) -> Iterator[Views]:
    """Batches of spectrograms."""
    return batches(files, spec, spectrograms, batch_size, workers)
