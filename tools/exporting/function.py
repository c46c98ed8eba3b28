"""An encoder as a function of tensors, which needs no batch of Headrace's, and tensors to try it on."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headrace.pipeline import Batch, ClipSpec, Normalize, PackedTextSpec, SoundSpec, TextSpec, ViewSpec
from headrace.pipeline.batch import Views, normalize_images
from headrace.pipeline.sounds.sounds import DrawnSounds, Sounds
from headrace.pipeline.streams import LONE, Spec, lone_spec
from headrace.pipeline.texts.texts import Texts
from headrace.pipeline.texts.tokenizer import TextTokenizer
from headrace.tools.errors import UserError
from headrace.train.encoders import Encoder


def shown(encoder: Encoder) -> Spec:
    """The one thing that it is shown of a sample. UserError for several."""
    spec = lone_spec(encoder.inputs)
    if spec is None:
        raise UserError(f"{encoder.name} is shown several streams at once, and what is exported takes one")
    return spec


class _Function(nn.Module):
    """Of a module that encodes batches with a stream of one name."""

    def __init__(self, part: nn.Module, name: str) -> None:
        super().__init__()
        self.part = part
        self.name = name

    def features(self, part: Any) -> Tensor:
        nothing = torch.zeros(0, dtype=torch.int64)
        batch = Batch(streams={self.name: part}, index=nothing, labels=None, epoch=0)
        found: Tensor = self.part.encode(batch)  # type: ignore[operator]
        return found


class _OfViews(_Function):
    def forward(self, images: Tensor) -> Tensor:
        return self.features(Views(views=[images], normalize=(Normalize(),)))


class _OfSounds(_Function):
    def forward(self, sounds: Tensor) -> Tensor:
        nothing = torch.zeros(0, dtype=torch.int64)
        waves, mels = ([sounds], []) if sounds.ndim == 2 else ([], [sounds])
        return self.features(Sounds(waves=waves, mels=mels, drawn=DrawnSounds(nothing, nothing, nothing.float())))


class _OfTexts(_Function):
    """With the names that transformers gives to what a tokenizer makes."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        none, attention = torch.zeros_like(input_ids[:, 0]), attention_mask.bool()
        texts = Texts(
            tokens=input_ids, lengths=attention.sum(dim=1), attention=attention, chosen=none, first=none,
            segments=token_type_ids, broken=none,
        )  # fmt: skip
        return self.features(texts)


@torch.no_grad()
def function_of(encoder: Encoder) -> nn.Module:
    """A module in evaluation mode from the tensors of `example` to features (B, D). Of a method it has the backbone
    alone where that is all that features need, so that nothing else is exported."""
    spec = shown(encoder)
    kind = _OfTexts if isinstance(spec, TextSpec) else _OfSounds if isinstance(spec, SoundSpec) else _OfViews
    name = LONE[type(spec)]
    if encoder.method is not None:
        alone = copy.copy(encoder.method)
        alone.__dict__.update(_modules={"backbone": encoder.backbone}, _parameters={}, _buffers={})
        function = kind(alone, name).eval()
        try:
            function(*example(encoder, 1))
        except AttributeError:
            pass
        else:
            return function
    return kind(encoder.module, name).eval()


def names(encoder: Encoder) -> list[str]:
    """Of the function's arguments."""
    spec = shown(encoder)
    if isinstance(spec, TextSpec):
        return ["input_ids", "attention_mask", "token_type_ids"]
    return ["sounds" if isinstance(spec, SoundSpec) else "images"]


def example(encoder: Encoder, samples: int, seed: int = 0) -> tuple[Tensor, ...]:
    """The function's arguments for `samples` samples, drawn from `seed`: random levels, normalised as the encoder's
    are; random sounds; random tokens, of which the first text has as many as there may be."""
    spec, draw = shown(encoder), np.random.default_rng(seed)
    if isinstance(spec, TextSpec):
        tokenizer = TextTokenizer(spec.tokenizer)
        drawn = draw.integers(tokenizer.first_ordinary, tokenizer.vocabulary, (samples, spec.length))
        lengths = torch.from_numpy(draw.integers(1, spec.length + 1, samples))
        lengths[0] = spec.length
        attention = (torch.arange(spec.length) < lengths[:, None]).long()
        tokens = torch.where(attention.bool(), torch.from_numpy(drawn), tokenizer.padding_id)
        return tokens, attention, torch.zeros_like(tokens)
    if isinstance(spec, SoundSpec):
        shape = (samples, *spec.sounds[0].shape)
        return (torch.from_numpy(draw.standard_normal(shape, dtype=np.float32)),)
    assert not isinstance(spec, PackedTextSpec)  # its plain form is what is shown
    view = spec.views[0] if isinstance(spec, ViewSpec) else spec.clips[0].view
    time = (spec.clips[0].frames,) if isinstance(spec, ClipSpec) else ()
    side = encoder.side or view.size
    levels = torch.from_numpy(draw.integers(0, 256, (samples, 3, *time, side, side), dtype=np.uint8))
    return (normalize_images(levels, view.normalize),)
