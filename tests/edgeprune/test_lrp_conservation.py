"""Relevance under LRP-0 is neither lost nor made: by operator, and from logit to image."""

import gc
from typing import Final

import pytest
import torch

from edgeprune.attribution.lrp import Lrp, propagation
from edgeprune.attribution.lrp.table import table
from edgeprune.attribution.operators import operation
from edgeprune.attribution.propagation import entry_for
from edgeprune.capture import capture
from edgeprune.gates import GatedModel

from .conftest import CaptureOf
from .families import FAMILIES, family, pictures
from .models import TINY, images
from .relevance_ledger import Account, account

QUICK: Final = (
    "byobnet",
    "convnext",
    "efficientnet",
    "mambaout",
    "maxxvit",
    "nfnet",
    "resnet",
    "vision_transformer",
)
PARAMETERS: Final = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES
]
TOLERANCE: Final = 1e-8  # of the logit; the largest found was 1e-11
LRP_0: Final = Lrp(epsilon=0)


def _losses(model: GatedModel, found: Account) -> dict[str, float]:
    """Name the operators that lost or made more than rounding errors, by share of the logit."""
    operators = {node.name: operation(node) for node in model.module.graph.nodes}
    lost: dict[str, float] = {}
    for name, leak in found.ledger.leaks().items():
        if not abs(leak) <= TOLERANCE * abs(found.explained):
            lost[operators[name]] = lost.get(operators[name], 0) + leak / found.explained
    return lost


@pytest.mark.parametrize("name", TINY)
def test_every_operator_of_a_tiny_model_passes_on_what_its_result_has(
    name: str, capture_of: CaptureOf
) -> None:
    model = GatedModel(capture_of(name).clone())
    found = account(model, images(2), LRP_0)
    assert len(found.ledger.result) >= 5
    assert not _losses(model, found)
    assert found.total == pytest.approx(found.explained, rel=1e-8)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_family_keeps_its_logits_and_the_sum_of_relevance(name: str) -> None:
    built = family(name)
    dense = capture(built.model, pictures(2, built.size, seed=2))
    model = GatedModel(dense)
    shown = pictures(1 if dense.dynamic_batch else 2, built.size, seed=5)
    with torch.no_grad():
        expected = model(shown, model.ones())
        logits = propagation(model, LRP_0)(shown, model.ones())
    assert (logits - expected).abs().max() <= 1e-6 * expected.abs().max()
    found = account(model, shown, LRP_0)
    assert not _losses(model, found)
    assert found.total == pytest.approx(found.explained, rel=1e-8)
    del built, dense, model
    gc.collect()


@pytest.mark.parametrize("name", ["Transformer", "MergedHeads"])
def test_under_attnlrp_only_softmax_loses_and_its_entry_says_so(
    name: str, capture_of: CaptureOf
) -> None:
    model = GatedModel(capture_of(name).clone())
    found = account(model, images(2), Lrp(epsilon=0, attention="attnlrp"))
    losses = _losses(model, found)
    assert losses
    entries = {operator: entry_for(table("attnlrp"), operator) for operator in losses}
    assert not any(entry is None or entry.conserves for entry in entries.values())
    assert found.total + sum(losses.values()) * found.explained == pytest.approx(
        found.explained, rel=1e-7
    )


def test_what_epsilon_absorbs_is_all_that_is_missing(capture_of: CaptureOf) -> None:
    model = GatedModel(capture_of("Residual").clone())
    found = account(model, images(2), Lrp(epsilon=0.1))
    losses = _losses(model, found)
    assert set(losses) <= {"conv2d", "linear"}
    assert found.explained - found.total == pytest.approx(
        sum(losses.values()) * found.explained, rel=1e-7
    )
    assert abs(found.explained - found.total) > 1e-3 * abs(found.explained)
