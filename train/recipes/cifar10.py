"""Methods of images on CIFAR-10: the settings of solo-learn, and the accuracies that it published.

They are those of its scripts (vturrisi/solo-learn at 9187ea3, scripts/pretrain/cifar), for a ResNet-18 with a small
stem in batches of 256 over 1,000 epochs on one GPU: ten epochs of warm-up and a cosine, under most methods LARS with a
trust coefficient of 0.02 whose rate is clipped, two views of 32 pixels. Its accuracies are of a linear classifier that
learns beside the method from features without gradient, on augmented views; here probes do that, on plain ones.
Headrace has run none of these.

What all of them differ in: solo-learn computes in float16, and its first convolution pads by two pixels instead of one;
its LARS adds the norms of gradient and decay where ours takes the norm of their sum; views of SimSiam, MoCo v2, ReSSL,
SwAV and DeepCluster-v2 are resized bilinearly instead of bicubically, and blurred with three taps instead of without an
end. lightly's benchmark of CIFAR-10 (lightly-ai/lightly at e8d317f), 800 epochs of SGD in batches of 512, has by k-NN:
Barlow Twins 85.9 %, BYOL 91.0 %, DINO 84.8 %, MoCo v2 89.9 %, NNCLR 89.2 %, SimCLR 87.9 %, SimSiam 90.4 %, SwAV 88.4 %;
`simclr_cifar10` follows it.
"""

from __future__ import annotations

from typing import Any, TypedDict

from headrace.models.methods.joint.barlow_twins import BarlowTwinsConfig
from headrace.models.methods.joint.byol import BYOLConfig
from headrace.models.methods.joint.deepcluster_v2 import DeepClusterV2Config
from headrace.models.methods.joint.dino import DINOConfig
from headrace.models.methods.joint.moco import MoCoV2Config
from headrace.models.methods.joint.moco_v3 import MoCoV3Config
from headrace.models.methods.joint.nnclr import NNCLRConfig
from headrace.models.methods.joint.ressl import ReSSLConfig
from headrace.models.methods.joint.simsiam import SimSiamConfig
from headrace.models.methods.joint.swav import SwAVConfig
from headrace.models.methods.joint.vicreg import VICRegConfig
from headrace.models.methods.joint.w_mse import WMSEConfig
from headrace.models.parts.backbones import BackboneConfig
from headrace.pipeline import Normalize
from headrace.train.config import OptimConfig, RunConfig, ScheduleConfig

CIFAR10 = Normalize(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))


class _Views(TypedDict):
    """Fields that the configs of all methods here have in common, and the network."""

    size: int
    crop_scale: tuple[float, float]
    normalize: Normalize
    backbone: BackboneConfig


def _views(*, smallest_crop: float = 0.08) -> _Views:
    """torchvision's ResNet-18 begins with residual branches as they are drawn, unlike timm's."""
    return {
        "size": 32,
        "crop_scale": (smallest_crop, 1.0),
        "normalize": CIFAR10,
        "backbone": BackboneConfig(name="resnet18", stem="small", options={"zero_init_last": False}),
    }


def _asymmetric() -> dict[str, Any]:
    """Fields of BYOLViews: no blur, and solarisation of the second view (augmentations/asymmetric.yaml)."""
    return {"blur": (0.0, 0.0), "solarize": (0.0, 0.2)}


def _lars(lr: float, weight_decay: float) -> OptimConfig:
    return OptimConfig(name="lars", lr=lr, weight_decay=weight_decay, trust=0.02, lr_in_momentum=False, clip_rate=True)


def _run(
    method: str, model: Any, optim: OptimConfig, data: str, out: str, *, warmup: float = 10, final: float = 0.0
) -> RunConfig:
    return RunConfig(
        method=method,
        model=model,
        data=data,
        out=out,
        epochs=1000,
        batch_size=256,
        optim=optim,
        schedule=ScheduleConfig(warmup_epochs=warmup, final=final),
    )


def barlow_twins_cifar10(*, data: str = "", out: str = "") -> RunConfig:
    """92.10 % in solo-learn's table (barlow.yaml): LARS with learning rate 0.3, a tenth of the loss. Its projector's
    layers have biases."""
    model = BarlowTwinsConfig(
        **_views(), **_asymmetric(), hidden_dim=2048, projection_dim=2048, scale=0.1, vector_lr=1.0
    )
    return _run("barlow_twins", model, _lars(0.3, 1e-4), data, out)


def byol_cifar10(*, data: str = "", out: str = "") -> RunConfig:
    """92.58 % in solo-learn's table (byol.yaml): LARS with learning rate 1, the slow network from 0.99 to 1, with the
    weights of the other at the beginning. Its heads' last layers have biases."""
    model = BYOLConfig(**_views(), **_asymmetric(), momentum=0.99, slow_start="copy")
    return _run("byol", model, _lars(1.0, 1e-5), data, out)


def deepcluster_v2_cifar10(*, data: str = "", out: str = "") -> RunConfig:
    """88.85 % in solo-learn's table (deepclusterv2.yaml): two large views, LARS with learning rate 0.6, a warm-up of 11
    epochs, a cosine down to 0.0006. Its LARS neither adapts nor decays biases and norms, the authors' and this one
    does."""
    model = DeepClusterV2Config(**_views(), local_views=0)
    return _run("deepcluster_v2", model, _lars(0.6, 1e-6), data, out, warmup=11, final=0.001)


def dino_cifar10(*, data: str = "", out: str = "") -> RunConfig:
    """89.52 % in solo-learn's table (dino.yaml): two large views, 4,096 prototypes, LARS with learning rate 0.3, the
    teacher from 0.9995 to 1 at temperature 0.07."""
    model = DINOConfig(
        **_views(),
        **_asymmetric(),
        local_views=0,
        prototypes=4096,
        teacher_temperature=0.07,
        momentum=0.9995,
    )
    return _run("dino", model, _lars(0.3, 1e-6), data, out)


def moco_v2_cifar10(*, data: str = "", out: str = "") -> RunConfig:
    """92.94 % in solo-learn's table (mocov2plus.yaml): SGD with learning rate 0.3, 32,768 keys, weight decay 1e-4 on
    everything. Its loss is of both directions, with a queue for each, its projector's hidden layer 2,048 wide instead
    of 512, and its slow network goes from 0.99 to 0.999."""
    model = MoCoV2Config(**_views(), momentum=0.99, queue=32768, projection_dim=256)
    return _run("moco_v2", model, OptimConfig(name="sgd", lr=0.3, weight_decay=1e-4), data, out)


def moco_v3_cifar10(*, data: str = "", out: str = "") -> RunConfig:
    """93.10 % in solo-learn's table (mocov3.yaml), its best: LARS with learning rate 0.3, temperature 0.2, the slow
    network from 0.99 to 1."""
    model = MoCoV3Config(**_views(), **_asymmetric(), temperature=0.2)
    return _run("moco_v3", model, _lars(0.3, 1e-6), data, out)


def nnclr_cifar10(*, data: str = "", out: str = "") -> RunConfig:
    """91.88 % in solo-learn's table (nnclr.yaml): LARS with learning rate 0.4, temperature 0.2, a queue of 65,536, in
    which samples of the last epoch are still present."""
    model = NNCLRConfig(**_views(), **_asymmetric(), temperature=0.2, queue=65536)
    return _run("nnclr", model, _lars(0.4, 1e-5), data, out)


def ressl_cifar10(*, data: str = "", out: str = "") -> RunConfig:
    """90.63 % in solo-learn's table (ressl.yaml): SGD with learning rate 0.05, 65,536 keys. Its slow network goes from
    0.99 to 1, biases and norms decay as well, and the saturation of its student's view changes by half as much."""
    model = ReSSLConfig(**_views(), momentum=0.99, queue=65536, projection_dim=256)
    return _run("ressl", model, OptimConfig(name="sgd", lr=0.05, weight_decay=1e-4), data, out)


def simsiam_cifar10(*, data: str = "", out: str = "") -> RunConfig:
    """90.51 % in solo-learn's table (simsiam.yaml): SGD with learning rate 0.5, weight decay 1e-5 on everything. Its
    predictor's rate falls with that of the others."""
    model = SimSiamConfig(**_views())
    return _run("simsiam", model, OptimConfig(name="sgd", lr=0.5, weight_decay=1e-5), data, out)


def swav_cifar10(*, data: str = "", out: str = "") -> RunConfig:
    """89.17 % in solo-learn's table (swav.yaml): two large views, LARS with learning rate 0.6, a queue of 3,840 from
    epoch 50 on, prototypes frozen for two epochs. Its LARS neither adapts nor decays biases and norms, the authors' and
    this one does."""
    model = SwAVConfig(**_views(), local_views=0, frozen_epochs=2, queue=3840, queue_epoch=50)
    return _run("swav", model, _lars(0.6, 1e-6), data, out)


def vicreg_cifar10(*, data: str = "", out: str = "") -> RunConfig:
    """92.07 % in solo-learn's table (vicreg.yaml): LARS with learning rate 0.3, both views solarised at 0.1. Its term
    of the deviations is not halved, so that its weight of 25 is 50 here."""
    model = VICRegConfig(
        **_views(smallest_crop=0.2),
        blur=(0.0, 0.0),
        solarize=(0.1, 0.1),
        hidden_dim=2048,
        projection_dim=2048,
        variance=50.0,
    )
    return _run("vicreg", model, _lars(0.3, 1e-4), data, out)


def w_mse_cifar10(*, data: str = "", out: str = "") -> RunConfig:
    """88.67 % in solo-learn's table (wmse.yaml): Adam with learning rate 2e-3, groups of 128 samples in 64 dimensions.
    Its loss reaches the first view alone, and its decay of 1e-6 is part of the gradient, where AdamW's stands beside
    it: next to none either way."""
    model = WMSEConfig(**_views(smallest_crop=0.2), blur=0.0, group=128, projection_dim=64)
    return _run("w_mse", model, OptimConfig(lr=2e-3, weight_decay=1e-6), data, out)
