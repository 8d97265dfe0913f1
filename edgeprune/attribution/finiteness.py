"""Where attributions stop being finite, and what can be done about it.

What went wrong is looked for by running the criterion again on one image, its
model watched: the first value of the forward run that is not finite and reaches
the logits; or else the operator whose backward turns a finite gradient into one
that is not. Invariant: whatever the criterion does with the model, it is seen,
rules of relevance included.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, fx

from edgeprune.attribution.operators import operation
from edgeprune.errors import DataError, EdgepruneError, ModelError
from edgeprune.gates import GatedModel
from edgeprune.module import MODULE
from edgeprune.tensors import state

Gradients: TypeAlias = tuple[Tensor | None, ...]

_OTHER: Final = "look for values that overflow in the weights and the images"
_HALF: Final = "; under autocast or in half precision, score in float32 or bfloat16"
_NO_GRADIENT: Final = (
    "the gradient of some operators is not finite where their value is, as that of a square root "
    "at 0: change the model there, or use a criterion without gradients, such as sensitivity"
)


@dataclass(frozen=True, kw_only=True)
class Singly:
    """How to attribute single images of a batch anew.

    Attributes:
        image: what the image in a row is called.
        run: attributes it.
    """

    image: Callable[[int], str]
    run: Callable[[int], object]


@dataclass(frozen=True, kw_only=True)
class Cause:
    """What is not finite, and what to do."""

    error: type[EdgepruneError]
    seen: str
    advice: str


def check_rows(model: GatedModel, rows: Tensor, name: str, again: Singly) -> None:
    """Refuse attributions (N, U) that are not finite.

    Raises:
        DataError: an image holds NaN or infinity.
        ModelError: a parameter does, or an operator makes them.
    """
    bad = (~rows.isfinite().all(1)).nonzero()[:, 0].tolist()
    if not bad:
        return
    with watched(model) as seen, torch.enable_grad(), contextlib.suppress(EdgepruneError):
        again.run(bad[0])
    cause = find_cause(model, seen)
    raise cause.error(
        f"criterion '{name}' gives values that are not finite for group "
        f"'{_group(model, rows)}' and image {again.image(bad[0])}: {cause.seen}; {cause.advice}"
    )


def check_values(model: GatedModel, values: Tensor, name: str) -> None:
    """Refuse scores (…, U) of all images together that are not finite.

    Raises:
        ModelError: they are not; a parameter is named if it is to blame.
    """
    if bool(values.isfinite().all()):
        return
    cause = _parameter_cause(model) or Cause(
        error=ModelError, seen="all parameters are finite", advice=f"{_OTHER}, or use another one"
    )
    raise cause.error(
        f"criterion '{name}' gives values that are not finite for group "
        f"'{_group(model, values)}': {cause.seen}; {cause.advice}"
    )


def _group(model: GatedModel, values: Tensor) -> str:
    parts = model.by_group(values).items()
    return next(name for name, part in parts if not bool(part.isfinite().all()))


class Record:
    """What a run of a watched model showed.

    Attributes:
        values: what is not finite of each node's value, in the order of the run.
        backward: the nodes whose backward made gradients that are not finite, in
            the order in which that happened.
    """

    def __init__(self) -> None:
        """Start with nothing seen."""
        self.values: dict[str, str] = {}
        self.backward: list[str] = []
        self._hooked: dict[Any, str] = {}

    def see(self, node: fx.Node, value: object) -> None:
        """Take notice of a node's value, and of the gradients that its operator will pass on."""
        for tensor in _tensors(value):
            if (what := _what(tensor)) is not None:
                self.values.setdefault(node.name, what)
            self._hook(node.name, tensor.grad_fn)

    def _hook(self, name: str, function: Any) -> None:  # noqa: ANN401 - autograd's, untyped
        """Watch the steps of the backward run that belong to a node, back to those before it."""
        waiting = [function]
        while waiting:
            step = waiting.pop()
            if step is None or step in self._hooked:
                continue
            self._hooked[step] = name
            step.register_hook(lambda given, got: self._check(name, got, given))
            waiting.extend(before for before, _ in step.next_functions)

    def _check(self, name: str, got: Gradients, given: Gradients) -> None:
        if all(map(_finite, got)) and not all(map(_finite, given)):
            self.backward.append(name)


@contextlib.contextmanager
def watched(model: GatedModel) -> Iterator[Record]:
    """Yield a record of everything that the model computes meanwhile."""
    record, before = Record(), model.watch
    model.watch = record.see
    try:
        yield record
    finally:
        model.watch = before


def find_cause(model: GatedModel, seen: Record) -> Cause:
    """Return the first thing that is not finite, forwards or else backwards."""
    nodes = {node.name: node for node in model.module.graph.nodes}
    reaching = _reaching(nodes, seen.values)
    if reaching:
        return _forward_cause(nodes[reaching[0]], seen.values[reaching[0]])
    if seen.backward:
        node = nodes[seen.backward[0]]
        return Cause(
            error=ModelError,
            seen=f"all values are finite, but the gradient is not behind {_place(node)}",
            advice=_NO_GRADIENT + _HALF,
        )
    if seen.values:
        first = next(iter(seen.values))
        return _forward_cause(nodes[first], seen.values[first])
    return Cause(error=ModelError, seen="no operator of the model is to blame", advice=_OTHER)


def _reaching(nodes: Mapping[str, fx.Node], bad: Mapping[str, str]) -> list[str]:
    """Return those values that reach the logits without becoming finite again, in graph order.

    The infinities of an attention mask do not: softmax makes zeros of them.
    """
    found: set[fx.Node] = set()
    for node in reversed([*nodes.values()]):
        if node.name in bad and (node.op == "output" or not found.isdisjoint(node.users)):
            found.add(node)
    return [name for name, node in nodes.items() if node in found]


def _forward_cause(node: fx.Node, what: str) -> Cause:
    if node.op == "placeholder":
        return Cause(error=DataError, seen=f"the image holds {what}", advice="repair or remove it")
    if node.op == "get_attr":
        return _damaged(str(node.target), what, f", read by {_place(next(iter(node.users)))}")
    return Cause(
        error=ModelError,
        seen=f"{_place(node)} is the first to give {what}, from finite operands",
        advice=_OTHER + _HALF,
    )


def _parameter_cause(model: GatedModel) -> Cause | None:
    for name, tensor in state(model.module).items():
        if (what := _what(tensor)) is not None:
            return _damaged(name, what, "")
    return None


def _damaged(name: str, what: str, reader: str) -> Cause:
    return Cause(
        error=ModelError,
        seen=f"the parameter '{name}' holds {what}{reader}",
        advice="load weights that are whole, or train again with a lower learning rate",
    )


def _place(node: fx.Node) -> str:
    """Name an operator, its node, and the module that it belongs to if that is known."""
    module = node.meta.get(MODULE, "") or _module_of_parameters(node)
    return f"operator '{operation(node) or node.op}' (node '{node.name}'" + (
        f", module '{module}')" if module else ")"
    )


def _module_of_parameters(node: fx.Node) -> str:
    names = [str(source.target) for source in node.all_input_nodes if source.op == "get_attr"]
    return names[0].rpartition(".")[0] if names else ""


def _tensors(value: object) -> list[Tensor]:
    match value:
        case Tensor():
            return [value]
        case tuple() | list():
            return [tensor for item in value for tensor in _tensors(item)]
        case _:
            return []


def _what(tensor: Tensor) -> str | None:
    """Say what is not finite about a tensor, or None."""
    if bool(tensor.isfinite().all()):
        return None
    return "NaN" if bool(tensor.isnan().any()) else "infinity"


def _finite(gradient: Tensor | None) -> bool:
    return gradient is None or bool(gradient.isfinite().all())
