"""Texts whose sentences have changed places and of whose words some were lost, drawn from (seed, epoch, sample, number
of the mask): BART's noise (1910.13461)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from headrace.pipeline.checks import check
from headrace.pipeline.compiled import kernel
from headrace.pipeline.random import key_word, philox, unit
from headrace.pipeline.texts.tokens import IGNORED, batch_of_texts

_STREAM = key_word(0x696E66696C6C)  # the word "infill"
# What a counter's second word says that the draw is for.
_SENTENCES, _PLACES, _LENGTHS, _STARTS, _INSERTED = (np.uint64(purpose) for purpose in (1, 2, 3, 4, 5))
_SIXTEEN = np.uint64(16)


class InfilledTexts(NamedTuple):
    """Noisy texts, and the texts."""

    inputs: Tensor
    """int64 (B, L): what is left of the text; behind the count, padding."""
    input_count: Tensor
    """int64 (B,)."""
    labels: Tensor
    """int64 (B, L): the text; behind its length, -100."""


@dataclass(frozen=True, kw_only=True)
class Infilling:
    """Sentences in another order, and spans of words of which a mask each is left.

    As in the authors' code, sentences end with a full stop, or with the text, and a share of them changes places. Of w
    words `ceil(w * ratio)` are lost, in spans from words that are drawn, whose lengths are drawn from a Poisson
    distribution; the last one is cut. A span may reach into another. One of no words puts a mask between two tokens.
    A text of L tokens stays one of L at most: inserted masks for which others left no room are left out.

    Source: facebookresearch/fairseq at 3d262bb, fairseq/data/denoising_dataset.py, with whole words and a mask for
    each span (--mask-length span-poisson --replace-length 1).
    """

    permuted: float = 1.0
    """Share of the sentences that change places, among each other; 0 leaves them where they are."""
    ratio: float = 0.3
    """Share of the words that are lost; 0 leaves them."""
    mean_length: float = 3.5
    """Of a span, in words."""
    random: float = 0.1
    """Share of the masks in whose place a random token stands. Of inserted masks this share is rounded up."""
    stop: int | None = None
    """The token that ends a sentence; -1 for none. None takes the tokenizer's full stop."""
    mask_id: int | None = None
    """The token that stands for a span. None takes the tokenizer's."""
    vocabulary: int | None = None
    """Number of different tokens; a random one is any of them but the first. None takes the tokenizer's."""
    padding: int | None = None
    """The token that fills up inputs. None takes the tokenizer's."""

    def __post_init__(self) -> None:
        for name in ("permuted", "ratio", "random"):
            check(0.0 <= getattr(self, name) <= 1.0, self, name, getattr(self, name), "in [0, 1]")
        check(0.0 < self.mean_length <= 64.0, self, "mean_length", self.mean_length, "in (0, 64]")

    def draw(
        self,
        seed: int,
        epoch: int,
        sample_ids: np.ndarray,
        tokens: np.ndarray,
        lengths: np.ndarray,
        *,
        before: int,
        behind: int,
        words: np.ndarray | None = None,
        number: int = 0,
    ) -> InfilledTexts:
        """Make a batch noisy; arguments as `TokenMask.draw`, and how many tokens before and behind each text stay.

        Raises:
            ValueError: if the shapes disagree, a length is not in [0, L], or what is left to a tokenizer is missing.
        """
        for name in ("stop", "mask_id", "vocabulary", "padding"):
            if getattr(self, name) is None:
                raise ValueError(f"Infilling.{name} must be named where no tokenizer says it")
        ids, tokens, lengths = batch_of_texts(sample_ids, tokens, lengths)
        if words is None:
            words = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
        words = np.ascontiguousarray(words, np.int64)
        if words.shape != tokens.shape:
            raise ValueError(f"words must have the shape of tokens, {tokens.shape}, got {words.shape}")
        inputs, count = np.full(tokens.shape, self.padding, np.int64), np.empty(len(tokens), np.int64)
        labels = np.where(np.arange(tokens.shape[1]) < lengths[:, None], tokens, IGNORED)
        settings = (
            self.stop,
            self.mask_id,
            self.vocabulary,
            float(self.permuted),
            float(self.ratio),
            float(self.random),
        )
        keys = key_word(seed), key_word(epoch), ids, key_word(number)
        table = np.cumsum(poisson(self.mean_length))
        _infill(*keys, tokens, lengths, words, before, behind, settings, table, inputs, count)
        return InfilledTexts(*map(torch.from_numpy, (inputs, count, labels)))


def poisson(mean: float) -> np.ndarray:
    """float64 (K,): probabilities of 0, 1, ... up to the first one below 1e-7, 127 at most, over their sum."""
    found = [np.exp(-mean)]
    while found[-1] >= 1e-7 and len(found) < 128:
        found.append(found[-1] * mean / len(found))
    return np.array(found) / np.sum(found)


@kernel
def _draw(seed, epoch, sample, number, step, purpose):
    return philox(seed, _STREAM, np.uint64(step) << _SIXTEEN | number, purpose, sample, epoch)


@kernel
def _shuffle(seed, epoch, sample, number, purpose, items, size, first):
    """The first ones of a random order of `size` items, in their place."""
    for step in range(min(first, size)):
        other = step + np.int64(unit(_draw(seed, epoch, sample, number, step, purpose)[0]) * (size - step))
        items[step], items[other] = items[other], items[step]


@kernel
def _infill(seed, epoch, sample_ids, number, tokens, lengths, words, before, behind, settings, table, inputs, counts):
    stop, mask_id, vocabulary, permuted, ratio, random = settings
    longest = tokens.shape[1]
    text, moved, is_inserted = np.empty(longest, np.int64), np.empty(longest, np.int64), np.empty(longest, np.int64)
    ends, order, chosen = np.empty(longest, np.int64), np.empty(longest, np.int64), np.empty(longest, np.int64)
    mixed, places = np.empty(longest, np.int64), np.empty(longest, np.int64)
    begins, moved_begins, keep = np.empty(longest, np.bool_), np.empty(longest, np.bool_), np.empty(longest, np.bool_)
    for i in range(len(sample_ids)):
        sample = np.uint64(sample_ids[i])
        n, last = lengths[i], lengths[i] - behind
        for place in range(n):
            text[place] = tokens[i, place]
            first = place == before or words[i, place] != words[i, place - 1]
            begins[place] = before <= place < last and first
            keep[place] = True
        if permuted > 0:
            sentences = 0
            for place in range(before, last):
                ends_here = text[place] == stop or place == last - 1
                if ends_here and not (place > before and text[place - 1] == stop):
                    ends[sentences] = place + 1
                    order[sentences] = chosen[sentences] = sentences
                    sentences += 1
            number_moved = np.int64(np.ceil(sentences * permuted))
            _shuffle(seed, epoch, sample, number, _SENTENCES, chosen, sentences, number_moved)
            for each in range(number_moved):
                mixed[each] = chosen[each]
            _shuffle(seed, epoch, sample, number, _PLACES, mixed, number_moved, number_moved)
            for each in range(number_moved):
                order[chosen[each]] = mixed[each]
            into = before
            for each in range(sentences):
                begin = ends[order[each] - 1] if order[each] > 0 else before
                for place in range(begin, ends[order[each]]):
                    moved[into], moved_begins[into] = text[place], begins[place]
                    into += 1
            for place in range(before, into):
                text[place], begins[place] = moved[place], moved_begins[place]
        starts = 0
        for place in range(n):
            if begins[place]:
                places[starts] = place
                starts += 1
        budget = np.int64(np.ceil(starts * ratio))
        # Lengths of spans until the budget is spent; those of no words are counted.
        spent, spans, inserted, step = np.int64(0), 0, 0, 0
        while spent < budget:
            share = unit(_draw(seed, epoch, sample, number, step, _LENGTHS)[0])
            step += 1
            length = min(np.int64(np.searchsorted(table, share, side="right")), budget - spent)
            if length > 0:
                mixed[spans] = length
                spans += 1
                spent += length
            else:
                inserted += 1
        _shuffle(seed, epoch, sample, number, _STARTS, places, starts, spans)
        for span in range(spans):
            place, left = places[span], mixed[span] - 1
            draw = _draw(seed, epoch, sample, number, span, _STARTS)
            is_random = unit(draw[1]) < random
            text[place] = 1 + np.int64(unit(draw[2]) * (vocabulary - 1)) if is_random else mask_id
            place += 1
            while place < last:
                left -= np.int64(begins[place])
                if left < 0:
                    break
                keep[place] = False
                place += 1
        kept = 0
        for place in range(n):
            if keep[place]:
                text[kept] = text[place]
                kept += 1
        inserted = min(inserted, longest - kept)
        room = kept - before - behind + inserted
        for place in range(room):
            order[place] = place
            is_inserted[place] = -1
        _shuffle(seed, epoch, sample, number, _INSERTED, order, room, inserted)
        randoms = np.int64(np.ceil(inserted * random))
        for each in range(inserted):
            draw = _draw(seed, epoch, sample, number, each, _INSERTED)
            random_token = 1 + np.int64(unit(draw[1]) * (vocabulary - 1))
            is_inserted[order[each]] = random_token if each < randoms else mask_id
        source = 0
        for place in range(kept + inserted):
            inside = place - before
            if 0 <= inside < room and is_inserted[inside] >= 0:
                inputs[i, place] = is_inserted[inside]
            else:
                inputs[i, place] = text[source]
                source += 1
        counts[i] = kept + inserted
