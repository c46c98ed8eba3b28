"""monodepth2: depth of a frame and motion of the camera that explain the frames beside it (arXiv 1806.01260)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.checks import require
from headrace.models.losses.depth import SIMILARITY_SHARE, edge_aware_smoothness, least_error, photometric_error
from headrace.models.method import Method
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.cameras import Intrinsics, Motion, moved, rotation
from headrace.models.parts.depth_networks import (
    DepthDecoder,
    PoseDecoder,
    depth_of,
    pyramid_channels,
    resnet_pyramid,
)
from headrace.models.parts.pixels import can_undo, unit_pixels
from headrace.models.parts.precision import widened
from headrace.pipeline import Batch, Clip, ClipSpec, Normalize, View

TARGET = 1
"""Of three frames in the order of time, the one whose depth is asked for."""


@dataclass(frozen=True, kw_only=True)
class Monodepth2Config:
    """monodepth2 with the authors' values for KITTI (nianticlabs/monodepth2 at b676244, options.py)."""

    size: int = 352
    """Side of the square frames, in pixels; a multiple of 32. The authors' are of 640 x 192, about as many pixels."""
    stride: int = 1
    """Frames of the video from one of the three frames to the next."""
    aspect: float = 1242 / 375
    """Width over height of the stored frames, which are shown whole, squeezed into squares."""
    flip: float = 0.5
    """Probability of a horizontal flip; 0 turns it off."""
    intrinsics: tuple[float, float, float, float] = (0.58 * 1242, 1.92 * 375, 0.5 * 1242, 0.5 * 375)
    """Focal lengths and principal point (x, y, x, y) in pixels of the stored frames, the same of all videos. Those of
    KITTI's 1242 x 375."""
    normalize: Normalize = field(default_factory=lambda: Normalize(mean=(0.45,) * 3, std=(0.225,) * 3))
    """Mean and deviation that frames are normalised with for the networks."""
    nearest: float = 0.1
    """Smallest depth, in units that only the motion's length gives a meaning."""
    farthest: float = 100.0
    """Largest depth."""
    smoothness: float = 1e-3
    """Weight of the disparity's smoothness at the largest scale; half of it at the next, and so on."""
    decoder_widths: tuple[int, int, int, int, int] = (16, 32, 64, 128, 256)
    """Channels of the depth decoder at the picture's resolution, at a half of it, and so on."""
    pose_width: int = 256
    """Channels of the motion's decoder."""
    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="resnet18"))
    """The depth's encoder, a ResNet of timm's; that of the motion is another one, which is given two pictures."""

    def __post_init__(self) -> None:
        require(self.size % 32 == 0 and self.size >= 64, self, "size", "be a multiple of 32, and 64 at least")
        require(self.aspect > 0, self, "aspect", "be positive")
        require(0 < self.nearest < self.farthest, self, "nearest", "be positive and less than farthest")
        require(min(self.intrinsics[:2]) > 0, self, "intrinsics", "begin with two positive focal lengths")
        require(can_undo(self.normalize), self, "normalize", "leave RGB, and not be per_view: targets are pixels")


class Monodepth2(Method):
    """Probes see the mean over frames of the depth's encoder, beside the mean over pairs of the motion's.

    Followed: nianticlabs/monodepth2 at b676244, trainer.py, layers.py, networks. Letters: B clips of three frames, the
    second of which is the target, the others sources.
    """

    config: Monodepth2Config
    inputs: ClipSpec

    def __init__(self, config: Monodepth2Config) -> None:
        super().__init__()
        self.config = config
        self.backbone, depth_features = build_backbone(config.backbone)
        self.decoder = DepthDecoder(pyramid_channels(self.backbone), config.decoder_widths)
        pair = replace(config.backbone, options={**config.backbone.options, "in_chans": 6})
        self.pose_encoder, pose_features = build_backbone(pair)
        self.pose_decoder = PoseDecoder(pyramid_channels(self.pose_encoder)[-1], width=config.pose_width, poses=2)
        self.feature_dim = depth_features + pose_features
        view = View(
            size=config.size,
            scale=(1.0, 1.0),
            ratio=(config.aspect, config.aspect),
            flip=config.flip,
            normalize=config.normalize,
        )
        self.inputs = ClipSpec([Clip(frames=3, strides=(config.stride,), view=view)])

    def disparities(self, images: Tensor) -> list[Tensor]:
        """(B, 1, H, W), and at each smaller scale; from 0, far, to 1, near."""
        return self.decoder(resnet_pyramid(self.backbone, images))

    def depth(self, images: Tensor) -> Tensor:
        """(B, 1, H, W): of normalised images (B, 3, H, W). Its unit is unknown: it is right but for a factor."""
        return depth_of(widened(self.disparities(images)[0]), self.config.nearest, self.config.farthest)

    def motion(self, earlier: Tensor, later: Tensor) -> Motion:
        """From the earlier camera's coordinates to the later one's."""
        last = resnet_pyramid(self.pose_encoder, torch.cat([earlier, later], dim=1))[-1]
        pose = widened(self.pose_decoder(last))
        return Motion(rotation(pose[:, :3]), pose[:, 3:])

    def camera(self, batch: Batch) -> Intrinsics:
        """Of each clip's frames as they are shown."""
        crop, flip = batch.drawn.crop[:, 0], batch.drawn.flip[:, 0]
        of_video = [torch.full((len(crop),), value, device=crop.device) for value in self.config.intrinsics]
        return Intrinsics(*of_video).cropped(crop, flip, self.config.size)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`, and the share of pixels that are explained best by a source that was moved ("moved")."""
        (clips,) = batch.normalized()
        earlier, image, later = clips.unbind(2)
        levels = unit_pixels(clips, self.config.normalize).unbind(2)
        motions = [self.motion(earlier, image).inverted(), self.motion(image, later)]
        loss, share = self.explain(levels, self.disparities(image), motions, self.camera(batch))
        return {"loss": loss, "moved": share.detach()}

    def explain(
        self, levels: tuple[Tensor, ...], disparities: list[Tensor], motions: list[Motion], camera: Intrinsics
    ) -> tuple[Tensor, Tensor]:
        """The loss, and the share at full resolution.

        Args:
            levels: three frames (B, 3, H, W), from 0 to 1.
            disparities: of the second, the largest scale first.
            motions: from the second's camera to the first's and to the third's.
        """
        config = self.config
        target, sources = levels[TARGET], (levels[0], levels[2])
        still = torch.stack([photometric_error(source, target, SIMILARITY_SHARE) for source in sources], dim=1)
        total, shares = target.new_zeros(()), []
        for scale, disparity in enumerate(disparities):
            large = F.interpolate(widened(disparity), target.shape[2:], mode="bilinear", align_corners=False)
            depth = depth_of(large, config.nearest, config.farthest)
            seen = [
                moved(source, depth, camera, motion, "border") for source, motion in zip(sources, motions, strict=True)
            ]
            errors = torch.stack([photometric_error(each, target, SIMILARITY_SHARE) for each in seen], dim=1)
            least, share = least_error(errors, still)
            smooth = edge_aware_smoothness(disparity, F.avg_pool2d(target, 2**scale))
            total = total + least + config.smoothness / 2**scale * smooth
            shares.append(share)
        return total / len(disparities), shares[0]

    def encode(self, batch: Batch) -> Tensor:
        """(B, feature_dim) of clips of two frames or more."""
        frames = batch.normalized()[0].unbind(2)
        of_frames = [self.backbone(frame) for frame in frames]
        of_pairs = [self.pose_encoder(torch.cat(pair, dim=1)) for pair in pairwise(frames)]
        return torch.cat([torch.stack(each).mean(dim=0) for each in (of_frames, of_pairs)], dim=1)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The target ("input"), its disparity as a multiple of its largest ("disparity"), and the frame before it as
        the target's camera would see it ("earlier moved")."""
        (clips,) = batch.normalized()
        earlier, image, _ = clips.unbind(2)
        levels: Any = unit_pixels(clips, self.config.normalize).unbind(2)
        disparity = widened(self.disparities(image)[0])
        depth = depth_of(disparity, self.config.nearest, self.config.farthest)
        motion = self.motion(earlier, image).inverted()
        shown = {
            "input": levels[TARGET],
            "disparity": (disparity / disparity.amax(dim=(2, 3), keepdim=True)).expand(-1, 3, -1, -1),
            "earlier moved": moved(levels[0], depth, self.camera(batch), motion, "border"),
        }
        return {name: each.float().clamp(0, 1) for name, each in shown.items()}
