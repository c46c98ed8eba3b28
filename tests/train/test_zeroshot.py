"""Classification by names: the classifier beside open_clip's, and prompts that make no difference."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from headrace.pipeline import Loader
from headrace.pipeline.texts.strings import texts_in_tokens
from headrace.shards import ShardSet
from headrace.train import RunError
from headrace.train.probes.towers import captions_of
from headrace.train.probes.zeroshot import class_names, class_rows, templates, zero_shot
from tests.models.tiny_methods import tiny

pytestmark = pytest.mark.peer("tokenizers", "transformers")

NAMES = [f"number {digit}" for digit in range(10)]
TEMPLATES = ["a {}", "a photo of the {}.", "the digit {} of its class"]


@pytest.fixture(scope="module")
def method() -> Any:
    return tiny("clip").eval()


def test_strings_are_shown_as_a_loader_shows_texts(captions_webdataset: ShardSet, method: Any) -> None:
    with Loader(captions_webdataset, method.texts, 20, shuffle=False, threads=1) as loader:
        batch = next(iter(loader))
    theirs = batch.lone
    captions = captions_of(captions_webdataset, batch.index.numpy())
    chosen = [of_sample[number] for of_sample, number in zip(captions, theirs.chosen.tolist(), strict=True)]
    ours = texts_in_tokens(method.texts, chosen)
    for name in ("tokens", "lengths", "attention", "segments", "first", "broken"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))
    long = texts_in_tokens(method.texts, ["the digit " * 50])
    assert long.lengths.item() == method.texts.length
    assert long.tokens[0, -1] == ours.tokens[0, ours.lengths[0] - 1]  # what ends a text
    with pytest.raises(ValueError, match="finds no token in ' '"):
        texts_in_tokens(method.texts, ["a", " "])


@pytest.mark.peer("open_clip")
def test_the_classifier_is_open_clips(method: Any) -> None:
    from open_clip import build_zero_shot_classifier

    model = SimpleNamespace(
        encode_text=lambda texts, normalize: torch.nn.functional.normalize(method.embed_texts(texts), dim=-1)
    )

    class Texts:
        def __init__(self, strings: list[str]) -> None:
            self.texts = texts_in_tokens(method.texts, strings)

        def to(self, device: Any) -> Any:
            return self.texts

    judge: Any = build_zero_shot_classifier(
        model, Texts, NAMES, [lambda name, t=t: t.replace("{}", name) for t in TEMPLATES], num_classes_per_batch=4
    )
    np.testing.assert_allclose(class_rows(method, NAMES, TEMPLATES), judge.T.numpy(), atol=1e-6)


def test_one_template_many_times_is_that_template(method: Any) -> None:
    one = class_rows(method, NAMES, TEMPLATES[:1])
    np.testing.assert_allclose(class_rows(method, NAMES, TEMPLATES[:1] * 18), one, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(class_rows(method, NAMES, TEMPLATES), axis=1), 1, atol=1e-6)
    prompts = texts_in_tokens(method.texts, [f"a {name}" for name in NAMES])
    with torch.no_grad():
        alone = torch.nn.functional.normalize(method.embed_texts(prompts), dim=1)
    np.testing.assert_allclose(one, alone.numpy(), atol=1e-6)


def test_other_places_of_the_classes_are_other_places_of_the_predictions(
    captions_webdataset: ShardSet, method: Any
) -> None:
    found = zero_shot(method, captions_webdataset, NAMES, TEMPLATES, threads=1)
    order = np.random.default_rng(0).permutation(10)
    mixed = zero_shot(method, captions_webdataset, [NAMES[place] for place in order], TEMPLATES, threads=1)
    np.testing.assert_array_equal(order[mixed.predicted], found.predicted)
    assert len(np.unique(found.predicted)) > 1
    np.testing.assert_array_equal(found.truth, captions_webdataset.ints())


def test_the_nearest_name_wins(captions_webdataset: ShardSet, method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the image tower says the row of the class itself, all are right."""
    from headrace.models import Tower

    rows = torch.from_numpy(class_rows(method, NAMES, TEMPLATES))
    inputs, text = method.towers["image"].inputs, method.towers["text"]
    image = Tower(inputs, lambda batch: rows[batch.labels])
    monkeypatch.setattr(type(method), "towers", property(lambda self: {"image": image, "text": text}))
    found = zero_shot(method, captions_webdataset, NAMES, TEMPLATES, threads=1)
    np.testing.assert_array_equal(found.predicted, found.truth)


def test_files_of_lines(tmp_path: Path) -> None:
    def file(text: str) -> Path:
        path = tmp_path / "lines.txt"
        path.write_text(text, encoding="utf-8")
        return path

    assert class_names(file("cat\n black dog \n\n")) == ["cat", "black dog"]
    assert templates(file("a photo of a {}.\n{}\n")) == ["a photo of a {}.", "{}"]
    for read, text, message in (
        (class_names, "cat\n\ndog\n", r"lines.txt:2: is empty"),
        (class_names, "cat\ndog\ncat\n", r"lines.txt:3: the class 'cat' stands in line 1 already"),
        (class_names, "\n", r"lines.txt: is empty"),
        (templates, "a {}\nthe dog\n", r"lines.txt:2: a template has {} once"),
        (templates, "{} and {}\n", r"lines.txt:1: a template has {} once"),
    ):
        with pytest.raises(RunError, match=message):
            read(file(text))
    with pytest.raises(RunError, match="cannot be read as lines of text"):
        class_names(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(RunError, match="cannot be read as lines of text"):
        class_names(tmp_path / "latin.txt")


def test_what_does_not_fit_is_refused(captions_webdataset: ShardSet, method: Any) -> None:
    with pytest.raises(RunError, match="has 10 classes, and 9 are named"):
        zero_shot(method, captions_webdataset, NAMES[:9], TEMPLATES)
    with pytest.raises(RunError, match="SimCLR has no towers, and this needs one of images"):
        zero_shot(tiny("simclr"), captions_webdataset, NAMES, TEMPLATES)
    with pytest.raises(RunError, match="needs a class and a template"):
        zero_shot(method, captions_webdataset, NAMES, [])
