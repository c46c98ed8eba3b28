"""NVIDIA DALI: one graph that decodes each image once and cuts every view from it, on the CPU or on a GPU.

The graph draws nothing: the compressed bytes (or raw pixels) enter through `external_source` straight from the mapped
shards, and so do the plan's numbers. Operations that a plan gives to some samples only sit behind conditionals, which
split the batch. DALI's colour operators round to nearest where torchvision truncates, so that half a level is
subtracted first; its hue operator turns YIQ, torchvision's HSV, so that hue is written out in arithmetic.
https://docs.nvidia.com/deeplearning/dali
"""

from __future__ import annotations

import ctypes
import importlib
import threading
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
import simplejpeg
import torch

from headrace.pipeline.addresses import memory_at
from headrace.pipeline.batch import normalize_images
from headrace.pipeline.engines.base import StageTimes, WholeBatchEngine, of_sample, one_line, threads_of_torch
from headrace.pipeline.images.colour import LUMA
from headrace.pipeline.images.decode import decode_image
from headrace.pipeline.images.noise import noise_planes
from headrace.pipeline.images.plan import BRIGHTNESS, CONTRAST, HUE, SATURATION, Plan
from headrace.pipeline.images.views import Normalize, View, ViewSpec
from headrace.shards import JPG, RAW, ShardError, ShardSet, Spans
from headrace.shards.machine import cores

_dali: Any = importlib.import_module("nvidia.dali")  # its type stubs leave out half of what it exports
fn, types, math = _dali.fn, _dali.types, importlib.import_module("nvidia.dali.math")

_TRUNCATE = -0.5
"""Added, in grey levels, before DALI rounds to nearest."""

_INTERPOLATION = {"bilinear": types.INTERP_LINEAR, "bicubic": types.INTERP_CUBIC}

_SIDE = 32
"""Pixels of a picture that is known to be good."""

_PROJECTION = [5 / 6, 1 / 3, -1 / 6, 1 / 3, 1 / 3, 1 / 3, -1 / 6, 1 / 3, 5 / 6]
"""Takes a pixel's part along (-1, 2, -1) out. A twelfth of a level more rounds halves upwards and nothing else."""


class DaliEngine(WholeBatchEngine):
    """See `headrace.pipeline.engines.base.Engine`.

    Calls from several threads run one after the other: DALI uses its own threads within a batch.

    Args:
        shards, field, spec: what to read and what to make of it.
        device: "cpu", or a CUDA device such as "cuda" or "cuda:1" that decodes and augments. The views come back to
            the CPU either way.
        threads: of DALI; None takes all cores this process may use.
    """

    def __init__(
        self, shards: ShardSet, field: str, spec: ViewSpec, device: str = "cpu", threads: int | None = None
    ) -> None:
        super().__init__()
        self._shards = shards
        self._field = field
        self._spec = spec
        self._device = torch.device(device)
        self._threads = threads or cores()
        self._lock = threading.Lock()
        self._pipeline: Any = None
        self._built_for = (0, np.dtype(np.uint8), False)  # largest batch, type of the views, whether pixels come in

    @threads_of_torch()
    def render(self, ids: np.ndarray, spans: Spans, plan: Plan, views: list[np.ndarray]) -> StageTimes:
        """As the protocol says; the graph's whole time counts as augmentation.

        Raises:
            ShardError: naming the sample whose bytes cannot be decoded.
            RuntimeError: where DALI fails with a picture that is known to be good as well.
        """
        started = perf_counter()
        with self._lock:
            try:
                self._run(ids, spans, plan, views)
            except RuntimeError as error:
                raise self._explained(error, ids, spans, plan, views) from error
        return StageTimes(decode_s=0.0, augment_s=perf_counter() - started)

    def close(self) -> None:
        """End DALI's threads; the next `render` starts them again."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._pipeline is not None:
            # Waits for its threads. To let go of it is not enough: an error's traceback may hold it.
            self._pipeline._shutdown()
            self._pipeline = None

    def forked(self) -> None:
        """See `WholeBatchEngine`. The parent's pipeline is never let go: it would wait for its threads."""
        self._lock = threading.Lock()
        if self._pipeline is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._pipeline._pipe))
            self._pipeline._pipe = None
            self._pipeline = None

    def _run(self, ids: np.ndarray, spans: Spans, plan: Plan, views: list[np.ndarray]) -> None:
        """Render, under the lock. Nothing of DALI's reads the samples' bytes any more when it is left."""
        raw = bool((spans.encoding == RAW).any())
        images = [self._pixels(ids, spans, i) for i in range(len(ids))] if raw else _files(spans)
        inputs: dict[str, Any] = {"image": images}
        for v, view in enumerate(self._spec.views):
            inputs |= {f"{name}_{v}": values for name, values in _arguments(plan, v, view).items()}
        pipeline = self._built(len(ids), views[0].dtype, raw)
        try:
            outputs = pipeline.run(**inputs)
            for view, view_array, output in zip(self._spec.views, views, outputs, strict=True):
                result = np.asarray(output.as_cpu().as_tensor())
                if view_array.dtype == np.float32 and result.dtype == np.uint8:
                    levels = torch.from_numpy(result).permute(0, 3, 1, 2)
                    result = normalize_images(levels, view.normalize).permute(0, 2, 3, 1).numpy()
                view_array[:] = result
        except BaseException:
            self._end()  # DALI's pipelines do not survive an error, and may still read what others of the batch are of
            raise

    def _explained(
        self, error: RuntimeError, ids: np.ndarray, spans: Spans, plan: Plan, views: list[np.ndarray]
    ) -> Exception:
        """What to raise after an error of DALI's: which sample it is of is found by asking for each by itself, and
        whether it is of a sample at all by asking for one that is known to be good."""
        for i in range(len(ids)):
            one = slice(i, i + 1)
            try:
                some = Spans._make(column[one] for column in spans)
                self._run(ids[one], some, plan[one], [np.empty_like(view[one]) for view in views])
            except RuntimeError:
                if not self._works(plan[one], views):
                    break
                where = self._shards.where(int(ids[i]), self._field)
                return ShardError(f"{where}: cannot decode the image: DALI's decoder declines it")
        return RuntimeError(f"engine 'dali' fails, and not because of a sample: {one_line(error)}")

    def _works(self, plan: Plan, views: list[np.ndarray]) -> bool:
        """Whether DALI makes views of a picture without fault. `plan` is of one sample."""
        pixels = np.full((_SIDE, _SIDE, 3), 128, np.uint8)
        file = np.frombuffer(simplejpeg.encode_jpeg(pixels), np.uint8)
        shape = np.full(1, _SIDE, np.int32)
        spans = Spans(np.array([file.ctypes.data]), np.array([file.size]), shape, shape, np.array([JPG], np.uint8))
        crop = np.tile(np.array([0, 0, _SIDE, _SIDE], np.int32), (1, len(views), 1))
        try:
            self._run(
                np.zeros(1, np.int64), spans, replace(plan, crop=crop), [np.empty_like(view[:1]) for view in views]
            )
        except RuntimeError:
            return False
        return True

    def _pixels(self, ids: np.ndarray, spans: Spans, i: int) -> np.ndarray:
        """uint8 (H, W, 3), stored pixels without a copy. The graph takes either pixels or files, so that files are
        decoded here where a batch has both."""
        if spans.encoding[i] == RAW:
            height, width = int(spans.height[i]), int(spans.width[i])
            pixels = np.frombuffer(memory_at(int(spans.address[i]), 3 * height * width), np.uint8)
            return pixels.reshape(height, width, 3)
        with of_sample(self._shards, int(ids[i]), self._field, "image"):
            return decode_image(memory_at(int(spans.address[i]), int(spans.size[i])))

    def _built(self, samples: int, dtype: np.dtype, raw: bool) -> Any:
        """The pipeline, built anew for a larger batch or another input or output than before."""
        largest, *others = self._built_for
        if self._pipeline is None or samples > largest or [dtype, raw] != others:
            self._built_for = (max(samples, largest), dtype, raw)
            on_gpu = self._device.type == "cuda"
            self._pipeline = _graph(
                self._spec,
                "gpu" if on_gpu else "cpu",
                raw,
                dtype == np.float32,
                batch_size=self._built_for[0],
                num_threads=self._threads,
                device_id=(self._device.index or 0) if on_gpu else None,
                prefetch_queue_depth=1,
                exec_dynamic=True,
            )
            self._pipeline.build()
        return self._pipeline


def _files(spans: Spans) -> list[np.ndarray]:
    """The samples' bytes, without a copy."""
    return [
        np.frombuffer(memory_at(int(address), int(size)), np.uint8)
        for address, size in zip(spans.address, spans.size, strict=True)
    ]


def _arguments(plan: Plan, v: int, view: View) -> dict[str, np.ndarray]:
    """What one view's operators take, one row a sample."""
    top_left, shape = plan.crop[:, v, :2], plan.crop[:, v, 2:]
    sides = np.full((len(plan), 2), view.size, np.float32)
    # A negative side mirrors. A quarter turn mirrors left to right, then exchanges rows and columns; three mirror
    # top to bottom before that; two mirror both ways.
    sides[:, 1] *= np.where(plan.flip[:, v] ^ np.isin(plan.turns[:, v], (1, 2)), -1, 1)
    sides[:, 0] *= np.where(np.isin(plan.turns[:, v], (2, 3)), -1, 1)
    arguments = {"top_left": top_left, "shape": shape, "sides": sides}
    if _transposes(view):
        arguments["transposed"] = plan.turns[:, v] % 2 == 1
    if view.jitter:
        for slot in range(_slots(view)):
            arguments[f"code{slot}"] = plan.jitter_order[:, v, slot].astype(np.int32)
        for name, code in (("brightness", BRIGHTNESS), ("contrast", CONTRAST), ("hue", HUE)):
            if getattr(view, name):
                arguments[name] = plan.jitter_factor[:, v, code]
        if view.saturation:
            keep = plan.jitter_factor[:, v, SATURATION, None]
            matrix = keep[..., None] * np.eye(3) + (1 - keep[..., None]) * np.array(LUMA)
            arguments["saturation"] = matrix.astype(np.float32)
            # torchvision truncates the grey level that it blends with as well.
            arguments["saturation_shift"] = np.repeat(_TRUNCATE + (1 - keep) * _TRUNCATE, 3, axis=1)
    if view.project:
        arguments["project"] = plan.project[:, v]
    if view.drop_channels:
        kept = plan.kept[:, v, None] == np.arange(3)  # (B, 3)
        arguments["drop"] = plan.kept[:, v] >= 0
        arguments["keep"] = kept[:, None].astype(np.float32)
        arguments["noise"] = _noise(plan, v, view.size)
    if view.grayscale:
        arguments["grayscale"] = plan.grayscale[:, v]
    if view.blur:
        arguments["sigma"] = plan.blur_sigma[:, v]
    if view.solarize:
        arguments["solarize"] = plan.solarize[:, v]
    if view.erase:
        arguments["erase"] = plan.erase[:, v, 2] > 0
        arguments["erase_at"] = plan.erase[:, v, :2].astype(np.float32)
        arguments["erase_shape"] = plan.erase[:, v, 2:].astype(np.float32)
    return {name: np.ascontiguousarray(values) for name, values in arguments.items()}


def _noise(plan: Plan, v: int, size: int) -> np.ndarray:
    """float32 (B, S, S, 3): what `noise_planes` has for the channels that go, zeros elsewhere."""
    noise = np.zeros((len(plan), size, size, 3), np.float32)
    for i in np.flatnonzero(plan.kept[:, v] >= 0):
        gone = [channel for channel in range(3) if channel != plan.kept[i, v]]
        noise[i][..., gone] = noise_planes(plan.noise[i : i + 1, v], size)[0].transpose(1, 2, 0)
    return noise


def _slots(view: View) -> int:
    """Colour changes that a jittered sample of this view gets."""
    return sum(strength > 0 for strength in (view.brightness, view.contrast, view.saturation, view.hue))


def _transposes(view: View) -> bool:
    return any(turns % 2 for turns in view.turns)


def _in_graph(normalize: Normalize) -> bool:
    """Whether the graph makes floats of levels; Lab and a view's own mean and deviation come after it."""
    return normalize.space == "rgb" and not normalize.per_view


@_dali.pipeline_def(enable_conditionals=True)
def _graph(spec: ViewSpec, device: str, raw: bool, as_float: bool) -> Any:
    """V outputs (S, S, 3) a sample: uint8 levels or float32 normalised."""
    if raw:
        image = fn.external_source(name="image", no_copy=True, layout="HWC")
        if device == "gpu":
            image = image.gpu()
    else:
        image = fn.decoders.image(
            fn.external_source(name="image", no_copy=True),
            device="mixed" if device == "gpu" else "cpu",
            output_type=types.RGB,
            jpeg_fancy_upsampling=True,  # as Pillow and libjpeg do
            adjust_orientation=False,
        )
    outputs = []
    for v, view in enumerate(spec.views):
        levels = _view(image, v, view)
        if as_float and _in_graph(view.normalize):
            levels = fn.crop_mirror_normalize(
                levels,
                dtype=types.FLOAT,
                output_layout="HWC",
                mean=[255 * mean for mean in view.normalize.mean],
                std=[255 * deviation for deviation in view.normalize.std],
            )
        outputs.append(levels)
    return tuple(outputs)


def _view(image: Any, v: int, view: View) -> Any:
    """One view of the decoded images, uint8 (S, S, 3) a sample."""

    def argument(name: str) -> Any:
        return fn.external_source(name=f"{name}_{v}", no_copy=True)

    # Cut first: a region of interest given to `resize` would let it look beyond the crop's border.
    out = fn.slice(image, argument("top_left"), argument("shape"), axes=[0, 1])
    out = fn.resize(out, size=argument("sides"), interp_type=_INTERPOLATION[view.interpolation], antialias=True)
    if _transposes(view):
        transposed = argument("transposed")
        if transposed:
            out = fn.transpose(out, perm=[1, 0, 2], transpose_layout=False)
    if view.jitter:
        names = ("brightness", "contrast", "saturation", "saturation_shift", "hue")
        given = {name: argument(name) for name in names if getattr(view, name.removesuffix("_shift"))}
        for slot in range(_slots(view)):
            code = argument(f"code{slot}")
            if view.brightness and code == BRIGHTNESS:
                out = fn.brightness_contrast(out, brightness=given["brightness"], brightness_shift=_TRUNCATE / 255)
            if view.contrast and code == CONTRAST:
                out = _contrast(out, given["contrast"])
            if view.saturation and code == SATURATION:
                out = fn.coord_transform(out, M=given["saturation"], T=given["saturation_shift"], dtype=types.UINT8)
            if view.hue and code == HUE:
                out = _hue(out, given["hue"])
    if view.project:
        projected = argument("project")
        if projected:
            out = fn.coord_transform(out, M=_PROJECTION, T=[1 / 12] * 3, dtype=types.UINT8)
    if view.drop_channels:
        keep, noise, dropped = argument("keep"), argument("noise"), argument("drop")
        if dropped:
            out = _drop_channels(out, keep, noise)
    if view.grayscale:
        gray = argument("grayscale")
        if gray:
            level = fn.coord_transform(out, M=list(LUMA), T=[_TRUNCATE], dtype=types.UINT8)
            out = fn.cat(level, level, level, axis=2)
    if view.blur:
        sigma = argument("sigma")
        if sigma > 0.0:
            out = fn.gaussian_blur(out, window_size=view.blur_taps, sigma=sigma)
    if view.solarize:
        inverted = argument("solarize")
        if inverted:
            bright = out >= types.Constant(view.solarize_threshold, types.UINT8)
            out = out ^ (bright * types.Constant(255, types.UINT8))
    if view.erase:
        anchor, shape, erased = argument("erase_at"), argument("erase_shape"), argument("erase")
        if erased:
            out = fn.erase(
                out, anchor=anchor, shape=shape, axis_names="HW", fill_value=[float(v) for v in view.erase_value]
            )
    return out


def _contrast(levels: Any, factor: Any) -> Any:
    """Blend with the mean grey level of the image."""
    gray = math.floor(fn.coord_transform(levels, M=list(LUMA), dtype=types.FLOAT))
    mean = fn.reductions.mean(gray).cpu()  # an operator's argument always lies on the CPU
    return fn.brightness_contrast(levels, contrast=factor, contrast_center=mean, brightness_shift=_TRUNCATE / 255)


def _drop_channels(levels: Any, keep: Any, noise: Any) -> Any:
    """All channels but the one that `keep`, (1, 3), has a one for, as noise around its mean."""
    remaining = fn.coord_transform(levels, M=keep, dtype=types.FLOAT)
    mean = fn.reductions.mean(remaining)
    deviation = fn.reductions.std_dev(remaining, mean)
    if levels.device == "gpu":
        keep, noise = keep.gpu(), noise.gpu()
    level = math.clamp(math.floor(mean + deviation * 0.01 * noise + 0.5), 0.0, 255.0)
    return fn.cast(levels * keep + level * (1.0 - keep), dtype=types.UINT8)


def _hue(levels: Any, turns: Any) -> Any:
    """Turn the colour circle of HSV.

    A channel at `o` sixths of a turn is `high - spread * clamp(2 - |k - 2|, 0, 1)` with `k = (o + 6 hue) mod 6`.
    """
    red, green, blue = (fn.cast(levels[:, :, c : c + 1], dtype=types.FLOAT) for c in range(3))
    above = math.max(red, green)
    high = math.max(above, blue)
    spread = high - math.min(math.min(red, green), blue)
    is_red = high == red
    is_green = (high == green) > is_red  # the first of equals, as torchvision has it
    is_blue = high > above
    difference = is_red * (green - blue) + is_green * (blue - red) + is_blue * (red - green)
    sixths = difference / math.max(spread, 1.0) + (is_green * 2.0 + (is_blue * 4.0 + turns * 6.0))
    scale = 255.999 / 255  # torchvision's conversion of floats to levels, which truncates
    high, spread = high * scale, spread * scale
    channels = []
    for offset in (5.0, 3.0, 1.0):
        k = sixths + offset
        k = math.abs(k - 6.0 * math.floor(k / 6.0) - 2.0)
        channels.append(high - spread * math.clamp(2.0 - k, 0.0, 1.0))
    return fn.cast(math.floor(fn.cat(*channels, axis=2)), dtype=types.UINT8)
