"""Texts in the terminal: the tokens that the loader gives, with what is to be predicted."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.pipeline import CorruptedSpans, Loader, MaskedTokens
from headrace.shards import Field, open_shards, write_shards
from headrace.tools.cli import FAILED, USAGE, main
from headrace.tools.pictures.delivered import delivered
from headrace.tools.pictures.show_texts import MASKS, rendered, text_spec, texts_of
from tests import texts

pytestmark = pytest.mark.peer("tokenizers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard set `set` and the tokenizers `bert.json` and `t5.json`."""
    path = tmp_path_factory.mktemp("texts")
    samples = ({"__key__": f"text_{n}", "text": text} for n, text in enumerate(texts.paragraphs()[:9]))
    write_shards(path / "set", samples, {"text": Field(kind="text")})
    texts.wordpiece(path / "bert.json")
    texts.sentinels(path / "t5.json")
    return path


@pytest.mark.parametrize("mask", MASKS)
def test_what_is_shown_is_what_the_loader_gives(mask: str, folder: Path) -> None:
    from tokenizers import Tokenizer

    file = folder / ("t5.json" if mask == "spans" else "bert.json")
    spec = text_spec(file, mask, length=30)
    name = Tokenizer.from_file(str(file)).id_to_token
    with open_shards(folder / "set") as shards:
        shown = texts_of(delivered(shards, spec, count=4, seed=3, epoch=1)["text"])
        with Loader(shards, spec, 4, seed=3) as loader:
            loader.epoch = 1
            batch = next(iter(loader))
        texts = batch["text"]
        assert len(shown) == 4
        for row, each in enumerate(shown):
            length = int(texts.lengths[row])
            assert each.title.startswith(f"{shards.key(int(batch.index[row]))} · {length} tokens")
            if mask == "none":
                seen = {"tokens": texts.tokens[row, :length]}
            elif mask == "spans":
                (spans,) = texts.masks
                assert isinstance(spans, CorruptedSpans)
                seen = {
                    "inputs": spans.inputs[row, : spans.input_count[row]],
                    "labels": spans.labels[row, : spans.label_count[row]],
                }
            else:
                (masked,) = texts.masks
                assert isinstance(masked, MaskedTokens)
                seen = {"tokens": masked.tokens[row, :length]}
                labels = ["" if label == -100 else name(label) for label in masked.labels[row, :length].tolist()]
                assert [piece.label for piece in each.lines["tokens"]] == labels
                assert f" · {int(masked.masked_count[row])} to predict" in each.title
            expected = {line: [name(token) for token in tokens.tolist()] for line, tokens in seen.items()}
            assert {line: [piece.token for piece in found] for line, found in each.lines.items()} == expected
            plain = rendered(each).plain
            assert plain.count("{") == sum(bool(piece.label) for line in each.lines.values() for piece in line)


def test_the_command_prints_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["show", "texts", str(folder / "set"), "--tokenizer", str(folder / "bert.json")]
    assert main([*arguments, "--samples", "2", "--mask", "words", "--length", "20"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("text_") == 2
    assert "{" in printed
    assert main([*arguments, "--mask", "spans"]) == FAILED
    assert "bert.json has no token <extra_id_0>" in capsys.readouterr().err
    assert main([*arguments, "--samples", "0"]) == USAGE
    assert "'0' is no whole number of at least 1" in capsys.readouterr().err
    assert main(["show", "texts", str(folder / "set"), "--method", "bert"]) == FAILED
    assert "TextSpec.tokenizer names no file; of a method it is the key model.tokenizer" in capsys.readouterr().err
    for wrong, message in (
        (["show", "texts", str(folder / "set")], "show texts needs --method, or --tokenizer FILE"),
        ([*arguments, "--mask", "wrds"], "did you mean 'words'?"),
        (["show", "views", *arguments[2:], "--out", "x.png"], "a tokenizer has no views; it has texts"),
    ):
        assert main(wrong) == USAGE
        assert message in capsys.readouterr().err
