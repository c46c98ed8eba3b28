"""Learning rates that fall from layer to layer: timm's own, the heads' untouched, and taken by the loop."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]
from torch import nn

from headrace.models import build_method
from headrace.models.method import ParameterGroup, kernels_and_vectors
from headrace.models.parts.backbones import tiny_resnet
from headrace.shards import ShardSet
from headrace.train import ConfigError, train
from headrace.train.layers import layered
from tests.models.tiny_methods import tiny
from tests.train.tiny_runs import final_state, tiny_run


def scales(groups: list[ParameterGroup]) -> dict[int, float]:
    return {id(parameter): group.lr_scale for group in groups for parameter in group.params}


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18"])
def test_scales_are_timms_with_the_heads_at_one(name: str) -> None:
    network = timm.create_model(name, num_classes=0)
    head = nn.Linear(4, 2)
    found = scales(layered(kernels_and_vectors(network, head), network, 0.7))
    timms = param_groups_layer_decay(network, layer_decay=0.7)
    expected = {id(parameter): 0.7 * group["lr_scale"] for group in timms for parameter in group["params"]}
    assert len(set(expected.values())) > 8
    assert found == pytest.approx(expected | {id(parameter): 1.0 for parameter in head.parameters()})


def test_layers_of_a_vit_are_those_of_mae() -> None:
    """util/lr_decay.py of facebookresearch/mae at efb2a80: 0 for what comes before the blocks, 12 for the last block,
    13 for the classifier. Its 13 for the last norm is 12 here."""
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    found = scales(layered(kernels_and_vectors(network), network, 0.5))
    for name, parameter in network.named_parameters():
        layer = int(name.split(".")[1]) + 1 if name.startswith("blocks") else 12 * name.startswith("norm")
        assert found[id(parameter)] == 0.5 ** (13 - layer), name


def test_what_a_group_says_stays_and_every_parameter_is_in_one_group() -> None:
    method = build_method("simclr", backbone=tiny_resnet(width=8))
    groups = [ParameterGroup(params=list(method.parameters()), lr_scale=2.0, decay_scale=0.5, frozen_epochs=3)]
    divided = layered(groups, method.backbone, 0.5)
    assert len(divided) > 4
    assert sorted(id(p) for group in divided for p in group.params) == sorted(id(p) for p in method.parameters())
    assert {(group.decay_scale, group.frozen_epochs) for group in divided} == {(0.5, 3)}
    assert max(group.lr_scale for group in divided) == 2.0
    assert layered(groups, method.backbone, 1.0) == groups


def test_a_backbone_without_known_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optim\.layer_decay: must be 1 for a backbone .* it is a Linear"):
        layered([], nn.Linear(2, 2), 0.5)
    network = timm.create_model("resnet18", num_classes=0).requires_grad_(False)
    with pytest.raises(ConfigError, match="must be 1 for a method whose backbone only follows the network in training"):
        layered(kernels_and_vectors(network, nn.Linear(2, 2)), network, 0.5)
    with pytest.raises(ConfigError, match=r"optim\.layer_decay: must be above 0 and at most 1, got 1\.5"):
        tiny_run("data", "out", "optim.layer_decay=1.5")


def test_layers_are_the_students_where_the_backbone_follows_it() -> None:
    method = tiny("dino")
    student = method.get_submodule("student")
    assert method.layered is student
    found = scales(layered(method.parameter_groups(), method.layered, 0.5))
    expected = scales(layered(kernels_and_vectors(student), student, 0.5))
    assert len(set(expected.values())) == 3
    others = {id(p): 1.0 for p in method.parameters() if p.requires_grad}
    assert found == others | expected
    assert not set(found) & {id(p) for p in method.backbone.parameters()}


def test_first_layers_of_a_run_move_less_than_without(digits_webdataset: ShardSet, tmp_path: Path) -> None:
    moved = {}
    for decay in ("1", "0.1"):
        config = tiny_run(digits_webdataset.path, tmp_path / decay, "epochs=1", f"optim.layer_decay={decay}")
        train(config, progress=False)
        start = build_method("simclr", config.model, seed=config.seed).state_dict()
        after = final_state(tmp_path / decay)["model"]
        moved[decay] = {name: float((after[name] - start[name]).abs().max()) for name in start if "weight" in name}
    first = next(name for name in moved["1"] if name.startswith("backbone"))
    head = next(name for name in moved["1"] if not name.startswith("backbone"))
    assert moved["0.1"][first] < 0.01 * moved["1"][first]
    assert moved["0.1"][head] > 0.5 * moved["1"][head]
