"""The command `headrace`: parsing, help, and how a failure reaches a person. The commands are in commands.py.

Exit codes: 0 done, 1 the data or the run failed, 2 the command line or a config was wrong, 130 interrupted, 143
terminated; `verify` has 3 where something could not be read and nothing is wrong with the rest.
HEADRACE_DEBUG=1 shows the traceback behind a one-line failure.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, NoReturn

from headrace.tools.commands import COMMANDS, nearest
from headrace.tools.errors import Terminated

DONE, FAILED, USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143

DESCRIPTION = """\
Headrace feeds self-supervised training at the speed of the machine: it turns raw data into shards, shards
into augmented multi-view batches, and batches into a trained encoder with scores beside it.
"""

EXAMPLES = """\
from a folder of pictures (one folder a class) to a score:
  headrace shard folder photos/train shards/train --format webdataset
  headrace shard folder photos/val shards/val --format webdataset
  headrace show views shards/train --method simclr --out views.png
  headrace train simclr --data shards/train --out runs/first --epochs 100
  headrace eval linear runs/first --data shards/train --test shards/val
  headrace report runs/first

`headrace COMMAND --help` explains a command.
"""


class _Help(argparse.RawDescriptionHelpFormatter):
    """With room for the names of commands, which argparse measures without their indent."""

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        if action.choices is not None and action.metavar == "COMMAND":
            self._action_max_length += 2


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that knows its options by name and refuses in one line with code 2."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Help, **settings)

    @property
    def options(self) -> list[str]:
        """Names of the options, also of those in groups."""
        return list(self._option_string_actions)

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {shown(message)} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: this process's) and return its exit code."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may know fewer letters than a name has
    try:
        parsed = parse(list(sys.argv[1:] if argv is None else argv))
    except SystemExit as stop:  # argparse leaves this way after --help, --version and usage errors
        return int(stop.code or DONE)
    program = f"headrace {parsed.command}"
    try:
        with warnings_as_sentences(program):
            code = parsed.run(parsed)
        sys.stdout.flush()
    except KeyboardInterrupt as stop:
        print(f"{program}: {str(stop) or 'interrupted'}", file=sys.stderr)
        return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away, as in `headrace inspect DIR | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if debugging():
            traceback.print_exception(error)
        print(f"{program}: {sentence(error)}", file=sys.stderr)
        return USAGE if is_a(error, "UsageError", "ConfigError") else FAILED
    return DONE if code is None else code


def parse(arguments: list[str]) -> argparse.Namespace:
    """The parsed command line: `run` is the function to call, `keys` the arguments that set configuration keys, `flags`
    the names of the command's own options.

    Raises:
        SystemExit: after help, with 0, or after a usage error, with 2; both have been printed.
    """
    parser = Parser(prog="headrace", description=DESCRIPTION, epilog=EXAMPLES)
    parser.add_argument("--version", action="version", version=f"headrace {version('headrace')}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", required=True)
    parsers: dict[str, Parser] = {}
    for command in COMMANDS:
        one = subparsers.add_parser(command.name, help=command.summary, description=command.description)
        command.declare(one)
        one.set_defaults(run=command.run)
        parsers[command.name] = one
    if not arguments:
        parser.print_help()
        parser.exit()
    name = arguments[0]
    if not name.startswith("-") and name not in parsers:
        parser.error(f"unknown command {name!r}{nearest(name, parsers)}")
    keys: list[str] = []
    if name in {command.name for command in COMMANDS if command.takes_keys}:
        arguments, keys = split_keys(arguments, parsers[name].options)
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        flag = unknown[0].split("=")[0]
        parsers[name].error(f"unknown argument {flag!r}{nearest(flag, parsers[name].options)}")
    parsed.keys, parsed.flags = keys, parsers[name].options
    return parsed


def split_keys(arguments: list[str], options: Collection[str]) -> tuple[list[str], list[str]]:
    """Part `arguments` into those of the command and the `--key value` or `--key=value` pairs of its configuration.

    A `--key` that is none of `options` is a configuration key; so is the value behind it.
    """
    ours, keys, rest = [], [], list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--") or argument.partition("=")[0] in options:
            ours.append(argument)
            continue
        keys.append(argument)
        if "=" not in argument and rest and not rest[0].startswith("--"):
            keys.append(rest.pop(0))
    return ours, keys


def debugging() -> bool:
    """Whether HEADRACE_DEBUG is set."""
    return os.environ.get("HEADRACE_DEBUG", "0") not in ("", "0")


@contextmanager
def warnings_as_sentences(program: str) -> Iterator[None]:
    """Python's warnings as lines for a person, without the place in the code."""

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        kind = "" if category is UserWarning else f"{category.__name__}: "
        place = f" ({filename}:{lineno})" if debugging() else ""
        print(f"{program}: warning: {kind}{shown(' '.join(str(message).split()))}{place}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def shown(text: str) -> str:
    """The text as a terminal may show it."""
    if text.isascii() and text.isprintable():
        return text
    from headrace.shards.printing import printable

    return printable(text)


def sentence(error: Exception) -> str:
    """What to tell a person about `error`, on one line."""
    if isinstance(error, OSError) and error.filename is not None:
        return shown(f"{error.filename}: {(error.strerror or str(error)).lower()}")
    from headrace.shards.remote.remote import redact

    words = shown(redact(" ".join(str(error).split())))
    if is_a(error, "UserError", "ShardError", "RunError", "ConfigError", "UsageError", "OSError"):
        return words
    return f"{type(error).__name__}: {words} (HEADRACE_DEBUG=1 shows where)"


def is_a(error: Exception, *classes: str) -> bool:
    """isinstance by class name: importing the classes would cost seconds where they were never needed."""
    return any(base.__name__ in classes for base in type(error).__mro__)


if __name__ == "__main__":
    sys.exit(main())
