"""Methods of clips."""

from __future__ import annotations

from headrace.models.methods.video.videomae import VideoMAEConfig
from headrace.models.parts.backbones import tiny_vit
from headrace.train.config import CheckpointConfig, LogConfig, OptimConfig, RunConfig, ScheduleConfig


def videomae_k400(*, data: str = "", out: str = "") -> RunConfig:
    """ViT-B, batch 2048, 1600 epochs, as the authors pretrain on Kinetics-400.

    AdamW with learning rate 1.5e-4 x batch / 256, betas 0.9 and 0.95, weight decay 0.05, 40 epochs of warm-up, and a
    cosine down to 1e-5 x batch / 256 (paper, table 8; MCG-NJU/VideoMAE at 14ef8d8, scripts/kinetics and
    run_mae_pretraining.py). The authors fine-tune such an encoder to 81.5 %, which Headrace has not tried.
    """
    return RunConfig(
        method="videomae",
        model=VideoMAEConfig(),
        data=data,
        out=out,
        epochs=1600,
        batch_size=2048,
        optim=OptimConfig(lr=1.5e-4, scale_lr=True, weight_decay=0.05, betas=(0.9, 0.95)),
        schedule=ScheduleConfig(warmup_epochs=40, final=1e-5 / 1.5e-4),
    )


def videomae_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ViT on 64 cubes of 2 x 8 x 8, 8 frames in a row of 32 pixels, of which 16 are seen, and a decoder of two
    blocks. Pixels are compared as they are: normalised cubes of such small frames are mostly the texture of grounds,
    and features that filled them in told less of what moves."""
    model = VideoMAEConfig(
        size=32,
        frames=8,
        stride=1,
        mask_ratio=0.75,
        normalize_targets=False,
        decoder_dim=64,
        decoder_depth=2,
        decoder_heads=4,
        backbone=tiny_vit(patch=8),
    )
    return RunConfig(
        method="videomae",
        model=model,
        data=data,
        out=out,
        epochs=40,
        batch_size=64,
        optim=OptimConfig(lr=4e-3, weight_decay=0.05, betas=(0.9, 0.95)),
        schedule=ScheduleConfig(warmup_epochs=4),
        checkpoint=CheckpointConfig(every_steps=200),
        log=LogConfig(every_steps=10),
    )
