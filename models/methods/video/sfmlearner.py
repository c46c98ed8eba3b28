"""SfMLearner: depth and motion that explain the frames beside it, at each scale by itself (arXiv 1704.07813)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.losses.depth import curvature, photometric_error
from headrace.models.methods.video.monodepth2 import TARGET, Monodepth2, Monodepth2Config
from headrace.models.parts.cameras import Intrinsics, Motion, moved
from headrace.models.parts.depth_networks import depth_of
from headrace.models.parts.precision import widened
from headrace.pipeline import Normalize


@dataclass(frozen=True, kw_only=True)
class SfMLearnerConfig(Monodepth2Config):
    """SfMLearner with the authors' values for KITTI (tinghuiz/SfMLearner at 65f71f1), and monodepth2's networks."""

    size: int = 224
    """Side of the square frames, in pixels; a multiple of 32. The authors' are of 416 x 128, about as many pixels."""
    flip: float = 0.0
    """Probability of a horizontal flip; 0 turns it off."""
    normalize: Normalize = field(default_factory=lambda: Normalize(mean=(0.5,) * 3, std=(0.5,) * 3))
    """Mean and deviation that frames are normalised with for the networks."""
    nearest: float = 1 / 10.01
    """Smallest depth: disparities are 10 times what the network says, and 0.01."""
    smoothness: float = 0.5
    """Weight of the disparity's smoothness at the largest scale; half of it at the next, and so on."""


class SfMLearner(Monodepth2):
    """What deviates from monodepth2 is the loss: absolute differences of levels from -1 to 1, summed over both sources
    and all scales, each of which is explained at its own resolution, and second differences of disparities.

    Followed: tinghuiz/SfMLearner at 65f71f1, SfMLearner.py and utils.py, without its mask of explainability, as in its
    published figures.
    """

    config: SfMLearnerConfig

    def explain(
        self, levels: tuple[Tensor, ...], disparities: list[Tensor], motions: list[Motion], camera: Intrinsics
    ) -> tuple[Tensor, Tensor]:
        """See `Monodepth2.explain`. No source is left as it is: the share is 1."""
        config = self.config
        total = levels[TARGET].new_zeros(())
        for scale, said in enumerate(disparities):
            factor = 2**scale
            first, target, last = (2 * F.avg_pool2d(frame, factor) - 1 for frame in levels)
            depth = depth_of(widened(said), config.nearest, config.farthest)
            for source, motion in zip((first, last), motions, strict=True):
                seen = moved(source, depth, camera.scaled(1 / factor), motion, "zeros")
                total = total + photometric_error(seen, target, similarity=0.0).mean()
            total = total + config.smoothness / factor * curvature(1 / depth)
        return total, torch.ones_like(total)
