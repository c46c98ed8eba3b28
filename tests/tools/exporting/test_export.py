"""What is exported makes the same features in a process that has no Headrace."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import timm
import torch
from timm.data import resolve_model_data_config

from headrace.models import BackboneConfig
from headrace.pipeline import Batch, Normalize, TextSpec
from headrace.pipeline.texts.texts import Texts
from headrace.tools.cli import main
from headrace.tools.exporting import export as exporting
from headrace.train.encoders import Encoder, open_encoder
from tests import texts
from tests.train.kept_runs import kept_run

RESNET = BackboneConfig(name="resnet18", options={"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16]})
VIT_OPTIONS = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 2}
NORMALIZE = Normalize(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
SMALL_STEM = BackboneConfig(name=RESNET.name, options=RESNET.options, stem="small")
FEATURE_NORM = BackboneConfig(name=RESNET.name, options=RESNET.options, feature_norm=True)
VIT = BackboneConfig(name="vit_tiny_patch16_224", options=VIT_OPTIONS)
TEXTUAL = ("bert", "roberta", "t5", "albert", "bart", "electra", "simcse", "modernbert")
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("rotation", {"size": 32, "normalize": NORMALIZE, "backbone": RESNET}),
    "normed": ("rotation", {"size": 32, "backbone": FEATURE_NORM}),
    "small": ("rotation", {"size": 16, "backbone": SMALL_STEM}),
    "vit": ("rotation", {"size": 16, "backbone": VIT}),
    "mae": ("mae", {}),
    "ijepa": ("ijepa", {}),
    "capi": ("capi", {}),
    "by_view": ("rotation", {"size": 24, "normalize": Normalize(per_view=True), "backbone": RESNET}),
    **{name: (name, {}) for name in TEXTUAL},
}  # fmt: skip
"""Method and the fields of its config, by a name of ours."""
EXPORTS = [
    ("resnet", "timm"), ("resnet", "safetensors"), ("resnet", "transformers"),
    ("normed", "timm"), ("small", "onnx"), ("small", "torch"), ("vit", "timm"), ("mae", "timm"),
    ("mae", "transformers"), ("ijepa", "safetensors"), ("capi", "torch"), ("by_view", "safetensors"),
    *((name, "transformers") for name in TEXTUAL), ("bert", "onnx"), ("t5", "torch"), ("simcse", "torch"),
]  # fmt: skip
OUTSIDE = """
import importlib.util, json, sys
here, packages, jobs = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
sys.path[:0] = packages
assert importlib.util.find_spec("headrace") is None
import numpy as np, timm, torch
torch.set_grad_enabled(False)

def run(kind, path, given):
    tensors = {name: torch.from_numpy(x) for name, x in given.items()}
    if kind == "timm":
        return timm.create_model("local-dir:" + path, pretrained=True).eval()(tensors["images"])
    if kind == "safetensors":
        from safetensors import safe_open
        from safetensors.torch import load_file
        with safe_open(path, framework="pt") as file:
            said = json.loads(file.metadata()["headrace"])
        model = timm.create_model(said["architecture"], num_classes=said["num_classes"], **said["model_args"])
        model.load_state_dict(load_file(path))
        return model.eval()(tensors["images"])
    if kind == "transformers":
        from transformers import AutoModel
        model = AutoModel.from_pretrained(path, local_files_only=True).eval()
        if "images" in tensors:
            return model(pixel_values=tensors["images"]).pooler_output
        with open(path + "/preprocessing.json") as file:
            pooling = json.load(file)["pooling"]
        if model.config.is_encoder_decoder:
            model = model.get_encoder()
        if model.config.model_type not in ("bert", "electra", "albert"):
            del tensors["token_type_ids"]
        states = model(**tensors).last_hidden_state
        if pooling == "first":
            return states[:, 0]
        weight = tensors["attention_mask"][:, :, None].float()
        return (states * weight).sum(1) / weight.sum(1)
    if kind == "onnx":
        import onnxruntime
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(["features"], given)[0])
    return torch.export.load(path).module()(*tensors.values())

for name, kind, path in jobs:
    given = dict(np.load(f"{here}/{name}.npz"))
    np.save(f"{here}/{name}.{kind}.npy", run(kind, path, given).numpy())
    one = {argument: x[1:2] for argument, x in given.items()}
    np.save(f"{here}/{name}.{kind}.one.npy", run(kind, path, one).numpy())
assert not [name for name in sys.modules if name.partition(".")[0] == "headrace"]
"""


class Made(NamedTuple):
    """What lies in the folder of the module's fixture."""

    folder: Path
    printed: dict[tuple[str, str], dict[str, Any]]

    def out(self, name: str, kind: str) -> Path:
        return self.folder / f"{name}-{kind}{exporting.FORMATS[kind].ending}"


def batch_of(encoder: Encoder) -> tuple[dict[str, np.ndarray], Batch]:
    """Three samples as other programs get them, and as Headrace has them."""
    draw = np.random.default_rng(3)
    if isinstance(encoder.inputs, TextSpec):
        tokens = torch.from_numpy(draw.integers(5, 20, (3, 11)))
        attention = torch.arange(11) < torch.tensor([11, 4, 7])[:, None]
        tokens = tokens * attention
        zeros = torch.zeros_like(tokens)
        one = Texts(
            tokens=tokens, lengths=attention.sum(1), attention=attention, chosen=zeros[:, 0], first=zeros[:, 0],
            segments=zeros, broken=zeros[:, 0],
        )  # fmt: skip
        batch = Batch(streams={"text": one}, index=torch.arange(3), labels=None, epoch=0)
        given = {"input_ids": tokens, "attention_mask": attention.long(), "token_type_ids": zeros}
        return {name: x.numpy() for name, x in given.items()}, batch
    side = encoder.side or 0
    images = draw.standard_normal((3, 3, side, side), dtype=np.float32)
    return {"images": images}, Batch.of_views([torch.from_numpy(images)], [NORMALIZE])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Every export of `EXPORTS` through the command line, and what one process without Headrace makes of them all."""
    from contextlib import redirect_stdout
    from io import StringIO

    folder = tmp_path_factory.mktemp("exports")
    found = Made(folder, {})
    for name, (method, fields) in RUNS.items():
        kept_run(folder / name, method, **fields)
        np.savez(folder / f"{name}.npz", **batch_of(open_encoder(folder / name))[0])
    for name, kind in EXPORTS:
        with redirect_stdout(StringIO()) as printed:
            assert main(["export", str(folder / name), "--to", kind, str(found.out(name, kind)), "--json"]) == 0
        found.printed[name, kind] = json.loads(printed.getvalue())
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    jobs = [(name, kind, str(found.out(name, kind))) for name, kind in EXPORTS]
    command = [sys.executable, "-S", "-c", OUTSIDE, str(folder), json.dumps(packages), json.dumps(jobs)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return found


@pytest.mark.peer("transformers", "tokenizers", "onnx", "onnxruntime", "onnxscript")
@pytest.mark.parametrize(("name", "kind"), EXPORTS)
def test_features_are_the_same_without_headrace(name: str, kind: str, made: Made) -> None:
    encoder = open_encoder(made.folder / name)
    with torch.no_grad():
        ours = encoder.encode(batch_of(encoder)[1])
    theirs = torch.from_numpy(np.load(made.folder / f"{name}.{kind}.npy"))
    assert ours.std(dim=0).max() > 0.01, "samples differ"
    assert theirs.shape == (3, encoder.feature_dim)
    assert (theirs - ours).abs().max() <= 1e-5 * ours.abs().max()
    alone = torch.from_numpy(np.load(made.folder / f"{name}.{kind}.one.npy"))
    assert (alone - ours[1:2]).abs().max() <= 1e-5 * ours.abs().max(), "a batch of one"
    said = made.printed[name, kind]
    assert (said["format"], said["features"], said["samples"]) == (kind, encoder.feature_dim, 5)
    assert 0 <= said["difference"] <= 1e-5 * said["largest"]


@pytest.mark.peer("transformers", "tokenizers", "onnx", "onnxruntime", "onnxscript")
def test_what_is_shown_stands_beside(made: Made) -> None:
    for name, kind in EXPORTS:
        out = made.out(name, kind)
        beside = out / "preprocessing.json" if out.is_dir() else out.with_name(f"{out.name}.preprocessing.json")
        said = json.loads(beside.read_text(encoding="utf-8"))
        if name in TEXTUAL:
            assert (said["kind"], said["length"]) == ("text", 24)
            assert said["pooling"] == ("first" if name == "simcse" else "mean")
            assert beside.with_name(said["tokenizer"]).read_bytes()
        else:
            size, normalize = {"by_view": (24, None), "resnet": (32, NORMALIZE), "normed": (32, None)}.get(
                name, (16, None)
            )
            normalize = normalize or Normalize()
            assert (said["size"], said["resize"], said["per_view"]) == (size, size, name == "by_view")
            assert (said["mean"], said["std"]) == (list(normalize.mean), list(normalize.std))
        if kind == "onnx":
            assert str(exporting.__file__).encode() not in out.read_bytes(), "a path of this machine"
        assert out.stat().st_mode & 0o044, "others may read it"
    cfg = resolve_model_data_config(timm.create_model(f"local-dir:{made.out('resnet', 'timm')}"))
    assert list(cfg["input_size"]) == [3, 32, 32]
    assert (cfg["crop_pct"], cfg["crop_mode"], cfg["interpolation"]) == (1.0, "center", "bilinear")
    assert (cfg["mean"], cfg["std"]) == (list(NORMALIZE.mean), list(NORMALIZE.std))


@pytest.mark.peer("transformers", "tokenizers", "onnx", "onnxruntime", "onnxscript")
def test_an_exported_network_is_opened_again(made: Made) -> None:
    for name, kind in EXPORTS:
        if kind in ("timm", "safetensors"):
            encoder, again = open_encoder(made.folder / name), open_encoder(made.out(name, kind))
            batch = batch_of(encoder)[1]
            with torch.no_grad():
                assert torch.allclose(again.encode(batch), encoder.encode(batch), rtol=0, atol=1e-5)
            assert (again.inputs, again.side) == (encoder.inputs, encoder.side)


@pytest.mark.peer("transformers", "tokenizers", "onnx", "onnxruntime", "onnxscript")
def test_a_text_has_the_same_tokens_there(made: Made) -> None:
    from transformers import AutoTokenizer

    from headrace.pipeline.texts.tokenizer import TextTokenizer

    theirs = AutoTokenizer.from_pretrained(made.out("bert", "transformers"), local_files_only=True)
    ours = TextTokenizer(texts.words())
    lines = ["the number of samples", "a value, or none."]
    for line, (tokens, _) in zip(lines, ours.encode(lines, words=False), strict=True):
        assert theirs(line)["input_ids"] == [*ours.before, *tokens, *ours.behind]
    assert theirs.pad_token_id == ours.padding_id
    assert theirs.model_max_length == 24


@pytest.mark.peer("transformers", "tokenizers", "onnx", "onnxruntime", "onnxscript")
@pytest.mark.parametrize("name", ["t5", "bart"])
def test_a_decoder_comes_with_its_encoder(name: str, made: Made) -> None:
    """And says the same of a text, in transformers' network that writes."""
    from transformers import BartForConditionalGeneration, T5ForConditionalGeneration

    from headrace.pipeline import CorruptedSpans, InfilledTexts

    kind: Any = {"t5": T5ForConditionalGeneration, "bart": BartForConditionalGeneration}[name]
    theirs = kind.from_pretrained(made.out(name, "transformers"), local_files_only=True).eval()
    encoder = open_encoder(made.folder / name)
    method: Any = encoder.method
    given, batch = batch_of(encoder)
    noisy_kind: Any = {"t5": CorruptedSpans, "bart": InfilledTexts}[name]
    labels = torch.where(torch.from_numpy(given["attention_mask"]).bool(), batch["text"].tokens, -100)
    noisy = noisy_kind(*(None for _ in noisy_kind._fields))._replace(
        inputs=batch["text"].tokens, input_count=batch["text"].lengths, labels=labels
    )
    inputs, attention = method.encoder_inputs(noisy)
    with torch.no_grad():
        ours, _ = method.named(replace(batch["text"], masks=[noisy]))
        logits = theirs(input_ids=inputs, attention_mask=attention.long(), labels=labels).logits
    torch.testing.assert_close(logits, ours, rtol=1e-4, atol=1e-5)
