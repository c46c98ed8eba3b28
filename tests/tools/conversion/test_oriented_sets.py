"""How a picture is to be shown, from the raw file to what reads the set, against Pillow."""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headrace.pipeline import Loader, View, ViewSpec
from headrace.pipeline.images.decode import decode_image, decode_rgb
from headrace.pipeline.images.reading import file_orientation
from headrace.shards import ShardError, open_shards
from headrace.shards.formats.orientation import orientation_in
from headrace.tools.cli import main
from headrace.tools.conversion.convert import convert
from headrace.tools.pictures.show_views import pixels
from headrace.tools.upkeep.compare import compare
from headrace.tools.upkeep.inspect import contact_sheet, inspect_shards, summary
from headrace.tools.upkeep.repair import repair
from headrace.tools.upkeep.repair_plan import plan_repair
from headrace.tools.upkeep.verify import verify
from tests.oriented import ORIENTATIONS, encoded, quarters, shown
from tests.oriented import stored as stored_pixels

TYPES: dict[str, tuple[str, dict[str, Any]]] = {
    "jpg": ("JPEG", {"quality": 95}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {"lossless": True}),
    "tif": ("TIFF", {}),
}
LOSSLESS = ("png", "webp", "tif")


def as_stored(data: bytes, orientation: int) -> np.ndarray:
    """The pixels of a file as they are stored; Pillow turns a TIFF when it decodes it."""
    with Image.open(io.BytesIO(data)) as image:
        if image.format != "TIFF":
            return np.asarray(image.convert("RGB"))
    return quarters()


@pytest.fixture
def tree(tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    """A picture of each type and orientation; and what Pillow would show of each, by key."""
    root = tmp_path / "raw"
    root.mkdir()
    files = {}
    for ending, (format, options) in TYPES.items():
        for orientation in ORIENTATIONS:
            key = f"{ending}{orientation}"
            files[key] = encoded(quarters(), format, orientation, **options)
            (root / f"{key}.{ending}").write_bytes(files[key])
    return root, files


def shown_in(path: Path) -> dict[str, np.ndarray]:
    """What a set shows, by key."""
    with open_shards(path) as shards:
        return {shards.key(i): pixels(shards, i) for i in range(len(shards))}


@pytest.mark.parametrize(("format", "size"), [("webdataset", 1 << 28), ("ffcv", 1 << 28), ("webdataset", 40_000)])
def test_keep_keeps_bytes_and_the_index_says_how_to_show_them(
    tree: tuple[Path, dict[str, bytes]], tmp_path: Path, format: Any, size: int
) -> None:
    root, files = tree
    convert("folder", root, tmp_path / "set", format=format, shard_size=size)
    for key, found in shown_in(tmp_path / "set").items():
        assert np.array_equal(found, shown(files[key])), key
    with open_shards(tmp_path / "set", check=True) as shards:
        assert (shards.manifest.version, shards.fields["image"].oriented) == (3, True)
        assert len(shards.manifest.shards) > 1 or size > 40_000
        kept = 0
        for i in range(len(shards)):
            sample, key = shards.read(i), shards.key(i)
            is_kept = isinstance(sample["image"], bytes) and sample["image"] == files[key]
            kept += is_kept
            assert orientation_in(sample, "image") == (int(key[-1]) if is_kept else 1)
        assert kept == (16 if format == "webdataset" else 8)
        columns = [
            "image.orientation" in (shards._open_files().index(n).dtype.names or ())
            for n in range(len(shards.manifest.shards))
        ]
        turned = [
            any(orientation_in(shards.read(i), "image") > 1 for i in range(start, start + count))
            for start, count in zip(
                np.cumsum([0, *shards.shard_samples[:-1]]).tolist(), shards.shard_samples.tolist(), strict=True
            )
        ]
        assert columns == turned  # only where it says something
    assert verify(tmp_path / "set").ok


@pytest.mark.parametrize("encode", ["jpeg", "raw", "smart"])
@pytest.mark.parametrize("side", [None, 50])
def test_what_is_encoded_anew_is_upright_and_says_nothing(
    tree: tuple[Path, dict[str, bytes]], tmp_path: Path, encode: Any, side: int | None
) -> None:
    root, files = tree
    convert("folder", root, tmp_path / "set", encode=encode, max_side=side, smart_threshold=1, quality=95)
    with open_shards(tmp_path / "set") as shards:
        assert (shards.manifest.version, shards.fields["image"].oriented) == (2, False)
        for i in range(len(shards)):
            value = shards.read(i)["image"]
            if isinstance(value, bytes):
                assert file_orientation(value) == 1
                assert not Image.open(io.BytesIO(value)).getexif()
                value = decode_image(value)
            expected = Image.fromarray(shown(files[shards.key(i)]))
            if side:
                expected.thumbnail((side, side), Image.Resampling.LANCZOS)
            difference = np.abs(value.astype(int) - np.asarray(expected)).mean()
            assert difference < (8 if side or encode != "raw" else 0.001), shards.key(i)


def test_keep_that_shrinks_turns(tree: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    root, files = tree
    convert("folder", root, tmp_path / "set", max_side=50)
    for key, found in shown_in(tmp_path / "set").items():
        expected = Image.fromarray(shown(files[key]))
        expected.thumbnail((50, 50), Image.Resampling.LANCZOS)
        assert np.abs(found.astype(int) - np.asarray(expected)).mean() < 8, key
    with open_shards(tmp_path / "set") as shards:
        assert not shards.fields["image"].oriented


@pytest.mark.parametrize("encode", ["keep", "raw"])
def test_ignore_turns_nothing(tree: tuple[Path, dict[str, bytes]], tmp_path: Path, encode: Any) -> None:
    root, files = tree
    convert("folder", root, tmp_path / "set", encode=encode, orientation="ignore")
    for key, found in shown_in(tmp_path / "set").items():
        assert np.array_equal(found, as_stored(files[key], int(key[-1]))), key
    with open_shards(tmp_path / "set") as shards:
        assert (shards.manifest.version, shards.fields["image"].oriented) == (2, False)
        assert "__orientation__" not in shards.read(0)


def test_the_switch_on_the_command_line(tmp_path: Path) -> None:
    """The case exif-turn: orientation 6, the red quarter at the upper right."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.jpg").write_bytes(encoded(quarters(64, 96), "JPEG", 6))
    for rule, corner in (("apply", (0, -1)), ("ignore", (0, 0))):
        out = tmp_path / rule
        assert main(["shard", "folder", str(tmp_path / "raw"), str(out), "--orientation", rule]) == 0
        (found,) = shown_in(out).values()
        assert found.shape == ((96, 64, 3) if rule == "apply" else (64, 96, 3))
        assert np.abs(found[corner].astype(int) - (200, 30, 40)).max() < 40
        said = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["provenance"]
        assert said["orientation"] == rule
    (found,) = shown_in(tmp_path / "apply").values()
    assert main(["shard", "folder", str(tmp_path / "raw"), str(tmp_path / "usual")]) == 0
    assert np.array_equal(*shown_in(tmp_path / "usual").values(), found)
    with open_shards(tmp_path / "apply", orientation="ignore") as shards:
        assert pixels(shards, 0).shape == (64, 96, 3)


def test_files_that_say_nothing_make_the_set_that_they_made_before(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for i, orientation in enumerate((None, 1, 1, None)):
        (tmp_path / "raw" / f"{i}.jpg").write_bytes(encoded(quarters(), "JPEG", orientation))
    convert("folder", tmp_path / "raw", tmp_path / "set")
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["headrace_shards"] == 2
    assert manifest["fields"] == {"image": {"kind": "image", "encoding": "jpg"}}
    assert "orientation" not in manifest["provenance"]
    assert (np.load(tmp_path / "set" / "shard-000000.index.npy").dtype.names or ())[-2:] == ("image.encoding", "key")


@pytest.mark.parametrize("format", ["webdataset", "ffcv"])
def test_from_one_format_into_the_other_and_back(
    tree: tuple[Path, dict[str, bytes]], tmp_path: Path, format: Any
) -> None:
    root, _ = tree
    convert("folder", root, tmp_path / "first", format=format)
    before = shown_in(tmp_path / "first")
    other: Any = "ffcv" if format == "webdataset" else "webdataset"
    convert("shards", tmp_path / "first", tmp_path / "second", format=other)
    convert("shards", tmp_path / "second", tmp_path / "raw-set", encode="raw")
    for path in ("second", "raw-set"):
        after = shown_in(tmp_path / path)
        assert all(np.array_equal(after[key], before[key]) for key in before)
    with open_shards(tmp_path / "first") as a, open_shards(tmp_path / "raw-set") as b:
        assert compare(a, b).ok
        assert b.manifest.version == 2
    convert("shards", tmp_path / "first", tmp_path / "ignored", orientation="ignore")
    with open_shards(tmp_path / "first") as a, open_shards(tmp_path / "ignored") as b:
        assert not b.fields["image"].oriented
        assert 7 <= len(compare(a, b).differences) <= 16


@pytest.mark.parametrize("format", ["webdataset", "ffcv"])
def test_verify_and_repair(tree: tuple[Path, dict[str, bytes]], tmp_path: Path, format: Any) -> None:
    root, _files = tree
    convert("folder", root, tmp_path / "set", format=format)
    path = tmp_path / "set" / "shard-000000.index.npy"
    good = path.read_bytes()
    path.write_bytes(good[:-7])
    report = verify(tmp_path / "set")
    assert not report.ok
    repair(plan_repair(tmp_path / "set", report))
    if format == "webdataset":
        assert path.read_bytes() == good
    assert verify(tmp_path / "set").ok
    with open_shards(tmp_path / "set") as shards:
        found = shards.spans("image", range(len(shards))).orientation
    assert np.bincount(found).tolist()[2:] == [2 if format == "webdataset" else 1] * 7


def test_an_index_that_says_another_orientation_is_found(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for orientation in (6, 1):
        (tmp_path / "raw" / f"{orientation}.jpg").write_bytes(encoded(quarters(), "JPEG", orientation))
    convert("folder", tmp_path / "raw", tmp_path / "set", seed=None)
    path = tmp_path / "set" / "shard-000000.index.npy"
    for number, complaint in ((8, "its orientation is 6, the index says 8"), (9, "has the orientation 9")):
        index = np.load(path)
        index["image.orientation"][index["key"] == b"6"] = number
        np.save(path, index)
        assert complaint in str(verify(tmp_path / "set"))
    with open_shards(tmp_path / "set") as shards, pytest.raises(ShardError, match="has the orientation 9"):
        shards.spans("image", [0, 1])


def test_inspect_counts_them_and_draws_them_upright(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for orientation in ORIENTATIONS:
        (tmp_path / "raw" / f"{orientation}.png").write_bytes(encoded(quarters(40, 80), "PNG", orientation))
    convert("folder", tmp_path / "raw", tmp_path / "set", seed=None)
    report = inspect_shards(tmp_path / "set")
    found = report.fields["image"]
    assert (found.turned, found.sizes) == (7, {"80x40": 4, "40x80": 4})
    assert found.turned == 7
    assert "turned or mirrored" in summary(found)
    with open_shards(tmp_path / "set") as shards:
        contact_sheet(shards, tmp_path / "sheet.png", columns=8, rows=1, cell=80)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    upright = np.asarray(decode_rgb((tmp_path / "raw" / "6.png").read_bytes(), orientation=6))
    left = 4 + 5 * 84 + 20  # the sixth, 40 wide in a cell of 80
    assert np.array_equal(sheet[4:84, left : left + 40], upright)


@pytest.mark.peer("imagehash")
def test_a_copy_that_is_stored_turned_is_a_duplicate(photos: Any, tmp_path: Path) -> None:
    from headrace.tools.upkeep.duplicates import find_duplicates

    (tmp_path / "raw").mkdir()
    upright = stored_pixels(photos.read(0)["image"])[:200, :260]
    (tmp_path / "raw" / "upright.png").write_bytes(encoded(upright, "PNG"))
    quarter = np.rot90(upright)  # stored a quarter anticlockwise, shown a quarter clockwise
    (tmp_path / "raw" / "turned.png").write_bytes(encoded(quarter, "PNG", 6))
    (tmp_path / "raw" / "untold.png").write_bytes(encoded(quarter, "PNG"))
    convert("folder", tmp_path / "raw", tmp_path / "set")
    with open_shards(tmp_path / "set") as shards:
        report = find_duplicates(shards)
    assert [(pair.kind, {pair.key_a, pair.key_b}) for pair in report.pairs] == [("pixels", {"turned", "upright"})]


def test_many_shards_and_other_processes(
    tree: tuple[Path, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards that are mapped when they are read, of which some indexes have the column and some have not; and a set
    that is pickled keeps its rule."""
    root, files = tree
    convert("folder", root, tmp_path / "set", shard_size=40_000, seed=None)
    with open_shards(tmp_path / "set") as shards:
        expected = shards.spans("image", range(len(shards)))
    monkeypatch.setattr("headrace.shards.shard_set.FEW", 1)
    with open_shards(tmp_path / "set", check=True) as shards:
        found = shards.spans("image", range(len(shards)))
        assert all(map(np.array_equal, found[1:], expected[1:]))
        assert all(np.array_equal(pixels(shards, i), shown(files[shards.key(i)])) for i in range(len(shards)))
    with open_shards(tmp_path / "set", orientation="ignore") as shards, pickle.loads(pickle.dumps(shards)) as again:
        assert (again.spans("image", range(len(again))).orientation == 1).all()
        assert "__orientation__" not in again.read(5)


def test_a_tar_of_another_program(tmp_path: Path) -> None:
    import tarfile

    files = {
        f"{ending}{orientation}": encoded(quarters(), format, orientation, **options)
        for ending, (format, options) in TYPES.items()
        for orientation in ORIENTATIONS
    }
    with tarfile.open(tmp_path / "0.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, data in files.items():
            info = tarfile.TarInfo(f"{key}.{key[:-1]}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with open_shards(tmp_path / "0.tar") as shards:
        assert shards.fields["image"].oriented
        assert shards.read(5)["__orientation__"] == {"image": 6}
        for i in range(len(files)):
            assert np.array_equal(pixels(shards, i), shown(files[shards.key(i)])), shards.key(i)
        sizes = shards.spans("image", range(len(files))).shown_sizes().tolist()
        assert sizes == [list(shown(files[shards.key(i)]).shape[:2]) for i in range(len(files))]
        whole = ViewSpec([View(size=61, scale=(1.0, 1.0), ratio=(0.1, 10.0), flip=0.0)])
        for engine in ("native", "torchvision"):
            with Loader(shards, whole, batch_size=len(files), shuffle=False, engine=engine, dtype="uint8") as loader:
                (batch,) = list(loader)
            views = batch.views[0].numpy().astype(int)
            # Of each orientation the four types are one picture, but for what JPEG loses.
            for one, other in ((0, 8), (16, 8), (24, 8)):
                assert np.abs(views[one : one + 8] - views[other : other + 8]).mean() < 6
    with open_shards(tmp_path / "0.tar", orientation="ignore") as shards:
        assert not shards.fields["image"].oriented
        assert all(pixels(shards, i).shape == (61, 94, 3) for i in range(len(files)))
    convert("shards", tmp_path / "0.tar", tmp_path / "set")
    assert all(np.array_equal(found, shown(files[key])) for key, found in shown_in(tmp_path / "set").items())
    convert("shards", tmp_path / "0.tar", tmp_path / "ignored", orientation="ignore")
    assert all(found.shape == (61, 94, 3) for found in shown_in(tmp_path / "ignored").values())


def test_a_beton_without_its_manifest(tree: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    root, _ = tree
    convert("folder", root, tmp_path / "set", format="ffcv", seed=None)
    before = list(shown_in(tmp_path / "set").values())
    with open_shards(tmp_path / "set" / "shard-000000.beton") as shards:
        assert shards.fields["image"].oriented
        assert all(np.array_equal(pixels(shards, i), before[i]) for i in range(len(shards)))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("ending", LOSSLESS)
def test_any_format_says_it(ending: str, orientation: int) -> None:
    format, options = TYPES[ending]
    data = encoded(quarters(), format, orientation, **options)
    assert file_orientation(data) == orientation
    assert np.array_equal(decode_image(data, orientation), shown(data))
    assert np.array_equal(decode_image(data), quarters())
