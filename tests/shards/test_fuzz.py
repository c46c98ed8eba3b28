"""Thousands of damaged and hostile files: no crash, no hang, no unbounded memory, no exception but the documented one,
and where there are checksums no sample that is silently another.

Each target runs in a process of its own, with a limit on memory and time. Case n of a target is drawn from Philox at
(target, n) alone; what fails prints its number, and

    python tests/shards/test_fuzz.py FOLDER TARGET NUMBER

draws it again (FOLDER holds the undamaged files; pytest keeps it and prints it).
"""

from __future__ import annotations

import io
import os
import pickle
import resource
import shutil
import struct
import subprocess
import sys
import tarfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from headrace.pipeline.images.decode import decode_rgb
from headrace.pipeline.images.limits import MAX_PIXELS
from headrace.pipeline.images.whole import check_whole, looks_whole
from headrace.shards import Field, ShardError, open_shards, write_shards
from headrace.shards.checksums import CURRENT
from headrace.shards.formats.ffcv import MIN_PAGE_SIZE, BetonShard, array_field, index_beton, read_beton
from headrace.shards.formats.ffcv import encode as encode_region
from headrace.shards.formats.images import image_header
from headrace.shards.formats.npy import parse_npy, parse_npy_header
from headrace.shards.formats.tar import BLOCK, scan_tar
from headrace.shards.formats.tar_links import BrokenLink
from headrace.shards.mapping import MappedFile
from headrace.tools.errors import UserError
from headrace.tools.sources.archives import ArchiveFile
from headrace.tools.sources.archives import scan_tar as scan_archive
from headrace.tools.sources.cifar10 import parse_batch
from headrace.tools.sources.source import BadSample
from headrace.tools.upkeep.verify import verify

MEMORY = 2 << 30
"""Bytes that a process may take beyond what it has after its imports; the largest image that is decoded takes 1 GB."""
SECONDS = 120
"""For all cases of a target, which take 2 to 12."""


# Damage


class Damage(NamedTuple):
    """A damaged file and how it came about."""

    kind: str
    data: bytes


def generator(target: str, number: int) -> np.random.Generator:
    """The random numbers of one case."""
    return np.random.Generator(np.random.Philox(key=zlib.crc32(target.encode()), counter=[0, 0, 0, number]))


def place(random: np.random.Generator, size: int) -> int:
    """A position: half of them anywhere, the others near the ends, where headers and tables are."""
    spans = ((0, size), (0, size), (0, min(size, 2048)), (max(size - 2048, 0), size))
    return int(random.integers(*spans[random.integers(4)]))


def damaged(random: np.random.Generator, data: bytes) -> Damage:
    """One to a few changes of one kind."""
    kind = str(random.choice(["flip", "flips", "bytes", "cut", "zeros", "ones", "splice", "shift", "length"]))
    changed = bytearray(data)
    at = place(random, len(data))
    extent = int(2 ** random.uniform(0, 12))
    if kind == "flip":
        changed[at] ^= 1 << int(random.integers(8))
    elif kind == "flips":
        for _ in range(random.integers(2, 20)):
            changed[place(random, len(data))] ^= 1 << int(random.integers(8))
    elif kind == "bytes":
        changed[at : at + extent] = random.bytes(len(changed[at : at + extent]))
    elif kind == "cut":
        del changed[at:]
    elif kind in ("zeros", "ones"):
        if random.integers(2):
            at, extent = at // BLOCK * BLOCK, -(-extent // BLOCK) * BLOCK
        changed[at : at + extent] = bytes([0xFF * (kind == "ones")]) * len(changed[at : at + extent])
    elif kind == "splice":
        source = place(random, len(data))
        part = data[source : source + extent]
        changed[at : at + len(part)] = part
    elif kind == "shift":  # bytes are missing or come twice
        changed[at : at + extent] = b"" if random.integers(2) else changed[at : at + extent] * 2
    else:
        odd = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, (1 << 63) - 1, (1 << 64) - 1)
        width = int(random.choice([1, 2, 4, 8]))
        value = odd[random.integers(len(odd))] & ((1 << 8 * width) - 1)
        changed[at : at + width] = value.to_bytes(width, "big" if random.integers(2) else "little")
    return Damage(kind, bytes(changed))


ODD_NUMBERS = (
    b"-0000001000", b"-7777777777", b"+0000001000", b"00000_01000", b"0x000001000", b"77777777777", b"           ",
    b"00000001001", b"1 000000000", b"\x80" + bytes(10), b"\xff" * 11, b"\x80" + b"\xff" * 10, b"00000009000",
    b"\x80\0\0\0\0\0\0\0\0\1\0", b"00000000000", b"00004000000",
)  # fmt: skip
ODD_TYPES = b"01234567LKxgXSVMDNA\0\xff"


def forged_tar(random: np.random.Generator, data: bytes) -> Damage:
    """A tar with one header changed and its checksum mended, so that the change is not found by it."""
    changed = bytearray(data)
    headers = [at for at in range(0, len(data), BLOCK) if data[at + 257 : at + 262] == b"ustar"]
    at = headers[random.integers(len(headers))]
    change = random.integers(4)
    if change == 0:
        number = ODD_NUMBERS[random.integers(len(ODD_NUMBERS))]
        changed[at + 124 : at + 124 + len(number)] = number
    elif change == 1:
        changed[at + 156] = ODD_TYPES[random.integers(len(ODD_TYPES))]
    elif change == 2:
        name = random.choice([b"", b".", b"..", b"a/.b", b"/", b"\xff\xfe.jpg", b"__x__/a.jpg", b"a.b/c", b"a\nb.jpg"])
        changed[at : at + 100] = bytes(name).ljust(100, b"\0")
    else:
        changed[at + int(random.integers(BLOCK))] = int(random.integers(256))
    changed[at + 148 : at + 156] = b" " * 8
    changed[at + 148 : at + 156] = b"%06o\0 " % sum(changed[at : at + BLOCK])
    return Damage("forged", bytes(changed))


def repeated(random: np.random.Generator, data: bytes, forge: Callable[..., Damage]) -> Damage:
    """Damage of the general kinds or, as often, of a format's own."""
    return forge(random, data) if random.integers(2) else damaged(random, data)


# The undamaged files


def pictures() -> Iterator[Image.Image]:
    """Small pieces of two photographs."""
    from sklearn.datasets import load_sample_images

    for number, photograph in enumerate(load_sample_images().images):
        for top in range(40, 400, 60):
            yield Image.fromarray(photograph[top : top + 48, 7 * top % 500 :][:, : 64 + number])


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


FIELDS = {
    "image": Field(kind="image", encoding="mixed"),
    "label": Field(kind="int"),
    "score": Field(kind="float"),
    "text": Field(kind="text"),
    "json": Field(kind="json"),
    "bytes": Field(kind="bytes"),
    "boxes": Field(kind="array"),
}


def samples() -> Iterator[dict[str, Any]]:
    for number, image in enumerate(pictures()):
        yield {
            "__key__": f"some/{number:04d}",
            "image": np.asarray(image) if number % 3 == 2 else encoded(image, "JPEG", quality=90),
            "label": number - 3,
            "score": number / 7,
            "text": f"Bild Nr. {number}: größer\n" * number,
            "json": {"boxes": [[number, 1.5, None]], "é": "ü"},
            "bytes": bytes(range(number * 7)),
            "boxes": np.arange(12, dtype=np.float32).reshape(3, 4) * number,
        }


def python2_batch(rows: int) -> bytes:
    """A batch as Python 2's cPickle wrote the official files, protocol 2."""
    pixels = np.random.Generator(np.random.Philox(3)).integers(0, 256, (rows, 3072), dtype=np.uint8)
    dtype = b"cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87Rq\x04"
    shape = b"K" + bytes([rows]) + b"M" + struct.pack("<H", 3072) + b"\x86"
    content = b"T" + struct.pack("<i", pixels.size) + pixels.tobytes()
    labels = b"](" + b"".join(b"K" + bytes([row % 10]) for row in range(rows)) + b"e"
    return (
        b"\x80\x02}q\x01(U\x06labels"
        + labels
        + b"U\x04data"
        + array
        + b"(K\x01"
        + shape
        + dtype
        + b"\x89"
        + (content + b"tbu.")
    )


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with undamaged files of every format."""
    folder = tmp_path_factory.mktemp("fuzz")
    all_samples = list(samples())
    for format in ("webdataset", "ffcv"):
        write_shards(folder / format, all_samples, FIELDS, format=format, shard_size=40_000)  # type: ignore[arg-type]
    zipfile.ZipFile(Path(__file__).parents[1] / "data" / "version1.zip").extractall(folder / "version1")
    shutil.copy(folder / "webdataset" / "shard-000000.tar", folder / "own.tar")
    for name, tar_format in (("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)):
        with tarfile.open(folder / f"{name}.tar", "w", format=tar_format) as tar:
            for number, image in enumerate(pictures()):
                parts = ((encoded(image, "JPEG"), "jpg"), (b"%d" % number, "cls"), (b'{"a": 1}', "json"))
                for content, ending in parts:
                    info = tarfile.TarInfo(f"{'long' * 9 * (number % 4)}/é{number:05d}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    write_small_beton(folder / "own.beton", all_samples)
    images = folder / "images"
    images.mkdir()
    first, *others = pictures()
    thumbnail = b"Exif\0\0" + encoded(first.resize((32, 24)), "JPEG")
    for name, content in {
        "plain.jpg": encoded(first, "JPEG"),
        "progressive.jpg": encoded(others[0], "JPEG", progressive=True, quality=95, exif=thumbnail),
        "grey.jpg": encoded(others[1].convert("L"), "JPEG", quality=30),
        "full.jpg": encoded(others[2], "JPEG", subsampling=0, optimize=True, comment="a"),
        "restart.jpg": encoded(others[3], "JPEG", restart_marker_blocks=3),
        "cmyk.jpg": encoded(others[4].convert("CMYK"), "JPEG"),
        "plain.png": encoded(others[5], "PNG"),
        "palette.png": encoded(others[6].quantize(64), "PNG"),
        "alpha.png": encoded(others[7].convert("RGBA"), "PNG"),
        "sixteen.png": encoded(Image.fromarray(np.asarray(others[8].convert("L")).astype(np.uint16) * 257), "PNG"),
        "some.webp": encoded(others[0], "WEBP"),
        "some.gif": encoded(others[1], "GIF"),
        "some.tif": encoded(others[2], "TIFF", compression="tiff_lzw"),
        "some.bmp": encoded(others[3], "BMP"),
    }.items():
        (images / name).write_bytes(content)
    arrays = folder / "arrays"
    arrays.mkdir()
    np.save(arrays / "boxes.npy", np.arange(24, dtype="<f4").reshape(2, 3, 4))
    np.save(arrays / "pixels.npy", np.asarray(first))
    np.save(arrays / "scalar.npy", np.float64(3))
    np.save(arrays / "records.npy", np.zeros(5, [("a", "<i4"), ("b", "S7"), ("c", "<f8", 3)]))
    shutil.copy(folder / "webdataset" / "shard-000000.index.npy", arrays / "index.npy")
    (folder / "python2.pickle").write_bytes(python2_batch(9))
    (folder / "python3.pickle").write_bytes(
        pickle.dumps({b"data": np.zeros((4, 3072), np.uint8), b"labels": [1, 2, 3, 4]}, protocol=4)
    )
    return folder


def write_small_beton(path: Path, all_samples: list[dict[str, Any]]) -> None:
    """Pages of 16 KiB instead of 2 MiB, so that damage rarely falls on padding."""
    fields = {**FIELDS, "boxes": array_field(all_samples[0]["boxes"])}
    shard = BetonShard(path, fields, CURRENT, 1 << 14, 1)
    for sample in all_samples:
        shard.add(b"", [encode_region(name, field, sample[name]) for name, field in fields.items()])
    shard.finish()
    shard.file.close()
    assert path.stat().st_size < MIN_PAGE_SIZE


# Targets: what is done with case n. Each raises AssertionError where something is wrong


class Case:
    """The folder of undamaged files, a file name for a damaged one, and the numbers to draw from."""

    def __init__(self, folder: Path, target: str, number: int) -> None:
        self.folder = folder
        self.random = generator(target, number)
        self.file = folder / "work" / target
        self.file.parent.mkdir(exist_ok=True)

    def seed(self, pattern: str) -> Path:
        """One of the undamaged files."""
        found = sorted(self.folder.glob(pattern))
        return found[self.random.integers(len(found))]

    def write(self, data: bytes, suffix: str) -> Path:
        """The damaged file. A new one each time: the old one may still be mapped."""
        path = self.file.with_suffix(suffix)
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        return path


def says(error: Exception, path: Path) -> None:
    """The one line of an error names the file."""
    assert str(path) in str(error) or "cifar, data_batch_1" in str(error), f"no file is named: {error}"
    assert "\n" not in str(error)


def check_members(members: list[Any], size: int) -> None:
    """Files of a tar follow each other inside it."""
    at = 0
    for member in members:
        name, offset, length = member
        if isinstance(member, BrokenLink):  # a flipped type
            continue
        assert isinstance(name, str)
        assert at + BLOCK <= offset <= offset + length <= size
        at = offset + length


def tar_scan(case: Case) -> None:
    seed = case.seed("*.tar")
    damage = repeated(case.random, seed.read_bytes(), forged_tar)
    path = case.write(damage.data, ".tar")
    whole = len(list(scan_tar(MappedFile(seed))))
    for scan in (lambda: scan_tar(MappedFile(path)), lambda: scan_archive(ArchiveFile(path))):
        try:
            members = list(scan())  # type: ignore[no-untyped-call]
        except (ShardError, UserError) as error:
            says(error, path)
            continue
        check_members(members, len(damage.data))
        if damage.kind in ("flip", "cut", "zeros") and len(members) < whole:
            # Zeros over the last files look like an end that comes sooner.
            end = members[-1].offset + members[-1].size if members else 0
            assert damage.kind == "zeros", f"{damage.kind}: {len(members)} of {whole} files, and no error"
            assert not any(damage.data[end:]), f"{len(members)} of {whole} files, and no error"


def tar_open(case: Case) -> None:
    path = case.write(repeated(case.random, case.seed("*.tar").read_bytes(), forged_tar).data, ".tar")
    read_all(path)


def read_all(path: Path) -> None:
    """Open a set, read every sample without its checksum; each may fail for itself."""
    with open_shards(path) as shards:
        for i in range(len(shards)):
            try:
                sample = shards.read(i)
            except ShardError as error:
                says(error, Path(path.name if path.is_file() else "shard-00000"))
                continue
            assert sample.keys() == {"__key__", *shards.fields}
        for name in shards.fields:
            bad = shards.unreadable(name)
            shards.spans(name, np.setdiff1d(np.arange(len(shards)), bad))
            for i in bad.tolist():
                with pytest.raises(ShardError):
                    shards.read(i, [name])


def beton(case: Case) -> None:
    path = case.write(damaged(case.random, (case.folder / "own.beton").read_bytes()).data, ".beton")
    mapped = MappedFile(path)
    found = read_beton(mapped)
    index_beton(mapped, found, CURRENT, 0)
    read_all(path)


ODD_VALUES = (0, 1, -1, 7, 255, 256, 1 << 15, 1 << 24, (1 << 31) - 1, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63))


def forged_index(random: np.random.Generator, data: bytes) -> Damage:
    """An index with odd numbers in some places."""
    index = np.load(io.BytesIO(data))
    names = [name for name in index.dtype.names if name != "key"]
    for _ in range(random.integers(1, 4)):
        column = index[names[random.integers(len(names))]]
        wrapped = ODD_VALUES[random.integers(len(ODD_VALUES))] & ((1 << 8 * column.itemsize) - 1)
        column[random.integers(len(column))] = np.frombuffer(wrapped.to_bytes(column.itemsize, "little"), column.dtype)[
            0
        ]
    return Damage("forged", data[: len(data) - index.nbytes] + index.tobytes())


ORIGINALS: dict[Path, list[dict[str, Any]]] = {}


def checked_set(case: Case) -> None:
    """Any file of a set with a manifest: what is read is right, or something says that it is not."""
    check_damaged(case, case.folder)


def checked_set_1(case: Case) -> None:
    """Likewise of version 1."""
    check_damaged(case, case.folder / "version1")


def check_damaged(case: Case, sets: Path) -> None:
    source = sets / ("webdataset", "ffcv")[case.random.integers(4) // 3]
    copy = case.file.with_suffix(f".{source.name}")
    if copy not in ORIGINALS:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(source, copy)
        with open_shards(source, check=True) as shards:
            ORIGINALS[copy] = [shards.read(i) for i in range(len(shards))]
    names = sorted(path.name for path in source.iterdir())
    name = names[case.random.integers(len(names))]
    forge = forged_index if name.endswith(".npy") else damaged
    damage = repeated(case.random, (source / name).read_bytes(), forge)
    changed = damage.data != (source / name).read_bytes()
    target = copy / name
    target.unlink()  # a mapped file must not shrink
    target.write_bytes(damage.data)
    try:
        silent = read_checked(copy, ORIGINALS[copy])
        with suppress(ShardError):
            read_all(copy)
        report = verify(copy, workers=1)
        if name != "manifest.json":
            assert report.ok == (not changed), f"{name}, {damage.kind}: verify says {report}"
        assert not silent, f"{name}, {damage.kind}: {silent} differs, and nothing says so"
    finally:
        target.unlink()
        shutil.copy(source / name, target)


def read_checked(path: Path, originals: list[dict[str, Any]]) -> str:
    """The first value that is read with its checksum and still differs from the original."""
    try:
        shards = open_shards(path, check=True)
    except ShardError:
        return ""
    with shards:
        if len(shards) != len(originals):
            return "the number of samples"
        for i, original in enumerate(originals):
            try:
                sample = shards.read(i)
            except ShardError:
                continue
            for name, value in original.items():
                same = np.array_equal(sample[name], value) if isinstance(value, np.ndarray) else sample[name] == value
                if not same:
                    return f"{name} of sample {i}"
    return ""


def forged_npy(random: np.random.Generator, data: bytes) -> Damage:
    """A header with other words in it, its length mended."""
    words = [
        b"(",
        b")",
        b"{",
        b"[",
        b"'",
        b"True",
        b"-",
        b"1e9",
        b"999999999999",
        b"0x",
        b"_",
        b"None",
        b"O",
        b",",
        b"#",
    ]
    length = int.from_bytes(data[8:10], "little")
    text = bytearray(data[10 : 10 + length])
    for _ in range(random.integers(1, 4)):
        at = int(random.integers(len(text)))
        word = words[random.integers(len(words))] * int(random.choice([1, 1, 2, 300]))
        text[at : at + int(random.integers(3))] = word
    header = data[:8] + min(len(text), 0xFFFF).to_bytes(2, "little") + bytes(text)
    return Damage("forged", header + data[10 + length :])


def npy(case: Case) -> None:
    damage = repeated(case.random, case.seed("arrays/*.npy").read_bytes(), forged_npy)
    data = np.frombuffer(damage.data, np.uint8)
    for parse in (lambda: parse_npy_header(damage.data), lambda: parse_npy(data)):
        try:
            found = parse()  # type: ignore[no-untyped-call]
        except ValueError:
            continue
        if isinstance(found, np.ndarray):
            assert found.nbytes < len(damage.data)


def forged_image(random: np.random.Generator, data: bytes) -> Damage:
    """A JPEG with a segment's length or content changed, a PNG with a chunk changed and its checksum mended."""
    changed = bytearray(data)
    if data[:4] == b"\x89PNG":
        at = 8
        for _ in range(random.integers(4)):
            following = at + 12 + int.from_bytes(data[at : at + 4], "big")
            at = following if following + 12 <= len(data) else 8
        length = int.from_bytes(data[at : at + 4], "big")
        for _ in range(random.integers(1, 4)):
            changed[at + 4 + int(random.integers(length + 4))] = int(random.integers(256))
        stop = at + 8 + length
        changed[stop : stop + 4] = zlib.crc32(changed[at + 4 : stop]).to_bytes(4, "big")
    else:
        markers = [at for at in range(len(data) - 4) if data[at] == 0xFF and 0xC0 <= data[at + 1] < 0xFF] or [0]
        at = markers[random.integers(len(markers))]
        changed[min(at + 1 + int(random.integers(20)), len(data) - 1)] = int(random.integers(256))
    return Damage("forged", bytes(changed))


def image(case: Case) -> None:
    seed = case.seed("images/*")
    whole = seed.read_bytes()
    damage = repeated(case.random, whole, forged_image)
    data = damage.data
    results = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, on odd metadata
        for function in (image_header, check_whole, lambda data: decode_rgb(data, 40), decode_rgb):
            try:
                results.append(function(data))  # type: ignore[no-untyped-call]
            except ValueError:
                results.append(None)
    if results[3] is not None:
        assert results[3].width * results[3].height <= MAX_PIXELS
    sound = looks_whole(data)
    if sound and data != whole:
        assert damage.kind != "cut", "cut, and its structure is called whole"
        if seed.suffix == ".png":
            assert damage.kind == "forged"
        assert results[0] is not None


OPCODES = [opcode for opcode in range(256) if opcode in pickle._Unpickler.dispatch]
ARGUMENTS = (
    b"", b"\0", b"\1", b"\xff", b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\0\0\0\0\0\0\0\1", b"os\nsystem\n",
    b"builtins\neval\n", b"numpy\nndarray\n", b"numpy.core.multiarray\n_reconstruct\n", b"numpy\ndtype\n",
    b"_codecs\nencode\n", b"5\n", b"99999999999999\n", b"'a'\n", b"\4data", b"\6labels", b"\2u1", b"latin1\n",
)  # fmt: skip


def forged_pickle(random: np.random.Generator, data: bytes) -> Damage:
    """A few to some hundred random opcodes with arguments that some of them understand, alone or inside a batch."""
    soup = bytearray()
    for _ in range(int(2 ** random.uniform(1, 9))):
        soup.append(OPCODES[random.integers(len(OPCODES))])
        soup += ARGUMENTS[random.integers(len(ARGUMENTS))]
    if random.integers(2):
        at = int(random.integers(len(data)))
        return Damage("forged", data[:at] + bytes(soup) + data[at:])
    return Damage("forged", b"\x80\2" + bytes(soup) + b".")


def unpickle(case: Case) -> None:
    damage = repeated(case.random, case.seed("*.pickle").read_bytes(), forged_pickle)
    pixels, labels = parse_batch(Path("cifar"), "data_batch_1", damage.data, False)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (len(labels), 3072)
    assert pixels.nbytes <= len(damage.data)


TARGETS: dict[str, tuple[Callable[[Case], None], int]] = {
    "tar_scan": (tar_scan, 2000),
    "tar_open": (tar_open, 1200),
    "beton": (beton, 1600),
    "checked_set": (checked_set, 700),
    "checked_set_1": (checked_set_1, 200),
    "npy": (npy, 2500),
    "image": (image, 2300),
    "unpickle": (unpickle, 2500),
}
DOCUMENTED = (ShardError, UserError, BadSample)


def run_case(folder: Path, target: str, number: int) -> None:
    """One case; any other exception than the documented ones is a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            TARGETS[target][0](Case(folder, target, number))
        except DOCUMENTED as error:
            says(error, folder)


def main(folder: Path, target: str, first: int, count: int) -> int:
    """Run cases with a limit on memory; the number of the last one is always on disk, for the one that crashes."""
    with open("/proc/self/statm", encoding="utf-8") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    note = os.open(folder / f"{target}.number", os.O_WRONLY | os.O_CREAT)
    failures = 0
    for number in range(first, first + count):
        os.pwrite(note, b"%d\n" % number, 0)
        try:
            run_case(folder, target, number)
        except Exception as error:
            failures += 1
            print(f"{target} {number}: {type(error).__name__}: {str(error)[:300]}", flush=True)
            if count == 1:
                raise
    return failures


def test_there_are_ten_thousand_cases() -> None:
    assert sum(count for _, count in TARGETS.values()) >= 10_000


@pytest.mark.parametrize("target", TARGETS)
def test_damage(seeds: Path, target: str) -> None:
    if sys.platform != "linux":
        pytest.skip("needs Linux: a limit on memory")  # this file is also a program, without tests.conftest
    start = time.perf_counter()
    command = [sys.executable, __file__, str(seeds), target]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=SECONDS, env=environment)
    except subprocess.TimeoutExpired:
        pytest.fail(
            f"{target} {(seeds / f'{target}.number').read_text(encoding='utf-8').strip()} hangs; files in {seeds}"
        )
    last = (seeds / f"{target}.number").read_text(encoding="utf-8").splitlines()[0]
    print(f"{target}: {time.perf_counter() - start:.1f} s")
    assert done.returncode == 0, f"{done.stdout[-3000:]}{done.stderr[-2000:]}\nlast: {target} {last}; files in {seeds}"


# Hostile pickles, written by hand

SYSTEM = b"cos\nsystem\n(S'touch hacked'\ntR."
BOMBS = {
    "os.system": SYSTEM,
    "builtins.eval": b"\x80\x02cbuiltins\neval\nU\x0d__import__('os')\x85R."[:20] + b".",
    "nested eval": b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x031+1\x85R.",
    "numpy.ndarray by another name": b"\x80\x04\x8c\x05numpy\x8c\x08fromfile\x93\x8c\x0b/etc/passwd\x85R.",
    "memo of 32 GB": b"\x80\x02]r\xff\xff\xff\xff.",
    "text of 4 GB": b"\x80\x02X\xff\xff\xff\xff.",
    "bytes of an exabyte": b"\x80\x04\x8e\0\0\0\0\0\0\0\x10.",
    "frame of an exabyte": b"\x80\x04\x95\0\0\0\0\0\0\0\x10.",
    "a hash that takes forever": b"\x80\x02}(" + b")" + b"2\x86" * 60 + b"K\1u.",
    "marks without end": b"\x80\x02" + b"(" * 30_000_000,
    "the same text again and again": b"\x80\x02X\0\0\x20\0" + b"a" * (2 << 20) + b"q\0]q\1"
    + b"c_codecs\nencode\nq\2" + b"0h\1h\2h\0X\6\0\0\0latin1\x86Ra0" * 40_000 + b".",
    "a state for a function": b"\x80\x02c_codecs\nencode\n}U\x0c__defaults__)sb.",
    "deep": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
}  # fmt: skip


def test_hostile_pickles(seeds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, in a process with 2 GiB beside its libraries, within seconds, and without any effect."""
    if sys.platform != "linux":
        pytest.skip("needs Linux: a limit on memory")  # this file is also a program, without tests.conftest
    for number, content in enumerate(BOMBS.values()):
        (tmp_path / str(number)).write_bytes(content)
    program = f"""
import resource, sys, time
from pathlib import Path
from headrace.tools.errors import UserError
from headrace.tools.sources.cifar10 import parse_batch
mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + {MEMORY}, mapped + {MEMORY}))
for number in range({len(BOMBS)}):
    try:
        parse_batch(Path("cifar"), "data_batch_1", Path(str(number)).read_bytes(), False)
    except UserError as error:
        print(error)
    else:
        print(number, "was read")
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        env=environment,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert len(lines) == len(BOMBS)
    for (name, _), line in zip(BOMBS.items(), lines, strict=True):
        assert line.startswith("cifar, data_batch_1: not a batch of CIFAR-10 ("), f"{name}: {line}"
    assert "refused to load os.system" in lines[0]
    assert not (tmp_path / "hacked").exists()


if __name__ == "__main__":
    arguments = sys.argv[1:]
    first = int(arguments[2]) if len(arguments) > 2 else 0
    sys.exit(main(Path(arguments[0]), arguments[1], first, 1 if len(arguments) > 2 else TARGETS[arguments[1]][1]) > 0)
