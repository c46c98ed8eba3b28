"""The real ffcv reads our .beton files, and we read its."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.shards import Field, ShardError, ShardSet, open_shards, write_shards
from headrace.shards.formats.ffcv import DEFAULT_PAGE_SIZE, MIN_PAGE_SIZE, read_beton
from headrace.shards.mapping import MappedFile

ALL_FIELDS = {
    "label": Field(kind="int"),
    "image": Field(kind="image", encoding="mixed"),
    "score": Field(kind="float"),
    "blob": Field(kind="bytes"),
    "box": Field(kind="array"),
    "info": Field(kind="json"),
    "caption": Field(kind="text"),
}


def mixed_samples(photos: ShardSet, count: int = 24) -> list[dict[str, Any]]:
    """Every kind of field; images in turn JPEG and raw pixels that encode the sample's number."""
    samples = []
    for number in range(count):
        pixels = np.full((375, 500, 3), number, np.uint8)
        pixels[0, :, 1] = np.arange(500) % 256
        samples.append(
            {
                "__key__": f"n{number // 10}/{number:04d}",
                "label": number - 3,
                "image": photos.read(number % 2)["image"] if number % 3 == 0 else pixels,
                "score": number / 7,
                "blob": bytes(range(number)),
                "box": np.arange(6, dtype=np.float32).reshape(3, 2) + number,
                "info": {"number": number, "nested": [1.5, None, "é"]},
                "caption": f"caption ü {number}",
            }
        )
    return samples


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, np.ndarray):
            assert found[name].dtype == value.dtype
            np.testing.assert_array_equal(found[name], value)
        else:
            assert found[name] == value


@pytest.fixture(scope="module")
def mixed_set(tmp_path_factory: pytest.TempPathFactory, photos: ShardSet) -> Path:
    path = tmp_path_factory.mktemp("mixed") / "set"
    write_shards(path, mixed_samples(photos), ALL_FIELDS, format="ffcv", shard_size=64 << 20)
    return path


def test_reads_back_what_it_wrote(mixed_set: Path, photos: ShardSet) -> None:
    expected = mixed_samples(photos)
    with open_shards(mixed_set, check=True) as shards:
        assert len(shards) == len(expected)
        for number, sample in enumerate(expected):
            assert_same(shards.read(number), sample)
        assert shards.fields["box"] == Field(kind="array", dtype="<f4", shape=(3, 2))
        assert shards.fields["image"].encoding == "mixed"


def test_our_index_agrees_with_the_tables_of_the_beton(mixed_set: Path, photos: ShardSet) -> None:
    """Without manifest and index, everything but the keys comes from the .beton itself."""
    expected = mixed_samples(photos)
    with open_shards(mixed_set / "shard-000000.beton") as shards, open_shards(mixed_set) as ours:
        for number, sample in enumerate(expected):
            found = shards.read(number)
            assert found.pop("__key__") == f"{number:09d}"
            assert_same(found, {name: value for name, value in sample.items() if name != "__key__"})
        for name in ("image", "label"):
            spans, wanted = shards.spans(name, range(24)), ours.spans(name, range(24))
            np.testing.assert_array_equal(spans.size, wanted.size)
            np.testing.assert_array_equal(spans.encoding, wanted.encoding)


def test_no_sample_crosses_a_page(mixed_set: Path) -> None:
    beton = read_beton(MappedFile(mixed_set / "shard-000000.beton"))
    first, last = beton.allocations["offset"], beton.allocations["offset"] + beton.allocations["size"] - 1
    assert (first // beton.page_size == last // beton.page_size).all()
    for sample in range(len(beton.metadata)):
        pages = first[beton.allocations["sample"] == sample] // beton.page_size
        assert len(set(pages)) == 1
    assert len(np.unique(first // beton.page_size)) > 1, "the set is too small to tell"


@pytest.mark.peer("ffcv")
@pytest.mark.parametrize("os_cache", [True, False])
def test_the_real_loader_reads_every_field(mixed_set: Path, photos: ShardSet, os_cache: bool) -> None:
    from ffcv.fields.decoders import (
        BytesDecoder,
        FloatDecoder,
        IntDecoder,
        NDArrayDecoder,
        SimpleRGBImageDecoder,
    )
    from ffcv.fields.json import JSONField
    from ffcv.loader import Loader, OrderOption

    expected = mixed_samples(photos)
    loader = Loader(
        str(mixed_set / "shard-000000.beton"),
        batch_size=8,
        num_workers=1,
        os_cache=os_cache,
        order=OrderOption.SEQUENTIAL,
        pipelines={
            "label": [IntDecoder()],
            "image": [SimpleRGBImageDecoder()],
            "score": [FloatDecoder()],
            "blob": [BytesDecoder()],
            "box": [NDArrayDecoder()],
            "info": [BytesDecoder()],
            "caption": [BytesDecoder()],
        },
    )
    number = 0
    for label, image, score, blob, box, info, caption in loader:
        for row in range(len(label)):
            sample = expected[number]
            assert int(label[row, 0]) == sample["label"]
            assert float(score[row, 0]) == sample["score"]
            assert bytes(blob[row])[: len(sample["blob"])] == sample["blob"]
            np.testing.assert_array_equal(box[row], sample["box"])
            assert JSONField.unpack(info[row]) == sample["info"]
            assert JSONField.unpack(caption[row]) == sample["caption"]
            pixels = np.asarray(image[row])
            if isinstance(sample["image"], np.ndarray):
                np.testing.assert_array_equal(pixels, sample["image"])
            else:
                import simplejpeg

                # ffcv asks libjpeg-turbo for its fast DCT.
                decoded = simplejpeg.decode_jpeg(sample["image"], fastdct=True)
                np.testing.assert_allclose(pixels.astype(int), decoded, atol=2)
            number += 1
    assert number == len(expected)


class FfcvDataset:
    """What ffcv's DatasetWriter takes: tuples by position."""

    def __init__(self, samples: list[dict[str, Any]]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> tuple[Any, ...]:
        sample = self.samples[i]
        blob = np.frombuffer(sample["blob"], np.uint8)
        return sample["label"], sample["image"], sample["score"], blob, sample["box"], sample["info"]


@pytest.mark.peer("ffcv")
@pytest.mark.parametrize("mode", ["raw", "jpg"])
def test_we_read_what_the_real_writer_wrote(tmp_path: Path, photos: ShardSet, mode: str) -> None:
    import simplejpeg
    from ffcv.fields import BytesField, FloatField, IntField, JSONField, NDArrayField, RGBImageField
    from ffcv.writer import DatasetWriter

    multiprocessing.set_start_method("fork", force=True)
    samples = [s for s in mixed_samples(photos) if isinstance(s["image"], np.ndarray) and s["blob"]]
    writer = DatasetWriter(
        str(tmp_path / "real.beton"),
        {
            "label": IntField(),
            "image": RGBImageField(write_mode=mode, jpeg_quality=95),
            "score": FloatField(),
            "blob": BytesField(),
            "box": NDArrayField(np.dtype("<f4"), (3, 2)),
            "info": JSONField(),
        },
        page_size=MIN_PAGE_SIZE,
        num_workers=2,
    )
    writer.from_indexed_dataset(FfcvDataset(samples), chunksize=3)
    with open_shards(tmp_path) as shards:
        assert shards.fields["image"].encoding == mode
        assert len(shards) == len(samples)
        np.testing.assert_array_equal(shards.ints(), [sample["label"] for sample in samples])
        for number, sample in enumerate(samples):
            found = shards.read(number)
            for name in ("label", "score", "blob", "info"):
                assert found[name] == sample[name]
            np.testing.assert_array_equal(found["box"], sample["box"])
            if mode == "raw":
                np.testing.assert_array_equal(found["image"], sample["image"])
            else:
                assert simplejpeg.decode_jpeg(found["image"]).shape == sample["image"].shape


@pytest.mark.peer("ffcv")
def test_the_same_bytes_as_the_real_writer(tmp_path: Path, digits_ffcv: ShardSet) -> None:
    """One worker, the same page size: nothing but the samples decides what stands in the file."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    samples = [digits_ffcv.read(i) for i in range(len(digits_ffcv))]
    real = tmp_path / "real.beton"
    fields = {"image": RGBImageField(write_mode="raw"), "label": IntField()}
    writer = DatasetWriter(str(real), fields, page_size=DEFAULT_PAGE_SIZE, num_workers=1)
    writer.from_indexed_dataset([(sample["image"], sample["label"]) for sample in samples])
    ours = digits_ffcv.path / "shard-000000.beton"
    assert ours.read_bytes() == real.read_bytes()


def test_png_is_refused_with_advice(tmp_path: Path) -> None:
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "PNG")
    samples = [{"__key__": "a", "image": stream.getvalue()}]
    with pytest.raises(ShardError, match=r"key a: image: .*--encode raw or --encode jpeg"):
        write_shards(tmp_path / "set", samples, {"image": Field(kind="image", encoding="png")}, format="ffcv")
    assert not (tmp_path / "set").exists()


def test_a_sample_larger_than_a_page_gets_a_file_with_larger_pages(tmp_path: Path) -> None:
    sizes = [1000, DEFAULT_PAGE_SIZE + 1, 1000]
    samples = [{"__key__": f"k{size}-{i}", "bytes": bytes([i]) * size} for i, size in enumerate(sizes)]
    manifest = write_shards(tmp_path / "set", samples, {"bytes": Field(kind="bytes")}, format="ffcv")
    assert [shard.samples for shard in manifest.shards] == [1, 2]
    pages = [read_beton(MappedFile(tmp_path / "set" / shard.name)).page_size for shard in manifest.shards]
    assert pages == [DEFAULT_PAGE_SIZE, 2 * DEFAULT_PAGE_SIZE]
    with open_shards(tmp_path / "set", check=True) as shards:
        assert [len(shards.read(i)["bytes"]) for i in range(3)] == sizes


def test_a_sample_larger_than_any_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.shards.formats.ffcv.MAX_PAGE_SIZE", DEFAULT_PAGE_SIZE)
    samples = [{"__key__": "big", "bytes": bytes(DEFAULT_PAGE_SIZE + 1)}]
    with pytest.raises(ShardError, match=r"key big: 8388609 bytes, a sample of a \.beton has at most 8388608"):
        write_shards(tmp_path / "set", samples, {"bytes": Field(kind="bytes")}, format="ffcv")


def test_full_metadata_begins_a_new_file_unless_the_total_is_known(tmp_path: Path) -> None:
    """64 numbers are 512 bytes of metadata; a page of 2 MiB holds those of less than 4,096 samples."""
    names = [f"n{i}" for i in range(64)]
    fields = {name: Field(kind="int") for name in names}
    samples = [{"__key__": f"{i:07d}", **dict.fromkeys(names, i)} for i in range(4096)]
    for total, files in ((None, 2), (4096, 1)):
        manifest = write_shards(tmp_path / "set", samples, fields, format="ffcv", shard_size=20 << 20, total=total)
        assert len(manifest.shards) == files
        with open_shards(tmp_path / "set") as shards:
            np.testing.assert_array_equal(shards.ints("n63"), np.arange(4096))


def test_arrays_of_a_beton_have_one_shape(tmp_path: Path) -> None:
    samples = [{"__key__": f"k{n}", "box": np.zeros((n, 4), np.int16)} for n in (1, 2)]
    with pytest.raises(ShardError, match=r"key k2: box: .*one type and shape, <i2 \(1, 4\), got <i2 \(2, 4\)"):
        write_shards(tmp_path / "set", samples, {"box": Field(kind="array")}, format="ffcv")


@pytest.mark.parametrize(
    ("offset", "new", "message"),
    [
        (0, b"\x03", "not a .beton of version 2"),
        (2, b"\xff\xff", "fields do not fit"),
        (4, b"\x01\x00\x00\x03", "not a power of two"),
        (8, b"\xff" * 8, "samples do not fit"),
        (16, b"\xff" * 8, "allocation table"),
        (24, b"\xff", "custom field"),
        (24 + 1041, b"\xff", "cannot be read"),
    ],
)
def test_a_damaged_beton_is_named_with_its_offset(
    tmp_path: Path, digits_ffcv: ShardSet, offset: int, new: bytes, message: str
) -> None:
    content = bytearray((digits_ffcv.path / "shard-000000.beton").read_bytes())
    content[offset : offset + len(new)] = new
    path = tmp_path / "damaged.beton"
    path.write_bytes(content)
    with pytest.raises(ShardError, match=rf"damaged\.beton, offset {offset}: .*{message}") as caught:
        open_shards(path)
    assert "\n" not in str(caught.value)


def test_no_single_bit_of_the_tables_makes_a_reader_leave_the_file(tmp_path: Path, digits_ffcv: ShardSet) -> None:
    """Any bit of header, descriptors and metadata: the file opens and reads, or there is a ShardError."""
    content = (digits_ffcv.path / "shard-000000.beton").read_bytes()
    random = np.random.Generator(np.random.Philox(3))
    metadata_end = 24 + 2 * 1041 + 200 * 24
    places = [*range(0, 24), *random.integers(24, metadata_end, 60).tolist()]
    places += random.integers(len(content) - 24 * 200, len(content), 20).tolist()
    path = tmp_path / "flipped.beton"
    refused = 0
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(random.integers(8))
        path.write_bytes(flipped)
        try:
            with open_shards(path) as shards:
                spans = shards.spans("image", np.arange(len(shards)))
                assert (spans.size == spans.height.astype(np.int64) * spans.width * 3).all()
                for i in range(len(shards)):
                    shards.read(i)
        except ShardError:
            refused += 1
    assert refused > 24


@pytest.mark.parametrize("keep", [0, 10, 24, 3000, 9000, 5_000_000])
def test_a_truncated_beton(tmp_path: Path, digits_ffcv: ShardSet, keep: int) -> None:
    path = tmp_path / "cut.beton"
    path.write_bytes((digits_ffcv.path / "shard-000000.beton").read_bytes()[:keep])
    with pytest.raises(ShardError, match=r"cut\.beton"):
        open_shards(path)


def test_json_is_compact_utf8_with_its_zero_byte(mixed_set: Path) -> None:
    """The format as ffcv's JSONField has it: the metadata's size counts the zero byte, the index's does not."""
    beton = read_beton(MappedFile(mixed_set / "shard-000000.beton"))
    with open_shards(mixed_set) as shards:
        sizes = shards.spans("info", range(24)).size
        content = shards.read(5)["info"]
    np.testing.assert_array_equal(beton.metadata["f5"]["size"], sizes + 1)
    assert len(json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()) == sizes[5]
