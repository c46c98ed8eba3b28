"""Methods of clips."""

from __future__ import annotations

from typing import Any

from headrace.models.methods.video.videomae import VideoMAEConfig
from headrace.models.methods.video.videomae_v2 import VideoMAEV2Config
from headrace.models.methods.video.vjepa import VJEPAConfig
from headrace.models.methods.video.vjepa2 import VJEPA2Config
from headrace.models.parts.backbones import BackboneConfig, tiny_vit
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
    return _small("videomae", VideoMAEConfig(**_TINY_MAE), OptimConfig(**_MAE), data, out)


def videomae_v2_small(*, data: str = "", out: str = "") -> RunConfig:
    """As `videomae_small`; half of what is hidden is filled in."""
    return _small("videomae_v2", VideoMAEV2Config(**_TINY_MAE), OptimConfig(**_MAE), data, out)


def videomae_v2_hybrid(*, data: str = "", out: str = "") -> RunConfig:
    """ViT-g/14, 1200 epochs of UnlabeledHybrid, 8192 clips a step.

    The authors' epochs are of videos, of each of which they take four crops: 300 of them, 30 of warm-up, with 2048
    videos a step, are as many steps. AdamW with learning rate 6e-4 x 2048 / 256, betas 0.9 and 0.95, weight decay 0.05,
    a cosine down to 1e-5 x 2048 / 256, gradients clipped to a norm of 0.02 (OpenGVLab/VideoMAEv2 at 29eab1e,
    scripts/pretrain/vit_g_hybrid_pt.sh, run_mae_pretraining.py). Fine-tuned on labels of K710 and of Kinetics-400 such
    an encoder reaches 88.4 % in their docs/MODEL_ZOO.md, which Headrace has not tried.
    """
    model = VideoMAEV2Config(
        decoder_dim=512,
        decoder_heads=8,
        backbone=BackboneConfig(name="vit_giant_patch14_224"),
    )
    return RunConfig(
        method="videomae_v2",
        model=model,
        data=data,
        out=out,
        epochs=1200,
        batch_size=8192,
        optim=OptimConfig(lr=6e-4 / 4, scale_lr=True, weight_decay=0.05, betas=(0.9, 0.95), clip=0.02),
        schedule=ScheduleConfig(warmup_epochs=120, final=1e-5 / 6e-4),
    )


def vjepa_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ViT on 64 cubes of 2 x 8 x 8, 8 frames in a row of 32 pixels, and a predictor of two blocks.

    Contexts are cut seldom, and the slow copy follows faster than the authors', as a short run asks.
    """
    model = VJEPAConfig(**_TINY_JEPA, momentum=0.99, final_momentum=1.0)
    return _small("vjepa", model, OptimConfig(lr=2e-3, weight_decay=0.05), data, out)


def vjepa2_small(*, data: str = "", out: str = "") -> RunConfig:
    """As `vjepa_small`, with a learning rate that stays behind the warm-up, and a slow copy that follows as fast all
    the while."""
    model = VJEPA2Config(**_TINY_JEPA, momentum=0.99, final_momentum=0.99)
    return _small("vjepa2", model, OptimConfig(lr=1e-3, weight_decay=0.05), data, out, final=1.0)


def vjepa_videomix2m(*, data: str = "", out: str = "") -> RunConfig:
    """ViT-L, 138 epochs of the two million videos of VideoMix2M, 3072 clips a step: the authors' 90,000 steps.

    AdamW with learning rate 6.25e-4 and 12,000 steps of warm-up (theirs begins at 2e-4); a cosine, and weight decay
    from 0.04 upwards on another. Theirs are of 1.25 times the run's length and are cut off, where the learning rate has
    0.12 of its peak and the decay is 0.366; these end there. Gradients are clipped to a norm of 10, the encoder's and
    the predictor's together, from the first step, where theirs are apart and behind the warm-up (facebookresearch/jepa
    at 51c59d5, configs/pretrain/vitl16.yaml). The authors reach 80.8 % on Kinetics-400 by an attentive probe.
    """
    return RunConfig(
        method="vjepa",
        model=VJEPAConfig(),
        data=data,
        out=out,
        epochs=138,
        batch_size=3072,
        optim=OptimConfig(lr=6.25e-4, weight_decay=0.04, clip=10.0),
        schedule=ScheduleConfig(warmup_epochs=138 * 40 / 300, final=0.12, final_weight_decay=0.366),
    )


def vjepa2_videomix22m(*, data: str = "", out: str = "") -> RunConfig:
    """ViT-g, 34 epochs of the 22 million samples of VideoMix22M, 3072 clips a step: the authors' 240,000 steps.

    AdamW with learning rate 5.25e-4 behind 12,000 steps of warm-up (theirs begins at 1e-4), weight decay 0.04, both
    constant (facebookresearch/vjepa2 at c2963a4, configs/train/vitg16/pretrain-256px-16f.yaml). Theirs go on with
    longer clips.
    """
    options = {"patch_size": 16, "num_heads": 22}
    return RunConfig(
        method="vjepa2",
        model=VJEPA2Config(backbone=BackboneConfig(name="vit_giant_patch14_224", options=options)),
        data=data,
        out=out,
        epochs=34,
        batch_size=3072,
        optim=OptimConfig(lr=5.25e-4, weight_decay=0.04),
        schedule=ScheduleConfig(warmup_epochs=34 * 40 / 800, final=1.0),
    )


_TINY_CLIP: dict[str, Any] = {"size": 32, "frames": 8, "stride": 1, "backbone": tiny_vit(patch=8)}
_TINY_MAE: dict[str, Any] = {
    **_TINY_CLIP,
    "mask_ratio": 0.75,
    "normalize_targets": False,
    "decoder_dim": 64,
    "decoder_depth": 2,
    "decoder_heads": 4,
}
_MAE: dict[str, Any] = {"lr": 4e-3, "weight_decay": 0.05, "betas": (0.9, 0.95)}
_TINY_JEPA: dict[str, Any] = {
    **_TINY_CLIP,
    "flip": 0.0,
    "longest_context": (0.5, 0.25),
    "predictor_dim": 48,
    "predictor_depth": 2,
    "predictor_heads": 4,
}


def _small(method: str, model: Any, optim: OptimConfig, data: str, out: str, *, final: float = 0.0) -> RunConfig:
    """40 epochs, four of them of warm-up."""
    return RunConfig(
        method=method,
        model=model,
        data=data,
        out=out,
        epochs=40,
        batch_size=64,
        optim=optim,
        schedule=ScheduleConfig(warmup_epochs=4, final=final),
        checkpoint=CheckpointConfig(every_steps=200),
        log=LogConfig(every_steps=10),
    )
