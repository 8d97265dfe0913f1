"""Products of matrices and vectors: two values, of which neither need be a weight.

Gates come by sample, so they go to an operand that has samples.
"""

from edgeprune.axes.op import Op, rule
from edgeprune.axes.rules.pointwise import broadcast
from edgeprune.axes.units import Axes


@rule("aten.matmul", "aten.linalg_matmul", "aten.bmm", "aten.mm")
def matmul(op: Op, a: Axes, b: Axes) -> Axes:
    """Contract the last axis of a with the second to last of b, over broadcast batches.

    A vector is a matrix of one row or one column, which then leaves.
    """
    left, right = op.arguments
    return _product(op, (left, a), (right, b))


@rule("aten.mv", "aten.dot", "aten.vdot", "aten.inner")
def vector_product(op: Op, a: Axes, b: Axes) -> Axes:
    """Contract the last axes of both."""
    left, right = op.arguments
    op.unify(a[-1], b[-1])
    _read(op, (left, a, -1), (right, b, -1))
    op.costs(1, *a, *b[:-1])
    return (*a[:-1], *b[:-1])


@rule("aten.outer", "aten.ger")
def outer(op: Op, a: Axes, b: Axes) -> Axes:
    """Multiply each with each: nothing is contracted."""
    return (*a, *b)


@rule("aten.addmm", "aten.baddbmm", "aten.addmv")
def shifted_product(op: Op, shift: Axes, a: Axes, b: Axes, *scales: object) -> Axes:
    """Add to a product what broadcasts to it."""
    _, left, right, *_ = op.arguments
    return broadcast(op, [_product(op, (left, a), (right, b)), shift])


@rule("aten.addbmm")
def summed_product(op: Op, shift: Axes, a: Axes, b: Axes, *scales: object) -> Axes:
    """Contract the batch as well."""
    product = _product(op, ("batch1", a), ("batch2", b))
    argument, operand = ("batch1", a) if "batch1" in op.varying else ("batch2", b)
    op.reads(argument, 0, operand[0])
    return broadcast(op, [product[1:], shift])


@rule("aten.tensordot")
def tensordot(op: Op, a: Axes, b: Axes, own: list[int], others: list[int], *rest: object) -> Axes:
    """Contract listed axes of a with listed axes of b; what is left of a comes before that of b."""
    contracted = [(d % len(a), e % len(b)) for d, e in zip(own, others, strict=True)]
    for d, e in contracted:
        op.unify(a[d], b[e])
        _read(op, ("self", a, d), ("other", b, e))
    left = [axis for d, axis in enumerate(a) if d not in {d for d, _ in contracted}]
    right = [axis for e, axis in enumerate(b) if e not in {e for _, e in contracted}]
    op.costs(1, *a, *right)
    return (*left, *right)


def _product(op: Op, left: tuple[str, Axes], right: tuple[str, Axes]) -> Axes:
    a, b = left[1], right[1]
    row = () if len(a) == 1 else (a[-2],)
    column = () if len(b) == 1 else (b[-1],)
    from_b = -2 if column else -1
    op.unify(a[-1], b[from_b])
    _read(op, (left[0], a, -1), (right[0], b, from_b))
    batch = broadcast(op, [a[:-2], b[:-2]])
    _mark_heads(op, batch, (a[-1], *row, *column), both=op.varying >= {left[0], right[0]})
    op.costs(1, *batch, *row, a[-1], *column)
    return (*batch, *row, *column)


def _mark_heads(op: Op, batch: Axes, inner: Axes, *, both: bool) -> None:
    """State that units along the batch of a product of two activations are heads."""
    if both and any(axis.columns for axis in batch):
        for axis in batch:
            op.mark("heads", axis)
        for axis in inner:
            op.mark("head_dim", axis)


def _read(op: Op, left: tuple[str, Axes, int], right: tuple[str, Axes, int]) -> None:
    """State that an axis of both operands is read, at the one that has samples."""
    argument, operand, dim = left if left[0] in op.varying else right
    op.reads(argument, dim % len(operand), operand[dim])


__all__ = ["matmul", "outer", "shifted_product", "summed_product", "tensordot", "vector_product"]
