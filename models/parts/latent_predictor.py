"""What stands at hidden places, as another network sees them: a narrow ViT over the context and a token for each."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from headrace.models.parts.masked_vit import leading, truncated_initialization


class LatentPredictor(nn.Module):
    """I-JEPA's predictor. Each target is predicted by itself from the same context.

    Args:
        in_dim: width D of the encoder, and of the predictions.
        positions: float32 (L, P), fixed, of every patch; P is the predictor's width.
        depth, heads: of the predictor.

    Source: arXiv 2301.08243; facebookresearch/ijepa at 52c1ae9, src/models/vision_transformer.py,
    VisionTransformerPredictor, and src/helper.py, init_model, which draws all layers anew.
    """

    positions: Tensor

    def __init__(self, in_dim: int, positions: Tensor, *, depth: int, heads: int) -> None:
        super().__init__()
        dim = positions.shape[1]
        self.embed = nn.Linear(in_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 1, dim))
        self.register_buffer("positions", positions, persistent=False)
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.ModuleList(Block(dim, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth))
        self.norm = norm(dim)
        self.project = nn.Linear(dim, in_dim)
        truncated_initialization(self)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(
        self, encoded: Tensor, context: Tensor, context_count: Tensor, targets: Tensor, target_count: Tensor
    ) -> Tensor:
        """(B, T, K, D): what is predicted for each patch of T targets; behind a target's count it has no meaning.

        Args:
            encoded: (B, C, D), of the context's patches.
            context, context_count, targets, target_count: see `headrace.pipeline.masks.ContextMasks`.
        """
        b, t, _ = targets.shape
        seen = self.embed(encoded) + self.positions[context.clamp(min=0)]
        wanted = self.mask_token + self.positions[targets.clamp(min=0)]
        tokens = torch.cat([seen[:, None].expand(-1, t, -1, -1), wanted.to(seen.dtype)], dim=2)
        known = leading(context_count[:, None].expand(-1, t), context.shape[1])
        keys = torch.cat([known, leading(target_count, targets.shape[2])], dim=2)
        tokens, keys = tokens.flatten(0, 1), keys.flatten(0, 1)
        for block in self.blocks:
            tokens = block(tokens, attn_mask=keys[:, None, None])
        return self.project(self.norm(tokens[:, context.shape[1] :])).unflatten(0, (b, t))
