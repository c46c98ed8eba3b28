"""A ViT of timm's whose encoder sees some of the patches, and a decoder that fills in the others."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from headrace.models.parts.positions import sine_cosine


def patchify(images: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) to (B, L, patch * patch * C): patches row by row; in a patch pixels row by row, channels fastest."""
    b, c, h, w = images.shape
    grid = images.reshape(b, c, h // patch, patch, w // patch, patch)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(b, (h // patch) * (w // patch), patch * patch * c)


def unpatchify(patches: Tensor, patch: int, rows: int) -> Tensor:
    """Inverse of `patchify`, for `rows` rows of patches."""
    b, length, numbers = patches.shape
    columns, c = length // rows, numbers // patch**2
    grid = patches.reshape(b, rows, columns, patch, patch, c).permute(0, 5, 1, 3, 2, 4)
    return grid.reshape(b, c, rows * patch, columns * patch)


def fixed_positions(vit: Any) -> None:
    """Replace a timm ViT's position embeddings by sines and cosines that are not trained, zero for the class token."""
    rows, columns = vit.patch_embed.grid_size
    table = sine_cosine(rows, columns, vit.embed_dim)
    table = torch.cat([table.new_zeros(vit.num_prefix_tokens, vit.embed_dim), table])
    vit.pos_embed = nn.Parameter(table[None], requires_grad=False)


def take(tokens: Tensor, numbers: Tensor) -> Tensor:
    """(B, M, D): the tokens (B, L, D) with the given numbers, int64 (B, M)."""
    return tokens.gather(1, numbers[:, :, None].expand(-1, -1, tokens.shape[2]))


def encode_visible(vit: Any, images: Tensor, visible: Tensor) -> Tensor:
    """(B, 1 + M, D): class token and visible patches behind all blocks and the last norm of a timm ViT.

    Args:
        vit: a timm VisionTransformer with one class token and positions for it.
        images: (B, 3, H, W).
        visible: int64 (B, M), numbers of patches. The others do not reach any layer but the patches' projection.
    """
    tokens = vit.patch_embed(images)
    tokens = tokens.flatten(1, 2) if tokens.ndim == 4 else tokens  # of a ViT for any size
    tokens = take(tokens + vit.pos_embed[:, 1:], visible)
    first = (vit.cls_token + vit.pos_embed[:, :1]).expand(len(images), -1, -1)
    return vit.norm(vit.blocks(torch.cat([first, tokens], dim=1)))


class MaskedDecoder(nn.Module):
    """MAE's decoder: a narrower ViT over what was seen and one learnt token for each of what was not.

    Args:
        in_dim: width of the encoder.
        grid: rows and columns of patches.
        dim, depth, heads: of the decoder.
        numbers: outputs for each patch.

    Source: arXiv 2111.06377; facebookresearch/mae at efb2a80, models_mae.py, forward_decoder.
    """

    positions: Tensor

    def __init__(self, in_dim: int, grid: tuple[int, int], *, dim: int, depth: int, heads: int, numbers: int) -> None:
        super().__init__()
        self.embed = nn.Linear(in_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("positions", sine_cosine(*grid, dim), persistent=False)
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.Sequential(*(Block(dim, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth)))
        self.norm = norm(dim)
        self.predict = nn.Linear(dim, numbers)

    def forward(self, encoded: Tensor, visible: Tensor) -> Tensor:
        """(B, 1 + M, in_dim) of class token and visible patches, and their numbers (B, M), to (B, L, numbers) for every
        patch."""
        tokens = self.embed(encoded)
        whole = self.all_tokens(tokens, visible)
        return self.predict(self.norm(self.blocks(torch.cat([tokens[:, :1], whole], dim=1)))[:, 1:])

    def all_tokens(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """(B, L, dim) with positions: of each patch its own token, out of those (B, 1 + M, dim) of class token and
        visible patches, or else the mask's."""
        b, length, dim = len(tokens), len(self.positions), tokens.shape[2]
        whole = self.mask_token.expand(b, length, dim).to(tokens.dtype)
        return whole.scatter(1, visible[:, :, None].expand(-1, -1, dim), tokens[:, 1:]) + self.positions


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
