"""What is said of a setting that cannot be."""

from __future__ import annotations


def check(holds: bool, spec: object, name: str, value: object, wanted: str) -> None:
    """ValueError, naming the specification's field, unless it holds."""
    if not holds:
        raise ValueError(f"{type(spec).__name__}.{name} must be {wanted}, got {value}")
