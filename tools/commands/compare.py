"""`headrace compare` puts runs side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

from headrace.tools.commands.arguments import Command, named, print_json


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="run folders")
    parser.add_argument("--out", metavar="FILE.html", type=named("page", ".html"), help="write a page, too")
    parser.add_argument("--json", action="store_true", help="print what differs and the scores as JSON")


def run(args: argparse.Namespace) -> None:
    from headrace.tools.comparison import compare
    from headrace.tools.progress import say, show

    compared = compare(args.runs)
    if args.json:
        print_json(compared.to_dict())
    else:
        for table in compared.tables():
            show(table)
    if args.out is not None:
        from headrace.tools.pictures.compared import write_comparison

        say(f"{write_comparison(compared, args.out)} has the curves")


COMMAND = Command(
    "compare",
    "put runs side by side: configuration, curves, scores",
    """\
Says in which settings runs differ, how each went, and what their encoders are worth, with intervals where
`headrace eval` found them. --out writes a page with the curves over one another.

  headrace compare runs/first runs/second
  headrace compare runs/* --out compared.html""",
    declare,
    run,
)
