"""Crops of sounds."""

from __future__ import annotations

from contextlib import AbstractContextManager
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headrace.pipeline.addresses import memory_at
from headrace.pipeline.engines.base import StageTimes
from headrace.pipeline.feeds.base import BufferSpec, Feed, Source, checked_field, described
from headrace.pipeline.masks import draw_masks
from headrace.pipeline.sounds.sounds import SoundPlan, Sounds, SoundSpec
from headrace.shards import ShardError, ShardSet, Spans


class SoundFeed(Feed[SoundPlan]):
    """See `SoundSpec`. How long a sound is only its file says, so that the thread that opens it draws its row of the
    plan."""

    def __init__(self, spec: SoundSpec, source: Source) -> None:
        from headrace.pipeline.sounds.decode import open_sound  # needs an extra

        self.shards = source.shards
        self.field = audio_field(source.shards, spec.field)
        self._open: Any = open_sound
        self._spec = spec

    def buffers(self, samples: int) -> list[BufferSpec]:
        return [((samples, *sound.shape), torch.float32) for sound in self._spec.sounds]

    def plan(self, seed: int, epoch: int, ids: np.ndarray, spans: Spans) -> SoundPlan:
        return SoundPlan.blank(self._spec, seed, epoch, len(ids))

    def render(self, ids: np.ndarray, spans: Spans, plan: SoundPlan, buffers: list[np.ndarray]) -> StageTimes:
        started = perf_counter()
        self.refuse_unreadable(ids, spans)
        for i in range(len(ids)):
            row = plan[i : i + 1]
            try:
                with self._sound(spans, i) as file:
                    row.fill(self._spec, ids[i : i + 1], np.array([file.length]), np.array([file.rate]))
                    for k, sound in enumerate(self._spec.sounds):
                        drawn = int(row.start[0, k]), int(row.length[0, k]), float(row.gain[0, k])
                        buffers[k][i] = file.crop(sound, *drawn)
            except ValueError as error:
                where = self.shards.where(int(ids[i]), self.field)
                raise ShardError(f"{where}: cannot decode the sound: {error}") from error
        return StageTimes(decode_s=perf_counter() - started, augment_s=0.0)

    def deliver(self, seed: int, epoch: int, ids: np.ndarray, plan: SoundPlan, buffers: list[Tensor]) -> Sounds:
        of_mels = [sound.mel is not None for sound in self._spec.sounds]
        return Sounds(
            waves=[buffer for buffer, mel in zip(buffers, of_mels, strict=True) if not mel],
            mels=[buffer for buffer, mel in zip(buffers, of_mels, strict=True) if mel],
            masks=draw_masks(self._spec.masks, seed, epoch, ids),
            drawn=plan.drawn(),
        )

    def _sound(self, spans: Spans, i: int) -> AbstractContextManager[Any]:
        found: AbstractContextManager[Any] = self._open(bytes(memory_at(int(spans.address[i]), int(spans.size[i]))))
        return found


def audio_field(shards: ShardSet, name: str | None = None) -> str:
    """The field whose sounds are heard: the one of this name, or "audio", or else the only one.

    Raises:
        ValueError: if there is none, or several and no name says which.
    """
    sounds = [field for field, declared in shards.fields.items() if declared.kind == "audio"]
    if name is not None or "audio" in sounds:
        return checked_field(shards, name or "audio", "audio")
    if len(sounds) == 1:
        return sounds[0]
    if not sounds:
        raise ValueError(f"{shards.path} has no sounds; its fields are {described(shards)}")
    raise ValueError(f"{shards.path} has several audio fields, {', '.join(sounds)}, and none of them is called audio")
