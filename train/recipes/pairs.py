"""Methods of images with texts, on small pictures with a caption each."""

from __future__ import annotations

from headrace.models.methods.pairs.clip import CLIPConfig
from headrace.models.parts.backbones import tiny_resnet
from headrace.train.config import OptimConfig, RunConfig
from headrace.train.recipes.small import small_run


def clip_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ResNet on views of 32 pixels and four blocks of width 128 on 24 tokens, with 128 numbers in common; needs
    `--model.tokenizer`, as `headrace tokenizer --vocab 4096` makes one.

    Crops take 0.7 of the picture at least, which some thousands of pictures need more than the authors' millions.
    """
    model = CLIPConfig(
        length=24, size=32, crop_scale=(0.7, 1.0), embed_dim=128, text_width=128, text_depth=4, text_heads=2,
        backbone=tiny_resnet(width=32),
    )  # fmt: skip
    optim = OptimConfig(lr=1e-3, betas=(0.9, 0.98), weight_decay=0.1)
    return small_run("clip", model, optim, data=data, out=out, batch_size=256)
