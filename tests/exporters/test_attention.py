"""Attention of any rank is written out, with the same values."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeprune import capture
from edgeprune.targets import load_target
from edgeprune_exporters import export
from edgeprune_exporters.attention import attention

CASES = [
    ((), None),
    ((3,), (3, 4, 6)),
    ((2, 3), (4, 6)),
    ((2, 3), (2, 1, 4, 6)),
    ((2, 5, 3), None),
    ((2, 5, 3), (3, 4, 6)),
    ((2, 5, 3), (5, 1, 4, 6)),
    ((2, 5, 3), (2, 5, 3, 4, 6)),
    ((2, 2, 5, 3), (2, 5, 1, 4, 6)),
]


@pytest.mark.parametrize(("lead", "mask"), CASES)
def test_values_are_those_of_torch_at_any_rank(
    lead: tuple[int, ...], mask: tuple[int, ...] | None
) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(*lead, 4, 8, generator=generator)
    key = torch.randn(*lead, 6, 8, generator=generator)
    value = torch.randn(*lead, 6, 2, generator=generator)
    bias = None if mask is None else torch.randn(mask, generator=generator)
    expected = F.scaled_dot_product_attention(query, key, value, bias, scale=0.3)
    torch.testing.assert_close(attention(query, key, value, bias, scale=0.3), expected)


def test_masks_of_truth_values_and_causal_ones_are_those_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, 5, 8, generator=generator) for _ in range(3))
    mask = torch.rand(5, 5, generator=generator) > 0.4
    mask[:, 0] = True  # a row without any gives zeros in torch, and NaN in what it exports
    for given in ({"attn_mask": mask}, {"is_causal": True}):
        expected = F.scaled_dot_product_attention(query, key, value, **given)  # type: ignore[arg-type]
        torch.testing.assert_close(attention(query, key, value, **given), expected)  # type: ignore[arg-type]


def test_queries_may_share_keys_and_values() -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 6, 5, 8, generator=generator)
    key, value = (torch.randn(2, 2, 5, 8, generator=generator) for _ in range(2))
    expected = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
    torch.testing.assert_close(attention(query, key, value, enable_gqa=True), expected)


class WithinBlocks(nn.Module):
    """Two heads attend within each of four blocks of 16 pixels, with a bias per head."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(3, 24)
        self.bias = nn.Parameter(torch.randn(2, 16, 16))

    def forward(self, images: Tensor) -> Tensor:
        blocks = images.flatten(2).transpose(1, 2).unflatten(1, (4, 16))
        mixed = self.qkv(blocks).unflatten(-1, (3, 2, 4)).permute(3, 0, 1, 4, 2, 5)
        query, key, value = mixed.unbind(0)  # (B, blocks, heads, 16, 4)
        return F.scaled_dot_product_attention(query, key, value, self.bias).mean((1, 3)).flatten(1)


class WithoutHeads(nn.Module):
    """One attention over all pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(3, 24)

    def forward(self, images: Tensor) -> Tensor:
        query, key, value = self.qkv(images.flatten(2).transpose(1, 2)).chunk(3, -1)
        return F.scaled_dot_product_attention(query, key, value).mean(1)


@pytest.mark.parametrize("model", [WithinBlocks, WithoutHeads])
def test_attention_of_five_and_of_three_dimensions_is_exported_without_computing_shapes(
    model: type[nn.Module], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    captured = capture(model(), torch.randn(3, 3, 8, 8))
    for artifact in export(captured, load_target("cpu"), tmp_path, captured.sample):
        assert artifact.proof.max_rel < 1e-5
    operators = [node.op_type for node in onnx.load(tmp_path / "onnx/model.onnx").graph.node]
    assert operators.count("Softmax") == 1
    assert "Shape" not in operators
