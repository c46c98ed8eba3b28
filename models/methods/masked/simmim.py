"""SimMIM: hide large patches, and read their pixels off the encoder with one layer (arXiv 2111.09886)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from timm.models.beit import Beit
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import masked_pixel_loss
from headrace.models.method import Method, ParameterGroup
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.beit import beit_initialization, beit_layers, cut_normal, groups_without_decay
from headrace.models.parts.masked_vit import encode_with_mask_tokens, hidden_of
from headrace.models.parts.pixels import can_undo, unit_pixels
from headrace.pipeline import Batch, Normalize, RandomMask, View, ViewSpec
from headrace.pipeline.masks import PatchMasks


def swin_base() -> BackboneConfig:
    """Swin-B with windows of 6 patches, in which all layers are in every pass."""
    return BackboneConfig(name="swin_base_patch4_window7_224", options={"window_size": 6, "drop_path_rate": 0.0})


@dataclass(frozen=True, kw_only=True)
class SimMIMConfig:
    """SimMIM with the authors' values for Swin-B on ImageNet (microsoft/SimMIM at d3e29bc,
    configs/swin_base__100ep). Their ViT-B takes views of 224 pixels and
    `headrace.models.parts.beit.beit_vit(layer_scale=0.1, drop_path=0.1)`."""

    size: int = 192
    """Side of the square view, in pixels; a multiple of `mask_unit`."""
    crop_scale: tuple[float, float] = (0.67, 1.0)
    """Area of the random crop as a share of the image."""
    flip: float = 0.5
    """Probability of a horizontal flip; 0 turns it off."""
    normalize: Normalize = field(default_factory=Normalize)
    """Mean and deviation that views are normalised with."""
    mask_unit: int = 32
    """Side of the squares that are hidden as a whole, in pixels; a multiple of the encoder's patches. The authors' is
    the same for all encoders."""
    mask_ratio: float = 0.6
    """Share of these squares that is hidden."""
    backbone: BackboneConfig = field(default_factory=swin_base)
    """The encoder, a Swin, Beit or ViT of timm's, with its norm before its features are pooled."""

    def __post_init__(self) -> None:
        require(self.mask_unit >= 1, self, "mask_unit", "be at least 1")
        require(self.size % self.mask_unit == 0, self, "size", f"be a multiple of mask_unit, {self.mask_unit}")


class SimMIM(Method):
    """The encoder sees all patches, of which hidden ones are one learnt token. Probes see what the backbone makes of a
    whole view: the mean of its patches behind the last norm.

    Followed: microsoft/SimMIM at d3e29bc, models/simmim.py, vision_transformer.py and swin_transformer.py,
    data/data_simmim.py and optimizer.py. Which squares are hidden comes with the batch.
    """

    config: SimMIMConfig
    inputs: ViewSpec

    def __init__(self, config: SimMIMConfig) -> None:
        super().__init__()
        self.config = config
        options = {"img_size": config.size, **config.backbone.options}
        self.backbone, self.feature_dim = build_backbone(replace(config.backbone, options=options))
        network: Any = self.backbone
        known = isinstance(network, (Beit, SwinTransformer, VisionTransformer))
        if not known or not isinstance(network.norm, nn.LayerNorm):
            raise ValueError(
                "SimMIMConfig.backbone must be a Swin, Beit or ViT of timm's with its norm before features are pooled, "
                f"{config.backbone.name} with {config.backbone.options} is not one"
            )
        self.patch = int(network.patch_embed.patch_size[0])
        stride = int(network.feature_info[-1]["reduction"])
        require(config.mask_unit % self.patch == 0, config, "mask_unit", f"be a multiple of {self.patch}, the patches")
        require(config.size % stride == 0, config, "size", f"be a multiple of {stride}, the encoder's last stride")
        self.mask_token = nn.Parameter(torch.zeros(1, 1, network.patch_embed.proj.out_channels))
        if isinstance(network, Beit):
            beit_initialization(network)
            cut_normal(self.mask_token)
        else:
            nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.decoder = nn.Sequential(nn.Conv2d(self.feature_dim, 3 * stride**2, 1), nn.PixelShuffle(stride))
        view = View(size=config.size, scale=config.crop_scale, flip=config.flip, normalize=config.normalize)
        units = config.size // config.mask_unit
        self.inputs = ViewSpec([view], [RandomMask(grid=(units, units), ratio=config.mask_ratio)])

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` alone; see `headrace.models.losses.masked_pixel_loss`."""
        images, reconstruction, hidden = self._pictures(batch)
        return {"loss": masked_pixel_loss(reconstruction, images, hidden)}

    def parameter_groups(self) -> list[ParameterGroup]:
        """Tokens, absolute positions, biases and norms do not decay; tables of relative positions do."""
        return groups_without_decay(self, "mask_token", "cls_token", "pos_embed")

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """A view as it is ("input"), as the encoder sees it ("masked"), and filled in ("reconstruction"). None of views
        that are not RGB, or normalised by themselves."""
        if not can_undo(self.config.normalize):
            return {}
        images, reconstruction, hidden = self._pictures(batch)
        levels, filled = (unit_pixels(each.float(), self.config.normalize) for each in (images, reconstruction))
        where = hidden[:, None]
        shown = {
            "input": levels,
            "masked": torch.where(where, 0.5, levels),
            "reconstruction": torch.where(where, filled, levels),
        }
        return {name: picture.clamp(0, 1) for name, picture in shown.items()}

    def _pictures(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Views and what is made of them, (B, 3, H, W) both, and where pixels were hidden, bool (B, H, W)."""
        (images,), (masks,) = batch.normalized(), batch.masks
        assert isinstance(masks, PatchMasks)
        units = self.config.size // self.config.mask_unit
        hidden = hidden_of(masks.visible, units**2).unflatten(1, (units, units))
        patches = enlarged(hidden, self.config.mask_unit // self.patch)
        features = feature_map(self.backbone, images, patches, self.mask_token)
        return images, self.decoder(features), enlarged(hidden, self.config.mask_unit)


def enlarged(mask: Tensor, times: int) -> Tensor:
    """(B, rows, columns) with every place `times` as high and wide."""
    return mask.repeat_interleave(times, dim=1).repeat_interleave(times, dim=2)


def feature_map(network: Any, images: Tensor, masked: Tensor, mask_token: Tensor) -> Tensor:
    """(B, D, rows, columns): a Swin's, Beit's or ViT's patches behind all blocks and the last norm, without the tokens
    in front of them. One learnt token stands for each hidden patch.

    Args:
        images: (B, 3, H, W).
        masked: bool (B, H / patch, W / patch), True where a patch is hidden.
        mask_token: (1, 1, D) of the first block; it stands behind the patches' embedding, before positions are added.
    """
    if isinstance(network, SwinTransformer):
        tokens = network.patch_embed(images)  # (B, rows, columns, D)
        tokens = torch.where(masked[..., None], mask_token.to(tokens.dtype)[:, None], tokens)
        return network.norm(network.layers(tokens)).permute(0, 3, 1, 2)
    if isinstance(network, Beit):
        tokens = network.norm(beit_layers(network, images, masked.flatten(1), mask_token)[-1])
    else:
        tokens = encode_with_mask_tokens(network, images, masked.flatten(1), mask_token)
    return tokens[:, network.num_prefix_tokens :].transpose(1, 2).unflatten(2, masked.shape[1:])
