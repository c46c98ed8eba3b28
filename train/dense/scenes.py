"""Pictures with something said of every pixel, out of shard sets.

Two layouts. COCO's, which `headrace shard coco` writes: a json field `instances`, a list of objects with `category`,
`name`, `bbox` [x, y, width, height], `area`, `iscrowd` and `segmentation`, polygons or run lengths on the picture as it
is shown. Or maps of the picture's height and width: an image field of PNGs with one channel, 8 or 16 bits, or with a
palette, whose numbers are taken as they are; or an array field.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from headrace.pipeline.feeds.images import image_field
from headrace.pipeline.images.decode import decode_image
from headrace.shards import ShardSet
from headrace.shards.formats.orientation import UPRIGHT, turned
from headrace.train.errors import RunError

IGNORED = 255
"""The label of pixels that neither teach nor score."""
DRAWN = 6
"""Pictures of a test set of which probes keep what was said, for people to look at."""
BACKGROUND = "background"
INSTANCES = "instances"


def picture_field(shards: ShardSet) -> str:
    """The field of a set's pictures; RunError where there is none, or it cannot be told which."""
    try:
        return image_field(shards)
    except ValueError as error:
        raise RunError(str(error)) from None


def picture_size(shards: ShardSet, i: int) -> tuple[int, int]:
    """Height and width of one sample's picture, as it is shown."""
    height, width = shards.places(picture_field(shards), [i]).shown_sizes()[0].tolist()
    return height, width


def read_picture(shards: ShardSet, i: int) -> np.ndarray:
    """uint8 (H, W, 3) of one sample, as it is shown.

    Raises:
        RunError: if it does not decode, or the set has no pictures.
    """
    field = picture_field(shards)
    sample = shards.read(i, [field])
    value, orientation = sample[field], sample.get("__orientation__", {}).get(field, UPRIGHT)
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(turned(value, orientation))
    try:
        return decode_image(value, orientation)
    except ValueError as error:
        raise RunError(f"{shards.where(i, field)}: {field} does not decode ({error})") from None


def read_map(shards: ShardSet, i: int, field: str, size: tuple[int, int]) -> np.ndarray:
    """(H, W) of numbers, of one sample whose picture has this height and width.

    Raises:
        RunError: if the field holds no such map.
    """
    value = shards.read(i, [field])[field]
    if isinstance(value, bytes):
        try:
            value = np.asarray(Image.open(io.BytesIO(value), formats=["PNG"]))
        except Exception as error:
            raise RunError(f"{shards.where(i, field)}: {field} is no PNG ({error})") from None
    if not isinstance(value, np.ndarray) or value.shape != size:
        found = f"shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        raise RunError(f"{shards.where(i, field)}: {field} must be a map of the picture's {size} pixels, got {found}")
    return value


def squashed(pixels: np.ndarray, size: int) -> np.ndarray:
    """uint8 (size, size, 3): the whole picture, its sides scaled each by itself, bilinear and antialiased."""
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))


def rasterized(segmentation: Any, size: tuple[int, int], where: str) -> np.ndarray:
    """bool (H, W) of COCO's polygons or run lengths, on a picture of this height and width.

    Raises:
        RunError: naming `where` it is, if it is neither, or of another size.
        ImportError: with the line that installs what reads them.
    """
    masks = coco_masks()
    if segmentation == []:
        return np.zeros(size, bool)
    try:
        if isinstance(segmentation, list):
            segmentation = masks.merge(masks.frPyObjects(segmentation, *size))
        elif isinstance(segmentation["counts"], list):
            segmentation = masks.frPyObjects(segmentation, *size)
        mask = np.asarray(masks.decode(segmentation), bool)
    except Exception as error:  # of compiled code, which says what it likes
        raise RunError(f"{where}: a segmentation that is neither polygons nor run lengths ({error})") from None
    if mask.shape != size:
        raise RunError(f"{where}: a segmentation of {mask.shape} pixels on a picture of {size}")
    return mask


def coco_masks() -> Any:
    """`faster_coco_eval`'s module of masks."""
    try:
        from faster_coco_eval.core import mask
    except ImportError:
        raise ImportError(
            "reading COCO's segmentations needs faster-coco-eval: pip install headrace[detection]"
        ) from None
    return mask


def category_names(shards: ShardSet) -> tuple[str, ...]:
    """The names of a COCO-layout set's categories by their number; "" for numbers that no instance has.

    Raises:
        RunError: if a category has two names, or nothing in the set has one.
    """
    names: dict[int, str] = {}
    for i in range(len(shards)):
        for instance in shards.read(i, [INSTANCES])[INSTANCES]:
            number, name = int(instance["category"]), str(instance["name"])
            if names.setdefault(number, name) != name:
                raise RunError(f"{shards.path}: category {number} is called {names[number]!r} and {name!r}")
    if not names:
        raise RunError(f"{shards.path}: holds no instance of anything")
    return tuple(names.get(number, "") for number in range(max(names) + 1))


def matched_categories(learn: Sequence[str], shards: ShardSet) -> Mapping[int, int]:
    """Numbers of `shards`' categories to those of the same names in `learn`.

    Raises:
        RunError: for one that `learn` has not.
    """
    found = {}
    for number, name in enumerate(category_names(shards)):
        if name and name not in learn:
            raise RunError(f"{shards.path}: has instances of {name!r}, which there are none of to learn from")
        if name:
            found[number] = list(learn).index(name)
    return found


class SemanticLabels:
    """The class of every pixel of a set's samples.

    Args:
        shards: in one of the layouts above.
        field: the field of maps; None takes COCO's instances.
        names: of the categories to learn from, where `shards` is a test set of COCO's layout; None takes its own.

    Of COCO's layout class 0 is the background, what no instance covers, and it counts as any other class; category k is
    class k + 1. Where instances overlap, the smaller one is seen. Crowds are ignored.
    """

    def __init__(self, shards: ShardSet, field: str | None = None, names: Sequence[str] | None = None) -> None:
        self.shards = shards
        self.field = field
        self.names: tuple[str, ...] = ()
        wanted = INSTANCES if field is None else field
        if wanted not in shards.fields:
            hint = "; name the field of maps" if field is None else ""
            raise RunError(f"{shards.path}: has no field {wanted}; it has {', '.join(shards.fields)}{hint}")
        if field is None:
            own = category_names(shards)
            self.names = (BACKGROUND, *(own if names is None else names[1:]))
            self._numbers = matched_categories(self.names[1:], shards)

    def read(self, i: int, size: tuple[int, int]) -> np.ndarray:
        """uint8 (H, W) of one sample whose picture has this height and width.

        Raises:
            RunError: if a map is not of that size, or has numbers above 255.
        """
        if self.field is None:
            return self._of_instances(i, size)
        labels = read_map(self.shards, i, self.field, size)
        if labels.dtype.kind not in "bui" or labels.min(initial=0) < 0 or labels.max(initial=0) > IGNORED:
            raise RunError(f"{self.shards.where(i, self.field)}: classes must be whole numbers from 0 to 255")
        return labels.astype(np.uint8)

    def _of_instances(self, i: int, size: tuple[int, int]) -> np.ndarray:
        labels = np.zeros(size, np.uint8)
        instances = self.shards.read(i, [INSTANCES])[INSTANCES]
        where = self.shards.where(i, INSTANCES)
        for instance in sorted(instances, key=lambda each: -float(each["area"])):
            if not instance["iscrowd"]:
                labels[rasterized(instance["segmentation"], size, where)] = self._numbers[int(instance["category"])] + 1
        crowds = [each for each in instances if each["iscrowd"]]
        for crowd in crowds:
            labels[rasterized(crowd["segmentation"], size, where) & (labels == 0)] = IGNORED
        return labels
