"""`headrace methods` says what can be trained."""

from __future__ import annotations

import argparse

from headrace.tools.commands.arguments import Command, UsageError, known, print_json


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="a method, to be told in full (default: all in a table)"
    )
    parser.add_argument("--json", action="store_true", help="print a list as JSON, an object a method")
    parser.add_argument("--markdown", action="store_true", help="print the page docs/methods.md")


def run(args: argparse.Namespace) -> None:
    from headrace.models import METHODS
    from headrace.tools import catalogue
    from headrace.tools.progress import show, tell

    if args.markdown and (args.name or args.json):
        raise UsageError("--markdown is a page of all methods: give it alone")
    if args.name:
        known("method", args.name, METHODS)
    if args.markdown:
        print(catalogue.markdown(), end="")
    elif args.json:
        print_json([catalogue.in_full(args.name)] if args.name else [catalogue.summary(name) for name in METHODS])
    elif args.name:
        tell(catalogue.text(args.name))
    else:
        show(catalogue.table())


COMMAND = Command(
    "methods",
    "list the methods, or tell one in full",
    """\
Prints every method: its family, what it asks of each sample, its paper (arXiv) and its recipes. With NAME, one in full:
whose code was followed and what deviates, its views, and every key of its configuration with type and default. Where
the name is unknown the nearest known one is named.

  headrace methods
  headrace methods dino
  headrace methods --json""",
    declare,
    run,
)
