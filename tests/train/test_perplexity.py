"""Pseudo-perplexity against a slow loop, and the bigram model against its formula and a language that is one."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headrace.pipeline import Loader
from headrace.shards import Field, ShardSet, open_shards, write_shards
from headrace.tools.cli import main
from headrace.train import RunError
from headrace.train.probes.perplexity import PRIORS, BigramModel, bigram_likelihood, pseudo_likelihood
from tests.models.tiny_methods import tiny
from tests.train.kept_runs import kept_run

pytestmark = pytest.mark.peer("tokenizers", "transformers")


@pytest.mark.parametrize("name", ["bert", "roberta", "electra", "albert", "modernbert"])
def test_each_token_is_hidden_by_itself(name: str, texts_webdataset: ShardSet) -> None:
    method: Any = tiny(name).eval()
    options: Any = {"texts": 12, "seed": 3, "device": "cpu", "max_bad": None}
    found = pseudo_likelihood(method, texts_webdataset, rows=5, **options)
    nats, tokens, right = [], [], []
    with Loader(texts_webdataset, method.probe_inputs, 200, seed=3, threads=1) as loader, torch.no_grad():
        given = next(iter(loader))["text"]
        for row in range(12):
            length = int(given.lengths[row])
            alone = type(given)(
                **{key: x[row : row + 1] for key, x in vars(given).items() if isinstance(x, torch.Tensor)}
            )
            total, hits = 0.0, 0
            for place in range(1, length - 1):
                hidden = alone.tokens.clone()
                hidden[0, place] = 4
                share = method.head(method.reader(hidden, alone))[0, place].double().log_softmax(0)
                total -= float(share[alone.tokens[0, place]])
                hits += int(share.argmax() == alone.tokens[0, place])
            nats.append(total)
            tokens.append(length - 2)
            right.append(hits)
    np.testing.assert_allclose(found.nats, nats, rtol=1e-5)
    assert found.tokens.tolist() == tokens
    assert found.right.tolist() == right
    assert found.perplexity == pytest.approx(np.exp(sum(nats) / sum(tokens)), rel=1e-5)


def test_a_bigram_model_is_its_formula() -> None:
    draw = np.random.default_rng(0)
    rows = [draw.integers(0, 6, 9) for _ in range(40)]
    model = BigramModel(rows, 6)
    pairs, times, all_tokens = np.zeros((6, 6)), np.zeros(6), np.zeros(6)
    for row in rows:
        for token in row:
            all_tokens[token] += 1
        for left, right in pairwise(row.tolist()):
            pairs[left, right] += 1
            times[left] += 1
    unigram = (all_tokens + 1) / (all_tokens.sum() + 6)
    assert model.prior in PRIORS
    follows = (pairs + model.prior * unigram) / (times[:, None] + model.prior)
    np.testing.assert_allclose(follows.sum(1), 1.0)
    for left in range(6):
        for right in range(6):
            wanted = follows[left] * follows[:, right]
            np.testing.assert_allclose(model.between(left, right), wanted / wanted.sum(), rtol=1e-12)
    np.testing.assert_allclose(model.between(2, None), follows[2], rtol=1e-12)
    np.testing.assert_allclose(model.between(None, 2), unigram * follows[:, 2] / (unigram @ follows[:, 2]), rtol=1e-12)
    # Where neighbours say nothing a strong prior is the likeliest; where they say all, the weakest.
    assert BigramModel([np.arange(9) % 6 for _ in range(40)], 6).prior == PRIORS[0] < 30 <= model.prior


def texts_of_a_chain(folder: Path, count: int, seed: int) -> ShardSet:
    """Words each of which is followed by one of two others, equally likely."""
    words = ["the", "of", "and", "is", "to", "a", "in", "for"]
    draw = np.random.default_rng(seed)

    def samples() -> Any:
        for number in range(count):
            word, text = int(draw.integers(8)), []
            for _ in range(12):
                text.append(words[word])
                word = (2 * word + int(draw.integers(2))) % 8
            yield {"__key__": f"{number:04d}", "text": " ".join(text)}

    write_shards(folder, samples(), {"text": Field(kind="text")})
    return open_shards(folder)


def test_of_a_language_of_pairs_it_has_the_true_perplexity(tmp_path: Path) -> None:
    """Of the eight words one fits between two others as a rule: the two that may follow the one lead to four that
    differ. At the end of a text two fit, and at its beginning two lead there."""
    method = tiny("bert").eval()
    with texts_of_a_chain(tmp_path / "a", 400, 0) as learn, texts_of_a_chain(tmp_path / "b", 50, 1) as test:
        named, _ = bigram_likelihood(method, learn, test, texts=50, seed=0, max_bad=None)
        assert named.tokens.tolist() == [12] * 50
        assert named.perplexity == pytest.approx(2 ** (2 / 12), rel=0.05)
        untrained = pseudo_likelihood(method, test, texts=50, seed=0, rows=64, device="cpu", max_bad=None)
    assert untrained.perplexity == pytest.approx(405, rel=0.05), "as many as there are tokens"


def test_the_command_puts_a_run_beside_the_bigram_model(
    texts_webdataset: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept_run(tmp_path / "run", "bert")
    place = str(texts_webdataset.path)
    words = ["eval", "perplexity", str(tmp_path / "run"), "--data", place, "--test", place, "--texts", "30", "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    found = told["protocols"]["perplexity"]["encoders"]
    assert list(found) == ["input", "untrained", "trained"]
    for each in found.values():
        assert list(each["metrics"]) == ["pseudo_perplexity", "accuracy"]
        score = each["metrics"]["pseudo_perplexity"]
        assert 1 < score["low"] < score["value"] < score["high"]
        assert each["details"]["texts"] == 30
    assert found["input"]["metrics"]["pseudo_perplexity"]["value"] < 100 < 380
    assert found["untrained"]["metrics"]["pseudo_perplexity"]["value"] == pytest.approx(405, rel=0.1)
    assert told["probes"]["trained"]["perplexity"] == found["trained"]["metrics"]["pseudo_perplexity"]["value"]


def test_who_names_no_hidden_tokens_has_none(
    texts_webdataset: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RunError, match="SimCSE names no hidden tokens of texts, so that it has no perplexity"):
        pseudo_likelihood(tiny("simcse").eval(), texts_webdataset, texts=3, seed=0, rows=4, device="cpu", max_bad=None)
    kept_run(tmp_path / "run", "bert")
    assert main(["eval", "perplexity", str(tmp_path / "run"), "--data", str(texts_webdataset.path)]) != 0
    error = capsys.readouterr().err
    assert "perplexity is of held-out texts, so that it is measured on a test set: name one with --test" in error
