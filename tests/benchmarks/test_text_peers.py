"""Hugging Face's collator does what Headrace does: the same blocks, as many tokens to predict, hidden alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.pipeline import Loader, PackedTextSpec
from headrace.shards import Field, open_shards, write_shards
from tests import texts

LENGTH = 64


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A shard set of some hundred paragraphs, and a tokenizer."""
    root = tmp_path_factory.mktemp("texts")
    samples = ({"__key__": f"{n:04d}", "text": text} for n, text in enumerate(texts.paragraphs()))
    write_shards(root / "set", samples, {"text": Field(kind="text")})
    return root / "set", texts.wordpiece(root / "bert.json")


@pytest.mark.peer("tokenizers", "transformers")
def test_the_same_blocks(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from headrace.benchmarks.peers.huggingface import fast_tokenizer, grouped

    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    theirs = grouped(texts.paragraphs(), fast_tokenizer(files[1]), LENGTH)
    spec = PackedTextSpec(tokenizer=files[1], length=LENGTH)
    with open_shards(files[0]) as shards, Loader(shards, spec, 8, shuffle=False, drop_last=False) as loader:
        ours = np.concatenate([batch["text"].tokens.numpy() for batch in loader])
    assert np.array_equal(ours, np.array([block["input_ids"] for block in theirs]))


@pytest.mark.peer("tokenizers", "transformers")
def test_as_much_is_hidden(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Shares of what is not special: Hugging Face draws each token for itself, Headrace as BERT's code does."""
    from headrace.benchmarks.peers.headrace import headrace_packed
    from headrace.benchmarks.peers.huggingface import huggingface

    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    asked: dict[str, Any] = {
        "shards": files[0], "tokenizer": files[1], "length": LENGTH, "ratio": 0.15, "batch_size": 64,
    }  # fmt: skip
    ours, theirs = headrace_packed(**asked, threads=1), huggingface(**asked, workers=0)
    found = {}
    for name, batches in (("ours", ours), ("theirs", theirs)):
        tokens, labels = [], []
        for _ in range(8):
            batch: Any = next(batches)
            assert len(batch) == 64
            part = batch["text"].masks[0] if name == "ours" else batch
            assert str(part.tokens.dtype) == str(part.labels.dtype) == "torch.int64"
            tokens.append(part.tokens.numpy())
            labels.append(part.labels.numpy())
        seen, wanted = np.concatenate(tokens), np.concatenate(labels)
        chosen = wanted != -100
        assert seen.shape == (512, LENGTH)
        found[name] = chosen.mean(), (seen[chosen] == 4).mean(), (seen[chosen] == wanted[chosen]).mean()
    ours.close()  # type: ignore[attr-defined]
    (share, hidden, kept), (their_share, their_hidden, their_kept) = found["ours"], found["theirs"]
    special = 1 - their_share / 0.15  # of all tokens, which BERT's code counts and does not choose
    assert share == pytest.approx(round(0.15 * LENGTH) / LENGTH, abs=0.002)
    assert 0 < special < 0.2
    assert (hidden, kept) == pytest.approx((their_hidden, their_kept), abs=0.03)
