"""Batches of real texts for methods that read them, and another library's models with a method's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from headrace.pipeline import Batch, Loader, MaskedTokens, Texts, TextSpec
from headrace.shards import ShardSet


def batches_of(method: Any, shards: ShardSet, inputs: TextSpec | None = None, size: int = 20) -> list[Batch]:
    with Loader(shards, inputs or method.inputs, size, threads=1) as loader:
        return list(loader)


def parts_of(batch: Batch) -> tuple[Texts, MaskedTokens]:
    (masked,) = texts_of(batch).masks
    assert isinstance(masked, MaskedTokens)
    return texts_of(batch), masked


def texts_of(batch: Batch) -> Texts:
    found: Texts = batch["text"]
    return found


def with_weights_of(
    method: Any, judge: Any, names: Mapping[str, str], tied: Mapping[str, Sequence[str]], **others: Tensor
) -> Any:
    """`judge`, in float64, with every weight that it has from `method`.

    Args:
        names: what the judge calls parts of the method; "" for one whose parts it has itself.
        tied: what the judge calls one tensor of the method.
        others: tensors that the method has not.
    """
    state: dict[str, Tensor] = dict(others)
    for key, value in method.state_dict().items():
        for other in tied.get(key, ()):
            state[other] = value
        for ours, theirs in names.items():
            if key.startswith(f"{ours}."):
                state[(theirs + key.removeprefix(ours)).lstrip(".")] = value
    judge.double().load_state_dict(state)
    return judge


def same_gradients(method: Any, judge: Any, by_name: Mapping[str, str], *, rtol: float = 1e-9) -> None:
    """Of parameters by our name and the judge's."""
    ours, others = dict(method.named_parameters()), dict(judge.named_parameters())
    for name, other in by_name.items():
        assert ours[name].grad.abs().max() > 0, name
        torch.testing.assert_close(ours[name].grad, others[other].grad, rtol=rtol, atol=1e-12)
