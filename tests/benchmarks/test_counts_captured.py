"""Artifacts are counted as captured models are."""

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import edgeprune as ep
from edgeprune.axes.analysis import analyse
from edgeprune_benchmarks.counts import artifact_counts

EDGE = 32


class Everything(nn.Module):
    """One of each kind of product, and no BatchNorm, which would be folded away."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.grouped = nn.Conv2d(16, 32, 1, groups=4)
        self.up = nn.ConvTranspose2d(32, 16, 2, 2)
        self.down = nn.Conv2d(16, 16, 4, 4)
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)
        self.mix = nn.Parameter(torch.randn(16, 16))
        self.head = nn.Linear(16, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.grouped(F.silu(self.depthwise(self.stem(images)))))
        x = self.down(self.up(x)).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).reshape(len(x), -1, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.head(torch.einsum("bnc,cd->bnd", x, self.mix).mean(1))


def artifacts(captured: ep.Captured, folder: Path) -> list[Path]:
    ep.export(captured, "cpu", folder)
    return [*folder.rglob("*.onnx"), *folder.rglob("*.xml")]


def test_multiply_accumulates_and_parameters_equal_those_of_the_captured_model(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    captured = ep.capture(Everything().eval(), torch.randn(2, 3, EDGE, EDGE))
    params = sum(each.numel() for each in captured.module.parameters())
    files = artifacts(captured, tmp_path / "out")
    assert len(files) == 2
    for file in files:
        counts = artifact_counts(file)
        assert (counts.macs, counts.params) == (analyse(captured).count_macs(), params)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "edge"),
    [
        *(("test_resnet", 160), ("test_vit", 160), ("test_convnext", 160)),
        *(("test_efficientnet", 160), ("test_byobnet", 160), ("test_nfnet", 96)),
        *(("swin_tiny_patch4_window7_224", 224), ("mobilevit_xxs", 256), ("levit_128s", 224)),
    ],
)
def test_families_count_the_same_in_every_form(name: str, edge: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5).eval()
    captured = ep.capture(model, torch.randn(2, 3, edge, edge))
    expected = analyse(captured).count_macs()
    files = artifacts(captured, tmp_path / "out")
    assert [artifact_counts(file).macs for file in files] == [expected, expected]
