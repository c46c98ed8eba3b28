"""Runs side by side as one page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from headrace.tools.comparison import Comparison
from headrace.tools.evaluation.results import write_aside
from headrace.tools.pictures.page import Section, page
from headrace.tools.pictures.report import training_charts
from headrace.train import read_metrics


def write_comparison(compared: Comparison, path: Path) -> Path:
    """Write the page and return its path."""
    names = list(compared.runs)
    metrics = {name: read_metrics(run.folder) for name, run in compared.runs.items()}
    warnings = "; ".join(compared.warnings)
    sections = [
        Section("Scores", warnings or SCORES_NOTE, rows_as_html(names, compared.rows_of_scores())),
        Section("Training", "", training_charts({name: rows for name, rows in metrics.items() if rows})),
        Section("How they went", "", rows_as_html(names, compared.rows_of_progress())),
        Section("Settings that differ", "", rows_as_html(names, compared.rows_of_settings())),
    ]
    methods = " and ".join(dict.fromkeys(run.method for run in compared.runs.values()))
    shown = [section for section in sections if section.html]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_aside(path, page(f"{len(names)} runs", f"{methods}: {', '.join(names)}", shown))
    return path


SCORES_NOTE = "Of the trained encoders on held-out samples, with intervals of 95 % where there are some."


def rows_as_html(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with a column a run; nothing for no rows."""
    if not rows:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        f"<tr><th>{escape(first)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for first, *cells in rows
    )
    return f'<div class="wide"><table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
