"""What ranks exchange, and its gradients, also where the tensors have other users."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from headrace.models.parts.collectives import (
    from_first,
    gather,
    gathered,
    mean_over_ranks,
    summed,
    summed_with_local_gradient,
    total,
)
from tests.ranks import on_ranks

N = 2


def numbers(rank: int, rows: int = N, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(100 * seed + rank)
    return torch.randn(rows, 3, generator=generator, dtype=torch.float64)


def of_rank(rank: int, ranks: int) -> dict[str, Any]:
    x, weight = numbers(rank).requires_grad_(), numbers(rank, N * ranks, seed=1)
    other = numbers(rank, N * ranks, seed=2).requires_grad_()
    # Addition hands one gradient to both addends: neither backward may write into it.
    ((other * 1.0 + gather(x)) * weight).sum().backward()
    y, of_y, factor = numbers(rank).requires_grad_(), numbers(rank, seed=3).requires_grad_(), numbers(rank, seed=4)
    ((of_y * 1.0 + summed(y)) * factor).sum().backward()
    local = numbers(rank).requires_grad_()
    (summed_with_local_gradient(local) * factor).sum().backward()
    kept = numbers(rank)
    results = {
        "gathered": gathered(kept),
        "total": total(kept),
        "mean": mean_over_ranks(kept),
        "first": from_first(kept),
    }
    turned = torch.arange(6.0).reshape(2, 3).T + rank  # not contiguous
    return {
        "gather": gather(x).detach(), "x": x.grad, "other": other.grad, "y": y.grad, "of_y": of_y.grad,
        "local": local.grad, "local_sum": summed_with_local_gradient(local).detach(), "summed": summed(y).detach(),
        "untouched": torch.equal(kept, numbers(rank)), "turned": gathered(turned), **results,
    }  # fmt: skip


@pytest.mark.parametrize("ranks", [2, 4])
def test_values_and_gradients(ranks: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    found = on_ranks(of_rank, ranks, tmp_path_factory.mktemp("ranks"), ranks)
    everything = torch.cat([numbers(rank) for rank in range(ranks)])
    weights = [numbers(rank, N * ranks, seed=1) for rank in range(ranks)]
    factors = [numbers(rank, seed=4) for rank in range(ranks)]
    whole = torch.stack([numbers(rank) for rank in range(ranks)]).sum(dim=0)
    for rank, result in enumerate(found):
        torch.testing.assert_close(result["gather"], everything)
        torch.testing.assert_close(result["gathered"], everything)
        torch.testing.assert_close(result["x"], torch.stack(weights).sum(dim=0)[N * rank : N * rank + N])
        torch.testing.assert_close(result["other"], weights[rank])
        torch.testing.assert_close(result["summed"], whole)
        assert torch.equal(result["first"], numbers(0))
        torch.testing.assert_close(result["y"], torch.stack(factors).sum(dim=0))
        torch.testing.assert_close(result["of_y"], factors[rank])
        torch.testing.assert_close(result["local_sum"], whole)
        torch.testing.assert_close(result["local"], factors[rank])
        torch.testing.assert_close(result["total"], whole)
        torch.testing.assert_close(result["mean"], whole / ranks)
        assert result["untouched"]
        of_all = [torch.arange(6.0).reshape(2, 3).T + other for other in range(ranks)]
        torch.testing.assert_close(result["turned"], torch.cat(of_all))


def test_one_process_gives_what_it_is_given() -> None:
    x = numbers(0).requires_grad_()
    assert gather(x) is x
    assert summed(x) is x
    assert not gathered(x).requires_grad
    assert total(x).data_ptr() != x.data_ptr()
    torch.testing.assert_close(mean_over_ranks(x), x.detach())
