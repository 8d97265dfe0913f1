"""Real architectures, dense and half cut, in every format."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from edgeprune import Budget, Captured, Scores, capture, channel_groups, cut, make_plan
from edgeprune.targets import load_target
from edgeprune_exporters import export

NAMES = (
    "resnet18",
    "deit_tiny_patch16_224",
    "vgg11",
    "convnext_atto",
    "mobilenetv2_100",
    "densenet121",
)


def half(dense: Captured) -> Captured:
    generator = torch.Generator().manual_seed(0)
    values = {
        group.name: torch.rand(group.size, dtype=torch.float64, generator=generator)
        for group in channel_groups(dense)
    }
    scores = Scores(criterion="random", values=values)
    return cut(dense, make_plan(dense, scores, Budget(macs=0.5), align=16))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_dense_and_half_equal_torch_in_every_format(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.randn(4, 3, 224, 224)
    dense = capture(timm.create_model(name, num_classes=10), images[:1])
    for model in (dense, half(dense)):
        for target in ("cpu", "jetson"):
            for artifact in export(model, load_target(target), tmp_path, images):
                assert artifact.proof.max_rel < 2e-5
