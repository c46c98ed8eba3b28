"""Photographs a second from JPEG files to shards, and out of them again: Headrace beside GNU tar, webdataset, ffcv.

    python -m headrace.benchmarks.shard [--works tar beton ...] [--photos N] [--rounds R] [--seconds S] [--smoke]
                                        [--images FOLDER] [--json FILE] [--out DIR]

All who write read the same files from the page cache, in a folder of their own on the same disk, replace what they
wrote the time before, and sync what they write. Each row's note says what it does besides: Headrace looks at every
image's structure, and makes an index and checksums; ffcv's writer takes pixels, so that it has to encode JPEGs again.
It has two rows: fed as its documentation does it, by torchvision's ImageFolder, and by the decoder that Headrace uses.
Where the disk decides, "in memory" shows the writers alone. The limit of pixels does nothing but decode, as fast as
Headrace can, and write, in as many processes: where it is below a target, nobody reaches the target.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from headrace.benchmarks import command
from headrace.benchmarks.command import Options
from headrace.benchmarks.forms import read_through
from headrace.benchmarks.peers.readers import ffcv_read, headrace_read
from headrace.benchmarks.peers.writers import (
    ffcv_writer,
    gnu_tar,
    headrace_convert,
    pixels_only,
    through_pixels,
    webdataset_writer,
)
from headrace.benchmarks.photographs import QUALITY
from headrace.benchmarks.runner import Comparison, Contestant, compare
from headrace.shards.formats.ffcv import MIN_SHARD_SIZE
from headrace.tools.conversion.encode import Encode

TAR, TAR_SUMS, FFCV = "GNU tar", "GNU tar, sha256sum", "ffcv"


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every contestant has to write."""

    title: str
    format: Literal["webdataset", "ffcv"]
    encode: Encode
    times: int = 1
    """Each photograph comes so often: a fast writer needs more of them, or what it does once is all that is seen."""
    memory: bool = False
    """Written to a file system in memory."""
    targets: Mapping[str, float] = field(default_factory=dict)
    """Contestant -> how many times its rate Headrace is to have."""


WORKS = {
    "tar": Work(
        title="JPEG files to tars, bytes kept",
        format="webdataset",
        encode="keep",
        times=8,
        targets={TAR: 0.8, TAR_SUMS: 0.8},
    ),
    "beton": Work(
        title="JPEG files to .beton files of JPEGs, bytes kept",
        format="ffcv",
        encode="keep",
        times=2,
        targets={FFCV: 2.0},
    ),
    "jpeg": Work(
        title="JPEG files to .beton files of JPEGs, all encoded anew",
        format="ffcv",
        encode="jpeg",
        times=2,
        targets={FFCV: 2.0},
    ),
    "raw": Work(title="JPEG files to .beton files of pixels", format="ffcv", encode="raw", targets={FFCV: 2.0}),
    "raw-memory": Work(
        title="JPEG files to .beton files of pixels, in memory",
        format="ffcv",
        encode="raw",
        times=2,
        memory=True,
        targets={FFCV: 2.0},
    ),
}
PIXELS = 7.2
"""Bytes of pixels for each byte of the photographs' JPEG files, about."""
SHARDS_EACH = 2
"""Shards that each worker of Headrace makes."""
ROOM = 1.3
"""Bytes that a shard may have over those of its images: the tenth that `headrace shard` leaves free, and pages."""
READ = "read"
READ_TITLE = "Single photographs at random, their bytes copied out of shards"
NEEDS_FFCV = {"ffcv": "pip install ffcv"}
MEMORY = Path("/dev/shm")


def contestants(work: Work, options: Options, out: Path) -> list[Contestant]:
    """Everybody who can do `work`, each with a folder of its own in `out`."""
    forms, threads = options.forms, options.threads
    times = 1 if options.smoke else work.times
    photographs = times * len(forms.photographs)
    # So many shards that all workers end together. In a set of hundreds it does not matter whether they do.
    written = 1e6 * forms.megabytes * times * (PIXELS if work.encode == "raw" else 1)
    shard_size = max(MIN_SHARD_SIZE, int(ROOM * written / (SHARDS_EACH * threads)))
    looks = {
        "keep": "reads every code of every image to see that it is whole",
        "jpeg": "reads every coefficient and rounds it anew, without going through pixels",
        "raw": "decodes every image",
    }[work.encode]
    common = {
        "folder": forms.folder(times),
        "photographs": photographs,
        "format": work.format,
        "encode": work.encode,
        "quality": QUALITY,
        "threads": threads,
        "shard_size": shard_size,
    }
    found = [
        Contestant(
            name="Headrace",
            batches=headrace_convert,
            arguments={**common, "out": out / "convert"},
            note=f"`headrace shard folder`: {looks}; index, checksums",
        ),
    ]
    if work.encode == "keep":
        found.append(
            Contestant(
                name="Headrace, quick",
                batches=headrace_convert,
                arguments={**common, "quick": True, "out": out / "quick"},
                note="`headrace shard folder --quick`: looks at the end of every image; index, checksums",
            )
        )
    return [*found, *(tar_writers if work.format == "webdataset" else beton_writers)(work, options, times, out)]


def tar_writers(work: Work, options: Options, times: int, out: Path) -> list[Contestant]:
    """The peers that write tars."""
    forms = options.forms
    photographs = forms.photographs * times
    arguments = {"folder": forms.folder(times), "photographs": len(photographs)}
    tars = [
        Contestant(
            name=TAR,
            batches=gnu_tar,
            arguments={**arguments, "out": out / "tar"},
            note="one tar of the folder: no labels, no index, no checksum, no look into the files",
        ),
        Contestant(
            name=TAR_SUMS,
            batches=gnu_tar,
            arguments={**arguments, "out": out / "sums", "checksums": True},
            note="one tar of the folder, then a checksum of every file: no labels, no index, no look into the files",
        ),
    ]
    shard_writer = Contestant(
        name="webdataset",
        batches=webdataset_writer,
        arguments={"photographs": photographs, "out": out / "webdataset"},
        requires={"webdataset": "pip install webdataset"},
        note="ShardWriter in one process: no index, no checksum, no look into the files",
    )
    return [*(tars if shutil.which("tar") and shutil.which("sha256sum") else []), shard_writer]


def beton_writers(work: Work, options: Options, times: int, out: Path) -> list[Contestant]:
    """The real ffcv."""
    forms = options.forms
    arguments = {
        "photographs": times * len(forms.photographs),
        "raw": work.encode == "raw",
        "workers": options.threads,
    }
    common = {"photographs": forms.photographs * times, "workers": options.threads}
    does = "decodes" if work.encode == "raw" else "decodes, and encodes again"
    found = [
        Contestant(
            name=FFCV,
            batches=ffcv_writer,
            arguments={**arguments, "source": forms.folder(times), "out": out / "ffcv"},
            requires=NEEDS_FFCV,
            note=f"DatasetWriter of torchvision's ImageFolder, as in its documentation: {does}",
        ),
        Contestant(
            name="ffcv, simplejpeg",
            batches=ffcv_writer,
            arguments={**arguments, "source": forms.photographs * times, "out": out / "ffcv-simplejpeg"},
            requires=NEEDS_FFCV,
            note=f"DatasetWriter of a dataset that decodes with simplejpeg, as Headrace: {does}",
        ),
    ]
    if work.encode == "raw":
        found.append(
            Contestant(
                name="limit: decoding, writing",
                batches=pixels_only,
                arguments={**common, "out": out / "limit"},
                limit=True,
                note=f"decodes, as Headrace does, in {options.threads} processes and writes the pixels; nothing else",
            )
        )
    elif work.encode == "jpeg":
        found.append(
            Contestant(
                name="simplejpeg alone",
                batches=through_pixels,
                arguments={**common, "quality": QUALITY},
                note=f"{does} in {options.threads} processes and throws the result away: the most that is possible "
                "through pixels",
            )
        )
    return found


def readers(options: Options) -> list[Contestant]:
    """Everybody who reads single photographs at random."""
    forms, batch_size = options.forms, options.batch_size
    found = [
        Contestant(
            name=name,
            batches=headrace_read,
            arguments={"shards": shards, "batch_size": batch_size},
            note=note,
        )
        for name, shards, note in (
            ("Headrace", forms.shards(), "indexed webdataset tars"),
            ("Headrace, .beton", forms.beton_shards(), "its own .beton of JPEGs"),
        )
    ]
    contestant = Contestant(
        name=FFCV,
        batches=ffcv_read,
        requires=NEEDS_FFCV,
        note="its OSCacheManager on a .beton of JPEGs by its own writer",
    )
    if not contestant.lacks():
        arguments = {"beton": forms.beton(raw=False), "photographs": len(forms.photographs), "batch_size": batch_size}
        contestant = replace(contestant, arguments=arguments)
    return [*found, contestant]


def measure(options: Options) -> list[Comparison]:
    found = []
    for name in options.works:
        options.progress(f"{name}: preparing files", 0, 1)
        work = WORKS.get(name)
        options.forms.root.mkdir(parents=True, exist_ok=True)
        place = MEMORY if work is not None and work.memory else options.forms.root
        if not place.is_dir():
            continue  # no file system in memory
        with tempfile.TemporaryDirectory(prefix=".shard-", dir=place) as out:
            entered = readers(options) if work is None else contestants(work, options, Path(out))
            for photograph in options.forms.photographs:
                read_through(photograph)
            found.append(
                compare(
                    name,
                    READ_TITLE if work is None else work.title,
                    entered,
                    reference="Headrace",
                    rounds=options.rounds,
                    seconds=options.seconds,
                    cores=options.cores,
                    group=1,
                    warm_up_s=0.1,
                    unit="photographs/s",
                    targets={FFCV: 1.0} if work is None else work.targets,
                    progress=options.progress,
                    forked_from="headrace.benchmarks.shard" if options.smoke else None,
                )
            )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    works = [*WORKS, READ]
    return command.run(
        "shard",
        "Photographs a second from JPEG files to shards, beside GNU tar, webdataset and ffcv.",
        works,
        measure,
        arguments=arguments,
        default_works=works,
        photographs=1024,
        batch_size=64,
        rounds=5,
        seconds=4.0,
    )


if __name__ == "__main__":
    sys.exit(main())
