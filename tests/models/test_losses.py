"""Losses against slow loops, the papers' formulas, peers, and themselves on several ranks."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from headrace.models.losses import gather, nt_xent


def random_views(n: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator), torch.randn(n, d, generator=generator)


def slow_nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> float:
    """Equation 1 and algorithm 1 of arXiv 2002.05709, with 2k - 1 and 2k as the two views of sample k."""
    z = [view for pair in zip(z1.double(), z2.double(), strict=True) for view in pair]

    def s(i: int, j: int) -> float:
        return float(z[i] @ z[j] / (z[i].norm() * z[j].norm()))

    def l(i: int, j: int) -> float:  # noqa: E743
        others = sum(math.exp(s(i, k) / temperature) for k in range(len(z)) if k != i)
        return -math.log(math.exp(s(i, j) / temperature) / others)

    pairs = range(0, len(z), 2)
    return sum(l(k, k + 1) + l(k + 1, k) for k in pairs) / len(z)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
@pytest.mark.parametrize(("n", "d"), [(1, 3), (2, 2), (7, 5)])
def test_nt_xent_is_the_papers_sum(n: int, d: int, temperature: float) -> None:
    z1, z2 = random_views(n, d)
    assert nt_xent(z1, z2, temperature).item() == pytest.approx(slow_nt_xent(z1, z2, temperature), rel=1e-5, abs=1e-6)


@pytest.mark.peer("lightly")
def test_nt_xent_is_lightlys() -> None:
    from lightly.loss import NTXentLoss

    z1, z2 = random_views(16, 8)
    assert nt_xent(z1, z2, 0.2).item() == pytest.approx(NTXentLoss(temperature=0.2)(z1, z2).item(), rel=1e-5)


def test_nt_xent_does_not_mind_the_order_of_views_or_their_length() -> None:
    z1, z2 = random_views(6, 4)
    loss = nt_xent(z1, z2, 0.3)
    torch.testing.assert_close(nt_xent(z2, z1, 0.3), loss)
    torch.testing.assert_close(nt_xent(3 * z1, 0.5 * z2, 0.3), loss)
    shuffled = torch.tensor([5, 0, 3, 1, 4, 2])
    torch.testing.assert_close(nt_xent(z1[shuffled], z2[shuffled], 0.3), loss)


def test_nt_xent_gradient_is_that_of_finite_differences() -> None:
    z1, z2 = random_views(3, 4, seed=1)
    z1.requires_grad_()
    nt_xent(z1, z2, 0.5).backward()
    assert z1.grad is not None
    step = 1e-3
    for i in range(3):
        for j in range(4):
            nudge = torch.zeros_like(z1)
            nudge[i, j] = step
            up, down = (slow_nt_xent(z1.detach() + sign * nudge, z2, 0.5) for sign in (1, -1))
            assert z1.grad[i, j].item() == pytest.approx((up - down) / (2 * step), abs=1e-4)


def test_nt_xent_stays_float32_under_autocast() -> None:
    z1, z2 = random_views(8, 16)
    expected = nt_xent(z1, z2, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = nt_xent(z1, z2, 0.1)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)


def test_nt_xent_refuses_what_it_cannot_mean() -> None:
    z1, z2 = random_views(4, 3)
    with pytest.raises(ValueError, match=r"\(4, 3\) and \(3, 3\)"):
        nt_xent(z1, z2[:3], 0.1)
    with pytest.raises(ValueError, match="temperature above 0, got 0"):
        nt_xent(z1, z2, 0)


def _gradient_of_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    network = DistributedDataParallel(_network())
    x1, x2 = (x[3 * rank : 3 * rank + 3] for x in random_views(6, 5))
    z1, z2 = network(torch.cat([x1, x2])).chunk(2)
    loss = nt_xent(z1, z2, 0.2)
    loss.backward()
    gradients = [p.grad for p in network.parameters()]
    torch.save({"loss": loss.detach(), "gradients": gradients}, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def _network() -> nn.Module:
    network = nn.Linear(5, 4)
    generator = torch.Generator().manual_seed(3)
    for p in network.parameters():
        p.data.normal_(generator=generator)
    return network


def test_two_ranks_have_the_loss_and_the_gradient_of_one(tmp_path: Path) -> None:
    network = _network()
    z1, z2 = network(torch.cat(random_views(6, 5))).chunk(2)
    loss = nt_xent(z1, z2, 0.2)
    loss.backward()
    mp.spawn(_gradient_of_rank, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    torch.testing.assert_close((ranks[0]["loss"] + ranks[1]["loss"]) / 2, loss.detach())
    assert ranks[0]["loss"] != ranks[1]["loss"]  # each rank has its own anchors
    for rank in ranks:
        for found, p in zip(rank["gradients"], network.parameters(), strict=True):
            torch.testing.assert_close(found, p.grad)


def _beside_gather(rows: Tensor, gather: Callable[[Tensor], Tensor], ranks: int) -> list[Tensor]:
    """Losses in which gathered rows meet their rank's own, so that autograd hands both one and the same gradient."""
    wanted = torch.arange(ranks * rows.numel(), dtype=rows.dtype).reshape(-1, rows.shape[1]) + 1
    own = (rows * 1.0).repeat(ranks, 1)  # made before the gather, so that its gradient is used afterwards
    total = (rows * 1.0).sum(0)
    return [
        ((own + gather(rows)) * wanted).sum(),
        ((own - gather(rows)) * wanted).square().sum(),
        (total + gather(rows)).sum(),  # a gradient that is expanded, without memory of its own
        ((own + gather(rows)).T * wanted.T.contiguous()).sum(),  # one whose memory is not in order
    ]


def _gradients_beside_gather(rank: int, folder: str, ranks: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    x = _rows(ranks)[3 * rank : 3 * rank + 3].requires_grad_()
    y = x * 1.0
    losses = _beside_gather(y, gather, ranks)
    gradients = [torch.autograd.grad(loss, x, retain_graph=True)[0] for loss in losses]
    torch.save({"gradients": gradients, "everyone": gather(y.detach())}, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def _rows(ranks: int) -> Tensor:
    return torch.randn(3 * ranks, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_gather_leaves_gradients_that_it_shares_alone(tmp_path: Path, ranks: int) -> None:
    """The gradient of the ranks' losses together is that of one process, whoever else uses what is gathered."""
    x = _rows(ranks).requires_grad_()
    y = x * 1.0
    of_ranks = [_beside_gather(y[3 * rank : 3 * rank + 3], lambda _: y, ranks) for rank in range(ranks)]
    totals = [torch.stack(each).sum() for each in zip(*of_ranks, strict=True)]
    expected = [torch.autograd.grad(total, x, retain_graph=True)[0] for total in totals]
    mp.spawn(_gradients_beside_gather, (str(tmp_path), ranks), nprocs=ranks)
    for rank in range(ranks):
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        for gradient, whole in zip(found["gradients"], expected, strict=True):
            torch.testing.assert_close(gradient, whole[3 * rank : 3 * rank + 3])
        assert torch.equal(found["everyone"], x.detach())
