"""Dataclasses from what YAML holds, and back: strictly, and with the dotted key of whatever does not fit.

An unknown key is refused with the nearest known one. A text is no number, `true` is no number, and a number with a
point is no integer; lists become the tuples or lists that a field asks for. pydantic, on dataclasses that are not made
for it, passes over unknown keys and takes `true` for 1; what it says of a union would have to be put in words anew.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from yaml.composer import ComposerError

from headrace.train.errors import ConfigError

CLASS = "class"
"""Key that names the class of a mapping where a field may hold several; no field can have this name."""
NEAR, FEW = 3, 12
"""How many known keys a message names that are like an unknown one, and how many there may be to name them all."""
_WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "a text", types.NoneType: "null"}
"""What a value must be, by its type."""


def build(cls: type[Any], values: object, key: str = "", **hints: Any) -> Any:
    """An instance of a dataclass.

    Args:
        cls: its constructor's arguments are the keys; they need not be its fields.
        values: a mapping of plain values; what it leaves out takes its default.
        key: dotted, of the whole.
        hints: types of fields that the class leaves open.

    Raises:
        ConfigError: in one line, with the dotted key, for whatever does not fit; also for what the class refuses.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{key or 'config'}: must be a mapping, got {values!r}")
    hints = {**arguments(cls), **hints}
    converted = {}
    for name, value in values.items():
        dotted = f"{key}.{name}" if key else str(name)
        if name == CLASS and name not in hints:
            if value != cls.__name__:
                raise ConfigError(f"{dotted}: must be {cls.__name__}, got {value!r}")
        elif name not in hints:
            raise ConfigError(f"{dotted}: unknown key{nearest(str(name), list(hints))}")
        else:
            converted[name] = convert(value, hints[name], dotted)
    for name, argument in inspect.signature(cls).parameters.items():
        if argument.default is argument.empty and name not in converted:
            raise ConfigError(f"{key}.{name}: must be given" if key else f"{name}: must be given")
    try:
        return cls(**converted)
    except ConfigError as error:
        raise ConfigError(f"{key}.{error}" if key else str(error)) from None
    except ValueError as error:  # from the configs of methods
        raise ConfigError(f"{key}: {error}") from None


def arguments(cls: type[Any]) -> Mapping[str, Any]:
    """What a dataclass is made from: the type of each of its constructor's arguments."""
    return _arguments(cls)  # type: ignore[arg-type]


@cache
def _arguments(cls: type[Any]) -> Mapping[str, Any]:
    names = list(inspect.signature(cls).parameters)
    own = names == [f.name for f in fields(cls) if f.init]
    hints = get_type_hints(cls if own else cls.__init__)
    return MappingProxyType({name: hints[name] for name in names})


def convert(value: object, hint: Any, key: str) -> Any:
    """A plain value as the type `hint`.

    Raises:
        ConfigError: if it is none.
    """
    origin, options = get_origin(hint), get_args(hint)
    if hint is Any:
        require_plain(value, key)
        return copy.deepcopy(value)
    if _is_class(hint):
        return build(hint, value, key)
    if origin is Literal:
        if not any(value == option and type(value) is type(option) for option in options):
            raise ConfigError(f"{key}: must be one of {', '.join(map(str, options))}, got {value!r}")
        return value
    if origin in (Union, types.UnionType):
        return _convert_to_one(value, options, key)
    if (origin or hint) in (tuple, list, Sequence):
        return _convert_each(value, hint, key)
    if (origin or hint) in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key}: must be a mapping, got {value!r}")
        of_keys, of_values = options or (Any, Any)
        return {convert(k, of_keys, f"{key}.{k}"): convert(v, of_values, f"{key}.{k}") for k, v in value.items()}
    if hint not in _WORDS:
        raise ConfigError(f"{key}: of the type {getattr(hint, '__name__', hint)}, which cannot be written in a config")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{key}: must be a number below 1.8e308, got one of {len(str(value))} digits") from None
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{key}: must be {_WORDS[hint]}, got {value!r}")
    return value if type(value) is hint else hint(value)  # NumPy's numbers are no plain ones


def _convert_each(value: object, hint: Any, key: str) -> Any:
    """A list as the tuple or list that `hint` asks for, each item as its type."""
    origin, options = get_origin(hint) or hint, get_args(hint)
    fixed = origin is tuple and bool(options) and options[-1] is not Ellipsis
    if not isinstance(value, (list, tuple)) or (fixed and len(value) != len(options)):
        wanted = f"a list of {len(options)}" if fixed else "a list"
        raise ConfigError(f"{key}: must be {wanted}, got {value!r}")
    kinds = options if fixed else [options[0] if options else Any] * len(value)
    items = (convert(item, kind, f"{key}[{i}]") for i, (item, kind) in enumerate(zip(value, kinds, strict=True)))
    return list(items) if origin is list else tuple(items)


def _convert_to_one(value: object, options: Sequence[Any], key: str) -> Any:
    """`value` as the one of several types that it is.

    A whole number is taken for an integer where a number may be either. Of several dataclasses the one counts that the
    key "class" names; without one, that whose fields the keys are, all of them or at least no others. Keys that another
    one cannot do without either, and no more, do not tell them apart.
    """
    if value is None and types.NoneType in options:
        return None
    options = [option for option in options if option is not types.NoneType]
    if isinstance(value, Mapping) and CLASS in value and (classes := [each for each in options if _is_class(each)]):
        options = [option for option in classes if option.__name__ == value[CLASS]]
        if not options:
            names = ", ".join(option.__name__ for option in classes)
            raise ConfigError(f"{key}.{CLASS}: must be one of {names}, got {value[CLASS]!r}")
    made: list[tuple[Any, Any]] = []
    errors: list[str] = []
    for option in options:
        try:
            made.append((option, convert(value, option, key)))
        except ConfigError as error:
            errors.append(str(error))
    if not made:
        if len(errors) == 1:
            raise ConfigError(errors[0])
        raise ConfigError(f"{key}: fits none of {len(errors)} kinds: " + "; or ".join(errors))
    exact = [result for option, result in made if _is_exactly(value, option)]
    if len(exact) == 1 and not any(_is_least(value, option) for option, result in made if result is not exact[0]):
        return exact[0]
    if len({type(result) for _, result in made}) > 1 and isinstance(value, Mapping):
        kinds = " or ".join(option.__name__ for option, _ in made)
        raise ConfigError(f"{key}: may be {kinds}; say which with {CLASS}: {made[0][0].__name__}, got {value!r}")
    return exact[0] if exact else made[0][1]


def _is_exactly(value: object, option: Any) -> bool:
    """Whether `value` is of the type, rather than something that becomes it."""
    if _is_class(option):
        return isinstance(value, Mapping) and value.keys() - {CLASS} == arguments(option).keys()
    return option in _WORDS and type(value) is option


def _is_least(value: object, option: Any) -> bool:
    """Whether `value` has just the keys that a dataclass has no defaults for."""
    if not (_is_class(option) and isinstance(value, Mapping)):
        return False
    given = inspect.signature(option).parameters.values()
    return value.keys() - {CLASS} == {each.name for each in given if each.default is inspect.Parameter.empty}


def _is_class(hint: Any) -> bool:
    return is_dataclass(hint) and isinstance(hint, type)


def classes_in(hint: Any) -> list[type[Any]]:
    """The dataclasses that a field of the type `hint` may hold, itself or in lists and mappings."""
    return [hint] if _is_class(hint) else [each for option in get_args(hint) for each in classes_in(option)]


def to_plain(value: Any, hint: Any = Any) -> Any:
    """Dataclasses as dicts and tuples as lists, all the way down; `build` and `convert` turn them back.

    Raises:
        ConfigError: for a dataclass whose constructor does not make it again from its own attributes.
    """
    if is_dataclass(value):
        hints = arguments(type(value))
        plain = {name: to_plain(getattr(value, name), hints[name]) for name in hints}
        if not hints.keys() >= {f.name for f in fields(value)} and build(type(value), plain) != value:
            raise ConfigError(f"this {type(value).__name__} cannot be written in a config: {value!r}")
        return {CLASS: type(value).__name__, **plain} if len(classes_in(hint)) > 1 else plain
    if isinstance(value, dict):
        return {name: to_plain(item, hint) for name, item in value.items()}
    return [to_plain(item, hint) for item in value] if isinstance(value, (list, tuple)) else value


def require_plain(value: object, key: str) -> None:
    """Raise ConfigError for what YAML and checkpoints do not take."""
    if isinstance(value, (dict, list, tuple)):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            require_plain(item, f"{key}.{name}")
    elif type(value) not in _WORDS:
        kind = type(value).__name__
        raise ConfigError(f"{key}: a {kind} cannot be written in a config; numbers, texts and lists of them can")


def nearest(key: str, known: Sequence[str]) -> str:
    """What to add to a message about an unknown key: a few like it, or all where they are few."""
    same_name = [k for k in known if k.split(".")[-1] == key.split(".")[-1]]
    near = same_name[:NEAR] or difflib.get_close_matches(key, known, n=1)
    if not near and len(known) > FEW:
        near = difflib.get_close_matches(key, known, n=NEAR, cutoff=0.0)
    return f"; did you mean {' or '.join(near)}?" if near else f"; known: {', '.join(known)}"


class _Loader(yaml.SafeLoader):
    """Safe YAML that also reads 1e-4 as a number, which YAML 1.1 takes for a text, and refuses a key that is given
    twice, of which YAML takes the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise ComposerError(None, None, f"the key {key.value} is given twice", key.start_mark)
                seen.add(key.value)
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(text: str) -> Any:
    """What a YAML text holds; nothing in it is executed.

    Raises:
        yaml.YAMLError: if it is none.
    """
    return yaml.load(text, _Loader)  # a SafeLoader
