"""Photographs a second from JPEG files to shards: Headrace beside GNU tar, webdataset's writer and ffcv's.

    python -m headrace.benchmarks.shard [--works tar beton ...] [--photos N] [--rounds R] [--seconds S] [--smoke]
                                        [--images FOLDER] [--json FILE] [--out DIR]

All read the same files from the page cache and sync what they write. They do not do the same: Headrace's conversion
decodes every image to see that it can be decoded and checksums the shards, ffcv's writer has to encode JPEGs again;
each row's note says so.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from headrace.benchmarks import command
from headrace.benchmarks.command import Options
from headrace.benchmarks.forms import read_through
from headrace.benchmarks.peers.writers import (
    ffcv_writer,
    gnu_tar,
    headrace_convert,
    headrace_write,
    webdataset_writer,
)
from headrace.benchmarks.runner import Comparison, Contestant, compare

WORKS = {
    "tar": "JPEG files to tars, bytes kept",
    "beton": "JPEG files to a .beton of JPEGs",
    "raw": "JPEG files to a .beton of pixels",
}
FFCV = {"ffcv": "pip install ffcv"}


def contestants(work: str, options: Options, out: Path) -> list[Contestant]:
    """Everybody who can do `work`, each with a folder of its own in `out`."""
    forms, threads = options.forms, options.threads
    count = len(forms.photographs)
    encode = "raw" if work == "raw" else "keep"
    format = "webdataset" if work == "tar" else "ffcv"
    found = [
        Contestant(
            name="Headrace",
            batches=headrace_convert,
            arguments={
                "folder": forms.folder(),
                "photographs": count,
                "format": format,
                "encode": encode,
                "threads": threads,
                "out": out / "convert",
            },
            note="`headrace shard folder`: decodes every image to check it; index, checksums",
        ),
        Contestant(
            name="Headrace, unchecked",
            batches=headrace_write,
            arguments={"forms": forms, "format": format, "raw": work == "raw", "out": out / "write"},
            note="`write_shards` alone, one thread: does not look into JPEGs; index, checksums",
        ),
    ]
    if work == "tar":
        if shutil.which("tar"):
            found.append(
                Contestant(
                    name="GNU tar",
                    batches=gnu_tar,
                    arguments={"folder": forms.folder(), "photographs": count, "out": out / "tar"},
                    note="one tar of the folder: no labels, no index, no checksum, nothing decoded",
                )
            )
        found.append(
            Contestant(
                name="webdataset",
                batches=webdataset_writer,
                arguments={"photographs": forms.photographs, "out": out / "webdataset"},
                requires={"webdataset": "pip install webdataset"},
                note="ShardWriter in one process: no index, no checksum, nothing decoded",
            )
        )
    else:
        arguments = {"photographs": forms.photographs, "raw": work == "raw", "workers": threads, "out": out / "ffcv"}
        note = "DatasetWriter: decodes" if work == "raw" else "DatasetWriter: decodes, and encodes again"
        found.append(Contestant(name="ffcv", batches=ffcv_writer, arguments=arguments, requires=FFCV, note=note))
    return found


def measure(options: Options) -> list[Comparison]:
    found = []
    for name in options.works:
        options.progress(f"{name}: preparing files", 0, 1)
        options.forms.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".shard-", dir=options.forms.root) as out:
            entered = contestants(name, options, Path(out))
            for photograph in options.forms.photographs:
                read_through(photograph)
            found.append(
                compare(
                    name,
                    WORKS[name],
                    entered,
                    reference="Headrace",
                    rounds=options.rounds,
                    seconds=options.seconds,
                    cores=options.cores,
                    group=1,
                    warm_up_s=0.1,
                    unit="photographs/s",
                    progress=options.progress,
                )
            )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    return command.run(
        "shard",
        "Photographs a second from JPEG files to shards, beside GNU tar, webdataset and ffcv.",
        list(WORKS),
        measure,
        arguments=arguments,
        default_works=list(WORKS),
        photographs=1024,
        batch_size=64,
        seconds=4.0,
    )


if __name__ == "__main__":
    sys.exit(main())
