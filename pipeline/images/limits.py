"""How large a picture may be. One limit for all that decode pictures: converters, engines, `verify`, duplicates."""

from __future__ import annotations

import os

from headrace.shards.errors import MachineError

MAX_PIXELS = 1 << 26
"""Pixels of a picture, 67 million: larger ones are refused before they are decoded, since a few bytes can claim to be
gigabytes."""
VARIABLE = "HEADRACE_MAX_PIXELS"
"""Names another limit for a process and all that it starts. `headrace shard --max-pixels` sets it for a conversion."""


class TooLarge(ValueError):
    """A picture has more pixels than the limit, and nothing else is known of it."""


def pixel_limit() -> int:
    """The limit of this process; MachineError where the variable is not a positive number, which no picture is to
    blame for."""
    said = os.environ.get(VARIABLE, "")
    if not said:
        return MAX_PIXELS
    if not (said.isascii() and said.isdigit() and int(said) > 0):
        raise MachineError(f"{VARIABLE}={said}: expected a positive number of pixels, such as {MAX_PIXELS}")
    return int(said)


def check_pixels(width: int, height: int, max_pixels: int | None = None) -> None:
    """TooLarge above the limit, that of the process where None is given."""
    limit = pixel_limit() if max_pixels is None else max_pixels
    if width * height > limit:
        raise TooLarge(
            f"{width}x{height} pixels, more than the limit of {limit:,}; `headrace shard --max-pixels N` or "
            f"{VARIABLE}=N raises it"
        )
