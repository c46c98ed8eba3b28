"""What a batch has of one stream, whatever its kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Part:
    """Base of a stream's tensors, of which each has a row a sample."""


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same parts, tuples, lists and mappings with every tensor changed; anything else stays."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Part):
        return replace(value, **{f.name: map_tensors(getattr(value, f.name), change) for f in fields(value)})
    if isinstance(value, dict):
        return {name: map_tensors(each, change) for name, each in value.items()}
    if isinstance(value, tuple | list):
        changed = [map_tensors(each, change) for each in value]
        return type(value)(*changed) if hasattr(value, "_fields") else type(value)(changed)
    return value
