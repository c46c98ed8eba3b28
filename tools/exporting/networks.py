"""As a network of timm's, in timm's folder or in one file, and as one of transformers'."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from headrace.models import Method
from headrace.models.parts.backbones import built_as
from headrace.pipeline import SoundSpec, TextSpec
from headrace.tools.errors import UserError
from headrace.tools.exporting.function import shown
from headrace.tools.placing import FOLDER_OF_OURS
from headrace.train.encoders import Encoder, describe
from headrace.train.encoders.preprocessing import timm_says
from headrace.train.encoders.timm_network import CONFIG, METADATA, WEIGHTS, Made

ANY = "onnx and torch hold any network"


class TimmForm(NamedTuple):
    """A network that timm builds from plain values, and its weights."""

    config: dict[str, Any]
    """What timm's config.json holds."""
    tensors: dict[str, Tensor]


def timm_form(encoder: Encoder, *, worded: bool = True) -> TimmForm:
    """The encoder's network as timm builds it.

    A norm of the features (`backbone.feature_norm`) becomes the weights of a last layer of D outputs, so that what timm
    calls logits are the features.

    Args:
        worded: whether timm's configuration is to say what the network is shown.

    Raises:
        UserError: in one line, if timm builds none such, or has no words for what it is shown.
    """
    refused = f"{encoder.name} cannot be exported as a timm network"
    config = built_as(encoder.backbone)
    if config is None:
        kind = type(encoder.backbone)
        others = f"transformers, {ANY}" if kind.__module__.startswith("transformers.") else ANY
        raise UserError(f"{refused}: its {kind.__name__} is none that timm builds; {others}")
    if config.stem != "standard":
        raise UserError(f"{refused}: timm's {config.name} has no stem for small pictures (backbone.stem); {ANY}")
    if encoder.method is not None and type(encoder.method).encode is not Method.encode:
        raise UserError(f"{refused}: its features are not what the network itself gives; {ANY}")
    try:
        json.dumps(dict(config.options))
    except TypeError:
        raise UserError(f"{refused}: its {config.name} has parts that timm does not build by name; {ANY}") from None
    tensors, outputs = _with_the_norm(encoder)
    made = Made(config.name, config.options, outputs)
    fresh: Any = made.build()[0]
    try:
        fresh.load_state_dict(tensors)
    except RuntimeError:
        raise UserError(f"{refused}: its weights are not those of timm's {config.name}; {ANY}") from None
    description = describe(encoder.inputs, encoder.side)
    try:
        said = timm_says(encoder.inputs, encoder.side)
    except ValueError as error:
        if worded:
            raise UserError(f"{refused}: {error}; safetensors, onnx and torch say it in words of their own") from None
        said = {}
    own = {key: fresh.pretrained_cfg.get(key) for key in ("fixed_input_size", "first_conv", "classifier")}
    if config.options.get("dynamic_img_size"):
        own["fixed_input_size"] = False
    return TimmForm(
        {
            "architecture": config.name,
            "num_classes": outputs,
            "num_features": encoder.feature_dim,
            "model_args": dict(config.options),
            "pretrained_cfg": {**said, **own, "num_classes": outputs},
            METADATA: {"outputs": outputs, "preprocessing": description},
        },
        tensors,
    )


def _with_the_norm(encoder: Encoder) -> tuple[dict[str, Tensor], int]:
    """The weights of timm's network, and how many outputs of its last layer are the features; 0 where those in front
    of it are."""
    backbone: Any = encoder.backbone
    norm: Any = None
    if type(backbone) is nn.Sequential:
        backbone, norm = backbone
    tensors = {name: x.detach().cpu().clone().contiguous() for name, x in backbone.state_dict().items()}
    outputs = int(backbone.num_classes)
    if norm is not None:
        outputs, scale = encoder.feature_dim, (norm.running_var.double() + norm.eps).rsqrt().cpu()
        head = backbone.pretrained_cfg["classifier"]
        tensors[f"{head}.weight"] = torch.diag(scale).float()
        tensors[f"{head}.bias"] = (-norm.running_mean.double().cpu() * scale).float()
    return tensors, outputs


def write_timm(encoder: Encoder, out: Path) -> None:
    """A folder that `timm.create_model("local-dir:OUT", pretrained=True)` loads, as it loads repositories of the
    Hugging Face hub: config.json and model.safetensors."""
    form = timm_form(encoder)
    out.mkdir()
    _write_json(out / CONFIG, form.config)
    save_file(form.tensors, out / WEIGHTS, {"format": "pt"})


def run_timm(out: Path, tensors: tuple[Tensor, ...]) -> Tensor:
    """Features as timm makes them of the folder."""
    return timm.create_model(f"local-dir:{out}", pretrained=True).eval()(*tensors)


def write_safetensors(encoder: Encoder, out: Path) -> None:
    """One file with timm's names of tensors; its metadata say, as config.json does, how to build the network, and what
    it is shown."""
    form = timm_form(encoder, worded=False)
    save_file(form.tensors, out, {"format": "pt", METADATA: json.dumps(form.config)})


def run_safetensors(out: Path, tensors: tuple[Tensor, ...]) -> Tensor:
    """Features of the network that the metadata describe."""
    with safe_open(out, framework="pt") as file:
        said = json.loads(file.metadata()[METADATA])
    network = timm.create_model(said["architecture"], num_classes=said["num_classes"], **said["model_args"])
    network.load_state_dict(load_file(out))
    return network.eval()(*tensors)


def write_transformers(encoder: Encoder, out: Path) -> None:
    """A folder that transformers' `AutoModel.from_pretrained` loads: of a network that is one of transformers', with
    its tokenizer; of one of timm's, as transformers' TimmWrapperModel.

    Raises:
        ImportError: if the library is missing.
        UserError: if the network is neither.
    """
    transformers = _transformers()
    backbone = encoder.backbone
    if isinstance(backbone, transformers.PreTrainedModel):
        with _quiet(transformers):
            backbone.save_pretrained(out)
        spec = shown(encoder)
        if isinstance(spec, TextSpec):
            _write_tokenizer(transformers, spec, out)
        if isinstance(spec, SoundSpec):
            (sound,) = spec.sounds
            extractor = transformers.Wav2Vec2FeatureExtractor(sampling_rate=sound.rate, do_normalize=sound.normalize)
            extractor.save_pretrained(out)
        return
    form = timm_form(encoder)
    if form.config["num_classes"]:
        raise UserError(
            f"{encoder.name} cannot be exported as a transformers network: its features are normalised behind the "
            f"pooling (backbone.feature_norm), where TimmWrapperModel has nothing; timm and safetensors hold it, {ANY}"
        )
    out.mkdir()
    kind = {"model_type": "timm_wrapper", "architectures": ["TimmWrapperModel"]}
    _write_json(out / CONFIG, {**form.config, **kind, "label_names": []})
    tensors = {f"timm_model.{name}": x for name, x in form.tensors.items()}
    save_file(tensors, out / WEIGHTS, {"format": "pt"})


def run_transformers(out: Path, tensors: tuple[Tensor, ...]) -> Tensor:
    """Features as transformers makes them: pooled ones of images; of waves, as they come from the loader, and of texts
    the mean of the last states, the special tokens' too, or that of the first token, as preprocessing.json says; of a
    network with a decoder, the encoder's."""
    transformers = _transformers()
    with _quiet(transformers):
        model = transformers.AutoModel.from_pretrained(out, local_files_only=True).eval()
    if len(tensors) == 1 and tensors[0].ndim == 2:
        return model(input_values=tensors[0]).last_hidden_state.mean(dim=1)
    if len(tensors) == 1:
        return model(*tensors).pooler_output
    tokens, attention, segments = tensors
    asked = {"input_ids": tokens, "attention_mask": attention}
    if "token_type_ids" in inspect.signature(model.forward).parameters:
        asked["token_type_ids"] = segments
    states = (model.get_encoder() if model.config.is_encoder_decoder else model)(**asked).last_hidden_state
    if json.loads((out / FOLDER_OF_OURS).read_text(encoding="utf-8"))["pooling"] == "first":
        return states[:, 0]
    weight = attention[:, :, None].to(states.dtype)
    return (states * weight).sum(dim=1) / weight.sum(dim=1)


def _write_tokenizer(transformers: Any, spec: TextSpec, out: Path) -> None:
    """The tokenizer.json as it is, and what transformers wants to know of it."""
    shutil.copyfile(spec.tokenizer, out / "tokenizer.json")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(out / "tokenizer.json"), model_max_length=spec.length
    )
    known = tokenizer.get_vocab()
    special = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    if "</s>" in known:
        special = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "eos": "</s>", "mask": "<mask>"}
    tokenizer.add_special_tokens({f"{name}_token": token for name, token in special.items() if token in known})
    tokenizer.save_pretrained(out)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(f"this needs the library transformers: pip install headrace[text] ({error})") from error
    return transformers


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without its bars and its remarks on weights that a format leaves out."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
