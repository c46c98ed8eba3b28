"""VideoMAE: see a tenth of the places of a clip, the same in all frames, fill in the others (arXiv 2203.12602)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import masked_patch_loss, normalize_channels, with_statistics_of
from headrace.models.method import Method, ParameterGroup, kernels_and_vectors
from headrace.models.parts.backbones import BackboneConfig
from headrace.models.parts.masked_vit import (
    MaskedDecoder,
    encode_visible,
    filled_in,
    hidden_of,
    mae_initialization,
    patchify_clips,
    strip_of,
    take,
)
from headrace.models.parts.pixels import can_undo, unit_pixels
from headrace.models.parts.positions import sine_cosine_line
from headrace.models.parts.video_vit import QueryValueBias, build_video_vit
from headrace.pipeline import Batch, Clip, ClipSpec, Normalize, TubeMask, View
from headrace.pipeline.masks import PatchMasks


@dataclass(frozen=True, kw_only=True)
class VideoMAEConfig:
    """VideoMAE with the authors' values for Kinetics-400 (MCG-NJU/VideoMAE at 14ef8d8, scripts/kinetics)."""

    size: int = 224
    """Side of the square frames, in pixels; a multiple of the backbone's patches."""
    frames: int = 16
    """Of a clip; a multiple of `tubelet_size`."""
    stride: int = 4
    """Frames of the video from one frame of a clip to the next. Something-Something V2 takes 2."""
    tubelet_size: int = 2
    """Frames of a cube."""
    crop_scale: tuple[float, float] = (0.33, 0.75)
    """Area of the random crop, one for all frames, as a share of the frame: sides of 0.66 to 1 times the height, of
    frames of 4 to 3."""
    crop_ratio: tuple[float, float] = (6 / 7, 7 / 6)
    """Its width over its height."""
    flip: float = 0.0
    """Probability of a horizontal flip; 0 turns it off: some actions are told by left and right."""
    normalize: Normalize = field(default_factory=Normalize)
    """Mean and deviation that frames are normalised with."""
    mask_ratio: float = 0.9
    """Share of the places that is hidden. UCF101 takes 0.75."""
    normalize_targets: bool = True
    """Whether each channel of each cube is normalised before it is compared; on in the published runs."""
    decoder_dim: int = 384
    """Width of the decoder. ViT-S takes 192, ViT-L 512, ViT-H 640."""
    decoder_depth: int = 4
    """Its blocks."""
    decoder_heads: int = 6
    """Its attention heads. ViT-S takes 3, ViT-L and ViT-H 8."""
    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="vit_base_patch16_224"))
    """The encoder, a timm ViT, which is given cubes and fixed positions and no class token."""

    def __post_init__(self) -> None:
        for name in ("tubelet_size", "decoder_dim", "decoder_depth", "decoder_heads"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")
        require(self.decoder_dim % self.decoder_heads == 0, self, "decoder_dim", "be a multiple of decoder_heads")
        require(self.frames % self.tubelet_size == 0, self, "frames", "be a multiple of tubelet_size")
        require(can_undo(self.normalize), self, "normalize", "leave RGB, and not be per_view: targets are pixels")


class VideoMAE(Method):
    """Probes see the mean of the tokens of a whole clip.

    Followed: MCG-NJU/VideoMAE at 14ef8d8, modeling_pretrain.py, engine_for_pretraining.py and optim_factory.py. Which
    places are hidden comes with the batch. Letters: B clips, L cubes, N numbers of a cube.
    """

    config: VideoMAEConfig
    inputs: ClipSpec

    def __init__(self, config: VideoMAEConfig) -> None:
        super().__init__()
        self.config = config
        tubelet = config.tubelet_size
        self.backbone, self.feature_dim = build_video_vit(
            config.backbone,
            size=config.size,
            frames=config.frames,
            tubelet=tubelet,
            attention=QueryValueBias,
            positions=_in_a_line,
        )
        embed: Any = self.backbone.patch_embed
        self.patch = int(embed.patch_size[0])
        self.decoder = MaskedDecoder(
            self.feature_dim,
            sine_cosine_line(embed.num_patches, config.decoder_dim),
            depth=config.decoder_depth,
            heads=config.decoder_heads,
            numbers=3 * tubelet * self.patch**2,
            prefix=0,
            embed_bias=False,
            attention=QueryValueBias,
        )
        mae_initialization(self.backbone, self.decoder)
        nn.init.trunc_normal_(self.decoder.mask_token, std=0.02, a=-0.02, b=0.02)
        view = View(
            size=config.size,
            scale=config.crop_scale,
            ratio=config.crop_ratio,
            flip=config.flip,
            normalize=config.normalize,
        )
        clip = Clip(frames=config.frames, strides=(config.stride,), view=view)
        mask = TubeMask(grid=embed.grid_size, frames=config.frames // tubelet, ratio=config.mask_ratio)
        self.inputs = ClipSpec([clip], [mask])

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` alone: the mean squared error over the hidden cubes."""
        (clips,), masks = batch.normalized(), tubes_of(batch)
        prediction = self.decoder(encode_visible(self.backbone, clips, masks.visible), masks.visible, masks.masked)
        target = take(self.cubes(clips), masks.masked)
        if self.config.normalize_targets:
            target = normalize_channels(target, channels=3)
        return {"loss": masked_patch_loss(prediction, target)}

    def parameter_groups(self) -> list[ParameterGroup]:
        """Beside biases and norms, the mask token is not decayed."""
        kernels, vectors = kernels_and_vectors(self)
        token = self.decoder.mask_token
        kernels.params = [parameter for parameter in kernels.params if parameter is not token]
        vectors.params.append(token)
        return [kernels, vectors]

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """A clip as it is ("input"), as the encoder sees it ("masked"), and filled in ("reconstruction"): the first
        frames of all cubes side by side. Where targets are normalised, predictions get the mean and deviation of the
        true cubes, as in the authors' pictures, so that they look better than they are."""
        (clips,), masks = batch.normalized(), tubes_of(batch)
        cubes = self.cubes(clips)
        prediction = self.decoder(encode_visible(self.backbone, clips, masks.visible), masks.visible)
        if self.config.normalize_targets:
            prediction = with_statistics_of(prediction, cubes, channels=3)
        shown = filled_in(cubes, prediction, hidden_of(masks.visible, cubes.shape[1]))
        return {name: self._strip(each) for name, each in shown.items()}

    def cubes(self, clips: Tensor) -> Tensor:
        """(B, L, N): levels from 0 to 1."""
        return patchify_clips(unit_pixels(clips, self.config.normalize), self.config.tubelet_size, self.patch)

    def _strip(self, cubes: Tensor) -> Tensor:
        """(B, 3, H, times * W) of cubes (B, L, N)."""
        tubelet = self.config.tubelet_size
        return strip_of(cubes, tubelet, self.patch, (self.config.frames // tubelet, self.config.size // self.patch))


def _in_a_line(times: int, rows: int, columns: int, dim: int) -> Tensor:
    return sine_cosine_line(times * rows * columns, dim)


def tubes_of(batch: Batch) -> PatchMasks:
    """What the encoder sees, and what is hidden from it."""
    masks = batch.masks[0]
    assert isinstance(masks, PatchMasks)
    return masks
