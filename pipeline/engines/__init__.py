"""Engines turn plans into pixels. One table; a new engine is a new line."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from headrace.pipeline.engines.base import (
    DeviceEngine,
    Engine,
    StageTimes,
    TwoStageEngine,
    WholeBatchEngine,
    whole_batch_part,
)
from headrace.pipeline.engines.native import NativeEngine
from headrace.pipeline.images.views import ViewSpec
from headrace.shards import ShardSet


class _Kind(NamedTuple):
    load: Callable[[], Any]
    """Imports the class. ImportError, with what to install, where its package is missing."""
    make: Callable[..., Engine]
    """Of the class, shards, image field, views and options."""


def _native() -> type:
    return NativeEngine


def _torchvision() -> type:
    from headrace.pipeline.engines.torchvision import TorchvisionEngine  # torchvision takes as long to import as torch

    return TorchvisionEngine


def _dali() -> type:
    try:
        from headrace.pipeline.engines.dali import DaliEngine
    except ImportError as error:
        raise ImportError(f"engine 'dali' needs NVIDIA DALI: pip install headrace[dali] ({error})") from error
    return DaliEngine


def _kornia() -> type:
    try:
        from headrace.pipeline.engines.kornia import KorniaEngine
    except ImportError as error:
        raise ImportError(f"engine 'kornia' needs Kornia: pip install headrace[kornia] ({error})") from error
    return KorniaEngine


def _ffcv() -> type:
    from headrace.pipeline.engines.ffcv import FfcvEngine

    return FfcvEngine


def _cuda() -> type:
    try:
        from headrace.pipeline.engines.device import CudaEngine
    except ImportError as error:
        raise ImportError(f"engine 'cuda' needs Triton, which comes with torch for CUDA on Linux ({error})") from error
    return CudaEngine


def _alone(kind: Any, shards: ShardSet, field: str, spec: ViewSpec, **options: Any) -> Any:
    return kind(shards, field, spec, **options)


def _behind_native(
    kind: Any, shards: ShardSet, field: str, spec: ViewSpec, device: str = "cpu", threads: int | None = None
) -> Any:
    # The loader's threads crop, so that it needs none of its own.
    return kind(NativeEngine(shards, field, _crops(spec)), spec, device)


def _behind_dali(
    kind: Any, shards: ShardSet, field: str, spec: ViewSpec, device: str = "cpu", threads: int | None = None
) -> Any:
    return kind(_dali()(shards, field, _crops(spec), device, threads), spec, device)


def _crops(spec: ViewSpec) -> ViewSpec:
    """What an engine that only crops is made for, so that it prepares nothing else."""
    return ViewSpec([view.crop_only() for view in spec.views])


def _on_device(
    kind: Any, shards: ShardSet, field: str, spec: ViewSpec, device: str = "cuda", threads: int | None = None
) -> Any:
    return kind(shards, field, spec, _crops(spec), device)


def _installed(kind: Any, shards: ShardSet, field: str, spec: ViewSpec, **options: Any) -> Any:
    try:
        return kind(shards, field, spec, **options)
    except ImportError as error:
        raise ImportError(f"engine 'ffcv' needs ffcv: pip install headrace[ffcv] ({error})") from error


_KINDS = {
    "native": _Kind(_native, _alone),
    "torchvision": _Kind(_torchvision, _alone),
    "dali": _Kind(_dali, _alone),
    "kornia": _Kind(_kornia, _behind_native),
    "dali+kornia": _Kind(_kornia, _behind_dali),
    "ffcv": _Kind(_ffcv, _installed),
    "cuda": _Kind(_cuda, _on_device),
}


def operations_of(name: str) -> frozenset[str]:
    """Those of `headrace.pipeline.images.view.OPERATIONS` that an engine has.

    Raises:
        ImportError: if its package is missing.
    """
    operations: frozenset[str] = _KINDS[name].load().operations
    return operations


def _make(name: str, shards: ShardSet, field: str, spec: ViewSpec, **options: Any) -> Engine:
    kind = _KINDS[name].load()
    for operation in (operation for view in spec.views for operation in view.operations):
        if operation not in kind.operations:
            having = []
            for other in _KINDS:
                with suppress(ImportError):
                    having += [other] if operation in operations_of(other) else []
            raise ValueError(
                f"engine {name!r} has no operation {operation!r} (View.{operation}); use {' or '.join(having)}"
            )
    return _KINDS[name].make(kind, shards, field, spec, **options)


ENGINES: dict[str, Callable[..., Engine]] = {name: partial(_make, name) for name in _KINDS}
"""Name to a callable of (shards, image field, views); those of `DEVICE_ENGINES` also take `device`, and those of
`THREADED_ENGINES` take `threads`. ValueError where a view has an operation on that the engine lacks."""

DEVICE_ENGINES = ("dali", "kornia", "dali+kornia", "cuda")
"""Engines that can work on a GPU."""

THREADED_ENGINES = (*DEVICE_ENGINES, "ffcv")
"""Engines that can have threads of their own."""

CPU_ENGINES = tuple(name for name in ENGINES if name != "cuda")
"""Engines that work without a GPU."""

HALF_ENGINES = ("cuda",)
"""Engines that write views in bfloat16 and float16, too."""

CLIP_ENGINES = tuple(name for name in ENGINES if name not in ("ffcv", "cuda"))
"""Engines that draw the frames of clips; ffcv's files hold no video, and the kernel of cuda draws views of pictures."""

__all__ = [
    "CLIP_ENGINES",
    "CPU_ENGINES",
    "DEVICE_ENGINES",
    "ENGINES",
    "HALF_ENGINES",
    "THREADED_ENGINES",
    "DeviceEngine",
    "Engine",
    "NativeEngine",
    "StageTimes",
    "TwoStageEngine",
    "WholeBatchEngine",
    "operations_of",
    "whole_batch_part",
]
