"""Checks that configs make of their fields."""

from __future__ import annotations

from typing import Any


def require(holds: bool, config: Any, name: str, condition: str) -> None:
    """ValueError that names the field and its value unless it holds."""
    if not holds:
        raise ValueError(f"{type(config).__name__}.{name} must {condition}, got {getattr(config, name)}")
