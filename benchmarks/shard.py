"""Photographs a second from JPEG files to shards, and out of them again: Headrace beside GNU tar, webdataset, ffcv.

    python -m headrace.benchmarks.shard [--works tar beton ...] [--photos N] [--rounds R] [--seconds S] [--smoke]
                                        [--images FOLDER] [--json FILE] [--out DIR]

All who write read the same files from the page cache, in a folder of their own on the same disk, and sync what they
write. Each row's note says what it does besides: Headrace looks at every image's structure, and makes an index and
checksums; ffcv's writer takes pixels, so that it has to encode JPEGs again.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from headrace.benchmarks import command
from headrace.benchmarks.command import Options
from headrace.benchmarks.forms import read_through
from headrace.benchmarks.peers.readers import ffcv_read, headrace_read
from headrace.benchmarks.peers.writers import ffcv_writer, gnu_tar, headrace_convert, webdataset_writer
from headrace.benchmarks.runner import Comparison, Contestant, compare

WORKS = {
    "tar": "JPEG files to tars, bytes kept",
    "beton": "JPEG files to .beton files of JPEGs",
    "jpeg": "JPEG files to .beton files of JPEGs, all encoded anew",
    "raw": "JPEG files to .beton files of pixels",
    "read": "Single photographs at random, their bytes copied out of shards",
}
FFCV = {"ffcv": "pip install ffcv"}


def contestants(work: str, options: Options, out: Path) -> list[Contestant]:
    """Everybody who can do `work`, each who writes with a folder of its own in `out`."""
    forms, threads = options.forms, options.threads
    if work == "read":
        return readers(options)
    encode = {"tar": "keep", "beton": "keep"}.get(work, work)
    format = "webdataset" if work == "tar" else "ffcv"
    # As many bytes of shards as it takes to keep every core busy with some.
    shard_size = max(1 << 20, int(forms.megabytes * 1e6 * (8 if work == "raw" else 1) / (2 * threads)))
    looks = "looks at every image's structure" if encode == "keep" else "decodes every image"
    common = {
        "folder": forms.folder(),
        "photographs": len(forms.photographs),
        "format": format,
        "encode": encode,
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
    if encode == "keep":
        found.append(
            Contestant(
                name="Headrace, strict",
                batches=headrace_convert,
                arguments={**common, "strict": True, "out": out / "strict"},
                note="`headrace shard folder --strict`: decodes every image to see that it can be; index, checksums",
            )
        )
    if work == "tar":
        if shutil.which("tar"):
            found.append(
                Contestant(
                    name="GNU tar",
                    batches=gnu_tar,
                    arguments={"folder": forms.folder(), "photographs": len(forms.photographs), "out": out / "tar"},
                    note="one tar of the folder: no labels, no index, no checksum, no look into the files",
                )
            )
        found.append(
            Contestant(
                name="webdataset",
                batches=webdataset_writer,
                arguments={"photographs": forms.photographs, "out": out / "webdataset"},
                requires={"webdataset": "pip install webdataset"},
                note="ShardWriter in one process: no index, no checksum, no look into the files",
            )
        )
    else:
        arguments = {"photographs": forms.photographs, "raw": work == "raw", "workers": threads, "out": out / "ffcv"}
        note = "DatasetWriter: decodes" if work == "raw" else "DatasetWriter: decodes, and encodes again"
        found.append(Contestant(name="ffcv", batches=ffcv_writer, arguments=arguments, requires=FFCV, note=note))
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
        name="ffcv", batches=ffcv_read, requires=FFCV, note="its OSCacheManager on a .beton of JPEGs by its own writer"
    )
    if not contestant.lacks():
        arguments = {"beton": forms.beton(raw=False), "photographs": len(forms.photographs), "batch_size": batch_size}
        contestant = replace(contestant, arguments=arguments)
    return [*found, contestant]


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
