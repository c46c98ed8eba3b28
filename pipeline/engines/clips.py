"""Clips in pixels: the frames that a plan asks for, each handed to an engine for images as a sample of raw pixels.

So whatever an engine does to images it does to clips, with one row of the plan for all frames of a clip.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from headrace.pipeline.clips.clips import ClipPlan, ClipSpec
from headrace.pipeline.engines.base import Engine, TwoStageEngine, pixel_spans, whole_batch_part
from headrace.pipeline.images.plan import Plan
from headrace.pipeline.images.view import OPERATION_DRAWS
from headrace.shards import Spans

MAX_CLIP = 1 << 31
"""Bytes of decoded crops of a sample; more are refused, so that a crafted header cannot ask for all the memory."""


class Video(Protocol):
    """A video that is open: its shape is known before any frame is decoded."""

    length: int
    """Number of frames."""
    height: int
    width: int

    def pictures(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """(number, uint8 RGB (H, W, 3)) of the frames `wanted`, whose numbers ascend and lie in [0, length)."""


class StoredVideo:
    """Frames that are stored as pixels.

    Args:
        pixels: uint8 (T, H, W, 3), not copied.
    """

    def __init__(self, pixels: np.ndarray) -> None:
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or not pixels.size:
            raise ValueError(f"frames must be uint8 (T, H, W, 3), these are {pixels.dtype} {pixels.shape}")
        self.length, self.height, self.width, _ = pixels.shape
        self._pixels = pixels

    def pictures(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Over the stored memory. See `Video`."""
        return ((number, self._pixels[number]) for number in wanted)


class Cut(NamedTuple):
    """The frames of one clip, cut to its crop."""

    pixels: np.ndarray
    """uint8 (N, h, w, 3), contiguous: every frame that is shown, once."""
    shown: np.ndarray
    """int64 (T,): which of them comes when."""


class ClipEngine:
    """Draws clips in two steps: `cut` for each video, then `draw` for some or, where it `takes_whole_batches`, for a
    whole batch at once. Thread-safe as the engines that it wraps.

    Args:
        engines: for images, one a clip with the clip's view; they are handed samples of raw pixels.
        spec: the K clips.
    """

    def __init__(self, engines: Sequence[Engine], spec: ClipSpec) -> None:
        self._engines = engines
        self._spec = spec
        self._whole = [whole for whole in map(whole_batch_part, engines) if whole is not None]
        self._local = threading.local()

    @property
    def takes_whole_batches(self) -> bool:
        """Whether the engines have threads of their own."""
        return bool(self._whole)

    @property
    def finishes(self) -> bool:
        """Whether `draw` only crops, and `finish` does the rest."""
        return any(isinstance(engine, TwoStageEngine) for engine in self._engines)

    def cut(self, video: Video, plan: ClipPlan) -> list[Cut]:
        """Decode the frames of one video that its clips show.

        Args:
            video: the open video.
            plan: one row, filled.

        Returns: K cuts. Unless whole batches are taken, their memory is used again for this thread's next ones.

        Raises:
            ValueError: if the video cannot be decoded.
        """
        shown = [plan.frames[0, k, : clip.frames] for k, clip in enumerate(self._spec.clips)]
        boxes = [tuple(box) for box in plan.pixels.crop[0].tolist()]
        wanted = np.unique(np.concatenate(shown))
        # Of each clip every frame once, however often it is shown.
        needed = [np.unique(numbers) for numbers in shown]
        crops = self._memory([(len(numbers), *box[2:], 3) for numbers, box in zip(needed, boxes, strict=True)])
        for number, picture in video.pictures(wanted.tolist()):
            for numbers, (top, left, height, width), crop in zip(needed, boxes, crops, strict=True):
                at = int(np.searchsorted(numbers, number))
                if at < len(numbers) and numbers[at] == number:
                    crop[at] = picture[top : top + height, left : left + width]
        return [
            Cut(crop, np.searchsorted(numbers, order))
            for crop, numbers, order in zip(crops, needed, shown, strict=True)
        ]

    def draw(self, ids: np.ndarray, cuts: Sequence[list[Cut]], plan: ClipPlan, clips: list[np.ndarray]) -> None:
        """Write the clips of n videos; each image engine is run once a clip.

        Args:
            ids: int64 (n,), for error messages.
            cuts: of each video, the K of `cut`.
            plan: n rows, filled.
            clips: K arrays (n, T, S, S, 3), contiguous: uint8 levels or float32 normalised; uint8 where this engine
                `finishes`.
        """
        for k, (engine, out) in enumerate(zip(self._engines, clips, strict=True)):
            frames = [pixel_spans(cut[k].pixels, cut[k].shown) for cut in cuts]
            spans = Spans._make(np.concatenate(column) for column in zip(*frames, strict=True))
            pixels = _of_frames(plan, self._spec, k)
            pixels.crop[:, 0, :2], pixels.crop[:, 0, 2], pixels.crop[:, 0, 3] = 0, spans.height, spans.width
            write = engine.crop if isinstance(engine, TwoStageEngine) else engine.render
            write(np.repeat(ids, out.shape[1]), spans, pixels, [out.reshape(-1, *out.shape[2:])])

    def finish(self, plan: ClipPlan, clips: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
        """K clips (B, T, S, S, 3) of whole buffers as (B, 3, T, S, S), channels last in memory; after the engines'
        second stage if they have one, see `TwoStageEngine.finish`."""
        finished = []
        for k, (engine, clip) in enumerate(zip(self._engines, clips, strict=True)):
            if isinstance(engine, TwoStageEngine):
                pictures = clip.flatten(0, 1).permute(0, 3, 1, 2)
                (pictures,) = engine.finish(_of_frames(plan, self._spec, k), [pictures], dtype)
                clip = pictures.permute(0, 2, 3, 1).unflatten(0, clip.shape[:2])
            finished.append(clip.permute(0, 4, 1, 2, 3))
        return finished

    def close(self) -> None:
        """End the engines' threads; the next `draw` starts them again."""
        for engine in self._whole:
            engine.close()

    def _memory(self, shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
        """Working memory, cut into arrays: this thread's, or new."""
        sizes = [int(np.prod(shape, dtype=np.int64)) for shape in shapes]
        if sum(sizes) > MAX_CLIP:
            raise ValueError(f"the clips take {sum(sizes):,} bytes, more than the limit of {MAX_CLIP:,}")
        memory: np.ndarray | None = None if self._whole else getattr(self._local, "memory", None)
        if memory is None or memory.size < sum(sizes):
            memory = np.empty(sum(sizes), np.uint8)
            if not self._whole:
                self._local.memory = memory
        ends = np.cumsum(sizes)
        return [memory[end - size : end].reshape(shape) for end, size, shape in zip(ends, sizes, shapes, strict=True)]


def _of_frames(plan: ClipPlan, spec: ClipSpec, k: int) -> Plan:
    """What is done to the pictures of the clips k, each clip's row once for each of its frames; colours are the frame's
    own where the clip asks for that."""
    clip = spec.clips[k]
    rows = plan.pixels.view(k)[np.repeat(np.arange(len(plan)), clip.frames)]
    if clip.colours == "frame":
        own = plan.frame_pixels[:, k, : clip.frames].reshape(-1, 1)
        for name in OPERATION_DRAWS:
            rows.draws[name] = own[name]
    return rows
