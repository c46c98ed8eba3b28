"""Frozen features of a whole shard set, each sample that has a label exactly once, in stored order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headrace.models import Method
from headrace.pipeline import (
    Batch,
    ClipSpec,
    Inputs,
    Loader,
    Mel,
    Normalize,
    SoundSpec,
    TextSpec,
    ViewSpec,
    center_view,
)
from headrace.pipeline.order.mixing import NO_LABEL
from headrace.shards import ShardSet
from headrace.train.errors import NotFiniteError, RunError

Features = tuple[np.ndarray, np.ndarray]
"""float32 (n, D) features and int64 (n,) labels."""
BUCKETS = 2048
"""Of `word_features`."""


def image_views(method: Method) -> ViewSpec:
    """What a method of images sees.

    Raises:
        RunError: for a method of clips or texts.
    """
    if not isinstance(method.inputs, ViewSpec):
        seen = {ClipSpec: "clips of videos", SoundSpec: "sounds"}.get(type(method.inputs), "texts")
        raise RunError(f"{type(method).__name__} encodes {seen}, and this works on single images only")
    return method.inputs


def extract_features(
    encode: Callable[[Batch], Tensor],
    shards: ShardSet,
    inputs: Inputs,
    *,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    threads: int | None = None,
    samples: int | None = None,
    max_bad: int | None = None,
) -> Features:
    """Features and labels of the n samples of `shards` that have a label, in stored order; -1 is none.

    Args:
        encode: a batch of `inputs` on `device` to (B, D). The method or module that it belongs to is in evaluation mode
            for the time of the call, so that no batch shapes another's features.
        inputs: what is shown of each sample; for a method its `probe_inputs`.
        batch_size: for speed alone.
        device: where `encode` computes.
        threads: that decode; None takes all cores.
        samples: looks at so many samples at most, drawn at random but always the same; None looks at all.
        max_bad: bad samples to put up with, which are left out; None ends with the first.

    Returns:
        float32 (n, D) and int64 (n,).

    Raises:
        RunError: if the shard set has no labels, no sample has one, or it lacks what is shown.
        NotFiniteError: if features are not finite.
        ShardError: for a sample that cannot be decoded, as `max_bad` says.
    """
    wanted = len(shards) if samples is None else min(samples, len(shards))
    found = list(
        labelled_batches(
            encode, shards, inputs, batch_size=batch_size, device=device, threads=threads, samples=wanted,
            max_bad=max_bad,
        )
    )  # fmt: skip
    features, labels, index = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(index)
    return features[order], labels[order]


@torch.no_grad()
def labelled_batches(
    encode: Callable[[Batch], Tensor],
    shards: ShardSet,
    inputs: Inputs,
    *,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    threads: int | None = None,
    samples: int | None = None,
    max_bad: int | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """`extract_features` batch by batch: features float32 (b, D), labels int64 (b,) and samples' numbers int64 (b,) of
    those that have a label. In stored order, unless `samples` is below the set's length."""
    if "label" not in shards.fields:
        raise RunError(f"{shards.path}: has no label field, which probes need{shards.omitted.hint}")
    wanted = len(shards) if samples is None else samples
    policy: dict[str, Any] = {} if max_bad is None else {"on_error": "skip", "max_bad": max_bad}
    shuffle = wanted < len(shards)
    try:
        loader = Loader(shards, inputs, batch_size, shuffle=shuffle, drop_last=False, threads=threads, **policy)
    except ValueError as error:
        raise RunError(str(error)) from None
    some = False
    with loader, evaluating(encode):
        for batch in islice(loader, -(-wanted // batch_size)):
            assert batch.labels is not None
            features = encode(batch.to(device)).float().cpu().numpy()
            if not np.isfinite(features).all():
                raise NotFiniteError(f"{shards.path}: features of it are not finite, so that no probe means anything")
            left = min(wanted, len(features))
            wanted -= left
            labels = batch.labels.cpu().numpy()[:left]
            known = labels != NO_LABEL
            some = some or bool(known.any())
            yield features[:left][known], labels[known], batch.index.cpu().numpy()[:left][known]
    if not some:
        raise RunError(f"{shards.path}: every label is {NO_LABEL}, which stands for none, and probes need some")


def pixel_features(shards: ShardSet, size: int, *, clips: ClipSpec | None = None, **options: Any) -> Features:
    """The pixels themselves, 0 to 1, as features: what any encoder has to beat.

    Args:
        size: side of the pictures, in pixels.
        clips: of videos, which frames; None for images.
        options: of `extract_features`.

    Returns:
        float32 (n, D) and int64 (n,), with D = 3 size size, or size size where every image is grey; of clips times
        their frames.
    """
    unit = Normalize(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    inputs: ViewSpec | ClipSpec = center_view(size, unit)
    if clips is not None:
        first = clips.plain().clips[0]
        inputs = ClipSpec([replace(first, view=replace(first.view, size=size, normalize=unit))], field=clips.field)
    pixels, labels = extract_features(lambda batch: batch.normalized()[0].flatten(1), shards, inputs, **options)
    red, green, blue = np.split(pixels, 3, axis=1)
    return (red if np.array_equal(red, green) and np.array_equal(red, blue) else pixels), labels


def band_features(shards: ShardSet, sounds: SoundSpec, **options: Any) -> Features:
    """Mean and deviation over time of each band of a log-mel spectrogram: what any encoder of sounds has to beat.

    Args:
        sounds: which crop, and of which spectrogram; one of a wave has that of `Mel`'s defaults.
        options: of `extract_features`.

    Returns:
        float32 (n, 2 bands) and int64 (n,).
    """
    first = sounds.plain().sounds[0]
    heard = SoundSpec([replace(first, mel=first.mel or Mel())], field=sounds.field)

    def statistics(batch: Batch) -> Tensor:
        (mels,) = batch["sound"].mels
        deviation, mean = torch.std_mean(mels[:, 0], dim=1, correction=0)
        return torch.cat([mean, deviation], dim=1)

    return extract_features(statistics, shards, heard, **options)


def word_features(shards: ShardSet, texts: TextSpec, **options: Any) -> Features:
    """How often each token stands in a text, as features: what any encoder of texts has to beat.

    Args:
        texts: which part of which texts, and the tokenizer; special tokens count as others do.
        options: of `extract_features`.

    Returns:
        float32 (n, `BUCKETS`) and int64 (n,); tokens share a bucket where there are more of them.
    """

    def count(batch: Batch) -> Tensor:
        bucket = batch.lone.tokens * 2_654_435_761 % 2**32 * BUCKETS // 2**32  # Knuth's multiplicative hash
        counts = torch.zeros(len(batch), BUCKETS)
        return counts.scatter_add_(1, bucket, batch.lone.attention.float())

    return extract_features(count, shards, texts, **options)


@contextmanager
def evaluating(encode: Callable[[Batch], Tensor]) -> Iterator[None]:
    """Evaluation mode for the module that `encode` is or is a method of, for the time of a block."""
    owner = getattr(encode, "__self__", encode)
    if not isinstance(owner, nn.Module) or not owner.training:
        yield
        return
    owner.eval()
    try:
        yield
    finally:
        owner.train()
