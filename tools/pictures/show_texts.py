"""The texts that a method will see, token by token, with what it has to predict."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich.text import Text
from torch import Tensor

from headrace.pipeline import CorruptedSpans, Inputs, MaskedTokens, SpanMask, TextSpec, TokenMask
from headrace.pipeline.texts.tokenizer import TextTokenizer
from headrace.pipeline.texts.tokens import IGNORED
from headrace.shards import open_shards
from headrace.shards.printing import printable
from headrace.tools.pictures.canvas import check_count
from headrace.tools.pictures.delivered import Delivered, delivered

MASKS = ("none", "tokens", "words", "spans")
"""What can be masked."""


class Piece(NamedTuple):
    """One token, as the vocabulary writes it."""

    token: str
    """What the model sees."""
    label: str = ""
    """What it has to predict there; empty for nothing."""
    special: bool = False
    """The tokenizer put it there, or a mask did."""


@dataclass(frozen=True, kw_only=True)
class ShownText:
    """One sample's text."""

    title: str
    """Key of the sample, and the numbers that were drawn for it."""
    lines: dict[str, list[Piece]]
    """What each line shows, by name."""


def text_spec(tokenizer: str | os.PathLike[str], mask: str, *, length: int = 128, field: str | None = None) -> TextSpec:
    """The specification for one of `MASKS`."""
    masks: dict[str, tuple[TokenMask | SpanMask, ...]] = {"spans": (SpanMask(),), "none": ()}
    return TextSpec(
        tokenizer=tokenizer,
        field=field,
        length=length,
        masks=masks.get(mask, (TokenMask(),)),
        whole_words=mask == "words",
    )


def texts_of(one: Delivered) -> list[ShownText]:
    """The samples of a stream of texts."""
    spec: Any = one.spec
    tokenizer, texts = TextTokenizer(spec.tokenizer), one.part
    found = []
    for row, title in enumerate(one.titles):
        length = int(texts.lengths[row])
        words = [title, f"{length} tokens"]
        words += [f"text {int(texts.chosen[row])}"] if texts.chosen.any() else []
        lines = {}
        if not texts.masks:
            lines["tokens"] = pieces(tokenizer, texts.tokens[row, :length])
        for mask in texts.masks:
            if isinstance(mask, MaskedTokens):
                words.append(f"{int(mask.masked_count[row])} to predict")
                lines["tokens"] = pieces(tokenizer, mask.tokens[row, :length], mask.labels[row, :length])
            else:
                if isinstance(mask, CorruptedSpans):
                    words.append(f"{int(mask.noise[row].sum())} in spans")
                lines["inputs"] = pieces(tokenizer, mask.inputs[row, : mask.input_count[row]])
                lines["labels"] = pieces(tokenizer, mask.labels[row, : mask.label_count[row]])
        found.append(ShownText(title=" · ".join(words), lines=lines))
    return found


def pieces(tokenizer: TextTokenizer, tokens: Tensor, labels: Tensor | None = None) -> list[Piece]:
    """Tokens (N,) and what to predict in their places, -100 for nothing."""
    added = {*tokenizer.before.tolist(), *tokenizer.behind.tolist(), *tokenizer.sentinels, tokenizer.mask_id}
    wanted: Sequence[int] = [IGNORED] * len(tokens) if labels is None else labels.tolist()
    return [
        Piece(tokenizer.name(token), "" if label == IGNORED else tokenizer.name(label), token in added)
        for token, label in zip(tokens.tolist(), wanted, strict=True)
    ]


def rendered(shown: ShownText) -> Text:
    """For a terminal, and for a file: what is to be predicted stands in braces, behind what the model sees there."""
    text = Text(printable(shown.title), style="bold")
    for name, line in shown.lines.items():
        text.append(f"\n  {name:8}", style="not bold dim")
        for piece in line:
            style = "not bold reverse" if piece.label else "not bold cyan" if piece.special else "not bold"
            words = f"{{{piece.token} {piece.label}}}" if piece.label else piece.token
            text.append(printable(words), style=style)
            text.append(" ")
    return text


def show_texts(
    path: str | os.PathLike[str], inputs: Inputs, *, count: int = 6, seed: int = 0, epoch: int = 0
) -> list[Text]:
    """The texts of `count` samples, to be printed; those of several streams one stream after the other.

    Raises:
        UserError: if `count` is not positive, or set, tokenizer and mask do not go together.
        ShardError: if the shard set at `path` or a text cannot be read.
    """
    check_count(count)
    with open_shards(path) as shards:
        found = delivered(shards, inputs, count=count, seed=seed, epoch=epoch)
        streams = [one for one in found.values() if isinstance(one.spec, TextSpec)]
        return [rendered(text) for one in streams for text in texts_of(one)]
