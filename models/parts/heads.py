"""Heads that losses are computed on and that probes leave out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


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


def mlp(
    dims: Sequence[int], *, bias: bool, last_bias: bool, last_norm: Literal["none", "plain", "full"]
) -> nn.Sequential:
    """Linear layers of the given widths with batch norm and ReLU between them, (B, dims[0]) to (B, dims[-1]).

    What the heads of near-identical methods differ in is said at each call, and has no defaults.

    Args:
        dims: widths, from the input's to the output's.
        bias: of the linear layers before the last. In front of batch norm it has no effect but on decay.
        last_bias: of the last one.
        last_norm: batch norm at the end: "none", "plain" for one without scale and shift, or "full".
    """
    layers: list[nn.Module] = []
    *inner, last = list(pairwise(dims))
    for width, following in inner:
        layers += [nn.Linear(width, following, bias=bias), nn.BatchNorm1d(following), nn.ReLU(inplace=True)]
    layers.append(nn.Linear(*last, bias=last_bias))
    if last_norm != "none":
        layers.append(nn.BatchNorm1d(dims[-1], affine=last_norm == "full"))
    return nn.Sequential(*layers)


def two_layers(in_dim: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    """Two linear layers with biases and a ReLU between them, without norms: MoCo v2's projector, ReSSL's, DenseCL's."""
    return nn.Sequential(nn.Linear(in_dim, hidden_dim), nn.ReLU(inplace=True), nn.Linear(hidden_dim, out_dim))


class DINOHead(nn.Module):
    """Three linear layers with GELU between them, the unit sphere, and one weight-normalised layer of prototypes:
    (..., in_dim) to (..., prototypes).

    Args:
        in_dim: width of the features.
        prototypes: K, outputs.
        hidden_dim, bottleneck_dim: widths of the hidden layers, and of the sphere's space.
        norm_last_layer: keep the prototypes at length 1, instead of learning the lengths.
        batch_norm: norm each hidden layer over all that comes at once, in front of its GELU.

    Source: facebookresearch/dino at 7c446df, vision_transformer.py, DINOHead.
    """

    def __init__(
        self,
        in_dim: int,
        prototypes: int,
        *,
        hidden_dim: int,
        bottleneck_dim: int,
        norm_last_layer: bool,
        batch_norm: bool,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width, following in ((in_dim, hidden_dim), (hidden_dim, hidden_dim)):
            norm = [nn.BatchNorm1d(following)] if batch_norm else []
            layers += [nn.Linear(width, following), *norm, nn.GELU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden_dim, bottleneck_dim))
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last_layer = weight_norm(nn.Linear(bottleneck_dim, prototypes, bias=False))
        lengths = self.last_layer.parametrizations.weight.original0
        nn.init.ones_(lengths)
        lengths.requires_grad_(not norm_last_layer)

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.last_layer(F.normalize(self.mlp(x.flatten(0, -2)), dim=-1))
        return outputs.unflatten(0, x.shape[:-1])
