"""A small graph around one operation, to see what its rule makes of channels."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgeprune.axes import Analysis
from edgeprune.axes.columns import occupied
from edgeprune.capture import Captured, capture
from edgeprune.cut import cut
from edgeprune.verify import verify_cut

from .models import images, random_plan

Body = Callable[["Probe", Tensor], Tensor]


class Probe(nn.Module):
    """A convolution to 8 channels, an operation under test, and a reader.

    ``body`` maps (N, 8, 6, 6) to (N, C, …), whose mean over positions is read.
    """

    def __init__(self, body: Body, out: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.mix = nn.Conv2d(8, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 1, groups=8)
        self.per_channel = nn.Parameter(torch.rand(8, 1, 1))
        self.slopes = nn.Parameter(torch.rand(8))
        self.slope = nn.Parameter(torch.rand(1))
        self.table = nn.Parameter(torch.rand(5, 8))
        self.body = body
        self.read = nn.Linear(out, 5)
        for parameter in self.parameters():
            nn.init.normal_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(self, self.conv(x))
        return self.read(y.flatten(2).mean(2))


def probe(body: Body, out: int = 8, *, dynamic: bool = True) -> Captured:
    """Capture a probe around an operation, which may be one that fixes the batch."""
    torch.manual_seed(0)
    model = Probe(body, out)
    dense = capture(model, images(2, 6))
    assert dense.dynamic_batch or not dynamic
    return dense


def channels(analysis: Analysis, parameter: str = "conv.weight") -> int:
    """Count the channels of a parameter that can be removed."""
    return int(occupied(analysis.parameters[parameter][0]).sum())


def groups_of(analysis: Analysis, parameter: str = "conv.weight") -> dict[str, int]:
    """Return name and size of the groups that a parameter's channels are in."""
    return {
        group.name: group.size
        for group in analysis.groups
        if any(o.parameter == parameter and o.dim == 0 for o in group.parameters)
    }


def reasons(analysis: Analysis, parameter: str = "") -> set[str]:
    """Collect why parameters are frozen, or one of them."""
    found = [axis for axis in analysis.frozen if axis.parameter == parameter or not parameter]
    return {reason for axis in found for reason in axis.reasons}


def check(dense: Captured, *, vacuous: bool = False) -> None:
    """Cut at random, twice; the masked model must be met."""
    for seed in range(2):
        plan = random_plan(dense, seed=seed)
        proof = verify_cut(dense, cut(dense, plan), plan, images(3, 6))
        assert proof.max_rel < 1e-5
        assert proof.changed > 1e-2 or vacuous
