"""Whole configs by name: the settings of a published run, or of one that was tried here."""

from __future__ import annotations

from collections.abc import Callable

from headrace.train.config import RunConfig
from headrace.train.recipes.imagenet import (
    barlow_twins_imagenet,
    byol_imagenet,
    dino_imagenet,
    lejepa_imagenet,
    mae_imagenet,
    moco_v2_imagenet,
    moco_v3_imagenet,
    nnclr_imagenet,
    ressl_imagenet,
    simsiam_imagenet,
    tico_imagenet,
    vicreg_imagenet,
)
from headrace.train.recipes.imagenet_masked import maskfeat_imagenet, simmim_imagenet
from headrace.train.recipes.joint import (
    barlow_twins_small,
    byol_small,
    deepcluster_small,
    dino_small,
    lejepa_small,
    moco_v2_small,
    moco_v3_small,
    nnclr_small,
    ressl_small,
    simsiam_small,
    swav_small,
    tico_small,
    vicreg_small,
)
from headrace.train.recipes.masked import mae_small, maskfeat_small, simmim_small
from headrace.train.recipes.pairs import clip_small
from headrace.train.recipes.pretext import rotation_small
from headrace.train.recipes.simclr import simclr_cifar10, simclr_digits, simclr_imagenet, simclr_small
from headrace.train.recipes.sounds import masked_spectrogram_audioset, masked_spectrogram_small
from headrace.train.recipes.text import bert_small
from headrace.train.recipes.video import videomae_k400, videomae_small

__all__ = [
    "RECIPES",
    "barlow_twins_imagenet",
    "barlow_twins_small",
    "bert_small",
    "byol_imagenet",
    "byol_small",
    "clip_small",
    "deepcluster_small",
    "dino_imagenet",
    "dino_small",
    "lejepa_imagenet",
    "lejepa_small",
    "mae_imagenet",
    "mae_small",
    "masked_spectrogram_audioset",
    "masked_spectrogram_small",
    "maskfeat_imagenet",
    "maskfeat_small",
    "moco_v2_imagenet",
    "moco_v2_small",
    "moco_v3_imagenet",
    "moco_v3_small",
    "nnclr_imagenet",
    "nnclr_small",
    "ressl_imagenet",
    "ressl_small",
    "rotation_small",
    "simclr_cifar10",
    "simclr_digits",
    "simclr_imagenet",
    "simclr_small",
    "simmim_imagenet",
    "simmim_small",
    "simsiam_imagenet",
    "simsiam_small",
    "swav_small",
    "tico_imagenet",
    "tico_small",
    "vicreg_imagenet",
    "vicreg_small",
    "videomae_k400",
    "videomae_small",
]

RECIPES: dict[str, Callable[..., RunConfig]] = {
    "simclr_small": simclr_small,
    "simclr_digits": simclr_digits,
    "simclr_cifar10": simclr_cifar10,
    "simclr_imagenet": simclr_imagenet,
    "moco_v2_small": moco_v2_small,
    "moco_v2_imagenet": moco_v2_imagenet,
    "byol_small": byol_small,
    "byol_imagenet": byol_imagenet,
    "barlow_twins_small": barlow_twins_small,
    "barlow_twins_imagenet": barlow_twins_imagenet,
    "swav_small": swav_small,
    "deepcluster_small": deepcluster_small,
    "dino_small": dino_small,
    "dino_imagenet": dino_imagenet,
    "moco_v3_small": moco_v3_small,
    "moco_v3_imagenet": moco_v3_imagenet,
    "simsiam_small": simsiam_small,
    "simsiam_imagenet": simsiam_imagenet,
    "nnclr_small": nnclr_small,
    "nnclr_imagenet": nnclr_imagenet,
    "ressl_small": ressl_small,
    "ressl_imagenet": ressl_imagenet,
    "vicreg_small": vicreg_small,
    "vicreg_imagenet": vicreg_imagenet,
    "tico_small": tico_small,
    "tico_imagenet": tico_imagenet,
    "lejepa_small": lejepa_small,
    "lejepa_imagenet": lejepa_imagenet,
    "mae_small": mae_small,
    "mae_imagenet": mae_imagenet,
    "simmim_small": simmim_small,
    "simmim_imagenet": simmim_imagenet,
    "maskfeat_small": maskfeat_small,
    "maskfeat_imagenet": maskfeat_imagenet,
    "masked_spectrogram_small": masked_spectrogram_small,
    "masked_spectrogram_audioset": masked_spectrogram_audioset,
    "rotation_small": rotation_small,
    "bert_small": bert_small,
    "clip_small": clip_small,
    "videomae_small": videomae_small,
    "videomae_k400": videomae_k400,
}
"""Every recipe by the name that the command line uses; each takes `data` and `out`."""
