"""A frozen encoder behind Headrace's loader, behind torchvision's, and behind nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from headrace.pipeline import Loader
from headrace.shards import open_shards
from headrace.tools.feature_rows import features_of, make_rows
from headrace.train.encoders import Encoder, open_encoder


def headrace_features(shards: Path, network: str, batch_size: int, threads: int, device: str) -> Iterator[range]:
    """Rows of a file, as `headrace embed` and `headrace eval` write them."""
    encoder = open_encoder(network).to(device)
    with open_shards(shards) as opened, TemporaryDirectory() as folder:
        make_rows(Path(folder) / "rows.npy", len(opened), encoder.feature_dim)
        rows = np.load(Path(folder) / "rows.npy", mmap_mode="r+")
        while True:
            with Loader(opened, encoder.inputs, batch_size, shuffle=False, threads=threads) as loader, torch.no_grad():
                for batch in loader:
                    rows[batch.index.numpy()] = features_of(encoder, batch, opened)
                    yield range(len(batch))


def folder_features(pictures: Path, network: str, batch_size: int, workers: int, device: str) -> Iterator[range]:
    """A network and a transform of timm's on torchvision's ImageFolder and torch's DataLoader; rows in memory."""
    import timm
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    model: Any = timm.create_model(network, num_classes=0).eval().to(device)
    data: Any = timm.data
    transform = data.create_transform(**data.resolve_model_data_config(model), is_training=False)
    dataset = ImageFolder(str(pictures), transform)
    loader: DataLoader = DataLoader(dataset, batch_size, num_workers=workers, drop_last=True, persistent_workers=True)
    while True:
        for images, _ in loader:
            with torch.no_grad():
                features = model(images.to(device)).float().cpu().numpy()
            yield range(len(features))


def encoder_alone(network: str, batch_size: int, device: str) -> Iterator[range]:
    """The same noise again and again, on the device already and laid out in memory as the loader's views are."""
    encoder = open_encoder(network).to(device)
    noise = _noise(encoder, batch_size).to(device)
    backbone = encoder.backbone
    while True:
        with torch.no_grad():
            features = backbone(noise).float().cpu().numpy()
        yield range(len(features))


def _noise(encoder: Encoder, batch_size: int) -> torch.Tensor:
    side = encoder.side
    assert side is not None
    noise = torch.randn(batch_size, 3, side, side, generator=torch.Generator().manual_seed(0))
    return noise.contiguous(memory_format=torch.channels_last)
