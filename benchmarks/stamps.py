"""Stamps of the drawing program Tux Paint: photographs and drawings on transparent ground, in folders of categories.

They come with the Debian package tuxpaint-stamps-default (GPL-2, 161 MB), which `headrace.benchmarks.photographs`
fetches and unpacks into its cache folder; nothing is installed. A file of text beside a picture holds its caption.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from headrace.benchmarks.errors import SourceMissing
from headrace.benchmarks.photographs import debian_package

PACKAGE = "tuxpaint-stamps-default"
FOLDER = Path("usr/share/tuxpaint/stamps")


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """A picture with a caption."""

    path: Path
    """A PNG file."""
    category: str
    """One of 16, the outermost folder, such as "animals"."""
    caption: str
    """English; several pictures may share one."""


def stamps(cache: Path | None = None) -> list[Stamp]:
    """The PNG pictures with a caption, by path, fetched on first use. Mirrored copies have none.

    Raises:
        SourceMissing: where they cannot be had.
    """
    root = debian_package(PACKAGE, cache) / FOLDER
    found = []
    for path in sorted(root.rglob("*.png")):
        text = path.with_suffix(".txt")
        if text.exists():
            with text.open(encoding="utf-8") as lines:
                caption = next(lines, "").strip()
            if caption:
                found.append(Stamp(path=path, category=path.relative_to(root).parts[0], caption=caption))
    if not found:
        raise SourceMissing(f"the Debian package {PACKAGE} has no pictures with captions in {FOLDER}")
    return found
