"""The views and masks of published methods, with their values for ImageNet. One table: `PRESETS`.

Each function says where its numbers stand: a file of the authors' repository or, where none was found, the paper. Where
a paper and its code differ, the values are the code's. What no field of `View` can say is left out; docs/presets.md
lists it. Mask number m belongs to view number m.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from headrace.pipeline.images.masks import BlockMask, ContextMask, RandomMask, RegionMask
from headrace.pipeline.images.view import IMAGENET_STD, Normalize, View
from headrace.pipeline.images.views import PatchPair, Tiles, ViewSpec

_SIMCLR_COLOUR: dict[str, Any] = {
    "jitter": 0.8,
    "brightness": 0.8,
    "contrast": 0.8,
    "saturation": 0.8,
    "hue": 0.2,
    "grayscale": 0.2,
}
_BYOL_COLOUR: dict[str, Any] = {
    "jitter": 0.8,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.2,
    "hue": 0.1,
    "grayscale": 0.2,
}
_BICUBIC: dict[str, Any] = {"interpolation": "bicubic"}
_BEIT_COLOUR: dict[str, Any] = {"jitter": 1.0, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4}
_UNIT = Normalize(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""Levels to -1 to 1."""
_PIL_TAPS = 13
"""Taps that hold a blur of 2 pixels to three deviations, for small views whose blur was PIL's, which has no limit."""


def simclr(size: int = 224) -> ViewSpec:
    """SimCLR (2002.05709), strength 1. google-research/simclr, data_util.py."""
    return ViewSpec.repeat(View(size=size, **_BICUBIC, **_SIMCLR_COLOUR, blur=0.5), 2)


def moco_v1(size: int = 224) -> ViewSpec:
    """MoCo (1911.05722). facebookresearch/moco, main_moco.py, which drops the colour before it jitters."""
    view = View(size=size, scale=(0.2, 1.0), **{**_BEIT_COLOUR, "hue": 0.4, "grayscale": 0.2})
    return ViewSpec.repeat(view, 2)


def moco_v2(size: int = 224) -> ViewSpec:
    """MoCo v2 (2003.04297). facebookresearch/moco, main_moco.py with --aug-plus."""
    view = View(size=size, scale=(0.2, 1.0), **{**_BYOL_COLOUR, "saturation": 0.4}, blur=0.5)
    return ViewSpec.repeat(view, 2)


def moco_v3(size: int = 224, smallest: float = 0.08) -> ViewSpec:
    """MoCo v3 (2104.02057): BYOL's two views; crops of ResNet-50 are no smaller than an area of 0.2.
    facebookresearch/moco-v3, main_moco.py and CONFIG.md."""
    return ViewSpec([replace(view, scale=(smallest, 1.0), interpolation="bilinear") for view in byol(size).views])


def byol(size: int = 224) -> ViewSpec:
    """BYOL (2006.07733): the first view is always blurred, the second seldom, and sometimes solarised.
    google-deepmind/deepmind-research, byol/utils/augmentations.py and dataset.py."""
    view = View(size=size, **_BICUBIC, **_BYOL_COLOUR)
    return ViewSpec([replace(view, blur=1.0), replace(view, blur=0.1, solarize=0.2)])


def simsiam(size: int = 224) -> ViewSpec:
    """SimSiam (2011.10566): MoCo v2's views. facebookresearch/simsiam, main_simsiam.py."""
    return moco_v2(size)


def barlow_twins(size: int = 224) -> ViewSpec:
    """Barlow Twins (2103.03230): BYOL's two views. facebookresearch/barlowtwins, main.py."""
    return byol(size)


def vicreg(size: int = 224) -> ViewSpec:
    """VICReg (2105.04906): BYOL's two views, in the paper one distribution for both. facebookresearch/vicreg,
    augmentations.py."""
    return byol(size)


def nnclr(size: int = 224) -> ViewSpec:
    """NNCLR (2104.14548): SimCLR's views. From the paper; lightly-ai/lightly takes the same."""
    return simclr(size)


def swav(size: int = 224, local_size: int = 96, local_views: int = 6) -> ViewSpec:
    """SwAV (2006.09882): two large and six small crops. facebookresearch/swav, src/multicropdataset.py, where the
    deviation of red is 0.228, and scripts/swav_800ep_pretrain.sh."""
    normalize = Normalize(std=(0.228, *IMAGENET_STD[1:]))
    view = View(size=size, scale=(0.14, 1.0), **_SIMCLR_COLOUR, blur=0.5, normalize=normalize)
    local = replace(view, size=local_size, scale=(0.05, 0.14), blur_kernel=min(_PIL_TAPS, local_size - 1 | 1))
    return ViewSpec([*[view] * 2, *[local] * local_views])


def deepcluster(size: int = 224) -> ViewSpec:
    """DeepCluster (1807.05520): a crop and a flip. The Sobel filter is the network's. facebookresearch/deepcluster,
    clustering.py."""
    return ViewSpec([View(size=size)])


def deepcluster_v2(size: int = 224) -> ViewSpec:
    """DeepCluster-v2 (2006.09882): SwAV's crops. facebookresearch/swav, scripts/deepclusterv2_800ep_pretrain.sh."""
    return swav(size)


def _multi_crop(size: int, local_size: int, local_views: int, border: float) -> list[View]:
    """DINO's crops: two large ones with an area above `border`, as in BYOL, and small ones with an area below it."""
    first, second = (replace(view, scale=(border, 1.0)) for view in byol(size).views)
    taps = min(_PIL_TAPS, local_size - 1 | 1)
    local = View(size=local_size, scale=(0.05, border), **_BICUBIC, **_BYOL_COLOUR, blur=0.5, blur_kernel=taps)
    return [first, second, *[local] * local_views]


def dino(size: int = 224, local_size: int = 96, local_views: int = 8) -> ViewSpec:
    """DINO (2104.14294). facebookresearch/dino, main_dino.py, with its defaults; its longest runs took ten small crops
    and a border of 0.25."""
    return ViewSpec(_multi_crop(size, local_size, local_views, 0.4))


def ibot(size: int = 224, local_size: int = 96, local_views: int = 10, patch: int = 16) -> ViewSpec:
    """iBOT (2111.07832), ViT-S/16: a mask for each large crop. bytedance/ibot, loader.py, main_ibot.py and the command
    in its README."""
    side = size // patch
    mask = BlockMask(grid=(side, side), ratio=(0.1, 0.5), probability=0.5, smallest=max(1, side // 3) ** 2)
    return ViewSpec(_multi_crop(size, local_size, local_views, 0.25), [mask] * 2)


def dinov2(size: int = 224, local_size: int = 98, local_views: int = 8, patch: int = 14) -> ViewSpec:
    """DINOv2 (2304.07193): a mask for each large crop. Patches of 14, so that small crops have 98 pixels.
    facebookresearch/dinov2, dinov2/data (augmentations.py, masking.py, collate.py) and dinov2/configs
    (ssl_default_config.yaml, train/vitl14.yaml). Its blur takes one minus the probability by mistake; here the first
    crop is always blurred and the second seldom, as in DINO."""
    grid = (size // patch, size // patch)
    mask = BlockMask(grid=grid, ratio=(0.1, 0.5), probability=0.5)
    crops = _multi_crop(size, local_size, local_views, 0.32)
    return ViewSpec([replace(view, blur_kernel=min(9, view.size - 1 | 1)) for view in crops], [mask] * 2)


def ijepa(size: int = 224, patch: int = 14) -> ViewSpec:
    """I-JEPA (2301.08243), ViT-H/14: a crop that is not even mirrored, one context and four targets.
    facebookresearch/ijepa, src/transforms.py, src/masks/multiblock.py and configs/in1k_vith14_ep300.yaml."""
    grid = (size // patch, size // patch)
    return ViewSpec([View(size=size, scale=(0.3, 1.0), flip=0.0)], [ContextMask(grid=grid)])


def lejepa(size: int = 128, views: int = 4) -> ViewSpec:
    """LeJEPA (2511.08544), the minimal example. rbalestr-lab/lejepa, MINIMAL.md."""
    view = View(size=size, **_SIMCLR_COLOUR, blur=0.5, blur_kernel=min(7, size - 1 | 1), solarize=0.2)
    return ViewSpec.repeat(view, views)


def mae(size: int = 224, patch: int = 16) -> ViewSpec:
    """MAE (2111.06377): three quarters of the patches are masked. facebookresearch/mae, main_pretrain.py and
    models_mae.py."""
    view = View(size=size, scale=(0.2, 1.0), **_BICUBIC)
    return ViewSpec([view], [RandomMask(grid=(size // patch, size // patch), ratio=0.75)])


def simmim(size: int = 192, patch: int = 32) -> ViewSpec:
    """SimMIM (2111.09886): 60 % of larger patches; the encoder's own are smaller. microsoft/SimMIM, data/data_simmim.py
    and configs/swin_base__100ep; its ViT takes 224 pixels."""
    view = View(size=size, scale=(0.67, 1.0))
    return ViewSpec([view], [RandomMask(grid=(size // patch, size // patch), ratio=0.6)])


def beit(size: int = 224, patch: int = 16) -> ViewSpec:
    """BEiT (2106.08254): 75 of 196 patches. The second view is the same crop at half the size, for the tokenizer.
    microsoft/unilm, beit/datasets.py, masking_generator.py, run_beit_pretraining.py and the README's command for
    ImageNet-1k (for larger sets it takes means and deviations of 0.5); the jitter stands in the paper and in
    facebookresearch/data2vec_vision, beit/datasets.py."""
    grid = (size // patch, size // patch)
    view = View(size=size, **_BICUBIC, **_BEIT_COLOUR)
    # The tokenizer's levels are 0.8 x + 0.1 of a unit.
    tokens = replace(view, size=size // 2, normalize=Normalize(mean=(-0.125, -0.125, -0.125), std=(1.25, 1.25, 1.25)))
    return ViewSpec([view, tokens], [BlockMask(grid=grid, ratio=(75 / 196, 75 / 196), smallest=16)], draws=[0, 0])


def data2vec(size: int = 224, patch: int = 16) -> ViewSpec:
    """data2vec (2202.03555), images: BEiT's view and blocks over 120 of 196 patches. facebookresearch/data2vec_vision,
    beit/datasets.py and the command in beit/README.md."""
    grid = (size // patch, size // patch)
    view = View(size=size, **_BICUBIC, **_BEIT_COLOUR)
    return ViewSpec([view], [BlockMask(grid=grid, ratio=(120 / 196, 120 / 196), smallest=16)])


def autoencoder(size: int = 28) -> ViewSpec:
    """Autoencoder (Hinton and Salakhutdinov, Science 2006): the whole image. From the paper."""
    return ViewSpec([View(size=size, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)])


def denoising_autoencoder(size: int = 28, ratio: float = 0.25) -> ViewSpec:
    """Denoising autoencoder (Vincent et al., ICML 2008): the whole image and a share of its pixels to set to 0, which
    differs from set to set. From the paper, table 1."""
    return ViewSpec(autoencoder(size).views, [RandomMask(grid=(size, size), ratio=ratio)])


def context_prediction(size: int = 96, *, against: Literal["projection", "dropping"] = "projection") -> ViewSpec:
    """Context prediction (1505.05192): a patch and a neighbour. Against chromatic aberration this takes the paper's
    "projection" (section 3.1) unless asked for its "color dropping", which keeps one of the three channels of each
    patch, in the place of the others Gaussian noise. cdoersch/deepcontext, train.py, drops colours; it has uniform
    noise of a level's width, and blurs a third of the patches by a lower resolution.

    Raises:
        ValueError: for another remedy.
    """
    remedies = {
        "projection": View(size=size, flip=0.0, project=1.0),
        "dropping": View(size=size, flip=0.0, drop_channels=1.0),
    }
    if against not in remedies:
        raise ValueError(f"context_prediction: against must be {' or '.join(remedies)}, got {against!r}")
    return ViewSpec([PatchPair(view=remedies[against])])


def jigsaw(size: int = 64, permutations: int = 1000) -> ViewSpec:
    """Jigsaw (1603.09246): nine tiles, 30 % of the images without colour, each tile by its own mean and deviation. From
    the paper: the authors' MehdiNoroozi/JigsawPuzzleSolver, train_val_cfn_jps.prototxt, holds a smaller task, cells of
    85 pixels and 100 permutations."""
    view = View(size=size, flip=0.0, grayscale=0.3, normalize=Normalize(per_view=True))
    return ViewSpec([Tiles(view=view, permutations=permutations)])


def colorization(size: int = 176) -> ViewSpec:
    """Colorisation (1603.08511): 176 of 256 pixels, as Lab. L in units of 100 around 50, a and b of 110.
    richzhang/colorization, train/train_val.prototxt; the units are those of colorization-pytorch,
    options/base_options.py."""
    area = (176 / 256) ** 2
    lab = Normalize.lab(mean=(50.0, 0.0, 0.0), std=(100.0, 110.0, 110.0))
    return ViewSpec([View(size=size, scale=(area, area), ratio=(1.0, 1.0), normalize=lab)])


def inpainting(size: int = 128) -> ViewSpec:
    """Context encoder (1604.07379): the centre, a quarter of the view. Crops of 128 pixels from images of 350.
    pathak22/context-encoder, train.lua and data/donkey_folder.lua."""
    view = View(size=size, scale=(0.1, 0.13), ratio=(1.0, 1.0), normalize=_UNIT)
    return ViewSpec([view], [RegionMask(size=size)])


def inpainting_blocks(size: int = 128) -> ViewSpec:
    """Context encoder (1604.07379): random blocks that may overlap, a quarter of the view together at most. From the
    paper, section 3.3; the code's third way, regions cut from a pattern, is left out."""
    mask = RegionMask(size=size, place="random", regions=4, scale=(0.03, 0.0625), aspect=(0.5, 2.0))
    return ViewSpec(inpainting(size).views, [mask])


def rotation(size: int = 224) -> ViewSpec:
    """RotNet (1803.07728): one crop, turned four ways. gidariss/FeatureLearningRotNet, dataloader.py and
    config/ImageNet_RotNet_AlexNet.py."""
    return ViewSpec.rotations(View(size=size))


class Preset(NamedTuple):
    """A method's views."""

    views: Callable[[], ViewSpec]
    """Makes the specification; its arguments change sizes."""
    source: str
    """The paper's arXiv number, or where else it appeared."""


PRESETS: dict[str, Preset] = {
    "simclr": Preset(simclr, "2002.05709"),
    "moco_v1": Preset(moco_v1, "1911.05722"),
    "moco_v2": Preset(moco_v2, "2003.04297"),
    "moco_v3": Preset(moco_v3, "2104.02057"),
    "byol": Preset(byol, "2006.07733"),
    "simsiam": Preset(simsiam, "2011.10566"),
    "barlow_twins": Preset(barlow_twins, "2103.03230"),
    "vicreg": Preset(vicreg, "2105.04906"),
    "swav": Preset(swav, "2006.09882"),
    "deepcluster": Preset(deepcluster, "1807.05520"),
    "deepcluster_v2": Preset(deepcluster_v2, "2006.09882"),
    "dino": Preset(dino, "2104.14294"),
    "ibot": Preset(ibot, "2111.07832"),
    "dinov2": Preset(dinov2, "2304.07193"),
    "nnclr": Preset(nnclr, "2104.14548"),
    "ijepa": Preset(ijepa, "2301.08243"),
    "lejepa": Preset(lejepa, "2511.08544"),
    "mae": Preset(mae, "2111.06377"),
    "simmim": Preset(simmim, "2111.09886"),
    "beit": Preset(beit, "2106.08254"),
    "data2vec": Preset(data2vec, "2202.03555"),
    "autoencoder": Preset(autoencoder, "Science 2006"),
    "denoising_autoencoder": Preset(denoising_autoencoder, "ICML 2008"),
    "context_prediction": Preset(context_prediction, "1505.05192"),
    "jigsaw": Preset(jigsaw, "1603.09246"),
    "colorization": Preset(colorization, "1603.08511"),
    "inpainting": Preset(inpainting, "1604.07379"),
    "inpainting_blocks": Preset(inpainting_blocks, "1604.07379"),
    "rotation": Preset(rotation, "1803.07728"),
}
"""Every preset by the name that the command line uses."""
