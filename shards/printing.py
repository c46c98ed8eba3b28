"""Text that a terminal may show: names come from files that anybody may have made."""

from __future__ import annotations

import unicodedata

UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories of what does something to a terminal or to the order of letters, or cannot be encoded at all."""
JOINERS = "\u200c\u200d\u00ad"
"""Of these, what scripts and pictures of faces are written with."""


def printable(text: str, keep: str = "") -> str:
    r"""The text with what a terminal would obey, or could not show, written out: \x1b for an escape, \xe9 for a byte of
    a file name that is not UTF-8. Not what is in `keep`, such as line ends."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or not unseen(c) else written_out(ord(c)) for c in text)


def unseen(character: str) -> bool:
    """Whether a character is one to write out."""
    return unicodedata.category(character) in UNSEEN and character not in JOINERS


def written_out(code: int) -> str:
    r"""As Python writes it in a string; a byte that Python hides in a surrogate as \xe9."""
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
