"""A ViT of timm's that takes clips: cubes instead of patches, no class token, the mean of the tokens as features."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from timm.models.eva import EvaAttention
from torch import Tensor, nn

from headrace.models.parts.backbones import BackboneConfig, build_backbone


class TubeletEmbed(nn.Module):
    """A linear layer on each cube of `tubelet` frames and `patch_size` x `patch_size` pixels, in the place of timm's
    `PatchEmbed`. Its weight is that of a Conv3d, as in the authors' checkpoints; the weight of a Conv2d, as images'
    networks have, is loaded so that a clip of one still picture gives what the picture gave."""

    def __init__(
        self,
        img_size: int,
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        *,
        frames: int,
        tubelet: int,
        bias: bool = True,
        **unused: Any,
    ) -> None:
        super().__init__()
        self.frames, self.img_size = frames, (img_size, img_size)
        self.tubelet, self.patch_size = tubelet, (patch_size, patch_size)
        self.grid_size = (img_size // patch_size, img_size // patch_size)
        self.num_patches = frames // tubelet * self.grid_size[0] * self.grid_size[1]
        cube = (tubelet, patch_size, patch_size)
        self.proj = nn.Conv3d(in_chans, embed_dim, kernel_size=cube, stride=cube, bias=bias)
        self.register_load_state_dict_pre_hook(_adapted)

    def forward(self, clips: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, L, D): cubes time by time, row by row."""
        if clips.shape[2:] != (self.frames, *self.img_size):
            raise ValueError(f"expects clips of {self.frames} frames of {self.img_size}, got {tuple(clips.shape[2:])}")
        return self.proj(clips).flatten(2).transpose(1, 2)

    def adapt_weights(self, state: dict[str, Tensor], prefix: str) -> None:
        """A kernel of images among weights, divided among the frames of a cube."""
        weight = state.get(f"{prefix}proj.weight")
        if weight is not None and weight.ndim == 4:
            state[f"{prefix}proj.weight"] = weight[:, :, None].repeat(1, 1, self.tubelet, 1, 1) / self.tubelet


class QueryValueBias(EvaAttention):
    """Attention whose queries and values have biases and whose keys have none: one of the keys cancels in the softmax,
    and an optimiser would move it all the same. Loads timm's `qkv.bias`, too."""

    def __init__(self, dim: int, *, proj_bias: bool = True, **settings: Any) -> None:
        if not proj_bias:
            raise ValueError("QueryValueBias has a bias behind its heads")
        super().__init__(dim, **settings)
        self.register_load_state_dict_pre_hook(_adapted)

    def adapt_weights(self, state: dict[str, Tensor], prefix: str) -> None:
        """Biases of queries and values out of one vector of three parts among weights."""
        bias = state.pop(f"{prefix}qkv.bias", None)
        if bias is not None:
            state[f"{prefix}q_bias"], _key, state[f"{prefix}v_bias"] = bias.chunk(3)


def _adapted(module: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    module.adapt_weights(state, prefix)


def build_video_vit(
    config: BackboneConfig,
    *,
    size: int,
    frames: int,
    tubelet: int,
    attention: type[nn.Module],
    positions: Callable[[int, int, int, int], Tensor] | None,
) -> tuple[Any, int]:
    """The ViT that `config` names, for clips of `frames` frames of `size` pixels in cubes of `tubelet` frames, and its
    width D: float32 (B, 3, T, H, W) to (B, D), the mean over all tokens behind the last norm.

    The checkpoints of VideoMAE's authors load by name, from `encoder.` on; so do those of timm's ViTs for images, but
    for their class token, positions and head.

    Args:
        config: a ViT of timm's; its options are kept but for those that make this of it.
        attention: class of the blocks' attention: `QueryValueBias` for VideoMAE's, timm's `Attention` for V-JEPA's.
        positions: float32 (L, D) for times, rows and columns of cubes and D. They are fixed, and no part of the state
            dict. None adds none.

    Source: MCG-NJU/VideoMAE at 14ef8d8, modeling_pretrain.py, modeling_finetune.py.

    Raises:
        ValueError: if `config` names no plain ViT, or clips do not fall into whole cubes.
    """
    fixed = {
        "img_size": size,
        "embed_layer": partial(TubeletEmbed, frames=frames, tubelet=tubelet),
        "attn_layer": attention,
        "pos_embed": "learn" if positions else "none",
        "class_token": False,
        "global_pool": "avg",
        "fc_norm": False,
    }
    vit: Any
    vit, dim = build_backbone(BackboneConfig(name=config.name, options={**config.options, **fixed}))
    embed = getattr(vit, "patch_embed", None)
    if not isinstance(embed, TubeletEmbed):
        raise ValueError(f"a video ViT is one of timm's ViTs, {config.name} is not one")
    patch = embed.patch_size[0]
    if size % patch or frames % tubelet:
        raise ValueError(
            f"clips of {frames} frames of {size} pixels are no whole cubes of {tubelet} x {patch} x {patch}"
        )
    if positions:
        del vit.pos_embed
        table = positions(frames // tubelet, *embed.grid_size, dim)
        vit.register_buffer("pos_embed", table[None], persistent=False)
    return vit, dim
