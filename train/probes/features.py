"""Frozen features of a whole shard set, each sample that has a label exactly once, in stored order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from headrace.models import Method
from headrace.pipeline import Batch, ClipSpec, Inputs, Loader, Normalize, ViewSpec, center_view
from headrace.pipeline.order.mixing import NO_LABEL
from headrace.shards import ShardSet
from headrace.train.errors import RunError

Features = tuple[np.ndarray, np.ndarray]
"""float32 (n, D) features and int64 (n,) labels."""


def image_views(method: Method) -> ViewSpec:
    """What a method of images sees.

    Raises:
        RunError: for a method of clips or texts.
    """
    if not isinstance(method.inputs, ViewSpec):
        seen = "clips of videos" if isinstance(method.inputs, ClipSpec) else "texts"
        raise RunError(f"{type(method).__name__} encodes {seen}, and this works on single images only")
    return method.inputs


@torch.no_grad()
def extract_features(
    encode: Callable[[Batch], Tensor],
    shards: ShardSet,
    inputs: Inputs,
    *,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    threads: int | None = None,
) -> Features:
    """Features and labels of the n samples of `shards` that have a label, in stored order; -1 is none.

    Args:
        encode: a batch of `inputs` on `device` to (B, D). The method or module that it belongs to is in evaluation mode
            for the time of the call, so that no batch shapes another's features.
        inputs: what is shown of each sample; for a method its `probe_inputs`.
        batch_size: for speed alone.
        device: where `encode` computes.
        threads: that decode; None takes all cores.

    Returns:
        float32 (n, D) and int64 (n,).

    Raises:
        RunError: if the shard set has no labels, no sample has one, or features are not finite.
        ShardError: for a sample that cannot be decoded.
    """
    if "label" not in shards.fields:
        raise RunError(f"{shards.path}: has no label field, which probes need")
    loader = Loader(shards, inputs, batch_size, shuffle=False, drop_last=False, threads=threads)
    features, labels = [], []
    with loader, _evaluating(encode):
        for batch in loader:
            assert batch.labels is not None
            features.append(encode(batch.to(device)).float().cpu().numpy())
            if not np.isfinite(features[-1]).all():
                raise RunError(f"{shards.path}: features of it are not finite, so that no probe means anything")
            labels.append(batch.labels.numpy())
    found = np.concatenate(labels)
    known = found != NO_LABEL
    if not known.any():
        raise RunError(f"{shards.path}: every label is {NO_LABEL}, which stands for none, and probes need some")
    return np.concatenate(features)[known], found[known]


def pixel_features(shards: ShardSet, size: int, *, threads: int | None = None) -> Features:
    """The pixels themselves, 0 to 1, as features: what any encoder has to beat.

    Returns:
        float32 (n, D) and int64 (n,), with D = 3 size size, or size size where every image is grey.
    """
    plain = Normalize(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    pixels, labels = extract_features(
        lambda batch: batch.normalized()[0].flatten(1), shards, center_view(size, plain), threads=threads
    )
    red, green, blue = np.split(pixels, 3, axis=1)
    return (red if np.array_equal(red, green) and np.array_equal(red, blue) else pixels), labels


@contextmanager
def _evaluating(encode: Callable[[Batch], Tensor]) -> Iterator[None]:
    """Evaluation mode for the module that `encode` is or is a method of."""
    owner = getattr(encode, "__self__", encode)
    if not isinstance(owner, nn.Module) or not owner.training:
        yield
        return
    owner.eval()
    try:
        yield
    finally:
        owner.train()
