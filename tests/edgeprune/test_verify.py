from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from edgeprune.axes.op import RULES, Op, Rule
from edgeprune.axes.units import Axes, Axis
from edgeprune.capture import Captured, capture
from edgeprune.cut import cut
from edgeprune.errors import CutError, UsageError
from edgeprune.verify import CutProof, verify_cut

from .models import build, images, plan_of, random_plan

CaptureOf = Callable[..., Captured]


def test_a_proof_holds_up_to_its_tolerance_and_raises_beyond() -> None:
    good = CutProof(max_abs=1.0, max_rel=1e-4, tolerance=1e-4, samples=2, changed=0.1)
    good.require()
    bad = CutProof(max_abs=1.0, max_rel=2e-4, tolerance=1e-4, samples=2, changed=0.1)
    assert not bad.ok
    with pytest.raises(CutError, match=r"2\.0e-04 relative"):
        bad.require()


def test_a_model_that_lost_something_else_is_not_proven(capture_of: CaptureOf) -> None:
    dense = capture_of("Chain")
    asked = plan_of(dense, {"conv1": [0, 1, 2, 3]})
    done = plan_of(dense, {"conv1": [0, 1, 2, 4]})
    proof = verify_cut(dense, cut(dense, done), asked, images(2))
    assert not proof.ok


def test_a_model_with_one_weight_changed_is_not_proven(capture_of: CaptureOf) -> None:
    dense = capture_of("Chain")
    plan = random_plan(dense)
    slim = cut(dense, plan)
    with torch.no_grad():
        slim.module.get_parameter("conv2.weight")[0, 0, 1, 1] += 0.1
    assert not verify_cut(dense, slim, plan, images(2)).ok


def test_a_model_that_gives_no_number_is_not_proven(capture_of: CaptureOf) -> None:
    dense = capture_of("Chain")
    plan = random_plan(dense)
    slim = cut(dense, plan)
    with torch.no_grad():
        slim.module.get_parameter("head.bias")[0] = float("nan")
    assert not verify_cut(dense, slim, plan, images(2)).ok


def test_a_model_of_fixed_batch_is_verified_on_as_many_images_as_it_takes() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = build("Chain")

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x.reshape(2, 3, 12, 12))

    dense = capture(Fixed(), images(2))
    assert not dense.dynamic_batch
    plan = random_plan(dense)
    slim = cut(dense, plan)
    assert verify_cut(dense, slim, plan, images(5)).samples == 2
    with pytest.raises(UsageError, match="batches of 2; give 2"):
        verify_cut(dense, slim, plan, images(1))


def _loose(op: Op, x: Axes, y: Axes | float, alpha: float) -> Axes:
    """A sum that forgets to tie its operands."""
    return x


def _reversed_pieces(op: Op, tensors: list[Axes], dim: int) -> Axes:
    """A concatenation that lays its pieces down the wrong way round."""
    right = RULES["aten.concat"](op, tensors, dim)
    turned = tuple(column[::-1] for column in op.units.resolve(right[dim]).columns)
    return (*right[:dim], Axis(right[dim].size, turned), *right[dim + 1 :])


def _untied_groups(op: Op, x: Axes, groups: int, weight: Axes, bias: Axes, *rest: object) -> Axes:
    """A GroupNorm whose groups may lose different numbers of channels."""
    op.unify(x[1], weight[0])
    op.unify(x[1], bias[0])
    return x


def _implicit_scale(op: Op, q: Axes, k: Axes, v: Axes, *rest: object) -> Axes:
    """Attention that forgets the scale of the dense model."""
    out = RULES["aten._right_attention"](op, q, k, v, *rest)
    op.findings.edits.clear()
    return tuple(out)


@pytest.mark.parametrize(
    ("name", "operator", "fault"),
    [
        ("Residual", "aten.add", _loose),
        ("Concatenated", "aten.cat", _reversed_pieces),
        ("Grouped", "aten.group_norm", _untied_groups),
        ("Transformer", "aten.scaled_dot_product_attention", _implicit_scale),
    ],
)
def test_a_wrong_rule_is_caught(
    name: str, operator: str, fault: Rule, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = capture(build(name), images(2))
    monkeypatch.setitem(RULES, "aten._right_attention", RULES["aten.scaled_dot_product_attention"])
    monkeypatch.setitem(RULES, operator, fault)
    plan = random_plan(dense)
    with pytest.raises(CutError, match="must not be used"):
        verify_cut(dense, cut(dense, plan), plan, images(2)).require()
