"""CLIP beside `transformers` with the same weights, and the facts of the authors' code."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from headrace.models import BackboneConfig, build_method
from headrace.models.losses import clip_loss
from headrace.models.method import Context
from headrace.pipeline import Batch, Inputs, Loader, Texts, TextSpec
from headrace.shards import ShardSet
from headrace.train import OptimConfig
from headrace.train.optim import build_optimizer
from tests.models.tiny_methods import TINY, tiny

pytestmark = pytest.mark.peer("tokenizers", "transformers")

VIT = BackboneConfig(
    name="vit_base_patch32_clip_quickgelu_224",
    options={"img_size": 24, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2},
)


def batch_of(method: Any, shards: ShardSet, inputs: Inputs | None = None) -> Batch:
    with Loader(shards, method.inputs if inputs is None else inputs, 20, shuffle=False, threads=1) as loader:
        return next(iter(loader))


def after(method: Any) -> None:
    with torch.no_grad():
        method.after_step(Context(step=0, epoch=0, steps_per_epoch=1, epochs=1, batch_size=20))


def judge_of(method: Any) -> Any:
    """`transformers`' CLIPModel with the weights of ours."""
    from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig

    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=24, patch_size=8,
        hidden_act="quick_gelu",
    )  # fmt: skip
    text = method.text_tower.config
    judge: Any = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16))
    judge.double()
    state = {f"text_model.{key}": value for key, value in method.text_tower.state_dict().items()}
    names = {
        "cls_token": "embeddings.class_embedding", "pos_embed": "embeddings.position_embedding.weight",
        "patch_embed.proj.weight": "embeddings.patch_embedding.weight",
    }  # fmt: skip
    parts = {
        "norm_pre": "pre_layrnorm", "norm": "post_layernorm", "norm1": "layer_norm1", "norm2": "layer_norm2",
        "attn.proj": "self_attn.out_proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
    }  # fmt: skip
    for key, value in method.backbone.state_dict().items():
        if key in names:
            shape = judge.state_dict()[f"vision_model.{names[key]}"].shape
            state[f"vision_model.{names[key]}"] = value.reshape(shape)
            continue
        place = "vision_model."
        if key.startswith("blocks."):
            _, number, key = key.split(".", 2)
            place += f"encoder.layers.{number}."
        part, kind = key.rsplit(".", 1)
        if part == "attn.qkv":
            for name, third in zip("qkv", value.chunk(3), strict=True):
                state[f"{place}self_attn.{name}_proj.{kind}"] = third
        else:
            state[f"{place}{parts[part]}.{kind}"] = value
    state |= {
        "visual_projection.weight": method.image_projection.weight,
        "text_projection.weight": method.text_projection.weight,
        "logit_scale": method.logit_scale,
    }
    judge.load_state_dict(state)
    return judge


def test_with_the_same_weights_it_is_transformers_with_its_gradient(captions_webdataset: ShardSet) -> None:
    """Whose text tower is told where the text ends, by an argument of its own."""
    method: Any = build_method("clip", **{**TINY["clip"], "backbone": VIT}).double()
    judge = judge_of(method)
    judge.text_model.eos_token_id = 3  # [SEP], which stands behind each text
    batch = batch_of(method, captions_webdataset)
    assert len(set(batch["text"].lengths.tolist())) > 1
    images = batch["image"].normalized()[0].double()
    batch = replace(batch, streams={**batch.streams, "image": replace(batch["image"], views=[images])})
    theirs = judge(input_ids=batch["text"].tokens, pixel_values=images, return_loss=True)
    found = method.loss(batch)
    torch.testing.assert_close(found["loss"], theirs.loss, rtol=1e-9, atol=0)
    rows = {name: tower.embed(replace(batch, streams={name: batch[name]})) for name, tower in method.towers.items()}
    logits = method.logit_scale.exp() * rows["image"] @ rows["text"].T
    torch.testing.assert_close(logits, theirs.logits_per_image, rtol=1e-9, atol=1e-9)
    found["loss"].backward()
    theirs.loss.backward()
    others = dict(judge.named_parameters())
    for ours, other in (
        (method.logit_scale, "logit_scale"),
        (method.image_projection.weight, "visual_projection.weight"),
        (method.backbone.blocks[0].mlp.fc1.weight, "vision_model.encoder.layers.0.mlp.fc1.weight"),
        (method.backbone.norm_pre.bias, "vision_model.pre_layrnorm.bias"),
        (method.text_tower.embeddings.token_embedding.weight, "text_model.embeddings.token_embedding.weight"),
        (
            method.text_tower.encoder.layers[1].self_attn.q_proj.weight,
            "text_model.encoder.layers.1.self_attn.q_proj.weight",
        ),
    ):
        assert ours.grad.abs().max() > 0, other
        torch.testing.assert_close(ours.grad, others[other].grad, rtol=1e-9, atol=1e-12)


def test_it_has_the_authors_values() -> None:
    with torch.device("meta"):
        method: Any = build_method("clip")
    text, image = method.text_tower.config, method.backbone
    assert (text.num_hidden_layers, text.hidden_size, text.num_attention_heads) == (12, 512, 8)
    assert (text.vocab_size, text.max_position_embeddings, text.hidden_act) == (49_408, 77, "quick_gelu")
    assert (len(image.blocks), image.embed_dim, image.patch_embed.patch_size) == (12, 768, (32, 32))
    assert type(image.blocks[0].mlp.act).__name__ == "QuickGELU"
    assert image.patch_embed.proj.bias is None
    # Parameters of OpenAI's ViT-B/32.
    assert sum(p.numel() for p in method.parameters()) == 151_277_313
    (view,) = method.inputs["image"].views
    assert (view.size, view.scale, view.flip, view.jitter, view.blur) == (224, (0.9, 1.0), 0.0, 0.0, 0.0)
    assert method.inputs["text"] == TextSpec(tokenizer="", length=77)


def test_weights_of_the_text_tower_begin_as_the_authors() -> None:
    method: Any = build_method("clip", **{**TINY["clip"], "text_width": 64, "text_depth": 4, "backbone": VIT})
    block = method.text_tower.encoder.layers[2]
    for weight, deviation in (
        (method.text_tower.embeddings.token_embedding.weight, 0.02),
        (method.text_tower.embeddings.position_embedding.weight, 0.01),
        (block.self_attn.q_proj.weight, 64**-0.5),
        (block.self_attn.v_proj.weight, 64**-0.5),
        (block.self_attn.out_proj.weight, 64**-0.5 * 8**-0.5),
        (block.mlp.fc1.weight, 128**-0.5),
        (block.mlp.fc2.weight, 64**-0.5 * 8**-0.5),
        (method.text_projection.weight, 64**-0.5),
        (method.image_projection.weight, 16**-0.5),
        (method.backbone.pos_embed, 16**-0.5),
    ):
        assert weight.std().item() == pytest.approx(deviation, rel=0.2)
    assert method.logit_scale.item() == pytest.approx(2.6593, abs=1e-4)


def test_what_stands_behind_the_end_of_a_text_does_not_matter(captions_webdataset: ShardSet) -> None:
    """The tower is causal, and read where the text ends; a word before that does matter."""
    method: Any = tiny("clip").eval()
    texts: Texts = batch_of(method, captions_webdataset)["text"]
    noise = torch.randint_like(texts.tokens, 400)
    with torch.no_grad():
        found = method.embed_texts(texts)
        behind = method.embed_texts(replace(texts, tokens=torch.where(texts.attention, texts.tokens, noise)))
        first = texts.tokens.clone()
        first[:, 1] = (first[:, 1] + 1) % 400
        before = method.embed_texts(replace(texts, tokens=first))
    assert not texts.attention.all()
    torch.testing.assert_close(behind, found)
    assert ((before - found).abs().amax(dim=1) > 1e-4).all()


def test_the_factor_of_cosines_is_at_most_a_hundred_and_at_least_one(captions_webdataset: ShardSet) -> None:
    for far, limit in ((-50.0, math.log(100)), (50.0, 0.0)):
        method: Any = tiny("clip")
        optimizer = torch.optim.SGD(method.parameters(), lr=1.0)
        method.logit_scale.grad = torch.tensor(far)
        optimizer.step()
        after(method)
        assert method.logit_scale.item() == pytest.approx(limit)
    found = tiny("clip").loss(batch_of(tiny("clip"), captions_webdataset))
    assert found["scale"].item() == pytest.approx(1 / 0.07, rel=1e-5)


def test_perfect_pairs_have_their_known_loss() -> None:
    n, scale = 8, 3.0
    rows = torch.eye(n, dtype=torch.float64)
    loss = clip_loss(rows, rows, torch.tensor(scale, dtype=torch.float64))
    assert loss.item() == pytest.approx(math.log(1 + (n - 1) * math.exp(-scale)), rel=1e-12)


def test_only_kernels_decay() -> None:
    method: Any = tiny("clip")
    kernels, vectors = method.parameter_groups()
    assert all(p.ndim > 1 for p in kernels.params)
    assert any(p is method.logit_scale for p in vectors.params)
    optimizer = build_optimizer([kernels, vectors], OptimConfig(weight_decay=0.2), 20)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 0.0]


def test_towers_embed_in_one_space_and_one_by_one(captions_webdataset: ShardSet) -> None:
    method: Any = tiny("clip").eval()
    assert list(method.towers) == ["image", "text"]
    for tower in method.towers.values():
        batch = batch_of(method, captions_webdataset, tower.inputs)
        with torch.no_grad():
            rows = tower.embed(batch)
            alone = torch.cat([tower.embed(part) for part in batch.parts(20)])
        assert rows.shape == (20, 16)
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(20))
        torch.testing.assert_close(alone, rows, rtol=1e-4, atol=1e-5)


def test_probes_see_what_the_image_tower_says_before_the_projection(captions_webdataset: ShardSet) -> None:
    method: Any = tiny("clip").eval()
    batch = batch_of(method, captions_webdataset, method.probe_inputs)
    with torch.no_grad():
        torch.testing.assert_close(method.encode(batch), method.backbone(batch.normalized()[0]))
        projected = F.normalize(method.image_projection(method.encode(batch)), dim=1)
        torch.testing.assert_close(method.towers["image"].embed(batch), projected)


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for changes, message in (
        ({"text_width": 30, "text_heads": 4}, "CLIPConfig.text_width must be a multiple of text_heads, got 30"),
        ({"temperature": 0.001}, r"CLIPConfig.temperature must be in \[0.01, 1\], got 0.001"),
        ({"embed_dim": 0}, "CLIPConfig.embed_dim must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            build_method("clip", **changes)
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ImportError, match=r"clip needs the library transformers: pip install headrace\[text\]"):
        build_method("clip", **TINY["clip"])
