"""Depth and ego-motion of clips."""

from __future__ import annotations

from typing import Any

from headrace.models.methods.video.monodepth2 import Monodepth2Config
from headrace.models.methods.video.sfmlearner import SfMLearnerConfig
from headrace.models.parts.backbones import BackboneConfig
from headrace.train.config import CheckpointConfig, LogConfig, OptimConfig, RunConfig, ScheduleConfig


def monodepth2_kitti(*, data: str = "", out: str = "") -> RunConfig:
    """ResNet-18, batch 12, 20 epochs of KITTI's frames with one before and one behind.

    Adam with learning rate 1e-4, a tenth of it in the last five epochs, no decay (nianticlabs/monodepth2 at b676244,
    options.py, trainer.py). The authors begin with ImageNet's weights, which `--init FILE` gives the depth's encoder
    here and not the motion's, and reach an error of 0.115 (abs-rel; 0.132 without them).
    """
    return RunConfig(
        method="monodepth2",
        model=Monodepth2Config(),
        data=data,
        out=out,
        epochs=20,
        batch_size=12,
        optim=OptimConfig(lr=1e-4, weight_decay=0.0),
        schedule=ScheduleConfig(warmup_epochs=0, final=1.0, drops={15: 0.1}),
    )


def sfmlearner_kitti(*, data: str = "", out: str = "") -> RunConfig:
    """Batch 4, 20 epochs of the 39,810 samples of KITTI's split of its authors: their 200,000 steps.

    Adam with learning rate 2e-4, no decay (tinghuiz/SfMLearner at 65f71f1, train.py, README.md). The authors reach an
    error of 0.183 (abs-rel) with their own networks.
    """
    return RunConfig(
        method="sfmlearner",
        model=SfMLearnerConfig(),
        data=data,
        out=out,
        epochs=20,
        batch_size=4,
        optim=OptimConfig(lr=2e-4, weight_decay=0.0),
        schedule=ScheduleConfig(warmup_epochs=0, final=1.0),
    )


def monodepth2_small(*, data: str = "", out: str = "") -> RunConfig:
    """A narrow ResNet on frames of 64 pixels of `headrace.benchmarks.parallax`, whose camera it knows; not mirrored, as
    the way that the camera goes is what it is probed by."""
    return _small("monodepth2", Monodepth2Config(**_TINY, flip=0.0), data, out)


def sfmlearner_small(*, data: str = "", out: str = "") -> RunConfig:
    """As `monodepth2_small`."""
    return _small("sfmlearner", SfMLearnerConfig(**_TINY, smoothness=0.1), data, out)


_NARROW = {"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 64], "stem_type": "deep", "stem_width": 8}
_TINY: dict[str, Any] = {
    "size": 64,
    "stride": 1,
    "aspect": 1.0,
    "intrinsics": (52.0, 52.0, 32.0, 32.0),
    "nearest": 0.8,
    "farthest": 30.0,
    "decoder_widths": (8, 16, 16, 32, 32),
    "pose_width": 64,
    "backbone": BackboneConfig(name="resnet18", options=_NARROW),
}


def _small(method: str, model: Any, data: str, out: str) -> RunConfig:
    """36 epochs, two of them of warm-up."""
    return RunConfig(
        method=method,
        model=model,
        data=data,
        out=out,
        epochs=36,
        batch_size=16,
        optim=OptimConfig(lr=1e-3, weight_decay=0.0),
        schedule=ScheduleConfig(warmup_epochs=2),
        checkpoint=CheckpointConfig(every_steps=400),
        log=LogConfig(every_steps=10),
    )
