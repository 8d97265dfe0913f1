"""Every criterion scores every kind of network, and scores that tell units apart."""

import pytest
import torch

from edgeprune.attribution import Integrated, Lrp, Magnitude, Taylor, attribute
from edgeprune.capture import capture

from .families import FAMILIES, family, pictures

QUICK = ("resnet", "vision_transformer")
LRP = (Lrp(), Lrp(rule="gamma", attention="attnlrp"))
CRITERIA = (Magnitude(), Taylor(), Integrated(steps=3), *LRP)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in sorted(FAMILIES)
    ],
)
def test_every_group_has_units_that_carry_more_than_others(name: str) -> None:
    built = family(name)
    images = pictures(2, built.size, seed=2)
    dense = capture(built.model, images)
    for criterion in CRITERIA:
        scores = attribute(dense, [(images, torch.tensor([1, 3]))], criterion)
        assert scores.values
        for group, values in scores.values.items():
            where = (criterion, group)
            assert values.isfinite().all(), where
            assert values.any(), where
            assert len(values) == 1 or values.std() > 1e-6 * values.abs().mean(), where
