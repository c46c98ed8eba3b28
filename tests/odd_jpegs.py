"""JPEGs of kinds that Pillow does not write: any sampling, sequential, with or without restart markers."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from headrace.pipeline.jpeg.whole import canonical_codes

Sampling = tuple[tuple[int, int], ...]
"""Horizontal and vertical factors of each component."""
SAMPLINGS: dict[str, Sampling] = {
    "3x1": ((3, 1), (1, 1), (1, 1)),
    "4x2": ((4, 2), (1, 1), (1, 1)),
    "4x1,2x1,2x1": ((4, 1), (2, 1), (2, 1)),
    "1x2": ((1, 2), (1, 1), (1, 1)),
    "2x2,2x1,1x2": ((2, 2), (2, 1), (1, 2)),
    "1x1,2x2,2x2": ((1, 1), (2, 2), (2, 2)),
}
"""Those of libjpeg's `cjpeg -sample` that not every program reads, and one or two that hardly any writes."""


def segments(jpeg: bytes, marker: int) -> list[bytes]:
    """The bodies of a JPEG's segments of one kind, before the first scan."""
    found, at = [], 2
    while jpeg[at + 1] != 0xDA:
        size = int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if jpeg[at + 1] == marker:
            found.append(jpeg[at + 4 : at + 2 + size])
        at += 2 + size
    return found


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body


def codes_of(tables: list[bytes]) -> dict[int, dict[int, tuple[int, int]]]:
    """Class and number of a Huffman table to symbol to code and length."""
    found = {}
    for body in tables:
        while body:
            symbols = body[17 : 17 + sum(body[1:17])]
            found[body[0]] = dict(zip(symbols, canonical_codes(body[1:17]), strict=True))
            body = body[17 + len(symbols) :]
    return found


def sampled_jpeg(pixels: np.ndarray, sampling: Sampling, restart: int = 0) -> bytes:
    """A sequential JPEG of uint8 (H, W, 3), standard tables of quality 75, chroma and luma averaged as far as they are
    sampled; a restart marker every `restart` MCUs."""
    height, width = pixels.shape[:2]
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "JPEG", quality=75)
    model = stream.getvalue()
    steps = {body[0] & 15: np.frombuffer(body[1:65], np.uint8) for body in segments(model, 0xDB)}
    codes = codes_of(segments(model, 0xC4))
    across, down = (max(factor[axis] for factor in sampling) for axis in (0, 1))
    rows, columns = -(-height // (8 * down)), -(-width // (8 * across))
    padded = np.pad(pixels, ((0, rows * 8 * down - height), (0, columns * 8 * across - width), (0, 0)), mode="edge")
    planes = np.asarray(Image.fromarray(padded).convert("YCbCr")).astype(float).transpose(2, 0, 1)
    coefficients = []
    for plane, (h, v), number in zip(planes, sampling, (0, 1, 1), strict=True):
        y, x = down // v, across // h
        small = plane.reshape(plane.shape[0] // y, y, plane.shape[1] // x, x).mean((1, 3)) - 128
        coefficients.append(quantized(small, steps[number]))
    scan = b"".join(entropy(coefficients, sampling, (rows, columns), codes, restart))
    frame = b"\x08" + height.to_bytes(2, "big") + width.to_bytes(2, "big") + b"\x03"
    frame += b"".join(bytes([c + 1, h << 4 | v, min(c, 1)]) for c, (h, v) in enumerate(sampling))
    head = b"".join(segment(0xDB, body) for body in segments(model, 0xDB)) + segment(0xC0, frame)
    head += b"".join(segment(0xC4, body) for body in segments(model, 0xC4))
    head += segment(0xDD, restart.to_bytes(2, "big")) * (restart > 0)
    jfif = segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")
    return b"\xff\xd8" + jfif + head + segment(0xDA, b"\3\1\0\2\x11\3\x11\0\x3f\0") + scan + b"\xff\xd9"


def quantized(plane: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """int (rows of blocks, columns of blocks, 64) in the file's order."""
    k, n = np.arange(8)[:, None], np.arange(8)[None]
    basis = np.where(k == 0, np.sqrt(1 / 8), 0.5) * np.cos((2 * n + 1) * k * np.pi / 16)
    blocks = plane.reshape(plane.shape[0] // 8, 8, plane.shape[1] // 8, 8).transpose(0, 2, 1, 3)
    order = sorted(range(64), key=lambda i: (i // 8 + i % 8, (i // 8 if (i // 8 + i % 8) % 2 else i % 8)))
    levels = (basis @ blocks @ basis.T).reshape(*blocks.shape[:2], 64)[..., order]
    return np.rint(levels / steps).astype(int)


def entropy(
    coefficients: list[np.ndarray],
    sampling: Sampling,
    mcus: tuple[int, int],
    codes: dict[int, dict[int, tuple[int, int]]],
    restart: int,
) -> Iterator[bytes]:
    """The scan, restart interval after restart interval (F.1.2 of T.81)."""
    bits: list[str] = []
    before = [0, 0, 0]
    for mcu in range(mcus[0] * mcus[1]):
        if restart and mcu and mcu % restart == 0:
            yield stuffed("".join(bits)) + bytes([0xFF, 0xD0 + (mcu // restart - 1) % 8])
            bits, before = [], [0, 0, 0]
        row, column = divmod(mcu, mcus[1])
        for c, (h, v) in enumerate(sampling):
            for y in range(v):
                for x in range(h):
                    block = coefficients[c][row * v + y, column * h + x]
                    bits += block_bits(block, before[c], codes[min(c, 1)], codes[0x10 | min(c, 1)])
                    before[c] = int(block[0])
    yield stuffed("".join(bits))


def block_bits(
    block: np.ndarray, before: int, dc: dict[int, tuple[int, int]], ac: dict[int, tuple[int, int]]
) -> Iterator[str]:
    def coded(table: dict[int, tuple[int, int]], run: int, value: int) -> str:
        size = abs(value).bit_length()
        code, length = table[run << 4 | size]
        raw = value if value > 0 else value + (1 << size) - 1
        return format(code, f"0{length}b") + (format(raw, f"0{size}b") if size else "")

    yield coded(dc, 0, int(block[0]) - before)
    last = 0
    for k in np.flatnonzero(block[1:]).tolist():
        for _ in range((k - last) // 16):
            yield coded(ac, 15, 0)
        yield coded(ac, (k - last) % 16, int(block[k + 1]))
        last = k + 1
    if last < 63:
        yield coded(ac, 0, 0)


def stuffed(bits: str) -> bytes:
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
