"""Batches: which samples (order), how they are augmented (plan), and the engines that turn both into pixels."""

from headrace.pipeline.batch import Batch
from headrace.pipeline.clips import Clip, ClipPlan, ClipSpec, DrawnClips, clip_plan
from headrace.pipeline.loader import Loader, LoaderStats
from headrace.pipeline.masks import BlockMask, ContextMask, RandomMask, TubeMask
from headrace.pipeline.order import Order, order
from headrace.pipeline.plan import Plan, plan
from headrace.pipeline.views import Normalize, View, ViewSpec, center_view
from headrace.pipeline.window import WindowOrder

__all__ = [
    "Batch",
    "BlockMask",
    "Clip",
    "ClipPlan",
    "ClipSpec",
    "ContextMask",
    "DrawnClips",
    "Loader",
    "LoaderStats",
    "Normalize",
    "Order",
    "Plan",
    "RandomMask",
    "TubeMask",
    "View",
    "ViewSpec",
    "WindowOrder",
    "center_view",
    "clip_plan",
    "order",
    "plan",
]
