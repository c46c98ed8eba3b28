"""Batches: which samples (order), how they are augmented (plan), and the engines that turn both into pixels."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.pipeline.batch import Batch, DrawnViews, Others, Views
    from headrace.pipeline.clips.clips import Clip, ClipPlan, ClipSpec, DrawnClips, clip_plan
    from headrace.pipeline.images.plan import Plan, plan
    from headrace.pipeline.images.view import Normalize, View
    from headrace.pipeline.images.views import PatchPair, Tiles, ViewSpec, center_view
    from headrace.pipeline.loader import Loader, LoaderStats
    from headrace.pipeline.masks import (
        BlockMask,
        ContextMask,
        FrameSpanMask,
        InverseBlockMask,
        NegativeFrameDraw,
        PrefixMask,
        RandomMask,
        RegionMask,
        RolledBlockMask,
        RunningCellMask,
        TubeBlockMask,
        TubeMask,
    )
    from headrace.pipeline.order.order import Order, order
    from headrace.pipeline.order.permutations import every_permutation, permutation_set
    from headrace.pipeline.order.window import WindowOrder
    from headrace.pipeline.sounds.effects import LogMixup, Noise, ResizeCrop, Stripes
    from headrace.pipeline.sounds.mel import Mel
    from headrace.pipeline.sounds.sounds import DrawnSounds, Sound, SoundPlan, Sounds, SoundSpec
    from headrace.pipeline.streams import Inputs, Mixed, Other, Spec, streams_of
    from headrace.pipeline.texts.infilling import InfilledTexts, Infilling
    from headrace.pipeline.texts.packed import PackedTexts, PackedTextSpec
    from headrace.pipeline.texts.texts import Texts, TextSpec
    from headrace.pipeline.texts.tokens import CorruptedSpans, MaskedTokens, SpanMask, TokenMask

__all__ = [
    "Batch",
    "BlockMask",
    "Clip",
    "ClipPlan",
    "ClipSpec",
    "ContextMask",
    "CorruptedSpans",
    "DrawnClips",
    "DrawnSounds",
    "DrawnViews",
    "FrameSpanMask",
    "InfilledTexts",
    "Infilling",
    "Inputs",
    "InverseBlockMask",
    "Loader",
    "LoaderStats",
    "LogMixup",
    "MaskedTokens",
    "Mel",
    "Mixed",
    "NegativeFrameDraw",
    "Noise",
    "Normalize",
    "Order",
    "Other",
    "Others",
    "PackedTextSpec",
    "PackedTexts",
    "PatchPair",
    "Plan",
    "PrefixMask",
    "RandomMask",
    "RegionMask",
    "ResizeCrop",
    "RolledBlockMask",
    "RunningCellMask",
    "Sound",
    "SoundPlan",
    "SoundSpec",
    "Sounds",
    "SpanMask",
    "Spec",
    "Stripes",
    "TextSpec",
    "Texts",
    "Tiles",
    "TokenMask",
    "TubeBlockMask",
    "TubeMask",
    "View",
    "ViewSpec",
    "Views",
    "WindowOrder",
    "center_view",
    "clip_plan",
    "every_permutation",
    "order",
    "permutation_set",
    "plan",
    "streams_of",
]

_HOMES = {
    name: home
    for home, names in {
        "headrace.pipeline.batch": (
            "Batch",
            "DrawnViews",
            "Others",
            "Views",
        ),
        "headrace.pipeline.clips.clips": (
            "Clip",
            "ClipPlan",
            "ClipSpec",
            "DrawnClips",
            "clip_plan",
        ),
        "headrace.pipeline.masks": (
            "BlockMask",
            "ContextMask",
            "FrameSpanMask",
            "InverseBlockMask",
            "NegativeFrameDraw",
            "PrefixMask",
            "RandomMask",
            "RegionMask",
            "RolledBlockMask",
            "RunningCellMask",
            "TubeBlockMask",
            "TubeMask",
        ),
        "headrace.pipeline.images.plan": (
            "Plan",
            "plan",
        ),
        "headrace.pipeline.images.view": (
            "Normalize",
            "View",
        ),
        "headrace.pipeline.images.views": (
            "PatchPair",
            "Tiles",
            "ViewSpec",
            "center_view",
        ),
        "headrace.pipeline.loader": (
            "Loader",
            "LoaderStats",
        ),
        "headrace.pipeline.order.order": (
            "Order",
            "order",
        ),
        "headrace.pipeline.order.permutations": (
            "every_permutation",
            "permutation_set",
        ),
        "headrace.pipeline.order.window": ("WindowOrder",),
        "headrace.pipeline.sounds.effects": (
            "LogMixup",
            "Noise",
            "ResizeCrop",
            "Stripes",
        ),
        "headrace.pipeline.sounds.mel": ("Mel",),
        "headrace.pipeline.sounds.sounds": (
            "DrawnSounds",
            "Sound",
            "SoundPlan",
            "Sounds",
            "SoundSpec",
        ),
        "headrace.pipeline.streams": (
            "Inputs",
            "Mixed",
            "Other",
            "Spec",
            "streams_of",
        ),
        "headrace.pipeline.texts.infilling": (
            "InfilledTexts",
            "Infilling",
        ),
        "headrace.pipeline.texts.packed": (
            "PackedTextSpec",
            "PackedTexts",
        ),
        "headrace.pipeline.texts.texts": (
            "Texts",
            "TextSpec",
        ),
        "headrace.pipeline.texts.tokens": (
            "CorruptedSpans",
            "MaskedTokens",
            "SpanMask",
            "TokenMask",
        ),
    }.items()
    for name in names
}
"""Where each public name is."""


class _Names(ModuleType):
    """This package. A public name is imported when it is first asked for, so that what wants the functions of pictures
    alone, such as a conversion, loads neither torch nor numba."""

    def __getattr__(self, name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_HOMES[name]), name)
        self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # `order` is a function; to import the folder of that name would put it in its place.
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Names
