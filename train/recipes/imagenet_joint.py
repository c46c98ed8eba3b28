"""More methods whose views agree, on ImageNet: see `headrace.train.recipes.imagenet`."""

from __future__ import annotations

from headrace.models.methods.joint.deepcluster import DeepClusterConfig
from headrace.models.methods.joint.deepcluster_v2 import DeepClusterV2Config
from headrace.models.methods.joint.moco_v3 import MoCoV3Config, vit_small
from headrace.models.methods.joint.msn import MSNConfig
from headrace.models.methods.joint.swav import SwAVConfig
from headrace.train.config import OptimConfig, PlayerConfig, RunConfig, ScheduleConfig


def swav_imagenet(*, data: str = "", out: str = "") -> RunConfig:
    """ResNet-50, batch 4096, 800 epochs: 75.3 % by a linear classifier in the authors' README.

    LARS of all weights with learning rate 4.8 and weight decay 1e-6, 10 epochs of warm-up, a cosine down to a
    thousandth (facebookresearch/swav at 06b1b7c, scripts/swav_800ep_pretrain.sh, 64 GPUs). Their warm-up begins at 0.3,
    and their batch norms take their statistics over eight GPUs.
    """
    return RunConfig(
        method="swav",
        model=SwAVConfig(),
        data=data,
        out=out,
        epochs=800,
        batch_size=4096,
        sync_batch_norm=True,
        optim=OptimConfig(name="lars", lr=4.8, weight_decay=1e-6, lr_in_momentum=False),
        schedule=ScheduleConfig(warmup_epochs=10, final=0.001),
    )


def deepcluster_imagenet(*, data: str = "", out: str = "") -> RunConfig:
    """VGG-16, batch 256, 500 epochs; the authors judge by transfer, and their README has no accuracy on ImageNet.

    SGD with a constant learning rate of 0.05, weight decay 1e-5 on everything (facebookresearch/deepcluster at 2d1927e,
    main.py and main.sh, one GPU; its 200 epochs by default are not those of the published networks).
    """
    return RunConfig(
        method="deepcluster",
        model=DeepClusterConfig(),
        data=data,
        out=out,
        epochs=500,
        batch_size=256,
        optim=OptimConfig(name="sgd", lr=0.05, weight_decay=1e-5),
        schedule=ScheduleConfig(warmup_epochs=0, final=1.0),
    )


def deepcluster_v2_imagenet(*, data: str = "", out: str = "") -> RunConfig:
    """ResNet-50, batch 4096, 800 epochs: 75.2 % by a linear classifier in the authors' README.

    LARS of all weights with learning rate 4.8 and weight decay 1e-6, 10 epochs of warm-up, a cosine down to a
    thousandth (facebookresearch/swav at 06b1b7c, scripts/deepclusterv2_800ep_pretrain.sh, 64 GPUs). Their warm-up
    begins at 0.3, and their batch norms take their statistics over eight GPUs.
    """
    return RunConfig(
        method="deepcluster_v2",
        model=DeepClusterV2Config(),
        data=data,
        out=out,
        epochs=800,
        batch_size=4096,
        sync_batch_norm=True,
        optim=OptimConfig(name="lars", lr=4.8, weight_decay=1e-6, lr_in_momentum=False),
        schedule=ScheduleConfig(warmup_epochs=10, final=0.001),
    )


def moco_v3_vit_imagenet(*, data: str = "", out: str = "") -> RunConfig:
    """ViT-S/16, batch 4096, 300 epochs: 73.2 % by a linear classifier in the authors' README, 76.7 % of ViT-B/16.

    AdamW with learning rate 1.5e-4 x batch / 256, weight decay 0.1 on everything, 40 epochs of warm-up
    (facebookresearch/moco-v3 at c349e6e, CONFIG.md, in float16).
    """
    return RunConfig(
        method="moco_v3",
        model=MoCoV3Config(
            crop_scale=(0.08, 1.0),
            temperature=0.2,
            projector_layers=3,
            predictor_norm=True,
            frozen_patches=True,
            backbone=vit_small(),
        ),
        data=data,
        out=out,
        epochs=300,
        batch_size=4096,
        sync_batch_norm=True,
        optim=OptimConfig(lr=1.5e-4, scale_lr=True, weight_decay=0.1),
        schedule=ScheduleConfig(warmup_epochs=40),
    )


def msn_imagenet(*, data: str = "", out: str = "") -> RunConfig:
    """ViT-S/16, batch 1024, 800 epochs; the repository gives no number for it.

    AdamW with learning rate 1e-3, 15 epochs of warm-up, weight decay from 0.04 to 0.4, the network's gradient clipped
    to a norm of 3 and that of the prototypes not at all (facebookresearch/msn at 4388dc1, configs/pretrain/
    msn_vits16.yaml, sixteen GPUs). Their cosines are of 1.25 runs and cut: these end where theirs do, at 9.9e-5 and
    0.366, on half a cosine. Their warm-up begins at 2e-4.
    """
    return RunConfig(
        method="msn",
        model=MSNConfig(),
        data=data,
        out=out,
        epochs=800,
        batch_size=1024,
        sync_batch_norm=True,
        optim=OptimConfig(
            lr=1e-3, weight_decay=0.04, clip=3.0, players={"prototypes": PlayerConfig(lr=1e-3, weight_decay=0.0)}
        ),
        schedule=ScheduleConfig(warmup_epochs=15, final=0.099, final_weight_decay=0.366),
    )
