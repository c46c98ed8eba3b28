"""`headrace train` trains an encoder."""

from __future__ import annotations

import argparse
from pathlib import Path
from signal import Signals

from headrace.tools.commands.arguments import Command, UsageError, configuration, print_json


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("method", metavar="METHOD|RECIPE", help="a method with its defaults, or a whole recipe")
    parser.add_argument("--data", required=True, metavar="DIR", help="shard set to train on")
    parser.add_argument("--out", required=True, metavar="RUN", help="run folder; a run that is there goes on")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML with configuration keys, as in RUN/config.yaml"
    )
    parser.add_argument(
        "--init", default="", metavar="RUN|FILE", help="start the backbone from another run, or from a file of weights"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int | None:
    from dataclasses import asdict

    from headrace.train import RunConfig, train
    from headrace.train.recipes import RECIPES

    if args.config is None:
        config = configuration(args.method)
    elif args.method in RECIPES:
        raise UsageError(f"the recipe {args.method!r} is a whole configuration; name a method beside --config")
    else:
        config = RunConfig.load(args.config).with_overrides([f"method={args.method}"])
    config = config.with_overrides(args.keys)
    config.data, config.out, config.init = args.data, args.out, args.init or config.init
    result = train(config)
    if args.json:
        done = {"steps": result.step, "checkpoint": str(result.checkpoint), "last": result.record or {}}
        print_json(done | {"ending": asdict(result.ending)})
    why = result.ending.why
    if why in Signals.__members__:
        return 128 + Signals[why]
    return 124 if why == "wall time" else None  # as timeout's


COMMAND = Command(
    "train",
    "train an encoder, or go on with a run",
    """\
Trains METHOD (with its defaults) or RECIPE (a whole configuration) on the shard set --data into the folder --out.
The same command again goes on from the newest checkpoint. Any configuration key can be set as --key value, nested
ones with dots; a key that does not exist is refused.

  headrace train simclr --data shards/train --out runs/first --epochs 100 --batch_size 512
  headrace train simclr --data shards/train --out runs/second --config runs/first/config.yaml --seed 1""",
    declare,
    run,
    takes_keys=True,
)
