"""Spans of a sound's frames are hidden, and other frames are drawn to stand beside each as negatives."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import comb

import numpy as np
import torch

from headrace.pipeline.checks import check
from headrace.pipeline.compiled import kernel
from headrace.pipeline.masks.drawn import FrameMasks, NegativeFrames
from headrace.pipeline.masks.grids import STREAM
from headrace.pipeline.random import key_word, philox, unit


@dataclass(frozen=True, kw_only=True)
class FrameSpanMask:
    """Spans of frames that may overlap. wav2vec 2.0 (2006.11477), HuBERT (2106.07447), data2vec (2202.03555).

    As `compute_mask_indices` in facebookresearch/fairseq at 3d262bb, fairseq/data/data_utils.py: beginnings are drawn
    without replacement from [0, T - span), so that the last frame is never hidden. Theirs draws `ratio * T / span`
    spans, rounded at random, and makes the rows of a batch alike by dropping frames of those that have more than the
    shortest. Here every row of every batch has `masked` frames, as many as their spans cover on average: spans are
    drawn until they are reached, and the last one is cut.
    """

    frames: int
    """T, of a sound."""
    ratio: float = 0.65
    """Frames of all spans, overlaps counted again, as a share of T. HuBERT takes 0.8."""
    span: int = 10
    """Frames of one."""
    smallest: int = 2
    """Spans at least, of which the average is taken. data2vec takes 1."""

    def __post_init__(self) -> None:
        check(self.span >= 1, self, "span", self.span, "at least 1")
        check(self.smallest >= 1, self, "smallest", self.smallest, "at least 1")
        check(0.0 < self.ratio < 1.0, self, "ratio", self.ratio, "in (0, 1)")
        most = max(self.smallest, int(self.ratio * self.frames / self.span) + 1)
        check(self.frames - self.span >= most, self, "frames", self.frames, f"at least {self.span + most}")

    @property
    def masked(self) -> int:
        """Frames of a sound that are hidden."""
        spans = self.ratio * self.frames / self.span
        whole = int(spans)
        few, more = (covered(self.frames, self.span, max(self.smallest, count)) for count in (whole, whole + 1))
        return max(1, round(few + (spans - whole) * (more - few)))

    def draw(self, seed: int, epoch: int, sample_ids: np.ndarray, number: int) -> FrameMasks:
        """See `draw_masks`."""
        masked = np.empty((len(sample_ids), self.masked), np.int64)
        _draw_spans(key_word(seed), key_word(epoch), sample_ids, key_word(number), self.frames, self.span, masked)
        return FrameMasks(torch.from_numpy(masked))


@dataclass(frozen=True, kw_only=True)
class NegativeFrameDraw:
    """Hides nothing: for each of some frames, others of the same sound, all equally likely, with replacement. CPC
    (1807.03748) with negatives of the current sequence, wav2vec 2.0 (2006.11477).

    As `sample_negatives` in facebookresearch/fairseq at 3d262bb, fairseq/models/wav2vec/wav2vec2.py, whose numbers
    count masked frames.
    """

    frames: int
    """Frames that negatives are drawn for: the first ones of those that are drawn from."""
    among: int
    """Frames that are drawn from."""
    count: int = 100
    """Negatives of each."""

    def __post_init__(self) -> None:
        check(self.among >= 2, self, "among", self.among, "at least 2")
        check(1 <= self.frames <= self.among, self, "frames", self.frames, f"1 to {self.among}")
        check(self.count >= 1, self, "count", self.count, "at least 1")

    def draw(self, seed: int, epoch: int, sample_ids: np.ndarray, number: int) -> NegativeFrames:
        """See `draw_masks`."""
        negatives = np.empty((len(sample_ids), self.frames, self.count), np.int64)
        _draw_negatives(key_word(seed), key_word(epoch), sample_ids, key_word(number), self.among, negatives)
        return NegativeFrames(torch.from_numpy(negatives))


@lru_cache(maxsize=64)
def covered(frames: int, span: int, spans: int) -> float:
    """Frames that so many spans cover on average, whose beginnings are drawn as `FrameSpanMask` says."""
    places = frames - span
    total = 0.0
    for frame in range(frames):
        reach = min(frame, places - 1) - max(0, frame - span + 1) + 1  # beginnings that cover it
        total += 1 - comb(places - reach, spans) / comb(places, spans)
    return total


@kernel
def _draw_spans(seed, epoch, sample_ids, number, frames, span, masked):
    starts = np.empty(frames - span, np.int64)
    hidden = np.empty(frames, np.bool_)
    for i in range(len(sample_ids)):
        sample = np.uint64(sample_ids[i])
        for start in range(len(starts)):
            starts[start] = start
        hidden[:] = False
        found, step = 0, 0
        # The first steps of a Fisher-Yates shuffle choose where spans begin.
        while found < masked.shape[1]:
            words = philox(seed, STREAM, np.uint64(step) << np.uint64(16) | number, np.uint64(18), sample, epoch)
            other = step + np.int64(unit(words[0]) * (len(starts) - step))
            starts[step], starts[other] = starts[other], starts[step]
            for frame in range(starts[step], starts[step] + span):
                if found < masked.shape[1] and not hidden[frame]:
                    hidden[frame] = True
                    found += 1
            step += 1
        place = 0
        for frame in range(frames):
            if hidden[frame]:
                masked[i, place] = frame
                place += 1


@kernel
def _draw_negatives(seed, epoch, sample_ids, number, among, negatives):
    for i in range(len(sample_ids)):
        sample = np.uint64(sample_ids[i])
        flat = negatives[i].reshape(-1)
        for place in range(0, len(flat), 4):  # a counter has four words
            block = np.uint64(place // 4) << np.uint64(16) | number
            words = philox(seed, STREAM, block, np.uint64(17), sample, epoch)
            for word in range(min(4, len(flat) - place)):
                frame = (place + word) // negatives.shape[2]
                other = np.int64(unit(words[word]) * (among - 1))
                flat[place + word] = other + (other >= frame)
