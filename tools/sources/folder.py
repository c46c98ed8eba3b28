"""A tree of picture files: one folder a class, as torchvision's ImageFolder reads it, or pictures alone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headrace.shards import Field
from headrace.tools.errors import UserError
from headrace.tools.sources.source import SourceData

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"})
"""torchvision.datasets.folder.IMG_EXTENSIONS."""
SPLIT_NAMES = ("train", "val", "valid", "validation", "test")
COMPONENT_BYTES = 72
"""Longest part of a key between slashes; what is longer is cut, with a checksum."""


def read(src: Path, split: str) -> SourceData:
    """Pictures under `src`/`split` if that is a folder, else under `src`, in the order of their paths.

    The subfolders there are the classes, in alphabetical order, and pictures may lie deeper in them; pictures beside
    them are left out. Without subfolders there is no label. Hidden files are left out, links are followed.

    Args:
        src: The tree.
        split: Name of a subfolder; "train" may be missing if there is no other split either.
    """
    if not src.is_dir():
        raise UserError(f"{src}: there is no such folder")
    root = src / split
    if not root.is_dir():
        others = [name for name in SPLIT_NAMES if (src / name).is_dir()]
        if others or split != "train":
            found = f"found {', '.join(others)}" if others else "found no splits"
            raise UserError(f"{src}: has no folder {split!r} for --split {split} ({found})")
        root = src
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    files: list[tuple[str, int]] = []
    for label, name in enumerate(classes):
        files += [(path, label) for path in pictures(root / name)]
    if not classes:
        files = [(path, -1) for path in pictures(root)]
    if not files:
        raise UserError(f"{root}: holds no pictures ({', '.join(sorted(EXTENSIONS))})")
    keys = unique_keys([os.path.relpath(path, root) for path, _ in files])
    fields = {"image": Field(kind="image", encoding="mixed")}
    if classes:
        fields["label"] = Field(kind="int", classes=tuple(printable(name) for name in classes))

    def load(i: int) -> dict[str, Any]:
        path, label = files[i]
        sample: dict[str, Any] = {"image": Path(path).read_bytes()}
        return {**sample, "label": label} if classes else sample

    return SourceData(
        fields=fields,
        total=len(files),
        key=keys.__getitem__,
        origin=lambda i: printable(files[i][0]),
        load=load,
    )


def pictures(folder: Path) -> Iterator[str]:
    """Paths of the pictures in a folder and below, sorted."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS:
                yield os.path.join(parent, name)


def printable(name: str) -> str:
    """The name without what is no Unicode text, as file names may hold."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def unique_keys(paths: list[str]) -> list[str]:
    """A key for each relative path: without its extension, with what keys cannot hold replaced by _ and -."""
    keys: list[str] = []
    seen: set[str] = set()
    for path in paths:
        parts = [component(part) for part in os.path.splitext(printable(path))[0].split(os.sep)]
        base = key = "/".join(parts)
        number = 1
        while key in seen:  # a.jpg beside a.png
            number += 1
            key = f"{base}-{number}"
        seen.add(key)
        keys.append(key)
    return keys


def component(name: str) -> str:
    """One part of a path as part of a key."""
    clean = "".join(c if c.isprintable() and c not in "\\." else "_" for c in name)
    clean = "x" + clean if clean.startswith(("_", "~")) else clean
    if len(clean.encode()) <= COMPONENT_BYTES:
        return clean
    checksum = hashlib.sha256(name.encode()).hexdigest()[:12]
    return clean.encode()[: COMPONENT_BYTES - 13].decode(errors="ignore") + "-" + checksum
