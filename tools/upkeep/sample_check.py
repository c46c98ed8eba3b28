"""Is a sample what the index says, and does all of it decode?"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.pipeline.images.decode import decode_image
from headrace.pipeline.images.limits import TooLarge
from headrace.pipeline.images.whole import check_whole
from headrace.shards import OTHER, ShardError, ShardSet
from headrace.shards.fields import ENCODINGS
from headrace.shards.formats.images import picture_header
from headrace.shards.formats.orientation import UPRIGHT
from headrace.shards.index import OpenShard
from headrace.shards.reading import is_unread
from headrace.tools.errors import UserError
from headrace.tools.upkeep.findings import Finding

CHUNK = 64
"""Samples that a thread checks at a time."""


def check_samples(shards: ShardSet, opened: OpenShard, numbers: range) -> list[Finding]:
    """What is wrong with these samples of a set of one shard: place, checksum, value, image, video, sound."""
    findings = []
    for i in numbers:
        try:
            sample = shards.read(i)
        except ShardError as error:
            line = str(error)
            if is_unread(error):
                line = f"{shards.where(i, next(iter(shards.fields)))}: cannot be read ({error})"
            findings.append(Finding(opened.mapped.path.name, i, line, is_unread(error)))
            continue
        for name, field in shards.fields.items():
            line, too_large = "", False
            if field.kind in ("int", "float"):
                value = opened.index[f"{name}.value"][i].item()
                if not same(field.kind, sample[name], value):
                    line = f"{name} is {sample[name]}, the index says {value}"
            elif field.kind in ENCODINGS:
                try:
                    if field.kind == "image" and isinstance(sample[name], bytes):
                        columns = ("encoding", "height", "width")
                        expected = tuple(opened.index[f"{name}.{column}"][i] for column in columns)
                        orientation = sample["__orientation__"][name] if field.oriented else None
                        check_image(sample[name], expected, orientation)
                    elif field.kind != "image":
                        check_media(field.kind, sample[name])
                except ValueError as error:
                    line, too_large = f"{name} does not decode ({error})", isinstance(error, TooLarge)
            if line:
                line = f"{shards.where(i, name)}: {line}"
                findings.append(Finding(opened.mapped.path.name, i, line, too_large=too_large))
    return findings


def check_image(data: bytes, expected: tuple[int, ...], orientation: int | None = None) -> None:
    """ValueError unless a picture decodes and is what the index says: encoding, height and width, and, where it says
    one, orientation."""
    header = picture_header(data)
    if (header.encoding, header.height, header.width) != expected:
        raise ValueError("its header does not say the size in the index")
    if orientation not in (None, header.orientation):
        raise ValueError(f"its orientation is {header.orientation}, the index says {orientation}")
    if header.encoding == OTHER:
        decode_image(data)
    else:
        check_whole(data)


def check_media(kind: str, data: bytes) -> None:
    """ValueError unless a video or a sound decodes, all of it."""
    media_probes()[kind](data)


@cache
def media_probes() -> dict[str, Callable[[bytes], object]]:
    """What decodes videos and sounds; UserError where PyAV, which sets of pictures need not, is not installed."""
    try:
        from headrace.tools.media.videos import probe_audio, probe_video
    except ImportError as error:
        raise UserError(f"checking videos and sounds needs PyAV: pip install 'headrace[video]' ({error})") from error
    return {"video": partial(probe_video, whole=True), "audio": probe_audio}


def same(kind: str, one: Any, other: Any, orientations: tuple[int, int] = (UPRIGHT, UPRIGHT)) -> bool:
    """Are two values of a field the same? Images are where they are shown the same. ValueError where one does not
    decode."""
    if kind == "image":
        both_files = isinstance(one, bytes) and isinstance(other, bytes)
        if both_files and one == other and orientations[0] == orientations[1]:
            return True
        return np.array_equal(pixels(one, orientations[0]), pixels(other, orientations[1]))
    if kind == "array":
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")
    return bool(one == other or (one != one and other != other))  # a NaN is the same as a NaN


def pixels(image: bytes | npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """uint8 (H, W, 3), as shown."""
    return decode_image(image, orientation) if isinstance(image, bytes) else image
