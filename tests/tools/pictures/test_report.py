"""The report: one file that loads nothing, and says what the run's files say."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from headrace.models import METHODS, Piece
from headrace.shards import Field, ShardSet, write_shards
from headrace.tools.errors import UserError
from headrace.tools.evaluation.evaluate import evaluate
from headrace.tools.evaluation.results import read_results, rows, save_results
from headrace.tools.evaluation.table import PROTOCOLS
from headrace.tools.pictures.features import Encoded, neighbours
from headrace.tools.pictures.report import throughput, write_report
from headrace.train import read_metrics, train
from headrace.train.checkpoint import read_checkpoint
from headrace.train.pictures import save_pictures, save_readings, saved_readings
from headrace.train.recipes import simclr_digits
from tests.browser import require_readable
from tests.models.tiny_methods import TINY
from tests.train.tiny_runs import tiny_run

VOID = {"meta", "img", "br", "hr", "input", "link"}
LOADING = {"src", "href", "xlink:href", "data", "poster", "srcset", "action"}


class Page(HTMLParser):
    """What a page holds: addresses that it loads, the cells of its score table, and whether its tags close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.cells: list[list[str]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self._in_table = False
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self._open.append(tag)
        values = dict(attrs)
        self.addresses += [value or "" for name, value in attrs if name in LOADING]
        self._in_table |= values.get("id") == "probes"
        if self._in_table and tag == "tr":
            self.cells.append([])
        if self._in_table and tag in ("th", "td"):
            self.cells[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "table":
            self._in_table = False

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self._in_table and self.cells and self.cells[-1]:
            self.cells[-1][-1] += data


@pytest.fixture(scope="module")
def run(digits_webdataset: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of SimCLR on 200 digits, probed on a fifth of them."""
    out = tmp_path_factory.mktemp("runs") / "tiny <run>"
    data = Path(digits_webdataset.path)
    config = simclr_digits(data=data.name, out=str(out))
    config.epochs, config.batch_size, config.log.every_steps = 2, 50, 1
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(data.parent)  # the report is written from another folder
        train(config, progress=False)
        evaluate(out, data.name)
    return out


def copied(run: Path, folder: Path, **config: str) -> Path:
    """Another folder with what a run wrote, but for its scores, of some other settings."""
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("metrics.jsonl", "config.yaml"):
        (folder / name).write_bytes((run / name).read_bytes())
    for path in (run / "checkpoints").iterdir():
        state = read_checkpoint(path)
        state["config"] |= config
        torch.save(state, folder / "checkpoints" / path.name)
    return folder


@pytest.fixture(scope="module")
def text(run: Path) -> str:
    path = write_report(run)
    assert path == run / "report.html"
    return path.read_text(encoding="utf-8")


def test_nothing_is_loaded_from_outside(text: str) -> None:
    page = Page(text)
    assert page.addresses, "the gallery has pictures"
    assert [address for address in page.addresses if not address.startswith("data:image/png;base64,")] == []
    assert re.findall(r"url\((?!\s*['\"]?\s*(?:data:|'\+))[^)]*\)", text) == []
    assert "@import" not in text
    assert "http://" not in text
    assert "https://" not in text


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (390, True)])
def test_the_page_is_readable(text: str, run: Path, tmp_path: Path, width: int, dark: bool) -> None:
    """In Chromium, at a desk and on a phone."""
    require_readable(run / "report.html", tmp_path, width=width, dark=dark)


def test_every_metric_has_its_interval_and_classes_their_confusions(run: Path, text: str) -> None:
    page = Page(text)
    found = read_results(run)["protocols"]
    for name in ("knn", "linear"):
        of_trained = found[name]["encoders"]["trained"]
        low, high = (100 * of_trained["metrics"]["accuracy"][end] for end in ("low", "high"))
        assert f"{low:.1f} to {high:.1f}" in page.texts
        counts = np.array(of_trained["details"]["confusion"]["counts"])
        for i, j in zip(*np.nonzero(counts), strict=True):
            assert f" taken for {j}: {counts[i, j]} of {counts[i].sum()}</title>" in text
    assert text.count('class="confusion"') == 2


def test_the_table_holds_the_results(run: Path, text: str) -> None:
    head, *body = Page(text).cells
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert head == ["features", PROTOCOLS["knn"].title, PROTOCOLS["linear"].title]
    expected = [
        [name, f"{100 * scores['knn']:.1f}%", f"{100 * scores['linear']:.1f}%"]
        for name, scores in rows(results).items()
    ]
    assert body == expected
    assert len(body) == 3


def test_the_page_shows_curves_views_map_config_and_versions(run: Path, text: str) -> None:
    words = " ".join(Page(text).texts)
    headings = ("At a glance", "Probes", "Training", "What the method sees", "Map of the features", "Configuration")
    for heading in (*headings, "Environment"):
        assert heading in words
    assert text.count('class="chart"') == 4 + 2  # meters of collapse have two
    assert text.count("data-i=") == 200, "one dot a digit"
    assert "crop" in words
    assert (run / "config.yaml").read_text(encoding="utf-8") in "".join(Page(text).texts)
    assert "torch 2" in words
    assert "tiny &lt;run&gt;" in text


def test_what_was_found_while_training_is_shown(digits_webdataset: ShardSet, run: Path, tmp_path: Path) -> None:
    """The curves of evaluations, why the run ended, and what the method drew first and last."""
    folder = tmp_path / "run"
    watched = ("epochs=9", "batch_size=100", "probe.every=1", "probe.protocols=[knn,linear]", "stop.on=knn")
    settings = (*watched, "stop.patience=1", "stop.min_change=1", f"validation={digits_webdataset.path}")
    train(tiny_run(digits_webdataset.path, folder, *settings), progress=False)
    for step, level in ((0, 0.0), (2, 0.25), (4, 1.0)):
        save_pictures(folder, step, {"input": torch.full((2, 3, 4, 4), level), "guess": torch.ones(2, 3, 4, 4)})
    text = write_report(folder).read_text(encoding="utf-8")
    page = Page(text)
    assert text.count('class="chart"') == 7
    for label in ("held-out loss", "k-NN on held-out samples", "linear probe on held-out samples"):
        assert label in page.texts
    best = 100 * read_metrics(folder)[1]["knn"]
    line = f"stopped after epoch 2 of 9: knn has not risen by 100 % in 1 evaluation (best {best:.3g} % at epoch 1)"
    assert line in page.texts
    assert [text for text in page.texts if text in ("before the first step", "after step 2", "after step 4")] == [
        "before the first step", "after step 4"
    ]  # fmt: skip
    assert text.count('<figure class="row">') == 4
    shown = [base64.b64decode(address.partition(",")[2]) for address in page.addresses]
    levels = [np.asarray(Image.open(io.BytesIO(png))) for png in shown]
    assert [int(level[0, 0, 0]) for level in levels if level.shape == (4, 10, 3)] == [255, 0, 255, 255]


def test_it_shows_what_is_near_what_falls_to_prototypes_and_what_a_vit_attends_to(
    digits_webdataset: ShardSet, run: Path, tmp_path: Path
) -> None:
    sections = ("Nearest samples", "Clusters and what falls to them", "What the class token attends to")
    for name, shown in (("swav", sections[:2]), ("dino", sections), ("mae", (sections[0], sections[2]))):
        model = replace(METHODS[name].config(), **TINY[name])
        config = tiny_run(digits_webdataset.path, tmp_path / name, "epochs=1")
        train(replace(config, method=name, model=model), progress=False)
        text = write_report(tmp_path / name).read_text(encoding="utf-8")
        words = Page(text).texts
        assert [section for section in sections if section in words] == list(shown)
        assert text.count("<figcaption>head ") == (2 if "What the class token attends to" in shown else 0)
    (of_prototypes,) = [text for text in Page((tmp_path / "swav/report.html").read_text(encoding="utf-8")).texts
                        if " have samples of " in text]  # fmt: skip
    used, total = map(int, re.findall(r"\d+", of_prototypes)[:2])
    sizes = [
        int(n) for n in re.findall(r"number \d+: (\d+) samples", (tmp_path / "swav/report.html").read_text("utf-8"))
    ]
    assert total == 12
    assert len(sizes) == min(used, 8)
    assert sizes == sorted(sizes, reverse=True)
    assert used > 8 or sum(sizes) == 200


def test_nearest_samples_are_those_of_the_features(digits_webdataset: ShardSet) -> None:
    """Each sample's feature is its number on an arc: the neighbours are the numbers beside it."""
    arc = np.linspace(0, 1, 20, dtype=np.float32)
    encoded = Encoded(
        shards=digits_webdataset,
        name="digits",
        ids=np.arange(20) + 7,
        features=np.stack([np.cos(arc), np.sin(arc)], axis=1) * np.linspace(1, 9, 20, dtype=np.float32)[:, None],
        labels=np.arange(20) // 5,
        names={label: f"of {label}" for label in range(4)},
    )
    names = re.findall(r"<figure( class=\"other\")?>.*?<figcaption>of (\d)</figcaption>", neighbours(encoded).html)
    first = names[:10]
    assert [label for _, label in first] == ["0"] * 5 + ["1"] * 5
    assert [bool(other) for other, _ in first] == [False] * 5 + [True] * 5
    (address, *_) = re.findall(r'src="([^"]+)"', neighbours(encoded).html)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))
    assert np.array_equal(shown, digits_webdataset.read(7)["image"])


def test_a_run_without_scores_or_shards_still_has_a_report(run: Path, tmp_path: Path) -> None:
    for name in ("metrics.jsonl", "config.yaml"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    (tmp_path / "checkpoints").symlink_to(run / "checkpoints")
    words = " ".join(Page(write_report(tmp_path).read_text(encoding="utf-8")).texts)
    assert "Training" in words
    assert "Accuracy" not in words


def test_shards_that_are_gone_are_said_to_be(run: Path, tmp_path: Path) -> None:
    moved = copied(run, tmp_path / "run", data=str(tmp_path / "moved"))
    words = Page(write_report(moved).read_text(encoding="utf-8")).texts
    assert words.count(f"The shards at {tmp_path / 'moved'} are not here any more.") == 2  # the gallery's, the map's


def test_shards_that_cannot_be_read_end_no_report(run: Path, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{", encoding="utf-8")
    broken = copied(run, tmp_path / "run", data=str(tmp_path / "broken"))
    words = " ".join(Page(write_report(broken).read_text(encoding="utf-8")).texts)
    assert "The shards cannot be shown: " in words
    assert "manifest" in words


NAMES = [
    "<script>alert(1)</script>",
    "\x1b]0;owned\x07",
    "[red] panda",
    "x" * 200,
    "train",
    "ß&'\"",
    "a",
    "b",
    "c",
    "d",
]


def test_names_of_any_kind_are_text(run: Path, tmp_path: Path, digits_webdataset: ShardSet) -> None:
    """Markup, control characters, 200 letters, bytes that are no Unicode."""
    fields = {"image": Field(kind="image", encoding="raw"), "label": Field(kind="int", classes=tuple(NAMES))}
    write_shards(tmp_path / "set", (digits_webdataset.read(i) for i in range(40)), fields)
    odd = copied(run, tmp_path / os.fsdecode(b"\xff<b>run"))
    save_results(odd, {"test": str(tmp_path / "set")})
    text = write_report(odd).read_text(encoding="utf-8")
    page = Page(text)
    words = " ".join(page.texts)
    for name in (r"\x1b]0;owned\x07", *(NAMES[0], *NAMES[2:])):
        assert name in words
    assert page.texts.count(r"\xff<b>run") >= 2
    assert "\x1b" not in text
    assert text.count("<script>") == 1  # the page's own


def test_few_labelled_samples_have_no_map(run: Path, tmp_path: Path, digits_webdataset: ShardSet) -> None:
    """And those without a label are not in it."""
    fields = {"image": Field(kind="image", encoding="raw"), "label": Field(kind="int")}
    for labelled in (4, 5):
        chosen = {i: {"label": 10**12 + i} for i in range(1, 2 * labelled, 2)}  # labels need not count from 0
        some = [digits_webdataset.read(i) | chosen.get(i, {"label": -1}) for i in range(20)]
        write_shards(tmp_path / f"{labelled}", some, fields)
        folder = copied(run, tmp_path / f"run {labelled}")
        save_results(folder, {"test": str(tmp_path / f"{labelled}")})
        assert write_report(folder).read_text(encoding="utf-8").count("data-i=") == (5 if labelled == 5 else 0)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no logged step"):
        write_report(tmp_path)


def test_throughput_weighs_by_time(run: Path) -> None:
    records = [
        {"step": 10, "samples_per_s": 100.0, "data_wait": 0.5},  # 10 batches at 100: 10 units of time, 5 waited
        {"step": 20, "samples_per_s": 300.0, "data_wait": 0.2},  # a third of that
    ]
    figures = throughput(records)
    assert figures["samples_per_s"] == pytest.approx(2 * 100 * 300 / 400, abs=0.1)
    assert figures["data_wait"] == pytest.approx((1 * 0.5 + 1 / 3 * 0.2) / (4 / 3), abs=1e-4)
    logged = [record["samples_per_s"] for record in read_metrics(run)]
    assert min(logged) <= throughput(read_metrics(run))["samples_per_s"] <= max(logged) + 0.1


def test_scores_of_several_probes_are_kept_together(digits_webdataset: ShardSet, run: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").symlink_to(run / "checkpoints")
    first = evaluate(tmp_path, digits_webdataset.path, protocols=("knn",), encoders=("input",))
    second = evaluate(tmp_path, digits_webdataset.path, protocols=("linear",), encoders=("input",))
    assert read_results(tmp_path)["probes"] == {"input": first["input"] | second["input"]}
    evaluate(tmp_path, digits_webdataset.path, digits_webdataset.path, protocols=("knn",), encoders=("input",))
    assert set(read_results(tmp_path)["probes"]["input"]) == {"knn"}, "scores on other data do not mix"


def test_untrained_scores_are_of_the_run_at_step_0(digits_webdataset: ShardSet, run: Path) -> None:
    again = evaluate(run, digits_webdataset.path, encoders=("untrained",))
    assert again["untrained"] == read_results(run)["probes"]["untrained"], "a function of the seed"
    assert np.isfinite(list(again["untrained"].values())).all()


def test_fine_tuning_needs_a_test_set(digits_webdataset: ShardSet, run: Path) -> None:
    with pytest.raises(UserError, match="--test"):
        evaluate(run, digits_webdataset.path, protocols=("finetune",))


def test_damaged_results_are_one_line(tmp_path: Path) -> None:
    save_results(tmp_path, {"probes": {}})
    assert read_results(tmp_path) == {"probes": {}}
    (tmp_path / "results.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"results\.json: not JSON"):
        read_results(tmp_path)


@pytest.mark.peer("tokenizers", "transformers")
@pytest.mark.parametrize(("name", "width", "dark"), [("bert", 1200, False), ("t5", 390, True)])
def test_texts_show_what_was_named(
    name: str, width: int, dark: bool, texts_webdataset: ShardSet, tmp_path: Path
) -> None:
    """Before the first step and after the last, escaped, readable at a desk and on a phone."""
    model = replace(METHODS[name].config(), **TINY[name])
    config = tiny_run(texts_webdataset.path, tmp_path / "run", "epochs=1")
    train(replace(config, method=name, model=model), progress=False)
    saved = saved_readings(tmp_path / "run")
    assert list(saved) == [0, config.epochs * (200 // config.batch_size)]
    assert all(len(texts) == 8 for texts in saved.values())
    asked = [piece for text in saved[0] for piece in text if piece.said is not None]
    assert len(asked) > 8
    odd = [[Piece("<script>x</script>"), Piece("a&b", "[MASK]", "<i>"), Piece("w" * 200, "[MASK]", "w" * 200)]]
    save_readings(tmp_path / "run", max(saved), [*odd, *saved[max(saved)]])
    path = write_report(tmp_path / "run")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert "What the method reads" in page.texts
    assert "<span>&lt;script&gt;x&lt;/script&gt;</span>" in text
    assert '<span class="wrong"><small>[MASK]</small> <s>&lt;i&gt;</s> <b>a&amp;b</b></span>' in text
    right = sum(piece.said == piece.token for piece in asked)
    assert f"before the first step: {right} of {len(asked)} right" in page.texts
    assert text.count('<p class="reading">') == 8 + 9
    require_readable(path, tmp_path / "look", width=width, dark=dark)
