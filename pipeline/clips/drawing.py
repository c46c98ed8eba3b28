"""How clips are drawn: every number of a plan that concerns time, from (seed, epoch, sample, clip).

Letters as in `headrace.pipeline.clips.clips`: B samples, K clips of each, T frames of the longest clip.
"""

from __future__ import annotations

import numpy as np

from headrace.pipeline.compiled import kernel
from headrace.pipeline.random import key_word, philox, unit

_STREAM = key_word(0x636C6970)  # the word "clip"
_WHOLE = key_word(-1)  # in the place of a clip's number: draws that all clips of a sample share
# Counter blocks of four random words; a new draw takes a new block, so that old draws never move.
_BLOCK_START = np.uint64(0)
_BLOCK_SIDE = np.uint64(1)
_BLOCK_ORDER = np.uint64(2)
_BLOCK_GAP = np.uint64(3)
_BLOCK_RATE = np.uint64(4)
_BLOCK_NEAR = np.uint64(5)
_STEP = np.uint64(16)  # bits of a counter word that the number of the block leaves to a step

_INDEPENDENT, _APART, _ROW, _NEAR, _TOGETHER = range(5)
STARTS = {"independent": _INDEPENDENT, "apart": _APART, "row": _ROW, "near": _NEAR, "together": _TOGETHER}
"""Codes of what `ClipSpec.starts` may be."""


@kernel
def draw(
    seed,
    epoch,
    sample_ids,
    lengths,
    parameters,
    strides,
    has_odd,
    together,
    interval,
    frames,
    pace,
    reversed_,
    ordered,
    permutation,
    odd,
    sequence,
):
    """Fill the rows of B samples.

    Args:
        seed, epoch: uint64.
        sample_ids, lengths: int64 (B,).
        parameters, strides: records (K,) and int64 (K, largest number of strides), see `ClipPlan.fill`.
        has_odd, together, interval: `ClipSpec.odd`, the code of `ClipSpec.starts`, and `ClipSpec.interval`.
        frames, pace, reversed_, ordered, permutation, odd, sequence: columns of `ClipPlan`, written.
    """
    clips = len(parameters)
    spans = np.empty(clips, np.int64)
    starts = np.empty(clips, np.int64)
    rates = np.empty(clips, np.float64)
    for i in range(len(sample_ids)):
        sample = np.uint64(sample_ids[i])
        length = lengths[i]
        odd[i] = -1
        if has_odd:
            words = philox(seed, _STREAM, _BLOCK_START, _WHOLE, sample, epoch)
            odd[i] = np.int64(unit(words[0]) * clips)
        for k in range(clips):
            p = parameters[k]
            words = philox(seed, _STREAM, _BLOCK_START, np.uint64(k), sample, epoch)
            pace[i, k] = np.int64(unit(words[0]) * p.paces)
            places = 5 if p.replacing else p.frames
            rates[k] = p.rate[0]
            if p.rate[0] < p.rate[1]:
                of_rate = philox(seed, _STREAM, _BLOCK_RATE, np.uint64(k), sample, epoch)
                rates[k] += (p.rate[1] - p.rate[0]) * unit(of_rate[0])
            spans[k] = np.int64((places - 1) * strides[k, pace[i, k]] * rates[k]) + 1
            free = max(0, length - spans[k])
            starts[k] = free // 2 if p.centered else np.int64(unit(words[1]) * (free + 1))
            reversed_[i, k] = unit(words[2]) < p.reverse
            ordered[i, k] = not unit(words[3]) < p.disorder and odd[i] != k
        sequence[i] = -1
        if together in (_APART, _ROW):
            _place_behind(seed, epoch, sample, length, spans, together == _ROW, interval, starts, sequence[i])
        elif together == _NEAR:
            _place_near(seed, epoch, sample, max(0, length - spans[0]), starts, sequence[i])
        elif together == _TOGETHER:
            words = philox(seed, _STREAM, _BLOCK_NEAR, _WHOLE, sample, epoch)
            starts[:] = np.int64(unit(words[0]) * (max(0, length - spans.max()) + 1))
        for k in range(clips):
            p = parameters[k]
            stride = strides[k, pace[i, k]]
            count = p.frames
            order = permutation[i, k, :count]
            shown = frames[i, k, :count]
            for t in range(count):
                order[t] = t
                shown[t] = t + 1 if p.replacing else t
            if not ordered[i, k]:
                if p.replacing:
                    words = philox(seed, _STREAM, _BLOCK_SIDE, np.uint64(k), sample, epoch)
                    before = unit(words[0]) < 0.5
                    shown[1] = 0 if before else 4
                    order[0], order[1], order[2] = (1, 0, 2) if before else (0, 2, 1)
                else:
                    _draw_order(seed, epoch, sample, np.uint64(k), order)
                    for t in range(count):
                        shown[t] = order[t]
            if reversed_[i, k]:
                order[:] = order[::-1].copy()
                shown[:] = shown[::-1].copy()
            for t in range(count):
                number = starts[k] + np.int64(shown[t] * stride * rates[k])
                if number >= length:
                    number = number % length if p.loop else length - 1
                shown[t] = number


@kernel
def _place_behind(seed, epoch, sample, length, spans, row, interval, starts, sequence):
    """Starts of clips that do not overlap, in a drawn order: with drawn gaps, or nothing where they do not fit; in a
    row with the given ones."""
    clips = len(spans)
    free = length - spans.sum()
    if row:
        free = max(0, free - (clips - 1) * interval)
    elif free < 0:
        return
    gaps = np.empty(clips, np.int64)
    turn = np.empty(clips, np.int64)
    for k in range(clips):
        words = philox(seed, _STREAM, np.uint64(k) << _STEP | _BLOCK_GAP, _WHOLE, sample, epoch)
        gaps[k] = np.int64(unit(words[0]) * (free + 1))
        other = np.int64(unit(words[1]) * (k + 1))
        turn[k] = turn[other]
        turn[other] = k
    if row:
        for k in range(1, clips):
            gaps[k] = gaps[0] + k * interval
    else:
        gaps.sort()
    taken = 0
    for k in range(clips):
        starts[turn[k]] = gaps[k] + taken
        sequence[turn[k]] = k
        taken += spans[turn[k]]


@kernel
def _place_near(seed, epoch, sample, free, starts, sequence):
    """Starts of two clips, each from 0 to `free`. With M = free + 1 and u uniform, the distance is M (1 - sqrt(1 - u)),
    rounded down: its density is 2 / M (1 - t / M)."""
    words = philox(seed, _STREAM, _BLOCK_NEAR, _WHOLE, sample, epoch)
    distance = min(free, np.int64((free + 1) * (1.0 - np.sqrt(1.0 - unit(words[0])))))
    start = np.int64(unit(words[1]) * (free - distance + 1))
    later = 1 if unit(words[2]) < 0.5 else 0
    starts[1 - later], starts[later] = start, start + distance
    sequence[1 - later], sequence[later] = 0, 1


@kernel
def _draw_order(seed, epoch, sample, clip, order):
    """One of the orders that are neither that of time nor its reverse."""
    count = len(order)
    step = 0
    while True:
        for t in range(count - 1, 0, -1):
            words = philox(seed, _STREAM, np.uint64(step) << _STEP | _BLOCK_ORDER, clip, sample, epoch)
            step += 1
            other = np.int64(unit(words[0]) * (t + 1))
            order[t], order[other] = order[other], order[t]
        forwards, backwards = True, True
        for t in range(count):
            forwards = forwards and order[t] == t
            backwards = backwards and order[t] == count - 1 - t
        if not (forwards or backwards):
            return
