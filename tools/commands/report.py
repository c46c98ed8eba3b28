"""`headrace report` writes a run's report."""

from __future__ import annotations

import argparse
from pathlib import Path

from headrace.tools.commands.arguments import Command


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", type=Path, help="run folder")


def run(args: argparse.Namespace) -> None:
    from headrace.tools.pictures.report import write_report
    from headrace.tools.progress import tell

    tell(write_report(args.run_folder))


COMMAND = Command(
    "report",
    "write a run's report.html",
    "Writes RUN/report.html, one file with the curves, scores, views and features of a run.",
    declare,
    run,
)
