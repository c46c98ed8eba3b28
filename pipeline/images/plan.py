"""How each sample is augmented, in numbers: every random draw of a batch, before any pixel moves.

A plan is drawn from (seed, epoch, sample, view) alone. The same four integers give the same view again, on any
engine, in any batch, on any rank. Engines apply a plan and draw nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from headrace.pipeline.compiled import kernel
from headrace.pipeline.images.views import PatchPair, Tiles, View, ViewSpec
from headrace.pipeline.order.permutations import permutation_set
from headrace.pipeline.random import key_word, philox, unit
from headrace.pipeline.rows import Rows

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
"""Operation codes in `Plan.jitter_order` and positions in `Plan.jitter_factor`."""

_STREAM = key_word(0x76696577)  # the word "view"
_CROP_ATTEMPTS = 10  # as torchvision's RandomResizedCrop
# Counter blocks of four random words; a new operation takes a new block, so that old draws never move.
_BLOCK_GATES = np.uint64(_CROP_ATTEMPTS)
_BLOCK_FACTORS = np.uint64(_CROP_ATTEMPTS + 1)
_BLOCK_REST = np.uint64(_CROP_ATTEMPTS + 2)
_BLOCK_MORE = np.uint64(_CROP_ATTEMPTS + 3)
_BLOCK_ERASE = _CROP_ATTEMPTS + 4
_BLOCK_DROP = np.uint64(_BLOCK_ERASE + 10)
_ERASE_ATTEMPTS = 10  # as torchvision's RandomErasing
_BLOCK_ARRANGED = 32

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
        ("turns", "i8", 4),
        ("turn_count", "i8"),
        ("project", "f8"),
        ("erase", "f8"),
        ("erase_scale", "f8", 2),
        ("erase_log_ratio", "f8", 2),
        ("size", "i8"),
        ("draws", "i8"),  # the number of the view whose draws these are
        ("drop_channels", "f8"),
        ("arranged", "?"),  # its box is planned with others'
    ]
)


@dataclass(frozen=True, kw_only=True)
class Plan(Rows):
    """The draws of B samples with V views each."""

    crop: np.ndarray
    """int32 (B, V, 4): top, left, height, width of the crop, in pixels of the stored image."""
    flip: np.ndarray
    """bool (B, V): mirrored left to right."""
    turns: np.ndarray
    """int8 (B, V): quarter turns counter-clockwise, 0 to 3."""
    jitter_order: np.ndarray
    """int8 (B, V, 4): codes of the colour changes in the order they apply; -1 for none."""
    jitter_factor: np.ndarray
    """float32 (B, V, 4): factor of each colour change, at its code's position."""
    project: np.ndarray
    """bool (B, V): without green against magenta."""
    kept: np.ndarray
    """int8 (B, V): the channel that remains where two are dropped, 0 to 2 for red, green, blue; -1 where all do."""
    noise: np.ndarray
    """uint64 (B, V): what `noise_planes` makes the noise of that takes the place of dropped channels."""
    grayscale: np.ndarray
    """bool (B, V)."""
    blur_sigma: np.ndarray
    """float32 (B, V): standard deviation in output pixels; 0 for none."""
    solarize: np.ndarray
    """bool (B, V)."""
    erase: np.ndarray
    """int32 (B, V, 4): top, left, height, width of the erased rectangle, in output pixels; height 0 for none."""
    arrangement: np.ndarray
    """int64 (B, A): the label of each of `ViewSpec.arranged`: a permutation's number, or a neighbour's place."""

    def view(self, number: int) -> Plan:
        """The plan of one of the views, sharing memory."""
        columns = {f.name: getattr(self, f.name)[:, number : number + 1] for f in fields(self)}
        return Plan(**columns | {"arrangement": self.arrangement})

    def geometry(self) -> Plan:
        """The same crops, flips and turns without any change of pixels after them."""
        off = {name: np.zeros_like(getattr(self, name)) for name in _PIXEL_CHANGES}
        off |= {name: np.full_like(getattr(self, name), -1) for name in ("jitter_order", "kept")}
        return replace(self, **off)

    def describe(self, sample: int, view: int) -> dict[str, Any]:
        """One view's draws in words and plain numbers, leaving out what does not apply."""
        names = ("brightness", "contrast", "saturation", "hue")
        words: dict[str, Any] = {"crop": tuple(int(v) for v in self.crop[sample, view])}
        if self.flip[sample, view]:
            words["flip"] = True
        if self.turns[sample, view]:
            words["turned"] = f"{90 * int(self.turns[sample, view])} degrees"
        for code in self.jitter_order[sample, view]:
            if code >= 0:
                words[names[code]] = round(float(self.jitter_factor[sample, view, code]), 3)
        if self.project[sample, view]:
            words["projection"] = True
        if self.kept[sample, view] >= 0:
            words["only"] = ("red", "green", "blue")[self.kept[sample, view]]
        if self.grayscale[sample, view]:
            words["grayscale"] = True
        if self.blur_sigma[sample, view] > 0:
            words["blur"] = round(float(self.blur_sigma[sample, view]), 3)
        if self.solarize[sample, view]:
            words["solarize"] = True
        if self.erase[sample, view, 2]:
            words["erase"] = tuple(int(v) for v in self.erase[sample, view])
        return words


_PIXEL_CHANGES = ("project", "grayscale", "blur_sigma", "solarize", "erase")


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
        turns=np.zeros(shape, np.int8),
        jitter_order=np.empty((*shape, 4), np.int8),
        jitter_factor=np.empty((*shape, 4), np.float32),
        project=np.zeros(shape, np.bool_),
        kept=np.full(shape, -1, np.int8),
        noise=np.zeros(shape, np.uint64),
        grayscale=np.empty(shape, np.bool_),
        blur_sigma=np.empty(shape, np.float32),
        solarize=np.empty(shape, np.bool_),
        erase=np.zeros((*shape, 4), np.int32),
        arrangement=np.empty((len(sample_ids), len(spec.arranged)), np.int64),
    )
    keys = key_word(seed), key_word(epoch), sample_ids, sizes
    planned = {first + i for first, part in spec.arranged for i in range(len(part))}
    parameters = np.array(
        [_parameters(view, spec.draws[v], v in planned) for v, view in enumerate(spec.views)], _VIEW_PARAMETERS
    )
    _draw(*keys, parameters, *(getattr(drawn, f.name) for f in fields(drawn) if f.name != "arrangement"))
    for number, (first, part) in enumerate(spec.arranged):
        crops, label = drawn.crop[:, first : first + len(part)], drawn.arrangement[:, number]
        draws = key_word(spec.draws[first])
        if isinstance(part, Tiles):
            orders = permutation_set(len(part), part.permutations)
            settings = (*map(float, part.extent), float(part.tile), float(part.jitter))
            _draw_tiles(*keys, draws, part.grid[1], settings, orders, crops, label)
        else:
            assert isinstance(part, PatchPair)
            settings = (*map(float, part.scale), float(part.gap), float(part.jitter))
            _draw_pair(*keys, draws, settings, crops, label)
    return drawn


def _parameters(view: View, draws: int, arranged: bool) -> tuple[Any, ...]:
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
        view.turns + (0,) * (4 - len(view.turns)),
        len(view.turns),
        view.project,
        view.erase,
        view.erase_scale,
        tuple(np.log(view.erase_ratio)),
        view.size,
        draws,
        view.drop_channels,
        arranged,
    )


@kernel
def _draw(
    seed,
    epoch,
    sample_ids,
    sizes,
    parameters,
    crop,
    flip,
    turns,
    order,
    factor,
    project,
    kept,
    noise,
    gray,
    sigma,
    solarize,
    erase,
):
    for i in range(len(sample_ids)):
        sample = np.uint64(sample_ids[i])
        height, width = sizes[i]
        for v in range(len(parameters)):
            p = parameters[v]
            view = np.uint64(p.draws)
            if not p.arranged:
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
            turns[i, v] = p.turns[0]
            if p.turn_count > 1 or p.project > 0.0 or p.erase > 0.0:
                more = philox(seed, _STREAM, _BLOCK_MORE, view, sample, epoch)
                turns[i, v] = p.turns[np.int64(unit(more[0]) * p.turn_count)]
                project[i, v] = unit(more[1]) < p.project
                if unit(more[2]) < p.erase:
                    _draw_erase(seed, epoch, sample, view, p, erase[i, v])
            if p.drop_channels > 0.0:
                words = philox(seed, _STREAM, _BLOCK_DROP, view, sample, epoch)
                if unit(words[0]) < p.drop_channels:
                    kept[i, v] = np.int64(unit(words[1]) * 3.0)
                    noise[i, v] = words[2]


@kernel
def _draw_erase(seed, epoch, sample, view, p, erase):
    """torchvision's RandomErasing: up to ten tries for a rectangle that is smaller than the view, or none."""
    size = p.size
    for attempt in range(_ERASE_ATTEMPTS):
        words = philox(seed, _STREAM, np.uint64(_BLOCK_ERASE + attempt), view, sample, epoch)
        area = size * size * (p.erase_scale[0] + (p.erase_scale[1] - p.erase_scale[0]) * unit(words[0]))
        low, high = p.erase_log_ratio
        ratio = np.exp(low + (high - low) * unit(words[1]))
        height = np.int64(np.rint(np.sqrt(area * ratio)))
        width = np.int64(np.rint(np.sqrt(area / ratio)))
        if height < size and width < size:
            if height > 0 and width > 0:
                erase[0] = np.int64(unit(words[2]) * (size - height + 1))
                erase[1] = np.int64(unit(words[3]) * (size - width + 1))
                erase[2] = height
                erase[3] = width
            return


@kernel
def _draw_tiles(seed, epoch, sample_ids, sizes, view, columns, settings, orders, crop, label):
    """Boxes of the cells' tiles in a shuffled order. See `headrace.pipeline.images.views.Tiles`."""
    extent_low, extent_high, share, jitter = settings
    tiles = orders.shape[1]
    rows = tiles // columns
    for i in range(len(sample_ids)):
        sample = np.uint64(sample_ids[i])
        height, width = np.int64(sizes[i, 0]), np.int64(sizes[i, 1])
        words = philox(seed, _STREAM, np.uint64(_BLOCK_ARRANGED), view, sample, epoch)
        label[i] = np.int64(unit(words[0]) * len(orders))
        extent = extent_low + (extent_high - extent_low) * unit(words[1])
        # What binary makes a little smaller than a whole number costs no pixel.
        cell = max(1, np.int64(extent * min(height / rows, width / columns) + 1e-6))
        side = max(1, np.int64(np.rint(cell * share)))
        ways = np.int64(np.rint((cell - side) * jitter)) + 1
        least = (cell - side + 1 - ways) // 2
        top = np.int64(unit(words[2]) * (max(0, height - rows * cell) + 1))
        left = np.int64(unit(words[3]) * (max(0, width - columns * cell) + 1))
        for slot in range(tiles):
            place = np.int64(orders[label[i], slot])
            # Two words move each tile; they belong to its place, not to the slot in which it is delivered.
            words = philox(seed, _STREAM, np.uint64(_BLOCK_ARRANGED + 1 + place // 2), view, sample, epoch)
            down, right = (unit(words[0]), unit(words[1])) if place % 2 == 0 else (unit(words[2]), unit(words[3]))
            crop[i, slot, 0] = min(top + place // columns * cell + least + np.int64(down * ways), height - side)
            crop[i, slot, 1] = min(left + place % columns * cell + least + np.int64(right * ways), width - side)
            crop[i, slot, 2] = side
            crop[i, slot, 3] = side


@kernel
def _draw_pair(seed, epoch, sample_ids, sizes, view, settings, crop, label):
    """Boxes of a patch and its neighbour. See `headrace.pipeline.images.views.PatchPair`."""
    scale_low, scale_high, gap, jitter = settings
    for i in range(len(sample_ids)):
        sample = np.uint64(sample_ids[i])
        height, width = np.int64(sizes[i, 0]), np.int64(sizes[i, 1])
        words = philox(seed, _STREAM, np.uint64(_BLOCK_ARRANGED), view, sample, epoch)
        label[i] = np.int64(unit(words[0]) * 8.0)
        place = label[i] + (label[i] >= 4)  # of 3 x 3, leaving out the centre
        down, right = place // 3 - 1, place % 3 - 1
        shorter = min(height, width)
        wanted = np.int64(np.rint(shorter * (scale_low + (scale_high - scale_low) * unit(words[1]))))
        side = max(1, min(wanted, np.int64(shorter / (2.0 + gap + 2.0 * jitter))))
        step = side + np.int64(gap * side)
        stray = np.int64(jitter * side)
        room_down = max(0, height - side - abs(down) * step - 2 * stray)
        room_right = max(0, width - side - abs(right) * step - 2 * stray)
        # The first patch lies below or right of its neighbour where that is above or left.
        top = stray + np.int64(unit(words[2]) * (room_down + 1)) + (step if down < 0 else 0)
        left = stray + np.int64(unit(words[3]) * (room_right + 1)) + (step if right < 0 else 0)
        words = philox(seed, _STREAM, np.uint64(_BLOCK_ARRANGED + 1), view, sample, epoch)
        ways = 2 * stray + 1
        for patch in range(2):
            u, w = (unit(words[0]), unit(words[1])) if patch == 0 else (unit(words[2]), unit(words[3]))
            y = top + patch * down * step + np.int64(u * ways) - stray
            x = left + patch * right * step + np.int64(w * ways) - stray
            crop[i, patch, 0] = max(0, min(y, height - side))
            crop[i, patch, 1] = max(0, min(x, width - side))
            crop[i, patch, 2] = side
            crop[i, patch, 3] = side


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
