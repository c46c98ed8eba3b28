"""Backbones by timm name, never downloaded, with a stem for small images."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any, Literal

import timm
from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Which network turns images into features."""

    name: str = "resnet50"
    """Any model that timm lists (`timm.list_models()`)."""
    stem: Literal["standard", "small"] = "standard"
    """"small" replaces a ResNet's 7x7 stride-2 convolution by a 3x3 one and drops its max-pooling, as SimCLR does
    for CIFAR-10 (arXiv 2002.05709, appendix B.9); "standard" leaves the network as timm builds it."""
    stem_stride: int = 1
    """Stride of the small stem's convolution; not used by the standard stem."""
    feature_norm: bool = False
    """Batch norm without affine on the features: a narrow network's few features then all weigh alike in a k-NN's
    cosine; False leaves the features as the network pools them, as the papers do."""
    options: dict[str, Any] = field(default_factory=dict)
    """More arguments for the model's constructor, such as `img_size`, `drop_path_rate`, or a ResNet's `layers` and
    `channels`; empty for none."""

    def __post_init__(self) -> None:
        if not timm.is_model(self.name):
            near = difflib.get_close_matches(self.name, timm.list_models(), n=1)
            raise ValueError(
                f"BackboneConfig.name {self.name!r} is no timm model" + (f"; did you mean {near[0]!r}?" * bool(near))
            )
        if self.stem not in ("standard", "small"):
            raise ValueError(f"BackboneConfig.stem must be 'standard' or 'small', got {self.stem!r}")
        if self.stem_stride < 1:
            raise ValueError(f"BackboneConfig.stem_stride must be at least 1, got {self.stem_stride}")


def tiny_resnet(*, width: int = 16, stem_stride: int = 2) -> BackboneConfig:
    """A ResNet of four basic blocks for demos on small pictures, with 8 x `width` features.

    Residual branches start as they are drawn (`zero_init_last` off): in the few hundred steps of a demo, branches
    that start at zero cost more than they steady.
    """
    options = {
        "layers": [1, 1, 1, 1],
        "channels": [width, 2 * width, 4 * width, 8 * width],
        "stem_type": "deep",
        "stem_width": width // 2,
        "zero_init_last": False,
    }
    return BackboneConfig(name="resnet18", stem="small", stem_stride=stem_stride, feature_norm=True, options=options)


def tiny_vit(
    *, width: int = 96, depth: int = 4, patch: int = 4, pool: Literal["token", "avg"] = "token"
) -> BackboneConfig:
    """A ViT for demos on small pictures, with `width` features and `width` / 32 attention heads.

    Args:
        pool: what is kept of a picture behind the last norm, the class token or the mean of the patches.
    """
    options: dict[str, Any] = {
        "patch_size": patch,
        "embed_dim": width,
        "depth": depth,
        "num_heads": max(1, width // 32),
    }
    if pool == "avg":
        options |= {"global_pool": "avg", "fc_norm": False}  # else timm moves the norm behind the mean
    return BackboneConfig(name="vit_tiny_patch16_224", options=options)


def build_backbone(config: BackboneConfig) -> tuple[nn.Module, int]:
    """The network with random weights, and the dimension D of its output: float32 (B, 3, H, W), or as many channels as
    the option `in_chans` says, to (B, D).

    Raises:
        ValueError: if the model refuses `options`, or has no stem that "small" could replace.
    """
    try:
        model: Any = timm.create_model(config.name, pretrained=False, num_classes=0, **config.options)
    except TypeError as error:
        raise ValueError(f"BackboneConfig.options {config.options} do not fit {config.name}: {error}") from None
    if config.stem == "small":
        if not isinstance(model, timm.models.ResNet):
            raise ValueError(f"BackboneConfig.stem 'small' is for ResNets, {config.name} is not one")
        _small_stem(model, config.stem_stride)
    dim = int(model.head_hidden_size)
    model.built_as = config
    if config.feature_norm:
        model = nn.Sequential(model, nn.BatchNorm1d(dim, affine=False))
    return model, dim


def built_as(backbone: nn.Module) -> BackboneConfig | None:
    """What `build_backbone` made the network, or the one that it is a copy of, from; None for any other. A method may
    have changed its parts since."""
    model: Any = backbone
    if type(backbone) is nn.Sequential and len(backbone) == 2 and isinstance(backbone[1], nn.BatchNorm1d):
        model = backbone[0]
    found = getattr(model, "built_as", None)
    return found if isinstance(found, BackboneConfig) and found.feature_norm == (model is not backbone) else None


def map_channels(backbone: nn.Module) -> int:
    """C of the feature map that `map_and_features` gives of a backbone from `build_backbone`.

    Raises:
        ValueError: in one line, if there is none: tokens of a ViT, or a map whose channels are last.
    """
    model: Any = _model_and_rest(backbone)[0]
    pooled = any(isinstance(module, SelectAdaptivePool2d) for module in model.modules())
    if not pooled or getattr(model, "output_fmt", "NCHW") != "NCHW":
        raise ValueError(
            f"a {type(model).__name__} has no feature map (B, C, H, W) in front of a pooling; take a ResNet"
        )
    return int(model.num_features)


def map_and_features(backbone: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """What a backbone has in front of its pooling, (B, C, H, W), and its output, (B, D), in one pass."""
    model, rest = _model_and_rest(backbone)
    cells: Tensor = model.forward_features(images)
    return cells, rest(model.forward_head(cells))


def _model_and_rest(backbone: nn.Module) -> tuple[Any, nn.Module]:
    """timm's model, and the norm that `feature_norm` puts behind it."""
    if type(backbone) is nn.Sequential:
        return backbone[0], backbone[1]
    return backbone, nn.Identity()


def _small_stem(resnet: Any, stride: int) -> None:
    width = resnet.bn1.num_features  # also where timm's "deep" stem narrows it
    channels = next(layer.in_channels for layer in resnet.conv1.modules() if isinstance(layer, nn.Conv2d))
    resnet.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(resnet.conv1.weight, mode="fan_out", nonlinearity="relu")
    resnet.maxpool = nn.Identity()
