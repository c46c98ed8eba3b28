"""`headrace train` trains an encoder."""

from __future__ import annotations

import argparse
from pathlib import Path
from signal import Signals

from headrace.tools.commands.arguments import Command, UsageError, as_yaml, configuration, print_json


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "method",
        metavar="METHOD|RECIPE|FILE",
        help="a method with its defaults, a whole recipe, or a .yaml file with a configuration",
    )
    parser.add_argument("--data", metavar="DIR", help="shard set to train on, unless FILE says it")
    parser.add_argument("--out", metavar="RUN", help="run folder, unless FILE says it; a run that is there goes on")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML with configuration keys, as in RUN/config.yaml"
    )
    parser.add_argument(
        "--init", default="", metavar="RUN|FILE", help="start the backbone from another run, or from a file of weights"
    )
    parser.add_argument("--print-config", action="store_true", help="print the whole configuration as YAML, and stop")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int | None:
    from dataclasses import asdict

    from headrace.models import METHODS
    from headrace.train import train
    from headrace.train.recipes.files import read_config

    if args.config is None:
        config = configuration(args.method)
    elif args.method not in METHODS:
        raise UsageError(f"{args.method!r} is a whole configuration, or no method; name a method beside --config")
    else:
        config = read_config(args.config).with_overrides([f"method={args.method}"])
    config = config.with_overrides(args.keys)
    for name in ("data", "out", "init"):
        setattr(config, name, getattr(args, name) or getattr(config, name))
    if args.print_config:
        print(as_yaml(config), end="")
        return None
    for name in ("data", "out"):
        if not getattr(config, name):
            raise UsageError(f"--{name} must be given: {args.method} does not say it")
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
Trains METHOD (with its defaults), RECIPE (a whole configuration) or what FILE says on the shard set --data into the
folder --out. The same command again goes on from the newest checkpoint. Any configuration key can be set as --key
value, nested ones with dots; a key that does not exist is refused. A FILE may extend a recipe, a method or another
file: `extends: simclr_cifar10` (`headrace config` shows and checks files, and lists the keys).

  headrace train simclr --data shards/train --out runs/first --epochs 100 --batch_size 512
  headrace train simclr --data shards/train --out runs/second --config runs/first/config.yaml --seed 1
  headrace train mine.yaml --out runs/third
  headrace train dino --data shards/train --print-config""",
    declare,
    run,
    takes_keys=True,
)
