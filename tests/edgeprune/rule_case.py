"""What a rule has to show on a small graph: what can go, and that all ways of removing it agree."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgeprune.axes import Analysis, analyse
from edgeprune.axes.columns import occupied
from edgeprune.capture import Captured, capture
from edgeprune.cut import cut
from edgeprune.gates import GatedModel

from .models import disturb, images, random_plan

SIDE = 4
Body = Callable[["Bench", Tensor], Tensor]


class Bench(nn.Module):
    """A convolution to 8 channels, an operation under test, and a reader.

    ``body`` maps (N, 8, 4, 4) to (N, ...), which is read whole.
    """

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)
        self.vector, self.six = nn.Parameter(torch.rand(8)), nn.Parameter(torch.rand(6))
        self.square = nn.Parameter(torch.randn(8, 8))
        self.matrix = nn.Parameter(torch.randn(8, 6))
        self.cube = nn.Parameter(torch.randn(4, 8, 8))
        self.spread = nn.Parameter(torch.randn(8, 16, 6))
        self.body = body
        with torch.no_grad():
            out = body(self, self.conv(torch.randn(2, 3, SIDE, SIDE)))
        self.read = nn.Linear(out[0].numel(), 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(self, self.conv(x))
        return self.read(y.flatten(1) if y.dim() > 1 else y[:, None])


def bench(body: Body) -> Captured:
    """Capture an operation under test, its weights disturbed."""
    torch.manual_seed(0)
    return captured(Bench(body).eval())


def captured(model: nn.Module) -> Captured:
    """Capture a model of images (N, 3, 4, 4) for any number of them."""
    disturb(model)
    dense = capture(model, images(2, SIDE))
    assert dense.dynamic_batch
    return dense


def free(analysis: Analysis, parameter: str, dim: int = 0) -> int:
    """Count the positions of a parameter that can go."""
    return int(occupied(analysis.parameters[parameter][dim]).sum())


def distance(a: Tensor, b: Tensor) -> float:
    """Return the largest difference relative to the largest value of b."""
    return float((a - b).detach().abs().max() / b.detach().abs().max())


def check(dense: Captured, *, share: float = 0.5) -> None:
    """Cut, masked, gated by sample and dense must agree where they should, and only there."""
    x = images(3, SIDE, seed=4)
    gated = GatedModel(dense)
    original = dense.module(x)
    assert distance(gated(x, gated.ones()), original) < 1e-5
    rows = []
    for seed in range(3):
        plan = random_plan(dense, share=share, seed=seed)
        assert plan.units_removed
        gates = gated.from_masks(plan.masks(analyse(dense).groups))
        masked = gated(x, gates)
        slim = cut(dense, plan).module(x)
        assert distance(slim, masked) < 1e-5
        assert distance(slim, original) > 1e-2
        rows.append(gates)
    check_by_sample(gated, x, torch.cat(rows))


def check_by_sample(gated: GatedModel, x: Tensor, rows: Tensor) -> None:
    """Each image with a row of gates of its own must do as it does alone; gradients are finite."""
    rows = rows.clone().requires_grad_()
    together = gated(x, rows)
    alone = torch.cat([gated(x[i : i + 1], rows[i : i + 1]) for i in range(len(x))])
    assert distance(together, alone) < 1e-5
    (gradient,) = torch.autograd.grad(together.square().sum(), rows)
    assert gradient.isfinite().all()
    assert gradient.any()
