"""The authors' algorithms for token masks as plain loops, which draw as Headrace does."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from headrace.pipeline import SpanMask, TokenMask
from tests.pipeline.plain import philox, unit

CHOOSE, REPLACE, NOISE, REST = 1, 2, 3, 4


class Draw(NamedTuple):
    """Where the random numbers of a mask come from."""

    seed: int
    epoch: int
    sample: int
    number: int

    def words(self, step: int, kind: int) -> list[int]:
        return philox(self.seed, "token", step << 16 | self.number, kind, self.sample, self.epoch)


def forward_shuffle(items: list[Any], draw_of: Any) -> list[Any]:
    """Fisher and Yates, from the front; `draw_of(step)` in [0, 1)."""
    items = list(items)
    for step in range(len(items)):
        other = step + int(draw_of(step) * (len(items) - step))
        items[step], items[other] = items[other], items[step]
    return items


def bert(
    draw: Draw, tokens: list[int], special: list[bool], words: list[int] | None, spec: TokenMask
) -> tuple[list[int], list[int]]:
    """`create_masked_lm_predictions` of BERT's code: (tokens, labels); and where that masks nothing, since every word
    is too long, as much of the first as there is to predict."""
    assert spec.mask_id is not None
    assert spec.vocabulary is not None
    candidates: list[list[int]] = []
    for place in range(len(tokens)):
        if special[place]:
            continue
        goes_on = words is not None and place > 0 and not special[place - 1] and words[place] == words[place - 1]
        if goes_on:
            candidates[-1].append(place)
        else:
            candidates.append([place])
    candidates = forward_shuffle(candidates, lambda step: unit(draw.words(step, CHOOSE)[0]))
    output, labels = list(tokens), [-100] * len(tokens)
    to_predict = min(spec.most or len(tokens), max(1, round(len(tokens) * spec.ratio)))
    if candidates and min(map(len, candidates)) > to_predict:
        start = int(unit(draw.words(0, CHOOSE)[1]) * (len(candidates[0]) - to_predict + 1))
        candidates = [candidates[0][start : start + to_predict]]
    masked = 0
    for places in candidates:
        if masked >= to_predict:
            break
        if masked + len(places) > to_predict:
            continue
        for place in places:
            first, second, _, _ = draw.words(place, REPLACE)
            labels[place] = tokens[place]
            if unit(first) < spec.hidden:
                output[place] = spec.mask_id
            elif unit(first) < spec.hidden + spec.random:
                output[place] = int(unit(second) * spec.vocabulary)
            masked += 1
    return output, labels


def t5_noise(draw: Draw, length: int, spec: SpanMask) -> np.ndarray:
    """`random_spans_noise_mask` of T5's code, with our draws for its shuffles."""

    def segmentation(items: int, segments: int, kind: int) -> np.ndarray:
        firsts = forward_shuffle(list(range(1, items)), lambda step: unit(draw.words(step, kind)[0]))[: segments - 1]
        segment = np.cumsum(np.isin(np.arange(items), firsts))
        return np.bincount(segment)

    original, length = length, max(length, 2)
    noise_tokens = min(max(int(np.round(length * spec.density)), 1), length - 1)
    spans = max(int(np.round(noise_tokens / spec.mean_length)), 1)
    spans = min(spans, length - noise_tokens)  # with more, T5's code fails
    noise_lengths = segmentation(noise_tokens, spans, NOISE)
    rest_lengths = segmentation(length - noise_tokens, spans, REST)
    starts = np.cumsum(np.stack([rest_lengths, noise_lengths], axis=1).ravel())[:-1]
    is_start = np.zeros(length, int)
    is_start[starts] = 1
    return (np.cumsum(is_start) % 2 == 1)[:original]


def t5_sentinels(tokens: np.ndarray, noise: np.ndarray, sentinels: tuple[int, ...]) -> list[int]:
    """`noise_span_to_unique_sentinel` of T5's code, whose sentinels count down."""
    before = np.concatenate([[False], noise[:-1]]) if len(noise) else noise
    first, later = noise & ~before, noise & before
    with_sentinels = np.where(first, np.array(sentinels)[np.cumsum(first) - 1], tokens)
    result: list[int] = with_sentinels[~later].tolist()
    return result
