"""The native engine: decode a sample once and no more of it than its views need, cut every view from it, write
straight into the batch.

All pixel work is compiled and holds no GIL, so that threads share one address space and no batch is ever copied
between processes.
"""

from __future__ import annotations

import threading
from time import perf_counter
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from headrace.pipeline.addresses import memory_at
from headrace.pipeline.compiled import carray, intrinsic, kernel
from headrace.pipeline.engines.base import StageTimes, of_sample
from headrace.pipeline.engines.blur import COLUMNS, gaussian_blur
from headrace.pipeline.engines.kernels import (
    as_pointer,
    drop_channels,
    erase,
    grayscale,
    jitter,
    pixels_at,
    project,
    solarize,
    standard_scale,
    store_floats,
    store_lab,
    store_levels,
    turn,
)
from headrace.pipeline.engines.resize import crop_resize
from headrace.pipeline.images.decode import MAX_PIXELS, decode_image, decode_jpeg
from headrace.pipeline.images.plan import Plan
from headrace.pipeline.images.views import View, ViewSpec
from headrace.pipeline.jpeg import DECODED, decode_region, jpeg_scratch, room_for
from headrace.shards import JPG, RAW, ShardSet, Spans

_VIEW_LAYOUT = np.dtype(
    [
        ("size", "i8"),
        ("bicubic", "?"),
        ("blur_taps", "i8"),
        ("solarize_threshold", "i8"),
        ("erase_value", "u1", 3),
        ("space", "i8"),
        ("scale", "f4", 3),
        ("shift", "f4", 3),
    ]
)
_RGB, _LAB, _OWN = range(3)
"""How levels become floats: scaled, as Lab and scaled, by their own mean and deviation."""


class NativeEngine:
    """Thread-safe: any number of threads may call `render` at once."""

    def __init__(self, shards: ShardSet, field: str, spec: ViewSpec) -> None:
        self._shards = shards
        self._field = field
        self._layout = np.array([_layout(view) for view in spec.views], _VIEW_LAYOUT)
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
        address, encoding = spans.address.copy(), spans.encoding.copy()
        cycles = np.zeros(2, np.uint64)
        decoded_here_s = 0.0
        done = 0
        while done < len(ids):
            done = _render(
                done,
                address,
                spans.size,
                spans.height,
                spans.width,
                encoding,
                plan.crop,
                plan.flip,
                plan.turns,
                plan.jitter_order,
                plan.jitter_factor,
                plan.project,
                plan.kept,
                plan.noise,
                plan.grayscale,
                plan.blur_sigma,
                plan.solarize,
                plan.erase,
                self._layout,
                scratch.rows,
                scratch.canvas,
                scratch.plane,
                scratch.jpeg,
                scratch.image,
                np.array([view.ctypes.data for view in views], np.int64),
                views[0].dtype == np.float32,
                cycles,
            )
            if done < len(ids):  # not a baseline JPEG, or damaged
                decoding = perf_counter()
                pixels = self._decode(int(ids[done]), spans, done, scratch)
                address[done], encoding[done] = pixels.ctypes.data, RAW
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
            pixels = decode_jpeg(data, scratch.image) if spans.encoding[i] == JPG else decode_image(data)
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
    """A row of `_VIEW_LAYOUT`."""
    normalize = view.normalize
    mean, std = np.array(normalize.mean), np.array(normalize.std)
    is_lab = normalize.space == "lab"
    return (
        view.size,
        view.interpolation == "bicubic",
        view.blur_taps,
        view.solarize_threshold,
        view.erase_value,
        _OWN if normalize.per_view else _LAB if is_lab else _RGB,
        1 / (std if is_lab else 255 * std),
        -mean / std,
    )


class _Scratch:
    """Memory of one thread, reused from sample to sample."""

    def __init__(self, capacity: tuple[int, ...], size: int) -> None:
        rows, pixels, samples, width, file_size = self.capacity = capacity
        self.rows = np.empty((rows + 1, size), np.uint32)
        self.canvas = np.empty(3 * size * size, np.uint8)
        self.plane = np.empty(size * max(size, COLUMNS), np.int16)
        self.jpeg = jpeg_scratch(samples, width, file_size)
        self.image = np.empty(3 * pixels, np.uint8)
        self.kept: np.ndarray | None = None  # pixels that a library decoded, alive until the next ones


@intrinsic
def _cycles(typingctx):
    """The processor's cycle counter, uint64."""

    def codegen(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.IntType(64), [])
        return builder.call(builder.module.declare_intrinsic("llvm.readcyclecounter", fnty=kind), [])

    return types.uint64(), codegen


@kernel
def _decode_union(address, size, crop, scratch, image):
    """Decode the smallest region of a JPEG that holds every view's crop. Returns a status of `jpeg`."""
    top, left, bottom, right = image.shape[0], image.shape[1], 0, 0
    for v in range(len(crop)):
        top, left = min(top, crop[v, 0]), min(left, crop[v, 1])
        bottom, right = max(bottom, crop[v, 0] + crop[v, 2]), max(right, crop[v, 1] + crop[v, 3])
    data = carray(as_pointer(address), size, np.uint8)
    return decode_region(data, top, left, bottom - top, right - left, scratch, image)


@kernel
def _render(
    begin,
    address,
    size_in_bytes,
    height,
    width,
    encoding,
    crop,
    flip,
    turns,
    jitter_order,
    jitter_factor,
    projected,
    kept,
    noise,
    gray,
    blur_sigma,
    solarized,
    erased,
    layout,
    rows,
    canvas,
    plane,
    jpeg,
    decoded,
    out_address,
    as_float,
    cycles,
):
    """Samples from `begin` on, up to the first that the compiled decoder declines. Returns that sample, or n."""
    scales, shifts = np.empty(3, np.float32), np.empty(3, np.float32)
    for i in range(begin, len(address)):
        started = _cycles()
        if encoding[i] == RAW:
            source = pixels_at(address[i], height[i], width[i])
        elif encoding[i] == JPG and np.int64(height[i]) * width[i] <= MAX_PIXELS:
            source = decoded[: 3 * height[i] * width[i]].reshape(height[i], width[i], 3)
            if _decode_union(address[i], size_in_bytes[i], crop[i], jpeg, source) != DECODED:
                return i
        else:
            return i
        ready = _cycles()
        cycles[0] += ready - started
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
            crop_resize(source, top, left, crop_height, crop_width, flip[i, v], view.bicubic, rows, image)
            if turns[i, v]:
                turn(image, turns[i, v])
            jitter(image, jitter_order[i, v], jitter_factor[i, v])
            if projected[i, v]:
                project(red, green, blue)
            if kept[i, v] >= 0:
                drop_channels(flat, np.int64(kept[i, v]), noise[i, v])
            if gray[i, v]:
                grayscale(red, green, blue)
            if blur_sigma[i, v] > 0.0:
                gaussian_blur(image, blur_sigma[i, v], view.blur_taps, plane)
            if solarized[i, v]:
                solarize(flat, view.solarize_threshold)
            if erased[i, v, 2]:
                erase(image, erased[i, v], view.erase_value)
            if as_float:
                out = carray(as_pointer(out_address[v] + i * count * 4), count, np.float32)
                if view.space == _LAB:
                    store_lab(red, green, blue, view.scale, view.shift, out)
                else:
                    if view.space == _OWN:
                        scales[0], shifts[0] = standard_scale(red)
                        scales[1], shifts[1] = standard_scale(green)
                        scales[2], shifts[2] = standard_scale(blue)
                    else:
                        scales[:] = view.scale
                        shifts[:] = view.shift
                    store_floats(red, green, blue, scales, shifts, out)
            else:
                out_levels = carray(as_pointer(out_address[v] + i * count), count, np.uint8)
                store_levels(red, green, blue, out_levels)
        cycles[1] += _cycles() - ready
    return len(address)
