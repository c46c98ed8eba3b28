"""Which fields and which samples of tars that another program wrote make a set, whose samples all have all fields.

A field stays if at least half of all samples have it, and have it beside the fields that more of them have; samples
that lack one that stays are left out. So one file that is missing costs one sample, one that is there too much costs
none, and no set comes out with less than half of its samples. What is left out is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from headrace.shards.errors import ShardError
from headrace.shards.fields import ENCODINGS
from headrace.shards.formats.foreign_fields import Names, ScannedTar, name_extensions, printable, some
from headrace.shards.formats.tar_samples import TarSample

MAX_FIELDS = 256
"""More are names in which the first dot does not end the key."""


class LeftOut(NamedTuple):
    """A sample that is no part of the set."""

    shard: str
    """Name of the tar."""
    offset: int
    """Of its first file there."""
    key: str
    reason: str

    @property
    def where(self) -> str:
        """As `ShardSet.where` says it of those that are a part."""
        return f"{self.shard}, offset {self.offset}, key {printable(self.key)}"


@dataclass(frozen=True, kw_only=True)
class Omitted:
    """What files of another program hold and the set does not."""

    samples: Sequence[LeftOut] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    """Why, by the name that the field would have."""
    files: Mapping[str, int] = field(default_factory=dict)
    """Number of files that are no part of any sample, by their ending or another reason."""

    @property
    def hint(self) -> str:
        """What to add where a field is looked for in vain; empty where none was left out."""
        out = "; ".join(f"{name}, {why}" for name, why in self.fields.items())
        return f" (left out when it was opened, because fewer than half of its samples have it: {out})" if out else ""


class Choice(NamedTuple):
    """What a set is made of."""

    names: Names
    fields: dict[str, str]
    """Kind by name, sorted."""
    tars: list[ScannedTar]
    """With the samples that have all of these."""
    omitted: Omitted
    notes: list[str]
    """What is to be said about it."""


def choose(tars: list[ScannedTar]) -> Choice:
    """The choice; ShardError where there is no field that at least half of the samples have."""
    seen: Counter[frozenset[str]] = Counter()
    faulty: set[str] = set()
    for _, samples in tars:
        for sample in samples:
            seen[frozenset(sample.members)] += 1
            if sample.faults:
                faulty.update(sample.faults)
    names = name_extensions(seen.keys(), faulty, tars)
    endings: dict[str, set[str]] = {}
    kinds = {}
    for extension, (name, kind) in names.items():
        endings.setdefault(name, set()).add(extension)
        kinds[name] = kind
    counts = {name: sum(seen[found] for found in seen if found & own) for name, own in endings.items()}
    total, good = seen.total(), set(seen)
    out: dict[str, str] = {}
    for name in sorted(endings, key=lambda name: (-counts[name], kinds[name] not in ENCODINGS, name)):
        having = {found for found in good if found & endings[name]}
        beside = sum(seen[found] for found in having)
        if 2 * beside >= total and beside:
            good = having
        else:
            out[name] = f"{share(endings[name], counts[name], beside, total)}{first_of(endings[name], tars)}"
    kept = {name: kinds[name] for name in sorted(kinds) if name not in out}
    dotted = [
        extension for extension in names if extension.count(".") > 1 or ("." in extension and extension[0].isdigit())
    ]
    hint = (
        f"the first dot of a name ends the key, so that .{dotted[0]} is a field; else leave one dot in each name"
        if dotted
        else ""
    )
    at = tars[0].shard.mapped.path
    if not kept:
        raise ShardError(
            f"{at}: there is no file that at least half of the samples have: {some(list(out.values()))}; {hint}".rstrip(
                "; "
            )
        )
    if len(kept) > MAX_FIELDS:
        raise ShardError(
            f"{at}: {len(kept):,} files a sample, such as {some([f'.{name}' for name in names])}; {hint}".rstrip("; ")
        )
    wanted = {name: endings[name] for name in kept}
    left_out: list[LeftOut] = []
    chosen: list[ScannedTar] = []
    for shard, samples in tars:
        stay = [sample for sample in samples if frozenset(sample.members) in good]
        if len(stay) < len(samples):
            for sample in samples:
                if frozenset(sample.members) not in good:
                    reason = "; ".join(lacks(sample, wanted))
                    left_out.append(LeftOut(shard.mapped.path.name, sample.offset, sample.key, reason))
        chosen.append(ScannedTar(shard, stay))
    files = {
        f".{extension}": number
        for name in out
        for extension in sorted(endings[name])
        if (number := sum(seen[found] for found in good if extension in found))
    }
    return Choice(
        names,
        kept,
        chosen,
        Omitted(samples=left_out, fields=out, files=files),
        list(said(left_out, out, total, hint if len(names) > total or out or left_out else "")),
    )


def share(endings: set[str], count: int, beside: int, total: int) -> str:
    """How many samples have a field that is left out."""
    have = f"{count:,} of {total:,} samples {'has' if count == 1 else 'have'} it"
    return f"{listed(endings)}: {have}{f', {beside:,} beside the others' if 2 * count >= total else ''}"


def first_of(endings: set[str], tars: list[ScannedTar]) -> str:
    """The first sample of which a file with one of these endings is named and not there, or else the first that has
    one."""
    first = ""
    for shard, samples in tars:
        for sample in samples:
            for ending in endings & sample.faults.keys():
                reason = sample.faults[ending].reason
                return f" ({LeftOut(shard.mapped.path.name, sample.offset, sample.key, '').where}: {reason})"
            if not first and not endings.isdisjoint(sample.members):
                first = f" (the first: {shard.mapped.path.name}, key {printable(sample.key)})"
    return first


def listed(endings: set[str]) -> str:
    """ ".jpg or .png"."""
    return " or ".join(f".{extension}" for extension in sorted(endings))


def lacks(sample: TarSample, wanted: Mapping[str, set[str]]) -> Iterator[str]:
    """What is wrong with a sample that lacks a field."""
    for own in wanted.values():
        if own.isdisjoint(sample.members):
            faults = [sample.faults[ending].reason for ending in sorted(own & sample.faults.keys())]
            yield "; ".join(faults) if faults else f"has no {listed(own)}"


def said(left_out: list[LeftOut], out: Mapping[str, str], total: int, hint: str) -> Iterator[str]:
    """What a person is to know."""
    if out:
        yield f"left out for all samples, because fewer than half have such a file: {some(list(out.values()))}"
    if left_out:
        are = "is" if len(left_out) == 1 else "are"
        named = "; ".join(f"{each.where}: {each.reason}" for each in left_out[:3])
        more = f"; and {len(left_out) - 3:,} more" if len(left_out) > 3 else ""
        yield f"{len(left_out):,} of {total:,} samples {are} left out: {named}{more}"
    if hint:
        yield hint
