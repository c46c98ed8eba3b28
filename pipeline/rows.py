"""Columns that belong together: one array an attribute, one row a sample."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Self

import numpy as np


class Rows:
    """Base of a dataclass whose fields are arrays, or `Rows`, that share their first axis: it indexes as one."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))  # type: ignore[arg-type]

    def __getitem__(self, rows: slice | np.ndarray) -> Self:
        """Some of the rows: a slice shares memory, an array of numbers copies."""
        return type(self)(**{name: getattr(self, name)[rows] for name in self._names()})

    def __setitem__(self, rows: slice, others: Self) -> None:
        for name in self._names():
            getattr(self, name)[rows] = getattr(others, name)

    def _names(self) -> list[Any]:
        return [field.name for field in fields(self)]  # type: ignore[arg-type]
