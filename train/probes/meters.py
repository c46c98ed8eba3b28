"""Collapse without labels: how many directions features use, how evenly they lie, and what augmentation moves.

Letters: n images, q views of each, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models import Method
from headrace.models.parts.meters import effective_rank, rank_of_gram
from headrace.pipeline import Batch, Inputs, Loader, ViewSpec
from headrace.pipeline.streams import spec_of, streams_of
from headrace.shards import ShardSet
from headrace.train.errors import NotFiniteError, RunError
from headrace.train.probes.features import evaluating, image_views
from headrace.train.probes.intervals import Measured, jackknife

RANKED = 25_600
"""Samples whose features RankMe takes at most, as its paper."""
DELTA = 1e-4
"""Added to the diagonal of LiDAR's scatter within images."""
GROUPS = 10
"""Of samples, for the intervals: what a meter is without each."""
ROWS = 1024
"""Rows at a time, which bound the distances held at once."""


@dataclass(frozen=True, kw_only=True)
class CollapseMeters:
    """Of an encoder on a set; larger is not better for a task, see each."""

    rank_me: Measured
    """From 1 to min(samples, D): directions that features of plain views use. Compare runs of one method."""
    lidar: Measured
    """From 1 to min(D, n - 1): directions that tell images apart more than augmentation moves them. Noise that has
    nothing to do with the image is near the maximum as well."""
    alignment: Measured
    """Mean squared distance of two views of one image at length 1; 0 if views make no difference, or all collapsed."""
    uniformity: Measured
    """0 where all images are the same, near -4 where they are spread evenly over the sphere."""
    deviation: Measured
    """Mean deviation over dimensions of features at length 1, times the root of D: 1 where they are spread evenly, 0
    where all are the same."""
    samples: int
    """Whose plain views were looked at."""
    images: int
    """n, whose augmented views were looked at."""
    views: int
    """q."""
    features: int
    """D."""


class Spread:
    """RankMe and the deviation of features that come in parts; memory grows with D only."""

    def __init__(self, parts: Iterable[Spread] = ()) -> None:
        """Of no rows, or of all that `parts` have."""
        self.rows = 0
        self._sums: list[Tensor] = []
        for part in parts:
            self._take(part._sums, part.rows)

    def add(self, features: Tensor) -> None:
        """(b, D)."""
        wide = features.double()
        unit = F.normalize(wide, dim=1)
        self._take([wide.T @ wide, unit.sum(dim=0), unit.square().sum(dim=0)], len(features))

    def _take(self, sums: list[Tensor], rows: int) -> None:
        former = self._sums or [torch.zeros_like(each) for each in sums]
        self._sums = [ours + theirs for ours, theirs in zip(former, sums, strict=True)]
        self.rows += rows

    def rank_me(self) -> float:
        """`headrace.models.parts.meters.rank_me` of all rows."""
        return float(rank_of_gram(self._sums[0], self.rows))

    def deviation(self) -> float:
        """`headrace.models.parts.meters.spread` of all rows, times the root of D."""
        _, total, squares = self._sums
        variance = (squares / self.rows - (total / self.rows).square()).clamp(min=0)
        return float(variance.sqrt().mean() * len(total) ** 0.5)


def lidar(features: Tensor, *, delta: float = DELTA, epsilon: float = 1e-8) -> float:
    """LiDAR of q views of each of n images, (n, q, D): the effective rank of linear discriminant analysis where every
    image is a class, in float64.

    With S_b the scatter of the images' means over n - 1 and S_w that of views around them over n (q - 1), plus `delta`
    on its diagonal: the exponential of the entropy of p, the eigenvalues of S_w^-1/2 S_b S_w^-1/2 divided by their sum,
    plus `epsilon`.

    Source: arXiv 2312.04000, section 4.
    """
    n, q, d = features.shape
    wide = features.double()
    means = wide.mean(dim=1)
    around = (wide - means[:, None]).reshape(-1, d)
    between = (means - means.mean(dim=0)).T @ (means - means.mean(dim=0)) / (n - 1)
    within = around.T @ around / (n * (q - 1)) + delta * torch.eye(d, dtype=torch.float64, device=wide.device)
    values, vectors = torch.linalg.eigh(within)
    whiten = vectors * values.rsqrt() @ vectors.T
    found = torch.linalg.eigvalsh(whiten @ between @ whiten).clamp(min=0)
    return float(effective_rank(found, epsilon))


def alignment(features: Tensor) -> float:
    """Mean over images and pairs of views of the squared distance of their features (n, q, D) at length 1.

    Source: arXiv 2005.10242, section 4.1, alpha = 2; SsnL/align_uniform at e256d47.
    """
    unit = F.normalize(features.double(), dim=2)
    q = unit.shape[1]
    # Of q vectors of length 1, all products of two different ones add up to the squared length of their sum, less q.
    products = (unit.sum(dim=1).square().sum(dim=1) - q) / (q * (q - 1))
    return float((2 - 2 * products).clamp(min=0).mean())


def uniformity(features: Tensor) -> float:
    """The logarithm of the mean over pairs of different rows (n, D), at length 1, of exp(-2 squared distance).

    Source: arXiv 2005.10242, section 4.1, t = 2; SsnL/align_uniform at e256d47.
    """
    unit = F.normalize(features.double(), dim=1)
    n = len(unit)
    sums = torch.zeros((), dtype=torch.float64, device=unit.device)
    for first in range(0, n, ROWS):
        squared = (2 - 2 * unit[first : first + ROWS] @ unit.T).clamp(min=0)
        sums += (-2 * squared).exp().sum()
    return float(((sums - n) / (n * (n - 1))).clamp(min=1e-300).log())  # less each row with itself


@torch.no_grad()
def collapse_meters(
    method: Method,
    shards: ShardSet,
    *,
    samples: int = RANKED,
    images: int = 1000,
    views: int = 10,
    seed: int = 0,
    device: torch.device | str = "cpu",
    threads: int | None = None,
    max_bad: int | None = None,
) -> CollapseMeters:
    """The meters of what `method.encode` makes of images, on a set that needs no labels.

    RankMe and the deviation are of plain views, as probes see them. LiDAR, alignment and uniformity are of views that
    the method's own augmentation makes, its first view's at the size that probes see, and without masks; uniformity
    takes one view an image.

    Args:
        samples: looked at for RankMe at most, drawn at random but always the same.
        images: n at most; likewise.
        views: q, at least 2.
        seed: of which images, and of the augmentation: the same views for every encoder.
        threads: that decode; None takes all cores.
        max_bad: bad samples to put up with, which are left out; None ends with the first.

    Raises:
        RunError: for a method that does not encode single images, or a set with fewer than four.
        NotFiniteError: if features are not finite.
    """
    if views < 2:
        raise ValueError(f"views must be at least 2, got {views}")
    if min(len(shards), samples, images) < 4:
        raise RunError(f"{shards.path}: meters of collapse need 4 images and more, not {len(shards)}")
    plain = method.probe_inputs
    own_views = _views(method)
    own = replace(own_views.views[0], size=_shown(plain).views[0].size)
    options = {"seed": seed, "threads": threads, "max_bad": max_bad, "device": device}
    groups = min(GROUPS, len(shards) // 2, images)
    spreads = [Spread() for _ in range(groups)]
    batch = min(256, len(shards))
    for (features,) in _features(method, shards, plain, batch, samples, options):
        for group, part in enumerate(spreads):
            part.add(features[group::groups])
    augmented = ViewSpec([own] * views, field=own_views.field)
    batch = min(max(1, 256 // views), len(shards))
    found = torch.cat(
        [torch.stack(each, dim=1) for each in _features(method, shards, augmented, batch, images, options)]
    )

    def of_spread(meter: Callable[[Spread], float]) -> Measured:
        rest = [Spread(part for part in spreads if part is not left_out) for left_out in spreads]
        return jackknife(meter(Spread(spreads)), np.array([meter(each) for each in rest]))

    def of_views(meter: Callable[[Tensor], float]) -> Measured:
        group = torch.arange(len(found)) % groups
        return jackknife(meter(found), np.array([meter(found[group != left_out]) for left_out in range(groups)]))

    return CollapseMeters(
        rank_me=of_spread(Spread.rank_me),
        lidar=of_views(lidar),
        alignment=of_views(alignment),
        uniformity=of_views(lambda each: uniformity(each[:, 0])),
        deviation=of_spread(Spread.deviation),
        samples=sum(part.rows for part in spreads),
        images=len(found),
        views=views,
        features=found.shape[2],
    )


def _views(method: Method) -> ViewSpec:
    """How the method sees single images in training, beside whatever else."""
    specs = [spec_of(stream) for stream in streams_of(method.inputs).values()]
    seen = [spec for spec in specs if isinstance(spec, ViewSpec)]
    return seen[0] if seen and isinstance(method.probe_inputs, ViewSpec) else image_views(method)


def _shown(inputs: Inputs) -> ViewSpec:
    assert isinstance(inputs, ViewSpec), "_views has checked what the method is shown"
    return inputs


def _features(
    method: Method, shards: ShardSet, inputs: Inputs, batch_size: int, wanted: int, options: dict[str, Any]
) -> Iterator[list[Tensor]]:
    """For each of V views, features (b, D) of a batch, until `wanted` samples were seen or the set ends."""
    policy: dict[str, Any] = {}
    if options["max_bad"] is not None:
        policy = {"on_error": "skip", "max_bad": options["max_bad"]}
    wanted = min(wanted, len(shards))
    try:
        loader = Loader(
            shards, inputs, batch_size, shuffle=True, drop_last=False, threads=options["threads"],
            seed=options["seed"], **policy,
        )  # fmt: skip
    except ValueError as error:
        raise RunError(str(error)) from None
    with loader, evaluating(method):
        for batch in islice(loader, -(-wanted // batch_size)):
            left = min(wanted, len(batch))
            wanted -= left
            yield [_finite(method.encode(lone), shards)[:left] for lone in _one_by_one(batch.to(options["device"]))]


def _one_by_one(batch: Batch) -> Iterator[Batch]:
    """Each view of a batch as if it were the only one."""
    for view, normalize in zip(batch.views, batch.normalize, strict=True):
        yield Batch.of_views([view], [normalize])


def _finite(features: Tensor, shards: ShardSet) -> Tensor:
    if not np.isfinite(features.float().cpu().numpy()).all():
        raise NotFiniteError(f"{shards.path}: features of it are not finite, so that no meter means anything")
    return features.float()
