"""Bad samples of another program's tars: under every policy and with every engine, one bad file is one bad sample."""

from __future__ import annotations

import io
import re
import tarfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headrace.pipeline import ClipSpec, Loader, Mixed, Other, SoundSpec, TextSpec, View, ViewSpec
from headrace.pipeline.clips.clips import Clip
from headrace.pipeline.engines import CPU_ENGINES, DEVICE_ENGINES
from headrace.pipeline.faults import POLICIES
from headrace.pipeline.sounds.sounds import Sound
from headrace.shards import ShardError, ShardSet, open_shards
from headrace.tools.cli import main
from tests.clips import stacks, video
from tests.sounds import sounds

COUNT = 24
AVAILABLE = [
    pytest.param(name, marks=pytest.mark.peer(*name.split("+"))) if name in DEVICE_ENGINES else name
    for name in CPU_ENGINES
    if name != "ffcv"  # which reads .beton only
]
SPEC = ViewSpec([View(size=16, jitter=0.8, brightness=0.4)])
BAD = {2: b"", 7: b"<html>no such picture</html>", 11: b"\xff\xd8\xff", 15: b"RIFF\x20\0\0\0WEBPVP8 " + bytes(30)}
"""Samples, and what stands in the place of their pictures."""
BAD_CLASS = 19


def picture(format: str, level: int) -> bytes:
    pixels = np.random.Generator(np.random.Philox(level)).integers(0, 256, (20, 24, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format)
    return stream.getvalue()


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def pictures() -> dict[str, bytes]:
    """Half of them WebP called .jpg; pictures of `BAD` are none, and a class is no number."""
    files = {}
    for i in range(COUNT):
        files[f"{i:03d}.jpg"] = BAD[i] if i in BAD else picture("WEBP" if i % 2 else "JPEG", i)
        files[f"{i:03d}.cls"] = b"none" if i == BAD_CLASS else b"%d" % (i % 3)
    return files


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    path = write_tar(tmp_path_factory.mktemp("odd") / "0.tar", pictures())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_shards(path) as shards:
            yield shards


ALL_BAD = {*BAD, BAD_CLASS}


@pytest.mark.parametrize("engine", AVAILABLE)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_every_policy_with_every_engine(engine: str, dtype: Any, odd: ShardSet) -> None:
    for policy in POLICIES:
        with Loader(odd, SPEC, 8, engine=engine, on_error=policy, threads=2, dtype=dtype) as loader:
            if policy == "error":
                with pytest.raises(ShardError, match=r"0\.tar, offset \d+, key 0\d\d: (image|label)"):
                    list(loader)
                continue
            indices = [int(i) for batch in loader for i in batch.index]
            assert set(loader.bad) == ALL_BAD
            assert set(indices) == set(range(COUNT)) - ALL_BAD
            assert len(indices) == (COUNT if policy == "substitute" else COUNT - len(ALL_BAD))
            for sample, reason in loader.bad.items():
                assert re.match(rf"0\.tar, offset \d+, key {sample:03d}: (image|label) ", reason)


@pytest.mark.parametrize("stream", [Other(spec=SPEC), Mixed(spec=SPEC, alpha=1.0)])
def test_a_bad_class_of_another_sample(stream: Any, odd: ShardSet) -> None:
    with Loader(odd, stream, 4, on_error="skip", threads=1) as loader:
        for batch in loader:
            (others,) = batch.others.values()
            assert not ALL_BAD & set(others.index.tolist())
            assert not {BAD_CLASS, *(BAD if isinstance(stream, Mixed) else ())} & set(batch.index.tolist())
        assert BAD_CLASS in loader.bad


def test_a_set_of_bad_pictures_alone(tmp_path: Path) -> None:
    with open_shards(write_tar(tmp_path / "0.tar", {f"{i}.jpg": b"x" for i in range(4)})) as shards:
        with (
            Loader(shards, SPEC, 4) as loader,
            pytest.raises(ShardError, match=r"0\.tar, offset \d+, key \d: image is"),
        ):
            list(loader)
        with Loader(shards, SPEC, 4, on_error="skip") as loader, pytest.raises(ShardError, match="a whole batch"):
            list(loader)


def each_policy(path: Path, inputs: Any, bad: dict[int, str], count: int) -> None:
    """Every policy, for samples that are bad for a reason."""
    with open_shards(path) as shards:
        for policy in POLICIES:
            with Loader(shards, inputs, 4, on_error=policy, threads=2) as loader:
                if policy == "error":
                    with pytest.raises(ShardError, match=r"0\.tar, offset \d+, key \S+: "):
                        list(loader)
                    continue
                indices = [int(i) for batch in loader for i in batch.index]
                assert (set(loader.bad), set(indices)) == ({*bad}, {*range(count)} - {*bad})
                for sample, reason in bad.items():
                    assert re.search(reason, loader.bad[sample])


@pytest.mark.peer("tokenizers")
@pytest.mark.parametrize("ending", ["txt", "json"])
def test_texts(tmp_path: Path, ending: str) -> None:
    texts = [f"a caption of number {i}" for i in range(12)]
    files = {f"{i:02d}.{ending}": (f'["{t}"]' if ending == "json" else t).encode() for i, t in enumerate(texts)}
    files[f"03.{ending}"] = b"\xff\xfe not UTF-8"
    files[f"08.{ending}"] = b""
    path = write_tar(tmp_path / "0.tar", files)
    tokenizer = tmp_path / "tokenizer.json"
    good = write_tar(tmp_path / "good.tar", {f"{i:02d}.txt": t.encode() for i, t in enumerate(texts)})
    assert main(["tokenizer", str(good), "--vocab", "300", "--kind", "bpe", "--out", str(tokenizer)]) == 0
    spec = TextSpec(tokenizer=tokenizer, length=16, field="json" if ending == "json" else "text")
    each_policy(path, spec, {3: "key 03: cannot decode the text", 8: "key 08: .*empty"}, 12)


@pytest.mark.peer("soundfile")
def test_sounds(tmp_path: Path) -> None:
    notes = list(sounds(12))
    files = {f"{i:02d}.wav": note["audio"] for i, note in enumerate(notes)}
    files["05.wav"], files["09.wav"] = b"", b"RIFF no sound"
    path = write_tar(tmp_path / "0.tar", files)
    spec = SoundSpec([Sound(samples=800, rate=8000)])
    each_policy(path, spec, {5: "key 05: cannot decode the sound", 9: "key 09: cannot decode the sound"}, 12)


@pytest.mark.peer("av")
def test_clips(tmp_path: Path) -> None:
    files = {}
    for i, stack in enumerate(stacks(8)):
        stream = io.BytesIO()
        np.save(stream, stack["frames"])
        files[f"{i}.frames.npy"] = stream.getvalue()
    files["2.frames.npy"], files["5.frames.npy"] = b"", files["5.frames.npy"][:-100]
    path = write_tar(tmp_path / "0.tar", files)
    spec = ClipSpec([Clip(view=View(size=8), frames=4)], field="frames")
    each_policy(path, spec, {2: "key 2: cannot decode the video", 5: "key 5: cannot decode the video"}, 8)


@pytest.mark.peer("av")
def test_encoded_videos(tmp_path: Path) -> None:
    files = {f"{i}.mp4": video(first=9 * i) for i in range(8)}
    files["2.mp4"], files["4.mp4"] = b"", b"no film at all, but as long as a header is wide"
    files["5.mp4"] = files["5.mp4"][: len(files["5.mp4"]) // 2]
    path = write_tar(tmp_path / "0.tar", files)
    spec = ClipSpec([Clip(view=View(size=8), frames=4)])
    each_policy(path, spec, {i: f"key {i}: cannot decode the video" for i in (2, 4, 5)}, 8)


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.filterwarnings("default")
def test_the_commands_name_bad_samples_and_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_tar(tmp_path / "0.tar", pictures())
    code, out, _ = printed(capsys, "inspect", path)
    assert code == 0
    assert "11 jpg, 9 other; 24 wide, 20 high; 4 unreadable" in " ".join(out.split())
    assert "1 unreadable" in out
    for i in ALL_BAD:
        assert re.search(rf"unreadable: 0\.tar, offset\s+\d+, key\s+{i:03d}: ", out)
    code, _, err = printed(capsys, "inspect", path, "--sheet", tmp_path / "sheet.png", "--json")
    assert (code, (tmp_path / "sheet.png").exists()) == (0, True)
    assert sum("its place on the sheet is empty: 0.tar, offset" in line for line in err.splitlines()) == len(BAD)
    show = ("show", "views", path, "--method", "simclr", "--out", tmp_path / "views.png", "--samples", COUNT)
    code, _, err = printed(capsys, *show, "--model.size", 16)
    assert (code, (tmp_path / "views.png").exists()) == (0, True)
    assert sum("not shown: 0.tar, offset" in line for line in err.splitlines()) == len(ALL_BAD)
    code, out, _ = printed(capsys, "verify", path)
    assert code == 1
    assert sum("key 0" in line for line in out.splitlines()) == len(ALL_BAD)
    code, out, _ = printed(capsys, "inspect", path, "--duplicates")
    assert code == 0
    for format in ("webdataset", "ffcv"):
        shard = ("shard", "shards", path, tmp_path / format, "--format", format, "--max-rejects", "0.25")
        code, out, _ = printed(capsys, *shard, "--workers", 1)
        assert (code, f"{len(ALL_BAD)} samples were left out" in out) == (0, True)
        with open_shards(tmp_path / format) as shards:
            assert len(shards) == COUNT - len(ALL_BAD)
        assert printed(capsys, "verify", tmp_path / format)[0] == 0
