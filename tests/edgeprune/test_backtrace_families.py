"""DL-Backtrace scores every kind of network, in both modes, with scores that tell units apart."""

import pytest
import torch

from edgeprune.attribution import Batch
from edgeprune.attribution.backtrace import Backtrace, relevance_maps
from edgeprune.capture import capture
from edgeprune.gates import GatedModel

from .families import FAMILIES, family, pictures

QUICK = ("convnext", "efficientnet", "mambaout", "maxxvit", "resnet", "vision_transformer")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in sorted(FAMILIES)
    ],
)
def test_every_group_has_units_that_get_more_than_others(name: str) -> None:
    built = family(name)
    images = pictures(2, built.size, seed=2)
    model = GatedModel(capture(built.model, images))
    at_once = 1 if model.captured.dynamic_batch and not model.by_sample else 2
    batch = Batch(images=images, labels=torch.tensor([1, 3]), multi_label=False).part(0, at_once)
    for settings in (Backtrace(), Backtrace(mode="contrast")):
        maps = relevance_maps(model, settings)(batch)
        assert maps.isfinite().all()
        assert maps.min() >= 0
        for group, values in model.by_group(maps.double().sum((0, 1))).items():
            where = (settings.mode, group)
            assert values.any(), where
            assert len(values) == 1 or values.std() > 1e-6 * values.mean(), where
