"""SimCSE against the authors' formula, and the facts of their code."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from headrace.models import build_method
from headrace.models.seeding import seeded
from headrace.pipeline import TextSpec
from headrace.shards import ShardSet
from tests.models.text_batches import batches_of, texts_of
from tests.models.tiny_methods import TINY, tiny

pytestmark = pytest.mark.peer("tokenizers", "transformers")


def test_the_loss_is_the_authors_of_two_readings_by_transformers(texts_webdataset: ShardSet) -> None:
    """A slow loop over the texts; the readings are those of transformers' network with the same draws of dropout."""
    method: Any = build_method("simcse", **TINY["simcse"]).double().train()
    batch = batches_of(method, texts_webdataset)[0]
    given = texts_of(batch)
    twice = {
        "input_ids": given.tokens.repeat_interleave(2, 0), "token_type_ids": given.segments.repeat_interleave(2, 0),
        "attention_mask": given.attention.long().repeat_interleave(2, 0),
    }  # fmt: skip
    with seeded(3):
        states = method.backbone(**twice).last_hidden_state[:, 0]
        z = method.projector(states)
    first, second = z[0::2], z[1::2]
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(first)):
        row = torch.stack([F.cosine_similarity(first[i], second[j], dim=0) / 0.05 for j in range(len(second))])
        total = total - (row[i] - row.logsumexp(0))
    with seeded(3):
        found = method.loss(batch)["loss"]
    torch.testing.assert_close(found, total / len(first), rtol=1e-9, atol=0)
    parameters = list(method.parameters())
    theirs = torch.autograd.grad(total / len(first), parameters, allow_unused=True)
    ours = torch.autograd.grad(found, parameters, allow_unused=True)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12)


def test_it_has_the_authors_values() -> None:
    with torch.device("meta"):
        method: Any = build_method("simcse")
    config = method.backbone.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (12, 768, 12)
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.1, 0.1)
    assert method.config.temperature == 0.05
    assert method.inputs == TextSpec(tokenizer="", length=32)


def test_dropout_alone_tells_the_two_readings_apart(texts_webdataset: ShardSet) -> None:
    method: Any = tiny("simcse")
    batch = batches_of(method, texts_webdataset)[0]
    seen: list[Any] = []
    method.projector.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    method.loss(batch)
    assert not torch.equal(seen[-1][0::2], seen[-1][1::2])
    method.eval()
    loss = method.loss(batch)["loss"]
    torch.testing.assert_close(seen[-1][0::2], seen[-1][1::2])
    # The cosine with itself is 1: 20 over the temperature.
    z = F.normalize(seen[-1][0::2].double(), dim=1)
    logits = z @ z.T / 0.05
    torch.testing.assert_close(logits.diagonal(), torch.full((len(z),), 20.0, dtype=torch.float64))
    torch.testing.assert_close(loss.double(), F.cross_entropy(logits, torch.arange(len(z))), rtol=1e-5, atol=1e-6)


def test_it_is_one_direction(texts_webdataset: ShardSet) -> None:
    method: Any = tiny("simcse").double()
    batch = batches_of(method, texts_webdataset)[0]
    seen: list[Any] = []
    method.projector.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    loss = method.loss(batch)["loss"].detach()
    first, second = (F.normalize(x, dim=1) for x in (seen[0][0::2], seen[0][1::2]))
    wanted = torch.arange(len(first))
    torch.testing.assert_close(F.cross_entropy(first @ second.T / 0.05, wanted), loss)
    assert (F.cross_entropy(second @ first.T / 0.05, wanted) - loss).abs() > 1e-4


def test_equal_texts_are_at_chance(texts_webdataset: ShardSet) -> None:
    method: Any = tiny("simcse").eval()
    with torch.no_grad():
        for part in method.projector:
            if isinstance(part, torch.nn.Linear):
                part.weight.zero_()
                part.bias.fill_(1.0)
    batch = batches_of(method, texts_webdataset)[0]
    assert method.loss(batch)["loss"].item() == pytest.approx(math.log(len(batch)), rel=1e-5)


def test_features_are_the_first_tokens_state_without_the_layer_behind_it(texts_webdataset: ShardSet) -> None:
    method: Any = tiny("simcse").eval()
    batch = batches_of(method, texts_webdataset, method.probe_inputs)[0]
    given = texts_of(batch)
    with torch.no_grad():
        states = method.backbone(
            input_ids=given.tokens, attention_mask=given.attention.long(), token_type_ids=given.segments
        ).last_hidden_state
        torch.testing.assert_close(method.encode(batch), states[:, 0])
