"""Pictures that one library or another takes amiss, from the folder to the engine: the right pixels in every way of
storing them, and what is cut rejected in every way."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from headrace.benchmarks.parity import opened
from headrace.pipeline import View, ViewSpec, plan
from headrace.pipeline.images.limits import VARIABLE
from headrace.shards import ShardSet, open_shards
from headrace.shards.manifest import Format
from headrace.tools.cli import main
from headrace.tools.conversion.convert import convert
from headrace.tools.conversion.encode import Encode
from headrace.tools.errors import UserError
from headrace.tools.upkeep.duplicates import find_duplicates
from headrace.tools.upkeep.repair import repair
from headrace.tools.upkeep.repair_plan import plan_repair
from headrace.tools.upkeep.verify import verify
from tests.odd_pictures import CUT, JPEG, WHOLE, encoded, pillows

FORMATS: tuple[Format, ...] = get_args(Format)
ENCODES: tuple[Encode, ...] = ("keep", "jpeg", "raw", "smart", "proportion")


def folder_of(path: Path, files: dict[str, bytes]) -> Path:
    """A source with a file each, named by what it is."""
    for name, data in files.items():
        ending = "png" if data[:4] == b"\x89PNG" else "jpg"
        (path / "a").mkdir(parents=True, exist_ok=True)
        (path / "a" / f"{name.replace(' ', '_')}.{ending}").write_bytes(data)
    return path


def name_of(shards: ShardSet, i: int) -> str:
    return Path(shards.key(i)).name.replace("_", " ")


def upper_left(shards: ShardSet, side: int) -> np.ndarray:
    """uint8 (N, side, side, 3) of the native engine."""
    spec, ids = ViewSpec([View(size=side, flip=0.0)]), np.arange(len(shards))
    drawn = plan(spec, 0, 0, ids, np.full((len(ids), 2), side))
    crop = np.tile(np.array([0, 0, side, side], np.int32), (len(ids), 1, 1))
    views = [np.empty((len(ids), side, side, 3), np.uint8)]
    with opened("native", shards, spec) as engine:
        engine.render(ids, shards.spans("image", ids), drawn.with_crops(crop), views)
    return views[0]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("encode", ENCODES)
def test_the_same_pixels_however_they_are_stored(encode: Encode, format: Format, tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {name: data for name, (data, _) in WHOLE.items()})
    result = convert("folder", source, tmp_path / "out", encode=encode, format=format, workers=1)
    assert (result.samples, result.rejects) == (len(WHOLE), 0)
    report = verify(tmp_path / "out")
    assert report.ok, report.problems
    with open_shards(tmp_path / "out") as shards:
        views = upper_left(shards, 64)
        for i, view in enumerate(views):
            expected = WHOLE[name_of(shards, i)][1][:64, :64].astype(int)
            stored = shards.read(i)["image"]
            made_jpeg = encode != "keep" and isinstance(stored, bytes)
            difference = np.abs(view - expected)
            assert difference.mean() <= (9 if made_jpeg else 0), name_of(shards, i)


@pytest.mark.parametrize("format", FORMATS)
def test_plain_pictures_that_are_whole_are_kept_as_they_are(format: Format, tmp_path: Path) -> None:
    """Films behind pictures and stray bytes included; texts that Pillow refuses are not handed on."""
    source = folder_of(tmp_path / "in", {name: data for name, (data, _) in WHOLE.items()})
    convert("folder", source, tmp_path / "out", format=format, workers=1)
    with open_shards(tmp_path / "out") as shards:
        stored = {name_of(shards, i): shards.read(i)["image"] for i in range(len(shards))}
    kept = {name for name, value in stored.items() if isinstance(value, bytes) and value == WHOLE[name][0]}
    samplings = {name for name in WHOLE if name.startswith("sampling")}
    assert kept == samplings | {
        "stray bytes", "motion photo", "odd JFIF", "progressive", "restart markers", "RGB in a JPEG",
    }  # fmt: skip
    for name in ("large texts", "large profile"):
        if format == "webdataset":
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(stored[name]))), WHOLE[name][1])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("encode", ENCODES)
@pytest.mark.parametrize("max_side", [None, 50])
def test_what_is_cut_is_a_reject(encode: Encode, format: Format, max_side: int | None, tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {**CUT, "good": JPEG})
    result = convert(
        "folder", source, tmp_path / "out", encode=encode, format=format, max_side=max_side, workers=1, max_rejects=1.0
    )
    assert (result.samples, result.rejects) == (1, len(CUT))
    lines = (tmp_path / "out" / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
    for line in lines:
        reason = json.loads(line)["reason"]
        assert "truncated" in reason or "broken" in reason, line


@pytest.mark.parametrize("format", FORMATS)
def test_a_set_opened_as_it_is_and_one_converted_hold_the_same(format: Format, tmp_path: Path) -> None:
    """Tars of another program, which hold what no conversion stored anew: `verify` is content, nothing is thrown away,
    and `shard shards` changes no pixel."""
    import tarfile

    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "0.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, (data, _) in WHOLE.items():
            for ending, content in (("png" if data[:4] == b"\x89PNG" else "jpg", data), ("cls", b"0")):
                info = tarfile.TarInfo(f"{name.replace(' ', '_')}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    assert verify(tmp_path / "tars").ok
    convert("shards", tmp_path / "tars", tmp_path / "out", format=format, workers=1)
    assert verify(tmp_path / "out").ok
    with open_shards(tmp_path / "tars") as before, open_shards(tmp_path / "out") as after:
        for shards in (before, after):
            assert len(shards) == len(WHOLE)
            for i, view in enumerate(upper_left(shards, 64)):
                assert np.array_equal(view, WHOLE[name_of(shards, i)][1][:64, :64]), name_of(shards, i)


def test_verify_and_repair_take_out_what_is_cut_and_nothing_else(tmp_path: Path) -> None:
    """The bytes of a file that was stored whole are overwritten, and a set's own checksums know nothing of it."""
    from headrace.shards import Field, write_shards

    files = {**{name: data for name, (data, _) in WHOLE.items()}, **CUT}
    samples = ({"__key__": name.replace(" ", "_"), "image": data} for name, data in files.items())
    write_shards(tmp_path / "set", samples, {"image": Field(kind="image", encoding="mixed")})
    report = verify(tmp_path / "set")
    named = {name for name in files if any(f"key {name.replace(' ', '_')}:" in line for line in report.problems)}
    assert named == set(CUT)
    repaired = repair(plan_repair(tmp_path / "set", report))
    assert (repaired.samples, repaired.removed) == (len(WHOLE), len(CUT))
    assert verify(tmp_path / "set").ok


@pytest.mark.peer("imagehash")
def test_duplicates_are_found_among_them(tmp_path: Path) -> None:
    from headrace.shards import Field, write_shards

    files = {
        "plain": JPEG,
        "stray": WHOLE["stray bytes"][0],
        "film": WHOLE["motion photo"][0],
        "white": encoded(WHOLE["alpha"][1], "PNG"),
        "alpha": WHOLE["alpha"][0],
        "cut": CUT["closed"],
    }
    samples = ({"__key__": name, "image": data} for name, data in files.items())
    write_shards(tmp_path / "set", samples, {"image": Field(kind="image", encoding="mixed")})
    with open_shards(tmp_path / "set") as shards:
        report = find_duplicates(shards)
    pairs = {(pair.kind, frozenset((pair.key_a, pair.key_b))) for pair in report.pairs}
    assert {("pixels", frozenset(("plain", "stray"))), ("pixels", frozenset(("plain", "film")))} <= pairs
    assert ("pixels", frozenset(("white", "alpha"))) in pairs
    assert len(report.unreadable) == 1
    assert "truncated" in report.unreadable[0]


LARGE = encoded(Image.new("RGB", (900, 600), (90, 120, 60)))


def test_the_limit_of_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A large photograph is shrunk while it is decoded, where it is to be small; else the limit is said, and raised by
    an option or the variable."""
    files = {"large": LARGE, "small": JPEG, "progressive": encoded(Image.new("RGB", (900, 600)), progressive=True)}
    source = folder_of(tmp_path / "in", files)

    def rejects(**options: Any) -> dict[str, str]:
        convert("folder", source, tmp_path / "out", workers=1, max_rejects=1.0, restart=True, **options)
        path = tmp_path / "out" / "rejects.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return {Path(json.loads(line)["key"]).name: json.loads(line)["reason"] for line in lines}

    monkeypatch.setenv(VARIABLE, "200000")
    said = rejects()
    assert set(said) == {"large", "progressive"}
    assert "900x600 pixels, more than the limit of 200,000" in said["large"]
    assert "--max-pixels" in said["large"]
    assert VARIABLE in said["large"]
    assert set(rejects(max_side=100)) == {"progressive"}
    assert set(rejects(short_side=100)) == {"progressive"}
    assert set(rejects(max_side=800)) == {"large", "progressive"}  # a half would be too small
    with open_shards(tmp_path / "out") as shards:
        assert len(shards) == 1
    assert rejects(max_pixels=540_000) == {}
    report = verify(tmp_path / "out")
    assert len([line for line in report.problems if "more than the limit of 200,000" in line]) == 2
    with pytest.raises(UserError, match=r"a repair would remove it, so nothing was changed"):
        plan_repair(tmp_path / "out", report)
    monkeypatch.setenv(VARIABLE, "540000")
    assert verify(tmp_path / "out").ok
    assert rejects() == {}
    monkeypatch.setenv(VARIABLE, "many")
    assert main(["shard", "folder", str(source), str(tmp_path / "other")]) == 1
    assert f"{VARIABLE}=many: expected a positive number of pixels" in capsys.readouterr().err


def test_pillows_own_limit_does_not_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    from headrace.pipeline.images.decode import decode_image

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert np.array_equal(decode_image(JPEG), pillows_without_limit(JPEG, monkeypatch))


def pillows_without_limit(data: bytes, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    return pillows(data)
