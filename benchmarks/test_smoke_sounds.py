"""The loader benchmark's work on sounds at smoke size, and that all contestants make the same spectrograms; see
`test_smoke.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from headrace.benchmarks.command import SMOKE_BATCH
from headrace.benchmarks.errors import fetched
from headrace.benchmarks.loader import MEL, SECOND
from headrace.benchmarks.peers import librosa, torch_stft
from headrace.benchmarks.peers.sound_dataset import Crops
from headrace.benchmarks.prompts import prompts
from headrace.benchmarks.test_smoke import smoke, took_part
from tests.conftest import require_peer
from tests.sounds import encoded, note

SPECTROGRAMS = f"1 x float32 ({SMOKE_BATCH}, 1, 96, 64)"


def test_all_contestants_make_the_same_spectrogram_of_a_crop(tmp_path: Path) -> None:
    require_peer("soundfile")
    require_peer("librosa")
    wave = note(3, 8000)[:, 0]
    path = tmp_path / "note.wav"
    path.write_bytes(encoded(wave, 8000, "wav", "FLOAT"))
    crop = np.resize(wave, SECOND.sounds[0].samples)
    expected = torch.from_numpy(MEL.spectrogram(crop, 8000))[None]
    for peer in (torch_stft.spectrograms, librosa.spectrograms):
        dataset = Crops([path], SECOND, peer)
        if len(wave) <= len(crop):
            np.testing.assert_array_equal(dataset.crop(path), crop)
        made = (peer(MEL, 8000)(crop)[None] - MEL.mean) / MEL.std
        torch.testing.assert_close(made, expected, rtol=1e-3, atol=1e-3)
        assert dataset[0].shape == (1, 96, 64)


@pytest.mark.timeout(900)
def test_loader_of_sounds(tmp_path: Path) -> None:
    fetched(prompts)
    (comparison,) = smoke("loader", tmp_path, "--works", "sounds").values()
    found = took_part(comparison, {"Headrace", "torch.stft", "librosa", "decoding only"})
    for each in found.values():
        if not each["limit"]:
            assert each["batch"] == SPECTROGRAMS
            # Normalised logarithms of the same files; random seconds of a batch differ by this much.
            assert abs(each["mean"] - found["Headrace"]["mean"]) < 0.6
