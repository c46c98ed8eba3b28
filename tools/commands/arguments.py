"""What the commands share: how one is declared, the kinds of arguments, the names that they refuse."""

from __future__ import annotations

import argparse
import difflib
import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from headrace.train import RunConfig


class UsageError(Exception):
    """The command line asks for something that does not exist; the message says what does."""


class Command(NamedTuple):
    """One command: how it is declared and what runs."""

    name: str
    summary: str
    description: str
    declare: Callable[[argparse.ArgumentParser], object]
    run: Callable[[argparse.Namespace], int | None]
    """Gives the exit code; None stands for 0."""
    takes_keys: bool = False
    """Whether unknown `--key value` pairs are configuration keys."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown `word`: "; did you mean 'x'?", or "" when nothing is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def one_of(*known: str) -> Callable[[str], str]:
    """An argument type that admits only `known`."""

    def check(word: str) -> str:
        if word not in known:
            raise argparse.ArgumentTypeError(f"unknown {word!r}{nearest(word, known)} (known: {', '.join(known)})")
        return word

    return check


SIZE = re.compile(r"([0-9]{1,19}(?:\.[0-9]*)?|\.[0-9]+) ?([KMGT]?)(I?)(B?)", re.ASCII | re.IGNORECASE)


def byte_size(text: str) -> int:
    """Bytes in `text`, such as 4096, 64KB, 256MB, 256MiB or 1TB (powers of 1024)."""
    found = SIZE.fullmatch(text)
    if found is None or (found[3] and not found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write it as 256MB")
    size = float(found[1]) * (1 << 10 * " KMGT".index(found[2].upper() or " "))
    if not 1 <= size < 1 << 63:  # before it is made whole: so many digits may be infinity
        raise argparse.ArgumentTypeError(f"a size must be positive and below 2**63 bytes, got {text!r}")
    return int(size)


def positive(text: str) -> int:
    """A whole number above 0."""
    return at_least(1)(text)


def at_least(least: int, most: int | None = None) -> Callable[[str], int]:
    """An argument type: a whole number from `least` to `most`, both included."""
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"

    def check(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least or (most is not None and number > most):
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number {bounds}")
        return number

    return check


PICTURES = ".png", ".svg", ".pdf", ".jpg"
"""What a drawing may be written as."""


def named(what: str, *endings: str) -> Callable[[str], Path]:
    """An argument type: the name of a file, by its ending."""

    def check(text: str) -> Path:
        if Path(text).suffix.lower() not in endings:
            raise argparse.ArgumentTypeError(f"{text!r}: the name of a {what} ends in one of {', '.join(endings)}")
        return Path(text)

    return check


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share between 0 and 1")
    return number


def print_json(value: Any) -> None:
    """The one thing that a command prints to stdout under --json."""
    print(json.dumps(value, indent=2))


def configuration(name: str) -> RunConfig:
    """What a method with its defaults, a recipe, a run's folder, or a file such as its config.yaml is trained with.

    Raises:
        UsageError: for a name that is none of them, with the nearest known one.
        ConfigError: for a file that cannot be read.
    """
    from headrace.models import METHODS
    from headrace.train import RunConfig
    from headrace.train.recipes import RECIPES
    from headrace.train.recipes.files import ENDINGS, read_config

    path = Path(name)
    if name not in METHODS and name not in RECIPES:
        if path.suffix in ENDINGS or path.is_file():
            return read_config(path)
        if path.exists() or len(path.parts) > 1:
            return read_config(path / "config.yaml")
    if name in RECIPES:
        return RECIPES[name]()
    known("method or recipe", name, [*METHODS, *RECIPES])
    return RunConfig(method=name)


def as_yaml(config: RunConfig) -> str:
    """All of a configuration, as a run's config.yaml has it."""
    import yaml

    text: str = yaml.safe_dump(config.to_dict(), sort_keys=False)
    return text


def known(what: str, word: str, names: Iterable[str]) -> None:
    """Refuse a `word` that is not among `names`.

    Raises:
        UsageError: naming the nearest known one.
    """
    names = list(names)
    if word not in names:
        raise UsageError(f"unknown {what} {word!r}{nearest(word, names)} (known: {', '.join(names)})")
