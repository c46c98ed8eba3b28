"""The DALI engine in the loader, its graph on both devices and its failures. Pixels: see test_parity."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from headrace.pipeline import Loader, View, ViewSpec
from headrace.pipeline.engines import ENGINES
from headrace.pipeline.images.decode import decode_image
from headrace.shards import Field, ShardError, ShardSet, open_shards, write_shards

JITTERED = View(size=32, jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, blur=0.5)
MANY = {"project": 0.5, "drop_channels": 0.5, "grayscale": 0.5, "solarize": 0.5, "erase": 0.5}
SPEC = ViewSpec([JITTERED, View(size=24, turns=(0, 1, 2, 3), **MANY)])  # type: ignore[arg-type]


def batches(shards: ShardSet, engine: str, **options: Any) -> list[Any]:
    with Loader(shards, SPEC, 16, engine=engine, threads=2, drop_last=False, **options) as loader:
        return list(loader)


@pytest.mark.peer("dali")
@pytest.mark.parametrize("source", ["photos", "photos_ffcv", "digits_webdataset", "digits_ffcv"])
def test_the_loader_gives_the_same_batches(source: str, request: pytest.FixtureRequest) -> None:
    shards = request.getfixturevalue(source)
    for ours, native in zip(batches(shards, "dali"), batches(shards, "native"), strict=True):
        assert torch.equal(ours.index, native.index)
        assert torch.equal(ours.labels, native.labels)
        for view, expected in zip(ours.views, native.views, strict=True):
            assert view.shape == expected.shape
            assert view.dtype == torch.uint8
            assert (view.int() - expected.int()).abs().float().mean() < 0.5


@pytest.mark.peer("dali")
@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
@pytest.mark.parametrize("source", ["photos", "digits_webdataset"])
def test_the_same_graph_is_defined_for_a_gpu(source: str, request: pytest.FixtureRequest) -> None:
    """Every operator accepts both devices: only the missing driver stops the build."""
    with (
        Loader(request.getfixturevalue(source), SPEC, 8, engine="dali", device="cuda") as loader,
        pytest.raises(RuntimeError, match="CUDA is not available"),
    ):
        next(iter(loader))


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param("dali", marks=pytest.mark.peer("dali")),
        pytest.param("dali+kornia", marks=pytest.mark.peer("dali", "kornia")),
    ],
)
def test_close_ends_the_threads_and_iterating_starts_them_again(engine: str, photos: ShardSet) -> None:
    def threads() -> int:
        return len(os.listdir("/proc/self/task"))

    with Loader(photos, SPEC, 12, engine=engine, threads=3) as loader:
        first = [batch.index.tolist() for batch in loader]
        running = threads()
        loader.close()
        assert threads() < running - 3  # the loader's three and DALI's
        assert [batch.index.tolist() for batch in loader] != first  # the next epoch


@pytest.mark.peer("dali")
def test_a_damaged_image_stops_its_batch_only(photos: ShardSet, tmp_path: Path) -> None:
    samples = [photos.read(i) for i in range(8)]
    samples[5]["image"] = samples[5]["image"][:1000]
    write_shards(tmp_path / "bad", samples, photos.fields)
    with open_shards(tmp_path / "bad") as shards:
        loader = Loader(shards, SPEC, 4, engine="dali", shuffle=False, prefetch=1)
        stream = iter(loader)
        assert next(stream).index.tolist() == [0, 1, 2, 3]
        with pytest.raises(ShardError, match=r"photo_0005.*cannot decode"):
            next(stream)
        loader.load_state_dict({**loader.state_dict(), "epoch": 1, "position": 0})
        assert next(iter(loader)).index.tolist() == [0, 1, 2, 3]
        loader.close()


@pytest.mark.peer("dali")
@pytest.mark.parametrize("alone", ["fails", "works"])
def test_what_no_sample_explains_is_one_line(alone: str, photos: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a picture that is known to be good nor a sample by itself tells more."""
    with Loader(photos, SPEC, 12, engine="dali", on_error="substitute") as loader:
        built = loader._feed.engines[0]._built

        class Failing:
            def run(self, **inputs: Any) -> None:
                raise RuntimeError("Critical error in pipeline:\n\n  out of memory")

            def _shutdown(self) -> None:
                pass

        def build(samples: int, *others: Any) -> Any:
            return Failing() if samples > 1 or alone == "fails" else built(samples, *others)

        monkeypatch.setattr(loader._feed.engines[0], "_built", build)
        said = r"^engine 'dali' fails, and not because of a sample: Critical error in pipeline: out of memory$"
        with pytest.raises(RuntimeError, match=said):
            list(loader)
        assert not loader.bad


def test_without_dali_the_message_says_what_to_install(photos: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("dali", "dali_graph"):
        monkeypatch.delitem(sys.modules, f"headrace.pipeline.engines.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(ImportError, match=r"pip install headrace\[dali\]") as caught:
        ENGINES["dali"](photos, "image", SPEC)
    assert "\n" not in str(caught.value)


@pytest.mark.peer("dali")
def test_pixels_and_files_in_one_batch(photos: ShardSet, tmp_path: Path) -> None:
    """As ffcv's modes smart and proportion have them."""
    files = [photos.read(i)["image"] for i in range(8)]
    images = [decode_image(file) if i % 2 else file for i, file in enumerate(files)]
    samples = ({"__key__": str(i), "image": image} for i, image in enumerate(images))
    write_shards(tmp_path, samples, {"image": Field(kind="image", encoding="mixed")}, format="ffcv")
    spec = ViewSpec([View(size=32, flip=0.0)])
    with open_shards(tmp_path) as shards:
        ours, theirs = (first_views(shards, spec, engine) for engine in ("dali", "torchvision"))
    assert (ours - theirs).abs().mean() < 0.25


def first_views(shards: ShardSet, spec: ViewSpec, engine: str) -> torch.Tensor:
    with Loader(shards, spec, len(shards), engine=engine, shuffle=False) as loader:
        return next(iter(loader)).views[0].float()
