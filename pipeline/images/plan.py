"""How each sample is augmented, in numbers: every random draw of a batch, before any pixel moves.

A plan is drawn from (seed, epoch, sample, view) alone. The same four integers give the same view again, on any
engine, in any batch, on any rank. Engines apply a plan and draw nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headrace.pipeline.compiled import kernel
from headrace.pipeline.images.view import DRAWS, STREAM, View, draw_operations, in_words, settings
from headrace.pipeline.images.views import PatchPair, Tiles, ViewSpec
from headrace.pipeline.random import key_word, philox, unit
from headrace.pipeline.rows import Rows

_CROP_ATTEMPTS = 10  # as torchvision's RandomResizedCrop; each takes the counter block of its number
_BLOCK_ARRANGED = 32  # and those after it; `headrace.pipeline.images.view` has those between


@dataclass(frozen=True, kw_only=True)
class Plan(Rows):
    """The draws of B samples with V views each.

    Each field of `draws` is an attribute as well: `plan.crop` is `plan.draws["crop"]`, int32 (B, V, 4), sharing memory.
    """

    draws: np.ndarray
    """`headrace.pipeline.images.view.DRAWS` (B, V)."""
    arrangement: np.ndarray
    """int64 (B, A): the label of each of `ViewSpec.arranged`: a permutation's number, or a neighbour's place."""

    def __getattr__(self, name: str) -> np.ndarray:
        if name not in (DRAWS.names or ()):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        column: np.ndarray = self.draws[name]
        return column

    def view(self, number: int) -> Plan:
        """The plan of one of the views, sharing memory."""
        return replace(self, draws=self.draws[:, number : number + 1])

    def with_crops(self, crop: np.ndarray) -> Plan:
        """The same but for the crops, int32 (B, V, 4)."""
        draws = self.draws.copy()
        draws["crop"] = crop
        return replace(self, draws=draws)

    def describe(self, sample: int, view: int) -> dict[str, Any]:
        """One view's draws in words and plain numbers, leaving out what does not apply."""
        return in_words(self.draws[sample, view])


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
    drawn = Plan(
        draws=np.zeros((len(sample_ids), len(spec)), DRAWS),
        arrangement=np.empty((len(sample_ids), len(spec.arranged)), np.int64),
    )
    keys = key_word(seed), key_word(epoch), sample_ids, sizes
    alone = np.ones(len(spec), np.bool_)
    for first, part in spec.arranged:
        alone[first : first + len(part)] = False
    _draw(*keys, settings(spec.views), np.array(spec.draws, np.uint64), alone, drawn.draws)
    for number, (first, part) in enumerate(spec.arranged):
        crops, label = drawn.crop[:, first : first + len(part)], drawn.arrangement[:, number]
        taken = key_word(spec.draws[first])
        if isinstance(part, Tiles):
            shape = (*map(float, part.extent), float(part.tile), float(part.jitter))
            _draw_tiles(*keys, taken, part.grid[1], shape, part.orders, crops, label)
        else:
            assert isinstance(part, PatchPair)
            shape = (*map(float, part.scale), float(part.gap), float(part.jitter))
            _draw_pair(*keys, taken, shape, crops, label)
    return drawn


def operations_of(view: View, seed: int, epoch: int, sample_ids: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """DRAWS (B, N) of everything but the crop: the draws that views of these settings have whose numbers in a
    specification are `numbers`, uint64 (N,). Other arguments are as in `plan`."""
    draws = np.zeros((len(sample_ids), len(numbers)), DRAWS)
    ids = np.ascontiguousarray(sample_ids, dtype=np.int64)
    _draw_operations(key_word(seed), key_word(epoch), ids, settings([view]), numbers, draws)
    return draws


@kernel
def _draw_operations(seed, epoch, sample_ids, settings, numbers, draws):
    for i in range(len(sample_ids)):
        for n in range(len(numbers)):
            draw_operations(seed, epoch, np.uint64(sample_ids[i]), numbers[n], settings[0], draws[i, n])


@kernel
def _draw(seed, epoch, sample_ids, sizes, settings, numbers, alone, draws):
    """`numbers`: uint64 (V,), whose draws a view takes; `alone`: bool (V,), its box is not planned with others'."""
    for i in range(len(sample_ids)):
        sample = np.uint64(sample_ids[i])
        height, width = sizes[i]
        for v in range(len(settings)):
            view, drawn = settings[v], draws[i, v]
            if alone[v]:
                _draw_crop(seed, epoch, sample, numbers[v], height, width, view, drawn.crop)
            draw_operations(seed, epoch, sample, numbers[v], view, drawn)


@kernel
def _draw_tiles(seed, epoch, sample_ids, sizes, view, columns, settings, orders, crop, label):
    """Boxes of the cells' tiles in a shuffled order. See `headrace.pipeline.images.views.Tiles`."""
    extent_low, extent_high, share, jitter = settings
    tiles = orders.shape[1]
    rows = tiles // columns
    for i in range(len(sample_ids)):
        sample = np.uint64(sample_ids[i])
        height, width = np.int64(sizes[i, 0]), np.int64(sizes[i, 1])
        words = philox(seed, STREAM, np.uint64(_BLOCK_ARRANGED), view, sample, epoch)
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
            words = philox(seed, STREAM, np.uint64(_BLOCK_ARRANGED + 1 + place // 2), view, sample, epoch)
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
        words = philox(seed, STREAM, np.uint64(_BLOCK_ARRANGED), view, sample, epoch)
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
        words = philox(seed, STREAM, np.uint64(_BLOCK_ARRANGED + 1), view, sample, epoch)
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
def _draw_crop(seed, epoch, sample, number, height, width, view, crop):
    """torchvision's RandomResizedCrop: up to ten tries, then the largest centred crop within the aspect range."""
    area = np.float64(height) * np.float64(width)
    for attempt in range(_CROP_ATTEMPTS):
        words = philox(seed, STREAM, np.uint64(attempt), number, sample, epoch)
        target = area * (view.scale[0] + (view.scale[1] - view.scale[0]) * unit(words[0]))
        ratio = np.exp(view.log_ratio[0] + (view.log_ratio[1] - view.log_ratio[0]) * unit(words[1]))
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
    if aspect < view.ratio[0]:
        h = max(1, min(h, np.int64(np.rint(w / view.ratio[0]))))
    elif aspect > view.ratio[1]:
        w = max(1, min(w, np.int64(np.rint(h * view.ratio[1]))))
    crop[0] = (height - h) // 2
    crop[1] = (width - w) // 2
    crop[2] = h
    crop[3] = w
