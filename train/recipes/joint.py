"""Methods whose views agree, on small pictures."""

from __future__ import annotations

from typing import Any

from headrace.models.methods.joint.barlow_twins import BarlowTwinsConfig
from headrace.models.methods.joint.byol import BYOLConfig
from headrace.models.methods.joint.deepcluster import DeepClusterConfig
from headrace.models.methods.joint.dino import DINOConfig
from headrace.models.methods.joint.instance_discrimination import InstanceDiscriminationConfig
from headrace.models.methods.joint.lejepa import LeJEPAConfig
from headrace.models.methods.joint.moco import MoCoV2Config
from headrace.models.methods.joint.moco_v3 import MoCoV3Config
from headrace.models.methods.joint.nnclr import NNCLRConfig
from headrace.models.methods.joint.ressl import ReSSLConfig
from headrace.models.methods.joint.simsiam import SimSiamConfig
from headrace.models.methods.joint.swav import SwAVConfig
from headrace.models.methods.joint.tico import TiCoConfig
from headrace.models.methods.joint.vicreg import VICRegConfig
from headrace.models.parts.backbones import tiny_resnet
from headrace.train.config import OptimConfig, RunConfig
from headrace.train.recipes.small import small_run, small_views


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
    """A tiny ResNet; the slow network begins at 0.97, as the authors have it for their shortest runs. Solarisation,
    which turns strokes into ground, is off. Views are of nearly the whole picture: with smaller ones the features of
    short trials lay in a few directions, and neighbours were worse than those of an untrained network."""
    model = BYOLConfig(
        **small_views(smallest_crop=0.85),
        **_byol_colours(),
        momentum=0.97,
        hidden_dim=256,
        projection_dim=64,
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
    """A tiny ResNet and 50 clusters, a few for each of ten classes, found anew before each epoch in 32 components. It
    sees pixels instead of edges: strokes are edges already."""
    model = DeepClusterConfig(**small_views(), sobel=False, clusters=50, pca_dim=32, backbone=tiny_resnet())
    return small_run("deepcluster", model, OptimConfig(lr=3e-3), data=data, out=out)


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
