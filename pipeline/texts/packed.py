"""Texts without padding: documents packed into blocks of one length, and masks over them.

See `headrace.pipeline.texts.packing` for which tokens make a block. Letters: B blocks of a batch, L tokens of each.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headrace.pipeline.checks import check
from headrace.pipeline.compiled import kernel
from headrace.pipeline.texts.packing import PackedEpoch
from headrace.pipeline.texts.store import token_store
from headrace.pipeline.texts.texts import Texts, TextSpec, TokenMasks, text_field, with_ids
from headrace.pipeline.texts.tokenizer import TextTokenizer
from headrace.pipeline.texts.tokens import CorruptedSpans, MaskedTokens, SpanMask, TokenMask
from headrace.shards import ShardSet


@dataclass(frozen=True, kw_only=True)
class PackedTextSpec:
    """Blocks of tokens from documents of any length, and the masks over them. It is the only stream of its loader.

    The loader's samples are blocks: batch sizes count them, and an epoch has as many as the tokens of all documents,
    special ones counted, fill. `Batch.labels` is None.
    """

    tokenizer: str | os.PathLike[str]
    """A Hugging Face `tokenizer.json`."""
    field: str | None = None
    """Name of a text field in the shard set, which holds a document a sample; None takes the first of `TEXT_FIELDS`
    that it has."""
    length: int = 512
    """Tokens of a block."""
    special: bool = True
    """Whether a document stands between the tokenizer's special tokens, as each does in Hugging Face's `group_texts`.
    Without them documents follow each other bare, as in T5's `reduce_concat_tokens`."""
    masks: tuple[TokenMask | SpanMask, ...] = ()
    """What `Texts.masks` holds, one draw for each over the same block, anew in each epoch. What they do not say of the
    vocabulary the tokenizer does. A `TokenMask` never takes special tokens. A `SpanMask` needs `special` False."""
    whole_words: bool = False
    """Whether a `TokenMask` takes all tokens of a word or none, as far as the word is in the block."""

    def __post_init__(self) -> None:
        check(self.length >= 1, self, "length", self.length, "at least 1")
        object.__setattr__(self, "masks", tuple(self.masks))
        spans = any(isinstance(mask, SpanMask) for mask in self.masks)
        check(not (spans and self.special), self, "special", self.special, "False with a SpanMask")

    def plain(self) -> TextSpec:
        """What probes are shown: the beginning of each document, not packed, nothing of it masked."""
        return TextSpec(tokenizer=self.tokenizer, field=self.field, length=self.length)


@dataclass(frozen=True, kw_only=True)
class PackedTexts(Texts):
    """The blocks of a batch: `Texts` that all have L tokens. `first` counts the tokens of a block's first document,
    special ones counted, that came before; `segments`, `chosen` and `broken` are 0, and as `attention`, which is true,
    one number's memory: they are not to be written to."""

    positions: Tensor
    """int64 (B, L): place in the document, counted from where it begins in this block: 0, 1, 2, ..., 0, 1, ..."""
    documents: Tensor
    """int64 (B, L): which document of the block a token is of: 0, 0, 0, ..., 1, 1, ..."""

    def within(self) -> Tensor:
        """bool (B, L, L): whether two places are of one document: the block-diagonal mask with which attention stays
        inside documents."""
        return self.documents[:, :, None] == self.documents[:, None, :]

    def cu_seqlens(self) -> Tensor:
        """int32 (pieces + 1,): where each document's piece begins among the B L tokens of the batch, and their number:
        what attention of variable length takes."""
        begins = torch.nonzero(self.positions.flatten() == 0).flatten()
        return torch.cat([begins, begins.new_tensor([self.positions.numel()])]).to(torch.int32)


class PackedReader:
    """Blocks of a shard set's documents. Thread-safe.

    Raises:
        ImportError: if the library `tokenizers` is missing.
        ValueError: if the set has no such field, specification and tokenizer contradict each other, or all documents
            together do not fill a block.
        MachineError: if the tokens cannot be kept.
    """

    def __init__(self, spec: PackedTextSpec, shards: ShardSet) -> None:
        self.spec = spec
        self.field = text_field(shards, spec.field)
        kind = shards.fields[self.field].kind
        if kind != "text":
            raise ValueError(
                f"PackedTextSpec packs a document a sample, of a text field; {self.field} is of kind {kind}"
            )
        tokenizer = TextTokenizer(spec.tokenizer)
        if spec.whole_words and not tokenizer.splits:
            raise ValueError(
                f"PackedTextSpec.whole_words needs words, and {spec.tokenizer} makes one of a whole text: "
                "it has no pre-tokenizer that splits at blanks"
            )
        none: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self._before = tokenizer.before if spec.special else none
        self._behind = tokenizer.behind if spec.special else none
        self.masks = [with_ids(mask, tokenizer, spec.length) for mask in spec.masks]
        self._drawn = [_shapes_of(mask, spec.length) for mask in self.masks]
        self.store = token_store(shards, self.field, tokenizer)
        framed = len(self._before) + len(self._behind)
        self.tokens = int(self.store.offsets[-1]) + framed * (len(self.store) - len(self.store.bad))
        """Of all documents, special ones counted."""
        if self.tokens < spec.length:
            raise ValueError(
                f"{shards.path} has {self.tokens:,} tokens in all, which do not fill a block of {spec.length:,}"
            )

    @property
    def blocks(self) -> int:
        """Of an epoch."""
        return self.tokens // self.spec.length

    def epoch(self, order: Any) -> PackedEpoch:
        """The stream of documents in some order."""
        return PackedEpoch(order, self.sizes, self.spec.length)

    def sizes(self, documents: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Tokens of documents, special ones counted; 0 of those that cannot be read."""
        sizes = self.store.sizes(documents)
        return np.where(sizes > 0, sizes + len(self._before) + len(self._behind), 0)

    def shapes(self, samples: int) -> list[tuple[tuple[int, ...], torch.dtype]]:
        """Shape and type of what `fill` writes: tokens, positions, documents; sample and first token of each block's
        first piece; then the masks', each as its tuple has them."""
        whole = samples, self.spec.length
        shapes: list[tuple[tuple[int, ...], torch.dtype]] = [(whole, torch.int64)] * 3
        shapes += [((samples,), torch.int64)] * 2
        return shapes + [((samples, *shape), kind) for drawn in self._drawn for shape, kind in drawn]

    def fill(self, epoch: PackedEpoch, seed: int, blocks: np.ndarray, buffers: list[np.ndarray]) -> None:
        """Write some blocks, by their numbers in an epoch, and the masks over them."""
        tokens, positions, documents, samples, firsts = buffers[:5]
        pieces = epoch.pieces(blocks)
        special = np.zeros(tokens.shape, np.bool_)
        words = np.zeros(tokens.shape, np.int64)
        store = self.store
        frame = self._before, self._behind
        _fill(pieces, frame, store.offsets, store.tokens, store.words, tokens, positions, documents, special, words)
        begins = np.flatnonzero(pieces.at == 0)
        samples[:], firsts[:] = pieces.document[begins], pieces.first[begins]
        at = 5
        lengths = np.full(len(blocks), self.spec.length)
        number_of = epoch.order.epoch
        for number, mask in enumerate(self.masks):
            if isinstance(mask, TokenMask):
                own = words if self.spec.whole_words else None
                drawn: Any = mask.draw(
                    seed, number_of, blocks, tokens, lengths, special=special, words=own, number=number
                )
            else:
                drawn = mask.draw(seed, number_of, blocks, tokens, lengths, number=number)
            for value in drawn:
                buffers[at][:] = value.numpy()
                at += 1

    def deliver(self, buffers: list[Tensor]) -> PackedTexts:
        """The part of a batch, over the buffers' memory."""
        tokens, positions, documents, _, first = buffers[:5]
        rest = iter(buffers[5:])
        masks: list[TokenMasks] = [
            (MaskedTokens if isinstance(mask, TokenMask) else CorruptedSpans)(*(next(rest) for _ in drawn))
            for mask, drawn in zip(self.masks, self._drawn, strict=True)
        ]
        none = torch.zeros(1, dtype=torch.int64)
        return PackedTexts(
            tokens=tokens,
            lengths=torch.full((1,), self.spec.length).expand(len(tokens)),
            attention=torch.ones(1, 1, dtype=torch.bool).expand(tokens.shape),
            chosen=none.expand(len(tokens)),
            first=first,
            segments=none[None].expand(tokens.shape),
            broken=none.expand(len(tokens)),
            masks=masks,
            positions=positions,
            documents=documents,
        )


def _shapes_of(mask: TokenMask | SpanMask, length: int) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """Shape of a row, and type, of each part of what a mask draws over blocks of some length."""
    drawn = mask.draw(0, 0, np.zeros(1, np.int64), np.zeros((1, length), np.int64), np.array([length]))
    return [(tuple(part.shape[1:]), part.dtype) for part in drawn]


@kernel
def _fill(pieces, frame, offsets, stored, bits, tokens, positions, documents, special, words):
    """Copy the pieces of documents to their places."""
    rows, ats, numbers, firsts, sizes, wholes = pieces
    before, behind = frame
    last_row, document, word = -1, 0, 0
    for piece in range(len(rows)):
        row, begin = rows[piece], offsets[numbers[piece]]
        document = document + 1 if row == last_row else 0
        word = word + 1 if row == last_row else 0
        last_row = row
        bare = wholes[piece] - len(before) - len(behind)
        for place in range(sizes[piece]):
            at, within = ats[piece] + place, firsts[piece] + place - len(before)
            positions[row, at] = place
            documents[row, at] = document
            if within < 0:
                tokens[row, at] = before[within + len(before)]
                special[row, at] = True
            elif within >= bare:
                tokens[row, at] = behind[within - bare]
                special[row, at] = True
            else:
                token = begin + within
                tokens[row, at] = stored[token]
                if bits[token >> 3] >> (token & 7) & 1:
                    word += 1
            words[row, at] = word
