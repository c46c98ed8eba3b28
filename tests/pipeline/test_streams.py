"""Streams by name: what each gives, other samples in the place of one's own, and two samples in one."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chisquare, kstest

from headrace.pipeline import (
    Batch,
    Loader,
    Mixed,
    Other,
    RandomMask,
    TextSpec,
    TokenMask,
    View,
    ViewSpec,
    center_view,
    streams_of,
)
from headrace.pipeline.feeds import Labels
from headrace.pipeline.feeds.others import Partners, beta_weights
from headrace.shards import Field, ShardError, ShardSet, open_shards, write_shards
from tests import texts

SEED = 5
VIEW = View(size=12, jitter=0.5, brightness=0.4)
PLAIN = center_view(8)
COUNT = 30
CLASSES = 7


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    """Two pictures, a text and a label a sample: a first picture is of one level, its sample's number times 8; one
    sample has a label of its own and one has none."""
    words = texts.paragraphs()
    labels = [n % CLASSES for n in range(COUNT)]
    labels[3], labels[4] = 100, -1
    some = [
        {
            "__key__": f"pair_{n:02d}",
            "image": np.full((9, 9, 3), 8 * n, np.uint8),
            "depth": np.full((9, 9, 3), 255 - 8 * n, np.uint8),
            "text": words[n % len(words)],
            "label": labels[n],
        }
        for n in range(COUNT)
    ]
    raw = Field(kind="image", encoding="raw")
    fields = {"image": raw, "depth": raw, "text": Field(kind="text"), "label": Field(kind="int")}
    path = tmp_path_factory.mktemp("pairs") / "set"
    write_shards(path, some, fields)
    with open_shards(path) as shards:
        yield shards


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return texts.wordpiece(tmp_path_factory.mktemp("tokenizer") / "bert.json")


def load(shards: ShardSet, inputs: Any, size: int = 10, **options: Any) -> Loader:
    return Loader(shards, inputs, size, **({"seed": SEED, "threads": 2} | options))


def bytes_of(batch: Batch) -> list[bytes]:
    return [tensor.contiguous().numpy().tobytes() for tensor in batch.tensors()]


def test_each_stream_is_what_it_is_alone(pairs: ShardSet, tokenizer: Path) -> None:
    """Of its own field, with its own masks and normalisation."""
    inputs = {
        "photo": ViewSpec([VIEW] * 2, [RandomMask(grid=(3, 3))]),
        "words": TextSpec(tokenizer=tokenizer, length=20, masks=(TokenMask(),)),
    }
    with load(pairs, inputs) as loader, load(pairs, inputs["photo"]) as one, load(pairs, inputs["words"]) as two:
        for both, image, text in zip(loader, one, two, strict=True):
            assert list(both.streams) == ["photo", "words"]
            for ours, alone in ((both["photo"], image), (both["words"], text)):
                found = Batch(streams={"x": ours}, index=both.index, labels=both.labels, epoch=both.epoch)
                assert bytes_of(found) == bytes_of(alone)


def test_streams_of_a_kind_draw_apart_from_their_own_fields(pairs: ShardSet) -> None:
    spec = ViewSpec([VIEW], [RandomMask(grid=(4, 4))])
    depth = ViewSpec([VIEW], [RandomMask(grid=(4, 4))], field="depth")
    with load(pairs, {"image": spec, "depth": depth}) as loader:
        batch = next(iter(loader))
    image, depth_part = batch["image"], batch["depth"]
    assert not torch.equal(image.drawn.crop, depth_part.drawn.crop)
    assert not torch.equal(image.masks[0].visible, depth_part.masks[0].visible)
    with load(pairs, {"image": PLAIN, "depth": ViewSpec(PLAIN.views, field="depth")}) as loader:
        for batch in loader:
            assert torch.equal(batch["image"].views[0], 255 - batch["depth"].views[0])


def test_a_lone_stream_has_a_name_and_lends_the_batch_its_tensors(pairs: ShardSet, tokenizer: Path) -> None:
    with load(pairs, ViewSpec([VIEW], [RandomMask(grid=(3, 3))])) as loader:
        batch = next(iter(loader))
    assert batch.views is batch["image"].views
    assert batch.masks is batch["image"].masks
    assert batch.drawn is batch["image"].drawn
    with load(pairs, {"image": PLAIN, "text": TextSpec(tokenizer=tokenizer)}) as loader:
        batch = next(iter(loader))
    with pytest.raises(ValueError, match="several streams, image, text: take one by its name"):
        batch.normalized()
    with pytest.raises(KeyError, match="no stream 'images'; it has image, text"):
        batch["images"]


@pytest.mark.parametrize("inputs", [{}, {"image": 3}, {3: PLAIN}, [PLAIN]])
def test_what_is_no_stream_is_refused(inputs: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="inputs must"):
        streams_of(inputs)


def everyone(inputs: Any, shards: ShardSet, **options: Any) -> list[list[np.ndarray]]:
    with load(shards, inputs, **options) as loader:
        return [[tensor.numpy().copy() for tensor in batch.tensors()] for _ in range(2) for batch in loader]


def every_kind(tokenizer: Path) -> dict[str, Any]:
    return {
        "image": ViewSpec([VIEW]),
        "positive": Other(spec=ViewSpec([VIEW] * 2), among="label"),
        "caption": Other(spec=TextSpec(tokenizer=tokenizer, length=16, window="drawn")),
        "mixed": Mixed(spec=ViewSpec([VIEW]), alpha=0.4),
    }


def test_ranks_threads_and_resumption_change_nothing(pairs: ShardSet, tokenizer: Path) -> None:
    inputs = every_kind(tokenizer)
    whole = everyone(inputs, pairs)
    shares = [everyone(inputs, pairs, rank=rank, world_size=2, threads=1 + 2 * rank) for rank in range(2)]
    for batch, one, two in zip(whole, *shares, strict=True):
        for expected, *parts in zip(batch, one, two, strict=True):
            assert np.array_equal(expected, np.concatenate(parts))
    with load(pairs, inputs) as loader:
        list(islice(loader, 1))
        state = loader.state_dict()
    with load(pairs, inputs, seed=0) as resumed:
        resumed.load_state_dict(state)
        rest = [[tensor.numpy().copy() for tensor in batch.tensors()] for batch in resumed]
    for ours, expected in zip(rest, whole[1:3], strict=True):
        assert all(map(np.array_equal, ours, expected))


def test_others_are_whole_samples_of_the_set(pairs: ShardSet, tokenizer: Path) -> None:
    """The picture, the text and what the batch says are one sample's, never the sample's own."""
    inputs = {"other": Other(spec=PLAIN), "text": Other(spec=TextSpec(tokenizer=tokenizer, length=64))}
    with load(pairs, inputs) as loader, load(pairs, inputs["text"].spec, COUNT, shuffle=False) as stored:
        words = next(iter(stored))["text"].tokens
        for batch in loader:
            others = batch.others["other"]
            assert torch.equal(others.index, batch.others["text"].index)
            assert not (others.index == batch.index).any()
            assert torch.equal(batch["other"].views[0][:, 0, 0, 0].long(), 8 * others.index)
            assert torch.equal(batch["text"].tokens, words[others.index])
            assert others.labels is not None
            assert others.labels.tolist() == [pairs.ints()[i] for i in others.index.tolist()]
            assert not others.weight.any()


def test_positives_have_the_samples_label(pairs: ShardSet) -> None:
    labels = pairs.ints()
    partners = Partners("label", COUNT, Labels(pairs, "label"))
    seen: list[set[int]] = [set() for _ in range(COUNT)]
    for epoch in range(60):
        for sample, other in enumerate(partners.draw(SEED, epoch, np.arange(COUNT)).tolist()):
            seen[sample].add(other)
    for sample in range(COUNT):
        same = {i for i in range(COUNT) if labels[i] == labels[sample]} - {sample}
        assert seen[sample] == (same if same and labels[sample] >= 0 else {sample})


def test_others_are_equally_likely() -> None:
    partners = Partners("all", 6, None)
    drawn = np.stack([partners.draw(SEED, epoch, np.arange(6)) for epoch in range(3000)])
    for sample in range(6):
        counts = np.bincount(drawn[:, sample], minlength=6)
        assert counts[sample] == 0
        assert chisquare(np.delete(counts, sample)).pvalue > 1e-4


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_weights_are_of_the_beta_distribution(alpha: float) -> None:
    weights = beta_weights(alpha, SEED, 2, np.arange(4000))
    assert weights.dtype == np.float32
    assert kstest(weights, "beta", (alpha, alpha)).pvalue > 1e-4


@pytest.mark.parametrize("engine", ["native", "torchvision", pytest.param("kornia", marks=pytest.mark.peer("kornia"))])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_mixed_views_are_the_weighted_sum(engine: str, dtype: Any, pairs: ShardSet) -> None:
    """Of the very views that both samples have alone."""
    spec = ViewSpec([VIEW] * 2)
    options: dict[str, Any] = {"engine": engine, "dtype": dtype}
    with load(pairs, spec, COUNT, shuffle=False, **options) as loader:
        alone = next(iter(loader)).views
    with load(pairs, Mixed(spec=spec, alpha=1.0), **options) as loader:
        for batch in loader:
            others = batch.others["image"]
            share = others.weight.double().view(-1, 1, 1, 1)
            assert ((share > 0) & (share < 1)).all()
            for found, views in zip(batch.views, alone, strict=True):
                expected = share * views[batch.index].double() + (1 - share) * views[others.index].double()
                assert found.dtype == views.dtype
                assert (found.double() - expected).abs().max() <= (0.5 + 1e-4 if dtype == "uint8" else 1e-5)


def test_a_sample_is_bad_if_its_other_is(tmp_path: Path) -> None:
    grey = [Image.new("RGB", (9, 9), (8 * n,) * 3) for n in range(8)]
    files = [io.BytesIO() for _ in grey]
    for image, file in zip(grey, files, strict=True):
        image.save(file, "JPEG")
    some = [{"__key__": f"k{n}", "image": file.getvalue()} for n, file in enumerate(files)]
    write_shards(tmp_path / "set", some, {"image": Field(kind="image", encoding="jpg")})
    (tar,) = (tmp_path / "set").glob("*.tar")
    data = bytearray(tar.read_bytes())
    with open_shards(tmp_path / "set") as shards:
        place = int(shards.places("image", [2]).address[0])
    data[place + 30 : place + 400] = bytes(370)
    tar.write_bytes(data)
    inputs = {"image": PLAIN, "other": Other(spec=PLAIN)}
    with open_shards(tmp_path / "set") as shards:
        partners = Partners("all", 8, None)
        shown = [np.flatnonzero(partners.draw(SEED, epoch, np.arange(8)) == 2).tolist() for epoch in range(9)]
        epoch = next(epoch for epoch, samples in enumerate(shown) if samples)
        bad = {2, *shown[epoch]}
        with load(shards, inputs, 4, on_error="substitute") as loader:
            loader.epoch = epoch
            kept = [sample for batch in loader for sample in batch.index.tolist()]
            assert set(loader.bad) >= bad
        assert not bad & set(kept)
        with load(shards, {"other": Other(spec=PLAIN)}, 4) as loader:
            loader.epoch = epoch
            with pytest.raises(ShardError, match="key k2"):
                list(loader)


def test_others_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Other\.among must be all or label"):
        Other(spec=PLAIN, among="class")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"Mixed\.alpha must be above 0"):
        Mixed(spec=PLAIN, alpha=0.0)
    some = [{"__key__": f"k{n}", "image": np.zeros((9, 9, 3), np.uint8)} for n in range(2)]
    fields = {"image": Field(kind="image", encoding="raw")}
    write_shards(tmp_path / "two", some, fields)
    write_shards(tmp_path / "one", some[:1], fields)
    with open_shards(tmp_path / "two") as shards, pytest.raises(ValueError, match="the set has no labels"):
        load(shards, Other(spec=PLAIN, among="label"), 1)
    with open_shards(tmp_path / "one") as shards, pytest.raises(ValueError, match="another sample is asked for"):
        load(shards, Mixed(spec=PLAIN), 1)
