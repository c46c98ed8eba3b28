"""`headrace tokenizer`: the same file from the same texts, which the loader reads; the library's is no better."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headrace.pipeline import Loader, TextSpec, TokenMask
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


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_the_same_texts_give_the_same_file(kind: str, texts_webdataset: ShardSet, tmp_path: Path) -> None:
    """In other processes, whose hash tables are in another order."""
    files = [tmp_path / f"{number}.json" for number in range(2)]
    for file in files:
        command = [sys.executable, "-c", COMMAND, *arguments(texts_webdataset, file, kind)]
        subprocess.run(command, check=True)
    assert len({file.read_bytes() for file in files}) == 1


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_it_has_as_many_tokens_as_asked_and_knows_the_texts(
    kind: str, texts_webdataset: ShardSet, tmp_path: Path
) -> None:
    tokenizer = made(texts_webdataset, tmp_path / "made.json", kind)
    assert tokenizer.get_vocab_size() == 600
    assert sorted(tokenizer.get_vocab().values()) == list(range(600))
    assert [tokenizer.id_to_token(number) for number in range(5)] == SPECIAL[kind]
    for text in texts.paragraphs()[:200]:
        found = tokenizer.encode(text, add_special_tokens=False)
        if kind == "bpe":
            assert tokenizer.decode(found.ids) == text
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


@pytest.mark.parametrize(("kind", "frame"), [("bpe", ([0], [2, 2], [2])), ("wordpiece", ([2], [3], [3]))])
def test_the_loader_takes_it(
    kind: str, frame: tuple[list[int], ...], texts_webdataset: ShardSet, tmp_path: Path
) -> None:
    path = tmp_path / "made.json"
    made(texts_webdataset, path, kind)
    tokenizer = TextTokenizer(path)
    assert tuple(part.tolist() for part in tokenizer.frame(pair=True)) == frame
    assert tokenizer.padding_id == SPECIAL[kind].index("<pad>" if kind == "bpe" else "[PAD]")
    assert tokenizer.mask_id == 4
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
    ):
        assert main(arguments(shards, out, kind, vocabulary)) == 1
        assert message in capsys.readouterr().err
        assert not out.exists()
    assert main(arguments(texts_webdataset, out, "unigram")) == 2
    assert "known: bpe, wordpiece" in capsys.readouterr().err
