"""CLIP: tell which text of the batch belongs to which image (arXiv 2103.00020)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import clip_loss
from headrace.models.method import Context, Method, Tower
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.texts import vocabulary_of
from headrace.pipeline import Batch, Normalize, Texts, TextSpec, View, ViewSpec

VOCABULARY = 49_408
LARGEST_SCALE = math.log(100)
WEB = Normalize(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))
"""Of the images that CLIP was trained on."""


@dataclass(frozen=True, kw_only=True)
class CLIPConfig:
    """CLIP ViT-B/32 with the authors' values, where they published them, else open_clip's."""

    tokenizer: str = ""
    """A Hugging Face `tokenizer.json` that puts a token behind a text; its vocabulary is the method's. Empty until
    there is one: the vocabulary is CLIP's then, 49,408, and nothing can be trained."""
    length: int = 77
    """Tokens of a text at most, the special ones counted."""
    size: int = 224
    """Side of the square view, in pixels; that of the backbone if it is a ViT."""
    crop_scale: tuple[float, float] = (0.9, 1.0)
    """Area of the random crop as a share of the image; there is no other augmentation."""
    normalize: Normalize = field(default_factory=lambda: WEB)
    """Mean and deviation that views are normalised with."""
    embed_dim: int = 512
    """Of the space that images and texts share."""
    temperature: float = 0.07
    """That cosines are divided by at first; learned, and at least 0.01."""
    text_width: int = 512
    """Of the text tower's states; four times as wide inside."""
    text_depth: int = 12
    """Its blocks."""
    text_heads: int = 8
    """Its attention heads."""
    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="vit_base_patch32_clip_quickgelu_224"))
    """The image tower without its projection."""

    def __post_init__(self) -> None:
        for name in ("embed_dim", "text_width", "text_depth", "text_heads"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")
        require(self.text_width % self.text_heads == 0, self, "text_width", "be a multiple of text_heads")
        require(0.01 <= self.temperature <= 1, self, "temperature", "be in [0.01, 1]")


class CLIP(Method):
    """Probes see the image tower's features before the projection; `towers` embed images and texts in one space.

    Followed: openai/CLIP at d05afc4, clip/model.py, and mlfoundations/open_clip at 89fb801, whose loss passes gradient
    over ranks. The text tower is `transformers`' CLIPTextModel, the image tower timm's.
    """

    config: CLIPConfig

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone, self.feature_dim = build_backbone(config.backbone)
        self.text_tower = clip_text_network(config, vocabulary_of(config.tokenizer, VOCABULARY))
        self.image_projection = nn.Linear(self.feature_dim, config.embed_dim, bias=False)
        self.text_projection = nn.Linear(config.text_width, config.embed_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / config.temperature)))
        text_initialization(self.text_tower)
        image_initialization(self.backbone, self.feature_dim)
        for projection in (self.image_projection, self.text_projection):
            nn.init.normal_(projection.weight, std=projection.in_features**-0.5)
        view = View(
            size=config.size, scale=config.crop_scale, interpolation="bicubic", flip=0.0, normalize=config.normalize
        )
        self.texts = TextSpec(tokenizer=config.tokenizer, length=config.length)
        self.inputs = {"image": ViewSpec([view]), "text": self.texts}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`, see `headrace.models.losses.clip_loss`, and `"scale"`, the learned factor of the cosines."""
        (images,) = batch["image"].normalized()
        image, text = self.image_projection(self.backbone(images)), self.embed_texts(batch["text"])
        scale = self.logit_scale.exp()
        return {"loss": clip_loss(image, text, scale), "scale": scale.detach()}

    def embed_texts(self, texts: Texts) -> Tensor:
        """(B, E), not normalised: the state of each text's last token, which has seen all others, projected."""
        states = self.text_tower(input_ids=texts.tokens).last_hidden_state  # (B, L, D)
        last = (texts.lengths - 1)[:, None, None].expand(-1, 1, states.shape[2])
        found: Tensor = self.text_projection(states.gather(1, last)[:, 0])
        return found

    @property
    def towers(self) -> dict[str, Tower]:
        """Both, with rows (B, E) of length 1."""

        def image(batch: Batch) -> Tensor:
            return F.normalize(self.image_projection(self.encode(batch)), dim=1)

        def text(batch: Batch) -> Tensor:
            return F.normalize(self.embed_texts(batch.lone), dim=1)

        return {"image": Tower(self.probe_inputs, image), "text": Tower(self.texts, text)}

    def after_step(self, context: Context) -> None:
        """The factor of the cosines stays between 1 and 100."""
        self.logit_scale.clamp_(0, LARGEST_SCALE)


def clip_text_network(config: CLIPConfig, vocabulary: int) -> Any:
    """`transformers`' CLIPTextModel: causal, norms before the blocks and behind the last.

    Raises:
        ImportError: if the library is missing.
    """
    try:
        from transformers import CLIPTextConfig, CLIPTextModel
    except ImportError as error:
        raise ImportError(f"clip needs the library transformers: pip install headrace[text] ({error})") from error
    network = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=config.text_width,
        intermediate_size=4 * config.text_width,
        projection_dim=config.embed_dim,
        num_hidden_layers=config.text_depth,
        num_attention_heads=config.text_heads,
        max_position_embeddings=config.length,
        hidden_act="quick_gelu",
        bos_token_id=None,
        eos_token_id=2,  # its own pooling, which is not used, then asks for no token
        attn_implementation="sdpa",
    )
    return CLIPTextModel(network)


@torch.no_grad()
def text_initialization(tower: Any) -> None:
    """Source: openai/CLIP at d05afc4, clip/model.py, CLIP.initialize_parameters; biases begin at 0."""
    width, depth = tower.config.hidden_size, tower.config.num_hidden_layers
    within, outwards = width**-0.5, width**-0.5 * (2 * depth) ** -0.5
    deviations = {
        "token_embedding": 0.02, "position_embedding": 0.01, "q_proj": within, "k_proj": within, "v_proj": within,
        "out_proj": outwards, "fc1": (2 * width) ** -0.5, "fc2": outwards,
    }  # fmt: skip
    for name, parameter in tower.named_parameters():
        part = name.split(".")[-2]
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif part in deviations:
            nn.init.normal_(parameter, std=deviations[part])


@torch.no_grad()
def image_initialization(backbone: nn.Module, width: int) -> None:
    """Class token and positions of a ViT, as openai/CLIP at d05afc4, clip/model.py, VisionTransformer."""
    for name in ("cls_token", "pos_embed"):
        if isinstance(parameter := getattr(backbone, name, None), nn.Parameter):
            nn.init.normal_(parameter, std=width**-0.5)
