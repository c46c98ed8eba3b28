"""Where sentences and paragraphs begin: by hand, and by what holds of any text."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from headrace.pipeline.texts.sentences import text_parts
from tests import texts


def sentences(text: str) -> list[str]:
    begins = text_parts(text).sentences
    return [text[begin:end].strip() for begin, end in pairwise([*begins, len(text)])]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("It costs 3.14 euros, i.e. little. Yes.", ["It costs 3.14 euros, i.e. little.", "Yes."]),
        ("J. S. Bach wrote it. He did.", ["J. S. Bach wrote it.", "He did."]),
        ('"Go!" she said. (He went.) Then "no."  Done', ['"Go!"', "she said.", "(He went.)", 'Then "no."', "Done"]),
        ("Well... maybe. And… Then?! Oh", ["Well... maybe.", "And…", "Then?!", "Oh"]),
        ("他来了。她也来了！好", ["他来了。", "她也来了！", "好"]),
        ("no stop\n\nnext one", ["no stop", "next one"]),
        ("  first. \r\n \r\n\tsecond", ["first.", "second"]),
        ("a\nb. C", ["a\nb.", "C"]),
        ("§ 3. 4 points follow. End.", ["§ 3. 4 points follow.", "End."]),
        ("Ends here.", ["Ends here."]),
        ("Wait!no", ["Wait!no"]),
        ("", []),
        (" \n\n ", []),
    ],
)
def test_sentences_by_hand(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_paragraphs_by_hand() -> None:
    text = "\n One. Two.\nstill one\n\n\nTwo.\r\n\r\nThree.\n \t\n"
    begins = text_parts(text).paragraphs
    assert [text[begin:].split(maxsplit=1)[0] for begin in begins] == ["One.", "Two.", "Three."]


def test_what_holds_of_any_text() -> None:
    """Real documents, and strings of the characters that matter: begins ascend, each is no blank, what lies before the
    first is blank, paragraphs are among sentences, and between two paragraphs there is an empty line."""
    random = np.random.Generator(np.random.Philox(3))
    odd = ["".join(random.choice(list('aB1.!?…。\n\r\t "(é'), 40)) for _ in range(400)]
    for text in [*texts.documents(), *odd]:
        found = text_parts(text)
        assert found.sentences == sorted(set(found.sentences))
        assert set(found.paragraphs) <= set(found.sentences)
        assert all(not text[begin].isspace() for begin in found.sentences)
        first = found.sentences[0] if found.sentences else len(text)
        assert not text[:first].strip()
        for begin in found.paragraphs[1:]:
            blank = text[len(text[:begin].rstrip()) : begin]
            assert len(blank.replace("\r\n", "\n").replace("\r", "\n").split("\n")) > 2
