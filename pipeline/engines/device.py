"""Views drawn on a CUDA device: the host decodes, one kernel a size of views does everything else.

The host puts the decoded regions into pinned memory (`headrace.pipeline.engines.regions`), which goes up in one copy,
and so do the draws of all views; `headrace.pipeline.engines.device_kernel.draw_views` then makes the views where they
are used, in the type that the network reads. Nothing waits for the device, and everything is queued on the stream that
is current where the batch is delivered.
"""

from __future__ import annotations

import math
import os
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from headrace.pipeline.engines.base import DeviceEngine, StageTimes
from headrace.pipeline.engines.device_kernel import CODES, LAB, LEVELS, OWN, RECORD, RGB, draw_views
from headrace.pipeline.engines.regions import FRAME, RegionEngine
from headrace.pipeline.images.noise import noise_planes
from headrace.pipeline.images.plan import Plan
from headrace.pipeline.images.view import View
from headrace.pipeline.images.views import ViewSpec
from headrace.pipeline.memory import pinned
from headrace.shards import ShardSet, Spans

ROOM = 500 * 500 * 3
"""Bytes of pixels of a sample that go up, at most, unless its views have more: a photograph of ImageNet."""
WARPS = 8
"""Of a program, one view of one sample."""
BLOCK = 1024
"""Pixels that a program makes at once."""


class _Group(NamedTuple):
    """Views that one launch draws."""

    views: tuple[int, ...]
    """Their numbers."""
    constants: Tensor
    """float32 (9,) on the device: scales, shifts, levels of an erased rectangle."""
    space: int
    """In which floats are delivered."""


class CudaEngine(DeviceEngine):
    """See `headrace.pipeline.engines.base.DeviceEngine` and the top of this file.

    Args:
        shards, field: whose images.
        spec: the views.
        crops: the same views without operations behind the crop.
        device: a CUDA device; with TRITON_INTERPRET=1 in the environment also "cpu", slowly, for tests.
        room: bytes of pixels of a sample that go up; larger ones are cropped and resized on the host.

    Raises:
        ValueError: for another device.
    """

    operations = frozenset(CODES)

    def __init__(
        self, shards: ShardSet, field: str, spec: ViewSpec, crops: ViewSpec, device: str = "cuda", room: int = ROOM
    ) -> None:
        self._device = torch.device(device)
        if self._device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
            raise ValueError(f"engine 'cuda' draws on a CUDA device, got {device!r}")
        self._views = spec.views
        self._host = RegionEngine(shards, field, crops, room)
        self._groups = _groups(spec.views, self._device)

    def buffers(self, samples: int) -> list[tuple[tuple[int, ...], torch.dtype]]:
        """Pixels, and where they lie."""
        words = FRAME.itemsize // 4
        return [
            ((samples, self._host.slot), torch.uint8),
            ((samples, len(self._views), words), torch.int32),
        ]

    def decode(self, ids: np.ndarray, spans: Spans, plan: Plan, buffers: list[np.ndarray]) -> StageTimes:
        """See `DeviceEngine`."""
        slots, frames = buffers
        return self._host.take(ids, spans, plan, slots, frames.view(FRAME)[..., 0])

    def draw(self, plan: Plan, buffers: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
        """See `DeviceEngine`."""
        samples, views = len(plan), self._views
        if not samples:  # a rank's share of an epoch's last batch
            return [self._empty((0, view.size, view.size, 3), dtype).permute(0, 3, 1, 2) for view in views]
        slots = buffers[0].to(self._device, non_blocking=True)
        frames = buffers[1].numpy().view(FRAME)[..., 0]
        records = _records(plan, frames, slots)
        noises = []
        for group in self._groups:
            noise, records["noise"][:, group.views] = _noise(plan, group.views, views[group.views[0]])
            noises.append(noise)
        groups = [np.ascontiguousarray(records[:, group.views].T) for group in self._groups]
        words = np.concatenate([group.reshape(-1) for group in groups]).view(np.int32)
        here = self._up(torch.from_numpy(words))
        drawn: dict[int, Tensor] = {}
        begin = 0
        for group, rows, noise in zip(self._groups, groups, noises, strict=True):
            part = here[begin : begin + rows.size * RECORD.itemsize // 4]
            begin += len(part)
            out = self._launch(group, rows, part, noise, dtype)
            for number, view in zip(group.views, out.view(len(group.views), samples, *out.shape[1:]), strict=True):
                drawn[number] = view.permute(0, 3, 1, 2)
        return [drawn[number] for number in range(len(views))]

    def _launch(
        self, group: _Group, rows: np.ndarray, records: Tensor, noise: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        """One group's views, (n, S, S, 3)."""
        view = self._views[group.views[0]]
        size, count = view.size, rows.size
        reach = 2 if view.interpolation == "bicubic" else 1
        most = int(rows["crop"][..., 2:].max())
        pitch = (1 + 2 * math.ceil(max(most / size, 1.0) * reach) + 1) * size
        out = self._empty((count, size, size, 3), dtype)
        # Scratch is of the current stream, which the kernel runs on: it may be given away when it is queued.
        levels = self._empty((count, 3, size, size), torch.uint8)
        weights = self._empty((count, 2, pitch), torch.int32)
        blurred = self._empty((count, 3, size, size) if view.blur else (1,), torch.int16)
        draw_views[(count,)](
            records,
            group.constants,
            group.constants if noise is None else self._up(noise),
            levels,
            weights,
            blurred,
            out,
            pitch,
            view.solarize_threshold,
            OPERATIONS=sum(CODES[name] * 10**place for place, name in enumerate(view.operations)),
            TAPS=view.blur_taps,
            BICUBIC=view.interpolation == "bicubic",
            SPACE=LEVELS if dtype == torch.uint8 else group.space,
            SIZE=size,
            SIDE=1 << (size - 1).bit_length(),
            BLOCK=min(BLOCK, 1 << (size * size - 1).bit_length()),
            num_warps=WARPS,
        )
        return out

    def _empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self._device)

    def _up(self, tensor: Tensor) -> Tensor:
        """A copy on the device, for which nobody waits."""
        if self._device.type != "cuda":
            return tensor
        staged = pinned(tuple(tensor.shape), tensor.dtype)
        staged.copy_(tensor)
        return staged.to(self._device, non_blocking=True)


def _groups(views: tuple[View, ...], device: torch.device) -> list[_Group]:
    """Views of one size with the same operations in the same order, and what the kernel has as constants alike."""
    found: dict[Any, list[int]] = {}
    for number, view in enumerate(views):
        alike = view.size, view.operations, view.interpolation, view.normalize, view.erase_value
        taps = view.blur_taps if view.blur else 0
        found.setdefault((*alike, view.solarize_threshold, taps), []).append(number)
    groups = []
    for numbers in found.values():
        view = views[numbers[0]]
        normalize = view.normalize
        mean, std = np.array(normalize.mean), np.array(normalize.std)
        scale = 1 / (std if normalize.space == "lab" else 255 * std)
        constants = torch.tensor(np.concatenate([scale, -mean / std, view.erase_value]), dtype=torch.float32)
        space = OWN if normalize.per_view else LAB if normalize.space == "lab" else RGB
        groups.append(_Group(tuple(numbers), constants.to(device), space))
    return groups


def _records(plan: Plan, frames: np.ndarray, slots: Tensor) -> np.ndarray:
    """`RECORD` (B, V), all but the noise."""
    draws = plan.draws
    records = np.zeros(draws.shape, RECORD)
    for name in set(RECORD.names or ()) & set(draws.dtype.names or ()) - {"crop", "flip", "turns", "noise"}:
        records[name] = draws[name]
    begins = slots.data_ptr() + slots.stride(0) * np.arange(len(draws), dtype=np.int64)
    records["address"] = begins[:, None] + frames["offset"]
    records["row"], records["pixel"], records["plane"] = frames["row"], 3, 1
    records["crop"] = frames["crop"]
    for name in ("flip", "turns"):
        records[name] = np.where(frames["placed"], 0, draws[name])
    return records


def _noise(plan: Plan, numbers: tuple[int, ...], view: View) -> tuple[Tensor | None, np.ndarray]:
    """float32 (rows, 2, S, S) for those of some views like `view` that lose channels; which row each has, (B, V)."""
    rows = np.zeros((len(plan), len(numbers)), np.int32)
    if not view.drop_channels:
        return None, rows
    dropped = np.nonzero(plan.kept[:, numbers] >= 0)
    rows[dropped] = np.arange(len(dropped[0]))
    planes = noise_planes(np.ascontiguousarray(plan.noise[:, numbers][dropped]), view.size)
    return (torch.from_numpy(planes) if len(planes) else None), rows
