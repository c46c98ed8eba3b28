"""I-JEPA: from one block of patches, predict what a slow copy of the encoder says of four others (arXiv 2301.08243)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.checks import require
from headrace.models.losses import target_regression
from headrace.models.method import Context, Method, ParameterGroup, kernels_and_vectors
from headrace.models.parts.backbones import BackboneConfig
from headrace.models.parts.latent_predictor import LatentPredictor
from headrace.models.parts.masked_vit import (
    build_patch_vit,
    encode_visible,
    leading,
    patchify,
    take,
    truncated_initialization,
    unpatchify,
)
from headrace.models.parts.momentum import follow, slow_copy
from headrace.models.parts.pixels import can_undo, unit_pixels
from headrace.models.parts.positions import sine_cosine
from headrace.models.parts.precision import widened
from headrace.models.parts.schedules import linear
from headrace.pipeline import Batch, ContextMask, Normalize, View, ViewSpec
from headrace.pipeline.masks import ContextMasks


@dataclass(frozen=True, kw_only=True)
class IJEPAConfig:
    """I-JEPA with the authors' values for ImageNet (facebookresearch/ijepa at 52c1ae9, configs/in1k_vith14_ep300.yaml).

    The paper's ViT-B/16 has a predictor of 6 blocks and 12 heads.
    """

    size: int = 224
    """Side of the square view, in pixels; a multiple of the backbone's patches."""
    crop_scale: tuple[float, float] = (0.3, 1.0)
    """Area of the random crop as a share of the image."""
    flip: float = 0.0
    """Probability of a horizontal flip; 0 turns it off, as in the authors' runs."""
    normalize: Normalize = field(default_factory=Normalize)
    """Mean and deviation that views are normalised with."""
    targets: int = 4
    """Blocks to predict."""
    target_scale: tuple[float, float] = (0.15, 0.2)
    """Area of each of them as a share of the view."""
    target_aspect: tuple[float, float] = (0.75, 1.5)
    """Their height over their width."""
    context_scale: tuple[float, float] = (0.85, 1.0)
    """Area of the context's block as a share of the view, before the targets are taken out."""
    smallest_context: int = 11
    """Patches that are left in a context at least."""
    predictor_dim: int = 384
    """Width of the predictor."""
    predictor_depth: int = 12
    """Its blocks."""
    predictor_heads: int = 16
    """Its attention heads; the authors take the encoder's number."""
    momentum: float = 0.996
    """Of the slow copy at the beginning; it rises to 1 on a line."""
    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="vit_huge_patch14_224"))
    """The encoder, a timm ViT, which is given fixed positions and no class token."""

    def __post_init__(self) -> None:
        for name in ("predictor_dim", "predictor_depth", "predictor_heads"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")
        require(self.predictor_dim % self.predictor_heads == 0, self, "predictor_dim", "be a multiple of its heads")
        require(0 <= self.momentum <= 1, self, "momentum", "lie in [0, 1]")


class IJEPA(Method):
    """Probes see the mean of the slow copy's tokens of a whole view, as the authors' do.

    Followed: facebookresearch/ijepa at 52c1ae9, src/train.py, src/models/vision_transformer.py, src/masks/multiblock.py
    and src/helper.py, configs. The slow copy sees the whole view, and targets are taken out of what it makes of it.
    """

    config: IJEPAConfig
    inputs: ViewSpec

    def __init__(self, config: IJEPAConfig) -> None:
        super().__init__()
        self.config = config
        self.student, self.feature_dim = build_patch_vit(config.backbone, config.size)
        embed = self.student.patch_embed
        self.patch = int(embed.patch_size[0])
        rows, columns = embed.grid_size
        truncated_initialization(self.student)
        self.backbone = slow_copy(self.student)
        self.predictor = LatentPredictor(
            self.feature_dim,
            sine_cosine(rows, columns, config.predictor_dim),
            depth=config.predictor_depth,
            heads=config.predictor_heads,
        )
        view = View(size=config.size, scale=config.crop_scale, flip=config.flip, normalize=config.normalize)
        mask = ContextMask(
            grid=(rows, columns),
            targets=config.targets,
            target_scale=config.target_scale,
            target_aspect=config.target_aspect,
            context_scale=config.context_scale,
            smallest_context=config.smallest_context,
        )
        self.inputs = ViewSpec([view], [mask])

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` alone; see `headrace.models.losses.target_regression`."""
        (images,), masks = batch.normalized(), _masks(batch)
        encoded = encode_visible(self.student, images, masks.context, masks.context_count)
        prediction = self.predictor(encoded, *masks)
        return {"loss": target_regression(prediction, self.targets(images, masks.targets), masks.target_count)}

    @torch.no_grad()
    def targets(self, images: Tensor, numbers: Tensor) -> Tensor:
        """(B, T, K, D): what the slow copy makes of patches (B, T, K) that stand in whole views, each with mean 0 and
        variance 1 over its own numbers."""
        vit: Any = self.backbone
        tokens = widened(vit.forward_features(images))
        tokens = F.layer_norm(tokens, tokens.shape[-1:])
        return take(tokens, numbers.clamp(min=0).flatten(1)).unflatten(1, numbers.shape[1:])

    def parameter_groups(self) -> list[ParameterGroup]:
        """Biases and norms do not decay; the mask token does."""
        return kernels_and_vectors(self.student, self.predictor)

    def after_step(self, context: Context) -> None:
        """The slow copy follows."""
        follow(self.backbone, self.student, linear(self.config.momentum, 1.0, context.progress))

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """A view as it is ("input"), as the encoder sees it ("context"), and what is to be predicted ("targets"). None
        of views that are not RGB, or normalised by themselves."""
        if not can_undo(self.config.normalize):
            return {}
        (images,), masks = batch.normalized(), _masks(batch)
        patches = patchify(unit_pixels(images, self.config.normalize), self.patch)
        seen = _marked(masks.context[:, None], masks.context_count[:, None], patches.shape[1])
        wanted = _marked(masks.targets, masks.target_count, patches.shape[1])
        shown = {
            "input": patches,
            "context": torch.where(seen[:, :, None], patches, 0.5),
            "targets": torch.where(wanted[:, :, None], patches, 0.5),
        }
        rows = self.config.size // self.patch
        return {name: unpatchify(each, self.patch, rows).float().clamp(0, 1) for name, each in shown.items()}


def _masks(batch: Batch) -> ContextMasks:
    (masks,) = batch.masks
    assert isinstance(masks, ContextMasks)
    return masks


def _marked(numbers: Tensor, count: Tensor, length: int) -> Tensor:
    """bool (B, L): True for patches that are among the first `count` (B, T) of `numbers` (B, T, K) of any of T."""
    places = torch.where(leading(count, numbers.shape[2]), numbers, length).flatten(1)
    marked = torch.zeros(len(numbers), length + 1, dtype=torch.bool, device=numbers.device)
    return marked.scatter_(1, places, True)[:, :length]
