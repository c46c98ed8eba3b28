"""The real webdataset reads our tars, and we read tars that others wrote."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.shards import Field, ShardError, ShardSet, open_shards, write_shards
from headrace.shards.formats.tar import scan_tar
from headrace.shards.formats.webdataset import tar_header
from headrace.shards.mapping import MappedFile

FIELDS = {
    "image": Field(kind="image", encoding="mixed"),
    "label": Field(kind="int"),
    "depth": Field(kind="image", encoding="png"),
    "rank": Field(kind="int"),
    "score": Field(kind="float"),
    "text": Field(kind="text"),
    "note": Field(kind="text"),
    "json": Field(kind="json"),
    "bytes": Field(kind="bytes"),
    "boxes": Field(kind="array"),
}


def png(level: int) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (5, 3), (level, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def samples_of_every_kind(photos: ShardSet, count: int = 20) -> list[dict[str, Any]]:
    samples = []
    for number in range(count):
        image: Any = photos.read(number % 5)["image"]
        if number % 3 == 1:
            image = png(number)
        elif number % 3 == 2:
            image = np.full((number + 1, 7, 3), number, np.uint8)
        samples.append(
            {
                "__key__": f"dir/sub/{number:04d}",
                "image": image,
                "label": number * 10**15 - 7,
                "depth": png(number),
                "rank": -number,
                "score": number / 3,
                "text": f"größe {number}\n",
                "note": "",
                "json": {"n": [number, None, "é"]},
                "bytes": bytes([number]) * (number * 100),
                "boxes": np.arange(number * 4, dtype=np.float64).reshape(number, 4),
            }
        )
    return samples


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory: pytest.TempPathFactory, photos: ShardSet) -> Path:
    path = tmp_path_factory.mktemp("tars") / "set"
    manifest = write_shards(path, samples_of_every_kind(photos), FIELDS, shard_size=300_000)
    assert len(manifest.shards) > 2
    return path


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, np.ndarray):
            assert found[name].dtype == value.dtype
            np.testing.assert_array_equal(found[name], value)
        else:
            assert found[name] == value


def test_reads_back_what_it_wrote(every_kind: Path, photos: ShardSet) -> None:
    with open_shards(every_kind, check=True) as shards:
        for number, sample in enumerate(samples_of_every_kind(photos)):
            assert_same(shards.read(number), sample)


def test_python_and_the_system_read_the_tars(every_kind: Path) -> None:
    for path in sorted(every_kind.glob("*.tar")):
        with tarfile.open(path, "r:", errorlevel=2) as tar:
            members = tar.getmembers()
            assert all(member.mtime == member.uid == member.gid == 0 and member.mode == 0o644 for member in members)
            found = [(member.name, member.offset_data, member.size) for member in members]
        assert found == [tuple(member) for member in scan_tar(MappedFile(path))]
        assert path.stat().st_size % 10_240 == 0


@pytest.mark.peer("webdataset")
def test_the_real_webdataset_decodes_every_field(every_kind: Path, photos: ShardSet) -> None:
    import webdataset

    last = len(list(every_kind.glob("*.tar"))) - 1
    url = f"{every_kind}/shard-{{000000..{last:06d}}}.tar"
    expected = samples_of_every_kind(photos)
    found = list(webdataset.WebDataset(url, shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in found] == [sample["__key__"] for sample in expected]
    for sample, wanted in zip(found, expected, strict=True):
        image = wanted["image"]
        if isinstance(image, bytes):
            assert sample["png" if image.startswith(b"\x89PNG") else "jpg"] == image
        assert sample["depth.png"] == wanted["depth"]
        assert sample["bin"] == wanted["bytes"]
    decoded = webdataset.WebDataset(url, shardshuffle=False, empty_check=False).decode()
    for sample, wanted in zip(decoded, expected, strict=True):
        assert sample["cls"] == wanted["label"]
        assert sample["rank.cls"] == wanted["rank"]
        assert sample["score.json"] == wanted["score"]
        assert sample["txt"] == wanted["text"]
        assert sample["note.txt"] == wanted["note"]
        assert sample["json"] == wanted["json"]
        np.testing.assert_array_equal(sample["boxes.npy"], wanted["boxes"])
        if isinstance(wanted["image"], np.ndarray):
            np.testing.assert_array_equal(sample["npy"], wanted["image"])


def test_without_manifest_the_tars_say_the_same(tmp_path: Path, every_kind: Path, photos: ShardSet) -> None:
    for path in every_kind.glob("*.tar"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with open_shards(tmp_path) as shards, open_shards(every_kind) as ours:
        for number, sample in enumerate(samples_of_every_kind(photos)):
            assert_same(shards.read(number), sample)
        for name in FIELDS:
            assert shards.fields[name].encoding == ours.fields[name].encoding
            for found, wanted in zip(shards.spans(name, range(20))[1:], ours.spans(name, range(20))[1:], strict=True):
                np.testing.assert_array_equal(found, wanted)
        np.testing.assert_array_equal(shards.ints("rank"), ours.ints("rank"))


@pytest.mark.peer("webdataset")
@pytest.mark.parametrize("format", [None, "PAX_FORMAT", "GNU_FORMAT"])
def test_we_read_what_the_real_writer_wrote(tmp_path: Path, photos: ShardSet, format: str | None) -> None:
    import webdataset

    with webdataset.ShardWriter(f"{tmp_path}/%04d.tar", maxcount=7, verbose=0, format=format) as writer:
        for number in range(20):
            sample = photos.read(number)
            folder = "long-folder-name-" * 7 if format else "folder"
            writer.write(
                {
                    "__key__": f"{folder}/{number:04d}",
                    "jpg": sample["image"],
                    "cls": sample["label"],
                    "caption.txt": f"number {number}",
                    "json": {"number": number},
                }
            )
    with open_shards(tmp_path) as shards:
        assert {name: field.kind for name, field in shards.fields.items()} == {
            "caption": "text",
            "image": "image",
            "json": "json",
            "label": "int",
        }
        assert shards.fields["image"].encoding == "jpg"
        assert len(shards.manifest.shards) == 3
        for number in range(20):
            wanted, found = photos.read(number), shards.read(number)
            assert found["__key__"].endswith(f"/{number:04d}")
            assert found["image"] == wanted["image"]
            assert found["label"] == wanted["label"]
            assert found["caption"] == f"number {number}"
            assert found["json"] == {"number": number}
        np.testing.assert_array_equal(shards.ints(), photos.ints()[:20])


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def test_extensions_of_foreign_tars(tmp_path: Path) -> None:
    """Two images in a sample keep their extensions; what some samples lack is left out; folders are skipped."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        folder = tarfile.TarInfo("x")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        add(tar, "__meta__/info.json", b"{}")
        add(tar, "README", b"no extension")
        for key in ("x/1", "x/2"):
            add(tar, f"{key}.JPG", b"\xff\xd8\xff broken")
            add(tar, f"{key}.seg.png", png(3))
            add(tar, f"{key}.png", png(4))
            add(tar, f"{key}.tar.gz", b"zip")
        add(tar, "x/3.txt", b"only here")
    lacking = r"left out for all samples.*: \.txt: 1 of 3 samples has it \(the first: a\.tar, key x/3\)"
    with pytest.warns(UserWarning, match=lacking):
        shards = open_shards(tmp_path)
    with shards:
        assert {name: field.encoding for name, field in shards.fields.items()} == {
            "jpg": "mixed",
            "png": "png",
            "seg": "png",
            "tar": "",
        }
        with pytest.raises(ShardError, match=r"a\.tar, offset \d+, key x/1: jpg is no image that can be read \("):
            shards.read(0)
        assert (shards.spans("seg", [0, 1]).height == 3).all()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("k.cls", b"dog\ncat", r"bad\.tar, offset 512, key k: cls is not an integer .*, and no name of a class"),
        ("k.cls", b"caf\xe9", r"cls is not an integer"),
        ("k.cls", b"1e5", r"cls is not an integer"),
        ("k.cls", b"x" * 201, r"cls is not an integer"),
        ("k.cls", b"1_0", r"cls is not an integer \(b'1_0' has other characters than decimal digits and a sign"),
        ("k.cls", "٣".encode(), r"cls is not an integer"),
        ("k.cls", b"- 1", r"cls is not an integer"),
        ("k.cls", str(1 << 80).encode(), r"does not fit into 64 bits"),
        ("noextension", b"", r"bad\.tar: the tar holds no samples"),
    ],
)
def test_tars_that_are_no_shards(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        add(tar, name, content)
    with pytest.raises(ShardError, match=message):
        open_shards(tmp_path)


def test_integers_of_foreign_tars(tmp_path: Path) -> None:
    """A sign, leading zeros and a line break, as scripts write them."""
    written = {b"7": 7, b"+7": 7, b"-07": -7, b"12\n": 12}
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number, content in enumerate(written):
            add(tar, f"{number}.cls", content)
    with open_shards(tmp_path) as shards:
        assert [shards.read(i)["label"] for i in range(len(shards))] == list(written.values())


def test_a_tar_cut_anywhere_is_an_error(tmp_path: Path, every_kind: Path) -> None:
    """Python's tarfile, and so webdataset, takes many of these for the end of the tar and loses samples silently."""
    content = (every_kind / "shard-000000.tar").read_bytes()
    path = tmp_path / "cut.tar"
    random = np.random.Generator(np.random.Philox(1))
    last_member = max(member.offset + member.size for member in scan_tar(MappedFile(every_kind / "shard-000000.tar")))
    for keep in [1, 511, 512, 513, 1024, last_member - 1, *random.integers(0, last_member, 40).tolist()]:
        path.write_bytes(content[:keep])
        with pytest.raises(ShardError, match=r"cut\.tar"):
            open_shards(path)


def test_a_damaged_header_in_the_middle_is_an_error(tmp_path: Path, every_kind: Path) -> None:
    content = bytearray((every_kind / "shard-000000.tar").read_bytes())
    second = list(scan_tar(MappedFile(every_kind / "shard-000000.tar")))[5].offset - 512
    content[second + 3] ^= 0x10
    path = tmp_path / "damaged.tar"
    path.write_bytes(content)
    with pytest.raises(ShardError, match=rf"damaged\.tar, offset {second}: damaged tar header"):
        open_shards(path)


def with_field(header: bytes, at: int, content: bytes) -> bytes:
    """A header with a field changed and its checksum mended."""
    changed = bytearray(header)
    changed[at : at + len(content)] = content
    changed[148:156] = b" " * 8
    changed[148:156] = b"%06o\0 " % sum(changed)
    return bytes(changed)


GOOD = tar_header(b"a.txt", 5) + b"hello".ljust(512, b"\0")
END = bytes(1024)
EXTENDED = with_field(tar_header(b"pax", 512), 156, b"x")
LONG_NAME = with_field(tar_header(b"././@LongLink", 512), 156, b"L")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (with_field(GOOD[:512], 124, b"-0000001000") + GOOD[512:] + END, "not an octal number"),  # it looped
        (with_field(GOOD[:512], 124, b"+0000000005") + GOOD[512:] + END, "not an octal number"),
        (with_field(GOOD[:512], 124, b"0000000_005") + GOOD[512:] + END, "not an octal number"),
        (with_field(GOOD[:512], 124, b"\xff" * 12) + GOOD[512:] + END, "not an octal number"),
        (GOOD + bytes(1536) + GOOD + END, "offset 1024: zeros as at the end, but data at 2560"),
        (GOOD + LONG_NAME + b"b.txt".ljust(512, b"\0") + END, "a name without its file"),
        (END, "the tar holds no samples"),
        (with_field(LONG_NAME, 124, b"00004000001") + bytes(1 << 20) + bytes(512) + END, "damaged name"),
        (EXTENDED + b"19 path=b.txt\n".ljust(512, b"\0") + GOOD + END, "another length than it says"),
        (EXTENDED + b"-9 path=b.txt\n".ljust(512, b"\0") + GOOD + END, "without a length"),
        (EXTENDED + b"1_4 path=b.txt\n".ljust(512, b"\0") + GOOD + END, "without a length"),
        (EXTENDED + b"9999999999 path=b\n".ljust(512, b"\0") + GOOD + END, "without a length"),
    ],
)
def test_hostile_and_damaged_tars(tmp_path: Path, content: bytes, message: str) -> None:
    """Headers whose checksum is right, and ends that are none."""
    path = tmp_path / "odd.tar"
    path.write_bytes(content)
    with pytest.raises(ShardError, match=rf"odd\.tar.*{message}"):
        open_shards(path)


def test_names_of_link_targets_and_attributes_of_the_tar(tmp_path: Path) -> None:
    """GNU's K and pax's g entries between a long name and its file leave the name alone."""
    link = with_field(LONG_NAME, 156, b"K") + b"target".ljust(512, b"\0")
    attributes = with_field(EXTENDED, 156, b"g") + b"15 comment=abc\n".ljust(512, b"\0")
    name = LONG_NAME + b"folder/long.txt".ljust(512, b"\0")
    (tmp_path / "odd.tar").write_bytes(name + link + attributes + GOOD + END)
    with open_shards(tmp_path / "odd.tar") as shards:
        assert shards.read(0) == {"__key__": "folder/long", "text": "hello"}


@given(st.text("abcdefgh/é0123456789-_", min_size=1, max_size=250), st.integers(0, (1 << 33) - 1))
def test_headers_are_those_of_tarfile(key: str, size: int) -> None:
    """Byte for byte what the standard library writes; longer names may be cut at another slash."""
    name = f"{key}.jpg"
    encoded = name.encode()
    info = tarfile.TarInfo(name)
    info.size = size
    try:
        expected = info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
    except ValueError:
        expected = None
    try:
        header = tar_header(encoded, size)
    except ShardError:
        assert expected is None or len(encoded) > 100
        return
    if len(encoded) <= 100:
        assert header == expected
    parsed = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    assert (parsed.name, parsed.size) == (name, size)


def test_bytes_do_not_depend_on_when_or_where(tmp_path: Path, photos: ShardSet) -> None:
    for name in ("one", "two"):
        write_shards(tmp_path / name, samples_of_every_kind(photos), FIELDS, shard_size=300_000)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_shards_roll_over_at_their_size(tmp_path: Path) -> None:
    samples = [{"__key__": f"{i:03d}", "bytes": bytes(1000)} for i in range(50)]
    samples.insert(10, {"__key__": "big", "bytes": bytes(30_000)})
    manifest = write_shards(tmp_path / "set", samples, {"bytes": Field(kind="bytes")}, shard_size=20_480)
    assert sum(shard.samples for shard in manifest.shards) == 51
    large = [shard for shard in manifest.shards if shard.bytes > 20_480]
    assert [shard.samples for shard in large] == [1]
    with open_shards(tmp_path / "set") as shards:
        assert [shards.key(i) for i in range(51)] == [sample["__key__"] for sample in samples]
    assert json.loads((tmp_path / "set" / "manifest.json").read_text(encoding="utf-8"))["samples"] == 51
