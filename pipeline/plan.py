"""How each sample is augmented, in numbers: every random draw of a batch, before any pixel moves.

A plan is drawn from (seed, epoch, sample, view) alone. The same four integers give the same view again, on any
engine, in any batch, on any rank. Engines apply a plan and draw nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from headrace.pipeline.compiled import kernel
from headrace.pipeline.random import key_word, philox, unit
from headrace.pipeline.rows import Rows
from headrace.pipeline.views import View, ViewSpec

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
"""Operation codes in `Plan.jitter_order` and positions in `Plan.jitter_factor`."""

_STREAM = key_word(0x76696577)  # the word "view"
_CROP_ATTEMPTS = 10  # as torchvision's RandomResizedCrop
# Counter blocks of four random words; a new operation takes a new block, so that old draws never move.
_BLOCK_GATES = np.uint64(_CROP_ATTEMPTS)
_BLOCK_FACTORS = np.uint64(_CROP_ATTEMPTS + 1)
_BLOCK_REST = np.uint64(_CROP_ATTEMPTS + 2)

_VIEW_PARAMETERS = np.dtype(
    [
        ("scale", "f8", 2),
        ("log_ratio", "f8", 2),
        ("ratio", "f8", 2),
        ("flip", "f8"),
        ("jitter", "f8"),
        ("strength", "f8", 4),
        ("grayscale", "f8"),
        ("blur", "f8"),
        ("blur_sigma", "f8", 2),
        ("solarize", "f8"),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Plan(Rows):
    """The draws of B samples with V views each."""

    crop: np.ndarray
    """int32 (B, V, 4): top, left, height, width of the crop, in pixels of the stored image."""
    flip: np.ndarray
    """bool (B, V): mirrored left to right."""
    jitter_order: np.ndarray
    """int8 (B, V, 4): codes of the colour changes in the order they apply; -1 for none."""
    jitter_factor: np.ndarray
    """float32 (B, V, 4): factor of each colour change, at its code's position."""
    grayscale: np.ndarray
    """bool (B, V)."""
    blur_sigma: np.ndarray
    """float32 (B, V): standard deviation in output pixels; 0 for none."""
    solarize: np.ndarray
    """bool (B, V)."""

    def view(self, number: int) -> Plan:
        """The plan of one of the views, sharing memory."""
        return Plan(**{f.name: getattr(self, f.name)[:, number : number + 1] for f in fields(self)})

    def describe(self, sample: int, view: int) -> dict[str, Any]:
        """One view's draws in words and plain numbers, leaving out what does not apply."""
        names = ("brightness", "contrast", "saturation", "hue")
        words: dict[str, Any] = {"crop": tuple(int(v) for v in self.crop[sample, view])}
        if self.flip[sample, view]:
            words["flip"] = True
        for code in self.jitter_order[sample, view]:
            if code >= 0:
                words[names[code]] = round(float(self.jitter_factor[sample, view, code]), 3)
        if self.grayscale[sample, view]:
            words["grayscale"] = True
        if self.blur_sigma[sample, view] > 0:
            words["blur"] = round(float(self.blur_sigma[sample, view]), 3)
        if self.solarize[sample, view]:
            words["solarize"] = True
        return words


def plan(spec: ViewSpec, seed: int, epoch: int, sample_ids: np.ndarray, sizes: np.ndarray) -> Plan:
    """Draw every random number of a batch.

    Args:
        spec: the V views.
        seed, epoch: of the run.
        sample_ids: int64 (B,), positions in the shard set.
        sizes: int32 (B, 2), height and width of each stored image in pixels.

    Raises:
        ValueError: if the shapes disagree or a size is not positive.
    """
    sample_ids = np.ascontiguousarray(sample_ids, dtype=np.int64)
    sizes = np.ascontiguousarray(sizes, dtype=np.int32)
    if sizes.shape != (len(sample_ids), 2):
        raise ValueError(f"sizes must have shape ({len(sample_ids)}, 2), got {sizes.shape}")
    if sizes.size and sizes.min() < 1:
        raise ValueError(f"sample {sample_ids[sizes.min(axis=1).argmin()]} has no pixels")
    shape = (len(sample_ids), len(spec))
    drawn = Plan(
        crop=np.empty((*shape, 4), np.int32),
        flip=np.empty(shape, np.bool_),
        jitter_order=np.empty((*shape, 4), np.int8),
        jitter_factor=np.empty((*shape, 4), np.float32),
        grayscale=np.empty(shape, np.bool_),
        blur_sigma=np.empty(shape, np.float32),
        solarize=np.empty(shape, np.bool_),
    )
    parameters = np.array([_parameters(view) for view in spec.views], _VIEW_PARAMETERS)
    outputs = tuple(getattr(drawn, f.name) for f in fields(drawn))
    _draw(key_word(seed), key_word(epoch), sample_ids, sizes, parameters, *outputs)
    return drawn


def _parameters(view: View) -> tuple[Any, ...]:
    return (
        view.scale,
        tuple(np.log(view.ratio)),
        view.ratio,
        view.flip,
        view.jitter,
        (view.brightness, view.contrast, view.saturation, view.hue),
        view.grayscale,
        view.blur,
        view.blur_sigma,
        view.solarize,
    )


@kernel
def _draw(seed, epoch, sample_ids, sizes, parameters, crop, flip, order, factor, gray, sigma, solarize):
    for i in range(len(sample_ids)):
        sample = np.uint64(sample_ids[i])
        height, width = sizes[i]
        for v in range(len(parameters)):
            p = parameters[v]
            view = np.uint64(v)
            _draw_crop(seed, epoch, sample, view, height, width, p, crop[i, v])
            gates = philox(seed, _STREAM, _BLOCK_GATES, view, sample, epoch)
            flip[i, v] = unit(gates[0]) < p.flip
            gray[i, v] = unit(gates[2]) < p.grayscale
            factors = philox(seed, _STREAM, _BLOCK_FACTORS, view, sample, epoch)
            for code in range(3):
                low = max(0.0, 1.0 - p.strength[code])
                factor[i, v, code] = low + (1.0 + p.strength[code] - low) * unit(factors[code])
            factor[i, v, HUE] = p.strength[HUE] * (2.0 * unit(factors[3]) - 1.0)
            rest = philox(seed, _STREAM, _BLOCK_REST, view, sample, epoch)
            _draw_jitter_order(unit(gates[1]) < p.jitter, unit(rest[0]), p.strength, order[i, v])
            low, high = p.blur_sigma
            sigma[i, v] = low + (high - low) * unit(rest[1]) if unit(gates[3]) < p.blur else 0.0
            solarize[i, v] = unit(rest[2]) < p.solarize


@kernel
def _draw_crop(seed, epoch, sample, view, height, width, p, crop):
    """torchvision's RandomResizedCrop: up to ten tries, then the largest centred crop within the aspect range."""
    area = np.float64(height) * np.float64(width)
    for attempt in range(_CROP_ATTEMPTS):
        words = philox(seed, _STREAM, np.uint64(attempt), view, sample, epoch)
        target = area * (p.scale[0] + (p.scale[1] - p.scale[0]) * unit(words[0]))
        ratio = np.exp(p.log_ratio[0] + (p.log_ratio[1] - p.log_ratio[0]) * unit(words[1]))
        w = np.int64(np.rint(np.sqrt(target * ratio)))
        h = np.int64(np.rint(np.sqrt(target / ratio)))
        if 0 < w <= width and 0 < h <= height:
            crop[0] = np.int64(unit(words[2]) * (height - h + 1))
            crop[1] = np.int64(unit(words[3]) * (width - w + 1))
            crop[2] = h
            crop[3] = w
            return
    aspect = width / height
    w, h = np.int64(width), np.int64(height)
    if aspect < p.ratio[0]:
        h = max(1, min(h, np.int64(np.rint(w / p.ratio[0]))))
    elif aspect > p.ratio[1]:
        w = max(1, min(w, np.int64(np.rint(h * p.ratio[1]))))
    crop[0] = (height - h) // 2
    crop[1] = (width - w) // 2
    crop[2] = h
    crop[3] = w


@kernel
def _draw_jitter_order(applies, u, strength, order):
    """One of the 24 orders of the four colour changes, leaving out those of strength 0."""
    rank = np.int64(u * 24.0)
    codes = [BRIGHTNESS, CONTRAST, SATURATION, HUE]
    order[:] = -1
    if not applies:
        return
    position = 0
    for remaining in range(4, 0, -1):
        code = codes.pop(rank % remaining)
        rank //= remaining
        if strength[code] > 0.0:
            order[position] = code
            position += 1
