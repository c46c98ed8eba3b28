"""Batches: which samples (order), how they are augmented (plan), and the engines that turn both into pixels."""

from headrace.pipeline.batch import Batch, DrawnViews, Others, Views
from headrace.pipeline.clips.clips import Clip, ClipPlan, ClipSpec, DrawnClips, clip_plan
from headrace.pipeline.images.masks import (
    BlockMask,
    ContextMask,
    InverseBlockMask,
    PrefixMask,
    RandomMask,
    RegionMask,
    RolledBlockMask,
    TubeBlockMask,
    TubeMask,
)
from headrace.pipeline.images.plan import Plan, plan
from headrace.pipeline.images.view import Normalize, View
from headrace.pipeline.images.views import PatchPair, Tiles, ViewSpec, center_view
from headrace.pipeline.loader import Loader, LoaderStats
from headrace.pipeline.order.order import Order, order
from headrace.pipeline.order.permutations import every_permutation, permutation_set
from headrace.pipeline.order.window import WindowOrder
from headrace.pipeline.sounds.mel import Mel
from headrace.pipeline.sounds.sounds import DrawnSounds, Sound, SoundPlan, Sounds, SoundSpec
from headrace.pipeline.streams import Inputs, Mixed, Other, Spec, streams_of
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
    "Inputs",
    "InverseBlockMask",
    "Loader",
    "LoaderStats",
    "MaskedTokens",
    "Mel",
    "Mixed",
    "Normalize",
    "Order",
    "Other",
    "Others",
    "PatchPair",
    "Plan",
    "PrefixMask",
    "RandomMask",
    "RegionMask",
    "RolledBlockMask",
    "Sound",
    "SoundPlan",
    "SoundSpec",
    "Sounds",
    "SpanMask",
    "Spec",
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
