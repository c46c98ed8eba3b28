"""A pattern of small cells that moves on with every step of time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from headrace.pipeline.checks import check
from headrace.pipeline.compiled import kernel
from headrace.pipeline.masks.drawn import PatchMasks
from headrace.pipeline.masks.grids import STREAM, Grid, check_grid
from headrace.pipeline.random import key_word, philox, unit

PLACES = 4
"""Of a cell of 2 x 2 patches, which a running index goes through row by row; it moves on by one a step of time."""


@dataclass(frozen=True, kw_only=True)
class RunningCellMask:
    """The same share of every step of time, in cells of 2 x 2 patches, and other patches of a cell at the next one.

    VideoMAE V2 (2303.16727), which masks its decoder so: visible patches are those that it is given. As
    `RunningCellMaskingGenerator` in OpenGVLab/VideoMAEv2, dataset/masking_generator.py: the first of a cell's four
    states is drawn for each sample.
    """

    grid: Grid
    """Rows and columns of patches in a frame, both even."""
    frames: int
    """Time steps of the encoder: frames over the length of its tubes."""
    ratio: float = 0.5
    """Share that is masked: 0.25, 0.5 or 0.75."""

    def __post_init__(self) -> None:
        check_grid(self, self.grid)
        check(not any(side % 2 for side in self.grid), self, "grid", self.grid, "an even number of rows and columns")
        check(self.frames >= 1, self, "frames", self.frames, "at least 1")
        check(self.ratio in (0.25, 0.5, 0.75), self, "ratio", self.ratio, "0.25, 0.5 or 0.75")

    def draw(self, seed: int, epoch: int, sample_ids: np.ndarray, number: int) -> PatchMasks:
        """See `draw_masks`; indices count through the frames, `frame * N + patch`."""
        states = np.empty(len(sample_ids), np.int64)
        _draw_states(key_word(seed), key_word(epoch), sample_ids, key_word(number), states)
        masked = np.stack([self._masked_from(state) for state in range(PLACES)])
        visible, hidden = (np.stack([np.flatnonzero(each) for each in part]) for part in (~masked, masked))
        return PatchMasks(torch.from_numpy(visible[states]), torch.from_numpy(hidden[states]))

    def _masked_from(self, state: int) -> np.ndarray:
        """bool (frames * N,): the masks of a clip that begins in one of the states."""
        rows, columns = self.grid
        row, column = np.divmod(np.arange(rows * columns), columns)
        place = 2 * (row % 2) + column % 2
        time = np.arange(self.frames)[:, None]
        masked: np.ndarray = (place + state + 1 + time) % PLACES < round(PLACES * self.ratio)
        return masked.ravel()


@kernel
def _draw_states(seed, epoch, sample_ids, number, states):
    for i in range(len(sample_ids)):
        words = philox(seed, STREAM, number, np.uint64(16), np.uint64(sample_ids[i]), epoch)
        states[i] = np.int64(unit(words[0]) * PLACES)
