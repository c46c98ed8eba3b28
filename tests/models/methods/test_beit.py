"""BEiT beside `transformers` with the same weights, what its authors' code says, and words, which are not theirs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from headrace.models import Context, build_method
from headrace.models.methods.masked.beit import BEiTConfig, centres
from headrace.models.parts.beit import hidden_places
from headrace.pipeline import Batch, BlockMask, Loader, ViewSpec
from headrace.pipeline.masks import BlockMasks, draw_masks
from headrace.shards import ShardSet
from tests.conftest import require_peer
from tests.models.authors_views import IMAGENET, in_torchvisions_words
from tests.models.tiny_methods import TINY, tiny


def batch_of(method: Any, shards: ShardSet) -> Batch:
    with Loader(shards, method.inputs, 8, threads=1) as loader:
        return next(iter(loader))


def hidden(batch: Batch) -> Tensor:
    (masks,) = batch.masks
    assert isinstance(masks, BlockMasks)
    return masks.masked


def context(shards: ShardSet, epoch: int = 0, seed: int = 0) -> Context:
    def batches(views: ViewSpec) -> Iterator[Batch]:
        with Loader(shards, views, 48, shuffle=False, drop_last=False, threads=1) as loader:
            yield from loader

    return Context(
        step=0, epoch=epoch, steps_per_epoch=5, epochs=3, batch_size=40, seed=seed, samples=len(shards), batches=batches
    )


def converted(vit: Any, mask_token: Tensor, kind: Literal["beit", "data2vec"]) -> dict[str, Tensor]:
    """The weights of a timm Beit under the names of `transformers`."""
    beit = kind == "beit"
    start = "beit." if beit else ""
    attention = "attention" if beit else "attention.attention"
    letters = dict(zip("qkv", ("q_proj", "k_proj", "v_proj") if beit else ("query", "key", "value"), strict=True))
    inner = {
        "norm1": "layernorm_before", "norm2": "layernorm_after",
        "attn.proj": "attention.o_proj" if beit else "attention.output.dense",
        "mlp.fc1": "mlp.fc1" if beit else "intermediate.dense", "mlp.fc2": "mlp.fc2" if beit else "output.dense",
    }  # fmt: skip
    table = "shared_position_bias" if beit else "encoder.relative_position_bias"
    found = {f"{start}embeddings.mask_token": mask_token.detach()}
    for key, value in vit.state_dict().items():
        if key == "cls_token":
            found[f"{start}embeddings.cls_token"] = value
        elif key.startswith("patch_embed.proj"):
            found[f"{start}embeddings.patch_embeddings.projection.{key.rsplit('.', 1)[1]}"] = value
        elif key.startswith("rel_pos_bias"):
            found[f"{start}{table}.relative_position_bias_table"] = value
        elif key.startswith("norm."):
            if beit:
                found[f"layernorm.{key.rsplit('.', 1)[1]}"] = value
        else:
            _, number, rest = key.split(".", 2)
            place = f"{start}layers.{number}" if beit else f"encoder.layer.{number}"
            if rest.startswith("gamma_"):
                found[f"{place}.{rest.replace('gamma', 'lambda')}"] = value
            elif rest == "attn.qkv.weight":
                for letter, third in zip("qkv", value.chunk(3), strict=True):
                    found[f"{place}.{attention}.{letters[letter]}.weight"] = third
            elif rest.endswith(("q_bias", "v_bias")):
                found[f"{place}.{attention}.{letters[rest[5]]}.bias"] = value
            else:
                part, end = rest.rsplit(".", 1)
                found[f"{place}.{inner[part]}.{end}"] = value
    return found


def test_the_defaults_are_the_authors() -> None:
    with torch.device("meta"):
        method: Any = build_method("beit", BEiTConfig())
    jitter = (1.0, 0.4, 0.4, 0.4, 0.0)
    assert in_torchvisions_words(method.inputs.views) == [((224, 0.08, 1.0), 0.5, jitter, 0.0, (), 0.0, IMAGENET)]
    assert method.inputs.views[0].interpolation == "bicubic"
    assert method.inputs.masks == (BlockMask(grid=(14, 14), ratio=(75 / 196, 75 / 196), smallest=16),)
    vit = method.backbone
    assert vit.rel_pos_bias.relative_position_bias_table.shape == (732, 12)  # (2 * 14 - 1)^2 + 3
    assert vit.pos_embed is None
    assert all(block.attn.relative_position_bias_table is None for block in vit.blocks)
    assert vit.blocks[11].drop_path1.drop_prob == pytest.approx(0.1)
    assert {block.init_values for block in vit.blocks} == {0.1}
    assert method.predict.weight.shape == (8192, 768)


def test_75_patches_are_hidden_and_never_the_class_token() -> None:
    """In blocks that differ. The authors' code sometimes hides fewer."""
    mask = BlockMask(grid=(14, 14), ratio=(75 / 196, 75 / 196), smallest=16)
    (drawn,) = draw_masks((mask,), 0, 0, np.arange(100))
    assert isinstance(drawn, BlockMasks)
    assert drawn.masked.shape == (100, 196)
    assert (drawn.masked.sum(dim=1) == 75).all()
    assert len({tuple(row) for row in drawn.masked.tolist()}) == 100


def test_hidden_places_are_the_numbers_of_hidden_patches() -> None:
    masked = torch.tensor([[False, True, True, False], [True, False, False, True]])
    assert hidden_places(masked, 2).tolist() == [[1, 2], [0, 3]]


def beit_of_transformers(method: Any) -> Any:
    """`transformers`' model of the tiny form, with its weights."""
    from transformers import BeitConfig, BeitForMaskedImageModeling

    judge = BeitForMaskedImageModeling(
        BeitConfig(
            image_size=16, patch_size=4, hidden_size=24, num_hidden_layers=2, num_attention_heads=1,
            intermediate_size=96, vocab_size=12, use_mask_token=True, use_shared_relative_position_bias=True,
            layer_scale_init_value=0.1, drop_path_rate=0.0, layer_norm_eps=1e-6,
        )
    )  # fmt: skip
    head = {f"lm_head.{key}": value for key, value in method.predict.state_dict().items()}
    judge.load_state_dict({**converted(method.backbone, method.mask_token, "beit"), **head})
    return judge


def test_with_the_same_weights_it_is_transformers_with_its_gradient(digits_webdataset: ShardSet) -> None:
    require_peer("transformers")
    method: Any = tiny("beit")
    method.on_epoch(context(digits_webdataset))
    judge = beit_of_transformers(method)
    batch = batch_of(method, digits_webdataset)
    (images,), masked = batch.normalized(), hidden(batch)
    words = method.words_of(method.described(images))[masked]
    theirs = judge(images, bool_masked_pos=masked, labels=words).loss
    ours = method.loss(batch)["loss"]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    ours.backward()
    theirs.backward()
    names = dict(judge.named_parameters())
    vit = method.backbone
    pairs = [
        (method.mask_token.grad, names["beit.embeddings.mask_token"].grad),
        (vit.patch_embed.proj.weight.grad, names["beit.embeddings.patch_embeddings.projection.weight"].grad),
        (vit.rel_pos_bias.relative_position_bias_table.grad,
         names["beit.shared_position_bias.relative_position_bias_table"].grad),
        (vit.cls_token.grad, names["beit.embeddings.cls_token"].grad),
        (vit.norm.weight.grad, names["layernorm.weight"].grad),
        (method.predict.weight.grad, names["lm_head.weight"].grad),
    ]  # fmt: skip
    for mine, other in pairs:
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_at_the_beginning_all_words_are_as_likely(digits_webdataset: ShardSet) -> None:
    method: Any = build_method("beit", **{**TINY["beit"], "words": 8192, "word_patches": 8192})
    terms = method.loss(batch_of(method, digits_webdataset))
    assert terms["loss"].item() == pytest.approx(math.log(8192), abs=0.1)  # 9.011


def test_a_word_is_the_nearest_mean_of_its_patch_alone(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("beit")
    method.on_epoch(context(digits_webdataset))
    with Loader(digits_webdataset, method.probe_inputs, 40, shuffle=False) as loader:
        batch = next(iter(loader))
    (images,) = batch.normalized()
    described = method.described(images)
    words = method.words_of(described)
    assert words.shape == (40, 16)
    used = method.offsets.isfinite()
    distances = (described.double()[:, :, None] - method.means[used].double()).square().sum(dim=3)
    assert torch.equal(words, used.nonzero()[:, 0][distances.argmin(dim=2)])
    alone = torch.cat([method.words_of(method.described(image[None])) for image in images])
    assert torch.equal(words, alone)


def test_words_are_found_once_and_are_a_function_of_the_seed(digits_webdataset: ShardSet) -> None:
    one, same, other = tiny("beit"), tiny("beit", seed=3), tiny("beit")
    for method, seed in ((one, 0), (same, 0), (other, 1)):
        method.on_epoch(context(digits_webdataset, seed=seed))
    assert torch.equal(one.means, same.means)
    assert not torch.equal(one.means, other.means)
    found = one.means.clone()
    one.on_epoch(context(digits_webdataset, epoch=1, seed=2))
    assert torch.equal(one.means, found)
    assert {"means", "offsets"} <= one.state_dict().keys()


def test_the_words_in_use_are_many(digits_webdataset: ShardSet) -> None:
    """Constant labels would make the loss vanish and look perfect."""
    method: Any = tiny("beit")
    method.on_epoch(context(digits_webdataset))
    batch = batch_of(method, digits_webdataset)
    words = method.words_of(method.described(batch.normalized()[0]))[hidden(batch)]
    shares = words.bincount(minlength=12) / len(words)
    found = method.loss(batch)["perplexity"].item()
    assert found == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares.tolist() if p)), rel=1e-4)
    assert 4 < found <= 12


def test_a_cluster_without_points_is_no_word() -> None:
    points = torch.tensor([[0.0, 2.0], [0.0, 4.0], [6.0, 0.0]])
    means, offsets = centres(points, torch.tensor([0, 0, 2]), 3)
    assert means.tolist() == [[0.0, 3.0], [0.0, 0.0], [6.0, 0.0]]
    assert offsets.tolist() == [4.5, torch.inf, 18.0]


def test_too_many_words_are_refused(digits_webdataset: ShardSet) -> None:
    method = build_method("beit", **{**TINY["beit"], "words": 3201, "word_patches": 4000})
    with pytest.raises(ValueError, match=r"words must be at most 3200, the patches of the set, got 3201"):
        method.on_epoch(context(digits_webdataset))
    with pytest.raises(ValueError, match=r"word_patches must be at least words, 8192, got 100"):
        BEiTConfig(word_patches=100)
    with pytest.raises(ValueError, match=r"BEiTConfig.backbone must be a Beit of timm's .* is not one"):
        build_method("beit", **{**TINY["beit"], "backbone": TINY["maskfeat"]["backbone"]})


def test_the_mask_token_decays_and_the_class_token_does_not() -> None:
    method: Any = tiny("beit")
    decayed, free = ({id(p) for p in group.params} for group in method.parameter_groups())
    assert {id(method.mask_token), id(method.predict.weight)} <= decayed
    assert {id(method.backbone.cls_token), id(method.backbone.norm.weight)} <= free
