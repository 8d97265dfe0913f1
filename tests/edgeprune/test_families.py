"""Every timm family: what must hold of any cut, one model of each.

The quick suite takes ten that differ in structure, ``-m slow`` all others;
``-k NAME`` picks one. A family's tests run one after the other, so that one
model is in memory at a time.
"""

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from edgeprune.axes import analyse
from edgeprune.capture import Captured, capture, load
from edgeprune.cut import cut
from edgeprune.plan import Budget, Plan, make_plan
from edgeprune.targets import load_target
from edgeprune.verify import verify_cut
from edgeprune_exporters import export

from .families import FAMILIES, family, pictures
from .models import plan_of, random_plan, random_scores

QUICK: Final = (
    "byobnet",                     # blocks of several kinds in one network
    "convnext",                    # LayerNorm over channels, layer scale
    "dla",                         # a tree of concatenations
    "efficientnet",                # depthwise convolutions, squeeze and excite
    "mambaout",                    # gated units, split
    "maxxvit",                     # attention in windows and grids, convolutions between
    "nfnet",                       # standardised weights, no running statistics
    "resnet",                      # residual streams
    "vision_transformer",          # fused qkv, class token
    "vision_transformer_relpos",   # positions relative to each other
)  # fmt: skip
PARAMETERS: Final = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES
]
# Where torch's own counter, on one image, cannot be compared with ours.
UNCOUNTED: Final = {
    "csatv2": "images of a batch attend to each other: the cost of one grows with the batch",
    "sequencer": "recurrent layers are not counted",
}
SHARE: Final = 0.5
CHANGED: Final = 1e-3
BATCH: Final = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One family, captured, planned and cut when first asked for."""

    name: str

    @cached_property
    def images(self) -> Tensor:
        return pictures(4, FAMILIES[self.name][1])

    @cached_property
    def dense(self) -> Captured:
        return capture(family(self.name).model, self.images[:BATCH])

    @cached_property
    def plan(self) -> Plan:
        scores = random_scores(self.dense)
        return make_plan(self.dense, scores, Budget(macs=SHARE), ranking="group")

    @cached_property
    def slim(self) -> Captured:
        return cut(self.dense, self.plan)

    def logits(self, model: Captured) -> Tensor:
        with torch.no_grad():
            logits: Tensor = model.module(self.images[:BATCH])
        return logits


@pytest.fixture(scope="module", params=PARAMETERS)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    """Give one family after the other; the one before is let go."""
    model = FAMILIES[request.param][0]
    if not timm.is_model(model):
        pytest.skip(f"timm {timm.__version__} has no {model}")
    yield Case(name=request.param)
    gc.collect()


def difference(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


def flops(captured: Captured, images: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        captured.module(images)
    return counter.get_total_flops() // 2 // len(images)


def test_the_table_names_a_model_of_each_family() -> None:
    assert len(FAMILIES) == 98
    known = timm.list_modules()
    for name, (model, _) in FAMILIES.items():
        assert name not in known or timm.models.is_model_in_modules(model, [name])


def test_logits_depend_on_the_image(case: Case) -> None:
    first, second = case.logits(case.dense)
    assert difference(first, second) > 1e-4


def test_half_of_the_macs_go_and_the_cut_equals_the_masked_model(case: Case) -> None:
    assert case.plan.predicted["macs"] <= SHARE * case.plan.dense["macs"]
    removable = {group.kind for group in case.plan.groups if group.size > 1}
    assert {group.kind for group in case.plan.groups if group.removed} == removable
    proof = verify_cut(case.dense, case.slim, case.plan, case.images[:BATCH])
    assert proof.changed > CHANGED
    proof.require()


def test_each_kind_alone_is_cut_as_it_is_masked(case: Case) -> None:
    failed = {}
    for kind in sorted({group.kind for group in analyse(case.dense).groups}):
        plan = random_plan(case.dense, kind, share=SHARE)
        proof = verify_cut(case.dense, cut(case.dense, plan), plan, case.images[:BATCH])
        # A group of one unit cannot lose half of it.
        idle = not plan.units_removed
        if not idle and not (proof.ok and proof.changed > CHANGED):
            failed[kind] = proof
    assert not failed


def test_a_plan_that_keeps_everything_gives_the_dense_model_bit_for_bit(case: Case) -> None:
    whole = cut(case.dense, plan_of(case.dense, {}))
    assert torch.equal(case.logits(whole), case.logits(case.dense))


def test_parameters_and_macs_are_those_predicted(case: Case) -> None:
    predicted = case.plan.predicted
    assert predicted["params"] == sum(p.numel() for p in case.slim.module.parameters())
    assert predicted["params"] < case.plan.dense["params"]
    assert predicted["macs"] == analyse(case.slim).count_macs()
    if case.name not in UNCOUNTED:
        images = case.images[:1]
        assert flops(case.dense, images) == case.plan.dense["macs"]
        assert flops(case.slim, images) == predicted["macs"]


def test_the_cut_model_is_captured_again(case: Case) -> None:
    again = capture(case.slim.module, case.images[:BATCH])
    assert again.dynamic_batch == case.slim.dynamic_batch
    assert difference(case.logits(again), case.logits(case.slim)) < 1e-5
    assert sum(p.numel() for p in again.module.parameters()) == case.plan.predicted["params"]
    sizes = [sorted(g.size for g in analyse(model).groups) for model in (again, case.slim)]
    assert sizes[0] == sizes[1]


def test_the_cut_model_trains_with_batchnorm_in_its_training_mode(case: Case) -> None:
    module = case.slim.clone().module.train()
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    loss = F.cross_entropy(module(case.images[:BATCH]), torch.arange(BATCH))
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad for name, p in module.named_parameters()}
    assert [n for n, g in gradients.items() if g is None] == []
    assert [n for n, g in gradients.items() if g is not None and not g.isfinite().all()] == []
    moved = {n for n, buffer in module.named_buffers() if not torch.equal(buffer, before[n])}
    assert moved == {n for n in before if n.endswith(("running_mean", "running_var"))}
    torch.optim.SGD(module.parameters(), lr=1e-3).step()
    assert module.eval()(case.images[:BATCH]).isfinite().all()


def test_the_cut_model_is_stored_and_loaded_to_equal_outputs(case: Case, tmp_path: Path) -> None:
    case.slim.save(tmp_path)
    loaded = load(tmp_path)
    assert torch.equal(case.logits(loaded), case.logits(case.slim))
    assert loaded.plan == case.slim.plan


def test_every_format_of_the_cut_model_equals_torch(case: Case, tmp_path: Path) -> None:
    for artifact in export(case.slim, load_target("cpu"), tmp_path, case.images):
        artifact.proof.require(artifact.format)
        assert [each.batch for each in artifact.proof.batches] == [1, 3, 8]
