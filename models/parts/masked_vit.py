"""A ViT of timm's that sees some of the patches, or one token for each hidden one, and a decoder that fills them in."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import timm
import torch
from timm.layers.drop import DropPath
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.positions import sine_cosine


def patchify(images: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) to (B, L, patch * patch * C): patches row by row; in a patch pixels row by row, channels fastest."""
    return patchify_clips(images[:, :, None], 1, patch)


def unpatchify(patches: Tensor, patch: int, rows: int) -> Tensor:
    """Inverse of `patchify`, for `rows` rows of patches."""
    return unpatchify_clips(patches, 1, patch, (1, rows))[:, :, 0]


def patchify_clips(clips: Tensor, tubelet: int, patch: int) -> Tensor:
    """(B, C, T, H, W) to (B, L, tubelet * patch * patch * C): cubes of `tubelet` frames time by time, row by row; in a
    cube pixels likewise, channels fastest."""
    b, c, t, h, w = clips.shape
    grid = clips.reshape(b, c, t // tubelet, tubelet, h // patch, patch, w // patch, patch)
    length = (t // tubelet) * (h // patch) * (w // patch)
    return grid.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(b, length, tubelet * patch * patch * c)


def unpatchify_clips(cubes: Tensor, tubelet: int, patch: int, grid: tuple[int, int]) -> Tensor:
    """Inverse of `patchify_clips`, for a grid of so many times and rows of cubes."""
    b, length, numbers = cubes.shape
    times, rows = grid
    columns, c = length // (times * rows), numbers // (tubelet * patch**2)
    clips = cubes.reshape(b, times, rows, columns, tubelet, patch, patch, c).permute(0, 7, 1, 4, 2, 5, 3, 6)
    return clips.reshape(b, c, times * tubelet, rows * patch, columns * patch)


def strip_of(cubes: Tensor, tubelet: int, patch: int, grid: tuple[int, int]) -> Tensor:
    """Pictures (B, C, H, times * W) in [0, 1] of cubes (B, L, N) as `unpatchify_clips` takes them: the first frames of
    all cubes side by side."""
    frames = unpatchify_clips(cubes, tubelet, patch, grid)[:, :, ::tubelet]
    return frames.permute(0, 1, 3, 2, 4).flatten(3).float().clamp(0, 1)


def fixed_positions(vit: Any, *, row_first: bool = False) -> None:
    """Replace a timm ViT's position embeddings by sines and cosines that are not trained, zero for the class token; see
    `sine_cosine`."""
    rows, columns = vit.patch_embed.grid_size
    table = sine_cosine(rows, columns, vit.embed_dim, row_first=row_first)
    table = torch.cat([table.new_zeros(vit.num_prefix_tokens, vit.embed_dim), table])
    vit.pos_embed = nn.Parameter(table[None], requires_grad=False)


def build_patch_vit(config: BackboneConfig, size: int, **settings: Any) -> tuple[Any, int]:
    """A timm ViT whose tokens are the patches of a square view alone, and its width D. Positions are fixed sines and
    cosines, and features the mean of the tokens behind the last norm.

    Args:
        config: a ViT of timm's; its options are kept but for those that make this of it.
        size: side of the view, in pixels.
        settings: more options that a method does not leave open.

    Raises:
        ValueError: if `config` names no plain ViT.
    """
    fixed = {"class_token": False, "global_pool": "avg", "fc_norm": False, **settings}
    vit: Any
    vit, dim = build_backbone(BackboneConfig(name=config.name, options={"img_size": size, **config.options, **fixed}))
    if not isinstance(vit, VisionTransformer) or vit.num_prefix_tokens:
        raise ValueError(f"the backbone must be one of timm's ViTs, without registers; {config.name} is not one")
    fixed_positions(vit)
    return vit, dim


def take(tokens: Tensor, numbers: Tensor) -> Tensor:
    """(B, M, D): the tokens (B, L, D) with the given numbers, int64 (B, M)."""
    return tokens.gather(1, numbers[:, :, None].expand(-1, -1, tokens.shape[2]))


def encode_visible(vit: Any, images: Tensor, visible: Tensor, count: Tensor | None = None) -> Tensor:
    """(B, P + M, D): class token, where there is one (P is 0 or 1), and visible patches behind all blocks and the last
    norm of a timm ViT.

    Args:
        vit: a timm VisionTransformer with at most a class token before its patches, and positions for all tokens.
        images: (B, 3, H, W), or what else its patches are cut from.
        visible: int64 (B, M), numbers of patches. The others do not reach any layer but the patches' projection.
        count: int64 (B,), how many of a sample's are meant; what lies behind is not looked at by those before, and what
            becomes of it has no meaning. None means all.
    """
    tokens = vit.patch_embed(images)
    tokens = tokens.flatten(1, 2) if tokens.ndim == 4 else tokens  # of a ViT for any size
    prefix = vit.num_prefix_tokens
    tokens = take(tokens + vit.pos_embed[:, prefix:], visible if count is None else visible.clamp(min=0))
    if prefix:
        first = (vit.cls_token + vit.pos_embed[:, :1]).expand(len(images), -1, -1)
        tokens = torch.cat([first, tokens], dim=1)
    if count is None:
        return vit.norm(vit.blocks(tokens))
    seen = leading(count + prefix, tokens.shape[1])
    for block in vit.blocks:
        tokens = block(tokens, attn_mask=seen[:, None, None])
    return vit.norm(tokens)


def leading(count: Tensor, length: int) -> Tensor:
    """bool (..., length): True for the first `count` (...) places."""
    return torch.arange(length, device=count.device) < count[..., None]


def encode_with_mask_tokens(vit: Any, images: Tensor, masked: Tensor | None, mask_token: Tensor) -> Tensor:
    """(B, P + L, D): tokens in front of the patches and all patches behind all blocks and the last norm of a timm ViT,
    in which one learnt token stands for each hidden patch.

    Args:
        vit: a timm VisionTransformer; one with `dynamic_img_size` takes images of any size.
        images: (B, 3, H, W).
        masked: bool (B, L), True where a patch is hidden; None hides nothing.
        mask_token: (1, 1, D), what the blocks see of a hidden patch, before positions are added.
    """
    tokens = vit.patch_embed(images)  # (B, L, D), or (B, rows, columns, D) of a ViT for any size
    if masked is not None:
        where = masked.view(*tokens.shape[:-1], 1)
        tokens = torch.where(where, mask_token.to(tokens.dtype).view(*[1] * (tokens.ndim - 1), -1), tokens)
    return vit.norm(vit.blocks(vit.norm_pre(vit.patch_drop(vit._pos_embed(tokens)))))


class MaskTokenViT(nn.Module):
    """A timm ViT and the token that stands for its hidden patches, zero at first: see `encode_with_mask_tokens`."""

    def __init__(self, vit: Any) -> None:
        super().__init__()
        self.vit = vit
        self.mask_token = nn.Parameter(torch.zeros(1, 1, vit.embed_dim))

    def forward(self, images: Tensor, masked: Tensor | None = None) -> Tensor:
        return encode_with_mask_tokens(self.vit, images, masked, self.mask_token)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers as timm counts those of its ViTs; the mask token belongs to the first, as DINOv2 has it."""
        return {
            "stem": r"^mask_token|^vit\.(?:cls_token|reg_token|pos_embed|patch_embed)",
            "blocks": [(r"^vit\.blocks\.(\d+)", None), (r"^vit\.norm", (99999,))],
        }


def build_vit(config: Any) -> tuple[Any, BackboneConfig, tuple[int, int]]:
    """The ViT with a class token that the `backbone` of a method's config names, for views of the config's `size`, with
    positions that fit views of other sizes too; how to build it again; and rows and columns of its patches.

    Raises:
        ValueError: if it is no such ViT, or a view is not of whole patches.
    """
    backbone: BackboneConfig = config.backbone
    vit: Any = None
    if timm.models.is_model_in_modules(backbone.name, ["vision_transformer", "deit"]):
        options = {"img_size": config.size, "dynamic_img_size": True, **backbone.options}
        backbone = replace(backbone, options=options)
        vit, _ = build_backbone(backbone)
    if not isinstance(vit, VisionTransformer) or vit.cls_token is None:
        name = type(config).__name__
        raise ValueError(f"{name}.backbone must be a ViT with a class token, {backbone.name} is not one")
    side = int(vit.patch_embed.patch_size[0])
    require(config.size % side == 0, config, "size", f"be a multiple of the patches' {side} pixels")
    return vit, backbone, (config.size // side, config.size // side)


def uniform_drop_path(vit: Any, rate: float) -> None:
    """The same drop path in all blocks of a timm ViT, where timm's own rises from block to block; 0 for none."""
    for block in vit.blocks:
        block.drop_path1, block.drop_path2 = (DropPath(rate) if rate else nn.Identity() for _ in range(2))


class MaskedDecoder(nn.Module):
    """MAE's decoder: a narrower ViT over what was seen and one learnt token for each of what was not.

    Args:
        in_dim: width of the encoder.
        positions: float32 (L, D), fixed, of every patch; D is the decoder's width.
        depth, heads: of the decoder.
        numbers: outputs for each patch.
        prefix: tokens before the patches, which have no position: 1 for a class token, or 0.
        embed_bias: whether the layer between encoder and decoder has a bias.
        attention: timm's class of the blocks' attention.

    Source: arXiv 2111.06377; facebookresearch/mae at efb2a80, models_mae.py, forward_decoder. Without prefix and bias
    it is VideoMAE's (arXiv 2203.12602), and with `at` that of its second version.
    """

    positions: Tensor

    def __init__(
        self,
        in_dim: int,
        positions: Tensor,
        *,
        depth: int,
        heads: int,
        numbers: int,
        prefix: int,
        embed_bias: bool,
        attention: type[nn.Module],
    ) -> None:
        super().__init__()
        dim = positions.shape[1]
        self.prefix = prefix
        self.embed = nn.Linear(in_dim, dim, bias=embed_bias)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("positions", positions, persistent=False)
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.Sequential(
            *(Block(dim, heads, qkv_bias=True, norm_layer=norm, attn_layer=attention) for _ in range(depth))
        )
        self.norm = norm(dim)
        self.predict = nn.Linear(dim, numbers)

    def forward(self, encoded: Tensor, visible: Tensor, wanted: Tensor | None = None) -> Tensor:
        """(B, prefix + M, in_dim) of prefix and visible patches, and the patches' numbers (B, M), to (B, L, numbers)
        for every patch, or (B, K, numbers) for those whose numbers are `wanted` (B, K)."""
        tokens = self.embed(encoded)
        whole = torch.cat([tokens[:, : self.prefix], self.all_tokens(tokens, visible)], dim=1)
        patches = self.blocks(whole)[:, self.prefix :]
        return self.predict(self.norm(patches if wanted is None else take(patches, wanted)))

    def at(self, encoded: Tensor, visible: Tensor, wanted: Tensor) -> Tensor:
        """As `forward`, but that no other patches are looked at than those that were seen and those that are `wanted`,
        each of which has the mask's token whether it was seen or not: VideoMAE V2's dual masking (arXiv 2303.16727)."""
        tokens, asked = self.embed(encoded), self.mask_token + self.positions[wanted]
        seen = tokens[:, self.prefix :] + self.positions[visible]
        whole = torch.cat([tokens[:, : self.prefix], seen, asked], dim=1)
        return self.predict(self.norm(self.blocks(whole)[:, -wanted.shape[1] :]))

    def all_tokens(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """(B, L, dim) with positions: of each patch its own token out of (B, prefix + M, dim), or else the mask's."""
        b, length, dim = len(tokens), len(self.positions), tokens.shape[2]
        whole = self.mask_token.expand(b, length, dim).to(tokens.dtype)
        return whole.scatter(1, visible[:, :, None].expand(-1, -1, dim), tokens[:, self.prefix :]) + self.positions


def hidden_of(visible: Tensor, length: int) -> Tensor:
    """bool (B, L): True where a patch is none of the visible ones, int64 (B, M)."""
    hidden = torch.ones(len(visible), length, dtype=torch.bool, device=visible.device)
    return hidden.scatter_(1, visible, False)


def filled_in(patches: Tensor, prediction: Tensor, hidden: Tensor) -> dict[str, Tensor]:
    """Patches (B, L, N) as they are ("input"), in mid-grey where `hidden` (B, L) says so ("masked"), and predicted
    there ("reconstruction"). In levels from 0 to 1."""
    where = hidden[:, :, None]
    return {
        "input": patches,
        "masked": torch.where(where, 0.5, patches),
        "reconstruction": torch.where(where, prediction.to(patches.dtype), patches),
    }


def shown_masked(images: Tensor, visible: Tensor, patch: int) -> dict[str, Tensor]:
    """Levels (B, 3, H, W) as they are ("input"), and with mid-grey where patches are none of the visible ones, int64
    (B, M) ("masked")."""
    patches = patchify(images, patch)
    hidden = hidden_of(visible, patches.shape[1])[:, :, None]
    masked = unpatchify(torch.where(hidden, 0.5, patches), patch, images.shape[2] // patch)
    return {"input": images.float().clamp(0, 1), "masked": masked.float().clamp(0, 1)}


def truncated_initialization(*modules: nn.Module) -> None:
    """Linear layers and convolutions truncated normal with deviation 0.02, without bias; norms at one and zero."""
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.LayerNorm):
                nn.init.ones_(layer.weight)
                nn.init.zeros_(layer.bias)


def mae_initialization(*modules: nn.Module) -> None:
    """Xavier-uniform linear layers without bias, as facebookresearch/mae at efb2a80 draws them; norms at one and
    zero."""
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.LayerNorm):
                nn.init.ones_(layer.weight)
                nn.init.zeros_(layer.bias)
