"""Methods that predict what is hidden, on small pictures."""

from __future__ import annotations

from headrace.models.methods.masked.mae import MAEConfig
from headrace.models.parts.backbones import tiny_vit
from headrace.train.config import OptimConfig, RunConfig
from headrace.train.recipes.small import small_run, small_views


def mae_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ViT on 36 patches of 4 x 4 pixels, of which 9 are seen, and a decoder of one block.

    Pixels are compared as they are: within a patch of a plain ground there is nothing to normalise by.
    """
    model = MAEConfig(
        **small_views(),
        normalize_targets=False,
        decoder_dim=64,
        decoder_depth=1,
        decoder_heads=4,
        backbone=tiny_vit(),
    )
    optim = OptimConfig(lr=2e-3, weight_decay=0.05, betas=(0.9, 0.95))
    return small_run("mae", model, optim, data=data, out=out)
