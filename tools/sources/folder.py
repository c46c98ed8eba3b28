"""A tree of image, video or audio files: one folder a class, as torchvision's ImageFolder reads it, or files alone.

dog/rex.jpg     the file itself
dog/rex.txt     its caption
dog/rex.json    anything
dog/rex.cls     its class, where that is not the folder's
dog/rex.ogg     a sound that belongs to it
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from headrace.shards import Field
from headrace.shards.foreign import EXTENSION_KINDS
from headrace.shards.values import json_bytes
from headrace.tools.errors import UserError
from headrace.tools.sources.archives import MAX_PICTURE
from headrace.tools.sources.fingerprint import Fingerprint
from headrace.tools.sources.source import BadSample, SourceData
from headrace.tools.sources.trees import read_file, relative, walk

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"})
"""torchvision.datasets.folder.IMG_EXTENSIONS."""
MEDIA = {
    **{f".{extension}": kind for extension, kind in EXTENSION_KINDS.items() if kind in ("video", "audio")},
    **dict.fromkeys(EXTENSIONS, "image"),
}
"""Kind of a media file by its extension."""
LEADERS = ("video", "image", "audio")
"""Of two kinds of files in pairs, the first one here is the sample and the other belongs to it."""
SIDECARS = {".txt": "text", ".json": "json", ".cls": "label"}
"""Field by the extension of a file beside that is no media file."""
FIELDS = SIDECARS | MEDIA
MISSING = {
    "text": "caption",
    "json": "JSON file",
    "label": "class",
    "image": "image",
    "video": "video",
    "audio": "sound",
}
MAX_MEDIA = {"image": MAX_PICTURE, "video": 1 << 30, "audio": 1 << 30}
"""Bytes of a file."""
MAX_SIDECAR = 16 << 20
SPLIT_NAMES = ("train", "val", "valid", "validation", "test")
COMPONENT_BYTES = 72
"""Longest part of a key between slashes; what is longer is cut, with a checksum."""


def read(src: Path, split: str) -> SourceData:
    """Media files under `src`/`split` if that is a folder, else under `src`, in the order of their paths.

    The subfolders there are the classes, in alphabetical order, and files may lie deeper in them; files beside them are
    left out. Without subfolders there is no label. Hidden files are left out, links are followed.

    Fields:
        image, video or audio: The file. Videos and sounds are checked as `headrace.tools.videos` does.
        label: Of the folder, or of the file's .cls: a number, or the name of a class where there are folders.
        text: The .txt beside the file, UTF-8.
        json: The .json beside the file.
        audio, image: The sound of an image or a video, or the image of a video, of the same stem.
    A field that some files have, all must have: what lacks it is a bad sample. So is one with a damaged sidecar.

    Args:
        src: The tree. UserError where it holds several kinds of media that do not belong together.
        split: Name of a subfolder; "train" may be missing if there is no other split either.
    """
    root = split_folder(src, split)
    classes = class_folders(root)
    files, fields = scan(root, classes)
    return source_data(root, classes, files, fields)


def split_folder(src: Path, split: str) -> Path:
    """The folder of a split."""
    if not src.is_dir():
        raise UserError(f"{src}: there is no such folder")
    root = src / split
    if root.is_dir():
        return root
    others = [name for name in SPLIT_NAMES if (src / name).is_dir()]
    if others or split != "train":
        found = f"found {', '.join(others)}" if others else "found no splits"
        raise UserError(f"{src}: has no folder {split!r} for --split {split} ({found})")
    return src


def class_folders(root: Path) -> list[str]:
    """Names of the subfolders."""
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))


class MediaFile(NamedTuple):
    """A sample: a file and what lies beside it."""

    path: str
    label: int
    """Of its folder; -1 where there are no classes."""
    beside: tuple[str, ...]
    """Extensions of the files of the same stem, sorted, without its own kind."""


def scan(root: Path, classes: list[str]) -> tuple[list[MediaFile], dict[str, Field]]:
    """The samples of a tree and their fields."""
    found: dict[str, list[MediaFile]] = {}
    alone: dict[str, str] = {}
    folders = [(root / name, label) for label, name in enumerate(classes)] if classes else [(root, -1)]
    for folder, label in folders:
        for parent, names in walk(folder):
            pairs = [os.path.splitext(name) for name in names]
            stems: dict[str, list[str]] = {}
            for stem, extension in pairs:
                stems.setdefault(stem, []).append(extension)
            for stem, extension in pairs:
                kind = MEDIA.get(extension.lower())
                if kind is None:
                    continue
                path = os.path.join(parent, stem + extension)
                beside = tuple(other for other in stems[stem] if is_beside(other, kind))
                found.setdefault(kind, []).append(MediaFile(path, label, beside))
                if kind not in alone and not leans(stem, kind, stems):
                    alone[kind] = path
    if not found:
        some = ".jpg, .png, .mp4, .webm, .flac, .ogg"
        raise UserError(f"{root}: holds no images, videos or sounds ({some}, ...)")
    leader = leading_kind(root, [kind for kind in LEADERS if kind in found], alone)
    return found[leader], fields_of(leader, found[leader], classes)


def leading_kind(root: Path, kinds: list[str], alone: Mapping[str, str]) -> str:
    """The kind on whose files all others lean; UserError where there is none.

    Args:
        root: The tree.
        kinds: What it holds.
        alone: A file of each kind of which one leans on no other.
    """
    for kind in kinds:
        if not alone.keys() - {kind}:
            return kind
    one, other = [kind for kind in kinds if kind in alone][:2]
    raise UserError(
        f"{root}: holds several kinds of media that do not belong together: {printable(alone[one])} ({one}) and "
        f"{printable(alone[other])} ({other}); name the folder of one kind"
    )


def fields_of(leader: str, files: list[MediaFile], classes: list[str]) -> dict[str, Field]:
    """The fields that at least one file has, the file itself first."""
    beside = {FIELDS[extension.lower()] for file in files for extension in file.beside}
    fields = {leader: media_field(leader)}
    if classes:
        fields["label"] = Field(kind="int", classes=tuple(printable(name) for name in classes))
    elif "label" in beside:
        fields["label"] = Field(kind="int")
    if "text" in beside:
        fields["text"] = Field(kind="text")
    if "json" in beside:
        fields["json"] = Field(kind="json")
    return fields | {kind: media_field(kind) for kind in sorted(beside.intersection(LEADERS))}


def media_field(kind: str) -> Field:
    """A field of files."""
    return Field(kind=kind, encoding="mixed")  # type: ignore[arg-type]


def is_beside(extension: str, kind: str) -> bool:
    """True for a file that can belong to one of this kind."""
    extension = extension.lower()
    return extension in SIDECARS or MEDIA.get(extension, kind) != kind


def leans(stem: str, kind: str, stems: Mapping[str, list[str]]) -> bool:
    """True for a file that belongs to another in its folder, which has another kind and the same name, up to _ or -:
    cat.ogg and cat_spoken_fr.ogg beside cat.png."""
    ends = [len(stem), *(at for at, character in enumerate(stem) if character in "_-")]
    return any(
        MEDIA.get(extension.lower()) != kind and extension.lower() not in SIDECARS
        for end in ends
        for extension in stems.get(stem[:end], ())
    )


def source_data(
    root: Path, classes: list[str], files: list[MediaFile], fields: Mapping[str, Field], meta: bool = False
) -> SourceData:
    """The samples as the converter wants them, with `meta` also a field "meta" that says what the video holds."""
    leader = next(iter(fields))
    paths = [relative(file.path, os.fspath(root)) for file in files]
    keys = unique_keys(paths)
    checks = {name: media_check(field.kind) for name, field in fields.items()}
    fingerprint = Fingerprint(fields)
    for path, file in zip(paths, files, strict=True):
        fingerprint.name(path)
        stem = os.path.splitext(file.path)[0]
        fingerprint.files([file.path, *(stem + extension for extension in file.beside)])

    def load(i: int) -> dict[str, Any]:
        path, label, beside = files[i]
        sample: dict[str, Any] = {}
        for name, field in fields.items():
            if name == "label":
                sample[name] = read_class(path, beside, label, classes)
                continue
            file = path if name == leader else the_one_beside(path, beside, name)
            content = read_file(file, MAX_MEDIA.get(field.kind, MAX_SIDECAR))
            if name in READERS:
                sample[name] = READERS[name](file, content)
                continue
            try:
                info = checks[name](content)
            except ValueError as error:
                raise BadSample(str(error) if name == leader else f"{printable(file)}: {error}") from error
            sample[name] = content
            if meta and name == leader:
                sample["meta"] = asdict(info)
        return sample

    return SourceData(
        fields={**fields, "meta": Field(kind="json")} if meta else fields,
        total=len(files),
        key=keys.__getitem__,
        origin=lambda i: printable(files[i].path),
        fingerprint=str(fingerprint),
        load=load,
    )


def media_check(kind: str) -> Callable[[bytes], Any]:
    """What raises ValueError on a damaged file of a kind; images are decoded by the converter."""
    if kind not in ("video", "audio"):
        return lambda content: None
    videos = video_tools()
    check: Callable[[bytes], Any] = videos.probe_video if kind == "video" else videos.probe_audio
    return check


def video_tools() -> Any:
    """`headrace.tools.videos`; UserError where PyAV is not installed."""
    try:
        from headrace.tools import videos
    except ImportError as error:
        raise UserError(f"videos and sounds need PyAV: pip install 'headrace[video]' ({error})") from error
    return videos


def the_one_beside(path: str, beside: tuple[str, ...], name: str) -> str:
    """The file that holds a field; BadSample unless there is one."""
    stem = os.path.splitext(path)[0]
    fitting = [extension for extension in beside if FIELDS[extension.lower()] == name]
    if len(fitting) == 1:
        return stem + fitting[0]
    if not fitting:
        raise BadSample(f"missing {MISSING[name]}")
    raise BadSample(f"several files for {name}: {', '.join(fitting)}")


def read_class(path: str, beside: tuple[str, ...], label: int, classes: list[str]) -> int:
    """The label of a file: what its .cls says, else the class of its folder."""
    if label >= 0 and not any(extension.lower() == ".cls" for extension in beside):
        return label
    file = the_one_beside(path, beside, "label")
    text = caption(file, read_file(file, MAX_SIDECAR)).strip()
    if text in classes:
        return classes.index(text)
    if not text.isdecimal() or len(text) > 18:
        raise BadSample(f"{printable(file)}: {text[:40]!r} is no class")
    if classes and int(text) >= len(classes):
        raise BadSample(f"{printable(file)}: class {text} of {len(classes)}")
    return int(text)


def caption(file: str, content: bytes) -> str:
    """Text that is not empty."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSample(f"{printable(file)}, offset {error.start}: not UTF-8") from error
    if not text.strip():
        raise BadSample(f"{printable(file)}: empty")
    return text


def document(file: str, content: bytes) -> Any:
    """JSON that a shard can hold, too."""
    try:
        value = json.loads(caption(file, content), parse_constant=refuse_constant)
        json_bytes(value)
    except (ValueError, RecursionError) as error:
        raise BadSample(f"{printable(file)}: bad JSON ({error})") from error
    return value


def refuse_constant(name: str) -> NoReturn:
    """NaN and the infinities, which Python reads and JSON does not have."""
    raise ValueError(f"{name} is no JSON")


READERS: dict[str, Callable[[str, bytes], Any]] = {"text": caption, "json": document}


def pictures(folder: Path) -> Iterator[str]:
    """Paths of the pictures in a folder and below, sorted."""
    for parent, names in walk(folder):
        for name in names:
            if os.path.splitext(name)[1].lower() in EXTENSIONS:
                yield os.path.join(parent, name)


def printable(name: str) -> str:
    """The name without what is no Unicode text, as file names may hold."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def unique_keys(paths: list[str]) -> list[str]:
    """A key for each relative path: without its extension, with what keys cannot hold replaced by _ and -."""
    keys: list[str] = []
    seen: set[str] = set()
    for path in paths:
        plain = PLAIN_PATH.fullmatch(path)
        base = key = plain[1] if plain else clean_path(path)
        number = 1
        while key in seen:  # a.jpg beside a.png
            number += 1
            key = f"{base}-{number}"
        seen.add(key)
        keys.append(key)
    return keys


PLAIN = rf"[A-Za-z0-9-][A-Za-z0-9_-]{{0,{COMPONENT_BYTES - 1}}}"
"""A part of a path that is a part of a key as it is."""
PLAIN_PATH = re.compile(rf"((?:{PLAIN}/)*{PLAIN})\.[A-Za-z0-9]+")
"""A path, as most are, that is a key as it is but for its extension."""


def clean_path(path: str) -> str:
    """The key for any other path."""
    return "/".join(component(part) for part in os.path.splitext(printable(path))[0].split(os.sep))


@lru_cache(maxsize=1 << 12)  # many files have the same folders
def component(name: str) -> str:
    """One part of a path as part of a key."""
    if re.fullmatch(PLAIN, name):
        return name
    clean = "".join(c if c.isprintable() and c not in "\\." else "_" for c in name)
    clean = "x" + clean if clean.startswith(("_", "~")) else clean
    if len(clean.encode()) <= COMPONENT_BYTES:
        return clean
    checksum = hashlib.sha256(name.encode()).hexdigest()[:12]
    return clean.encode()[: COMPONENT_BYTES - 13].decode(errors="ignore") + "-" + checksum
