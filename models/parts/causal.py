"""What CPC is built of: a norm over channels, a recurrent layer, and a causal transformer layer with relative places.

Letters: B sounds, T frames, D dimensions of a frame.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelNorm(nn.Module):
    """(B, D, T), each frame with mean 0 and variance 1 over its channels, scaled and shifted: no frame knows another.

    Source: facebookresearch/CPC_audio at b98a1bd, cpc/model.py, whose variance is the unbiased one.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=1, keepdim=True)
        return (x - mean) * torch.rsqrt(variance + self.eps) * self.weight + self.bias


class Recurrent(nn.Module):
    """(B, T, C) to states (B, T, D) of an LSTM or a GRU, one layer from zeros: each of a frame and those before it.

    `torch.nn`'s with its weights, their names and their first values, as a function that compiles.
    """

    def __init__(self, kind: Literal["lstm", "gru"], in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.kind, self.out_dim = kind, out_dim
        rows = (4 if kind == "lstm" else 3) * out_dim
        bound = 1 / math.sqrt(out_dim)
        for name, shape in {
            "weight_ih_l0": (rows, in_dim), "weight_hh_l0": (rows, out_dim), "bias_ih_l0": (rows,),
            "bias_hh_l0": (rows,),
        }.items():  # fmt: skip
            self.register_parameter(name, nn.Parameter(torch.empty(shape).uniform_(-bound, bound)))

    def forward(self, x: Tensor) -> Tensor:
        weights: list[Tensor] = list(self.parameters())
        first = x.new_zeros(1, len(x), self.out_dim)
        options = (True, 1, 0.0, self.training, False, True)  # biases, layers, dropout, training, one way, batch first
        if self.kind == "lstm":
            states: Tensor = torch.lstm(x, (first, first), weights, *options)[0]
        else:
            states = torch.gru(x, first, weights, *options)[0]
        return states


class CausalLayer(nn.Module):
    """(B, T, D) to the same: attention to a frame and those before it, with a learnt key for each distance, and two
    layers, a norm behind each.

    Args:
        dim: D, a multiple of `heads`.
        length: T at most.
        heads: of attention.
        hidden: width between the two layers.
        dropout: of attention's weights, and between the layers.

    Source: facebookresearch/CPC_audio at b98a1bd, cpc/transformers.py, TransformerLayer with abspos off.
    """

    def __init__(self, dim: int, length: int, *, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        width = dim // heads
        bound = 1 / math.sqrt(width)
        self.distances = nn.Parameter(torch.empty(width, length).uniform_(-bound, bound))
        self.norm = nn.LayerNorm(dim)
        self.inner = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, dim))
        self.inner_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )  # (B, heads, T, width)
        length = x.shape[1]
        # Column T - 1 - d of this belongs to the frame d before the query's; a shift brings it to that frame's column.
        places = F.pad(query @ self.distances[:, self.distances.shape[1] - length :], (1, 0))
        places = places.flatten(2)[:, :, length:].unflatten(2, (length, length))
        scores = (query @ key.transpose(2, 3) + places) / math.sqrt(query.shape[3])
        future = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        weights = scores.masked_fill(future, float("-inf")).softmax(dim=3)
        mixed = F.dropout(weights, self.dropout, self.training) @ value
        x = self.norm(x + self.out(mixed.transpose(1, 2).flatten(2)))
        normed: Tensor = self.inner_norm(x + self.inner(x))
        return normed
