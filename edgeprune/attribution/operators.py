"""What an operator of a graph is called."""

from typing import Final

from torch import fx

from edgeprune.graph_io import target_name


def operation(node: fx.Node) -> str:
    """Return the operator's name without namespace and overload; empty for what is none."""
    if node.op != "call_function":
        return ""
    name = target_name(node.target).removeprefix("aten.").partition(".")[0]
    # An in-place form follows the rule of its operator.
    return name[:-1] if name.endswith("_") else name


CONTRACTIONS: Final = frozenset(
    {
        "linear", "addmm", "mm", "conv1d", "conv2d", "conv3d",
        "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    }
)  # fmt: skip
"""Operators that weigh their first operand by parameters."""

MATRIX_PRODUCTS: Final = frozenset({"matmul", "bmm", "baddbmm"})
"""Operators that are contractions where only one factor depends on the image."""
