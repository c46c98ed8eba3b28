"""Agree, and be spread like an isotropic Gaussian: LeJEPA."""

from __future__ import annotations

import torch
from torch import Tensor

from headrace.models.parts.collectives import summed, world_size
from headrace.models.parts.precision import full_precision

KNOTS, LAST_KNOT = 17, 3.0
"""Points of the integral, equally spaced from 0 to the last."""


@full_precision
def sigreg(z: Tensor, directions: Tensor) -> Tensor:
    """How far the samples, seen along some directions, are from a standard normal distribution.

    For the projections y on each direction, Epps and Pulley's statistic by the trapezoidal rule over t in [-3, 3]:
    `N W sum_t w_t exp(-t^2 / 2) ((mean cos(t y) - exp(-t^2 / 2))^2 + mean sin(t y)^2)`; its mean over directions and
    views. Means are over the samples of all ranks, with gradient; every rank must pass the same N.

    Args:
        z: (V, N, D).
        directions: (D, M), columns of length 1, the same on all ranks.

    Returns:
        float32 scalar (float64 for float64), the same on all ranks. 1.05 in expectation for a standard normal
        distribution of any N and D.

    Source: arXiv 2511.08544, section 4; authors' code rbalestr-lab/lejepa at eddffdd, lejepa/univariate/epps_pulley.py,
    lejepa/multivariate/slicing.py and MINIMAL.md.
    """
    t = torch.linspace(0, LAST_KNOT, KNOTS, device=z.device, dtype=z.dtype)
    normal = torch.exp(-t.square() / 2)
    weights = 2 * normal * LAST_KNOT / (KNOTS - 1)  # twice: t and -t give the same
    weights = torch.cat([weights[:1] / 2, weights[1:-1], weights[-1:] / 2])
    samples = z.shape[1] * world_size()
    angles = (z @ directions.to(z.dtype))[..., None] * t  # (V, N, M, T)
    cosines, sines = (summed(part.sum(dim=1)) / samples for part in (angles.cos(), angles.sin()))
    distance = (cosines - normal).square() + sines.square()
    return samples * (distance @ weights).mean()


@full_precision
def centre_distance(z: Tensor, large: int) -> Tensor:
    """LeJEPA's prediction term: mean squared distance of every view from the mean of a sample's large views.

    Args:
        z: (V, N, D), the large views first.
        large: how many they are.

    Returns:
        float32 scalar (float64 for float64).

    Source: as `sigreg`.
    """
    return (z - z[:large].mean(dim=0)).square().mean()
