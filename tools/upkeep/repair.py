"""Mending a damaged shard set: indexes are made anew from the shards, and bad samples are moved out of the set.

What is known decides what is done with a shard:

    the shard's checksum is right         its index is made from it; samples that do not decode are removed
    it is wrong, the index's is right     the index says where each sample lies and what its checksums are: samples
                                          that differ are removed, the others are the original, whatever else is
                                          damaged
    both are wrong                        if the shard can be read from end to end, samples that do not decode are
                                          removed; the others are what is there, and nothing can prove them unchanged
    the shard is missing or unreadable    it is dropped if the user says so, with all its samples
    a disk cannot read parts of it        the index says whose bytes they are: these samples are dropped if the user
                                          says so, the others are saved

Files are read, not mapped, so that a disk that fails is an error of one place. Any other failure of the machine, such
as a file server that is away, ends the repair before anything is changed.

Shards without a finding are linked, not copied, with their indexes: so the set keeps its version, and what is made anew
has that version's checksums. The repaired set is staged beside the old one and takes its place in one step, as a new
set does, so that a process that is killed leaves the old set or the repaired one. What is removed is in the quarantine
folder before that.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from headrace.shards import IMAGE_ENCODINGS, RAW, Manifest, ShardError, ShardSet
from headrace.shards.errors import MachineError
from headrace.shards.fields import ENCODINGS, check_key
from headrace.shards.formats import ffcv, webdataset
from headrace.shards.formats.images import image_header
from headrace.shards.formats.npy import npy_header, parse_npy_header
from headrace.shards.index import Entry, IndexBuilder, OpenShard, entry_places, index_bytes, misplaced
from headrace.shards.machine import cores
from headrace.shards.manifest import MANIFEST_NAME, Shard, index_name, read_manifest, shard_name
from headrace.shards.reading import FileBytes, ReadFile, chunks, is_of_the_medium, joined, readable
from headrace.shards.writing.staging import REJECTS_NAME, Staging, check_replaceable, sync_folder, write_file
from headrace.tools.errors import UserError
from headrace.tools.keys import KeyCheck, Keys
from headrace.tools.upkeep.verify import (
    CHUNK,
    ReadShards,
    VerifyReport,
    check_file,
    check_samples,
    index_to_read,
    is_there,
    listing,
    same_kinds,
    without_map,
)

MOST_NAMES = 8
"""Shards that a line names."""


@dataclass(kw_only=True)
class Removed:
    """A sample that leaves the set."""

    key: str
    offset: int
    """Of its first field in the shard; -1 where it is not known."""
    reasons: list[str]
    parts: dict[str, range]
    """Where its files lie in the shard, by extension; without those that lie outside of it."""
    unread: bool = False
    """Whether a disk cannot read some of it."""


@dataclass(kw_only=True)
class Mended:
    """What can be done about one shard."""

    shard: Shard
    note: str
    """What is wrong and what is done, for a person."""
    part: OpenShard | None = None
    """The shard, read and not mapped, with the index to go by; None where it is lost."""
    keep_file: bool = False
    """True if the shard itself is right and only its index is replaced."""
    good: list[int] = field(default_factory=list)
    """Rows of the index that stay."""
    removed: list[Removed] = field(default_factory=list)
    """The others, and what had no place in the index."""

    @property
    def unread(self) -> int:
        """Samples of which a disk cannot read some."""
        return sum(one.unread for one in self.removed)


@dataclass(kw_only=True)
class RepairPlan:
    """What `repair` is going to do."""

    path: Path
    manifest: Manifest
    mended: dict[int, Mended]
    """By number of the shard; shards that are not among them stay as they are."""

    @property
    def lost(self) -> list[Mended]:
        """Shards of which nothing can be read."""
        return [mended for mended in self.mended.values() if mended.part is None]

    @property
    def unread(self) -> list[Mended]:
        """Shards of which a disk cannot read some samples."""
        return [mended for mended in self.mended.values() if mended.unread]

    @property
    def removed(self) -> int:
        """Samples that are removed one by one; those of lost shards are not counted."""
        return sum(len(mended.removed) for mended in self.mended.values())

    def lines(self) -> list[str]:
        """What is done with each damaged shard, and why each sample is removed."""
        lines = []
        for mended in self.mended.values():
            lines.append(f"{mended.shard.name}: {mended.note}")
            lines += [f"{mended.shard.name}: remove {one.key}: {one.reasons[0]}" for one in mended.removed]
        return lines

    def __str__(self) -> str:
        return listing(f"{self.path}: to repair", self.lines())


@dataclass(frozen=True, kw_only=True)
class RepairReport:
    """What `repair` did."""

    path: str
    """The set."""
    samples: int
    """Samples of the repaired set."""
    removed: int
    """Samples that were moved to the quarantine."""
    dropped: int
    """Samples of the lost shards that were dropped."""
    quarantine: str
    """Folder with what was removed and a removed.jsonl that says why; empty if nothing was."""
    actions: list[str]
    """A line for each damaged shard and each removed sample."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dict(vars(self))

    def __str__(self) -> str:
        lost = f", {self.dropped:,} were in shards that are lost" if self.dropped else ""
        where = f"; they are in {self.quarantine}" if self.quarantine else ""
        return f"{self.path}: repaired, {self.samples:,} samples; {self.removed:,} removed{where}{lost}"


def plan_repair(path: str | os.PathLike[str], report: VerifyReport, *, workers: int | None = None) -> RepairPlan:
    """Look at every shard in which `verify` found something and decide what can be done; nothing is changed.

    Args:
        path: The set.
        report: What `verify` found in it.
        workers: Threads; None takes one per core.

    Raises:
        UserError: The set has no manifest, or it is damaged; or the folder holds other files beside the set.
        MachineError: The machine fails, and not in some sectors of a disk only.
    """
    folder = Path(path)
    if not is_there(folder / MANIFEST_NAME):
        raise UserError(
            f"{folder}: has no manifest, so nothing says what is right; `headrace shard shards {folder} NEW` writes a "
            "set of all its samples that decode"
        )
    try:
        manifest = read_manifest(folder)
        check_replaceable(Path(os.path.realpath(folder)))
    except MachineError:
        raise
    except ShardError as error:
        raise UserError(f"cannot be repaired: {error}") from error
    damaged = {finding.shard for finding in report.findings}
    mended: dict[int, Mended] = {}
    seen = KeyCheck()
    with_keys: list[int] = []

    def again(part: int) -> Keys:
        return good_keys(folder, manifest, with_keys[part], mended)

    with ThreadPoolExecutor(workers or cores()) as pool:
        for number, shard in enumerate(manifest.shards):
            if shard.name in damaged:
                one = mended[number] = look_at(folder, manifest, number)
                if one.part is None:
                    continue
                known = seen.known(one.part.index["key"], again)
                sort_out(pool, folder, manifest, one, one.part, known)
            seen.add(good_keys(folder, manifest, number, mended))
            with_keys.append(number)
    return RepairPlan(path=folder, manifest=manifest, mended=mended)


def good_keys(folder: Path, manifest: Manifest, number: int, mended: dict[int, Mended]) -> Keys:
    """The keys of the samples of a shard that stay."""
    one = mended.get(number)
    if one is None:
        keys: Keys = index_to_read(folder, manifest, manifest.shards[number])["key"]
    else:
        assert one.part is not None
        keys = one.part.index["key"][one.good]
    return keys


def look_at(folder: Path, manifest: Manifest, number: int) -> Mended:
    """What is known of a damaged shard: an index that can be trusted, or one made from the shard.

    MachineError where the machine fails, and not in some sectors of a disk only."""
    shard = manifest.shards[number]
    try:
        file = ReadFile(folder / shard.name)
    except ShardError as error:
        refuse_if_it_may_pass(error)
        return Mended(shard=shard, note=f"lost ({error})")
    of_shard = check_file(file.path, shard.checksum, manifest.checksums)
    of_index = check_file(folder / shard.index, shard.index_checksum, manifest.checksums)
    for check in (of_shard, of_index):
        if check.may_pass:
            raise MachineError(check.line)
    try:
        old = index_to_read(folder, manifest, shard)
    except ShardError as error:
        refuse_if_it_may_pass(error)
        old = None
    if of_index.right and old is not None and not of_shard.right:
        what = of_shard.line if of_shard.unread else "the shard is damaged"
        note = f"{what}; its samples are held against the checksums in the index"
        return Mended(shard=shard, note=note, part=without_map(file, old))
    removed: list[Removed] = []
    note = ""
    try:
        if manifest.format == "webdataset":
            index, removed = index_of_tar(manifest, file)
        else:
            index, note = index_of_beton(manifest, file, number, old, of_index.right)
    except (ShardError, ValueError) as error:
        refuse_if_it_may_pass(error)
        file.close()
        return Mended(shard=shard, note=f"lost: neither the shard nor its index is whole ({error})")
    if manifest.checksums.of_file(index_bytes(index)) == shard.index_checksum:
        note = "the shard is whole, the index is made from it again, byte for byte"
    elif of_shard.right:
        note = f"the shard is whole, its index is made from it{note}"
    else:
        note = f"shard and index are damaged; nothing proves that what can be read is unchanged{note}"
    part = without_map(file, index)
    return Mended(shard=shard, note=note, part=part, keep_file=of_shard.right, removed=removed)


def refuse_if_it_may_pass(error: Exception) -> None:
    """Raise a failure of the machine again, unless it is one of some sectors of a disk."""
    if isinstance(error, MachineError) and not is_of_the_medium(error):
        raise error


def sort_out(
    pool: ThreadPoolExecutor, folder: Path, manifest: Manifest, mended: Mended, part: OpenShard, known: set[bytes]
) -> None:
    """Part the samples of a shard into those that stay and those that are removed; `known` are keys of the shards
    before."""
    shards = ShardSet(folder, replace(manifest, shards=(mended.shard,)), ReadShards([part]), check=True)
    spans = [range(first, min(first + CHUNK, len(shards))) for first in range(0, len(shards), CHUNK)]
    reasons: dict[int, list[str]] = {}
    unread: set[int] = set()
    for findings in pool.map(lambda span: check_samples(shards, part, span), spans):
        for first in findings:
            row = first.row or 0
            # What could not be read may be a moment later.
            for finding in check_samples(shards, part, range(row, row + 1)) if first.unread else [first]:
                reasons.setdefault(row, []).append(finding.line)
                if finding.unread:
                    unread.add(row)
    seen: set[bytes] = set()
    for row, key in enumerate(part.index["key"].tolist()):
        try:
            check_key(key.decode())
            if key in known or key in seen:
                reasons.setdefault(row, []).append("the key appears twice")
        except (ShardError, UnicodeDecodeError) as error:
            reasons.setdefault(row, []).append(str(error))
        if row in reasons:
            mended.removed.append(as_found(manifest, part, row, reasons[row], row in unread))
        else:
            mended.good.append(row)
            seen.add(key)
    if mended.removed:
        mended.keep_file = False


def as_found(manifest: Manifest, part: OpenShard, row: int, reasons: list[str], unread: bool) -> Removed:
    """A sample with the places where the index says that its bytes are; MachineError where they are `unread` for other
    reasons than sectors of a disk."""
    record = part.index[row]
    parts = {}
    for name, declared in manifest.fields.items():
        offset, size = int(record[f"{name}.offset"]), int(record[f"{name}.size"])
        if misplaced(part.mapped.size, offset, size):
            continue
        ending: str = declared.kind
        if declared.kind == "image":
            ending = IMAGE_ENCODINGS[min(int(record[f"{name}.encoding"]), len(IMAGE_ENCODINGS) - 1)]
        place = parts[f"{name}.{ending}"] = range(offset, offset + size)
        if unread:
            readable(file_of(part), place)
    first = next(iter(manifest.fields))
    key = record["key"].decode(errors="surrogateescape")
    return Removed(key=key, offset=int(record[f"{first}.offset"]), reasons=reasons, parts=parts, unread=unread)


def file_of(part: OpenShard) -> ReadFile:
    """The file of a shard that `without_map` made."""
    return cast(ReadFile, part.mapped)


def index_of_tar(manifest: Manifest, file: ReadFile) -> tuple[npt.NDArray[np.void], list[Removed]]:
    """The index of a tar, and the samples of which it holds not all fields; ShardError where it is not whole."""
    builder = IndexBuilder(manifest.fields, manifest.checksums)
    removed = []
    for key, members in webdataset.group_members(file.path, webdataset.scan_tar(file)):
        try:
            entries = [tar_entry(manifest, file, name, members) for name in manifest.fields]
        except (ValueError, MachineError) as error:
            refuse_if_it_may_pass(error)
            parts = {ending: range(member.offset, member.offset + member.size) for ending, member in members.items()}
            offset = min(member.offset for member in members.values())
            unread = isinstance(error, MachineError)
            removed.append(Removed(key=key, offset=offset, reasons=[str(error)], parts=parts, unread=unread))
            continue
        builder.add(key.encode(errors="surrogateescape"), entries)
    return builder.build(), removed


def tar_entry(manifest: Manifest, file: FileBytes, name: str, members: dict[str, webdataset.TarMember]) -> Entry:
    """Where a field of a sample lies; ValueError where it is missing or not what its extension says."""
    declared = manifest.fields[name]
    encodings = ENCODINGS.get(declared.kind, ("",))
    endings = [webdataset.extension(name, declared.kind, encoding) for encoding in encodings]
    found = [(code, members[ending]) for code, ending in enumerate(endings) if ending in members]
    if len(found) != 1:
        raise ValueError(f"{len(found)} files of the field {name}")
    code, (_, offset, size) = found[0]
    payload = file.array[offset : offset + size]
    height = width = 0
    value: int | float = 0
    if declared.kind == "image" and code == RAW:
        dtype, shape, start = parse_npy_header(payload.data)
        if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3:
            raise ValueError(f"{name} holds no pixels")
        height, width = shape[:2]
        payload, offset, size = payload[start:], offset + start, size - start
    elif declared.kind == "image":
        encoding, height, width, *_ = image_header(payload.data)
        if encoding != code:
            raise ValueError(f"{name} is {IMAGE_ENCODINGS[encoding]}, its name says {IMAGE_ENCODINGS[code]}")
    elif declared.kind in ("int", "float"):
        value = webdataset.decode(declared, payload)
    code = code if declared.kind == "image" else 0
    return Entry(offset, size, manifest.checksums.of_payload(payload.data), value, height, width, code)


def index_of_beton(
    manifest: Manifest, file: ReadFile, number: int, old: npt.NDArray[np.void] | None, old_right: bool
) -> tuple[npt.NDArray[np.void], str]:
    """(index of a .beton, a word on its keys, which the .beton does not hold); ShardError where it is not whole."""
    beton = ffcv.read_beton(file)
    if not same_kinds(manifest.fields, beton.fields):
        raise ShardError(f"{file.path}: its fields are not those of the manifest")
    tables = ffcv.index_beton(file, beton, manifest.checksums, 0)
    keys, note = [b"lost-%06d-%09d" % (number, row) for row in range(len(tables))], "; the keys are lost, and numbered"
    if old is not None and len(old) == len(tables):
        keys, note = old["key"].tolist(), "" if old_right else "; the keys are those of the damaged index"
    builder = IndexBuilder(manifest.fields, manifest.checksums)
    for key, record in zip(keys, tables, strict=True):
        entries = []
        for name, declared in manifest.fields.items():
            offset, size = int(record[f"{name}.offset"]), int(record[f"{name}.size"])
            inside = not misplaced(file.size, offset, size)
            payload = readable(file, range(offset, offset + size)) if inside else None
            # Without one the sample is going to be removed.
            checksum = manifest.checksums.of_payload(payload.data) if isinstance(payload, np.ndarray) else 0
            columns = ("value",) if declared.kind in ("int", "float") else ("height", "width", "encoding")
            numbers = {c: record[f"{name}.{c}"].item() for c in columns if f"{name}.{c}" in (tables.dtype.names or ())}
            entries.append(Entry(offset, size, checksum, **numbers))
        builder.add(key, entries)
    return builder.build(), note


def repair(plan: RepairPlan, *, drop_missing: bool = False) -> RepairReport:
    """Do what the plan says.

    Args:
        plan: From `plan_repair`, a moment ago.
        drop_missing: Leave out the shards that are lost, and the samples that cannot be read; without it they are an
            error.

    Raises:
        UserError: There is something lost, or no sample would be left.
        ShardError: The set cannot be written. In either case it is as before.
    """
    if (plan.lost or plan.unread) and not drop_missing:
        lost = sorted([*plan.lost, *plan.unread], key=lambda mended: mended.shard.name)
        names = ", ".join(mended.shard.name for mended in lost[:MOST_NAMES])
        more = f" and {len(lost) - MOST_NAMES} shards more" if len(lost) > MOST_NAMES else ""
        samples = sum(mended.unread if mended.part else mended.shard.samples for mended in lost)
        raise UserError(
            f"{plan.path}: {names}{more} cannot be read, with {samples:,} samples; copy them again, or repair with "
            "--drop-missing to go on without these samples"
        )
    if all(number in plan.mended and not plan.mended[number].good for number in range(len(plan.manifest.shards))):
        raise UserError(f"{plan.path}: no sample would be left; nothing was changed")
    try:
        with Staging(plan.path, use="repair") as staging:
            if read_manifest(plan.path) != plan.manifest:
                raise ShardError(f"{plan.path}: another set has come since it was looked at; nothing was changed")
            shards = list(staged_shards(plan, staging.set))
            if (plan.path / REJECTS_NAME).exists():
                link(plan.path / REJECTS_NAME, staging.set / REJECTS_NAME)
            manifest = replace(plan.manifest, shards=tuple(shards), provenance=provenance(plan))
            quarantine = write_quarantine(plan, staging.destination)
            write_file(staging.set / MANIFEST_NAME, manifest.to_json().encode())
            staging.commit()
    except OSError as error:
        reason = error.strerror or error
        raise ShardError(f"{plan.path}: cannot write the repaired set: {reason}; nothing was changed") from error
    finally:
        for mended in plan.mended.values():
            if mended.part is not None:
                mended.part.mapped.close()
    return RepairReport(
        path=str(plan.path),
        samples=manifest.samples,
        removed=plan.removed,
        dropped=sum(mended.shard.samples for mended in plan.lost),
        quarantine=str(quarantine or ""),
        actions=plan.lines(),
    )


def provenance(plan: RepairPlan) -> dict[str, Any]:
    """That of the set, with the number of samples that are not in it any more."""
    gone = plan.manifest.samples - sum(
        len(plan.mended[number].good) if number in plan.mended else shard.samples
        for number, shard in enumerate(plan.manifest.shards)
    )
    before = dict(plan.manifest.provenance)
    earlier = before.get("removed", 0)
    return {**before, "removed": gone + (earlier if type(earlier) is int else 0)} if gone else before


def staged_shards(plan: RepairPlan, folder: Path) -> Iterator[Shard]:
    """Put every shard of the repaired set into the folder, numbered anew."""
    format = plan.manifest.format
    written = 0
    for number, shard in enumerate(plan.manifest.shards):
        mended = plan.mended.get(number)
        if mended is not None and not mended.good:
            continue
        path = folder / shard_name(written, format)
        index_path = folder / index_name(path.name)
        written += 1
        if mended is None:
            link(plan.path / shard.name, path)
            link(plan.path / shard.index, index_path)
            yield replace(shard, name=path.name, index=index_path.name)
            continue
        assert mended.part is not None
        if mended.keep_file:
            link(plan.path / shard.name, path)
            checksum, index = shard.checksum, mended.part.index
        else:
            checksum, index = rewrite(plan.manifest, mended.part, mended.good, path)
        content = index_bytes(index)
        write_file(index_path, content)
        yield Shard(
            name=path.name,
            samples=len(mended.good),
            bytes=path.stat().st_size,
            checksum=checksum,
            index=index_path.name,
            index_bytes=len(content),
            index_checksum=plan.manifest.checksums.of_file(content),
        )


def link(source: Path, target: Path) -> None:
    """Give a file a second name; a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        with open(target, "rb") as file:
            os.fsync(file.fileno())


def rewrite(manifest: Manifest, part: OpenShard, rows: list[int], path: Path) -> tuple[str, npt.NDArray[np.void]]:
    """Write these samples of a shard, byte for byte, into a new one; (its checksum, its index)."""
    shard: webdataset.TarShard | ffcv.BetonShard
    if manifest.format == "webdataset":
        shard = webdataset.TarShard(path, manifest.checksums)
    else:
        shard = ffcv.BetonShard(
            path, manifest.fields, manifest.checksums, page_size_for(manifest, part, rows), len(rows)
        )
    builder = IndexBuilder(manifest.fields, manifest.checksums)
    payloads = [
        (place, f"{name}.{manifest.checksums.payload}")
        for place, (name, field) in enumerate(manifest.fields.items())
        if field.kind not in ("int", "float")
    ]
    with shard.file:
        for row in rows:
            key = bytes(part.index[row]["key"])
            entries = shard.add(key, list(stored(manifest, part, row)))
            if any(entries[place].checksum != part.index[column][row] for place, column in payloads):
                at = f"{part.mapped.path}, key {key.decode()}"
                raise ShardError(f"{at}: reads as something else than a moment ago; nothing was changed")
            builder.add(key, entries)
        checksum = shard.finish()
        os.fsync(shard.file.fileno())
    return checksum, builder.build()


def page_size_for(manifest: Manifest, part: OpenShard, rows: list[int]) -> int:
    """That of the damaged .beton, unless its header is damaged too; in any case enough for every sample."""
    sizes = np.sum([part.index[f"{name}.size"][rows] + 1 for name in manifest.fields], axis=0)
    page_size = ffcv.MIN_PAGE_SIZE
    while page_size < sizes.max():
        page_size *= 2
    try:
        found = ffcv.read_beton(part.mapped).page_size
    except ShardError:
        return page_size
    return max(page_size, found) if found <= part.mapped.size else page_size


def stored(manifest: Manifest, part: OpenShard, row: int) -> Iterator[Any]:
    """The fields of a sample as a shard takes them, with the bytes that are there."""
    record = part.index[row]
    values = record.item()
    for name, declared in manifest.fields.items():
        offset, size, _, *image = (values[place] for place in entry_places(manifest.fields, manifest.checksums, name))
        payload = part.mapped.array[offset : offset + size]
        height, width, code = image or (0, 0, 0)
        value = record[f"{name}.value"].item() if declared.kind in ("int", "float") else 0
        if manifest.format == "webdataset":
            encoding = webdataset.stored_encoding(declared, payload, code)
            lead = npy_header(np.dtype(np.uint8), (height, width, 3)) if image and code == RAW else b""
            ending = webdataset.extension(name, declared.kind, encoding)
            yield webdataset.Member(ending, lead, payload.data, height, width, code, value)
        elif declared.kind in ("int", "float"):
            yield ffcv.Region(None, value=value)
        else:
            ends = declared.kind in ("text", "json") or not size
            yield ffcv.Region(payload.data, ffcv.ZERO if ends else b"", height, width, code)


def write_quarantine(plan: RepairPlan, destination: Path) -> Path | None:
    """Write what is removed into a new folder beside the set, which appears whole; None if there is nothing.

    removed.jsonl has a line for each sample, {"key", "shard", "offset", "reasons", "files"}, and for each shard that is
    lost, or of which samples cannot be read, {"shard", "samples", "reasons", "files"}. What cannot be read is zeros in
    the files; "unread" has the ranges, {file: [[first byte, behind the last], ...]}.
    """
    if not plan.removed and not plan.lost:
        return None
    number = 1
    while (folder := destination.with_name(f"{destination.name}.quarantine-{number}")).exists():
        number += 1
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    lines: list[dict[str, Any]] = []
    samples = 0
    for mended in plan.mended.values():
        shard = mended.shard
        if mended.part is None or mended.unread:
            names = [shard.name] if mended.part is None else [shard.name, shard.index]
            lines.append(
                {
                    "shard": shard.name,
                    "samples": shard.samples if mended.part is None else mended.unread,
                    "reasons": [mended.note],
                    "files": [name for name in names if keep(plan.path / name, temporary / name)],
                }
            )
        for removed in mended.removed:
            assert mended.part is not None
            files = []
            lost = {}
            samples += 1
            for ending, place in removed.parts.items():
                # Keys are not to be trusted as names of files.
                name = f"{samples:06d}.{Path(ending).name}"
                files.append(name)
                ranges = save(file_of(mended.part), place, temporary / name)
                if ranges:
                    lost[name] = ranges
            line = {
                "key": removed.key,
                "shard": shard.name,
                "offset": removed.offset,
                "reasons": removed.reasons,
                "files": files,
            }
            lines.append({**line, "unread": lost} if lost else line)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_file(temporary / "removed.jsonl", text.encode(errors="backslashreplace"))
    sync_folder(temporary)
    os.rename(temporary, folder)
    sync_folder(folder.parent)
    return folder


def keep(source: Path, target: Path) -> bool:
    """Give a file that is damaged a second name, or copy what of it can be read where the file system has no links;
    False where there is nothing."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        return False
    except OSError:
        try:
            file = ReadFile(source)
        except ShardError:
            return False
        save(file, range(file.size), target)
        file.close()
    return True


def save(file: ReadFile, place: range, target: Path) -> list[list[int]]:
    """Copy a part of a file, with zeros for what a disk cannot read; the ranges of these in the copy."""
    lost = []
    with open(target, "wb") as copy:
        for part, content in chunks(file, place):
            if isinstance(content, MachineError):
                lost.append(part)
                copy.write(bytes(len(part)))
            else:
                copy.write(content.data)
        copy.flush()
        os.fsync(copy.fileno())
    return [[part.start - place.start, part.stop - place.start] for part in joined(lost)]
