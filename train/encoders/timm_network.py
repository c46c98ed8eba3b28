"""A network of timm's, by name or out of a file of weights, as something that encodes batches."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import timm
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.pixels import middle
from headrace.models.seeding import seeded
from headrace.pipeline import Batch
from headrace.shards.special import special
from headrace.train.encoders.preprocessing import Shown, shown_as_described, shown_by_timm
from headrace.train.errors import RunError
from headrace.train.weights.files import Unreadable, read_weights, some_of

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
METADATA = "headrace"
"""Key of the metadata of a file of safetensors under which Headrace keeps what `CONFIG` holds, too."""


class Made(NamedTuple):
    """Which network of timm's."""

    name: str
    """Of the model, perhaps with a tag behind a dot, which says how it was trained and what it is shown."""
    options: Mapping[str, Any]
    """Arguments of its constructor."""
    outputs: int
    """Of the last layer, which are the features; 0 where these are what stands in front of it."""

    def build(self) -> tuple[nn.Module, int]:
        """The network with random weights that are always the same, and D.

        Raises:
            ValueError: if there is none of that name, or it refuses the options.
        """
        config = BackboneConfig(name=self.name, options=dict(self.options))
        with seeded(0):
            if not self.outputs:
                return build_backbone(config)
            model = timm.create_model(self.name, pretrained=False, num_classes=self.outputs, **self.options)
            return model, self.outputs


class File(NamedTuple):
    """What there is to say of a network in a file, or in a folder."""

    weights: Path
    said: Mapping[str, Any] | None
    """What `CONFIG` holds there, in timm's layout, or the file's own metadata; None without either."""


class TimmNetwork(nn.Module):
    """Encodes the middle of `side` x `side` pixels of each view."""

    def __init__(self, network: nn.Module, side: int) -> None:
        super().__init__()
        self.network = network
        self.side = side

    def encode(self, batch: Batch) -> Tensor:
        """(B, D)."""
        (view,) = batch.normalized()
        features: Tensor = self.network(middle(view, self.side))
        return features


def find(source: Path) -> File:
    """What lies at `source`, a file or a folder in timm's layout.

    Raises:
        RunError: if nothing can be read.
    """
    if source.is_dir():
        config = source / CONFIG
        found = [source / WEIGHTS, *sorted(source.glob("*.safetensors")), *sorted(source.glob("*.bin"))]
        weights = next((path for path in found if path.exists()), None)
        if weights is None or not config.exists():
            raise RunError(f"{source}: neither a run (no checkpoints) nor a timm network ({CONFIG}, {WEIGHTS})")
        return File(weights, _read_json(config))
    if what := special(source):
        raise RunError(f"{source}: {what}, expected a file of weights or a run's folder")
    if not source.exists():
        raise RunError(f"{source}: no such run, file or timm model")
    if source.suffix == ".safetensors":
        try:
            with safe_open(source, framework="pt") as file:
                metadata = file.metadata() or {}
        except (OSError, SafetensorError) as error:
            raise Unreadable(source, error) from None
        if METADATA in metadata:
            return File(source, _parsed(metadata[METADATA], source))
    beside = (source.with_suffix(".json"), source.with_name(CONFIG))
    said = next((_read_json(path) for path in beside if path.exists()), None)
    return File(source, said if said and "architecture" in said else None)


def made_of(file: File, name: str | None, where: Path) -> tuple[Made, Shown, list[str]]:
    """Which network the file holds, what it is shown, and lines about what is not as timm has it.

    Args:
        name: of timm's model, in the place of what the file says.

    Raises:
        RunError: if nobody says which network, or it cannot be shown images.
    """
    said = file.said or {}
    if name is None and "architecture" not in said:
        raise RunError(f"{where}: does not say which network its weights are of; name a timm model with --timm")
    known = name is None or name.partition(".")[0] == said.get("architecture")
    try:
        if not known or "architecture" not in said:
            assert name is not None
            return Made(name, {}, 0), *shown_by_name(name)
        own = said.get(METADATA)  # written by `headrace export`
        made = Made(name or said["architecture"], said.get("model_args") or {}, 0)
        if isinstance(own, Mapping):
            made = made._replace(outputs=int(own["outputs"]))
            return made, shown_as_described(own["preprocessing"]), []
        cfg = said.get("pretrained_cfg") or said
        return made, *shown_by_timm({**_default_cfg(made.name), **cfg})
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{where}: {' '.join(str(error).split())}") from None


def shown_by_name(name: str) -> tuple[Shown, list[str]]:
    """What timm shows a model of this name. ValueError as `shown_by_timm`."""
    return shown_by_timm(_default_cfg(name))


def _default_cfg(name: str) -> dict[str, Any]:
    found = timm.get_pretrained_cfg(name)
    cfg = found.to_dict() if found is not None else {}
    return {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), **cfg}


def fill(network: nn.Module, source: Path) -> list[str]:
    """Give a network the weights in a file, in its place, and name those that were not used.

    Its tensors may lie one or more levels deep, as "backbone." or "module.encoder_q." says before their names.

    Raises:
        RunError: if one is missing, has another shape or is not finite.
    """
    given = read_weights(source)
    wanted = network.state_dict()
    prefix = _prefix(given, wanted)
    inside = {name.removeprefix(prefix): x for name, x in given.items() if name.startswith(prefix)}
    missing = [name for name in wanted if name not in inside and not name.endswith("num_batches_tracked")]
    kind = type(network).__name__
    if missing:
        raise RunError(f"{source}: lacks {some_of(missing)} of timm's {kind}; it has {some_of(given)}")
    for name, x in wanted.items():
        if name in inside and inside[name].shape != x.shape:
            here, there = tuple(x.shape), tuple(inside[name].shape)
            raise RunError(f"{source}: {name} has the shape {there}, and {here} in timm's {kind}")
        if name in inside and inside[name].is_floating_point() and not inside[name].isfinite().all():
            raise RunError(f"{source}: {name} is not finite")
    network.load_state_dict({name: x for name, x in inside.items() if name in wanted}, strict=False)
    return sorted(given.keys() - {prefix + name for name in wanted})


def _prefix(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """What stands before most of the wanted names in the file."""
    first = next(iter(wanted))
    prefixes = [name.removesuffix(first) for name in given if name == first or name.endswith("." + first)]
    return max(prefixes, key=lambda prefix: sum(prefix + name in given for name in wanted), default="")


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        return _parsed(path.read_text(encoding="utf-8"), path)
    except OSError as error:
        raise Unreadable(path, error) from None
    except UnicodeDecodeError:
        raise RunError(f"{path}: not JSON") from None


def _parsed(text: str, path: Path) -> Mapping[str, Any]:
    try:
        said = json.loads(text)
    except ValueError as error:
        raise RunError(f"{path}: not JSON ({error})") from None
    if not isinstance(said, Mapping):
        raise RunError(f"{path}: says nothing of a network")
    return said
