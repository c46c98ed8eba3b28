"""ELECTRA beside `transformers` with the same weights, and the facts of the authors' code."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from headrace.models import build_method
from headrace.models.seeding import seeded
from headrace.pipeline import TextSpec, TokenMask
from headrace.shards import ShardSet
from tests.models.text_batches import batches_of, parts_of, texts_of, with_weights_of
from tests.models.tiny_methods import TINY, tiny

pytestmark = pytest.mark.peer("tokenizers", "transformers")

CLS, SEP, MASK = 2, 3, 4


def judges_of(method: Any) -> tuple[Any, Any]:
    from transformers import ElectraForMaskedLM, ElectraForPreTraining

    names = {
        "head.dense": "generator_predictions.dense", "head.norm": "generator_predictions.LayerNorm",
        "generator": "electra",
    }  # fmt: skip
    tied = {"head.bias": ["generator_lm_head.bias"], "head.weight": ["generator_lm_head.weight"]}
    generator = with_weights_of(method, ElectraForMaskedLM(method.generator.config), names, tied)
    names = {
        "detector.0": "discriminator_predictions.dense", "detector.2": "discriminator_predictions.dense_prediction",
        "backbone": "electra",
    }  # fmt: skip
    return generator, with_weights_of(method, ElectraForPreTraining(method.backbone.config), names, {})


def test_with_the_same_weights_it_is_transformers_with_its_gradient(texts_webdataset: ShardSet) -> None:
    """The tokens that the discriminator sees are drawn from what the generator of transformers says, too."""
    method: Any = build_method("electra", **TINY["electra"], dropout=0.0).double()
    nn.init.normal_(method.head.bias)
    generator, discriminator = judges_of(method)
    batch = batches_of(method, texts_webdataset)[0]
    given, masked = parts_of(batch)
    attention = given.attention.long()
    first = generator(
        input_ids=masked.tokens, attention_mask=attention, token_type_ids=given.segments, labels=masked.labels
    )
    with seeded(5):
        _, *filled_in = method.filled_in(given)
        tokens = method.replaced(given, *filled_in)
    replaced = tokens != given.tokens
    assert replaced.any()
    second = discriminator(
        input_ids=tokens, attention_mask=attention, token_type_ids=given.segments, labels=replaced.long()
    )
    with seeded(5):
        found = method.loss(batch)
    masked_number, number = int(masked.masked_count.sum()), int(attention.sum())
    of_masked = first.loss * masked_number / (masked_number + 1e-6)
    on_text = second.logits[given.attention], replaced[given.attention].double()
    mean = F.binary_cross_entropy_with_logits(*on_text)
    assert second.loss.item() == pytest.approx(mean.item(), rel=1e-6)
    of_replaced = mean * number / (number + 1e-6)
    torch.testing.assert_close(found["masked"], of_masked.detach(), rtol=1e-9, atol=0)
    torch.testing.assert_close(found["detection"], of_replaced.detach(), rtol=1e-9, atol=0)
    torch.testing.assert_close(found["loss"], of_masked + 50 * of_replaced, rtol=1e-9, atol=0)
    (of_masked + 50 * of_replaced).backward()
    found["loss"].backward()
    of_method, of_generator, of_other = (dict(each.named_parameters()) for each in (method, generator, discriminator))
    # The embeddings are one: their gradient is the sum of both.
    for name in ("word_embeddings.weight", "position_embeddings.weight", "LayerNorm.bias"):
        both = of_generator[f"electra.embeddings.{name}"].grad + of_other[f"electra.embeddings.{name}"].grad
        ours = of_method[f"backbone.embeddings.{name}"].grad
        torch.testing.assert_close(ours, both, rtol=1e-9, atol=1e-12)
    layer = "encoder.layer.0.attention.self.query.weight"
    torch.testing.assert_close(of_method[f"generator.{layer}"].grad, of_generator[f"electra.{layer}"].grad)
    torch.testing.assert_close(of_method[f"backbone.{layer}"].grad, of_other[f"electra.{layer}"].grad)


def test_it_has_the_authors_values() -> None:
    with torch.device("meta"):
        method: Any = build_method("electra")
    config, generator = method.backbone.config, method.generator.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (12, 256, 4)
    assert (config.embedding_size, config.intermediate_size, config.vocab_size) == (128, 1024, 30_522)
    assert (generator.num_hidden_layers, generator.hidden_size, generator.num_attention_heads) == (12, 64, 1)
    assert (generator.embedding_size, generator.intermediate_size) == (128, 256)
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.1, 0.1)
    assert (config.hidden_act, method.head.gelu) == ("gelu", "none")
    mask = TokenMask(most=19, hidden=0.85, random=0.0)
    assert method.inputs == TextSpec(tokenizer="", length=128, masks=(mask,))
    assert method.config.detection_weight == 50
    embeddings = 128 * (30_522 + 512 + 2 + 2) + 128 * 256 + 256
    block = 4 * (256 * 256 + 256) + 2 * 256 * 1024 + 1024 + 256 + 4 * 256
    assert sum(p.numel() for p in method.backbone.parameters()) == embeddings + 12 * block


def test_it_begins_at_chance(texts_webdataset: ShardSet) -> None:
    method: Any = tiny("electra")
    found = method.loss(batches_of(method, texts_webdataset)[0])
    vocabulary = method.backbone.config.vocab_size
    assert found["loss"].item() == pytest.approx(math.log(vocabulary) + 50 * math.log(2), rel=0.01)


def test_the_second_loss_asks_nothing_of_the_generator_but_of_what_both_share(texts_webdataset: ShardSet) -> None:
    method: Any = tiny("electra")
    batch = batches_of(method, texts_webdataset)[0]
    texts = texts_of(batch)
    _, *filled_in = method.filled_in(texts)
    tokens = method.replaced(texts, *filled_in)
    method.detector(method.states(tokens, texts)).sum().backward()
    own = [p for name, p in method.named_parameters() if name.startswith(("generator.", "head."))]
    assert own
    assert all(p.grad is None for p in own)
    assert method.generator.embeddings is method.backbone.embeddings
    assert method.head.weight is method.backbone.embeddings.word_embeddings.weight


def test_a_generator_that_always_names_the_text_replaces_nothing(texts_webdataset: ShardSet) -> None:
    method: Any = tiny("electra")
    texts = texts_of(batches_of(method, texts_webdataset)[0])
    _, places, logits, labels = method.filled_in(texts)
    sure = torch.zeros_like(logits).scatter(2, labels.clamp(min=0)[:, :, None], 1000.0)
    assert torch.equal(method.replaced(texts, places, sure, labels), texts.tokens)


def test_only_what_was_to_be_filled_in_is_replaced_and_by_chance_in_training(texts_webdataset: ShardSet) -> None:
    method: Any = tiny("electra")
    batch = batches_of(method, texts_webdataset)[0]
    texts, masked = parts_of(batch)
    _, places, logits, labels = method.filled_in(texts)
    first, second = (method.replaced(texts, places, logits, labels) for _ in range(2))
    chosen = masked.labels != -100
    for tokens in (first, second):
        assert torch.equal(tokens[~chosen], texts.tokens[~chosen])
    assert not torch.equal(first, second)
    method.eval()
    first, second = (method.replaced(texts, places, logits, labels) for _ in range(2))
    assert torch.equal(first, second)
    # With the frequencies of the softmax at temperature 1.
    method.train()
    rows = logits[:1, :1].detach().expand(4000, 1, -1).contiguous()
    rows = torch.zeros_like(rows).scatter(2, torch.tensor([7, 9]).expand(4000, 1, 2), math.log(405.0))
    alone = type(texts)(**{**vars(texts), "tokens": torch.full((4000, 1), 3), "masks": []})
    drawn = method.replaced(alone, torch.zeros(4000, 1, dtype=torch.int64), rows, torch.ones(4000, 1).long())
    assert (drawn == 7).double().mean().item() == pytest.approx(405 / (2 * 405 + 403), abs=0.03)


def test_masks_hide_85_of_100_and_leave_the_rest(texts_webdataset: ShardSet) -> None:
    method: Any = build_method("electra", **{**TINY["electra"], "mask_ratio": 0.5})
    hidden = kept = number = 0
    for _ in range(5):
        for batch in batches_of(method, texts_webdataset, size=100):
            texts, masked = parts_of(batch)
            chosen = masked.labels != -100
            assert not (chosen & ((texts.tokens == CLS) | (texts.tokens == SEP))).any()
            number += int(chosen.sum())
            hidden += int((chosen & (masked.tokens == MASK)).sum())
            kept += int((chosen & (masked.tokens == texts.tokens)).sum())
    assert hidden / number == pytest.approx(0.85, abs=0.015)
    assert hidden + kept == number


def test_what_is_filled_in_is_the_generators_and_what_is_kept_the_other(texts_webdataset: ShardSet) -> None:
    method: Any = tiny("electra").eval()
    batch = batches_of(method, texts_webdataset)[0]
    texts, masked = parts_of(batch)
    with torch.no_grad():
        expected = method.head(method.reader(masked.tokens, texts))
        places = torch.tensor([[5, 2, 3]]).expand(len(batch), 3)
        found = method.token_logits(masked.tokens, texts, places)
        torch.testing.assert_close(found, expected[:, [5, 2, 3]])
        states = method.states(texts.tokens, texts)
        features = method.encode(batch)
    assert states.shape[2] == method.feature_dim == 16
    torch.testing.assert_close(features[0], states[0, : texts.lengths[0]].mean(0))
