"""Methods of clips, of texts and of texts beside images take their first steps in the loop that images take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from headrace.models import METHODS, Method, MethodEntry, build_method
from headrace.models.layout import channels_last
from headrace.pipeline import (
    Batch,
    Clip,
    ClipSpec,
    MaskedTokens,
    PackedTextSpec,
    TextSpec,
    TokenMask,
    TubeMask,
    View,
    ViewSpec,
)
from headrace.pipeline.masks import RandomMask
from headrace.shards import Field, ShardSet, open_shards, write_shards
from headrace.tools.doctor import diagnose
from headrace.tools.evaluation.evaluate import evaluate
from headrace.tools.pictures.report import write_report
from headrace.train import ConfigError, RunConfig, RunError, load_run, read_metrics, train
from headrace.train.probes import finetune_probe, word_features
from tests import texts
from tests.train.tiny_runs import final_state, tiny_run

Terms = dict[str, Tensor]
SAMPLES, BATCH = 24, 6


@dataclass(frozen=True, kw_only=True)
class Config:
    tokenizer: str = ""


class Clips(Method):
    """A clip and its other half agree; the network is of Conv3d, Conv1d and Linear weights."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        clip = Clip(frames=4, strides=(1, 2), view=View(size=16))
        self.inputs = ClipSpec.repeat(clip, 2, [TubeMask(grid=(2, 2), frames=2, ratio=0.5)])
        self.backbone = nn.Sequential(
            nn.Conv3d(3, 4, 3, stride=2, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.Flatten(2), nn.Conv1d(4, 4, 1)
        )
        self.head = nn.Linear(4, 2)
        self.feature_dim = 4

    def loss(self, batch: Batch) -> Terms:
        assert len(batch.masks) == 1
        first, second = (self.head(self.backbone(clip).mean(2)) for clip in batch.normalized())
        return {"loss": (first - second).square().mean() + first.square().mean(), "spread": first.detach().std()}

    def encode(self, batch: Batch) -> Tensor:
        features: Tensor = self.backbone(batch.normalized()[0]).mean(2)
        return features


class Words(Method):
    """Hidden tokens are told from the mean of the others."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.inputs = TextSpec(tokenizer=config.tokenizer, length=16, masks=(TokenMask(),))
        self.backbone = nn.Embedding(1000, 8)
        self.head = nn.Linear(8, 1000)
        self.feature_dim = 8

    def loss(self, batch: Batch) -> Terms:
        [masked] = batch.masks
        assert isinstance(masked, MaskedTokens)
        guess = self.head(self.backbone(masked.tokens).mean(1))
        return {"loss": nn.functional.cross_entropy(guess, batch["text"].tokens[:, 1])}


class Packed(Words):
    """The same of blocks of several texts: more blocks than there are samples."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.inputs = PackedTextSpec(tokenizer=config.tokenizer, length=8, masks=(TokenMask(),))

    def encode(self, batch: Batch) -> Tensor:
        features: Tensor = self.backbone(batch["text"].tokens).mean(1)
        return features


class Pairs(Method):
    """An image and the text beside it agree."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        text = TextSpec(tokenizer=config.tokenizer, length=16)
        self.inputs = {"image": ViewSpec([View(size=16)], [RandomMask(grid=(2, 2), ratio=0.5)]), "text": text}
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.words = nn.Embedding(1000, 8)
        self.feature_dim = 8

    def loss(self, batch: Batch) -> Terms:
        image, text = self.backbone(batch["image"].normalized()[0]), self.words(batch["text"].tokens).mean(1)
        return {"loss": nn.functional.cross_entropy(image @ text.T, torch.arange(len(batch)))}


@pytest.fixture(autouse=True)
def _methods(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, method in {"clips": Clips, "words": Words, "packed": Packed, "pairs": Pairs}.items():
        monkeypatch.setitem(METHODS, name, MethodEntry(Config, method, "pretext", "", ""))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    """Frames, an image and a text a sample."""
    random = np.random.Generator(np.random.Philox(3))
    samples = [
        {
            "__key__": f"{n:03d}",
            "frames": random.integers(0, 256, (9, 20, 24, 3), np.uint8),
            "image": random.integers(0, 256, (20, 24, 3), np.uint8),
            "text": text,
            "label": n % 2,
        }
        for n, text in enumerate(texts.paragraphs()[:SAMPLES])
    ]
    fields = {
        "frames": Field(kind="array"),
        "image": Field(kind="image", encoding="raw"),
        "text": Field(kind="text"),
        "label": Field(kind="int", classes=("even", "odd")),
    }
    path = tmp_path_factory.mktemp("everything") / "set"
    write_shards(path, samples, fields)
    with open_shards(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return texts.wordpiece(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")


def run_of(method: str, shards: ShardSet, out: Path, tokenizer: Path) -> RunConfig:
    values = tiny_run(shards.path, out, "epochs=2", f"batch_size={BATCH}", "precision=auto").to_dict()
    del values["model"]
    return RunConfig.from_dict(values | {"method": method, "model": {"tokenizer": str(tokenizer)}})


@pytest.mark.peer("tokenizers")
@pytest.mark.parametrize("method", ["clips", "words", "pairs"])
def test_any_modality_trains_and_resumes(method: str, shards: ShardSet, tmp_path: Path, tokenizer: Path) -> None:
    """With the defaults: among them, to measure which precision is faster."""

    class Crash(Exception):
        pass

    def crash(record: dict[str, Any]) -> None:
        if record["step"] == 4:
            raise Crash

    config = run_of(method, shards, tmp_path, tokenizer)
    with pytest.raises(Crash):
        train(config, progress=False, on_step=crash)
    result = train(config, progress=False)
    assert result.step == 2 * SAMPLES // BATCH
    assert result.config.precision in ("float32", "bfloat16")
    assert [record["step"] for record in read_metrics(tmp_path)] == list(range(1, 9))
    assert all(record["grad_norm"] > 0 for record in read_metrics(tmp_path))
    loaded = load_run(tmp_path)[1].state_dict()
    assert loaded.keys() == final_state(tmp_path)["model"].keys()


@pytest.mark.peer("tokenizers")
def test_packed_texts_train_resume_and_are_probed_one_by_one(
    shards: ShardSet, tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, with batches that hold more blocks than the set has samples."""
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))

    class Crash(Exception):
        pass

    def crash(record: dict[str, Any]) -> None:
        if record["step"] == 5:
            raise Crash

    plain = ["batch_size=40", "precision=float32"]
    whole = train(run_of("packed", shards, tmp_path / "whole", tokenizer).with_overrides(plain), progress=False)
    assert whole.step > 6
    config = run_of("packed", shards, tmp_path / "parts", tokenizer)
    config = config.with_overrides([*plain, "checkpoint.every_steps=2"])
    with pytest.raises(Crash):
        train(config, progress=False, on_step=crash)
    train(config, progress=False)
    ours, theirs = (final_state(tmp_path / name)["model"] for name in ("whole", "parts"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    scores = evaluate(tmp_path / "whole", shards.path, protocols=("knn",))
    assert scores.keys() == {"input", "untrained", "trained"}
    with pytest.raises(ConfigError, match=r"\d+ samples do not fill one batch of 100000"):
        train(
            run_of("packed", shards, tmp_path / "large", tokenizer).with_overrides(["batch_size=100000"]),
            progress=False,
        )


@pytest.mark.peer("tokenizers")
@pytest.mark.parametrize(("method", "protocols"), [("clips", "[knn,linear]"), ("words", "[]"), ("pairs", "[knn]")])
def test_any_modality_is_judged_while_it_trains(
    method: str, protocols: str, shards: ShardSet, tmp_path: Path, tokenizer: Path
) -> None:
    config = run_of(method, shards, tmp_path, tokenizer)
    watched = ["probe.every=1", f"probe.protocols={protocols}", f"validation={shards.path}", "stop.on=loss"]
    train(config.with_overrides(watched), progress=False)
    evaluated = [record for record in read_metrics(tmp_path) if "evaluate_s" in record]
    assert [record["step"] for record in evaluated] == [4, 8]
    for record in evaluated:
        assert record["held_out_loss"] > 0
        for protocol in ("knn", "linear"):
            assert (protocol in record) == (protocol in protocols)
            assert 0 <= record.get(protocol, 0) <= 1


@pytest.mark.peer("tokenizers")
@pytest.mark.parametrize(("method", "seen"), [("clips", "clips of videos"), ("words", "texts")])
def test_where_a_probe_is_impossible_one_sentence_says_so(
    method: str, seen: str, shards: ShardSet, tmp_path: Path, tokenizer: Path
) -> None:
    config = run_of(method, shards, tmp_path, tokenizer)
    train(config, progress=False)
    sentence = f"^{method.title()} encodes {seen}, and this works on single images only$"
    with pytest.raises(RunError, match=sentence):
        evaluate(tmp_path, shards.path, shards.path, protocols=("finetune",))
    with pytest.raises(RunError, match=sentence):
        finetune_probe(build_method(method, config.model), shards, shards)
    with pytest.raises(RunError, match=sentence):
        diagnose(shards.path, config)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert ("What the method sees" in page) == (method == "clips")
    assert "Training" in page


@pytest.mark.peer("tokenizers")
def test_texts_are_probed_beside_counts_of_their_words(shards: ShardSet, tmp_path: Path, tokenizer: Path) -> None:
    train(run_of("words", shards, tmp_path, tokenizer), progress=False)
    scores = evaluate(tmp_path, shards.path, shards.path, encoders=("input",))
    assert scores["input"]["linear"] == 23 / 24, "of 24 texts that it has seen, two of them alike and of both labels"
    counts, labels = word_features(shards, TextSpec(tokenizer=tokenizer, length=16))
    assert labels.tolist() == [n % 2 for n in range(SAMPLES)]
    lengths = [min(16, 2 + len(each)) for each in tokens_of(tokenizer, texts.paragraphs()[:SAMPLES])]
    assert counts.sum(axis=1).tolist() == lengths
    assert counts.shape == (SAMPLES, 2048)


def test_a_method_of_texts_without_a_tokenizer_is_refused_in_one_line(shards: ShardSet, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^TextSpec\.tokenizer names no file; of a method it is the key model"):
        train(run_of("words", shards, tmp_path, Path()).with_overrides(["model.tokenizer="]), progress=False)


def tokens_of(tokenizer: Path, documents: list[str]) -> list[list[int]]:
    from tokenizers import Tokenizer

    library: Any = Tokenizer.from_file(str(tokenizer))
    library.no_truncation()
    return [each.ids for each in library.encode_batch(documents, add_special_tokens=False)]


@pytest.mark.peer("tokenizers")
def test_clips_are_probed_beside_their_pixels(
    shards: ShardSet, digits_webdataset: ShardSet, tmp_path: Path, tokenizer: Path
) -> None:
    train(run_of("clips", shards, tmp_path, tokenizer), progress=False)
    scores = evaluate(tmp_path, shards.path, shards.path)
    assert scores.keys() == {"input", "untrained", "trained"}
    assert scores["input"]["linear"] == 1.0, "of 24 clips of noise that it has seen"
    with pytest.raises(RunError, match="has no video field 'video'; it has image, label"):
        evaluate(tmp_path, digits_webdataset.path, encoders=("trained",))


@pytest.mark.peer("tokenizers")
def test_images_beside_texts_are_probed_as_images(shards: ShardSet, tmp_path: Path, tokenizer: Path) -> None:
    train(run_of("pairs", shards, tmp_path, tokenizer), progress=False)
    assert evaluate(tmp_path, shards.path, shards.path, protocols=("knn",)).keys() == {"input", "untrained", "trained"}


def test_channels_come_last_whatever_the_rank() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Conv3d(3, 4, 3), nn.ConvTranspose3d(4, 2, 3), nn.Conv1d(3, 4, 3), nn.BatchNorm3d(4)
    )
    tied = nn.Conv3d(3, 4, 3)
    tied.weight = module[1].weight
    module.append(tied)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert channels_last(module) is module
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
        if value.ndim in formats:
            assert value.is_contiguous(memory_format=formats[value.ndim])
    assert module[-1].weight is module[1].weight


def test_a_convolution_that_would_overwrite_memory_is_refused() -> None:
    """Wider ones, ones without a stride, and those of single channels, whose gradients are right, are not."""
    for sound in (nn.Conv2d(8, 4, 1, stride=2), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1, stride=2, groups=4)):
        channels_last(sound)
    with pytest.raises(ValueError, match=r"^1: a 1 x 1 convolution with a stride needs 8 channels or more on the CPU"):
        channels_last(nn.Sequential(nn.ReLU(), nn.Conv2d(4, 8, 1, stride=2)))
