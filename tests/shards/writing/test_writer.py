"""A set appears whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.shards import Field, ShardError, ShardWriter, open_shards, write_back, write_shards
from headrace.shards.formats import ffcv, webdataset
from headrace.shards.lock import FileLock
from headrace.shards.manifest import Format
from headrace.shards.writing import staging as staging_module
from headrace.shards.writing import writer as writer_module

FIELDS = {"bytes": Field(kind="bytes"), "label": Field(kind="int")}
FORMATS: list[Format] = ["webdataset", "ffcv"]


def numbered(count: int, value: int = 0) -> Iterator[dict[str, Any]]:
    for i in range(count):
        yield {"__key__": f"{i:05d}", "bytes": bytes([value]) * 1000, "label": value}


def labels(path: Path) -> set[int]:
    with open_shards(path, check=True) as shards:
        return {shards.read(i)["label"] for i in range(len(shards))}


@pytest.mark.parametrize("format", FORMATS)
def test_an_old_set_is_replaced_and_nothing_is_left_beside(tmp_path: Path, format: Format) -> None:
    path = tmp_path / "set"
    for value in (1, 2, 3):
        write_shards(path, numbered(30 * value, value), FIELDS, format=format, shard_size=20_000)
        assert labels(path) == {value}
        assert os.listdir(tmp_path) == ["set"]


@pytest.mark.parametrize("format", FORMATS)
def test_open_readers_keep_the_old_set(tmp_path: Path, format: Format) -> None:
    path = tmp_path / "set"
    write_shards(path, numbered(30, 1), FIELDS, format=format)
    with open_shards(path) as old:
        write_shards(path, numbered(30, 2), FIELDS, format=format)
        assert old.read(29)["bytes"] == b"\1" * 1000
    assert labels(path) == {2}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("old", [False, True])
def test_a_failure_in_the_middle_changes_nothing(tmp_path: Path, format: Format, old: bool) -> None:
    path = tmp_path / "set"
    if old:
        write_shards(path, numbered(5, 1), FIELDS, format=format)

    def failing() -> Iterator[dict[str, Any]]:
        yield from numbered(50, 2)
        raise RuntimeError("source is gone")

    with pytest.raises(RuntimeError, match="source is gone"):
        write_shards(path, failing(), FIELDS, format=format, shard_size=10_000)
    assert os.listdir(tmp_path) == (["set"] if old else [])
    if old:
        assert labels(path) == {1}


@pytest.mark.parametrize("where", ["write", "fsync", "rename"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_is_one_line_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: Format, where: str
) -> None:
    path = tmp_path / "set"
    write_shards(path, numbered(5, 1), FIELDS, format=format)

    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if where == "write":
        monkeypatch.setattr("headrace.shards.write_back.write_parts", full)
    else:
        monkeypatch.setattr(os, where, full)
    with pytest.raises(ShardError, match="set: cannot write the set: No space left on device") as caught:
        write_shards(path, numbered(50, 2), FIELDS, format=format, shard_size=10_000)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["set"]
    assert labels(path) == {1}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_really_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of the kernel, which comes when buffers are flushed, not when they are filled."""
    import builtins

    real_open = builtins.open

    def open_full(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        return real_open("/dev/full" if str(path).endswith(".tar") else path, mode, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", open_full)
    with pytest.raises(ShardError, match="No space left on device"):
        write_shards(tmp_path / "set", numbered(3), FIELDS)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == []


KILLED = """
import sys
from headrace.shards import Field, write_shards
fields = {"bytes": Field(kind="bytes"), "label": Field(kind="int")}
samples = [{"__key__": f"{i:05d}", "bytes": bytes([2]) * 1000, "label": 2} for i in range(200)]
print("ready", flush=True)
while True:
    write_shards(sys.argv[1], samples, fields, format=sys.argv[2], shard_size=50_000)
"""


@pytest.mark.parametrize("format", FORMATS)
def test_killed_at_any_moment_there_is_a_whole_set(tmp_path: Path, format: Format) -> None:
    """A process that replaces a set again and again is killed at eight moments; each time the set is whole."""
    path = tmp_path / "set"
    write_shards(path, numbered(200, 1), FIELDS, format=format)
    for moment in range(8):
        command = [sys.executable, "-c", KILLED, str(path), format]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8")
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.003 + 0.019 * moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert len(labels(path)) == 1
        with open_shards(path) as shards:
            assert len(shards) == 200
    write_shards(path, numbered(3, 3), FIELDS, format=format)
    assert os.listdir(tmp_path) == ["set"]
    assert labels(path) == {3}


def test_without_atomic_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging_module, "exchange", lambda one, other: False)
    path = tmp_path / "set"
    for value in (1, 2):
        write_shards(path, numbered(5, value), FIELDS)
    assert labels(path) == {2}
    assert os.listdir(tmp_path) == ["set"]
    # Killed between the two renames: readers say where the old set is, the next writer puts it back.
    path.rename(tmp_path / ".set.displaced")
    with pytest.raises(ShardError, match=r"\.set\.displaced.*rename it back"):
        open_shards(path)
    with pytest.raises(ShardError, match="no samples"):
        write_shards(path, [], FIELDS)
    assert labels(path) == {2}
    write_shards(path, numbered(5, 3), FIELDS)
    assert labels(path) == {3}
    assert os.listdir(tmp_path) == ["set"]


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "set"

    def while_another_writes() -> Iterator[dict[str, Any]]:
        yield from numbered(5)
        with pytest.raises(ShardError, match="another process is writing this set"):
            write_shards(path, numbered(5), FIELDS)

    write_shards(path, while_another_writes(), FIELDS)
    assert labels(path) == {0}


def test_what_is_not_ours_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "set"
    path.mkdir()
    (path / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(ShardError, match="not empty, and not a shard set"):
        write_shards(path, numbered(5), FIELDS)
    assert (path / "thesis.tex").read_text(encoding="utf-8") == "years of work"
    (path / "thesis.tex").rename(tmp_path / "thesis.tex")
    write_shards(path, numbered(5), FIELDS)  # an empty folder is fine
    (tmp_path / "thesis.tex").rename(path / "thesis.tex")
    with pytest.raises(ShardError, match=r"also holds thesis\.tex"):
        write_shards(path, numbered(5), FIELDS)
    with pytest.raises(ShardError, match="exists and is not a folder"):
        write_shards(path / "thesis.tex", numbered(5), FIELDS)
    assert (path / "thesis.tex").exists()


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "set").symlink_to(tmp_path / "disk" / "set")
    for value in (1, 2):
        write_shards(tmp_path / "set", numbered(5, value), FIELDS)
        assert labels(tmp_path / "set") == {value}
    assert (tmp_path / "set").is_symlink()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({}, "every sample needs a non-empty str under '__key__'"),
        ({"__key__": 3}, "key 3: every sample needs"),
        ({"__key__": "a.b", "bytes": b"", "label": 1}, r"must have no '\.'"),
        ({"__key__": "../x", "bytes": b"", "label": 1}, r"must have no '\.'"),
        ({"__key__": "a/./x", "bytes": b"", "label": 1}, "no empty folder"),
        ({"__key__": "/etc/x", "bytes": b"", "label": 1}, "no empty folder"),
        ({"__key__": "a//x", "bytes": b"", "label": 1}, "no empty folder"),
        ({"__key__": "a/", "bytes": b"", "label": 1}, "no empty folder"),
        ({"__key__": "__meta__/x", "bytes": b"", "label": 1}, "no leading"),
        ({"__key__": "a\nb", "bytes": b"", "label": 1}, "printable"),
        ({"__key__": "x" * 201, "bytes": b"", "label": 1}, "at most 200 fit"),
        ({"__key__": "\ud800", "bytes": b"", "label": 1}, "not valid Unicode"),
        ({"__key__": "00000", "bytes": b"", "label": 1}, "key 00000: appears twice"),
        ({"__key__": "a", "bytes": b""}, "key a: 'label' is missing"),
        ({"__key__": "a", "bytes": b"", "label": 1, "x": 1}, "key a: 'x' is not among the fields"),
        ({"__key__": "a", "bytes": "text", "label": 1}, "key a: bytes: expected bytes, got str"),
        ({"__key__": "a", "bytes": b"", "label": 1.5}, "key a: label: expected an int, got float"),
        ({"__key__": "a", "bytes": b"", "label": True}, "key a: label: expected an int, got bool"),
        ({"__key__": "a", "bytes": b"", "label": 1 << 63}, "does not fit into 64 bits"),
    ],
)
def test_samples_that_cannot_be_written(
    tmp_path: Path, format: Format, sample: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(ShardError, match=message) as caught:
        write_shards(tmp_path / "set", [*numbered(2), sample], FIELDS, format=format)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (Field(kind="image", encoding="jpg"), b"\x89PNG\r\n\x1a\n", "PNG without its header"),
        (Field(kind="image", encoding="jpg"), b"", "empty"),
        (Field(kind="image", encoding="jpg"), b"GIF89a", "neither JPEG nor PNG"),
        (Field(kind="image", encoding="jpg"), b"\xff\xd8\xff\xe0\x00\x10JFIF", "JPEG without a frame header"),
        (Field(kind="image", encoding="jpg"), np.zeros((2, 2, 3), np.uint8), "the field says jpg, the image is raw"),
        (Field(kind="image", encoding="raw"), np.zeros((2, 2), np.uint8), r"uint8 \(H, W, 3\)"),
        (Field(kind="image", encoding="raw"), np.zeros((0, 2, 3), np.uint8), r"uint8 \(H, W, 3\)"),
        (Field(kind="image", encoding="raw"), np.zeros((2, 2, 3)), r"uint8 \(H, W, 3\)"),
        (Field(kind="image", encoding="raw"), "cat.jpg", "an image is bytes or a uint8 array, got str"),
        (Field(kind="float"), "1.5", "expected a float, got str"),
        (Field(kind="text"), b"x", "expected a str, got bytes"),
        (Field(kind="text"), "\ud800", "surrogates not allowed"),
        (Field(kind="json"), {"a": float("nan")}, "not JSON compliant"),
        (Field(kind="json"), {"a": {1, 2}}, "not JSON"),
        (Field(kind="array"), np.array([object()]), "expected an array of numbers"),
        (Field(kind="array"), [1, 2], "an array"),
    ],
)
def test_values_that_are_not_what_the_field_says(
    tmp_path: Path, format: Format, field: Field, value: Any, message: str
) -> None:
    with pytest.raises(ShardError, match=f"key a: thing: .*{message}"):
        write_shards(tmp_path / "set", [{"__key__": "a", "thing": value}], {"thing": field}, format=format)


@pytest.mark.parametrize("name", ["", "Image", "a" * 17, "9x", "__key__", "a.b", "é"])
def test_field_names_that_no_shard_holds(tmp_path: Path, name: str) -> None:
    with pytest.raises(ShardError, match="field name"):
        write_shards(tmp_path / "set", [], {name: Field(kind="int")})


def test_the_manifest_says_what_the_samples_turned_out_to_be(tmp_path: Path) -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    fields = {"image": Field(kind="image", encoding="mixed"), "box": Field(kind="array")}
    samples = [{"__key__": str(i), "image": pixels, "box": np.zeros((i, 2), ">f4")} for i in (1, 2)]
    manifest = write_shards(tmp_path / "set", samples, fields, provenance={"source": "test", "quality": 90})
    assert manifest.fields["image"].encoding == "raw"
    assert manifest.fields["box"] == Field(kind="array")
    with open_shards(tmp_path / "set") as shards:
        assert shards.manifest == manifest
        assert shards.manifest.provenance == {"source": "test", "quality": 90}
        assert shards.read(1)["box"].dtype == np.dtype("<f4")
    document = json.loads((tmp_path / "set" / "manifest.json").read_text(encoding="utf-8"))
    assert next(iter(document)) == "headrace_shards"


def test_progress_counts_samples(tmp_path: Path) -> None:
    seen: list[int] = []
    write_shards(tmp_path / "set", numbered(4), FIELDS, progress=seen.append)
    assert seen == [1, 2, 3, 4]


texts = st.text(st.characters(codec="utf-8"), max_size=20)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 60), 1 << 60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
one_sample = st.fixed_dictionaries(
    {
        "number": st.integers(-(1 << 63), (1 << 63) - 1),
        "real": st.floats(allow_nan=False),
        "blob": st.binary(max_size=2000),
        "words": texts,
        "tree": json_values,
        "image": st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 255)).map(
            lambda parts: np.full((parts[0], parts[1], 3), parts[2], np.uint8)
        ),
    }
)


@settings(max_examples=25, deadline=None)
@given(st.lists(one_sample, min_size=1, max_size=6), st.sampled_from(FORMATS), st.integers(1, 1 << 16))
def test_anything_comes_back(samples: list[dict[str, Any]], format: Format, shard_size: int) -> None:
    import tempfile

    fields = {
        "number": Field(kind="int"),
        "real": Field(kind="float"),
        "blob": Field(kind="bytes"),
        "words": Field(kind="text"),
        "tree": Field(kind="json"),
        "image": Field(kind="image", encoding="raw"),
    }
    with tempfile.TemporaryDirectory() as folder:
        keyed = [{"__key__": f"k{i}", **sample} for i, sample in enumerate(samples)]
        write_shards(Path(folder) / "set", keyed, fields, format=format, shard_size=shard_size)
        with open_shards(Path(folder) / "set", check=True) as shards:
            assert len(shards) == len(keyed)
            for i, sample in enumerate(keyed):
                found = shards.read(i)
                np.testing.assert_array_equal(found.pop("image"), sample["image"])
                assert found == {name: value for name, value in sample.items() if name != "image"}


# What is beside a destination


def test_a_folder_that_came_between_two_renames_is_not_taken_for_the_new_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an atomic exchange, a writer that is killed leaves the old set under its other name."""
    monkeypatch.setattr(staging_module, "exchange", lambda one, other: False)
    path, displaced = tmp_path / "set", tmp_path / ".set.displaced"
    write_shards(path, numbered(5, 1), FIELDS)
    path.rename(displaced)
    path.mkdir()  # by a script that prepares folders
    write_shards(path, numbered(5, 2), FIELDS)
    assert labels(path) == {2}
    path.rename(displaced)
    path.mkdir()
    (path / "notes.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(ShardError, match=r"the set that was there is .*\.set\.displaced now, and what is here is none"):
        write_shards(path, numbered(5, 3), FIELDS)
    assert labels(displaced) == {2}
    assert os.listdir(path) == ["notes.txt"]
    (path / "notes.txt").unlink()
    path.rmdir()
    write_shards(path, numbered(5, 4), FIELDS)
    assert os.listdir(tmp_path) == ["set"]
    # Killed when the old set was being removed, and something had been put into it in the last moment.
    write_shards(displaced, numbered(5, 5), FIELDS)
    next(displaced.glob("*.tar")).unlink()
    (displaced / "notes.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(ShardError, match=r"also holds notes\.txt"):
        write_shards(path, numbered(5, 6), FIELDS)
    assert (path / "notes.txt").read_text(encoding="utf-8") == "years of work"
    assert os.listdir(tmp_path) == ["set"]


@pytest.mark.parametrize("hidden", [".set.writing", ".set.repair", ".set.partial"])
def test_what_is_not_of_a_writer_is_not_removed(tmp_path: Path, hidden: str) -> None:
    (tmp_path / hidden).mkdir()
    (tmp_path / hidden / "thesis.tex").write_text("years of work", encoding="utf-8")
    if hidden == ".set.writing":
        with pytest.raises(
            ShardError, match=r"\.set\.writing: not removed, because it holds thesis\.tex.*move it away"
        ):
            write_shards(tmp_path / "set", numbered(5), FIELDS)
    else:
        write_shards(tmp_path / "set", numbered(5), FIELDS)
    assert (tmp_path / hidden / "thesis.tex").read_text(encoding="utf-8") == "years of work"


def test_what_killed_writers_have_left_goes(tmp_path: Path) -> None:
    write_shards(tmp_path / "set", numbered(5), FIELDS)
    for hidden in (".set.writing", ".set.repair"):
        (tmp_path / hidden).mkdir()
        for name in ("shard-000000.tar", ".shard-000000.index.npy.partial", "manifest.json", "rejects.jsonl"):
            (tmp_path / hidden / name).write_bytes(b"cut o")
    (tmp_path / ".set.lock").touch()
    write_shards(tmp_path / "set", numbered(5, 1), FIELDS)
    assert labels(tmp_path / "set") == {1}
    assert os.listdir(tmp_path) == ["set"]


def test_one_holds_a_lock(tmp_path: Path) -> None:
    path = tmp_path / ".set.lock"
    one, other = FileLock(path), FileLock(path)
    assert one.take()
    assert not other.take()
    assert not pickle.loads(pickle.dumps(one)).take()
    one.release()
    assert not path.exists()
    assert other.take()
    path.unlink()  # as whoever had it does between another's opening of it and its locking
    assert one.take()
    one.release()
    other.release()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("number", "can"), [(errno.ENOSYS, False), (errno.EINVAL, False), (errno.EIO, True)])
def test_a_disk_that_fails_is_not_a_system_without_exchange(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, can: bool
) -> None:
    """Then nothing is tried that leaves a moment without a set."""
    path = tmp_path / "set"
    write_shards(path, numbered(5, 1), FIELDS)

    class Failing:
        @staticmethod
        def renameat2(*_: Any) -> int:
            ctypes.set_errno(number)
            return -1

        renamex_np = renameat2

    monkeypatch.setattr(staging_module, "libc", Failing)
    if can:
        with pytest.raises(ShardError, match="Input/output error; nothing was changed"):
            write_shards(path, numbered(5, 2), FIELDS)
        assert labels(path) == {1}
    else:
        write_shards(path, numbered(5, 2), FIELDS)
        assert labels(path) == {2}
    assert os.listdir(tmp_path) == ["set"]


@pytest.mark.parametrize("damage", ["manifest", "shard"])
def test_a_set_that_cannot_be_read_back_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    path = tmp_path / "set"
    write_shards(path, numbered(5, 1), FIELDS)
    real = writer_module.write_file

    def bad(file: Path, content: bytes) -> None:
        if file.name == "manifest.json" and damage == "manifest":
            content = content.replace(b'"samples": 5', b'"samples": 0')
        elif file.name == "manifest.json":
            os.truncate(file.with_name("shard-000000.tar"), 1000)
        real(file, content)

    monkeypatch.setattr(writer_module, "write_file", bad)
    message = "cannot be read back" if damage == "manifest" else r"shard-000000\.tar: has 1,000 bytes instead of"
    with pytest.raises(ShardError, match=f"{message}.*nothing was changed"):
        write_shards(path, numbered(5, 2), FIELDS)
    assert labels(path) == {1}
    assert os.listdir(tmp_path) == ["set"]


# Samples that are refused, and writing that fails


@pytest.mark.parametrize("format", FORMATS)
def test_a_sample_that_is_refused_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: Format
) -> None:
    """Neither an empty shard nor the type of the arrays, also where it is the first, or would begin a shard."""
    monkeypatch.setattr(ffcv, "MAX_PAGE_SIZE", 1 << 21)
    monkeypatch.setattr(webdataset, "MAX_MEMBER", 1 << 21)
    fields = {"bytes": Field(kind="bytes"), "box": Field(kind="array"), "zeros": Field(kind="array")}
    good = np.ones((2, 3), np.float32)
    refused: list[dict[str, Any]] = [
        {"__key__": "a", "bytes": "text", "box": np.ones(4, np.int8), "zeros": good},
        {"__key__": "b", "bytes": bytes(3 << 20), "box": np.ones(4, np.int8), "zeros": good},
        {"__key__": "c", "bytes": b"", "box": np.ones(4, np.int8), "zeros": [0]},
    ]
    if format == "webdataset":
        refused.append({"__key__": "x" * 150, "bytes": b"", "box": good, "zeros": good})
    path = tmp_path / "set"
    with ShardWriter(path, fields, format=format, shard_size=1) as writer:
        for i in range(2):
            for sample in refused:
                with pytest.raises(ShardError, match=f"key {sample['__key__']}: "):
                    writer.add(sample)
            writer.add({"__key__": f"{i}", "bytes": b"x", "box": good, "zeros": good})
        manifest = writer.commit()
    assert [shard.samples for shard in manifest.shards] == ([1, 1] if format == "webdataset" else [2])
    assert manifest.fields["box"] == Field(kind="array", dtype="<f4", shape=(2, 3))
    with open_shards(path, check=True) as shards:
        assert [shards.key(i) for i in range(len(shards))] == ["0", "1"]


@pytest.mark.parametrize("format", FORMATS)
def test_nothing_follows_a_write_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: Format) -> None:
    """Of a sample there may be a part on the disk: a set that goes on behind it would be damaged."""
    real, fails = write_back.write_parts, [True]

    def full(file: Any, parts: Any) -> None:
        if fails[0]:
            real(file, [memoryview(parts[0])[:10]])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file, parts)

    monkeypatch.setattr(write_back, "write_parts", full)
    sample = {"bytes": bytes(1 << 20), "label": 1}
    with ShardWriter(tmp_path / "set", FIELDS, format=format) as writer:
        with pytest.raises(ShardError, match="No space left on device"):
            writer.add({"__key__": "a", **sample})
        fails[0] = False
        for go_on in (lambda: writer.add({"__key__": "b", **sample}), writer.commit):
            with pytest.raises(ShardError, match="nothing more can be written after writing has failed; begin anew"):
                go_on()
    assert os.listdir(tmp_path) == []
