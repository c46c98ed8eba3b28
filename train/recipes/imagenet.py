"""Methods of images on ImageNet: the runs that their authors published, and the numbers that those reached.

Accuracies are the authors', of linear classifiers on frozen features by protocols of their own; Headrace has run none
of these.
"""

from __future__ import annotations

from headrace.models.methods.joint.barlow_twins import BarlowTwinsConfig
from headrace.models.methods.joint.byol import BYOLConfig
from headrace.models.methods.joint.densecl import DenseCLConfig
from headrace.models.methods.joint.dino import DINOConfig
from headrace.models.methods.joint.dinov2 import DINOv2Config
from headrace.models.methods.joint.ibot import IBOTConfig
from headrace.models.methods.joint.instance_discrimination import InstanceDiscriminationConfig
from headrace.models.methods.joint.lejepa import LeJEPAConfig
from headrace.models.methods.joint.moco import MoCoV2Config
from headrace.models.methods.joint.moco_v1 import MoCoV1Config
from headrace.models.methods.joint.moco_v3 import MoCoV3Config
from headrace.models.methods.joint.nnclr import NNCLRConfig
from headrace.models.methods.joint.ressl import ReSSLConfig
from headrace.models.methods.joint.simsiam import SimSiamConfig
from headrace.models.methods.joint.tico import TiCoConfig
from headrace.models.methods.joint.vicreg import VICRegConfig
from headrace.models.methods.joint.w_mse import WMSEConfig
from headrace.models.methods.masked.mae import MAEConfig
from headrace.models.methods.pretext.colorization import ColorizationConfig
from headrace.models.methods.pretext.inpainting import InpaintingConfig
from headrace.models.parts.backbones import BackboneConfig
from headrace.train.config import OptimConfig, PlayerConfig, RunConfig, ScheduleConfig


def moco_v1_imagenet(*, data: str = "", out: str = "") -> RunConfig:
    """ResNet-50, batch 256, 200 epochs: 60.8 % in the authors' README.

    SGD with learning rate 0.03, a tenth of it from epoch 120 and a hundredth from 160 on, weight decay 1e-4 on
    everything, no warm-up (facebookresearch/moco at 4397a04, eight GPUs). Keys change places over ranks: take several,
    or split batch norms.
    """
    return RunConfig(
        method="moco_v1",
        model=MoCoV1Config(),
        data=data,
        out=out,
        epochs=200,
        batch_size=256,
        optim=OptimConfig(name="sgd", lr=0.03, weight_decay=1e-4),
        schedule=ScheduleConfig(warmup_epochs=0, final=1.0, drops={120: 0.1, 160: 0.1}),
    )


def moco_v2_imagenet(*, data: str = "", out: str = "") -> RunConfig:
    """ResNet-50, batch 256, 200 epochs: 67.5 % in the authors' README, 71.1 % after 800.

    SGD with learning rate 0.03, weight decay 1e-4 on everything, no warm-up (facebookresearch/moco at 4397a04, eight
    GPUs; their cosine falls once an epoch). Keys change places over ranks: take several, or split batch norms.
    """
    return RunConfig(
        method="moco_v2",
        model=MoCoV2Config(),
        data=data,
        out=out,
        epochs=200,
        batch_size=256,
        optim=OptimConfig(name="sgd", lr=0.03, weight_decay=1e-4),
        schedule=ScheduleConfig(warmup_epochs=0),
    )


def byol_imagenet(*, data: str = "", out: str = "") -> RunConfig:
    """ResNet-50, batch 4096, 1,000 epochs: 74.3 % in the paper, 74.0 to 74.5 % in the authors' repository.

    LARS with learning rate 0.2 x batch / 256, weight decay 1.5e-6, 10 epochs of warm-up
    (google-deepmind/deepmind-research at f5de0ed, byol/configs/byol.py).
    """
    return RunConfig(
        method="byol",
        model=BYOLConfig(),
        data=data,
        out=out,
        epochs=1000,
        batch_size=4096,
        sync_batch_norm=True,
        optim=OptimConfig(name="lars", lr=0.2, scale_lr=True, weight_decay=1.5e-6, lr_in_momentum=False),
        schedule=ScheduleConfig(warmup_epochs=10),
    )


def barlow_twins_imagenet(*, data: str = "", out: str = "") -> RunConfig:
    """ResNet-50, batch 2048, 1,000 epochs: 73.5 % in the authors' README.

    LARS with learning rate 0.2 x batch / 256, that of biases and norms 0.0048 x batch / 256, weight decay 1e-6, 10
    epochs of warm-up, a cosine down to a thousandth (facebookresearch/barlowtwins at 8e8d284).
    """
    return RunConfig(
        method="barlow_twins",
        model=BarlowTwinsConfig(),
        data=data,
        out=out,
        epochs=1000,
        batch_size=2048,
        sync_batch_norm=True,
        optim=OptimConfig(name="lars", lr=0.2, scale_lr=True, weight_decay=1e-6, lr_in_momentum=False),
        schedule=ScheduleConfig(warmup_epochs=10, final=0.001),
    )


def dino_imagenet(*, data: str = "", out: str = "") -> RunConfig:
    """ViT-S/16, batch 512, 100 epochs: 69.3 % by k-NN and 74.0 % by a linear classifier in the authors' README.

    AdamW with learning rate 5e-4 x batch / 256, ten epochs of warm-up, a cosine down to 1e-6, weight decay from 0.04 to
    0.4 on a cosine, each tensor's gradient clipped to a norm of 3 (facebookresearch/dino at 7c446df, eight GPUs).
    """
    return RunConfig(
        method="dino",
        model=DINOConfig(),
        data=data,
        out=out,
        epochs=100,
        batch_size=512,
        optim=OptimConfig(lr=5e-4, scale_lr=True, weight_decay=0.04, clip=3.0, clip_by="tensor"),
        schedule=ScheduleConfig(warmup_epochs=10, final=1e-3, final_weight_decay=0.4),
    )


def ibot_imagenet(*, data: str = "", out: str = "") -> RunConfig:
    """ViT-S/16, batch 1024, 800 epochs: 75.2 % by k-NN and 77.9 % by a linear classifier in the authors' README.

    Optimiser and schedules are DINO's (bytedance/ibot at da316d8, sixteen GPUs).
    """
    return RunConfig(
        method="ibot",
        model=IBOTConfig(),
        data=data,
        out=out,
        epochs=800,
        batch_size=1024,
        optim=OptimConfig(lr=5e-4, scale_lr=True, weight_decay=0.04, clip=3.0, clip_by="tensor"),
        schedule=ScheduleConfig(warmup_epochs=10, final=5e-4, final_weight_decay=0.4),
    )


def dinov2_imagenet(*, data: str = "", out: str = "") -> RunConfig:
    """ViT-L/16, batch 2048: 81.6 % by k-NN and 82.9 % by a linear classifier in the authors' README, of their short run
    on ImageNet-1k.

    AdamW with learning rate 4e-3 x the root of batch / 1024, a cosine down to 1e-6, weight decay from 0.04 to 0.4,
    layer decay 0.9, each part's gradient clipped to a norm of 3 (facebookresearch/dinov2 at b8931f7, dinov2/configs,
    vitl16_short.yaml). Its hundred epochs have 1,250 steps each, two passes over ImageNet, so that here all numbers of
    epochs are twice as large.
    """
    return RunConfig(
        method="dinov2",
        model=DINOv2Config(warmup_teacher_epochs=60, frozen_epochs=2),
        data=data,
        out=out,
        epochs=200,
        batch_size=2048,
        optim=OptimConfig(lr=4e-3 * 2**0.5, weight_decay=0.04, clip=3.0, clip_by="module", layer_decay=0.9),
        schedule=ScheduleConfig(warmup_epochs=20, final=1e-6 / (4e-3 * 2**0.5), final_weight_decay=0.4),
    )


def mae_imagenet(*, data: str = "", out: str = "") -> RunConfig:
    """ViT-B/16, batch 4096, 1,600 epochs: 83.7 % after fine-tuning and 67.8 % by a linear classifier in the authors'
    repository.

    AdamW with learning rate 1.5e-4 x batch / 256, betas 0.9 and 0.95, weight decay 0.05, 40 epochs of warm-up
    (facebookresearch/mae at efb2a80, PRETRAIN.md).
    """
    return RunConfig(
        method="mae",
        model=MAEConfig(),
        data=data,
        out=out,
        epochs=1600,
        batch_size=4096,
        optim=OptimConfig(lr=1.5e-4, scale_lr=True, weight_decay=0.05, betas=(0.9, 0.95)),
        schedule=ScheduleConfig(warmup_epochs=40),
    )


def moco_v3_imagenet(*, data: str = "", out: str = "") -> RunConfig:
    """ResNet-50, batch 4096, 100 epochs: 68.9 % in the authors' CONFIG.md, 72.8 % after 300 and 74.6 % after 1,000.

    LARS with learning rate 0.6 x batch / 256 (0.3 for the longer runs), weight decay 1e-6, 10 epochs of warm-up
    (facebookresearch/moco-v3 at c349e6e).
    """
    return RunConfig(
        method="moco_v3",
        model=MoCoV3Config(),
        data=data,
        out=out,
        epochs=100,
        batch_size=4096,
        sync_batch_norm=True,
        optim=OptimConfig(name="lars", lr=0.6, scale_lr=True, weight_decay=1e-6, lr_in_momentum=False),
        schedule=ScheduleConfig(warmup_epochs=10),
    )


def simsiam_imagenet(*, data: str = "", out: str = "") -> RunConfig:
    """ResNet-50, batch 512, 100 epochs: 68.1 % in the authors' README.

    SGD with learning rate 0.05 x batch / 256, weight decay 1e-4 on everything, no warm-up (facebookresearch/simsiam at
    a7bc177, main_simsiam.py with --fix-pred-lr).
    """
    return RunConfig(
        method="simsiam",
        model=SimSiamConfig(),
        data=data,
        out=out,
        epochs=100,
        batch_size=512,
        sync_batch_norm=True,
        optim=OptimConfig(name="sgd", lr=0.05, scale_lr=True, weight_decay=1e-4),
        schedule=ScheduleConfig(warmup_epochs=0),
    )


def nnclr_imagenet(*, data: str = "", out: str = "") -> RunConfig:
    """ResNet-50, batch 4096, 1,000 epochs: 75.6 % in the paper (arXiv 2104.14548).

    LARS with learning rate 0.3 x batch / 256, weight decay 1e-6, 10 epochs of warm-up. No authors' code is known: these
    are the numbers that others quote from the paper.
    """
    return RunConfig(
        method="nnclr",
        model=NNCLRConfig(),
        data=data,
        out=out,
        epochs=1000,
        batch_size=4096,
        sync_batch_norm=True,
        optim=OptimConfig(name="lars", lr=0.3, scale_lr=True, weight_decay=1e-6, lr_in_momentum=False),
        schedule=ScheduleConfig(warmup_epochs=10),
    )


def densecl_imagenet(*, data: str = "", out: str = "") -> RunConfig:
    """ResNet-50, batch 256, 200 epochs: an AP of 58.7 in detection on VOC and an mIoU of 69.4 in segmentation in the
    authors' README, which has no linear classifier.

    SGD with learning rate 0.03, weight decay 1e-4 on everything, no warm-up (WXinlong/DenseCL at b64bbb6, eight GPUs;
    their cosine falls once an epoch). Keys change places over ranks: take several, or split batch norms.
    """
    return RunConfig(
        method="densecl",
        model=DenseCLConfig(),
        data=data,
        out=out,
        epochs=200,
        batch_size=256,
        optim=OptimConfig(name="sgd", lr=0.03, weight_decay=1e-4),
        schedule=ScheduleConfig(warmup_epochs=0),
    )


def ressl_imagenet(*, data: str = "", out: str = "") -> RunConfig:
    """ResNet-50, batch 256, 200 epochs: 69.9 % in the authors' README.

    SGD with learning rate 0.05, weight decay 1e-4 but for norms and biases, 5 epochs of warm-up
    (KyleZheng1997/ReSSL at 4d67daa).
    """
    return RunConfig(
        method="ressl",
        model=ReSSLConfig(),
        data=data,
        out=out,
        epochs=200,
        batch_size=256,
        optim=OptimConfig(name="sgd", lr=0.05, weight_decay=1e-4),
        schedule=ScheduleConfig(warmup_epochs=5),
    )


def vicreg_imagenet(*, data: str = "", out: str = "") -> RunConfig:
    """ResNet-50, batch 2048, 1,000 epochs: 73.2 % in the authors' README.

    LARS with learning rate 0.2 x batch / 256, weight decay 1e-6, 10 epochs of warm-up, a cosine down to a thousandth
    (facebookresearch/vicreg at 4e12602).
    """
    return RunConfig(
        method="vicreg",
        model=VICRegConfig(),
        data=data,
        out=out,
        epochs=1000,
        batch_size=2048,
        sync_batch_norm=True,
        optim=OptimConfig(name="lars", lr=0.2, scale_lr=True, weight_decay=1e-6, lr_in_momentum=False),
        schedule=ScheduleConfig(warmup_epochs=10, final=0.001),
    )


def w_mse_imagenet(*, data: str = "", out: str = "") -> RunConfig:
    """ResNet-18, batch 512, 240 epochs of ImageNet-100, a hundred classes of ImageNet. The authors' repository, whose
    command this is, has no accuracy of it.

    Adam with learning rate 2e-3, a fifth of it for the last 50 epochs and a fifth of that for the last 25, 500 steps of
    warm-up, which are two epochs, weight decay 1e-6 on everything (htdt/self-supervised at d9662c8, one process).
    """
    return RunConfig(
        method="w_mse",
        model=WMSEConfig(),
        data=data,
        out=out,
        epochs=240,
        batch_size=512,
        sync_batch_norm=True,
        optim=OptimConfig(lr=2e-3, weight_decay=1e-6),
        schedule=ScheduleConfig(warmup_epochs=2, final=1.0, drops={190: 0.2, 215: 0.2}),
    )


def tico_imagenet(*, data: str = "", out: str = "") -> RunConfig:
    """ResNet-50, batch 256, 100 epochs: 49.7 % in lightly's benchmark, which is not the method's level.

    LARS with learning rate 0.2 x batch / 256, weight decay 1.5e-6 (lightly-ai/lightly at e8d317f,
    benchmarks/imagenet/resnet50/tico.py). No authors' code is known.
    """
    return RunConfig(
        method="tico",
        model=TiCoConfig(),
        data=data,
        out=out,
        epochs=100,
        batch_size=256,
        sync_batch_norm=True,
        optim=OptimConfig(name="lars", lr=0.2, scale_lr=True, weight_decay=1.5e-6, lr_in_momentum=False),
        schedule=ScheduleConfig(warmup_epochs=10),
    )


def lejepa_imagenet(*, data: str = "", out: str = "") -> RunConfig:
    """ResNet-50 and the settings of the authors' README: AdamW with learning rate 5e-4, weight decay 5e-4 (5e-2 for
    ViTs), a warm-up, and a cosine down to a thousandth (rbalestr-lab/lejepa at eddffdd), in batches of 256 for 100
    epochs, of which lightly's benchmark reports 64.0 %.
    """
    return RunConfig(
        method="lejepa",
        model=LeJEPAConfig(backbone=BackboneConfig()),
        data=data,
        out=out,
        epochs=100,
        batch_size=256,
        optim=OptimConfig(lr=5e-4, weight_decay=5e-4),
        schedule=ScheduleConfig(warmup_epochs=10, final=0.001),
    )


def colorization_imagenet(*, data: str = "", out: str = "") -> RunConfig:
    """The authors' network, batch 40, 16 epochs, which are 500,000 steps; their paper judges the pictures, of which
    people took 32 % for real ones, and reports AlexNet's features.

    Adam with learning rate 3e-5, betas 0.9 and 0.99, weight decay 1e-3 (richzhang/colorization at 4aa459f,
    train/solver.prototxt). The rate falls to a tenth after 7 epochs and after 14, theirs after 225,000 steps and after
    450,000.
    """
    return RunConfig(
        method="colorization",
        model=ColorizationConfig(),
        data=data,
        out=out,
        epochs=16,
        batch_size=40,
        optim=OptimConfig(lr=3e-5, weight_decay=1e-3, betas=(0.9, 0.99)),
        schedule=ScheduleConfig(warmup_epochs=0, final=1.0, drops={7: 0.1, 14: 0.1}),
    )


def inpainting_imagenet(*, data: str = "", out: str = "") -> RunConfig:
    """The authors' network, batch 64, 500 epochs; they judge by the pictures.

    Adam with learning rate 2e-3, and 2e-4 for the discriminator, beta 0.5 for the first moment, no weight decay, a
    constant rate (pathak22/context-encoder at 68abd11, train.lua and README.md).
    """
    betas = (0.5, 0.999)
    return RunConfig(
        method="inpainting",
        model=InpaintingConfig(),
        data=data,
        out=out,
        epochs=500,
        batch_size=64,
        optim=OptimConfig(
            lr=2e-3,
            weight_decay=0.0,
            betas=betas,
            players={"discriminator": PlayerConfig(lr=2e-4, betas=betas, weight_decay=0.0)},
        ),
        schedule=ScheduleConfig(warmup_epochs=0, final=1.0),
    )


def instance_discrimination_imagenet(*, data: str = "", out: str = "") -> RunConfig:
    """ResNet-50, batch 256, 200 epochs: 46.8 % in the authors' README, of 200 nearest neighbours instead of a linear
    classifier; 41.0 % for a ResNet-18.

    SGD with learning rate 0.03, weight decay 1e-4 on everything (zhirongw/lemniscate.pytorch at f7cfe29, main.py).
    The rate falls to a tenth after epochs 120 and 160.
    """
    return RunConfig(
        method="instance_discrimination",
        model=InstanceDiscriminationConfig(),
        data=data,
        out=out,
        epochs=200,
        batch_size=256,
        optim=OptimConfig(name="sgd", lr=0.03, weight_decay=1e-4),
        schedule=ScheduleConfig(warmup_epochs=0, final=1.0, drops={120: 0.1, 160: 0.1}),
    )
