"""What BEiT, data2vec and SimMIM share: a ViT with relative positions, and blocks of hidden patches."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from timm.models.beit import Beit
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.method import ParameterGroup
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.pixels import can_undo, unit_pixels
from headrace.pipeline import BlockMask, Normalize, View, ViewSpec

DEVIATION = 0.02
"""Of fresh weights before they are cut."""


@dataclass(frozen=True, kw_only=True)
class BEiTViews:
    """BEiT's view and what is hidden of it; data2vec takes them, too.

    microsoft/unilm at 768a3c8, beit/datasets.py and masking_generator.py; facebookresearch/data2vec_vision at af9a363,
    the same files. They change colours before the crop, so that contrast goes by the whole picture's mean, and leave
    fewer patches hidden where ten tries place no block.
    """

    size: int = 224
    """Side of the square view, in pixels; a multiple of the backbone's patches."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Area of the random crop as a share of the image."""
    flip: float = 0.5
    """Probability of a horizontal flip; 0 turns it off."""
    jitter: float = 0.4
    """Strength of the changes of brightness, contrast and saturation, each of which is always made; 0 turns them
    off."""
    normalize: Normalize = field(default_factory=Normalize)
    """Mean and deviation that views are normalised with; the authors take 0.5 for sets other than ImageNet-1k."""
    masked_patches: int = 75
    """Patches that are hidden, in blocks."""
    smallest_block: int = 16
    """Patches of the smallest block that is tried."""

    def __post_init__(self) -> None:
        require(self.jitter >= 0, self, "jitter", "not be negative")
        require(self.masked_patches >= 1, self, "masked_patches", "be at least 1")
        self.view()  # its fields' limits are View's

    def view(self) -> View:
        """What is drawn."""
        view = View(
            size=self.size,
            scale=self.crop_scale,
            interpolation="bicubic",
            flip=self.flip,
            normalize=self.normalize,
        )
        if self.jitter > 0:
            view = replace(view, jitter=1.0, brightness=self.jitter, contrast=self.jitter, saturation=self.jitter)
        return view

    def views(self, grid: tuple[int, int]) -> ViewSpec:
        """One view, and which patches of the grid are hidden of it."""
        patches = math.prod(grid)
        require(self.masked_patches < patches, self, "masked_patches", f"be below {patches}, the patches of a view")
        return ViewSpec([self.view()], [block_mask(grid, self.masked_patches, self.smallest_block)])


def block_mask(grid: tuple[int, int], masked: int, smallest: int) -> BlockMask:
    """Blocks over exactly `masked` patches of each sample."""
    ratio = masked / math.prod(grid)
    return BlockMask(grid=grid, ratio=(ratio, ratio), smallest=smallest)


def hidden_places(masked: Tensor, number: int) -> Tensor:
    """int64 (B, number), ascending: the patches that bool (B, L) says are hidden, `number` of them in each sample."""
    return masked.byte().argsort(dim=1, descending=True, stable=True)[:, :number]


def hidden_pictures(images: Tensor, masked: Tensor, patch: int, normalize: Normalize) -> dict[str, Tensor]:
    """Views (B, 3, H, W) as they are ("input") and with hidden patches, bool (B, L), in mid-grey ("masked"), in levels
    from 0 to 1. None of views that are not RGB, or normalised by themselves."""
    if not can_undo(normalize):
        return {}
    levels = unit_pixels(images.float(), normalize).clamp(0, 1)
    grid = masked.unflatten(1, (images.shape[2] // patch, -1))
    where = grid.repeat_interleave(patch, dim=1).repeat_interleave(patch, dim=2)
    return {"input": levels, "masked": torch.where(where[:, None], 0.5, levels)}


def beit_vit(*, layer_scale: float, drop_path: float, attention_dropout: float = 0.0) -> BackboneConfig:
    """BEiT's ViT-B/16: no absolute positions, one table of relative positions for all blocks, biases on queries and
    values only. Features are the mean of the patches behind the last norm.

    Args:
        layer_scale: what the factors of residual branches start from.
    """
    options = {**_SHARED, "init_values": layer_scale, "drop_path_rate": drop_path}
    if attention_dropout:
        options["attn_drop_rate"] = attention_dropout
    return BackboneConfig(name="beit_base_patch16_224", options=options)


def tiny_beit(*, width: int = 64, depth: int = 3, patch: int = 4, layer_scale: float = 0.1) -> BackboneConfig:
    """BEiT's ViT for demos on small pictures, with `width` features and `width` / 32 attention heads."""
    sizes = {"patch_size": patch, "embed_dim": width, "depth": depth, "num_heads": max(1, width // 32)}
    return BackboneConfig(name="beit_base_patch16_224", options={**_SHARED, **sizes, "init_values": layer_scale})


_SHARED: dict[str, Any] = {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True, "use_fc_norm": False}
_DROPS = ("drop_path_rate", "attn_drop_rate", "proj_drop_rate", "pos_drop_rate", "drop_rate")


def without_drops(config: BackboneConfig) -> BackboneConfig:
    """The same network with nothing dropped, in training as well."""
    return replace(config, options={name: x for name, x in config.options.items() if name not in _DROPS})


def build_beit(config: BackboneConfig, size: int, owner: Any) -> tuple[Any, int]:
    """A timm Beit for views of `size` pixels with the authors' weights, and its width.

    Raises:
        ValueError: naming the `backbone` of `owner`, a config, where it is another network.
    """
    network, dim = build_backbone(replace(config, options={"img_size": size, **config.options}))
    if not isinstance(network, Beit) or not isinstance(network.norm, nn.LayerNorm):
        raise ValueError(
            f"{type(owner).__name__}.backbone must be a Beit of timm's with its norm before the mean of the patches "
            f"(use_fc_norm: false), {config.name} with {config.options} is not one"
        )
    beit_initialization(network)
    return network, dim


def cut_normal(tensor: Tensor) -> None:
    """Gaussian numbers of deviation 0.02, none of which is larger than that: their own deviation is 0.0108."""
    nn.init.trunc_normal_(tensor, std=DEVIATION, a=-DEVIATION, b=DEVIATION)


@torch.no_grad()
def beit_initialization(*modules: nn.Module) -> None:
    """`cut_normal` linear layers, convolutions and tokens, biases at zero, and the last layers of the i-th block's
    branches, i from 1, divided by the root of 2 i.

    Source: microsoft/unilm at 768a3c8, beit/modeling_pretrain.py, _init_weights and fix_init_weight.
    """
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                cut_normal(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        for name in ("cls_token", "pos_embed"):
            if getattr(module, name, None) is not None:
                cut_normal(getattr(module, name))
        blocks: Any = getattr(module, "blocks", ())
        for number, block in enumerate(blocks, start=1):
            block.attn.proj.weight.div_(math.sqrt(2 * number))
            block.mlp.fc2.weight.div_(math.sqrt(2 * number))


def beit_layers(beit: Any, images: Tensor, masked: Tensor | None, mask_token: Tensor) -> list[Tensor]:
    """The class token and all patches behind each block of a timm Beit, (B, 1 + L, D), without its last norm. One
    learnt token stands for each hidden patch.

    Args:
        images: (B, 3, H, W).
        masked: bool (B, L), True where a patch is hidden; None hides nothing.
        mask_token: (1, 1, D), what the blocks see of a hidden patch, before positions are added.
    """
    tokens = beit.patch_embed(images)
    if masked is not None:
        tokens = torch.where(masked[:, :, None], mask_token.to(tokens.dtype), tokens)
    tokens = torch.cat([beit.cls_token.expand(len(images), -1, -1).to(tokens.dtype), tokens], dim=1)
    if beit.pos_embed is not None:
        tokens = tokens + beit.pos_embed
    tokens = beit.pos_drop(tokens)
    places = beit.rel_pos_bias() if beit.rel_pos_bias is not None else None
    layers = []
    for block in beit.blocks:
        tokens = block(tokens, shared_rel_pos_bias=places)
        layers.append(tokens)
    return layers


def groups_without_decay(module: nn.Module, *spared: str) -> list[ParameterGroup]:
    """The trainable parameters in two groups. Those of one dimension, and those whose name ends in one of `spared`, are
    neither decayed nor adapted."""
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    free = [p for name, p in named if p.ndim <= 1 or name.endswith(spared)]
    decayed = [p for name, p in named if not (p.ndim <= 1 or name.endswith(spared))]
    return [ParameterGroup(params=decayed), ParameterGroup(params=free, decay_scale=0.0, adapt=False)]
