"""Which tokens of a text a model has to fill in, drawn from (seed, epoch, sample, number of the mask).

Since the epoch is part of the draw, a text is masked anew each time that it comes (RoBERTa's dynamic masking,
1907.11692); with one and the same epoch it is masked once and for all, as BERT's data were. Letters: B texts of a
batch, L places of the longest, with whatever fills up the shorter ones behind their `lengths`. A text's draw depends
neither on the others nor on L.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from headrace.pipeline.checks import check
from headrace.pipeline.compiled import kernel
from headrace.pipeline.random import key_word, philox, unit
from headrace.pipeline.texts.ngrams import mask_ngrams

IGNORED = -100
"""The label of what is not to be predicted: what torch's cross entropy leaves out."""

T5_SENTINELS = tuple(range(32_099, 31_999, -1))
T5_END, T5_PADDING = 1, 0
"""Of T5's vocabulary."""

_STREAM = key_word(0x746F6B656E)  # the word "token"
# What a counter's second word says that the draw is for.
_CHOOSE, _REPLACE, _NOISE, _REST, _COUNT = (np.uint64(purpose) for purpose in (1, 2, 3, 4, 5))
_SIXTEEN = np.uint64(16)


class MaskedTokens(NamedTuple):
    """Texts with some tokens replaced, and what stood there."""

    tokens: Tensor
    """int64 (B, L): the input."""
    labels: Tensor
    """int64 (B, L): the token that stood here where it is to be predicted, else -100."""
    masked_count: Tensor
    """int64 (B,): labels of each text that are not -100."""


class CorruptedSpans(NamedTuple):
    """Texts without some spans, and the spans. I and T are the largest counts that a text of L tokens can have."""

    inputs: Tensor
    """int64 (B, I): the text, each span replaced by a sentinel, then the end; behind the count, padding."""
    input_count: Tensor
    """int64 (B,)."""
    labels: Tensor
    """int64 (B, T): each span behind its sentinel, then the end; behind the count, -100."""
    label_count: Tensor
    """int64 (B,)."""
    noise: Tensor
    """bool (B, L): the tokens that are in a span."""


@dataclass(frozen=True, kw_only=True)
class TokenMask:
    """Tokens to predict, most of them hidden. BERT (1810.04805), by token or by whole word, RoBERTa (1907.11692),
    ELECTRA (2003.10555), and by n-gram ALBERT (1909.11942).

    As in BERT's code, a text of n tokens (the special ones counted) has `max(1, round(n * ratio))` to predict, at most
    `most` and no more than there are, a half rounded to even. Words come in a random order until so many tokens are
    found; one that would make it too many is left out, so with whole words there may be some less. Where every word is
    too long, as much of the first as is wanted is taken, from a place in it that is drawn: in BERT's code such a text
    has nothing to predict. Each found token is replaced by the mask, or by a random token, or kept, each for itself.
    """

    vocabulary: int | None = None
    """Number of different tokens; a random one is any of them, as in BERT's code. None takes the tokenizer's."""
    mask_id: int | None = None
    """The token that stands for a hidden one. None takes the tokenizer's."""
    ratio: float = 0.15
    """Share of the tokens to predict."""
    most: int | None = None
    """Tokens to predict at most; None for no limit. BERT takes 20 of 128 and 76 or 77 of 512."""
    hidden: float = 0.8
    """Share of those that the mask replaces."""
    random: float = 0.1
    """Share of those that a random token replaces; the rest is kept."""
    first_random: int = 0
    """The least token that a random one may be; RoBERTa leaves out special ones, which its vocabulary begins with."""
    special: bool = False
    """Whether special tokens may be predicted, too, as in RoBERTa's code."""
    rounding: Literal["nearest", "drawn"] = "nearest"
    """nearest: as above. drawn: `n * ratio` plus a number in [0, 1) that is drawn, rounded down, as in RoBERTa's code:
    the share is met on average, and of a short text there may be nothing to predict."""
    ngram: int = 1
    """Words that are taken at a time at most: from each word in its turn n are taken with a probability of 1 / n, as in
    ALBERT's code, fewer where that would be too many, none where one of them has been taken."""

    def __post_init__(self) -> None:
        vocabulary, mask_id = self.vocabulary, self.mask_id
        check(vocabulary is None or vocabulary >= 1, self, "vocabulary", vocabulary, "at least 1")
        check(mask_id is None or mask_id >= 0, self, "mask_id", mask_id, "at least 0")
        if vocabulary is not None and mask_id is not None:
            check(mask_id < vocabulary, self, "mask_id", mask_id, f"in [0, {vocabulary})")
        check(0.0 < self.ratio <= 1.0, self, "ratio", self.ratio, "in (0, 1]")
        check(self.most is None or self.most >= 1, self, "most", self.most, "at least 1 or None")
        check(0.0 <= self.hidden <= 1.0, self, "hidden", self.hidden, "in [0, 1]")
        check(0.0 <= self.random <= 1.0 - self.hidden + 1e-9, self, "random", self.random, "in [0, 1 - hidden]")
        last = 2**63 if vocabulary is None else vocabulary
        check(0 <= self.first_random < last, self, "first_random", self.first_random, "a token of the vocabulary")
        check(self.rounding in ("nearest", "drawn"), self, "rounding", self.rounding, "nearest or drawn")
        check(self.ngram >= 1, self, "ngram", self.ngram, "at least 1")

    def wanted(self, lengths: np.ndarray, units: np.ndarray | None = None) -> np.ndarray:
        """int64, the shape of `lengths`: tokens to predict of texts of so many, if that many may be predicted. Where
        the rounding is drawn, by numbers in [0, 1), else the most that there may be."""
        exact = np.asarray(lengths) * self.ratio
        if self.rounding == "nearest":
            wanted = np.maximum(1, np.rint(exact).astype(np.int64))
        else:
            wanted = (np.ceil(exact) if units is None else np.floor(exact + units)).astype(np.int64)
        return wanted if self.most is None else np.minimum(wanted, self.most)

    def draw(
        self,
        seed: int,
        epoch: int,
        sample_ids: np.ndarray,
        tokens: np.ndarray,
        lengths: np.ndarray,
        *,
        special: np.ndarray | None = None,
        words: np.ndarray | None = None,
        number: int = 0,
    ) -> MaskedTokens:
        """Mask a batch.

        Args:
            seed, epoch: of the run.
            sample_ids: int (B,), what each text is called.
            tokens: int (B, L).
            lengths: int (B,), tokens of each text.
            special: bool (B, L), true for what is never to be predicted, such as [CLS] and [SEP]; None for none.
            words: int (B, L), the same number for neighbours that make one word (what tokenizers call word ids); None
                where each token is to be drawn for itself.
            number: tells several masks of one text apart.

        Raises:
            ValueError: if the shapes disagree, a length is not in [0, L] or a token not in the vocabulary, or that or
                the mask's id is left to a tokenizer.
        """
        if self.vocabulary is None or self.mask_id is None:
            raise ValueError("TokenMask.vocabulary and mask_id must be named where no tokenizer says them")
        ids, tokens, lengths = batch_of_texts(sample_ids, tokens, lengths)
        if tokens.size and not (tokens.min() >= 0 and tokens.max() < self.vocabulary):
            raise ValueError(f"tokens must lie in [0, {self.vocabulary}), got {tokens.min()} to {tokens.max()}")
        special = np.zeros(tokens.shape, np.bool_) if special is None else np.ascontiguousarray(special, np.bool_)
        if words is None:
            words = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
        words = np.ascontiguousarray(words, np.int64)
        for name, array in (("special", special), ("words", words)):
            if array.shape != tokens.shape:
                raise ValueError(f"{name} must have the shape of tokens, {tokens.shape}, got {array.shape}")
        masked, labels = tokens.copy(), np.full(tokens.shape, IGNORED, np.int64)
        count = np.zeros(len(tokens), np.int64)
        keys = key_word(seed), key_word(epoch), ids, key_word(number)
        until_hidden, until_random = float(self.hidden), float(self.hidden + self.random)
        settings = (self.vocabulary, self.mask_id, until_hidden, until_random, self.first_random)
        wanted = self.wanted(lengths, _count_units(*keys) if self.rounding == "drawn" else None)
        if self.ngram == 1:
            _mask_tokens(*keys, lengths, special, words, wanted, settings, masked, labels, count)
        else:
            chosen = np.zeros(tokens.shape, np.bool_)
            mask_ngrams(*keys, lengths, special, words, wanted, self.ngram, chosen, count)
            _replace(*keys, chosen, settings, masked, labels)
        return MaskedTokens(*map(torch.from_numpy, (masked, labels, count)))


@dataclass(frozen=True, kw_only=True)
class SpanMask:
    """Spans of tokens to predict, each behind a sentinel. T5 (1910.10683), `random_spans_noise_mask` of its code.

    Of a text of n tokens, `round(n * density)` are taken out (at least 1, at most n - 1; a half is rounded to even), in
    `round(that / mean_length)` spans (at least 1). All ways to cut them into so many spans, with at least a token
    between two and one before the first, are equally likely; so the last span ends the text. A text of one token loses
    none.
    """

    density: float = 0.15
    """Share of the tokens that is taken out."""
    mean_length: float = 3.0
    """Of a span, in tokens."""
    sentinels: tuple[int, ...] | None = None
    """The tokens that stand for the first span, the second and so on. None takes the tokenizer's <extra_id_0>,
    <extra_id_1> and so on; without a tokenizer T5's: 32,099 down to 32,000."""
    end: int | None = None
    """The token behind inputs and labels; -1 for none. None takes the last that the tokenizer puts behind a text;
    without a tokenizer T5's: 1."""
    padding: int | None = None
    """The token that fills up inputs. None takes the tokenizer's; without a tokenizer T5's: 0."""

    def __post_init__(self) -> None:
        check(0.0 < self.density < 1.0, self, "density", self.density, "in (0, 1)")
        check(self.mean_length >= 1.0, self, "mean_length", self.mean_length, "at least 1")
        if self.sentinels is not None:
            usable = len(self.sentinels) > 0 and min(self.sentinels) >= 0
            check(usable, self, "sentinels", self.sentinels, "one or more tokens, or None")
        check(self.end is None or self.end >= -1, self, "end", self.end, "a token, -1 or None")

    def sizes(self, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(tokens, spans) that texts of these lengths lose: int64, the shape of `lengths`.

        Where T5's code asks for more spans than fit between the other tokens, and fails, there are as many as fit.
        """
        at_least = np.maximum(np.asarray(lengths, np.int64), 2)
        lost = np.clip(np.rint(at_least * self.density).astype(np.int64), 1, at_least - 1)
        spans = np.maximum(1, np.rint(lost / self.mean_length).astype(np.int64))
        spans = np.minimum(spans, at_least - lost)
        long = np.asarray(lengths) > 1
        return np.where(long, lost, 0), np.where(long, spans, 0)

    def draw(
        self,
        seed: int,
        epoch: int,
        sample_ids: np.ndarray,
        tokens: np.ndarray,
        lengths: np.ndarray,
        *,
        number: int = 0,
    ) -> CorruptedSpans:
        """Corrupt a batch; arguments as `TokenMask.draw`. Texts come without their end, which is put behind here.

        Raises:
            ValueError: if the shapes disagree, a length is not in [0, L], or there are fewer sentinels than spans.
        """
        ids, tokens, lengths = batch_of_texts(sample_ids, tokens, lengths)
        lost, spans = self.sizes(lengths)
        sentinels = np.array(T5_SENTINELS if self.sentinels is None else self.sentinels, np.int64)
        end = T5_END if self.end is None else self.end
        padding = T5_PADDING if self.padding is None else self.padding
        if len(spans) and spans.max() > len(sentinels):
            longest = lengths[spans.argmax()]
            raise ValueError(
                f"a text of {longest} tokens has {spans.max()} spans, there are {len(sentinels)} sentinels"
            )
        ending = int(end >= 0)
        all_lost, all_spans = self.sizes(np.arange(tokens.shape[1] + 1))
        widths = np.arange(tokens.shape[1] + 1) - all_lost + all_spans, all_lost + np.maximum(all_spans, 1)
        inputs = np.full((len(tokens), int(widths[0].max()) + ending), padding, np.int64)
        labels = np.full((len(tokens), int(widths[1].max()) + ending), IGNORED, np.int64)
        counts = np.empty((2, len(tokens)), np.int64)
        noise = np.zeros(tokens.shape, np.bool_)
        keys = key_word(seed), key_word(epoch), ids, key_word(number)
        _corrupt_spans(*keys, tokens, lengths, lost, spans, sentinels, end, inputs, labels, counts, noise)
        return CorruptedSpans(*map(torch.from_numpy, (inputs, counts[0].copy(), labels, counts[1].copy(), noise)))


def batch_of_texts(
    sample_ids: np.ndarray, tokens: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All three as int64, once they are seen to fit."""
    ids, tokens, lengths = (np.ascontiguousarray(array, np.int64) for array in (sample_ids, tokens, lengths))
    if tokens.ndim != 2:
        raise ValueError(f"tokens must have shape (B, L), got {tokens.shape}")
    for name, array in (("sample_ids", ids), ("lengths", lengths)):
        if array.shape != tokens.shape[:1]:
            raise ValueError(f"{name} must have shape ({len(tokens)},), got {array.shape}")
    if lengths.size and not (lengths.min() >= 0 and lengths.max() <= tokens.shape[1]):
        raise ValueError(f"lengths must lie in [0, {tokens.shape[1]}], got {lengths.min()} to {lengths.max()}")
    return ids, tokens, lengths


@kernel
def _count_units(seed, epoch, sample_ids, number):
    units = np.empty(len(sample_ids))
    for i in range(len(sample_ids)):
        units[i] = unit(philox(seed, _STREAM, number, _COUNT, np.uint64(sample_ids[i]), epoch)[0])
    return units


@kernel
def _shown(seed, epoch, sample, number, place, token, settings):
    """What stands in the place of a token that is to be predicted."""
    vocabulary, mask_id, until_hidden, until_random, first_random = settings
    draw = philox(seed, _STREAM, np.uint64(place) << _SIXTEEN | number, _REPLACE, sample, epoch)
    share = unit(draw[0])
    if share < until_hidden:
        return mask_id
    if share < until_random:
        return first_random + np.int64(unit(draw[1]) * (vocabulary - first_random))
    return token


@kernel
def _mask_tokens(seed, epoch, sample_ids, number, lengths, special, words, wanted, settings, masked, labels, count):
    begins = np.empty(masked.shape[1] + 1, np.int64)
    sizes = np.empty(masked.shape[1], np.int64)
    order = np.empty(masked.shape[1], np.int64)
    for i in range(len(sample_ids)):
        sample = np.uint64(sample_ids[i])
        # A word is a run of neighbours with one number, none of them special.
        found = 0
        for place in range(lengths[i]):
            if special[i, place]:
                continue
            if place == 0 or special[i, place - 1] or words[i, place] != words[i, place - 1]:
                begins[found] = place
                sizes[found] = 0
                order[found] = found
                found += 1
            sizes[found - 1] += 1
        too_long = found > 0 and sizes[:found].min() > wanted[i]
        for step in range(found):
            if count[i] >= wanted[i]:
                break
            chosen = philox(seed, _STREAM, np.uint64(step) << _SIXTEEN | number, _CHOOSE, sample, epoch)
            other = step + np.int64(unit(chosen[0]) * (found - step))
            order[step], order[other] = order[other], order[step]
            begin = begins[order[step]]
            end = begin + sizes[order[step]]
            if too_long:
                begin += np.int64(unit(chosen[1]) * (end - begin - wanted[i] + 1))
                end = begin + wanted[i]
            if count[i] + end - begin > wanted[i]:
                continue
            count[i] += end - begin
            for place in range(begin, end):
                labels[i, place] = masked[i, place]
                masked[i, place] = _shown(seed, epoch, sample, number, place, masked[i, place], settings)


@kernel
def _replace(seed, epoch, sample_ids, number, chosen, settings, masked, labels):
    for i in range(len(sample_ids)):
        for place in range(chosen.shape[1]):
            if chosen[i, place]:
                labels[i, place] = masked[i, place]
                sample = np.uint64(sample_ids[i])
                masked[i, place] = _shown(seed, epoch, sample, number, place, masked[i, place], settings)


@kernel
def _cut(seed, epoch, sample, number, stream, items, segments, places, is_first):
    """Mark the first items of `segments` segments, not empty, of `items` items: each way to cut equally likely."""
    is_first[:items] = False
    for place in range(items - 1):
        places[place] = place + 1
    is_first[0] = True
    for step in range(segments - 1):
        words = philox(seed, _STREAM, np.uint64(step) << _SIXTEEN | number, stream, sample, epoch)
        other = step + np.int64(unit(words[0]) * (items - 1 - step))
        places[step], places[other] = places[other], places[step]
        is_first[places[step]] = True


@kernel
def _corrupt_spans(
    seed, epoch, sample_ids, number, tokens, lengths, lost, spans, sentinels, end, inputs, labels, counts, noise
):
    length = tokens.shape[1] + 1
    places = np.empty(length, np.int64)
    noise_first, rest_first = np.empty(length, np.bool_), np.empty(length, np.bool_)
    for i in range(len(sample_ids)):
        sample = np.uint64(sample_ids[i])
        n = lengths[i]
        if lost[i] > 0:
            _cut(seed, epoch, sample, number, _NOISE, lost[i], spans[i], places, noise_first)
            _cut(seed, epoch, sample, number, _REST, n - lost[i], spans[i], places, rest_first)
            # Segments alternate, beginning with the rest: walk through both.
            noises, rests = 0, 0
            for place in range(n):
                in_noise = place > 0 and noise[i, place - 1]
                if in_noise:
                    in_noise = noises < lost[i] and not noise_first[noises]
                else:
                    in_noise = rests == n - lost[i] or (rests > 0 and rest_first[rests])
                if in_noise:
                    noise[i, place] = True
                    noises += 1
                else:
                    rests += 1
        into, out, span, gap = 0, 0, 0, 0
        for place in range(n):
            if noise[i, place]:
                if not noise[i, place - 1]:
                    inputs[i, into] = sentinels[span]
                    into += 1
                    span += 1
                labels[i, out] = tokens[i, place]
                out += 1
            else:
                if place == 0 or noise[i, place - 1]:
                    labels[i, out] = sentinels[gap]
                    out += 1
                    gap += 1
                inputs[i, into] = tokens[i, place]
                into += 1
        if end >= 0:
            inputs[i, into] = end
            labels[i, out] = end
            into += 1
            out += 1
        counts[0, i] = into
        counts[1, i] = out
