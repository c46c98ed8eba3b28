"""A configuration in a file of a person's own, which may begin with `extends`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from headrace.models import METHODS
from headrace.train.config import RunConfig, method_config, read_settings
from headrace.train.errors import ConfigError
from headrace.train.recipes import RECIPES
from headrace.train.settings.overrides import merge
from headrace.train.settings.plain import nearest

EXTENDS = "extends"
"""Key of a file that names what the rest of it changes: a recipe, a method with its defaults, or another file, whose
path is taken from the folder of this one."""
ENDINGS = (".yaml", ".yml")


def read_config(path: str | Path) -> RunConfig:
    """The configuration of a YAML file, on top of what it extends.

    Groups are merged key by key; a list or a free mapping takes the place of what was there. Another `method` than that
    of what is extended begins with its own defaults.

    Raises:
        ConfigError: naming the file, if it is not there, is no YAML mapping, has a key or value that does not fit, or
            extends what is not there, or itself.
    """
    return _read(Path(path), ())


def _read(path: Path, above: Sequence[Path]) -> RunConfig:
    if path.resolve() in above:
        raise ConfigError(f"{path}: extends itself, by way of {' and '.join(map(str, above))}")
    changes = read_settings(path)
    base = changes.pop(EXTENDS, None)
    try:
        if base is None:
            return RunConfig.from_dict(changes)
        if not isinstance(base, str):
            raise ConfigError(f"{EXTENDS}: must be the name of a recipe, a method or a file, got {base!r}")
        extended = _extended(base, path, above)
        values = extended.to_dict()
        method = changes.get("method", extended.method)
        if method != extended.method:
            del values["model"]
        merge(values, changes, RunConfig, model=method_config(method))
        return RunConfig.from_dict(values)
    except ConfigError as error:
        raise error if str(error).startswith(f"{path}: ") else ConfigError(f"{path}: {error}") from None


def _extended(name: str, path: Path, above: Sequence[Path]) -> RunConfig:
    if name in RECIPES:
        return RECIPES[name]()
    if name in METHODS:
        return RunConfig(method=name)
    if Path(name).suffix in ENDINGS:
        return _read(path.parent / name, (*above, path.resolve()))
    raise ConfigError(f"{EXTENDS}: no recipe, method or .yaml file {name!r}{nearest(name, [*RECIPES, *METHODS])}")
