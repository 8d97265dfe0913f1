"""Max-pooling: the winner takes all, and winners of a tie share evenly.

PyTorch gives everything to the first of them. Ties are common where images
have constant background.
"""

import itertools
from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeprune.attribution.propagation import Step

Window: TypeAlias = Any  # slices of the padded input: one position of all windows


def shared_by_winners(step: Step) -> Tensor:
    """Run max_pool1d, 2d or 3d, with ties shared where the maximum is not 0."""
    with torch.no_grad():
        value: Tensor = step.run()
        windows = _Windows(step, value)
        ties = windows.count(step.first, value)
    if bool(((ties > 1) & (value != 0)).any()):
        return _Winners.apply(step.first, value, ties, windows)  # type: ignore[no-any-return]
    return step.run()  # type: ignore[no-any-return]


class _Windows:
    """The positions of a pooling's windows in its padded input."""

    def __init__(self, step: Step, value: Tensor) -> None:
        arguments = step.arguments
        rank = {"1": 1, "2": 2, "3": 3}[str(step.node.target).partition("max_pool")[2][0]]
        self.kernel = _each(arguments["kernel_size"], rank)
        self.stride = _each(arguments["stride"] or arguments["kernel_size"], rank)
        self.padding = _each(arguments["padding"], rank)
        self.dilation = _each(arguments["dilation"], rank)
        self.size = tuple(value.shape[-rank:])
        self.inner = tuple(step.first.shape[-rank:])

    def pad(self, x: Tensor) -> Tensor:
        """Pad with what never wins, as far as the last window reaches."""
        amounts: list[int] = []
        for dim in reversed(range(len(self.kernel))):
            reach = (self.size[dim] - 1) * self.stride[dim]
            reach += (self.kernel[dim] - 1) * self.dilation[dim] + 1
            behind = max(reach - self.padding[dim] - self.inner[dim], 0)
            amounts += [self.padding[dim], behind]
        return F.pad(x, amounts, value=-torch.inf)

    def each(self) -> Iterator[Window]:
        """Return where each position of the kernel finds its values, for all windows at once."""
        for position in itertools.product(*(range(size) for size in self.kernel)):
            starts = [p * d for p, d in zip(position, self.dilation, strict=True)]
            sizes = zip(starts, self.size, self.stride, strict=True)
            yield (..., *(slice(s, s + (n - 1) * stride + 1, stride) for s, n, stride in sizes))

    def count(self, x: Tensor, value: Tensor) -> Tensor:
        """Count the winners of each window."""
        padded = self.pad(x)
        found = torch.zeros_like(value)
        for window in self.each():
            found += padded[window] == value
        return found

    def spread(self, shares: Tensor, x: Tensor, value: Tensor) -> Tensor:
        """Give each winner its window's share; the result has the shape of x."""
        padded = self.pad(x)
        found = torch.zeros_like(padded)
        for window in self.each():
            found[window] += shares * (padded[window] == value)
        inner: Window = (
            ...,
            *(slice(pad, pad + size) for pad, size in zip(self.padding, self.inner, strict=True)),
        )
        return found[inner]


class _Winners(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, ties: Tensor, windows: _Windows) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(x, value, ties)
        ctx.windows = windows
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        x, value, ties = ctx.saved_tensors
        windows: _Windows = ctx.windows
        return windows.spread(gradients[0] / ties, x, value), None, None, None


def _each(sizes: int | list[int], rank: int) -> tuple[int, ...]:
    """Return one number per dimension."""
    if isinstance(sizes, int):
        return (sizes,) * rank
    return tuple(sizes) * (rank // len(sizes))
