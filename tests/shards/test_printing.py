"""What a terminal would obey is written out, everything else is left as it is."""

from __future__ import annotations

import os

import pytest

from headrace.shards.printing import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain [red] text\\", "plain [red] text\\"),
        ("größer, 猫\u3000犬, café\u00a0noir, 👩‍🚀", "größer, 猫\u3000犬, café\u00a0noir, 👩‍🚀"),
        ("a\x1b]0;owned\x07\x1b[31m.jpg", r"a\x1b]0;owned\x07\x1b[31m.jpg"),
        ("a\rb\nc\td\x7f\x9b31m", r"a\x0db\x0ac\x09d\x7f\x9b31m"),
        (os.fsdecode(b"caf\xe9.jpg"), r"caf\xe9.jpg"),
        ("\ud800", r"\ud800"),
        ("gpj\u202e.exe\u2028\u200b", r"gpj\u202e.exe\u2028\u200b"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown
    printable(text).encode()


def test_line_ends_can_be_kept() -> None:
    assert printable("a\nb\tc\x1b", "\n") == "a\nb\\x09c\\x1b"
