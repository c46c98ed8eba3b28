"""What is known of each damaged shard, and which of its samples stay."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from headrace.shards import IMAGE_ENCODINGS, Manifest, ShardError, ShardSet
from headrace.shards.errors import MachineError
from headrace.shards.fields import check_key
from headrace.shards.index import OpenShard, index_bytes, misplaced
from headrace.shards.machine import cores
from headrace.shards.manifest import MANIFEST_NAME, read_manifest
from headrace.shards.reading import ReadFile, readable
from headrace.shards.writing.staging import check_replaceable
from headrace.tools.errors import UserError
from headrace.tools.keys import KeyCheck, Keys
from headrace.tools.upkeep.findings import VerifyReport
from headrace.tools.upkeep.mended import Mended, Removed, RepairPlan, file_of, refuse_if_it_may_pass
from headrace.tools.upkeep.reindex import index_of_beton, index_of_tar
from headrace.tools.upkeep.sample_check import CHUNK, check_samples
from headrace.tools.upkeep.shard_check import check_file
from headrace.tools.upkeep.unmapped import ReadShards, index_to_read, is_there, without_map


def plan_repair(path: str | os.PathLike[str], report: VerifyReport, *, workers: int | None = None) -> RepairPlan:
    """Look at every shard in which `verify` found something and decide what can be done; nothing is changed.

    Args:
        path: The set.
        report: What `verify` found in it.
        workers: Threads; None takes one per core.

    Raises:
        UserError: The set has no manifest, or it is damaged; or the folder holds other files beside the set; or a
            picture has more pixels than the limit.
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


def sort_out(
    pool: ThreadPoolExecutor, folder: Path, manifest: Manifest, mended: Mended, part: OpenShard, known: set[bytes]
) -> None:
    """Part the samples of a shard into those that stay and those that are removed; `known` are keys of the shards
    before. UserError for a picture that is too large to be looked at."""
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
                if finding.too_large:
                    raise UserError(f"{finding.line}; a repair would remove it, so nothing was changed")
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
