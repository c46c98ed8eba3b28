"""Contestants of known speed and known faults for the runner's tests; importable by the processes it starts."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sized
from pathlib import Path
from typing import Any


class Views:
    """A batch with views, as peers deliver them."""

    def __init__(self, *views: Any) -> None:
        self.views = list(views)

    def __len__(self) -> int:
        return len(self.views[0])


def sleeper(batch: int, pause_s: float, log: Path | None = None, name: str = "") -> Iterator[Sized]:
    """`batch` samples after every `pause_s`; adds its name to `log` for each batch."""
    while True:
        time.sleep(pause_s)
        if log:
            with log.open("a", encoding="utf-8") as file:
                file.write(f"{name}\n")
        yield range(batch)


def burner(threads: int) -> Iterator[Sized]:
    """Threads that never rest, also between the batches that are asked for."""

    def burn() -> None:
        while True:
            sum(range(1000))

    for _ in range(threads):
        threading.Thread(target=burn, daemon=True).start()
    while True:
        time.sleep(0.002)
        yield range(1)


def with_worker(folder: Path) -> Iterator[Sized]:
    """A worker process that holds 64 MB and never ends by itself."""
    if os.fork() == 0:
        held = bytearray(os.urandom(1 << 20) * 64)
        (folder / "worker").write_text(f"{os.getpid()} {len(held)}", encoding="utf-8")
        while True:
            time.sleep(1)
    while not (folder / "worker").exists():
        time.sleep(0.005)
    while True:
        time.sleep(0.002)
        yield range(1)


def failing(after: int, how: str) -> Iterator[Sized]:
    """Good for `after` batches, then it raises, ends, dies or hangs."""
    for _ in range(after):
        time.sleep(0.001)
        yield range(1)
    if how == "raise":
        raise ValueError("photograph 7 is\nno photograph")
    if how == "die":
        print("out of luck\n", flush=True)
        os._exit(3)
    if how == "hang":
        time.sleep(60)


def viewer(shape: tuple[int, ...], views: int) -> Iterator[Sized]:
    """Batches of `views` float32 tensors of ones."""
    import torch  # seconds, which the other fakes need not wait for

    while True:
        time.sleep(0.001)
        yield Views(*[torch.ones(shape)] * views)


def photographs(samples: int, views: int, grey: float, seed: int) -> Iterator[Sized]:
    """Normalised pictures of blurred coloured noise, of which a share `grey` has no colour."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    mean, deviation = (torch.tensor(each).view(3, 1, 1) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    while True:
        found = []
        for _ in range(views):
            coarse = torch.rand((samples, 3, 4, 4), generator=draw)
            picture = torch.nn.functional.interpolate(coarse, size=16, mode="bilinear")
            gone = torch.rand((samples, 1, 1, 1), generator=draw) < grey
            picture = torch.where(gone, picture.mean(1, keepdim=True), picture)
            found.append(((picture * 255).round() / 255 - mean) / deviation)
        yield Views(*found)


def surroundings(file: Path) -> Iterator[Sized]:
    """Writes down the cores and OpenMP threads that its process may use."""
    cores = sorted(os.sched_getaffinity(0))
    file.write_text(f"{cores} {os.environ['OMP_NUM_THREADS']}", encoding="utf-8")
    while True:
        time.sleep(0.001)
        yield range(1)
