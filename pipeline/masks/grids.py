"""What masks of a grid of patches share: counts, checks, and the stream that they are drawn from.

Patches are numbered row by row from the top left.
"""

from __future__ import annotations

import numpy as np

from headrace.pipeline.checks import check
from headrace.pipeline.compiled import kernel
from headrace.pipeline.random import key_word

Grid = tuple[int, int]
"""Rows and columns of patches."""

STREAM = key_word(0x6D61736B)  # the word "mask"
# Fourth words of its counters, so that no two masks share draws: 1 random, 2 and 3 blocks, 4 and 5 contexts, 6 and 7
# regions, 8 and 9 blocks of tubes, 10 and 11 inverse blocks, 12 to 14 rolled blocks, 15 prefixes, 16 cells, 17
# negatives, 18 spans of frames.
ATTEMPTS = 10  # to place one block or region, as in BEiT's and I-JEPA's code


def check_grid(spec: object, grid: Grid) -> None:
    check(min(grid) >= 1 and patches_of(grid) > 1, spec, "grid", grid, "rows and columns of more than one patch")


def check_parts(spec: object, grid: Grid, ratio: float, visible: int) -> None:
    """ValueError where nothing would be masked, or nothing visible."""
    patches = patches_of(grid)
    check(0 < visible < patches, spec, "ratio", ratio, f"such that some of {patches} patches are masked, not all")


def patches_of(grid: Grid) -> int:
    return grid[0] * grid[1]


def share_of(patches: int, ratio: float) -> int:
    """`int(patches * ratio)`, but that a ratio which binary makes a little smaller, such as 1 - 0.9, costs no patch."""
    return int(round(patches * ratio, 6))


@kernel
def part(is_visible, visible, masked):
    """The numbers of places that are visible, and of the others."""
    v, m = 0, 0
    for place in range(len(is_visible)):
        if is_visible[place]:
            visible[v] = place
            v += 1
        else:
            masked[m] = place
            m += 1


@kernel
def block_size(area, aspect, rows, columns):
    """Rows and columns of a block, at least one and at most the grid's."""
    height = min(max(np.int64(np.rint(np.sqrt(area * aspect))), 1), rows)
    width = min(max(np.int64(np.rint(np.sqrt(area / aspect))), 1), columns)
    return height, width
