"""Of a long text no more is tokenised than is kept, and the tokens are those of the whole text."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.pipeline.texts.tokenizer import TextTokenizer
from tests import texts

pytestmark = pytest.mark.peer("tokenizers")

GPT_4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
FROM_THE_RIGHT = r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))| ?\p{L}+|\s+|[^\s\p{L}\p{N}]+"
ADDED = "New York City, N. Y."


def train(kind: str, path: Path) -> Path:
    """A small tokenizer of a widely used kind."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    byte = {"vocab_size": 600, "initial_alphabet": pre_tokenizers.ByteLevel.alphabet(), "show_progress": False}
    split = {"gpt-4": GPT_4, "digits": FROM_THE_RIGHT}.get(kind)
    made: Any
    if kind in ("bert", "t5"):
        made = Tokenizer.from_file(str((texts.wordpiece if kind == "bert" else texts.sentinels)(path)))
        made.no_truncation()
        trainer = None
    elif kind == "unigram":
        made = Tokenizer(models.Unigram())
        made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=500, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
        )
    else:
        made = Tokenizer(models.BPE(unk_token="<unk>" if kind == "llama" else None))
        trainer = trainers.BpeTrainer(**byte, special_tokens=["<unk>"] if kind == "llama" else [])
        if split:
            regex = pre_tokenizers.Split(Regex(split), "isolated")
            made.pre_tokenizer = pre_tokenizers.Sequence([regex, pre_tokenizers.ByteLevel(False, use_regex=False)])
        elif kind == "llama":
            made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        else:
            made.normalizer = normalizers.NFC()
            made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
            made.decoder = decoders.ByteLevel()
    if trainer:
        made.train_from_iterator(texts.paragraphs() if kind == "llama" else texts.documents(), trainer)
    made.add_tokens([AddedToken(ADDED, normalized=False), "e"])
    made.save(str(path))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizers")
    for kind in ("bert", "t5", "unigram", "gpt-2", "gpt-4", "digits", "llama"):
        train(kind, folder / f"{kind}.json")
    return folder


class Watched:
    """A tokenizer that notes what the library is given."""

    def __init__(self, path: Path) -> None:
        self.reader = TextTokenizer(path)
        self.inner = self.reader._tokenizer
        self.reader._tokenizer = self
        self.given: list[int] = []

    def encode_batch(self, some: Sequence[str], **options: Any) -> Any:
        self.given.append(sum(map(len, some)))
        return self.inner.encode_batch(some, **options)

    def encode_batch_fast(self, some: Sequence[str], **options: Any) -> Any:
        self.given.append(sum(map(len, some)))
        return self.inner.encode_batch_fast(some, **options)

    def encode(self, some: list[str], **options: Any) -> list[tuple[np.ndarray, np.ndarray]]:
        return list(self.reader.encode(some, **options))


PIECES = [
    *("the", "New York City, N. Y.", "New York City, N.", "New York", "don't", "we'LL", "1", "1234567", "3.14"),
    *("12,345.6", "x" * 70, "9" * 90, "naïve", "nai\u0308ve", "e\u0301\u0302", "ﷺ", "汉字没有空格的长句子", "كتاب"),
    *("\U0001f469\u200d\U0001f469\u200d\U0001f467", "\u200b", "\x1c", "▁", "...", "?!", "a_b", "\ufb01x"),
    *("</s>", "[SEP]", "<unk>"),
]
BLANKS = [" ", " ", " ", " ", "  ", "   \n", "\n", "\n\n", "\t", "\r\n", " \n ", "\u00a0", "\u3000", " " * 90, ""]


def odd_text(seed: int) -> str:
    """Some 6,000 characters of all kinds."""
    draw = random.Random(seed)
    words = [word for text in texts.paragraphs() for word in text.split()]
    pieces = [draw.choice(PIECES) if draw.random() < 0.4 else draw.choice(words) for _ in range(900)]
    return "".join(piece + draw.choice(BLANKS) for piece in pieces)


@pytest.mark.parametrize("words", [False, True], ids=["tokens", "words"])
@pytest.mark.parametrize("kind", ["bert", "t5", "unigram", "gpt-2", "gpt-4"])
def test_the_first_tokens_are_those_of_the_whole_text(kind: str, words: bool, folder: Path) -> None:
    watched = Watched(folder / f"{kind}.json")
    some = [odd_text(seed) for seed in range(40)]
    expected = watched.encode(some, words=words)
    for first in (1, 7, 60):
        watched.given.clear()
        for whole, found in zip(expected, watched.encode(some, words=words, first=first), strict=True):
            assert first <= len(found[0]) == len(found[1])
            for part, beginning in zip(whole, found, strict=True):
                assert np.array_equal(part[: len(beginning)], beginning)
        assert sum(watched.given) < sum(map(len, some)) / 2


@pytest.mark.parametrize("kind", ["digits", "llama"])
def test_a_text_is_read_whole_where_its_end_may_change_its_beginning(kind: str, folder: Path) -> None:
    watched = Watched(folder / f"{kind}.json")
    some = [odd_text(seed) for seed in range(3)]
    assert [len(tokens) for tokens, _ in watched.encode(some, words=False, first=5)] == [
        len(tokens) for tokens, _ in watched.encode(some, words=False)
    ]


def test_a_megabyte_is_not_tokenised_for_a_hundred_tokens(folder: Path) -> None:
    watched = Watched(folder / "bert.json")
    long = " ".join(texts.paragraphs())
    long = (long * (1 + (1 << 20) // len(long)))[: 1 << 20]
    (found,) = watched.encode([long], words=False, first=126)
    assert sum(watched.given) < 5000
    assert len(found[0]) < 1000
    watched.given.clear()
    spaces = " " * (1 << 20) + "the end"
    assert len(watched.encode([spaces], words=False, first=126)[0][0]) > 0


def test_the_library_is_given_few_long_texts_at_a_time(folder: Path) -> None:
    watched = Watched(folder / "bert.json")
    long = ("the " * 50_000)[:-1]
    found = watched.encode([long] * 5 + ["the"] * 1000, words=True)
    assert [len(tokens) for tokens, _ in found] == [100_000] * 5 + [2] * 1000  # "th" and the added "e"
    assert max(watched.given) <= 2 * len(long) + 3000
    assert len(watched.given) <= 5


@pytest.mark.parametrize("kind", ["bert", "t5", "unigram", "gpt-2", "gpt-4", "digits", "llama"])
def test_whether_texts_are_split_into_words(kind: str, folder: Path) -> None:
    assert TextTokenizer(folder / f"{kind}.json").splits == (kind != "llama")
