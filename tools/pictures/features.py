"""What a run's features say: their map, nearest samples, clusters, and what a ViT attends to."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor

from headrace.models import Method
from headrace.models.parts.attention import class_attention, has_class_attention
from headrace.models.parts.pixels import can_undo, unit_pixels
from headrace.pipeline import Batch, Loader, ViewSpec
from headrace.pipeline.order.mixing import NO_LABEL
from headrace.shards import ShardError, ShardSet, open_shards
from headrace.shards.remote.remote import is_remote, redact
from headrace.tools.errors import UserError
from headrace.tools.pictures.charts import class_map
from headrace.tools.pictures.page import Section, png_uri
from headrace.tools.pictures.show_views import pixels
from headrace.train.pictures import side_by_side
from headrace.train.probes import extract_features

MAP = "Map of the features"
MAP_SAMPLES = 1000  # t-SNE of more takes minutes
LEAST = 5  # nor does it lay out so few as this
THUMBNAIL = 28  # side of a sample's picture, in pixels
SPRITE_COLUMNS = 32
ASKED = 6
"""Samples whose neighbours are shown, and whose attention."""
NEAREST = 9
CLUSTERS = 8
"""The largest are shown."""
FALLEN = 9
"""Samples of each."""
HEADS = 6
"""Of the attention, at most."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """The labelled samples of a shard set, in its order."""

    shards: ShardSet
    name: str
    """Of the set, for people."""
    ids: NDArray[np.int64]
    """Numbers of the samples."""
    features: NDArray[np.float32]
    """(n, D)."""
    labels: NDArray[np.int64]
    names: Mapping[int, str]
    """Of the labels that there are."""


def feature_sections(method: Method, data: str, seed: int) -> list[Section]:
    """None for a method that is not one of images or a set with hardly any labels; one that says why where the data
    cannot be read."""
    if not isinstance(method.inputs, ViewSpec):
        return []
    try:
        with open_shards(data) as shards:
            known = shards.ints("label") if "label" in shards.fields else np.zeros(0, np.int64)
            ids = np.flatnonzero(known != NO_LABEL)
            if len(ids) < LEAST:
                return []
            found, labels = extract_features(method.to(device()).encode, shards, method.probe_inputs, device=device())
            classes = dict(enumerate(shards.fields["label"].classes))
            names = {label: classes.get(label, str(label)) for label in np.unique(labels).tolist()}
            name = os.path.basename(redact(data))
            encoded = Encoded(shards=shards, name=name, ids=ids, features=found, labels=labels, names=names)
            return [
                feature_map(encoded, seed),
                neighbours(encoded),
                clusters(method, encoded),
                attention(method, shards),
            ]
    except (ShardError, UserError, OSError) as error:
        return [Section(MAP, missing(data, error), "")]


def missing(data: str, error: Exception) -> str:
    """Why the shards that a run was made of are not shown."""
    if not is_remote(data) and not os.path.exists(data):
        return f"The shards at {os.path.abspath(data)} are not here any more."
    return redact(f"The shards cannot be shown: {error}")


def feature_map(encoded: Encoded, seed: int) -> Section:
    """t-SNE of some of the samples."""
    samples = len(encoded.labels)
    chosen = np.linspace(0, samples - 1, min(samples, MAP_SAMPLES)).round().astype(np.int64)
    labels = encoded.labels[chosen]
    points = layout(encoded.features[chosen], seed)
    sprite = thumbnails(encoded.shards, encoded.ids[chosen])
    note = (
        f"{len(labels):,} samples of {encoded.name}, t-SNE of the frozen features; the labels only colour the dots. "
        "Point at a dot to see the sample."
    )
    label_names = escape(json.dumps([encoded.names[label] for label in labels.tolist()]))
    return Section(
        MAP,
        note,
        f'<div class="mapbox" data-side="{THUMBNAIL}" data-columns="{SPRITE_COLUMNS}" data-names="{label_names}" '
        f'data-sprite="{png_uri(sprite)}">{class_map(points, labels, encoded.names)}'
        '<div class="peek"><div></div><span></span></div></div>',
    )


def layout(features: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Two coordinates (n, 2) for features (n, d): directions only, 50 principal components, then t-SNE."""
    directions = unit(features)
    components = min(50, *directions.shape)
    directions = PCA(components, random_state=seed).fit_transform(directions)
    perplexity = min(30.0, (len(features) - 1) / 3)
    points: NDArray[np.float32] = TSNE(init="pca", perplexity=perplexity, random_state=seed).fit_transform(directions)
    return points


def unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, D), rows of length 1."""
    directions: NDArray[np.float32] = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return directions


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


def neighbours(encoded: Encoded) -> Section:
    """Some samples, spread over the set, and those whose features point most nearly the same way."""
    directions = unit(encoded.features)
    rows = ""
    for asked in np.linspace(0, len(directions) - 1, min(ASKED, len(directions))).round().astype(np.int64):
        similarity = directions @ directions[asked]
        similarity[asked] = np.inf
        nearest = np.argsort(-similarity, kind="stable")[: 1 + NEAREST]
        rows += samples_row(encoded, nearest, same_as=int(encoded.labels[asked]))
    note = (
        f"The first of each row, and the samples of {encoded.name} whose features are nearest to its by cosine; "
        "those of another class are dimmed."
    )
    return Section("Nearest samples", note, rows)


def clusters(method: Method, encoded: Encoded) -> Section:
    """The largest clusters or prototypes, and the samples that fall to each with the largest scores."""
    heading = "Clusters and what falls to them"
    if type(method).cluster_scores is Method.cluster_scores:
        return Section(heading, "", "")

    def largest(batch: Batch) -> Tensor:
        scores = method.cluster_scores(batch)
        assert scores is not None
        value, number = scores.float().max(dim=1)
        return torch.stack([value, number.float(), torch.full_like(value, scores.shape[1])], dim=1)

    method.eval()
    found, _ = extract_features(largest, encoded.shards, method.probe_inputs, device=device())
    scores, numbers, total = found[:, 0], found[:, 1].astype(np.int64), int(found[0, 2])
    sizes = np.bincount(numbers, minlength=total)
    rows = ""
    for number in np.argsort(-sizes, kind="stable")[:CLUSTERS]:
        members = np.flatnonzero(numbers == number)
        if len(members):
            best = members[np.argsort(-scores[members], kind="stable")[:FALLEN]]
            share = 100 * sizes[number] / len(numbers)
            rows += f"<h3>number {number}: {sizes[number]:,} samples, {share:.1f}%</h3>" + samples_row(encoded, best)
    note = (
        f"{int((sizes > 0).sum()):,} of {total:,} have samples of {encoded.name}. The largest, and the samples "
        "that have the largest scores of each."
    )
    return Section(heading, note, rows)


def samples_row(encoded: Encoded, chosen: NDArray[np.int64], same_as: int | None = None) -> str:
    """Samples side by side with the names of their classes; those that are not of the class `same_as` are dimmed."""
    figures = ""
    for i in chosen:
        label = int(encoded.labels[i])
        other = ' class="other"' if same_as not in (None, label) else ""
        picture = png_uri(pixels(encoded.shards, int(encoded.ids[i])))
        caption = f"<figcaption>{escape(encoded.names[label])}</figcaption>"
        figures += f'<figure{other}><img src="{picture}" alt="">{caption}</figure>'
    return f'<div class="sample">{figures}</div>'


def attention(method: Method, shards: ShardSet) -> Section:
    """What the class token of a ViT attends to in some samples."""
    heading = "What the class token attends to"
    probe = method.probe_inputs
    assert isinstance(probe, ViewSpec)
    normalize = probe.views[0].normalize
    if not has_class_attention(method.backbone) or not can_undo(normalize):
        return Section(heading, "", "")
    method.eval()
    with Loader(shards, probe, min(ASKED, len(shards)), shuffle=False, threads=1) as loader:
        (images,) = next(iter(loader)).to(device()).normalized()
    weights = class_attention(method.backbone, images)
    maps = {"as it is shown": unit_pixels(images, normalize), "mean of the heads": _grey(weights.mean(dim=1), images)}
    maps |= {f"head {number + 1}": _grey(weights[:, number], images) for number in range(min(HEADS, weights.shape[1]))}
    rows = "".join(
        f'<figure class="row"><img src="{png_uri(side_by_side(shown))}" alt=""><figcaption>{escape(name)}'
        "</figcaption></figure>"
        for name, shown in maps.items()
    )
    return Section(heading, "Its weights in the last block, each picture's largest in white; a column a sample.", rows)


def _grey(weights: Tensor, images: Tensor) -> Tensor:
    """Weights (B, rows, columns) as pictures (B, 3, H, W) of the images' size, in which the largest is 1."""
    levels = weights / weights.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    size = (images.shape[-2], images.shape[-1])
    return torch.nn.functional.interpolate(levels[:, None], size=size, mode="nearest").expand(-1, 3, -1, -1)


def device() -> str:
    """Where encoders compute."""
    return "cuda" if torch.cuda.is_available() else "cpu"
