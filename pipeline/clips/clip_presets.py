"""What published methods see of a video. One function a method; its arguments are what people change.

Each says where its numbers stand, as in `headrace.pipeline.images.presets`; docs/presets.md lists what is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from headrace.pipeline.clips.clips import Clip, ClipSpec
from headrace.pipeline.images.masks import TubeBlockMask, TubeMask
from headrace.pipeline.images.view import View

PATCH = 16
"""Pixels of a patch's side, of the encoders that masks are for."""
TUBE = 2
"""Frames of a patch, likewise."""


def videomae(size: int = 224, frames: int = 16, stride: int = 4, ratio: float = 0.9) -> ClipSpec:
    """VideoMAE (2203.12602): one clip, not mirrored, the same patches hidden in all frames. Its crops, with sides of
    0.66 to 1 times the height at thirteen places, are random resized crops here that cover as much of frames of 4 to 3.
    MCG-NJU/VideoMAE, datasets.py, transforms.py, masking_generator.py and scripts/kinetics."""
    view = View(size=size, scale=(0.33, 0.75), ratio=(6 / 7, 7 / 6), flip=0.0)
    return ClipSpec([Clip(frames=frames, strides=(stride,), view=view)], [TubeMask(**_grid(size, frames), ratio=ratio)])


def vjepa(size: int = 224, frames: int = 16, stride: int = 4) -> ClipSpec:
    """V-JEPA (2404.08471): one clip, and two masks to predict, of many small and of few large blocks.
    facebookresearch/jepa, app/vjepa/transforms.py, src/masks/multiblock3d.py and configs/pretrain/vitl16.yaml."""
    view = View(size=size, scale=(0.3, 1.0), ratio=(0.75, 1.35))
    grid = _grid(size, frames)
    masks = [TubeBlockMask(**grid, blocks=8, scale=0.15), TubeBlockMask(**grid, blocks=2, scale=0.7)]
    return ClipSpec([Clip(frames=frames, strides=(stride,), view=view)], masks)


def pace(size: int = 112, frames: int = 16, strides: tuple[int, ...] = (1, 2, 3, 4)) -> ClipSpec:
    """Pace prediction (2008.05861): how fast does it run? `DrawnClips.pace` is the class. Short videos start again. Its
    crops, squares of 112 in frames of 128 by 171 pixels, may be a little smaller here, so that they fit wide frames.
    laura-wang/video-pace, train.py, datasets/ucf101.py and the command in its README for C3D, R3D and R(2+1)D."""
    colours: dict[str, Any] = {"jitter": 0.8, "brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
    view = View(size=size, scale=(0.5, 112**2 / (128 * 171)), ratio=(1.0, 1.0), **colours)
    return ClipSpec([Clip(frames=frames, strides=strides, view=view, short="loop")])


def frame_order(size: int = 227, strides: tuple[int, ...] = (15, 20, 25, 30)) -> ClipSpec:
    """Frame order verification (1603.08561): are three frames in order? `DrawnClips.ordered` is the class, and either
    direction is in order. Whole frames, not mirrored: imisra/shuffle-tuple, networks/tuple_train.prototxt, which reads
    tuples that were drawn before. From the paper, table 1: outer frames at most 60 apart, neighbours at least 15, and
    three clips of four in disorder. The paper takes frames where optical flow is large; here they may lie anywhere in a
    video, which should have 121 frames or more."""
    # No crop of another aspect than the frame's holds its whole area, so each is the whole frame.
    view = View(size=size, scale=(1.0, 1.0), ratio=(0.5, 2.0), flip=0.0)
    clip = Clip(frames=3, strides=strides, view=view, reverse=0.5, disorder=0.75, disorder_by="replacing")
    return ClipSpec([clip])


def arrow_of_time(size: int = 224, frames: int = 16, stride: int = 2) -> ClipSpec:
    """The arrow of time (Wei et al., CVPR 2018): does it run backwards? `DrawnClips.reversed` is the class. The task is
    the paper's, whose network sees optical flow; the numbers are not."""
    view = View(size=size, scale=(0.5, 1.0))
    return ClipSpec([Clip(frames=frames, strides=(stride,), view=view, reverse=0.5)])


def odd_one_out(size: int = 112, clips: int = 6, frames: int = 6, stride: int = 2) -> ClipSpec:
    """Odd-one-out (1611.06646): which of the clips of a video is in disorder? `DrawnClips.odd` is the class. Six clips
    of six frames are from the paper; the other numbers are not."""
    view = View(size=size, scale=(0.5, 1.0))
    return ClipSpec.repeat(Clip(frames=frames, strides=(stride,), view=view), clips, odd=True)


def _grid(size: int, frames: int) -> dict[str, Any]:
    return {"grid": (size // PATCH, size // PATCH), "frames": max(1, frames // TUBE)}


CLIP_PRESETS: dict[str, Callable[[], ClipSpec]] = {
    "videomae": videomae,
    "vjepa": vjepa,
    "pace": pace,
    "frame_order": frame_order,
    "arrow_of_time": arrow_of_time,
    "odd_one_out": odd_one_out,
}
"""Name to what a method sees."""
