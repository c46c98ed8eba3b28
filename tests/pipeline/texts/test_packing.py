"""Documents packed into blocks: against one long list of tokens, and what must hold however a run is cut up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headrace.pipeline import (
    CorruptedSpans,
    Loader,
    MaskedTokens,
    PackedTexts,
    PackedTextSpec,
    SpanMask,
    TextSpec,
    TokenMask,
    WindowOrder,
    order,
)
from headrace.pipeline.texts import store as stores
from headrace.pipeline.texts.packing import BlockOrder, PackedEpoch
from headrace.pipeline.texts.store import token_store
from headrace.pipeline.texts.tokenizer import TextTokenizer
from headrace.shards import Field, ShardError, ShardSet, open_shards, write_shards
from tests import texts

pytestmark = pytest.mark.peer("tokenizers")

LENGTH = 32


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Tokens are kept in a folder of the tests'."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("HEADRACE_CACHE")
    os.environ["HEADRACE_CACHE"] = str(folder / "headrace")
    yield folder
    if before is None:
        del os.environ["HEADRACE_CACHE"]
    else:
        os.environ["HEADRACE_CACHE"] = before


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bert.json, t5.json, unsplit.json."""
    folder = tmp_path_factory.mktemp("tokenizers")
    texts.wordpiece(folder / "bert.json")
    texts.sentinels(folder / "t5.json")
    texts.unsplit(folder / "unsplit.json")
    return folder


def documents() -> list[str]:
    """Short ones, some of a word, and one of some hundred tokens in the midst."""
    found = texts.paragraphs()[:90]
    return [*found[:40], "word", texts.documents()[2][:3000], *found[40:]]


def written(path: Path, found: list[str], **options: Any) -> Path:
    samples = ({"__key__": f"{n:04d}", "text": text} for n, text in enumerate(found))
    write_shards(path, samples, {"text": Field(kind="text")}, **options)
    return path


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with open_shards(written(tmp_path_factory.mktemp("set") / "set", documents(), shard_size=30_000)) as opened:
        yield opened


def framed(file: Path, special: bool = True) -> list[list[int]]:
    """The tokens of each document by the library itself."""
    from tokenizers import Tokenizer

    tokenizer: Any = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    return [tokenizer.encode(text, add_special_tokens=special).ids for text in documents()]


def batches(shards: ShardSet, spec: PackedTextSpec, size: int = 4, *, epoch: int = 0, **options: Any) -> list[Any]:
    with Loader(shards, spec, size, drop_last=False, **options) as loader:
        loader.epoch = epoch
        return list(loader)


def joined(found: list[Any], name: str) -> np.ndarray:
    return np.concatenate([getattr(batch["text"], name).numpy() for batch in found])


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("name", ["bert", "t5"])
def test_blocks_are_one_long_list_cut_up(shards: ShardSet, files: Path, name: str, special: bool) -> None:
    """In stored order, where blocks are not permuted either: as Hugging Face's `group_texts` (run_mlm.py) makes them of
    what the library's own call tokenises."""
    file = files / f"{name}.json"
    spec = PackedTextSpec(tokenizer=file, length=LENGTH, special=special)
    found = batches(shards, spec, shuffle=False, threads=2)
    own = framed(file, special)
    stream = list(chain(*own))
    total = len(stream) // LENGTH * LENGTH
    expected = np.array([stream[at : at + LENGTH] for at in range(0, total, LENGTH)])
    assert np.array_equal(joined(found, "tokens"), expected)
    whose = list(chain(*([n] * len(one) for n, one in enumerate(own))))
    within = list(chain(*(range(len(one)) for one in own)))
    positions, numbers = joined(found, "positions"), joined(found, "documents")
    index = np.concatenate([batch.index.numpy() for batch in found])
    first = joined(found, "first")
    for block, row in enumerate(positions):
        at = block * LENGTH
        names = whose[at : at + LENGTH]
        assert index[block] == names[0]
        assert first[block] == within[at]
        order_of = {name: place for place, name in enumerate(dict.fromkeys(names))}
        assert numbers[block].tolist() == [order_of[name] for name in names]
        count: Counter[int] = Counter()
        for place, name_of in zip(row.tolist(), names, strict=True):
            assert place == count[name_of]
            count[name_of] += 1
    assert found[0].labels is None
    part = found[0]["text"]
    assert isinstance(part, PackedTexts)
    assert part.attention.all()
    assert part.attention.shape == part.segments.shape == part.tokens.shape == (4, LENGTH)
    assert part.lengths.tolist() == [LENGTH] * 4
    assert not part.chosen.any()
    assert not part.broken.any()
    assert not part.segments.any()


def test_every_epoch_has_every_token_once_in_another_order(shards: ShardSet, files: Path) -> None:
    spec = PackedTextSpec(tokenizer=files / "bert.json", length=LENGTH)
    own = framed(files / "bert.json")
    seen = []
    for epoch in range(3):
        found = batches(shards, spec, epoch=epoch, seed=5)
        stream = order(5, epoch, len(shards))[:]
        expected = list(chain(*(own[document] for document in stream)))
        total = len(expected) // LENGTH
        blocks = {tuple(expected[at * LENGTH : (at + 1) * LENGTH]) for at in range(total)}
        rows = joined(found, "tokens")
        assert len(rows) == total
        assert {tuple(row) for row in rows.tolist()} == blocks
        seen.append(rows)
    assert not np.array_equal(seen[0], seen[1])
    assert len({tuple(row) for row in seen[0].tolist()} & {tuple(row) for row in seen[1].tolist()}) < len(seen[0]) / 4
    neighbours = (np.diff([batch.index.numpy()[0] for batch in found]) == 0).mean()
    assert neighbours < 0.5  # the long document is not one run of blocks


@pytest.mark.parametrize("options", [{}, {"order": "window", "window": 24, "lanes": 4}])
def test_the_same_blocks_for_any_ranks_threads_and_places_to_begin(
    shards: ShardSet, files: Path, options: dict[str, Any]
) -> None:
    masks = (TokenMask(), TokenMask(ratio=0.4))
    spec = PackedTextSpec(tokenizer=files / "bert.json", length=LENGTH, masks=masks, whole_words=True)

    def rows(batch: Any) -> list[bytes]:
        tensors = [tensor.numpy() for tensor in batch.tensors()]
        return [
            b"".join(np.ascontiguousarray(tensor[row]).tobytes() for tensor in tensors) for row in range(len(batch))
        ]

    with Loader(shards, spec, 6, seed=9, threads=2, epochs=2, **options) as loader:
        state = loader.state_dict()
        whole = [rows(batch) for _ in range(2) for batch in loader]
        assert len(whole) == 2 * len(loader)
        steps = len(loader)
    for ranks, begins in ((1, {0, 1, steps - 1, steps}), (3, {0, steps + 2}), (4, {2})):
        for begin in begins:
            parts = []
            for rank in range(ranks):
                with Loader(
                    shards, spec, 6, rank=rank, world_size=ranks, threads=1, prefetch=1, epochs=2, **options
                ) as loader:
                    epoch, step = divmod(begin, steps)
                    loader.load_state_dict({**state, "epoch": epoch, "position": 6 * step})
                    parts.append([rows(batch) for _ in range(2 - epoch) for batch in loader])
            assert [list(chain(*each)) for each in zip(*parts, strict=True)] == whole[begin:]


def test_a_state_after_every_step_goes_on(shards: ShardSet, files: Path) -> None:
    spec = PackedTextSpec(tokenizer=files / "bert.json", length=64, masks=(TokenMask(),))
    with Loader(shards, spec, 5, seed=2, epochs=2) as loader:
        states, seen = [loader.state_dict()], []
        for _ in range(2):
            for batch in loader:
                seen.append(batch["text"].masks[0].tokens.clone())
                states.append(loader.state_dict())
        for step, state in enumerate(states[:-1]):
            loader.load_state_dict(state)
            assert torch.equal(next(iter(loader))["text"].masks[0].tokens, seen[step])


def test_a_state_of_another_packing_is_refused(shards: ShardSet, files: Path) -> None:
    with Loader(shards, PackedTextSpec(tokenizer=files / "bert.json", length=64), 2) as loader:
        state = loader.state_dict()
    with (
        Loader(shards, PackedTextSpec(tokenizer=files / "bert.json", length=32), 2) as loader,
        pytest.raises(ValueError, match=r"the state is of \d+ samples"),
    ):
        loader.load_state_dict(state)


def test_masks_are_those_of_the_blocks_and_new_each_epoch(shards: ShardSet, files: Path) -> None:
    """The draw of each block is `TokenMask.draw`'s by the block's number, which the order of blocks tells."""
    mask = TokenMask(ratio=0.3)
    spec = PackedTextSpec(tokenizer=files / "bert.json", length=LENGTH, masks=(mask,))
    tokenizer = TextTokenizer(files / "bert.json")
    seen = {}
    for epoch in (0, 1):
        found = batches(shards, spec, seed=4, epoch=epoch)
        tokens = joined(found, "tokens")
        masked = [np.concatenate([batch["text"].masks[0][part].numpy() for batch in found]) for part in range(3)]
        assert isinstance(found[0]["text"].masks[0], MaskedTokens)
        blocks = BlockOrder(order(4, epoch, len(shards)), len(tokens)).share(0, len(tokens), 0, 1)
        special = (tokens == 2) | (tokens == 3)
        with_ids = TokenMask(ratio=0.3, vocabulary=tokenizer.vocabulary, mask_id=tokenizer.mask_id)
        drawn = with_ids.draw(4, epoch, blocks, tokens, np.full(len(tokens), LENGTH), special=special)
        for ours, expected in zip(masked, drawn, strict=True):
            assert np.array_equal(ours, expected.numpy())
        assert not (masked[1][special] != -100).any()
        assert (masked[2] == np.minimum(round(0.3 * LENGTH), LENGTH - special.sum(1))).all()
        seen[epoch] = {int(block): labels for block, labels in zip(blocks, masked[1], strict=True)}
    same = np.mean([((seen[0][block] >= 0) == (seen[1][block] >= 0)).all() for block in seen[0]])
    assert same < 0.05


def test_whole_words_stay_whole_inside_a_block(shards: ShardSet, files: Path) -> None:
    spec = PackedTextSpec(
        tokenizer=files / "bert.json",
        length=LENGTH,
        masks=(TokenMask(ratio=0.3, hidden=1.0, random=0.0),),
        whole_words=True,
    )
    name = TextTokenizer(files / "bert.json").name
    pieces = 0
    for batch in batches(shards, spec):
        part = batch["text"]
        for tokens, labels, at in zip(
            part.tokens.tolist(), part.masks[0].labels.tolist(), part.positions.tolist(), strict=True
        ):
            for place in range(1, LENGTH):
                if name(tokens[place]).startswith("##") and at[place]:
                    pieces += labels[place] != -100
                    assert (labels[place] == -100) == (labels[place - 1] == -100)
    assert pieces > 50


def test_spans(shards: ShardSet, files: Path) -> None:
    spec = PackedTextSpec(tokenizer=files / "t5.json", length=LENGTH, special=False, masks=(SpanMask(),))
    for batch in batches(shards, spec):
        part = batch["text"]
        (spans,) = part.masks
        assert isinstance(spans, CorruptedSpans)
        for row in range(len(batch)):
            kept = part.tokens[row][~spans.noise[row]].tolist()
            lost = part.tokens[row][spans.noise[row]].tolist()
            inputs = spans.inputs[row, : spans.input_count[row]].tolist()
            labels = spans.labels[row, : spans.label_count[row]].tolist()
            sentinels = set(TextTokenizer(files / "t5.json").sentinels)
            assert [token for token in inputs[:-1] if token not in sentinels] == kept
            assert [token for token in labels[:-1] if token not in sentinels] == lost
            assert len(lost) == round(0.15 * LENGTH)


@pytest.mark.peer("transformers")
def test_documents_do_not_see_each_other(shards: ShardSet, files: Path) -> None:
    """A block with its block-diagonal mask and positions gives each piece the features that it has alone."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=800, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=LENGTH, attn_implementation="eager",
    )  # fmt: skip
    model = BertModel(config, add_pooling_layer=False).double().eval()
    part = batches(shards, PackedTextSpec(tokenizer=files / "bert.json", length=LENGTH))[0]["text"]
    alone_at = part.cu_seqlens().tolist()
    assert alone_at[-1] == part.tokens.numel()
    assert len(alone_at) > len(part.tokens) + 3
    with torch.no_grad():
        mask = torch.where(part.within()[:, None], 0.0, -1e30).double()
        packed = model(part.tokens, attention_mask=mask, position_ids=part.positions).last_hidden_state.flatten(0, 1)
        across = model(part.tokens, position_ids=part.positions).last_hidden_state.flatten(0, 1)
        for begin, end in pairwise(alone_at):
            tokens = part.tokens.flatten()[None, begin:end]
            alone = model(tokens).last_hidden_state[0]
            assert torch.allclose(packed[begin:end], alone, atol=1e-10)
    assert not torch.allclose(packed, across, atol=1e-3)


def test_the_stream_of_an_epoch_against_a_plain_loop() -> None:
    """Sizes of 0 to some thousand, also runs of nothing, orders of both kinds."""
    random = np.random.Generator(np.random.Philox(1))
    for trial in range(40):
        n = int(random.integers(1, 400))
        sizes = random.integers(0, random.choice([2, 30, 2000]), n) * (random.random(n) < random.choice([0.2, 1.0]))
        sizes[0] += 20
        length = int(random.integers(1, min(300, sizes.sum()) + 1))
        made = order(3, trial, n) if trial % 2 else WindowOrder(3, trial, [n], window=8, lanes=2)
        epoch = PackedEpoch(made, lambda ids, sizes=sizes: sizes[ids], length)
        stream = [(int(doc), at) for doc in made[:] for at in range(sizes[doc])]
        assert len(epoch) == len(stream) // length
        blocks = random.integers(0, len(epoch), 7)
        found = epoch.pieces(blocks)
        for row, block in enumerate(blocks.tolist()):
            here = [
                (int(found.document[p]), int(found.first[p]) + k)
                for p in np.flatnonzero(found.row == row)
                for k in range(found.size[p])
            ]
            assert here == stream[block * length : (block + 1) * length]
            assert found.at[found.row == row].tolist() == np.cumsum([0, *found.size[found.row == row]])[:-1].tolist()
        with pytest.raises(IndexError):
            epoch.pieces(np.array([len(epoch)]))


def test_an_epoch_takes_little_memory() -> None:
    """16 bytes a document at most, of which the offsets of a store are 8, on the disk."""
    import tracemalloc

    n = 400_000
    offsets = np.arange(n + 1) * 7
    tracemalloc.start()
    epoch = PackedEpoch(order(0, 0, n), lambda ids: offsets[ids + 1] - offsets[ids], 128)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(epoch) == n * 7 // 128
    assert held < n
    assert peak < 16 * n


def test_bad_documents_end_it_or_have_no_part(files: Path, tmp_path: Path) -> None:
    found = documents()[:50]
    good = [text for number, text in enumerate(found) if number not in (7, 30)]
    bad = [text if number not in (7, 30) else "" if number == 7 else "   " for number, text in enumerate(found)]
    samples = ({"__key__": f"{n:04d}", "text": text} for n, text in enumerate(bad))
    write_shards(tmp_path / "bad", samples, {"text": Field(kind="text")})
    spec = PackedTextSpec(tokenizer=files / "bert.json", length=LENGTH)
    with open_shards(tmp_path / "bad") as opened, open_shards(written(tmp_path / "good", good)) as without:
        with pytest.raises(ShardError, match=r"key 0007: the text is empty"):
            Loader(opened, spec, 2)
        with pytest.raises(ShardError, match=r"2 bad samples, more than max_bad=1"):
            Loader(opened, spec, 2, on_error="substitute", max_bad=1)
        with Loader(opened, spec, 2, on_error="substitute") as loader:
            assert list(loader.bad) == [7, 30]
        here = joined(batches(opened, spec, shuffle=False, on_error="skip"), "tokens")
        assert np.array_equal(here, joined(batches(without, spec, shuffle=False), "tokens"))


def test_what_cannot_be_packed_is_one_line(shards: ShardSet, files: Path, tmp_path: Path) -> None:
    bert = files / "bert.json"
    for spec, message in (
        (
            PackedTextSpec(tokenizer=bert, length=10**6),
            r"has [\d,]+ tokens in all, which do not fill a block of 1,000,000",
        ),
        (PackedTextSpec(tokenizer=bert, field="label"), "has no text field 'label'"),
        (PackedTextSpec(tokenizer=files / "unsplit.json", whole_words=True), "whole_words needs words"),
        (PackedTextSpec(tokenizer=files / "t5.json", masks=(TokenMask(),)), r"has no token \[MASK\]"),
        ({"a": PackedTextSpec(tokenizer=bert), "b": TextSpec(tokenizer=bert)}, "a PackedTextSpec must be alone"),
    ):
        with pytest.raises(ValueError, match=message):
            Loader(shards, spec, 2)
    with pytest.raises(ValueError, match="special must be False with a SpanMask"):
        PackedTextSpec(tokenizer=bert, masks=(SpanMask(),))
    captions = [{"__key__": "a", "captions": ["one", "two"]}]
    write_shards(tmp_path / "set", captions, {"captions": Field(kind="json")})
    with open_shards(tmp_path / "set") as opened, pytest.raises(ValueError, match="captions is of kind json"):
        Loader(opened, PackedTextSpec(tokenizer=bert), 2)


def test_tokens_are_kept_by_tokenizer_and_set(
    shards: ShardSet, files: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "cache-tokens"
    calls: list[int] = []
    tokenizer = TextTokenizer(files / "bert.json")
    store = token_store(shards, "text", tokenizer, progress=calls.append)
    assert calls == list(range(1, len(shards) + 1))
    assert len(store) == len(shards)
    again = token_store(shards, "text", tokenizer, progress=calls.append)
    assert len(calls) == len(shards)
    assert np.array_equal(store.tokens, again.tokens)
    own = framed(files / "bert.json", special=False)
    expected: Any = Counter(len(one) for one in own)
    assert Counter(store.sizes(np.arange(len(store))).tolist()) == expected
    token_store(shards, "text", TextTokenizer(files / "t5.json"), progress=calls.append)
    assert len(calls) == 2 * len(shards)
    assert len(os.listdir(root)) == 2
    monkeypatch.setattr(stores, "CAPACITY", 1)
    other = written(tmp_path / "other", documents()[:9])
    with open_shards(other) as opened:
        token_store(opened, "text", tokenizer)
    assert len(os.listdir(root)) == 1
    assert np.array_equal(store.tokens, again.tokens)  # whoever has it open keeps it


def test_large_vocabularies(tmp_path: Path) -> None:
    """Four bytes a token."""
    path = texts.words()
    content = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    last = max(vocabulary, key=vocabulary.get)  # type: ignore[arg-type]
    vocabulary[last] = 70_000
    (tmp_path / "large.json").write_text(json.dumps(content), encoding="utf-8")
    found = [f"{last} the {last}"] * 30
    with open_shards(written(tmp_path / "set", found)) as opened:
        rows = joined(batches(opened, PackedTextSpec(tokenizer=tmp_path / "large.json", length=5)), "tokens")
        assert (rows == 70_000).sum() == 60


def test_a_killed_pass_leaves_nothing_that_counts(shards: ShardSet, files: Path, tmp_path: Path) -> None:
    """And of two processes that want the same, one computes it."""
    code = (
        "import sys, time\nfrom headrace.pipeline.texts.store import token_store\n"
        "from headrace.pipeline.texts.tokenizer import TextTokenizer\nfrom headrace.shards import open_shards\n"
        "def slow(done):\n  print(done, flush=True)\n  time.sleep(float(sys.argv[3]))\n"
        "with open_shards(sys.argv[1]) as shards:\n"
        "  print(len(token_store(shards, 'text', TextTokenizer(sys.argv[2]), progress=slow).tokens), 'tokens')\n"
    )
    env = {**os.environ, "HEADRACE_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", code, str(shards.path), str(files / "bert.json")]
    killed = subprocess.Popen([*command, "1"], stdout=subprocess.PIPE, env=env)
    assert killed.stdout is not None
    killed.stdout.readline()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    both = [subprocess.Popen([*command, "0.005"], stdout=subprocess.PIPE, env=env, encoding="utf-8") for _ in range(2)]
    started = time.monotonic()
    said = [process.communicate(timeout=120)[0].split() for process in both]
    assert time.monotonic() - started < 120
    assert sorted(len(words) for words in said) == [2, len(shards) + 2]
    assert said[0][-2:] == said[1][-2:]
    assert not [name for name in os.listdir(tmp_path / "cache-tokens") if name.endswith(".lock")]
