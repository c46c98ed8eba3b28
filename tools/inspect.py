"""What is in a shard set: figures, and a sheet of its pictures."""

from __future__ import annotations

import io
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from rich.bar import Bar
from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.table import Table

from headrace.shards import IMAGE_ENCODINGS, ShardSet, open_shards
from headrace.tools.errors import UserError
from headrace.tools.images import decode_rgb

MOST_CLASSES = 20
"""Classes that a printed report lists; the JSON has all of them."""


@dataclass(frozen=True, kw_only=True)
class FieldReport:
    """One field of a set."""

    kind: str
    """As in `headrace.shards.Field`."""
    bytes: int
    """Bytes of its payloads in the whole set."""
    encodings: dict[str, int] = field(default_factory=dict)
    """Images: samples of each encoding."""
    heights: dict[str, int] = field(default_factory=dict)
    """Images, pixels: min, median, max."""
    widths: dict[str, int] = field(default_factory=dict)
    """Likewise."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Images: samples of the ten most frequent sizes, "WIDTHxHEIGHT"."""
    classes: dict[str, int] = field(default_factory=dict)
    """Ints with class names: samples of each class, also of those with none."""
    values: dict[str, int] = field(default_factory=dict)
    """Ints without class names: min, max and number of different values."""


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

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=100)
        console.print(render(self))
        text: str = console.file.getvalue()  # type: ignore[attr-defined]
        return "\n".join(line.rstrip() for line in text.splitlines())


def inspect_shards(path: str | os.PathLike[str]) -> InspectReport:
    """Figures of a shard set, from its indexes; no sample is read or decoded."""
    with open_shards(path) as shards:
        return InspectReport(
            path=str(path),
            format=shards.manifest.format,
            samples=len(shards),
            shards=len(shards.manifest.shards),
            bytes=shards.manifest.bytes,
            fields={name: inspect_field(shards, name) for name in shards.fields},
            provenance=dict(shards.manifest.provenance),
        )


def inspect_field(shards: ShardSet, name: str) -> FieldReport:
    """Figures of one field."""
    spans = shards.spans(name, np.arange(len(shards)))
    declared = shards.fields[name]
    total = int(spans.size.sum())
    if declared.kind == "image":
        codes = np.bincount(spans.encoding, minlength=len(IMAGE_ENCODINGS)).tolist()
        pairs, counts = np.unique(np.stack([spans.width, spans.height]), axis=1, return_counts=True)
        most = np.argsort(-counts, kind="stable")[:10]
        return FieldReport(
            kind="image",
            bytes=total,
            encodings={encoding: count for encoding, count in zip(IMAGE_ENCODINGS, codes, strict=True) if count},
            heights=spread(spans.height),
            widths=spread(spans.width),
            sizes={f"{pairs[0, i]}x{pairs[1, i]}": int(counts[i]) for i in most},
        )
    if declared.kind != "int":
        return FieldReport(kind=declared.kind, bytes=total)
    values, counts = np.unique(shards.ints(name), return_counts=True)
    if not declared.classes:
        found = {"min": int(values[0]), "max": int(values[-1]), "different": len(values)}
        return FieldReport(kind="int", bytes=total, values=found)
    classes = dict.fromkeys(declared.classes, 0)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        classes[declared.classes[value] if 0 <= value < len(declared.classes) else f"({value})"] = count
    return FieldReport(kind="int", bytes=total, classes=classes)


def spread(values: Any) -> dict[str, int]:
    """Min, median and max."""
    return {"min": int(values.min()), "median": int(np.median(values)), "max": int(values.max())}


def render(report: InspectReport) -> RenderableType:
    """The report for a terminal."""
    parts: list[RenderableType] = [
        f"{report.path}: {report.samples:,} samples in {report.shards:,} {report.format} shards, "
        f"{report.bytes / 1e6:,.1f} MB"
    ]
    if report.provenance:
        settings = ", ".join(f"{name} {value}" for name, value in report.provenance.items() if value is not None)
        parts.append(f"made from {settings}")
    table = Table("field", "kind", "MB", "bytes a sample", "what", box=SIMPLE)
    for name, found in report.fields.items():
        per_sample = f"{found.bytes / report.samples:,.0f}"
        table.add_row(name, found.kind, f"{found.bytes / 1e6:,.2f}", per_sample, summary(found))
    parts.append(table)
    for name, found in report.fields.items():
        if found.classes:
            parts.append(histogram(name, found.classes))
        elif len(found.sizes) > 1:
            parts.append(histogram(f"size of {name}, pixels", found.sizes))
    return Group(*parts)


def summary(found: FieldReport) -> str:
    """The column on the right."""
    if found.encodings:
        encodings = ", ".join(f"{count:,} {encoding}" for encoding, count in found.encodings.items())
        width, height = found.widths, found.heights
        return f"{encodings}; {extent(width)} wide, {extent(height)} high"
    if found.values:
        return f"{found.values['different']:,} values from {found.values['min']} to {found.values['max']}"
    return f"{len(found.classes):,} classes" if found.classes else ""


def extent(sides: dict[str, int]) -> str:
    """Smallest to largest."""
    return f"{sides['min']} to {sides['max']}" if sides["min"] < sides["max"] else str(sides["min"])


def histogram(title: str, counts: dict[str, int]) -> Table:
    """Counts with bars, the first few in the given order."""
    table = Table(title, "samples", "", box=SIMPLE)
    largest = max(counts.values())
    for name, count in list(counts.items())[:MOST_CLASSES]:
        table.add_row(name, f"{count:,}", Bar(largest, 0, count, width=30))
    if len(counts) > MOST_CLASSES:
        table.add_row(f"... and {len(counts) - MOST_CLASSES:,} more", "", "")
    return table


def contact_sheet(
    shards: ShardSet, out: Path, *, field: str = "image", columns: int = 8, rows: int = 6, cell: int = 112
) -> None:
    """Write a PNG with pictures evenly spread over the set, in order, left to right and top to bottom.

    Args:
        shards: The set.
        out: File to write.
        field: An image field.
        columns: Pictures side by side.
        rows: Pictures one below another, at most.
        cell: Side of the square that a picture is shrunk, or enlarged a whole number of times, to fit in, pixels.
    """
    if field not in shards.fields or shards.fields[field].kind != "image":
        raise UserError(f"{shards.path}: has no image field {field!r}")
    numbers = np.linspace(0, len(shards) - 1, min(columns * rows, len(shards))).round().astype(int).tolist()
    gap = 4
    height = -(-len(numbers) // columns) * (cell + gap) + gap
    sheet = Image.new("RGB", (columns * (cell + gap) + gap, height), (255, 255, 255))
    for place, i in enumerate(numbers):
        value = shards.read(i)[field]
        try:
            picture = Image.fromarray(value) if isinstance(value, np.ndarray) else decode_rgb(value, cell)
        except ValueError as error:
            raise UserError(f"{shards.where(i, field)}: {field} does not decode ({error})") from error
        picture.thumbnail((cell, cell))
        picture = ImageOps.scale(picture, max(1, cell // max(picture.size)), Image.Resampling.NEAREST)
        row, column = divmod(place, columns)
        left = gap + column * (cell + gap) + (cell - picture.width) // 2
        top = gap + row * (cell + gap) + (cell - picture.height) // 2
        sheet.paste(picture, (left, top))
    sheet.save(out, "PNG")
