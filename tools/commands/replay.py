"""`headrace replay` takes a bad step again."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.tools.commands.arguments import Command, print_json

if TYPE_CHECKING:
    from headrace.train import Replay


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("capsule", metavar="CAPSULE", type=Path, help="a folder in RUN/capsules")
    parser.add_argument("--data", default="", metavar="DIR", help="shard set, if it is not where it was")
    parser.add_argument("--json", action="store_true", help="print what came of it as JSON")


def run(args: argparse.Namespace) -> int:
    from headrace.tools.progress import tell
    from headrace.train import replay

    found = replay(args.capsule, data=args.data)
    if found.rank == 0:
        if args.json:
            print_json(as_json(found))
        else:
            tell(as_text(found))
    return 0 if found.same else 1


def as_json(found: Replay) -> dict[str, object]:
    """Numbers that are not finite as texts, which JSON has no other place for."""
    from dataclasses import asdict

    from headrace.train.guard.capsule import plain

    told: dict[str, object] = plain(asdict(found))
    return told | {"not_finite": found.not_finite, "same": found.same}


def as_text(found: Replay) -> str:
    """What came of it, for a person."""
    place = found.place
    ranks = "1 rank" if place["world_size"] == 1 else f"{place['world_size']} ranks, this is the first"
    lines = [
        f"step {place['step']} (epoch {place['epoch']}, batch {place['batch']}, seed {place['seed']}), kept because of "
        f"its {place['kind']}; {len(place['samples'])} samples, {ranks}, {place['precision']}",
        "",
    ]
    width = max(map(len, [*found.terms, *found.norms]))
    lines += [f"  {name:{width}}  {value:.9g}" for name, value in found.terms.items()]
    lines += ["", "norms of gradients"]
    lines += [f"  {name:{width}}  {norm:.9g}" for name, norm in found.norms.items()]
    bad = found.not_finite
    if bad:
        order = f"; the backward pass came from the last, {bad[-1]}" if len(bad) > 1 else ""
        lines += ["", f"{len(bad)} of {len(found.norms)} gradients are not finite, the first is of {bad[0]}{order}"]
    lines += [
        "",
        "the same bits as recorded" if found.same else f"not the bits that were recorded: {some(found.differs)}",
    ]
    lines += [f"  {note}" for note in found.notes if not found.same]
    return "\n".join(lines)


def some(names: list[str]) -> str:
    """The first few, and how many more."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


COMMAND = Command(
    "replay",
    "take a run's bad step again",
    """\
Takes the step that a run has kept in CAPSULE again, up to its gradient: prints the terms of the loss, the norm of each
parameter's gradient and which is not finite, and whether all of it has the bits that were recorded. Ends with code 1
where it has not. A step of several ranks is started by torchrun with as many.

  headrace replay runs/first/capsules/step-00000006
  headrace replay runs/first/capsules/step-00000006 --data /elsewhere/shards/train --json""",
    declare,
    run,
)
