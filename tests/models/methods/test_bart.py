"""BART beside `transformers` with the same weights, and the facts of fairseq's code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from headrace.models import build_method
from headrace.pipeline import Batch, InfilledTexts, Infilling, TextSpec
from headrace.shards import ShardSet
from tests import texts
from tests.models.text_batches import batches_of, same_gradients, texts_of, with_weights_of
from tests.models.tiny_methods import TINY, tiny

pytestmark = pytest.mark.peer("tokenizers", "transformers")

PAD, CLS, SEP, MASK = 0, 2, 3, 4


def noisy_of(batch: Batch) -> InfilledTexts:
    (noisy,) = texts_of(batch).masks
    assert isinstance(noisy, InfilledTexts)
    return noisy


def judge_of(method: Any) -> Any:
    from transformers import BartForConditionalGeneration

    tied = {"backbone.shared.weight": ["lm_head.weight"]}
    judge = BartForConditionalGeneration(method.backbone.config)
    return with_weights_of(method, judge, {"backbone": "model"}, tied, final_logits_bias=judge.final_logits_bias)


def test_with_the_same_weights_it_is_transformers_with_its_gradient(texts_webdataset: ShardSet) -> None:
    method: Any = build_method("bart", **TINY["bart"], dropout=0.0).double()
    judge = judge_of(method)
    batch = batches_of(method, texts_webdataset)[0]
    noisy = noisy_of(batch)
    assert len(set(noisy.input_count.tolist())) > 3
    attention = (torch.arange(noisy.inputs.shape[1]) < noisy.input_count[:, None]).long()
    theirs = judge(input_ids=noisy.inputs, attention_mask=attention, labels=noisy.labels)
    found = method.loss(batch)
    torch.testing.assert_close(found["loss"], theirs.loss, rtol=1e-9, atol=0)
    theirs.loss.backward()
    found["loss"].backward()
    names = (
        "shared.weight", "encoder.embed_positions.weight", "encoder.layers.0.self_attn.q_proj.weight",
        "decoder.embed_positions.weight", "decoder.layers.1.encoder_attn.k_proj.weight", "decoder.layers.1.fc1.bias",
    )  # fmt: skip
    same_gradients(method, judge, {f"backbone.{name}": f"model.{name}" for name in names})


def test_it_has_the_authors_values() -> None:
    with torch.device("meta"):
        method: Any = build_method("bart")
    config = method.backbone.config
    assert (config.encoder_layers, config.decoder_layers, config.d_model) == (12, 12, 1024)
    assert (config.encoder_attention_heads, config.encoder_ffn_dim, config.vocab_size) == (16, 4096, 50_265)
    assert (config.dropout, config.attention_dropout, config.activation_dropout) == (0.1, 0.1, 0.0)
    assert config.max_position_embeddings == 1024
    noise = Infilling(permuted=1.0, ratio=0.3, mean_length=3.5, random=0.1)
    assert method.inputs == TextSpec(tokenizer="", length=512, whole_words=True, masks=(noise,))
    # Of the released bart.large, 406,291,456 in transformers, which shares the embeddings as theirs does.
    assert sum(p.numel() for p in method.parameters()) == 406_291_456


def test_weights_begin_at_a_normal_distribution() -> None:
    method: Any = build_method("bart", **{**TINY["bart"], "width": 64})
    assert not method.backbone.shared.weight[PAD].any()
    drawn = torch.cat([p[p != 0].flatten() for p in method.parameters() if p.ndim > 1])
    assert drawn.std().item() == pytest.approx(0.02, rel=0.02)


def test_the_decoder_begins_with_the_end_and_says_the_whole_text(texts_webdataset: ShardSet) -> None:
    method: Any = tiny("bart").eval()
    batch = batches_of(method, texts_webdataset)[0]
    given, noisy = texts_of(batch), noisy_of(batch)
    assert method.start == SEP
    seen: list[Any] = []
    method.backbone.decoder.embed_tokens.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    method.named(given)
    shown = seen[-1]
    assert (shown[:, 0] == SEP).all()
    assert (shown[:, 1] == CLS).all()
    for row, length in enumerate(given.lengths.tolist()):
        assert noisy.labels[row, :length].tolist() == given.tokens[row, :length].tolist()
        assert (noisy.labels[row, length:] == -100).all()
        assert shown[row, 1:length].tolist() == given.tokens[row, : length - 1].tolist()
        assert (shown[row, length + 1 :] == PAD).all()


def test_readings_say_the_whole_text(texts_webdataset: ShardSet) -> None:
    method: Any = tiny("bart").eval()
    batch = batches_of(method, texts_webdataset)[0]
    readings = method.readings(batch)
    assert [len(pieces) for pieces in readings] == texts_of(batch).lengths.tolist()
    assert all(piece.said is not None for pieces in readings for piece in pieces)


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    path = texts.unsplit(tmp_path / "endless.json")
    with pytest.raises(ValueError, match=r"endless.json has no token <pad> or \[PAD\], or puts none behind a text"):
        build_method("bart", **{**TINY["bart"], "tokenizer": str(path)})
    with pytest.raises(ValueError, match=r"BARTConfig.permuted must be above 0 where mask_ratio is 0, got 0"):
        build_method("bart", permuted=0.0, mask_ratio=0.0)
