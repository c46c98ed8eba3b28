"""Bytes are compared with the index when they arrive, and a set that is replaced under its reader is noticed."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.pipeline import Loader, View, ViewSpec
from headrace.shards import ShardError, ShardSet, Spans, open_shards, write_shards
from headrace.shards.errors import MachineError, RemoteError
from headrace.shards.manifest import Shard, index_name, shard_name
from headrace.shards.remote.cache_slots import Slot, disk_bytes, slots, trim
from headrace.shards.remote.remote import RemoteFolder, Retry
from headrace.shards.remote.remote_set import cache_capacity
from tests.conftest import DIGIT_FIELDS, digit_samples
from tests.shards.remote_servers import EtagHandler, Faults, RangeHandler, faulty, folder_server

pytestmark = pytest.mark.peer("aiohttp")

QUICK = Retry(tries=2, pause_s=0.01, timeout_s=2.0)
SMALL, LARGE = 4096, 65536
"""Blocks: of two digits and parts of two others, and of some twenty."""

Served = tuple[str, Faults, Path]


@pytest.fixture(params=["webdataset", "ffcv"])
def local(request: pytest.FixtureRequest) -> ShardSet:
    """A set of several tars, and one of a .beton."""
    return request.getfixturevalue(f"digits_{request.param}")


def serve(folder: Path, handler: type[RangeHandler]) -> Iterator[Served]:
    with folder_server(folder.parent, handler) as upstream, faulty(upstream) as (url, faults):
        yield f"{url}/{folder.name}", faults, folder


@pytest.fixture
def served(tmp_path: Path, local: ShardSet) -> Iterator[Served]:
    """URL of a copy behind a proxy, the proxy's faults, the copy. The server does not say when files change."""
    yield from serve(Path(shutil.copytree(local.path, tmp_path / "served" / "digits")), RangeHandler)


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """Room for all of the set."""
    return {
        "cache_dir": tmp_path / "cache",
        "cache_bytes": 16 << 20,
        "block_bytes": SMALL,
        "storage_options": {"retry": QUICK},
    }


def contents(spans: Spans) -> list[bytes]:
    return [ctypes.string_at(a, n) for a, n in zip(spans.address.tolist(), spans.size.tolist(), strict=True)]


def spoil(folder: Path, shards: ShardSet, sample: int, field: str = "image") -> None:
    """Change a byte in the middle of a payload."""
    name, offset = re.match(r"(\S+), offset (\d+)", shards.where(sample, field)).groups()  # type: ignore[union-attr]
    at = int(offset) + int(shards.places(field, [sample]).size[0]) // 2
    with open(folder / name, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 255]))


# --- wrong once -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [SMALL, LARGE])
@pytest.mark.parametrize("check", [False, True])
def test_answers_that_are_wrong_once(
    block: int, check: bool, served: Served, local: ShardSet, options: dict[str, Any]
) -> None:
    url, faults, _ = served
    options["block_bytes"] = block
    every = range(len(local))
    expected = {field: contents(local.spans(field, every)) for field in local.fields}
    faults.set("scramble", every=3, match="GET .*/shard-.*(tar|beton)$")
    with open_shards(url, check=check, **options) as shards:
        for start in range(0, len(local), 7):
            ids = range(start, min(start + 7, len(local)))
            assert contents(shards.spans("image", ids)) == expected["image"][start : start + 7]
        for i in range(0, len(local), 11):
            assert np.array_equal(shards.read(i)["image"], local.read(i)["image"])
        assert faults.made >= 3
    faults.set("404", match="GET .*/shard-.*(tar|beton)$")  # what is asked for now was not kept, because it was wrong
    with open_shards(url, check=check, **options) as shards:
        right = 0
        for i in every:
            try:
                assert contents(shards.spans("image", [i])) == expected["image"][i : i + 1]
                right += 1
            except RemoteError:
                continue
    assert 0 < right < len(local)
    faults.set("")
    with open_shards(url, check=check, **options) as shards:
        for field in local.fields:
            assert contents(shards.spans(field, every)) == expected[field]


def test_version_1_has_other_checksums(tmp_path: Path, options: dict[str, Any]) -> None:
    with zipfile.ZipFile(Path(__file__).parents[2] / "data" / "version1.zip") as archive:
        archive.extractall(tmp_path / "old")
    folder = next(path.parent for path in sorted((tmp_path / "old").rglob("manifest.json")))
    with folder_server(folder) as upstream, faulty(upstream) as (url, faults), open_shards(folder) as local:
        assert local.manifest.version == 1
        field = next(iter(local.fields))
        faults.set("scramble", every=2, match="GET .*/shard-.*(tar|beton)$")
        with open_shards(url, **options) as shards:
            for i in range(len(local)):
                assert contents(shards.spans(field, [i])) == contents(local.spans(field, [i]))
            assert faults.made


# --- wrong in the store ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [SMALL, LARGE])
def test_damage_in_the_store_is_of_one_sample(
    block: int, served: Served, local: ShardSet, options: dict[str, Any]
) -> None:
    url, _, folder = served
    options["block_bytes"] = block
    right = {path: path.read_bytes() for path in folder.iterdir()}
    bad = [20, 21, 150]
    for i in bad:
        spoil(folder, local, i)
    good = [i for i in range(len(local)) if i not in bad]
    with open_shards(url, **options) as shards:
        for _ in range(2):
            assert contents(shards.spans("image", good)) == contents(local.spans("image", good))
            for i in bad:
                for use in (lambda i=i: shards.spans("image", [i]), lambda i=i: shards.read(i)):
                    with pytest.raises(ShardError) as raised:
                        use()
                    assert not isinstance(raised.value, MachineError)
                    where = re.escape(local.where(i, "image"))
                    assert re.match(
                        rf"{where}: image differs from its checksum, and so .* when fetched again from {url}",
                        str(raised.value),
                    )
        for path, content in right.items():
            path.write_bytes(content)
        every = range(len(local))
        assert contents(shards.spans("image", every)) == contents(local.spans("image", every))
    with open_shards(url, **options) as shards:
        assert contents(shards.spans("image", every)) == contents(local.spans("image", every))


def test_policies_apply_to_damage_in_the_store(served: Served, local: ShardSet, options: dict[str, Any]) -> None:
    url, _, folder = served
    for i in (33, 34):
        spoil(folder, local, i)
    spec = ViewSpec.repeat(View(size=16), 1)
    with open_shards(url, **options) as shards:
        with Loader(shards, spec, 20, threads=2, on_error="substitute") as loader:
            assert sum(len(batch.index) for batch in loader) == len(local)
            assert sorted(loader.bad) == [33, 34]
        with (
            Loader(shards, spec, 20, threads=2) as loader,
            pytest.raises(ShardError, match="differs from its checksum"),
        ):
            list(loader)


# --- replaced -------------------------------------------------------------------------------------------------------


def other_set(folder: Path) -> Path:
    """As many samples of the same sizes as in the digits of the fixtures, under other keys."""
    samples = ({**sample, "__key__": f"1{sample['__key__'][1:]}"} for sample in reversed(list(digit_samples(20))))
    write_shards(folder, samples, DIGIT_FIELDS, format="webdataset", shard_size=300_000)
    return folder


def replace_objects(folder: Path, new: Path, step: Callable[[str], None]) -> None:
    """The recipe of docs/remote.md."""
    (folder / "manifest.json").unlink()
    step("manifest.json")
    for path in sorted(new.iterdir(), key=lambda path: path.name == "manifest.json"):
        shutil.copy(path, folder / path.name)
        step(path.name)


def read_or_refuse(shards: ShardSet, expected: list[bytes]) -> int:
    """Reads every third sample; how many of them are refused because the set was replaced."""
    refused = 0
    for i in range(0, len(expected), 3):
        try:
            found = contents(shards.spans("image", [i]))
        except MachineError as error:
            if "it was replaced while it was read" not in str(error):
                raise
            refused += 1
        else:
            assert found == expected[i : i + 1]
    return refused


@pytest.mark.parametrize("handler", [RangeHandler, EtagHandler])
def test_a_set_that_is_replaced_under_its_reader(
    handler: type[RangeHandler], digits_webdataset: ShardSet, tmp_path: Path, options: dict[str, Any]
) -> None:
    """At every step of the recipe a reader gets what the set was, or a MachineError, and nobody opens a mixture."""
    folder = Path(shutil.copytree(digits_webdataset.path, tmp_path / "served" / "digits"))
    expected = contents(digits_webdataset.spans("image", range(len(digits_webdataset))))
    new = other_set(tmp_path / "new")
    assert len(list(new.iterdir())) == len(list(folder.iterdir()))
    options["cache_bytes"] = 20 * SMALL  # so that everything is fetched again and again
    for url, _, _ in serve(folder, handler):
        with open_shards(url, **options) as shards:
            shards.read(0)
            refused: list[int] = []

            def step(name: str, url: str = url, shards: ShardSet = shards, refused: list[int] = refused) -> None:
                if name.endswith(".npy"):
                    return
                if not (folder / "manifest.json").exists():
                    with pytest.raises(ShardError, match="there is no manifest"):
                        open_shards(url, **options)
                refused.append(read_or_refuse(shards, expected))

            replace_objects(folder, new, step)
            assert not refused[0]
            assert refused[-1] > len(shards) // 6
        with open_shards(url, **options) as shards, open_shards(new) as local:
            assert contents(shards.spans("image", range(20))) == contents(local.spans("image", range(20)))


@pytest.mark.parametrize("on_error", ["error", "substitute", "skip"])
def test_a_replaced_set_ends_the_loader(
    on_error: Any, digits_webdataset: ShardSet, tmp_path: Path, options: dict[str, Any]
) -> None:
    folder = Path(shutil.copytree(digits_webdataset.path, tmp_path / "served" / "digits"))
    new = other_set(tmp_path / "new")
    for url, _, _ in serve(folder, RangeHandler):
        with (
            open_shards(url, **options) as shards,
            Loader(shards, ViewSpec.repeat(View(size=16), 1), 10, prefetch=1, on_error=on_error) as loader,
        ):
            batches = iter(loader)
            next(batches)
            replace_objects(folder, new, lambda name: None)
            with pytest.raises(MachineError, match="it was replaced while it was read"):
                list(batches)
            assert not loader.bad


def test_shards_alone_that_are_replaced(digits_webdataset: ShardSet, tmp_path: Path, options: dict[str, Any]) -> None:
    """Where the store says that an object changed, before anything is said by its bytes or by the manifest."""
    folder = f"memory://{tmp_path}/set"
    assert isinstance(digits_webdataset.path, Path)
    for path in digits_webdataset.path.iterdir():
        RemoteFolder(folder).put(path, path.name)
    options["cache_bytes"] = 4 * SMALL
    with open_shards(folder, **options) as shards:
        shards.read(0)
        RemoteFolder(folder).put(digits_webdataset.path / "shard-000000.tar", "shard-000000.tar")
        with pytest.raises(MachineError, match=r"shard-000000\.tar: .*: it was replaced while it was read"):
            shards.read(40)


# --- web pages ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["manifest.json", "shard-000000.index.npy"])
def test_a_web_page_at_opening(name: str, served: Served, options: dict[str, Any]) -> None:
    url, faults, _ = served
    faults.set("page", match=name)
    with pytest.raises(RemoteError, match=rf"^{url}/{name}: the answer is a web page, not the object: a login page or"):
        open_shards(url, **options)


def test_a_manifest_that_is_a_web_page(served: Served, options: dict[str, Any]) -> None:
    """From a server that answers ranges of it, too."""
    url, _, folder = served
    (folder / "manifest.json").write_text("\n <!DOCTYPE html><html></html>", encoding="utf-8")
    with pytest.raises(RemoteError, match=rf"^{url}/manifest\.json: the answer is a web page, not the object"):
        open_shards(url, **options)


def test_web_pages_while_a_set_is_read(served: Served, local: ShardSet, options: dict[str, Any]) -> None:
    url, faults, _ = served
    with open_shards(url, **options) as shards:
        faults.set("page", every=2, match="GET .*/shard-")
        for i in range(0, len(local), 9):
            assert contents(shards.spans("image", [i])) == contents(local.spans("image", [i]))
        assert faults.made > 2
        faults.set("page", match="GET .*/shard-")
        with pytest.raises(RemoteError, match="the answer is a web page"):
            shards.spans("image", range(len(local)))
    faults.set("")
    with open_shards(url, **options) as shards:
        every = range(len(local))
        assert contents(shards.spans("image", every)) == contents(local.spans("image", every))


# --- many shards, many caches ---------------------------------------------------------------------------------------

READ_MANY = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from headrace.shards import open_shards
with open_shards(sys.argv[1], cache_dir=sys.argv[2], cache_bytes=1 << 20, block_bytes=4096) as shards:
    last = len(shards) - 1
    for i in range(0, len(shards), 97):
        shards.read(i)
    print(len(shards.manifest.shards), shards.read(last)["__key__"])
"""


def test_many_shards_under_256_descriptors(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    write_shards(folder, digit_samples(1), DIGIT_FIELDS, format="webdataset")
    with open_shards(folder) as shards:
        manifest = shards.manifest
    first = manifest.shards[0]
    many: list[Shard] = []
    for number in range(1100):
        name = shard_name(number, "webdataset")
        many.append(replace(first, name=name, index=index_name(name)))
        if number:
            os.link(folder / first.name, folder / name)
            os.link(folder / first.index, folder / index_name(name))
    (folder / "manifest.json").write_text(replace(manifest, shards=tuple(many)).to_json(), encoding="utf-8")
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 256
    with folder_server(folder) as url:
        command = [sys.executable, "-c", READ_MANY, url, str(tmp_path / "cache")]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1100", "000009"]


def test_caches_that_nobody_uses_are_removed_once_they_are_too_much(
    digits_webdataset: ShardSet, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Those of processes that were killed as well: what counts is who holds a lock."""
    assert isinstance(digits_webdataset.path, Path)
    root = options["cache_dir"]
    every = range(len(digits_webdataset))
    (root / "notes-of-mine" / "0").mkdir(parents=True)
    (root / "notes-of-mine" / "0" / "text").write_bytes(bytes(1 << 20))
    copies = [Path(shutil.copytree(digits_webdataset.path, tmp_path / "served" / name)) for name in "abc"]
    with folder_server(tmp_path / "served") as url:
        for copy in copies:
            with (
                open_shards(f"{url}/{copy.name}", **options) as one,
                open_shards(f"{url}/{copy.name}", **options) as two,
            ):
                one.spans("image", every)
                two.spans("image", every)
        made = sorted(root.glob("[abc]-*/*"))
        assert len(made) == 6
        for age, slot in enumerate(made):
            os.utime(slot, (1000 * age, 1000 * age))
        size = disk_bytes(made[0])
        assert size > digits_webdataset.manifest.bytes
        found = slots(root)
        assert [cached.path for cached in found] == made[::-1]
        assert {cached.place for cached in found} == {f"{url}/{copy.name}" for copy in copies}
        assert [cached.bytes for cached in found] == [disk_bytes(slot) for slot in made[::-1]]
        held = Slot(made[0].parent)
        assert held.path == made[0]
        trim(root, 100 * size)
        assert sorted(root.glob("[abc]-*/*")) == made
        os.utime(made[0], (0, 0))
        trim(root, 2 * size + size // 2)
        assert sorted(root.glob("[abc]-*/*")) == [made[0], *made[4:]]  # the one in use, and the last two
        assert not made[2].parent.exists()
        held.close()
        trim(root, 0)
        assert [path.name for path in root.iterdir()] == ["notes-of-mine"]
        assert (root / "notes-of-mine" / "0" / "text").exists()
        with open_shards(f"{url}/a", **{**options, "cache_bytes": 10 * SMALL}) as shards:
            assert contents(shards.spans("image", [3])) == contents(digits_webdataset.spans("image", [3]))
        with open_shards(f"{url}/b", **{**options, "cache_bytes": SMALL}):  # opening is when the others go
            assert not list(root.glob("a-*"))


def test_ranks_of_a_machine_share_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADRACE_CACHE_BYTES", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert cache_capacity(None) == 16 << 30
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert cache_capacity(None) == 2 << 30
    monkeypatch.setenv("HEADRACE_CACHE_BYTES", "8000")
    assert cache_capacity(None) == 1000
    assert cache_capacity(5000) == 5000
