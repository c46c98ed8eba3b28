"""What a method remembers of each sample of the training set."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models.parts.collectives import gathered
from headrace.models.seeding import seeded

FIRST_ROWS = 1024
_KEY = 0x62616E6B  # the word "bank"


class MemoryBank(nn.Module):
    """A row for each of N samples, the same on all ranks.

    Before `begin` has told N there are `FIRST_ROWS` rows, which samples share by their numbers modulo that, so that a
    step can be measured.

    Args:
        dim: D of a row.
        momentum: share of a row that stays when a new one comes.

    Source: arXiv 1805.01978, section 3; zhirongw/lemniscate.pytorch at f7cfe29, lib/NCEAverage.py.
    """

    rows: nn.Parameter
    """(N, D), without gradient; a parameter, for buffers are sent from rank 0 to the others at every step. They begin
    uniform, with a mean square of 1 / D; one that was put has length 1."""

    def __init__(self, dim: int, *, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.rows = nn.Parameter(_uniform(FIRST_ROWS, dim), requires_grad=False)

    def __len__(self) -> int:
        return len(self.rows)

    def begin(self, samples: int, seed: int) -> None:
        """As many rows as there are samples, drawn from `seed`."""
        with seeded(seed, _KEY):
            self.rows.data = _uniform(samples, self.rows.shape[1]).to(self.rows)

    def numbers(self, index: Tensor) -> Tensor:
        """The rows of samples, int64."""
        return index % len(self.rows)

    @torch.no_grad()
    def put(self, index: Tensor, features: Tensor) -> None:
        """Move the rows of the samples `index` (B,) of each rank towards their features (B, D), and to length 1. Of a
        sample that is there twice the last one counts. Nothing is read back from the device."""
        numbers, features = self.numbers(gathered(index)), gathered(features).to(self.rows.dtype)
        order = torch.arange(len(numbers), device=numbers.device)
        last = (order * (numbers[:, None] == numbers)).amax(dim=1)
        moved = self.momentum * self.rows[numbers] + (1 - self.momentum) * features[last]
        self.rows.index_copy_(0, numbers, F.normalize(moved, dim=1))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """The set has as many samples as it had."""
        if (kept := state_dict.get(prefix + "rows")) is not None:
            self.rows.data = self.rows.new_empty(kept.shape)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def _uniform(rows: int, dim: int) -> Tensor:
    bound = math.sqrt(3 / dim)
    return torch.empty(rows, dim).uniform_(-bound, bound)
