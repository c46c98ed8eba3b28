"""BERT beside `transformers` with the same weights, and the facts of the authors' code."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models import build_method
from headrace.models.parts.texts import chosen_places
from headrace.pipeline import Batch, Loader, TextSpec, TokenMask
from headrace.shards import ShardSet
from tests import texts
from tests.models.text_batches import batches_of, parts_of, same_gradients, texts_of, with_weights_of
from tests.models.tiny_methods import TINY, tiny

pytestmark = pytest.mark.peer("tokenizers", "transformers")

CLS, SEP, MASK = 2, 3, 4


def with_masked(batch: Batch, **changes: Tensor) -> Batch:
    texts, masked = parts_of(batch)
    return replace(batch, streams={"text": replace(texts, masks=[masked._replace(**changes)])})


def judge_of(method: Any) -> Any:
    """`transformers`' model with the weights of ours."""
    from transformers import BertForPreTraining

    names = {
        "head.dense": "cls.predictions.transform.dense", "head.norm": "cls.predictions.transform.LayerNorm",
        "next_sentence": "cls.seq_relationship", "backbone": "bert",
    }  # fmt: skip
    tied = {"head.bias": ["cls.predictions.bias", "cls.predictions.decoder.bias"]}
    tied["head.weight"] = ["cls.predictions.decoder.weight"]
    return with_weights_of(method, BertForPreTraining(method.backbone.config), names, tied)


def test_with_the_same_weights_it_is_transformers_with_its_gradient(texts_webdataset: ShardSet) -> None:
    """Up to what the authors add to the number of tokens, by which their sum is divided."""
    method: Any = build_method("bert", **TINY["bert"], dropout=0.0).double()
    nn.init.normal_(method.head.bias)  # which is zero at first
    judge: Any = judge_of(method)
    batch = batches_of(method, texts_webdataset)[0]
    given, masked = parts_of(batch)
    assert len(set(given.lengths.tolist())) > 3
    theirs = judge(
        input_ids=masked.tokens, attention_mask=given.attention.long(), token_type_ids=given.segments,
        labels=masked.labels, next_sentence_label=given.broken,
    )  # fmt: skip
    number = int(masked.masked_count.sum())
    of_tokens = F.cross_entropy(theirs.prediction_logits.flatten(0, 1), masked.labels.flatten())
    expected = theirs.loss - of_tokens + of_tokens * number / (number + 1e-5)
    found = method.loss(batch)
    torch.testing.assert_close(found["loss"], expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(found["masked"] + found["next"], expected.detach(), rtol=1e-9, atol=0)
    expected.backward()
    found["loss"].backward()
    by_name = {
        "backbone.embeddings.word_embeddings.weight": "bert.embeddings.word_embeddings.weight",
        "backbone.embeddings.position_embeddings.weight": "bert.embeddings.position_embeddings.weight",
        "backbone.embeddings.token_type_embeddings.weight": "bert.embeddings.token_type_embeddings.weight",
        "backbone.encoder.layer.0.attention.self.query.weight": "bert.encoder.layer.0.attention.self.query.weight",
        "backbone.pooler.dense.weight": "bert.pooler.dense.weight",
        "head.dense.weight": "cls.predictions.transform.dense.weight",
        "head.bias": "cls.predictions.bias",
        "next_sentence.bias": "cls.seq_relationship.bias",
    }
    same_gradients(method, judge, by_name)


def test_it_has_the_authors_values() -> None:
    with torch.device("meta"):
        method: Any = build_method("bert")
    config = method.backbone.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (12, 768, 12)
    assert (config.intermediate_size, config.max_position_embeddings, config.vocab_size) == (3072, 512, 30_522)
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.1, 0.1)
    assert config.layer_norm_eps == method.head.norm.eps == 1e-12
    assert method.inputs == TextSpec(tokenizer="", length=128, masks=(TokenMask(most=20),), pair="next")
    assert method.most_masked == 19
    # 109,482,240 of google-research's checkpoint, the head's layer and norm, its bias, and two answers.
    assert sum(p.numel() for p in method.backbone.parameters()) == 109_482_240
    assert sum(p.numel() for p in method.parameters()) == 109_482_240 + 768 * 769 + 2 * 768 + 30_522 + 2 * 769


def test_gelu_is_the_tanh_form_in_the_network_and_in_the_head() -> None:
    method: Any = tiny("bert")
    x = torch.linspace(-4, 4, 101, dtype=torch.float64)
    expected = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    torch.testing.assert_close(method.backbone.encoder.layer[0].intermediate.intermediate_act_fn(x), expected)
    method.head.dense = method.head.norm = nn.Identity()
    method.head.weight = nn.Parameter(torch.eye(101, dtype=torch.float64))
    method.head.bias = nn.Parameter(torch.zeros(101, dtype=torch.float64))
    torch.testing.assert_close(method.head(x), expected)


def test_weights_begin_at_a_normal_distribution_that_is_cut_off() -> None:
    method: Any = build_method("bert", **{**TINY["bert"], "width": 64, "heads": 2})
    for name, parameter in method.named_parameters():
        if parameter.ndim > 1:
            assert parameter.abs().max() <= 0.04, name
            # Of a normal distribution between two deviations, 0.8796 of one is left.
            assert parameter.std().item() == pytest.approx(0.0176, rel=0.15), name
        else:
            gain = "norm" in name.lower() and name.endswith("weight")
            assert torch.equal(parameter, torch.full_like(parameter, float(gain))), name


def test_words_are_told_by_their_own_embeddings() -> None:
    method: Any = tiny("bert")
    assert method.head.weight is method.backbone.embeddings.word_embeddings.weight
    assert method.backbone.embeddings.word_embeddings.padding_idx is None
    kernels, _ = method.parameter_groups()
    assert sum(p is method.head.weight for p in kernels.params) == 1


def test_biases_and_norms_do_not_decay() -> None:
    """The authors leave out what is called LayerNorm or bias."""
    method: Any = tiny("bert")
    kernels, vectors = method.parameter_groups()
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    left_out = {name for name in names.values() if name.endswith("bias") or "norm" in name.lower()}
    assert {names[id(p)] for p in vectors.params} == left_out
    assert (kernels.decay_scale, vectors.decay_scale) == (1, 0)


def test_it_begins_at_chance(texts_webdataset: ShardSet) -> None:
    method: Any = tiny("bert")
    found = method.loss(batches_of(method, texts_webdataset)[0])
    assert found["masked"].item() == pytest.approx(math.log(method.backbone.config.vocab_size), rel=0.01)
    assert found["next"].item() == pytest.approx(math.log(2), rel=0.01)


def test_the_batch_masks_as_the_authors_do(texts_webdataset: ShardSet) -> None:
    """80 % hidden, 10 % kept, 10 % any token, of those that are not special; a random one may be the same by chance."""
    method: Any = build_method("bert", **{**TINY["bert"], "mask_ratio": 0.5, "most_masked": None})
    chosen_tokens = hidden = kept = 0
    with Loader(texts_webdataset, method.inputs, 100, threads=1) as loader:
        while chosen_tokens < 100_000:
            for batch in loader:
                given, masked = parts_of(batch)
                chosen = masked.labels != -100
                special = (given.tokens == CLS) | (given.tokens == SEP) | ~given.attention
                assert not (chosen & special).any()
                assert torch.equal(masked.labels[chosen], given.tokens[chosen])
                assert torch.equal(masked.tokens[~chosen], given.tokens[~chosen])
                chosen_tokens += int(chosen.sum())
                hidden += int((chosen & (masked.tokens == MASK)).sum())
                kept += int((chosen & (masked.tokens == given.tokens)).sum())
    assert hidden / chosen_tokens == pytest.approx(0.8, abs=0.01)
    assert kept / chosen_tokens == pytest.approx(0.1, abs=0.01)


def test_only_what_is_to_be_predicted_counts(texts_webdataset: ShardSet) -> None:
    method: Any = tiny("bert").eval()
    batch = batches_of(method, texts_webdataset)[0]
    given, masked = parts_of(batch)
    places = chosen_places(masked.labels, method.most_masked)
    loss = method.loss(batch)["masked"]
    # Other labels at the same places, and the same labels at fewer.
    other = torch.where(masked.labels == -100, masked.labels, (masked.labels + 1) % 400)
    assert method.loss(with_masked(batch, labels=other))["masked"] != loss
    logits = method.head(method.states(masked.tokens, given)).detach()
    count = (masked.labels != -100).sum()
    slow = sum(
        float(-logits[row, place].double().log_softmax(0)[masked.labels[row, place]])
        for row, place in (masked.labels != -100).nonzero().tolist()
    )
    assert loss.item() == pytest.approx(slow / (int(count) + 1e-5), rel=1e-5)
    assert (masked.labels.gather(1, places) != -100).sum() == count


def test_chosen_places_are_all_and_in_order() -> None:
    labels = torch.tensor([[-100, 5, -100, 6, -100], [-100, -100, -100, -100, 7], [1, 2, 3, -100, -100]])
    assert chosen_places(labels, 3).tolist() == [[1, 3, 0], [4, 0, 1], [0, 1, 2]]
    assert chosen_places(labels, 9).shape == (3, 5)


def test_padding_does_not_reach_the_logits(texts_webdataset: ShardSet) -> None:
    method: Any = tiny("bert").eval()
    whole = TextSpec(tokenizer=method.inputs.tokenizer, length=24)
    batch = next(
        batch for batch in batches_of(method, texts_webdataset, whole) if int(texts_of(batch).lengths.min()) < 16
    )
    given = texts_of(batch)
    row = int(given.lengths.argmin())
    length = int(given.lengths[row])
    noise = torch.where(given.attention, given.tokens, torch.randint_like(given.tokens, 400))
    with torch.no_grad():
        states, noisy = method.states(given.tokens, given), method.states(noise, given)
        alone = replace(
            given, tokens=given.tokens[row : row + 1, :length], attention=given.attention[row : row + 1, :length],
            segments=given.segments[row : row + 1, :length],
        )  # fmt: skip
        short = method.states(alone.tokens, alone)
        torch.testing.assert_close(method.head(noisy)[given.attention], method.head(states)[given.attention])
        torch.testing.assert_close(method.head(short)[0], method.head(states)[row, :length], rtol=1e-5, atol=1e-5)


def test_features_are_the_mean_of_a_texts_states(texts_webdataset: ShardSet) -> None:
    method: Any = tiny("bert").eval()
    batch = batches_of(method, texts_webdataset, method.probe_inputs)[0]
    given = texts_of(batch)
    assert given.masks == []
    assert not given.segments.any()
    with torch.no_grad():
        found, states = method.encode(batch), method.states(given.tokens, given)
    for row, length in enumerate(given.lengths.tolist()):
        torch.testing.assert_close(found[row], states[row, :length].mean(0))


def test_accuracy_is_of_masks_alone(texts_webdataset: ShardSet) -> None:
    """A head that always names the token it sees is right on what is kept, and never where [MASK] stands."""
    method: Any = tiny("bert").eval()
    batch = batches_of(method, texts_webdataset)[0]
    given, masked = parts_of(batch)

    class Answers(nn.Module):
        def __init__(self, tokens: Tensor) -> None:
            super().__init__()
            self.answers = F.one_hot(tokens.gather(1, chosen_places(masked.labels, method.most_masked)), 405).float()

        def forward(self, states: Tensor) -> Tensor:
            return self.answers

    method.head = Answers(masked.tokens)
    assert ((masked.labels == masked.tokens) & (masked.labels != -100)).any()
    assert method.loss(batch)["mask_accuracy"] == 0
    method.head = Answers(given.tokens)
    assert method.loss(batch)["mask_accuracy"] == 1


def test_a_text_of_one_word_needs_no_next_sentence(texts_webdataset: ShardSet) -> None:
    method: Any = build_method("bert", **TINY["bert"], next_sentence=False)
    assert method.inputs.pair is None
    assert method.backbone.pooler is None
    found = method.loss(batches_of(method, texts_webdataset)[0])
    assert found.keys() == {"loss", "mask_accuracy"}


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    for changes, message in (
        ({"width": 30, "heads": 4}, "BERTConfig.width must be a multiple of heads, got 30"),
        ({"length": 600}, "BERTConfig.positions must be at least length, got 512"),
        ({"dropout": 1.0}, r"BERTConfig.dropout must be in \[0, 1\), got 1.0"),
        ({"depth": 0}, "BERTConfig.depth must be at least 1, got 0"),
        ({"tokenizer": str(tmp_path / "none.json")}, "none.json: not a tokenizer.json"),
        ({"tokenizer": str(texts.sentinels(tmp_path / "t5.json"))}, r"t5.json has no token \[MASK\] or <mask>"),
    ):
        with pytest.raises(ValueError, match=message):
            build_method("bert", **changes)


def test_without_transformers_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ImportError, match=r"bert needs the library transformers: pip install headrace\[text\]"):
        build_method("bert")
