"""First weights from elsewhere: another run's backbone, or a file of a network's weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from headrace.models import Method
from headrace.shards.special import special
from headrace.train.checkpoint import newest_checkpoint, read_checkpoint
from headrace.train.errors import ConfigError, RunError
from headrace.train.weights.files import Unreadable, only_tensors, read_weights, some_of


def initialize(method: Method, source: Path) -> str:
    """Give the weights in `source` to the method's backbone, and to its twins: other parts of the method that are the
    same network, such as a teacher or a slow copy. A run gives what else `Method.continued` names, too.

    Args:
        source: a run's folder, of which the newest readable checkpoint counts; a checkpoint; a file of safetensors or a
            state dict that `torch.save` wrote, with the names of timm's model or with those behind "backbone.", or
            behind the prefixes of `PREFIXES`. Parts of the backbone that say how to (`adapt_weights`) make theirs of
            other forms: those of clips take weights of images.

    Returns:
        A line that says what was taken, what stays as it was drawn, and what was not used.

    Raises:
        ConfigError: if there is nothing to read, no tensor of it is the backbone's, or one has another shape or is not
            finite. Nothing was changed then.
    """
    backbone: nn.Module = method.backbone
    wanted = backbone.state_dict()
    tensors = _read(source)
    inside = {name.removeprefix("backbone."): x for name, x in tensors.items() if name.startswith("backbone.")}
    given = _renamed(inside or tensors, wanted)
    for name, part in backbone.named_modules():
        if adapt := getattr(part, "adapt_weights", None):
            adapt(given, f"{name}." if name else "")
    found = {name: given[name] for name in wanted if name in given}
    if not found:
        raise ConfigError(
            f"init: {source}: has no tensor of the backbone, which has {some_of(wanted)}; has {some_of(given)}"
        )
    others = _continued(method, tensors) if inside else {}
    _require_fitting(found, wanted, source, "the method's backbone")
    _require_fitting(others, method.state_dict(), source, "the method")
    twins = _twins(method)
    method.load_state_dict(others, strict=False)
    for module in (backbone, *twins.values()):
        module.load_state_dict(found, strict=False)
    line = f"init: {len(found)} of the backbone's {len(wanted)} tensors are from {source}"
    for what, names in (
        ("missing there, left as drawn", wanted.keys() - found.keys()),
        ("not used", given.keys() - found.keys()),
        ("also given to", twins),
        ("taken beside it", others),
    ):
        if names:
            line += f"; {what}: {some_of(sorted(names))}"
    return line


def _require_fitting(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: Path, where: str) -> None:
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape:
            here, there = tuple(wanted[name].shape), tuple(tensor.shape)
            raise ConfigError(f"init: {source}: {name} has the shape {there}, and {here} in {where}")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ConfigError(f"init: {source}: {name} is not finite")


def _continued(method: Method, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a run has of `Method.continued`, by the names of the method that goes on from it."""
    own = method.state_dict().keys()
    return {
        part + name.removeprefix(there): x
        for there, parts in method.continued.items()
        for name, x in tensors.items()
        if name == there or name.startswith(f"{there}.")
        for part in parts
        if part + name.removeprefix(there) in own
    }


def _read(source: Path) -> dict[str, Tensor]:
    """Tensors by their names in the run or file."""
    try:
        return _tensors(source)
    except RunError as error:
        raise ConfigError(f"init: {error}") from None
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"init: {source}: cannot be read ({' '.join(str(error).split())})") from None


def _tensors(source: Path) -> dict[str, Tensor]:
    if source.is_dir():
        state = newest_checkpoint(source / "checkpoints", warn=lambda line: None)
        if state is None:
            raise RunError(f"{source}: no checkpoint in it")
        return only_tensors(state["model"], source)
    if what := special(source):
        raise RunError(f"{source}: {what}, expected a file of weights or a run's folder")
    if source.suffix == ".safetensors":
        return read_weights(source)
    if not source.exists():
        raise RunError(f"{source}: no such run or file")
    try:
        return only_tensors(read_checkpoint(source)["model"], source)
    except RunError as not_ours:
        try:
            return read_weights(source)
        except Unreadable:
            raise not_ours from None


PREFIXES = ("0.", "encoder.", "module.backbone.", "module.")
"""Behind which others have the names of a network alone: a network with a norm of its features, VideoMAE's before it is
fine-tuned, V-JEPA's, any of several processes."""


def _renamed(given: Mapping[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """The tensors by the names that most of `wanted` have: a network with a norm of its features lies one level deeper
    than the network alone."""
    wanted = set(wanted)
    spellings = [
        dict(given),
        {f"0.{name}": x for name, x in given.items()},
        *({name.removeprefix(prefix): x for name, x in given.items()} for prefix in PREFIXES),
    ]
    return max(spellings, key=lambda tensors: len(tensors.keys() & wanted))


def _twins(method: Method) -> dict[str, nn.Module]:
    """Parts of the method, outside its backbone, whose tensors have the names and shapes of the backbone's."""
    own = set(method.backbone.modules())
    shapes = _shapes(method.backbone)
    return {name: module for name, module in method.named_modules() if module not in own and _shapes(module) == shapes}


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: x.shape for name, x in module.state_dict().items()}
