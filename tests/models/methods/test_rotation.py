"""Rotation's labels are the turns that the views have."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from headrace.models import build_method
from headrace.models.methods.pretext.rotation import RotationConfig
from headrace.pipeline import Loader
from headrace.shards import ShardSet
from tests.models.authors_views import in_torchvisions_words, plain
from tests.models.tiny_methods import RESNET, tiny


def test_it_asks_for_the_authors_views() -> None:
    inputs: Any = build_method("rotation", RotationConfig(backbone=RESNET)).inputs
    assert in_torchvisions_words(inputs.views) == [plain(224, 0.08)] * 4
    assert [view.turns for view in inputs.views] == [(0,), (1,), (2,), (3,)]
    assert inputs.draws == (0, 0, 0, 0)


def test_every_view_is_the_first_turned_counter_clockwise_as_its_label_says(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("rotation")
    with Loader(digits_webdataset, method.inputs, 8, threads=1) as loader:
        batch = next(iter(loader))
    assert batch.drawn is not None
    assert batch.drawn.turns.tolist() == [[0, 1, 2, 3]] * 8
    for turns, view in enumerate(batch.views):
        assert torch.equal(view, torch.rot90(batch.views[0], turns, dims=(2, 3)))


def test_a_classifier_that_says_nothing_costs_ln_4_and_is_right_once_in_four(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("rotation")
    with torch.no_grad():
        method.classifier.weight.zero_()
        method.classifier.bias.zero_()
    with Loader(digits_webdataset, method.inputs, 8, threads=1) as loader:
        terms = method.loss(next(iter(loader)))
    assert terms["loss"].item() == pytest.approx(math.log(4))
    assert terms["accuracy"].item() == 0.25
