"""ModernBERT beside `transformers` with the same weights, and the facts of the authors' settings."""

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
    from transformers import ModernBertForMaskedLM

    names = {"head.dense": "head.dense", "head.norm": "head.norm", "backbone": "model"}
    tied = {"head.bias": ["decoder.bias"], "head.weight": ["decoder.weight"]}
    return with_weights_of(method, ModernBertForMaskedLM(method.backbone.config), names, tied)


def test_with_the_same_weights_it_is_transformers_with_its_gradient(texts_webdataset: ShardSet) -> None:
    """Its rotations are float32."""
    method: Any = build_method("modernbert", **TINY["modernbert"]).double()
    nn.init.normal_(method.head.bias)
    judge = judge_of(method)
    batch = batches_of(method, texts_webdataset)[0]
    given, masked = parts_of(batch)
    assert int(given.lengths.max()) > 2 * TINY["modernbert"]["local"]
    assert int(given.lengths.min()) < int(given.lengths.max()) - TINY["modernbert"]["local"]
    theirs = judge(input_ids=masked.tokens, attention_mask=given.attention.long())
    expected = F.cross_entropy(theirs.logits.flatten(0, 1), masked.labels.flatten())
    found = method.loss(batch)
    torch.testing.assert_close(found["loss"], expected, rtol=1e-6, atol=0)
    expected.backward()
    found["loss"].backward()
    by_name = {
        "backbone.embeddings.tok_embeddings.weight": "model.embeddings.tok_embeddings.weight",
        "backbone.layers.0.attn.Wqkv.weight": "model.layers.0.attn.Wqkv.weight",
        "backbone.layers.2.mlp.Wi.weight": "model.layers.2.mlp.Wi.weight",
        "backbone.final_norm.weight": "model.final_norm.weight",
        "head.dense.weight": "head.dense.weight",
    }
    same_gradients(method, judge, by_name, rtol=1e-5)


def test_it_has_the_authors_values() -> None:
    with torch.device("meta"):
        method: Any = build_method("modernbert")
    config = method.backbone.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (22, 768, 12)
    assert (config.intermediate_size, config.vocab_size, config.local_attention) == (1152, 50_368, 128)
    assert [kind == "full_attention" for kind in config.layer_types[:7]] == [True, False, False] * 2 + [True]
    assert {each["rope_theta"] for each in config.rope_parameters.values()} == {10_000.0}
    assert method.inputs == TextSpec(tokenizer="", length=1024, masks=(TokenMask(ratio=0.3),))
    assert isinstance(method.backbone.layers[0].attn_norm, nn.Identity)
    assert [name for name, _ in method.named_parameters() if name.endswith("bias")] == ["head.bias"]
    # 149,014,272 of transformers' ModernBertModel for answerdotai/ModernBERT-base.
    assert sum(p.numel() for p in method.backbone.parameters()) == 149_014_272


def test_weights_that_lead_out_of_blocks_begin_smaller() -> None:
    method: Any = build_method("modernbert", **{**TINY["modernbert"], "width": 64, "inner": 96})
    block = method.backbone.layers[1]
    shrunk = 0.8796 * 0.02  # of a normal distribution between two deviations
    for part, std in (
        (block.attn.Wqkv, shrunk), (block.mlp.Wi, shrunk), (method.backbone.embeddings.tok_embeddings, shrunk),
        (block.attn.Wo, shrunk / 6**0.5), (block.mlp.Wo, shrunk / 6**0.5), (method.head.dense, shrunk / 6**0.5),
    ):  # fmt: skip
        assert part.weight.std().item() == pytest.approx(std, rel=0.05)


def test_it_begins_at_chance(texts_webdataset: ShardSet) -> None:
    method: Any = tiny("modernbert")
    found = method.loss(batches_of(method, texts_webdataset)[0])
    assert found["loss"].item() == pytest.approx(math.log(method.backbone.config.vocab_size), rel=0.02)


def test_padding_and_what_is_far_do_not_reach_a_token(texts_webdataset: ShardSet) -> None:
    """With one block of local attention a token sees the four on each of its sides."""
    method: Any = build_method("modernbert", **TINY["modernbert"]).eval()
    method.backbone.layers = method.backbone.layers[1:2]
    given = texts_of(batches_of(method, texts_webdataset)[0])
    row = int(given.lengths.argmax())
    place = int(given.lengths[row]) // 2
    with torch.no_grad():
        before = method.states(given.tokens, given)
        assert before.isfinite().all(), "of padding, too"
        for distance, reaches in ((4, True), (5, False), (-4, True), (-5, False)):
            tokens = given.tokens.clone()
            tokens[row, place + distance] = (tokens[row, place + distance] + 1) % 400
            moved = not torch.equal(method.states(tokens, given)[row, place], before[row, place])
            assert moved == reaches, distance
        noise = torch.where(given.attention, given.tokens, 9)
        torch.testing.assert_close(method.states(noise, given)[given.attention], before[given.attention])
