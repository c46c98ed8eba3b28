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
from headrace.pipeline.sounds.effects import LogMixup, Noise, ResizeCrop, Stripes
from headrace.pipeline.sounds.mel import Mel
from headrace.pipeline.sounds.resample import MAX_RATE, resampled_length

MAX_CROP = 1 << 26
"""Samples of one crop: an hour at 16 kHz."""
MAX_SAMPLES = 1 << 36
"""Of a channel of a file: two weeks at 48 kHz."""

EFFECTS = ("noise", "mixup", "part", "stripes")
"""Fields of a `Sound` that change what is cut, in the order in which they do; the last three change spectrograms."""

_STREAM = key_word(0x736F6E64)  # the word "sond"
# Counter blocks of four random words; a new draw takes a new block, so that old draws never move.
_BLOCK_PLACE = 0  # where the crop begins, its gain
_BLOCK_OTHER = 1  # which other sound is mixed in, where its crop begins, the noise's power, whether there is any
_BLOCK_PART = 2  # sizes and places of the part that is resized
_BLOCK_SHARE = 3  # the other's share in a mixed spectrogram
_BLOCK_STRIPES = 8  # and one more for each pair of them
_STEP = 16  # bits of a counter word that the number of the block leaves to the sound


@dataclass(frozen=True, kw_only=True)
class Sound:
    """One crop of a sound, in mono: channels are averaged."""

    samples: int = 160_000
    """Length at `rate`; a `Mel` says how many it needs for some number of frames."""
    rate: int = 16_000
    """Samples a second; files of another rate are resampled."""
    place: Literal["random", "center", "start", "first"] = "random"
    """Where the crop lies in a longer sound; random takes all places alike, first that of the specification's first
    sound, which has the same `samples` and `rate`."""
    gain: tuple[float, float] = (0.0, 0.0)
    """Amplification in dB, drawn uniformly; (0, 0) turns it off."""
    short: Literal["pad", "loop"] = "pad"
    """A shorter sound is followed by silence, or starts again."""
    mel: Mel | None = None
    """Spectrogram in the place of the wave; None for the wave."""
    noise: Noise | None = None
    """Another sound of the set below the wave, behind the gain; None for none."""
    mixup: LogMixup | None = None
    """A spectrogram only: mixed with another sound's, the same one as `noise`'s; None for none."""
    part: ResizeCrop | None = None
    """A spectrogram only: a random part of it, at its size; None for all of it."""
    stripes: Stripes | None = None
    """A spectrogram only: frames and bins that are set to 0, behind all else; None for none."""

    def __post_init__(self) -> None:
        check(1 <= self.samples <= MAX_CROP, self, "samples", self.samples, f"1 to {MAX_CROP}")
        check(1 <= self.rate <= MAX_RATE, self, "rate", self.rate, f"1 to {MAX_RATE}")
        places = ("random", "center", "start", "first")
        check(self.place in places, self, "place", self.place, "random, center, start or first")
        low, high = self.gain
        check(-100.0 <= low <= high <= 100.0, self, "gain", self.gain, "-100 <= low <= high <= 100")
        check(self.short in ("pad", "loop"), self, "short", self.short, "pad or loop")
        if self.mel is not None:
            needed = self.mel.samples(1)
            check(self.samples >= needed, self, "samples", self.samples, f"at least {needed} for its spectrogram")
            check(self.mel.low < self.rate / 2, self, "mel.low", self.mel.low, f"below half of the rate {self.rate}")
        for name in EFFECTS[1:]:
            effect = getattr(self, name)
            check(effect is None or self.mel is not None, self, name, effect, "None where there is no spectrogram")

    @property
    def mixes(self) -> bool:
        """Whether another sound of the set is heard in it."""
        return self.noise is not None or self.mixup is not None

    def plainly(self) -> Sound:
        """The same without what is drawn."""
        place = "center" if self.place in ("random", "first") else self.place
        return replace(self, place=place, gain=(0.0, 0.0), **dict.fromkeys(EFFECTS))

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
        first = sounds[0]
        if first.place == "first":
            raise ValueError("SoundSpec's first sound needs a place of its own")
        for sound in sounds:
            if sound.place == "first" and (sound.samples, sound.rate) != (first.samples, first.rate):
                raise ValueError("a Sound in the place of the first one needs the samples and the rate of that one")
        object.__setattr__(self, "sounds", tuple(sounds))
        object.__setattr__(self, "masks", tuple(masks))
        object.__setattr__(self, "field", field)

    def __len__(self) -> int:
        return len(self.sounds)

    @property
    def stripes(self) -> int:
        """Pairs of stripes of the sound that has most."""
        return max(0 if sound.stripes is None else sound.stripes.count for sound in self.sounds)

    @staticmethod
    def repeat(sound: Sound, times: int, masks: Sequence[MaskSpec] = ()) -> SoundSpec:
        """`times` independent draws of one sound."""
        return SoundSpec([sound] * times, masks)

    def plain(self) -> SoundSpec:
        """What probes are shown: the first crop at its own loudness, from the middle of the sound where its place is
        drawn in training. Nothing is drawn, nothing is masked."""
        return SoundSpec([self.sounds[0].plainly()], field=self.field)


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
    other: np.ndarray
    """int64 (B, K): which other sound of the set is mixed in; -1 for none."""
    other_start: np.ndarray
    """int64 (B, K): number of the first sample of what is mixed in, at the rate of the crop."""
    snr: np.ndarray
    """float32 (B, K): of the noise, in dB; infinity for none."""
    share: np.ndarray
    """float32 (B, K): the other's in a mixed spectrogram; 0 for none."""
    part: np.ndarray
    """int64 (B, K, 4): see `ResizeCrop.draw`."""
    stripes: np.ndarray
    """int64 (B, K, S, 4): see `Stripes.draw`."""

    @staticmethod
    def blank(spec: SoundSpec, seed: int, epoch: int, samples: int, other: np.ndarray | None = None) -> SoundPlan:
        """`samples` rows to be filled, but for `other`, which is None where nothing is mixed in."""
        return SoundPlan(
            origin=np.full((samples, 2), (key_word(seed), key_word(epoch)), np.uint64),
            start=np.zeros((samples, len(spec)), np.int64),
            length=np.zeros((samples, len(spec)), np.int64),
            gain=np.zeros((samples, len(spec)), np.float32),
            other=np.full((samples, len(spec)), -1, np.int64) if other is None else other,
            other_start=np.zeros((samples, len(spec)), np.int64),
            snr=np.full((samples, len(spec)), np.inf, np.float32),
            share=np.zeros((samples, len(spec)), np.float32),
            part=np.zeros((samples, len(spec), 4), np.int64),
            stripes=np.zeros((samples, len(spec), spec.stripes, 4), np.int64),
        )

    def fill(self, spec: SoundSpec, sample_ids: np.ndarray, lengths: np.ndarray, rates: np.ndarray) -> None:
        """Draw every random number of these rows but `other_start`.

        Args:
            spec: the K sounds.
            sample_ids: int64 (B,), positions in the shard set.
            lengths: int64 (B,), samples of each file, of one channel.
            rates: int64 (B,), samples a second of each file.
        """
        if not len(self):
            return
        ids = np.ascontiguousarray(sample_ids, np.int64)
        for k, sound in enumerate(spec.sounds):
            units = self._units(k, _BLOCK_PLACE, ids)
            whole = resampled_length(lengths, rates, sound.rate)
            free = np.maximum(whole - sound.samples, 0)
            if sound.place == "random":
                self.start[:, k] = units[:, 0] * (free + 1)
            elif sound.place == "first":
                self.start[:, k] = self.start[:, 0]
            else:
                self.start[:, k] = free // 2 if sound.place == "center" else 0
            self.length[:, k] = np.minimum(whole, sound.samples)
            low, high = sound.gain
            self.gain[:, k] = low + (high - low) * units[:, 1]
            self._fill_effects(k, sound, ids)

    def _fill_effects(self, k: int, sound: Sound, ids: np.ndarray) -> None:
        if sound.noise is not None:
            units = self._units(k, _BLOCK_OTHER, ids)
            low, high = sound.noise.snr
            heard = units[:, 3] < sound.noise.probability
            self.snr[:, k] = np.where(heard, low + (high - low) * units[:, 2], np.inf)
        if sound.mixup is not None:
            self.share[:, k] = sound.mixup.ratio * self._units(k, _BLOCK_SHARE, ids)[:, 0]
        frames, bins = sound.shape[1:] if sound.mel is not None else (0, 0)
        if sound.part is not None:
            self.part[:, k] = sound.part.draw(self._units(k, _BLOCK_PART, ids), (frames, bins))
        if sound.stripes is not None:
            for number in range(sound.stripes.count):
                units = self._units(k, _BLOCK_STRIPES + number, ids)
                self.stripes[:, k, number] = sound.stripes.draw(units, number, (frames, bins))

    def fill_other(self, k: int, sound: Sound, sample_ids: np.ndarray, lengths: np.ndarray, rates: np.ndarray) -> None:
        """Draw `other_start` of sound k, from the lengths and rates of the files that are mixed in; else as `fill`."""
        units = self._units(k, _BLOCK_OTHER, np.ascontiguousarray(sample_ids, np.int64))
        whole = resampled_length(lengths, rates, sound.rate)
        self.other_start[:, k] = units[:, 1] * (np.maximum(whole - sound.samples, 0) + 1)

    def _units(self, k: int, block: int, ids: np.ndarray) -> np.ndarray:
        """(B, 4) in [0, 1): four numbers of sound k for each row."""
        seed, epoch = self.origin[0]
        units: np.ndarray = draw_units(seed, _STREAM, np.uint64(k << _STEP | block), epoch, ids)
        return units

    def drawn(self) -> DrawnSounds:
        """The labels, sharing memory."""
        return DrawnSounds(*(torch.from_numpy(getattr(self, name)) for name in DrawnSounds._fields))


def other_sounds(spec: SoundSpec, seed: int, epoch: int, sample_ids: np.ndarray, samples: int) -> np.ndarray:
    """int64 (B, K): which of the set's `samples` is mixed into each sound, any but the sample itself, all equally
    likely; -1 where none is."""
    ids = np.ascontiguousarray(sample_ids, np.int64)
    others = np.full((len(ids), len(spec)), -1, np.int64)
    for k, sound in enumerate(spec.sounds):
        if sound.mixes:
            block = np.uint64(k << _STEP | _BLOCK_OTHER)
            unit = draw_units(key_word(seed), _STREAM, block, key_word(epoch), ids)[:, 0]
            other = (unit * (samples - 1)).astype(np.int64)
            others[:, k] = other + (other >= ids)
    return others
