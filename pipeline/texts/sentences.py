"""Where the paragraphs and the sentences of a text begin, by rules that need no model and no list of words.

A paragraph ends at an empty line. A sentence ends at a paragraph's end, and as Unicode's annex 29 (UAX #29, rules SB5
to SB11) has it: behind ! or ?, behind a full stop that no word in lower case follows, closing quotes and brackets
counted, if a blank comes then; Chinese and Japanese full stops need none. Beyond the annex, the full stop of an
initial, as in "J. Smith", ends none. Other abbreviations before a name, as in "Dr. Smith", do, as in the annex.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_EMPTY_LINE = re.compile(r"(?>\r\n|\n|\r)[^\S\n\r]*(?:\n|\r)\s*|\u2029\s*")
_CLOSING = "\"'”’»)\\]）」』】"
_END = re.compile(
    rf"(?P<open>\.+|…+)[{_CLOSING}]*\s+"  # goes on in lower case
    rf"|[!?‽][!?‽.…]*[{_CLOSING}]*\s+"
    rf"|[。！？｡][。！？｡]*[{_CLOSING}]*\s*"
)
_INITIAL = re.compile(r"(?:^|[\s.(\"'“‘«-])[^\W\d_]$")
_LETTER = re.compile(r"[^\W\d_]")


class Begins(NamedTuple):
    """Where parts of a text begin, in characters, ascending. What lies between the first of them and the text's begin,
    and behind each part, is blank."""

    paragraphs: list[int]
    sentences: list[int]
    """The paragraphs' are among them."""


def text_parts(text: str) -> Begins:
    """The paragraphs and sentences of a text; none of a blank one."""
    paragraphs, sentences = [], []
    for begin, end in _paragraphs(text):
        paragraphs.append(begin)
        sentences.append(begin)
        sentences += [at for at in _ends(text, begin, end) if at < end]
    return Begins(paragraphs, sentences)


def _paragraphs(text: str) -> Iterator[tuple[int, int]]:
    """(begin, end) of each, without the blanks around it."""
    begin = 0
    for gap in [*_EMPTY_LINE.finditer(text), None]:
        end = len(text) if gap is None else gap.start()
        part = text[begin:end]
        if stripped := part.strip():
            first = begin + len(part) - len(part.lstrip())
            yield first, first + len(stripped)
        begin = len(text) if gap is None else gap.end()


def _ends(text: str, begin: int, end: int) -> Iterator[int]:
    """Where the next sentence of a paragraph begins, behind each that ends in it."""
    for found in _END.finditer(text, begin, end):
        if found["open"] and _goes_on(text, begin, found, end):
            continue
        yield found.end()


def _goes_on(text: str, begin: int, found: re.Match[str], end: int) -> bool:
    """Whether the sentence goes on behind a full stop."""
    initial = _INITIAL.search(text, max(begin, found.start() - 2), found.start())
    if found["open"] == "." and initial and text[found.start() - 1].isupper():
        return True
    letter = _LETTER.search(text, found.end(), end)
    return letter is not None and letter[0].islower()
