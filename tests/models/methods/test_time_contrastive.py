"""Time-contrastive networks: what is shown, and that times are those of the frames."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from headrace.models import build_method
from headrace.models.losses import time_contrastive_loss
from headrace.models.methods.video.time_contrastive import TimeContrastiveConfig
from headrace.pipeline import Batch, Loader
from headrace.shards import ShardSet
from tests.models.tiny_methods import RESNET, TINY, tiny


@pytest.fixture(scope="module")
def batch(clips_webdataset: ShardSet) -> Batch:
    """8 real clips of 8 frames."""
    with Loader(clips_webdataset, tiny("time_contrastive").inputs, 8, threads=1) as loader:
        return next(iter(loader))


def test_it_asks_for_the_authors_frames() -> None:
    """tensorflow/models, research/tcn/configs/tcn_default.yml; preprocessing.py, distort_color in its fast mode."""
    with torch.device("meta"):
        (clip,) = build_method("time_contrastive", TimeContrastiveConfig(backbone=RESNET)).inputs.clips  # type: ignore[union-attr]
    assert (clip.frames, clip.strides, clip.colours, clip.view.size) == (36, (1,), "frame", 299)
    assert (clip.view.jitter, clip.view.saturation, clip.view.contrast, clip.view.hue) == (1.0, 0.5, 0.0, 0.0)
    assert clip.view.brightness == pytest.approx(32 / 255)
    assert (clip.view.normalize.mean, clip.view.normalize.std) == ((0.5,) * 3, (0.5,) * 3)
    config = TimeContrastiveConfig()
    assert (config.positive_radius, config.negative_radius, config.margin, config.embedding_dim) == (6, 12, 0.2, 32)


def test_the_loss_is_of_embeddings_of_length_1_and_the_numbers_of_the_frames(batch: Batch) -> None:
    method: Any = tiny("time_contrastive").eval()
    (clips,) = batch.normalized()
    with torch.no_grad():
        z = torch.stack([method.head(method.backbone(clips[:, :, t])) for t in range(8)], dim=1)
        expected = time_contrastive_loss(F.normalize(z, dim=2), batch.drawn.frames[:, 0], 1, 3, 0.2)
        torch.testing.assert_close(method.loss(batch)["loss"], expected, rtol=1e-4, atol=1e-6)


def test_without_colours_nothing_is_jittered() -> None:
    method = build_method("time_contrastive", **{**TINY["time_contrastive"], "brightness": 0.0, "saturation": 0.0})
    assert method.inputs.clips[0].view.operations == ()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": 0.0}, "TimeContrastiveConfig.margin must be above 0, got 0.0"),
        ({"positive_radius": 12}, "TimeContrastiveConfig.negative_radius must be above positive_radius, got 12"),
        ({"frames": 13}, "TimeContrastiveConfig.negative_radius must be below the clip's 12 frames, got 12"),
        ({"stride": 7}, "TimeContrastiveConfig.positive_radius must reach the next frame, got 6"),
    ],
)
def test_it_says_what_it_cannot_use(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimeContrastiveConfig(**options)
