"""What a method wants to see of a text: its tokens, and masks over them, as a tokenizer and the draws have it.

Which of several texts of a sample, which part of a long one, and what makes a pair of segments is drawn from (seed,
epoch, sample). Letters: B texts of a batch, L places of each, with padding behind a text's length.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from headrace.pipeline.addresses import memory_at
from headrace.pipeline.checks import check
from headrace.pipeline.part import Part, map_tensors
from headrace.pipeline.random import draw_units, key_word
from headrace.pipeline.rows import Rows
from headrace.pipeline.texts.infilling import InfilledTexts, Infilling
from headrace.pipeline.texts.tokenizer import TextTokenizer, Tokens
from headrace.pipeline.texts.tokens import IGNORED, CorruptedSpans, MaskedTokens, SpanMask, TokenMask
from headrace.shards import ShardError, ShardSet, Spans

TextMask = TokenMask | SpanMask | Infilling
TokenMasks = MaskedTokens | CorruptedSpans | InfilledTexts
AnyMask = TypeVar("AnyMask", TokenMask, SpanMask, Infilling)

TEXT_FIELDS = ("captions", "caption", "text", "txt")
"""Names under which shards hold texts; the first that a set has is taken unless `TextSpec.field` names one."""

_STREAM = key_word(0x74657874)  # the word "text"
# Counter blocks of four random words; a new draw takes a new block, so that old draws never move.
_BLOCK_PLACE = np.uint64(0)  # which text, its first token, where a pair is cut, whether it belongs together
_BLOCK_OTHER = np.uint64(1)  # which other sample, which of its texts, its first token


@dataclass(frozen=True, kw_only=True)
class TextSpec:
    """The text of one sample, and the masks over it.

    A field of the kind text holds one text; one of the kind json holds one or a list of them, as COCO's captions, of
    which one is drawn.
    """

    tokenizer: str | os.PathLike[str]
    """A Hugging Face `tokenizer.json`."""
    field: str | None = None
    """Name in the shard set; None takes the first of `TEXT_FIELDS` that it has."""
    length: int = 128
    """Tokens at most, the special ones counted."""
    window: Literal["first", "drawn"] = "first"
    """What is kept of a longer text: its first tokens, or as many from a place that is drawn, all equally likely."""
    masks: tuple[TextMask, ...] = ()
    """What `Texts.masks` holds, one draw for each over one and the same text. What they do not say of the
    vocabulary the tokenizer does."""
    whole_words: bool = False
    """Whether a `TokenMask` takes all tokens of a word or none, and an `Infilling` counts words and not tokens; words
    are the tokenizer's (what it splits at first)."""
    pair: Literal["order", "next"] | None = None
    """Cut what is kept of a text into two segments, where a word begins, all such places equally likely, and for half
    of the samples break the pair; `Texts.broken` is the label. order: the two are exchanged (sentence order,
    1909.11942). next: the second is a segment of another sample's text, as long if that has as many tokens (next
    sentence, 1810.04805). None leaves the text in one piece."""
    cut: Literal["word", "sentence"] = "word"
    """Where a pair's text is cut: where a word begins, and a text of a single word is a bad sample; or where a sentence
    ends, all such places equally likely. Of one sentence, words take the place of sentences then; a single word stays
    in one piece, and nothing is asked of it: `Texts.broken` is -100."""
    multiple: int | None = None
    """None pads texts to `length`. A number pads a rank's batch to its longest text, rounded up to a multiple of this,
    `length` at most."""

    def __post_init__(self) -> None:
        check(self.length >= 1, self, "length", self.length, "at least 1")
        check(self.window in ("first", "drawn"), self, "window", self.window, "first or drawn")
        check(self.pair in ("order", "next", None), self, "pair", self.pair, "order, next or None")
        check(self.multiple is None or self.multiple >= 1, self, "multiple", self.multiple, "at least 1 or None")
        object.__setattr__(self, "masks", tuple(self.masks))
        check(self.cut in ("word", "sentence"), self, "cut", self.cut, "word or sentence")
        for mask in self.masks if self.pair is not None else ():
            kind = type(mask).__name__
            what = f"None with {'an' if kind[0] == 'I' else 'a'} {kind}, which is for texts in one piece"
            check(isinstance(mask, TokenMask), self, "pair", self.pair, what)

    def plain(self) -> TextSpec:
        """What probes are shown: the beginning of the text in one piece, nothing of it masked."""
        return replace(self, window="first", masks=(), pair=None)


@dataclass(frozen=True, kw_only=True)
class Texts(Part):
    """The texts of a batch, nothing of them masked, and the masks over them."""

    tokens: Tensor
    """int64 (B, L): the text between its special tokens; behind the length, the tokenizer's padding."""
    lengths: Tensor
    """int64 (B,): tokens of each text, the special ones counted."""
    attention: Tensor
    """bool (B, L): true on the text, false on the padding."""
    chosen: Tensor
    """int64 (B,): which of the sample's texts this is; 0 where there is one."""
    first: Tensor
    """int64 (B,): tokens of the text that were left out before those that are here."""
    segments: Tensor
    """int64 (B, L): 1 on the second segment of a pair and what stands behind it, else 0; BERT's token types."""
    broken: Tensor
    """int64 (B,): 0 where the second segment follows the first in a text, or there is one piece; 1 where they are
    exchanged, or the second is another text's; -100 where there should be two, and is one."""
    masks: list[TokenMasks] = field(default_factory=list)
    """One for each of the specification's masks: tokens to predict, with their labels."""


@dataclass(frozen=True, kw_only=True)
class TextPlan(Rows):
    """The texts of B samples; rows are filled when they are read."""

    origin: np.ndarray
    """uint64 (B, 2): seed and epoch that a row is drawn from."""
    tokens: np.ndarray
    """int64 (B, `TextSpec.length`), padded."""
    words: np.ndarray
    """int64, likewise: the number of each token's word; (B, 0) unless `TextSpec.whole_words`."""
    lengths: np.ndarray
    """int64 (B,); as the next three, see `Texts`."""
    chosen: np.ndarray
    first: np.ndarray
    broken: np.ndarray
    middle: np.ndarray
    """int64 (B,): where the first segment ends, which is where the text does if it is in one piece."""


class PairedSpans(NamedTuple):
    """Where the bytes of B samples lie, and those of the samples that give them a second segment."""

    own: Spans
    others: Spans
    """Of a sample that needs none, its own."""


class TextReader:
    """Texts of a shard set in tokens. Thread-safe.

    Raises:
        ImportError: if the library `tokenizers` is missing.
        ValueError: if the set has no such field, or specification and tokenizer contradict each other.
    """

    def __init__(self, spec: TextSpec, shards: ShardSet) -> None:
        self.spec = spec
        self.field = text_field(shards, spec.field)
        self.tokenizer = TextTokenizer(spec.tokenizer)
        self._shards = shards
        self._before, self._between, self._behind = self.tokenizer.frame(pair=spec.pair is not None)
        special = len(self._before) + len(self._between) + len(self._behind)
        self._room = spec.length - special
        least = 1 if spec.pair is None else 2
        if self._room < least:
            raise ValueError(
                f"TextSpec.length must be at least {special + least}, for the tokenizer's {special} special tokens and "
                f"{'one of the text' if least == 1 else 'one of each segment'}, got {spec.length}"
            )
        for name, asked in (("whole_words", spec.whole_words), ("pair", spec.pair is not None)):
            if asked and not self.tokenizer.splits:
                raise ValueError(
                    f"TextSpec.{name} needs words, and {spec.tokenizer} makes one of a whole text: "
                    "it has no pre-tokenizer that splits at blanks"
                )
        if spec.pair == "next" and len(shards) < 2:
            raise ValueError(f"TextSpec.pair 'next' needs another sample; {shards.path} has {len(shards)}")
        self._masks = [with_ids(mask, self.tokenizer, self._room) for mask in spec.masks]

    def blank(self, seed: int, epoch: int, samples: int) -> TextPlan:
        """`samples` rows to be filled."""
        length = self.spec.length
        return TextPlan(
            origin=np.full((samples, 2), (key_word(seed), key_word(epoch)), np.uint64),
            tokens=np.full((samples, length), self.tokenizer.padding_id, np.int64),
            words=np.zeros((samples, length if self.spec.whole_words else 0), np.int64),
            lengths=np.zeros(samples, np.int64),
            chosen=np.zeros(samples, np.int64),
            first=np.zeros(samples, np.int64),
            broken=np.zeros(samples, np.int64),
            middle=np.zeros(samples, np.int64),
        )

    def request(self, seed: int, epoch: int, ids: np.ndarray) -> tuple[Spans | PairedSpans, Callable[[], None]]:
        """Where the texts of some samples lie, and what to wait for: see `ShardSet.request`."""
        own, wait_own = self._shards.request(self.field, ids)
        if self.spec.pair != "next":
            return own, wait_own
        others, wait_others = self._shards.request(self.field, self._others(key_word(seed), key_word(epoch), ids))

        def wait() -> None:
            wait_own()
            wait_others()

        return PairedSpans(own, others), wait

    def _others(self, seed: np.uint64, epoch: np.uint64, ids: np.ndarray) -> np.ndarray:
        """int64 (B,): who gives the second segment."""
        ids = np.ascontiguousarray(ids, np.int64)
        broken = draw_units(seed, _STREAM, _BLOCK_PLACE, epoch, ids)[:, 3] < 0.5
        others = (draw_units(seed, _STREAM, _BLOCK_OTHER, epoch, ids)[:, 0] * (len(self._shards) - 1)).astype(np.int64)
        return np.where(broken, others + (others >= ids), ids)

    def fill(self, ids: np.ndarray, spans: Spans | PairedSpans, plan: TextPlan) -> None:
        """Read, choose, tokenise and cut some texts.

        Raises:
            ShardError: naming the sample whose text is missing, empty, or cannot be decoded.
        """
        if not len(ids):
            return
        seed, epoch = plan.origin[0]
        units = draw_units(seed, _STREAM, _BLOCK_PLACE, epoch, np.ascontiguousarray(ids, np.int64))
        own = spans.own if isinstance(spans, PairedSpans) else spans
        plan.chosen[:], texts = self._chosen(ids, own, units[:, 0])
        plan.broken[:] = (units[:, 3] < 0.5) & (self.spec.pair is not None)
        drawn = self.spec.window == "drawn"
        segments = []
        for i, (tokens, words) in enumerate(self._encoded(ids, texts, None if drawn else self._room)):
            over = max(0, len(tokens) - self._room)
            first = plan.first[i] = int(units[i, 1] * (over + 1)) if drawn else 0
            kept = _part(tokens, words, first, self._room)
            segments.append([kept] if self.spec.pair is None else self._segments(int(ids[i]), kept, units[i, 2]))
        if self.spec.pair is not None:
            plan.broken[[len(parts) == 1 for parts in segments]] = IGNORED
        if isinstance(spans, PairedSpans):
            self._exchange(ids, spans.others, plan, segments)
        elif self.spec.pair is not None:
            segments = [pair[::-1] if broken == 1 else pair for pair, broken in zip(segments, plan.broken, strict=True)]
        for i, parts in enumerate(segments):
            self._write(plan, i, *parts)

    def _segments(self, sample: int, kept: Tokens, unit: float) -> list[Tokens]:
        """What is kept of a text, cut where a word or a sentence begins; see `TextSpec.cut`."""
        tokens, words = kept
        begins = 1 + np.flatnonzero(words[1:] != words[:-1])
        if self.spec.cut == "sentence":
            sentences = begins[np.isin(tokens[begins - 1], self.tokenizer.stops)]
            begins = sentences if len(sentences) else begins
            if not len(begins):
                return [kept]
        if not len(begins):
            what = (
                f"the {len(tokens)} tokens that are kept of the text are"
                if len(tokens) == self._room
                else "the text is"
            )
            raise self._error(sample, f"{what} a single word, of which no pair can be made")
        cut = begins[int(unit * len(begins))]
        return [(tokens[:cut], words[:cut]), (tokens[cut:], words[cut:])]

    def _exchange(self, ids: np.ndarray, spans: Spans, plan: TextPlan, segments: list[list[Tokens]]) -> None:
        """Take the second segments of the broken pairs from other samples, whose texts lie at `spans`."""
        seed, epoch = plan.origin[0]
        rows = np.flatnonzero(plan.broken == 1)
        others = self._others(seed, epoch, ids)[rows]
        units = draw_units(seed, _STREAM, _BLOCK_OTHER, epoch, np.ascontiguousarray(ids, np.int64))[rows]
        _, texts = self._chosen(others, Spans._make(column[rows] for column in spans), units[:, 1])
        encoded = self._encoded(others, texts, None)
        for row, (tokens, words), unit in zip(rows.tolist(), encoded, units[:, 2], strict=True):
            size = len(segments[row][1][0])
            start = int(unit * (max(0, len(tokens) - size) + 1))
            segments[row][1] = _part(tokens, words, start, size)

    def _chosen(self, ids: np.ndarray, spans: Spans, units: np.ndarray) -> tuple[list[int], list[str]]:
        """Which of its texts each sample shows: its number, and itself."""
        self._shards.refuse_unreadable(self.field, ids, spans)
        numbers, texts = [], []
        for i, sample in enumerate(ids.tolist()):
            choice = self._texts(sample, int(spans.address[i]), int(spans.size[i]))
            number, text = choice[int(units[i] * len(choice))]
            numbers.append(number)
            texts.append(text)
        return numbers, texts

    def _encoded(self, ids: np.ndarray, texts: list[str], first: int | None) -> Iterator[Tokens]:
        """Tokens and words of the texts of some samples (without words where nobody asks for them), all or the first
        ones."""
        words = self.spec.whole_words or self.spec.pair is not None
        for sample, found in zip(ids.tolist(), self.tokenizer.encode(texts, words=words, first=first), strict=True):
            if not len(found[0]):
                raise self._error(sample, "the tokenizer finds no token in the text")
            yield found

    def _write(self, plan: TextPlan, i: int, one: Tokens, two: Tokens | None = None) -> None:
        """One text, or a pair of segments, between special tokens: tokens and words of each."""
        parts = (
            [self._before, one[0], self._behind]
            if two is None
            else [self._before, one[0], self._between, two[0], self._behind]
        )
        row = np.concatenate(parts)
        plan.lengths[i] = len(row)
        plan.tokens[i, : len(row)] = row
        plan.tokens[i, len(row) :] = self.tokenizer.padding_id
        middle = plan.middle[i] = len(self._before) + len(one[0])
        if self.spec.whole_words:
            plan.words[i, len(self._before) : middle] = one[1]
            if two is not None:
                begin = middle + len(self._between)
                plan.words[i, begin : begin + len(two[1])] = two[1]

    def deliver(self, seed: int, epoch: int, ids: np.ndarray, plan: TextPlan) -> Texts:
        """The texts of a batch and one draw of each mask, in pinned memory where there is a GPU."""
        length = self.spec.length
        if self.spec.multiple is not None:
            length = min(length, -(-int(plan.lengths.max(initial=1)) // self.spec.multiple) * self.spec.multiple)
        tokens, lengths = np.ascontiguousarray(plan.tokens[:, :length]), plan.lengths
        before, between, behind = len(self._before), len(self._between), len(self._behind)
        place, middle = np.arange(length), plan.middle[:, None]
        attention = place < lengths[:, None]
        masks: list[TokenMasks] = []
        for number, mask in enumerate(self._masks):
            words = plan.words[:, :length] if self.spec.whole_words else None
            if isinstance(mask, TokenMask):
                special = (place < before) | (place >= lengths[:, None] - behind)
                special |= (place >= middle) & (place < middle + between)
                if mask.special and words is not None:
                    words = np.where(special, -1 - place, words)
                never = None if mask.special else special
                masks.append(mask.draw(seed, epoch, ids, tokens, lengths, special=never, words=words, number=number))
            elif isinstance(mask, Infilling):
                frame = {"before": before, "behind": behind}
                masks.append(mask.draw(seed, epoch, ids, tokens, lengths, words=words, number=number, **frame))
            else:
                body = tokens[:, before : length - behind]
                masks.append(mask.draw(seed, epoch, ids, body, lengths - before - behind, number=number))
        second = attention & (place >= middle + between) & (self.spec.pair is not None)
        texts = Texts(
            tokens=torch.from_numpy(tokens),
            lengths=torch.from_numpy(lengths.copy()),
            attention=torch.from_numpy(attention),
            chosen=torch.from_numpy(plan.chosen.copy()),
            first=torch.from_numpy(plan.first.copy()),
            segments=torch.from_numpy(second.astype(np.int64)),
            broken=torch.from_numpy(plan.broken.copy()),
            masks=masks,
        )
        return map_tensors(texts, Tensor.pin_memory) if torch.cuda.is_available() else texts

    def _texts(self, sample: int, address: int, size: int) -> list[tuple[int, str]]:
        """(number, text) of each text of a sample that is not blank."""
        try:
            if not size:
                raise ValueError("the text is empty")
            value = self._shards.decode(self.field, np.frombuffer(memory_at(address, size), np.uint8))
            found = texts_of(value)
        except (ValueError, RecursionError) as error:
            raise self._error(sample, f"cannot decode the text: {error}") from error
        if not found:
            raise self._error(sample, "the text is empty")
        return found

    def _error(self, sample: int, problem: str) -> ShardError:
        return ShardError(f"{self._shards.where(sample, self.field)}: {problem}")


def _part(tokens: np.ndarray, words: np.ndarray, first: int, size: int) -> Tokens:
    """Some tokens and their words, in memory of their own, so that a long text does not stay for them."""
    return tokens[first : first + size].copy(), words[first : first + size].copy()


def texts_of(value: Any) -> list[tuple[int, str]]:
    """The texts of a field's value, numbered, without blank ones."""
    texts = value if isinstance(value, list) else [value]
    found = []
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"expected a text or a list of texts, found {type(text).__name__}")
        text.encode()  # JSON may hold half a surrogate pair, which no tokenizer takes
        if text.strip():
            found.append((number, text))
    return found


def text_field(shards: ShardSet, named: str | None) -> str:
    """The field whose texts are taken: the one that is named, else the first of `TEXT_FIELDS` that there is.

    Raises:
        ValueError: if there is none.
    """
    kinds = {name: field.kind for name, field in shards.fields.items()}
    found = f"{', '.join(kinds)}{shards.omitted.hint}"
    if named is None:
        for name in TEXT_FIELDS:
            if kinds.get(name) in ("text", "json"):
                return name
        raise ValueError(f"{shards.path} has no field {' or '.join(TEXT_FIELDS)}; it has {found}")
    if kinds.get(named) not in ("text", "json"):
        raise ValueError(f"{shards.path} has no text field {named!r}; it has {found}")
    return named


def with_ids(mask: AnyMask, tokenizer: TextTokenizer, room: int) -> AnyMask:
    """The mask with what it leaves to the tokenizer. ValueError where that has no such token."""
    if not isinstance(mask, SpanMask):
        mask_id = tokenizer.mask_id if mask.mask_id is None else mask.mask_id
        if mask_id is None:
            kind = type(mask).__name__
            raise ValueError(f"{tokenizer.path} has no token [MASK] or <mask>; name one as {kind}.mask_id")
        vocabulary = tokenizer.vocabulary if mask.vocabulary is None else mask.vocabulary
        if isinstance(mask, TokenMask):
            return replace(mask, mask_id=mask_id, vocabulary=vocabulary)
        stop = tokenizer.full_stop if mask.stop is None else mask.stop
        padding = tokenizer.padding_id if mask.padding is None else mask.padding
        return replace(mask, mask_id=mask_id, vocabulary=vocabulary, stop=stop, padding=padding)
    sentinels = tokenizer.sentinels if mask.sentinels is None else mask.sentinels
    if not sentinels:
        raise ValueError(f"{tokenizer.path} has no token <extra_id_0>; name some as SpanMask.sentinels")
    spans = int(mask.sizes(np.arange(room + 1))[1].max())
    if spans > len(sentinels):
        raise ValueError(f"a text of {room} tokens has {spans} spans, there are {len(sentinels)} sentinels")
    end = mask.end
    if end is None:
        end = int(tokenizer.behind[-1]) if len(tokenizer.behind) else -1
    padding = tokenizer.padding_id if mask.padding is None else mask.padding
    return replace(mask, sentinels=sentinels, end=end, padding=padding)
