"""What a method wants to see of a text: its tokens, and masks over them, as a tokenizer and the draws have it.

Which of several texts of a sample, and which part of a long one, is drawn from (seed, epoch, sample). Letters: B texts
of a batch, L places of each, with padding behind a text's length.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from headrace.pipeline.checks import check
from headrace.pipeline.decode import memory_at
from headrace.pipeline.random import draw_units, key_word
from headrace.pipeline.rows import Rows
from headrace.pipeline.tokenizer import TextTokenizer
from headrace.pipeline.tokens import SpanMask, TokenMask, TokenMasks
from headrace.shards import ShardError, ShardSet, Spans

TEXT_FIELDS = ("captions", "caption", "text", "txt")
"""Names under which shards hold texts; the first that a set has is taken unless `TextSpec.field` names one."""

_STREAM = key_word(0x74657874)  # the word "text"
# Counter blocks of four random words; a new draw takes a new block, so that old draws never move.
_BLOCK_PLACE = np.uint64(0)


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
    masks: tuple[TokenMask | SpanMask, ...] = ()
    """What `Batch.token_masks` holds, one draw for each over one and the same text. What they do not say of the
    vocabulary the tokenizer does."""
    whole_words: bool = False
    """Whether a `TokenMask` takes all tokens of a word or none; words are the tokenizer's (what it splits at first)."""
    multiple: int | None = None
    """None pads texts to `length`. A number pads a rank's batch to its longest text, rounded up to a multiple of this,
    `length` at most."""

    def __post_init__(self) -> None:
        check(self.length >= 1, self, "length", self.length, "at least 1")
        check(self.window in ("first", "drawn"), self, "window", self.window, "first or drawn")
        check(self.multiple is None or self.multiple >= 1, self, "multiple", self.multiple, "at least 1 or None")
        object.__setattr__(self, "masks", tuple(self.masks))


class Texts(NamedTuple):
    """The texts of a batch, nothing of them masked."""

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
    """int64 (B,); as the next two, see `Texts`."""
    chosen: np.ndarray
    first: np.ndarray


class TextReader:
    """Texts of a shard set in tokens. Thread-safe.

    Raises:
        ImportError: if the library `tokenizers` is missing.
        ValueError: if the set has no such field, or specification and tokenizer contradict each other.
    """

    def __init__(self, spec: TextSpec, shards: ShardSet) -> None:
        self.spec = spec
        self.field = _text_field(spec, shards)
        self.tokenizer = TextTokenizer(spec.tokenizer)
        self._shards = shards
        special = len(self.tokenizer.before) + len(self.tokenizer.behind)
        self._room = spec.length - special
        if self._room < 1:
            raise ValueError(
                f"TextSpec.length must be more than the tokenizer's {special} special tokens, got {spec.length}"
            )
        self._masks = [_with_ids(mask, self.tokenizer, self._room) for mask in spec.masks]

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
        )

    def fill(self, ids: np.ndarray, spans: Spans, plan: TextPlan) -> None:
        """Read, choose, tokenise and cut some texts.

        Raises:
            ShardError: naming the sample whose text is missing, empty, or cannot be decoded.
        """
        if not len(ids):
            return
        seed, epoch = plan.origin[0]
        units = draw_units(seed, _STREAM, _BLOCK_PLACE, epoch, np.ascontiguousarray(ids, np.int64))
        texts = []
        for i, sample in enumerate(ids.tolist()):
            choice = self._texts(sample, int(spans.address[i]), int(spans.size[i]))
            number, text = choice[int(units[i, 0] * len(choice))]
            plan.chosen[i] = number
            texts.append(text)
        before, behind = self.tokenizer.before, self.tokenizer.behind
        for i, (tokens, words) in enumerate(self.tokenizer.encode(texts, words=self.spec.whole_words)):
            if not len(tokens):
                raise self._error(int(ids[i]), "the tokenizer finds no token in the text")
            over = max(0, len(tokens) - self._room)
            first = int(units[i, 1] * (over + 1)) if self.spec.window == "drawn" else 0
            kept = tokens[first : first + self._room]
            text_end = len(before) + len(kept)
            plan.first[i], plan.lengths[i] = first, text_end + len(behind)
            plan.tokens[i, : len(before)] = before
            plan.tokens[i, len(before) : text_end] = kept
            plan.tokens[i, text_end : text_end + len(behind)] = behind
            plan.tokens[i, text_end + len(behind) :] = self.tokenizer.padding_id
            if words is not None:
                plan.words[i, len(before) : text_end] = words[first : first + self._room]

    def deliver(self, seed: int, epoch: int, ids: np.ndarray, plan: TextPlan) -> tuple[Texts, list[TokenMasks]]:
        """The texts of a batch and one draw of each mask, in pinned memory where there is a GPU."""
        length = self.spec.length
        if self.spec.multiple is not None:
            length = min(length, -(-int(plan.lengths.max(initial=1)) // self.spec.multiple) * self.spec.multiple)
        tokens, lengths = np.ascontiguousarray(plan.tokens[:, :length]), plan.lengths
        before, behind = len(self.tokenizer.before), len(self.tokenizer.behind)
        place = np.arange(length)
        attention = place < lengths[:, None]
        masks: list[TokenMasks] = []
        for number, mask in enumerate(self._masks):
            if isinstance(mask, TokenMask):
                special = (place < before) | (place >= lengths[:, None] - behind)
                words = plan.words[:, :length] if self.spec.whole_words else None
                masks.append(mask.draw(seed, epoch, ids, tokens, lengths, special=special, words=words, number=number))
            else:
                body = tokens[:, before : length - behind]
                masks.append(mask.draw(seed, epoch, ids, body, lengths - before - behind, number=number))
        columns = tokens, lengths.copy(), attention, plan.chosen.copy(), plan.first.copy()
        texts = Texts(*map(torch.from_numpy, columns))
        if torch.cuda.is_available():
            texts = Texts(*(part.pin_memory() for part in texts))
            masks = [type(mask)(*(part.pin_memory() for part in mask)) for mask in masks]
        return texts, masks

    def _texts(self, sample: int, address: int, size: int) -> list[tuple[int, str]]:
        """(number, text) of each text of a sample that is not blank."""
        try:
            if not size:
                raise ValueError("the text is empty")
            value = self._shards.decode(self.field, np.frombuffer(memory_at(address, size), np.uint8))
            found = _texts_of(value)
        except (ValueError, RecursionError) as error:
            raise self._error(sample, f"cannot decode the text: {error}") from error
        if not found:
            raise self._error(sample, "the text is empty")
        return found

    def _error(self, sample: int, problem: str) -> ShardError:
        return ShardError(f"{self._shards.where(sample, self.field)}: {problem}")


def _texts_of(value: Any) -> list[tuple[int, str]]:
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


def _text_field(spec: TextSpec, shards: ShardSet) -> str:
    kinds = {name: field.kind for name, field in shards.fields.items()}
    if spec.field is None:
        for name in TEXT_FIELDS:
            if kinds.get(name) in ("text", "json"):
                return name
        raise ValueError(f"{shards.path} has no field {' or '.join(TEXT_FIELDS)}; it has {', '.join(kinds)}")
    if kinds.get(spec.field) not in ("text", "json"):
        raise ValueError(f"{shards.path} has no text field {spec.field!r}; it has {', '.join(kinds)}")
    return spec.field


def _with_ids(mask: TokenMask | SpanMask, tokenizer: TextTokenizer, room: int) -> TokenMask | SpanMask:
    """The mask with what it leaves to the tokenizer. ValueError where that has no such token."""
    if isinstance(mask, TokenMask):
        mask_id = tokenizer.mask_id if mask.mask_id is None else mask.mask_id
        if mask_id is None:
            raise ValueError(f"{tokenizer.path} has no token [MASK] or <mask>; name one as TokenMask.mask_id")
        vocabulary = tokenizer.vocabulary if mask.vocabulary is None else mask.vocabulary
        return replace(mask, mask_id=mask_id, vocabulary=vocabulary)
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
