"""A protocol's settings as the command line changes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headrace.train.settings.overrides import override, split_arguments
from headrace.train.settings.plain import build, to_plain


def with_keys(settings: Any, words: Sequence[str]) -> Any:
    """A copy of `settings` with what `--key value` pairs say.

    Raises:
        ConfigError: for an unknown key, naming the nearest, or a value that does not fit.
    """
    values = to_plain(settings)
    for key, text in split_arguments(words):
        override(values, key, text, type(settings))
    return build(type(settings), values)
