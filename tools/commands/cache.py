"""`headrace cache` shows and empties the caches of remote sets."""

from __future__ import annotations

import argparse
from pathlib import Path

from headrace.tools.commands.arguments import Command, UsageError, one_of, print_json


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="WHAT", type=one_of("ls", "rm"), help="ls: list them; rm: remove some")
    parser.add_argument(
        "name", metavar="SET", nargs="?", help="those of one set, by its URL or by a folder that ls names"
    )
    parser.add_argument("--all", action="store_true", help="with rm: all that no process uses")
    parser.add_argument(
        "--dir", type=Path, metavar="DIR", help="where they lie (default: $HEADRACE_CACHE or ~/.cache/headrace)"
    )
    parser.add_argument("--json", action="store_true", help="print the list as JSON")


def run(args: argparse.Namespace) -> int:
    from headrace.shards.remote.cache_slots import is_used, remove_slot, slots
    from headrace.shards.remote.remote import redact
    from headrace.shards.remote.remote_set import cache_folder
    from headrace.tools.progress import tell

    remove = args.what == "rm"
    if remove and (args.name is None) != args.all:
        raise UsageError("cache rm takes a set's URL, or --all")
    root = cache_folder(args.dir)
    found = slots(root)
    if args.name is not None:
        name = redact(args.name).rstrip("/")
        found = [cached for cached in found if name in (cached.place, str(cached.path), str(cached.path.parent))]
        if remove and not found:
            raise UsageError(f"{root} holds no cache of {name}; `headrace cache ls` lists what it holds")
    used = [not remove_slot(cached.path) if remove else is_used(cached.path) for cached in found]
    if args.json:
        print_json(
            [
                {"set": cached.place, "path": str(cached.path), "bytes": cached.bytes, "in_use": in_use}
                for cached, in_use in zip(found, used, strict=True)
            ]
        )
    else:
        for cached, in_use in zip(found, used, strict=True):
            state = "in use" if in_use else "removed" if remove else "not in use"
            tell(f"{cached.place}: {cached.bytes / 1e6:,.1f} MB, {state}, {cached.path}")
        tell(f"{root}: {len(found)} caches, {sum(cached.bytes for cached in found) / 1e6:,.1f} MB")
    return 1 if remove and any(used) else 0


COMMAND = Command(
    "cache",
    "list or remove the caches of remote sets",
    """\
Shows what sets on S3 and HTTP keep on this machine, or removes it. What a process uses stays.

  headrace cache ls
  headrace cache rm s3://bucket/set
  headrace cache rm --all""",
    declare,
    run,
)
