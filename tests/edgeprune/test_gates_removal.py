"""Gates of 0 are cuts, for every kind of group; gates between 0 and 1 are differentiable."""

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn

from edgeprune.capture import Captured, capture
from edgeprune.cut import cut
from edgeprune.gates import GatedModel

from .models import CLASSES, TINY, disturb, images, plan_of

CaptureOf = Callable[..., Captured]
KINDS = {"conv", "hidden", "heads", "head_dim", "width"}


class Recurrent(nn.Module):
    """Rows of a feature map, read by a recurrent layer whose output is averaged."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.conv, self.layer = nn.Conv2d(3, 4, 3), layer
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.conv(x).relu().permute(0, 2, 1, 3).flatten(2)
        return self.head(self.layer(rows)[0].mean(1))


RECURRENT: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: Recurrent(nn.LSTM(40, 6, batch_first=True), 6),
    "lstm both ways": lambda: Recurrent(
        nn.LSTM(40, 6, 2, bidirectional=True, batch_first=True), 12
    ),
    "gru": lambda: Recurrent(nn.GRU(40, 6, batch_first=True), 6),
}
TIMM = (
    "test_vit", "test_vit2", "test_efficientnet", "test_byobnet", "test_convnext", "test_resnet",
    "test_nfnet",
)  # fmt: skip


def _removed_by_gate_and_by_cut(dense: Captured, x: Tensor, units: int) -> None:
    """Take the units that matter most from each group, by gates and by a cut."""
    model = GatedModel(dense)
    gates = model.ones().requires_grad_()
    (slopes,) = torch.autograd.grad(model(x, gates).square().sum(), gates)
    for group in model.analysis.groups:
        order = model.by_group(slopes[0])[group.name].abs().argsort(descending=True)
        gone = {*order[: min(units, group.size - 1)].tolist()}
        slim = cut(dense, plan_of(dense, {group.name: {*range(group.size)} - gone}))
        gates = model.ones(len(x))
        model.by_group(gates)[group.name][:, list(gone)] = 0
        with torch.no_grad():
            whole, masked, actual = dense.module(x), model(x, gates), slim.module(x)
        scale = float(masked.abs().max())
        error = float((actual - masked).abs().max()) / scale
        assert error < 1e-5, f"{group.kind} {group.name}: {error:.1e}"
        changed = float((whole - masked).abs().max()) / scale
        assert not gone or changed > 1e-6, f"{group.kind} {group.name} carries nothing"


@pytest.mark.parametrize("units", [1, 3])
@pytest.mark.parametrize("name", TINY)
def test_gates_of_zero_equal_a_cut_for_each_group(
    name: str, units: int, capture_of: CaptureOf
) -> None:
    _removed_by_gate_and_by_cut(capture_of(name), images(3), units)


def test_among_them_is_every_kind_of_group(capture_of: CaptureOf) -> None:
    groups = [g for name in TINY for g in GatedModel(capture_of(name)).analysis.groups]
    assert {group.kind for group in groups} == KINDS


@pytest.mark.parametrize("name", RECURRENT)
def test_gates_of_zero_equal_a_cut_inside_a_recurrent_layer(name: str) -> None:
    torch.manual_seed(0)
    dense = capture(RECURRENT[name]().eval(), images(3))
    assert {g.name for g in GatedModel(dense).analysis.groups} == {"conv", "layer"}
    _removed_by_gate_and_by_cut(dense, images(3), 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_gates_of_zero_equal_a_cut_in_models_of_timm(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=CLASSES)
    disturb(model)
    _removed_by_gate_and_by_cut(capture(model.eval(), images(2, 160)), images(2, 160), 2)


@pytest.mark.parametrize("name", TINY)
def test_each_image_loses_the_units_of_its_own_row(name: str, capture_of: CaptureOf) -> None:
    dense = capture_of(name)
    model = GatedModel(dense)
    for group in model.analysis.groups:
        gates = model.ones(3)
        gone = [image % group.size for image in range(3)]
        part = model.by_group(gates)[group.name]
        part[range(3), gone] = 0
        with torch.no_grad():
            masked = model(images(3), gates)
            for image, unit in enumerate(gone):
                slim = cut(dense, plan_of(dense, {group.name: {*range(group.size)} - {unit}}))
                actual = slim.module(images(3))[image]
                torch.testing.assert_close(actual, masked[image], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_one_backward_gives_the_slope_of_every_gate_of_every_image(
    name: str, capture_of: CaptureOf
) -> None:
    dense = capture_of(name)
    exact = capture(dense.clone().module.double(), images(3).double())
    model = GatedModel(exact)
    x = images(3).double()
    generator = torch.Generator().manual_seed(0)
    gates = (0.5 + 0.5 * torch.rand(3, model.total, generator=generator)).double().requires_grad_()
    (found,) = torch.autograd.grad(model(x, gates).logsumexp(1).sum(), gates)
    with torch.no_grad():
        for name_, slots in model.by_group(torch.arange(model.total)).items():
            step = torch.zeros_like(gates)
            unit = int(found[:, slots].abs().sum(0).argmax())
            step[:, slots[unit]] = 1e-5
            higher, lower = (model(x, gates + sign * step).logsumexp(1) for sign in (1, -1))
            torch.testing.assert_close(
                found[:, slots[unit]], (higher - lower) / 2e-5, rtol=1e-4, atol=1e-8, msg=name_
            )
