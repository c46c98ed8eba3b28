"""What protocols found, for a report: every metric with its interval, confusions of classes, curves."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from headrace.pipeline.corruptions.parameters import FAMILIES
from headrace.tools.evaluation.protocol import ENCODERS, Protocol
from headrace.tools.evaluation.results import kept_pictures
from headrace.tools.evaluation.table import PROTOCOLS
from headrace.tools.pictures.charts import legend, line_chart
from headrace.tools.pictures.page import Section, png_uri

CELL = 20  # user units of a confusion's square
DRAWN = {
    "detection": "What is there, and beside it what the detector on the trained encoder is sure of by a half.",
    "segmentation": "The picture, its classes, and those that the linear layer on the trained encoder says.",
    "depth": "The picture, its depths and those that are said; near is bright, black is not known.",
}
LETTERS, LETTER = 16, 7.0  # of a name beside it, at most, and the width of one


def evaluation_sections(run: Path, results: Mapping[str, Any]) -> list[Section]:
    """The sections that results.json, and the pictures beside it, have something for."""
    protocols = {name: found for name, found in results.get("protocols", {}).items() if name in PROTOCOLS}
    if not protocols:
        return []
    tables = "".join(metric_table(PROTOCOLS[name], found) for name, found in protocols.items())
    sections = [
        Section(
            "Scores in full",
            "With intervals of 95 % by the bootstrap over test samples, and over trainings where there are several. "
            "Two scores are comparable where protocol, version and settings are the same; docs/protocols.md defines "
            "each.",
            tables,
        )
    ]
    confused = {
        name: found["encoders"]["trained"]["details"]["confusion"]
        for name, found in protocols.items()
        if "confusion" in found["encoders"].get("trained", {}).get("details", {})
    }
    if confused:
        figures = "".join(
            f'<div class="wide"><h3>{escape(PROTOCOLS[name].title)}</h3>{confusion_map(**each)}</div>'
            for name, each in confused.items()
        )
        note = "A row a true class, a column a predicted one; a full square is all of the row's samples."
        sections.append(Section("What is taken for what", note, f'<div class="charts">{figures}</div>'))
    if curves := corruption_charts(protocols.get("robustness", {})):
        note = "Error on corrupted pictures, the mean over each family, at five severities; 0 is the clean picture."
        sections.append(Section("Under corruption", note, curves))
    for name in protocols:
        drawn = kept_pictures(run, name)
        if drawn:
            rows = "".join(
                f'<figure class="row"><img src="{png_uri(np.asarray(Image.open(path).convert("RGB")))}" '
                f'alt="sample {path.stem}"></figure>'
                for path in drawn
            )
            sections.append(Section(f"{name.capitalize()}, drawn", DRAWN[name], f'<div class="gallery">{rows}</div>'))
    return sections


def corruption_charts(found: Mapping[str, Any]) -> str:
    """A chart for each family of corruptions, a line for each encoder; "" where none was measured."""
    severities = [0, *found.get("settings", {}).get("severities", ())]
    errors: dict[str, dict[str, list[float]]] = {}
    for encoder in ENCODERS:
        scores = found.get("encoders", {}).get(encoder, {})
        for family, names in FAMILIES.items():
            of_each = scores.get("details", {}).get("errors by severity", {})
            if set(names) <= set(of_each):
                mean = np.mean([of_each[name] for name in names], axis=0).tolist()
                errors.setdefault(family, {})[encoder] = [scores["metrics"]["clean_error"]["value"], *mean]
    if not errors:
        return ""
    shown = [encoder for encoder in ENCODERS if any(encoder in lines for lines in errors.values())]
    charts = "".join(
        f"<figure><h3>{escape(family)}</h3>"
        + line_chart(
            {ENCODERS[encoder]: (severities, lines[encoder]) for encoder in shown if encoder in lines},
            label="error, %",
            x_label="severity",
            percent=True,
            from_zero=True,
        )
        + "</figure>"
        for family, lines in errors.items()
    )
    return legend([ENCODERS[encoder] for encoder in shown]) + f'<div class="charts">{charts}</div>'


def metric_table(protocol: Protocol, found: Mapping[str, Any]) -> str:
    """One line a metric, one column an encoder."""
    encoders = [encoder for encoder in ENCODERS if encoder in found["encoders"]]
    names = dict.fromkeys(name for encoder in encoders for name in found["encoders"][encoder]["metrics"])
    head = "".join(f"<th>{escape(ENCODERS[encoder])}</th>" for encoder in encoders)
    body = ""
    for name in names:
        cells = ""
        for encoder in encoders:
            each = found["encoders"][encoder]["metrics"].get(name)
            cells += f"<td>{_with_interval(protocol, each) if each else ''}</td>"
        best = ' class="best"' if name == found["metric"] else ""
        body += f"<tr{best}><th>{escape(name.replace('_', ' '))}</th>{cells}</tr>"
    title = f"{escape(protocol.title)} <small>{escape(protocol.name)}, version {found['version']}</small>"
    return (
        f'<div class="wide"><h3>{title}</h3><table class="metrics"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _with_interval(protocol: Protocol, each: Mapping[str, float]) -> str:
    low, high = (protocol.text(each[end]).replace(" %", "") for end in ("low", "high"))
    return f"<b>{protocol.text(each['value'])}</b> <small>{low} to {high}</small>"


def confusion_map(labels: list[int], names: list[str], counts: list[list[int]]) -> str:
    """An SVG with a square for each pair of classes, darker the more of the row's samples it holds."""
    rows = np.asarray(counts, float)
    shares = rows / np.maximum(rows.sum(1, keepdims=True), 1)
    count = len(labels)
    short = [name if len(name) <= LETTERS else name[: LETTERS - 1] + "…" for name in names]
    side, beside = count * CELL, round(14 + LETTER * max(map(len, short)))
    parts = [
        f'<svg class="confusion" viewBox="0 0 {beside + side} {side + beside}" '
        f'style="min-width:{beside + side}px" '
        'role="img" aria-label="true classes against predicted ones">'
    ]
    for i, name in enumerate(map(escape, short)):
        middle = i * CELL + CELL / 2
        parts.append(f'<text class="tick" x="{beside - 6}" y="{middle:.0f}" dy=".35em" text-anchor="end">{name}</text>')
        parts.append(
            f'<text class="tick" text-anchor="end" transform="translate({beside + middle:.0f} {side + 6}) rotate(-60)" '
            f'dy=".35em">{name}</text>'
        )
    for i, j in zip(*np.nonzero(rows), strict=True):
        told = escape(f"{names[i]} taken for {names[j]}: {rows[i, j]:.0f} of {rows[i].sum():.0f}")
        kind = "right" if i == j else "wrong"
        parts.append(
            f'<rect class="{kind}" x="{beside + j * CELL}" y="{i * CELL}" width="{CELL - 1}" height="{CELL - 1}" '
            f'fill-opacity="{max(0.08, shares[i, j]):.2f}"><title>{told}</title></rect>'
        )
    return "".join([*parts, "</svg>"])
