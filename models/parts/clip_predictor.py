"""What stands at hidden places of a clip, as another network sees them: V-JEPA's predictor."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from headrace.models.parts.masked_vit import leading
from headrace.models.parts.rotary import RotaryAttention, Turns, through
from headrace.pipeline.masks import ContextMasks


class ClipPredictor(nn.Module):
    """A narrow ViT over the context and a token for each place to predict, of which each kind of masks has its own,
    zero at first.

    Args:
        in_dim: width D of the encoder, and of the predictions.
        dim, depth, heads: of the predictor.
        kinds: of masks.
        positions: float32 (L, dim), fixed, of every cube; None adds none.
        turns: by which attention turns at every cube; None for plain attention.

    Source: arXiv 2404.08471 and 2506.09985; facebookresearch/jepa at 51c59d5 and facebookresearch/vjepa2 at c2963a4,
    src/models/predictor.py. The latter sorts tokens by place, which changes nothing.
    """

    positions: Tensor | None
    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        in_dim: int,
        dim: int,
        *,
        depth: int,
        heads: int,
        kinds: int,
        positions: Tensor | None,
        turns: Turns | None,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(in_dim, dim)
        self.mask_tokens = nn.ParameterList(nn.Parameter(torch.zeros(1, 1, dim)) for _ in range(kinds))
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        attention = Attention if turns is None else RotaryAttention
        self.blocks = nn.ModuleList(
            Block(dim, heads, qkv_bias=True, norm_layer=norm, attn_layer=attention) for _ in range(depth)
        )
        self.norm = norm(dim)
        self.project = nn.Linear(dim, in_dim)
        self.register_buffer("positions", positions, persistent=False)
        self.rotary = turns is not None
        for name, table in (turns or Turns(torch.empty(0), torch.empty(0)))._asdict().items():
            self.register_buffer(name, table, persistent=False)

    def forward(self, encoded: Tensor, masks: ContextMasks, kind: int) -> Tensor:
        """(B, K, in_dim): what is predicted for each patch of the one target; behind its count it has no meaning.

        Args:
            encoded: (B, C, in_dim), of the context's patches.
            kind: which of the masks these are, from 0.
        """
        targets = masks.targets[:, 0]
        places = torch.cat([masks.context, targets], dim=1).clamp(min=0)
        seen = self.embed(encoded)
        asked = self.mask_tokens[kind].expand(*targets.shape, -1)
        tokens = torch.cat([seen, asked], dim=1)
        if self.positions is not None:
            tokens = tokens + self.positions[places]
        known = leading(masks.context_count, seen.shape[1])
        keys = torch.cat([known, leading(masks.target_count[:, 0], targets.shape[1])], dim=1)[:, None, None]
        if self.rotary:
            tokens = through(self.blocks, tokens, Turns(self.cos, self.sin).at(places), keys)
        else:
            for block in self.blocks:
                tokens = block(tokens, attn_mask=keys)
        return self.project(self.norm(tokens[:, seen.shape[1] :]))
