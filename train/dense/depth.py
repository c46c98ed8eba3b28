"""Monocular depth by a linear layer on frozen feature maps.

Letters: B pictures, D features, h and w sides of a map, K bins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models.parts.feature_maps import maps_and_tokens
from headrace.models.seeding import seeded
from headrace.pipeline.images.view import Normalize
from headrace.shards import ShardSet
from headrace.train.dense.scenes import DRAWN, picture_size, read_map
from headrace.train.dense.segmentation import Maps, extract_maps
from headrace.train.errors import ConfigError, NotFiniteError, RunError
from headrace.train.probes.intervals import Statistic
from headrace.train.schedule import warmup_cosine

LEAST = 1e-3
"""Metres; what the head says is no less, and logarithms are of depths that are so much larger."""
METRICS = ("RMSE", "abs-rel", "log10", "delta 1.25", "delta 1.25^2", "delta 1.25^3")


@dataclass(frozen=True, kw_only=True)
class DepthConfig:
    """DINOv2's linear head, without its gradient loss, which in its code compares pictures of a batch."""

    most: float = 10.0
    """Metres; what is farther, or not above 0, neither teaches nor scores. The authors have 10 indoors, 80 on roads."""
    bins: int = 256
    """Depths, evenly spaced from a thousandth to `most`, whose mean the head gives."""
    upsample: int = 1
    """Factor by which maps are enlarged before the layer."""
    layers: int = 1
    """Last layers of the encoder whose maps are concatenated, each with its class token at every place."""
    unit: float | None = None
    """Metres that a number of the maps stands for; None is 0.001 for whole numbers, as of 16-bit PNGs, and 1 for
    floating-point ones."""
    steps: int = 2000
    """Of AdamW."""
    warmup_steps: int = 100
    """First steps that learn the mean alone."""
    batch_size: int = 16
    """Pictures a step."""
    lr: float = 1e-3
    """Peak, behind which it falls along a cosine."""
    weight_decay: float = 0.01
    """Decoupled; 0 turns it off."""
    seed: int = 0
    """Of the layer's weights and of the order."""

    def __post_init__(self) -> None:
        for name in ("most", "bins", "upsample", "layers", "steps", "batch_size"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"DepthConfig.{name} must be positive, got {getattr(self, name)}")


class DepthHead(nn.Module):
    """Maps (B, D, h, w) to depths (B, 1, h', w') in metres: scores of bins become shares, and depth is their mean.

    Source: arXiv 2304.07193, section 7.4; facebookresearch/dinov2 at b8931f7, eval/depth/models/decode_heads.
    """

    depths: Tensor

    def __init__(self, channels: int, config: DepthConfig) -> None:
        super().__init__()
        self.upsample = config.upsample
        self.score = nn.Conv2d(channels, config.bins, 1)
        self.register_buffer("depths", torch.linspace(LEAST, config.most, config.bins))

    def forward(self, maps: Tensor) -> Tensor:
        if self.upsample > 1:
            maps = F.interpolate(maps, scale_factor=self.upsample, mode="bilinear")
        scores = self.score(maps).relu() + 0.1
        shares = scores / scores.sum(1, keepdim=True)
        depth: Tensor = torch.einsum("bkhw,k->bhw", shares, self.depths)[:, None]
        return depth.clamp(LEAST, float(self.depths[-1]))


def scale_invariant_loss(predicted: Tensor, wanted: Tensor, most: float, *, mean_only: bool = False) -> Tensor:
    """10 times the root of var(g) + 0.15 mean(g)^2, g the difference of logarithms, over all valid pixels of a batch.

    Args:
        predicted: depths in metres, of any shape.
        wanted: of the same shape; valid are those above 0 and at most `most`.
        mean_only: without the variance, as in the first steps.

    Returns:
        A scalar, 0 where no pixel is valid. Its gradient is 0, and not infinite, where the root is.

    Source: arXiv 1406.2283; facebookresearch/dinov2 at b8931f7, eval/depth/models/losses/sigloss.py.
    """
    valid = (wanted > 0) & (wanted <= most)
    g = (predicted[valid] + LEAST).log() - (wanted[valid] + LEAST).log()
    if not len(g):
        return predicted.sum() * 0.0
    square = 0.15 * g.mean() ** 2
    if not mean_only and len(g) > 1:
        square = square + g.var()
    positive = square > 0
    root = torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)
    return 10 * root


def depth_errors(predicted: np.ndarray, wanted: np.ndarray, most: float) -> np.ndarray:
    """float64 (6,), the METRICS of one picture over its valid pixels; nan where there are none."""
    valid = (wanted > 0) & (wanted <= most)
    p, y = predicted[valid].astype(np.float64), wanted[valid].astype(np.float64)
    if not len(y):
        return np.full(len(METRICS), np.nan)
    ratio = np.maximum(p / y, y / p)
    return np.array(
        [
            math.sqrt(((p - y) ** 2).mean()),
            (np.abs(p - y) / y).mean(),
            np.abs(np.log10(p) - np.log10(y)).mean(),
            *((ratio < 1.25**power).mean() for power in (1, 2, 3)),
        ]
    )


@dataclass(frozen=True, kw_only=True)
class DepthOutcomes:
    """What became of each of n test pictures that have a valid pixel, at their own sizes."""

    errors: np.ndarray
    """float64 (n, 6), a column for each of METRICS."""
    drawn: Sequence[tuple[np.ndarray, np.ndarray]] = ()
    """Of the first pictures, what was wanted and what was said, float32 (H, W) in metres each."""

    def statistics(self) -> Mapping[str, Statistic]:
        """Means over pictures, as the authors' toolbox has them, that count as often as they are told to. Of RMSE
        (metres), abs-rel and log10 less is better."""

        def mean_of(column: np.ndarray) -> Statistic:
            return lambda counts: float(counts @ column / counts.sum())

        return {name: mean_of(self.errors[:, c]) for c, name in enumerate(METRICS)}


def depth_maps(backbone: nn.Module, layers: int) -> Maps:
    """The last layers' maps of a backbone, each with its class token, where it has one, at every place. What it gives
    raises ValueError where maps of several layers are not of one size, as those of a convolutional network."""

    def maps(images: Tensor) -> Tensor:
        parts: list[Tensor] = []
        for cells, token in maps_and_tokens(backbone, images, layers):
            if parts and parts[0].shape[2:] != cells.shape[2:]:
                raise ValueError(f"the last {layers} layers have maps of different sizes; set layers to 1")
            parts.append(cells)
            if token is not None:
                parts.append(token[:, :, None, None].expand_as(cells))
        return torch.cat(parts, dim=1)

    return maps


def depth_probe(
    maps: Maps,
    train: ShardSet,
    test: ShardSet,
    *,
    size: int,
    normalize: Normalize,
    field: str = "depth",
    config: DepthConfig | None = None,
    device: str = "cpu",
) -> DepthOutcomes:
    """Fit `DepthHead` on the maps of `train` and score it on `test`, at the size of each picture: no crop of it, no
    mirrored copy beside it.

    Args:
        maps: such as `depth_maps`, of an encoder in evaluation mode, on `device`.
        train, test: with a field of maps of depths, see `headrace.train.dense.scenes`.
        size: side of the square to which pictures are squashed, in pixels.
        normalize: what `maps` expects of them.
        field: its name.
        config: of head and fit.
        device: where to compute.

    Raises:
        RunError: for a set without that field, or without a valid pixel.
        NotFiniteError: if maps or the fit are not finite.
    """
    config = config or DepthConfig()
    for shards in (train, test):
        if field not in shards.fields:
            raise RunError(f"{shards.path}: has no field {field}; it has {', '.join(shards.fields)}")
    x = extract_maps(maps, train, size, normalize, device=device)
    y = torch.stack([torch.from_numpy(_squashed_depths(train, i, field, size, config)) for i in range(len(train))])
    if not ((y > 0) & (y <= config.most)).any():
        raise RunError(f"{train.path}: no pixel has a depth above 0 and up to {config.most} metres")
    head = _fit(x, y, config, device)
    found = extract_maps(maps, test, size, normalize, device=device)
    errors, drawn = [], []
    with torch.no_grad():
        for i in range(len(test)):
            shape = picture_size(test, i)
            depth = F.interpolate(head(found[i : i + 1].float().to(device)), size=shape, mode="bilinear")
            said, wanted = depth[0, 0].cpu().numpy(), read_depths(test, i, field, config)
            errors.append(depth_errors(said, wanted, config.most))
            if i < DRAWN:
                drawn.append((wanted, said))
    known = np.stack(errors)
    known = known[~np.isnan(known).any(1)]
    if not len(known):
        raise RunError(f"{test.path}: no pixel has a depth above 0 and up to {config.most} metres")
    return DepthOutcomes(errors=known, drawn=drawn)


def read_depths(shards: ShardSet, i: int, field: str, config: DepthConfig) -> np.ndarray:
    """float32 (H, W) in metres; 0 where it is not known."""
    numbers = read_map(shards, i, field, picture_size(shards, i))
    unit = config.unit or (1.0 if numbers.dtype.kind == "f" else 0.001)
    return np.nan_to_num(numbers.astype(np.float32) * np.float32(unit), nan=0.0, posinf=0.0, neginf=0.0)


def _squashed_depths(shards: ShardSet, i: int, field: str, size: int, config: DepthConfig) -> np.ndarray:
    """float32 (size, size): of each pixel the nearest one's depth."""
    whole = read_depths(shards, i, field, config)
    rows, columns = (((np.arange(size) + 0.5) * side / size).astype(int) for side in whole.shape)
    return whole[np.ix_(rows, columns)]


def _fit(x: Tensor, y: Tensor, config: DepthConfig, device: str) -> DepthHead:
    """On maps (n, D, h, w) and depths (n, S, S)."""
    with seeded(config.seed):
        head = DepthHead(x.shape[1], config).to(device)
    optimizer = torch.optim.AdamW(head.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    random = np.random.default_rng(config.seed)
    size = min(config.batch_size, len(x))
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * warmup_cosine(step, total=config.steps, warmup=0)
        chosen = torch.from_numpy(random.choice(len(x), size, replace=False))
        wanted = y[chosen][:, None].to(device)
        depth = F.interpolate(head(x[chosen].float().to(device)), size=wanted.shape[2:], mode="bilinear")
        loss = scale_invariant_loss(depth, wanted, config.most, mean_only=step < config.warmup_steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if not all(parameter.isfinite().all() for parameter in head.parameters()):
        raise NotFiniteError("the depth head's weights are not finite, so that no score means anything")
    return head
