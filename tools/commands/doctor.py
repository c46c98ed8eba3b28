"""`headrace doctor` says what holds training back."""

from __future__ import annotations

import argparse
from pathlib import Path

from headrace.tools.commands.arguments import PICTURES, Command, UsageError, configuration, named, print_json


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", metavar="DIR", help="shard set to train on")
    parser.add_argument("--method", required=True, metavar="METHOD|RECIPE", help="whose training to look at")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="time of each measurement (default: 3)")
    picture = named("picture", *PICTURES)
    parser.add_argument("--out", type=picture, metavar="FILE", help="also draw the waterfall: .png, .svg or .pdf")
    parser.add_argument(
        "--apply", type=Path, metavar="FILE", help="write a configuration with the best loader setting that was found"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> None:
    from dataclasses import asdict

    from headrace.shards.remote.remote import redact
    from headrace.tools.doctor import diagnose, draw, waterfall
    from headrace.tools.pictures.canvas import save
    from headrace.tools.progress import say, show, tell

    if not 0 < args.seconds < 1e6:
        raise UsageError(f"--seconds must be positive, got {args.seconds}")
    config = configuration(args.method).with_overrides(args.keys)
    found = diagnose(args.dir, config, seconds=args.seconds, say=say)
    if args.out:
        save(draw(found, f"{config.method} on {redact(str(args.dir))}"), args.out)
    best = next((proposal for proposal in found.proposals if proposal.config), None)
    if args.apply:
        changes = [f"{key}={value}" for key, value in best.config.items()] if best else []
        config.with_overrides(changes).save(args.apply)
    if args.json:
        print_json(asdict(found))
        return
    show(waterfall(found))
    tell(f"\n{found.limit} limits: {found.advice}.")
    if found.proposals and found.limit == "step":
        tell("These would make loading faster, for which training hardly waits now:")
    for proposal in found.proposals:
        tell(f"  {proposal.gain:.2f} times the {proposal.of}: {proposal.setting}")
    if not found.proposals:
        tell("No other setting that was tried loads faster.")
    if args.apply:
        tell(f"{args.apply}: {best.setting if best else 'as it was'}")


COMMAND = Command(
    "doctor",
    "measure what holds training back, and what would help",
    """\
Measures on the shard set DIR, with METHOD's views and model: reading, decoding, augmenting, collating, transfer and the
training step, each alone, and training as a whole. Names the stage that limits, and tries other loader settings and
other ways to store the images. Configuration keys can be set as for train.

  headrace doctor shards/train --method simclr --batch_size 128 --out waterfall.png
  headrace doctor shards/train --method simclr --apply faster.yaml""",
    declare,
    run,
    takes_keys=True,
)
