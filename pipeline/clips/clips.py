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

from headrace.pipeline.compiled import kernel
from headrace.pipeline.images.plan import Plan, plan
from headrace.pipeline.images.view import View
from headrace.pipeline.images.views import ViewSpec
from headrace.pipeline.masks import MaskSpec
from headrace.pipeline.random import key_word, philox, unit
from headrace.pipeline.rows import Rows

MAX_FRAMES = 1 << 12
"""Of one clip."""

_STREAM = key_word(0x636C6970)  # the word "clip"
_WHOLE = key_word(-1)  # in the place of a clip's number: draws that all clips of a sample share
# Counter blocks of four random words; a new draw takes a new block, so that old draws never move.
_BLOCK_START = np.uint64(0)
_BLOCK_SIDE = np.uint64(1)
_BLOCK_ORDER = np.uint64(2)
_BLOCK_GAP = np.uint64(3)
_STEP = np.uint64(16)  # bits of a counter word that the number of the block leaves to a step

_CLIP_PARAMETERS = np.dtype(
    [
        ("frames", "i8"),
        ("centered", "?"),
        ("loop", "?"),
        ("reverse", "f8"),
        ("disorder", "f8"),
        ("replacing", "?"),
        ("paces", "i8"),
    ]
)


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
    view: View = field(default_factory=lambda: View(size=224))
    """The spatial part. All frames of a clip share one draw of it."""
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
        """Frames of the video from the first that may be shown to the last."""
        places = 5 if self.disorder_by == "replacing" else self.frames
        return (places - 1) * stride + 1


@dataclass(frozen=True)
class ClipSpec:
    """The clips of one video, in the order in which they leave the loader, and the masks that go with them."""

    clips: tuple[Clip, ...]
    masks: tuple[MaskSpec, ...] = ()
    """What `Batch.masks` holds, one for each."""
    odd: bool = False
    """One of the clips, each equally likely, is in disorder, the others are not (odd-one-out, 1611.06646)."""
    apart: bool = False
    """False: the starts are independent, so that clips may overlap. True: they lie one behind the other in an order
    that is drawn, whatever their `place`; those of a video that is too short for that start independently."""
    field: str | None = None
    """Name of the field of videos or frames in the shard set; None takes "video" or else "frames"."""

    def __init__(
        self,
        clips: Sequence[Clip],
        masks: Sequence[MaskSpec] = (),
        *,
        odd: bool = False,
        apart: bool = False,
        field: str | None = None,
    ) -> None:
        if not clips:
            raise ValueError("ClipSpec needs at least one clip")
        if odd and len(clips) < 2:
            raise ValueError("ClipSpec.odd needs at least two clips")
        if odd and any(clip.disorder or clip.frames < 3 for clip in clips):
            raise ValueError("ClipSpec.odd needs clips of at least 3 frames without a disorder of their own")
        object.__setattr__(self, "clips", tuple(clips))
        object.__setattr__(self, "masks", tuple(masks))
        object.__setattr__(self, "odd", odd)
        object.__setattr__(self, "apart", apart)
        object.__setattr__(self, "field", field)

    def __len__(self) -> int:
        return len(self.clips)

    @staticmethod
    def repeat(
        clip: Clip, times: int, masks: Sequence[MaskSpec] = (), *, odd: bool = False, apart: bool = False
    ) -> ClipSpec:
        """`times` independent draws of one clip."""
        return ClipSpec([clip] * times, masks, odd=odd, apart=apart)

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
        plain = replace(first, strides=first.strides[:1], view=view, place="center", reverse=0.0, disorder=0.0)
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
    pixels: Plan
    """What is done to the frames, a view a clip."""

    @staticmethod
    def blank(spec: ClipSpec, seed: int, epoch: int, samples: int) -> ClipPlan:
        """`samples` rows to be filled."""
        clips, frames = len(spec), spec.frames
        return ClipPlan(
            origin=np.full((samples, 2), (key_word(seed), key_word(epoch)), np.uint64),
            frames=np.full((samples, clips, frames), -1, np.int32),
            length=np.zeros(samples, np.int32),
            pace=np.zeros((samples, clips), np.int64),
            reversed=np.zeros((samples, clips), np.bool_),
            ordered=np.ones((samples, clips), np.bool_),
            permutation=np.full((samples, clips, frames), -1, np.int64),
            odd=np.full(samples, -1, np.int64),
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
        _draw(
            seed,
            epoch,
            np.ascontiguousarray(sample_ids, np.int64),
            np.ascontiguousarray(lengths, np.int64),
            *_parameters(spec),
            spec.odd,
            spec.apart,
            self.frames,
            self.pace,
            self.reversed,
            self.ordered,
            self.permutation,
            self.odd,
        )
        self.pixels[:] = plan(spec.views, int(seed), int(epoch), sample_ids, sizes)

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
        )
        for clip in spec.clips
    ]
    return np.array(records, _CLIP_PARAMETERS), strides


@kernel
def _draw(
    seed,
    epoch,
    sample_ids,
    lengths,
    parameters,
    strides,
    has_odd,
    apart,
    frames,
    pace,
    reversed_,
    ordered,
    permutation,
    odd,
):
    clips = len(parameters)
    spans = np.empty(clips, np.int64)
    starts = np.empty(clips, np.int64)
    for i in range(len(sample_ids)):
        sample = np.uint64(sample_ids[i])
        length = lengths[i]
        odd[i] = -1
        if has_odd:
            words = philox(seed, _STREAM, _BLOCK_START, _WHOLE, sample, epoch)
            odd[i] = np.int64(unit(words[0]) * clips)
        for k in range(clips):
            p = parameters[k]
            words = philox(seed, _STREAM, _BLOCK_START, np.uint64(k), sample, epoch)
            pace[i, k] = np.int64(unit(words[0]) * p.paces)
            places = 5 if p.replacing else p.frames
            spans[k] = (places - 1) * strides[k, pace[i, k]] + 1
            free = max(0, length - spans[k])
            starts[k] = free // 2 if p.centered else np.int64(unit(words[1]) * (free + 1))
            reversed_[i, k] = unit(words[2]) < p.reverse
            ordered[i, k] = not unit(words[3]) < p.disorder and odd[i] != k
        if apart:
            _place_apart(seed, epoch, sample, length, spans, starts)
        for k in range(clips):
            p = parameters[k]
            stride = strides[k, pace[i, k]]
            count = p.frames
            order = permutation[i, k, :count]
            shown = frames[i, k, :count]
            for t in range(count):
                order[t] = t
                shown[t] = t + 1 if p.replacing else t
            if not ordered[i, k]:
                if p.replacing:
                    words = philox(seed, _STREAM, _BLOCK_SIDE, np.uint64(k), sample, epoch)
                    before = unit(words[0]) < 0.5
                    shown[1] = 0 if before else 4
                    order[0], order[1], order[2] = (1, 0, 2) if before else (0, 2, 1)
                else:
                    _draw_order(seed, epoch, sample, np.uint64(k), order)
                    for t in range(count):
                        shown[t] = order[t]
            if reversed_[i, k]:
                order[:] = order[::-1].copy()
                shown[:] = shown[::-1].copy()
            for t in range(count):
                number = starts[k] + shown[t] * stride
                if number >= length:
                    number = number % length if p.loop else length - 1
                shown[t] = number


@kernel
def _place_apart(seed, epoch, sample, length, spans, starts):
    """Starts of clips that do not overlap, in a drawn order with drawn gaps; nothing where they do not fit."""
    clips = len(spans)
    free = length - spans.sum()
    if free < 0:
        return
    gaps = np.empty(clips, np.int64)
    turn = np.empty(clips, np.int64)
    for k in range(clips):
        words = philox(seed, _STREAM, np.uint64(k) << _STEP | _BLOCK_GAP, _WHOLE, sample, epoch)
        gaps[k] = np.int64(unit(words[0]) * (free + 1))
        other = np.int64(unit(words[1]) * (k + 1))
        turn[k] = turn[other]
        turn[other] = k
    gaps.sort()
    taken = 0
    for k in range(clips):
        starts[turn[k]] = gaps[k] + taken
        taken += spans[turn[k]]


@kernel
def _draw_order(seed, epoch, sample, clip, order):
    """One of the orders that are neither that of time nor its reverse."""
    count = len(order)
    step = 0
    while True:
        for t in range(count - 1, 0, -1):
            words = philox(seed, _STREAM, np.uint64(step) << _STEP | _BLOCK_ORDER, clip, sample, epoch)
            step += 1
            other = np.int64(unit(words[0]) * (t + 1))
            order[t], order[other] = order[other], order[t]
        forwards, backwards = True, True
        for t in range(count):
            forwards = forwards and order[t] == t
            backwards = backwards and order[t] == count - 1 - t
        if not (forwards or backwards):
            return
