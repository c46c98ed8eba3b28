"""Data sets of labelled videos, by what lies there: Kinetics, UCF101, Something-Something V2, or a folder of classes.

Kinetics (https://github.com/cvdfoundation/kinetics-dataset), of any year:

    annotations/train.csv                label,youtube_id,time_start,time_end,split
    train/ID_000010_000020.mp4, ...      the clip from second 10 to second 20 of the video ID, in any folder

UCF101 (https://www.crcv.ucf.edu/data/UCF101.php):

    UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi
    ucfTrainTestlist/classInd.txt        "1 ApplyEyeMakeup" a line
    ucfTrainTestlist/trainlist01.txt     "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1" a line
    ucfTrainTestlist/testlist01.txt      the same without the number

Something-Something V2 (https://www.qualcomm.com/developer/software/something-something-v-2-dataset):

    20bn-something-something-v2/78687.webm
    labels/labels.json                   {"Holding something next to something": "93", ...}
    labels/train.json, validation.json   [{"id": "78687", "label": "holding potato next to vicks vaporub bottle",
                                           "template": "Holding [something] next to [something]",
                                           "placeholders": ["potato", "vicks vaporub bottle"]}, ...]
    labels/test.json                     [{"id": "1420"}, ...]
    labels/test-answers.csv              "1420;Holding something next to something" a line; may be missing

A file is found by its name in any folder, and in tars and zips, which are not unpacked. Where most of the listed videos
are missing, every .rar that lies there, UCF101's own format, is read from as well, and every .tar.gz, which is gone
through once for that, also that of Something-Something in its official parts.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from headrace.shards import Field
from headrace.shards.formats.values import json_bytes
from headrace.tools.errors import UserError
from headrace.tools.sources.content import HEAD, NEVER_MEDIA, media_kind
from headrace.tools.sources.fingerprint import Fingerprint
from headrace.tools.sources.folder import (
    FIELDS,
    MAX_MEDIA,
    MEDIA,
    media_folder,
    unique_keys,
    video_tools,
)
from headrace.tools.sources.listing import is_folder, unreadable
from headrace.tools.sources.source import BadSample, SourceData
from headrace.tools.sources.trees import Tree, unpack_hint

MAX_LIST = 1 << 28
"""Bytes of a list; the largest official one has 40 MB."""


class Clip(NamedTuple):
    """A video that a data set lists. Kinetics has half a million, so what is kept of each is little."""

    stem: str
    """Name of its file without the extension."""
    label: int
    """-1 where the data set keeps it secret."""
    place: int
    """In the list, counted as `Listing.where` says."""


class Listing(NamedTuple):
    """The videos of a split."""

    clips: list[Clip]
    classes: tuple[str, ...]
    where: str
    """The list and what a place in it is, for a person: "train.csv, line"."""
    meta: Callable[[Clip], dict[str, Any]]
    """What the data set says about a clip."""
    grouped: bool
    """True where keys begin with the class."""
    others: Callable[[], Iterable[str]]
    """Stems of the clips of all lists of the data set."""


def read(src: Path, split: str | None) -> SourceData:
    """Video files as they are, sound included.

    Fields:
        video: The file.
        label: The class, whose names the manifest has; none where the data set has none (test splits).
        meta: What the data set says, and what the file holds: width, height, frames, fps, seconds, codec, sound, and
            where they are not the usual ones orientation and pixel_aspect; see `headrace.tools.media.videos.VideoInfo`.
            Kinetics: youtube_id, time_start, time_end, split. UCF101: group, clip. Something-Something: id, caption,
            template, placeholders.

    A video that is listed and missing, or that does not decode at its beginning and its end, is a bad sample.

    Args:
        src: The folder that holds videos and lists, or one tar, zip or rar with both.
        split: train, val or test; UCF101: train or test, of list 01, or train02, test03 and so on.
    """
    tree = Tree(src)
    found = [(layout, lists) for layout in LAYOUTS if (lists := layout.find(tree))]
    if len(found) > 1:
        raise UserError(f"{src}: holds {found[0][0].name} and {found[1][0].name}; name the folder of one")
    if found:
        ((layout, lists),) = found
        return listed_videos(tree, layout.read(tree, lists, split or "train"))
    if not is_folder(src):
        raise UserError(f"{src}: holds the lists of none of {', '.join(layout.name for layout in LAYOUTS)}")
    return media_folder(src, split, tree.packed, "video")


def listed_videos(tree: Tree, listing: Listing) -> SourceData:
    """The samples of a list, whose files may be missing."""
    clips, classes = listing.clips, listing.classes
    probe_video = video_tools().probe_video
    files = find_files(tree, clips)
    if sum(map(bool, files)) < len(files) / 2 and tree.look_into_packed():
        files = find_files(tree, clips)
    again = listed_again(clips, classes, listing.where)
    if not any(files):
        hint = unpack_hint([name for name in tree.packed if not name.endswith((".csv.gz", ".json.gz"))])
        missing = f"{tree.src}: holds none of the {len(clips):,} videos that are listed: {listing.where} 1, ..."
        raise UserError("; ".join(filter(None, [missing, hint])))
    folders = [f"{classes[clip.label]}/" if listing.grouped and clip.label >= 0 else "" for clip in clips]
    keys = unique_keys([f"{folder}{clip.stem}.mp4" for folder, clip in zip(folders, clips, strict=True)])
    fields = {"video": Field(kind="video", encoding="mixed"), "meta": Field(kind="json")}
    labelled = all(clip.label >= 0 for clip in clips)
    if labelled:
        fields["label"] = Field(kind="int", classes=classes)
    fingerprint = Fingerprint(fields)
    tree.note(fingerprint, files)
    count_unlisted(tree, listing, set(files))

    def load(i: int) -> dict[str, Any]:
        clip, file = clips[i], files[i]
        if i in again:
            raise BadSample(again[i])
        if not file:
            raise BadSample(f"there is no file {clip.stem}.*")
        content = tree.read(file, MAX_MEDIA["video"])
        try:
            meta = {**listing.meta(clip), **probe_video(content).meta()}
        except ValueError as error:
            raise BadSample(str(error)) from error
        sample: dict[str, Any] = {"video": content, "meta": meta}
        return {**sample, "label": clip.label} if labelled else sample

    return SourceData(
        fields=fields,
        total=len(clips),
        key=keys.__getitem__,
        origin=lambda i: tree.origin(files[i]) if files[i] else f"{listing.where} {clips[i].place}",
        fingerprint=str(fingerprint),
        left_out=tree.left_out.counts(),
        strays=list(tree.left_out.strays(tree.src)),
        load=load,
    )


def count_unlisted(tree: Tree, listing: Listing, used: Collection[str]) -> None:
    """Count the videos that no list of the data set has; those of other splits are none of this one's business."""
    stems = {
        name: os.path.splitext(name.rpartition("/")[2])[0]
        for name in tree.names
        if name not in used and MEDIA.get(os.path.splitext(name)[1].lower()) == "video"
    }
    if not stems:
        return
    known = {*listing.others(), *(clip.stem for clip in listing.clips)}
    for name, stem in stems.items():
        if stem not in known:
            tree.left_out.add("videos in no list", tree.origin(name))


def listed_again(clips: Iterable[Clip], classes: Sequence[str], where: str) -> dict[int, str]:
    """Why clips that the list has more than once count only the first time, by their number."""
    first: dict[str, Clip] = {}
    again = {}
    for number, clip in enumerate(clips):
        before = first.setdefault(clip.stem, clip)
        if before is not clip:
            other = f" as {classes[before.label]!r}" if before.label != clip.label and before.label >= 0 else ""
            again[number] = (
                f"{clip.stem} is listed twice: {where} {clip.place}, and {before.place}{other}, which counts"
            )
    return again


def find_files(tree: Tree, clips: Iterable[Clip]) -> list[str]:
    """The file of each clip, empty where there is none; UserError where there are several.

    A file in a folder called replacement... goes before others: it stands in for a corrupted one in Kinetics-400.
    """
    places: dict[str, list[str]] = {}
    others: dict[str, list[str]] = {}
    """What may be videos by other endings, or none, by the whole name and without its ending."""
    for name in tree.names:
        base = name.rpartition("/")[2]
        stem, extension = os.path.splitext(base)
        if MEDIA.get(extension.lower()) == "video":
            places.setdefault(stem, []).append(name)
        elif extension.lower() not in FIELDS.keys() | NEVER_MEDIA:
            for spelling in {stem, base}:
                others.setdefault(spelling, []).append(name)
    files = []
    for clip in clips:
        there = places.get(clip.stem) or [
            name for name in others.get(clip.stem, ()) if media_kind(tree.head(name, HEAD)) == "video"
        ]
        better = [name for name in there if any(part.startswith("replacement") for part in name.split("/")[:-1])]
        there = better or there
        if len(there) > 1:
            one, other = map(tree.origin, there[:2])
            raise UserError(f"{tree.src}: {one} and {other} are the same clip; name the folder of one")
        files.append(there[0] if there else "")
    return files


def stems_in(tree: Tree, lists: Iterable[str], pattern: re.Pattern[str]) -> Iterator[str]:
    """The stems in some lists, by what is around them; what is damaged in a list of another split does not matter."""
    for name in lists:
        with contextlib.suppress(BadSample, OSError):
            yield from pattern.findall(tree.read(name, MAX_LIST).decode(errors="replace"))


KINETICS_COLUMNS = {"youtube_id", "time_start", "time_end"}
TIME = re.compile(r"[0-9]{1,6}")
SPLIT_NAMES = {"validate": "val", "validation": "val"}


def find_kinetics(tree: Tree) -> list[str]:
    """The lists of Kinetics: .csv files with its columns."""
    return [name for name in tree.names if name.endswith(".csv") and set(header(tree, name)) >= KINETICS_COLUMNS]


def header(tree: Tree, name: str) -> list[str]:
    """Names of the columns of a .csv; empty where it is not text."""
    try:
        first = tree.read(name, MAX_LIST).partition(b"\n")[0].decode("utf-8-sig")
    except OSError as error:
        raise unreadable(tree.origin(name), error) from error
    except (BadSample, UnicodeDecodeError):
        return []
    try:
        return next(csv.reader([first.strip()]), [])
    except csv.Error:
        return []


def read_kinetics(tree: Tree, lists: list[str], split: str) -> Listing:
    """The clips of a split; the classes are those of all lists that lie in one folder."""
    wanted = SPLIT_NAMES.get(split, split)
    rows = {name: list(kinetics_rows(tree, name)) for name in lists}
    having = [name for name in lists if any(row.split == wanted for row in rows[name])]
    if not having:
        splits = sorted({row.split for of_list in rows.values() for row in of_list})
        raise UserError(f"{tree.src}: Kinetics has the splits {', '.join(splits)} here, not {split!r}")
    if len(having) > 1:
        raise UserError(f"{tree.origin(having[0])} and {tree.origin(having[1])} both list the split {split}")
    (name,) = having
    beside = [other for other in lists if PurePosixPath(other).parent == PurePosixPath(name).parent]
    classes = tuple(sorted({row.label for other in beside for row in rows[other] if row.label}))
    numbers = {label: number for number, label in enumerate(classes)}
    clips = [Clip(row.stem, numbers.get(row.label, -1), row.line) for row in rows[name] if row.split == wanted]

    def meta(clip: Clip) -> dict[str, Any]:
        video, start, end = clip.stem.rsplit("_", 2)
        return {"youtube_id": video, "time_start": int(start), "time_end": int(end), "split": wanted}

    def others() -> Iterator[str]:
        return (row.stem for other in lists for row in kinetics_rows(tree, other))

    return Listing(clips, classes, f"{tree.origin(name)}, line", meta, grouped=True, others=others)


class KineticsRow(NamedTuple):
    """A line of a list."""

    stem: str
    label: str
    """Empty in test splits."""
    split: str
    line: int


def kinetics_rows(tree: Tree, name: str) -> Iterator[KineticsRow]:
    """The lines of a list; UserError with the line where one is damaged."""
    reader = csv.DictReader(io.StringIO(tree.read_list(name, MAX_LIST), newline=""))
    own = PurePosixPath(name).stem
    try:
        for row in reader:
            video, start, end = (row[column] or "" for column in ("youtube_id", "time_start", "time_end"))
            if not (re.fullmatch(r"[A-Za-z0-9_-]{1,32}", video) and TIME.fullmatch(start) and TIME.fullmatch(end)):
                raise csv.Error(f"expected an id and whole seconds, found {video!r}, {start!r}, {end!r}")
            split = row.get("split") or own
            stem = f"{video}_{int(start):06d}_{int(end):06d}"
            yield KineticsRow(stem, sys.intern(row.get("label") or ""), SPLIT_NAMES.get(split, split), reader.line_num)
    except csv.Error as error:
        raise UserError(f"{tree.origin(name)}, line {reader.line_num}: {error}") from error


UCF_LIST = re.compile(r"(train|test)list(\d\d)\.txt")
UCF_STEM = re.compile(r"/(v_[^/\s]+_g\d+_c\d+)\.")
UCF_LINE = re.compile(r"([^/\s]+)/(v_[^/\s]+_g\d+_c\d+)\.\w+(?: (\d+))?")


def find_ucf101(tree: Tree) -> list[str]:
    """The lists of UCF101."""
    return [name for name in tree.names if UCF_LIST.fullmatch(name.rpartition("/")[2])]


def read_ucf101(tree: Tree, lists: list[str], split: str) -> Listing:
    """The clips of a split: "train" and "test" are those of list 01."""
    match = re.fullmatch(r"(train|test)(\d\d)?", split)
    names = {name.rpartition("/")[2]: name for name in lists}
    wanted = f"{match[1]}list{match[2] or '01'}.txt" if match else ""
    if wanted not in names:
        splits = sorted("".join(UCF_LIST.fullmatch(name).groups()) for name in names)  # type: ignore[union-attr]
        raise UserError(f"{tree.src}: UCF101 has the splits {', '.join(splits)} here, not {split!r}")
    index = str(PurePosixPath(names[wanted]).parent / "classInd.txt")
    if index not in tree.names:
        raise UserError(f"{tree.origin(names[wanted])}: there is no classInd.txt beside it")
    classes = []
    for number, line in enumerate(tree.read_list(index, MAX_LIST).split("\n"), 1):
        parts = line.split()
        if parts and parts != [str(number), parts[-1]]:
            raise UserError(f"{tree.origin(index)}, line {number}: expected {number} and a name, found {line[:60]!r}")
        classes += parts[1:]
    numbers = {name: number for number, name in enumerate(classes)}
    clips = []
    where = f"{tree.origin(names[wanted])}, line"
    for place, line in enumerate(tree.read_list(names[wanted], MAX_LIST).split("\n"), 1):
        if not line.strip():
            continue
        found = UCF_LINE.fullmatch(line.strip())
        if not found or found[1] not in numbers:
            raise UserError(
                f"{where} {place}: expected Class/v_Class_g01_c01.avi of a known class, found {line[:60]!r}"
            )
        label = numbers[found[1]]
        if found[3] and int(found[3]) != label + 1:
            raise UserError(f"{where} {place}: {found[1]} has number {found[3]}, in classInd.txt {label + 1}")
        clips.append(Clip(found[2], label, place))

    def meta(clip: Clip) -> dict[str, Any]:
        _, group, number = clip.stem.rsplit("_", 2)
        return {"group": int(group[1:]), "clip": int(number[1:])}

    others = partial(stems_in, tree, lists, UCF_STEM)
    return Listing(clips, tuple(classes), where, meta, grouped=True, others=others)


SSV2_LIST = re.compile(r"(?:something-something-v2-)?(labels|train|validation|test)\.json")
SSV2_STEM = re.compile(r'"id":\s*"(\d{1,12})"')
SSV2_SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}


def find_ssv2(tree: Tree) -> list[str]:
    """The lists of Something-Something V2: labels.json and what lies beside it, also under its older, longer name."""
    lists = [name for name in tree.names if SSV2_LIST.fullmatch(name.rpartition("/")[2])]
    folders = {name.rpartition("/")[0] for name in lists if name.endswith("labels.json")}
    return [name for name in lists if name.rpartition("/")[0] in folders] if len(lists) > 1 else []


def read_ssv2(tree: Tree, lists: list[str], split: str) -> Listing:
    """The clips of a split."""
    names = {SSV2_LIST.fullmatch(name.rpartition("/")[2])[1]: name for name in lists}  # type: ignore[index]
    if len(names) < len(lists):
        raise UserError(f"{tree.src}: {tree.origin(lists[0])} and others are there twice; name the folder of one")
    wanted = SSV2_SPLITS.get(split, split)
    if wanted not in names or wanted == "labels":
        splits = sorted(set(names) - {"labels"})
        raise UserError(f"{tree.src}: Something-Something has the splits {', '.join(splits)} here, not {split!r}")
    numbers = read_templates(tree, names["labels"])
    answers = read_answers(tree, names[wanted], numbers) if wanted == "test" else {}
    entries = read_json(tree, names[wanted])
    clips = []
    where = f"{tree.origin(names[wanted])}, entry"
    for place, entry in enumerate(entries if isinstance(entries, list) else [entries], 1):
        match entry:
            case {"id": str() as number} if re.fullmatch(r"\d{1,12}", number):
                label = answers.get(number, -1)
            case _:
                raise UserError(f"{where} {place}: expected an object with an id")
        if wanted != "test":
            template = entry.get("template")
            if not isinstance(template, str) or plain_template(template) not in numbers:
                raise UserError(f"{where} {place}: the template {template!r} is not in labels.json")
            label = numbers[plain_template(template)]
        clips.append(Clip(number, label, place))

    def meta(clip: Clip) -> dict[str, Any]:
        entry = entries[clip.place - 1]
        said = {"id": clip.stem, "caption": entry.get("label")}
        said |= {name: entry[name] for name in ("template", "placeholders") if name in entry}
        json_bytes(said)
        return {name: value for name, value in said.items() if value is not None}

    others = partial(stems_in, tree, lists, SSV2_STEM)
    return Listing(clips, tuple(numbers), where, meta, grouped=False, others=others)


def read_templates(tree: Tree, name: str) -> dict[str, int]:
    """The number of each template, in the order of the numbers."""
    found = read_json(tree, name)
    try:
        numbers = {template: int(number) for template, number in found.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{tree.origin(name)}: expected an object of templates and numbers ({error})") from error
    ordered = sorted(numbers.items(), key=lambda item: item[1])
    if [number for _, number in ordered] != list(range(len(ordered))) or not ordered:
        raise UserError(f"{tree.origin(name)}: the numbers of the templates are not 0, 1, 2, ...")
    return dict(ordered)


def read_answers(tree: Tree, test: str, numbers: Mapping[str, int]) -> dict[str, int]:
    """The labels of the test split by id, where test-answers.csv lies beside it."""
    name = str(PurePosixPath(test).parent / "test-answers.csv")
    if name not in tree.names:
        return {}
    answers = {}
    for line_number, line in enumerate(tree.read_list(name, MAX_LIST).split("\n"), 1):
        number, _, template = line.strip().partition(";")
        if number and template not in numbers:
            raise UserError(f"{tree.origin(name)}, line {line_number}: {template[:60]!r} is not in labels.json")
        if number:
            answers[number] = numbers[template]
    return answers


def plain_template(template: str) -> str:
    """As labels.json spells it."""
    return template.replace("[", "").replace("]", "")


def read_json(tree: Tree, name: str) -> Any:
    """Content of a list; UserError with the place where it is no JSON."""
    try:
        return json.loads(tree.read_list(name, MAX_LIST))
    except json.JSONDecodeError as error:
        raise UserError(f"{tree.origin(name)}, line {error.lineno}: bad JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{tree.origin(name)}: bad JSON ({error})") from error


class Layout(NamedTuple):
    """How a data set is recognised and read."""

    name: str
    find: Callable[[Tree], list[str]]
    """Its lists, empty where it is not there."""
    read: Callable[[Tree, list[str], str], Listing]
    """The videos of a split; UserError where there is no such split or a list is damaged."""


LAYOUTS = (
    Layout("Kinetics", find_kinetics, read_kinetics),
    Layout("UCF101", find_ucf101, read_ucf101),
    Layout("Something-Something V2", find_ssv2, read_ssv2),
)
