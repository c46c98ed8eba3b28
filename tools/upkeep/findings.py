"""What is wrong with a set, and how a person is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from headrace.shards.printing import printable

SHOWN = 20
"""Problems that a printed report lists; the JSON has all of them."""


class Finding(NamedTuple):
    """One thing that is wrong."""

    shard: str
    """File name of the shard; empty for the set as a whole."""
    row: int | None
    """Number of the sample in its shard; None where it is the shard or its index."""
    line: str
    """File, offset and key as far as they are known, and what is wrong."""
    unread: bool = False
    """True where something could not be read, so that nothing is known about it."""
    too_large: bool = False
    """True where it is a picture that has more pixels than the limit, so that nothing is known about it either."""


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What `verify` found."""

    path: str
    """The set."""
    format: str
    """webdataset or ffcv; empty if the manifest cannot be read."""
    samples: int
    """Samples that the manifest lists."""
    bytes: int
    """Bytes of all shards."""
    findings: list[Finding]
    """In the order of the shards; keys that appear twice come last."""
    seconds: float
    """Wall time."""
    decoded: bool = True
    """Whether samples were decoded."""

    @property
    def ok(self) -> bool:
        """True if everything could be read and nothing is wrong."""
        return not self.findings

    @property
    def unread(self) -> bool:
        """True if something could not be read and nothing is wrong with the rest."""
        return bool(self.findings) and all(finding.unread for finding in self.findings)

    @property
    def problems(self) -> list[str]:
        """The lines of the findings."""
        return [finding.line for finding in self.findings]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        findings = [finding._asdict() for finding in self.findings]
        told = {"findings": findings, "problems": self.problems, "ok": self.ok, "unread": self.unread}
        return {**vars(self), **told}

    def __str__(self) -> str:
        figures = f"{self.samples:,} samples, {self.bytes / 1e6:,.1f} MB, {self.seconds:.1f} s"
        said = [f"{self.path}: ok, {figures}"]
        if self.unread:
            title = f"{self.path}: cannot be read everywhere, {len(self.findings)} failures; nothing else is wrong"
            said = [listing(title, self.problems)]
        elif not self.ok:
            said = [listing(f"{self.path}: {len(self.findings)} problems", self.problems)]
        if not self.decoded:
            said.append("names, sizes and checksums only: nothing was decoded (--fast)")
        return "\n".join(said)


def listing(title: str, lines: list[str]) -> str:
    """A title and the first lines."""
    more = [f"  ... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join([printable(title), *(f"  {printable(line)}" for line in lines[:SHOWN]), *more])
