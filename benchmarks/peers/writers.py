"""Ways to turn photographs into shards, each over and over: a batch is one whole conversion.

Every one writes to `out`, in place of what it wrote the time before.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

from headrace.benchmarks.forms import CLASSES, write_beton
from headrace.tools.conversion.encode import Encode
from headrace.tools.conversion.pool import keep_freed_memory


def headrace_convert(
    folder: Path,
    photographs: int,
    format: Literal["webdataset", "ffcv"],
    encode: Encode,
    quality: int,
    threads: int,
    shard_size: int,
    out: Path,
    quick: bool = False,
) -> Iterator[range]:
    """`headrace shard folder`: looks at or decodes every image, checksums and syncs what it writes."""
    from headrace.tools.conversion.convert import convert

    while True:
        result = convert(
            "folder",
            folder,
            out,
            format=format,
            encode=encode,
            quality=quality,
            quick=quick,
            shard_size=shard_size,
            workers=threads,
        )
        assert result.samples == photographs
        yield range(photographs)


def gnu_tar(folder: Path, photographs: int, out: Path, checksums: bool = False) -> Iterator[range]:
    """`tar` of the folder into a new file: no index, no check of the images; synced as Headrace's files are.

    With `checksums`, `sha256sum` of every file besides, one after the other as scripts do it.
    """
    out.mkdir()
    archive, sums = out / "photographs.tar", out / "sha256"
    while True:
        archive.unlink(missing_ok=True)
        # The photographs may be hard links to each other, of which tar would keep one.
        create = ["tar", "--create", "--format=ustar", "--hard-dereference"]
        subprocess.run([*create, "-f", archive, "-C", folder, "."], check=True)
        sync(archive)
        if checksums:
            each = "find . -type f -print0 | xargs -0 sha256sum"
            with sums.open("wb") as file:
                subprocess.run(each, shell=True, cwd=folder, stdout=file, check=True)
            sync(sums)
        yield range(photographs)


def webdataset_writer(photographs: Sequence[Path], out: Path) -> Iterator[range]:
    """webdataset's ShardWriter, bytes kept, in one process; synced as Headrace's files are."""
    import webdataset as wds

    out.mkdir()
    while True:
        with wds.ShardWriter(str(out / "%06d.tar"), maxsize=256 << 20, verbose=0) as writer:
            for number, path in enumerate(photographs):
                writer.write({"__key__": f"{number:06d}", "jpg": path.read_bytes(), "cls": number % CLASSES})
        for archive in out.iterdir():
            sync(archive)
        yield range(len(photographs))


def ffcv_writer(source: Sequence[Path] | Path, photographs: int, raw: bool, workers: int, out: Path) -> Iterator[range]:
    """ffcv's DatasetWriter; it takes pixels, so JPEGs are decoded and encoded again. For `source` see `write_beton`."""
    out.mkdir()
    beton = out / "photographs.beton"
    while True:
        beton.unlink(missing_ok=True)
        write_beton(beton, source, raw, workers)
        sync(beton)
        yield range(photographs)


def through_pixels(photographs: Sequence[Path], workers: int, quality: int) -> Iterator[range]:
    """Decoding and encoding again with simplejpeg in as many processes, and nothing else: what a writer that goes from
    JPEG to JPEG through pixels can reach at most."""
    with ProcessPoolExecutor(workers) as pool:
        while True:
            for _ in pool.map(partial(encode_again, quality=quality), photographs, chunksize=16):
                pass
            yield range(len(photographs))


def encode_again(photograph: Path, quality: int) -> None:
    """One photograph, with the settings of `headrace shard`; the result is thrown away."""
    import simplejpeg

    pixels = simplejpeg.decode_jpeg(photograph.read_bytes(), "RGB", strict=True)
    simplejpeg.encode_jpeg(pixels, quality, "RGB", "420", fastdct=False)


def pixels_only(photographs: Sequence[Path], workers: int, out: Path) -> Iterator[range]:
    """Decoding with Headrace's decoder and writing the pixels, one after the other, to a file for each of as many
    processes, synced; nothing else: what no writer of pixels gets around."""
    out.mkdir()
    slices = [(photographs[first::workers], out / str(first)) for first in range(workers)]
    with ProcessPoolExecutor(workers) as pool:
        while True:
            for _, file in slices:
                file.unlink(missing_ok=True)
            for _ in pool.map(write_pixels, *zip(*slices, strict=True)):
                pass
            yield range(len(photographs))


def write_pixels(photographs: Sequence[Path], out: Path) -> None:
    """Some photographs' pixels to a new file."""
    from headrace.pipeline.jpeg import decode_whole
    from headrace.shards.formats.images import image_header

    keep_freed_memory()
    with out.open("wb", buffering=0) as file:
        for photograph in photographs:
            data = photograph.read_bytes()
            header = image_header(data)
            pixels = decode_whole(data, header.height, header.width)
            assert pixels is not None
            file.write(pixels.data)
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Waits until the file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
