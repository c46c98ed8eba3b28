"""CAPI's network: a ViT without biases whose attention turns with the places of patches, and a predictor that asks it
what stands elsewhere."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from timm.layers.mlp import Mlp
from torch import Tensor, nn

_HIGHEST, _LOWEST = 7.0, 7e-4
"""Turns across a picture of a head's fastest and slowest numbers."""


def turned(x: Tensor, places: Tensor, frequencies: Tensor) -> Tensor:
    """`x * cos(a) + (-x2, x1) * sin(a)`, where x is (x1, x2) and `a` are `places @ frequencies`.

    The angles of the first half are of rows and those of the second of columns, as the authors' code has it, while its
    halves are turned into each other: numbers of places do not cancel as in other rotary embeddings.

    Args:
        x: (B, H, L, D / H), of H heads.
        places: (B, L, 2), row and column, each from 0 to 1.
        frequencies: (2, D / H), see `frequencies_of`.
    """
    # No matrix product, which autocast would round.
    angles = (places[..., :1] * frequencies[0] + places[..., 1:] * frequencies[1])[:, None]
    first, second = x.chunk(2, dim=-1)
    return (x * angles.cos() + torch.cat([-second, first], dim=-1) * angles.sin()).to(x.dtype)


def frequencies_of(head_dim: int) -> Tensor:
    """float32 (2, head_dim): radians across a picture, of rows in the first half and of columns in the second."""
    if head_dim % 4:
        raise ValueError(f"heads must have a multiple of 4 numbers, got {head_dim}")
    turns = _HIGHEST * (_HIGHEST / _LOWEST) ** torch.linspace(0, -1, head_dim // 4)
    turns, none = torch.cat([turns, turns]), torch.zeros(head_dim // 2)
    return 2 * torch.pi * torch.stack([torch.cat([turns, none]), torch.cat([none, turns])])


class RopeAttention(nn.Module):
    """Attention of tokens (B, N, D) at places (B, N, 2) to others (B, M, D) at theirs, without biases."""

    frequencies: Tensor

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.project = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        self.register_buffer("frequencies", frequencies_of(dim // heads), persistent=False)

    def forward(self, x: Tensor, places: Tensor, others: Tensor, their_places: Tensor) -> Tensor:
        q = turned(self._split(self.query(x)), places, self.frequencies)
        k = turned(self._split(self.key(others)), their_places, self.frequencies)
        seen = F.scaled_dot_product_attention(q, k, self._split(self.value(others)))
        return self.project(seen.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class RopeBlock(nn.Module):
    """A block with norms in front of attention and MLP; tokens look at others, or at themselves."""

    def __init__(self, dim: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(dim, eps=1e-5), nn.RMSNorm(dim, eps=1e-5)
        self.attention = RopeAttention(dim, heads)
        self.mlp = Mlp(dim, 4 * dim, bias=False)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(
        self, x: Tensor, places: Tensor, others: Tensor | None = None, their_places: Tensor | None = None
    ) -> Tensor:
        normal = self.norm1(x)
        if others is None or their_places is None:
            others, their_places = normal, places
        x = x + self.drop_path(self.attention(normal, places, others, their_places))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class RopeEncoderPredictor(nn.Module):
    """An encoder of visible patches and registers, and a predictor whose queries look at what the encoder made, and not
    at each other. Letters: B samples, L patches, R registers, D width.

    Args:
        size, patch: sides of the square view and of a patch, in pixels.
        dim, heads: of both.
        depth, predictor_depth: blocks of each.
        registers: R, a multiple of 4. Their places lie around the box of what is visible.
        drop_path: probability, in training, that a sample passes by a layer.

    Source: facebookresearch/capi at 98b4fa1, model.py, EncoderDecoder.
    """

    places: Tensor
    edge: Tensor

    def __init__(
        self,
        *,
        size: int,
        patch: int,
        dim: int,
        depth: int,
        predictor_depth: int,
        heads: int,
        registers: int,
        drop_path: float,
    ) -> None:
        super().__init__()
        side = size // patch
        self.patch_embed = nn.Conv2d(3, dim, patch, stride=patch)
        self.registers = nn.Parameter(torch.empty(1, registers, dim))
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        self.blocks = nn.ModuleList(RopeBlock(dim, heads, drop_path) for _ in range(depth))
        self.norm = nn.RMSNorm(dim, eps=1e-5, elementwise_affine=False)
        self.predictor = nn.ModuleList(RopeBlock(dim, heads, drop_path) for _ in range(predictor_depth))
        self.predictor_norm = nn.RMSNorm(dim, eps=1e-5, elementwise_affine=False)
        line = torch.linspace(0, 1, side)
        self.register_buffer("places", torch.cartesian_prod(line, line), persistent=False)
        self.register_buffer("edge", _edge(registers), persistent=False)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
        nn.init.xavier_uniform_(self.patch_embed.weight.data.flatten(1))
        nn.init.normal_(self.registers, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)

    def encode(self, images: Tensor, visible: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, R + M, D) of registers and visible patches, all where None, behind the last norm, and their places (B, R
        + M, 2)."""
        tokens = self.patch_embed(images).flatten(2).transpose(1, 2)
        places = self.places.expand(images.shape[0], -1, -1)
        if visible is not None:
            tokens = tokens.gather(1, visible[:, :, None].expand(-1, -1, tokens.shape[2]))
            places = self.places[visible]
        low, high = places.amin(dim=1, keepdim=True), places.amax(dim=1, keepdim=True)
        places = torch.cat([low + self.edge * (high - low), places], dim=1)
        tokens = torch.cat([self.registers.expand(images.shape[0], -1, -1), tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens, places)
        return self.norm(tokens), places

    def patches(self, images: Tensor) -> Tensor:
        """(B, L, D): what the encoder makes of the patches of a whole view."""
        return self.encode(images)[0][:, self.registers.shape[1] :]

    def predict(self, encoded: Tensor, places: Tensor, wanted: Tensor, blocks: int | None = None) -> Tensor:
        """(B, P, D): what stands at patches `wanted`, int64 (B, P), after the first `blocks` of the predictor's (all
        where None)."""
        where = self.places[wanted]
        tokens = self.mask_token.expand(*wanted.shape, -1)
        for block in list(self.predictor)[:blocks]:
            tokens = block(tokens, where, encoded, places)
        return self.predictor_norm(tokens)

    def forward(self, images: Tensor) -> Tensor:
        """(B, D): the mean over all patches of a whole view of what the predictor's first block says of them."""
        encoded, places = self.encode(images)
        everywhere = torch.arange(len(self.places), device=images.device).expand(images.shape[0], -1)
        return self.predict(encoded, places, everywhere, blocks=1).mean(dim=1)


def _edge(number: int) -> Tensor:
    """float32 (number, 2): places around a square of side 1, a quarter of them a side."""
    if number % 4:
        raise ValueError(f"registers must be a multiple of 4, got {number}")
    steps = torch.arange(number // 4) / max(1, number // 4)
    none, one = torch.zeros_like(steps), torch.ones_like(steps)
    sides: list[Any] = [(steps, none), (one, steps), (1 - steps, one), (none, 1 - steps)]
    return torch.cat([torch.stack(side, dim=1) for side in sides])
