"""What MoCo v1 has of its own: grey before colours, one linear layer, and learning rates that drop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from headrace.models import Context, build_method
from headrace.models.methods.joint.moco import MoCoV2Config
from headrace.models.methods.joint.moco_v1 import MoCoV1Config
from headrace.models.seeding import seeded
from headrace.pipeline import Loader, ViewSpec
from headrace.shards import ShardSet
from headrace.train.recipes import moco_v1_imagenet
from headrace.train.schedule import dropped
from tests.models.authors_views import IMAGENET, in_torchvisions_words
from tests.models.tiny_methods import TINY, tiny

CONTEXT = Context(step=0, epoch=0, steps_per_epoch=5, epochs=2, batch_size=8)


def test_it_asks_for_the_authors_views() -> None:
    """Grey first, then colours for every view, as RandomGrayscale stands before ColorJitter in their code."""
    views = MoCoV1Config().views().views
    colours = (1.0, 0.4, 0.4, 0.4, 0.4)
    assert in_torchvisions_words(views) == [((224, 0.2, 1.0), 0.5, colours, 0.2, (), 0.0, IMAGENET)] * 2
    assert [view.operations for view in views] == [("grayscale", "jitter")] * 2
    assert [view.operations for view in MoCoV2Config().views().views] == [("jitter", "grayscale", "blur")] * 2
    assert MoCoV1Config(strength=0.0).view().operations == ("grayscale",)
    with pytest.raises(ValueError, match=r"View\.hue must lie in \[0, 0\.5\]"):
        MoCoV1Config(strength=1.5)


def test_what_was_grey_stays_grey_behind_the_colours(digits_webdataset: ShardSet) -> None:
    """Saturation and hue change nothing of a grey picture; behind a jitter a grey has another brightness."""
    view = replace(MoCoV1Config(size=24).view(), grayscale=1.0, brightness=0.0, contrast=0.0)
    plain = replace(view, jitter=0.0)
    with Loader(digits_webdataset, ViewSpec([view, plain], draws=[0, 0]), 16, threads=1) as loader:
        grey, untouched = next(iter(loader)).views
    np.testing.assert_allclose(np.asarray(grey, float), np.asarray(untouched, float), atol=1.0)


def test_its_projector_is_one_layer_with_a_bias_and_without_a_norm() -> None:
    projector = build_method("moco_v1", **TINY["moco_v1"] | {"projection_dim": 128}).projector
    assert type(projector) is nn.Linear
    assert projector.weight.shape == (128, 64)
    assert projector.bias is not None


def test_a_step_is_that_of_version_2_with_its_layer_and_temperature(digits_webdataset: ShardSet) -> None:
    """The queue, the shuffle and the slow network are the same code; see test_moco.py."""
    method: Any = tiny("moco_v1")
    other: Any = build_method("moco_v2", **TINY["moco_v2"], temperature=0.07).train()
    other.projector, other.slow_projector = method.projector, method.slow_projector
    for ours, theirs in ((method.backbone, other.backbone), (method.slow_backbone, other.slow_backbone)):
        theirs.load_state_dict(ours.state_dict())
    other.queue.load_state_dict(method.queue.state_dict())
    with Loader(digits_webdataset, method.inputs, 8, threads=1) as loader:
        batch = next(iter(loader))
    with seeded(1):
        loss = method.loss(batch)["loss"]
    with seeded(1):
        assert torch.equal(other.loss(batch)["loss"], loss)
    keys = method.queue.new[0]
    with torch.no_grad():
        method.after_step(CONTEXT)
    torch.testing.assert_close(method.queue.rows[:8], keys)


def test_everything_is_decayed() -> None:
    (group,) = tiny("moco_v1").parameter_groups()
    assert group.decay_scale == 1.0
    assert any(p.ndim == 1 for p in group.params)


def test_imagenet_is_the_authors_run() -> None:
    config = moco_v1_imagenet()
    assert (config.epochs, config.batch_size, config.optim.momentum) == (200, 256, 0.9)
    assert (config.schedule.warmup_epochs, config.schedule.final) == (0, 1.0)
    rates = [config.optim.lr * dropped(epoch, config.schedule.drops) for epoch in (0, 119, 120, 159, 160, 199)]
    assert rates == pytest.approx([0.03, 0.03, 0.003, 0.003, 0.0003, 0.0003])
    model = config.model
    assert (model.temperature, model.momentum, model.queue, model.projection_dim) == (0.07, 0.999, 65536, 128)
    with pytest.raises(ValueError, match=r"MoCoV1Config\.temperature must be above 0, got 0"):
        MoCoV1Config(temperature=0)
