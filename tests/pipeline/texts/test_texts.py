"""Texts through the loader: tokens are the tokenizer's, masks the authors', whatever the ranks, threads and batches."""

from __future__ import annotations

import io
import json
import tarfile
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, chisquare

from headrace.pipeline import (
    Batch,
    Clip,
    ClipSpec,
    CorruptedSpans,
    Loader,
    MaskedTokens,
    SpanMask,
    Spec,
    Texts,
    TextSpec,
    TokenMask,
    View,
    ViewSpec,
)
from headrace.pipeline.texts.texts import TextReader
from headrace.pipeline.transfer import DeviceBatches
from headrace.shards import Field, ShardError, ShardSet, open_shards, write_shards
from headrace.tools.conversion.convert import convert
from tests import texts
from tests.conftest import digit_samples
from tests.pipeline.plain import philox, unit
from tests.pipeline.token_loops import Draw, bert, t5_noise, t5_sentinels
from tests.shards.remote_servers import folder_server
from tests.tools.sources.test_coco_source import caption, write_zips

pytestmark = pytest.mark.peer("tokenizers")

SEED = 5
COUNT = 60


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tokenizers")
    return {
        "bert": texts.wordpiece(folder / "bert.json"),
        "t5": texts.sentinels(folder / "t5.json"),
        "llama": texts.unsplit(folder / "llama.json"),
    }


def samples() -> Iterator[dict[str, Any]]:
    """A digit, a paragraph, and five paragraphs, the second of them blank."""
    paragraphs = texts.paragraphs()
    for number, sample in enumerate(digit_samples(COUNT // 10)):
        captions = [paragraphs[(7 * number + each) % len(paragraphs)] for each in range(5)]
        captions[1] = "  \n"
        yield sample | {"text": paragraphs[number], "captions": captions}


FIELDS = {
    "image": Field(kind="image", encoding="raw"),
    "label": Field(kind="int"),
    "text": Field(kind="text"),
    "captions": Field(kind="json"),
}


@pytest.fixture(scope="module", params=["webdataset", "ffcv"])
def shards(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    path = tmp_path_factory.mktemp("texts") / request.param
    write_shards(path, samples(), FIELDS, format=request.param, shard_size=1 << 16)
    with open_shards(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    path = tmp_path_factory.mktemp("tars") / "set"
    write_shards(path, samples(), FIELDS, shard_size=1 << 16)
    with open_shards(path) as opened:
        yield opened


def library(path: Path, length: int) -> Any:
    """The tokenizer as its own library applies it, cut and padded."""
    from tokenizers import Tokenizer

    tokenizer: Any = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=0)
    return tokenizer


def tensors_of(texts: Texts) -> list[torch.Tensor]:
    """Nothing of its masks."""
    return [value for value in vars(texts).values() if isinstance(value, torch.Tensor)]


def make(shards: ShardSet, spec: Any, batch_size: int = 12, **options: Any) -> Loader:
    """With the engine that needs no compiling: texts have nothing to do with it."""
    return Loader(shards, spec, batch_size, **({"seed": SEED, "threads": 2, "engine": "torchvision"} | options))


def texts_of(batch: Batch) -> Texts:
    found: Texts = batch["text"]
    return found


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_tokens_are_the_librarys(name: str, shards: ShardSet, tokenizers: dict[str, Path]) -> None:
    tokenizer = library(tokenizers[name], 32)
    spec = TextSpec(tokenizer=tokenizers[name], field="text", length=32)
    with make(shards, spec) as loader:
        batches = list(loader)
    assert sorted(torch.cat([batch.index for batch in batches]).tolist()) == list(range(COUNT))
    lengths = set()
    for batch in batches:
        assert [(part.dtype, part.shape) for part in tensors_of(texts_of(batch))] == [
            (torch.int64, (12, 32)),
            (torch.int64, (12,)),
            (torch.bool, (12, 32)),
            (torch.int64, (12,)),
            (torch.int64, (12,)),
            (torch.int64, (12, 32)),
            (torch.int64, (12,)),
        ]
        for row, sample in enumerate(batch.index.tolist()):
            expected = tokenizer.encode(shards.read(sample)["text"])
            assert texts_of(batch).tokens[row].tolist() == expected.ids
            assert texts_of(batch).attention[row].tolist() == [bool(bit) for bit in expected.attention_mask]
            assert int(texts_of(batch).lengths[row]) == sum(expected.attention_mask)
            lengths.add(sum(expected.attention_mask))
    assert max(lengths) == 32 > min(lengths), "some are cut and some are padded"


@pytest.mark.parametrize("whole", [False, True], ids=["tokens", "words"])
def test_token_masks_are_berts_over_the_librarys_words(
    whole: bool, tars: ShardSet, tokenizers: dict[str, Path]
) -> None:
    """Two masks of one text are two draws; what the masks leave open is the tokenizer's."""
    masks = (TokenMask(), TokenMask(ratio=0.4, most=9))
    spec = TextSpec(tokenizer=tokenizers["bert"], field="text", length=40, masks=masks, whole_words=whole)
    tokenizer = library(tokenizers["bert"], 40)
    vocabulary = tokenizer.get_vocab_size()
    known = [TokenMask(vocabulary=vocabulary, mask_id=tokenizer.token_to_id("[MASK]"), ratio=0.15)]
    known.append(TokenMask(vocabulary=vocabulary, mask_id=known[0].mask_id, ratio=0.4, most=9))
    with make(tars, spec) as loader:
        loader.epoch = 2
        for batch in loader:
            for row, sample in enumerate(batch.index.tolist()):
                encoding = tokenizer.encode(tars.read(sample)["text"])
                length = sum(encoding.attention_mask)
                special = [bool(bit) for bit in encoding.special_tokens_mask[:length]]
                words = [-1 if word is None else word for word in encoding.word_ids[:length]]
                for number, mask in enumerate(texts_of(batch).masks):
                    assert isinstance(mask, MaskedTokens)
                    draw = Draw(SEED, 2, sample, number)
                    output, labels = bert(draw, encoding.ids[:length], special, words if whole else None, known[number])
                    assert mask.tokens[row].tolist() == output + [0] * (40 - length)
                    assert mask.labels[row].tolist() == labels + [-100] * (40 - length)
                    restored = torch.where(mask.labels[row] == -100, mask.tokens[row], mask.labels[row])
                    assert torch.equal(restored, texts_of(batch).tokens[row])


def test_spans_are_t5s(tars: ShardSet, tokenizers: dict[str, Path]) -> None:
    spec = TextSpec(tokenizer=tokenizers["t5"], field="text", length=61, masks=(SpanMask(density=0.3),))
    tokenizer = library(tokenizers["t5"], 61)
    sentinels = tuple(tokenizer.token_to_id(f"<extra_id_{number}>") for number in range(100))
    assert sentinels[0] > sentinels[1]
    with make(tars, spec) as loader:
        for batch in loader:
            (mask,) = texts_of(batch).masks
            assert isinstance(mask, CorruptedSpans)
            for row, sample in enumerate(batch.index.tolist()):
                text = np.array(tokenizer.encode(tars.read(sample)["text"]).ids)
                text = text[: list(text).index(1)]  # without </s>
                noise = t5_noise(Draw(SEED, 0, sample, 0), len(text), SpanMask(density=0.3))
                for rows, counts, hidden, filling in (
                    (mask.inputs, mask.input_count, noise, 0),
                    (mask.labels, mask.label_count, ~noise, -100),
                ):
                    expected = [*t5_sentinels(text, hidden, sentinels), 1]
                    assert rows[row].tolist() == expected + [filling] * (rows.shape[1] - len(expected))
                    assert int(counts[row]) == len(expected)


def test_a_long_text_is_cut_where_it_is_drawn(tars: ShardSet, tokenizers: dict[str, Path]) -> None:
    """Each place as often as any other; what is there is the library's, between the special tokens."""
    spec = TextSpec(tokenizer=tokenizers["bert"], field="text", length=32, window="drawn", whole_words=True)
    reader = TextReader(spec, tars)
    tokenizer = library(tokenizers["bert"], 10_000)
    tokenizer.no_padding()
    whole = {i: tokenizer.encode(tars.read(i)["text"], add_special_tokens=False) for i in range(COUNT)}
    long = next(i for i, encoding in whole.items() if 36 <= len(encoding.ids) <= 50)
    short = next(i for i, encoding in whole.items() if len(encoding.ids) < 30)
    spans = tars.spans(reader.field, np.array([long, short]))
    firsts = []
    for epoch in range(600):
        plan = reader.blank(SEED, epoch, 2)
        reader.fill(np.array([long, short]), spans, plan)
        first = int(plan.first[0])
        firsts.append(first)
        assert plan.tokens[0].tolist() == [2, *whole[long].ids[first : first + 30], 3]
        assert plan.words[0, 1:31].tolist() == whole[long].word_ids[first : first + 30]
        assert plan.first[1] == 0
    assert chisquare(np.bincount(firsts, minlength=len(whole[long].ids) - 29)).pvalue > 1e-4


def test_one_of_several_texts_is_drawn(tars: ShardSet, tokenizers: dict[str, Path]) -> None:
    """The field "captions" is found by itself; a blank one is never taken, and each other as often as the rest."""
    spec = TextSpec(tokenizer=tokenizers["bert"], length=24)
    tokenizer = library(tokenizers["bert"], 24)
    chosen: list[int] = []
    with make(tars, spec, batch_size=COUNT) as loader:
        for epoch in range(30):
            (batch,) = loader
            chosen += texts_of(batch).chosen.tolist()
            if epoch < 2:
                for row, sample in enumerate(batch.index.tolist()):
                    caption = tars.read(sample)["captions"][int(texts_of(batch).chosen[row])]
                    assert texts_of(batch).tokens[row].tolist() == tokenizer.encode(caption).ids
    counts = np.bincount(chosen, minlength=5)
    assert counts[1] == 0
    assert chisquare(np.delete(counts, 1)).pvalue > 1e-4


def plain_pair(tokenizer: Any, shards: ShardSet, kind: str, sample: int, epoch: int, room: int) -> tuple[Any, ...]:
    """(first segment, second, broken), as a plain loop has it."""

    def encoded(number: int) -> Any:
        return tokenizer.encode(shards.read(number)["text"], add_special_tokens=False)

    draws, others = (philox(SEED, "text", block, 0, sample, epoch) for block in (0, 1))
    kept, words = encoded(sample).ids[:room], encoded(sample).word_ids
    begins = [place for place in range(1, len(kept)) if words[place] != words[place - 1]]
    cut = begins[int(unit(draws[2]) * len(begins))]
    one, two, broken = kept[:cut], kept[cut:], unit(draws[3]) < 0.5
    if broken and kind == "order":
        one, two = two, one
    elif broken:
        other = int(unit(others[0]) * (COUNT - 1))
        theirs = encoded(other + (other >= sample)).ids
        start = int(unit(others[2]) * (max(0, len(theirs) - len(two)) + 1))
        two = theirs[start : start + len(two)]
    return one, two, broken


@pytest.mark.parametrize("kind", ["order", "next"])
def test_pairs_of_segments(kind: Any, tars: ShardSet, tokenizers: dict[str, Path]) -> None:
    spec = TextSpec(tokenizer=tokenizers["bert"], field="text", length=40, pair=kind, masks=(TokenMask(ratio=0.9),))
    tokenizer = library(tokenizers["bert"], 10_000)
    tokenizer.no_padding()
    broken = 0
    with make(tars, spec) as loader:
        for epoch in range(2):
            for batch in loader:
                texts = texts_of(batch)
                broken += int(texts.broken.sum())
                (mask,) = texts_of(batch).masks
                for row, sample in enumerate(batch.index.tolist()):
                    one, two, is_broken = plain_pair(tokenizer, tars, kind, sample, epoch, 37)
                    expected = [2, *one, 3, *two, 3]  # [CLS], [SEP], [SEP]
                    length = len(expected)
                    assert texts.tokens[row].tolist() == expected + [0] * (40 - length)
                    assert int(texts.lengths[row]) == length
                    assert int(texts.broken[row]) == is_broken
                    segments = [0] * (len(one) + 2) + [1] * (len(two) + 1) + [0] * (40 - length)
                    assert texts.segments[row].tolist() == segments
                    special = torch.isin(texts.tokens[row], torch.tensor([0, 2, 3]))
                    assert (mask.labels[row][special] == -100).all()
                    most = min(max(1, round(0.9 * length)), length - 3)
                    assert int((mask.labels[row] != -100).sum()) == most
    assert binomtest(broken, 2 * COUNT).pvalue > 1e-4


def test_every_other_sample_may_give_the_second_segment(tars: ShardSet, tokenizers: dict[str, Path]) -> None:
    reader = TextReader(TextSpec(tokenizer=tokenizers["bert"], field="text", pair="next"), tars)
    ids = np.arange(COUNT)
    seen = [reader._others(np.uint64(SEED), np.uint64(epoch), ids) for epoch in range(400)]
    step = (np.stack(seen) - ids) % COUNT
    counts = np.bincount(step.ravel(), minlength=COUNT)
    assert binomtest(int(counts[0]), step.size).pvalue > 1e-4, "half keep their own"
    assert chisquare(counts[1:]).pvalue > 1e-4


def everything(spec: Any, shards: ShardSet, **options: Any) -> list[list[np.ndarray]]:
    with make(shards, spec, **options) as loader:
        return [[part.numpy().copy() for part in batch.tensors()] for _ in range(2) for batch in loader]


def assert_same(ours: list[list[np.ndarray]], theirs: list[list[np.ndarray]]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert len(a) == len(b)
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def both(tokenizer: Path, **settings: Any) -> dict[str, Spec]:
    """Views with the text beside them, masked."""
    masks = (TokenMask(), TokenMask())
    text = TextSpec(tokenizer=tokenizer, length=24, window="drawn", masks=masks, **settings)
    return {"image": ViewSpec([View(size=20, jitter=0.5, brightness=0.4)] * 2), "text": text}


def test_ranks_together_load_the_global_batches(tars: ShardSet, tokenizers: dict[str, Path]) -> None:
    spec = both(tokenizers["bert"], whole_words=True, pair="next")
    whole = everything(spec, tars)
    shares = [everything(spec, tars, rank=rank, world_size=3, threads=1 + rank) for rank in range(3)]
    together = [[np.concatenate(parts) for parts in zip(*batch, strict=True)] for batch in zip(*shares, strict=True)]
    assert_same(together, whole)


@pytest.mark.parametrize("world_size", [1, 3])
def test_resumes_in_the_middle_of_an_epoch(world_size: int, tars: ShardSet, tokenizers: dict[str, Path]) -> None:
    spec = both(tokenizers["bert"])
    whole = everything(spec, tars)
    with make(tars, spec) as loader:
        list(islice(loader, 3))
        state = loader.state_dict()
    shares = []
    for rank in range(world_size):
        with make(tars, spec, seed=99, rank=rank, world_size=world_size) as resumed:
            resumed.load_state_dict(state)
            shares.append([[part.numpy().copy() for part in batch.tensors()] for _ in range(2) for batch in resumed])
    together = [[np.concatenate(parts) for parts in zip(*batch, strict=True)] for batch in zip(*shares, strict=True)]
    assert_same(together, whole[3:])


@pytest.mark.parametrize("engine", ["torchvision", pytest.param("dali", marks=pytest.mark.peer("dali"))])
def test_texts_beside_images_change_neither(engine: str, tars: ShardSet, tokenizers: dict[str, Path]) -> None:
    spec = both(tokenizers["bert"])
    with (
        make(tars, spec, engine=engine) as pairs,
        make(tars, spec["image"], engine=engine) as images,
        make(tars, spec["text"]) as alone,
    ):
        for pair, image, text in zip(pairs, images, alone, strict=True):
            assert len(texts_of(pair).masks) == 2
            assert pair.labels is not None
            for ours, theirs in (
                (pair["image"].views, image.views),
                ([*pair["image"].drawn], [*image.drawn]),
                (tensors_of(texts_of(pair)), tensors_of(texts_of(text))),
                (
                    [part for mask in texts_of(pair).masks for part in mask],
                    [part for m in texts_of(text).masks for part in m],
                ),
                ([pair.index, pair.labels], [text.index, text.labels]),
            ):
                assert len(ours) == len(theirs)
                assert all(map(torch.equal, ours, theirs))


def test_texts_beside_clips(tmp_path: Path, tokenizers: dict[str, Path]) -> None:
    """The plan of a clip's rows is drawn in the threads, too."""
    frames = np.arange(8, dtype=np.uint8)[:, None, None, None] * np.ones((1, 12, 12, 3), np.uint8)
    some = [
        {"__key__": f"clip_{n}", "frames": frames + n, "text": text} for n, text in enumerate(texts.paragraphs()[:9])
    ]
    write_shards(tmp_path / "set", some, {"frames": Field(kind="array"), "text": Field(kind="text")})
    clips = [Clip(frames=3, strides=(1, 2), view=View(size=8))]
    text = TextSpec(tokenizer=tokenizers["bert"], length=30, masks=(TokenMask(),))
    with open_shards(tmp_path / "set") as shards:
        ours = everything({"clip": ClipSpec(clips), "text": text}, shards, batch_size=4)
        alone = everything(ClipSpec(clips), shards, batch_size=4)
        of_text = everything(text, shards, batch_size=4)
    assert len(ours) == 4
    assert_same(ours, [views[:-1] + words for views, words in zip(alone, of_text, strict=True)])


class LateCopies:
    """Reads a batch's memory at the last moment, when the loader has long gone on."""

    def __init__(self) -> None:
        self.begun: deque[Batch] = deque()

    def aside(self) -> AbstractContextManager[None]:
        return nullcontext()

    def begin(self, batch: Batch) -> None:
        self.begun.append(batch)

    def take(self) -> Batch:
        return self.begun.popleft()._each(torch.clone)

    def close(self) -> None:
        self.begun.clear()


def test_texts_go_to_the_device_with_the_rest(tars: ShardSet, tokenizers: dict[str, Path]) -> None:
    spec = both(tokenizers["bert"])
    expected = everything(spec, tars)
    with make(tars, spec) as loader:
        batches = DeviceBatches(loader, torch.device("cpu"), LateCopies())
        found = [[part.numpy().copy() for part in batch.tensors()] for _ in range(2) for batch in batches]
        moved = next(iter(loader)).to("meta")
    assert_same(found, expected)
    assert len(found[0]) == 2 + 2 + 4 + 7 + 2 * 3  # views, index and label, draws, texts, masks
    assert {part.device.type for part in moved.tensors()} == {"meta"}


def test_a_batch_may_be_as_long_as_its_longest_text(tars: ShardSet, tokenizers: dict[str, Path]) -> None:
    masks = (TokenMask(), SpanMask(sentinels=tuple(range(690, 600, -1))))
    options: dict[str, Any] = {"tokenizer": tokenizers["bert"], "length": 90, "masks": masks, "field": "text"}
    with make(tars, TextSpec(**options), 4) as whole, make(tars, TextSpec(**options, multiple=8), 4) as short:
        seen = set()
        for wide, narrow in zip(whole, short, strict=True):
            length = int(texts_of(narrow).lengths.max())
            length = min(90, -(-length // 8) * 8)
            seen.add(length)
            assert texts_of(narrow).tokens.shape == (4, length)
            assert torch.equal(texts_of(narrow).tokens, texts_of(wide).tokens[:, :length])
            assert torch.equal(texts_of(narrow).masks[0].labels, texts_of(wide).masks[0].labels[:, :length])
            ours, theirs = texts_of(narrow).masks[1], texts_of(wide).masks[1]
            assert isinstance(ours, CorruptedSpans)
            assert isinstance(theirs, CorruptedSpans)
            assert torch.equal(ours.inputs, theirs.inputs[:, : ours.inputs.shape[1]])
            assert torch.equal(ours.label_count, theirs.label_count)
    assert len(seen) > 2


def test_what_looks_like_a_special_token_is_text(tmp_path: Path, tokenizers: dict[str, Path]) -> None:
    write_shards(tmp_path / "set", [{"__key__": "a", "txt": "The [SEP] and the [MASK]"}], {"txt": Field(kind="text")})
    with open_shards(tmp_path / "set") as shards, make(shards, TextSpec(tokenizer=tokenizers["bert"]), 1) as loader:
        (batch,) = loader
    tokens = texts_of(batch).tokens[0].tolist()
    assert (tokens.count(2), tokens.count(3), tokens.count(4)) == (1, 1, 0)


BAD = {"empty": b"", "blank": b" \n\t", "not_utf8": b"caf\xe9 au lait"}
BAD_JSON = {
    "no_json": b"[",
    "no_text": b'{"caption": 3}',
    "blank_list": b'["", " "]',
    "half_a_pair": b'["\\ud83d"]',
    "deep": b"[" * 100_000,
}


def plain_tar(path: Path, extension: str, bad: dict[str, bytes]) -> Path:
    """As any program writes it: 20 good texts and the bad ones between them."""
    good = {f"good_{number:02d}": text for number, text in enumerate(texts.paragraphs()[:20])}
    contents = {key: (json.dumps(text) if extension == "json" else text).encode() for key, text in good.items()}
    with tarfile.open(path, "w") as tar:
        for key, content in sorted((contents | bad).items()):
            info = tarfile.TarInfo(f"{key}.{extension}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("extension", "bad"),
    [("txt", BAD), ("json", BAD_JSON)],
    ids=["txt", "json"],
)
def test_bad_texts_follow_the_policy(
    extension: str, bad: dict[str, bytes], tmp_path: Path, tokenizers: dict[str, Path]
) -> None:
    field = None if extension == "txt" else "json"
    spec = TextSpec(tokenizer=tokenizers["bert"], length=16, field=field, masks=(TokenMask(),))
    with open_shards(plain_tar(tmp_path / "texts.tar", extension, bad)) as shards:
        total = 20 + len(bad)
        for key in bad:
            one = next(i for i in range(total) if shards.key(i) == key)
            reader = TextReader(spec, shards)
            with pytest.raises(ShardError, match=rf"texts\.tar, offset \d+, key {key}: .*text"):
                reader.fill(np.array([one]), shards.spans(reader.field, [one]), reader.blank(0, 0, 1))
        with make(shards, spec, 5) as loader, pytest.raises(ShardError):
            list(loader)
        for policy, count in (("skip", 20), ("substitute", total)):
            with make(shards, spec, total, on_error=policy) as loader:
                (batch,) = loader
                assert {shards.key(i) for i in loader.bad} == bad.keys()
            assert len(batch) == len(texts_of(batch).tokens) == len(texts_of(batch).masks[0].labels) == count
            keys = [shards.key(i) for i in batch.index.tolist()]
            assert all(key.startswith("good") for key in keys)
            # Who stands in is seen as in its own place.
            seen: dict[str, list[int]] = {}
            for key, tokens in zip(keys, texts_of(batch).masks[0].labels.tolist(), strict=True):
                assert seen.setdefault(key, tokens) == tokens


def test_a_bad_text_makes_its_image_bad_too(tmp_path: Path, tokenizers: dict[str, Path]) -> None:
    some = [sample | {"text": " " if number in (3, 8) else sample["text"]} for number, sample in enumerate(samples())]
    write_shards(tmp_path / "set", some, FIELDS)
    text = TextSpec(tokenizer=tokenizers["bert"], field="text")
    spec = {"image": ViewSpec([View(size=8)]), "text": text}
    with open_shards(tmp_path / "set") as shards, make(shards, spec, 20, on_error="substitute") as loader:
        batches = list(loader)
        assert set(loader.bad) == {3, 8}
    for batch in batches:
        for row, sample in enumerate(batch.index.tolist()):
            expected = library(tokenizers["bert"], 128).encode(some[sample]["text"]).ids
            assert texts_of(batch).tokens[row].tolist() == expected


def test_cocos_captions_come_beside_their_pictures(tmp_path: Path, tokenizers: dict[str, Path]) -> None:
    convert("coco", write_zips(tmp_path), tmp_path / "set", split="train", workers=1)
    spec = {"image": ViewSpec([View(size=16)]), "text": TextSpec(tokenizer=tokenizers["bert"], length=40)}
    tokenizer = library(tokenizers["bert"], 40)
    with open_shards(tmp_path / "set") as shards, make(shards, spec, 5) as loader:
        (batch,) = loader
        for row, sample in enumerate(batch.index.tolist()):
            number = shards.read(sample)["image_id"]
            expected = caption(number, int(texts_of(batch).chosen[row]))
            assert texts_of(batch).tokens[row].tolist() == tokenizer.encode(expected).ids
    assert batch["image"].views[0].shape == (5, 3, 16, 16)


@pytest.mark.peer("aiohttp")
def test_texts_beside_images_on_a_remote_store(tars: ShardSet, tokenizers: dict[str, Path], tmp_path: Path) -> None:
    spec = both(tokenizers["bert"], pair="next")
    options = {"order": "global", "on_error": "error"}
    cache: dict[str, Any] = {"cache_dir": tmp_path, "cache_bytes": 1 << 18, "block_bytes": 1 << 13}
    with folder_server(Path(str(tars.path)).parent) as url, open_shards(f"{url}/set", **cache) as remote:
        assert_same(everything(spec, remote, **options), everything(spec, tars, **options))


def test_contradictions_are_refused(tars: ShardSet, tokenizers: dict[str, Path], tmp_path: Path) -> None:
    good, t5, llama = tokenizers["bert"], tokenizers["t5"], tokenizers["llama"]
    (tmp_path / "bad.json").write_text("[1]", encoding="utf-8")
    for make_spec, message in (
        (lambda: TextSpec(tokenizer=good, length=0), "TextSpec.length must be at least 1, got 0"),
        (lambda: TextSpec(tokenizer=good, window="last"), "TextSpec.window must be first or drawn, got last"),  # type: ignore[arg-type]
        (lambda: TextSpec(tokenizer=good, pair="both"), "TextSpec.pair must be order, next or None, got both"),  # type: ignore[arg-type]
        (
            lambda: TextSpec(tokenizer=t5, pair="order", masks=(SpanMask(),)),
            "TextSpec.pair must be None with a SpanMask, which is for texts in one piece, got order",
        ),
        (lambda: TextSpec(tokenizer=good, multiple=0), "TextSpec.multiple must be at least 1 or None, got 0"),
        (
            lambda: TextSpec(tokenizer=good, length=2),
            "TextSpec.length must be at least 3, for the tokenizer's 2 special tokens and one of the text, got 2",
        ),
        (
            lambda: TextSpec(tokenizer=good, length=4, pair="order"),
            "TextSpec.length must be at least 5, for the tokenizer's 3 special tokens and one of each segment, got 4",
        ),
        (
            lambda: TextSpec(tokenizer=llama, masks=(TokenMask(),), whole_words=True),
            r"TextSpec.whole_words needs words, and .*llama\.json makes one of a whole text: it has no pre-tokenizer",
        ),
        (lambda: TextSpec(tokenizer=llama, pair="next"), "TextSpec.pair needs words, and .* makes one of a whole text"),
        (lambda: TextSpec(tokenizer=good, field="label"), "has no text field 'label'; it has image, label, text, capt"),
        (lambda: TextSpec(tokenizer=tmp_path / "bad.json"), r"TextSpec.tokenizer .*bad\.json: not a tokenizer\.json"),
        (lambda: TextSpec(tokenizer=tmp_path / "none.json"), r"none\.json: not a tokenizer\.json \(No such file"),
        (lambda: TextSpec(tokenizer=t5, masks=(TokenMask(),)), r"t5\.json has no token \[MASK\] or <mask>"),
        (lambda: TextSpec(tokenizer=good, masks=(SpanMask(),)), r"bert\.json has no token <extra_id_0>"),
        (
            lambda: TextSpec(tokenizer=t5, length=2041, masks=(SpanMask(),)),
            "a text of 2040 tokens has 102 spans, there are 100 sentinels",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make(tars, make_spec())
    with open_shards(tars.path) as shards:
        shards.fields = {"label": shards.fields["label"]}
        with pytest.raises(ValueError, match="has no field captions or caption or text"):
            make(shards, TextSpec(tokenizer=good))
    write_shards(tmp_path / "one", [{"__key__": "lonely", "text": "Headrace"}], {"text": Field(kind="text")})
    with open_shards(tmp_path / "one") as shards:
        with pytest.raises(ValueError, match=r"TextSpec\.pair 'next' needs another sample; .* has 1"):
            make(shards, TextSpec(tokenizer=good, pair="next"), 1)
        with (
            make(shards, TextSpec(tokenizer=good, pair="order"), 1) as loader,
            pytest.raises(ShardError, match="key lonely: the text is a single word"),
        ):
            list(loader)


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_whole_words_mask_something_of_a_single_long_word(
    name: str, tmp_path: Path, tokenizers: dict[str, Path]
) -> None:
    some = [{"__key__": f"{length}", "text": "x" * length + "y"} for length in (1, 7, 30, 90)]
    write_shards(tmp_path / "set", some, {"text": Field(kind="text")})
    mask = TokenMask(mask_id=1)
    spec = TextSpec(tokenizer=tokenizers[name], length=64, masks=(mask,), whole_words=True)
    with open_shards(tmp_path / "set") as shards, make(shards, spec, 4) as loader:
        (batch,) = loader
    found = texts_of(batch).masks[0]
    assert isinstance(found, MaskedTokens)
    assert found.masked_count.tolist() == mask.wanted(texts_of(batch).lengths.numpy()).tolist()


def test_a_tokenizer_without_words_masks_tokens(tars: ShardSet, tokenizers: dict[str, Path]) -> None:
    with make(tars, TextSpec(tokenizer=tokenizers["llama"], field="text", masks=(TokenMask(),))) as loader:
        for batch in loader:
            assert isinstance(texts_of(batch).masks[0], MaskedTokens)
            assert int(texts_of(batch).masks[0].masked_count.min()) >= 1


def test_the_message_says_when_a_word_fills_what_is_kept(tmp_path: Path, tokenizers: dict[str, Path]) -> None:
    write_shards(tmp_path / "set", [{"__key__": "long", "text": "x" * 50 + " and more"}], {"text": Field(kind="text")})
    spec = TextSpec(tokenizer=tokenizers["t5"], length=6, pair="order")
    with (
        open_shards(tmp_path / "set") as shards,
        make(shards, spec, 1) as loader,
        pytest.raises(ShardError, match="key long: the 6 tokens that are kept of the text are a single word"),
    ):
        list(loader)


@pytest.mark.parametrize("options", [{}, {"pair": "order"}, {"pair": "next"}, {"window": "drawn"}], ids=str)
def test_of_long_texts_the_same_is_kept_as_if_they_were_tokenised_whole(
    options: dict[str, Any], tmp_path: Path, tokenizers: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    some = [{"__key__": f"{number}", "text": text * 3} for number, text in enumerate(texts.documents())]
    write_shards(tmp_path / "set", some, {"text": Field(kind="text")})
    spec = TextSpec(tokenizer=tokenizers["bert"], length=24, masks=(TokenMask(),), whole_words=True, **options)
    with open_shards(tmp_path / "set") as shards:
        with make(shards, spec, 4) as loader:
            cut = list(loader)
        monkeypatch.setattr("headrace.pipeline.texts.tokenizer._beginning", lambda text, size: text)
        with make(shards, spec, 4) as loader:
            whole = list(loader)
    for one, other in zip(cut, whole, strict=True):
        assert_same_texts(one, other)


def assert_same_texts(one: Batch, other: Batch) -> None:
    for part, expected in zip(tensors_of(texts_of(one)), tensors_of(texts_of(other)), strict=True):
        assert torch.equal(part, expected)
    for part, expected in zip(texts_of(one).masks[0], texts_of(other).masks[0], strict=True):
        assert torch.equal(part, expected)
