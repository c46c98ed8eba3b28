"""The protocols in words: `headrace eval --list`, and the page docs/protocols.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from headrace.tools.catalogue import config_fields, wrapped
from headrace.tools.evaluation.protocol import ENCODERS, Protocol
from headrace.tools.evaluation.table import PROTOCOLS

TOLD = {
    "definition": "definition",
    "source": "source",
    "cost": "cost",
    "incomparable": "not comparable with",
}
"""The parts of a protocol that are told, and what they are called."""


def as_json(names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """An object a protocol; None takes all."""
    return [
        {
            "name": each.name,
            "version": each.version,
            "title": each.title,
            "metric": each.metric,
            "encoders": list(each.encoders),
            **{part: getattr(each, part) for part in TOLD},
            "settings": [asdict(field) for field in config_fields(each.settings)],
        }
        for each in _chosen(names)
    ]


def in_words(names: Sequence[str] | None = None) -> str:
    """For a terminal."""
    lines: list[str] = []
    for each in _chosen(names):
        lines += [f"{each.name}, version {each.version}: {each.metric} of {_encoders(each)}"]
        for part, called in TOLD.items():
            lines += wrapped(f"{called}: {getattr(each, part)}", "  ", "    ")
        for field in config_fields(each.settings):
            lines += wrapped(f"--{field.key}: {field.type} = {field.default}", "  ", "    ")
            lines += wrapped(field.doc, "      ")
        lines.append("")
    return "\n".join(lines).rstrip()


def markdown() -> str:
    """docs/protocols.md."""
    lines = [
        "# Protocols",
        "",
        "Generated from `headrace.tools.evaluation.table.PROTOCOLS` by `headrace eval --markdown > docs/protocols.md`.",
        "[How to use them](evaluation.md).",
    ]
    for each in _chosen(None):
        lines += ["", f"## {each.name}, version {each.version}", "", each.definition, ""]
        lines += [f"- score: `{each.metric}` of {_encoders(each)}"]
        lines += [f"- {called}: {getattr(each, part)}" for part, called in list(TOLD.items())[1:]]
        fields = list(config_fields(each.settings))
        if fields:
            lines += ["", "| key | type | default | meaning |", "| --- | --- | --- | --- |"]
        for field in fields:
            kind = field.type.replace("|", "\\|")
            lines.append(f"| `--{field.key}` | {kind} | `{field.default}` | {field.doc} |")
    return "\n".join(lines) + "\n"


def _chosen(names: Sequence[str] | None) -> list[Protocol]:
    return [each for name, each in PROTOCOLS.items() if names is None or name in names]


def _encoders(protocol: Protocol) -> str:
    if protocol.of_file:
        return "a file of predictions"
    named = [ENCODERS[encoder] for encoder in protocol.encoders]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
