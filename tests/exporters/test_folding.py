"""Values that no image reaches are computed once, by torch."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from edgeprune import Captured, capture
from edgeprune.targets import load_target
from edgeprune_exporters import export
from edgeprune_exporters.folding import fold_constants


def operators(captured: Captured) -> list[str]:
    return [str(n.target) for n in captured.module.graph.nodes if n.op == "call_function"]


def folded(model: nn.Module) -> tuple[Captured, Captured]:
    before = capture(model, torch.randn(2, 3, 8, 8))
    after = before.clone()
    fold_constants(after.module)
    return before, after


def test_resized_positions_are_folded_and_nothing_changes(vit: Captured) -> None:
    assert "aten._upsample_bicubic2d_aa.vec" in operators(vit)
    twin = vit.clone()
    fold_constants(twin.module)
    assert "aten._upsample_bicubic2d_aa.vec" not in operators(twin)
    images = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(twin.module(images), vit.module(images), rtol=0, atol=0)


class Resized(nn.Module):
    """Positions on a grid that ONNX's reference implementation resizes wrongly."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, 4, 10, 10))

    def forward(self, images: Tensor) -> Tensor:
        position = nn.functional.interpolate(self.position, size=(14, 14), mode="bilinear")
        return position.flatten(1) + images.mean((1, 2, 3))[:, None]


def test_resized_positions_are_torch_s_own(tmp_path: Path) -> None:
    captured = capture(Resized(), torch.randn(2, 3, 8, 8))
    for artifact in export(captured, load_target("cpu"), tmp_path, captured.sample):
        assert artifact.proof.max_rel < 1e-6


class Standardised(nn.Module):
    """A convolution whose weight is centred on every call, and a split parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.pair = nn.Parameter(torch.randn(2, 4))

    def forward(self, images: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        scale, shift = self.pair.unbind(0)
        features = nn.functional.conv2d(images, weight).mean((2, 3))
        return features * scale + shift


def test_weights_computed_from_weights_are_folded_even_through_several_results() -> None:
    before, after = folded(Standardised())
    assert operators(after) == [
        "aten.conv2d.default", "aten.mean.dim", "aten.mul.Tensor", "aten.add.Tensor"
    ]  # fmt: skip
    images = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(after.module(images), before.module(images), rtol=0, atol=0)


def test_a_model_without_such_values_keeps_its_graph(cnn: Captured) -> None:
    twin = cnn.clone()
    fold_constants(twin.module)
    assert operators(twin) == operators(cnn)
