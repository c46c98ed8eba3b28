"""Files of text, JSON lines and Parquet become shards: every document unchanged, every bad byte with its place."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from headrace.pipeline.texts.sentences import text_parts
from headrace.shards import Field, open_shards
from headrace.shards.errors import MachineError
from headrace.shards.manifest import Format
from headrace.tools.conversion.convert import convert
from headrace.tools.errors import UserError
from headrace.tools.sources import SOURCES, BadSample, SourceData
from headrace.tools.sources import records as records_module
from headrace.tools.upkeep.verify import verify
from tests import texts


def write_tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def read(src: Path, split: str | None = None) -> SourceData:
    return SOURCES["text"](src, split)


def listed(data: SourceData) -> dict[str, dict[str, Any]]:
    return {data.key(i): dict(data.load(i)) for i in range(data.total)}


def reason(data: SourceData, i: int) -> str:
    with pytest.raises(BadSample) as caught:
        data.load(i)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def lines(*records: Any) -> bytes:
    return "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in records).encode()


def parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


def meta(text: str, **record: Any) -> dict[str, Any]:
    return {**text_parts(text)._asdict(), **({"record": record} if record else {})}


def test_a_tree_of_classes(tmp_path: Path) -> None:
    files = {
        "art/a.txt": b"Ein Bild. Noch eins.\n\nEnde",
        "art/deep/b.md": b"\xef\xbb\xbf# Title\r\n",
        "sport/51060": b"no ending\n",
        "sport/x.1": b"a number",
        "sport/photo.jpg": b"\xff\xd8\xff",
        "sport/binary": b"\0\1\2",
        "README.txt": b"about",
    }
    data = read(write_tree(tmp_path, files))
    assert dict(data.fields) == {
        "text": Field(kind="text"),
        "meta": Field(kind="json"),
        "label": Field(kind="int", classes=("art", "sport")),
    }
    assert listed(data) == {
        "art/a": {"text": "Ein Bild. Noch eins.\n\nEnde", "label": 0, "meta": meta("Ein Bild. Noch eins.\n\nEnde")},
        "art/deep/b": {"text": "# Title\r\n", "label": 0, "meta": meta("# Title\r\n")},
        "sport/51060": {"text": "no ending\n", "label": 1, "meta": meta("no ending\n")},
        "sport/x": {"text": "a number", "label": 1, "meta": meta("a number")},
    }
    assert listed(data)["art/a"]["meta"] == {"paragraphs": [0, 22], "sentences": [0, 10, 22]}
    assert data.left_out == {".jpg": 1, ".txt about the data": 1, "without an ending": 1}
    assert data.origin(0) == f"{tmp_path}/art/a.txt"


def test_a_class_without_documents_keeps_its_number(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    data = read(write_tree(tmp_path, {"a/x.txt": b"one", "z/y.txt": b"two"}))
    assert data.fields["label"].classes == ("a", "empty", "z")
    assert [sample["label"] for sample in listed(data).values()] == [0, 2]
    assert data.left_out == {"folders of classes without documents, which keep their numbers": 1}


def test_a_disk_that_fails_is_no_bad_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path, {"a.jsonl": lines({"text": "x", "label": "a"})})

    def fail(path: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(records_module, "open_file", fail)
    with pytest.raises(MachineError, match=r"a.jsonl: Input/output error"):
        read(tmp_path)


def test_documents_beside_folders_have_no_classes(tmp_path: Path) -> None:
    data = read(write_tree(tmp_path, {"a.txt": b"one", "b/c.txt": b"two"}))
    assert set(data.fields) == {"text", "meta"}
    assert list(listed(data)) == ["a", "b/c"]
    assert list(data.notes) == [f"{tmp_path}: documents lie beside the folders, so that these are no classes"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"caf\xe9 au lait", r"offset 3: not UTF-8 (byte 0xe9, invalid continuation byte)"),
        (b"\xef\xbb\xbfok \xff", r"offset 6: not UTF-8 (byte 0xff, invalid start byte)"),
        (b"\xff\xfeh\0i\0", r"offset 0: not UTF-8 (byte 0xff, invalid start byte)"),
        (b"h\0i\0", r"offset 1: a byte of zero, as UTF-16 has, and no text in UTF-8"),
        ("é\0".encode(), r"offset 2: a byte of zero"),
        (b"cut \xc3", r"offset 4: not UTF-8 (byte 0xc3, unexpected end of data)"),
        (b"half \xed\xa0\x80", r"offset 5: not UTF-8 (byte 0xed, invalid continuation byte)"),
        (b"", "empty"),
        (b"\n \t\xe2\x80\xa8", "empty"),
    ],
)
def test_bad_bytes_are_named(tmp_path: Path, content: bytes, expected: str) -> None:
    files = {f"{name}.txt": b"good" for name in "abcd"} | {"bad.txt": content}
    data = read(write_tree(tmp_path / "tree", files))
    assert expected in reason(data, 2)
    result = convert("text", tmp_path / "tree", tmp_path / "out", max_rejects=0.5, workers=1)
    assert (result.samples, result.rejects) == (4, 1)
    (reject,) = map(json.loads, (tmp_path / "out" / "rejects.jsonl").read_text(encoding="utf-8").splitlines())
    assert reject["source"] == f"{tmp_path}/tree/bad.txt"
    assert expected in reject["reason"]


def test_json_lines(tmp_path: Path) -> None:
    content = lines({"text": "Eins. Zwei.", "label": "sport", "url": "a", "n": [1, None]}) + b"\n  \r\n"
    content += lines({"label": "art", "text": "drei"}, {"text": "vier", "label": None}).rstrip(b"\n")
    data = read(write_tree(tmp_path, {"data.jsonl": content}))
    assert data.fields["label"] == Field(kind="int", classes=("art", "sport"))
    assert listed(data) == {
        "data/00000001": {"text": "Eins. Zwei.", "label": 1, "meta": meta("Eins. Zwei.", url="a", n=[1, None])},
        "data/00000004": {"text": "drei", "label": 0, "meta": meta("drei")},
        "data/00000005": {"text": "vier", "label": -1, "meta": meta("vier")},
    }
    begin = content.index(b'{"label"')
    assert data.origin(1) == f"{tmp_path}/data.jsonl, line 4, offset {begin}"
    assert listed(read(tmp_path / "data.jsonl")) == listed(data)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"text": "caf\xe9"}', "offset 30: not UTF-8 (byte 0xe9, invalid continuation byte)"),
        (b'{"text": ', "offset 26: bad JSON (Expecting value)"),
        ('{"é": 1, x}'.encode(), "offset 27: bad JSON (Expecting property name enclosed in double quotes)"),
        (b'["text"]', "expected a JSON object, found list"),
        (b'{"text": "x", "score": NaN}', "bad JSON (NaN is no JSON)"),
        (b'{"text": "x", "text": "y"}', "bad JSON (the key 'text' appears twice)"),
        (b'{"txt": "x"}', "has no text under 'text'"),
        (b'{"text": 7}', "has no text under 'text'"),
        (b'{"text": " "}', "empty"),
        (b'{"text": "\\ud800"}', "character 0 of the text is half of a surrogate pair"),
        (b'{"text": "a\\u0000"}', "offset 1: a byte of zero"),
        (b'{"text": "x", "note": "\\ud800"}', "bad JSON"),
        (b'{"text": "x", "deep": ' + b"[" * 100_000, "bad JSON"),
        (b"\0" * 9, "offset 17: a byte of zero"),
    ],
)
def test_a_damaged_line_costs_one_document(tmp_path: Path, line: bytes, expected: str) -> None:
    content = lines({"text": "good"}) + line + b"\n" + lines({"text": "good"})
    data = read(write_tree(tmp_path, {"data.jsonl": content}))
    assert data.load(0)["text"] == data.load(2)["text"] == "good"
    assert expected in reason(data, 1)
    assert data.origin(1) == f"{tmp_path}/data.jsonl, line 2, offset 17"


def test_labels_of_records(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a.jsonl": lines(*({"text": "x", "label": label} for label in (3, 0, None, "x", True, -2)))})
    data = read(tmp_path)
    assert data.fields["label"] == Field(kind="int")
    assert [data.load(i)["label"] for i in range(3)] == [3, 0, -1]
    assert [reason(data, i) for i in (3, 4, 5)] == [
        "label 'x' is no class",
        "label True is no class",
        "label -2 is no class",
    ]
    write_tree(tmp_path, {"a.jsonl": lines({"text": "x", "label": [1]}, {"content": "x"})})
    data = read(tmp_path)
    assert data.load(0)["meta"]["record"] == {"label": [1]}
    assert reason(data, 1) == "has no text under 'text'"


@pytest.mark.peer("pyarrow")
def test_parquet(tmp_path: Path) -> None:
    import pyarrow as pa

    said = {"info": {"features": {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}}}
    table = pa.table(
        {
            "text": pa.array(["Eins. Zwei.", "drei", None, "", "fünf"]),
            "label": pa.array([1, 0, 1, 0, None]),
            "score": pa.array([0.5, float("nan"), 1, 1, None]),
            "tags": pa.array([["a"], [], None, None, ["b", "c"]]),
            "picture": pa.array([b"\xff"] * 5),
        }
    ).replace_schema_metadata({"huggingface": json.dumps(said)})
    import pyarrow.parquet as pq

    pq.write_table(table, tmp_path / "data.parquet", row_group_size=2)
    data = read(tmp_path)
    assert data.fields["label"] == Field(kind="int", classes=("neg", "pos"))
    first = {"text": "Eins. Zwei.", "label": 1, "meta": meta("Eins. Zwei.", score=0.5, tags=["a"])}
    assert data.load(0) == first
    assert data.load(1) == {"text": "drei", "label": 0, "meta": meta("drei", score=None, tags=[])}
    assert data.load(4) == {"text": "fünf", "label": -1, "meta": meta("fünf", score=None, tags=["b", "c"])}
    assert [reason(data, i) for i in (2, 3)] == ["has no text under 'text'", "empty"]
    assert (data.key(4), data.origin(4)) == ("data/00000004", f"{tmp_path}/data.parquet, row 4")
    (note,) = data.notes
    assert note == f"{tmp_path}/data.parquet: columns that JSON cannot hold are left out: picture (binary)"


@pytest.mark.peer("pyarrow")
def test_parquet_whose_strings_are_no_utf8(tmp_path: Path) -> None:
    import pyarrow as pa

    bad = pa.array([b"good", b"caf\xe9"]).cast(pa.binary()).view(pa.string())
    data = read(parquet(tmp_path / "x.parquet", {"text": bad}))
    assert data.load(0)["text"] == "good"
    assert reason(data, 1) == "column text, offset 3: not UTF-8 (byte 0xe9, unexpected end of data)"


@pytest.mark.peer("pyarrow")
def test_damaged_parquet_is_one_line(tmp_path: Path) -> None:
    good = parquet(tmp_path / "x.parquet", {"text": ["abc"] * 1000}).read_bytes()
    for content in (b"", b"PAR1", good[:-9], good[: len(good) // 2], good[:40] + bytes(40) + good[80:]):
        (tmp_path / "x.parquet").write_bytes(content)
        with pytest.raises(UserError, match=r"x.parquet: .*(damaged Parquet|empty)") as caught:
            read(tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.peer("pyarrow")
def test_more_files_than_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    for number in range(80):
        kind = tmp_path / ("lines" if number % 2 else "parquet")
        if number % 2:
            write_tree(kind, {f"{number:02d}.jsonl": lines({"text": f"document {number}"})})
        else:
            parquet(kind / f"{number:02d}.parquet", {"text": [f"document {number}"]})
    open_now = len(os.listdir("/proc/self/fd"))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 30, limits[1]))
    try:
        data = read(tmp_path)
        found = sorted(data.load(i)["text"] for i in range(data.total))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert found == sorted(f"document {number}" for number in range(80))


@pytest.mark.parametrize(
    ("names", "split", "expected"),
    [
        (("train.jsonl", "test.jsonl"), None, ["train.jsonl"]),
        (("train.jsonl", "test.jsonl"), "test", ["test.jsonl"]),
        (("train.jsonl", "test.jsonl"), ".", ["test.jsonl", "train.jsonl"]),
        (("data/train-0-of-2.jsonl", "data/train-1.jsonl", "data/val.jsonl"), None,
         ["data/train-0-of-2.jsonl", "data/train-1.jsonl"]),
        (("train/a.jsonl", "test/a.jsonl"), "test", ["test/a.jsonl"]),
        (("trainers.jsonl", "b.jsonl"), None, ["b.jsonl", "trainers.jsonl"]),
        (("train.jsonl", "b.jsonl"), None, "lie beside .*b.jsonl, which is of no split"),
        (("train.jsonl",), "test", r"has no files of records of 'test' \(found the splits train"),
        (("b.jsonl",), "test", r"has no files of records of 'test' \(found no splits"),
    ],
)  # fmt: skip
def test_splits_of_records(tmp_path: Path, names: tuple[str, ...], split: str | None, expected: Any) -> None:
    write_tree(tmp_path, {name: lines({"text": name}) for name in names})
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            read(tmp_path, split)
    else:
        data = read(tmp_path, split)
        assert [data.load(i)["text"] for i in range(data.total)] == expected


def test_splits_of_texts(tmp_path: Path) -> None:
    write_tree(tmp_path, {"train/a/x.txt": b"one", "test/a/y.txt": b"two"})
    assert list(listed(read(tmp_path))) == ["a/x"]
    assert list(listed(read(tmp_path, "test"))) == ["a/y"]
    with pytest.raises(UserError, match="has no folder 'val'"):
        read(tmp_path, "val")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "holds no documents"),
        ({"a.jpg": b"x"}, r"holds no documents .*; it holds .jpg 1"),
        ({"a.jsonl.gz": b"x"}, r"unpack what ends in .gz"),
        ({"a.txt": b"x", "b.jsonl": b'{"text": "x"}'}, r"a.txt and .*b.jsonl; name the folder, or the file, of one"),
        ({"b.jsonl": b'{"title": "x"}'}, r"under none of text, .*; it has 'title'"),
        ({"b.jsonl": b"{]\n\n"}, r"no record can be read of .*b.jsonl$"),
        ({"b.jsonl": b""}, r"no record can be read of .*b.jsonl$"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, files: dict[str, bytes], expected: str) -> None:
    (tmp_path / "src").mkdir()
    with pytest.raises(UserError, match=expected) as caught:
        read(write_tree(tmp_path / "src", files))
    assert "\n" not in str(caught.value)


def test_odd_places(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file or folder"):
        read(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="named pipe"):
        read(tmp_path / "pipe")
    write_tree(tmp_path, {"book.tex": b"any ending, if it is named"})
    assert listed(read(tmp_path / "book.tex"))["book"]["text"] == "any ending, if it is named"
    with pytest.raises(UserError, match="one file has no splits"):
        read(tmp_path / "book.tex", "val")
    with pytest.raises(UserError, match=r"lies in .*, which is read as a whole"):
        convert("text", tmp_path, tmp_path / "out")


def test_shard_sets_and_json_that_is_no_record_are_left_out(tmp_path: Path) -> None:
    files = {"a.jsonl": lines({"text": "x"}), "info.json": b'{\n "text": 1\n}', "c4.json": lines({"text": "y"})}
    src = write_tree(tmp_path / "src", files)
    convert("text", src, tmp_path / "set", workers=1)
    (tmp_path / "set").rename(src / "old")
    data = read(src)
    assert [data.load(i)["text"] for i in range(data.total)] == ["x", "y"]
    assert data.left_out == {".json": 1, "shard sets": 1}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Paragraphs as JSON lines in two files, one of them bad."""
    root = tmp_path_factory.mktemp("corpus")
    found = [{"text": text, "label": "ab"[number % 2], "n": number} for number, text in enumerate(texts.paragraphs())]
    bad = b'{"text": "\xff", "label": "a"}\n'
    return write_tree(root, {"one.jsonl": lines(*found[:100]) + bad, "two.jsonl": lines(*found[100:])})


@pytest.mark.parametrize("format", ["webdataset", "ffcv"])
def test_every_document_comes_back(corpus: Path, tmp_path: Path, format: Format) -> None:
    """Whatever the number of workers the same bytes, and whole."""
    size = {"webdataset": 60_000, "ffcv": 6 << 20}[format]
    for workers in (1, 2):
        out = tmp_path / str(workers)
        result = convert("text", corpus, out, format=format, shard_size=size, workers=workers)
        assert (result.samples, result.rejects) == (len(texts.paragraphs()), 1)
    one, two = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in "12")
    assert one == two
    assert format == "ffcv" or len(one) > 6
    with open_shards(tmp_path / "1", check=True) as shards:
        found = {sample["meta"]["record"]["n"]: sample for sample in map(shards.read, range(len(shards)))}
        for number, text in enumerate(texts.paragraphs()):
            assert found[number]["text"] == text
            assert found[number]["label"] == number % 2
            assert found[number]["meta"]["sentences"] == text_parts(text).sentences
    assert not verify(tmp_path / "1").problems


def test_a_killed_conversion_goes_on(corpus: Path, tmp_path: Path) -> None:
    convert("text", corpus, tmp_path / "whole", shard_size=20_000, workers=1)
    code = (
        "import sys, time; from headrace.tools.conversion import units; from headrace.tools.conversion.convert import "
        "convert; load = units.load\n"
        "def slow(*rest):\n time.sleep(0.004); return load(*rest)\n"
        "units.load = slow; convert('text', sys.argv[1], sys.argv[2], shard_size=20_000, workers=1)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(corpus), str(tmp_path / "killed")])
    try:
        for _ in range(600):
            time.sleep(0.05)
            if len(list((tmp_path / ".killed.partial").glob("units/[0-9]*/unit.json"))) >= 2:
                break
        else:
            pytest.fail("no unit came")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    again = convert("text", corpus, tmp_path / "killed", shard_size=20_000, workers=1)
    assert again.resumed > 0
    whole, killed = ({f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in ("whole", "killed"))
    assert whole == killed


def test_another_line_is_another_job(tmp_path: Path) -> None:
    src = write_tree(tmp_path, {"a.jsonl": lines({"text": "x"})})
    before = read(src).fingerprint
    assert read(src).fingerprint == before
    write_tree(tmp_path, {"a.jsonl": lines({"text": "x"}, {"text": "y"})})
    assert read(src).fingerprint != before


def test_a_document_over_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records_module, "MAX_DOCUMENT", 30)
    data = read(write_tree(tmp_path, {"a.jsonl": lines({"text": "x"}, {"text": "x" * 40})}))
    assert data.load(0)["text"] == "x"
    assert reason(data, 1) == "52 bytes, more than the limit of 30"
