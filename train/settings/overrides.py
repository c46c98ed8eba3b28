"""Words of the command line as changes of a config: `optim.lr=0.3`, `--optim.lr 0.3`."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from headrace.train.errors import ConfigError
from headrace.train.settings.plain import CLASS, arguments, nearest, read_yaml


def split_arguments(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(dotted key, value as text) of each override; dashes in keys stand for underscores.

    Raises:
        ConfigError: for a word without key or value.
    """
    rest = iter(words)
    for word in rest:
        key, equals, text = word.removeprefix("--").partition("=")
        if not equals:
            if not word.startswith("--"):
                raise ConfigError(f"{word}: an override reads key=value or --key value")
            following = next(rest, None)
            if following is None or following.startswith("--"):
                raise ConfigError(f"{word}: needs a value")
            text = following
        yield key.replace("-", "_"), text


def override(values: dict[str, Any], key: str, text: str, cls: type[Any], **hints: Any) -> None:
    """Set the dotted `key` in the nested plain `values` of the dataclass `cls` to what `text` means for that field.

    Args:
        text: YAML, but for fields that hold nothing but a text.
        hints: types of fields that the class leaves open.

    Raises:
        ConfigError: if there is no such field, or `text` is no YAML.
    """
    *groups, last = names = key.split(".")
    top = known = {**arguments(cls), **hints}
    for depth, name in enumerate(names):
        if name not in known:
            beside = [".".join([*names[:depth], other]) for other in known] if depth else []
            raise ConfigError(f"{key}: unknown key{nearest(key, list(dict.fromkeys([*beside, *_dotted_keys(top)])))}")
        if depth == len(groups):
            break
        below = _below(known[name], names[depth + 1])
        if not below:
            raise ConfigError(f"{key}: {'.'.join(names[: depth + 1])} has no keys of its own")
        if not isinstance(values.get(name), dict):
            values[name] = {}
        values = values[name]
        if below == {names[depth + 1]: Any}:  # free-form from here on
            values[".".join(names[depth + 1 :])] = _parse(text, key)
            return
        known = below
    nullable = types.NoneType in get_args(known[last])
    as_it_is = _is_text(known[last]) and not (nullable and text in ("null", "~", ""))
    values[last] = text if as_it_is else _parse(text, key)


def merge(values: dict[str, Any], changes: Mapping[str, Any], cls: type[Any], **hints: Any) -> None:
    """Set in the nested plain `values` of the dataclass `cls` what `changes` have, group by group: keys of a group that
    they leave out stay. Lists and free mappings are replaced, and a group of another class.

    Args:
        hints: types of fields that the class leaves open.
    """
    known = {**arguments(cls), **hints}
    for name, change in changes.items():
        former = values.get(name)
        groups = [option for option in _options(known.get(name)) if is_dataclass(option) and isinstance(option, type)]
        if isinstance(former, dict) and isinstance(change, Mapping) and groups:
            kind = former.get(CLASS)
            if CLASS not in change or change[CLASS] == kind:
                group = next((option for option in groups if option.__name__ == kind), groups[0])
                merge(former, change, group)
                continue
        values[name] = change


def _dotted_keys(known: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, hint in known.items():
        classes = [option for option in _options(hint) if is_dataclass(option)]
        if not classes:
            yield prefix + name
        for each in classes:
            yield from _dotted_keys(arguments(each), f"{prefix}{name}.")  # type: ignore[arg-type]


def _below(hint: Any, name: str) -> dict[str, Any]:
    """The keys, with their types, that a field of the type `hint` may have, of which any mapping has `name`."""
    keys: dict[str, Any] = {}
    for option in _options(hint):
        if (get_origin(option) or option) in (dict, Mapping):
            keys[name] = (get_args(option) or (Any, Any))[1]
        elif is_dataclass(option):
            keys.update(arguments(option))  # type: ignore[arg-type]
    return keys


def _options(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _is_text(hint: Any) -> bool:
    """Whether a field takes what stands on the command line as it is, and nothing else, but for null."""
    options = [option for option in _options(hint) if option is not types.NoneType]
    return all(
        option is str or (get_origin(option) is Literal and all(isinstance(each, str) for each in get_args(option)))
        for option in options
    )


def _parse(text: str, key: str) -> Any:
    try:
        return read_yaml(text)
    except yaml.YAMLError:
        raise ConfigError(f"{key}: not a YAML value: {text!r}") from None
