"""COCO 2017 (https://cocodataset.org/#download) from its official archives and from what they unpack to.

    train2017.zip, val2017.zip         train2017/000000000009.jpg, ...
    annotations_trainval2017.zip       annotations/captions_train2017.json, annotations/instances_train2017.json, ...

The annotation files (https://cocodataset.org/#format-data) are one JSON object each:

    images         [{"id": 9, "file_name": "000000000009.jpg", "width": 640, "height": 480, ...}, ...]
    annotations    captions:  [{"id": 661611, "image_id": 9, "caption": "Closeup of bins of food ..."}, ...]
                   instances: [{"id": 1038967, "image_id": 9, "category_id": 51, "bbox": [1.08, 187.69, 611.59, 285.84],
                                "area": 120057.13, "iscrowd": 0, "segmentation": [[500.49, 473.53, ...]]}, ...]
    categories     instances: [{"id": 1, "name": "person", "supercategory": "person"}, ...], 80 ids of 1 to 90

The largest has 450 MB of text, which would be several GB as Python objects. So its text stays in memory as it is, with
the places of each picture's annotations in it, and those are parsed when the picture is loaded.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from headrace.pipeline.images.reading import file_orientation
from headrace.shards import Field
from headrace.shards.formats.orientation import UPRIGHT, shown_size
from headrace.shards.formats.values import json_bytes
from headrace.tools.errors import UserError
from headrace.tools.sources.archives import ArchiveFile, read_file, read_zip, zip_entries
from headrace.tools.sources.coco_turning import turned_instances
from headrace.tools.sources.fingerprint import Fingerprint
from headrace.tools.sources.left_out import LeftOut
from headrace.tools.sources.listing import exists, findable, is_clutter, is_folder, names_in, unreadable
from headrace.tools.sources.source import BadSample, SourceData

SPLITS = ("train", "val")
ANNOTATIONS = "annotations_trainval2017.zip"
FILE_NAME = re.compile(r"(\d{12})\.jpg")
MAX_ANNOTATIONS = 1 << 30
"""Bytes of an annotation file."""


def read(src: Path, split: str | None) -> SourceData:
    """Picture files as they are, with captions and instances; the key is the file's name, such as 000000000009.

    Fields:
        image: The JPEG file.
        captions: The picture's captions, about five: a list of str, in the order of the file.
        instances: A list, in the order of the file and perhaps empty, of objects with
            id: of the annotation.
            category: Place of the category among all, by id: 0 to 79.
            category_id, name: The category's id, 1 to 90 with gaps, and its name.
            bbox: [x, y, width, height] in pixels of the original picture, x and y from its upper left corner.
            area: Square pixels of the segmentation.
            iscrowd: 1 where the segmentation covers a group of things, else 0.
            segmentation: Polygons [[x1, y1, x2, y2, ...], ...], or run lengths {"size": [height, width], "counts":
                [...]}, as in the file.
        image_id: COCO's number of the picture.
        width, height: Pixels of the original picture, also where the stored one is smaller.

    Boxes and segmentations are in pixels of the stored picture, as COCO's own tools take them, and pictures are shown
    as they are stored, unless --orientation apply asks for both to be turned as the files say.

    The samples are the pictures that the annotation files list, by id. One that has no caption, or is missing, is a
    bad sample.

    Args:
        src: Folder with the zips, or with what they unpack to; the zip where both are there, since a tree may be half
            unpacked.
        split: "train" or "val".
    """
    split = split or "train"
    if split not in SPLITS:
        raise UserError(f"coco has the splits train and val, not {split!r}")
    name = f"{split}2017"
    place, picture, archive, there = open_pictures(src, name)
    captions = open_annotations(src, f"captions_{name}.json")
    instances = open_annotations(src, f"instances_{name}.json")
    images = sorted({**instances.images, **captions.images}.items())
    if not images:
        raise UserError(f"{captions.where}: lists no images")
    ids = np.array([number for number, _ in images], np.int64)
    of_captions, of_instances = captions.by_image(ids), instances.by_image(ids)
    categories = {number: (row, name) for row, (number, name) in enumerate(sorted(instances.categories.items()))}

    def load(i: int) -> dict[str, Any]:
        number, image = images[i]
        return {
            "image": picture(image.file_name),
            "captions": caption_list(of_captions(i)),
            "instances": instance_list(of_instances(i), categories),
            "image_id": number,
            "width": image.width,
            "height": image.height,
        }

    fields = {
        "image": Field(kind="image", encoding="mixed"),
        "captions": Field(kind="json"),
        "instances": Field(kind="json"),
        "image_id": Field(kind="int"),
        "width": Field(kind="int"),
        "height": Field(kind="int"),
    }
    fingerprint = Fingerprint(fields)
    for part in (captions, instances):
        fingerprint.content(part.json_text.text)
    if archive is not None:
        fingerprint.archive(archive.status)
    else:
        fingerprint.files(place / image.file_name for _, image in images)
    left_out = LeftOut()
    listed = {image.file_name for _, image in images}
    for file_name in there:
        if file_name not in listed:
            left_out.add("not in the annotations", f"{place}, {file_name}" if archive else place / file_name)
    return SourceData(
        left_out=left_out.counts(),
        strays=list(left_out.strays(place)),
        fields=fields,
        turn=turned_sample,
        total=len(images),
        key=lambda i: images[i][1].file_name.removesuffix(".jpg"),
        origin=lambda i: f"{findable(place)}, {images[i][1].file_name}",
        fingerprint=str(fingerprint),
        load=load,
    )


def turned_sample(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A sample whose picture is shown as its file says: boxes, segmentations and size on the shown picture."""
    orientation = file_orientation(values["image"])
    if orientation == UPRIGHT:
        return values
    height, width = values["height"], values["width"]
    instances = turned_instances(values["instances"], height, width, orientation)
    height, width = shown_size(height, width, orientation)
    return {**values, "instances": instances, "height": height, "width": width}


def open_pictures(src: Path, name: str) -> tuple[Path, Callable[[str], bytes], ArchiveFile | None, list[str]]:
    """Where the pictures are, a function that reads one by its file name, the zip where they are in one, and the names
    of the files that are there."""
    archive, folder = src / f"{name}.zip", src / name
    if exists(archive):
        file = ArchiveFile(archive)
        entries = zip_entries(file)

        def picture(file_name: str) -> bytes:
            member = f"{name}/{file_name}"
            if member not in entries:
                raise BadSample(f"the zip holds no {member}")
            return read_zip(file, member, entries[member])

        there = [member.removeprefix(f"{name}/") for member in entries]
        return archive, picture, file, [member for member in there if not any(map(is_clutter, member.split("/")))]
    if is_folder(folder):
        return folder, lambda file_name: read_file(folder / file_name), None, names_in(folder)[1]
    raise UserError(f"{src}: holds neither {name}.zip nor a folder {name}")


def open_annotations(src: Path, name: str) -> Annotations:
    """One of the annotation files, out of the zip or the folder."""
    archive, path = src / ANNOTATIONS, src / "annotations" / name
    if exists(archive):
        where, member = f"{archive}, annotations/{name}", f"annotations/{name}"
        file = ArchiveFile(archive)
        entries = zip_entries(file)
        if member not in entries:
            raise UserError(f"{archive}: holds no {member}; is it the official {ANNOTATIONS}?")
        try:
            content = read_zip(file, member, entries[member], MAX_ANNOTATIONS)
        except OSError as error:
            raise unreadable(archive, error) from error
        except BadSample as error:
            raise UserError(f"{where}: {error}; download {ANNOTATIONS} again") from error
    elif exists(path):
        where = str(path)
        try:
            content = read_file(path, MAX_ANNOTATIONS)
        except OSError as error:
            raise unreadable(path, error) from error
        except BadSample as error:
            raise UserError(f"{where}: {error}") from error
    else:
        raise UserError(f"{src}: holds neither {ANNOTATIONS} nor annotations/{name}")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{where}, offset {error.start}: not UTF-8") from error
    return parse_annotations(JsonText(where, text))


class JsonText:
    """A cursor over a JSON document, which reads it a value at a time."""

    def __init__(self, where: str, text: str) -> None:
        self.where = where
        self.text = text
        self.at = 0
        self.decoder = json.JSONDecoder(parse_constant=refuse_constant)

    def fail(self, at: int, problem: str) -> UserError:
        """The error for a character of the text; the offset counts bytes, as in the file."""
        return UserError(f"{self.where}, offset {len(self.text[:at].encode())}: {problem}")

    def next(self) -> str:
        """The next character that is no white space; empty at the end."""
        match = WHITE_SPACE.match(self.text, self.at)
        assert match is not None  # it matches nothing, too
        self.at = match.end()
        return self.text[self.at : self.at + 1]

    def expect(self, character: str) -> None:
        """Step over a character."""
        if self.next() != character:
            raise self.fail(self.at, f"bad JSON: expected {character!r}, found {self.next()!r}")
        self.at += 1

    def value(self) -> Any:
        """Any value as a whole."""
        start = self.at if self.next() else len(self.text)
        try:
            value, self.at = self.decoder.raw_decode(self.text, self.at)
        except json.JSONDecodeError as error:
            raise self.fail(error.pos, f"bad JSON: {error.msg}") from error
        except (ValueError, RecursionError) as error:
            raise self.fail(start, f"bad JSON: {error}") from error
        return value

    def elements(self) -> Iterator[tuple[int, Any]]:
        """(where it starts, value) of each element of an array; the cursor stands behind it."""
        self.expect("[")
        if self.next() == "]":
            self.at += 1
            return
        while True:
            self.next()
            start = self.at
            yield start, self.value()
            if self.next() == "]":
                self.at += 1
                return
            self.expect(",")

    def members(self) -> Iterator[str]:
        """The names in an object; whoever iterates reads the value after each."""
        self.expect("{")
        if self.next() == "}":
            self.at += 1
            return
        while True:
            if self.next() != '"':
                raise self.fail(self.at, f"bad JSON: expected a name, found {self.next()!r}")
            name = self.value()
            self.expect(":")
            yield name
            if self.next() == "}":
                self.at += 1
                return
            self.expect(",")


WHITE_SPACE = re.compile(r"[ \t\n\r]*")


def refuse_constant(name: str) -> NoReturn:
    """NaN and the infinities, which Python reads and JSON does not have."""
    raise ValueError(f"{name} is no JSON")


class Image(NamedTuple):
    """An entry of `images`."""

    file_name: str
    width: int
    height: int


class Annotations:
    """An annotation file: what it lists, and where in its text the annotations are."""

    def __init__(self, json_text: JsonText) -> None:
        self.json_text = json_text
        self.where = json_text.where
        self.images: dict[int, Image] = {}
        self.categories: dict[int, str] = {}
        self.image_ids = array("q")
        """Of each annotation."""
        self.starts = array("q")
        self.ends = array("q")

    def by_image(self, ids: npt.NDArray[np.int64]) -> Callable[[int], list[dict[str, Any]]]:
        """A function from a row of `ids`, which are sorted, to the annotations of that picture.

        UserError where an annotation belongs to none of them.
        """
        image_ids = np.frombuffer(self.image_ids, np.int64)
        rows = np.minimum(np.searchsorted(ids, image_ids), len(ids) - 1)
        orphans = np.flatnonzero(ids[rows] != image_ids)
        if orphans.size:
            first = int(orphans[0])
            raise self.json_text.fail(self.starts[first], f"the file lists no image {image_ids[first]}")
        order = np.argsort(rows, kind="stable")
        begins = np.searchsorted(rows[order], np.arange(len(ids) + 1))
        text = self.json_text.text

        def parse(row: int) -> list[dict[str, Any]]:
            places = order[begins[row] : begins[row + 1]].tolist()
            try:
                return [json.loads(text[self.starts[place] : self.ends[place]]) for place in places]
            except RecursionError as error:  # it was parsed before, but perhaps in a thread with more stack
                raise BadSample(f"an annotation of image {ids[row]}: {error}") from error

        return parse


def parse_annotations(document: JsonText) -> Annotations:
    """Reads an annotation file once; UserError with the offset where it is not what the top of this file shows."""
    found = Annotations(document)
    names = set()
    for name in document.members():
        names.add(name)
        if name == "images":
            for start, value in document.elements():
                add_image(found, start, value)
        elif name == "categories":
            for start, value in document.elements():
                add_category(found, start, value)
        elif name == "annotations":
            for start, value in document.elements():
                match value:
                    case {"image_id": int() as number} if is_id(number):
                        found.image_ids.append(number)
                        found.starts.append(start)
                        found.ends.append(document.at)
                    case _:
                        raise document.fail(start, "an annotation without an image_id")
        else:
            document.value()
    if document.next():
        raise document.fail(document.at, "bad JSON: something follows the document")
    for name in ("images", "annotations"):
        if name not in names:
            raise UserError(f"{document.where}: has no {name}; is it an official annotation file?")
    return found


def is_id(value: object) -> bool:
    """True for a number that an int field holds."""
    return type(value) is int and 0 <= value < 1 << 63


def add_image(found: Annotations, start: int, value: object) -> None:
    """One of `images`. Its file name must be a plain one: it becomes a key, and a path in a folder."""
    match value:
        case {"id": number, "file_name": str() as name, "width": int() as width, "height": int() as height}:
            if is_id(number) and FILE_NAME.fullmatch(name) and is_id(width) and is_id(height):
                if number in found.images or int(name[:12]) != number:
                    raise found.json_text.fail(start, f"image {number}: listed twice, or called {name}")
                found.images[number] = Image(name, width, height)
                return
    raise found.json_text.fail(
        start, "an image without an id, a file name such as 000000000009.jpg, a width and a height"
    )


def add_category(found: Annotations, start: int, value: object) -> None:
    """One of `categories`."""
    match value:
        case {"id": number, "name": str() as name} if is_id(number) and number not in found.categories:
            found.categories[number] = name
        case _:
            raise found.json_text.fail(start, "a category without a name, or without an id of its own")


def caption_list(annotations: list[dict[str, Any]]) -> list[str]:
    """The captions as they are; BadSample where there is none."""
    captions = []
    for annotation in annotations:
        caption = annotation.get("caption")
        if not isinstance(caption, str):
            raise BadSample(f"annotation {annotation.get('id')!r}: has no caption")
        captions.append(caption)
    if not any(caption.strip() for caption in captions):
        raise BadSample("no caption")
    check_json("captions", captions)
    return captions


def instance_list(annotations: list[dict[str, Any]], categories: Mapping[int, tuple[int, str]]) -> list[dict[str, Any]]:
    """The instances as `read` describes them; BadSample where one is not like that."""
    instances = []
    for annotation in annotations:
        match annotation:
            case {
                "id": int() as number,
                "category_id": int() as category_id,
                "bbox": [int() | float(), int() | float(), int() | float(), int() | float()] as bbox,
                "area": int() | float() as area,
                "iscrowd": (0 | 1) as iscrowd,
                "segmentation": segmentation,
            } if category_id in categories and is_segmentation(segmentation):
                row, name = categories[category_id]
                instances.append(
                    {
                        "id": number,
                        "category": row,
                        "category_id": category_id,
                        "name": name,
                        "bbox": bbox,
                        "area": area,
                        "iscrowd": iscrowd,
                        "segmentation": segmentation,
                    }
                )
            case _:
                wanted = "a known category_id, a bbox of four numbers, an area, iscrowd and a segmentation"
                raise BadSample(f"annotation {annotation.get('id')!r}: lacks one of {wanted}")
    check_json("instances", instances)
    return instances


def is_segmentation(value: Any) -> bool:
    """True for polygons and for run lengths, which are numbers, or text where they are compressed."""
    match value:
        case {"size": [int(), int()], "counts": str()}:
            return len(value) == 2
        case {"size": [int(), int()], "counts": list() as counts}:
            return len(value) == 2 and all(type(count) is int for count in counts)
        case list():
            return all(isinstance(part, list) and all(type(x) in (int, float) for x in part) for part in value)
    return False


def check_json(name: str, value: object) -> None:
    """BadSample for what Python's JSON reads and no shard can hold: half a surrogate pair, 1e999."""
    try:
        json_bytes(value)
    except ValueError as error:
        raise BadSample(f"{name}: {error}") from error
