"""The native engine: decode a sample once, cut every view from it, write straight into the batch.

All pixel work is compiled and holds no GIL, so that threads share one address space and no batch is ever copied
between processes.
"""

from __future__ import annotations

import threading
from time import perf_counter

import numpy as np

from headrace.pipeline.compiled import carray, kernel
from headrace.pipeline.decode import MAX_PIXELS, decode_image, decode_jpeg, memory_at
from headrace.pipeline.engines.base import StageTimes
from headrace.pipeline.engines.kernels import (
    as_pointer,
    crop_resize,
    gaussian_blur,
    grayscale,
    jitter,
    pixels_at,
    solarize,
    store_floats,
    store_levels,
)
from headrace.pipeline.plan import Plan
from headrace.pipeline.views import ViewSpec
from headrace.shards import JPG, RAW, ShardError, ShardSet, Spans

_VIEW_LAYOUT = np.dtype(
    [
        ("size", "i8"),
        ("blur_taps", "i8"),
        ("solarize_threshold", "i8"),
        ("scale", "f4", 3),
        ("shift", "f4", 3),
    ]
)


class NativeEngine:
    """Thread-safe: any number of threads may call `render` at once."""

    def __init__(self, shards: ShardSet, field: str, spec: ViewSpec) -> None:
        self._shards = shards
        self._field = field
        self._layout = np.array(
            [
                (
                    view.size,
                    view.blur_taps,
                    view.solarize_threshold,
                    [1 / (255 * s) for s in view.normalize.std],
                    [-m / s for m, s in zip(view.normalize.mean, view.normalize.std, strict=True)],
                )
                for view in spec.views
            ],
            _VIEW_LAYOUT,
        )
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
        n = len(ids)
        scratch = self._scratch(int(spans.height.max()))
        address = spans.address.copy()
        decode_s = augment_s = 0.0
        arguments = (
            address,
            spans.height,
            spans.width,
            plan.crop,
            plan.flip,
            plan.jitter_order,
            plan.jitter_factor,
            plan.grayscale,
            plan.blur_sigma,
            plan.solarize,
            self._layout,
            scratch.rows,
            scratch.canvas,
            scratch.plane,
            np.array([view.ctypes.data for view in views], np.int64),
            views[0].dtype == np.float32,
        )
        pending = 0  # raw samples wait and go through one call
        for i in range(n):
            if spans.encoding[i] == RAW:
                continue
            started = perf_counter()
            pixels = self._decode(ids[i], spans, i, scratch)
            address[i] = pixels.ctypes.data
            decoded = perf_counter()
            _render(pending, i + 1, *arguments)
            pending = i + 1
            decode_s += decoded - started
            augment_s += perf_counter() - decoded
        if pending < n:
            started = perf_counter()
            _render(pending, n, *arguments)
            augment_s += perf_counter() - started
        return StageTimes(decode_s=decode_s, augment_s=augment_s)

    def _decode(self, sample: int, spans: Spans, i: int, scratch: _Scratch) -> np.ndarray:
        height, width = int(spans.height[i]), int(spans.width[i])
        data = memory_at(int(spans.address[i]), int(spans.size[i]))
        try:
            if height * width > MAX_PIXELS:
                raise ValueError(f"{width} x {height} pixels are more than {MAX_PIXELS}")
            if spans.encoding[i] == JPG:
                pixels = decode_jpeg(data, scratch.image(height * width * 3))
            else:
                pixels = scratch.keep(decode_image(data))
            if pixels.shape != (height, width, 3):
                raise ValueError(f"decodes to {pixels.shape[1]} x {pixels.shape[0]}, index says {width} x {height}")
        except ValueError as error:
            where = self._shards.where(int(sample), self._field)
            raise ShardError(f"{where}: cannot decode the image: {error}") from error
        return pixels

    def _scratch(self, height: int) -> _Scratch:
        scratch: _Scratch | None = getattr(self._local, "scratch", None)
        if scratch is None or len(scratch.rows) < height:
            scratch = self._local.scratch = _Scratch(height, self._largest)
        return scratch


class _Scratch:
    """Memory of one thread, reused from sample to sample."""

    def __init__(self, height: int, size: int) -> None:
        self.rows = np.empty((height, size), np.uint32)
        self.canvas = np.empty(3 * size * size, np.uint8)
        self.plane = np.empty(size * size, np.int16)
        self._image = np.empty(0, np.uint8)

    def image(self, size: int) -> np.ndarray:
        """Flat uint8 buffer of at least `size` bytes for a decoded image."""
        if len(self._image) < size:
            self._image = np.empty(size, np.uint8)
        return self._image

    def keep(self, pixels: np.ndarray) -> np.ndarray:
        """A copy that lives until the next sample."""
        kept = self.image(pixels.size)[: pixels.size].reshape(pixels.shape)
        kept[:] = pixels
        return kept


@kernel
def _render(
    begin,
    end,
    address,
    height,
    width,
    crop,
    flip,
    jitter_order,
    jitter_factor,
    gray,
    blur_sigma,
    solarized,
    layout,
    rows,
    canvas,
    plane,
    out_address,
    as_float,
):
    for i in range(begin, end):
        source = pixels_at(address[i], height[i], width[i])
        for v in range(len(layout)):
            view = layout[v]
            size = view.size
            count = 3 * size * size
            flat = canvas[:count]
            red, green, blue = (
                flat[: count // 3],
                flat[count // 3 : 2 * (count // 3)],
                flat[2 * (count // 3) :],
            )
            image = flat.reshape(3, size, size)
            top, left, crop_height, crop_width = crop[i, v]
            crop_resize(source, top, left, crop_height, crop_width, flip[i, v], rows, image)
            jitter(image, jitter_order[i, v], jitter_factor[i, v])
            if gray[i, v]:
                grayscale(red, green, blue)
            if blur_sigma[i, v] > 0.0:
                gaussian_blur(image, blur_sigma[i, v], view.blur_taps, plane)
            if solarized[i, v]:
                solarize(flat, view.solarize_threshold)
            if as_float:
                out = carray(as_pointer(out_address[v] + i * count * 4), count, np.float32)
                store_floats(red, green, blue, view.scale, view.shift, out)
            else:
                out_levels = carray(as_pointer(out_address[v] + i * count), count, np.uint8)
                store_levels(red, green, blue, out_levels)
