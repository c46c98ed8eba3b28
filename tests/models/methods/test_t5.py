"""T5 beside `transformers` with the same weights, and the facts of the authors' code."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from headrace.models import build_method
from headrace.pipeline import Batch, CorruptedSpans, SpanMask, TextSpec
from headrace.shards import ShardSet
from tests import texts
from tests.models.text_batches import batches_of, same_gradients, texts_of, with_weights_of
from tests.models.tiny_methods import TINY, tiny

pytestmark = pytest.mark.peer("tokenizers", "transformers")

CLS, SEP = 2, 3


def noisy_of(batch: Batch) -> CorruptedSpans:
    (noisy,) = texts_of(batch).masks
    assert isinstance(noisy, CorruptedSpans)
    return noisy


def judge_of(method: Any) -> Any:
    from transformers import T5ForConditionalGeneration

    tied = {"backbone.shared.weight": ["lm_head.weight"]}
    return with_weights_of(method, T5ForConditionalGeneration(method.backbone.config), {"backbone": ""}, tied)


def test_with_the_same_weights_it_is_transformers_with_its_gradient(texts_webdataset: ShardSet) -> None:
    method: Any = build_method("t5", **TINY["t5"], dropout=0.0, normalizer_weight=0.0).double()
    judge = judge_of(method)
    batch = batches_of(method, texts_webdataset)[0]
    noisy = noisy_of(batch)
    assert len(set(noisy.input_count.tolist())) > 3
    before = torch.full((len(noisy.inputs), 1), CLS)
    inputs = torch.cat([before, noisy.inputs], dim=1)
    attention = (torch.arange(inputs.shape[1]) < noisy.input_count[:, None] + 1).long()
    theirs = judge(input_ids=inputs, attention_mask=attention, labels=noisy.labels)
    found = method.loss(batch)
    torch.testing.assert_close(found["loss"], theirs.loss, rtol=1e-9, atol=0)
    theirs.loss.backward()
    found["loss"].backward()
    names = (
        "shared.weight", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "encoder.block.1.layer.1.DenseReluDense.wi.weight", "decoder.block.0.layer.1.EncDecAttention.k.weight",
        "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "decoder.final_layer_norm.weight",
    )  # fmt: skip
    same_gradients(method, judge, {f"backbone.{name}": name for name in names})
    # The share of right answers, one text at a time.
    right = (theirs.logits.argmax(-1) == noisy.labels).sum() / (noisy.labels != -100).sum()
    torch.testing.assert_close(found["accuracy"], right)


def test_the_normalizer_is_kept_near_one(texts_webdataset: ShardSet) -> None:
    method: Any = build_method("t5", **TINY["t5"]).double().eval()
    batch = batches_of(method, texts_webdataset)[0]
    logits, labels = method.named(texts_of(batch))
    asked = labels != -100
    expected = F.cross_entropy(logits[asked], labels[asked]) + 1e-4 * logits[asked].logsumexp(-1).square().mean()
    torch.testing.assert_close(method.loss(batch)["loss"], expected, rtol=1e-9, atol=0)
    # At chance: ln T, and what is added.
    with torch.no_grad():
        method.backbone.shared.weight.zero_()
    size = math.log(method.backbone.config.vocab_size)
    assert method.loss(batch)["loss"].item() == pytest.approx(size + 1e-4 * size**2, rel=1e-6)


def test_it_has_the_authors_values() -> None:
    with torch.device("meta"):
        method: Any = build_method("t5")
    config = method.backbone.config
    assert (config.num_layers, config.num_decoder_layers, config.d_model, config.d_ff) == (12, 12, 768, 3072)
    assert (config.num_heads, config.d_kv, config.vocab_size, config.dropout_rate) == (12, 64, 32_128, 0.1)
    assert (config.relative_attention_num_buckets, config.relative_attention_max_distance) == (32, 128)
    assert config.layer_norm_epsilon == 1e-6
    assert config.feed_forward_proj == "relu"
    assert method.inputs == TextSpec(tokenizer="", length=569, window="drawn", masks=(SpanMask(),))
    assert sum(p.numel() for p in method.parameters()) == 222_903_552, "220 million in the paper"
    assert not any(name.endswith("bias") for name, _ in method.named_parameters())


def test_weights_begin_as_in_mesh_tensorflow() -> None:
    """The scale of attention is in the first weights of its queries."""
    method: Any = build_method("t5", **{**TINY["t5"], "width": 64, "inner": 256, "head_width": 32})
    block = method.backbone.encoder.block[0]
    attention, within = block.layer[0].SelfAttention, block.layer[1].DenseReluDense
    for part, std in (
        (method.backbone.shared, 1.0), (attention.q, (64 * 32) ** -0.5), (attention.k, 64**-0.5),
        (attention.o, (2 * 32) ** -0.5), (within.wi, 64**-0.5), (within.wo, 256**-0.5),
    ):  # fmt: skip
        assert part.weight.std().item() == pytest.approx(std, rel=0.05)
    assert attention.scaling == 1.0


def test_relative_positions_have_buckets_up_to_a_distance() -> None:
    method: Any = tiny("t5")
    attention = method.backbone.encoder.block[0].layer[0].SelfAttention
    distance = torch.arange(-300, 301)
    both = attention._relative_position_bucket(distance, bidirectional=True)
    assert both[300] == 0
    assert (both[300:].diff() >= 0).all()
    assert (both[:301].diff() <= 0).all()
    assert len(set(both[distance >= 128].tolist())) == len(set(both[distance <= -128].tolist())) == 1
    assert both.unique().numel() == 31  # 0 on either side is one
    earlier = attention._relative_position_bucket(distance, bidirectional=False)
    assert not earlier[distance > 0].any(), "what comes later has no bucket of its own"
    # One table for each stack, in its first block.
    tables = [name for name, _ in method.named_parameters() if "relative_attention_bias" in name]
    assert len(tables) == 2


def test_inputs_and_labels_interleave_to_the_text(texts_webdataset: ShardSet) -> None:
    """The words of the tokenizer have no sentinels: they stand behind its vocabulary, the last for the first span."""
    method: Any = tiny("t5")
    first = method.backbone.config.vocab_size - 1
    for batch in batches_of(method, texts_webdataset):
        given, noisy = texts_of(batch), noisy_of(batch)
        for row in range(len(batch)):
            inputs = noisy.inputs[row, : noisy.input_count[row]].tolist()
            labels = noisy.labels[row, : noisy.label_count[row]].tolist()
            assert inputs[-1] == labels[-1] == SEP
            seen = [token for token in inputs if token > first - 8]
            assert seen == list(range(first, first - len(seen), -1))
            assert [token for token in labels if token > first - 8][: len(seen)] == seen
            spans: dict[int, list[int]] = {}
            for token in labels[:-1]:
                if token > first - 8:
                    spans[token] = last = []
                else:
                    last.append(token)
            mended = [each for token in inputs[:-1] for each in spans.get(token, [token])]
            assert mended == given.tokens[row, 1 : given.lengths[row] - 1].tolist()


def test_the_decoder_sees_what_came_before_and_the_encoder_what_is_there(texts_webdataset: ShardSet) -> None:
    method: Any = tiny("t5").eval()
    batch = batches_of(method, texts_webdataset)[0]
    given, noisy = texts_of(batch), noisy_of(batch)
    with torch.no_grad():
        logits, _ = method.named(given)
        later = noisy.labels.clone()
        later[:, 3:] = torch.where(later[:, 3:] == -100, -100, 7)
        changed, _ = method.named(replace(given, masks=[noisy._replace(labels=later)]))
        torch.testing.assert_close(changed[:, :4], logits[:, :4])
        assert not torch.allclose(changed[:, 4:], logits[:, 4:])
        padding = torch.arange(noisy.inputs.shape[1]) >= noisy.input_count[:, None]
        assert padding.any()
        noise = torch.where(padding, 9, noisy.inputs)
        same, _ = method.named(replace(given, masks=[noisy._replace(inputs=noise)]))
        torch.testing.assert_close(same, logits)
        noise = torch.where(padding, noisy.inputs, 9)
        other, _ = method.named(replace(given, masks=[noisy._replace(inputs=noise)]))
        assert not torch.allclose(other, logits)


def test_a_tokenizer_with_sentinels_has_its_own(tmp_path: Path, texts_webdataset: ShardSet) -> None:
    path = texts.sentinels(tmp_path / "t5.json")
    method: Any = build_method("t5", **{**TINY["t5"], "tokenizer": str(path)})
    assert method.backbone.config.vocab_size == 600
    noisy = noisy_of(batches_of(method, texts_webdataset)[0])
    assert (noisy.inputs == 599).sum(1).eq(1).all(), "<extra_id_0> is the last token"
    assert method.before.numel() == 0


def test_readings_say_what_was_lost(texts_webdataset: ShardSet) -> None:
    method: Any = tiny("t5").eval()
    batch = batches_of(method, texts_webdataset)[0]
    given, noisy = texts_of(batch), noisy_of(batch)
    readings = method.readings(batch)
    logits, labels = method.named(given)
    assert len(readings) == len(batch)
    from headrace.pipeline.texts.tokenizer import TextTokenizer

    name = TextTokenizer(method.config.tokenizer).name
    for row, pieces in enumerate(readings):
        assert [piece.token for piece in pieces] == [
            name(t) for t in given.tokens[row, 1 : given.lengths[row] - 1].tolist()
        ]
        lost = [piece for piece in pieces if piece.said is not None]
        spoken = [
            (name(token), name(said))
            for token, said in zip(labels[row].tolist(), logits[row].argmax(1).tolist(), strict=True)
            if token != -100 and token < 405
        ][:-1]  # without the end
        assert [(piece.token, piece.said) for piece in lost] == spoken
        assert sum(bool(piece.shown) for piece in lost) == int((noisy.noise[row, 1:] & ~noisy.noise[row, :-1]).sum())
