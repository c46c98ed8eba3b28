"""Single patches are hidden, or all behind the first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from headrace.pipeline.checks import check
from headrace.pipeline.compiled import kernel
from headrace.pipeline.masks.drawn import PatchMasks, PrefixMasks
from headrace.pipeline.masks.grids import STREAM, Grid, check_grid, check_parts, part, patches_of, share_of
from headrace.pipeline.random import key_word, philox, unit


@dataclass(frozen=True, kw_only=True)
class RandomMask:
    """A fixed share of the patches, each set of them equally likely. MAE (2111.06377), SimMIM (2111.09886)."""

    grid: Grid
    """Rows and columns of patches."""
    ratio: float = 0.75
    """Share that is masked; the visible patches are `int(N * (1 - ratio))` as in MAE's code."""

    def __post_init__(self) -> None:
        check_grid(self, self.grid)
        check(0.0 < self.ratio < 1.0, self, "ratio", self.ratio, "in (0, 1)")
        check_parts(self, self.grid, self.ratio, self.visible)

    @property
    def visible(self) -> int:
        """Patches of a sample that are not masked."""
        return share_of(patches_of(self.grid), 1 - self.ratio)

    def draw(self, seed: int, epoch: int, sample_ids: np.ndarray, number: int) -> PatchMasks:
        """See `draw_masks`."""
        return random_masks(patches_of(self.grid), self.visible, seed, epoch, sample_ids, number)


@dataclass(frozen=True, kw_only=True)
class PrefixMask:
    """How many patches come first and see each other, each number equally likely. AIM (2401.08541), section 3.3."""

    grid: Grid
    """Rows and columns of patches."""

    def __post_init__(self) -> None:
        check_grid(self, self.grid)

    def draw(self, seed: int, epoch: int, sample_ids: np.ndarray, number: int) -> PrefixMasks:
        """See `draw_masks`."""
        prefix = np.empty(len(sample_ids), np.int64)
        _draw_prefix(key_word(seed), key_word(epoch), sample_ids, key_word(number), patches_of(self.grid), prefix)
        return PrefixMasks(torch.from_numpy(prefix))


def random_masks(patches: int, visible: int, seed: int, epoch: int, sample_ids: np.ndarray, number: int) -> PatchMasks:
    seen = np.empty((len(sample_ids), visible), np.int64)
    masked = np.empty((len(sample_ids), patches - visible), np.int64)
    _draw_random(key_word(seed), key_word(epoch), sample_ids, key_word(number), seen, masked)
    return PatchMasks(torch.from_numpy(seen), torch.from_numpy(masked))


@kernel
def _draw_random(seed, epoch, sample_ids, number, visible, masked):
    patches = visible.shape[1] + masked.shape[1]
    places = np.empty(patches, np.int64)
    is_visible = np.empty(patches, np.bool_)
    for i in range(len(sample_ids)):
        sample = np.uint64(sample_ids[i])
        for place in range(patches):
            places[place] = place
        is_visible[:] = False
        # The first steps of a Fisher-Yates shuffle choose the visible patches.
        for step in range(visible.shape[1]):
            words = philox(seed, STREAM, np.uint64(step) << np.uint64(16) | number, np.uint64(1), sample, epoch)
            other = step + np.int64(unit(words[0]) * (patches - step))
            places[step], places[other] = places[other], places[step]
            is_visible[places[step]] = True
        part(is_visible, visible[i], masked[i])


@kernel
def _draw_prefix(seed, epoch, sample_ids, number, patches, prefix):
    for i in range(len(sample_ids)):
        words = philox(seed, STREAM, number, np.uint64(15), np.uint64(sample_ids[i]), epoch)
        prefix[i] = 1 + np.int64(unit(words[0]) * (patches - 1))
