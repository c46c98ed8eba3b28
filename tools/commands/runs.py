"""`headrace runs` lists runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from headrace.tools.commands.arguments import Command, UsageError, print_json


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", metavar="DIR", type=Path, nargs="?", default=Path("runs"), help="folder of runs (default: runs)"
    )
    parser.add_argument("--json", action="store_true", help="print them as JSON")


def run(args: argparse.Namespace) -> int | None:
    from headrace.tools.errors import UserError
    from headrace.tools.progress import say, show, tell
    from headrace.tools.runs import runs_in, state_of, table

    if not args.folder.is_dir():
        raise UsageError(f"{args.folder}: no folder of runs")
    found, unreadable = [], []
    for folder in runs_in(args.folder):
        try:
            found.append(state_of(folder))
        except (UserError, OSError) as error:
            unreadable.append(str(error))
    if args.json:
        print_json([run.to_dict() for run in found])
    elif found:
        show(table(found, args.folder))
    elif not unreadable:
        tell(f"{args.folder}: no run in it")
    for line in unreadable:
        say(line)
    return 1 if unreadable else None


COMMAND = Command(
    "runs",
    "list runs with their state, progress and scores",
    """\
Lists the runs in and below DIR: whether each runs, has ended and why, or was killed; how far it is, its last line of
metrics, the time that is left, and its scores (those of `headrace eval`, or else the best of its evaluations).

  headrace runs
  headrace runs experiments --json""",
    declare,
    run,
)
