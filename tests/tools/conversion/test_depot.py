"""What a conversion that was interrupted has finished: kept, looked at before it is trusted, and never mixed with what
is not its own."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import headrace.tools.conversion.convert as converting
from headrace.shards import Field, ShardError, open_shards, write_shards
from headrace.shards.remote.remote import RemoteFolder
from headrace.shards.writing import staging
from headrace.tools.conversion import workers
from headrace.tools.conversion.convert import convert
from headrace.tools.conversion.depot import LocalDepot
from headrace.tools.conversion.units import Reject
from headrace.tools.errors import UserError
from headrace.tools.upkeep.repair import repair
from headrace.tools.upkeep.repair_plan import plan_repair
from headrace.tools.upkeep.verify import verify
from tests.conftest import needs_linux

SHARD_SIZE = 9000
UNITS = 4


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converting, "FORKS", False)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 small pictures of two classes, raw pixels of which are all of the same size."""
    root = tmp_path_factory.mktemp("pictures")
    random = np.random.Generator(np.random.Philox(7))
    for i in range(12):
        folder = root / f"class-{i % 2}"
        folder.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{i:02d}.png")
    return root


def small(pictures: Path, out: Path | str, **settings: Any) -> int:
    """Samples that were done before."""
    return convert("folder", pictures, out, encode="raw", shard_size=SHARD_SIZE, workers=1, **settings).resumed


@pytest.fixture(scope="module")
def whole(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a conversion that nothing interrupts gives."""
    out = tmp_path_factory.mktemp("whole") / "set"
    small(pictures, out)
    return content(out)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Enough(BaseException):
    """Ends a conversion as a kill does, but for the lock."""


@pytest.fixture
def begun(pictures: Path, tmp_path: Path) -> Path:
    """The hidden folder of a conversion to tmp_path/set that has finished three of its units."""
    convert_some(pictures, tmp_path / "set", 3)
    return tmp_path / ".set.partial"


def convert_some(pictures: Path, out: Path | str, units: int, **settings: Any) -> None:
    real, done = workers.work, []

    def some(*arguments: Any) -> Any:
        if len(done) == units:
            raise Enough
        done.append(real(*arguments))
        return done[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "work", some)
        with pytest.raises(Enough):
            small(pictures, out, **settings)


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the units that are converted."""
    numbers: list[int] = []
    real = workers.convert_unit

    def noted(job: Any, unit: int, *rest: Any) -> Any:
        numbers.append(unit)
        return real(job, unit, *rest)

    monkeypatch.setattr(workers, "convert_unit", noted)
    return numbers


def gone(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize("damage", [gone, cut])
@pytest.mark.parametrize("name", ["shard-000000.tar", "shard-000000.index.npy", "unit.json"])
def test_a_unit_that_is_not_whole_any_more_is_done_again(
    pictures: Path, whole: dict[str, bytes], begun: Path, converted: list[int], damage: Any, name: str
) -> None:
    """As after the purge of a scratch disk."""
    damage(begun / "units" / "000001" / name)
    assert small(pictures, begun.parent / "set") == 6
    assert converted == [1, 3]
    assert content(begun.parent / "set") == whole
    assert os.listdir(begun.parent) == ["set"]


@pytest.mark.parametrize("damage", [gone, cut])
@pytest.mark.parametrize("moves", [3, 7])
def test_what_a_commit_had_moved_is_looked_at_too(
    pictures: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    converted: list[int],
    damage: Any,
    moves: int,
) -> None:
    out, kept = tmp_path / "set", tmp_path / ".set.partial"
    real, moved = os.rename, []

    def some(source: Any, target: Any) -> None:
        if Path(target).parent.name == "set" and "units" in Path(source).parts:
            if len(moved) == moves:
                raise Enough
            moved.append(target)
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", some)
        with pytest.raises(Enough):
            small(pictures, out)
    assert len(list((kept / "set").iterdir())) == moves
    damage(kept / "set" / "shard-000001.tar" if moves > 3 else kept / "units" / "000002" / "shard-000000.tar")
    converted.clear()
    assert small(pictures, out) == 9
    assert converted == [1 if moves > 3 else 2]
    assert content(out) == whole
    assert os.listdir(tmp_path) == ["set"]


@pytest.mark.parametrize("meanwhile", ["nothing", "copied", "purged", "the old set"])
def test_a_set_that_waits_for_its_name_gets_it(
    pictures: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    converted: list[int],
    meanwhile: str,
) -> None:
    out, kept = tmp_path / "set", tmp_path / ".set.partial"

    def killed(_: object) -> None:
        raise Enough

    with monkeypatch.context() as patch:
        patch.setattr(staging.Staging, "commit", killed)
        with pytest.raises(Enough):
            small(pictures, out)
    assert content(kept / "set") == whole
    if meanwhile == "copied":  # to another disk, without times
        os.utime(kept / "set" / "manifest.json", ns=(0, 0))
    elif meanwhile == "purged":
        (kept / "set" / "shard-000002.tar").unlink()
    elif (
        meanwhile == "the old set"
    ):  # all the same but the labels: what is left when the new one is renamed, then removed
        (kept / "set" / "manifest.json").write_bytes(whole["manifest.json"].replace(b"class-1", b"class-2"))
    converted.clear()
    done = small(pictures, out)
    expected: dict[str, list[int]] = {"purged": [2], "the old set": [0, 1, 2, 3]}
    assert converted == expected.get(meanwhile, [])
    assert done == 12 - 3 * len(converted)
    assert content(out) == whole
    assert os.listdir(tmp_path) == ["set"]


def test_a_file_that_goes_while_the_last_units_are_made_is_no_set(
    pictures: Path, whole: dict[str, bytes], begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = begun.parent / "set"
    write_shards(out, [{"__key__": "old", "label": 1}], {"label": Field(kind="int")})
    old = content(out)
    real = workers.convert_unit

    def losing(*arguments: Any) -> Any:
        (begun / "units" / "000000" / "shard-000000.index.npy").unlink()
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(workers, "convert_unit", losing)
        with pytest.raises(ShardError, match="000000: is not complete any more; the same command makes it anew"):
            small(pictures, out)
    assert content(out) == old
    assert small(pictures, out) == 9
    assert content(out) == whole


def test_a_disk_that_does_not_answer_throws_nothing_away(
    pictures: Path, whole: dict[str, bytes], begun: Path, monkeypatch: pytest.MonkeyPatch, converted: list[int]
) -> None:
    real = Path.read_bytes

    def failing(path: Path) -> bytes:
        if path.name == "unit.json":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path)

    before = files_below(begun)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing)
        with pytest.raises(ShardError, match="Input/output error"):
            small(pictures, begun.parent / "set")
    assert files_below(begun) == before
    assert small(pictures, begun.parent / "set") == 9
    assert converted == [3]
    assert content(begun.parent / "set") == whole


def test_other_uses_leave_a_conversion_alone(
    pictures: Path, whole: dict[str, bytes], begun: Path, converted: list[int]
) -> None:
    """Writing and repairing a set at the destination does not take what is finished for its own."""
    out = begun.parent / "set"
    before = files_below(begun)
    write_shards(out, [{"__key__": f"{i}", "label": i} for i in range(3)], {"label": Field(kind="int")})
    next(out.glob("*.npy")).unlink()
    repair(plan_repair(out, verify(out)))
    assert verify(out).ok
    with pytest.raises(ShardError, match="no samples"):
        write_shards(out, [], {"label": Field(kind="int")})
    assert files_below(begun) == before
    assert small(pictures, out) == 9
    assert converted == [3]
    assert content(out) == whole


def test_a_set_that_came_after_the_look_is_not_repaired_away(tmp_path: Path) -> None:
    """A conversion that ends between plan and repair: what was planned is of the set before."""
    path = tmp_path / "set"
    write_shards(path, [{"__key__": f"{i}", "label": i} for i in range(3)], {"label": Field(kind="int")})
    next(path.glob("*.npy")).unlink()
    plan = plan_repair(path, verify(path))
    write_shards(path, [{"__key__": f"{i}", "label": 7} for i in range(5)], {"label": Field(kind="int")})
    new = content(path)
    with pytest.raises(ShardError, match="another set has come since it was looked at; nothing was changed"):
        repair(plan)
    assert content(path) == new
    assert os.listdir(tmp_path) == ["set"]


def test_other_contents_of_the_source_are_another_conversion(
    pictures: Path, tmp_path: Path, converted: list[int]
) -> None:
    """The same names, after one file has been corrected: what was finished would be mixed with what comes."""
    source = tmp_path / "source"
    shutil.copytree(pictures, source)
    out, kept = tmp_path / "other", tmp_path / ".other.partial"
    convert_some(source, out, 3)
    before = files_below(kept)
    one = sorted(source.rglob("*.png"))[0]
    one.write_bytes(sorted(source.rglob("*.png"))[1].read_bytes())
    with pytest.raises(UserError) as caught:
        small(source, out)
    assert str(caught.value) == (
        f"{kept}: 3 finished shards are there, made with other sizes, times or contents of the source's files; go on "
        "as it began, name another OUT, or give --restart, which throws them away"
    )
    assert files_below(kept) == before
    converted.clear()
    assert small(source, out, restart=True) == 0
    assert len(converted) == UNITS
    small(source, tmp_path / "plain")
    assert content(out) == content(tmp_path / "plain")


def test_a_worker_of_another_conversion_hands_in_nothing(
    pictures: Path, whole: dict[str, bytes], begun: Path, converted: list[int]
) -> None:
    """One that outlives the process that began it, while its conversion is thrown away."""
    record = begun / "units" / "000002" / "unit.json"
    assert json.loads(record.read_bytes())["job"]
    record.write_text(json.dumps({**json.loads(record.read_bytes()), "job": "another"}), encoding="utf-8")
    assert small(pictures, begun.parent / "set") == 6
    assert converted == [2, 3]
    assert content(begun.parent / "set") == whole


def test_what_no_job_is_known_of_is_not_thrown_away(pictures: Path, begun: Path, whole: dict[str, bytes]) -> None:
    (begun / "job.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"3 finished shards are there, of an unknown conversion; .* --restart"):
        small(pictures, begun.parent / "set")
    (begun / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(
        ShardError, match=r"\.set\.partial: not cleared, because it also holds notes\.txt; move it away"
    ):
        small(pictures, begun.parent / "set", restart=True)
    (begun / "notes.txt").unlink()
    small(pictures, begun.parent / "set", restart=True)
    assert content(begun.parent / "set") == whole


@pytest.mark.parametrize("exchange", [True, False])
def test_what_comes_into_the_destination_meanwhile_stays(
    pictures: Path,
    whole: dict[str, bytes],
    begun: Path,
    converted: list[int],
    monkeypatch: pytest.MonkeyPatch,
    exchange: bool,
) -> None:
    out = begun.parent / "set"
    if not exchange:
        monkeypatch.setattr(staging, "exchange", lambda one, other: False)
    write_shards(out, [{"__key__": "old", "label": 1}], {"label": Field(kind="int")})
    old = content(out)
    real = workers.convert_unit

    def while_a_user_writes(*arguments: Any) -> Any:
        (out / "notes.txt").write_text("years of work", encoding="utf-8")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(workers, "convert_unit", while_a_user_writes)
        with pytest.raises(ShardError, match=r"also holds notes\.txt.*the finished set waits in .*\.set\.partial, and"):
            small(pictures, out)
    assert content(out) == {**old, "notes.txt": b"years of work"}
    (out / "notes.txt").unlink()
    converted.clear()
    # In the last moment, after the look at the destination.
    look = staging.check_replaceable
    looks: list[Path] = []

    def and_then(destination: Path) -> None:
        look(destination)
        looks.append(destination)
        if len(looks) == 2:
            (destination / "notes.txt").write_text("years of work", encoding="utf-8")

    with monkeypatch.context() as patch:
        patch.setattr(staging, "check_replaceable", and_then)
        assert small(pictures, out) == 12
    assert converted == []
    assert content(out) == {**whole, "notes.txt": b"years of work"}
    assert os.listdir(out.parent) == ["set"]


def test_nobody_else_begins_while_the_old_set_is_cleaned_up(
    pictures: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "set"
    write_shards(out, [{"__key__": "old", "label": 1}], {"label": Field(kind="int")})
    tried: list[str] = []
    clean_up = LocalDepot._clean_up

    def while_another_begins(depot: LocalDepot) -> None:
        with pytest.raises(ShardError, match="another process is writing this set") as caught:
            small(pictures, out)
        tried.append(str(caught.value))
        clean_up(depot)

    monkeypatch.setattr(LocalDepot, "_clean_up", while_another_begins)
    small(pictures, out)
    assert len(tried) == 1
    assert content(out) == whole
    assert os.listdir(tmp_path) == ["set"]


def test_a_finished_unit_survives_a_power_cut(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name is on the disk before the unit is reported done."""
    needs_linux("/proc/self/fd")
    events: list[tuple[str, Any]] = []
    rename, fsync, work = os.rename, os.fsync, workers.work

    def noted_fsync(descriptor: int) -> None:
        events.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def noted_rename(source: Any, target: Any) -> None:
        events.append(("rename", str(target)))
        rename(source, target)

    def noted_work(*arguments: Any) -> Any:
        record = work(*arguments)
        events.append(("done", arguments[2]))
        return record

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted_rename)
    monkeypatch.setattr(workers, "work", noted_work)
    small(pictures, tmp_path / "set")
    units = str(tmp_path / ".set.partial" / "units")
    for unit in range(UNITS):
        named = events.index(("rename", f"{units}/{unit:06d}"))
        assert ("sync", units) in events[named : events.index(("done", unit))]


def test_the_reasons_of_a_failed_try_go_with_its_success(pictures: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(pictures, source)
    (source / "class-0" / "bad.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match="1 of 13 samples"):
        small(source, tmp_path / "set", max_rejects=0.0)
    assert (tmp_path / "set.rejects.jsonl").exists()
    small(source, tmp_path / "set", max_rejects=0.5)
    assert sorted(os.listdir(tmp_path)) == ["set", "source"]


def test_a_key_that_no_tar_holds_makes_no_empty_shard(tmp_path: Path) -> None:
    """The last sample of a unit, and it would need another shard."""
    long = "x" * 150
    samples = [{"__key__": f"{i:03d}" if i < 6 else long, "bytes": bytes(2000)} for i in range(7)]
    write_shards(tmp_path / "in", samples[:6], {"bytes": Field(kind="bytes")}, format="ffcv")
    with pytest.raises(ShardError, match=f"key {long}: too long for a tar, use at most 100 bytes between two slashes"):
        write_shards(tmp_path / "tar", samples, {"bytes": Field(kind="bytes")})
    write_shards(tmp_path / "in", samples, {"bytes": Field(kind="bytes")}, format="ffcv")
    for shard_size in (1 << 13, 1 << 14, 1 << 20):
        out = tmp_path / str(shard_size)
        result = convert("shards", tmp_path / "in", out, seed=None, shard_size=shard_size, workers=1, max_rejects=0.5)
        assert (result.samples, result.rejects) == (6, 1)
        with open_shards(out, check=True) as shards:
            assert [shards.key(i) for i in range(len(shards))] == [f"{i:03d}" for i in range(6)]


def test_arrays_of_betons_are_decided_before_any_unit_is_made(
    tmp_path: Path, converted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Units that decide for themselves agree or not when all work is done, and by samples that are left out."""
    monkeypatch.setattr(converting, "MIN_SHARD_SIZE", 1)
    shapes = [(2, 2) if i in (0, 7) else (2, 3) for i in range(12)]
    samples = [
        {"__key__": f"{i:03d}", "box": np.full(shape, i, np.float32), "bytes": bytes(1 << 20)}
        for i, shape in enumerate(shapes)
    ]
    write_shards(tmp_path / "in", samples, {"box": Field(kind="array"), "bytes": Field(kind="bytes")})
    result = convert(
        "shards",
        tmp_path / "in",
        tmp_path / "set",
        format="ffcv",
        seed=None,
        workers=1,
        shard_size=4 << 20,
        max_rejects=0.2,
    )
    assert len(converted) > 2
    assert (result.samples, result.rejects) == (10, 2)
    reasons = [
        json.loads(line) for line in (tmp_path / "set" / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [(one["key"], "one type and shape, <f4 (2, 3), got <f4 (2, 2)" in one["reason"]) for one in reasons] == [
        ("000", True),
        ("007", True),
    ]
    with open_shards(tmp_path / "set") as shards:
        assert shards.fields["box"] == Field(kind="array", dtype="<f4", shape=(2, 3))


# In an object store


@pytest.fixture
def store() -> Iterator[RemoteFolder]:
    """A folder in memory."""
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.store.clear()
    yield RemoteFolder("memory://depot/set")
    memory.store.clear()


def objects(store: RemoteFolder) -> dict[str, bytes]:
    return {name: store.read(name, 0, size) for name, size in store.sizes().items()}


def test_killed_before_every_change_of_a_store(
    pictures: Path, whole: dict[str, bytes], store: RemoteFolder, converted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no set, or a whole one; the same command then ends with the same bytes, and converts nothing again."""
    step, over = 0, 0
    while True:
        step += 1
        changes = 0

        def counted(real: Any) -> Any:
            def change(*arguments: Any, **named: Any) -> Any:
                nonlocal changes
                changes += 1
                if changes == step:  # noqa: B023
                    raise Enough
                return real(*arguments, **named)

            return change

        for name in list(objects(store)):
            store.delete(name)
        with monkeypatch.context() as patch:
            kind = type(store._connected())
            for name in ("upload", "copy", "delete"):
                patch.setattr(kind, name, counted(getattr(kind, name)))
            try:
                small(pictures, store.url)
                break
            except Enough:
                pass
        left = objects(store)
        is_there = "manifest.json" in left
        if is_there:
            assert {name: held for name, held in left.items() if not name.startswith(".headrace")} == whole
        finished = sum(name.startswith(".headrace/0") and name.endswith(".json") for name in left)
        converted.clear()
        if is_there and ".headrace/job.json" not in left:
            over += 1
            with pytest.raises(ShardError, match="holds a set already"):
                small(pictures, store.url)
            expected = 0
        else:
            expected = 0 if is_there else UNITS - finished
            small(pictures, store.url)
        assert len(converted) == expected, step
        assert objects(store) == whole, step
    assert step > 30
    assert over == 1
    assert objects(store) == whole


def test_units_in_a_store_are_looked_at(
    pictures: Path, whole: dict[str, bytes], store: RemoteFolder, converted: list[int]
) -> None:
    convert_some(pictures, store.url, 3)
    store.write(".headrace/000000-shard-000000.tar", b"short")
    store.delete(".headrace/000001-shard-000000.index.npy")
    converted.clear()
    assert small(pictures, store.url) == 3
    assert converted == [0, 1, 3]
    assert objects(store) == whole


def test_what_a_commit_had_moved_in_a_store_is_looked_at(
    pictures: Path, whole: dict[str, bytes], store: RemoteFolder, converted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, moved = RemoteFolder.move, []

    def some(folder: RemoteFolder, name: str, new: str) -> None:
        if len(moved) == 5:
            raise Enough
        moved.append(new)
        real(folder, name, new)

    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "move", some)
        with pytest.raises(Enough):
            small(pictures, store.url)
    store.delete("shard-000001.tar")
    converted.clear()
    assert small(pictures, store.url) == 9
    assert converted == [1]
    assert objects(store) == whole


@pytest.mark.parametrize("place", ["folder", "store"])
def test_a_unit_that_is_made_anew_may_shift_the_numbers_of_the_shards_behind_it(
    pictures: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
    store: RemoteFolder,
    converted: list[int],
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    """At first nothing of it could be opened; all shards have the same size, and some have their names already."""
    out: Any = store.url if place == "store" else tmp_path / "set"
    real, rename, move, moved = workers.convert_unit, os.rename, RemoteFolder.move, []

    def away(job: Any, unit: int, folder: Path, *rest: Any) -> Any:
        record = real(job, unit, folder, *rest)
        if unit != 1:
            return record
        for path in folder.iterdir():
            path.unlink()
        lost = [Reject(f"{i}", f"{i}.png", "no such file", passing=True) for i in range(3)]
        return replace(record, shards=[], rejects=lost)

    def some(*arguments: Any) -> None:
        if place == "store" or Path(arguments[1]).parent.name == "set":
            if len(moved) == 4:
                raise Enough
            moved.append(arguments)
        (move if place == "store" else rename)(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(workers, "convert_unit", away)
        patch.setattr(*((RemoteFolder, "move") if place == "store" else (os, "rename")), some)
        with pytest.raises(Enough):
            small(pictures, out, max_rejects=1.0)
    converted.clear()
    assert small(pictures, out, max_rejects=1.0) == 9
    assert converted == [1]
    assert (objects(store) if place == "store" else content(out)) == whole


def test_another_job_in_a_store_throws_nothing_away(
    pictures: Path, whole: dict[str, bytes], store: RemoteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert_some(pictures, store.url, 3, quality=50)
    before = objects(store)
    with pytest.raises(UserError, match=r"\.headrace: 3 finished shards are there, made with quality 50 instead of 90"):
        small(pictures, store.url)
    assert objects(store) == before
    small(pictures, store.url, restart=True)
    assert objects(store) == whole
    store.write(".headrace/job.json", b"somebody else's")
    before = objects(store)
    with pytest.raises(ShardError, match="holds a set already"):
        small(pictures, store.url, restart=True)
    assert objects(store) == before
    store.delete("manifest.json")
    with pytest.raises(ShardError, match=r"holds shard-000000\.tar already"):
        small(pictures, store.url)


def test_a_set_that_comes_meanwhile_is_not_written_over(
    pictures: Path, store: RemoteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = workers.convert_unit

    def while_another_uploads(*arguments: Any) -> Any:
        store.write("manifest.json", b"another's")
        return real(*arguments)

    monkeypatch.setattr(workers, "convert_unit", while_another_uploads)
    with pytest.raises(ShardError, match="holds a set already"):
        small(pictures, store.url)
    assert objects(store)["manifest.json"] == b"another's"
    assert not any(name.startswith("shard-") for name in objects(store))
