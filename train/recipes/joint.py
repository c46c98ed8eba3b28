"""Methods whose views agree, on small pictures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from headrace.models.methods.joint.barlow_twins import BarlowTwinsConfig
from headrace.models.methods.joint.byol import BYOLConfig
from headrace.models.methods.joint.deepcluster import DeepClusterConfig
from headrace.models.methods.joint.deepcluster_v2 import DeepClusterV2Config
from headrace.models.methods.joint.densecl import DenseCLConfig
from headrace.models.methods.joint.dino import DINOConfig
from headrace.models.methods.joint.dinov2 import DINOv2Config
from headrace.models.methods.joint.dinov2_gram import DINOv2GramConfig
from headrace.models.methods.joint.ibot import IBOTConfig
from headrace.models.methods.joint.instance_discrimination import InstanceDiscriminationConfig
from headrace.models.methods.joint.lejepa import LeJEPAConfig
from headrace.models.methods.joint.moco import MoCoV2Config
from headrace.models.methods.joint.moco_v1 import MoCoV1Config
from headrace.models.methods.joint.moco_v3 import MoCoV3Config
from headrace.models.methods.joint.msn import MSNConfig
from headrace.models.methods.joint.nnclr import NNCLRConfig
from headrace.models.methods.joint.ressl import ReSSLConfig
from headrace.models.methods.joint.simsiam import SimSiamConfig
from headrace.models.methods.joint.swav import SwAVConfig
from headrace.models.methods.joint.tico import TiCoConfig
from headrace.models.methods.joint.vicreg import VICRegConfig
from headrace.models.methods.joint.w_mse import WMSEConfig
from headrace.models.parts.backbones import tiny_resnet, tiny_vit
from headrace.train.config import OptimConfig, RunConfig
from headrace.train.recipes.small import small_run, small_views


def moco_v1_small(*, data: str = "", out: str = "") -> RunConfig:
    """As MoCo v2's small recipe, but for the projector. Its temperature, too: at 0.07 a queue of keys that are all of
    ten classes holds a sample's like as negatives."""
    model = MoCoV1Config(
        **small_views(),
        strength=0.5,
        grayscale=0.0,
        temperature=0.2,
        momentum=0.99,
        queue=1024,
        projection_dim=64,
        batch_norm_splits=4,
        backbone=tiny_resnet(),
    )
    return small_run("moco_v1", model, OptimConfig(lr=3e-3), data=data, out=out)


def moco_v2_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ResNet and a queue of 1,024 keys, a fraction of some thousands of samples.

    The slow encoder follows with 0.99, for a run of a thousand steps is over before 0.999 has moved it. Batch norms see
    32 samples each, in the place of several devices.
    """
    model = MoCoV2Config(
        **small_views(),
        strength=0.5,
        grayscale=0.0,
        temperature=0.2,
        momentum=0.99,
        queue=1024,
        projection_dim=64,
        batch_norm_splits=4,
        backbone=tiny_resnet(),
    )
    return small_run("moco_v2", model, OptimConfig(lr=3e-3), data=data, out=out)


def byol_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ResNet; the slow network begins at 0.97, as the authors have it for their shortest runs, and as a copy:
    from weights of its own, five in a hundred emoji fewer had neighbours of their class. Solarisation, which turns
    strokes into ground, is off. Views are of nearly the whole picture: with smaller ones the features of short trials
    lay in a few directions, and neighbours were worse than those of an untrained network."""
    model = BYOLConfig(
        **small_views(smallest_crop=0.85),
        **_byol_colours(),
        momentum=0.97,
        hidden_dim=256,
        projection_dim=64,
        slow_start="copy",
        backbone=tiny_resnet(),
    )
    return small_run("byol", model, OptimConfig(lr=3e-3, weight_decay=0.3), data=data, out=out)


def barlow_twins_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ResNet and 256 outputs, of which a batch of 128 can tell the correlations. One learning rate for all
    weights, as AdamW needs no other for vectors."""
    model = BarlowTwinsConfig(
        **small_views(),
        **_byol_colours(),
        hidden_dim=256,
        projection_dim=256,
        lambd=0.01,
        vector_lr=1.0,
        backbone=tiny_resnet(),
    )
    return small_run("barlow_twins", model, OptimConfig(lr=3e-3), data=data, out=out)


def swav_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ResNet and 64 prototypes: fewer than a batch has samples, so that no queue is needed. No small views: with
    them the loss stayed near that of equal assignments in short trials."""
    model = SwAVConfig(
        **small_views(),
        local_views=0,
        strength=0.5,
        grayscale=0.0,
        hidden_dim=256,
        projection_dim=64,
        prototypes=64,
        temperature=0.2,
        backbone=tiny_resnet(),
    )
    return small_run("swav", model, OptimConfig(lr=3e-3), data=data, out=out)


def deepcluster_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ResNet and 100 clusters, ten for each of ten classes, found anew before each epoch in 32 components. With
    50 clusters of pixels it learnt nothing from coloured pictures. Small batches make more steps between two
    clusterings, each of which begins with a new classifier."""
    model = DeepClusterConfig(**small_views(smallest_crop=0.3), clusters=100, pca_dim=32, backbone=tiny_resnet())
    return small_run("deepcluster", model, OptimConfig(lr=3e-3), data=data, out=out, batch_size=64)


def deepcluster_v2_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ResNet and twice 64 clusters, a few for each of ten classes. No small views, as in SwAV's small recipe."""
    model = DeepClusterV2Config(
        **small_views(),
        local_views=0,
        strength=0.5,
        grayscale=0.0,
        hidden_dim=256,
        projection_dim=64,
        clusters=(64, 64),
        temperature=0.2,
        backbone=tiny_resnet(),
    )
    return small_run("deepcluster_v2", model, OptimConfig(lr=3e-3), data=data, out=out)


def dino_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ResNet, which needs less data than a ViT, and 256 prototypes. The teacher begins at 0.99: with 0.95 the
    neighbours of features stayed worse than those of pixels. No small views, and large ones of nearly the whole
    picture: with smaller ones the features of short trials lay in a few directions."""
    model = DINOConfig(
        **small_views(smallest_crop=0.85),
        **_byol_colours(),
        local_views=0,
        prototypes=256,
        hidden_dim=256,
        bottleneck_dim=64,
        momentum=0.99,
        backbone=tiny_resnet(),
    )
    return small_run("dino", model, OptimConfig(lr=3e-3, weight_decay=0.3), data=data, out=out)


def dinov2_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ViT on 36 patches of 4 x 4 pixels and 256 prototypes, as iBOT's small recipe; LayerScale begins at 1, for
    branches that begin at nothing are slow to grow, and samples of small batches are kept apart less than the
    authors'."""
    model = DINOv2Config(**_dinov2_fields(), momentum=0.99, warmup_teacher_epochs=0)
    return small_run("dinov2", model, _of_small_vits(), data=data, out=out, batch_size=64)


def dinov2_gram_small(*, data: str = "", out: str = "") -> RunConfig:
    """DINOv2's small recipe, whose patches are kept as alike as those of an anchor, which is renewed every 400 steps.
    The anchor's views have twice the side."""
    model = DINOv2GramConfig(
        **_dinov2_fields(),
        momentum=0.99,
        assignment="center",
        frozen_epochs=1,
        anchor_size=48,
        anchor_every=400,
        gram_weight=0.5,
    )
    return small_run("dinov2_gram", model, _of_small_vits(), data=data, out=out, batch_size=64)


def ibot_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ViT on 36 patches of 4 x 4 pixels and 256 prototypes, without small views, as DINO's small recipe. Small
    batches make more steps of as many samples, which a ViT needs. The head has batch norms: without them the
    loss stayed near that of equal shares in short trials, and features were worse than an untrained network's."""
    model = IBOTConfig(
        **small_views(smallest_crop=0.85),
        **_byol_colours(),
        local_views=0,
        prototypes=256,
        hidden_dim=128,
        bottleneck_dim=64,
        head_batch_norm=True,
        momentum=0.99,
        warmup_teacher_epochs=0,
        backbone=tiny_vit(width=64, depth=3),
    )
    return small_run("ibot", model, _of_small_vits(), data=data, out=out, batch_size=64)


def moco_v3_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ResNet with the temperature of ViTs: a batch of 128 is told apart at 1.0 only by what is far apart."""
    model = MoCoV3Config(
        **small_views(),
        **_byol_colours(),
        temperature=0.2,
        momentum=0.97,
        hidden_dim=256,
        projection_dim=64,
        backbone=tiny_resnet(),
    )
    return small_run("moco_v3", model, OptimConfig(lr=3e-3), data=data, out=out)


def simsiam_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ResNet; views are of nearly the whole picture, as BYOL's."""
    model = SimSiamConfig(
        **small_views(smallest_crop=0.85),
        strength=0.5,
        grayscale=0.0,
        hidden_dim=256,
        projection_dim=256,
        predictor_dim=64,
        backbone=tiny_resnet(),
    )
    return small_run("simsiam", model, OptimConfig(lr=3e-3), data=data, out=out)


def nnclr_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ResNet and a queue of 1,024 projections, a quarter of some thousands of samples."""
    model = NNCLRConfig(
        **small_views(),
        **_byol_colours(),
        temperature=0.2,
        queue=1024,
        hidden_dim=256,
        predictor_dim=256,
        projection_dim=64,
        backbone=tiny_resnet(),
    )
    return small_run("nnclr", model, OptimConfig(lr=3e-3), data=data, out=out)


def densecl_small(*, data: str = "", out: str = "") -> RunConfig:
    """As MoCo v2's small recipe. The map has two by two places, each a quarter of a digit."""
    model = DenseCLConfig(
        **small_views(),
        strength=0.5,
        grayscale=0.0,
        momentum=0.99,
        queue=1024,
        hidden_dim=256,
        projection_dim=64,
        batch_norm_splits=4,
        backbone=tiny_resnet(),
    )
    return small_run("densecl", model, OptimConfig(lr=3e-3), data=data, out=out)


def ressl_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ResNet and a queue of 1,024 keys; the slow network follows with 0.99, and batch norms see 32 samples each,
    as in MoCo's small recipe."""
    model = ReSSLConfig(
        **small_views(),
        strength=0.5,
        grayscale=0.0,
        momentum=0.99,
        queue=1024,
        hidden_dim=256,
        projection_dim=64,
        batch_norm_splits=4,
        backbone=tiny_resnet(),
    )
    return small_run("ressl", model, OptimConfig(lr=3e-3), data=data, out=out)


def vicreg_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ResNet and 256 outputs, of which a batch of 128 can tell the covariances."""
    model = VICRegConfig(**small_views(), **_byol_colours(), hidden_dim=256, projection_dim=256, backbone=tiny_resnet())
    return small_run("vicreg", model, OptimConfig(lr=3e-3), data=data, out=out)


def w_mse_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ResNet and 16 outputs, whitened over twice as many samples, as the authors do."""
    model = WMSEConfig(
        **small_views(),
        strength=0.25,
        grayscale=0.0,
        blur=0.5,
        group=32,
        hidden_dim=256,
        projection_dim=16,
        backbone=tiny_resnet(),
    )
    return small_run("w_mse", model, OptimConfig(lr=3e-3), data=data, out=out)


def tico_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ResNet; the slow network begins at 0.97, for a run of a thousand steps."""
    model = TiCoConfig(
        **small_views(), **_byol_colours(), momentum=0.97, hidden_dim=256, projection_dim=64, backbone=tiny_resnet()
    )
    return small_run("tico", model, OptimConfig(lr=3e-3), data=data, out=out)


def lejepa_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ResNet on two large views, with 16 outputs and the weight of the authors' minimal example."""
    model = LeJEPAConfig(
        **small_views(),
        **_byol_colours(),
        local_views=0,
        lambd=0.02,
        directions=256,
        hidden_dim=256,
        projection_dim=16,
        backbone=tiny_resnet(),
    )
    return small_run("lejepa", model, OptimConfig(lr=3e-3), data=data, out=out)


def msn_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ViT on 36 patches of 4 x 4 pixels, of which 30 are seen, one small anchor of 16 patches, and 128
    prototypes; small batches make more steps of as many samples, and the slow network follows with 0.99."""
    model = MSNConfig(
        **small_views(),
        strength=0.25,
        grayscale=0.0,
        focal_views=1,
        focal_size=16,
        focal_scale=(0.3, 0.6),
        prototypes=128,
        hidden_dim=256,
        projection_dim=64,
        momentum=0.99,
        backbone=tiny_vit(width=64, depth=3),
    )
    return small_run("msn", model, OptimConfig(lr=1e-3, weight_decay=0.05), data=data, out=out, batch_size=64)


def instance_discrimination_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ResNet and the exact softmax over some thousands of samples, at the temperature that the authors have for
    small pictures."""
    model = InstanceDiscriminationConfig(
        **small_views(),
        strength=0.5,
        grayscale=0.0,
        temperature=0.1,
        noise=0,
        projection_dim=64,
        backbone=tiny_resnet(),
    )
    return small_run("instance_discrimination", model, OptimConfig(lr=3e-3), data=data, out=out)


def _byol_colours() -> dict[str, Any]:
    """Fields of BYOLViews."""
    return {"strength": 0.5, "grayscale": 0.0, "blur": (0.5, 0.5), "solarize": (0.0, 0.0)}


def _dinov2_fields() -> dict[str, Any]:
    """Fields of DINOv2's config."""
    vit = tiny_vit(width=64, depth=3)
    return {
        **small_views(smallest_crop=0.85),
        **_byol_colours(),
        "local_views": 0,
        "prototypes": 256,
        "hidden_dim": 128,
        "bottleneck_dim": 64,
        "head_batch_norm": True,
        "koleo_weight": 0.02,
        "drop_path": 0.0,
        "patch_embed_lr": 1.0,
        "backbone": replace(vit, options={**vit.options, "init_values": 1.0}),
    }


def _of_small_vits() -> OptimConfig:
    return OptimConfig(lr=2e-3, weight_decay=0.05, clip=3.0)
