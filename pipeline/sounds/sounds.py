"""What a method wants to see of a sound: crops of its wave, or mel spectrograms of them, and how they are drawn.

A sound plan is drawn from (seed, epoch, sample, sound) and the length of the file. Places and lengths count samples of
the whole sound at the rate that is asked for. Letters: B samples, K sounds of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from headrace.pipeline.checks import check
from headrace.pipeline.masks import Masks, MaskSpec
from headrace.pipeline.part import Part
from headrace.pipeline.random import draw_units, key_word
from headrace.pipeline.rows import Rows
from headrace.pipeline.sounds.mel import Mel
from headrace.pipeline.sounds.resample import MAX_RATE, resampled_length

MAX_CROP = 1 << 26
"""Samples of one crop: an hour at 16 kHz."""
MAX_SAMPLES = 1 << 36
"""Of a channel of a file: two weeks at 48 kHz."""

_STREAM = key_word(0x736F6E64)  # the word "sond"
# Counter blocks of four random words; a new draw takes a new block, so that old draws never move.
_BLOCK_PLACE = 0  # where the crop begins, its gain
_STEP = 16  # bits of a counter word that the number of the block leaves to the sound


@dataclass(frozen=True, kw_only=True)
class Sound:
    """One crop of a sound, in mono: channels are averaged."""

    samples: int = 160_000
    """Length at `rate`; a `Mel` says how many it needs for some number of frames."""
    rate: int = 16_000
    """Samples a second; files of another rate are resampled."""
    place: Literal["random", "center", "start"] = "random"
    """Where the crop lies in a longer sound; random takes all places alike."""
    gain: tuple[float, float] = (0.0, 0.0)
    """Amplification in dB, drawn uniformly; (0, 0) turns it off."""
    short: Literal["pad", "loop"] = "pad"
    """A shorter sound is followed by silence, or starts again."""
    mel: Mel | None = None
    """Spectrogram in the place of the wave; None for the wave."""

    def __post_init__(self) -> None:
        check(1 <= self.samples <= MAX_CROP, self, "samples", self.samples, f"1 to {MAX_CROP}")
        check(1 <= self.rate <= MAX_RATE, self, "rate", self.rate, f"1 to {MAX_RATE}")
        places = ("random", "center", "start")
        check(self.place in places, self, "place", self.place, "random, center or start")
        low, high = self.gain
        check(-100.0 <= low <= high <= 100.0, self, "gain", self.gain, "-100 <= low <= high <= 100")
        check(self.short in ("pad", "loop"), self, "short", self.short, "pad or loop")
        if self.mel is not None:
            needed = self.mel.samples(1)
            check(self.samples >= needed, self, "samples", self.samples, f"at least {needed} for its spectrogram")
            check(self.mel.low < self.rate / 2, self, "mel.low", self.mel.low, f"below half of the rate {self.rate}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one crop as it is delivered: (samples,), or (1, frames, bins)."""
        return (self.samples,) if self.mel is None else (1, self.mel.frames(self.samples), self.mel.bins)


@dataclass(frozen=True)
class SoundSpec:
    """The crops of one sound, in the order in which they leave the loader, and the masks that go with them."""

    sounds: tuple[Sound, ...]
    masks: tuple[MaskSpec, ...] = ()
    """What `Sounds.masks` holds, one for each: a spectrogram's patches count as an image's, times in the place of rows
    and bands in that of columns."""
    field: str | None = None
    """Name of the audio field in the shard set; None takes "audio" or else the only one."""

    def __init__(self, sounds: Sequence[Sound], masks: Sequence[MaskSpec] = (), *, field: str | None = None) -> None:
        if not sounds:
            raise ValueError("SoundSpec needs at least one sound")
        object.__setattr__(self, "sounds", tuple(sounds))
        object.__setattr__(self, "masks", tuple(masks))
        object.__setattr__(self, "field", field)

    def __len__(self) -> int:
        return len(self.sounds)

    @staticmethod
    def repeat(sound: Sound, times: int, masks: Sequence[MaskSpec] = ()) -> SoundSpec:
        """`times` independent draws of one sound."""
        return SoundSpec([sound] * times, masks)

    def plain(self) -> SoundSpec:
        """What probes are shown: the first crop at its own loudness, from the middle of the sound where its place is
        drawn in training. Nothing is drawn, nothing is masked."""
        first = self.sounds[0]
        place = "center" if first.place == "random" else first.place
        return SoundSpec([replace(first, place=place, gain=(0.0, 0.0))], field=self.field)


class DrawnSounds(NamedTuple):
    """How the crops of a batch were cut."""

    start: Tensor
    """int64 (B, K): number of the first sample, at the rate of the crop."""
    length: Tensor
    """int64 (B, K): samples of the crop that are sound; fewer than it has where the sound is shorter."""
    gain: Tensor
    """float32 (B, K), in dB."""


@dataclass(frozen=True, kw_only=True)
class Sounds(Part):
    """The crops of a batch of sounds, and the masks that go with them."""

    waves: list[Tensor]
    """float32 (B, samples) of each `Sound` without a spectrogram, in their order."""
    mels: list[Tensor]
    """float32 (B, 1, frames, bins) of each with one, likewise."""
    masks: list[Masks] = field(default_factory=list)
    """One for each of the specification's masks, a row a sample."""
    drawn: DrawnSounds
    """How they were cut."""


@dataclass(frozen=True, kw_only=True)
class SoundPlan(Rows):
    """The draws of B samples with K sounds each; rows are filled when their files are open."""

    origin: np.ndarray
    """uint64 (B, 2): seed and epoch that a row is drawn from."""
    start: np.ndarray
    """int64 (B, K); as the next two, see `DrawnSounds`."""
    length: np.ndarray
    gain: np.ndarray

    @staticmethod
    def blank(spec: SoundSpec, seed: int, epoch: int, samples: int) -> SoundPlan:
        """`samples` rows to be filled."""
        return SoundPlan(
            origin=np.full((samples, 2), (key_word(seed), key_word(epoch)), np.uint64),
            start=np.zeros((samples, len(spec)), np.int64),
            length=np.zeros((samples, len(spec)), np.int64),
            gain=np.zeros((samples, len(spec)), np.float32),
        )

    def fill(self, spec: SoundSpec, sample_ids: np.ndarray, lengths: np.ndarray, rates: np.ndarray) -> None:
        """Draw every random number of these rows.

        Args:
            spec: the K sounds.
            sample_ids: int64 (B,), positions in the shard set.
            lengths: int64 (B,), samples of each file, of one channel.
            rates: int64 (B,), samples a second of each file.
        """
        if not len(self):
            return
        seed, epoch = self.origin[0]
        ids = np.ascontiguousarray(sample_ids, np.int64)
        for k, sound in enumerate(spec.sounds):
            units = draw_units(seed, _STREAM, np.uint64(k << _STEP | _BLOCK_PLACE), epoch, ids)
            whole = resampled_length(lengths, rates, sound.rate)
            free = np.maximum(whole - sound.samples, 0)
            if sound.place == "random":
                self.start[:, k] = units[:, 0] * (free + 1)
            else:
                self.start[:, k] = free // 2 if sound.place == "center" else 0
            self.length[:, k] = np.minimum(whole, sound.samples)
            low, high = sound.gain
            self.gain[:, k] = low + (high - low) * units[:, 1]

    def drawn(self) -> DrawnSounds:
        """The labels, sharing memory."""
        return DrawnSounds(*(torch.from_numpy(getattr(self, name)) for name in DrawnSounds._fields))
