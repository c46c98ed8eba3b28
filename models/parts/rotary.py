"""Attention whose queries and keys turn with time, row and column, and networks of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers.attention import Attention
from torch import Tensor, nn

from headrace.models.parts.backbones import BackboneConfig
from headrace.models.parts.masked_vit import leading, take
from headrace.models.parts.video_vit import build_video_vit


class Turns(NamedTuple):
    """By how much the numbers of a head are turned at some places."""

    cos: Tensor
    """(..., L, D / H)."""
    sin: Tensor

    def at(self, places: Tensor) -> Turns:
        """(B, 1, M, D / H): of some of the places, int64 (B, M), for all heads."""
        return Turns(self.cos[places][:, None], self.sin[places][:, None])


def turns_of(times: int, rows: int, columns: int, head_dim: int, *, tiled: bool) -> Turns:
    """Of all cubes of a clip, float32 (times * rows * columns, head_dim).

    The numbers of a head are three parts of equal and even length, for time, row and column, and a rest that is not
    turned. In a part pairs of neighbours turn by the place times frequencies between 1 and 1/10,000.

    Args:
        tiled: whether the frequencies of a part stand twice one behind the other, so that the two of a pair have
            different ones. It is what the authors' code does by mistake, of which it says that their weights need it;
            nothing is turned then, and places count from the corner of the clip.

    Source: arXiv 2506.09985; facebookresearch/vjepa2 at c2963a4, src/models/utils/modules.py, rotate_queries_or_keys.

    Raises:
        ValueError: if a head has fewer than 6 numbers.
    """
    half = head_dim // 6
    if not half:
        raise ValueError(f"heads need 6 numbers or more to turn with time, row and column, got {head_dim}")
    frequencies = 10000.0 ** -(torch.arange(half, dtype=torch.float64) / half)
    frequencies = frequencies.repeat(2) if tiled else frequencies.repeat_interleave(2)
    places = torch.meshgrid(torch.arange(times), torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = torch.cat([place.flatten()[:, None].double() * frequencies for place in places], dim=1)
    angles = F.pad(angles, (0, head_dim - angles.shape[1]))
    return Turns(angles.cos().float(), angles.sin().float())


def turned(x: Tensor, turns: Turns) -> Tensor:
    """(B, H, L, D / H) with each pair of neighbours (a, b) as (a cos - b sin, b cos + a sin)."""
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    crossed = torch.stack([-second, first], dim=-1).flatten(-2)
    return (x * turns.cos + crossed * turns.sin).to(x.dtype)


class RotaryAttention(Attention):
    """timm's attention, of which `turns` turn queries and keys."""

    def forward(  # type: ignore[override]
        self, x: Tensor, turns: Turns, attn_mask: Tensor | None = None
    ) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(turned(q, turns), turned(k, turns), v, attn_mask=attn_mask)
        return self.proj(seen.transpose(1, 2).flatten(2))


def through(blocks: Any, tokens: Tensor, turns: Turns, attn_mask: Tensor | None) -> Tensor:
    """(B, N, D) behind timm's blocks, which have `RotaryAttention`.

    Args:
        attn_mask: bool (B, 1, 1, N), False at tokens that are not looked at; None for none such.
    """
    for block in blocks:
        tokens = tokens + block.drop_path1(block.ls1(block.attn(block.norm1(tokens), turns, attn_mask)))
        tokens = tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
    return tokens


class RotaryVideoViT(nn.Module):
    """A ViT of timm's that takes clips, without positions but those by which its attention turns: float32
    (B, 3, T, H, W) to (B, D), the mean over all tokens behind the last norm. Its weights have the names of timm's,
    which are those of the authors' too, from `backbone.` on.

    Args: see `build_video_vit` and `turns_of`.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: BackboneConfig, *, size: int, frames: int, tubelet: int, tiled: bool) -> None:
        super().__init__()
        vit, self.embed_dim = build_video_vit(
            config, size=size, frames=frames, tubelet=tubelet, attention=RotaryAttention, positions=None
        )
        self.patch_embed, self.blocks, self.norm = vit.patch_embed, nn.ModuleList(vit.blocks), vit.norm
        rows, columns = vit.patch_embed.grid_size
        turns = turns_of(frames // tubelet, rows, columns, vit.blocks[0].attn.head_dim, tiled=tiled)
        self.register_buffer("cos", turns.cos, persistent=False)
        self.register_buffer("sin", turns.sin, persistent=False)

    def forward_features(self, clips: Tensor) -> Tensor:
        """(B, L, D): the tokens of a whole clip."""
        tokens = self.patch_embed(clips)
        return self.norm(through(self.blocks, tokens, Turns(self.cos, self.sin), None))

    def encode_visible(self, clips: Tensor, visible: Tensor, count: Tensor) -> Tensor:
        """(B, M, D): the tokens of the cubes `visible` (B, M) alone, of which the first `count` (B,) are meant; see
        `headrace.models.parts.masked_vit.encode_visible`."""
        places = visible.clamp(min=0)
        tokens = take(self.patch_embed(clips), places)
        seen = leading(count, tokens.shape[1])[:, None, None]
        return self.norm(through(self.blocks, tokens, Turns(self.cos, self.sin).at(places), seen))

    def forward(self, clips: Tensor) -> Tensor:
        return self.forward_features(clips).mean(dim=1)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers as timm counts those of its ViTs."""
        return {"stem": r"^patch_embed", "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))]}
