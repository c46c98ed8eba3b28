"""Pictures that are not shown as they are stored, compiled: see `headrace.shards.formats.orientation`.

Regions are (top, left, height, width).
"""

from __future__ import annotations

from headrace.pipeline.compiled import kernel

_SQUARE = 32


@kernel
def stored_region(region, height, width, orientation):
    """Where the region of a shown picture lies in the stored one, which has so many rows and columns."""
    top, left, rows, columns = region
    exchanged = orientation > 4
    if orientation == 3 or orientation == 4 or orientation == 7 or orientation == 8:
        top = (width if exchanged else height) - top - rows
    if orientation == 2 or orientation == 3 or orientation == 6 or orientation == 7:
        left = (height if exchanged else width) - left - columns
    if exchanged:
        return left, top, columns, rows
    return top, left, rows, columns


@kernel
def turn_region(image, stored, orientation, memory, done=False):
    """Show a region of a stored picture: the shown picture (H, W, 3), of which only the region is written.

    `image`: uint8 (rows, columns, 3). `stored`: the region in it. `memory`: uint8, room for the whole picture. `done`:
    nothing is to be written, since it is there from the call before.
    """
    height, width = image.shape[0], image.shape[1]
    exchanged = orientation > 4
    if exchanged:
        height, width = width, height
    shown = memory[: 3 * height * width].reshape(height, width, 3)
    if done:
        return shown
    flipped = orientation == 3 or orientation == 4 or orientation == 7 or orientation == 8
    mirrored = orientation == 2 or orientation == 3 or orientation == 6 or orientation == 7
    # In squares, because a row of the one may be a column of the other, of which each pixel is a cache line of its own.
    bottom, right = stored[0] + stored[2], stored[1] + stored[3]
    for begin_y in range(stored[0], bottom, _SQUARE):
        for begin_x in range(stored[1], right, _SQUARE):
            for y in range(begin_y, min(begin_y + _SQUARE, bottom)):
                for x in range(begin_x, min(begin_x + _SQUARE, right)):
                    to_y, to_x = (x, y) if exchanged else (y, x)
                    if flipped:
                        to_y = height - 1 - to_y
                    if mirrored:
                        to_x = width - 1 - to_x
                    for channel in range(3):
                        shown[to_y, to_x, channel] = image[y, x, channel]
    return shown
