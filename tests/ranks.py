"""Functions on several gloo ranks, each a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def on_ranks(function: Callable[..., Any], ranks: int, folder: Path, *arguments: Any) -> list[Any]:
    """What `function(rank, *arguments)`, a module's function, returns on each rank: tensors and what holds them."""
    mp.spawn(_work, (function, ranks, str(folder), arguments), nprocs=ranks)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(ranks)]


def _work(rank: int, function: Callable[..., Any], ranks: int, folder: str, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store{ranks}", rank=rank, world_size=ranks)
    try:
        torch.save(function(rank, *arguments), f"{folder}/rank{rank}.pt")
    finally:
        dist.destroy_process_group()
