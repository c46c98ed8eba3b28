"""MAE: see a quarter of the patches, fill in the pixels of the others (arXiv 2111.06377)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import masked_patch_loss, normalize_patches, with_statistics_of
from headrace.models.method import Method
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.masked_vit import (
    MaskedDecoder,
    encode_visible,
    filled_in,
    fixed_positions,
    hidden_of,
    mae_initialization,
    patchify,
    unpatchify,
)
from headrace.models.parts.pixels import can_undo, unit_pixels
from headrace.models.parts.positions import sine_cosine
from headrace.pipeline import Batch, Normalize, RandomMask, View, ViewSpec
from headrace.pipeline.masks import PatchMasks


@dataclass(frozen=True, kw_only=True)
class MAEConfig:
    """MAE with the authors' values for ImageNet (facebookresearch/mae at efb2a80, PRETRAIN.md)."""

    size: int = 224
    """Side of the square view, in pixels; a multiple of the backbone's patches."""
    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Area of the random crop as a share of the image."""
    flip: float = 0.5
    """Probability of a horizontal flip; 0 turns it off."""
    normalize: Normalize = field(default_factory=Normalize)
    """Mean and deviation that views are normalised with."""
    mask_ratio: float = 0.75
    """Share of the patches that is hidden."""
    normalize_targets: bool = True
    """Whether each patch's pixels are normalised before they are compared; on in the published runs."""
    decoder_dim: int = 512
    """Width of the decoder."""
    decoder_depth: int = 8
    """Its blocks."""
    decoder_heads: int = 16
    """Its attention heads."""
    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="vit_base_patch16_224"))
    """The encoder, a timm ViT with a class token; its positions become sines and cosines."""

    def __post_init__(self) -> None:
        for name in ("decoder_dim", "decoder_depth", "decoder_heads"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")
        require(self.decoder_dim % self.decoder_heads == 0, self, "decoder_dim", "be a multiple of decoder_heads")


class MAE(Method):
    """Probes see the class token of a whole view, or what else the backbone makes of its tokens.

    Followed: facebookresearch/mae at efb2a80, models_mae.py and main_pretrain.py. Which patches are hidden comes with
    the batch.
    """

    config: MAEConfig
    inputs: ViewSpec

    def __init__(self, config: MAEConfig) -> None:
        super().__init__()
        self.config = config
        options = {"img_size": config.size, **config.backbone.options}
        self.backbone, self.feature_dim = build_backbone(BackboneConfig(name=config.backbone.name, options=options))
        vit: Any = self.backbone
        if getattr(vit, "num_prefix_tokens", 0) != 1 or not hasattr(vit, "blocks"):
            raise ValueError(f"MAEConfig.backbone must be a ViT with a class token, {config.backbone.name} is not one")
        fixed_positions(vit)
        self.patch = int(vit.patch_embed.patch_size[0])
        rows, columns = grid = vit.patch_embed.grid_size
        self.decoder = MaskedDecoder(
            self.feature_dim,
            sine_cosine(rows, columns, config.decoder_dim),
            depth=config.decoder_depth,
            heads=config.decoder_heads,
            numbers=3 * self.patch**2,
            prefix=1,
            embed_bias=True,
            attention=Attention,
        )
        mae_initialization(vit, self.decoder)
        nn.init.xavier_uniform_(vit.patch_embed.proj.weight.data.flatten(1))
        for token in (vit.cls_token, self.decoder.mask_token):
            nn.init.normal_(token, std=0.02)
        view = View(
            size=config.size,
            scale=config.crop_scale,
            interpolation="bicubic",
            flip=config.flip,
            normalize=config.normalize,
        )
        self.inputs = ViewSpec([view], [RandomMask(grid=grid, ratio=config.mask_ratio)])

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` alone; see `headrace.models.losses.masked_patch_loss`."""
        target, prediction, hidden = self._patches(batch)
        if self.config.normalize_targets:
            target = normalize_patches(target)
        return {"loss": masked_patch_loss(prediction, target, hidden)}

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """A view as it is ("input"), as the encoder sees it ("masked"), and filled in ("reconstruction"). Where targets
        are normalised, predictions get the mean and deviation of the true patches, so that they look better than they
        are. None of views that are not RGB, or normalised by themselves."""
        if not can_undo(self.config.normalize):
            return {}
        patches, prediction, hidden = self._patches(batch)
        if self.config.normalize_targets:
            prediction = with_statistics_of(prediction, patches, channels=1)
        shown = filled_in(self._levels(patches), self._levels(prediction), hidden)
        rows = self.config.size // self.patch
        return {name: unpatchify(each, self.patch, rows).float().clamp(0, 1) for name, each in shown.items()}

    def _patches(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Patches as the network sees them and as the decoder predicts them, (B, L, N) each, and which were hidden,
        bool (B, L)."""
        (images,), (masks,) = batch.normalized(), batch.masks
        assert isinstance(masks, PatchMasks)
        prediction = self.decoder(encode_visible(self.backbone, images, masks.visible), masks.visible)
        patches = patchify(images, self.patch)
        return patches, prediction, hidden_of(masks.visible, patches.shape[1])

    def _levels(self, patches: Tensor) -> Tensor:
        """Patches (B, L, N) as levels from 0 to 1."""
        images = unpatchify(patches, self.patch, self.config.size // self.patch)
        return patchify(unit_pixels(images, self.config.normalize), self.patch)
