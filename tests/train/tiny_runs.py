"""A run so small that a test can afford dozens: SimCLR with 8-pixel views on 200 real digits, 4 steps an epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from headrace.models import BackboneConfig
from headrace.models.methods.joint.simclr import SimCLRConfig
from headrace.train import CheckpointConfig, LogConfig, OptimConfig, RunConfig, ScheduleConfig
from headrace.train.checkpoint import checkpoint_paths, read_checkpoint


def tiny_run(data: str | Path, out: str | Path, *overrides: str) -> RunConfig:
    """12 steps; a line a step, a checkpoint every 3 steps."""
    backbone = BackboneConfig(
        name="resnet18",
        stem="small",
        stem_stride=2,
        options={
            "layers": [1, 1, 1, 1],
            "channels": [8, 8, 8, 8],
            "stem_type": "deep",
            "stem_width": 2,
            "drop_rate": 0.1,
        },
    )
    return RunConfig(
        model=SimCLRConfig(size=8, flip=0.0, blur=0.0, projection_hidden=8, projection_dim=8, backbone=backbone),
        data=str(data),
        out=str(out),
        epochs=3,
        batch_size=50,
        device="cpu",
        precision="float32",
        optim=OptimConfig(lr=1e-2),
        schedule=ScheduleConfig(warmup_epochs=1),
        checkpoint=CheckpointConfig(every_steps=3),
        log=LogConfig(every_steps=1, tensorboard=False),
    ).with_overrides(overrides)


def final_state(out: str | Path) -> dict[str, Any]:
    """The newest checkpoint of a run."""
    return read_checkpoint(checkpoint_paths(Path(out) / "checkpoints")[0])


def same_bits(a: Any, b: Any) -> bool:
    """Whether two nests of dicts, lists and tensors hold equal bits."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same_bits(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same_bits, a, b))
    return bool(a == b)
