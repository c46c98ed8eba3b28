"""Methods that predict what is hidden, on small pictures."""

from __future__ import annotations

from headrace.models.methods.masked.aim import AIMConfig
from headrace.models.methods.masked.beit import BEiTConfig
from headrace.models.methods.masked.capi import CAPIConfig
from headrace.models.methods.masked.data2vec import Data2VecConfig
from headrace.models.methods.masked.data2vec2 import Data2Vec2Config
from headrace.models.methods.masked.ijepa import IJEPAConfig
from headrace.models.methods.masked.mae import MAEConfig
from headrace.models.methods.masked.maskfeat import MaskFeatConfig
from headrace.models.methods.masked.simmim import SimMIMConfig
from headrace.models.parts.backbones import tiny_vit
from headrace.models.parts.beit import tiny_beit
from headrace.train.config import OptimConfig, PlayerConfig, RunConfig
from headrace.train.recipes.small import small_run, small_views


def mae_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ViT on 36 patches of 4 x 4 pixels, of which 14 are seen, and a decoder of one block.

    Pixels are compared as they are: within a patch of a plain ground there is nothing to normalise by. Small
    batches make more steps of as many samples, which a ViT needs before it fills in more than a mean picture.
    Probes see the mean of the patches: the class token, on which no loss acts, holds less of the picture after so
    few.
    """
    model = MAEConfig(
        **small_views(),
        normalize_targets=False,
        mask_ratio=0.6,
        decoder_dim=48,
        decoder_depth=1,
        decoder_heads=4,
        backbone=tiny_vit(width=64, depth=3, pool="avg"),
    )
    optim = OptimConfig(lr=4e-3, weight_decay=0.05, betas=(0.9, 0.95))
    return small_run("mae", model, optim, data=data, out=out, batch_size=64)


def ijepa_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ViT on 36 patches of 4 x 4 pixels, and a predictor of two blocks.

    The slow copy follows faster than the authors', as a short run asks.
    """
    model = IJEPAConfig(
        **small_views(),
        smallest_context=6,
        predictor_dim=48,
        predictor_depth=2,
        predictor_heads=4,
        momentum=0.98,
        backbone=tiny_vit(width=64, depth=3, pool="avg"),
    )
    optim = OptimConfig(lr=2e-3, weight_decay=0.05, betas=(0.9, 0.95))
    return small_run("ijepa", model, optim, data=data, out=out, batch_size=64)


def aim_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ViT on 36 patches of 4 x 4 pixels, and a head of two blocks.

    Pixels are compared as they are, as in `mae_small`. Probes see the mean of the last two of three blocks.
    """
    model = AIMConfig(
        **small_views(),
        normalize_targets=False,
        head_dim=64,
        head_depth=2,
        probe_layers=2,
        backbone=tiny_vit(width=64, depth=3, pool="avg"),
    )
    optim = OptimConfig(lr=4e-3, weight_decay=0.05, betas=(0.9, 0.95), clip=1.0)
    return small_run("aim", model, optim, data=data, out=out, batch_size=64)


def data2vec2_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ViT on 36 patches of 4 x 4 pixels, of which 12 are seen in each of four masked versions.

    The slow copy follows faster than the authors', as a short run asks.
    """
    model = Data2Vec2Config(
        **small_views(),
        masks=4,
        mask_ratio=0.66,
        mask_side=2,
        top_layers=2,
        class_weight=0.1,
        decoder_dim=64,
        decoder_depth=2,
        decoder_groups=4,
        momentum=0.99,
        final_momentum=0.9995,
        annealed=0.5,
        backbone=tiny_vit(width=64, depth=3, pool="avg"),
    )
    optim = OptimConfig(lr=2e-3, weight_decay=0.05, betas=(0.9, 0.95), clip=4.0)
    return small_run("data2vec2", model, optim, data=data, out=out, batch_size=64)


def capi_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ViT on 36 patches of 4 x 4 pixels, of which 13 are seen and 6 predicted, and 64 clusters.

    The slow copy follows faster than the authors', as a short run asks. It shows that CAPI runs, and no more: features
    of digits became worse than an untrained network's (benchmarks/learning/unlearnt.py).
    """
    model = CAPIConfig(
        **small_views(),
        predicted=0.3,
        patch=4,
        dim=64,
        depth=3,
        predictor_depth=2,
        heads=2,
        registers=4,
        drop_path=0.0,
        clusters=64,
        momentum=0.98,
    )
    clusters = PlayerConfig(lr=1e-3, weight_decay=0.01, betas=(0.9, 0.95))
    optim = OptimConfig(lr=2e-3, weight_decay=0.1, betas=(0.9, 0.95), players={"clusters": clusters})
    return small_run("capi", model, optim, data=data, out=out, batch_size=64)


def simmim_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ViT with relative positions on 36 patches of 4 x 4 pixels, of which 60 % are hidden, one by one."""
    model = SimMIMConfig(**small_views(), mask_unit=4, backbone=tiny_beit())
    optim = OptimConfig(lr=4e-3, weight_decay=0.05, clip=5.0)
    return small_run("simmim", model, optim, data=data, out=out, batch_size=64)


def maskfeat_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ViT on 36 patches of 4 x 4 pixels, of which 14 are hidden; a patch is one cell. Probes see the mean of the
    patches."""
    model = MaskFeatConfig(**small_views(), cell=4, backbone=tiny_vit(width=64, depth=3, pool="avg"))
    optim = OptimConfig(lr=4e-3, weight_decay=0.05, clip=0.02)
    return small_run("maskfeat", model, optim, data=data, out=out, batch_size=64)


def data2vec_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ViT with relative positions on 36 patches of 4 x 4 pixels, of which 20 are hidden. The slow network
    follows faster than in the authors' runs, which have a hundred times as many steps, and residual branches start
    larger."""
    model = Data2VecConfig(
        **small_views(),
        jitter=0.0,
        masked_patches=20,
        smallest_block=3,
        target_blocks=2,
        momentum=0.99,
        backbone=tiny_beit(),
    )
    optim = OptimConfig(lr=2e-3, weight_decay=0.05, clip=3.0)
    return small_run("data2vec", model, optim, data=data, out=out, batch_size=64)


def beit_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ViT with relative positions on 36 patches of 4 x 4 pixels, of which 14 are hidden, and 256 words of
    oriented gradients, which are not BEiT's. A patch is one cell."""
    model = BEiTConfig(
        **small_views(),
        jitter=0.0,
        masked_patches=14,
        smallest_block=3,
        words=256,
        word_patches=20000,
        cell=4,
        backbone=tiny_beit(),
    )
    optim = OptimConfig(lr=3e-3, weight_decay=0.05, clip=3.0)
    return small_run("beit", model, optim, data=data, out=out, batch_size=64)
