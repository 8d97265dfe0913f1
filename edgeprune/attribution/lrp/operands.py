"""A contraction's operands by the part they play, whatever the operator.

Rules are written once, on signal, weight and bias; which argument of which
operator that is, and whether a batch normalisation is folded in, is told here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from torch import Tensor, fx

from edgeprune.attribution.lrp.folding import Fold
from edgeprune.attribution.operators import CONTRACTIONS, operation
from edgeprune.attribution.propagation import Paths, Step
from edgeprune.axes.op import bind

Apply: TypeAlias = Callable[[Tensor, Tensor, Tensor | None], Tensor]

_LAYER: Final = ("input", "weight", "bias")
_NAMES: Final[Mapping[str, tuple[str, str, str | None]]] = dict.fromkeys(CONTRACTIONS, _LAYER) | {
    "mm": ("self", "mat2", None),
    "addmm": ("mat1", "mat2", "self"),
    "matmul": ("self", "other", None),
    "bmm": ("self", "mat2", None),
    "baddbmm": ("batch1", "batch2", "self"),
}
"""Both factors of each operator, and what it adds."""


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Names of a contraction's arguments.

    Attributes:
        signal: what depends on the image.
        weight: what it is multiplied by.
        bias: what is added, if the operator can add.
    """

    signal: str
    weight: str
    bias: str | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Contraction:
    """signal · weight + bias, as one step of a run.

    Attributes:
        signal: what depends on the image; gates are in.
        weight: what it is multiplied by; normalisation that is folded in counts.
        bias: what is added, or None; normalisation counts here too.
        images: dimension of the result along which images lie.
        run: gives the result as the graph computes it, with its own gradient.
        apply: gives the result for another signal, weight and bias.
    """

    signal: Tensor
    weight: Tensor
    bias: Tensor | None
    images: int
    run: Callable[[], Tensor]
    apply: Apply


def find_roles(node: fx.Node, paths: Paths) -> Roles | None:
    """Tell a contraction's arguments apart, or return None if it is not one by a constant.

    Of two factors that depend on the image one is the other's gate, or both
    are signals: neither is for rules that share by contributions.
    """
    names = _NAMES.get(operation(node))
    if names is None or node.name not in paths.trunk:
        return None
    *factors, bias = names
    arguments = bind(node)
    signals = [name for name in factors if _varies(arguments[name], paths)]
    if len(signals) != 1:
        return None
    (weight,) = set(factors) - set(signals)
    return Roles(signal=signals[0], weight=str(weight), bias=bias)


def _varies(argument: object, paths: Paths) -> bool:
    return isinstance(argument, fx.Node) and argument.name in paths.dependent


def contraction(step: Step, roles: Roles, fold: Fold | None) -> Contraction:
    """Return a step's operands by their parts, with a batch normalisation folded in or not."""
    weight: Tensor = step.arguments[roles.weight]
    bias: Tensor | None = step.arguments[roles.bias] if roles.bias else None
    if "alpha" in step.arguments:
        weight, bias = weight * step.arguments["alpha"], bias * step.arguments["beta"]
    if fold is not None:
        weight, bias = fold.operands(weight, bias)
    return Contraction(
        signal=step.arguments[roles.signal],
        weight=weight,
        bias=bias,
        images=step.images,
        run=step.run if fold is None else lambda: fold.run(step.run()),
        apply=_apply(step, roles),
    )


def _apply(step: Step, roles: Roles) -> Apply:
    def apply(signal: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        changed: dict[str, object] = {roles.signal: signal, roles.weight: weight}
        if roles.bias is not None:
            changed[roles.bias] = bias
        if "alpha" in step.arguments:
            added = weight.new_zeros(1) if bias is None else bias
            changed |= {"self": added, "alpha": 1, "beta": 1}
        found: Tensor = step.given(changed).run()
        return found if roles.bias is not None or bias is None else found + bias

    return apply
