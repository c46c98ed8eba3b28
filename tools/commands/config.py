"""`headrace config` shows, checks and explains configurations."""

from __future__ import annotations

import argparse

from headrace.tools.commands.arguments import (
    Command,
    UsageError,
    as_yaml,
    configuration,
    nearest,
    one_of,
    print_json,
)


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="show|check|keys", type=one_of("show", "check", "keys"), help="what to do")
    parser.add_argument(
        "name",
        metavar="METHOD|RECIPE|RUN|FILE|PART",
        nargs="?",
        help="whose configuration; for keys, a group such as optim or model.backbone, or one key (default: all)",
    )
    parser.add_argument("--method", metavar="METHOD|RECIPE", default="simclr", help="for keys: whose (default: simclr)")
    parser.add_argument("--json", action="store_true", help="for keys: print them as JSON")


def run(args: argparse.Namespace) -> None:
    from headrace.tools.progress import tell

    if args.what == "keys":
        _keys(args)
        return
    if args.name is None:
        raise UsageError(f"config {args.what} takes a METHOD, RECIPE, RUN or FILE")
    config = configuration(args.name).with_overrides(args.keys)
    if args.what == "show":
        print(as_yaml(config), end="")
    else:
        missing = " and ".join(f"--{name}" for name in ("data", "out") if not getattr(config, name))
        tell(
            f"{args.name}: {config.method}, {config.epochs} epochs of batches of {config.batch_size}: every key fits"
            + (f"; to train, {missing} must be given" if missing else "")
        )


def _keys(args: argparse.Namespace) -> None:
    from headrace.tools.catalogue import keys_of, wrapped
    from headrace.tools.progress import tell

    config = configuration(args.method).with_overrides(args.keys)
    try:
        found = keys_of(config, args.name or "")
    except KeyError as error:
        raise UsageError(f"unknown part {args.name!r}{nearest(args.name, error.args[0])}") from None
    if args.json:
        print_json([vars(each) for each in found])
        return
    for each in found:
        for line in wrapped(f"{each.key}: {each.type} = {each.default}", "", "    "):
            tell(line)
        for line in wrapped(each.doc, "    "):
            tell(line)


COMMAND = Command(
    "config",
    "show, check or explain a configuration",
    """\
show prints the whole configuration of a method, a recipe, a run or a file as YAML, with --key value set. check says
whether a file fits, or in one line what does not. keys lists every key with its type, its default and what it means;
those below `model` are of --method.

  headrace config show simclr_cifar10 > mine.yaml
  headrace config check mine.yaml
  headrace config keys optim
  headrace config keys model.backbone --method mae""",
    declare,
    run,
    takes_keys=True,
)
