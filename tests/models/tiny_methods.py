"""Every method so small that a step takes milliseconds, for 200 real samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from headrace.models import METHODS, BackboneConfig, Method, build_method
from headrace.models.parts.backbones import tiny_resnet
from headrace.models.parts.beit import tiny_beit
from headrace.models.parts.clip_backbones import tiny_clip_resnet
from headrace.models.parts.speech import SpeechNetwork
from headrace.pipeline import Mel
from tests import texts
from tests.conftest import require_peer

RESNET = tiny_resnet(width=8)
VIT = BackboneConfig(
    name="vit_tiny_patch16_224",
    options={"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2, "dynamic_img_size": True},
)
SWIN = BackboneConfig(
    name="swin_base_patch4_window7_224",
    options={
        "patch_size": 2, "embed_dim": 12, "depths": [2, 1], "num_heads": [2, 2], "window_size": 4,
        "drop_path_rate": 0.0,
    },
)  # fmt: skip
BEIT = tiny_beit(width=24, depth=2)
# Views that leave more than one pixel in front of the last stride: else a gradient of oneDNN in bfloat16 is garbage.
PLAIN: dict[str, Any] = {"size": 24, "strength": 0.5, "backbone": RESNET}
SPEECH = SpeechNetwork(
    channels=(8, 8), kernels=(10, 4), strides=(10, 4), width=16, depth=2, heads=2, position_kernel=8, position_groups=2
)
WAVES: dict[str, Any] = {"rate": 8000, "samples": 1610, "mask_span": 3, "network": SPEECH}

DEPTH: dict[str, Any] = {
    "size": 64, "decoder_widths": (8, 8, 8, 8, 8), "pose_width": 8,
    "backbone": BackboneConfig(
        name="resnet18",
        options={"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "stem_type": "deep", "stem_width": 8},
    ),
}  # fmt: skip

CLIP_RESNET = tiny_clip_resnet(width=8)
CLIPS: dict[str, Any] = {
    "size": 16, "frames": 4, "stride": 1, "strength": 0.5, "blur": 0.0, "backbone": CLIP_RESNET,
}  # fmt: skip

TINY: dict[str, dict[str, Any]] = {
    "simclr": {**PLAIN, "blur": 0.0, "projection_hidden": 32, "projection_dim": 16},
    "moco_v1": {**PLAIN, "projection_dim": 16, "queue": 40, "batch_norm_splits": 2},
    "moco_v2": {**PLAIN, "blur": 0.0, "projection_dim": 16, "queue": 40, "batch_norm_splits": 2},
    "byol": {**PLAIN, "blur": (0.5, 0.1), "hidden_dim": 32, "projection_dim": 16},
    "barlow_twins": {**PLAIN, "blur": (0.5, 0.1), "hidden_dim": 32, "projection_dim": 16, "over_ranks": "exact"},
    "swav": {
        **PLAIN, "blur": 0.0, "local_views": 2, "local_size": 16, "hidden_dim": 32, "projection_dim": 16,
        "prototypes": 12, "queue": 40, "queue_epoch": 1,
    },
    "deepcluster": {"size": 24, "clusters": 8, "pca_dim": 16, "backbone": RESNET},
    "deepcluster_v2": {
        **PLAIN, "blur": 0.0, "local_views": 2, "local_size": 16, "hidden_dim": 32, "projection_dim": 16,
        "clusters": (12, 8, 12),
    },
    "dino": {
        **PLAIN, "size": 16, "local_views": 2, "local_size": 8, "prototypes": 24, "hidden_dim": 32,
        "bottleneck_dim": 12,
        "backbone": BackboneConfig(name=VIT.name, options={**VIT.options, "drop_path_rate": 0.1}),
        "warmup_teacher_epochs": 2, "teacher_temperature": 0.07,
    },
    "ibot": {
        **PLAIN, "size": 16, "local_views": 2, "local_size": 8, "prototypes": 24, "hidden_dim": 32,
        "bottleneck_dim": 12,
        "backbone": BackboneConfig(name=VIT.name, options={**VIT.options, "drop_path_rate": 0.1}),
        "warmup_teacher_epochs": 2,
    },
    "dinov2": {
        **PLAIN, "size": 16, "local_views": 2, "local_size": 8, "prototypes": 24, "hidden_dim": 32,
        "bottleneck_dim": 12, "patch_prototypes": 20, "patch_bottleneck_dim": 8, "drop_path": 0.1,
        "warmup_teacher_epochs": 2, "koleo_over_ranks": True, "assignment": "sinkhorn",
        # LayerScale that lets class tokens differ: else rounding says which one is the nearest.
        "backbone": BackboneConfig(name=VIT.name, options={**VIT.options, "init_values": 0.5}),
    },
    "dinov2_gram": {
        **PLAIN, "size": 16, "local_views": 2, "local_size": 8, "prototypes": 24, "hidden_dim": 32,
        "bottleneck_dim": 12, "head_batch_norm": True, "drop_path": 0.0, "koleo_over_ranks": True,
        "assignment": "center",
        "anchor_size": 32, "anchor_every": 4, "anchor_updates": 2,
        "backbone": BackboneConfig(name=VIT.name, options={**VIT.options, "init_values": 0.5}),
    },
    "moco_v3": {
        **PLAIN, "blur": (0.5, 0.1), "temperature": 0.2, "hidden_dim": 32, "projection_dim": 16,
        "projector_layers": 3, "predictor_norm": True,
    },
    "simsiam": {**PLAIN, "blur": 0.0, "hidden_dim": 32, "projection_dim": 16, "predictor_dim": 8},
    "nnclr": {
        **PLAIN, "blur": (0.5, 0.1), "queue": 80, "hidden_dim": 32, "predictor_dim": 32, "projection_dim": 16,
    },
    "densecl": {
        **PLAIN, "blur": 0.0, "queue": 40, "hidden_dim": 32, "projection_dim": 16, "batch_norm_splits": 2,
    },
    "ressl": {**PLAIN, "blur": 0.0, "queue": 40, "hidden_dim": 32, "projection_dim": 16, "batch_norm_splits": 2},
    "vicreg": {**PLAIN, "blur": (0.5, 0.1), "hidden_dim": 32, "projection_dim": 16},
    "w_mse": {**PLAIN, "blur": 0.0, "group": 8, "hidden_dim": 32, "projection_dim": 4},
    "tico": {**PLAIN, "blur": (0.5, 0.1), "hidden_dim": 32, "projection_dim": 16},
    "lejepa": {
        **PLAIN, "blur": (0.5, 0.5), "local_views": 2, "local_size": 16, "directions": 32, "hidden_dim": 32,
        "projection_dim": 8,
    },
    "msn": {
        **PLAIN, "size": 16, "blur": 0.0, "focal_views": 2, "focal_size": 8, "hidden_dim": 32, "projection_dim": 16,
        "prototypes": 24, "mask_ratio": 0.25, "backbone": VIT,
    },
    "instance_discrimination": {**PLAIN, "noise": 0, "projection_dim": 16},
    "mae": {
        "size": 16, "decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2,
        "backbone": BackboneConfig(name=VIT.name, options={**VIT.options, "dynamic_img_size": False}),
    },
    "ijepa": {
        "size": 16, "crop_scale": (0.3, 1.0), "smallest_context": 4, "predictor_dim": 16, "predictor_depth": 1,
        "predictor_heads": 2,
        "backbone": BackboneConfig(name=VIT.name, options={**VIT.options, "dynamic_img_size": False}),
    },
    "aim": {
        "size": 16, "head_dim": 16, "head_depth": 2, "probe_layers": 2,
        "backbone": BackboneConfig(name=VIT.name, options={**VIT.options, "dynamic_img_size": False}),
    },
    "data2vec2": {
        "size": 16, "masks": 3, "mask_ratio": 0.7, "mask_side": 2, "top_layers": 1, "class_weight": 0.5,
        "decoder_dim": 24, "decoder_depth": 2, "decoder_groups": 4, "momentum": 0.99, "final_momentum": 0.999,
        "backbone": BackboneConfig(name=VIT.name, options={**VIT.options, "dynamic_img_size": False}),
    },
    "capi": {
        "size": 16, "patch": 4, "dim": 24, "depth": 2, "predictor_depth": 2, "heads": 2, "registers": 4,
        "clusters": 12, "predicted": 0.3, "drop_path": 0.1, "momentum": 0.99,
    },
    "simmim": {"size": 16, "mask_unit": 4, "backbone": SWIN},
    "maskfeat": {"size": 16, "cell": 2, "backbone": VIT},
    "data2vec": {
        "size": 16, "masked_patches": 9, "smallest_block": 2, "target_blocks": 1,
        "backbone": BackboneConfig(
            name=BEIT.name, options={**BEIT.options, "drop_path_rate": 0.1, "attn_drop_rate": 0.05}
        ),
    },
    "beit": {
        "size": 16, "masked_patches": 6, "smallest_block": 2, "words": 12, "word_patches": 400, "cell": 4,
        "backbone": BEIT,
    },
    "rotation": {"size": 16, "backbone": RESNET},
    "autoencoder": {"size": 16, "network": "convolutional", "hidden": 16, "widths": (8, 16)},
    "denoising_autoencoder": {"size": 16, "hidden": 48},
    "vae": {"size": 16, "hidden": 32, "latent": 8},
    "inpainting": {"size": 16, "crop_scale": (0.5, 1.0), "overlap": 1, "widths": (4, 8, 8), "bottleneck": 16},
    "colorization": {"size": 16, "crop_scale": (0.5, 0.5), "width": 4, "depth": 1},
    "context_prediction": {
        "size": 16, "scale": (0.3, 0.4), "gap": 0.1, "pairs": 2, "lose_resolution": 0.5, "smallest": 6, "patch_dim": 32,
        "hidden_dim": 32, "probe_size": 24, "backbone": RESNET,
    },
    "jigsaw": {
        "size": 16, "grid": 2, "permutations": 6, "tile_dim": 32, "hidden_dim": 64, "probe_size": 24,
        "backbone": RESNET,
    },
    "block_order": {
        "size": 16, "grid": 2, "tile_dim": 32, "hidden_dim": 64, "probe_size": 24, "backbone": RESNET,
    },
    "masked_spectrogram": {
        "rate": 8000, "frames": 16, "mel": Mel(bins=16, window=200, hop=80, fft=256, mean=-5.0, std=8.0),
        "place": "random", "short": "loop", "mask_ratio": 0.75,
        "decoder_dim": 16, "decoder_depth": 2, "decoder_heads": 2, "decoder_window": (2, 2),
        "backbone": BackboneConfig(name=VIT.name, options={
            **{key: value for key, value in VIT.options.items() if key != "img_size"}, "dynamic_img_size": False,
        }),
    },
    "wav2vec2": {**WAVES, "negatives": 5, "codes": 4, "code_dim": 8, "projection_dim": 8, "gumbel": (2.0, 0.5, 0.9)},
    "hubert": {
        **WAVES, "clusters": 6, "cepstra": 5, "projection_dim": 8,
        "mel": Mel(bins=8, window=40, hop=40, fft=256, taper="povey"),
    },
    "data2vec_audio": {
        **WAVES, "target_blocks": 1, "momentum": 0.9, "final_momentum": 0.99, "momentum_steps": 10,
        "network": replace(SPEECH, position_kernel=15),
    },
    "cpc": {
        "rate": 8000, "samples": 1600, "channels": 24, "kernels": (10, 4), "strides": (10, 4), "paddings": (0, 0),
        "context_dim": 24, "steps": 3, "negatives": 6, "heads": 2, "predictor_dim": 48,
    },
    "byol_a": {
        "rate": 8000, "frames": 16, "short": "loop", "channels": 8, "feature_dim": 24, "hidden_dim": 32,
        "projection_dim": 16, "momentum": 0.9,
        "mel": Mel(definition="librosa", bins=16, window=256, hop=80, fft=256, mean=-7.0, std=4.0),
    },
    "bert": {"tokenizer": str(texts.words()), "length": 24, "positions": 24, "width": 16, "depth": 2, "heads": 2},
    "roberta": {"tokenizer": str(texts.words()), "length": 24, "positions": 24, "width": 16, "depth": 2, "heads": 2},
    "t5": {
        "tokenizer": str(texts.words()), "length": 24, "width": 16, "inner": 32, "depth": 2, "decoder_depth": 1,
        "heads": 2, "head_width": 8, "sentinels": 8,
    },
    "albert": {
        "tokenizer": str(texts.words()), "length": 24, "positions": 24, "embedding": 8, "width": 16, "depth": 2,
        "heads": 2,
    },
    "bart": {"tokenizer": str(texts.words()), "length": 24, "positions": 24, "width": 16, "depth": 2, "heads": 2},
    "electra": {
        "tokenizer": str(texts.words()), "length": 24, "positions": 24, "embedding": 8, "width": 16, "depth": 2,
        "heads": 2, "generator_width": 0.5,
    },
    "simcse": {
        "tokenizer": str(texts.words()), "length": 24, "positions": 24, "width": 16, "depth": 2, "heads": 2,
        "dropout": 0.05,
    },
    "modernbert": {
        "tokenizer": str(texts.words()), "length": 24, "width": 16, "inner": 24, "depth": 3, "heads": 2, "local": 8,
    },
    "clip": {
        "tokenizer": str(texts.words()), "length": 16, "size": 24, "embed_dim": 16, "text_width": 16, "text_depth": 2,
        "text_heads": 2, "backbone": RESNET,
    },
    "frame_order": {
        "size": 24, "strides": (1, 2), "frame_dim": 32, "hidden_dim": 16, "dropout": 0.1, "backbone": RESNET,
    },
    "sorting": {
        "size": 24, "jitter": 2, "crop_scale": (0.7, 1.0), "strides": (2, 3), "frame_dim": 32, "pair_dim": 16,
        "dropout": 0.1, "backbone": RESNET,
    },
    "clip_order": {"size": 16, "frames": 2, "interval": 1, "pair_dim": 16, "dropout": 0.1, "backbone": CLIP_RESNET},
    "pace": {"size": 16, "frames": 4, "strides": (1, 2, 3), "backbone": CLIP_RESNET},
    "speediness": {"size": 16, "frames": 4, "backbone": CLIP_RESNET},
    "odd_one_out": {"size": 24, "clips": 3, "frames": 4, "strides": (2,), "hidden_dim": 32, "backbone": RESNET},
    "arrow_of_time": {"size": 24, "length": 3, "hidden_dim": 16, "dropout": 0.1, "backbone": RESNET},
    "time_contrastive": {
        "size": 24, "frames": 8, "positive_radius": 1, "negative_radius": 3, "hidden_dim": 32, "embedding_dim": 8,
        "backbone": RESNET,
    },
    "cvrl": {
        "size": 16, "frames": 4, "stride": 1, "blur": (0.0, 0.0), "hidden_dim": 32, "projection_dim": 16,
        "backbone": CLIP_RESNET,
    },
    "rho_simclr": {**CLIPS, "clips": 3, "hidden_dim": 32, "projection_dim": 16},
    "rho_moco": {**CLIPS, "clips": 2, "stills": 1, "queue": 160, "hidden_dim": 32, "projection_dim": 16},
    "rho_byol": {**CLIPS, "hidden_dim": 32, "projection_dim": 16},
    "rho_swav": {**CLIPS, "hidden_dim": 32, "projection_dim": 16, "prototypes": 12},
    "videomae": {
        "size": 16, "frames": 4, "stride": 2, "mask_ratio": 0.75,
        "decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2,
        "backbone": BackboneConfig(name=VIT.name, options={**VIT.options, "dynamic_img_size": False}),
    },
    # The clips' camera stands still, so that little but the smoothness can be learnt.
    "monodepth2": {**DEPTH, "stride": 2, "aspect": 1.0, "smoothness": 0.1},
    "sfmlearner": {**DEPTH, "stride": 2, "aspect": 1.0},
    # As many steps of time as a cell has patches: all samples then have as many places that count.
    "videomae_v2": {
        "size": 16, "frames": 8, "stride": 1, "mask_ratio": 0.75,
        "decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2,
        "backbone": BackboneConfig(name=VIT.name, options={**VIT.options, "dynamic_img_size": False}),
    },
    "vjepa": {
        "size": 16, "frames": 4, "stride": 2, "longest_context": (0.6, 1.0),
        "predictor_dim": 16, "predictor_depth": 1, "predictor_heads": 2,
        "backbone": BackboneConfig(name=VIT.name, options={**VIT.options, "dynamic_img_size": False}),
    },
    "vjepa2": {
        "size": 16, "frames": 4, "stride": 2, "longest_context": (0.6, 1.0),
        "predictor_dim": 16, "predictor_depth": 1, "predictor_heads": 2,
        "backbone": BackboneConfig(name=VIT.name, options={**VIT.options, "dynamic_img_size": False}),
    },
}  # fmt: skip
"""Fields of each method's config."""


SETS = {
    "video": "clips_webdataset",
    "sound": "sounds_webdataset",
    "text": "texts_webdataset",
    "pairs": "captions_webdataset",
}
"""The fixture of real samples for the methods of a family that is not shown digits."""
COLOURED = {"colorization"}
"""Methods that find nothing to learn in greys."""
TEXTUAL = ("bert", "roberta", "t5", "albert", "bart", "electra", "simcse", "modernbert", "clip")
LIBRARIES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(TEXTUAL, ("tokenizers", "transformers")),
    **dict.fromkeys(("wav2vec2", "hubert", "data2vec_audio"), ("transformers",)),
}
"""What a method needs of an extra."""


def set_of(name: str) -> str:
    """The fixture of 200 real samples that a method is tested on."""
    return "colours_webdataset" if name in COLOURED else SETS.get(METHODS[name].family, "digits_webdataset")


def require_libraries(name: str) -> None:
    """Skips the test of a method whose libraries are not installed, see `tests.conftest.require_peer`."""
    for library in LIBRARIES.get(name, ()):
        require_peer(library)


def tiny(name: str, seed: int = 0) -> Method:
    """The method, in training mode."""
    require_libraries(name)
    return build_method(name, seed=seed, **TINY[name]).train()
