from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import edgeprune as ep
from edgeprune.attribution import Taylor, attribute, find_criterion
from edgeprune.errors import UsageError

OUTSIDE = """
import torch
from dataclasses import dataclass
from edgeprune.attribution import Learned

class Halves:
    def per_unit(self, model, seed):
        return torch.full((model.total,), 0.5)

@dataclass(frozen=True)
class Same:
    value: float = 2.0

    def learn(self, model, batches, *, classes, seed, progress=None):
        values = torch.full((classes, model.total), self.value)
        return Learned(per_unit=values[0], per_class=values)

halves = Halves()
same = Same()
nothing = object()
"""
ENTRIES = """
[edgeprune.criteria]
halves = outside_criterion:halves
same = outside_criterion:same
nothing = outside_criterion:nothing
broken = outside_criterion:missing
taylor = outside_criterion:halves
"""


@pytest.fixture
def _outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outside_criterion.py").write_text(OUTSIDE)
    info = tmp_path / "outside_criterion-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-criterion\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(tmp_path)


def _dense() -> ep.Captured:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    return ep.capture(model, torch.randn(2, 3, 8, 8))


def test_an_unknown_criterion_is_refused_and_the_nearest_is_named() -> None:
    with pytest.raises(UsageError, match="did you mean 'taylor'"):
        find_criterion("tailor")


@pytest.mark.parametrize("given", [Taylor, object(), None])
def test_an_object_that_is_no_criterion_is_refused(given: Any) -> None:
    with pytest.raises(UsageError, match=r"is no criterion: give a name, or an object such as"):
        attribute(_dense(), [], given)


@pytest.mark.parametrize("name", ["deeplift", "DeepLift", "deep_lift_shap"])
def test_deeplift_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(UsageError, match="silently returns gate × gradient; use taylor"):
        find_criterion(name)


@pytest.mark.usefixtures("_outside")
def test_a_criterion_comes_in_by_entry_point() -> None:
    dense = _dense()
    scores = attribute(dense, [], "halves")
    assert scores.criterion == "halves"
    assert scores["0"].tolist() == [0.5] * 4


@pytest.mark.usefixtures("_outside")
def test_a_criterion_from_outside_has_settings_if_it_is_a_dataclass() -> None:
    dense = _dense()
    batches = [(torch.randn(2, 3, 8, 8), torch.tensor([0, 1]))]
    scores = attribute(dense, batches, "same:value=7")
    assert scores["0"].tolist() == [7] * 4
    assert scores.criterion == "same:value=7"
    assert attribute(dense, batches, "same:value=2").criterion == "same"
    with pytest.raises(UsageError, match="'halves' has no setting 'value'; it has none"):
        find_criterion("halves:value=7")


@pytest.mark.usefixtures("_outside")
def test_a_built_in_criterion_cannot_be_replaced_from_outside() -> None:
    assert hasattr(find_criterion("taylor"), "per_sample")


@pytest.mark.usefixtures("_outside")
def test_an_entry_point_that_is_no_criterion_is_named() -> None:
    with pytest.raises(UsageError, match=r"'nothing' .* without per_sample, learn or per_unit"):
        find_criterion("nothing")
    with pytest.raises(UsageError, match=r"'broken' .* cannot be loaded"):
        find_criterion("broken")
