"""Ways to store images and videos, as the real ffcv and webdataset see them."""

from __future__ import annotations

import io
import multiprocessing
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from headrace.pipeline.images.decode import decode_rgb
from headrace.pipeline.images.whole import looks_whole
from headrace.shards import JPG, RAW, Field, ShardSet, open_shards
from headrace.tools.conversion.convert import convert
from headrace.tools.conversion.encode import Encode, EncodeSettings


@pytest.fixture(scope="module")
def pictures(photos: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs, every second one at a quarter of the size."""
    root = tmp_path_factory.mktemp("pictures")
    for i in range(24):
        image = Image.open(io.BytesIO(photos.read(i)["image"]))
        if i % 2:
            image = image.resize((image.width // 4, image.height // 4))
        image.save(root / f"{i:02d}.jpg", quality=95)
    return root


def encodings(path: Path) -> dict[str, int]:
    with open_shards(path) as shards:
        codes = shards.spans("image", range(len(shards))).encoding
        return {shards.key(i): int(code) for i, code in enumerate(codes)}


def test_smart_makes_jpegs_of_large_images(pictures: Path, tmp_path: Path) -> None:
    convert("folder", pictures, tmp_path / "set", format="ffcv", encode="smart", smart_threshold=3 * 300 * 300)
    assert encodings(tmp_path / "set") == {f"{i:02d}": RAW if i % 2 else JPG for i in range(24)}


def test_proportion_draws_by_key(pictures: Path, tmp_path: Path) -> None:
    sets = {}
    for p in (0.0, 0.3, 1.0):
        convert("folder", pictures, tmp_path / str(p), encode="proportion", compress_probability=p, seed=int(10 * p))
        sets[p] = {key for key, code in encodings(tmp_path / str(p)).items() if code == JPG}
    assert sets[0.0] == set()
    assert len(sets[1.0]) == 24
    assert 2 <= len(sets[0.3]) <= 13
    settings = EncodeSettings(encode="proportion", compress_probability=0.3)
    drawn = [settings._makes_jpeg(str(i), 1, 1) for i in range(4000)]
    assert abs(np.mean(drawn) - 0.3) < 0.03


@pytest.mark.parametrize("encode", ["keep", "jpeg", "raw"])
def test_short_side(pictures: Path, tmp_path: Path, encode: Any) -> None:
    convert("folder", pictures, tmp_path / "set", encode=encode, short_side=120)
    with open_shards(tmp_path / "set") as shards:
        spans = shards.spans("image", range(len(shards)))
        keys = [shards.key(i) for i in range(len(shards))]
    for key, height, width in zip(keys, spans.height, spans.width, strict=True):
        with Image.open(pictures / f"{key}.jpg") as original:
            assert min(height, width) == min(120, *original.size)
            assert width / height == pytest.approx(original.width / original.height, rel=0.02)


def test_a_kept_file_is_read_to_its_end_unless_quick(photos: ShardSet, tmp_path: Path) -> None:
    """A flipped bit in a scan leaves the structure whole."""
    data = bytearray(photos.read(0)["image"])
    image = Field(kind="image", encoding="mixed")
    complaints = 0
    for at in range(len(data) // 2, len(data) // 2 + 60):
        changed = bytes(data[:at]) + bytes([data[at] ^ 0x10]) + bytes(data[at + 1 :])
        try:
            whole = EncodeSettings().stored(image, "a", changed)
        except ValueError:
            whole = b""
        if whole != changed:
            complaints += 1
            if EncodeSettings(quick=True).stored(image, "a", changed) == changed:
                return
    pytest.fail(f"none of {complaints} damaged files was kept with --quick")


def test_what_was_cut_is_a_reject_under_every_encode(photos: ShardSet) -> None:
    """Also where an end marker was put behind a cut that a look at the end cannot tell from an encoder's."""
    image = Field(kind="image", encoding="mixed")
    data = photos.read(0)["image"]
    closed = (data[:cut] + b"\xff\xd9" for cut in range(len(data) // 2, len(data) - 9))
    cut = next(each for each in closed if looks_whole(each))
    assert EncodeSettings(quick=True).stored(image, "a", cut) == cut
    for encode in get_args(Encode):
        if encode != "frames":
            with pytest.raises(ValueError, match="image file is truncated"):
                EncodeSettings(encode=encode).stored(image, "a", cut)


@pytest.mark.peer("ffcv")
@pytest.mark.parametrize("encode", ["smart", "proportion"])
def test_the_real_ffcv_reads_mixed_sets(pictures: Path, tmp_path: Path, encode: Any) -> None:
    from ffcv.fields.decoders import CenterCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption

    convert("folder", pictures, tmp_path / "set", format="ffcv", encode=encode, smart_threshold=3 * 300 * 300)
    assert set(encodings(tmp_path / "set").values()) == {JPG, RAW}
    loader = Loader(
        str(tmp_path / "set" / "shard-000000.beton"),
        batch_size=24,
        num_workers=1,
        order=OrderOption.SEQUENTIAL,
        pipelines={"image": [CenterCropRGBImageDecoder((64, 64), 1.0)]},
    )
    ((images,),) = list(loader)
    with open_shards(tmp_path / "set") as shards:
        for i, found in enumerate(np.array(images)):
            image = shards.read(i)["image"]
            whole = image if isinstance(image, np.ndarray) else np.asarray(decode_rgb(image))
            side = min(whole.shape[:2])
            top, left = (whole.shape[0] - side) // 2, (whole.shape[1] - side) // 2
            crop = Image.fromarray(whole[top : top + side, left : left + side]).resize((64, 64), Image.Resampling.BOX)
            # ffcv resizes with OpenCV's area filter; the pictures must be the same, not the filters.
            assert np.abs(found.astype(int) - np.asarray(crop)).mean() < 4


class _Pixels:
    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[Any]:
        return (np.asarray(Image.open(self.paths[i]).convert("RGB")),)


@pytest.mark.peer("ffcv")
@pytest.mark.parametrize("mode", ["smart", "proportion"])
def test_we_read_mixed_sets_of_the_real_ffcv(pictures: Path, tmp_path: Path, mode: str) -> None:
    from ffcv.fields import RGBImageField
    from ffcv.writer import DatasetWriter

    multiprocessing.set_start_method("fork", force=True)
    options = {"smart_threshold": 3 * 300 * 300} if mode == "smart" else {"compress_probability": 0.5}
    image = RGBImageField(write_mode=mode, jpeg_quality=100, **options)
    DatasetWriter(str(tmp_path / "real.beton"), {"image": image}, num_workers=2).from_indexed_dataset(_Pixels(pictures))
    expected = _Pixels(pictures)
    with open_shards(tmp_path) as shards:
        assert shards.fields["image"].encoding == "mixed"
        codes = shards.spans("image", range(len(shards))).encoding
        assert set(codes.tolist()) == {JPG, RAW}
        for i, code in enumerate(codes):
            found = shards.read(i)["image"]
            if code == RAW:
                np.testing.assert_array_equal(found, expected[i][0])
            else:
                assert np.abs(simplejpeg.decode_jpeg(found).astype(int) - expected[i][0]).mean() < 3


@pytest.mark.peer("webdataset")
def test_the_real_webdataset_splits_the_shards_over_nodes(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import webdataset

    convert("folder", pictures, tmp_path / "set", shard_size=1 << 18)
    last = len(list((tmp_path / "set").glob("*.tar"))) - 1
    assert last > 2
    url = f"{tmp_path}/set/shard-{{000000..{last:06d}}}.tar"
    seen: list[list[str]] = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        splitter = webdataset.shardlists.split_by_node
        dataset = webdataset.WebDataset(url, nodesplitter=splitter, shardshuffle=False, empty_check=False)
        seen.append([sample["__key__"] for sample in dataset])
    assert all(seen)
    assert sorted(seen[0] + seen[1]) == [f"{i:02d}" for i in range(24)]


@pytest.mark.peer("av")
@pytest.mark.peer("ffcv")
def test_the_real_ffcv_reads_stacks_of_frames(tmp_path: Path) -> None:
    from ffcv.fields.decoders import NDArrayDecoder
    from ffcv.loader import Loader, OrderOption

    from headrace.tools.media.videos import decode_clip
    from tests import clips

    videos = {f"class-{i % 2}/{i}": clips.video("mp4", first=5 * i, count=24) for i in range(4)}
    for name, data in videos.items():
        path = tmp_path / "videos" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    options: dict[str, Any] = {"encode": "frames", "frames": 6, "frame_stride": 2, "short_side": 48}
    convert("folder", tmp_path / "videos", tmp_path / "set", format="ffcv", seed=None, **options)
    loader = Loader(
        str(tmp_path / "set" / "shard-000000.beton"),
        batch_size=4,
        num_workers=1,
        order=OrderOption.SEQUENTIAL,
        pipelines={"video": [NDArrayDecoder()]},
    )
    (batch,) = list(loader)
    with open_shards(tmp_path / "set") as shards:
        assert shards.fields["video"].kind == "array"
        assert shards.fields["video"].shape == (6, 48, 48, 3)
        assert shards.manifest.provenance["frames"] == 6
        for i, found in enumerate(np.array(batch[0])):
            clip = decode_clip(videos[shards.key(i)], 6, 2, 48)
            left = (clip.shape[2] - 48) // 2
            np.testing.assert_array_equal(found, clip[:, :, left : left + 48])
            np.testing.assert_array_equal(shards.read(i)["video"], found)
