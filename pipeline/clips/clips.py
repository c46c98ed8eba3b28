"""What a method wants to see of a video: clips of frames, and how they are drawn.

A clip plan is drawn from (seed, epoch, sample, clip) and the number of frames of the video, as
`headrace.pipeline.images.plan` does for images; what concerns the pixels is that module's own plan, one row for all
frames of a clip.
Letters: B samples, K clips of each, T frames of the longest clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from headrace.pipeline.clips.drawing import STARTS, draw
from headrace.pipeline.images.plan import Plan, operations_of, plan
from headrace.pipeline.images.view import DRAWS, View
from headrace.pipeline.images.views import ViewSpec
from headrace.pipeline.masks import MaskSpec
from headrace.pipeline.random import key_word
from headrace.pipeline.rows import Rows

MAX_FRAMES = 1 << 12
"""Of one clip."""

_CLIP_PARAMETERS = np.dtype(
    [
        ("frames", "i8"),
        ("centered", "?"),
        ("loop", "?"),
        ("reverse", "f8"),
        ("disorder", "f8"),
        ("replacing", "?"),
        ("paces", "i8"),
        ("rate", "f8", 2),
    ]
)
_FRAME_BITS = np.uint64(32)  # of a view's number, which clips leave to a frame's
Starts = Literal["independent", "apart", "row", "near", "together"]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One clip of a video: which frames, in which order, and one view of them.

    The frames are `start + i * stride`, the stride drawn from `strides`, the start, as `place` says, one of those at
    which the whole clip lies inside the video. Where there is none, the clip starts with the video, and `short` says
    what comes after its end.
    """

    frames: int = 16
    """Number of frames."""
    strides: tuple[int, ...] = (4,)
    """Distances from a frame to the next, in frames of the video; each is equally likely, and its position here is the
    label of the pace (2008.05861)."""
    rate: tuple[float, float] = (1.0, 1.0)
    """Factor of the stride, drawn uniformly: the frames are `start + i * stride * rate`, rounded down. (1, 1) leaves
    the stride as it is (SpeedNet, 2004.06130)."""
    view: View = field(default_factory=lambda: View(size=224))
    """The spatial part. All frames of a clip share one draw of it."""
    colours: Literal["clip", "frame"] = "clip"
    """frame: what comes behind crop, flip and turn is drawn for each frame by itself, so that frames cannot be compared
    by their colours (2008.05861)."""
    place: Literal["random", "center"] = "random"
    """Where in the video the clip lies: each place equally likely, or in the middle; the earlier of two middle ones."""
    short: Literal["clamp", "loop"] = "clamp"
    """A video that ends before the clip shows its last frame on, or starts again."""
    reverse: float = 0.0
    """Probability of running backwards; 0 turns it off."""
    disorder: float = 0.0
    """Probability that the frames are not in the order of time, forwards or backwards; 0 turns it off."""
    disorder_by: Literal["permuting", "replacing"] = "permuting"
    """permuting: any other order of the frames, but for the reversed one, each equally likely. replacing, for three
    frames (1603.08561): of five equally spaced ones a b c d e a clip is b c d in order, b a d or b e d in disorder."""

    def __post_init__(self) -> None:
        if not 1 <= self.frames <= MAX_FRAMES:
            raise ValueError(f"Clip.frames must lie in [1, {MAX_FRAMES}], got {self.frames}")
        if not self.strides or min(self.strides) < 1:
            raise ValueError(f"Clip.strides must be one or more positive numbers, got {self.strides}")
        low, high = self.rate
        if not 0.0 < low <= high:
            raise ValueError(f"Clip.rate must satisfy 0 < low <= high, got {self.rate}")
        if self.colours not in ("clip", "frame"):
            raise ValueError(f"Clip.colours must be clip or frame, got {self.colours!r}")
        if self.place not in ("random", "center"):
            raise ValueError(f"Clip.place must be random or center, got {self.place!r}")
        if self.short not in ("clamp", "loop"):
            raise ValueError(f"Clip.short must be clamp or loop, got {self.short!r}")
        for name in ("reverse", "disorder"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"Clip.{name} is a probability, got {getattr(self, name)}")
        if self.disorder_by not in ("permuting", "replacing"):
            raise ValueError(f"Clip.disorder_by must be permuting or replacing, got {self.disorder_by!r}")
        if self.disorder and self.frames < 3:
            raise ValueError(f"Clip.disorder needs at least 3 frames, got {self.frames}")
        if self.disorder_by == "replacing" and self.frames != 3:
            raise ValueError(f"Clip.disorder_by 'replacing' needs 3 frames, got {self.frames}")

    def span(self, stride: int) -> int:
        """Frames of the video from the first that may be shown to the last, at most."""
        places = 5 if self.disorder_by == "replacing" else self.frames
        return int((places - 1) * stride * self.rate[1]) + 1


@dataclass(frozen=True)
class ClipSpec:
    """The clips of one video, in the order in which they leave the loader, and the masks that go with them."""

    clips: tuple[Clip, ...]
    masks: tuple[MaskSpec, ...] = ()
    """What `Batch.masks` holds, one for each."""
    odd: bool = False
    """One of the clips, each equally likely, is in disorder, the others are not (odd-one-out, 1611.06646)."""
    starts: Starts = "independent"
    """independent: so that clips may overlap. The others draw starts of all clips together, whatever their `place`.
    apart: they lie one behind the other in an order that is drawn, with drawn gaps; those of a video that is too short
    for that start independently. row: likewise, but `interval` frames from the end of one to the next, and the first
    at the beginning of a video that is too short (clip order, CVPR 2019). near: two clips alike, whose distance in time
    has a density that falls on a line, to 0 at the largest possible one; which comes first is drawn (CVRL, 2008.03800).
    together: all at one frame, drawn so that the longest lies inside the video (SpeedNet, 2004.06130)."""
    interval: int = 0
    """Frames of the video between the clips of a row."""
    field: str | None = None
    """Name of the field of videos or frames in the shard set; None takes "video" or else "frames"."""

    def __init__(
        self,
        clips: Sequence[Clip],
        masks: Sequence[MaskSpec] = (),
        *,
        odd: bool = False,
        starts: Starts = "independent",
        interval: int = 0,
        field: str | None = None,
    ) -> None:
        if not clips:
            raise ValueError("ClipSpec needs at least one clip")
        if odd and len(clips) < 2:
            raise ValueError("ClipSpec.odd needs at least two clips")
        if odd and any(clip.disorder or clip.frames < 3 for clip in clips):
            raise ValueError("ClipSpec.odd needs clips of at least 3 frames without a disorder of their own")
        if starts not in STARTS:
            raise ValueError(f"ClipSpec.starts must be one of {', '.join(STARTS)}, got {starts!r}")
        if interval < 0 or (interval and starts != "row"):
            raise ValueError(f"ClipSpec.interval is from 0 on, and for starts in a row, got {interval}")
        if starts == "near":
            lengths = {clip.span(stride) for clip in clips for stride in clip.strides}
            if len(clips) != 2 or len(lengths) > 1 or any(clip.rate[0] < clip.rate[1] for clip in clips):
                raise ValueError("ClipSpec.starts 'near' needs two clips of one length in the video")
        object.__setattr__(self, "clips", tuple(clips))
        object.__setattr__(self, "masks", tuple(masks))
        object.__setattr__(self, "odd", odd)
        object.__setattr__(self, "starts", starts)
        object.__setattr__(self, "interval", interval)
        object.__setattr__(self, "field", field)

    def __len__(self) -> int:
        return len(self.clips)

    @staticmethod
    def repeat(
        clip: Clip,
        times: int,
        masks: Sequence[MaskSpec] = (),
        *,
        odd: bool = False,
        starts: Starts = "independent",
        interval: int = 0,
    ) -> ClipSpec:
        """`times` draws of one clip."""
        return ClipSpec([clip] * times, masks, odd=odd, starts=starts, interval=interval)

    @property
    def frames(self) -> int:
        """T, frames of the longest clip."""
        return max(clip.frames for clip in self.clips)

    @property
    def views(self) -> ViewSpec:
        """The spatial parts."""
        return ViewSpec([clip.view for clip in self.clips])

    def plain(self) -> ClipSpec:
        """What probes are shown: the first clip from the middle of the video, forwards, in order and at the first of
        its strides, its frames as `ViewSpec.plain` has them. Nothing is drawn, nothing is masked."""
        first = self.clips[0]
        (view,) = self.views.plain().views
        plain = replace(
            first,
            strides=first.strides[:1],
            rate=(1.0, 1.0),
            view=view,
            colours="clip",
            place="center",
            reverse=0.0,
            disorder=0.0,
        )
        return ClipSpec([plain], field=self.field)


class DrawnClips(NamedTuple):
    """The labels of a batch of clips: what was drawn for them."""

    frames: Tensor
    """int32 (B, K, T): numbers of the frames in the order in which they are shown; -1 behind a shorter clip."""
    length: Tensor
    """int32 (B,): frames of the video."""
    pace: Tensor
    """int64 (B, K): position of the stride in `Clip.strides`."""
    reversed: Tensor
    """bool (B, K): running backwards."""
    ordered: Tensor
    """bool (B, K): in the order of time, forwards or backwards."""
    permutation: Tensor
    """int64 (B, K, T): of each frame shown its place in time among the clip's frames; -1 behind a shorter clip."""
    odd: Tensor
    """int64 (B,): the clip that is in disorder where `ClipSpec.odd` asks for one, else -1."""
    sequence: Tensor
    """int64 (B, K): of each clip its place in time among the clips, where `ClipSpec.starts` draws their order: apart
    (unless the video is too short for that), row and near. Else -1."""
    crop: Tensor
    """int32 (B, K, 4): top, left, height, width of the crop, in pixels of the video."""
    flip: Tensor
    """bool (B, K): mirrored left to right."""


@dataclass(frozen=True, kw_only=True)
class ClipPlan(Rows):
    """The draws of B samples with K clips each; rows are filled when their videos are open."""

    origin: np.ndarray
    """uint64 (B, 2): seed and epoch that a row is drawn from."""
    frames: np.ndarray
    """int32 (B, K, T); as all of these to `odd`, see `DrawnClips`."""
    length: np.ndarray
    """int32 (B,)"""
    pace: np.ndarray
    """int64 (B, K)"""
    reversed: np.ndarray
    """bool (B, K)"""
    ordered: np.ndarray
    """bool (B, K)"""
    permutation: np.ndarray
    """int64 (B, K, T)"""
    odd: np.ndarray
    """int64 (B,)"""
    sequence: np.ndarray
    """int64 (B, K)"""
    pixels: Plan
    """What is done to the frames, a view a clip."""
    frame_pixels: np.ndarray
    """`headrace.pipeline.images.view.DRAWS` (B, K, T): for clips with colours of each frame, what comes behind crop,
    flip and turn in the place of what `pixels` says. (B, K, 0) where no clip has them."""

    @staticmethod
    def blank(spec: ClipSpec, seed: int, epoch: int, samples: int) -> ClipPlan:
        """`samples` rows to be filled."""
        clips, frames = len(spec), spec.frames
        coloured = frames if any(clip.colours == "frame" for clip in spec.clips) else 0
        return ClipPlan(
            origin=np.full((samples, 2), (key_word(seed), key_word(epoch)), np.uint64),
            frames=np.full((samples, clips, frames), -1, np.int32),
            length=np.zeros(samples, np.int32),
            pace=np.zeros((samples, clips), np.int64),
            reversed=np.zeros((samples, clips), np.bool_),
            ordered=np.ones((samples, clips), np.bool_),
            permutation=np.full((samples, clips, frames), -1, np.int64),
            odd=np.full(samples, -1, np.int64),
            sequence=np.full((samples, clips), -1, np.int64),
            frame_pixels=np.zeros((samples, clips, coloured), DRAWS),
            pixels=plan(spec.views, seed, epoch, np.zeros(samples, np.int64), np.ones((samples, 2), np.int32)),
        )

    def fill(self, spec: ClipSpec, sample_ids: np.ndarray, lengths: np.ndarray, sizes: np.ndarray) -> None:
        """Draw every random number of these rows.

        Args:
            spec: the K clips.
            sample_ids: int64 (B,), positions in the shard set.
            lengths: int32 (B,), frames of each video.
            sizes: int32 (B, 2), height and width of each video in pixels.

        Raises:
            ValueError: if a video has no frames or no pixels.
        """
        if len(lengths) and lengths.min() < 1:
            raise ValueError(f"sample {sample_ids[lengths.argmin()]} has no frames")
        if not len(self):
            return
        seed, epoch = self.origin[0]
        self.length[:] = lengths
        draw(
            seed,
            epoch,
            np.ascontiguousarray(sample_ids, np.int64),
            np.ascontiguousarray(lengths, np.int64),
            *_parameters(spec),
            spec.odd,
            STARTS[spec.starts],
            spec.interval,
            self.frames,
            self.pace,
            self.reversed,
            self.ordered,
            self.permutation,
            self.odd,
            self.sequence,
        )
        self.pixels[:] = plan(spec.views, int(seed), int(epoch), sample_ids, sizes)
        for k, clip in enumerate(spec.clips):
            if clip.colours == "frame":
                numbers = (np.uint64(k + 1) << _FRAME_BITS) + np.arange(clip.frames, dtype=np.uint64)
                drawn = operations_of(clip.view, int(seed), int(epoch), sample_ids, numbers)
                self.frame_pixels[:, k, : clip.frames] = drawn

    def drawn(self) -> DrawnClips:
        """The labels, sharing memory but for those of the pixels."""
        columns = {name: getattr(self, name) for name in DrawnClips._fields if name not in ("crop", "flip")}
        columns |= {name: np.ascontiguousarray(getattr(self.pixels, name)) for name in ("crop", "flip")}
        return DrawnClips(**{name: torch.from_numpy(column) for name, column in columns.items()})


def clip_plan(
    spec: ClipSpec, seed: int, epoch: int, sample_ids: np.ndarray, lengths: np.ndarray, sizes: np.ndarray
) -> ClipPlan:
    """A filled plan; see `ClipPlan.fill`."""
    drawn = ClipPlan.blank(spec, seed, epoch, len(sample_ids))
    drawn.fill(spec, sample_ids, lengths, sizes)
    return drawn


def _parameters(spec: ClipSpec) -> tuple[np.ndarray, np.ndarray]:
    """The clips as records, and their strides, (K, largest number of them)."""
    strides = np.zeros((len(spec), max(len(clip.strides) for clip in spec.clips)), np.int64)
    for row, clip in zip(strides, spec.clips, strict=True):
        row[: len(clip.strides)] = clip.strides
    records = [
        (
            clip.frames,
            clip.place == "center",
            clip.short == "loop",
            clip.reverse,
            clip.disorder,
            clip.disorder_by == "replacing",
            len(clip.strides),
            clip.rate,
        )
        for clip in spec.clips
    ]
    return np.array(records, _CLIP_PARAMETERS), strides
