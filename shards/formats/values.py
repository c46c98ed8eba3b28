"""From a sample's values to bytes and back: what both formats have in common."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.shards.fields import ENCODINGS, IMAGE_ENCODINGS, RAW, Field
from headrace.shards.formats.images import image_header
from headrace.shards.formats.media import media_type
from headrace.shards.formats.orientation import UPRIGHT


def image_payload(field: Field, value: object) -> tuple[bytes | memoryview, int, int, int, int]:
    """(payload, height, width, encoding code, orientation) of an image; ValueError where it is not what the field
    says."""
    orientation = UPRIGHT
    if isinstance(value, np.ndarray):
        if value.dtype != np.uint8 or value.ndim != 3 or value.shape[2] != 3 or value.size == 0:
            raise ValueError(f"raw pixels must be uint8 (H, W, 3), got {value.dtype} {value.shape}")
        encoding, height, width = RAW, value.shape[0], value.shape[1]
        payload: bytes | memoryview = np.ascontiguousarray(value).reshape(-1).data
    elif isinstance(value, bytes | bytearray | memoryview):
        payload = bytes(value)
        header = image_header(payload)
        encoding, height, width = header.encoding, header.height, header.width
        orientation = header.orientation if field.oriented else UPRIGHT
    else:
        raise ValueError(f"an image is bytes or a uint8 array, got {type(value).__name__}")
    if field.encoding not in ("mixed", IMAGE_ENCODINGS[encoding]):
        raise ValueError(f"the field says {field.encoding}, the image is {IMAGE_ENCODINGS[encoding]}")
    return payload, height, width, encoding, orientation


def media_payload(field: Field, value: object) -> tuple[bytes, int]:
    """(payload, encoding code) of a video or audio file; ValueError where it is not what the field says."""
    payload = check_bytes(value)
    found = media_type(field.kind, payload)
    if field.encoding not in ("mixed", found):
        raise ValueError(f"the field says {field.encoding}, the file is {found}")
    return payload, ENCODINGS[field.kind].index(found)


def check_int(value: object) -> int:
    """An integer of 64 bits."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise ValueError(f"expected an int, got {type(value).__name__}")
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{value} does not fit into 64 bits")
    return int(value)


DECIMAL = re.compile(rb"\s*([+-]?[0-9]+)\s*")


def decimal(content: bytes) -> int:
    """An integer of 64 bits in decimal digits, as an int file of a tar holds it; blanks around it are no error.

    Python's `int` would also take 1_0, and the digits of every script."""
    found = DECIMAL.fullmatch(content)
    if found is None:
        raise ValueError(f"{content[:40]!r} has other characters than decimal digits and a sign")
    return check_int(int(found[1]))


def check_float(value: object) -> float:
    """A float of 64 bits."""
    if not isinstance(value, float | int | np.floating | np.integer) or isinstance(value, bool):
        raise ValueError(f"expected a float, got {type(value).__name__}")
    return float(value)


def check_bytes(value: object) -> bytes:
    """Any bytes."""
    if not isinstance(value, bytes | bytearray | memoryview):
        raise ValueError(f"expected bytes, got {type(value).__name__}")
    return bytes(value)


def check_text(value: object) -> str:
    """A str that UTF-8 can hold."""
    if not isinstance(value, str):
        raise ValueError(f"expected a str, got {type(value).__name__}")
    return value


def check_array(value: object) -> npt.NDArray[Any]:
    """A C-ordered, little-endian array of numbers."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biufc":
        found = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise ValueError(f"expected an array of numbers, got {found}")
    # ascontiguousarray would turn a scalar array into one of one dimension.
    return np.asarray(value, dtype=value.dtype.newbyteorder("<"), order="C")


def json_bytes(value: object) -> bytes:
    """JSON in UTF-8 without blanks; keys keep their order."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except TypeError as error:
        raise ValueError(f"not JSON: {error}") from None


def settled(
    field: Field, encodings: set[int], arrays: set[tuple[str, tuple[int, ...]]], oriented: bool = False
) -> Field:
    """The field as the samples turned out: one encoding instead of mixed, the type and shape of arrays, and whether an
    image is to be turned."""
    if field.kind in ENCODINGS:
        encoding = ENCODINGS[field.kind][min(encodings)] if len(encodings) == 1 else "mixed"
        return replace(field, encoding=encoding if encodings else field.encoding, oriented=oriented)
    if field.kind == "array":
        dtype, shape = min(arrays) if len(arrays) == 1 else ("", ())
        return Field(kind="array", dtype=dtype, shape=shape)
    return field
