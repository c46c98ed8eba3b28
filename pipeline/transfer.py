"""Batches from the loader to the device that trains, the next one on its way while the current one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from headrace.pipeline.batch import Batch
from headrace.pipeline.loader import Loader


class Copies(Protocol):
    """Copies batches to a device without being waited for."""

    def aside(self) -> AbstractContextManager[object]:
        """Where the loader is asked for batches: what engines do on the device then goes on beside the computation."""

    def begin(self, batch: Batch) -> None:
        """Start to copy."""

    def take(self) -> Batch:
        """The copy that was begun first; what is done with it next on the device comes after the copying."""

    def close(self) -> None:
        """Let go of copies that nobody has taken."""


class SideStream:
    """Copies from pinned memory on a CUDA stream of its own, beside the computation. torch gives the memory out again
    when its copy is complete."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._begun: deque[tuple[Batch, torch.cuda.Event]] = deque()

    def aside(self) -> AbstractContextManager[object]:
        """See `Copies`."""
        return torch.cuda.stream(self._stream)

    def begin(self, batch: Batch) -> None:
        """See `Copies`."""
        with torch.cuda.stream(self._stream):
            copy = batch.to(self._device)  # views that an engine made on the device stay as they are
            self._begun.append((copy, self._stream.record_event()))

    def take(self) -> Batch:
        """See `Copies`."""
        copy, complete = self._begun.popleft()
        current = torch.cuda.current_stream(self._device)
        current.wait_event(complete)
        for tensor in copy.tensors():
            tensor.record_stream(current)  # else its memory would be given away while the computation still reads it
        return copy

    def close(self) -> None:
        """See `Copies`."""
        self._begun.clear()


class DeviceBatches:
    """A loader's batches on a device. Iterates the rest of the current epoch, as the loader does.

    On a GPU the next batch is copied while the current one is used. On the CPU there is nothing to copy.

    Args:
        loader: whose batches; it is not iterated otherwise meanwhile.
        device: where they go.
        copies: how they go there; None takes a `SideStream` for a GPU.
    """

    def __init__(self, loader: Loader, device: torch.device, copies: Copies | None = None) -> None:
        self._loader = loader
        self._copies = copies
        if copies is None and device.type == "cuda":
            self._copies = SideStream(device)
        self._behind: deque[dict[str, Any]] = deque([loader.state_dict()])
        """The loader's states behind the batch that was handed out last and those that are on their way."""

    def __iter__(self) -> Iterator[Batch]:
        if self._copies is None:
            yield from self._loader
            return
        try:
            batches = iter(self._loader)
            while True:
                with self._copies.aside():
                    batch = next(batches, None)
                if batch is None:
                    break
                self._copies.begin(batch)
                del batch  # its memory is the copies' to keep
                self._behind.append(self._loader.state_dict())
                if len(self._behind) > 2:
                    yield self._next(self._copies)
            while len(self._behind) > 1:
                yield self._next(self._copies)
        finally:
            self._copies.close()
            if len(self._behind) > 1:  # given up in the midst: what was on its way is to come again
                self._behind = deque([self._behind[0]])
                self._loader.load_state_dict(self._behind[0])

    def _next(self, copies: Copies) -> Batch:
        self._behind.popleft()
        return copies.take()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, with a new iterator; one of before is over."""
        if self._copies is not None:
            self._copies.close()
        self._loader.load_state_dict(state)
        self._behind = deque([state])

    def state_dict(self) -> dict[str, Any]:
        """The loader's state behind the batch that was handed out last, not behind the one that is on its way."""
        return self._loader.state_dict() if self._copies is None else self._behind[0]
