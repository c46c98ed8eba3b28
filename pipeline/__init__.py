"""Batches: which samples (order), how they are augmented (plan), and the engines that turn both into pixels."""

from headrace.pipeline.batch import Batch, DrawnViews
from headrace.pipeline.clips.clips import Clip, ClipPlan, ClipSpec, DrawnClips, clip_plan
from headrace.pipeline.images.masks import BlockMask, ContextMask, RandomMask, RegionMask, TubeBlockMask, TubeMask
from headrace.pipeline.images.plan import Plan, plan
from headrace.pipeline.images.views import Normalize, PatchPair, Tiles, View, ViewSpec, center_view
from headrace.pipeline.loader import Loader, LoaderStats
from headrace.pipeline.order.order import Order, order
from headrace.pipeline.order.permutations import permutation_set
from headrace.pipeline.order.window import WindowOrder
from headrace.pipeline.sounds.mel import Mel
from headrace.pipeline.sounds.sounds import DrawnSounds, Sound, SoundPlan, SoundSpec
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
    "Loader",
    "LoaderStats",
    "MaskedTokens",
    "Mel",
    "Normalize",
    "Order",
    "PatchPair",
    "Plan",
    "RandomMask",
    "RegionMask",
    "Sound",
    "SoundPlan",
    "SoundSpec",
    "SpanMask",
    "TextSpec",
    "Texts",
    "Tiles",
    "TokenMask",
    "TubeBlockMask",
    "TubeMask",
    "View",
    "ViewSpec",
    "WindowOrder",
    "center_view",
    "clip_plan",
    "order",
    "permutation_set",
    "plan",
]
