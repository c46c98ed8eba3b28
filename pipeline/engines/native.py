"""The native engine: decode a sample once and no more of it than its views need, cut every view from it, write
straight into the batch.

All pixel work is compiled and holds no GIL, so that threads share one address space and no batch is ever copied
between processes.
"""

from __future__ import annotations

import threading
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numba import types

from headrace.pipeline.addresses import memory_at
from headrace.pipeline.compiled import carray, intrinsic, kernel
from headrace.pipeline.engines.base import StageTimes, of_sample
from headrace.pipeline.engines.blur import COLUMNS
from headrace.pipeline.engines.kernels import (
    CODES,
    as_pointer,
    operate,
    pixels_at,
    standard_scale,
    store_floats,
    store_lab,
    store_levels,
    turn,
)
from headrace.pipeline.engines.resize import crop_resize
from headrace.pipeline.images.decode import MAX_PIXELS, decode_image, decode_jpeg
from headrace.pipeline.images.plan import Plan
from headrace.pipeline.images.view import View, settings
from headrace.pipeline.images.views import ViewSpec
from headrace.pipeline.jpeg import DECODED, JpegScratch, decode_region, jpeg_scratch, room_for
from headrace.pipeline.simd import clock
from headrace.shards import JPG, RAW, ShardSet, Spans

_LAYOUT = np.dtype(
    [
        ("operations", "i1", len(CODES)),  # codes of those that are on, in order; -1 behind them
        ("space", "i8"),
        ("scale", "f4", 3),
        ("shift", "f4", 3),
    ],
    align=True,
)
_RGB, _LAB, _OWN = range(3)
"""How levels become floats: scaled, as Lab and scaled, by their own mean and deviation."""


class NativeEngine:
    """Thread-safe: any number of threads may call `render` at once."""

    operations = frozenset(CODES)
    """See `headrace.pipeline.engines.base.Engine`."""

    def __init__(self, shards: ShardSet, field: str, spec: ViewSpec) -> None:
        self._shards = shards
        self._field = field
        self._settings = settings(spec.views)
        self._layout = np.array([_layout(view) for view in spec.views], _LAYOUT)
        self._largest = max(view.size for view in spec.views)
        self._local = threading.local()

    def render(self, ids: np.ndarray, spans: Spans, plan: Plan, views: list[np.ndarray]) -> StageTimes:
        """Write the views of a few samples.

        Args:
            ids: int64 (n,), for error messages.
            spans: where the samples' bytes lie.
            plan: n rows.
            views: V arrays (n, S, S, 3), uint8 levels or float32 normalised, contiguous.

        Raises:
            ShardError: naming the sample whose bytes cannot be decoded.
        """
        started = perf_counter()
        scratch = self._scratch(spans)
        known = spans._replace(address=spans.address.copy(), encoding=spans.encoding.copy())
        draws = np.ascontiguousarray(plan.draws)
        cycles = np.zeros(2, np.uint64)
        decoded_here_s = 0.0
        done = 0
        while done < len(ids):
            done = _render(
                done,
                known,
                draws,
                self._settings,
                self._layout,
                scratch.memory,
                np.array([view.ctypes.data for view in views], np.int64),
                views[0].dtype == np.float32,
                cycles,
            )
            if done < len(ids):  # not a baseline JPEG, or damaged
                decoding = perf_counter()
                pixels = self._decode(int(ids[done]), spans, done, scratch)
                known.address[done], known.encoding[done] = pixels.ctypes.data, RAW
                decoded_here_s += perf_counter() - decoding
        compiled_s = perf_counter() - started - decoded_here_s
        decode_share = float(cycles[0]) / max(1.0, float(cycles.sum()))
        return StageTimes(
            decode_s=decoded_here_s + compiled_s * decode_share, augment_s=compiled_s * (1 - decode_share)
        )

    def _decode(self, sample: int, spans: Spans, i: int, scratch: _Scratch) -> np.ndarray:
        """Decode with a library what the compiled decoder declines."""
        height, width = int(spans.height[i]), int(spans.width[i])
        data = memory_at(int(spans.address[i]), int(spans.size[i]))
        with of_sample(self._shards, sample, self._field, "image"):
            if height * width > MAX_PIXELS:
                raise ValueError(f"{width} x {height} pixels are more than {MAX_PIXELS}")
            pixels = decode_jpeg(data, scratch.memory.decoded) if spans.encoding[i] == JPG else decode_image(data)
            if pixels.shape != (height, width, 3):
                raise ValueError(f"it is {pixels.shape[1]} x {pixels.shape[0]}, the index says {width} x {height}")
        scratch.kept = pixels
        return pixels

    def _scratch(self, spans: Spans) -> _Scratch:
        """This thread's working memory, at least as large as these samples need."""
        height, width = spans.height.astype(np.int64), spans.width.astype(np.int64)
        compressed = (spans.encoding == JPG) & (height * width <= MAX_PIXELS)
        # Of each the most that one picture needs: a wide one beside a tall one does not make a large one.
        need = (
            int(height.max()),
            int((height * width).max(initial=0, where=compressed)),
            int(room_for(height, width).max(initial=0, where=compressed)),
            int(width.max(initial=0, where=compressed)),
            int(spans.size.max(initial=0, where=compressed)),
        )
        scratch: _Scratch | None = getattr(self._local, "scratch", None)
        if scratch is None or any(n > c for n, c in zip(need, scratch.capacity, strict=True)):
            capacity = need if scratch is None else tuple(map(max, need, scratch.capacity))
            scratch = self._local.scratch = _Scratch(capacity, self._largest)
        return scratch


def _layout(view: View) -> tuple[Any, ...]:
    """A row of `_LAYOUT`."""
    codes = [CODES[name] for name in view.operations]
    normalize = view.normalize
    mean, std = np.array(normalize.mean), np.array(normalize.std)
    is_lab = normalize.space == "lab"
    return (
        codes + [-1] * (len(CODES) - len(codes)),
        _OWN if normalize.per_view else _LAB if is_lab else _RGB,
        1 / (std if is_lab else 255 * std),
        -mean / std,
    )


class _Memory(NamedTuple):
    """What the kernels work in."""

    rows: np.ndarray
    """uint32 (R, S), of `crop_resize`."""
    canvas: np.ndarray
    """uint8 (3 * S * S,): the view that is being made, planar."""
    plane: np.ndarray
    """int16, of `gaussian_blur`."""
    jpeg: JpegScratch
    decoded: np.ndarray
    """uint8 (3 * pixels,): the image that views are cut from, where it is not stored as pixels."""


class _Scratch:
    """Memory of one thread, reused from sample to sample."""

    def __init__(self, capacity: tuple[int, ...], size: int) -> None:
        rows, pixels, samples, width, file_size = self.capacity = capacity
        self.memory = _Memory(
            rows=np.empty((rows + 1, size), np.uint32),
            canvas=np.empty(3 * size * size, np.uint8),
            plane=np.empty(size * max(size, COLUMNS), np.int16),
            jpeg=jpeg_scratch(samples, width, file_size),
            decoded=np.empty(3 * pixels, np.uint8),
        )
        self.kept: np.ndarray | None = None  # pixels that a library decoded, alive until the next ones


@intrinsic
def _cycles(typingctx):
    """The processor's clock, uint64."""

    def codegen(context, builder, signature, arguments):
        return clock(context, builder)

    return types.uint64(), codegen


@kernel
def _decode_union(address, size, draws, scratch, image):
    """Decode the smallest region of a JPEG that holds every view's crop. Returns a status of `jpeg`."""
    top, left, bottom, right = image.shape[0], image.shape[1], 0, 0
    for v in range(len(draws)):
        crop = draws[v].crop
        top, left = min(top, crop[0]), min(left, crop[1])
        bottom, right = max(bottom, crop[0] + crop[2]), max(right, crop[1] + crop[3])
    data = carray(as_pointer(address), size, np.uint8)
    return decode_region(data, top, left, bottom - top, right - left, scratch, image)


@kernel
def _render(begin, spans, draws, settings, layouts, memory, out_address, as_float, cycles):
    """Samples from `begin` on, up to the first that the compiled decoder declines. Returns that sample, or n."""
    scales, shifts = np.empty(3, np.float32), np.empty(3, np.float32)
    for i in range(begin, len(spans.address)):
        started = _cycles()
        height, width = spans.height[i], spans.width[i]
        if spans.encoding[i] == RAW:
            source = pixels_at(spans.address[i], height, width)
        elif spans.encoding[i] == JPG and np.int64(height) * width <= MAX_PIXELS:
            source = memory.decoded[: 3 * height * width].reshape(height, width, 3)
            if _decode_union(spans.address[i], spans.size[i], draws[i], memory.jpeg, source) != DECODED:
                return i
        else:
            return i
        ready = _cycles()
        cycles[0] += ready - started
        for v in range(len(settings)):
            view, layout, drawn = settings[v], layouts[v], draws[i, v]
            size = view.size
            count = 3 * size * size
            flat = memory.canvas[:count]
            red, green, blue = (
                flat[: count // 3],
                flat[count // 3 : 2 * (count // 3)],
                flat[2 * (count // 3) :],
            )
            image = flat.reshape(3, size, size)
            top, left, crop_height, crop_width = drawn.crop
            crop_resize(source, top, left, crop_height, crop_width, drawn.flip, view.bicubic, memory.rows, image)
            if drawn.turns:
                turn(image, drawn.turns)
            for code in layout.operations:
                if code < 0:
                    break
                operate(code, image, view, drawn, memory.plane)
            if as_float:
                out = carray(as_pointer(out_address[v] + i * count * 4), count, np.float32)
                if layout.space == _LAB:
                    store_lab(red, green, blue, layout.scale, layout.shift, out)
                else:
                    if layout.space == _OWN:
                        scales[0], shifts[0] = standard_scale(red)
                        scales[1], shifts[1] = standard_scale(green)
                        scales[2], shifts[2] = standard_scale(blue)
                    else:
                        scales[:] = layout.scale
                        shifts[:] = layout.shift
                    store_floats(red, green, blue, scales, shifts, out)
            else:
                out_levels = carray(as_pointer(out_address[v] + i * count), count, np.uint8)
                store_levels(red, green, blue, out_levels)
        cycles[1] += _cycles() - ready
    return len(spans.address)
