"""Methods that take labels from the data itself, on small pictures."""

from __future__ import annotations

from typing import Any

from headrace.models.methods.pretext.autoencoder import AutoencoderConfig
from headrace.models.methods.pretext.block_order import BlockOrderConfig
from headrace.models.methods.pretext.colorization import ColorizationConfig
from headrace.models.methods.pretext.context_prediction import ContextPredictionConfig
from headrace.models.methods.pretext.denoising_autoencoder import DenoisingAutoencoderConfig
from headrace.models.methods.pretext.inpainting import InpaintingConfig
from headrace.models.methods.pretext.jigsaw import JigsawConfig
from headrace.models.methods.pretext.rotation import RotationConfig
from headrace.models.methods.pretext.vae import VAEConfig
from headrace.models.parts.backbones import tiny_resnet
from headrace.train.config import OptimConfig, PlayerConfig, RunConfig, ScheduleConfig
from headrace.train.recipes.small import small_run, small_views


def rotation_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ResNet that sees each picture in all four turns.

    Of digits the task is a poor one: 0, 1 and 8 look the same upside down, and a turned 6 is a 9. It is kept all the
    same; pictures with a sky and a ground teach more.
    """
    model = RotationConfig(**small_views(), backbone=tiny_resnet())
    return small_run("rotation", model, OptimConfig(lr=3e-3), data=data, out=out)


def autoencoder_small(*, data: str = "", out: str = "") -> RunConfig:
    """Convolutions down to 64 numbers and back again, which is Headrace's own variant."""
    model = AutoencoderConfig(network="convolutional", hidden=64, widths=(16, 32))
    return small_run("autoencoder", model, OptimConfig(lr=3e-3), data=data, out=out)


def denoising_autoencoder_small(*, data: str = "", out: str = "") -> RunConfig:
    """The authors' one layer."""
    model = DenoisingAutoencoderConfig()
    return small_run("denoising_autoencoder", model, OptimConfig(lr=3e-3, weight_decay=0.0), data=data, out=out)


def vae_small(*, data: str = "", out: str = "") -> RunConfig:
    """The network of pytorch/examples."""
    return small_run("vae", VAEConfig(), OptimConfig(lr=2e-3, weight_decay=0.0), data=data, out=out)


def colorization_small(*, data: str = "", out: str = "") -> RunConfig:
    """A narrow network, one convolution a stage where the authors have three.

    There must be colours to learn from: digits have none.
    """
    model = ColorizationConfig(size=24, crop_scale=(0.5, 1.0), flip=0.0, width=12, depth=1)
    return small_run("colorization", model, OptimConfig(lr=5e-4), data=data, out=out)


def inpainting_small(*, data: str = "", out: str = "") -> RunConfig:
    """A narrow encoder and decoder for rectangles anywhere, and a discriminator at the authors' weight of a thousandth.
    With the central square, at three times this rate, features of digits were worse than an untrained network's.
    """
    model = InpaintingConfig(
        size=24, crop_scale=(0.5, 1.0), flip=0.0, region="random", widths=(16, 32, 64), bottleneck=128
    )
    judge = PlayerConfig(lr=3e-4, weight_decay=0.0, betas=(0.5, 0.999))
    optim = OptimConfig(lr=1e-3, weight_decay=0.0, players={"discriminator": judge})
    return small_run("inpainting", model, optim, data=data, out=out)


def autoencoder_mnist(*, data: str = "", out: str = "") -> RunConfig:
    """One layer of 500 logistic units, batch 20, 15 epochs, plain SGD with learning rate 0.1
    (lisa-lab/DeepLearningTutorials at 11c4651, code/dA.py, without corruption)."""
    return _as_the_laboratory("autoencoder", AutoencoderConfig(), data, out)


def denoising_autoencoder_mnist(*, data: str = "", out: str = "") -> RunConfig:
    """One layer of 500 logistic units that lacks 30 % of the inputs, batch 20, 15 epochs, plain SGD with learning rate
    0.1 (lisa-lab/DeepLearningTutorials at 11c4651, code/dA.py)."""
    return _as_the_laboratory("denoising_autoencoder", DenoisingAutoencoderConfig(), data, out)


def _as_the_laboratory(method: str, model: AutoencoderConfig, data: str, out: str) -> RunConfig:
    return RunConfig(
        method=method,
        model=model,
        data=data,
        out=out,
        epochs=15,
        batch_size=20,
        optim=OptimConfig(name="sgd", lr=0.1, momentum=0.0, weight_decay=0.0),
        schedule=ScheduleConfig(warmup_epochs=0, final=1.0),
    )


def vae_mnist(*, data: str = "", out: str = "") -> RunConfig:
    """Batch 128, 10 epochs, Adam with a constant learning rate of 1e-3 (pytorch/examples at 0a8329c, vae/main.py)."""
    return RunConfig(
        method="vae",
        model=VAEConfig(),
        data=data,
        out=out,
        epochs=10,
        batch_size=128,
        optim=OptimConfig(lr=1e-3, weight_decay=0.0),
        schedule=ScheduleConfig(warmup_epochs=0, final=1.0),
    )


def context_prediction_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ResNet that keeps the pixels of patches of a third of the picture, ten of a digit's, with a gap of two.
    Colours and resolution are left as they are: strokes are grey and came through no lens."""
    model = ContextPredictionConfig(
        size=10,
        scale=(0.32, 0.36),
        gap=0.25,
        jitter=0.12,
        drop_channels=0.0,
        lose_resolution=0.0,
        patch_dim=128,
        hidden_dim=256,
        probe_size=28,
        backbone=tiny_resnet(stem_stride=1),
    )
    return small_run("context_prediction", model, OptimConfig(lr=3e-3), data=data, out=out)


def jigsaw_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ResNet that keeps the pixels of tiles of a ninth of the picture, eight of a digit's in cells of nine, and
    64 orders. Colours are left as they are."""
    model = JigsawConfig(
        **_small_puzzle(), tile_dim=64, hidden_dim=256, permutations=64, shift=0, grayscale=0.0, project=0.0
    )
    return small_run("jigsaw", model, OptimConfig(lr=3e-3), data=data, out=out)


def block_order_small(*, data: str = "", out: str = "") -> RunConfig:
    """Jigsaw's tiles, in any order."""
    model = BlockOrderConfig(**_small_puzzle(), tile_dim=64, hidden_dim=256)
    return small_run("block_order", model, OptimConfig(lr=3e-3), data=data, out=out)


def _small_puzzle() -> dict[str, Any]:
    """Fields of PuzzleConfig."""
    return {
        "size": 8,
        "extent": (1.0, 1.0),
        "tile": 8 / 9,
        "normalize": small_views()["normalize"],
        "dropout": 0.0,
        "probe_size": 28,
        "backbone": tiny_resnet(stem_stride=1),
    }
