"""Clips in pixels: the frames that a plan asks for, each handed to an engine for images as a sample of raw pixels.

So whatever an engine does to images it does to clips, with one row of the plan for all frames of a clip.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Protocol

import numpy as np

from headrace.pipeline.clips import ClipPlan, ClipSpec
from headrace.pipeline.engines.base import Engine, StageTimes, pixel_spans

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


class ClipEngine:
    """Draws the clips of one video at a time. Thread-safe as the engines that it wraps.

    Args:
        engines: for images, one a clip with the clip's view; they are handed samples of raw pixels.
        spec: the K clips.
    """

    def __init__(self, engines: Sequence[Engine], spec: ClipSpec) -> None:
        self._engines = engines
        self._spec = spec
        self._local = threading.local()

    def draw(self, sample: int, video: Video, plan: ClipPlan, clips: list[np.ndarray]) -> StageTimes:
        """Write the clips of one video.

        Args:
            sample: its number, for error messages.
            video: the open video.
            plan: one row, filled.
            clips: K arrays (T, S, S, 3), uint8 levels or float32 normalised, contiguous.

        Raises:
            ValueError: if the video cannot be decoded.
        """
        started = perf_counter()
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
        decoded = perf_counter()
        for k, (numbers, crop, out) in enumerate(zip(needed, crops, clips, strict=True)):
            places = np.searchsorted(numbers, shown[k])
            count = len(places)
            pixels = plan.pixels.view(k)[np.zeros(count, np.int64)]
            pixels.crop[:] = (0, 0, crop.shape[1], crop.shape[2])
            self._engines[k].render(np.full(count, sample), pixel_spans(crop, places), pixels, [out])
        return StageTimes(decode_s=decoded - started, augment_s=perf_counter() - decoded)

    def _memory(self, shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
        """This thread's working memory, cut into arrays."""
        sizes = [int(np.prod(shape, dtype=np.int64)) for shape in shapes]
        if sum(sizes) > MAX_CLIP:
            raise ValueError(f"the clips take {sum(sizes):,} bytes, more than the limit of {MAX_CLIP:,}")
        memory: np.ndarray | None = getattr(self._local, "memory", None)
        if memory is None or memory.size < sum(sizes):
            memory = self._local.memory = np.empty(sum(sizes), np.uint8)
        ends = np.cumsum(sizes)
        return [memory[end - size : end].reshape(shape) for end, size, shape in zip(ends, sizes, shapes, strict=True)]
