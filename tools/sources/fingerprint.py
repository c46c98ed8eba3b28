"""What of the raw data a conversion depends on beside the keys: whoever goes on with one must find the same."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping

import xxhash

from headrace.shards import Field
from headrace.shards.errors import is_machine_fault
from headrace.tools.sources.listing import unreadable


class Fingerprint:
    """An XXH3-128 over files and lists in the order in which they are added. It holds no path above the data, so that
    data that are mounted elsewhere have the same."""

    def __init__(self, fields: Mapping[str, Field]) -> None:
        """With the fields, among them the names of the classes, by which labels are counted."""
        self._digest = xxhash.xxh3_128()
        self.content(json.dumps({name: field.to_json() for name, field in fields.items()}).encode())

    def content(self, content: bytes | str) -> None:
        """A list or an annotation file, by its bytes."""
        content = content.encode(errors="surrogatepass") if isinstance(content, str) else content
        self._digest.update(b"%d\n" % len(content))
        self._digest.update(content)

    def file(self, path: str | os.PathLike[str]) -> None:
        """A file of a sample, by its size and time; one that is not there counts, too. MachineError where that cannot
        be told."""
        try:
            status = os.stat(path)
        except OSError as error:
            if is_machine_fault(error):
                raise unreadable(path, error) from error
            self._digest.update(b"missing\n")
        else:
            self.archive([status])

    def archive(self, parts: Iterable[os.stat_result]) -> None:
        """An archive that holds samples, by the same of each file that it consists of."""
        for status in parts:
            self._digest.update(b"%d %d\n" % (status.st_size, status.st_mtime_ns))

    def name(self, name: str) -> None:
        """Which file of several it is that follows."""
        self._digest.update(os.fsencode(name) + b"\0")

    def files(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        """Several files of samples."""
        for path in paths:
            self.file(path)

    def __str__(self) -> str:
        return str(self._digest.hexdigest())
