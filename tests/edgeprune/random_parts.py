"""What random classifiers are made of: small modules, and tables of blocks to draw from.

A block is a function of the shape that it is given and of three small numbers,
which it reads as choices among what this shape allows: whatever is drawn is a
valid network, and smaller numbers make simpler ones.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]
T = TypeVar("T")
WIDTHS: Final = (4, 6, 8, 12, 9)


class Choice(NamedTuple):
    """Three small numbers, each read modulo what there is to choose from."""

    a: int = 0
    b: int = 0
    c: int = 0

    def divisor(self, *sizes: int) -> int:
        """Choose by ``b`` a number that divides all sizes, the larger ones first but 1."""
        common = [d for d in range(1, min(sizes) + 1) if all(s % d == 0 for s in sizes)]
        return common[-(self.b % len(common))]

    def width(self) -> int:
        """Choose a number of channels by ``a``."""
        return WIDTHS[self.a % len(WIDTHS)]


class Apply(nn.Module):
    """A function of the input and of the modules and parameters given behind it."""

    def __init__(
        self,
        function: Callable[..., Tensor],
        *parts: nn.Module | nn.Parameter,
        free: Mapping[str, int] | None = None,
    ) -> None:
        """Register each part under its number; ``free`` is told by ``free_units``."""
        super().__init__()
        self.function = function
        self.free = dict(free or {})
        for number, part in enumerate(parts):
            setattr(self, f"part{number}", part)
        self.count = len(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *(getattr(self, f"part{k}") for k in range(self.count)))


def free_units(model: nn.Module) -> dict[str, int]:
    """Return how many units at least can be removed along the first dimension of parameters.

    Only where the block's own structure guarantees it, whatever surrounds it:
    a hidden layer between two linear maps is tied to nothing outside.
    """
    return {
        f"{path}.{name}".removeprefix("."): count
        for path, module in model.named_modules()
        if isinstance(module, Apply)
        for name, count in module.free.items()
    }


def parameter(*shape: int) -> nn.Parameter:
    """Make a parameter, to be filled later."""
    return nn.Parameter(torch.zeros(shape))


Make = Callable[[Any, Choice], nn.Module]
Join = Callable[[Any, Choice, Sequence[nn.Module]], nn.Module]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Blocks by name, simplest first.

    Attributes:
        blocks: those that stand alone.
        joins: those that are made of branches.
        entangled: those in which a unit whose weights are all 0 still has an
            influence: it takes part in a mean, a norm or a softmax over units, be they
            channels or, where positions are mixed by weights, tokens or pixels.
    """

    blocks: dict[str, Make] = field(default_factory=dict)
    joins: dict[str, Join] = field(default_factory=dict)
    entangled: set[str] = field(default_factory=set)

    def block(self, *, entangled: bool = False) -> Callable[[Make], Make]:
        """Register a block under its function's name."""

        def register(make: Make) -> Make:
            return self._add(self.blocks, make, entangled)

        return register

    def join(self, *, entangled: bool = False) -> Callable[[Join], Join]:
        """Register a block of branches under its function's name."""

        def register(make: Join) -> Join:
            return self._add(self.joins, make, entangled)

        return register

    def _add(self, table: dict[str, T], make: T, entangled: bool) -> T:
        name: str = make.__name__  # type: ignore[attr-defined]
        table[name] = make
        if entangled:
            self.entangled.add(name)
        return make


IMAGES: Final = Table()
TOKENS: Final = Table()


def shape_of(module: nn.Module, shape: Shape) -> Shape:
    """Return the shape, without samples, of what a module makes of this shape."""
    training = module.training
    with torch.no_grad():
        out = module.eval()(torch.zeros(2, *shape))
    module.train(training)
    return tuple(out.shape[1:])


def conv(c: int, out: int, kernel: int = 1, groups: int = 1) -> nn.Conv2d:
    """Make a convolution that keeps the size of space."""
    return nn.Conv2d(c, out, kernel, padding=kernel // 2, groups=groups)
