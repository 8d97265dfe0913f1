"""Which contraction follows which rule."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import edgeprune as ep
from edgeprune.attribution import attribute
from edgeprune.attribution.lrp import (
    Composite,
    Epsilon,
    Gamma,
    Lrp,
    Part,
    Place,
    ZPlus,
    convolutions,
    everywhere,
    propagation,
    up_to,
)
from edgeprune.attribution.lrp.composites import find_places
from edgeprune.attribution.propagation import find_paths
from edgeprune.errors import UsageError
from edgeprune.gates import GatedModel

from .families import FAMILIES, family, pictures

QUICK = ("convnext", "efficientnet", "resnet")


class Branched(nn.Module):
    """A short way beside a long one, with a gate, and a head of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1, self.conv2 = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.short, self.excite = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.hidden, self.head = nn.Linear(8, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = self.conv2(F.relu(self.conv1(x)))
        y = y * self.excite(y.mean((2, 3), keepdim=True)).sigmoid()
        x = F.relu(y + self.short(x)).mean((2, 3))
        return self.head(F.relu(self.hidden(x)))


@pytest.fixture(scope="module")
def dense() -> ep.Captured:
    torch.manual_seed(0)
    return ep.capture(Branched().eval(), torch.randn(2, 3, 8, 8))


@pytest.fixture(scope="module")
def places(dense: ep.Captured) -> dict[str, Place]:
    model = GatedModel(dense)
    return {place.module: place for place in find_places(model, find_paths(model))}


def _map(dense: ep.Captured, settings: Lrp) -> Tensor:
    """Return relevance of two images, (2, 3, 8, 8)."""
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    leaf, model = images.clone().requires_grad_(), GatedModel(dense)
    (gradient,) = torch.autograd.grad(propagation(model, settings)(leaf, model.ones()).sum(), leaf)
    return gradient * images


def test_depth_counts_contractions_along_the_longest_way(places: dict[str, Place]) -> None:
    found = {name: place.depth for name, place in places.items()}
    expected = {"stem": 0, "conv1": 0.25, "short": 0.25, "conv2": 0.5, "hidden": 0.75, "head": 1}
    assert found == pytest.approx(expected)


def test_what_only_makes_a_gate_is_no_place(places: dict[str, Place]) -> None:
    assert "excite" not in places


def test_a_place_knows_what_it_is(places: dict[str, Place]) -> None:
    assert places["conv1"].operator == "conv2d"
    assert places["conv1"].is_convolution
    assert places["head"].operator == "linear"
    assert not places["head"].is_convolution


RULES = {
    "epsilon": dict.fromkeys(("stem", "conv1", "short", "conv2", "hidden", "head"), Epsilon()),
    "zplus": dict.fromkeys(("stem", "conv1", "short", "conv2", "hidden", "head"), ZPlus()),
    "gamma": dict.fromkeys(("stem", "conv1", "short", "conv2", "hidden", "head"), Gamma()),
    "epsilon_plus": dict.fromkeys(("stem", "conv1", "short", "conv2"), ZPlus())
    | dict.fromkeys(("hidden", "head"), Epsilon()),
    "epsilon_gamma": dict.fromkeys(("stem", "conv1", "short", "conv2"), Gamma())
    | dict.fromkeys(("hidden", "head"), Epsilon()),
    "low_middle_high": dict.fromkeys(("stem", "conv1", "short"), Gamma())
    | {"conv2": Epsilon()}
    | dict.fromkeys(("hidden", "head"), Epsilon(epsilon=0)),
}


@pytest.mark.parametrize("name", RULES)
def test_a_built_in_composite_gives_each_place_its_rule(
    places: dict[str, Place], name: str
) -> None:
    composite = Lrp(rule=name).composite  # type: ignore[arg-type]
    assert {module: composite.rule(place) for module, place in places.items()} == RULES[name]


def test_settings_reach_the_rules_of_a_composite(places: dict[str, Place]) -> None:
    composite = Lrp(rule="epsilon_gamma", epsilon=0.2, absolute=True, gamma=0.5).composite
    assert composite.rule(places["stem"]) == Gamma(gamma=0.5)
    assert composite.rule(places["head"]) == Epsilon(epsilon=0.2, absolute=True)


def test_the_first_part_that_fits_counts(dense: ep.Captured) -> None:
    parts = (Part(where=convolutions, rule=ZPlus()), Part(where=everywhere, rule=Epsilon()))
    own, built_in = Lrp(rule=Composite(parts=parts)), Lrp(rule="epsilon_plus")
    torch.testing.assert_close(_map(dense, own), _map(dense, built_in), rtol=0, atol=0)
    other = Lrp(rule=Composite(parts=parts[::-1]))
    torch.testing.assert_close(_map(dense, other), _map(dense, Lrp()), rtol=0, atol=0)
    assert not torch.equal(_map(dense, own), _map(dense, other))


def test_parts_may_go_by_the_name_of_a_module(dense: ep.Captured) -> None:
    named = Part(where=lambda place: place.module == "conv2", rule=Gamma(gamma=3.0))
    found = _map(dense, Lrp(rule=Composite(parts=(named,))))
    assert not torch.equal(found, _map(dense, Lrp(epsilon=0)))
    everything = Part(where=everywhere, rule=Gamma(gamma=3.0))
    assert not torch.equal(found, _map(dense, Lrp(rule=Composite(parts=(everything,)))))


def test_what_fits_no_part_follows_lrp_0(dense: ep.Captured) -> None:
    nothing = _map(dense, Lrp(rule=Composite(parts=())))
    torch.testing.assert_close(nothing, _map(dense, Lrp(epsilon=0)), rtol=0, atol=0)


def test_rules_of_ones_own_see_operands_by_their_part(dense: ep.Captured) -> None:
    seen = []

    class Looking(Epsilon):
        def __call__(self, contraction: object) -> Tensor:
            seen.append(contraction)
            return super().__call__(contraction)  # type: ignore[arg-type]

    first = Part(where=up_to(0), rule=Looking(epsilon=0))
    _map(dense, Lrp(rule=Composite(parts=(first,))))
    (stem,) = seen
    torch.testing.assert_close(stem.weight, dense.module.get_parameter("stem.weight"))
    torch.testing.assert_close(stem.apply(stem.signal, stem.weight, stem.bias), stem.run())


def test_scores_name_the_rule(dense: ep.Captured) -> None:
    batches = [(torch.randn(2, 3, 8, 8), torch.tensor([0, 1]))]
    assert attribute(dense, batches, "lrp:rule=epsilon_plus").criterion == "lrp:rule=epsilon_plus"
    own = attribute(dense, batches, Lrp(rule=Composite(parts=())))
    assert "0x" not in own.criterion


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "zplusplus"}, "no rule 'zplusplus'; there are epsilon, zplus, gamma"),
        ({"epsilon": -1.0}, "epsilon is -1: use 0 or a positive number"),
        ({"gamma": math.nan}, "gamma is nan: use 0 or a positive number"),
        ({"gamma": math.inf}, "gamma is inf: use 0 or a positive number"),
        ({"attention": "none"}, "attention is 'none': use cp or attnlrp"),
        ({"explained": "logit"}, "explained is 'logit'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Lrp(**settings)  # type: ignore[arg-type]


def test_equal_settings_are_equal() -> None:
    parts = (Part(where=convolutions, rule=ZPlus()),)
    assert Lrp(rule=Composite(parts=parts)) == Lrp(rule=Composite(parts=parts))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in sorted(FAMILIES)
    ],
)
def test_no_rule_changes_a_logit_of_any_family_and_every_group_is_scored(name: str) -> None:
    built = family(name)
    images = pictures(2, built.size, seed=2)
    model = GatedModel(ep.capture(built.model, images))
    expected = model.module(images).detach()
    for rule in ("zplus", "gamma"):
        gates = model.ones().requires_grad_()
        logits = propagation(model, Lrp(rule=rule))(images, gates)
        assert (logits - expected).abs().max() <= 1e-6 * expected.abs().max(), rule
        (relevance,) = torch.autograd.grad(logits[:, 1].sum(), gates)
        assert relevance.isfinite().all(), rule
        assert all(part.any() for part in model.by_group(relevance).values()), rule
