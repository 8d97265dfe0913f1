"""How sizes that an operator was given follow a cut."""

from torch import fx

from edgeprune.axes.op import Kept, Op, Scaled
from edgeprune.axes.units import Axes


def follow(op: Op, name: str, axes: Axes) -> None:
    """State that a list of sizes follows the axes that it describes."""

    def rewrite(kept: Kept) -> dict[str, object]:
        sizes = list(op.arguments[name])
        for d, axis in enumerate(axes):
            new = kept.count(axis)
            if new == axis.size or (isinstance(sizes[d], int) and sizes[d] == -1):
                continue
            is_symbol = isinstance(sizes[d], fx.Node)
            sizes[d] = Scaled(sizes[d], new) if is_symbol else new
        return {name: sizes}

    op.on_cut(rewrite)
