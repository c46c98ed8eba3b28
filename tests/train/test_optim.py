"""Optimisers against slow formulas, parameter groups, and the schedule at its corners."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from headrace.models.method import ParameterGroup, kernels_and_vectors
from headrace.train import OptimConfig
from headrace.train.optim import build_optimizer, peak_lr
from headrace.train.optimizers import LARS, SGD
from headrace.train.schedule import dropped, warmup_cosine, warmup_linear


def network() -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.data.normal_(generator=generator)
    return model


def slow_lars(
    w: np.ndarray, v: np.ndarray, g: np.ndarray, lr: float, m: float, decay: float, trust: float
) -> tuple[np.ndarray, np.ndarray]:
    """One step of google-research/simclr's lars_optimizer.py, element by element."""
    u = [g_i + decay * w_i for g_i, w_i in zip(g.ravel(), w.ravel(), strict=True)]
    w_norm = math.sqrt(sum(w_i**2 for w_i in w.ravel()))
    u_norm = math.sqrt(sum(u_i**2 for u_i in u))
    ratio = trust * w_norm / u_norm if w_norm > 0 and u_norm > 0 else 1.0
    v_next = np.array([m * v_i + lr * ratio * u_i for v_i, u_i in zip(v.ravel(), u, strict=True)]).reshape(w.shape)
    return w - v_next, v_next


def test_lars_is_the_formula_over_steps_with_changing_rates() -> None:
    random = np.random.default_rng(1)
    weights = [random.normal(size=(4, 3)), random.normal(size=(2, 3, 3, 3)), np.zeros((3, 3))]
    parameters = [nn.Parameter(torch.tensor(w)) for w in weights]
    optimizer = LARS(parameters, lr=1.0, momentum=0.9, weight_decay=0.1, trust=0.02)
    velocities = [np.zeros_like(w) for w in weights]
    for step in range(5):
        lr = 0.5 / (step + 1)
        optimizer.param_groups[0]["lr"] = lr
        gradients = [random.normal(size=w.shape) * (step != 3) for w in weights]
        for i, (p, g) in enumerate(zip(parameters, gradients, strict=True)):
            p.grad = torch.tensor(g)
            weights[i], velocities[i] = slow_lars(weights[i], velocities[i], g, lr, 0.9, 0.1, 0.02)
        optimizer.step()
        for p, w in zip(parameters, weights, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), w, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("lr_in_momentum", [True, False])
def test_a_clipped_rate_is_the_ratio_itself_and_at_most_the_learning_rate(lr_in_momentum: bool) -> None:
    random = np.random.default_rng(2)
    weights = [random.normal(size=(4, 3)), 10 * random.normal(size=(3, 2)), np.zeros((3, 3))]
    parameters = [nn.Parameter(torch.tensor(w)) for w in weights]
    config = OptimConfig(
        name="lars", lr=1.0, weight_decay=0.1, trust=0.02, lr_in_momentum=lr_in_momentum, clip_rate=True
    )
    optimizer = build_optimizer([ParameterGroup(params=parameters)], config, 256)
    velocities, clipped = [np.zeros_like(w) for w in weights], set()
    for lr in (0.03, 0.01, 0.3, 0.001):
        optimizer.param_groups[0]["lr"] = lr
        for i, (p, w) in enumerate(zip(parameters, weights, strict=True)):
            g = random.normal(size=w.shape)
            p.grad = torch.tensor(g)
            u = g + 0.1 * w
            ratio = 0.02 * math.sqrt((w**2).sum()) / math.sqrt((u**2).sum())
            rate = min(ratio, lr) if ratio else lr
            clipped.add(rate == lr)
            velocities[i] = 0.9 * velocities[i] + (rate * u if lr_in_momentum else rate / lr * u)
            weights[i] = w - velocities[i] * (1.0 if lr_in_momentum else lr)
        optimizer.step()
        for p, w in zip(parameters, weights, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), w, rtol=1e-12, atol=1e-15)
    assert clipped == {True, False}


def test_lars_neither_adapts_nor_decays_biases_and_norms() -> None:
    model = network()
    optimizer = build_optimizer(kernels_and_vectors(model), OptimConfig(name="lars", lr=0.1, weight_decay=0.5), 256)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        plain = torch.equal(p.detach(), before[name] - 0.1)
        assert plain == (p.ndim == 1), name


def test_lars_state_survives_a_reload() -> None:
    model, twin = network(), network()
    config = OptimConfig(name="lars", lr=0.1)
    optimizer = build_optimizer(kernels_and_vectors(model), config, 256)
    for p in model.parameters():
        p.grad = torch.full_like(p, 0.3)
    optimizer.step()
    twin.load_state_dict(model.state_dict())
    reloaded = build_optimizer(kernels_and_vectors(twin), config, 256)
    reloaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        q.grad = p.grad.clone() if p.grad is not None else None
    optimizer.step()
    reloaded.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


def test_groups_hold_every_trainable_weight_once() -> None:
    model = network()
    model[0].bias.requires_grad_(False)
    kernels, vectors = kernels_and_vectors(model)
    assert [tuple(p.shape) for p in kernels.params] == [(4, 3, 3, 3), (2, 4)]
    assert [tuple(p.shape) for p in vectors.params] == [(4,), (4,), (2,)]
    assert (kernels.decay_scale, vectors.decay_scale) == (1, 0)


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", SGD), ("lars", LARS)])
def test_the_config_reaches_the_optimiser(name: str, kind: type) -> None:
    config = OptimConfig(name=name, lr=0.2, weight_decay=0.3, momentum=0.8, betas=(0.7, 0.6))  # type: ignore[arg-type]
    optimizer = build_optimizer(kernels_and_vectors(network()), config, 512)
    assert type(optimizer) is kind
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.2]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0]
    assert optimizer.param_groups[0].get("momentum", 0.8) == 0.8
    assert optimizer.param_groups[0].get("betas", (0.7, 0.6)) == (0.7, 0.6)


def test_the_rate_scales_with_the_batch_only_when_asked() -> None:
    assert peak_lr(OptimConfig(lr=0.3), 4096) == 0.3
    assert peak_lr(OptimConfig(lr=0.3, scale_lr=True), 4096) == pytest.approx(4.8)


def test_schedule_climbs_in_a_line_and_falls_in_a_cosine() -> None:
    shares = [warmup_cosine(step, total=14, warmup=4) for step in range(14)]
    assert shares[:4] == [0.25, 0.5, 0.75, 1.0]
    assert shares[4] == 1.0
    assert shares[9] == pytest.approx(0.5)
    assert shares[13] == pytest.approx(0.5 * (1 + math.cos(0.9 * math.pi)))
    assert shares[4:] == sorted(shares[4:], reverse=True)


def test_a_linear_schedule_falls_in_a_line() -> None:
    """As `transformers`' get_linear_schedule_with_warmup a step later: its first step has no learning rate at all."""
    shares = [warmup_linear(step, total=14, warmup=4) for step in range(14)]
    assert shares[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert shares[5:] == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert warmup_linear(14, total=14, warmup=4) == 0
    assert warmup_linear(9, total=14, warmup=4, final=0.5) == pytest.approx(0.75)


def test_the_rate_drops_where_torch_drops_it() -> None:
    """Their factor is one for all drops."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[2, 5], gamma=0.1)
    expected = []
    for _ in range(8):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert [dropped(epoch, {2: 0.1, 5: 0.1}) for epoch in range(8)] == pytest.approx(expected)
    assert dropped(6, {5: 0.2, 2: 0.5}) == pytest.approx(0.1)
    assert dropped(100, {}) == 1.0


def test_schedule_corners() -> None:
    assert warmup_cosine(0, total=10, warmup=0) == 1.0
    assert warmup_cosine(10, total=10, warmup=0, final=0.1) == pytest.approx(0.1)
    assert [warmup_cosine(step, total=10, warmup=0, final=1.0) for step in (0, 5, 9)] == [1.0, 1.0, 1.0]
    assert warmup_cosine(3, total=4, warmup=8) == 0.5
    assert warmup_cosine(0, total=1, warmup=0) == 1.0
