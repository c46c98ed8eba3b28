"""Heads that losses are computed on and that probes leave out."""

from __future__ import annotations

from torch import nn


def projection_mlp(in_dim: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    """SimCLR's non-linear projection head, (B, in_dim) to (B, out_dim).

    Two bias-free linear layers, each followed by batch norm, with a ReLU between; the last norm scales but does
    not shift. The paper (arXiv 2002.05709) draws the head without norms; this is the head of the code behind its
    numbers (google-research/simclr at 244e712, model_util.py).
    """
    last = nn.BatchNorm1d(out_dim)
    last.bias.requires_grad_(False)
    return nn.Sequential(
        nn.Linear(in_dim, hidden_dim, bias=False),
        nn.BatchNorm1d(hidden_dim),
        nn.ReLU(inplace=True),
        nn.Linear(hidden_dim, out_dim, bias=False),
        last,
    )
