"""Tiny models with what real ones have, captured once, and exported once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgeprune import Captured, capture
from edgeprune.targets import load_target
from edgeprune_exporters import Artifact, Images, Job, TorchModel, export

METADATA = {"labels": '["no finding", "Hernie & Ödem <1 cm>"]', "preprocessing": '{"size": 32}'}


class TinyCnn(nn.Module):
    """Convolutions with BatchNorm, a residual, and a depthwise layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(
            nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 8, 1)
        )
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        return self.head((features + self.body(features)).mean((2, 3)))


class TinyVit(nn.Module):
    """Patches, a class token, resized positions, one block of attention and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.position = nn.Parameter(torch.randn(1, 16, 3, 3))
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 5)

    def forward(self, images: Tensor) -> Tensor:
        count = images.shape[0]
        position = nn.functional.interpolate(
            self.position, size=(4, 4), mode="bicubic", antialias=True
        )
        x = (self.patch(images) + position).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(count, -1, -1), x], 1)
        q, k, v = self.qkv(self.norm1(x)).reshape(count, -1, 3, 2, 8).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(mixed.transpose(1, 2).flatten(2))
        x = x + self.mlp(self.norm2(x))
        return self.head(x[:, 0])


class FixedBatch(TinyCnn):
    """Refuses every batch but 2, as code that reshapes by constants does."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.reshape(2, 3, 32, 32))


def _disturbed(model: nn.Module) -> nn.Module:
    """Move every statistic away from 0 and 1, where mistakes hide."""
    generator = torch.Generator().manual_seed(1)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point() and tensor.dim() == 1:
            tensor.data.add_(torch.rand(tensor.shape, generator=generator))
    return model


def _captured(model: type[nn.Module], batch: int = 1) -> Captured:
    torch.manual_seed(0)
    return capture(_disturbed(model()), torch.randn(batch, 3, 32, 32))


@pytest.fixture(scope="session")
def cnn() -> Captured:
    return _captured(TinyCnn)


@pytest.fixture(scope="session")
def vit() -> Captured:
    return _captured(TinyVit)


@pytest.fixture(scope="session")
def fixed() -> Captured:
    return _captured(FixedBatch, batch=2)


@pytest.fixture(scope="session")
def images() -> Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@dataclass(frozen=True)
class Exported:
    folder: Path
    artifacts: tuple[Artifact, ...]

    def path(self, file: str) -> Path:
        return self.folder / file


@pytest.fixture(scope="session")
def cnn_files(cnn: Captured, images: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("cnn")
    return Exported(folder, export(cnn, load_target("cpu"), folder, images, metadata=METADATA))


@pytest.fixture(scope="session")
def vit_files(vit: Captured, images: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("vit")
    return Exported(folder, export(vit, load_target("cpu"), folder, images, metadata=METADATA))


@pytest.fixture
def job(cnn: Captured, images: Tensor) -> Job:
    return Job(model=TorchModel(cnn), target=load_target("cpu"), images=Images(parity=images))
