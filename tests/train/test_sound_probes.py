"""Probes of sounds: what they see, and what they are compared with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from headrace.pipeline import Loader, Mel, Sound, SoundSpec
from headrace.shards import ShardSet
from headrace.tools.evaluation.evaluate import evaluate
from headrace.train import RunError, train
from headrace.train.probes import band_features, finetune_probe
from headrace.train.recipes import masked_spectrogram_small
from tests.models.tiny_methods import TINY, tiny

pytestmark = pytest.mark.peer("soundfile")


def test_bands_are_averaged_over_time(sounds_webdataset: ShardSet) -> None:
    mel = Mel(bins=8, window=200, hop=80, fft=256)
    spec = SoundSpec([Sound(samples=4000, rate=8000, gain=(-9.0, 9.0), mel=mel)])
    features, labels = band_features(sounds_webdataset, spec, threads=1)
    assert features.shape == (200, 16)
    assert np.array_equal(labels, np.arange(200) % 4)
    with Loader(sounds_webdataset, spec.plain(), 200, shuffle=False, threads=1) as loader:
        mels = next(iter(loader))["sound"].mels[0]
    for i in (0, 199):
        torch.testing.assert_close(torch.from_numpy(features[i, :8]), mels[i, 0].mean(0))
        torch.testing.assert_close(torch.from_numpy(features[i, 8:]), mels[i, 0].var(0, correction=0).sqrt())
    waves = SoundSpec([Sound(samples=4000, rate=8000)])
    assert band_features(sounds_webdataset, waves, threads=1)[0].shape == (200, 256)


def test_a_run_of_sounds_is_evaluated(sounds_webdataset: ShardSet, tmp_path: Path) -> None:
    config = masked_spectrogram_small(data=str(sounds_webdataset.path), out=str(tmp_path))
    changes = ["epochs=1", "batch_size=100", "precision=float32", "log.tensorboard=false"]
    config.model = replace(config.model, **TINY["masked_spectrogram"])
    train(config.with_overrides(changes), progress=False)
    scores = evaluate(tmp_path, sounds_webdataset.path, protocols=("knn",))
    assert scores.keys() == {"input", "untrained", "trained"}
    assert scores["input"]["knn"] > 0.9  # four pitches
    with pytest.raises(RunError, match="MaskedSpectrogram encodes sounds, and this works on single images only"):
        finetune_probe(tiny("masked_spectrogram"), sounds_webdataset, sounds_webdataset)
