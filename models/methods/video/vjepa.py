"""V-JEPA: from a few places of a clip, predict what a slow copy of the encoder says of others (arXiv 2404.08471)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.attention import Attention
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import absolute_regression
from headrace.models.method import Context, Method, ParameterGroup, kernels_and_vectors
from headrace.models.parts.backbones import BackboneConfig
from headrace.models.parts.clip_predictor import ClipPredictor
from headrace.models.parts.masked_vit import (
    encode_visible,
    hidden_of,
    leading,
    patchify_clips,
    strip_of,
    take,
    truncated_initialization,
)
from headrace.models.parts.momentum import follow, slow_copy
from headrace.models.parts.pixels import can_undo, unit_pixels
from headrace.models.parts.positions import sine_cosine_volume
from headrace.models.parts.precision import widened
from headrace.models.parts.schedules import linear
from headrace.models.parts.video_vit import build_video_vit
from headrace.pipeline import Batch, Clip, ClipSpec, Normalize, TubeBlockMask, View
from headrace.pipeline.masks import ContextMasks


@dataclass(frozen=True, kw_only=True)
class VJEPAConfig:
    """V-JEPA with the authors' values for ViT-L (facebookresearch/jepa at 51c59d5, configs/pretrain/vitl16.yaml)."""

    size: int = 224
    """Side of the square frames, in pixels; a multiple of the backbone's patches."""
    frames: int = 16
    """Of a clip; a multiple of `tubelet_size`."""
    stride: int = 4
    """Frames of the video from one frame of a clip to the next."""
    tubelet_size: int = 2
    """Frames of a cube."""
    crop_scale: tuple[float, float] = (0.3, 1.0)
    """Area of the random crop, one for all frames, as a share of the frame."""
    crop_ratio: tuple[float, float] = (0.75, 1.35)
    """Its width over its height."""
    flip: float = 0.5
    """Probability of a horizontal flip; 0 turns it off."""
    normalize: Normalize = field(default_factory=Normalize)
    """Mean and deviation that frames are normalised with."""
    blocks: tuple[int, ...] = (8, 2)
    """Of each kind of masks, how many blocks of places are to be predicted."""
    block_scale: tuple[float, ...] = (0.15, 0.7)
    """Area of each of them as a share of the frame; as many as `blocks`."""
    block_aspect: tuple[float, float] = (0.75, 1.5)
    """Their height over their width."""
    longest_context: tuple[float, ...] = (0.235, 0.066)
    """Share of a clip's cubes that a context has at most, of each kind of masks; of a longer one the last are left out.
    Those that the authors' contexts, which are cut to the shortest of a batch of 24, have on average."""
    predictor_dim: int = 384
    """Width of the predictor."""
    predictor_depth: int = 12
    """Its blocks."""
    predictor_heads: int = 16
    """Its attention heads; the authors take the encoder's number."""
    momentum: float = 0.998
    """Of the slow copy at the beginning."""
    final_momentum: float = 0.9996
    """At the end, reached on a line. The authors' goes on to 1 behind the end, and is cut off at 4/5 of the way."""
    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="vit_large_patch16_224"))
    """The encoder, a timm ViT, which is given cubes and fixed positions and no class token."""

    def __post_init__(self) -> None:
        for name in ("tubelet_size", "predictor_dim", "predictor_depth", "predictor_heads"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")
        require(self.predictor_dim % self.predictor_heads == 0, self, "predictor_dim", "be a multiple of its heads")
        require(self.frames % self.tubelet_size == 0, self, "frames", "be a multiple of tubelet_size")
        require(len(self.blocks) >= 1, self, "blocks", "be at least one number")
        for name in ("block_scale", "longest_context"):
            require(len(getattr(self, name)) == len(self.blocks), self, name, "be as many numbers as blocks")
        for name in ("momentum", "final_momentum"):
            require(0 <= getattr(self, name) <= 1, self, name, "lie in [0, 1]")


class VJEPA(Method):
    """Probes see the mean of the slow copy's tokens of a whole clip.

    Followed: facebookresearch/jepa at 51c59d5, app/vjepa/train.py and utils.py, src/models/predictor.py and
    vision_transformer.py, src/masks/multiblock3d.py. The encoder sees each kind of contexts by itself, the slow copy
    the whole clip; targets are taken out of what it makes of it. Letters: B clips, L cubes, K targets, D features.
    """

    config: VJEPAConfig
    inputs: ClipSpec

    def __init__(self, config: VJEPAConfig) -> None:
        super().__init__()
        self.config = config
        self.student, self.feature_dim = self._encoder()
        self.predictor = self._predictor()
        self._initialize()
        self.backbone = slow_copy(self.student)
        embed: Any = self.student.patch_embed
        self.patch = int(embed.patch_size[0])
        view = View(
            size=config.size,
            scale=config.crop_scale,
            ratio=config.crop_ratio,
            flip=config.flip,
            normalize=config.normalize,
        )
        masks = [
            TubeBlockMask(
                grid=embed.grid_size,
                frames=config.frames // config.tubelet_size,
                blocks=blocks,
                scale=scale,
                aspect=config.block_aspect,
                longest=longest,
            )
            for blocks, scale, longest in zip(config.blocks, config.block_scale, config.longest_context, strict=True)
        ]
        self.inputs = ClipSpec([Clip(frames=config.frames, strides=(config.stride,), view=view)], masks)

    def _encoder(self) -> tuple[Any, int]:
        config = self.config
        return build_video_vit(
            config.backbone,
            size=config.size,
            frames=config.frames,
            tubelet=config.tubelet_size,
            attention=Attention,
            positions=sine_cosine_volume,
        )

    def _predictor(self) -> ClipPredictor:
        config = self.config
        times, (rows, columns) = config.frames // config.tubelet_size, self.student.patch_embed.grid_size
        return ClipPredictor(
            self.feature_dim,
            config.predictor_dim,
            depth=config.predictor_depth,
            heads=config.predictor_heads,
            kinds=len(config.blocks),
            positions=sine_cosine_volume(times, rows, columns, config.predictor_dim),
            turns=None,
        )

    def _initialize(self) -> None:
        """As the script that trains draws all weights anew, without the scale of deeper layers."""
        truncated_initialization(self.student, self.predictor)

    def encode_context(self, clips: Tensor, masks: ContextMasks) -> Tensor:
        """(B, C, D): what the encoder makes of a context."""
        return encode_visible(self.student, clips, masks.context, masks.context_count)

    @torch.no_grad()
    def targets(self, clips: Tensor) -> Tensor:
        """(B, L, D): what the slow copy makes of whole clips, each cube with mean 0 and variance 1 over its own
        numbers."""
        vit: Any = self.backbone
        tokens = widened(vit.forward_features(clips))
        return F.layer_norm(tokens, tokens.shape[-1:])

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` alone: the mean over the kinds of masks; see `headrace.models.losses.absolute_regression`."""
        (clips,) = batch.normalized()
        targets = self.targets(clips)
        losses = []
        for kind, masks in enumerate(_contexts(batch)):
            prediction = self.predictor(self.encode_context(clips, masks), masks, kind)
            wanted = take(targets, masks.targets[:, 0].clamp(min=0))
            losses.append(absolute_regression(prediction[:, None], wanted[:, None], masks.target_count))
        return {"loss": torch.stack(losses).mean()}

    @property
    def layered(self) -> nn.Module:
        """The network that learns."""
        return self.student

    def parameter_groups(self) -> list[ParameterGroup]:
        """Biases and norms do not decay; the mask tokens do."""
        return kernels_and_vectors(self.student, self.predictor)

    def after_step(self, context: Context) -> None:
        """The slow copy follows."""
        momentum = linear(self.config.momentum, self.config.final_momentum, context.progress)
        follow(self.backbone, self.student, momentum)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """A clip as it is ("input"), and for each kind of masks what the encoder sees ("context 0") and what is to be
        predicted ("targets 0"): the first frames of all cubes side by side. None of clips that are not RGB, or
        normalised by themselves."""
        config = self.config
        if not can_undo(config.normalize):
            return {}
        (clips,) = batch.normalized()
        cubes = patchify_clips(unit_pixels(clips, config.normalize), config.tubelet_size, self.patch)
        shown = {"input": cubes}
        for kind, masks in enumerate(_contexts(batch)):
            for name, numbers, count in (
                ("context", masks.context, masks.context_count),
                ("targets", masks.targets[:, 0], masks.target_count[:, 0]),
            ):
                dark = hidden_of(_repeated(numbers, count), cubes.shape[1])
                shown[f"{name} {kind}"] = torch.where(dark[:, :, None], 0.5, cubes)
        grid = config.frames // config.tubelet_size, config.size // self.patch
        return {name: strip_of(each, config.tubelet_size, self.patch, grid) for name, each in shown.items()}


def _contexts(batch: Batch) -> list[ContextMasks]:
    masks = list(batch.masks)
    assert all(isinstance(each, ContextMasks) for each in masks)
    return masks


def _repeated(numbers: Tensor, count: Tensor) -> Tensor:
    """(B, K), at least one of which is meant, with the first in the place of those behind the count."""
    return torch.where(leading(count, numbers.shape[1]), numbers, numbers[:, :1])
