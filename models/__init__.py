"""Methods of self-supervised learning, their losses, backbones and heads."""

from __future__ import annotations

import difflib
from dataclasses import fields, replace
from typing import Any, NamedTuple

from headrace.models.backbones import BackboneConfig, build_backbone
from headrace.models.method import Method
from headrace.models.methods.simclr import SimCLR, SimCLRConfig
from headrace.models.seeding import seeded

__all__ = ["METHODS", "BackboneConfig", "Method", "MethodEntry", "build_backbone", "build_method"]


class MethodEntry(NamedTuple):
    """A method and what configures it."""

    config: type[Any]
    """Keyword-only dataclass; its defaults are the paper's values."""
    method: type[Method]
    """Built from an instance of `config`."""


METHODS: dict[str, MethodEntry] = {
    "simclr": MethodEntry(SimCLRConfig, SimCLR),
}
"""Every method by the name that the command line uses."""


def build_method(name: str, config: Any = None, *, seed: int = 0, **overrides: Any) -> Method:
    """The method `name` with random weights, which are a function of its config and `seed`.

    Args:
        config: an instance of the method's config class; None takes the paper's values.
        overrides: fields of the config to change.

    Raises:
        ValueError: naming the unknown method or field and the nearest known one, or the field with a bad value.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}" + _did_you_mean(name, METHODS))
    entry = METHODS[name]
    config = entry.config() if config is None else config
    if not isinstance(config, entry.config):
        raise ValueError(f"{name} is configured by {entry.config.__name__}, got {type(config).__name__}")
    known = [f.name for f in fields(entry.config)]
    for key in overrides:
        if key not in known:
            raise ValueError(f"{entry.config.__name__} has no field {key!r}" + _did_you_mean(key, known))
    config = replace(config, **overrides)
    with seeded(seed):
        return entry.method(config)


def _did_you_mean(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(known))}"
