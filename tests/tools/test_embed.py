"""The features of a whole set in one file: whose they are, in which order, and what is left out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from headrace.models import BackboneConfig
from headrace.pipeline import Loader
from headrace.shards import Field, ShardError, ShardSet, open_shards, write_shards
from headrace.tools import embed as embedding
from headrace.tools.cli import main
from headrace.tools.embed import embed
from headrace.train import load_run
from headrace.train.encoders import open_encoder
from headrace.train.errors import NotFiniteError
from tests.conftest import require_peer
from tests.ranks import on_ranks
from tests.train.kept_runs import kept_run

BACKBONE = BackboneConfig(name="resnet18", options={"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16]})
BAD = (3, 11, 19)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "strict"
    kept_run(out, "rotation", size=16, backbone=BACKBONE)
    return out


@pytest.fixture(scope="module")
def lenient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, which puts up with three bad samples."""
    out = tmp_path_factory.mktemp("runs") / "lenient"
    kept_run(out, "rotation", "loader.on_error=substitute", "loader.max_bad=3", size=16, backbone=BACKBONE)
    return out


@pytest.fixture(scope="module")
def damaged(photos: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 photographs without labels, three of them cut; a batch of 19 leaves a last one that is bad altogether."""
    path = tmp_path_factory.mktemp("damaged") / "set"
    samples = [photos.read(i, ["image"]) for i in range(20)]
    for i in BAD:
        samples[i]["image"] = samples[i]["image"][:5000]
    write_shards(path, samples, {"image": photos.fields["image"]})
    return path


@torch.no_grad()
def one_by_one(run: Path, shards: ShardSet) -> np.ndarray:
    """Each sample's features by themselves."""
    method = load_run(run)[1]
    rows = []
    with Loader(shards, method.probe_inputs, 1, shuffle=False) as loader:
        for batch in loader:
            rows.append(method.encode(batch).numpy())
    return np.concatenate(rows)


def test_every_sample_in_stored_order(
    run: Path, digits_webdataset: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "x.npy"
    command = ["embed", str(run), "--data", str(digits_webdataset.path), "--out", str(out), "--batch-size", "64"]
    assert main([*command, "--device", "cpu", "--threads", "1"]) == 0
    assert capsys.readouterr().out == f"{out}: 16 features of 200 samples\n"
    features = np.load(out)
    expected = one_by_one(run, digits_webdataset)
    assert (features.dtype, features.shape) == (np.float32, (200, 16))
    assert np.abs(features - expected).max() < 1e-5 < expected.std(axis=0).max()
    assert np.load(tmp_path / "new" / "x.keys.npy").tolist() == [digits_webdataset.key(i) for i in range(200)]
    labels = np.load(tmp_path / "new" / "x.labels.npy")
    assert labels.dtype == np.int64
    assert labels.tolist() == digits_webdataset.ints().tolist()
    assert sorted(path.name for path in out.parent.iterdir()) == ["x.keys.npy", "x.labels.npy", "x.npy"]
    assert main(command) == 1
    assert capsys.readouterr().err == f"headrace embed: {out}: exists; --overwrite replaces it\n"
    assert main([*command, "--overwrite", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == {"out": str(out), "samples": 200, "features": 16, "left_out": {}, "network": "rotation"}
    assert np.array_equal(np.load(out), features)


@pytest.mark.peer("pyarrow")
def test_parquet_holds_the_same(
    run: Path, digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyarrow import parquet

    monkeypatch.setattr(embedding, "CHUNK_BYTES", 4 * 16 * 60)
    encoder = open_encoder(run)
    for name in ("x.npy", "x.parquet"):
        embed(encoder, digits_webdataset.path, tmp_path / name, batch_size=64, device="cpu")
    file = parquet.ParquetFile(tmp_path / "x.parquet")
    assert file.num_row_groups == 4
    table = file.read()
    assert [str(column.type) for column in table.schema] == ["string", "int64", "fixed_size_list<element: float>[16]"]
    assert table.column_names == ["key", "label", "feature"]
    assert np.array_equal(np.stack(table["feature"].to_numpy()), np.load(tmp_path / "x.npy"))
    assert table["key"].to_pylist() == np.load(tmp_path / "x.keys.npy").tolist()
    assert table["label"].to_pylist() == np.load(tmp_path / "x.labels.npy").tolist()
    said = json.loads(table.schema.metadata[b"headrace"])
    assert (said["network"], said["digest"]) == ("rotation", encoder.digest)


@pytest.mark.peer("pyarrow")
def test_samples_without_a_label_are_there(run: Path, digits_webdataset: ShardSet, tmp_path: Path) -> None:
    from pyarrow import parquet

    samples = [digits_webdataset.read(i) | {"label": i - 1} for i in range(5)]
    fields = {"image": digits_webdataset.fields["image"], "label": Field(kind="int")}
    write_shards(tmp_path / "set", samples, fields)
    for name in ("x.npy", "x.parquet"):
        assert embed(open_encoder(run), tmp_path / "set", tmp_path / name, device="cpu").samples == 5
    assert np.load(tmp_path / "x.labels.npy").tolist() == [-1, 0, 1, 2, 3]
    assert parquet.read_table(tmp_path / "x.parquet")["label"].to_pylist() == [None, 0, 1, 2, 3]


def test_bad_samples_are_named_and_left_out(
    run: Path, lenient: Path, damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.npy"
    command = ["--data", str(damaged), "--out", str(out), "--batch-size", "19", "--device", "cpu"]
    assert main(["embed", str(run), *command]) == 1
    assert "key photo_0003" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"
    assert main(["embed", str(lenient), *command]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{out}: 16 features of 17 samples, 3 bad ones left out\n"
    told = [line for line in printed.err.splitlines() if line.startswith("left out: ")]
    assert [line.split(": ")[1] for line in told] == [f"photo_{i:04d}" for i in BAD]
    kept = [i for i in range(20) if i not in BAD]
    assert np.load(tmp_path / "x.keys.npy").tolist() == [f"photo_{i:04d}" for i in kept]
    assert np.load(tmp_path / "x.labels.npy").tolist() == [-1] * 17
    with open_shards(damaged) as shards:
        samples = [shards.read(i) for i in kept]
        write_shards(tmp_path / "good", samples, shards.fields)
    with open_shards(tmp_path / "good") as good:
        assert np.abs(np.load(out) - one_by_one(run, good)).max() < 1e-5
    strict = open_encoder(lenient)
    with pytest.raises(ShardError, match="3 bad samples, more than max_bad=2"):
        embed(_with(strict, max_bad=2), damaged, tmp_path / "y.npy", device="cpu")


def _with(encoder: object, **changes: object) -> object:
    from dataclasses import replace

    return replace(encoder, **changes)  # type: ignore[type-var]


def test_features_that_are_not_finite_name_the_sample(run: Path, digits_webdataset: ShardSet, tmp_path: Path) -> None:
    encoder = open_encoder(run)
    next(encoder.backbone.parameters()).data[0] = torch.nan
    with pytest.raises(NotFiniteError, match="features of the sample 000000 are not finite"):
        embed(encoder, digits_webdataset.path, tmp_path / "x.npy", device="cpu")
    assert list(tmp_path.iterdir()) == []


def on_a_rank(rank: int, run: str, data: str, out: str, lenient: str, damaged: str) -> list[int]:
    """What each rank of two gets told."""
    digits = embed(open_encoder(run), data, Path(out) / "two.npy", batch_size=64, device="cpu")
    if rank == 0:
        require_peer("pyarrow")
    table = embed(open_encoder(run), data, Path(out) / "two.parquet", batch_size=64, device="cpu")
    bad = embed(open_encoder(lenient), damaged, Path(out) / "bad.npy", batch_size=7, device="cpu")
    refused = []
    for source, place in ((run, "refused.npy"), (run, "two.npy")):
        try:
            embed(open_encoder(source), damaged, Path(out) / place, batch_size=7, device="cpu")
        except Exception as error:
            refused.append(str(error))
    assert "key photo_0003" in refused[0]
    assert refused[1].endswith("two.npy: exists; --overwrite replaces it")
    return [digits.samples, table.samples, bad.samples, len(bad.left_out)]


@pytest.mark.peer("pyarrow")
def test_two_ranks_write_what_one_process_writes(
    run: Path, lenient: Path, digits_webdataset: ShardSet, damaged: Path, tmp_path: Path
) -> None:
    """Their batches are the same, and so, with one thread a process, are the bits here; 1e-5 is what other machines and
    numbers of threads are allowed."""
    from pyarrow import parquet

    arguments = str(run), str(digits_webdataset.path), str(tmp_path / "out"), str(lenient), str(damaged)
    told = on_ranks(on_a_rank, 2, tmp_path, *arguments)
    assert told == [[200, 200, 17, 3]] * 2
    embed(open_encoder(run), digits_webdataset.path, tmp_path / "one.npy", batch_size=64, device="cpu")
    two, one = np.load(tmp_path / "out" / "two.npy"), np.load(tmp_path / "one.npy")
    assert np.abs(two - one).max() <= 1e-5
    table = parquet.read_table(tmp_path / "out" / "two.parquet")
    assert np.array_equal(np.stack(table["feature"].to_numpy()), two)
    assert np.load(tmp_path / "out" / "two.keys.npy").tolist() == np.load(tmp_path / "one.keys.npy").tolist()
    keys = np.load(tmp_path / "out" / "bad.keys.npy").tolist()
    assert keys == [f"photo_{i:04d}" for i in range(20) if i not in BAD]
    names = [f"{name}{end}" for name in ("bad", "two") for end in (".keys.npy", ".labels.npy", ".npy")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*names, "two.parquet"])


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--out", "x.csv"], 2, "the name of a file of features ends in one of .npy, .parquet"),
        (["--out", "x.npy", "--batch-size", "0"], 2, "'0' is no whole number of at least 1"),
        (["--out", "x.npy", "--device", "gpu"], 2, "unknown 'gpu'"),
    ],
)
def test_bad_arguments(
    arguments: list[str], code: int, reason: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", str(run), "--data", str(tmp_path), *arguments]) == code
    assert reason in capsys.readouterr().err


def test_a_set_without_what_is_shown(
    run: Path, texts_webdataset: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["embed", str(run), "--data", str(texts_webdataset.path), "--out", str(tmp_path / "x.npy")]
    assert main([*command, "--device", "cpu"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "image" in line
    assert list(tmp_path.iterdir()) == []
