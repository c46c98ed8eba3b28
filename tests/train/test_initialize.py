"""A backbone that starts from another run or a file: what is taken is said, what does not fit is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from headrace.models import Method, build_method
from headrace.shards import ShardSet
from headrace.tools.cli import main
from headrace.train import ConfigError, RunConfig, load_run, train
from headrace.train.metrics import Record
from headrace.train.weights.initialize import initialize
from tests.models.tiny_methods import TINY, VIT, tiny
from tests.train.tiny_runs import final_state, same_bits, tiny_run


def backbone_of(method: Method) -> dict[str, torch.Tensor]:
    return {name: x.clone() for name, x in method.backbone.state_dict().items()}


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A file as timm's hub has them, with a classifier, and its tensors."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = timm.create_model(VIT.name, num_classes=3, **VIT.options)
    for p in model.parameters():
        p.data += 0.1
    tensors = {name: x.clone() for name, x in model.state_dict().items()}
    path = tmp_path_factory.mktemp("files") / "vit.safetensors"
    save_file(tensors, path)
    return path, tensors


def test_a_file_of_timms_names_fills_the_backbone_and_the_student(vit: tuple[Path, Any]) -> None:
    path, tensors = vit
    method = tiny("dino")
    head = method.get_submodule("head").state_dict()
    line = initialize(method, path)
    total = len(method.backbone.state_dict())
    assert line == (
        f"init: {total} of the backbone's {total} tensors are from {path}; not used: head.bias, head.weight; "
        "also given to: student"
    )
    for part in (method.backbone, method.get_submodule("student")):
        for name, x in part.state_dict().items():
            assert torch.equal(x, tensors[name]), name
    assert same_bits(dict(method.get_submodule("head").state_dict()), dict(head))


def test_what_is_missing_is_named_and_stays(vit: tuple[Path, Any], tmp_path: Path) -> None:
    _, tensors = vit
    kept = {name: x for name, x in tensors.items() if not name.startswith(("norm.", "head.", "blocks.1."))}
    save_file(kept, tmp_path / "part.safetensors")
    method = tiny("dino")
    before = backbone_of(method)
    line = initialize(method, tmp_path / "part.safetensors")
    missing = sorted(before.keys() - kept.keys())
    assert f"init: {len(kept)} of the backbone's {len(before)} tensors" in line
    assert f"missing there, left as drawn: {', '.join(missing[:3])} and {len(missing) - 3} more;" in line
    assert "not used" not in line
    after = backbone_of(method)
    assert {name for name in before if torch.equal(before[name], after[name])} >= set(missing)
    assert all(torch.equal(after[name], x) for name, x in kept.items())


@pytest.mark.parametrize("nested", ["", "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_a_state_dict_of_torch_does_too(vit: tuple[Path, Any], tmp_path: Path, nested: str, prefix: str) -> None:
    _, tensors = vit
    named = {prefix + name: x for name, x in tensors.items()}
    torch.save({nested: named, "epoch": 3} if nested else named, tmp_path / "vit.pth")
    method = tiny("dino")
    initialize(method, tmp_path / "vit.pth")
    assert all(torch.equal(x, tensors[name]) for name, x in method.backbone.state_dict().items())


def test_a_norm_of_features_is_no_hindrance(tmp_path: Path) -> None:
    """It puts the network one level deeper, in the file or in the method."""
    normed, plain = TINY["simclr"], replace(TINY["simclr"]["backbone"], feature_norm=False)
    for source, target in ((normed, {**normed, "backbone": plain}), ({**normed, "backbone": plain}, normed)):
        given, method = build_method("simclr", seed=1, **source), build_method("simclr", seed=2, **target)
        save_file({name: x.clone() for name, x in given.backbone.state_dict().items()}, tmp_path / "w.safetensors")
        initialize(method, tmp_path / "w.safetensors")
        for p, q in zip(method.backbone.parameters(), given.backbone.parameters(), strict=True):
            assert torch.equal(p, q)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (
            lambda x: {**x, "cls_token": torch.zeros(1, 1, 25)},
            r"vit\.safetensors: cls_token has the shape \(1, 1, 25\), and \(1, 1, 24\) in the method's backbone",
        ),
        (lambda x: {**x, "norm.bias": x["norm.bias"] / 0}, r"vit\.safetensors: norm\.bias is not finite"),
        (
            lambda x: {"a": torch.zeros(1), "b": torch.zeros(1)},
            r"vit\.safetensors: has no tensor of the backbone, which has cls_token, pos_embed, .* more; has a, b$",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    vit: tuple[Path, Any], tmp_path: Path, broken: Any, message: str
) -> None:
    save_file(broken(vit[1]), tmp_path / "vit.safetensors")
    method = tiny("dino")
    before = {name: x.clone() for name, x in method.state_dict().items()}
    with pytest.raises(ConfigError, match=message):
        initialize(method, tmp_path / "vit.safetensors")
    assert same_bits(dict(method.state_dict()), before)


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.safetensors").write_bytes(b"no tensors")
    (tmp_path / "text.pth").write_bytes(b"no tensors")
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    for name, message in (
        ("missing", "missing: no such run or file"),
        ("missing.safetensors", r"missing\.safetensors: cannot be read \("),
        ("empty", "empty: no checkpoint in it"),
        ("text.safetensors", r"text\.safetensors: cannot be read \("),
        ("text.pth", r"text\.pth: not a readable checkpoint \("),
        ("none.pth", r"none\.pth: holds no state dict"),
    ):
        with pytest.raises(ConfigError, match=f"^init: .*{message}") as caught:
            initialize(tiny("dino"), tmp_path / name)
        assert "\n" not in str(caught.value)


def test_code_in_a_file_is_not_executed(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.mkdir, (tmp_path / "executed",)

    torch.save({"state_dict": Code()}, tmp_path / "code.pth")
    with pytest.raises(ConfigError, match="not a readable checkpoint"):
        initialize(tiny("dino"), tmp_path / "code.pth")
    assert not (tmp_path / "executed").exists()


class Crash(Exception):
    pass


def test_a_run_starts_from_another_and_goes_on_without_it(
    digits_webdataset: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its newest checkpoint; a run that was killed goes on by its own, wherever the other one is then."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    data = digits_webdataset.path
    train(tiny_run(data, tmp_path / "first", "epochs=1"), progress=False)
    monkeypatch.chdir(tmp_path)

    def crash(record: Record) -> None:
        if record["step"] == 5:
            raise Crash

    seeds = ("seed=1", "init=first")
    train(tiny_run(data, tmp_path / "whole", *seeds), progress=False)
    said = capsys.readouterr().err
    assert re.search(r"^init: (\d+) of the backbone's \1 tensors are from .*/first$", said, re.MULTILINE)
    assert RunConfig.load(tmp_path / "whole" / "config.yaml").init == str(tmp_path / "first")
    with pytest.raises(Crash):
        train(tiny_run(data, tmp_path / "cut", *seeds), progress=False, on_step=crash)
    with pytest.raises(ConfigError, match=r"init: .* was started with '.*/first', not ''"):
        train(tiny_run(data, tmp_path / "cut", "seed=1"), progress=False)
    (tmp_path / "first").rename(tmp_path / "gone")
    capsys.readouterr()
    train(tiny_run(data, tmp_path / "cut", *seeds), progress=False)
    torch.set_num_threads(threads)
    assert "init:" not in capsys.readouterr().err
    assert same_bits(final_state(tmp_path / "cut")["model"], final_state(tmp_path / "whole")["model"])


def test_the_command_takes_it(digits_webdataset: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a learning rate of next to nothing the backbone is still the other run's."""
    first = train(tiny_run(digits_webdataset.path, tmp_path / "first", "epochs=1"), progress=False)
    tiny_run(digits_webdataset.path, "", "seed=1", "epochs=1", "optim.lr=1e-12").save(tmp_path / "run.yaml")
    arguments = ["--data", str(digits_webdataset.path), "--out", str(tmp_path / "second")]
    config = ["--config", str(tmp_path / "run.yaml"), "--init", str(first.checkpoint)]
    assert main(["train", "simclr", *arguments, *config]) == 0
    assert "of the backbone's" in capsys.readouterr().err
    ours, theirs = (load_run(tmp_path / name)[1].backbone for name in ("second", "first"))
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-9)
