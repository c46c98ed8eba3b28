"""What is in a shard set: figures, and a sheet of its pictures."""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from rich.bar import Bar
from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from headrace.pipeline.images.decode import decode_rgb
from headrace.shards import IMAGE_ENCODINGS, OTHER, ShardError, ShardSet, Spans, open_shards
from headrace.shards.errors import MachineError
from headrace.shards.formats.orientation import UPRIGHT, orientation_in
from headrace.shards.printing import printable
from headrace.shards.remote.remote import redact
from headrace.tools.errors import UserError

NO_CLASS = "(-1)"
"""How the label of samples of no class is shown."""
MOST_CLASSES = 20
"""Classes that a printed report lists: of more, the largest half and the smallest half of so many. The JSON has all."""
MOST_SIZES = 10
"""Sizes of pictures that are listed one by one; of more, their longer sides are counted."""


@dataclass(frozen=True, kw_only=True)
class FieldReport:
    """One field of a set."""

    kind: str
    """As in `headrace.shards.Field`."""
    bytes: int
    """Bytes of its payloads in the whole set."""
    sample_bytes: dict[str, int]
    """Bytes of one payload: min, median, max."""
    declared: str = ""
    """What the manifest says of all samples: the type of videos and sounds, dtype and shape of arrays."""
    encodings: dict[str, int] = field(default_factory=dict)
    """Images: samples of each encoding; other for those that only another program's set may have."""
    turned: int = 0
    """Images: samples that are not shown as they are stored, but turned or mirrored."""
    heights: dict[str, int] = field(default_factory=dict)
    """Images, pixels as they are shown: min, median, max."""
    widths: dict[str, int] = field(default_factory=dict)
    """Likewise."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Images: samples of the ten most frequent sizes, "WIDTHxHEIGHT"."""
    different_sizes: int = 0
    """Images: number of sizes."""
    longer_sides: dict[str, int] = field(default_factory=dict)
    """Images: samples by their longer side, "FROM to TO" pixels, in ranges that begin at 1, 2, 3, 4, 6, 8, 12, ..."""
    classes: dict[str, int] = field(default_factory=dict)
    """Ints with class names: samples of each class, also of those with none."""
    values: dict[str, int] = field(default_factory=dict)
    """Ints without class names: min, max and number of different values."""
    unreadable: int = 0
    """Samples of which the index tells that they cannot be read. They count in none of the figures but bytes."""
    reasons: list[str] = field(default_factory=list)
    """Of the first `MOST_REASONS` of these: file, offset, key, and what is wrong."""


MOST_REASONS = 5
"""Bad samples of a field that are named."""


@dataclass(frozen=True, kw_only=True)
class InspectReport:
    """What `inspect_shards` found."""

    path: str
    """The set."""
    format: str
    """webdataset or ffcv."""
    samples: int
    """Number of samples."""
    shards: int
    """Number of shard files."""
    bytes: int
    """Bytes of all shards, padding and headers included."""
    fields: dict[str, FieldReport]
    """In the order of the set."""
    provenance: dict[str, Any]
    """From the manifest."""
    left_out: list[str] = field(default_factory=list)
    """Of another program's files: the samples that lack a file which most have, with the reason."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=100)
        console.print(render(self))
        text: str = console.file.getvalue()  # type: ignore[attr-defined]
        return "\n".join(line.rstrip() for line in text.splitlines())


def inspect_shards(path: str | os.PathLike[str]) -> InspectReport:
    """Figures of a shard set, from its indexes; no sample is read or decoded, but for the first bad ones."""
    with open_shards(path) as shards:
        return InspectReport(
            path=redact(str(path)),
            format=shards.manifest.format,
            samples=len(shards),
            shards=len(shards.manifest.shards),
            bytes=shards.manifest.bytes,
            fields={name: inspect_field(shards, name) for name in shards.fields},
            provenance=dict(shards.manifest.provenance),
            left_out=[f"{left.where}: {left.reason}" for left in shards.omitted.samples],
        )


def inspect_field(shards: ShardSet, name: str) -> FieldReport:
    """Figures of one field."""
    spans = shards.places(name, np.arange(len(shards)))
    declared = shards.fields[name]
    bad = shards.unreadable(name)
    common: dict[str, Any] = {
        "bytes": int(spans.size.sum()),
        "sample_bytes": spread(spans.size),
        "unreadable": len(bad),
        "reasons": [why_bad(shards, i, name) for i in bad[:MOST_REASONS].tolist()],
    }
    good = np.setdiff1d(np.arange(len(shards)), bad)
    if not len(good):
        return FieldReport(kind=declared.kind, **common)
    if declared.kind == "image":
        spans = Spans._make(column[good] for column in spans)
        codes = np.bincount(spans.encoding, minlength=OTHER + 1).tolist()
        height, width = spans.shown_sizes().T
        pairs, counts = np.unique(np.stack([width, height]), axis=1, return_counts=True)
        most = np.argsort(-counts, kind="stable")[:MOST_SIZES]
        return FieldReport(
            kind="image",
            **common,
            encodings={name: count for name, count in zip((*IMAGE_ENCODINGS, "other"), codes, strict=True) if count},
            turned=int(np.count_nonzero(spans.orientation != UPRIGHT)),
            heights=spread(height),
            widths=spread(width),
            sizes={f"{pairs[0, i]}x{pairs[1, i]}": int(counts[i]) for i in most},
            different_sizes=len(counts),
            longer_sides=by_side(np.maximum(width, height)),
        )
    if declared.kind != "int":
        shape = "x".join(map(str, declared.shape))
        told = " ".join(part for part in (declared.encoding, declared.dtype, shape) if part)
        return FieldReport(kind=declared.kind, declared=told, **common)
    values, counts = np.unique(shards.ints(name)[good], return_counts=True)
    if not declared.classes:
        found = {"min": int(values[0]), "max": int(values[-1]), "different": len(values)}
        return FieldReport(kind="int", **common, values=found)
    classes = dict.fromkeys(declared.classes, 0)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        classes[declared.classes[value] if 0 <= value < len(declared.classes) else f"({value})"] = count
    return FieldReport(kind="int", **common, classes=classes)


def why_bad(shards: ShardSet, i: int, name: str) -> str:
    """Which sample cannot be read, and why."""
    try:
        shards.read(i, [name])
    except ShardError as error:
        return str(error)
    return f"{shards.where(i, name)}: {name} cannot be read; verify the set"


def spread(values: Any) -> dict[str, int]:
    """Min, median and max."""
    return {"min": int(values.min()), "median": int(np.median(values)), "max": int(values.max())}


def by_side(sides: Any) -> dict[str, int]:
    """Counts of ranges that begin at 1, 2, 3, 4, 6, 8, 12, 16, 24, ... pixels, without the empty ones at the ends."""
    starts = np.array([1, *sorted([1 << power for power in range(1, 25)] + [3 << power for power in range(23)])])
    place = np.searchsorted(starts, sides, side="right") - 1
    counts = np.bincount(place, minlength=len(starts))
    used = range(int(place.min()), int(place.max()) + 1)
    return {f"{starts[i]} to {starts[i + 1] - 1}": int(counts[i]) for i in used}


def render(report: InspectReport) -> RenderableType:
    """The report for a terminal."""
    parts: list[RenderableType] = [
        plain(
            f"{report.path}: {report.samples:,} samples in {report.shards:,} {report.format} shards, "
            f"{report.bytes / 1e6:,.1f} MB"
        )
    ]
    if report.provenance:
        settings = ", ".join(f"{name} {value}" for name, value in report.provenance.items() if value is not None)
        parts.append(plain(f"made from {settings}"))
    table = Table("field", "kind", "MB", "bytes a sample", "what", box=SIMPLE)
    for name, found in report.fields.items():
        least, most = found.sample_bytes["min"], found.sample_bytes["max"]
        per_sample = (
            f"{least:,} to {most:,}, half up to {found.sample_bytes['median']:,}" if least < most else f"{most:,}"
        )
        what = "; ".join(filter(None, (summary(found), f"{found.unreadable:,} unreadable" if found.unreadable else "")))
        cells = (name, found.kind, f"{found.bytes / 1e6:,.2f}", per_sample, what)
        table.add_row(*map(plain, cells))
    parts.append(table)
    bad = [reason for found in report.fields.values() for reason in found.reasons]
    unnamed = sum(found.unreadable for found in report.fields.values()) - len(bad)
    parts += [plain(f"unreadable: {reason}") for reason in bad]
    parts += [plain(f"and {unnamed:,} unreadable ones more")] if unnamed else []
    parts += [plain(f"left out: {reason}") for reason in report.left_out[:MOST_REASONS]]
    unnamed = max(0, len(report.left_out) - MOST_REASONS)
    parts += [plain(f"and {unnamed:,} more that are left out")] if unnamed else []
    for name, found in report.fields.items():
        if found.classes:
            parts.append(class_histogram(name, found.classes))
        elif 1 < found.different_sizes <= MOST_SIZES:
            parts.append(histogram(f"size of {name}, pixels", found.sizes))
        elif found.different_sizes > MOST_SIZES:
            parts.append(histogram(f"longer side of {name}, pixels", found.longer_sides))
    return Group(*parts)


def plain(text: str) -> Text:
    """Text as it is: names may have brackets in them, which rich would take for markup."""
    return Text(printable(text))


def summary(found: FieldReport) -> str:
    """The column on the right."""
    if found.encodings:
        encodings = ", ".join(f"{count:,} {encoding}" for encoding, count in found.encodings.items())
        sizes = f"; {found.different_sizes:,} sizes" if found.different_sizes > 1 else ""
        turned = f"; {found.turned:,} turned or mirrored" if found.turned else ""
        return f"{encodings}; {extent(found.widths)} wide, {extent(found.heights)} high{sizes}{turned}"
    if found.values:
        return f"{found.values['different']:,} values from {found.values['min']} to {found.values['max']}"
    if not found.classes:
        return found.declared
    empty = sum(not count for count in found.classes.values())
    unlabelled = found.classes.get(NO_CLASS, 0)
    words = f"{len(found.classes) - (NO_CLASS in found.classes):,} classes"
    words += f", {empty:,} of them without samples" if empty else ""
    return f"{words}; {unlabelled:,} samples of none" if unlabelled else words


def extent(sides: dict[str, int]) -> str:
    """Smallest to largest."""
    return f"{sides['min']} to {sides['max']}" if sides["min"] < sides["max"] else str(sides["min"])


def class_histogram(name: str, counts: dict[str, int]) -> RenderableType:
    """Samples of each class; of many, the most and the least frequent."""
    if len(counts) <= MOST_CLASSES:
        return histogram(name, counts)
    ranked = dict(sorted(counts.items(), key=lambda item: -item[1]))
    names = list(ranked)
    left_out = names[MOST_CLASSES // 2 : -MOST_CLASSES // 2]
    between = spread(np.array([ranked[one] for one in left_out]))
    table = histogram(f"{name}, by samples", {one: ranked[one] for one in names[: MOST_CLASSES // 2]})
    table.add_row(f"... {len(left_out):,} between", extent(between), "")
    add_bars(table, {one: ranked[one] for one in names[-MOST_CLASSES // 2 :]}, max(counts.values()))
    return table


def histogram(title: str, counts: dict[str, int]) -> Table:
    """Counts with bars, in the given order."""
    table = Table(Column(plain(title)), "samples", "", box=SIMPLE)
    add_bars(table, counts, max(counts.values()))
    return table


def add_bars(table: Table, counts: dict[str, int], largest: int) -> None:
    """A row for each count, with a bar that is full at `largest`."""
    for name, count in counts.items():
        table.add_row(plain(name), f"{count:,}", Bar(max(largest, 1), 0, count, width=30))


def image_field(shards: ShardSet, name: str | None) -> str:
    """The image field of this name, or the first; UserError where there is none."""
    images = [field for field, declared in shards.fields.items() if declared.kind == "image"]
    if not images or (name or images[0]) not in images:
        raise UserError(f"{shards.path}: has no image field {name!r}" if name else f"{shards.path}: has no images")
    return name or images[0]


def contact_sheet(
    shards: ShardSet, out: Path, *, field: str | None = None, columns: int = 8, rows: int = 6, cell: int = 112
) -> None:
    """Write a PNG with pictures evenly spread over the set, in order, left to right and top to bottom. The place of a
    bad sample is left empty, with a warning that names it.

    Args:
        shards: The set.
        out: File to write.
        field: An image field; None is the first.
        columns: Pictures side by side.
        rows: Pictures one below another, at most.
        cell: Side of the square that a picture is shrunk, or enlarged a whole number of times, to fit in, pixels.
    """
    field = image_field(shards, field)
    numbers = np.linspace(0, len(shards) - 1, min(columns * rows, len(shards))).round().astype(int).tolist()
    gap = 4
    height = -(-len(numbers) // columns) * (cell + gap) + gap
    sheet = Image.new("RGB", (columns * (cell + gap) + gap, height), (255, 255, 255))
    for place, i in enumerate(numbers):
        try:
            sample = shards.read(i, [field])
            value, orientation = sample[field], orientation_in(sample, field)
            of_pixels = isinstance(value, np.ndarray)
            picture = Image.fromarray(value) if of_pixels else decode_rgb(value, cell, orientation=orientation)
        except MachineError:
            raise  # says nothing about the picture
        except ShardError as error:
            warnings.warn(f"its place on the sheet is empty: {error}", stacklevel=2)
            continue
        except ValueError as error:
            where = shards.where(i, field)
            warnings.warn(f"its place on the sheet is empty: {where}: {field} does not decode ({error})", stacklevel=2)
            continue
        picture.thumbnail((cell, cell))
        picture = ImageOps.scale(picture, max(1, cell // max(picture.size)), Image.Resampling.NEAREST)
        row, column = divmod(place, columns)
        left = gap + column * (cell + gap) + (cell - picture.width) // 2
        top = gap + row * (cell + gap) + (cell - picture.height) // 2
        sheet.paste(picture, (left, top))
    sheet.save(out, "PNG")
