"""The texts that a method will see, token by token, with what it has to predict."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from rich.text import Text
from torch import Tensor

from headrace.pipeline import (
    CorruptedSpans,
    Inputs,
    MaskedTokens,
    PackedTexts,
    PackedTextSpec,
    SpanMask,
    TextSpec,
    TokenMask,
)
from headrace.pipeline.texts.tokenizer import TextTokenizer
from headrace.pipeline.texts.tokens import IGNORED
from headrace.shards import open_shards
from headrace.shards.printing import printable
from headrace.tools.pictures.canvas import blank, check_count
from headrace.tools.pictures.delivered import Delivered, delivered

MASKS = ("none", "tokens", "words", "spans")
"""What can be masked."""
WIDTH = 150
"""Characters of a line of a drawing."""
BETWEEN = "║"
"""Stands between the documents of a block."""


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


def text_spec(
    tokenizer: str | os.PathLike[str], mask: str, *, length: int = 128, field: str | None = None, packed: bool = False
) -> TextSpec | PackedTextSpec:
    """The specification for one of `MASKS`, of texts one by one or packed into blocks."""
    masks: dict[str, tuple[TokenMask | SpanMask, ...]] = {"spans": (SpanMask(),), "none": ()}
    chosen: dict[str, Any] = {"masks": masks.get(mask, (TokenMask(),)), "whole_words": mask == "words"}
    if packed:
        return PackedTextSpec(tokenizer=tokenizer, field=field, length=length, special=mask != "spans", **chosen)
    return TextSpec(tokenizer=tokenizer, field=field, length=length, **chosen)


def texts_of(one: Delivered) -> list[ShownText]:
    """The samples of a stream of texts."""
    spec: Any = one.spec
    tokenizer, texts = TextTokenizer(spec.tokenizer), one.part
    found = []
    for row, title in enumerate(one.titles):
        length = int(texts.lengths[row])
        words = [title, f"{length} tokens"]
        words += [f"text {int(texts.chosen[row])}"] if texts.chosen.any() else []
        begins: Sequence[int] = ()
        if isinstance(texts, PackedTexts):
            words.append(
                f"{int(texts.documents[row, -1]) + 1} documents, the first from its token {int(texts.first[row])}"
            )
            begins = (texts.positions[row] == 0).nonzero().flatten().tolist()[1:]
        lines = {}
        if not texts.masks:
            lines["tokens"] = parted(pieces(tokenizer, texts.tokens[row, :length]), begins)
        for mask in texts.masks:
            if isinstance(mask, MaskedTokens):
                words.append(f"{int(mask.masked_count[row])} to predict")
                found_here = pieces(tokenizer, mask.tokens[row, :length], mask.labels[row, :length])
                lines["tokens"] = parted(found_here, begins)
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


def parted(line: Sequence[Piece], begins: Sequence[int]) -> list[Piece]:
    """The tokens with a sign before each place where another document begins."""
    return [
        each
        for place, piece in enumerate(line)
        for each in ((Piece(BETWEEN, special=True), piece) if place in begins else (piece,))
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


def draw_texts(texts: Sequence[ShownText], title: str) -> Figure:
    """The picture: what `rendered` says, in lines of `WIDTH`."""
    written = [
        "\n".join(
            part for line in rendered(text).plain.split("\n") for part in wrap(line, WIDTH, subsequent_indent=" " * 10)
        )
        for text in texts
    ]
    lines = sum(text.count("\n") + 2 for text in written)
    figure = blank((12, 0.16 * lines + 0.6), title)
    axis = figure.subplots()
    axis.set_axis_off()
    axis.text(0, 1, "\n\n".join(written), va="top", fontsize=7, family="monospace", parse_math=False)
    return figure


def show_texts(
    path: str | os.PathLike[str], inputs: Inputs, *, count: int = 6, seed: int = 0, epoch: int = 0
) -> list[ShownText]:
    """The texts of `count` samples; those of several streams one stream after the other.

    Raises:
        UserError: if `count` is not positive, or set, tokenizer and mask do not go together.
        ShardError: if the shard set at `path` or a text cannot be read.
    """
    check_count(count)
    with open_shards(path) as shards:
        found = delivered(shards, inputs, count=count, seed=seed, epoch=epoch)
        streams = [one for one in found.values() if isinstance(one.spec, TextSpec | PackedTextSpec)]
        return [text for one in streams for text in texts_of(one)]
