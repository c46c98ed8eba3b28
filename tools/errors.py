"""Failures that a user can mend."""

from __future__ import annotations


class UserError(Exception):
    """Something that was asked for cannot be done; the text is one line: what, where, and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class Terminated(KeyboardInterrupt):
    """SIGTERM, as a batch system sends it before it kills, where it is to end a command as Ctrl-C does."""
