"""V-JEPA 2: V-JEPA with attention that turns with time, row and column, at a constant pace (arXiv 2506.09985)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from headrace.models.methods.video.vjepa import VJEPA, VJEPAConfig
from headrace.models.parts.backbones import BackboneConfig
from headrace.models.parts.clip_predictor import ClipPredictor
from headrace.models.parts.masked_vit import truncated_initialization
from headrace.models.parts.rotary import RotaryVideoViT, turns_of
from headrace.pipeline.masks import ContextMasks


@dataclass(frozen=True, kw_only=True)
class VJEPA2Config(VJEPAConfig):
    """V-JEPA 2 with the authors' values for ViT-L (facebookresearch/vjepa2 at c2963a4, configs/train/vitl16)."""

    size: int = 256
    """Side of the square frames, in pixels; a multiple of the backbone's patches."""
    stride: int = 6
    """Frames of the video from one frame of a clip to the next. The authors show 4 frames a second; this is of videos
    of 24 or 25."""
    predictor_heads: int = 12
    """Attention heads of the predictor."""
    momentum: float = 0.99925
    """Of the slow copy at the beginning."""
    final_momentum: float = 0.99925
    """At the end, reached on a line: it stays."""
    tiled_frequencies: bool = False
    """Whether attention turns as the authors' code has it by mistake, which their weights need; see
    `headrace.models.parts.rotary.turns_of`."""
    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="vit_large_patch16_224"))
    """The encoder, a timm ViT, which is given cubes, attention that turns, and no class token."""


class VJEPA2(VJEPA):
    """Probes see the mean of the slow copy's tokens of a whole clip.

    Followed: facebookresearch/vjepa2 at c2963a4, app/vjepa/train.py and utils.py, src/models/predictor.py,
    vision_transformer.py and utils/modules.py.
    """

    config: VJEPA2Config
    student: RotaryVideoViT

    def _encoder(self) -> tuple[Any, int]:
        config = self.config
        vit = RotaryVideoViT(
            config.backbone,
            size=config.size,
            frames=config.frames,
            tubelet=config.tubelet_size,
            tiled=config.tiled_frequencies,
        )
        return vit, vit.embed_dim

    def _predictor(self) -> ClipPredictor:
        config = self.config
        times, (rows, columns) = config.frames // config.tubelet_size, self.student.patch_embed.grid_size
        head_dim = config.predictor_dim // config.predictor_heads
        return ClipPredictor(
            self.feature_dim,
            config.predictor_dim,
            depth=config.predictor_depth,
            heads=config.predictor_heads,
            kinds=len(config.blocks),
            positions=None,
            turns=turns_of(times, rows, columns, head_dim, tiled=config.tiled_frequencies),
        )

    def _initialize(self) -> None:
        """What each layer adds begins the smaller the deeper it lies, as 1 / sqrt(2 x its number)."""
        truncated_initialization(self.student, self.predictor)
        with torch.no_grad():
            for blocks in (self.student.blocks, self.predictor.blocks):
                for number, block in enumerate(blocks, 1):
                    for layer in (block.attn.proj, block.mlp.fc2):  # type: ignore[union-attr]
                        layer.weight.div_((2 * number) ** 0.5)  # type: ignore[union-attr,operator]

    def encode_context(self, clips: Tensor, masks: ContextMasks) -> Tensor:
        """(B, C, D): what the encoder makes of a context."""
        return self.student.encode_visible(clips, masks.context, masks.context_count)
