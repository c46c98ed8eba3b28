"""An encoder as a function of tensors: with what it needs, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from headrace.models.methods.joint.simclr import SimCLR
from headrace.pipeline import Batch, Normalize
from headrace.tools.exporting.function import example, function_of
from headrace.train.encoders import Encoder, open_encoder
from tests.train.kept_runs import kept_run


class Projected(SimCLR):
    """Somebody's own method, whose features are behind the projector."""

    def encode(self, batch: Batch) -> Tensor:
        projected: Tensor = self.projector(super().encode(batch))
        return projected


@pytest.fixture(scope="module")
def simclr(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    out = tmp_path_factory.mktemp("run")
    kept_run(out, "simclr")
    return open_encoder(out)


@torch.no_grad()
def test_the_backbone_is_all_that_most_need(simclr: Encoder) -> None:
    function = function_of(simclr)
    names = {name.partition("backbone.")[2] for name in function.state_dict()}
    assert names == set(simclr.backbone.state_dict())
    (images,) = example(simclr, 3)
    assert images.shape == (3, 3, 24, 24)
    assert torch.equal(function(images), simclr.backbone(images))


@torch.no_grad()
def test_what_else_features_need_is_kept(simclr: Encoder) -> None:
    assert simclr.method is not None
    own = Projected(simclr.method.config).eval()
    own.load_state_dict(simclr.method.state_dict())
    (images,) = example(simclr, 3)
    function = function_of(replace(simclr, module=own, method=own, feature_dim=16))
    assert torch.equal(function(images), own.encode(Batch.of_views([images], [Normalize()])))


def test_an_example_is_a_function_of_its_seed(simclr: Encoder) -> None:
    (first,), (again,), (other,) = (example(simclr, 2, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.peer("tokenizers", "transformers")
def test_of_texts_one_is_as_long_as_may_be(tmp_path: Path) -> None:
    kept_run(tmp_path, "bert")
    tokens, attention, segments = example(open_encoder(tmp_path), 4)
    assert tokens.shape == attention.shape == segments.shape == (4, 24)
    assert attention[0].all()
    assert not attention.all()
