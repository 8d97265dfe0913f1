"""How far an artifact may be: a multiple of what rounding costs the model itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeprune import Captured, capture
from edgeprune_exporters import TorchModel
from edgeprune_exporters.distances import Array, distance
from edgeprune_exporters.parity import FLOAT32, Batch
from edgeprune_exporters.tolerances import BOUNDS, limit_for


class Flat:
    """A model that cannot say what rounding costs it."""


class Costly:
    """A model that loses a share of its logits."""

    def __init__(self, share: float) -> None:
        self.share = share

    def rounded_logits(self, images: Array, precision: str) -> Array:
        return np.full((len(images), 2), 1 + self.share, np.float32)

    def rounded_values(
        self, images: Array, names: Sequence[str], precision: str
    ) -> Mapping[str, Array]:
        return {}


def ones(size: int) -> Batch:
    images = np.zeros((size, 3, 2, 2), np.float32)
    return Batch(images=images, logits=np.ones((size, 2), np.float32))


def test_float32_has_one_tolerance_for_all_models() -> None:
    assert limit_for(Costly(1.0), [ones(1)], "fp32") is FLOAT32


def test_the_tolerance_is_a_multiple_of_the_cost_between_floor_and_ceiling() -> None:
    bounds = BOUNDS["fp16"]
    found = [limit_for(Costly(cost), [ones(1)], "fp16").tolerance for cost in (0, 0.01, 1)]
    assert found == [bounds.floor, pytest.approx(0.01 * bounds.factor, rel=1e-4), bounds.ceiling]


def test_a_model_that_cannot_say_gets_the_ceiling_and_that_is_told() -> None:
    limit = limit_for(Flat(), [ones(1)], "fp16")
    assert limit.tolerance == BOUNDS["fp16"].ceiling
    assert limit.reason == "what rounding costs this model is not known"


def test_rounding_to_float16_gives_what_a_model_in_float16_gives(cnn: Captured) -> None:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    model = TorchModel(cnn)
    rounded = model.rounded_logits(images.numpy(), "fp16")
    with torch.no_grad():
        half = cnn.clone().module.half()(images.half()).float().numpy()
    own = model.logits(images.numpy())
    assert 1e-5 < distance(rounded, own)[1] < 1e-3
    assert distance(rounded, half)[1] < 2 * distance(half, own)[1]


class Doubling(nn.Module):
    """One product with weights that 127 levels hold exactly, and images with 256 levels."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2, bias=False)
        self.linear.weight.data = torch.tensor([[127.0, -3, 0, 60], [1.27, 0.5, 0.01, -1.0]])

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1))


def test_rounding_to_int8_changes_nothing_that_its_levels_hold() -> None:
    images = torch.tensor([0.0, 255.0, 17.0, 200.0]).reshape(1, 1, 2, 2)
    model = TorchModel(capture(Doubling(), images.repeat(2, 1, 1, 1)))
    exact = model.logits(images.numpy())
    np.testing.assert_allclose(model.rounded_logits(images.numpy(), "int8"), exact, rtol=1e-5)
    between = images + torch.tensor([0.0, 0.0, 0.0, 0.4]).reshape(1, 1, 2, 2)
    exact = model.logits(between.numpy())
    assert distance(model.rounded_logits(between.numpy(), "int8"), exact)[1] > 1e-5
