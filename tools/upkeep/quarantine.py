"""The folder of what a repair removes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from headrace.shards import ShardError
from headrace.shards.errors import MachineError
from headrace.shards.reading import ReadFile, chunks, joined
from headrace.shards.writing.staging import sync_path, write_file
from headrace.tools.upkeep.mended import RepairPlan, file_of


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
    sync_path(temporary)
    os.rename(temporary, folder)
    sync_path(folder.parent)
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
