"""The exceptions of this package."""

from __future__ import annotations


class ShardError(Exception):
    """A shard set cannot be read or written. The text is one line: what, file, offset or key, what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class RemoteError(ShardError):
    """A store does not answer, or not as it should, after all tries. Nothing is known about the samples themselves."""
