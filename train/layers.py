"""Learning rates that fall from layer to layer, from the heads down to the first layer of the backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from timm.models import group_parameters
from torch import nn

from headrace.models.method import ParameterGroup
from headrace.train.errors import ConfigError


def layered(groups: Sequence[ParameterGroup], backbone: nn.Module, decay: float) -> list[ParameterGroup]:
    """`groups`, each divided by layers of `backbone`, which is `Method.layered`. Its learning rates are multiplied by
    `decay` once for every layer behind them, as in BEiT (arXiv 2106.08254) and in MAE's fine-tuning. What is not of the
    backbone keeps its rate and counts as one layer behind it.

    Layers are timm's: of a ViT what comes before the blocks, and each block, the last norm with the last of them.

    Raises:
        ConfigError: if the backbone is not timm's, which says what its layers are, or is a slow copy that gets no
            gradient.
    """
    if decay == 1.0:
        return list(groups)
    layer_of = _layers(backbone)
    if not any(id(parameter) in layer_of for group in groups for parameter in group.params):
        raise ConfigError(
            "optim.layer_decay: must be 1 for a method whose backbone only follows the network in training"
        )
    divided = []
    for group in groups:
        by_scale: dict[float, list[nn.Parameter]] = {}
        for parameter in group.params:
            by_scale.setdefault(decay ** layer_of.get(id(parameter), 0), []).append(parameter)
        divided += [replace(group, params=params, lr_scale=group.lr_scale * by) for by, params in by_scale.items()]
    return divided


def _layers(backbone: nn.Module) -> dict[int, int]:
    """For each parameter, by `id`, how many layers lie behind its own, the heads' among them."""
    network: Any = next((part for part in backbone.modules() if hasattr(part, "group_matcher")), None)
    if network is None:
        raise ConfigError(
            f"optim.layer_decay: must be 1 for a backbone that is not timm's, which has layers; it is a "
            f"{type(backbone).__name__}"
        )
    number_of: dict[str, int] = group_parameters(network, network.group_matcher(coarse=False), reverse=True)
    last = max(number_of.values())
    parameters = dict(network.named_parameters())
    return {id(parameters[name]): last + 1 - number for name, number in number_of.items()}
