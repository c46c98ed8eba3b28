"""RoBERTa beside `transformers` with the same weights, and the facts of fairseq's code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from headrace.models import build_method
from headrace.pipeline import Loader, TextSpec, TokenMask
from headrace.shards import ShardSet
from tests import texts
from tests.models.text_batches import batches_of, parts_of, same_gradients, with_weights_of
from tests.models.tiny_methods import TINY, tiny

pytestmark = pytest.mark.peer("tokenizers", "transformers")

PAD, CLS, SEP, MASK, FIRST = 0, 2, 3, 4, 5


def judge_of(method: Any) -> Any:
    from transformers import RobertaForMaskedLM

    names = {"head.dense": "lm_head.dense", "head.norm": "lm_head.layer_norm", "backbone": "roberta"}
    tied = {"head.bias": ["lm_head.bias", "lm_head.decoder.bias"], "head.weight": ["lm_head.decoder.weight"]}
    return with_weights_of(method, RobertaForMaskedLM(method.backbone.config), names, tied)


def test_with_the_same_weights_it_is_transformers_with_its_gradient(texts_webdataset: ShardSet) -> None:
    """It counts positions from what is padding, where we are told the lengths."""
    method: Any = build_method("roberta", **TINY["roberta"], dropout=0.0).double()
    nn.init.normal_(method.head.bias)
    judge = judge_of(method)
    given, masked = parts_of(batches_of(method, texts_webdataset)[0])
    assert len(set(given.lengths.tolist())) > 3
    theirs = judge(input_ids=masked.tokens, attention_mask=given.attention.long(), labels=masked.labels)
    found = method.loss(batches_of(method, texts_webdataset)[0])
    torch.testing.assert_close(found["loss"], theirs.loss, rtol=1e-9, atol=0)
    theirs.loss.backward()
    found["loss"].backward()
    by_name = {
        "backbone.embeddings.word_embeddings.weight": "roberta.embeddings.word_embeddings.weight",
        "backbone.embeddings.position_embeddings.weight": "roberta.embeddings.position_embeddings.weight",
        "backbone.encoder.layer.0.attention.self.query.weight": "roberta.encoder.layer.0.attention.self.query.weight",
        "head.dense.weight": "lm_head.dense.weight",
        "head.bias": "lm_head.bias",
    }
    same_gradients(method, judge, by_name)


def test_it_has_the_authors_values() -> None:
    with torch.device("meta"):
        method: Any = build_method("roberta")
    config = method.backbone.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (12, 768, 12)
    assert (config.intermediate_size, config.max_position_embeddings, config.vocab_size) == (3072, 514, 50_265)
    assert config.hidden_act == "gelu"
    assert config.layer_norm_eps == method.head.norm.eps == 1e-5
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.1, 0.1)
    mask = TokenMask(rounding="drawn", special=True, first_random=4)
    assert method.inputs == TextSpec(tokenizer="", length=512, masks=(mask,))
    assert method.most_masked == 77
    # Those of transformers' roberta-base without its pooler; its one segment adds nothing here.
    assert sum(p.numel() for p in method.backbone.parameters()) == 124_055_040
    assert sum(p.numel() for p in method.backbone.parameters() if p.requires_grad) == 124_055_040 - 768


def test_weights_begin_at_a_normal_distribution_and_segments_and_padding_add_nothing() -> None:
    method: Any = build_method("roberta", **{**TINY["roberta"], "width": 64})
    embeddings = method.backbone.embeddings
    assert not embeddings.token_type_embeddings.weight.any()
    assert not embeddings.token_type_embeddings.weight.requires_grad
    assert not embeddings.word_embeddings.weight[PAD].any()
    kernels = [p for p in method.parameters() if p.ndim > 1 and p.requires_grad]
    drawn = torch.cat([p[p != 0] for p in kernels])
    assert drawn.std().item() == pytest.approx(0.02, rel=0.02)
    assert drawn.abs().max() > 0.06, "not cut off"


def drawn_masks(shards: ShardSet, epochs: int = 1, **changes: Any) -> Any:
    """(tokens, masked tokens, labels, lengths) of all texts, a mask each."""
    method: Any = build_method("roberta", **{**TINY["roberta"], **changes})
    found: list[tuple[Any, ...]] = []
    with Loader(shards, method.inputs, 50, threads=1) as loader:
        for _ in range(epochs):
            for batch in loader:
                given, masked = parts_of(batch)
                found.append((given.tokens, masked.tokens, masked.labels, given.lengths))
    return (torch.cat(column) for column in zip(*found, strict=True))


def test_the_batch_masks_as_the_authors_do(texts_webdataset: ShardSet) -> None:
    tokens, shown, labels, lengths = drawn_masks(texts_webdataset, epochs=60)
    chosen = labels != -100
    assert torch.equal(labels[chosen], tokens[chosen])
    assert torch.equal(shown[~chosen], tokens[~chosen])
    # Special tokens as often as others, padding never.
    inside = torch.arange(tokens.shape[1]) < lengths[:, None]
    assert not chosen[~inside].any()
    share = chosen.sum() / inside.sum()
    assert share.item() == pytest.approx(0.15, abs=0.005)
    for token in (CLS, SEP):
        assert chosen[tokens == token].double().mean().item() == pytest.approx(share.item(), abs=0.012)
    assert (shown[chosen] == MASK).double().mean().item() == pytest.approx(0.8, abs=0.015)
    assert (shown[chosen] == tokens[chosen]).double().mean().item() == pytest.approx(0.1, abs=0.015)
    other = shown[chosen & (shown != tokens) & (shown != MASK)]
    assert other.min() >= FIRST, "no special token stands at random"


def test_the_share_is_met_where_texts_are_short(texts_webdataset: ShardSet) -> None:
    """Of ten tokens int(1.5 + U) are hidden: one or two, where rounding down would have one."""
    mask = TokenMask(vocabulary=50, mask_id=3, rounding="drawn")
    found = mask.draw(0, 0, np.arange(20_000), np.full((20_000, 10), 7), np.full(20_000, 10))
    assert set(found.masked_count.tolist()) == {1, 2}
    assert found.masked_count.double().mean().item() == pytest.approx(1.5, abs=0.02)
    short = mask.draw(0, 0, np.arange(2000), np.full((2000, 5), 7), np.full(2000, 5))
    assert set(short.masked_count.tolist()) == {0, 1}, "of a short text there may be nothing to predict"
    assert TokenMask(rounding="drawn").wanted(np.array([10, 20, 512])).tolist() == [2, 3, 77]


def test_masks_are_new_in_each_epoch_and_the_same_in_the_same_one(texts_webdataset: ShardSet) -> None:
    method: Any = tiny("roberta")
    found = []
    for epochs in (2, 1):
        with Loader(texts_webdataset, method.inputs, 200, shuffle=False, threads=1) as loader:
            found += [parts_of(next(iter(loader)))[1].labels for _ in range(epochs)]
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])


def test_whole_words_are_hidden_whole_and_special_tokens_alone(tmp_path: Path, texts_webdataset: ShardSet) -> None:
    from tokenizers import Tokenizer

    path = texts.wordpiece(tmp_path / "pieces.json")
    tokens, _, labels, lengths = drawn_masks(
        texts_webdataset, epochs=10, tokenizer=str(path), whole_words=True, mask_ratio=0.3
    )
    library = Tokenizer.from_file(str(path))
    pieces = torch.tensor([library.id_to_token(i).startswith("##") for i in range(library.get_vocab_size())])
    chosen = labels != -100
    limit = torch.arange(tokens.shape[1]) < lengths[:, None] - 1
    goes_on = pieces[tokens] & limit
    assert goes_on.any()
    apart = (chosen[:, 1:] != chosen[:, :-1]) & goes_on[:, 1:]
    # A word that is longer than all that is wanted is taken in part; this is rare.
    assert apart.sum() < 0.02 * goes_on.sum()
    alone = (tokens[:, 0] == CLS) & chosen[:, 0] & ~chosen[:, 1]
    assert alone.any()


def test_a_tokenizer_without_padding_is_refused(tmp_path: Path) -> None:
    import json

    content = json.loads(texts.words().read_text(encoding="utf-8"))
    content["added_tokens"] = [each for each in content["added_tokens"] if each["content"] != "[PAD]"]
    content["model"]["vocab"] = {("pad" if k == "[PAD]" else k): v for k, v in content["model"]["vocab"].items()}
    path = tmp_path / "unpadded.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=r"unpadded.json has no token <pad> or \[PAD\], from which positions"):
        build_method("roberta", **{**TINY["roberta"], "tokenizer": str(path)})
