"""SimCLR (arXiv 2002.05709) on digits, CIFAR-10 and ImageNet."""

from __future__ import annotations

from headrace.models import BackboneConfig
from headrace.models.methods.joint.simclr import SimCLRConfig
from headrace.models.parts.backbones import tiny_resnet
from headrace.pipeline import Normalize
from headrace.train.config import CheckpointConfig, LogConfig, OptimConfig, RunConfig, ScheduleConfig


def simclr_imagenet(*, data: str = "", out: str = "") -> RunConfig:
    """ResNet-50, batch 4096, 100 epochs, as the authors pretrain on ImageNet.

    LARS with learning rate 0.3 x batch / 256, weight decay 1e-6, 10 epochs of warm-up, temperature 0.1, batch norm
    over all ranks (paper, section 2.1 and appendix B.6; command line in the README of google-research/simclr at
    0075cc0). Views are normalised with ImageNet's mean and deviation, as lightly and solo-learn do; the authors leave
    them in 0 to 1.

    That README puts such an encoder at about 64.5 % on the validation images, by a protocol that `headrace eval linear`
    is not: a linear layer on the frozen encoder, trained for 90 epochs on random crops and flips in batches of 4096 by
    momentum with learning rate 0.1 x batch / 256 and weight decay 1e-6, tested on centre crops of 7/8 of the side. Ours
    is a regression on features of centre squares, taken once (`headrace.train.probes.linear`); the two numbers are not
    to be compared, and Headrace claims none for this recipe.
    """
    return RunConfig(
        method="simclr",
        model=SimCLRConfig(),
        data=data,
        out=out,
        epochs=100,
        batch_size=4096,
        sync_batch_norm=True,
        optim=OptimConfig(name="lars", lr=0.3, scale_lr=True, weight_decay=1e-6),
        schedule=ScheduleConfig(warmup_epochs=10),
    )


def simclr_cifar10(*, data: str = "", out: str = "") -> RunConfig:
    """ResNet-18 with a small stem, batch 512, 200 epochs: the settings of lightly's CIFAR-10 benchmark.

    SGD with learning rate 0.06 x batch / 128, weight decay 5e-4, a cosine without warm-up, temperature 0.5, bilinear
    resizing, jitter of half strength and no blur (lightly-ai/lightly, benchmarks/cifar10_benchmark.py in its
    documentation, which lists 84.8 % for k-NN at 200 epochs). Lightly also decays norms and biases; here they are
    left out.
    """
    return RunConfig(
        method="simclr",
        model=SimCLRConfig(
            size=32,
            interpolation="bilinear",
            strength=0.5,
            blur=0.0,
            temperature=0.5,
            projection_hidden=512,
            projection_dim=128,
            backbone=BackboneConfig(name="resnet18", stem="small"),
        ),
        data=data,
        out=out,
        epochs=200,
        batch_size=512,
        optim=OptimConfig(name="sgd", lr=0.12, scale_lr=True, weight_decay=5e-4),
        schedule=ScheduleConfig(warmup_epochs=0),
    )


def simclr_digits(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ResNet on a few thousand 28 x 28 digits, for a demo that ends in minutes on two cores.

    Digits are neither mirrored nor coloured. Crops take at least half of a digit and change its aspect, and a blur
    changes the width of the pen. Views are a little smaller than the digits, which costs less and loses nothing.
    """
    return RunConfig(
        method="simclr",
        model=SimCLRConfig(
            size=24,
            crop_scale=(0.5, 1.0),
            crop_ratio=(0.6, 1 / 0.6),
            interpolation="bilinear",
            flip=0.0,
            strength=0.5,
            grayscale=0.0,
            blur=0.5,
            normalize=Normalize(mean=(0.13, 0.13, 0.13), std=(0.31, 0.31, 0.31)),
            temperature=0.2,
            projection_hidden=256,
            projection_dim=64,
            backbone=tiny_resnet(),
        ),
        data=data,
        out=out,
        epochs=36,
        batch_size=128,
        optim=OptimConfig(name="adamw", lr=0.01),
        schedule=ScheduleConfig(warmup_epochs=2),
        checkpoint=CheckpointConfig(every_steps=200),
        log=LogConfig(every_steps=10),
    )


def simclr_small(*, data: str = "", out: str = "") -> RunConfig:
    """The settings of `simclr_digits`, which fit small pictures of any kind."""
    return simclr_digits(data=data, out=out)
