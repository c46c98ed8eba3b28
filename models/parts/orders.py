"""Which order things lie in: numbers of orders, and a head that compares things two by two."""

from __future__ import annotations

from itertools import combinations, permutations

import torch
from torch import Tensor, nn


class Orders(nn.Module):
    """Numbers the orders of N things, in lexicographic order.

    Args:
        things: N, at most 5.
        reversible: whether an order and its reverse have one number, that of the earlier of the two.
    """

    table: Tensor
    """int64 (N**N,): the number of the order whose places are the digits, to base N."""

    def __init__(self, things: int, *, reversible: bool) -> None:
        super().__init__()
        self.things = things
        table = torch.full((things**things,), -1, dtype=torch.int64)
        count = 0
        for order in permutations(range(things)):
            if reversible and order > order[::-1]:
                table[self._digits(order)] = table[self._digits(order[::-1])]
            else:
                table[self._digits(order)] = count
                count += 1
        self.count = count
        self.register_buffer("table", table, persistent=False)

    def forward(self, places: Tensor) -> Tensor:
        """int64 (B, N), the place in time of each thing that is shown, to int64 (B,), 0 to `count` - 1."""
        number = places[:, 0]
        for i in range(1, self.things):
            number = number * self.things + places[:, i]
        return self.table[number]

    def _digits(self, order: tuple[int, ...]) -> int:
        number = 0
        for place in order:
            number = number * self.things + place
        return number


class PairwiseHead(nn.Module):
    """(B, N, in_dim) of N things in the order in which they are shown to (B, outputs): one layer, the same for all
    N (N - 1) / 2 pairs, sees two of them, the earlier shown first, and another one all pairs.

    Args:
        in_dim, things, outputs: see above.
        hidden_dim: width of the layer of pairs.
        batch_norm: norm it in front of its ReLU, each pair by itself.
        dropout: share of its outputs that is dropped; 0 turns it off.

    Source: arXiv 1708.01246, HsinYingLee/OPN at d0ba14e, train_opn.prototxt, with a norm; CVPR 2019 (clip order),
    xudejing/video-clip-order-prediction at 7a1710d, models/vcopn.py, without.
    """

    def __init__(
        self, in_dim: int, things: int, outputs: int, *, hidden_dim: int, batch_norm: bool, dropout: float
    ) -> None:
        super().__init__()
        self.pairs = list(combinations(range(things), 2))
        self.pair = nn.Linear(2 * in_dim, hidden_dim)
        width = len(self.pairs) * hidden_dim
        self.norm = nn.BatchNorm1d(width) if batch_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(width, outputs)

    def forward(self, things: Tensor) -> Tensor:
        each = things.unbind(1)
        pairs = torch.stack([torch.cat([each[i], each[j]], dim=1) for i, j in self.pairs], dim=1)
        x = self.norm(self.pair(pairs).flatten(1)).relu()
        logits: Tensor = self.last(self.dropout(x))
        return logits
