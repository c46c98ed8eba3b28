"""A decoder of masked patches whose attention stays in small windows, for inputs whose neighbours say the most."""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.layers.attention import Attention
from timm.models.swin_transformer_v2_cr import SwinTransformerV2CrBlock
from torch import Tensor, nn

from headrace.models.parts.masked_vit import MaskedDecoder, take
from headrace.models.parts.positions import sine_cosine


class WindowedDecoder(MaskedDecoder):
    """Swin blocks in the place of `MaskedDecoder`'s, without the class token: cosine attention in windows, a position
    bias from a small network, norms behind each branch. Every other block's windows are shifted by half of their rows.

    Args:
        in_dim: width of the encoder.
        grid: rows and columns of patches, multiples of the window's.
        window: its rows and columns.
        dim, depth, heads: of the decoder.
        numbers: outputs for each patch.

    Source: arXiv 2207.06405, section 3; facebookresearch/AudioMAE at bd60e29, models_mae.py with decoder_mode 1 and
    timm_patch/swin_transformer.py. Temperatures are learnt there by their inverse, here by their logarithm.
    """

    def __init__(
        self,
        in_dim: int,
        grid: tuple[int, int],
        window: tuple[int, int],
        *,
        dim: int,
        depth: int,
        heads: int,
        numbers: int,
    ) -> None:
        super().__init__(
            in_dim,
            sine_cosine(*grid, dim),
            depth=0,
            heads=heads,
            numbers=numbers,
            prefix=1,
            embed_bias=True,
            attention=Attention,
        )
        if any(side % part for side, part in zip(grid, window, strict=True)):
            raise ValueError(
                f"a grid of {grid[0]} x {grid[1]} patches has no whole windows of {window[0]} x {window[1]}"
            )
        self.grid = grid
        self.blocks = nn.Sequential(*(_block(dim, heads, grid, window, bool(i % 2)) for i in range(depth)))

    def forward(self, encoded: Tensor, visible: Tensor, wanted: Tensor | None = None) -> Tensor:
        """As `MaskedDecoder`'s; the class token ends here."""
        whole = self.all_tokens(self.embed(encoded), visible)
        grid = self.blocks(whole.unflatten(1, self.grid))  # (B, rows, columns, D)
        patches = grid.flatten(1, 2)
        return self.predict(self.norm(patches if wanted is None else take(patches, wanted)))


def _block(dim: int, heads: int, grid: tuple[int, int], window: tuple[int, int], shifted: bool) -> nn.Module:
    norm: Any = partial(nn.LayerNorm, eps=1e-6)
    block = SwinTransformerV2CrBlock(dim, heads, feat_size=grid, window_size=window, init_values=None, norm_layer=norm)
    if shifted and grid[0] > window[0]:
        block.shift_size = (window[0] // 2, 0)  # timm's own would shift columns, too
        block.register_buffer("attn_mask", block.get_attn_mask(), persistent=False)
    attention: Any = block.attn
    nn.init.zeros_(attention.logit_scale)
    attention.meta_mlp.drop1.p = attention.meta_mlp.drop2.p = 0.1
    return block
