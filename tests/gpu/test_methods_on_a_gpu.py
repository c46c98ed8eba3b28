"""Every method of the table on a GPU: three steps without a wait for the device, and with inductor's compiler."""

from __future__ import annotations

import pytest
import torch

from headrace.models import METHODS, Context
from headrace.models.seeding import seeded
from headrace.pipeline import Loader
from headrace.shards import ShardSet
from tests.models.tiny_methods import require_libraries, set_of, tiny

SAMPLES = 40
CUDA = torch.device("cuda")
COMPILED = ("simclr", "dino", "mae", "barlow_twins")


def context(step: int) -> Context:
    return Context(step=step, epoch=0, steps_per_epoch=5, epochs=3, batch_size=SAMPLES)


@pytest.mark.parametrize("name", METHODS)
def test_three_steps_without_a_wait(name: str, request: pytest.FixtureRequest) -> None:
    require_libraries(name)
    shards: ShardSet = request.getfixturevalue(set_of(name))
    method = tiny(name).to(CUDA)
    parameters = [p for group in method.parameter_groups() for p in group.params]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    with Loader(shards, method.inputs, SAMPLES, threads=2) as loader:
        batches = [batch.to(CUDA) for batch in loader]

    def step(number: int) -> torch.Tensor:
        with seeded(0, number):
            with torch.no_grad():
                method.before_step(context(number))
            with torch.autocast("cuda", torch.bfloat16):
                loss: torch.Tensor = method.loss(batches[number % len(batches)])["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                method.after_step(context(number))
        return loss.detach()

    losses = [step(number) for number in range(2)]  # constants go up, libraries find their algorithms
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses += [step(number) for number in range(2, 5)]
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert torch.stack(losses).isfinite().all()


@pytest.mark.parametrize("name", COMPILED)
def test_inductor_gives_the_same_loss(name: str, request: pytest.FixtureRequest) -> None:
    shards: ShardSet = request.getfixturevalue(set_of(name))
    method = tiny(name).to(CUDA)
    with Loader(shards, method.inputs, SAMPLES, threads=2) as loader:
        batch = next(iter(loader)).to(CUDA)
    with torch.no_grad():
        method.before_step(context(0))
    with seeded(3):
        expected = method.loss(batch)["loss"]
    with seeded(3):
        found = torch.compile(method.loss)(batch)["loss"]
    if name != "mae":  # its order of patches is drawn by the loader, its dropout by inductor's own generator
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert found.isfinite()
