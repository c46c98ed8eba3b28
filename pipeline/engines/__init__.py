"""Engines turn plans into pixels. One table; a new engine is a new line."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from headrace.pipeline.engines.base import Engine, StageTimes, TwoStageEngine, WholeBatchEngine, whole_batch_part
from headrace.pipeline.engines.native import NativeEngine
from headrace.pipeline.images.views import PHOTOMETRIC, ViewSpec
from headrace.shards import ShardSet


def _torchvision(shards: ShardSet, field: str, spec: ViewSpec) -> Engine:
    from headrace.pipeline.engines.torchvision import TorchvisionEngine  # torchvision takes as long to import as torch

    return TorchvisionEngine(shards, field, spec)


def _dali(shards: ShardSet, field: str, spec: ViewSpec, **options: Any) -> Engine:
    try:
        from headrace.pipeline.engines.dali import DaliEngine
    except ImportError as error:
        raise ImportError(f"engine 'dali' needs NVIDIA DALI: pip install headrace[dali] ({error})") from error
    return DaliEngine(shards, field, spec, **options)


def _kornia(
    shards: ShardSet, field: str, spec: ViewSpec, device: str = "cpu", threads: int | None = None
) -> TwoStageEngine:
    # The loader's threads crop, so that it needs none of its own.
    return _photometric_by_kornia(NativeEngine(shards, field, spec), spec, device)


def _dali_kornia(shards: ShardSet, field: str, spec: ViewSpec, device: str = "cpu", **options: Any) -> TwoStageEngine:
    off: dict[str, Any] = dict.fromkeys(PHOTOMETRIC, 0.0)
    crops = ViewSpec([replace(view, **off) for view in spec.views])  # so that the graph holds nothing else
    return _photometric_by_kornia(_dali(shards, field, crops, device=device, **options), spec, device)


def _photometric_by_kornia(cropper: Engine, spec: ViewSpec, device: str) -> TwoStageEngine:
    try:
        from headrace.pipeline.engines.kornia import KorniaEngine
    except ImportError as error:
        raise ImportError(f"engine 'kornia' needs Kornia: pip install headrace[kornia] ({error})") from error
    return KorniaEngine(cropper, spec, device)


def _ffcv(shards: ShardSet, field: str, spec: ViewSpec, **options: Any) -> Engine:
    from headrace.pipeline.engines.ffcv import FfcvEngine

    try:
        return FfcvEngine(shards, field, spec, **options)
    except ImportError as error:
        raise ImportError(f"engine 'ffcv' needs ffcv: pip install headrace[ffcv] ({error})") from error


ENGINES: dict[str, Callable[..., Engine]] = {
    "native": NativeEngine,
    "torchvision": _torchvision,
    "dali": _dali,
    "kornia": _kornia,
    "dali+kornia": _dali_kornia,
    "ffcv": _ffcv,
}
"""Name to a callable of (shards, image field, views); those of `DEVICE_ENGINES` also take `device`, and those of
`THREADED_ENGINES` take `threads`."""

DEVICE_ENGINES = ("dali", "kornia", "dali+kornia")
"""Engines that can work on a GPU."""

THREADED_ENGINES = (*DEVICE_ENGINES, "ffcv")
"""Engines that can have threads of their own."""

CLIP_ENGINES = tuple(name for name in ENGINES if name != "ffcv")
"""Engines that draw the frames of clips; ffcv's files hold no video."""

__all__ = [
    "CLIP_ENGINES",
    "DEVICE_ENGINES",
    "ENGINES",
    "THREADED_ENGINES",
    "Engine",
    "NativeEngine",
    "StageTimes",
    "TwoStageEngine",
    "WholeBatchEngine",
    "whole_batch_part",
]
