"""A damaged set is repaired: what is lost is what was damaged, nothing more, at whatever moment the power fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from headrace.shards import Field, ShardSet, open_shards, write_shards
from headrace.shards.index import index_bytes
from headrace.tools.cli import main
from headrace.tools.errors import UserError
from headrace.tools.upkeep.compare import compare
from headrace.tools.upkeep.repair import RepairReport, repair
from headrace.tools.upkeep.repair_plan import plan_repair
from headrace.tools.upkeep.verify import verify
from tests import clips

FORMATS = ("webdataset", "ffcv")
FIELDS = {
    "image": Field(kind="image", encoding="mixed"),
    "label": Field(kind="int", classes=("a", "b", "c")),
    "score": Field(kind="float"),
    "text": Field(kind="text"),
    "meta": Field(kind="json"),
    "blob": Field(kind="bytes"),
    "boxes": Field(kind="array"),
}
COUNT = 60


def samples(photos: ShardSet) -> list[dict[str, Any]]:
    """Every kind of field; pictures of 100 KB, so that there are several shards."""
    found = []
    for number in range(COUNT):
        picture = photos.read(number % 36)["image"]
        raw = np.full((150, 200, 3), number, np.uint8)
        found.append(
            {
                "__key__": f"some/{number:03d}",
                "image": raw if number % 4 == 3 else picture,
                "label": number % 3,
                "score": number / 7,
                "text": f"größer {number}",
                "meta": {"n": [number, None]},
                "blob": bytes([number]) * (number % 5),
                "boxes": np.arange(8, dtype=np.float32).reshape(2, 4) + number,
            }
        )
    return found


@pytest.fixture(scope="module", params=FORMATS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, photos: ShardSet) -> Path:
    path = tmp_path_factory.mktemp("whole") / request.param
    write_shards(path, samples(photos), FIELDS, format=request.param, shard_size=1 << 20, provenance={"source": "me"})
    with open_shards(path) as shards:
        assert len(shards.manifest.shards) >= 3
    return path


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "set"))


def shard(path: Path, number: int) -> Path:
    return next(path.glob(f"shard-{number:06d}.[tb]*"))


def index(path: Path, number: int) -> Path:
    return path / f"shard-{number:06d}.index.npy"


def change(path: Path, offset: int, content: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[offset : offset + len(content)] = content
    path.write_bytes(data)


def damage_sample(path: Path, number: int, row: int) -> str:
    """Change one byte in the middle of a picture; the key of its sample."""
    record = np.load(index(path, number))[row]
    offset = int(record["image.offset"]) + int(record["image.size"]) // 2
    change(shard(path, number), offset, bytes([shard(path, number).read_bytes()[offset] ^ 0xFF]))
    return record["key"].decode()


def repaired(path: Path, **options: Any) -> RepairReport:
    report = verify(path)
    assert not report.ok
    done = repair(plan_repair(path, report), **options)
    again = verify(path)
    assert again.ok, again.problems
    assert not list(path.parent.glob(".*")), "nothing hidden is left"
    return done


def keys_of(path: Path) -> list[str]:
    with open_shards(path) as shards:
        return [shards.key(i) for i in range(len(shards))]


def assert_same_content(path: Path, whole: Path, without: set[str]) -> None:
    """`path` holds the samples of `whole` in their order, but for some."""
    assert keys_of(path) == [key for key in keys_of(whole) if key not in without]
    with open_shards(path, check=True) as found, open_shards(whole, check=True) as expected:
        differences = compare(expected, found).differences
        assert found.fields == expected.fields
    assert sorted(differences) == sorted(f"key {key}: only in {whole}" for key in without)


def quarantined(done: RepairReport) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (Path(done.quarantine) / "removed.jsonl").read_text(encoding="utf-8").splitlines()
    ]


@pytest.mark.parametrize("whole", ["webdataset"], indirect=True)
def test_a_lost_index_is_made_anew_byte_for_byte(copied: Path, whole: Path) -> None:
    for spoil in (index(copied, 1).unlink, lambda: index(copied, 2).write_bytes(b"\x93NUMPY\1\0")):
        spoil()
    done = repaired(copied)
    assert (done.samples, done.removed, done.quarantine) == (COUNT, 0, "")
    assert all("byte for byte" in line for line in done.actions)
    assert {p.name: p.read_bytes() for p in copied.iterdir()} == {p.name: p.read_bytes() for p in whole.iterdir()}


@pytest.mark.parametrize("whole", ["ffcv"], indirect=True)
def test_a_beton_whose_index_is_lost_gets_numbers_for_keys(copied: Path, whole: Path) -> None:
    index(copied, 1).unlink()
    done = repaired(copied)
    assert done.removed == 0
    assert "the keys are lost, and numbered" in done.actions[0]
    lost = [key for key in keys_of(copied) if key.startswith("lost-000001-")]
    assert len(lost) == len(np.load(index(whole, 1)))
    with open_shards(copied, check=True) as found, open_shards(whole) as expected:
        for i in range(COUNT):
            np.testing.assert_array_equal(found.read(i)["boxes"], expected.read(i)["boxes"])


def test_a_damaged_index_keeps_the_keys_that_the_checksum_proves(copied: Path, whole: Path) -> None:
    """A wrong place in the index; its keys are those of the original, as the index made with them shows."""
    records = np.load(index(copied, 1)).copy()
    records["image.offset"][2] += 512
    index(copied, 1).write_bytes(index_bytes(records))
    done = repaired(copied)
    assert done.removed == 0
    assert "byte for byte" in done.actions[0]
    assert index(copied, 1).read_bytes() == index(whole, 1).read_bytes()


def test_bad_samples_are_moved_out(copied: Path, whole: Path) -> None:
    bad = {damage_sample(copied, 0, 1), damage_sample(copied, 2, 0), damage_sample(copied, 2, 3)}
    as_found = {}
    for number, row in ((0, 1), (2, 0), (2, 3)):
        record = np.load(index(copied, number))[row]
        content = shard(copied, number).read_bytes()
        offset, size = int(record["image.offset"]), int(record["image.size"])
        as_found[record["key"].decode()] = content[offset : offset + size]
    untouched = shard(copied, 1).stat().st_ino
    (copied / "rejects.jsonl").write_text('{"key": "x"}\n', encoding="utf-8")
    done = repaired(copied)
    assert (done.samples, done.removed) == (COUNT - 3, 3)
    assert_same_content(copied, whole, bad)
    assert shard(copied, 1).stat().st_ino == untouched, "linked, not copied"
    assert (copied / "rejects.jsonl").read_text(encoding="utf-8") == '{"key": "x"}\n'
    assert json.loads((copied / "manifest.json").read_text(encoding="utf-8"))["provenance"] == {
        "source": "me",
        "removed": 3,
    }
    lines = quarantined(done)
    assert {line["key"] for line in lines} == bad
    for line in lines:
        assert "image differs from its checksum" in line["reasons"][0]
        (image,) = [name for name in line["files"] if ".image." in name]
        assert (Path(done.quarantine) / image).read_bytes() == as_found[line["key"]]
        assert any(name.endswith(".boxes.array") for name in line["files"])


def test_a_second_repair_has_its_own_quarantine(copied: Path, whole: Path) -> None:
    first = damage_sample(copied, 0, 1)
    one = repaired(copied)
    second = damage_sample(copied, 0, 1)
    two = repaired(copied)
    assert Path(one.quarantine).name == "set.quarantine-1"
    assert Path(two.quarantine).name == "set.quarantine-2"
    assert_same_content(copied, whole, {first, second})
    assert json.loads((copied / "manifest.json").read_text(encoding="utf-8"))["provenance"]["removed"] == 2


def test_a_truncated_shard_keeps_what_is_left(copied: Path, whole: Path) -> None:
    """Tar or .beton without its end: the index still says where the samples are."""
    records = np.load(index(copied, 1))
    cut = int(records["image.offset"][3]) + 10
    shard(copied, 1).write_bytes(shard(copied, 1).read_bytes()[:cut])
    inside = [
        record["key"].decode()
        for record in records
        if all(record[f"{name}.offset"] + record[f"{name}.size"] <= cut for name in FIELDS)
    ]
    assert inside
    done = repaired(copied)
    assert_same_content(copied, whole, {record["key"].decode() for record in records} - set(inside))
    assert done.removed == len(records) - len(inside)


def test_damage_outside_of_the_samples_costs_none(copied: Path, whole: Path) -> None:
    """Headers of a tar, tables of a .beton: all samples are there, and the shard is as it was."""
    change(shard(copied, 0), 100 if whole.name == "webdataset" else 16, b"\xff\xff\xff\xff")
    done = repaired(copied)
    assert done.removed == 0
    assert_same_content(copied, whole, set())
    if whole.name == "webdataset":
        assert shard(copied, 0).read_bytes() == shard(whole, 0).read_bytes()


def test_shard_and_index_are_damaged(copied: Path, whole: Path) -> None:
    """The shard still reads from end to end; a picture that does not decode goes, and the rest is called unproven."""
    record = np.load(index(copied, 1))[0]
    change(shard(copied, 1), int(record["image.offset"]) + 2, bytes(300))
    data = bytearray(index(copied, 1).read_bytes())
    data[-3] ^= 1
    index(copied, 1).write_bytes(data)
    done = repaired(copied)
    assert "nothing proves that what can be read is unchanged" in done.actions[0]
    assert done.removed == 1
    assert done.samples == COUNT - 1


def test_a_missing_shard_is_dropped_only_when_asked(copied: Path, whole: Path) -> None:
    shard(copied, 1).unlink()
    lost = {record["key"].decode() for record in np.load(index(copied, 1))}
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    plan = plan_repair(copied, verify(copied))
    with pytest.raises(UserError, match=r"shard-000001\.\w+ cannot be read, with \d+ samples; .*--drop-missing"):
        repair(plan)
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before
    done = repaired(copied, drop_missing=True)
    assert (done.dropped, done.removed) == (len(lost), 0)
    assert_same_content(copied, whole, lost)
    assert shard(copied, 1).read_bytes() == shard(whole, 2).read_bytes(), "the names have no gap"
    (line,) = quarantined(done)
    assert (line["samples"], line["files"]) == (len(lost), [])


def test_an_unreadable_shard_goes_to_the_quarantine(copied: Path, whole: Path) -> None:
    content = b"not a shard at all"
    shard(copied, 0).write_bytes(content)
    index(copied, 0).unlink()
    done = repaired(copied, drop_missing=True)
    (line,) = quarantined(done)
    assert (Path(done.quarantine) / line["files"][0]).read_bytes() == content


@pytest.mark.parametrize("whole", ["ffcv"], indirect=True)
def test_keys_that_appear_twice(copied: Path, whole: Path) -> None:
    """Only a set put together by hand has them; the first stays. Of tars the keys in the index do not count."""
    records = np.load(index(copied, 1)).copy()
    gone = records["key"][2].decode()
    records["key"][2] = np.load(index(copied, 0))["key"][0]
    content = index_bytes(records)
    index(copied, 1).write_bytes(content)
    manifest = json.loads((copied / "manifest.json").read_text(encoding="utf-8"))
    manifest["shards"][1]["index_xxh128"] = xxhash.xxh3_128_hexdigest(content)
    (copied / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    done = repaired(copied)
    assert quarantined(done)[0]["reasons"][0].endswith("the key appears twice")
    assert_same_content(copied, whole, {gone})


def test_what_cannot_be_repaired(copied: Path, tmp_path: Path) -> None:
    (copied / "notes.txt").write_text("mine", encoding="utf-8")
    index(copied, 0).unlink()
    with pytest.raises(UserError, match=r"notes\.txt, which is not of the set"):
        plan_repair(copied, verify(copied))
    (copied / "notes.txt").unlink()
    manifest = (copied / "manifest.json").read_text(encoding="utf-8")
    (copied / "manifest.json").write_text(manifest[:-9], encoding="utf-8")
    with pytest.raises(UserError, match=r"cannot be repaired: .*not valid JSON"):
        plan_repair(copied, verify(copied))
    for path in copied.glob("shard-*"):
        path.unlink()
    (copied / "manifest.json").write_text(manifest, encoding="utf-8")
    with pytest.raises(UserError, match="no sample would be left"):
        repair(plan_repair(copied, verify(copied)), drop_missing=True)


def test_a_full_disk_leaves_the_old_set(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage_sample(copied, 0, 1)
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    plan = plan_repair(copied, verify(copied))

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("headrace.tools.upkeep.rewrite.write_file", full)
    with pytest.raises(Exception, match="No space left on device; nothing was changed"):
        repair(plan)
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before


KILLER = """
    import os, shutil, signal, sys
    from pathlib import Path
    from headrace.shards import open_shards
    from headrace.tools.upkeep.repair import repair
    from headrace.tools.upkeep.repair_plan import plan_repair
    from headrace.tools.upkeep.verify import verify

    damaged, work = Path(sys.argv[1]), Path(sys.argv[2])
    EVENTS = {"open", "os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "ctypes.dlsym"}

    def die_at(step):
        seen = 0
        def hook(event, arguments):
            nonlocal seen
            if event in EVENTS:
                seen += 1
                if seen == step:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)

    def content(path):
        return {file.name: file.read_bytes() for file in path.iterdir()}

    report = verify(damaged, workers=1)
    old = content(damaged)
    shutil.copytree(damaged, work / "whole" / "set")
    repair(plan_repair(work / "whole" / "set", report, workers=1))
    new = content(work / "whole" / "set")
    step, found = 0, {"old": 0, "new": 0}
    while True:
        step += 1
        folder = work / str(step)
        path = Path(shutil.copytree(damaged, folder / "set"))
        child = os.fork()
        if child == 0:
            plan = plan_repair(path, report, workers=1)
            die_at(step)
            repair(plan)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        now = content(path)
        assert now in (old, new), f"killed at step {step}: neither the old set nor the new one"
        found["new" if now == new else "old"] += 1
        if status == 0:
            assert now == new
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        after = verify(path, workers=1)
        if not after.ok:
            repair(plan_repair(path, after, workers=1))
        assert content(path) == new, f"killed at step {step}, and not repaired by the next"
        shutil.rmtree(folder)
    print(step, found["old"], found["new"])
"""


def test_killed_at_every_step(tmp_path: Path, photos: ShardSet) -> None:
    """The process ends, as by kill -9, before its 1st, 2nd, 3rd, ... change to the file system."""
    some = [{"__key__": f"{i:03d}", "image": photos.read(i)["image"], "label": i} for i in range(12)]
    fields = {"image": Field(kind="image", encoding="jpg"), "label": Field(kind="int")}
    write_shards(tmp_path / "set", some, fields, shard_size=400_000)
    damage_sample(tmp_path / "set", 0, 1)
    index(tmp_path / "set", 1).unlink()
    program = textwrap.dedent(KILLER)
    command = [sys.executable, "-c", program, str(tmp_path / "set"), str(tmp_path / "work")]
    (tmp_path / "work").mkdir()
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    steps, old, new = map(int, done.stdout.split())
    assert steps > 20
    assert old > 10
    assert new > 1


# The command


def test_the_command_plans_and_repairs(copied: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = damage_sample(copied, 0, 1)
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    assert main(["verify", str(copied), "--repair", "--dry-run"]) == 1
    printed = capsys.readouterr()
    assert "nothing was changed" in printed.out
    assert f"remove {bad}: " in printed.err
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before
    assert main(["verify", str(copied), "--repair", "--json", "--workers", "2"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["found"]["ok"] is False
    assert told["repair"]["removed"] == 1
    assert main(["verify", str(copied), "--repair"]) == 0, "there is nothing to repair"
    assert "ok" in capsys.readouterr().out
    assert main(["verify", str(whole), str(copied)]) == 1
    assert capsys.readouterr().out.splitlines() == ["1 differences", f"  key {bad}: only in {whole}"]


def test_the_command_compares(photos: ShardSet, photos_ffcv: ShardSet, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = str(photos.path), str(photos_ffcv.path)
    assert main(["verify", one, other]) == 0
    assert capsys.readouterr().out == "the same 36 samples\n"
    assert main(["verify", one, other, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "samples": 36,
        "differences": [],
        "unread": [],
        "ok": True,
    }


@pytest.mark.parametrize("arguments", [["--drop-missing"], ["--dry-run"], ["other", "--repair"], ["--workers", "0"]])
def test_the_command_refuses(arguments: list[str], copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(copied), *arguments]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_remote_sets_are_not_repaired(capsys: pytest.CaptureFixture[str]) -> None:
    """Refused before anything is asked for: no server is there to answer."""
    assert main(["verify", "http://127.0.0.1:9/set", "--repair"]) == 2
    line = "headrace verify: http://127.0.0.1:9/set: a remote set is not repaired in place; copy it here\n"
    assert capsys.readouterr().err == line


def test_verify_is_parallel_and_counts(photos: ShardSet) -> None:
    seen: list[int] = []
    total: list[int] = []
    callbacks: dict[str, Callable[[int], None]] = {"progress": seen.append, "started": total.append}
    assert verify(photos.path, workers=3, **callbacks).ok  # type: ignore[arg-type]
    assert total == [36]
    assert seen == sorted(seen)
    assert seen[-1] == 36


@pytest.mark.peer("av")
@pytest.mark.parametrize("format", FORMATS)
def test_videos_and_sounds(tmp_path: Path, format: Any) -> None:
    """They are decoded to their end; one that was broken before it was written goes to the quarantine."""
    kinds = {"video": ("mp4", "webm", "avi"), "audio": ("flac", "mp3", "ogg")}
    some = [
        {"__key__": f"{i}", "video": clips.video(kinds["video"][i % 3]), "audio": clips.audio(kinds["audio"][i % 3])}
        for i in range(6)
    ]
    some[4]["video"] = some[4]["video"][:-200]  # type: ignore[index]
    fields = {kind: Field(kind=kind, encoding="mixed") for kind in kinds}  # type: ignore[arg-type]
    write_shards(tmp_path / "set", some, fields, format=format)
    (finding,) = verify(tmp_path / "set").findings
    assert (finding.row, "video does not decode (cut off" in finding.line) == (4, True)
    done = repaired(tmp_path / "set")
    assert done.removed == 1
    (line,) = quarantined(done)
    assert (Path(done.quarantine) / line["files"][0]).read_bytes() == some[4]["video"]
    assert keys_of(tmp_path / "set") == ["0", "1", "2", "3", "5"]
    index(tmp_path / "set", 0).unlink()
    assert repaired(tmp_path / "set").removed == 0
    with open_shards(tmp_path / "set", check=True) as shards:
        assert shards.read(4)["audio"] == some[5]["audio"]
