"""Methods that take labels from the data itself, on small pictures."""

from __future__ import annotations

from headrace.models.methods.pretext.autoencoder import AutoencoderConfig
from headrace.models.methods.pretext.colorization import ColorizationConfig
from headrace.models.methods.pretext.denoising_autoencoder import DenoisingAutoencoderConfig
from headrace.models.methods.pretext.inpainting import InpaintingConfig
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
    """The authors' one layer with fewer units."""
    model = DenoisingAutoencoderConfig(hidden=256)
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
    """A narrow encoder and decoder for the central square of 12 x 12 pixels, and a discriminator at the authors' weight
    of a thousandth."""
    model = InpaintingConfig(size=24, crop_scale=(0.5, 1.0), flip=0.0, overlap=1, widths=(16, 32, 64), bottleneck=128)
    judge = PlayerConfig(lr=3e-4, weight_decay=0.0, betas=(0.5, 0.999))
    optim = OptimConfig(lr=3e-3, weight_decay=0.0, players={"discriminator": judge})
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
