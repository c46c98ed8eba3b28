"""Twenty steps of a method and of a plain loop around a peer's parts, from the same weights on the same batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from headrace.models import Context, build_method
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, Loader
from headrace.shards import ShardSet
from headrace.train import OptimConfig
from headrace.train.optim import build_optimizer, drop_frozen, set_schedule
from tests.models.peer_loops import DECAY, EPOCHS, LOOPS, LR, MOMENTUM, STEPS_PER_EPOCH
from tests.models.tiny_methods import TINY

SAMPLES = 40

CHANGES: dict[str, dict[str, Any]] = {
    # Sums of powers of two: lightly rounds teachers' temperatures, and one over the hidden patches, to float32.
    "dino": {"warmup_teacher_temperature": 0.03125, "teacher_temperature": 0.0625, "warmup_teacher_epochs": 3},
    "ibot": {
        "warmup_teacher_temperature": 0.03125, "teacher_temperature": 0.0625, "warmup_teacher_epochs": 3,
        "warmup_patch_teacher_temperature": 0.0625, "patch_teacher_temperature": 0.125, "mask_ratio": (0.25, 0.25),
    },
    "dinov2": {
        "warmup_teacher_temperature": 0.0625, "teacher_temperature": 0.0625, "mask_ratio": (0.25, 0.25),
        "assignment": "center",
    },
}  # fmt: skip
"""To a method's tiny form."""


def batches_of(method: Any, shards: ShardSet) -> list[Batch]:
    """Of all epochs, with normalised views in float64."""
    with Loader(shards, method.inputs, SAMPLES, threads=2) as loader:
        drawn = [batch for _ in range(EPOCHS) for batch in loader]
    return [
        replace(
            batch, streams={"image": replace(batch.lone, views=[v.double().contiguous() for v in batch.normalized()])}
        )
        for batch in drawn
    ]


def our_steps(method: Any, batches: list[Batch], name: Literal["sgd", "adamw"], /, **of_set: Any) -> Iterator[Tensor]:
    """The losses, with hooks and the optimiser `name` as in training. `of_set`: what hooks are told of the set."""
    optim = OptimConfig(name=name, lr=LR[name], momentum=MOMENTUM, weight_decay=DECAY)
    optimizer = build_optimizer(method.parameter_groups(), optim, SAMPLES)
    set_schedule(optimizer, LR[name], LR[name], DECAY)
    for step, batch in enumerate(batches):
        context = Context(
            step=step, epoch=step // STEPS_PER_EPOCH, steps_per_epoch=STEPS_PER_EPOCH, epochs=EPOCHS,
            batch_size=SAMPLES, **of_set,
        )  # fmt: skip
        with seeded(0, step):
            with torch.no_grad():
                if step % STEPS_PER_EPOCH == 0:
                    method.on_epoch(context)
                method.before_step(context)
            loss = method.loss(batch)["loss"]
            optimizer.zero_grad()
            loss.backward()
        with torch.no_grad():
            method.after_backward(context)
        drop_frozen(optimizer, context.epoch)
        optimizer.step()
        with torch.no_grad():
            method.after_step(context)
        yield loss.detach()


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.peer(LOOPS[name][0])) for name in LOOPS])
def test_the_loss_of_every_step_is_that_of_a_plain_loop_around_a_peers_parts(
    name: str, digits_webdataset: ShardSet
) -> None:
    method = build_method(name, **{**TINY[name], **CHANGES.get(name, {})}).double().train()
    batches = batches_of(method, digits_webdataset)
    assert len(batches) == 20
    assert batches[0].epoch != batches[-1].epoch
    _, optimizer, loop = LOOPS[name]
    expected = torch.stack(list(loop(method, batches)))
    found = torch.stack(list(our_steps(method, batches, optimizer)))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
