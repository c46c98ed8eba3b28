"""Crops of sounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from headrace.pipeline.addresses import memory_at
from headrace.pipeline.engines.base import StageTimes
from headrace.pipeline.feeds.base import BufferSpec, Feed, Source, checked_field, described
from headrace.pipeline.masks import draw_masks
from headrace.pipeline.sounds.effects import log_mixed, with_noise
from headrace.pipeline.sounds.resample import resampled_length
from headrace.pipeline.sounds.sounds import Sound, SoundPlan, Sounds, SoundSpec, other_sounds
from headrace.shards import ShardError, ShardSet, Spans


class MixedSounds(NamedTuple):
    """Where the bytes of samples lie, and of what is mixed into them."""

    own: Any
    others: tuple[Any, ...]
    """One for each of the specification's sounds into which something is mixed."""


class SoundFeed(Feed[SoundPlan]):
    """See `SoundSpec`. How long a sound is only its file says, so that the thread that opens it draws its row of the
    plan.

    Raises:
        ImportError: if the package soundfile is missing.
        ValueError: if other sounds are asked for, and the set has one.
    """

    def __init__(self, spec: SoundSpec, source: Source) -> None:
        from headrace.pipeline.sounds.decode import open_sound, spectrogram  # needs an extra

        self.shards = source.shards
        self.field = audio_field(source.shards, spec.field)
        self._open: Any = open_sound
        self._spectrogram: Any = spectrogram
        self._spec = spec
        self._mixing = [k for k, sound in enumerate(spec.sounds) if sound.mixes]
        if self._mixing and len(source.shards) < 2:
            raise ValueError("another sound is asked for, to be mixed in, and the set has one")

    def buffers(self, samples: int) -> list[BufferSpec]:
        return [((samples, *sound.shape), torch.float32) for sound in self._spec.sounds]

    def request(self, seed: int, epoch: int, ids: np.ndarray) -> tuple[Any, Callable[[], None]]:
        if not self._mixing:
            return super().request(seed, epoch, ids)
        others = other_sounds(self._spec, seed, epoch, ids, len(self.shards))
        asked = [super(SoundFeed, self).request(seed, epoch, wanted) for wanted in (ids, *others[:, self._mixing].T)]
        (own, *spans), arrived = zip(*asked, strict=True)

        def wait() -> None:
            for each in arrived:
                each()

        return MixedSounds(own, tuple(spans)), wait

    def plan(self, seed: int, epoch: int, ids: np.ndarray, spans: Any) -> SoundPlan:
        others = other_sounds(self._spec, seed, epoch, ids, len(self.shards)) if self._mixing else None
        return SoundPlan.blank(self._spec, seed, epoch, len(ids), others)

    def render(self, ids: np.ndarray, spans: Any, plan: SoundPlan, buffers: list[np.ndarray]) -> StageTimes:
        started = perf_counter()
        own, others = (spans.own, spans.others) if self._mixing else (spans, ())
        self.refuse_unreadable(ids, own)
        for k, other in zip(self._mixing, others, strict=True):
            self.refuse_unreadable(plan.other[:, k], other)
        for i in range(len(ids)):
            row = plan[i : i + 1]
            with self._opened(own, i, ids[i]) as file:
                row.fill(self._spec, ids[i : i + 1], np.array([file.length]), np.array([file.rate]))
                crops = _Crops(file, self._spectrogram)
                for k, sound in enumerate(self._spec.sounds):
                    if not sound.mixes:
                        buffers[k][i] = self._finished(crops.plain(sound, *_place(row, k)), sound, row, k)
                    elif sound.noise is None:
                        crops.plain(sound, *_place(row, k))
                    else:
                        crops.wave(sound, *_place(row, k))
            for k, other in zip(self._mixing, others, strict=True):
                self._mix(k, other, i, ids[i : i + 1], row, crops, buffers)
        return StageTimes(decode_s=perf_counter() - started, augment_s=0.0)

    def _mix(
        self,
        k: int,
        spans: Any,
        i: int,
        sample: np.ndarray,
        row: SoundPlan,
        crops: _Crops,
        buffers: list[np.ndarray],
    ) -> None:
        """Sound k of one sample, into which another is mixed."""
        sound = self._spec.sounds[k]
        snr, share = float(row.snr[0, k]), float(row.share[0, k])
        place = _place(row, k)
        with self._opened(spans, i, row.other[0, k]) as file:
            row.fill_other(k, sound, sample, np.array([file.length]), np.array([file.rate]))
            length = min(sound.samples, resampled_length(file.length, file.rate, sound.rate))
            wave = file.wave(sound, int(row.other_start[0, k]), length, 0.0)
            background = self._spectrogram(wave, sound, length) if sound.mixup is not None else None
        if np.isfinite(snr):
            own = with_noise(crops.wave(sound, *place), wave, snr)
            made = own if sound.mel is None else self._spectrogram(own, sound, place[1])[None]
        else:
            made = crops.plain(sound, *place)
        if background is not None:
            made = log_mixed(made, background[None], share)
        buffers[k][i] = self._finished(made, sound, row, k)

    @staticmethod
    def _finished(made: np.ndarray, sound: Sound, row: SoundPlan, k: int) -> np.ndarray:
        """A crop behind its last effects."""
        if sound.part is not None:
            made = sound.part.apply(made[0], row.part[0, k])[None]
        if sound.stripes is not None:
            made = sound.stripes.apply(made[0], row.stripes[0, k])[None]
        return made

    def deliver(self, seed: int, epoch: int, ids: np.ndarray, plan: SoundPlan, buffers: list[Tensor]) -> Sounds:
        of_mels = [sound.mel is not None for sound in self._spec.sounds]
        return Sounds(
            waves=[buffer for buffer, mel in zip(buffers, of_mels, strict=True) if not mel],
            mels=[buffer for buffer, mel in zip(buffers, of_mels, strict=True) if mel],
            masks=draw_masks(self._spec.masks, seed, epoch, ids),
            drawn=plan.drawn(),
        )

    @contextmanager
    def _opened(self, spans: Spans, i: int, sample: Any) -> Iterator[Any]:
        """A file. What is wrong with it in the block is said with its sample."""
        try:
            with self._open(bytes(memory_at(int(spans.address[i]), int(spans.size[i])))) as file:
                yield file
        except ValueError as error:
            where = self.shards.where(int(sample), self.field)
            raise ShardError(f"{where}: cannot decode the sound: {error}") from error


class _Crops:
    """The crops of one file; what several have in common is made once.

    Args:
        file: open as long as a new wave is asked for.
    """

    def __init__(self, file: Any, spectrogram: Any) -> None:
        self._file = file
        self._spectrogram = spectrogram
        self._made: dict[Any, np.ndarray] = {}

    def wave(self, sound: Sound, start: int, length: int, gain: float) -> np.ndarray:
        """float32 (samples,)."""
        key = (sound.samples, sound.rate, sound.short, start, length, gain)
        if key not in self._made:
            self._made[key] = self._file.wave(sound, start, length, gain)
        return self._made[key]

    def plain(self, sound: Sound, start: int, length: int, gain: float) -> np.ndarray:
        """float32 of `Sound.shape`: the crop without effects."""
        wave = self.wave(sound, start, length, gain)
        if sound.mel is None:
            return wave
        key = (sound.mel, sound.samples, sound.rate, sound.short, start, length, gain)
        if key not in self._made:
            self._made[key] = self._spectrogram(wave, sound, length)[None]
        return self._made[key]


def _place(row: SoundPlan, k: int) -> tuple[int, int, float]:
    """Start, length and gain of sound k of one sample."""
    return int(row.start[0, k]), int(row.length[0, k]), float(row.gain[0, k])


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
