import operator
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edgeprune.axes import analyse
from edgeprune.axes.op import RULES, Op
from edgeprune.axes.units import Axes
from edgeprune.capture import Captured, capture, load, trainable
from edgeprune.cut import cut
from edgeprune.errors import CutError, PlanError
from edgeprune.verify import verify_cut

from .models import TINY, build, images, plan_of, random_plan

KINDS = [
    ("Chain", "conv"), ("Chain", "hidden"), ("Residual", "width"), ("Grouped", "conv"),
    ("Concatenated", "conv"), ("SqueezeExcite", "conv"), ("Transformer", "heads"),
    ("Transformer", "head_dim"), ("Transformer", "hidden"), ("Transformer", "width"),
    ("MergedHeads", "heads"), ("MergedHeads", "head_dim"), ("TokensFirst", "heads"),
    ("TokensFirst", "head_dim"),
]  # fmt: skip
QUICK = [
    ("resnet18", 64), ("test_vit", 160), ("test_convnext", 64), ("test_efficientnet", 64),
    ("mobilenetv2_035", 64),
]  # fmt: skip
SLOW = [
    ("resnet50", 224), ("vgg19", 224), ("densenet121", 224), ("deit_tiny_patch16_224", 224),
    ("resnext50_32x4d", 224), ("vit_small_patch16_224", 224), ("mobilenetv2_100", 224),
    ("convnext_tiny", 224), ("seresnet50", 224),
]  # fmt: skip
MODELS = [*((name, 12) for name in TINY), QUICK[0], QUICK[1]]

CaptureOf = Callable[..., Captured]


def flops(captured: Captured, size: int) -> int:
    with FlopCounterMode(display=False) as counter:
        captured.module(images(1, size))
    return counter.get_total_flops() // 2


def check_cut_equals_masked(dense: Captured, kind: str, size: int, seed: int = 0) -> None:
    plan = random_plan(dense, kind, seed=seed)
    assert plan.units_removed
    slim = cut(dense, plan)
    proof = verify_cut(dense, slim, plan, images(2, size, seed=5))
    assert proof.changed > 1e-3
    assert proof.max_rel < 1e-5


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_the_cut_model_equals_the_masked_model_for_each_kind_alone(
    name: str, kind: str, capture_of: CaptureOf
) -> None:
    check_cut_equals_masked(capture_of(name), kind, 12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", TINY)
def test_the_cut_model_equals_the_masked_model_for_random_plans(
    name: str, seed: int, capture_of: CaptureOf
) -> None:
    dense = capture_of(name)
    plan = random_plan(dense, share=(0.1, 0.35, 0.6, 0.7)[seed], seed=seed)
    proof = verify_cut(dense, cut(dense, plan), plan, images(2, seed=5))
    assert proof.changed > 1e-3
    assert proof.max_rel < 1e-5


@pytest.mark.parametrize(("name", "size"), QUICK)
def test_the_cut_model_equals_the_masked_model_on_public_architectures(
    name: str, size: int, capture_of: CaptureOf
) -> None:
    check_cut_equals_masked(capture_of(name, size), "all", size)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), SLOW)
def test_the_cut_model_equals_the_masked_model_at_full_size(name: str, size: int) -> None:
    dense = capture(build(name), images(2, size))
    for kind in sorted({group.kind for group in analyse(dense).groups}):
        check_cut_equals_masked(dense, kind, size)
    plan = random_plan(dense)
    slim = cut(dense, plan)
    proof = verify_cut(dense, slim, plan, images(2, size))
    assert proof.max_rel < 1e-5
    analysis = analyse(dense)
    assert analysis.count_macs(analysis.kept(plan.masks(analysis.groups))) == flops(slim, size)


def test_removing_a_unit_equals_zeroing_what_its_reader_multiplies_it_by(
    capture_of: CaptureOf,
) -> None:
    # Independent of gates and analysis: the reader's weights, in the original model.
    dense = capture_of("Chain")
    slim = cut(dense, plan_of(dense, {"conv1": [0, 2, 3, 7], "hidden": range(4, 16)}))
    model = build("Chain")
    with torch.no_grad():
        model.conv2.weight[:, [1, 4, 5, 6]] = 0
        model.head.weight[:, :4] = 0
        expected = model(images(4))
    assert torch.allclose(slim.module(images(4)), expected, atol=1e-6)
    assert not torch.allclose(dense.module(images(4)), expected, atol=1e-2)


def test_the_cut_model_has_the_planned_widths(capture_of: CaptureOf) -> None:
    dense = capture_of("Chain")
    slim = cut(dense, plan_of(dense, {"conv1": [0, 2, 3], "conv2": range(5)}))
    shapes = {name: tuple(p.shape) for name, p in slim.module.named_parameters()}
    assert shapes["conv1.weight"] == (3, 3, 3, 3)
    assert shapes["bn1.weight"] == (3,)
    assert shapes["conv2.weight"] == (5, 3, 3, 3)
    assert shapes["hidden.weight"] == (16, 5 * 9)
    assert torch.equal(
        slim.module.get_parameter("conv1.weight"),
        dense.module.get_parameter("conv1.weight")[[0, 2, 3]],
    )


@pytest.mark.parametrize(("name", "size"), MODELS)
def test_a_plan_that_keeps_everything_gives_the_dense_model_bit_for_bit(
    name: str, size: int, capture_of: CaptureOf
) -> None:
    dense = capture_of(name, size)
    same = cut(dense, plan_of(dense, {}))
    assert torch.equal(same.module(images(3, size)), dense.module(images(3, size)))


@pytest.mark.parametrize("name", [*TINY, "test_resnet"])
def test_the_cut_graph_is_captured_again_trains_and_is_stored(
    name: str, capture_of: CaptureOf, tmp_path: Path
) -> None:
    size = 12 if name in TINY else 64
    check_captured_again_trained_and_stored(capture_of(name, size), size, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), SLOW)
def test_at_full_size_keeping_all_is_exact_and_a_cut_is_captured_trained_and_stored(
    name: str, size: int, tmp_path: Path
) -> None:
    dense = capture(build(name), images(2, size))
    same = cut(dense, plan_of(dense, {}))
    assert torch.equal(same.module(images(3, size)), dense.module(images(3, size)))
    del same
    check_captured_again_trained_and_stored(dense, size, tmp_path)


def check_captured_again_trained_and_stored(dense: Captured, size: int, place: Path) -> None:
    plan = random_plan(dense)
    slim = cut(dense, plan)
    analysis = analyse(dense)
    kept = analysis.kept(plan.masks(analysis.groups))
    counted = analysis.count_parameters(trainable(dense.module), kept)
    assert counted == sum(p.numel() for p in slim.module.parameters())
    again = capture(slim.module, images(3, size))
    assert again.dynamic_batch
    assert torch.equal(again.module(images(5, size)), slim.module(images(5, size)))
    assert len(analyse(again).groups) > 0

    slim.save(folder := place / "slim")
    loaded = load(folder)
    assert torch.equal(loaded.module(images(2, size)), slim.module(images(2, size)))
    assert loaded.plan == slim.plan

    slim.module.train()
    torch.manual_seed(0)
    slim.module(images(8, size)).square().sum().backward()
    idle = [n for n, p in slim.module.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == [n for n in idle if n.endswith("attention.in_proj_bias")]


@pytest.mark.parametrize(("name", "size"), MODELS)
def test_predicted_parameters_and_macs_are_those_of_the_cut_model(
    name: str, size: int, capture_of: CaptureOf
) -> None:
    dense = capture_of(name, size)
    plan = random_plan(dense, seed=3)
    slim = cut(dense, plan)
    analysis = analyse(dense)
    kept = analysis.kept(plan.masks(analysis.groups))
    names = trainable(dense.module)
    assert analysis.count_parameters(names) == sum(p.numel() for p in dense.module.parameters())
    assert analysis.count_parameters(names, kept) == sum(
        p.numel() for p in slim.module.parameters()
    )
    assert analysis.count_macs() == flops(dense, size)
    assert analysis.count_macs(kept) == flops(slim, size)
    assert analysis.count_macs(kept) == analyse(slim).count_macs()


def test_macs_of_a_transformer_block_are_those_worked_out_by_hand(capture_of: CaptureOf) -> None:
    tokens, width, heads, hidden, pixels = 10, 12, 3, 20, 3 * 4 * 4
    patches = 9 * pixels * width
    attention = tokens * width * 3 * width + 2 * heads * tokens**2 * (width // heads)
    block = attention + tokens * width * width + 2 * tokens * width * hidden
    assert analyse(capture_of("Transformer")).count_macs() == patches + block + width * 5


def test_a_cut_model_can_be_cut_again(capture_of: CaptureOf) -> None:
    dense = capture_of("MergedHeads")
    once = cut(dense, random_plan(dense, share=0.7))
    plan = random_plan(once, share=0.7, seed=1)
    assert verify_cut(once, cut(once, plan), plan, images(2)).max_rel < 1e-5


def test_a_cut_leaves_the_dense_model_as_it_was(capture_of: CaptureOf) -> None:
    dense = capture_of("Residual")
    before = dense.module(images(2))
    slim = cut(dense, random_plan(dense))
    with torch.no_grad():
        for parameter in slim.module.parameters():
            parameter.zero_()
    assert torch.equal(dense.module(images(2)), before)


def test_cutting_refuses_the_plan_of_another_model(capture_of: CaptureOf) -> None:
    plan = random_plan(capture_of("Chain"))
    with pytest.raises(PlanError, match="belongs to another model"):
        cut(capture_of("Residual"), plan)


class Sizes(nn.Module):
    """Sizes of tensors that shrink, in all the ways that code uses them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 4, 4)
        self.mix = nn.Linear(9, 9)
        self.read = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        n, c = x.shape[:2]
        heads = x.reshape(n * 3, c // 3, -1)
        heads = self.mix(heads) / heads.shape[0] * n + heads.shape[1]
        whole = heads.reshape(heads.shape[0] // 3, heads.shape[1] * 3, -1)
        left, right = whole[:, : c // 2], whole[:, c // 2 :]
        return self.read(torch.cat([right, left], 1).mean(2)) * (x.numel() // n)


@pytest.mark.parametrize("seed", range(4))
def test_sizes_that_code_computes_follow_the_cut_or_stay_what_they_meant(seed: int) -> None:
    torch.manual_seed(0)
    dense = capture(Sizes(), images(2))
    assert dense.dynamic_batch
    assert sum(group.size for group in analyse(dense).groups) >= 4
    plan = random_plan(dense, seed=seed)
    slim = cut(dense, plan)
    for count in (1, 2, 5):
        assert verify_cut(dense, slim, plan, images(count)).max_rel < 1e-5


def test_a_size_read_off_a_tensor_that_shrinks_is_computed_back(capture_of: CaptureOf) -> None:
    # torch.export reads sizes off the images alone; a graph made otherwise need not.
    dense = capture(build("MergedHeads"), images(2))
    graph = dense.module.graph
    bmm = next(n for n in reversed(graph.nodes) if n.target is torch.ops.aten.bmm.default)
    (view,) = bmm.users
    with graph.inserting_after(bmm):
        size = graph.call_function(torch.ops.aten.sym_size.int, (bmm, 0))
    with graph.inserting_after(size):
        batch = graph.call_function(operator.floordiv, (size, 3))
    with graph.inserting_after(batch):
        scaled = graph.call_function(torch.ops.aten.div.Scalar, (bmm, size))
    view.args = (scaled, [batch, *view.args[1][1:]])
    graph.lint()
    dense.module.recompile()
    plan = plan_of(dense, {g.name: range(2) for g in analyse(dense).groups if g.kind == "heads"})
    assert plan.units_removed == 1
    slim = cut(dense, plan)
    for count in (1, 2, 5):
        proof = verify_cut(dense, slim, plan, images(count))
        assert proof.max_rel < 1e-5
        assert proof.changed > 1e-3


def test_a_cut_that_makes_no_graph_is_an_error_of_ours(
    capture_of: CaptureOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = capture_of("Chain")
    late = next(n for n in dense.module.graph.nodes if n.name == "linear_1")

    def rewrite(op: Op, x: Axes, *rest: object) -> Axes:
        op.on_cut(lambda kept: {"self": late})
        return x

    monkeypatch.setitem(RULES, "aten.relu", rewrite)
    with pytest.raises(CutError, match="please report it"):
        cut(dense, random_plan(dense))
