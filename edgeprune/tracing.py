"""From a module with Python code to a graph of our own.

``torch.export`` runs the code once and records the ATen operators. What it
hands out forbids ``train``, checks its inputs by hooks, and remembers source
lines and paths in every node; the graph made here has none of that. Invariant:
it never changes its input, and computes what the model computes.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from edgeprune.comparing import Reference, random_operators
from edgeprune.errors import CaptureError
from edgeprune.functional import keep_input, keep_tensors, out_of_place, without_unused
from edgeprune.inlining import autocasts, inlined
from edgeprune.module import MODULE, CapturedModule, assemble
from edgeprune.outputs import WRAPPED, LogitsOnly
from edgeprune.refusals import export_problem, first_line
from edgeprune.tensors import aliases, map_tensors, trainable
from edgeprune.untouched import forget

SHOWN = 5  # names of parameters in a note


class Traced(NamedTuple):
    """A graph of our own, whether it takes any batch size, and what a user should know."""

    module: CapturedModule
    dynamic_batch: bool
    notes: tuple[str, ...]


class _Recorded(NamedTuple):
    """A graph of our own, what drew random numbers in it, and what a user should know."""

    module: CapturedModule
    drawn: str
    mixed: tuple[str, ...]
    notes: tuple[str, ...]


def trace(model: LogitsOnly, reference: Reference) -> Traced:
    """Export with dynamic batch, or with the sample's if the model fixes it.

    Args:
        model: in evaluation mode, its weights plain.
        reference: what the graph has to equal.

    Raises:
        CaptureError: the model cannot be exported, or computes something else
            once exported.
    """
    traced = _with_dynamic_batch(model, reference)
    return _with_fixed_batch(model, reference, traced) if isinstance(traced, str) else traced


def _with_dynamic_batch(model: LogitsOnly, reference: Reference) -> Traced | str:
    """Return the graph, or the reason why the model has none that takes any batch."""
    # Batch 1 would be taken for a constant, so at least two samples are shown.
    sample = reference.sample
    several = sample if len(sample) > 1 else sample.repeat(2, 1, 1, 1)
    try:
        recorded = _own(_export_dynamic(model, several), model, sample)
        problem = reference.problem(recorded.module, dynamic_batch=True, drawn=recorded.drawn)
    except CaptureError:
        raise
    except Exception as error:  # torch.export raises whatever the model's code met
        return first_line(error)
    return problem or Traced(recorded.module, True, recorded.notes)


def _with_fixed_batch(model: LogitsOnly, reference: Reference, reason: str) -> Traced:
    sample = reference.sample
    try:
        recorded = _own(_export(model, sample, None), model, sample)
    except CaptureError:
        raise
    except Exception as error:
        raise CaptureError(export_problem(error, reference.name)) from error
    problem = reference.problem(recorded.module, dynamic_batch=False, drawn=recorded.drawn)
    if problem is not None:
        raise CaptureError(_with_autocast(problem, recorded.mixed))
    note = f"fixed batch {len(sample)}: the model does not export with dynamic batch ({reason})"
    return Traced(recorded.module, False, (note, *recorded.notes))


def _export_dynamic(model: nn.Module, sample: Tensor) -> torch.export.ExportedProgram:
    """Export by running the model's code, or where ``len(x)`` made a constant, by reading it."""
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    try:
        return _export(model, sample, dynamic)
    except Exception as error:  # torch.export raises whatever the model's code met
        if "specialized it to be a constant" not in str(error):
            raise
        # Python insists that len() is a number; torch's reader of bytecode does not.
        with contextlib.suppress(Exception):
            return _export(model, sample, dynamic, strict=True)
        raise


def _export(
    model: nn.Module,
    sample: Tensor,
    dynamic: tuple[dict[int, Any]] | None,
    *,
    strict: bool = False,
) -> torch.export.ExportedProgram:
    forget(model)
    try:
        with _quietly(), torch.no_grad():
            return torch.export.export(
                model, (sample.clone(),), dynamic_shapes=dynamic, strict=strict
            )
    finally:
        forget(model)  # what it kept meanwhile has no values


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep torch from printing the graph so far when it fails; the error says enough."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _own(exported: torch.export.ExportedProgram, model: LogitsOnly, sample: Tensor) -> _Recorded:
    with _quietly():
        # Without the guards on input shapes: they become call_module nodes.
        original = exported.module(check_guards=False)
    graph = inlined(original)
    _single_output(graph)
    for node in graph.nodes:
        node.meta = {MODULE: _module_path(node)}
    drawn = random_operators(graph)
    out_of_place(graph)
    keep_input(graph)
    kept = tuple(name.removeprefix(f"{WRAPPED}.") for name in keep_tensors(graph))
    without_unused(graph)
    tensors = _name_as_the_user_does(graph, original, model)
    names = trainable(model.whole_model) & tensors.keys()
    mixed = autocasts(original, sample.device.type)
    return _Recorded(
        module=assemble(graph, tensors, names),
        drawn=drawn,
        mixed=mixed,
        notes=(*_notes_on_state(kept), *_notes_on_autocast(mixed), *_unused(model, tensors)),
    )


def _single_output(graph: fx.Graph) -> None:
    output = graph.output_node()
    leaves = [leaf for leaf in pytree.tree_leaves(output.args) if isinstance(leaf, fx.Node)]
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    if len(leaves) != 1 or len(inputs) != 1:
        raise CaptureError(
            f"the exported model has {len(inputs)} inputs and {len(leaves)} outputs: its logits "
            "do not depend on the images alone"
        )
    output.args = (leaves[0],)


def _module_path(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    path = str(next(reversed(stack.values()))[0]) if stack else ""
    return path.removeprefix("L['self']").strip(".").removeprefix(WRAPPED).strip(".")


def _name_as_the_user_does(
    graph: fx.Graph, original: fx.GraphModule, model: LogitsOnly
) -> dict[str, Tensor]:
    """Give each tensor its first name in the user's model; return copies of those used."""
    first = aliases(model)
    tensors: dict[str, Tensor] = {}
    for node in reversed(list(graph.nodes)):
        if node.op != "get_attr":
            continue
        if not node.users:
            graph.erase_node(node)
            continue
        theirs = str(node.target)
        node.target = first.get(theirs, theirs).removeprefix(f"{WRAPPED}.")
        tensors[node.target] = _attribute(original, theirs)
    ordered = {str(n.target): tensors[str(n.target)] for n in graph.nodes if n.op == "get_attr"}
    return map_tensors(ordered, lambda tensor: tensor.detach().clone())


def _attribute(module: nn.Module, name: str) -> Tensor:
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part)
    return cast(Tensor, value)


def _unused(model: LogitsOnly, tensors: dict[str, Tensor]) -> tuple[str, ...]:
    unused = [name for name, _ in model.whole_model.named_parameters() if name not in tensors]
    if not unused:
        return ()
    more = f" and {len(unused) - SHOWN} more" if len(unused) > SHOWN else ""
    return (
        f"left out, because the logits do not depend on them in evaluation mode: "
        f"{', '.join(unused[:SHOWN])}{more}",
    )


def _notes_on_state(kept: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(
        f"forward writes into '{name}'; the captured model uses it as it was at capture"
        for name in kept
    )


def _notes_on_autocast(mixed: tuple[str, ...]) -> tuple[str, ...]:
    if not mixed:
        return ()
    return (f"forward uses autocast to {', '.join(mixed)}; the captured model does without",)


def _with_autocast(problem: str, mixed: tuple[str, ...]) -> str:
    if not mixed:
        return problem
    return (
        f"{problem.partition(':')[0]}: forward uses autocast to {', '.join(mixed)}, which a "
        "captured graph does not; leave autocast to the code that calls the model"
    )
