"""Leaves loaders at work in many ways, each in a process of its own.

python -m tests.pipeline.lifetimes SET BAD ENGINE...

SET is a shard set, BAD one with damaged samples. A line of standard output for each engine and form: JSON with
`engine`, `form`, `status` as `subprocess` has it, and what stands on standard `error`.
"""

import json
import os
import signal
import sys
import tempfile
import time

from headrace.pipeline import Loader, View, ViewSpec
from headrace.shards import ShardSet, open_shards

VIEWS = ViewSpec([View(size=96, jitter=0.8, brightness=0.4, hue=0.1, blur=0.5)] * 2)
FORMS = ("broken off", "an error", "interrupted", "ended", "closed before", "a bad sample")
FEWER = dict.fromkeys(("dali+kornia", "ffcv"), ("an error", "interrupted", "a bad sample"))
"""Of engines that are others' parts, or take long to start."""


def make(shards: ShardSet, engine: str) -> Loader:
    return Loader(shards, VIEWS, 8, engine=engine, threads=2)


def leave(form: str, engine: str, path: str, bad: str) -> None:
    """Never closes its loader."""
    if form == "broken off":
        with open_shards(path) as shards:
            for _ in make(shards, engine):
                break
        time.sleep(0.2)
    elif form == "an error":
        with open_shards(path) as shards:
            for _ in make(shards, engine):
                raise RuntimeError("my own")
    elif form == "interrupted":
        with open_shards(path) as shards:
            while True:
                for _ in make(shards, engine):
                    os.kill(os.getpid(), signal.SIGINT)
    elif form == "ended":
        global batches
        batches = iter(make(open_shards(path), engine))
        next(batches)
    elif form == "closed before":
        shards = open_shards(path)
        left = iter(make(shards, engine))
        next(left)
        shards.close()
        time.sleep(0.2)
        list(left)
    elif form == "a bad sample":
        with open_shards(bad) as shards:
            list(make(shards, engine))


def main() -> None:
    path, bad, *engines = sys.argv[1:]
    with open_shards(path) as shards, make(shards, "native") as loader:
        next(iter(loader))  # so that the kernels are there
    for engine in engines:
        for form in FEWER.get(engine, FORMS):
            with tempfile.TemporaryFile() as errors:
                child = os.fork()
                if child == 0:
                    os.dup2(errors.fileno(), 2)
                    leave(form, engine, path, bad)
                    sys.exit()
                _, status = os.waitpid(child, 0)
                errors.seek(0)
                said = errors.read().decode()
            found = {"engine": engine, "form": form, "status": os.waitstatus_to_exitcode(status), "error": said}
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
