"""Each version has the functions that its documentation names, by vectors from outside."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from headrace.shards.checksums import CHECKSUMS, CURRENT, VERSION


def sanity_buffer(size: int) -> bytes:
    """The bytes over which xxHash's own tests/sanity_test.c works."""
    content, state = bytearray(), 2654435761
    for _ in range(size):
        content.append(state >> 56)
        state = state * 11400714785074694797 % (1 << 64)
    return bytes(content)


XXH3 = {
    0: (0x2D06800538D394C2, "99aa06d3014798d86001c324468d497f"),
    1: (0xC44BDFF4074EECDB, "a6cd5e9392000f6ac44bdff4074eecdb"),
    12: (0xA713DAF0DFBB77E7, "6e3efd8fc7802b18061a192713f69ad9"),
    195: (0xCD94217EE362EC3A, "7729543a26b207ee3fb593c086a66075"),
    2048: (0xDD59E2C3A5F038E0, "f736557fd47073a5dd59e2c3a5f038e0"),
}
"""XXH3-64 and XXH3-128 with seed 0 from that file, by length; the latter in canonical form, the high half first."""

ABC = ("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", 0x352441C2)
"""SHA-256 (FIPS 180-4) and CRC-32 of b"abc"."""


@pytest.mark.parametrize("size", XXH3)
def test_version_2_has_xxh3(size: int) -> None:
    content = sanity_buffer(size)
    assert (CURRENT.of_payload(content), CURRENT.of_file(content)) == XXH3[size]
    assert (CURRENT.payload, CURRENT.file, VERSION) == ("xxh64", "xxh128", 2)


def test_version_1_has_sha256_and_crc32() -> None:
    first = CHECKSUMS[1]
    assert (first.of_file(b"abc"), first.of_payload(b"abc")) == ABC
    assert (first.payload, first.file) == ("crc32", "sha256")


@pytest.mark.parametrize("version", CHECKSUMS)
def test_what_the_index_and_the_manifest_store(version: int, tmp_path: Path) -> None:
    """Type and number of digits are those of the function; parts, maps and views give what bytes give."""
    checksums = CHECKSUMS[version]
    content = sanity_buffer(5000)
    assert checksums.digits == len(checksums.of_file(content)) == len(checksums.of_file(b""))
    assert 8 * np.dtype(checksums.payload_type).itemsize >= checksums.of_payload(content).bit_length() > 24
    pieces = checksums.start()
    for at in range(0, len(content), 300):
        pieces.update(content[at : at + 300])
    assert pieces.hexdigest() == checksums.of_file(content)
    assert checksums.of_payload(np.frombuffer(content, np.uint8)[7:4000].data) == checksums.of_payload(content[7:4000])
    path = tmp_path / "file"
    path.write_bytes(content)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert checksums.of_file(mapped) == checksums.of_file(content)
