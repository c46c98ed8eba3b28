"""A network that turns samples into features, whoever trained it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

from headrace.models import Method
from headrace.pipeline import Batch, Inputs, TextSpec
from headrace.pipeline.streams import spec_of, streams_of


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """What `open_encoder` gives, in evaluation mode, on the CPU at first. Letters as in `Method`."""

    name: str
    """The method, or timm's name of the network."""
    module: nn.Module
    """What computes: the method, or a network of timm's with what it is shown. Its `encode` is the encoder's."""
    inputs: Inputs
    """What is shown of each sample, without augmentation."""
    side: int | None
    """Side of what the backbone takes of images and frames, in pixels: that of `inputs`, or the smaller middle of it
    that a network of timm's with a `crop_pct` below 1 is shown. None for texts and sounds."""
    backbone: nn.Module
    """The network itself."""
    feature_dim: int
    """D."""
    method: Method | None
    """Of a run; None of a file or a name."""
    max_bad: int | None
    """Bad samples that the run's policy lets a probe leave out; None where the first ends it."""
    made_of: Mapping[str, Any]
    """Plain values that say which network this is: of a run its method and configuration, else timm's name and the
    arguments of its constructor."""
    restart: Callable[[], Encoder]
    """See `untrained`."""

    @property
    def encode(self) -> Callable[[Batch], Tensor]:
        """A batch of `inputs` on the module's device to features (B, D); a method of `module`."""
        encode: Callable[[Batch], Tensor] = self.module.encode  # type: ignore[assignment]
        return encode

    def untrained(self) -> Encoder:
        """The same network with its first weights: a run's own; of a file or a name, timm's random ones of seed 0."""
        return self.restart()

    def to(self, device: torch.device | str) -> Encoder:
        """Itself, after its module was moved there."""
        self.module.to(device)
        return self

    @property
    def digest(self) -> str:
        """32 hexadecimal digits of all that features depend on, but for the code: the weights as they are now, the
        network, what it is shown and tokenizers' files. It reads all weights, at some gigabytes a second."""
        hashed = xxhash.xxh3_128(json.dumps(self.made_of, sort_keys=True, default=repr).encode())
        hashed.update(repr((self.inputs, self.side)).encode())
        for stream in streams_of(self.inputs).values():
            spec = spec_of(stream)
            if isinstance(spec, TextSpec):
                with open(spec.tokenizer, "rb") as file:
                    hashed.update(file.read())
        for name, tensor in sorted(self.module.state_dict().items()):
            if isinstance(tensor, Tensor):
                hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                hashed.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return hashed.hexdigest()
