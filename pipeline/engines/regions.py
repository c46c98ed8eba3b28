"""The host's half of drawing on a device: samples are decoded here, no more of each than its views need, into one slot
of fixed size a sample, so that a batch goes up in one copy. What would not fit is cropped and resized here instead."""

from __future__ import annotations

import numpy as np

from headrace.pipeline.compiled import kernel
from headrace.pipeline.engines.base import StageTimes
from headrace.pipeline.engines.kernels import store_levels, turn
from headrace.pipeline.engines.native import Memory, NativeEngine, cycle_counter, shown
from headrace.pipeline.engines.resize import crop_resize
from headrace.pipeline.images.plan import Plan
from headrace.pipeline.images.views import ViewSpec
from headrace.shards import ShardSet, Spans

FRAME = np.dtype(
    [
        ("offset", "i4"),  # bytes from the slot's begin to the picture's upper left pixel
        ("row", "i4"),  # bytes from a row of the picture to the next
        ("crop", "i4", 4),  # top, left, height, width of the view in it
        ("placed", "i4"),  # it is the view already, mirrored and turned
    ]
)
"""Where a view's pixels lie in a slot: interleaved RGB."""


class RegionEngine(NativeEngine):
    """See the top of this file. Thread-safe as `NativeEngine`.

    Args:
        shards, field, spec: see `NativeEngine`; the views' operations are left to the device.
        room: bytes of pixels that a slot has room for, at least; it holds all views of a sample in any case.
    """

    def __init__(self, shards: ShardSet, field: str, spec: ViewSpec, room: int) -> None:
        super().__init__(shards, field, spec)
        sizes = np.array([3 * view.size**2 for view in spec.views])
        self._offsets = np.concatenate([[0], np.cumsum(sizes)])
        self.slot = int(-(-max(room, int(self._offsets[-1])) // 256) * 256)
        """Bytes of a slot."""

    def take(self, ids: np.ndarray, spans: Spans, plan: Plan, slots: np.ndarray, frames: np.ndarray) -> StageTimes:
        """Fill uint8 (n, `slot`) and `FRAME` (n, V). Raises as `render` does."""

        def draw(begin: int, known: Spans, draws: np.ndarray, memory: Memory, cycles: np.ndarray) -> int:
            done: int = _take(begin, known, draws, self._settings, memory, self._offsets, slots, frames, cycles)
            return done

        return self._each(ids, spans, plan, draw)


@kernel
def _take(begin, spans, draws, settings, memory, offsets, slots, frames, cycles):
    """Samples from `begin` on, up to the first that the compiled decoder declines. Returns that sample, or n."""
    for i in range(begin, len(spans.address)):
        started = cycle_counter()
        taken, source, region = shown(i, spans, draws, memory)
        if not taken:
            return i
        ready = cycle_counter()
        cycles[0] += ready - started
        top, left, height, width = region
        if 3 * height * width <= slots.shape[1]:
            slot = slots[i, : 3 * height * width].reshape(height, width, 3)
            slot[:] = source[top : top + height, left : left + width]
            for v in range(len(settings)):
                crop, frame = draws[i, v].crop, frames[i, v]
                frame.offset = 0
                frame.row = 3 * width
                frame.crop[0], frame.crop[1] = crop[0] - top, crop[1] - left
                frame.crop[2], frame.crop[3] = crop[2], crop[3]
                frame.placed = 0
        else:
            for v in range(len(settings)):
                _place(source, draws[i, v], settings[v], memory, slots[i, offsets[v] : offsets[v + 1]])
                frame = frames[i, v]
                frame.offset = offsets[v]
                frame.row = 3 * settings[v].size
                frame.crop[0], frame.crop[1] = 0, 0
                frame.crop[2], frame.crop[3] = settings[v].size, settings[v].size
                frame.placed = 1
        cycles[1] += cycle_counter() - ready
    return len(spans.address)


@kernel
def _place(source, drawn, view, memory, out):
    """A view, cropped, resized, mirrored and turned, to interleaved levels `out`."""
    count = view.size * view.size
    flat = memory.canvas[: 3 * count]
    image = flat.reshape(3, view.size, view.size)
    top, left, height, width = drawn.crop
    crop_resize(source, top, left, height, width, drawn.flip, view.bicubic, memory.rows, image)
    if drawn.turns:
        turn(image, drawn.turns)
    store_levels(flat[:count], flat[count : 2 * count], flat[2 * count :], out)
