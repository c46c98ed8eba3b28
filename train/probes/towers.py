"""What the towers of a method make of the samples of a set, and of strings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from headrace.models import Method, Tower
from headrace.pipeline import Batch, Loader, TextSpec
from headrace.pipeline.texts.strings import texts_in_tokens
from headrace.pipeline.texts.texts import text_field, texts_of
from headrace.shards import ShardError, ShardSet
from headrace.train.errors import NotFiniteError, RunError
from headrace.train.probes.features import evaluating


def tower_of(method: Method, name: str) -> Tower:
    """One of a method's towers.

    Raises:
        RunError: where it has none of that name.
    """
    if name not in method.towers:
        others = f"towers of {', '.join(method.towers)}" if method.towers else "no towers"
        raise RunError(f"{type(method).__name__} has {others}, and this needs one of {name}s")
    return method.towers[name]


@torch.no_grad()
def embedded_samples(
    method: Method,
    name: str,
    shards: ShardSet,
    *,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    threads: int | None = None,
    max_bad: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the tower `name` of the n samples of a set, float32 (n, D), and their numbers, int64 (n,), in stored
    order; options as of `extract_features`.

    Raises:
        RunError: if the method has no such tower, or the set lacks what it is shown.
        NotFiniteError: if rows are not finite.
    """
    tower = tower_of(method, name)
    policy: dict[str, Any] = {} if max_bad is None else {"on_error": "skip", "max_bad": max_bad}
    try:
        loader = Loader(shards, tower.inputs, batch_size, shuffle=False, drop_last=False, threads=threads, **policy)
    except ValueError as error:
        raise RunError(str(error)) from None
    rows, index = [], []
    with loader, evaluating(method):
        for batch in loader:
            rows.append(_finite(tower, batch.to(device), str(shards.path)))
            index.append(batch.index.cpu().numpy())
    numbers = np.concatenate(index)
    order = np.argsort(numbers)
    return np.concatenate(rows)[order], numbers[order]


@torch.no_grad()
def embedded_strings(
    method: Method, strings: Iterable[str], *, batch_size: int = 256, device: torch.device | str = "cpu"
) -> Iterator[np.ndarray]:
    """Rows of the tower of texts, float32 (b, D), of so many strings at a time.

    Raises:
        RunError: if the method has no tower of texts, or its tokenizer cannot be used.
        NotFiniteError: if rows are not finite.
    """
    tower = tower_of(method, "text")
    assert isinstance(tower.inputs, TextSpec)
    with evaluating(method):
        waiting = list(strings)
        for first in range(0, len(waiting), batch_size):
            part = waiting[first : first + batch_size]
            try:
                texts = texts_in_tokens(tower.inputs, part)
            except ValueError as error:
                raise RunError(str(error)) from None
            batch = Batch(streams={"text": texts}, index=torch.arange(len(part)), labels=None, epoch=0)
            yield _finite(tower, batch.to(device), "the texts")


def _finite(tower: Tower, batch: Batch, place: str) -> np.ndarray:
    rows = tower.embed(batch).float().cpu().numpy()
    if not np.isfinite(rows).all():
        raise NotFiniteError(f"{place}: rows of a tower are not finite, so that no score means anything")
    return rows


def captions_of(shards: ShardSet, numbers: Sequence[int] | np.ndarray, field: str | None = None) -> list[list[str]]:
    """The texts of some samples, of the field that `TextSpec.field` would take.

    Raises:
        RunError: if the set has no such field.
        ShardError: for a sample without a text.
    """
    try:
        name = text_field(shards, field)
    except ValueError as error:
        raise RunError(str(error)) from None
    found = []
    for number in numbers:
        where = shards.where(int(number), name)
        try:
            texts = [text for _, text in texts_of(shards.read(int(number), [name])[name])]
        except (ValueError, RecursionError) as error:
            raise ShardError(f"{where}: cannot decode the text: {error}") from error
        if not texts:
            raise ShardError(f"{where}: the text is empty")
        found.append(texts)
    return found
