"""A ViT of timm's with norms behind each sum instead of in front of each layer, as data2vec 2.0's."""

from __future__ import annotations

from typing import Any

from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.masked_vit import fixed_positions


class PostNormBlock(Block):
    """timm's block with its norms behind the sums; `parts` gives its MLP's output, too."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        return self.parts(x, attn_mask, is_causal)[0]

    def parts(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> tuple[Tensor, Tensor]:
        """What the block makes of (B, L, D), and what its MLP adds, before the sum and the norm."""
        x = self.norm1(x + self.drop_path1(self.attn(x, attn_mask=attn_mask, is_causal=is_causal)))
        added = self.mlp(x)
        return self.norm2(x + self.drop_path2(added)), added


def build_post_norm_vit(config: BackboneConfig, size: int) -> tuple[Any, int]:
    """A timm ViT with a class token, `PostNormBlock`s and fixed positions, and its width D. A norm stands in front of
    the first block and none behind the last; features are the mean of the patches' tokens.

    Args:
        config: a ViT of timm's; its options are kept but for those that make this of it.
        size: side of the square view, in pixels.

    Source: facebookresearch/fairseq at 3d262bb2, examples/data2vec/models/modalities/modules.py, BlockEncoder and
    AltBlock with layer_norm_first off.

    Raises:
        ValueError: if `config` names no plain ViT.
    """
    fixed = {
        "block_fn": PostNormBlock,
        "init_values": None,
        "class_token": True,
        "final_norm": False,
        "global_pool": "avg",
        "fc_norm": False,
    }
    vit: Any
    vit, dim = build_backbone(BackboneConfig(name=config.name, options={"img_size": size, **config.options, **fixed}))
    if not isinstance(vit, VisionTransformer) or vit.num_prefix_tokens != 1:
        raise ValueError(f"the backbone must be one of timm's ViTs, without registers; {config.name} is not one")
    fixed_positions(vit)
    vit.norm_pre = nn.LayerNorm(dim, eps=1e-6)
    return vit, dim
