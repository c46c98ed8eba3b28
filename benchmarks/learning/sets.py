"""What methods learn from: a shard set for training and one for testing of each, and what stands for no encoder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from headrace.benchmarks.emoji import emoji
from headrace.benchmarks.errors import SourceMissing
from headrace.benchmarks.stamps import stamps
from headrace.models import Method
from headrace.pipeline import ViewSpec
from headrace.shards import Field, ShardSet, write_shards
from headrace.tools.errors import UserError
from headrace.tools.sources.mnist import TRAIN_EACH, digits
from headrace.train.probes import Features, pixel_features
from headrace.train.recipes.small import EPOCHS

SIDE = 32
"""Of emoji and stamps, in pixels; digits have 28."""
SMOKE_EACH = {"train": 12, "test": 4}
"""Digits of a class."""
TEST_STYLE = "fluent"
"""Of emoji; they are learnt in the other styles."""
TEST_SHARE = 4
"""One of so many captions of stamps is for testing."""

Samples = Iterator[tuple[npt.NDArray[np.uint8], int]]
"""RGB pixels (H, W, 3) and labels."""


@dataclass(frozen=True, kw_only=True)
class LearningSet:
    """A set to learn from."""

    title: str
    about: str
    """What is in it, and how test samples differ, in a line."""
    suits: Callable[[Method], bool]
    """Whether a method can be trained on it."""
    write: Callable[[Path, bool], None]
    """Writes the shard sets `train` and `test` in a folder, small ones for a smoke run; SourceMissing where the data
    cannot be had."""
    input_title: str
    """What is probed in the place of an encoder's features."""
    input_features: Callable[[ShardSet], Features]
    epochs: int
    """Of a training: on every set about as many samples are seen."""


def content(folder: Path) -> str:
    """A digest of the samples of a set that was written."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".json":  # manifests say when they were written
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _sees_images(method: Method) -> bool:
    return isinstance(method.inputs, ViewSpec)


def _write(folder: Path, split: str, classes: Sequence[str], samples: Samples) -> None:
    fields = {"image": Field(kind="image", encoding="raw"), "label": Field(kind="int", classes=tuple(classes))}
    numbered: Iterator[dict[str, Any]] = (
        {"__key__": f"{number:05d}", "image": pixels, "label": label} for number, (pixels, label) in enumerate(samples)
    )
    write_shards(folder / split, numbered, fields, format="ffcv")


def _write_digits(folder: Path, smoke: bool) -> None:
    """As the demo splits them."""
    try:
        pixels, labels = digits()
    except UserError as error:
        raise SourceMissing(str(error)) from None
    for split, each in SMOKE_EACH.items():
        rows: list[int] = []
        for label in range(10):
            of_class = np.flatnonzero(labels == label)
            of_split = of_class[:TRAIN_EACH] if split == "train" else of_class[TRAIN_EACH:]
            rows += of_split[: each if smoke else None].tolist()
        samples = ((np.repeat(pixels[i, :, :, None], 3, axis=2), int(labels[i])) for i in rows)
        _write(folder, split, "0123456789", samples)


def _write_emoji(folder: Path, smoke: bool) -> None:
    """Every concept in two styles for training, and in the third for testing."""
    found = emoji()[:: 40 if smoke else 1]
    classes = sorted({each.category for each in found})
    for split, testing in (("train", False), ("test", True)):
        samples = (
            (on_white(path), classes.index(each.category))
            for each in found
            for style, path in each.pictures.items()
            if (style == TEST_STYLE) == testing
        )
        _write(folder, split, classes, samples)


def _write_stamps(folder: Path, smoke: bool) -> None:
    """Pictures with one caption are of one split, as many are copies of each other."""
    found = stamps()[:: 8 if smoke else 1]
    classes = sorted({each.category for each in found})
    captions = sorted({each.caption for each in found})
    of_test = set(captions[TEST_SHARE - 1 :: TEST_SHARE])
    for split, testing in (("train", False), ("test", True)):
        samples = (
            (on_white(each.path), classes.index(each.category))
            for each in found
            if (each.caption in of_test) == testing
        )
        _write(folder, split, classes, samples)


def on_white(path: Path) -> npt.NDArray[np.uint8]:
    """The picture in the middle of a white square, uint8 (SIDE, SIDE, 3)."""
    with Image.open(path) as opened:
        picture = ImageOps.contain(opened.convert("RGBA"), (SIDE, SIDE), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (SIDE, SIDE), "white")
    square.alpha_composite(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
    return np.asarray(square.convert("RGB"))


SETS: dict[str, LearningSet] = {
    "digits": LearningSet(
        title="Digits",
        about="4,000 digits of MNIST, tested on 1,000 others",
        suits=_sees_images,
        write=_write_digits,
        input_title="raw pixels",
        input_features=partial(pixel_features, size=28),
        epochs=EPOCHS,
    ),
    "emoji": LearningSet(
        title="Emoji",
        about="1,599 emoji of 8 categories in the styles Noto and Twemoji, tested on the same ones in the style Fluent",
        suits=_sees_images,
        write=_write_emoji,
        input_title="raw pixels",
        input_features=partial(pixel_features, size=SIDE),
        epochs=EPOCHS * 5 // 4,
    ),
    "stamps": LearningSet(
        title="Stamps",
        about="Stamps of 16 categories, three quarters of their captions for training, tested on the others",
        suits=_sees_images,
        write=_write_stamps,
        input_title="raw pixels",
        input_features=partial(pixel_features, size=SIDE),
        epochs=EPOCHS * 7,
    ),
}
"""By the name that `--data` takes. A method is trained on the first one that suits it where nothing else is asked for:
what comes with a package that is installed stands before what is fetched."""
