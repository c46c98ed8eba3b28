"""ALBERT beside `transformers` with the same weights, and the facts of the authors' code."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from headrace.models import build_method
from headrace.pipeline import TextSpec, TokenMask
from headrace.shards import ShardSet
from tests.models.text_batches import batches_of, parts_of, same_gradients, texts_of, with_weights_of
from tests.models.tiny_methods import TINY, tiny

pytestmark = pytest.mark.peer("tokenizers", "transformers")


def judge_of(method: Any) -> Any:
    from transformers import AlbertForPreTraining

    names = {
        "head.dense": "predictions.dense", "head.norm": "predictions.LayerNorm", "order": "sop_classifier.classifier",
        "backbone": "albert",
    }  # fmt: skip
    tied = {
        "head.bias": ["predictions.bias", "predictions.decoder.bias"],
        "head.weight": ["predictions.decoder.weight"],
    }
    return with_weights_of(method, AlbertForPreTraining(method.backbone.config).eval(), names, tied)


def test_with_the_same_weights_it_is_transformers_with_its_gradient(texts_webdataset: ShardSet) -> None:
    """Up to what the authors add to the number of tokens, by which their sum is divided."""
    method: Any = build_method("albert", **TINY["albert"]).double()
    nn.init.normal_(method.head.bias)
    judge = judge_of(method)
    batch = batches_of(method, texts_webdataset)[0]
    given, masked = parts_of(batch)
    assert given.segments.any()
    theirs = judge(
        input_ids=masked.tokens, attention_mask=given.attention.long(), token_type_ids=given.segments,
        labels=masked.labels, sentence_order_label=given.broken,
    )  # fmt: skip
    number = int(masked.masked_count.sum())
    of_tokens = F.cross_entropy(theirs.prediction_logits.flatten(0, 1), masked.labels.flatten())
    expected = theirs.loss - of_tokens + of_tokens * number / (number + 1e-5)
    found = method.loss(batch)
    torch.testing.assert_close(found["loss"], expected, rtol=1e-9, atol=0)
    expected.backward()
    found["loss"].backward()
    layer = "encoder.albert_layer_groups.0.albert_layers.0"
    by_name = {
        f"backbone.{name}": f"albert.{name}"
        for name in ("embeddings.word_embeddings.weight", "encoder.embedding_hidden_mapping_in.weight",
                     f"{layer}.attention.query.weight", f"{layer}.ffn.bias", "pooler.weight")
    }  # fmt: skip
    by_name |= {"head.dense.weight": "predictions.dense.weight", "order.bias": "sop_classifier.classifier.bias"}
    same_gradients(method, judge, by_name)


def test_it_has_the_authors_values() -> None:
    with torch.device("meta"):
        method: Any = build_method("albert")
    config = method.backbone.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (12, 768, 12)
    assert (config.embedding_size, config.intermediate_size, config.vocab_size) == (128, 3072, 30_000)
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.0, 0.0)
    assert config.layer_norm_eps == method.head.norm.eps == 1e-12
    assert method.inputs == TextSpec(
        tokenizer="", length=512, masks=(TokenMask(most=20, ngram=3),), whole_words=True, pair="order", cut="sentence"
    )
    assert method.most_masked == 20
    # 11,683,584 of transformers' AlbertModel for albert-base-v2.
    assert sum(p.numel() for p in method.backbone.parameters()) == 11_683_584


def test_all_blocks_are_one() -> None:
    method: Any = build_method("albert", **{**TINY["albert"], "depth": 7})
    shallow: Any = build_method("albert", **{**TINY["albert"], "depth": 1})
    assert [p.shape for p in method.parameters()] == [p.shape for p in shallow.parameters()]


def test_it_begins_at_chance(texts_webdataset: ShardSet) -> None:
    method: Any = tiny("albert")
    found = method.loss(batches_of(method, texts_webdataset)[0])
    assert found["masked"].item() == pytest.approx(math.log(method.backbone.config.vocab_size), rel=0.01)
    assert found["order"].item() == pytest.approx(math.log(2), rel=0.01)


def test_texts_without_a_second_segment_are_not_asked_for_an_order(texts_webdataset: ShardSet) -> None:
    from dataclasses import replace

    method: Any = tiny("albert").eval()
    batch = batches_of(method, texts_webdataset)[0]
    given = texts_of(batch)
    broken = given.broken.clone()
    broken[::2] = -100
    some = replace(batch, streams={"text": replace(given, broken=broken)})
    states, *_ = method.filled_in(given)
    answers = method.order(torch.tanh(method.backbone.pooler(states[:, 0])))
    expected = F.cross_entropy(answers[1::2], given.broken[1::2])
    torch.testing.assert_close(method.loss(some)["order"], expected.detach())
    none = replace(batch, streams={"text": replace(given, broken=torch.full_like(broken, -100))})
    found = method.loss(none)
    assert found["order"] == 0
    assert found["loss"].isfinite()


def test_segments_are_of_any_length_and_in_either_order(texts_webdataset: ShardSet) -> None:
    """Half of the pairs are exchanged, whatever their length, so that it does not give the answer away."""
    method: Any = tiny("albert")
    broken, second = [], []
    for _ in range(20):
        for batch in batches_of(method, texts_webdataset, size=50):
            given = texts_of(batch)
            broken.append(given.broken)
            second.append(given.segments.sum(1) / given.lengths)
    exchanged, share = torch.cat(broken), torch.cat(second)
    assert set(exchanged.tolist()) <= {0, 1}
    assert exchanged.double().mean().item() == pytest.approx(0.5, abs=0.05)
    for label in (0, 1):
        assert share[exchanged == label].mean().item() == pytest.approx(0.5, abs=0.1)
