"""A tree of image, video or audio files: one folder a class, as torchvision's ImageFolder reads it, or files alone.

dog/rex.jpg     the file itself
dog/rex.txt     its caption
dog/rex.json    anything
dog/rex.cls     its class, where that is not the folder's
dog/rex.ogg     a sound that belongs to it
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from headrace.shards import Field, ShardError
from headrace.shards.errors import MachineError
from headrace.shards.fields import KEY_BYTES, check_key
from headrace.shards.formats.foreign_fields import EXTENSION_KINDS
from headrace.shards.formats.values import json_bytes
from headrace.tools.errors import UserError
from headrace.tools.sources.archives import MAX_PICTURE, read_file
from headrace.tools.sources.content import kind_of_file
from headrace.tools.sources.fingerprint import Fingerprint
from headrace.tools.sources.left_out import LINKED_BEFORE, LeftOut, counted, some
from headrace.tools.sources.listing import findable, is_dangling, is_folder, is_shard_set, names_in, printable, walk
from headrace.tools.sources.source import BadSample, SourceData
from headrace.tools.sources.trees import relative, unpack_hint

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"})
"""torchvision.datasets.folder.IMG_EXTENSIONS."""
UNSURE = (".ts",)
"""Endings of media files and of others: programs are written in TypeScript."""
MEDIA = {
    **{f".{extension}": kind for extension, kind in EXTENSION_KINDS.items() if kind in ("video", "audio")},
    **dict.fromkeys(EXTENSIONS, "image"),
}
"""Kind of a media file by its extension."""
LEADERS = ("video", "image", "audio")
"""Of two kinds of files in pairs, the first one here is the sample and the other belongs to it."""
SIDECARS = {".txt": "text", ".json": "json", ".cls": "label"}
"""Field by the extension of a file beside that is no media file."""
FIELDS = {extension: field for extension, field in (SIDECARS | MEDIA).items() if extension not in UNSURE}
"""What a file of an extension is taken for without a look into it."""
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
SPLIT_NAMES = ("train", "training", "val", "valid", "validation", "validate", "test", "testing", "dev", "eval")
"""In lower case."""
FOLDERS_BYTES = 155
"""Longest part of a key before its last slash, as a tar has room for."""
NUMBER_BYTES = 8
"""Of the number behind a key that was there before."""
COMPONENT_BYTES = 72
"""Longest part of a key between slashes; what is longer is cut, with a checksum."""


def read(src: Path, split: str | None) -> SourceData:
    """Media files under `src`/`split` if that is a folder, else under `src`, in the order of their paths.

    The subfolders there are the classes, in alphabetical order, and files may lie deeper in them; files beside them are
    left out. Without subfolders there is no label. Hidden files are left out, links are followed.

    Fields:
        image, video or audio: The file. Videos and sounds are checked as `headrace.tools.media.videos` does.
        label: Of the folder, or of the file's .cls: a number, or the name of a class where there are folders.
        text: The .txt beside the file, UTF-8.
        json: The .json beside the file.
        audio, image: The sound of an image or a video, or the image of a video, of the same stem.
    A field that some files have, all must have: what lacks it is a bad sample. So is one with a damaged sidecar.

    Args:
        src: The tree. UserError where it holds several kinds of media that do not belong together.
        split: Name of a subfolder, "." for `src` itself; see `split_folder` for where none is named.
    """
    root = split_folder(src, split)
    classes = class_folders(root)
    return source_data(root, classes, scan(root, classes))


def split_folder(src: Path, split: str | None) -> Path:
    """The folder of a split; where none is named, that of "train" if all folders in `src` are splits, and `src` itself
    if none is. UserError where some are and some are not: they could as well be classes."""
    if not is_folder(src):
        raise UserError(f"{findable(src)}: there is no such folder")
    if split is not None and is_folder(src / split):
        return src / split
    folders = names_in(src)[0]
    splits = [name for name in folders if name.lower() in SPLIT_NAMES]
    others = [printable(name) for name in folders if name not in splits]
    if split is None and splits and others:
        raise UserError(
            f"{findable(src)}: holds {some(splits)}, which may be {'a split' if len(splits) == 1 else 'splits'} or "
            f"classes, beside {some(others)}; say --split {'train' if 'train' in splits else splits[0]} for that split "
            "alone, or --split . where all folders are classes"
        )
    if split is None and "train" in splits:
        return src / "train"
    if splits or split not in (None, "train"):
        found = f"found {', '.join(splits)}" if splits else "found no splits"
        raise UserError(f"{findable(src)}: has no folder {split or 'train'!r} for --split {split or 'train'} ({found})")
    return src


def class_folders(root: Path) -> list[str]:
    """Names of the subfolders that are classes: all but shard sets. UserError where a link among them leads to nothing,
    since labels count classes."""
    folders, files = names_in(root)
    for name in files:
        if os.path.splitext(name)[1].lower() not in FIELDS and is_dangling(root / name):
            raise UserError(f"{findable(root / name)}: a link that leads to nothing; if it is a class, it is missing")
    return [name for name in folders if not is_shard_set(root / name)]


def split_notes(root: Path, classes: list[str]) -> list[str]:
    """What to say where splits that lie beside each other have other classes: labels count the folders of one."""
    if root.name.lower() not in SPLIT_NAMES or not classes:
        return []
    notes = []
    with contextlib.suppress(UserError, MachineError):  # of a folder that nobody asked to read
        for name in names_in(root.parent)[0]:
            if name.lower() in SPLIT_NAMES and name != root.name:
                others = class_folders(root.parent / name)
                if others and others != classes:
                    notes.append(different_classes(root, classes, name, others))
    return notes


def different_classes(root: Path, classes: list[str], name: str, others: list[str]) -> str:
    """The note for another split `name`, whose classes are `others`."""
    alone = {root.name: sorted(set(classes) - set(others)), name: sorted(set(others) - set(classes))}
    parts = [f"{some(map(printable, names), 5)} only in {split}" for split, names in alone.items() if names]
    return (
        f"{findable(root.parent)}: {root.name} and {name} have other classes, so that a label is not the same number "
        f"in both ({'; '.join(parts)}); the manifest has their names, by which sets are matched"
    )


Beside = tuple[tuple[str, str], ...]
"""Extension and field of each file beside a sample."""


class MediaFile(NamedTuple):
    """A sample: a file and what lies beside it."""

    path: str
    label: int
    """Of its folder; -1 where there are no classes."""
    beside: Beside
    """The files of the same stem, sorted, without its own kind."""


class Scan(NamedTuple):
    """What a tree holds."""

    files: list[MediaFile]
    fields: dict[str, Field]
    left_out: LeftOut


def scan(root: Path, classes: list[str]) -> Scan:
    """The samples of a tree, their fields, and what belongs to none of them."""
    found: dict[str, list[MediaFile]] = {}
    alone: dict[str, str] = {}
    left_out = LeftOut()
    empty: list[str] = []
    alike: dict[Beside, Beside] = {}
    folders = [(root / name, label) for label, name in enumerate(classes)] if classes else [(root, -1)]
    for folder, label in folders:
        before = sum(map(len, found.values()))
        for parent, names in walk(folder, partial(left_out.add, LINKED_BEFORE)):
            files = [(*os.path.splitext(name), field_of(parent, name)) for name in names]
            stems: dict[str, list[tuple[str, str]]] = {}
            for stem, extension, field in files:
                stems.setdefault(stem, []).append((extension, field))
            for stem, extension, field in files:
                path = os.path.join(parent, stem + extension)
                if field not in LEADERS:
                    if not field or not any(other in LEADERS for _, other in stems[stem]):
                        left_out.add_file(path)
                    continue
                beside = tuple(other for other in stems[stem] if other[1] and other[1] != field)
                found.setdefault(field, []).append(MediaFile(path, label, alike.setdefault(beside, beside)))
                if field not in alone and not leans(stem, field, stems):
                    alone[field] = path
        if sum(map(len, found.values())) == before:
            empty.append(printable(folder.name))
    if not found:
        known = ".jpg, .png, .mp4, .webm, .flac, .ogg"
        there = f"; it holds {counted(left_out.counts())}" if len(left_out) else ""
        there = "; it is a shard set, which the source shards reads" if is_shard_set(root) else there
        raise UserError(f"{findable(root)}: holds no images, videos or sounds ({known}, ...){there}")
    leader = leading_kind(root, [kind for kind in LEADERS if kind in found], alone)
    for path in unused_media(leader, found):
        left_out.add_file(path)
    if classes:
        folders_there, files_there = names_in(root)
        for name in files_there:
            left_out.add_file(root / name, " beside the folders of classes")
        for name in sorted({*folders_there} - {*classes}):
            left_out.add("shard sets", root / name)
    if classes and empty:
        for name in empty:
            left_out.add(f"folders of classes without samples, which keep their numbers ({some(empty)})", root / name)
    return Scan(found[leader], fields_of(leader, found[leader], classes), left_out)


def field_of(parent: str, name: str) -> str:
    """The field that a file can be, by its ending, or by its first bytes where that is an unknown one or none; empty
    for a file that is no part of a sample."""
    known = FIELDS.get(os.path.splitext(name)[1].lower())
    return known or kind_of_file(os.path.join(parent, name))


def unused_media(leader: str, found: Mapping[str, Iterable[MediaFile]]) -> list[str]:
    """Paths of the media files that belong to no sample where a kind leads, and of what belongs to them."""
    paths = set()
    for kind, files in found.items():
        for file in files:
            if kind != leader and all(field != leader for _, field in file.beside):
                stem = os.path.splitext(file.path)[0]
                paths.update([file.path, *(stem + extension for extension, field in file.beside if field in MISSING)])
    return sorted(paths)


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
    beside = {field for file in files for _, field in file.beside}
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
    return Field(kind=kind, encoding="mixed", oriented=kind == "image")  # type: ignore[arg-type]


def leans(stem: str, kind: str, stems: Mapping[str, list[tuple[str, str]]]) -> bool:
    """True for a file that belongs to another in its folder, which has another kind and the same name, up to _ or -:
    cat.ogg and cat_spoken_fr.ogg beside cat.png."""
    ends = [len(stem), *(at for at, character in enumerate(stem) if character in "_-")]
    return any(
        field != kind and extension.lower() not in SIDECARS
        for end in ends
        for extension, field in stems.get(stem[:end], ())
    )


def source_data(
    root: Path,
    classes: list[str],
    scanned: Scan,
    meta: bool = False,
    check: Callable[[bytes], Any] | None = None,
) -> SourceData:
    """The samples as the converter wants them, with `meta` also a field "meta" that says what the video or sound holds,
    as `check` finds it; None is `media_check`'s."""
    files, fields, left_out = scanned
    leader = next(iter(fields))
    paths = [relative(file.path, os.fspath(root)) for file in files]
    keys = unique_keys(paths)
    checks = {name: media_check(field.kind) for name, field in fields.items()}
    if check is not None:
        checks[leader] = check
    fingerprint = Fingerprint(fields)
    for path, file in zip(paths, files, strict=True):
        fingerprint.name(path)
        stem = os.path.splitext(file.path)[0]
        fingerprint.files([file.path, *(stem + extension for extension, _ in file.beside)])

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
                sample["meta"] = info.meta()
        return sample

    return SourceData(
        fields={**fields, "meta": Field(kind="json")} if meta else fields,
        total=len(files),
        key=keys.__getitem__,
        origin=lambda i: findable(files[i].path),
        fingerprint=str(fingerprint),
        left_out=left_out.counts(),
        strays=list(left_out.strays(root)),
        notes=split_notes(root, classes),
        load=load,
    )


def media_folder(src: Path, split: str | None, packed: list[str], kind: str, check: Any = None) -> SourceData:
    """A folder whose samples are led by files of one kind, for a source of that kind that found no data set in it.

    Args:
        packed: packed files that were found there, to be named where nothing else is.
        check: as in `source_data`.

    Raises:
        UserError: if it holds none, or files of another kind lead.
    """
    root = split_folder(src, split)
    classes = class_folders(root)
    try:
        scanned = scan(root, classes)
    except UserError as error:
        raise UserError("; ".join(filter(None, [str(error), unpack_hint(packed)]))) from error
    leader = next(iter(scanned.fields))
    if leader != kind:
        wanted = {"audio": "sounds", "video": "videos"}[kind]
        raise UserError(f"{findable(root)}: holds no {wanted} but files of kind {leader}; use the source folder")
    return source_data(root, classes, scanned, meta=True, check=check)


def media_check(kind: str) -> Callable[[bytes], Any]:
    """What raises ValueError on a damaged file of a kind; images are decoded by the converter."""
    if kind not in ("video", "audio"):
        return lambda content: None
    videos = video_tools()
    check: Callable[[bytes], Any] = videos.probe_video if kind == "video" else videos.probe_audio
    return check


def video_tools() -> Any:
    """`headrace.tools.media.videos`; UserError where PyAV is not installed."""
    try:
        from headrace.tools.media import videos
    except ImportError as error:
        raise UserError(f"videos and sounds need PyAV: pip install 'headrace[video]' ({error})") from error
    return videos


def the_one_beside(path: str, beside: Beside, name: str) -> str:
    """The file that holds a field; BadSample unless there is one."""
    stem = os.path.splitext(path)[0]
    fitting = [extension for extension, field in beside if field == name]
    if len(fitting) == 1:
        return stem + fitting[0]
    if not fitting:
        raise BadSample(f"missing {MISSING[name]}")
    raise BadSample(f"several files for {name}: {', '.join(fitting)}")


def read_class(path: str, beside: Beside, label: int, classes: list[str]) -> int:
    """The label of a file: what its .cls says, -1 where that is none, else the class of its folder."""
    if label >= 0 and all(field != "label" for _, field in beside):
        return label
    file = the_one_beside(path, beside, "label")
    text = caption(file, read_file(file, MAX_SIDECAR)).strip()
    if text in classes:
        return classes.index(text)
    if text == "-1":
        return -1
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


def pictures(folder: Path, left_out: LeftOut) -> Iterator[str]:
    """Paths of the pictures in a folder and below, sorted; other files are counted."""
    for parent, names in walk(folder, partial(left_out.add, LINKED_BEFORE)):
        for name in names:
            path = os.path.join(parent, name)
            if field_of(parent, name) == "image":
                yield path
            else:
                left_out.add_file(path)


def unique_keys(paths: list[str]) -> list[str]:
    """A key for each relative path: without its extension, with what keys cannot hold replaced by _ and -."""
    keys: list[str] = []
    numbers = Numbers()
    for path in paths:
        plain = PLAIN_PATH.fullmatch(path)
        keys.append(numbers.unique(fitted(plain[1]) if plain else clean_path(path)))
    return keys


def legal_keys(names: list[str]) -> list[str]:
    """The keys of another program, those that are none here replaced as `unique_keys` does; equal ones stay equal."""
    legal: dict[str, str] = {}
    odd = []
    for name in names:
        try:
            check_key(name)
            legal[name] = name
        except ShardError:
            odd.append(name)
    numbers = Numbers(legal)
    for name in odd:
        if name not in legal:
            legal[name] = numbers.unique(clean_path(f"{name}.x"))
    return [legal[name] for name in names]


class Numbers:
    """Tells equal keys apart by numbers behind them: a, a-2, a-3."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)
        self._last: dict[str, int] = {}
        """The number that a key was given last, so that thousands of equal ones are no search."""

    def unique(self, base: str) -> str:
        """The key, with a number if it was there before."""
        key, number = base, self._last.get(base, 1)
        while key in self._taken:  # a.jpg beside a.png
            number += 1
            key = fitted(f"{base}-{number}")
        self._taken.add(key)
        if number > 1:
            self._last[base] = number
        return key


PLAIN = rf"[A-Za-z0-9-][A-Za-z0-9_-]{{0,{COMPONENT_BYTES - 1}}}"
"""A part of a path that is a part of a key as it is."""
PLAIN_PATH = re.compile(rf"((?:{PLAIN}/)*{PLAIN})\.[A-Za-z0-9]+")
"""A path, as most are, that is a key as it is but for its extension."""


def clean_path(path: str) -> str:
    """The key for any other path."""
    parts = os.path.splitext(printable(path))[0].split(os.sep)
    return fitted("/".join(component(part) for part in parts if part not in ("", ".")) or "x")


def fitted(key: str) -> str:
    """A key that a tar has room for: the folders of a longer one are cut, with a checksum."""
    folders, _, name = key.rpartition("/")
    size, name_size = len(folders.encode()), len(name.encode())
    if size <= FOLDERS_BYTES and size + 1 + name_size <= KEY_BYTES:
        return key
    room = min(FOLDERS_BYTES, KEY_BYTES - 1 - NUMBER_BYTES - name_size)
    return f"{cut(folders, room)}/{name}"


def cut(text: str, most: int) -> str:
    """The text in so many bytes, its checksum at the end."""
    checksum = hashlib.sha256(text.encode()).hexdigest()[:12]
    return text.encode()[: most - 13].decode(errors="ignore").rstrip("/") + "-" + checksum


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
