"""MoCo v3: a prediction finds its key, of a slow network, among the keys of the batch (arXiv 2104.02057)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import in_batch_info_nce
from headrace.models.method import Context, Method, ParameterGroup, kernels_and_vectors
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.heads import mlp
from headrace.models.parts.masked_vit import fixed_positions
from headrace.models.parts.momentum import follow, slow_copy
from headrace.models.parts.schedules import cosine
from headrace.models.parts.views import BYOLViews
from headrace.pipeline import Batch, ViewSpec


def vit_small() -> BackboneConfig:
    """ViT-S/16 with the authors' twelve heads, of which timm's has six."""
    return BackboneConfig(name="vit_small_patch16_224", options={"num_heads": 12})


@dataclass(frozen=True, kw_only=True)
class MoCoV3Config(BYOLViews):
    """MoCo v3 with the authors' values for ResNet-50 on ImageNet (facebookresearch/moco-v3 at c349e6e, CONFIG.md); its
    views are BYOL's."""

    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Area of the random crop as a share of the image; the authors take 0.08 and more for ViTs."""
    temperature: float = 1.0
    """Temperature of the loss; 0.2 for ViTs."""
    momentum: float = 0.99
    """Of the slow network at the beginning; it rises to 1 on a cosine. 0.996 for 1,000 epochs of ResNet-50."""
    hidden_dim: int = 4096
    """Width of the hidden layers of projector and predictor."""
    projection_dim: int = 256
    """Their output dimension."""
    projector_layers: int = 2
    """Of the projector; 3 for ViTs."""
    predictor_norm: bool = False
    """A batch norm without scale and shift behind the predictor, as for ViTs."""
    frozen_patches: bool = False
    """Whether a ViT's projection of patches stays as it is drawn, which the authors do for ViTs against instability."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The network that is kept. Positions of a ViT become sines and cosines."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.temperature > 0, self, "temperature", "be above 0")
        require(0 <= self.momentum <= 1, self, "momentum", "lie in [0, 1]")
        for name in ("hidden_dim", "projection_dim", "projector_layers"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")


class MoCoV3(Method):
    """Probes see the backbone's output, without projector and predictor.

    Followed: facebookresearch/moco-v3 at c349e6e, moco/builder.py, main_moco.py and vits.py. Each view passes alone. A
    step of theirs moves the slow network before it makes keys, here the step before does after the optimiser, with the
    momentum of the next: the same weights.
    """

    config: MoCoV3Config
    inputs: ViewSpec

    def __init__(self, config: MoCoV3Config) -> None:
        super().__init__()
        self.config = config
        self.inputs = config.views()
        self.backbone, self.feature_dim = build_backbone(config.backbone)
        vit: Any = self.backbone
        self.is_vit = isinstance(vit, timm.models.VisionTransformer)
        if self.is_vit:
            _as_the_authors(vit)
        if config.frozen_patches:
            if not hasattr(vit, "patch_embed"):
                raise ValueError(f"MoCoV3Config.frozen_patches is for ViTs, {config.backbone.name} is not one")
            vit.patch_embed.requires_grad_(False)
        hidden = (config.hidden_dim,) * (config.projector_layers - 1)
        self.projector = mlp(
            (self.feature_dim, *hidden, config.projection_dim), bias=False, last_bias=False, last_norm="plain"
        )
        self.predictor = mlp(
            (config.projection_dim, config.hidden_dim, config.projection_dim),
            bias=False,
            last_bias=False,
            last_norm="plain" if config.predictor_norm else "none",
        )
        self.slow_backbone, self.slow_projector = slow_copy(self.backbone), slow_copy(self.projector)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` alone: both directions of `headrace.models.losses.in_batch_info_nce`, added, times twice the
        temperature."""
        views, temperature = batch.normalized(), self.config.temperature
        queries = [self.predictor(self.projector(self.backbone(view))) for view in views]
        with torch.no_grad():
            keys = [self.slow_projector(self.slow_backbone(view)) for view in views]
        both = [
            in_batch_info_nce(query, key, temperature, key_gradient=False)
            for query, key in zip(queries, reversed(keys), strict=True)
        ]
        return {"loss": 2 * temperature * torch.stack(both).sum()}

    def parameter_groups(self) -> list[ParameterGroup]:
        """Of a ViT all decay, biases and norms as well."""
        if self.is_vit:
            return [ParameterGroup(params=[p for p in self.parameters() if p.requires_grad])]
        return kernels_and_vectors(self)

    def after_step(self, context: Context) -> None:
        """The slow network moves."""
        momentum = cosine(self.config.momentum, 1.0, (context.step + 1) / context.total_steps)
        follow(self.slow_backbone, self.backbone, momentum)
        follow(self.slow_projector, self.projector, momentum)


def _as_the_authors(vit: Any) -> None:
    """Fixed positions; Xavier-uniform linear layers, with queries, keys and values as three of them, and projection of
    patches; biases at zero, the class token next to it."""
    fixed_positions(vit, row_first=True)
    for name, layer in vit.named_modules():
        if isinstance(layer, nn.Linear):
            parts = layer.weight.data.chunk(3) if name.endswith("qkv") else [layer.weight.data]
            for part in parts:
                nn.init.xavier_uniform_(part)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    if vit.cls_token is not None:
        nn.init.normal_(vit.cls_token, std=1e-6)
    if isinstance(vit.patch_embed, PatchEmbed):
        nn.init.xavier_uniform_(vit.patch_embed.proj.weight.data.flatten(1))
        if vit.patch_embed.proj.bias is not None:
            nn.init.zeros_(vit.patch_embed.proj.bias)
