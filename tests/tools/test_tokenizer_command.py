"""`headrace tokenizer`: the same file from the same texts, which the loader reads; the library's is no better."""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.pipeline import Loader, SpanMask, TextSpec, TokenMask
from headrace.pipeline.texts.tokenizer import TextTokenizer
from headrace.shards import Field, ShardSet, open_shards, write_shards
from headrace.tools.cli import main
from headrace.tools.tokenizer import SPECIAL
from tests import texts
from tests.conftest import DIGIT_FIELDS, digit_samples

pytestmark = pytest.mark.peer("tokenizers")

COMMAND = "import sys; from headrace.tools.cli import main; sys.exit(main(sys.argv[1:]))"


def arguments(shards: ShardSet, out: Path, kind: str, vocabulary: int = 600) -> list[str]:
    return ["tokenizer", str(shards.path), "--vocab", str(vocabulary), "--kind", kind, "--out", str(out)]


def made(shards: ShardSet, out: Path, kind: str, vocabulary: int = 600) -> Any:
    from tokenizers import Tokenizer

    assert main(arguments(shards, out, kind, vocabulary)) == 0
    return Tokenizer.from_file(str(out))


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_the_same_texts_give_the_same_file(kind: str, texts_webdataset: ShardSet, tmp_path: Path) -> None:
    """In other processes, whose hash tables are in another order."""
    files = [tmp_path / f"{number}.json" for number in range(2)]
    for file in files:
        command = [sys.executable, "-c", COMMAND, *arguments(texts_webdataset, file, kind)]
        subprocess.run(command, check=True)
    assert len({file.read_bytes() for file in files}) == 1


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_it_has_as_many_tokens_as_asked_and_knows_the_texts(
    kind: str, texts_webdataset: ShardSet, tmp_path: Path
) -> None:
    tokenizer = made(texts_webdataset, tmp_path / "made.json", kind)
    assert tokenizer.get_vocab_size() == 600
    assert sorted(tokenizer.get_vocab().values()) == list(range(600))
    assert [tokenizer.id_to_token(number) for number in range(len(SPECIAL[kind]))] == SPECIAL[kind]
    for text in texts.paragraphs()[:200]:
        found = tokenizer.encode(text, add_special_tokens=False)
        if kind == "bpe":
            assert tokenizer.decode(found.ids) == text
        elif kind == "unigram":
            assert tokenizer.decode(found.ids) == unicodedata.normalize("NFKC", " ".join(text.split()))
        else:
            assert "[UNK]" not in found.tokens
            assert "".join(token.removeprefix("##") for token in found.tokens) == plain(tokenizer, text)


def plain(tokenizer: Any, text: str) -> str:
    """As the tokenizer sees it, without blanks."""
    return "".join(tokenizer.normalizer.normalize_str(text).split())


def test_wordpieces_are_as_long_as_the_librarys_own(texts_webdataset: ShardSet, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, trainers

    ours = made(texts_webdataset, tmp_path / "made.json", "wordpiece")
    theirs: Any = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    theirs.normalizer, theirs.pre_tokenizer = ours.normalizer, ours.pre_tokenizer
    trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=SPECIAL["wordpiece"], show_progress=False)
    theirs.train_from_iterator(texts.paragraphs()[:200], trainer)
    count = {
        name: sum(len(tokenizer.encode(text).ids) for text in texts.paragraphs()[:200])
        for name, tokenizer in {"ours": ours, "theirs": theirs}.items()
    }
    special = 2 * 200
    assert count["ours"] - special == pytest.approx(count["theirs"], rel=0.01)


def test_a_unigram_tokenizer_is_as_good_as_the_librarys_own(texts_webdataset: ShardSet, tmp_path: Path) -> None:
    """By the tokens that it makes of the texts, and by their likelihood under its own pieces."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    ours = made(texts_webdataset, tmp_path / "made.json", "unigram")
    theirs: Any = Tokenizer(models.Unigram())
    theirs.normalizer, theirs.pre_tokenizer = ours.normalizer, pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=600 - 100, special_tokens=SPECIAL["unigram"], unk_token="<unk>", show_progress=False
    )
    theirs.train_from_iterator(texts.paragraphs()[:200], trainer)
    count, likelihood = {}, {}
    for name, tokenizer in {"ours": ours, "theirs": theirs}.items():
        scores = dict(json.loads(tokenizer.to_str())["model"]["vocab"])
        found = [tokenizer.encode(text, add_special_tokens=False).tokens for text in texts.paragraphs()[:200]]
        count[name] = sum(map(len, found))
        likelihood[name] = sum(scores[token] for tokens in found for token in tokens if token in scores)
    assert count["ours"] < 1.02 * count["theirs"]
    assert likelihood["ours"] > 1.02 * likelihood["theirs"]  # both are negative


def test_expected_counts_against_every_cut() -> None:
    """Of the one step of EM that a small vocabulary takes: all cuts of all words, listed."""
    from headrace.tools import unigram

    words = {"abab": 3, "aab": 2, "b": 1}
    pieces = ["a", "b", "ab", "aba"]
    logs = np.log(np.array([0.3, 0.2, 0.4, 0.1]))
    numbers = {piece: number for number, piece in enumerate(pieces)}

    def cuts(word: str) -> list[list[str]]:
        if not word:
            return [[]]
        return [[piece, *rest] for piece in pieces if word.startswith(piece) for rest in cuts(word[len(piece) :])]

    expected, best = np.zeros(4), np.zeros(4)
    for word, count in words.items():
        found = cuts(word)
        shares = np.exp([sum(logs[numbers[piece]] for piece in cut) for cut in found])
        for cut, share in zip(found, shares / shares.sum(), strict=True):
            for piece in cut:
                expected[numbers[piece]] += count * share
        for piece in found[int(shares.argmax())]:
            best[numbers[piece]] += count
    lattice = unigram._Lattice(list(words), numbers, np.array(list(words.values()), np.float64))
    assert np.allclose(lattice.expected(logs), expected, atol=1e-12)
    assert np.array_equal(lattice.best(logs), best)


def test_a_unigram_tokenizer_has_sentinels(texts_webdataset: ShardSet, tmp_path: Path) -> None:
    path = tmp_path / "made.json"
    made(texts_webdataset, path, "unigram")
    tokenizer = TextTokenizer(path)
    assert tokenizer.sentinels == tuple(range(599, 499, -1))
    with Loader(texts_webdataset, TextSpec(tokenizer=path, length=64, masks=(SpanMask(),)), 20, threads=1) as loader:
        assert len(next(iter(loader))) == 20


@pytest.mark.parametrize(
    ("kind", "frame"),
    [("bpe", ([0], [2, 2], [2])), ("wordpiece", ([2], [3], [3])), ("unigram", ([], [1], [1]))],
)
def test_the_loader_takes_it(
    kind: str, frame: tuple[list[int], ...], texts_webdataset: ShardSet, tmp_path: Path
) -> None:
    path = tmp_path / "made.json"
    made(texts_webdataset, path, kind)
    tokenizer = TextTokenizer(path)
    assert tuple(part.tolist() for part in tokenizer.frame(pair=True)) == frame
    assert tokenizer.padding_id == SPECIAL[kind].index("[PAD]" if kind == "wordpiece" else "<pad>")
    assert tokenizer.mask_id == (None if kind == "unigram" else 4)
    if kind == "unigram":
        return
    with Loader(texts_webdataset, TextSpec(tokenizer=path, length=32, masks=(TokenMask(),)), 20, threads=1) as loader:
        assert len(next(iter(loader))) == 20


def test_every_caption_is_read(tmp_path: Path) -> None:
    samples = [sample | {"captions": ["zebra", "  ", "quokka"]} for sample in digit_samples(1)]
    write_shards(tmp_path / "set", samples, DIGIT_FIELDS | {"captions": Field(kind="json")})
    with open_shards(tmp_path / "set") as shards:
        tokenizer = made(shards, tmp_path / "made.json", "wordpiece", 40)
    assert {"zebra", "quokka"} <= tokenizer.get_vocab().keys()


def test_what_it_made_is_said_as_json(
    texts_webdataset: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made.json"
    assert main([*arguments(texts_webdataset, out, "bpe", 300), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"tokenizer": str(out), "kind": "bpe", "vocabulary": 300}


def test_bad_input_gets_one_line(
    texts_webdataset: ShardSet, digits_webdataset: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made.json"
    for shards, kind, vocabulary, message in (
        (digits_webdataset, "bpe", 600, "has no field captions or caption or text or txt; it has image, label"),
        (texts_webdataset, "bpe", 260, "a bpe tokenizer of these texts has 261 tokens at least, 5 of them special"),
        (texts_webdataset, "wordpiece", 50, "tokens at least, 5 of them special; asked for are 50"),
        (texts_webdataset, "unigram", 50, "tokens at least, 103 of them special; asked for are 50"),
    ):
        assert main(arguments(shards, out, kind, vocabulary)) == 1
        assert message in capsys.readouterr().err
        assert not out.exists()
    assert main(arguments(texts_webdataset, out, "unigrams")) == 2
    assert "did you mean 'unigram'" in capsys.readouterr().err
