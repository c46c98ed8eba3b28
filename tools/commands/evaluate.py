"""`headrace eval` scores a run's encoder."""

from __future__ import annotations

import argparse
from pathlib import Path

from headrace.tools.commands.arguments import Command, one_of, print_json


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "probe", metavar="PROBE", type=one_of("knn", "linear", "finetune"), help="knn, linear or finetune"
    )
    parser.add_argument("run_folder", metavar="RUN", type=Path, help="run folder")
    parser.add_argument("--data", required=True, metavar="DIR", help="labelled shard set to learn from")
    parser.add_argument(
        "--test",
        metavar="DIR",
        help="shard set to score on (default: a fifth of --data, held out)",
    )
    parser.add_argument("--json", action="store_true", help="print the table as JSON")


def run(args: argparse.Namespace) -> None:
    from headrace.tools.evaluate import evaluate, table
    from headrace.tools.progress import show

    scores = evaluate(args.run_folder, args.data, args.test, probes=(args.probe,))
    if args.json:
        print_json({"probes": scores})
    else:
        show(table({"probes": scores}))


COMMAND = Command(
    "eval",
    "score a run's frozen encoder",
    """\
Scores the newest checkpoint of RUN beside the untrained encoder and raw pixels, and keeps the scores in
RUN/results.json. knn and linear leave the encoder as it is; finetune trains it too, and takes its time.

  headrace eval linear runs/first --data shards/train --test shards/val""",
    declare,
    run,
)
