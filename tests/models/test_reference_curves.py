"""Twenty steps of a method and of a plain loop around a peer's parts, from the same weights on the same batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from headrace.models import Context, build_method
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, Loader, ViewSpec
from headrace.shards import ShardSet
from headrace.train import OptimConfig
from headrace.train.optim import build_optimizer, drop_frozen, set_schedule
from tests.models import peer_loops, peer_loops_masked
from tests.models.peer_loops import DECAY, EPOCHS, LR, MOMENTUM, STEPS_PER_EPOCH
from tests.models.tiny_methods import BEIT, TINY

SAMPLES = 40

LOOPS = {**peer_loops.LOOPS, **peer_loops_masked.LOOPS}

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
    "data2vec": {"target_blocks": 2, "momentum": 0.9, "backbone": BEIT},  # `transformers` drops by draws of its own
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


WholeSet = Callable[[ViewSpec], Iterator[Batch]]
"""Batches of all samples of a set, each once, in the order of the set."""


def context_of(step: int, samples: int, whole_set: WholeSet) -> Context:
    """Of a run over all epochs of a set with so many samples."""
    return Context(
        step=step, epoch=step // STEPS_PER_EPOCH, steps_per_epoch=STEPS_PER_EPOCH, epochs=EPOCHS, batch_size=SAMPLES,
        samples=samples, batches=whole_set,
    )  # fmt: skip


def our_steps(
    method: Any, batches: list[Batch], name: Literal["sgd", "adamw"], samples: int, whole_set: WholeSet
) -> Iterator[Tensor]:
    """The losses, with hooks and the optimiser `name` as in training."""
    optim = OptimConfig(name=name, lr=LR[name], momentum=MOMENTUM, weight_decay=DECAY)
    optimizer = build_optimizer(method.parameter_groups(), optim, SAMPLES)
    set_schedule(optimizer, LR[name], LR[name], DECAY)
    for step, batch in enumerate(batches):
        context = context_of(step, samples, whole_set)
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


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")  # of lightly's
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.peer(LOOPS[name][0])) for name in LOOPS])
def test_the_loss_of_every_step_is_that_of_a_plain_loop_around_a_peers_parts(
    name: str, digits_webdataset: ShardSet
) -> None:
    method = build_method(name, **{**TINY[name], **CHANGES.get(name, {})}).double().train()
    batches = batches_of(method, digits_webdataset)
    assert len(batches) == 20
    assert batches[0].epoch != batches[-1].epoch

    def whole_set(views: ViewSpec) -> Iterator[Batch]:
        with Loader(digits_webdataset, views, SAMPLES, shuffle=False, drop_last=False, threads=2) as loader:
            yield from loader

    of_set = len(digits_webdataset), whole_set
    with torch.no_grad():
        method.on_epoch(context_of(0, *of_set))  # what is found in the whole set, such as words, is for both
    _, optimizer, loop = LOOPS[name]
    expected = torch.stack(list(loop(method, batches)))
    found = torch.stack(list(our_steps(method, batches, optimizer, *of_set)))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
