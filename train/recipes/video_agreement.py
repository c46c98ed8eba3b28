"""Methods that learn what stays the same in a video, or changes slowly."""

from __future__ import annotations

from typing import Any, TypedDict

from headrace.models.methods.video.cvrl import CVRLConfig
from headrace.models.methods.video.rho_byol import RhoBYOLConfig
from headrace.models.methods.video.rho_moco import RhoMoCoConfig
from headrace.models.methods.video.rho_simclr import RhoSimCLRConfig
from headrace.models.methods.video.rho_swav import RhoSwAVConfig
from headrace.models.methods.video.time_contrastive import TimeContrastiveConfig
from headrace.models.parts.backbones import tiny_resnet
from headrace.models.parts.clip_backbones import ClipBackboneConfig, tiny_clip_resnet
from headrace.train.config import OptimConfig, RunConfig, ScheduleConfig
from headrace.train.recipes.small import small_run
from headrace.train.recipes.video_order import small_frames


class SmallClips(TypedDict):
    """Fields that the configs of several methods have in common."""

    frames: int
    stride: int
    strength: float
    grayscale: float
    hidden_dim: int
    projection_dim: int
    backbone: ClipBackboneConfig


def small_clips() -> SmallClips:
    """Four frames in a row, whose colours change half as much as the authors', and a tiny R3D."""
    return {
        "frames": 4,
        "stride": 1,
        "strength": 0.5,
        "grayscale": 0.0,
        "hidden_dim": 256,
        "projection_dim": 64,
        "backbone": tiny_clip_resnet(),
    }


def time_contrastive_pouring(*, data: str = "", out: str = "") -> RunConfig:
    """36 frames of each of two videos a batch, where the authors have one, for the 1,000,000 steps of their file.
    Headrace has not run it.

    AdamW with a constant learning rate of 1e-3 and weight decay 1e-6 (tensorflow/models, research/tcn/configs/
    tcn_default.yml, whose Adam has the decay in its gradient). Epochs are of 100 videos.
    """
    return RunConfig(
        method="time_contrastive",
        model=TimeContrastiveConfig(),
        data=data,
        out=out,
        epochs=20_000,
        batch_size=2,
        optim=OptimConfig(lr=1e-3, weight_decay=1e-6),
        schedule=ScheduleConfig(warmup_epochs=0, final=1.0),
    )


def time_contrastive_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ResNet on the ten frames of a short video: neighbours are positives, frames more than four apart
    negatives."""
    model = TimeContrastiveConfig(
        **small_frames(),
        frames=10,
        positive_radius=1,
        negative_radius=4,
        hidden_dim=128,
        backbone=tiny_resnet(),
    )
    return small_run("time_contrastive", model, OptimConfig(lr=3e-3), data=data, out=out, batch_size=64)


def cvrl_k600(*, data: str = "", out: str = "") -> RunConfig:
    """Batch 1024, 200 epochs: 63.8 % on Kinetics-400 by a linear classifier of an R3D-50, in the authors' README.
    Headrace has not run it.

    SGD with learning rate 0.32 for the batch, weight decay 1e-6, 5 epochs of warm-up and a cosine (tensorflow/models at
    0225b13, official/projects/video_ssl, configs/experiments/cvrl_pretrain_k600_200ep.yaml).
    """
    return RunConfig(
        method="cvrl",
        model=CVRLConfig(),
        data=data,
        out=out,
        epochs=200,
        batch_size=1024,
        optim=OptimConfig(name="sgd", lr=0.32, weight_decay=1e-6),
        schedule=ScheduleConfig(warmup_epochs=5),
        sync_batch_norm=True,
    )


def cvrl_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny R3D; no blur and no solarisation, which turns strokes into ground."""
    model = CVRLConfig(**small_frames(), **small_clips(), blur=(0.0, 0.0), solarize=(0.0, 0.0))
    return small_run("cvrl", model, OptimConfig(lr=3e-3), data=data, out=out)


def _kinetics(method: str, model: Any, optim: OptimConfig, data: str, out: str) -> RunConfig:
    """Batch 64 a machine; 200 epochs, 35 of them of warm-up from nearly nothing, and a cosine."""
    return RunConfig(
        method=method,
        model=model,
        data=data,
        out=out,
        epochs=200,
        batch_size=64,
        optim=optim,
        schedule=ScheduleConfig(warmup_epochs=35),
        sync_batch_norm=method != "rho_moco",
    )


def rho_simclr_k400(*, data: str = "", out: str = "") -> RunConfig:
    """Four clips, batch 64, 200 epochs. With two of them 61.5 % on Kinetics-400 by a linear classifier of a Slow-only
    R50, by the paper. Headrace has not run it.

    LARS with learning rate 1.2 for a machine's 64 videos, weight decay 1e-6 (facebookresearch/SlowFast at 287ec00,
    configs/contrastive_ssl/SimCLR_SlowR50_8x8.yaml).
    """
    optim = OptimConfig(name="lars", lr=1.2, weight_decay=1e-6, lr_in_momentum=False)
    return _kinetics("rho_simclr", RhoSimCLRConfig(), optim, data, out)


def rho_simclr_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny R3D and two clips."""
    model = RhoSimCLRConfig(**small_frames(), **small_clips(), clips=2, blur=0.0)
    return small_run("rho_simclr", model, OptimConfig(lr=3e-3), data=data, out=out)


def rho_moco_k400(*, data: str = "", out: str = "") -> RunConfig:
    """Four clips, batch 64, 200 epochs: 71.0 % on Kinetics-400 by a linear classifier of a Slow-only R50, by the paper.
    Headrace has not run it.

    SGD with learning rate 0.1 for a machine's 64 videos (facebookresearch/SlowFast at 287ec00,
    configs/contrastive_ssl/MoCo_SlowR50_8x8.yaml); weight decay 1e-4 is the default of SlowFast.
    """
    optim = OptimConfig(name="sgd", lr=0.1, weight_decay=1e-4)
    return _kinetics("rho_moco", RhoMoCoConfig(), optim, data, out)


def rho_moco_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny R3D, two clips, and a queue of 1,024 keys; the slow network begins at 0.99."""
    model = RhoMoCoConfig(
        **small_frames(), **small_clips(), clips=2, blur=0.0, temperature=0.2, momentum=0.99, queue=1024
    )
    return small_run("rho_moco", model, OptimConfig(lr=3e-3), data=data, out=out)


def rho_byol_k400(*, data: str = "", out: str = "") -> RunConfig:
    """Two clips, batch 64, 200 epochs: 67.4 % on Kinetics-400 by a linear classifier of a Slow-only R50, by the paper.
    Headrace has not run it.

    LARS with learning rate 0.6 for a machine's 64 videos, weight decay 1e-6 (facebookresearch/SlowFast at 287ec00,
    configs/contrastive_ssl/BYOL_SlowR50_8x8.yaml).
    """
    optim = OptimConfig(name="lars", lr=0.6, weight_decay=1e-6, lr_in_momentum=False)
    return _kinetics("rho_byol", RhoBYOLConfig(), optim, data, out)


def rho_byol_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny R3D and two clips; the slow network begins at 0.97, as BYOL's small recipe has it."""
    model = RhoBYOLConfig(**small_frames(), **small_clips(), blur=0.0, momentum=0.97)
    return small_run("rho_byol", model, OptimConfig(lr=3e-3, weight_decay=0.3), data=data, out=out)


def rho_swav_k400(*, data: str = "", out: str = "") -> RunConfig:
    """Two clips, batch 64, 200 epochs: 62.6 % on Kinetics-400 by a linear classifier of a Slow-only R50, by the paper.
    Headrace has not run it. Its file of settings is not published: rates are those of rho-SimCLR for two clips."""
    optim = OptimConfig(name="lars", lr=0.6, weight_decay=1e-6, lr_in_momentum=False)
    return _kinetics("rho_swav", RhoSwAVConfig(), optim, data, out)


def rho_swav_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny R3D, two clips, and 64 prototypes, fewer than a batch has samples."""
    model = RhoSwAVConfig(**small_frames(), **small_clips(), blur=0.0, prototypes=64, temperature=0.2)
    return small_run("rho_swav", model, OptimConfig(lr=3e-3), data=data, out=out)
