"""What cannot be exported is said in one line, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from headrace.models import BackboneConfig
from headrace.pipeline import Normalize
from headrace.tools.cli import main
from headrace.tools.exporting import export as exporting
from headrace.train.encoders import open_encoder
from tests.conftest import require_peer
from tests.train.kept_runs import kept_run

OPTIONS = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16]}
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name, normalize, backbone in (
        ("plain", Normalize(), BackboneConfig(name="resnet18", options=OPTIONS)),
        ("small", Normalize(), BackboneConfig(name="resnet18", options=OPTIONS, stem="small")),
        ("normed", Normalize(), BackboneConfig(name="resnet18", options=OPTIONS, feature_norm=True)),
        ("by_view", Normalize(per_view=True), BackboneConfig(name="resnet18", options=OPTIONS)),
    ):
        kept_run(folder / name, "rotation", size=16, normalize=normalize, backbone=backbone)
    for method in ("aim", "capi", "data2vec2"):
        kept_run(folder / method, method)
    return folder


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Refused:
    def refused(*arguments: str | Path, out: Path, code: int = 1) -> str:
        before = sorted(tmp_path.rglob("*"))
        assert main(["export", *map(str, arguments), str(out)]) == code
        (line,) = capsys.readouterr().err.splitlines()
        assert sorted(tmp_path.rglob("*")) == before, "nothing is left behind"
        return line

    return refused


@pytest.mark.parametrize(
    ("run", "kind", "reason"),
    [
        ("small", "timm", "timm's resnet18 has no stem for small pictures (backbone.stem); onnx and torch hold any"),
        ("small", "safetensors", "has no stem for small pictures"),
        ("small", "transformers", "has no stem for small pictures"),
        ("capi", "timm", "its RopeEncoderPredictor is none that timm builds; onnx and torch hold any network"),
        ("aim", "timm", "its features are not what the network itself gives; onnx and torch hold any network"),
        ("data2vec2", "timm", "has parts that timm does not build by name; onnx and torch hold any network"),
        ("by_view", "timm", "its pictures are normalised each view by itself, for which timm's configuration has no"),
        ("normed", "transformers", "its features are normalised behind the pooling (backbone.feature_norm)"),
    ],
)
def test_a_format_that_cannot_hold_it(
    run: str, kind: str, reason: str, runs: Path, refused: Refused, tmp_path: Path
) -> None:
    if kind == "transformers":
        require_peer("transformers")
    out = tmp_path / ("x.safetensors" if kind == "safetensors" else "x")
    assert reason in refused(runs / run, "--to", kind, out=out)


def test_names_and_places(runs: Path, refused: Refused, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, out = runs / "plain", tmp_path / "out"
    assert "ends in .onnx" in refused(plain, "--to", "onnx", out=out)
    assert "did you mean 'torch'?" in refused(plain, "--to", "trch", out=out, code=2)
    assert "no such run, file or timm model" in refused(tmp_path / "none", "--to", "timm", out=out)
    assert main(["export", str(plain), "--to", "timm", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == f"{out}: rotation as timm, 16 features of each sample"
    assert "features differ by 0 at most" in printed
    assert refused(plain, "--to", "timm", out=out).endswith(f"{out}: exists; --overwrite replaces it")
    before = (out / "model.safetensors").read_bytes()
    assert main(["export", str(runs / "by_view"), "--to", "timm", str(out), "--overwrite"]) == 1
    capsys.readouterr()
    assert (out / "model.safetensors").read_bytes() == before, "what is there stays until the new one is whole"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work", encoding="utf-8")
    assert "no export wrote" in refused(plain, "--to", "timm", "--overwrite", out=tmp_path / "mine")


def test_overwriting_replaces_all_of_it(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    for run in ("plain", "normed"):
        assert main(["export", str(runs / run), "--to", "timm", str(out), "--overwrite"]) == 0
    names = sorted(path.name for path in tmp_path.rglob("*"))
    assert names == ["config.json", "model.safetensors", "out", "preprocessing.json"]
    encoder, again = open_encoder(runs / "normed"), open_encoder(out)
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(again.backbone(images), encoder.backbone(images), atol=1e-5)
    capsys.readouterr()


def test_other_features_are_refused(
    runs: Path, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written is looked at, not trusted."""
    way = exporting.FORMATS["timm"]
    for name, spoilt, said in (
        ("other", lambda out, batch: way.run(out, batch) * 1.001, "its features differ by"),
        ("nan", lambda out, batch: way.run(out, batch) * torch.nan, "its features differ by nan"),
    ):
        monkeypatch.setitem(exporting.FORMATS, "timm", way._replace(run=spoilt))
        assert said in refused(runs / "plain", "--to", "timm", out=tmp_path / name)


def test_a_file_of_timms_is_exported_too(tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source, kind, out in ((runs / "plain", "timm", "a"), (tmp_path / "a", "safetensors", "b.safetensors")):
        assert main(["export", str(source), "--to", kind, str(tmp_path / out)]) == 0
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        expected = open_encoder(runs / "plain").backbone(images)
        assert torch.equal(open_encoder(tmp_path / "b.safetensors").backbone(images), expected)
    capsys.readouterr()
