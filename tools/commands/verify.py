"""`headrace verify` checks, repairs and compares shard sets."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from headrace.tools.commands.arguments import Command, UsageError, positive, print_json

if TYPE_CHECKING:
    from headrace.tools.upkeep.findings import VerifyReport


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", metavar="DIR", help="folder of a shard set")
    parser.add_argument("other", metavar="OTHER", nargs="?", help="a second set: do both hold the same samples?")
    parser.add_argument("--fast", action="store_true", help="check names, sizes and checksums only: decode nothing")
    parser.add_argument(
        "--repair", action="store_true", help="make lost indexes anew and move bad samples into DIR.quarantine-N"
    )
    parser.add_argument("--dry-run", action="store_true", help="with --repair: only say what would be done")
    parser.add_argument(
        "--drop-missing", action="store_true", help="with --repair: go on without what is missing or cannot be read"
    )
    parser.add_argument("--workers", type=positive, metavar="N", help="threads (default: one a core)")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")


UNREAD = 3
"""Exit code where something could not be read, and nothing is wrong with the rest."""


def run(args: argparse.Namespace) -> int:
    from headrace.shards.errors import MachineError
    from headrace.tools.progress import say

    try:
        return check(args)
    except MachineError as error:
        say(f"headrace verify: {error}")
        return UNREAD


def check(args: argparse.Namespace) -> int:
    """`run`; MachineError where nothing is known because the machine fails."""
    from headrace.shards.remote.remote import is_remote, redact
    from headrace.tools.progress import sample_bar, tell
    from headrace.tools.upkeep.verify import verify

    if (args.dry_run or args.drop_missing) and not args.repair:
        raise UsageError("--dry-run and --drop-missing say how to --repair")
    if args.other is not None:
        if args.repair:
            raise UsageError("two sets are compared, one is repaired")
        if args.fast:
            raise UsageError("two sets are compared by what they decode to; --fast is for one")
        return compare_sets(args)
    if args.repair and is_remote(args.dir):
        raise UsageError(f"{redact(args.dir)}: a remote set is not repaired in place; copy it here")
    with sample_bar(f"verifying {args.dir}") as progress:
        report = verify(args.dir, fast=args.fast, workers=args.workers, progress=progress, started=progress.of)
    if args.repair and not report.ok:
        return repair_set(args, report)
    if args.json:
        print_json(report.to_dict())
    else:
        tell(report)
    return 0 if report.ok else UNREAD if report.unread else 1


def compare_sets(args: argparse.Namespace) -> int:
    """`verify DIR OTHER`."""
    from headrace.tools.progress import sample_bar, tell
    from headrace.tools.upkeep.compare import compare
    from headrace.tools.upkeep.unmapped import open_checked

    bar = sample_bar(f"comparing {args.dir} and {args.other}")
    with open_checked(args.dir) as one, open_checked(args.other) as other, bar as progress:
        report = compare(one, other, workers=args.workers, progress=progress, started=progress.of)
    if args.json:
        print_json(report.to_dict())
    else:
        tell(report)
    return 0 if report.ok else 1 if report.differences else UNREAD


def repair_set(args: argparse.Namespace, report: VerifyReport) -> int:
    """`verify DIR --repair` of a set in which something was found."""
    from headrace.shards.remote.remote import redact
    from headrace.tools.progress import say, tell
    from headrace.tools.upkeep.repair import repair
    from headrace.tools.upkeep.repair_plan import plan_repair

    say(str(report))
    plan = plan_repair(args.dir, report, workers=args.workers)
    say(str(plan))
    if args.dry_run:
        if args.json:
            print_json({"found": report.to_dict(), "plan": plan.lines()})
        else:
            tell(f"{redact(args.dir)}: nothing was changed")
        return 1
    done = repair(plan, drop_missing=args.drop_missing)
    if args.json:
        print_json({"found": report.to_dict(), "repair": done.to_dict()})
    else:
        tell(done)
    return 0


COMMAND = Command(
    "verify",
    "check a shard set's checksums, index and samples, repair it, or compare two",
    """\
Reads every shard of DIR, checks it against manifest.json and decodes every sample, all of every picture, video and
sound; --fast decodes nothing. Ends with code 1 if anything is wrong, and with 3 if something could not be read and
nothing is wrong with the rest. With --repair, lost indexes are made anew, bad samples go to the folder
DIR.quarantine-N with the reasons, and the repaired set takes the place of the old one in one step. With OTHER, the two
sets are compared sample by sample.

  headrace verify shards/train
  headrace verify shards/train --repair --dry-run
  headrace verify shards/train shards/train-ffcv""",
    declare,
    run,
)
