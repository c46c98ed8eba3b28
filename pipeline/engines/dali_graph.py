"""DALI's graph of a specification, and what it takes of a plan.

The graph draws nothing: the compressed bytes (or raw pixels) enter through `external_source`, and so do the plan's
numbers. Operations that a plan gives to some samples only sit behind conditionals, which split the batch. DALI's colour
operators round to nearest where torchvision truncates, so that half a level is subtracted first; its hue operator turns
YIQ, torchvision's HSV, so that hue is written out in arithmetic.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from headrace.pipeline.images.colour import LUMA
from headrace.pipeline.images.noise import noise_planes
from headrace.pipeline.images.plan import Plan
from headrace.pipeline.images.view import BRIGHTNESS, CONTRAST, HUE, SATURATION, Normalize, View
from headrace.pipeline.images.views import ViewSpec

_dali: Any = importlib.import_module("nvidia.dali")  # its type stubs leave out half of what it exports
fn, types, math = _dali.fn, _dali.types, importlib.import_module("nvidia.dali.math")

_TRUNCATE = -0.5
"""Added, in grey levels, before DALI rounds to nearest."""

_INTERPOLATION = {"bilinear": types.INTERP_LINEAR, "bicubic": types.INTERP_CUBIC}

_PROJECTION = [5 / 6, 1 / 3, -1 / 6, 1 / 3, 1 / 3, 1 / 3, -1 / 6, 1 / 3, 5 / 6]
"""Takes a pixel's part along (-1, 2, -1) out. A twelfth of a level more rounds halves upwards and nothing else."""


def arguments(plan: Plan, v: int, view: View) -> dict[str, np.ndarray]:
    """What one view's operators take, one row a sample."""
    top_left, shape = plan.crop[:, v, :2], plan.crop[:, v, 2:]
    sides = np.full((len(plan), 2), view.size, np.float32)
    # A negative side mirrors. A quarter turn mirrors left to right, then exchanges rows and columns; three mirror
    # top to bottom before that; two mirror both ways.
    sides[:, 1] *= np.where(plan.flip[:, v] ^ np.isin(plan.turns[:, v], (1, 2)), -1, 1)
    sides[:, 0] *= np.where(np.isin(plan.turns[:, v], (2, 3)), -1, 1)
    found = {"top_left": top_left, "shape": shape, "sides": sides}
    if _transposes(view):
        found["transposed"] = plan.turns[:, v] % 2 == 1
    if view.jitter:
        for slot in range(_slots(view)):
            found[f"code{slot}"] = plan.jitter_order[:, v, slot].astype(np.int32)
        for name, code in (("brightness", BRIGHTNESS), ("contrast", CONTRAST), ("hue", HUE)):
            if getattr(view, name):
                found[name] = plan.jitter_factor[:, v, code]
        if view.saturation:
            keep = plan.jitter_factor[:, v, SATURATION, None]
            matrix = keep[..., None] * np.eye(3) + (1 - keep[..., None]) * np.array(LUMA)
            found["saturation"] = matrix.astype(np.float32)
            # torchvision truncates the grey level that it blends with as well.
            found["saturation_shift"] = np.repeat(_TRUNCATE + (1 - keep) * _TRUNCATE, 3, axis=1)
    if view.project:
        found["project"] = plan.project[:, v]
    if view.drop_channels:
        kept = plan.kept[:, v, None] == np.arange(3)  # (B, 3)
        found["drop"] = plan.kept[:, v] >= 0
        found["keep"] = kept[:, None].astype(np.float32)
        found["noise"] = _noise(plan, v, view.size)
    if view.grayscale:
        found["grayscale"] = plan.grayscale[:, v]
    if view.blur:
        found["sigma"] = plan.blur_sigma[:, v]
    if view.solarize:
        found["solarize"] = plan.solarize[:, v]
    if view.erase:
        found["erase"] = plan.erase[:, v, 2] > 0
        found["erase_at"] = plan.erase[:, v, :2].astype(np.float32)
        found["erase_shape"] = plan.erase[:, v, 2:].astype(np.float32)
    return {name: np.ascontiguousarray(values) for name, values in found.items()}


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


def ingraph(normalize: Normalize) -> bool:
    """Whether the graph makes floats of levels; Lab and a view's own mean and deviation come after it."""
    return normalize.space == "rgb" and not normalize.per_view


@_dali.pipeline_def(enable_conditionals=True)
def graph(spec: ViewSpec, device: str, raw: bool, as_float: bool) -> Any:
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
        if as_float and ingraph(view.normalize):
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
    for name in view.operations:
        out = OPERATORS[name](out, argument, view)
    return out


# Each of these takes uint8 levels, a function from the name of an argument to its input, and the view.


def _jitter(levels: Any, argument: Any, view: View) -> Any:
    names = ("brightness", "contrast", "saturation", "saturation_shift", "hue")
    given = {name: argument(name) for name in names if getattr(view, name.removesuffix("_shift"))}
    for slot in range(_slots(view)):
        code = argument(f"code{slot}")
        if view.brightness and code == BRIGHTNESS:
            levels = fn.brightness_contrast(levels, brightness=given["brightness"], brightness_shift=_TRUNCATE / 255)
        if view.contrast and code == CONTRAST:
            levels = _contrast(levels, given["contrast"])
        if view.saturation and code == SATURATION:
            matrix, shift = given["saturation"], given["saturation_shift"]
            levels = fn.coord_transform(levels, M=matrix, T=shift, dtype=types.UINT8)
        if view.hue and code == HUE:
            levels = _hue(levels, given["hue"])
    return levels


def _project(levels: Any, argument: Any, view: View) -> Any:
    projected = argument("project")
    if projected:
        levels = fn.coord_transform(levels, M=_PROJECTION, T=[1 / 12] * 3, dtype=types.UINT8)
    return levels


def _drop_channels(levels: Any, argument: Any, view: View) -> Any:
    keep, noise, dropped = argument("keep"), argument("noise"), argument("drop")
    if dropped:
        levels = _noisy(levels, keep, noise)
    return levels


def _grayscale(levels: Any, argument: Any, view: View) -> Any:
    gray = argument("grayscale")
    if gray:
        level = fn.coord_transform(levels, M=list(LUMA), T=[_TRUNCATE], dtype=types.UINT8)
        levels = fn.cat(level, level, level, axis=2)
    return levels


def _blur(levels: Any, argument: Any, view: View) -> Any:
    sigma = argument("sigma")
    if sigma > 0.0:
        levels = fn.gaussian_blur(levels, window_size=view.blur_taps, sigma=sigma)
    return levels


def _solarize(levels: Any, argument: Any, view: View) -> Any:
    inverted = argument("solarize")
    if inverted:
        bright = levels >= types.Constant(view.solarize_threshold, types.UINT8)
        levels = levels ^ (bright * types.Constant(255, types.UINT8))
    return levels


def _erase(levels: Any, argument: Any, view: View) -> Any:
    anchor, shape, erased = argument("erase_at"), argument("erase_shape"), argument("erase")
    value = [float(level) for level in view.erase_value]
    if erased:
        levels = fn.erase(levels, anchor=anchor, shape=shape, axis_names="HW", fill_value=value)
    return levels


OPERATORS = {
    "jitter": _jitter,
    "project": _project,
    "drop_channels": _drop_channels,
    "grayscale": _grayscale,
    "blur": _blur,
    "solarize": _solarize,
    "erase": _erase,
}
"""Operation of a view to what puts it into the graph."""


def _contrast(levels: Any, factor: Any) -> Any:
    """Blend with the mean grey level of the image."""
    gray = math.floor(fn.coord_transform(levels, M=list(LUMA), dtype=types.FLOAT))
    mean = fn.reductions.mean(gray).cpu()  # an operator's argument always lies on the CPU
    return fn.brightness_contrast(levels, contrast=factor, contrast_center=mean, brightness_shift=_TRUNCATE / 255)


def _noisy(levels: Any, keep: Any, noise: Any) -> Any:
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
