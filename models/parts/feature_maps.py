"""Feature maps of any backbone of ours: what stands at each place of a picture, for probes and detectors."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from headrace.models.parts.masked_vit import MaskTokenViT
from headrace.models.parts.rope_vit import RopeEncoderPredictor
from headrace.models.parts.sobel import Sobel


def feature_maps(backbone: nn.Module, images: Tensor, last: int = 1) -> list[Tensor]:
    """Maps (B, D, h, w) behind the last layers of a backbone, the last one at the end: blocks of a ViT, of which the
    last norm is applied to each, or stages of a convolutional network.

    Args:
        backbone: of a method; see `without_tail`.
        images: float32 (B, 3, H, W), normalised, of a size that the network takes.
        last: how many.

    Raises:
        ValueError: in one line, if it has no maps, or not so many.
    """
    return [cells for cells, _ in maps_and_tokens(backbone, images, last)]


def maps_and_tokens(backbone: nn.Module, images: Tensor, last: int = 1) -> list[tuple[Tensor, Tensor | None]]:
    """As `feature_maps`, and beside each map the class token (B, D), None where there is none."""
    front, network = without_tail(backbone)
    images = front(images)
    intermediate = hasattr(network, "forward_intermediates")
    if last != 1 and not intermediate:
        raise ValueError(f"a {type(network).__name__} has maps of its last layer only")
    if isinstance(network, RopeEncoderPredictor):
        rows, columns = (side // network.patch_embed.kernel_size[0] for side in images.shape[2:])
        return [(network.patches(images).transpose(1, 2).unflatten(2, (rows, columns)), None)]
    if not intermediate:
        return [(network.map(images), None)]
    options: dict[str, Any] = {"indices": last, "norm": True, "output_fmt": "NCHW", "intermediates_only": True}
    prefix = int(getattr(network, "num_prefix_tokens", 0))
    if "return_prefix_tokens" in inspect.signature(network.forward_intermediates).parameters:
        options["return_prefix_tokens"] = prefix > 0
    try:
        found = network.forward_intermediates(images, **options)
    except AssertionError as error:  # of timm's, where there are fewer layers
        raise ValueError(f"a {type(network).__name__} has no maps of its last {last} layers ({error})") from None
    has_class = getattr(network, "cls_token", None) is not None
    if isinstance(found[0], Tensor):
        return [(cells, None) for cells in found]
    return [(cells, tokens[:, 0] if has_class else None) for cells, tokens in found]


def without_tail(backbone: nn.Module) -> tuple[nn.Module, Any]:
    """What a backbone does to images first, and its network, without what comes behind the pooling: of timm, with
    `forward_intermediates`, a `RopeEncoderPredictor`, or a module with a method `map`, from images to (B, D, h, w).

    Raises:
        ValueError: in one line, if it is another network.
    """
    front: nn.Module = nn.Identity()
    if type(backbone) is nn.Sequential and len(backbone) == 2:
        if isinstance(backbone[0], Sobel):
            front, backbone = backbone[0], backbone[1]
        if type(backbone) is nn.Sequential and isinstance(backbone[-1], nn.BatchNorm1d):
            backbone = backbone[0]
    network: Any = backbone.vit if isinstance(backbone, MaskTokenViT) else backbone
    known = isinstance(network, RopeEncoderPredictor) or any(
        hasattr(network, way) for way in ("forward_intermediates", "map")
    )
    if not known:
        raise ValueError(f"a {type(network).__name__} has no feature maps; take a network of timm's, or one with `map`")
    return front, network
