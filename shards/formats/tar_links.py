"""What links in a tar lead to: other files of the same tar, as if it were unpacked into an empty folder."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from typing import NamedTuple

MAX_HOPS = 40
"""Links behind one another that are followed, as many as Linux follows."""


class TarMember(NamedTuple):
    """A file found in a tar."""

    name: str
    offset: int
    """Of its content."""
    size: int


class BrokenLink(TarMember):
    """A link that leads to no file of the tar; its offset is that of its header, its size 0."""

    reason = ""
    """What it is, such as "a link to x.jpg, which is not in the tar"."""


class TarLink(NamedTuple):
    """A link found in a tar."""

    name: str
    offset: int
    """Of its header."""
    target: str
    """As the tar has it: a symbolic link's begins at the link's folder, a hard link's at the top."""
    hard: bool


def followed(found: Sequence[TarMember | TarLink]) -> list[TarMember]:
    """The files of a tar in their order, each link as what it leads to: see `headrace.shards.formats.tar.scan_tar`.

    Where a name is there twice, the last one counts, as after unpacking; for a hard link the last one before it.
    """
    unpacked = Unpacked(found)
    members = []
    for each in found:
        member = each if isinstance(each, TarMember) else unpacked.follow(each)
        if member is not None:
            members.append(member)
        unpacked.before[plain(each.name)] = each
    return members


def plain(name: str) -> str:
    """A path without `.`, `..` and doubled slashes; a leading slash stays."""
    return posixpath.normpath(name)


class Unpacked:
    """The tree that a tar becomes."""

    def __init__(self, found: Sequence[TarMember | TarLink]) -> None:
        self.last = {plain(each.name): each for each in found}
        self.before: dict[str, TarMember | TarLink] = {}
        """What was unpacked before a hard link."""
        self._folders: set[str] = set()

    def follow(self, link: TarLink) -> TarMember | None:
        """The file that a link leads to, under the link's name; None for a folder, which is no file."""
        at: TarMember | TarLink = link
        for _ in range(MAX_HOPS):
            if isinstance(at, TarMember):
                return TarMember(link.name, at.offset, at.size)
            path = self._path(at)
            near = self.before if at.hard else self.last
            following = near.get(path) or self._find(path)
            if following is None:
                return None if self._is_folder(path) else broken(link, "which is not in the tar")
            at = following
        return broken(link, "which leads in a circle")

    def _path(self, link: TarLink) -> str:
        return plain(link.target if link.hard else posixpath.join(posixpath.dirname(link.name), link.target))

    def _find(self, path: str) -> TarMember | TarLink | None:
        """What lies at a path, also where folders on the way are links, and where the tar's names lack the slash that
        GNU tar takes away from them, but not from targets."""
        for _ in range(MAX_HOPS):
            found = self.last.get(path) or self.last.get(path.lstrip("/"))
            if found is not None:
                return found
            parts = path.split("/")
            for end in range(1, len(parts)):
                folder = self.last.get("/".join(parts[:end]))
                if isinstance(folder, TarLink) and not folder.hard:
                    path = plain(posixpath.join(self._path(folder), *parts[end:]))
                    break
            else:
                return None
        return None

    def _is_folder(self, path: str) -> bool:
        if not self._folders:
            for name in self.last:
                while (name := posixpath.dirname(name)) not in self._folders:
                    self._folders.add(name)
        return path in self._folders or path.lstrip("/") in self._folders


def broken(link: TarLink, problem: str) -> BrokenLink:
    """A link that cannot be followed."""
    found = BrokenLink(link.name, link.offset, 0)
    found.reason = f"a link to {link.target}, {problem}"
    return found
