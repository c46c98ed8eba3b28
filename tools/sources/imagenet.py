"""ImageNet (ILSVRC2012, https://image-net.org/challenges/LSVRC/2012/) from its official archives and from its tree.

    ILSVRC2012_img_train.tar        n01440764.tar, n01443537.tar, ...: a tar a class
                                      n01440764_10026.JPEG, ...
    ILSVRC2012_img_val.tar          ILSVRC2012_val_00000001.JPEG, ...: flat
    ILSVRC2012_devkit_t12.tar.gz    ILSVRC2012_devkit_t12/data/meta.mat: number, WordNet id and words of each class
                                    ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt: a line a picture

    train/n01440764/n01440764_10026.JPEG
    val/n01440764/ILSVRC2012_val_00000293.JPEG, or val/ILSVRC2012_val_00000293.JPEG beside the development kit

Archives and tree give the same samples in the same order. The label is the place of a class's WordNet id among all of
them in alphabetical order, as everybody counts (torchvision.datasets.ImageNet). The lines of the ground truth count
otherwise, by the numbers in meta.mat. The number of classes is what the development kit or the tree says.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, Protocol

import numpy as np

from headrace.shards import Field
from headrace.shards.formats.tar_links import TarMember
from headrace.tools.errors import UserError
from headrace.tools.sources.archives import (
    MAX_PICTURE,
    ArchiveFile,
    check_size,
    problem,
    read_file,
    scan_tar,
    tar_gz,
)
from headrace.tools.sources.content import HEAD, NEVER_MEDIA, media_kind
from headrace.tools.sources.fingerprint import Fingerprint
from headrace.tools.sources.folder import FIELDS, field_of, pictures, unique_keys
from headrace.tools.sources.left_out import LeftOut, ending_of
from headrace.tools.sources.listing import (
    check_no_special,
    exists,
    findable,
    is_clutter,
    is_file,
    is_folder,
    names_in,
    raise_cause,
    unreadable,
)
from headrace.tools.sources.source import BadSample, SourceData
from headrace.tools.sources.trees import relative

ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
DEVKIT = "ILSVRC2012_devkit_t12"
META, GROUND_TRUTH = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"
WNID = re.compile(r"n\d{8}")
VAL_NAME = "ILSVRC2012_val_{:08d}.JPEG"
MAX_FILE = 16 << 20
"""Bytes of a file of the development kit; the official ones have less than 1 MB."""


def read(src: Path, split: str | None) -> SourceData:
    """Picture files as they are, with labels; the key is the path in the tree, such as n01440764/n01440764_10026.

    A validation picture that the ground truth has a line for, and the data lack, is a bad sample.

    Args:
        src: Folder with the archives, or with the folders train and val; the archive where both are there, since a
            tree may be half unpacked. Or an archive of pictures itself, with the development kit beside it.
        split: "train" or "val".
    """
    split = split or "train"
    if split not in ARCHIVES:
        raise UserError(f"imagenet has the splits train and val, not {split!r}")
    place = src if is_file(src) else find(src, split)
    if place is None:
        raise UserError(f"{src}: holds neither {ARCHIVES[split]} nor a folder {split}")
    devkit = read_devkit(place.parent)
    if split == "val" and (is_file(place) or not class_folders(place)):
        if devkit is None:
            raise UserError(
                f"{place}: the labels of the validation pictures are in the development kit; "
                f"put {DEVKIT}.tar.gz into {place.parent}"
            )
        wnids = sorted(devkit.words)
        found = validation(place, devkit, wnids)
    else:
        wnids = class_list(place, split, devkit)
        found = train_tar(place, wnids) if is_file(place) else tree(place, wnids)
    if not found.keys:
        raise UserError(f"{place}: holds no pictures")
    words = devkit.words if devkit is not None else dict.fromkeys(wnids, "")
    fields = {
        "image": Field(kind="image", encoding="mixed"),
        "label": Field(kind="int", classes=tuple(f"{wnid} {words[wnid]}".rstrip() for wnid in wnids)),
    }
    fingerprint = Fingerprint(fields)
    fingerprint.content(found.labels.tobytes())
    found.note(fingerprint)
    return SourceData(
        fields=fields,
        total=len(found.keys),
        key=found.keys.__getitem__,
        origin=found.origin,
        fingerprint=str(fingerprint),
        left_out=found.left_out.counts(),
        strays=list(found.left_out.strays(place)),
        load=lambda i: {"image": found.read(i), "label": found.labels[i]},
    )


def find(root: Path, split: str) -> Path | None:
    """The archive or the folder of a split."""
    for place in (root / ARCHIVES[split], root / split):
        if exists(place):
            check_no_special(place)
            return place
    return None


class Pictures(Protocol):
    """The pictures of a split. ImageNet has 1.3 million, so what is kept of each is little."""

    keys: list[str]
    labels: array[int]
    left_out: LeftOut

    def read(self, i: int) -> bytes: ...

    def origin(self, i: int) -> str: ...

    def note(self, fingerprint: Fingerprint) -> None:
        """Put the files into the fingerprint."""


class TarPictures:
    """Pictures in a tar, or in the tars of a tar."""

    def __init__(self, file: ArchiveFile) -> None:
        self.file = file
        self.keys: list[str] = []
        self.labels = array("q")
        self.left_out = LeftOut()
        self.problems: dict[int, str] = {}
        """Why pictures cannot be read, by number."""
        self.offsets = array("q")
        self.sizes = array("q")

    def add(self, key: str, label: int, entry: TarMember | None) -> None:
        """A picture; None where the archive lacks it."""
        reason = "the archive lacks this picture" if entry is None else problem(entry)
        if reason:
            self.problems[len(self.keys)] = reason
        self.keys.append(key)
        self.labels.append(label)
        self.offsets.append(-1 if entry is None else entry.offset)
        self.sizes.append(0 if entry is None else entry.size)

    def read(self, i: int) -> bytes:
        """The file's content."""
        if i in self.problems:
            raise BadSample(self.problems[i])
        check_size(self.sizes[i], MAX_PICTURE)
        return self.file.read(self.offsets[i], self.sizes[i])

    def origin(self, i: int) -> str:
        """Archive, offset and key."""
        offset = f", offset {self.offsets[i]}" if self.offsets[i] >= 0 else ""
        return f"{findable(self.file.path)}{offset}, {self.keys[i]}"

    def note(self, fingerprint: Fingerprint) -> None:
        """See `Pictures`."""
        fingerprint.archive(self.file.status)


class FilePictures:
    """Pictures in files of their own."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.labels = array("q")
        self.left_out = LeftOut()
        self.paths: list[str] = []

    def add(self, key: str, label: int, path: str) -> None:
        """A picture, whose file may be missing."""
        self.keys.append(key)
        self.labels.append(label)
        self.paths.append(path)

    def read(self, i: int) -> bytes:
        """The file's content."""
        return read_file(self.paths[i])

    def origin(self, i: int) -> str:
        """The file."""
        return findable(self.paths[i])

    def note(self, fingerprint: Fingerprint) -> None:
        """See `Pictures`."""
        fingerprint.files(self.paths)


def train_tar(archive: Path, wnids: list[str]) -> TarPictures:
    """The pictures in the tars of the classes."""
    file = ArchiveFile(archive)
    found = TarPictures(file)
    tars = class_tars(file, found.left_out)
    for label, wnid in enumerate(wnids):
        members = sorted((base_name(entry), entry) for entry in regular_files(file, found.left_out, tars[wnid]))
        entries = []
        for name, entry in members:
            if is_picture(file, entry):
                entries.append((name, entry))
            else:
                found.left_out.add(ending_of(name), f"{archive}, offset {entry.offset}, {wnid}.tar, {entry.name}")
        if not entries:
            raise UserError(f"{archive}, {wnid}.tar, offset {tars[wnid].offset}: holds no pictures; download it again")
        keys = unique_keys([f"{wnid}/{name}" for name, _ in entries])
        for key, (_, entry) in zip(keys, entries, strict=True):
            found.add(key, label, entry)
    return found


def tree(folder: Path, wnids: list[str]) -> FilePictures:
    """The pictures in the folders of the classes; the folder of a validation class may be missing."""
    found = FilePictures()
    for label, wnid in enumerate(wnids):
        if not is_folder(folder / wnid):
            continue
        paths = list(pictures(folder / wnid, found.left_out))
        if not paths:
            raise UserError(f"{folder / wnid}: holds no pictures")
        for key, path in zip(unique_keys([relative(path, folder) for path in paths]), paths, strict=True):
            found.add(key, label, path)
    return found


def validation(place: Path, devkit: Devkit, wnids: list[str]) -> Pictures:
    """The validation pictures of a flat tar or folder, in the order that they have in folders of classes."""
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    names = [VAL_NAME.format(number) for number in range(1, len(devkit.validation) + 1)]
    labelled = sorted(zip(devkit.validation, names, strict=True))
    if is_folder(place):
        files = FilePictures()
        there = []
        for name in names_in(place)[1]:
            if field_of(str(place), name) == "image":
                there.append(name)
            else:
                files.left_out.add_file(place / name)
        check_names(place, names, devkit, there)
        for wnid, name in labelled:
            files.add(f"{wnid}/{name.partition('.')[0]}", labels[wnid], str(place / name))
        return files
    found = TarPictures(ArchiveFile(place))
    entries = {base_name(entry): entry for entry in regular_files(found.file, found.left_out)}
    check_names(place, names, devkit, entries)
    for wnid, name in labelled:
        found.add(f"{wnid}/{name.partition('.')[0]}", labels[wnid], entries.get(name))
    return found


def check_names(place: Path, names: list[str], devkit: Devkit, there: Iterable[str]) -> None:
    """UserError where a file is there that the ground truth has no line for, or none that it has one for."""
    known, found = set(names), set(there)
    if not found & known:
        raise UserError(f"{place}: holds neither folders of classes nor pictures such as {names[0]}")
    if found - known:
        raise UserError(
            f"{place}: {min(found - known)} is none of the {len(names):,} pictures that {devkit.place} has labels for"
        )


def base_name(entry: TarMember) -> str:
    """Name of a file in a tar without folders."""
    return PurePosixPath(entry.name).name


def regular_files(file: ArchiveFile, left_out: LeftOut, inside: TarMember | None = None) -> Iterator[TarMember]:
    """The files of a tar without clutter; what else there is, is counted."""
    where = f"{file.path}, {inside.name}" if inside is not None else str(file.path)
    for entry in scan_tar(file, inside, lambda what, name: left_out.add(what, f"{where}, {name}")):
        if not is_clutter(base_name(entry)):
            yield entry


def is_picture(file: ArchiveFile, entry: TarMember) -> bool:
    """True for what the folder source takes for a picture as well."""
    extension = os.path.splitext(entry.name)[1].lower()
    known = FIELDS.get(extension) or ("" if extension in NEVER_MEDIA else None)
    if known is not None:
        return known == "image"
    return media_kind(file.read(entry.offset, min(entry.size, HEAD))) == "image"


def class_tars(file: ArchiveFile, left_out: LeftOut) -> dict[str, TarMember]:
    """The tars in the training archive by WordNet id; reads their headers only."""
    tars = {}
    for entry in regular_files(file, left_out):
        name = base_name(entry)
        if not (name.endswith(".tar") and WNID.fullmatch(name[:-4])):
            raise UserError(
                f"{file.path}, offset {entry.offset}: holds {name}, expected tars such as n01440764.tar; is it the "
                f"official {ARCHIVES['train']}?"
            )
        if reason := problem(entry):
            raise UserError(f"{file.path}, offset {entry.offset}, {name}: {reason}")
        tars[name[:-4]] = entry
    return tars


def class_folders(folder: Path) -> list[str]:
    """WordNet ids that have a folder, sorted."""
    found, files = names_in(folder)
    for name in found:
        if not WNID.fullmatch(name):
            raise UserError(
                f"{folder}: the folder {name!r} is no WordNet id such as n01440764; the source `folder` reads other "
                "trees"
            )
    for name in files:
        if name.endswith(".tar") and WNID.fullmatch(name[:-4]):
            raise UserError(f"{folder}: {name} is not unpacked yet")
        if WNID.fullmatch(name):
            raise UserError(f"{folder}: {name} is no folder, or a link that leads to nothing")
    return found


def class_names(place: Path) -> list[str]:
    """WordNet ids in the training archive or in a folder, sorted."""
    return sorted(class_tars(ArchiveFile(place), LeftOut())) if is_file(place) else class_folders(place)


def class_list(place: Path, split: str, devkit: Devkit | None) -> list[str]:
    """All WordNet ids, sorted: those of the development kit, else of the training data, else those that are there.

    UserError unless `place` has just these classes; validation data may lack some.
    """
    found = class_names(place)
    if not found:
        raise UserError(f"{place}: holds no classes such as n01440764")
    train = find(place.parent, "train") if split == "val" else None
    if devkit is not None:
        authority, wnids = devkit.place, sorted(devkit.words)
    elif train is not None:
        authority, wnids = train, class_names(train)
    else:
        return found
    missing = sorted(set(wnids) - set(found)) if split == "train" else []
    foreign = sorted(set(found) - set(wnids))
    if missing or foreign:
        odd = f"{missing[0]} is missing" if missing else f"{foreign[0]} is unknown there"
        raise UserError(f"{place}: {len(found)} classes do not fit the {len(wnids)} of {authority}: {odd}")
    return wnids


class Devkit(NamedTuple):
    """What the development kit says."""

    place: Path
    words: Mapping[str, str]
    """Names of each class, by WordNet id."""
    validation: list[str]
    """WordNet id of each validation picture."""


def read_devkit(root: Path) -> Devkit | None:
    """The development kit in `root`, packed or unpacked; None where there is none."""
    archive, folder = root / f"{DEVKIT}.tar.gz", root / DEVKIT
    if exists(archive):
        place, contents = archive, devkit_archive(archive)
    elif exists(folder):
        place, contents = folder, devkit_folder(folder)
    else:
        return None
    try:
        wnids, words = parse_meta(contents[META])
    # A damaged .mat can raise anything: MatReadError, TypeError, zlib.error, IndexError, ...
    except Exception as error:
        raise_cause(place, error)
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{place}, data/{META}: not the table of ImageNet's classes ({reason})") from error
    truth = []
    for number, line in enumerate(contents[GROUND_TRUTH].splitlines(), 1):
        if not line.isdigit() or len(line) > 9 or int(line) not in wnids:
            raise UserError(
                f"{place}, data/{GROUND_TRUTH}, line {number}: {line[:20]!r} is not the number of a class in {META}"
            )
        truth.append(wnids[int(line)])
    if not truth:
        raise UserError(f"{place}, data/{GROUND_TRUTH}: the file is empty")
    return Devkit(place, words, truth)


def devkit_archive(archive: Path) -> dict[str, bytes]:
    """Content of the two files that matter."""
    contents: dict[str, bytes] = {}
    try:
        with tar_gz(archive) as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if path.name in (META, GROUND_TRUTH) and path.parent.name == "data" and member.isreg():
                    if member.size > MAX_FILE:
                        raise UserError(f"{archive}, {member.name}: {member.size:,} bytes, expected less than 1 MB")
                    file = tar.extractfile(member)
                    assert file is not None  # it is a regular file
                    contents[path.name] = file.read()
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error) as error:
        raise_cause(archive, error)
        raise UserError(f"{archive}: the archive is damaged or cut off ({error}); download it again") from error
    for name in (META, GROUND_TRUTH):
        if name not in contents:
            raise UserError(f"{archive}: holds no data/{name}; is it the official development kit of tasks 1 and 2?")
    return contents


def devkit_folder(folder: Path) -> dict[str, bytes]:
    """The same from the unpacked kit."""
    contents = {}
    for name in (META, GROUND_TRUTH):
        path = folder / "data" / name
        try:
            contents[name] = read_file(path, MAX_FILE)
        except BadSample as error:
            raise UserError(f"{path}: {error}") from error
        except OSError as error:
            raise unreadable(path, error) from error
    return contents


def check_unpacked(content: bytes) -> None:
    """ValueError for a .mat file whose compressed elements unpack to more than `MAX_FILE` bytes.

    Level 5 of the format: a header of 128 bytes, then elements of u4 type (15: compressed), u4 size, content."""
    order: Literal["big", "little"] = "big" if content[126:128] == b"MI" else "little"
    at, left = 128, MAX_FILE
    while at + 8 <= len(content):
        kind, size = (int.from_bytes(content[at + place : at + place + 4], order) for place in (0, 4))
        if kind == 15:
            left -= len(zlib.decompressobj().decompress(content[at + 8 : at + 8 + size], left + 1))
        if left < 0:
            raise ValueError(f"it unpacks to more than {MAX_FILE:,} bytes")
        at += 8 + size


def parse_meta(content: bytes) -> tuple[dict[int, str], dict[str, str]]:
    """(WordNet id by number, words by WordNet id) of the classes; any failure is an exception.

    meta.mat holds a struct array `synsets` of the classes and of everything above them in WordNet's tree, which has
    children.
    """
    from scipy.io import loadmat  # takes long to import

    check_unpacked(content)
    synsets = np.atleast_1d(loadmat(io.BytesIO(content), squeeze_me=True)["synsets"])
    wnids: dict[int, str] = {}
    words: dict[str, str] = {}
    for synset in synsets:
        if int(synset["num_children"]) == 0:
            wnid = str(synset["WNID"])
            if not WNID.fullmatch(wnid) or wnid in words:
                raise ValueError(f"{wnid!r} is no WordNet id, or there twice")
            wnids[int(synset["ILSVRC2012_ID"])] = wnid
            words[wnid] = " ".join(str(synset["words"]).split())
    if not wnids or len(wnids) != len(words):
        raise ValueError(f"{len(words)} classes with {len(wnids)} numbers")
    return wnids, words
