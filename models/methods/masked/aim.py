"""AIM: foretell the pixels of each patch from those before it, row by row (arXiv 2401.08541)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from timm.layers.mlp import Mlp
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import next_patch_loss, normalize_patches, with_statistics_of
from headrace.models.method import Method
from headrace.models.parts.backbones import BackboneConfig
from headrace.models.parts.masked_vit import (
    build_patch_vit,
    filled_in,
    leading,
    mae_initialization,
    patchify,
    unpatchify,
)
from headrace.models.parts.pixels import can_undo, unit_pixels
from headrace.models.parts.positions import sine_cosine
from headrace.pipeline import Batch, Normalize, PrefixMask, View, ViewSpec
from headrace.pipeline.masks import PrefixMasks


def aim_600m() -> BackboneConfig:
    """The smallest of the authors' networks."""
    options = {"patch_size": 14, "embed_dim": 1536, "depth": 24, "num_heads": 12}
    return BackboneConfig(name="vit_base_patch16_224", options=options)


@dataclass(frozen=True, kw_only=True)
class AIMConfig:
    """AIM with the authors' network (apple/ml-aim at bd9e068, aim_600M) and the paper's training."""

    size: int = 224
    """Side of the square view, in pixels; a multiple of the backbone's patches."""
    crop_scale: tuple[float, float] = (0.4, 1.0)
    """Area of the random crop as a share of the image."""
    flip: float = 0.5
    """Probability of a horizontal flip; 0 turns it off."""
    normalize: Normalize = field(default_factory=Normalize)
    """Mean and deviation that views are normalised with."""
    normalize_targets: bool = True
    """Whether each patch's pixels are normalised before they are compared, as in the paper."""
    head_dim: int = 2048
    """Width of the head."""
    head_depth: int = 12
    """Its blocks."""
    probe_layers: int = 6
    """Last blocks of the backbone whose outputs are averaged for probes."""
    backbone: BackboneConfig = field(default_factory=aim_600m)
    """A timm ViT, which is given fixed positions, a norm behind the patches' projection, no class token and no biases
    but that projection's and the norms'."""

    def __post_init__(self) -> None:
        for name in ("head_dim", "head_depth", "probe_layers"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")


class PatchHead(nn.Module):
    """Blocks of a norm and an MLP, each patch by itself, between linear layers: (B, L, in_dim) to (B, L, numbers).

    Args:
        in_dim: width of the backbone.
        positions: float32 (L, in_dim), fixed, added to what comes in.
        dim: width of the head.
        depth: blocks.
        numbers: outputs for each patch.
    """

    positions: Tensor

    def __init__(self, in_dim: int, positions: Tensor, *, dim: int, depth: int, numbers: int) -> None:
        super().__init__()
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.register_buffer("positions", positions, persistent=False)
        self.embed = nn.Linear(in_dim, dim, bias=False)
        self.blocks = nn.ModuleList(nn.Sequential(norm(dim), Mlp(dim, 4 * dim, bias=False)) for _ in range(depth))
        self.norm = norm(dim)
        self.predict = nn.Linear(dim, numbers, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.embed(tokens + self.positions)
        for block in self.blocks:
            tokens = tokens + block(tokens)
        return self.predict(self.norm(tokens))


class AIM(Method):
    """Probes see a whole view, in which all patches see each other, and the mean over patches and the last blocks, as
    the authors' do before they pool with attention.

    Followed: apple/ml-aim at bd9e068, aim/torch/layers.py (PrefixCausalAttention, ViTPreprocessor, AverageLayers) and
    aim/torch/models.py; what trains is not published, and is the paper's. How long prefixes are comes with the batch.
    """

    config: AIMConfig
    inputs: ViewSpec

    def __init__(self, config: AIMConfig) -> None:
        super().__init__()
        self.config = config
        vit: Any
        fixed = {"qkv_bias": False, "proj_bias": False, "embed_norm_layer": "layernorm"}
        vit, self.feature_dim = build_patch_vit(config.backbone, config.size, **fixed)
        self.backbone = vit
        if config.probe_layers > len(vit.blocks):
            most = len(vit.blocks)
            raise ValueError(f"AIMConfig.probe_layers must be at most the backbone's {most}, got {config.probe_layers}")
        embed = vit.patch_embed
        self.patch = int(embed.patch_size[0])
        rows, columns = embed.grid_size
        self.head = PatchHead(
            self.feature_dim,
            sine_cosine(rows, columns, self.feature_dim),
            dim=config.head_dim,
            depth=config.head_depth,
            numbers=3 * self.patch**2,
        )
        mae_initialization(vit, self.head)
        nn.init.xavier_uniform_(embed.proj.weight.data.flatten(1))
        view = View(
            size=config.size,
            scale=config.crop_scale,
            interpolation="bicubic",
            flip=config.flip,
            normalize=config.normalize,
        )
        self.inputs = ViewSpec([view], [PrefixMask(grid=(rows, columns))])

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` alone; see `headrace.models.losses.next_patch_loss`."""
        (images,), masks = batch.normalized(), _masks(batch)
        target = patchify(images, self.patch)
        if self.config.normalize_targets:
            target = normalize_patches(target)
        return {"loss": next_patch_loss(self.predict(images, masks.prefix), target, masks.prefix)}

    def predict(self, images: Tensor, prefix: Tensor) -> Tensor:
        """(B, L, N): at each patch, the pixels of the next one, from what stands there and before, and the prefix."""
        vit: Any = self.backbone
        tokens = vit.patch_embed(images) + vit.pos_embed
        mask = prefix_attention(prefix, tokens.shape[1])
        for block in vit.blocks:
            tokens = block(tokens, attn_mask=mask)
        foretold: Tensor = self.head(vit.norm(tokens))
        return foretold

    def encode(self, batch: Batch) -> Tensor:
        (images,) = batch.normalized()
        vit: Any = self.backbone
        tokens = vit.patch_embed(images) + vit.pos_embed
        layers = []
        for block in vit.blocks:
            tokens = block(tokens)
            layers.append(tokens.mean(dim=1))
        return torch.stack(layers[-self.config.probe_layers :]).mean(dim=0)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """A view as it is ("input"), its prefix ("masked"), and each patch behind it as foretold from all before it
        ("reconstruction"). Where targets are normalised, predictions get the mean and deviation of the true patches, so
        that they look better than they are. None of views that are not RGB, or normalised by themselves."""
        if not can_undo(self.config.normalize):
            return {}
        (images,), masks = batch.normalized(), _masks(batch)
        patches = patchify(images, self.patch)
        foretold = torch.cat([patches[:, :1], self.predict(images, masks.prefix)[:, :-1].to(patches.dtype)], dim=1)
        if self.config.normalize_targets:
            foretold = with_statistics_of(foretold, patches, channels=1)
        hidden = ~leading(masks.prefix, patches.shape[1])
        shown = filled_in(self._levels(patches), self._levels(foretold), hidden)
        rows = self.config.size // self.patch
        return {name: unpatchify(each, self.patch, rows).float().clamp(0, 1) for name, each in shown.items()}

    def _levels(self, patches: Tensor) -> Tensor:
        """Patches (B, L, N) as levels from 0 to 1."""
        images = unpatchify(patches, self.patch, self.config.size // self.patch)
        return patchify(unit_pixels(images, self.config.normalize), self.patch)


def prefix_attention(prefix: Tensor, length: int) -> Tensor:
    """bool (B, 1, length, length): True where a patch, a row, sees another, a column: one that is not behind it, or is
    one of the first `prefix` (B,)."""
    before = torch.ones(length, length, dtype=torch.bool, device=prefix.device).tril()
    return (before | leading(prefix, length)[:, None])[:, None]


def _masks(batch: Batch) -> PrefixMasks:
    (masks,) = batch.masks
    assert isinstance(masks, PrefixMasks)
    return masks
