"""What a ViT attends to."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn


def has_class_attention(network: nn.Module) -> bool:
    """Whether it is a timm ViT of plain attention with a class token."""
    blocks: Any = getattr(network, "blocks", None)
    if not blocks or getattr(network, "cls_token", None) is None:
        return False
    return isinstance(getattr(blocks[-1], "attn", None), Attention)


@torch.no_grad()
def class_attention(vit: Any, images: Tensor) -> Tensor:
    """(B, heads, rows, columns): the weights with which the class token attends to patches in the last block of a timm
    ViT for which `has_class_attention` holds. They add up to what other tokens leave of 1.

    Args:
        images: (B, 3, H, W), normalised.

    Source: facebookresearch/dino at 7c446df, vision_transformer.py, get_last_selfattention, and visualize_attention.py.
    """
    attention = vit.blocks[-1].attn
    seen: list[Tensor] = []
    handle = attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        vit.forward_features(images)
    finally:
        handle.remove()
    (tokens,) = seen
    b, n, _ = tokens.shape
    query, key, _ = attention.qkv(tokens).view(b, n, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key = attention.q_norm(query), attention.k_norm(key)
    weights = (query[:, :, :1] * attention.scale @ key.transpose(-2, -1)).softmax(dim=-1)  # (B, heads, 1, n)
    height, width = vit.patch_embed.patch_size
    grid = images.shape[-2] // height, images.shape[-1] // width
    return weights[:, :, 0, vit.num_prefix_tokens :].unflatten(2, grid)
