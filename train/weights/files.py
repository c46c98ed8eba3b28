"""Files of weights that other programs wrote."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from headrace.train.errors import RunError

NESTED = ("state_dict", "model", "module", "teacher", "target_encoder")
"""Keys under which training scripts keep the weights of a network among other things."""
SHOWN = 3
"""Names that a message lists."""


class Unreadable(RunError):
    """A file is none of those that hold weights, or is damaged."""

    def __init__(self, path: Path, error: Exception) -> None:
        super().__init__(f"{path}: cannot be read ({(str(error) or type(error).__name__).splitlines()[0]})")


def read_weights(source: Path) -> dict[str, Tensor]:
    """The tensors, by their names, of a file of safetensors or a state dict that `torch.save` wrote.

    Raises:
        Unreadable: if it is neither; nothing but plain values and tensors is unpickled.
        RunError: if it holds no tensors.
    """
    try:
        if source.suffix == ".safetensors":
            return load_file(source)
        state = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for what it does not read
        raise Unreadable(source, error) from None
    for name in NESTED:
        if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
            state = state[name]
            break
    return only_tensors(state, source)


def only_tensors(values: object, source: Path) -> dict[str, Tensor]:
    """Those of a state dict; RunError where there are none."""
    tensors = {name: x for name, x in values.items() if isinstance(x, Tensor)} if isinstance(values, Mapping) else {}
    if not tensors:
        raise RunError(f"{source}: holds no state dict")
    return tensors


def some_of(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
