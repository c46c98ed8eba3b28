"""Documents: files of text, one document each, or JSON lines and Parquet, one a record.

corpus/travel/rome.txt          a document; its folder is its class
corpus/train.jsonl              {"text": "...", "label": 3, "url": "..."} a line
corpus/data/train-00000-of-00002.parquet
"""

from __future__ import annotations

import json
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, NamedTuple

from headrace.pipeline.texts.sentences import text_parts
from headrace.shards import Field
from headrace.shards.formats.values import json_bytes
from headrace.shards.manifest import MANIFEST_NAME
from headrace.tools.errors import UserError
from headrace.tools.sources.archives import read_file
from headrace.tools.sources.content import HEAD, media_kind
from headrace.tools.sources.fingerprint import Fingerprint
from headrace.tools.sources.folder import class_folders, fitted, split_folder, split_notes, unique_keys
from headrace.tools.sources.left_out import LINKED_BEFORE, LeftOut, counted
from headrace.tools.sources.listing import (
    SpecialFile,
    check_no_special,
    findable,
    is_file,
    is_folder,
    is_shard_set,
    open_file,
    printable,
    unreadable,
    walk,
)
from headrace.tools.sources.records import MAX_DOCUMENT, JsonLines, Parquet, Records, decoded, readable
from headrace.tools.sources.source import BadSample, SourceData
from headrace.tools.sources.trees import relative

ENDINGS = {
    **dict.fromkeys((".txt", ".text", ".md", ".markdown", ".rst"), "text"),
    **dict.fromkeys((".jsonl", ".ndjson", ".jl"), "lines"),
    ".parquet": "parquet",
}
"""What a file of an ending is."""
RECORDS: dict[str, Callable[[str], Records]] = {"lines": JsonLines, "parquet": Parquet}
PLAIN_ENDING = re.compile(r"|\.\d+")
"""Endings of files that are looked into: none, or a number."""
ABOUT = ("readme", "license", "licence", "copying", "notice", "citation", "changelog")
"""Names, without their endings, of files at the top of a tree that are about it and no part of it."""
TEXT_KEYS = ("text", "content", "document", "raw_content", "article", "body", "sentence")
"""Names under which records hold their text; the first that a set's first record has is taken."""
LABEL_KEY = "label"
LOOKED_AT = 100
"""Records, the first ones of a file, that say under which keys its texts and labels are."""
MAX_CLASSES = 10_000
"""Different labels of records that are words."""
SPLIT = re.compile(r"(train|training|val|valid|validation|dev|test|testing|eval)(?![A-Za-z])", re.IGNORECASE)
"""What the name of a file of records begins with where it is of a part of the data."""
FIRST_LINE = 1 << 20
"""Bytes of a .json that are looked at for the end of its first line."""


class Found(NamedTuple):
    """The documents' files, in the order of their paths."""

    texts: list[str]
    records: list[tuple[str, str]]
    """Path and kind."""
    left_out: LeftOut


def read(src: Path, split: str | None) -> SourceData:
    """Documents, whose bytes are UTF-8 without exception: one with any other byte is a bad sample that names its place.

    Files of text (.txt, .text, .md, .rst, and those without an ending or with a number for one that are text) are a
    document each; the subfolders are the classes if all of them lie in some, as in the source `folder`. Of JSON lines
    (.jsonl, .ndjson, .jl; a .json with an object a line) each line is one, of Parquet each row. A blank document is a
    bad sample, and so is a record without its text.

    Fields:
        text: The document, unchanged but for a byte order mark; of a record the value of the first of `TEXT_KEYS` that
            the first record has.
        meta: `paragraphs` and `sentences`, where each begins, in characters (see `headrace.pipeline.texts.sentences`);
            of a record all its other values, as `record`.
        label: Of the folder; of a record the value of its key label: a number, or a word among those of all records.
            -1 for null.

    Args:
        src: A folder, or one file.
        split: Name of a subfolder as in the source `folder`; of files of records what their names begin with (train,
            val, ...). None takes train where there are parts, "." all.
    """
    if is_file(src):
        if split not in (None, "train"):
            raise UserError(f"{findable(src)}: one file has no splits: leave --split {split} away")
        kind = kind_of(os.fspath(src)) or "text"
        path = os.fspath(src)
        if kind in RECORDS:
            return of_records(src.parent, [(path, kind)], LeftOut())
        return of_texts(src.parent, [path], [], LeftOut())
    if not is_folder(src):
        check_no_special(src)
        raise UserError(f"{findable(src)}: there is no such file or folder")
    found = scan(src)
    if found.records:
        return of_records(src, of_split(src, found.records, split), found.left_out)
    root = split_folder(src, split)
    if root != src:
        found = scan(root)
    classes = class_folders(root)
    within = all(os.sep in relative(path, os.fspath(root)) for path in found.texts)
    return of_texts(root, found.texts, classes if within else [], found.left_out, beside=bool(classes) and not within)


def scan(root: Path) -> Found:
    """The files of documents in a tree; UserError where there are none, or of both kinds."""
    texts: list[str] = []
    records: list[tuple[str, str]] = []
    about: list[str] = []
    left_out = LeftOut()
    for parent, names in walk(root, partial(left_out.add, LINKED_BEFORE)):
        if MANIFEST_NAME in names and is_shard_set(parent):
            left_out.add("shard sets", parent)
            continue
        for name in names:
            path = os.path.join(parent, name)
            kind = kind_of(path)
            if not kind:
                left_out.add_file(path)
            elif kind in RECORDS:
                records.append((path, kind))
            elif parent == os.fspath(root) and os.path.splitext(name)[0].lower() in ABOUT:
                about.append(path)
            else:
                texts.append(path)
    if not texts and not records:
        texts, about = about, []
    for path in about:
        left_out.add_file(path, " about the data")
    if texts and records:
        raise UserError(
            f"{findable(root)}: holds files of text and of records: {findable(texts[0])} and "
            f"{findable(records[0][0])}; name the folder, or the file, of one"
        )
    if not texts and not records:
        there = f"; it holds {counted(left_out.counts())}" if len(left_out) else ""
        packed = [end for end in left_out.counts() if end in (".gz", ".zst", ".bz2", ".xz", ".zip", ".tar")]
        hint = f"; unpack what ends in {packed[0]}" if packed else ""
        raise UserError(f"{findable(root)}: holds no documents (.txt, .md, .jsonl, .parquet, ...){there}{hint}")
    return Found(texts, records, left_out)


def kind_of(path: str) -> str:
    """text, lines, parquet, or empty for what holds no documents."""
    ending = os.path.splitext(path)[1].lower()
    if ending in ENDINGS:
        return ENDINGS[ending]
    if ending != ".json" and not PLAIN_ENDING.fullmatch(ending):
        return ""
    try:
        with open_file(path) as file:
            head = file.read(FIRST_LINE if ending == ".json" else HEAD)
    except SpecialFile:
        return ""
    except OSError as error:
        raise unreadable(path, error) from error
    if ending == ".json":
        return "lines" if is_record(head) else ""
    return "text" if head and b"\0" not in head and not media_kind(head) else ""


def is_record(head: bytes) -> bool:
    """Whether the first line of a file is an object with a text."""
    try:
        value = json.loads(head.partition(b"\n")[0])
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and text_key(value) != ""


def text_key(record: Any) -> str:
    """The first of `TEXT_KEYS` under which it has a text; empty for none."""
    return next((key for key in TEXT_KEYS if isinstance(record.get(key), str)), "")


def of_split(src: Path, records: list[tuple[str, str]], split: str | None) -> list[tuple[str, str]]:
    """The files of a part of the data, by the begin of their names or by the folder that they lie in."""
    if split == ".":
        return records
    parts: dict[str, list[tuple[str, str]]] = {}
    for path, kind in records:
        *folders, name = relative(path, os.fspath(src)).split(os.sep)
        named = [found[1].lower() for part in (name, *folders) if (found := SPLIT.match(part))]
        parts.setdefault(named[0] if named else "", []).append((path, kind))
    splits = sorted(set(parts) - {""})
    wanted = split or "train"
    if not splits and split in (None, "train"):
        return records
    if "" in parts and splits:
        raise UserError(
            f"{findable(src)}: files of {', '.join(splits)} lie beside {findable(parts[''][0][0])}, which is of no "
            "split by its name; name the folder or the file of one, or say --split . for all"
        )
    if wanted not in parts:
        there = f"the splits {', '.join(splits)}" if splits else "no splits"
        raise UserError(f"{findable(src)}: has no files of records of {wanted!r} (found {there}; --split . takes all)")
    return parts[wanted]


def of_texts(
    root: Path, paths: list[str], classes: list[str], left_out: LeftOut, *, beside: bool = False
) -> SourceData:
    """A document a file."""
    if not paths:
        raise UserError(f"{findable(root)}: holds no documents")
    below = [relative(path, os.fspath(root)) for path in paths]
    keys = unique_keys([name if os.path.splitext(name)[1] else f"{name}.txt" for name in below])
    fields = {"text": Field(kind="text"), "meta": Field(kind="json")}
    if classes:
        fields["label"] = Field(kind="int", classes=tuple(map(printable, classes)))
    numbers = {name: number for number, name in enumerate(classes)}
    used = {name.partition(os.sep)[0] for name in below}
    for name in classes:
        if name not in used:
            left_out.add("folders of classes without documents, which keep their numbers", root / name)
    fingerprint = Fingerprint(fields)
    for path, name in zip(paths, below, strict=True):
        fingerprint.name(name)
        fingerprint.file(path)

    def load(i: int) -> dict[str, Any]:
        sample = document(decoded(read_file(paths[i], MAX_DOCUMENT)))
        return {**sample, "label": numbers[below[i].partition(os.sep)[0]]} if classes else sample

    notes = split_notes(root, classes)
    if beside:
        notes.append(f"{findable(root)}: documents lie beside the folders, so that these are no classes")
    return SourceData(
        fields=fields,
        total=len(paths),
        key=keys.__getitem__,
        origin=lambda i: findable(paths[i]),
        fingerprint=str(fingerprint),
        left_out=left_out.counts(),
        strays=list(left_out.strays(root)),
        notes=notes,
        load=load,
    )


def document(text: str) -> dict[str, Any]:
    """The fields that every document has; BadSample for a blank one."""
    if not text.strip():
        raise BadSample("empty")
    return {"text": text, "meta": text_parts(text)._asdict()}


def of_records(root: Path, files: list[tuple[str, str]], left_out: LeftOut) -> SourceData:
    """A document a record."""
    opened = [RECORDS[kind](path) for path, kind in files]
    starts = [0, *accumulate(map(len, opened))]
    below = [relative(path, os.fspath(root)) for path, _ in files]
    folders = unique_keys([name if os.path.splitext(name)[1] else f"{name}.txt" for name in below])
    key, label = keys_of(root, files, opened)
    fields = {"text": Field(kind="text"), "meta": Field(kind="json")}
    classes: tuple[str, ...] = ()
    if label is not None:
        classes = label_names(root, opened) if isinstance(label, str) else opened[0].classes(LABEL_KEY)
        fields["label"] = Field(kind="int", classes=classes)
    numbers = {name: number for number, name in enumerate(classes)} if isinstance(label, str) else None
    fingerprint = Fingerprint(fields)
    for (path, _), name in zip(files, below, strict=True):
        fingerprint.name(name)
        fingerprint.file(path)

    def at(i: int) -> tuple[int, int]:
        """The file of a document, and its place in it."""
        number = bisect_right(starts, i) - 1
        return number, i - starts[number]

    def key_of(i: int) -> str:
        number, place = at(i)
        return fitted(f"{folders[number]}/{opened[number].number(place):08d}")

    def origin(i: int) -> str:
        number, place = at(i)
        return f"{findable(files[number][0])}, {opened[number].place(place)}"

    def load(i: int) -> dict[str, Any]:
        number, place = at(i)
        record = opened[number].read(place)
        text = record.pop(key, None)
        if not isinstance(text, str):
            raise BadSample(f"has no text under {key!r}")
        sample = document(checked(text))
        if label is not None:
            sample["label"] = label_of(record.pop(LABEL_KEY, ""), numbers, classes)
        if record:
            try:
                json_bytes(record)
            except (ValueError, RecursionError) as error:
                raise BadSample(f"bad JSON ({error})") from None
            sample["meta"]["record"] = record
        return sample

    return SourceData(
        fields=fields,
        total=starts[-1],
        key=key_of,
        origin=origin,
        fingerprint=str(fingerprint),
        left_out=left_out.counts(),
        strays=list(left_out.strays(root)),
        notes=omitted_notes(files, opened),
        load=load,
    )


def keys_of(root: Path, files: list[tuple[str, str]], opened: Sequence[Records]) -> tuple[str, int | str | None]:
    """Under which key the first record that can be read has its text, and a label as the first ones have it, -1 where
    all of them have null; None where the first has none that is a class."""
    for (path, _), records in zip(files, opened, strict=True):
        first = list(readable(records, LOOKED_AT))
        if not first:
            continue
        key = text_key(first[0])
        if not key:
            raise UserError(
                f"{findable(path)}: a record has a text under none of {', '.join(TEXT_KEYS)}; "
                f"it has {', '.join(map(repr, first[0])) or 'nothing'}"
            )
        if LABEL_KEY not in first[0]:
            return key, None
        label = next((found for each in first if (found := each.get(LABEL_KEY)) is not None), -1)
        return key, label if type(label) in (int, str) else None
    raise UserError(
        f"{findable(root)}: no record can be read of {findable(files[0][0])}{' and others' * (len(files) > 1)}"
    )


def label_names(root: Path, opened: Sequence[Records]) -> tuple[str, ...]:
    """The words that are labels, in alphabetical order; every record is read."""
    names: set[str] = set()
    for record in chain.from_iterable(map(readable, opened)):
        if isinstance(label := record.get(LABEL_KEY), str):
            names.add(label)
        if len(names) > MAX_CLASSES:
            raise UserError(f"{findable(root)}: {LABEL_KEY} has more than {MAX_CLASSES:,} different words for a class")
    return tuple(sorted(names))


def label_of(value: Any, numbers: dict[str, int] | None, classes: Sequence[str]) -> int:
    """The number of a record's label; BadSample where it has none. `numbers` is of words."""
    if value is None:
        return -1
    if isinstance(value, str) and numbers is not None and value in numbers:
        return numbers[value]
    if numbers is None and type(value) is int and -1 <= value < (len(classes) or 1 << 63):
        return value
    raise BadSample(f"{LABEL_KEY} {value!r:.40} is no class" if value != "" else f"has no {LABEL_KEY}")


def checked(text: str) -> str:
    """A text of a record; BadSample where it holds half of a surrogate pair, as JSON can escape it, or a zero."""
    try:
        return decoded(text.encode())
    except UnicodeEncodeError as error:
        raise BadSample(f"character {error.start} of the text is half of a surrogate pair") from None


def omitted_notes(files: list[tuple[str, str]], opened: Sequence[Records]) -> list[str]:
    """What to say of columns that are left out, once for all files that have the same."""
    seen: dict[tuple[str, ...], str] = {}
    for (path, _), records in zip(files, opened, strict=True):
        if isinstance(records, Parquet) and records.omitted:
            seen.setdefault(tuple(records.omitted), findable(path))
    return [f"{path}: columns that JSON cannot hold are left out: {', '.join(names)}" for names, path in seen.items()]
