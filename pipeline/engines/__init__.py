"""Engines turn plans into pixels. One table; a new engine is a new line."""

from headrace.pipeline.engines.base import Engine, StageTimes
from headrace.pipeline.engines.native import NativeEngine
from headrace.pipeline.engines.torchvision import TorchvisionEngine

ENGINES = {"native": NativeEngine, "torchvision": TorchvisionEngine}

__all__ = ["ENGINES", "Engine", "NativeEngine", "StageTimes", "TorchvisionEngine"]
