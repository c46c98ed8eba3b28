"""A run as one page: scores, curves, views, a map of its features, and what made it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from headrace.models import Method
from headrace.pipeline import ViewSpec
from headrace.pipeline.order.mixing import NO_LABEL
from headrace.shards import ShardError, ShardSet, open_shards
from headrace.shards.remote.remote import is_remote, redact
from headrace.tools.errors import UserError
from headrace.tools.evaluate import ENCODERS, PROBES, features, read_results, rows, write_aside
from headrace.tools.hardware import cores, processor
from headrace.tools.pictures.charts import class_map, legend, line_chart
from headrace.tools.pictures.page import Section, definitions, page, png_uri, tiles
from headrace.tools.pictures.show_views import augmented, pixels
from headrace.train import RunConfig, load_run, read_ending, read_metrics
from headrace.train.metrics import Record
from headrace.train.pictures import drawn_pictures

GALLERY_SAMPLES = 9
MAP_SAMPLES = 1000  # t-SNE of more takes minutes
MAP_LEAST = 5  # nor does it lay out so few as this
THUMBNAIL = 28  # side of a map sample's picture, in pixels
SPRITE_COLUMNS = 32

# metric, name and unit, holds a share of 1, axis starts at 0
CURVES = (
    ("loss", "loss", False, False),
    ("samples_per_s", "samples a second", False, True),
    ("data_wait", "share of the time spent waiting for data", True, True),
    ("lr", "learning rate", False, True),
)
# The same of meters and of evaluations while a run goes on, which not every run has.
OPTIONAL = (
    ("feature_rank", "effective rank of the features", False, True),
    ("feature_std", "deviation of normalised features", False, True),
    ("held_out_loss", "held-out loss", False, False),
    ("knn", "k-NN on held-out samples", True, False),
    ("linear", "linear probe on held-out samples", True, False),
)


def write_report(folder: Path, runs: Mapping[str, Path] | None = None, *, seed: int = 0) -> Path:
    """Write `folder`/report.html and return its path.

    Args:
        folder: holds results.json, where there are results.
        runs: run folders by name, their curves drawn over one another; None takes `folder` as the only run.
        seed: of the feature map's layout.

    Raises:
        UserError: if a run folder holds no metrics.
        ConfigError: if a run's configuration cannot be read.
    """
    runs = runs or {folder.name: folder}
    metrics = {name: read_metrics(run) for name, run in runs.items()}
    for name, logged in metrics.items():
        if not logged:
            raise UserError(f"{runs[name]}: no logged step in it, so there is nothing to report; train first")
    results = read_results(folder)
    first = next(iter(runs.values()))
    config, method = load_run(first)
    sections = [
        Section("At a glance", "", tiles(headline(results, metrics))),
        probes(results),
        Section("Training", endings(runs), training_charts(metrics)),
        gallery(config, method),
        pictures(first),
        feature_map(method, read_results(first).get("test") or config.data, seed),
        Section("Configuration", "Saved with the run; it starts the run again.", resolved_config(runs)),
        Section("Environment", "Where this page was made.", definitions(environment())),
    ]
    path = folder / "report.html"
    subtitle = f"{config.method}, {config.epochs} epochs, batches of {config.batch_size}: {' and '.join(runs)}"
    shown = [section for section in sections if section.html or section.note]
    write_aside(path, page(folder.name, subtitle, shown))
    return path


def throughput(records: Sequence[Record]) -> dict[str, float]:
    """`samples_per_s` and `data_wait` of a run: each log line weighs as much as the time it covers."""
    samples = np.diff([0, *(record["step"] for record in records)])  # in batches
    seconds = samples / [record["samples_per_s"] for record in records]
    waited = seconds * [record["data_wait"] for record in records]
    return {
        "samples_per_s": round(float(samples.sum() / seconds.sum()), 1),
        "data_wait": round(float(waited.sum() / seconds.sum()), 4),
    }


def headline(results: Mapping[str, Any], metrics: Mapping[str, Sequence[Record]]) -> list[tuple[str, str]]:
    """The few figures that a reader looks for first: (figure, what it is)."""
    scores = results.get("probes", {}).get("trained", {})
    figures = [(f"{100 * scores[probe]:.1f}%", f"{PROBES[probe]}, trained encoder") for probe in scores]
    speed = throughput(next(iter(metrics.values())))
    figures += [
        (f"{speed['samples_per_s']:,.0f}", "samples a second in training"),
        (f"{100 * speed['data_wait']:.1f}%", "of that time spent waiting for data"),
    ]
    if "seconds" in results:
        figures.append((f"{results['seconds']:.0f} s", "from raw data to scores"))
    return figures


PROBES_NOTE = "Accuracy on held-out samples. Raw pixels and the untrained encoder say what training added."


def probes(results: Mapping[str, Any]) -> Section:
    """The scores, where there are some."""
    table = probe_table(results)
    return Section("Probes", PROBES_NOTE if table else "", table)


def probe_table(results: Mapping[str, Any]) -> str:
    """One line a kind of features, one bar a probe."""
    lines = rows(results)
    probes = [probe for probe in PROBES if any(probe in found for found in lines.values())]
    if not probes:
        return ""
    head = "".join(f"<th>{escape(PROBES[probe])}</th>" for probe in probes)
    body = ""
    for name, found in lines.items():
        cells = ""
        for probe in probes:
            percent = f"{100 * found[probe]:.1f}%" if probe in found else ""
            bar = f'<div class="bar"><b>{percent}</b><i style="width:{percent}"></i></div>' if percent else ""
            cells += f'<td class="figure">{bar}</td>'
        best = ' class="best"' if name.startswith(ENCODERS["trained"]) else ""
        body += f"<tr{best}><th>{escape(name)}</th>{cells}</tr>"
    return f'<table id="probes"><thead><tr><th>features</th>{head}</tr></thead><tbody>{body}</tbody></table>'


def training_charts(metrics: Mapping[str, Sequence[Record]]) -> str:
    """The curves of all runs, one chart a metric."""
    charts = ""
    logged = {name for records in metrics.values() for record in records for name in record}
    for metric, label, percent, from_zero in (*CURVES, *(curve for curve in OPTIONAL if curve[0] in logged)):
        series = {
            name: (
                [row["step"] for row in rows if metric in row],
                [row[metric] for row in rows if metric in row],
            )
            for name, rows in metrics.items()
        }
        chart = line_chart(series, label=label, percent=percent, from_zero=from_zero)
        charts += f"<div><h3>{escape(label)}</h3>{chart}</div>"
    return f'{legend(list(metrics))}<div class="charts">{charts}</div>'


def endings(runs: Mapping[str, Path]) -> str:
    """Why each run ended; its name before it where there are several."""
    found = {name: ending.line for name, run in runs.items() if (ending := read_ending(run))}
    return "; ".join(f"{name} {line}" if len(runs) > 1 else line for name, line in found.items())


def pictures(run: Path) -> Section:
    """What the method drew last of its work, and before its first step."""
    drawn = {step: files for step, files in drawn_pictures(run).items() if files}
    rows = ""
    for step in sorted({min(drawn), max(drawn)}) if drawn else ():
        rows += f"<h3>{f'after step {step:,}' if step else 'before the first step'}</h3>"
        for name, path in drawn[step].items():
            picture = png_uri(np.asarray(Image.open(path)))
            rows += f'<figure class="row"><img src="{picture}" alt=""><figcaption>{escape(name)}</figcaption></figure>'
    note = "The same samples each time, a column each." if rows else ""
    return Section("What the method makes of them", note, rows)


def gallery(config: RunConfig, method: Method) -> Section:
    """Stored samples beside the views of the run's first epoch; empty for a method of clips or texts."""
    heading = "What the method sees"
    if not isinstance(method.inputs, ViewSpec):
        return Section(heading, "", "")
    try:
        with open_shards(config.data) as shards:
            rows = augmented(shards, method.inputs, count=GALLERY_SAMPLES, seed=config.seed)
    except (ShardError, UserError, OSError) as error:
        return Section(heading, missing(config.data, error), "")
    samples = ""
    for shown in rows:
        pictures = [(shown.original, f"stored, {shown.key}"), *zip(shown.views, shown.captions, strict=True)]
        figures = "".join(
            f'<figure><img src="{png_uri(picture)}" alt=""><figcaption>{escape(text)}</figcaption></figure>'
            for picture, text in pictures
        )
        samples += f'<div class="sample">{figures}</div>'
    note = "Each sample as stored, then its views of epoch 0. The numbers draw the same view again, on any engine."
    return Section(heading, note, f'<div class="gallery">{samples}</div>')


def missing(data: str, error: Exception) -> str:
    """Why the shards that a run was made of are not shown."""
    if not is_remote(data) and not os.path.exists(data):
        return f"The shards at {os.path.abspath(data)} are not here any more."
    return redact(f"The shards cannot be shown: {error}")


def feature_map(method: Method, data: str, seed: int) -> Section:
    """t-SNE of the encoder's features of some labelled samples; empty where `data` has hardly any or the method is not
    one of images, a sentence where the data cannot be read."""
    heading = "Map of the features"
    if not isinstance(method.inputs, ViewSpec):
        return Section(heading, "", "")
    try:
        with open_shards(data) as shards:
            labels = shards.ints("label") if "label" in shards.fields else np.zeros(0, np.int64)
            labelled = np.flatnonzero(labels != NO_LABEL)
            if len(labelled) < MAP_LEAST:
                return Section(heading, "", "")
            found, labels = features(method, shards)
            chosen = np.linspace(0, len(labels) - 1, min(len(labels), MAP_SAMPLES)).round().astype(np.int64)
            sprite = thumbnails(shards, labelled[chosen])
            known = dict(enumerate(shards.fields["label"].classes))
            names = {c: known.get(c, str(c)) for c in np.unique(labels).tolist()}
    except (ShardError, UserError, OSError) as error:
        return Section(heading, missing(data, error), "")
    labels = labels[chosen]
    points = layout(found[chosen], seed)
    note = (
        f"{len(labels):,} samples of {os.path.basename(redact(data))}, t-SNE of the frozen features; the labels only "
        "colour the dots. Point at a dot to see the sample."
    )
    label_names = escape(json.dumps([names[c] for c in labels.tolist()]))
    return Section(
        heading,
        note,
        f'<div class="mapbox" data-side="{THUMBNAIL}" data-columns="{SPRITE_COLUMNS}" data-names="{label_names}" '
        f'data-sprite="{png_uri(sprite)}">{class_map(points, labels, names)}'
        '<div class="peek"><div></div><span></span></div></div>',
    )


def layout(features: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Two coordinates (n, 2) for features (n, d): directions only, 50 principal components, then t-SNE."""
    directions = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    components = min(50, *directions.shape)
    directions = PCA(components, random_state=seed).fit_transform(directions)
    perplexity = min(30.0, (len(features) - 1) / 3)
    points: NDArray[np.float32] = TSNE(init="pca", perplexity=perplexity, random_state=seed).fit_transform(directions)
    return points


def thumbnails(shards: ShardSet, ids: NDArray[np.int64]) -> NDArray[np.uint8]:
    """All samples in one picture, SPRITE_COLUMNS to a row, each THUMBNAIL pixels square."""
    lines = -(-len(ids) // SPRITE_COLUMNS)
    sprite = np.zeros((lines, THUMBNAIL, SPRITE_COLUMNS, THUMBNAIL, 3), np.uint8)
    for position, i in enumerate(ids):
        picture = Image.fromarray(pixels(shards, int(i)))
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        line, column = divmod(position, SPRITE_COLUMNS)
        sprite[line, : picture.height, column, : picture.width] = np.asarray(picture)
    return sprite.reshape(lines * THUMBNAIL, SPRITE_COLUMNS * THUMBNAIL, 3)


def resolved_config(runs: Mapping[str, Path]) -> str:
    """config.yaml of every run."""
    texts = {name: redact((run / "config.yaml").read_text(encoding="utf-8")) for name, run in runs.items()}
    return "".join(
        f"<details><summary>{escape(name)}</summary><pre>{escape(text)}</pre></details>" for name, text in texts.items()
    )


def environment() -> list[tuple[str, str]]:
    """Machine and versions."""
    import torch

    packages = ("headrace", "torch", "torchvision", "timm", "numpy", "numba", "simplejpeg", "scikit-learn")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return [
        ("processor", f"{processor()}, {cores()} cores for this process"),
        ("threads of torch", str(torch.get_num_threads())),
        ("GPU", gpu),
        ("system", f"{platform.system()} {platform.release()}, Python {platform.python_version()}"),
        ("packages", ", ".join(f"{name} {version(name)}" for name in packages)),
    ]
