"""`headrace inspect` says what is in a shard set."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

from headrace.tools.commands.arguments import Command, UsageError, at_least, named, positive, print_json


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", metavar="DIR", help="folder of a shard set")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="also write a PNG with some of the pictures")
    parser.add_argument(
        "--duplicates",
        nargs="?",
        const="",
        metavar="OTHER",
        help="look for pictures that DIR holds twice, or shares with the set OTHER; --sheet shows the pairs",
    )
    pairs = named("file of pairs", ".csv", ".jsonl")
    parser.add_argument(
        "--pairs", type=pairs, metavar="FILE", help="with --duplicates: write all pairs to a .csv or .jsonl file"
    )
    bits = "with --duplicates: bits in which hashes may differ (default: 11)"
    parser.add_argument("--distance", type=at_least(0, 64), metavar="BITS", help=bits)
    parser.add_argument("--field", metavar="NAME", help="image field to look at (default: the first)")
    parser.add_argument("--workers", type=positive, metavar="N", help="threads for --duplicates (default: one a core)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> None:
    from headrace.shards import open_shards
    from headrace.tools.progress import tell
    from headrace.tools.upkeep.inspect import contact_sheet, inspect_shards

    if args.duplicates is not None:
        inspect_duplicates(args)
        return
    if args.pairs or args.distance is not None:
        raise UsageError("--pairs and --distance say how to look for --duplicates")
    report = inspect_shards(args.dir)
    if args.sheet:
        with open_shards(args.dir) as shards:
            contact_sheet(shards, args.sheet, field=args.field)
    if args.json:
        print_json(report.to_dict())
    else:
        tell(report)


def inspect_duplicates(args: argparse.Namespace) -> None:
    """`inspect DIR --duplicates [OTHER]`."""
    from headrace.shards import open_shards
    from headrace.tools.progress import sample_bar, tell
    from headrace.tools.upkeep.duplicates import DISTANCE, find_duplicates, pair_sheet, write_pairs

    with ExitStack() as opened:
        paths = [args.dir, args.duplicates] if args.duplicates else [args.dir]
        sets = [opened.enter_context(open_shards(path)) for path in paths]
        with sample_bar("looking for duplicates", total=sum(map(len, sets))) as progress:
            report = find_duplicates(
                *sets,
                field=args.field,
                distance=DISTANCE if args.distance is None else args.distance,
                workers=args.workers,
                progress=progress,
            )
        if args.pairs:
            write_pairs(report.pairs, args.pairs)
        if args.sheet:
            pair_sheet(report.pairs, sets, args.sheet, field=args.field)
    if args.json:
        print_json(report.to_dict())
    else:
        tell(report)


COMMAND = Command(
    "inspect",
    "say what is in a shard set, and what it holds twice",
    """\
Prints the fields, counts, classes and sizes of the shard set in DIR. With --duplicates, finds pictures that are there
twice (the same file, the same pixels, or nearly the same picture), or that DIR shares with a second set.

  headrace inspect shards/train --sheet train.png
  headrace inspect shards/train --duplicates shards/val --pairs leaks.csv --sheet leaks.png""",
    declare,
    run,
)
