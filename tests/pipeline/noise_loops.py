"""The authors' algorithms for BART's noise and ALBERT's runs of words as plain loops, which draw as Headrace does."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from headrace.pipeline import Infilling, TokenMask
from tests.pipeline.plain import philox, unit
from tests.pipeline.token_loops import forward_shuffle

SENTENCES, PLACES, LENGTHS, STARTS, INSERTED = 1, 2, 3, 4, 5


class Draw(NamedTuple):
    """Where the random numbers of one text come from."""

    seed: int
    epoch: int
    sample: int
    number: int

    def words(self, stream: str, step: int, kind: int) -> list[int]:
        return philox(self.seed, stream, step << 16 | self.number, kind, self.sample, self.epoch)

    def order(self, kind: int, items: list[Any]) -> list[Any]:
        return forward_shuffle(items, lambda step: unit(self.words("infill", step, kind)[0]))


def bart(draw: Draw, tokens: list[int], words: list[int], spec: Infilling, longest: int) -> tuple[list[int], int]:
    """`DenoisingDataset.__getitem__` of fairseq's code: (the noisy text, masks that were inserted). One token stands
    before and one behind."""
    assert spec.vocabulary is not None
    assert spec.mask_id is not None
    starts = [0 < i < len(tokens) - 1 and (i == 1 or words[i] != words[i - 1]) for i in range(len(tokens))]
    source = list(zip(tokens, starts, strict=True))
    if spec.permuted > 0 and len(tokens) > 2:
        source = _permuted(draw, source, spec)
    source, inserts = _masked(draw, source, spec)
    text = [token for token, _ in source]
    inserts = min(inserts, longest - len(text))
    if not inserts:
        return text, 0
    places = draw.order(INSERTED, list(range(len(text) + inserts - 2)))[:inserts]
    randoms = math.ceil(inserts * spec.random)
    at = {}
    for each, place in enumerate(places):
        number = unit(draw.words("infill", each, INSERTED)[1])
        at[place + 1] = 1 + int(number * (spec.vocabulary - 1)) if each < randoms else spec.mask_id
    rest = iter(text)
    return [at[place] if place in at else next(rest) for place in range(len(text) + inserts)], inserts


def _permuted(draw: Draw, source: list[Any], spec: Infilling) -> list[Any]:
    """`permute_sentences`."""
    full_stops = np.array([token == spec.stop for token, _ in source])
    full_stops[-2] = True  # pretend it ends with a full stop
    full_stops[0] = full_stops[-1] = False
    ends = np.flatnonzero(full_stops[1:] & ~full_stops[:-1]) + 2
    number = len(ends)
    to_permute = math.ceil(number * spec.permuted)
    substitutions = draw.order(SENTENCES, list(range(number)))[:to_permute]
    ordering = list(range(number))
    for place, other in zip(substitutions, draw.order(PLACES, substitutions), strict=True):
        ordering[place] = other
    result, index = list(source), 1
    for i in ordering:
        sentence = source[(ends[i - 1] if i > 0 else 1) : ends[i]]
        result[index : index + len(sentence)] = sentence
        index += len(sentence)
    return result


def _masked(draw: Draw, source: list[Any], spec: Infilling) -> tuple[list[Any], int]:
    """`add_whole_word_mask`, up to the masks that it inserts."""
    assert spec.vocabulary is not None
    is_word_start = [start for _, start in source]
    num_to_mask = math.ceil(sum(is_word_start) * spec.ratio)
    if not num_to_mask:
        return source, 0
    share, table = 0.0, []
    for k in range(128):
        probability = math.exp(-spec.mean_length) * spec.mean_length**k / math.factorial(k)
        table.append(probability)
        if probability < 1e-7:
            break
    cumulative = np.cumsum(np.array(table) / sum(table))
    lengths: list[int] = []
    while sum(lengths) < num_to_mask:
        share = unit(draw.words("infill", len(lengths), LENGTHS)[0])
        lengths.append(int(np.searchsorted(cumulative, share, side="right")))
    lengths[-1] = num_to_mask - sum(lengths[:-1])
    inserts = lengths.count(0)
    lengths = [length for length in lengths if length > 0]
    word_starts = [i for i, start in enumerate(is_word_start) if start]
    indices = draw.order(STARTS, word_starts)[: len(lengths)]
    keep = [True] * len(source)
    result = list(source)
    for span, (index, length) in enumerate(zip(indices, lengths, strict=True)):
        _, second, third, _ = draw.words("infill", span, STARTS)
        is_random = unit(second) < spec.random
        result[index] = (1 + int(unit(third) * (spec.vocabulary - 1)) if is_random else spec.mask_id, True)
        left = length - 1
        while index + 1 < len(source) - 1:
            index += 1
            left -= is_word_start[index]
            if left < 0:
                break
            keep[index] = False
    return [each for each, kept in zip(result, keep, strict=True) if kept], inserts


def albert_places(draw: Draw, special: list[bool], words: list[int], spec: TokenMask) -> set[int]:
    """`create_masked_lm_predictions` of ALBERT's code: the places that it masks; and where every word is too long, as
    much of the first as there is to predict."""
    candidates: list[list[int]] = []
    for place in range(len(special)):
        if special[place]:
            continue
        if place > 0 and not special[place - 1] and words[place] == words[place - 1]:
            candidates[-1].append(place)
        else:
            candidates.append([place])
    to_predict = min(spec.most or len(special), max(1, round(len(special) * spec.ratio)))
    runs = [[candidates[i : i + n] for n in range(1, spec.ngram + 1)] for i in range(len(candidates))]
    drawn = [draw.words("ngram", step, 0) for step in range(len(runs))]
    order = forward_shuffle(runs, lambda step: unit(drawn[step][0]))
    if candidates and min(map(len, candidates)) > to_predict:
        first = order[0][0][0]
        start = int(unit(drawn[0][2]) * (len(first) - to_predict + 1))
        return set(first[start : start + to_predict])
    covered: set[int] = set()
    shares = np.cumsum(1 / np.arange(1, spec.ngram + 1))
    for step, run in enumerate(order):
        if len(covered) >= to_predict:
            break
        n = int(np.searchsorted(shares, unit(drawn[step][1]) * shares[-1], side="right")) + 1
        index_set = list(chain.from_iterable(run[n - 1]))
        n -= 1
        while len(covered) + len(index_set) > to_predict:
            if n == 0:
                break
            index_set = list(chain.from_iterable(run[n - 1]))
            n -= 1
        if len(covered) + len(index_set) > to_predict or covered & set(index_set):
            continue
        covered |= set(index_set)
    return covered
