"""The ffcv engine: the plan's views by the real package, in a process that leaves nothing behind.

To start ffcv takes seconds, so that tests share engines.
"""

import importlib
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from headrace.benchmarks.forms import in_own_process
from headrace.benchmarks.parity import OPERATORS, PIPELINES, alone, compare, draw, opened, together, write_squares
from headrace.pipeline import Loader, View, ViewSpec, plan
from headrace.pipeline.engines import ENGINES, Engine
from headrace.shards import Field, ShardError, ShardSet, open_shards, write_shards
from tests.conftest import needs_linux
from tests.pipeline.engines.test_parity import BOUNDS, CLOSE
from tests.pipeline.engines.test_turned_views import pictures, views_of, written

SAMPLES = 8
SPEC = ViewSpec([View(size=32, jitter=0.8, brightness=0.4, hue=0.1, blur=0.5), View(size=24, solarize=0.5)])
ON_SQUARES = {
    **{name: alone(name) for name in OPERATORS},
    "crops": ViewSpec([View(size=size, flip=0.0) for size in (24, 160)]),
}


@pytest.fixture(scope="module")
def squares(photos_ffcv: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    """Centres of photographs, raw, as large as the views."""
    path = tmp_path_factory.mktemp("squares") / "raw"
    write_squares(photos_ffcv, path, SAMPLES)
    with open_shards(path) as shards:
        yield shards


@pytest.fixture(scope="module")
def engine(squares: ShardSet) -> Iterator[Engine]:
    """On `squares`, with the views of ON_SQUARES."""
    with opened("ffcv", squares, together(ON_SQUARES)) as made:
        yield made


def children() -> set[int]:
    """Processes that this one has started and that have not been waited for."""
    needs_linux("/proc/self/task")
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found |= {int(pid) for pid in (task / "children").read_text(encoding="utf-8").split()}
    return found


def open_files() -> set[str]:
    """Sockets and nameless memory that this process has open."""
    needs_linux("/proc/self/fd")
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        except FileNotFoundError:  # the one that listed the folder
            continue
    return {name for name in found if name.startswith(("socket:", "/memfd:headrace"))}


@pytest.mark.peer("ffcv")
def test_operators_do_what_torchvisions_do(squares: ShardSet, engine: Engine) -> None:
    """On pictures as large as the views, of which ffcv's resize changes nothing."""
    with opened("torchvision", squares, together(ON_SQUARES)) as reference:
        found = compare(engine, reference, squares, ON_SQUARES, SAMPLES)
    for operator in OPERATORS:
        largest, mean = found[operator]
        bound = BOUNDS["ffcv"].get(operator, CLOSE)
        assert (largest <= bound[0], mean <= bound[1]) == (True, True), (operator, largest, mean)


@pytest.mark.peer("ffcv")
def test_crops_are_opencvs(squares: ShardSet, engine: Engine) -> None:
    """The plan's crops through ffcv's own resize: OpenCV's INTER_AREA, enlarged and shrunk."""
    cv2 = importlib.import_module("cv2")
    spec, ids = together(ON_SQUARES), np.arange(SAMPLES)
    crops = plan(spec, 11, 0, ids, np.full((SAMPLES, 2), 96)).crop  # as `draw` draws it
    views = draw(engine, squares, spec, ids)
    for v in (-2, -1):
        size = spec.views[v].size
        for i in range(SAMPLES):
            top, left, height, width = crops[i, v]
            cut = squares.read(i)["image"][top : top + height, left : left + width]
            expected = cv2.resize(np.ascontiguousarray(cut), (size, size), interpolation=cv2.INTER_AREA)
            assert np.abs(views[v][i].astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.peer("ffcv")
def test_turned_pictures_give_the_views_of_upright_ones(tmp_path: Path) -> None:
    """ffcv decodes with the fast, less accurate DCT, so that the stored pixels are close, not the same."""
    files = pictures(["jpg", "420", "progressive"])
    found = views_of(written(tmp_path / "turned", files, "ffcv", upright=False), "ffcv")
    expected = views_of(written(tmp_path / "upright", files, "ffcv", upright=True), "ffcv")
    for one, other in zip(found, expected, strict=True):
        difference = np.abs(one.astype(int) - other).mean(axis=(1, 2, 3))  # of each; a wrong quarter makes a hundred
        assert difference.max() < 2
    samples = [{"__key__": str(i), "image": file} for i, file in enumerate(files)]
    write_shards(tmp_path / "plain", samples, {"image": Field(kind="image", encoding="jpg")}, format="ffcv")
    ignored = views_of(tmp_path / "turned", "ffcv", "ignore")
    assert all(map(np.array_equal, ignored, views_of(tmp_path / "plain", "ffcv")))
    assert not any(map(np.array_equal, ignored, found))


@pytest.mark.peer("ffcv")
def test_a_killed_process_is_one_clear_line(squares: ShardSet, engine: Engine) -> None:
    """After which another one starts; and Ctrl-C, which reaches the whole group, is the parent's to answer."""
    spec, ids = together(ON_SQUARES), np.arange(SAMPLES)
    before = draw(engine, squares, spec, ids)
    (process,) = (pid for pid in children() if b"ffcv_process" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(process, signal.SIGINT)
    draw(engine, squares, spec, ids)
    os.kill(process, signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(RuntimeError, match=r"^engine 'ffcv': its process was killed by signal 9$"):
        draw(engine, squares, spec, ids)
    assert time.monotonic() - started < 5
    assert process not in children()
    assert all(np.array_equal(a, b) for a, b in zip(before, draw(engine, squares, spec, ids), strict=True))


@pytest.mark.peer("ffcv")
def test_photographs_and_one_that_is_damaged(photos_ffcv: ShardSet, tmp_path: Path) -> None:
    samples = [photos_ffcv.read(i) for i in range(len(photos_ffcv))]
    samples[SAMPLES]["image"] = samples[SAMPLES]["image"][:5000]
    write_shards(tmp_path / "set", samples, photos_ffcv.fields, format="ffcv", shard_size=1 << 20)
    overwritten = range(12, 15)
    with open_shards(tmp_path / "set") as shards, open(tmp_path / "set" / "shard-000000.beton", "r+b") as file:
        places = shards.places("image", overwritten)
        for offset, size, content in zip(
            places.address, places.size, (bytes, os.urandom, b"\xff".__mul__), strict=True
        ):
            file.seek(offset)
            file.write(content(int(size)))
    spec = together(PIPELINES)
    with (
        open_shards(tmp_path / "set") as shards,
        opened("ffcv", shards, spec) as made,
        opened("torchvision", shards, spec) as reference,
    ):
        assert len(shards.manifest.shards) > 1
        for name, (largest, mean) in compare(made, reference, shards, PIPELINES, SAMPLES).items():
            bound = BOUNDS["ffcv"][name]
            assert (largest <= bound[0], mean <= bound[1]) == (True, True), (name, largest, mean)
        cut = rf"beton.*photo_{SAMPLES:04d}: cannot decode the image: image file is truncated"
        with pytest.raises(ShardError, match=cut):
            draw(made, shards, spec, np.arange(SAMPLES - 1, SAMPLES + 2))
        for sample in overwritten:
            said = rf"photo_{sample:04d}: cannot decode the image: not an image that Pillow can read"
            for engine in (made, reference):
                with pytest.raises(ShardError, match=said):
                    draw(engine, shards, spec, np.array([sample]))
        made._process._pipe.send(None)  # type: ignore[attr-defined]  an order that it cannot understand
        ids = np.array([SAMPLES + 1, len(shards) - 1])  # of several files
        with pytest.raises(RuntimeError, match=r"^engine 'ffcv': AttributeError: 'NoneType' object has no attribute"):
            draw(made, shards, spec, ids[:1])
        for ours, theirs in zip(draw(made, shards, spec, ids), draw(reference, shards, spec, ids), strict=True):
            assert np.abs(ours.astype(int) - theirs.astype(int)).mean() < 4


def train_beside_two_loaders(photographs: Path, pixels: Path) -> None:
    """torch's backward through channels-last convolutions, which crashes where ffcv itself is loaded."""
    before, files = children(), open_files()
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.AdaptiveAvgPool2d(1))
    model.to(memory_format=torch.channels_last)
    with open_shards(photographs) as photos, open_shards(pixels) as squares:
        with (
            Loader(photos, SPEC, 12, engine="ffcv", threads=2, dtype="float32") as one,
            Loader(squares, SPEC, 4, engine="ffcv", threads=1, dtype="float32") as two,
            Loader(photos, SPEC, 12, threads=2) as native,
        ):
            assert len(one) > len(two)
            others = iter(two)
            for batch, expected in zip(one, native, strict=True):
                assert batch.index.tolist() == expected.index.tolist()
                for each in (batch, next(others, batch)):
                    model(each.views[0]).square().mean().backward()
            assert len(children() - before) == 2
            one.close()
            assert len(children() - before) == 1
        assert children() <= before
        assert open_files() <= files
    assert "ffcv" not in sys.modules


@pytest.mark.peer("ffcv")
def test_two_loaders_beside_training_and_nothing_is_left(photos_ffcv: ShardSet, squares: ShardSet) -> None:
    in_own_process(train_beside_two_loaders, Path(str(photos_ffcv.path)), Path(str(squares.path)))


@pytest.mark.peer("ffcv")
def test_the_process_ends_with_its_parent(squares: ShardSet) -> None:
    """Even with a parent that cannot say goodbye."""
    parent = os.fork()
    if parent == 0:
        draw(ENGINES["ffcv"](squares, "image", SPEC, threads=1), squares, SPEC, np.arange(2))
        os.kill(os.getpid(), signal.SIGKILL)
    found: set[int] = set()
    deadline = time.monotonic() + 120.0
    while os.waitpid(parent, os.WNOHANG) == (0, 0):
        found |= {
            int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="utf-8").split()
        }
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (process,) = found
    while Path(f"/proc/{process}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.skipif(importlib.util.find_spec("ffcv") is None, reason="says what happens where ffcv is installed")
def test_other_formats_are_one_clear_line(photos: ShardSet) -> None:
    with pytest.raises(
        ValueError, match=r"engine 'ffcv' reads sets of format 'ffcv'.*'webdataset'.*--format ffcv"
    ) as caught:
        Loader(photos, SPEC, 4, engine="ffcv")
    assert "\n" not in str(caught.value)


def test_without_ffcv_the_message_says_what_to_install(squares: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install headrace\[ffcv\]") as caught:
        ENGINES["ffcv"](squares, "image", SPEC)
    assert "\n" not in str(caught.value)
