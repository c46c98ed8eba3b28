"""Engines turn plans into pixels. One table; a new engine is a new line."""

from collections.abc import Callable

from headrace.pipeline.engines.base import Engine, StageTimes
from headrace.pipeline.engines.native import NativeEngine
from headrace.pipeline.engines.torchvision import TorchvisionEngine
from headrace.pipeline.views import ViewSpec
from headrace.shards import ShardSet

ENGINES: dict[str, Callable[[ShardSet, str, ViewSpec], Engine]] = {
    "native": NativeEngine,
    "torchvision": TorchvisionEngine,
}

__all__ = ["ENGINES", "Engine", "NativeEngine", "StageTimes", "TorchvisionEngine"]
