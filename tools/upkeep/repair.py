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

from dataclasses import dataclass, replace
from typing import Any

from headrace.shards import ShardError
from headrace.shards.manifest import MANIFEST_NAME, read_manifest
from headrace.shards.writing.staging import REJECTS_NAME, Staging, write_file
from headrace.tools.errors import UserError
from headrace.tools.upkeep.mended import RepairPlan
from headrace.tools.upkeep.quarantine import write_quarantine
from headrace.tools.upkeep.rewrite import link, staged_shards

MOST_NAMES = 8
"""Shards that a line names."""


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
