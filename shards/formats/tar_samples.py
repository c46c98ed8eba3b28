"""The samples of a tar: files whose names begin alike, by the rule of the `webdataset` package."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from headrace.shards.errors import ShardError
from headrace.shards.formats.tar_links import BrokenLink, TarMember

KEY_AND_EXTENSION = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
META_NAME = re.compile(r"__[^/]*__($|/)")


class Fault(NamedTuple):
    """Why a sample has not the file that its tar names."""

    offset: int
    reason: str


class TarSample(NamedTuple):
    """The files of a tar that have a key."""

    key: str
    members: dict[str, TarMember]
    """By extension, in lower case."""
    faults: dict[str, Fault]
    """By extension: what is named, and not there as one file."""

    @property
    def offset(self) -> int:
        """Of the first file, or of what stands for it."""
        places = [member.offset for member in self.members.values()]
        return min(places + [fault.offset for fault in self.faults.values()])


NO_FAULTS: dict[str, Fault] = MappingProxyType({})  # type: ignore[assignment]  # not written to


def neighbours(members: Iterable[TarMember], passed_over: Counter[str]) -> Iterator[TarSample]:
    """The samples by webdataset's rule: neighbours with the same name up to the first dot of the last component.

    Names without an extension, `__meta__` names and hidden ones, such as a Mac's ._ doubles, are passed over, and
    counted by what they are.
    """
    current: TarSample | None = None
    split, is_meta = KEY_AND_EXTENSION.fullmatch, META_NAME.match
    for member in members:
        name = member.name
        match = split(name)
        if match is None or is_meta(name) or name.startswith(".", name.rfind("/") + 1) or "__MACOSX/" in name:
            passed_over[kind_of_name(name)] += 1
            continue
        key, ending = match[1], match[2].lower()
        if current is None or key != current.key:
            if current is not None:
                yield current
            current = TarSample(key, {}, NO_FAULTS)
        if type(member) is BrokenLink or ending in current.members or ending in current.faults:
            current = with_fault(current, member, ending)
        else:
            current.members[ending] = member
    if current is not None:
        yield current


def kind_of_name(name: str) -> str:
    """What a file is counted by that belongs to no sample."""
    last = name.rpartition("/")[2]
    if last.startswith("._") or "__MACOSX/" in name:
        return "a Mac's doubles"
    if last.startswith("."):
        return "hidden"
    return "with names as __meta__" if META_NAME.match(name) else "without an ending"


def with_fault(sample: TarSample, member: TarMember, ending: str) -> TarSample:
    """The sample without a file that is a link to nothing, or that is there twice."""
    reason = f"its {ending} is {member.reason}" if isinstance(member, BrokenLink) else f"two files {ending}"
    sample.members.pop(ending, None)
    return sample._replace(faults={**sample.faults, ending: Fault(member.offset, reason)})


def group_members(path: Path, members: Iterable[TarMember]) -> Iterator[tuple[str, dict[str, TarMember]]]:
    """(key, members by extension) of every sample of one of our own tars; ShardError where a file is there twice or a
    link to nothing."""
    for key, found, faults in neighbours(members, Counter()):
        for offset, reason in faults.values():
            raise ShardError(f"{path}, offset {offset}, key {key}: {reason}")
        yield key, found


def joined(samples: list[TarSample]) -> tuple[list[TarSample], list[str]]:
    """(samples, keys of those whose files do not all lie side by side): a key that comes again with other files goes on
    where it began. One that comes again with the same files is another sample."""
    if len({sample.key for sample in samples}) == len(samples):
        return samples, []
    found: list[TarSample] = []
    places: dict[str, int] = {}
    apart: dict[str, None] = {}
    for sample in samples:
        at = places.get(sample.key)
        begun = None if at is None else found[at]
        if at is not None and begun is not None and endings(begun).isdisjoint(endings(sample)):
            members, faults = begun.members | sample.members, {**begun.faults, **sample.faults}
            found[at] = TarSample(sample.key, members, faults)
            apart[sample.key] = None
        else:
            places[sample.key] = len(found)
            found.append(sample)
    return found, list(apart)


def endings(sample: TarSample) -> set[str]:
    """Extensions that the tar names for a sample."""
    return {*sample.members, *sample.faults}
