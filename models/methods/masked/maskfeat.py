"""MaskFeat: say how gradients are oriented in patches that are hidden (arXiv 2112.09133)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import (
    cells_from_patches,
    cells_of_patches,
    drawn_gradients,
    masked_patch_loss,
    oriented_gradients,
)
from headrace.models.losses.gradients import BINS
from headrace.models.method import Method
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.beit import block_mask, hidden_places
from headrace.models.parts.masked_vit import encode_with_mask_tokens, take
from headrace.pipeline import Batch, Normalize, View, ViewSpec
from headrace.pipeline.masks import BlockMasks


@dataclass(frozen=True, kw_only=True)
class MaskFeatConfig:
    """MaskFeat with the authors' values for ImageNet (facebookresearch/SlowFast at 287ec00,
    configs/masked_ssl/in1k_VIT_B_MaskFeat_PT.yaml)."""

    size: int = 224
    """Side of the square view, in pixels; a multiple of the backbone's patches."""
    crop_scale: tuple[float, float] = (0.5, 1.0)
    """Area of the random crop as a share of the image."""
    flip: float = 0.5
    """Probability of a horizontal flip; 0 turns it off."""
    normalize: Normalize = field(default_factory=Normalize)
    """Mean and deviation that views are normalised with, before gradients are taken."""
    mask_ratio: float = 0.4
    """Share of the patches that is hidden, in blocks of at least a fifth of their number."""
    cell: int = 8
    """Side of the cells that gradients are counted in, in pixels; a divisor of the patches'."""
    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="vit_base_patch16_224"))
    """The encoder, a timm ViT with its norm before its features are pooled."""

    def __post_init__(self) -> None:
        require(0 < self.mask_ratio < 1, self, "mask_ratio", "lie in (0, 1)")
        require(self.cell >= 1, self, "cell", "be at least 1")


class MaskFeat(Method):
    """The encoder sees all patches, of which hidden ones are one learnt token. Probes see the class token of a whole
    view, or what else the backbone makes of its tokens.

    Followed: facebookresearch/SlowFast at 287ec00, slowfast/models/masked.py, operators.py (HOGLayerC), head_helper.py
    (MSSeparateHead), video_model_builder.py (the first weights) and datasets/transform.py. Which patches are hidden
    comes with the batch. The backbone's last norm is their head's.
    """

    config: MaskFeatConfig
    inputs: ViewSpec

    def __init__(self, config: MaskFeatConfig) -> None:
        super().__init__()
        self.config = config
        options = {"img_size": config.size, **config.backbone.options}
        self.backbone, self.feature_dim = build_backbone(replace(config.backbone, options=options))
        vit: Any = self.backbone
        if not isinstance(vit, VisionTransformer) or not isinstance(vit.norm, nn.LayerNorm):
            raise ValueError(
                "MaskFeatConfig.backbone must be a ViT of timm's with its norm before features are pooled, "
                f"{config.backbone.name} with {config.backbone.options} is not one"
            )
        self.patch = int(vit.patch_embed.patch_size[0])
        require(self.patch % config.cell == 0, config, "cell", f"divide the patches, which have {self.patch} pixels")
        self.cells = self.patch // config.cell
        self.mask_token = nn.Parameter(torch.zeros(1, 1, vit.embed_dim))
        self.predict = nn.Linear(vit.embed_dim, 3 * BINS * self.cells**2)
        _as_the_authors(vit)
        for tensor in (self.mask_token, self.predict.weight):
            nn.init.trunc_normal_(tensor, std=0.02)
        nn.init.zeros_(self.predict.bias)
        rows, columns = grid = vit.patch_embed.grid_size
        self.hidden = round(config.mask_ratio * rows * columns)
        require(0 < self.hidden < rows * columns, config, "mask_ratio", "hide some patches and not all")
        view = View(
            size=config.size,
            scale=config.crop_scale,
            interpolation="bicubic",
            flip=config.flip,
            normalize=config.normalize,
        )
        self.inputs = ViewSpec([view], [block_mask(grid, self.hidden, max(1, self.hidden // 5))])

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`: the mean squared error over the numbers of all hidden patches."""
        (images,), (masks,) = batch.normalized(), batch.masks
        assert isinstance(masks, BlockMasks)
        places = hidden_places(masks.masked, self.hidden)
        target = cells_of_patches(oriented_gradients(images, self.config.cell), self.cells)
        tokens = encode_with_mask_tokens(self.backbone, images, masks.masked, self.mask_token)
        prediction = self.predict(take(tokens[:, tokens.shape[1] - target.shape[1] :], places))
        return {"loss": masked_patch_loss(prediction, take(target, places))}

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The gradients of a view ("input"), those of the patches that the encoder sees ("masked"), and with the others
        as predicted ("prediction"): a line along the edge for each orientation in each cell."""
        (images,), (masks,) = batch.normalized(), batch.masks
        assert isinstance(masks, BlockMasks)
        target = cells_of_patches(oriented_gradients(images, self.config.cell), self.cells)
        tokens = encode_with_mask_tokens(self.backbone, images, masks.masked, self.mask_token)
        prediction = self.predict(tokens[:, tokens.shape[1] - target.shape[1] :]).float()
        where, rows = masks.masked[:, :, None], self.config.size // self.patch
        shown = {
            "input": target,
            "masked": torch.where(where, 0.0, target),
            "prediction": torch.where(where, prediction, target),
        }
        return {
            name: drawn_gradients(cells_from_patches(each, self.cells, rows), self.config.cell).expand(-1, 3, -1, -1)
            for name, each in shown.items()
        }


@torch.no_grad()
def _as_the_authors(vit: Any) -> None:
    """Weights of deviation 0.02, and biases of 0.02, those of norms as well, but for the last norm's."""
    for layer in vit.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if isinstance(layer, nn.Linear) and layer.bias is not None:
                nn.init.constant_(layer.bias, 0.02)
        elif isinstance(layer, nn.LayerNorm):
            nn.init.constant_(layer.bias, 0.02)
    nn.init.zeros_(vit.norm.bias)
    for name in ("cls_token", "pos_embed"):
        if getattr(vit, name, None) is not None:
            nn.init.trunc_normal_(getattr(vit, name), std=0.02)
