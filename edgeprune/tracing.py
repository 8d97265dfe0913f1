"""From a module with Python code to a graph of our own.

``torch.export`` runs the code once and records the ATen operators. What it
hands out forbids ``train``, checks its inputs by hooks, and remembers source
lines and paths in every node; the graph made here has none of that. Invariant:
it never changes its input, and computes what the model computes.
"""

import contextlib
import copy
import io
import logging
import re
import sysconfig
import traceback
import warnings
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import CodeGen
from torch.utils import _pytree as pytree

from edgeprune.errors import CaptureError
from edgeprune.module import DROPOUTS, CapturedModule, assemble
from edgeprune.tensors import map_tensors, trainable

MODULE: Final = "module"  # key of a node's meta: the path of the module it came from
STANDARD_LIBRARY: Final = Path(sysconfig.get_path("stdlib"))
TORCH: Final = Path(torch.__file__).parent
OURS: Final = Path(__file__).parent
FOLDERS: Final = re.compile(r"(?<!\w)(?:[A-Za-z]:)?[\\/](?:[^\\/\s]+[\\/])+")


class Traced(NamedTuple):
    """A graph of our own, whether it takes any batch size, and what a user should know."""

    module: CapturedModule
    dynamic_batch: bool
    notes: tuple[str, ...]


def trace(model: nn.Module, sample: Tensor) -> Traced:
    """Export with dynamic batch, or with the sample's if the model fixes it.

    Args:
        model: in evaluation mode.
        sample: (N, C, H, W).

    Raises:
        CaptureError: the model cannot be exported, or is not one of one image
            tensor and one tensor of logits.
    """
    exported, note = _export_dynamic_or_fixed(model, sample)
    return Traced(_own_module(exported), note is None, (note,) if note else ())


def _export_dynamic_or_fixed(
    model: nn.Module, sample: Tensor
) -> tuple[torch.export.ExportedProgram, str | None]:
    """Return the exported program, and a note if its batch is fixed."""
    # Batch 1 would be taken for a constant, so at least two samples are shown.
    several = sample if len(sample) > 1 else sample.repeat(2, 1, 1, 1)
    try:
        return _export(model, several, ({0: torch.export.Dim.DYNAMIC},)), None
    except Exception as error:  # torch.export raises whatever the model's code met
        reason = _first_line(error)
    try:
        exported = _export(model, sample, None)
    except Exception as error:
        raise CaptureError(
            f"torch.export cannot capture {type(model).__name__}: {_first_line(error)}"
            f"{_user_line(error)}; rewrite that line with torch operators on tensors"
        ) from error
    return (
        exported,
        f"fixed batch {len(sample)}: the model does not export with dynamic batch ({reason})",
    )


def _export(
    model: nn.Module, sample: Tensor, dynamic: tuple[dict[int, Any]] | None
) -> torch.export.ExportedProgram:
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        # torch prints the graph so far to stderr when it fails; the error says enough.
        quiet = contextlib.redirect_stderr(io.StringIO())
        with warnings.catch_warnings(), torch.no_grad(), quiet:
            warnings.simplefilter("ignore")
            return torch.export.export(
                model, (sample.clone(),), dynamic_shapes=dynamic, strict=False
            )
    finally:
        logger.setLevel(level)


def _first_line(error: Exception) -> str:
    """Quote an error in one line, without the folders of this machine."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kind = type(error).__name__
    return f"{kind}: {FOLDERS.sub('', lines[0])[:300]}" if lines else kind


def _user_line(error: Exception) -> str:
    """Name the innermost line of code that the user can change, or nothing."""
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        path = Path(frame.f_code.co_filename)
        if _is_user_code(path):
            found = f" ({path.name}, line {line})"
    return found


def _is_user_code(path: Path) -> bool:
    if path.suffix != ".py" or path.is_relative_to(TORCH) or path.is_relative_to(OURS):
        return False
    # Installed packages may live inside the folder of the standard library.
    return not path.is_relative_to(STANDARD_LIBRARY) or "site-packages" in path.parts


def _own_module(exported: torch.export.ExportedProgram) -> CapturedModule:
    # Without the guards on input shapes: they become call_module nodes.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        original = exported.module(check_guards=False)
    graph = copy.deepcopy(original.graph)
    graph.set_codegen(CodeGen())
    _single_output(graph)
    _out_of_place(graph)
    _keep_input(graph)
    for node in reversed(list(graph.nodes)):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
        node.meta = {MODULE: _module_path(node)}
    used = dict.fromkeys(str(node.target) for node in graph.nodes if node.op == "get_attr")
    tensors = map_tensors(
        {name: _attribute(original, name) for name in used}, lambda t: t.detach().clone()
    )
    return assemble(graph, tensors, trainable(original) & used.keys())


def _single_output(graph: fx.Graph) -> None:
    output = graph.output_node()
    leaves = [leaf for leaf in pytree.tree_leaves(output.args) if isinstance(leaf, fx.Node)]
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    if len(leaves) != 1 or len(inputs) != 1:
        raise CaptureError(
            f"the model has {len(inputs)} inputs and {len(leaves)} outputs; "
            "edgeprune takes classifiers of one image tensor and one tensor of logits: wrap the "
            "model so that forward(images) returns the logits"
        )
    output.args = (leaves[0],)


def _keep_input(graph: fx.Graph) -> None:
    """Let the model work on a copy of its input if it writes into it."""
    images = next(node for node in graph.nodes if node.op == "placeholder")
    if any(_writes(sharing.target) for sharing in _sharing(images)):
        with graph.inserting_after(images):
            own = graph.call_function(torch.ops.aten.clone.default, (images,))
        images.replace_all_uses_with(own, delete_user_cb=lambda user: user is not own)


def _out_of_place(graph: fx.Graph) -> None:
    """Replace in-place operators whose operand nobody sees again.

    Attribution needs an operator's input after the operator has run. Where the
    operand may share its memory with a value that is read later, the in-place
    form has a meaning and stays.
    """
    order = {node: position for position, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        functional = _functional_form(node.target)
        operand = node.args[0] if node.args else None
        if functional is None or not isinstance(operand, fx.Node) or _may_share(operand):
            continue
        shares = [operand, *(s for s in _sharing(operand) if order[s] < order[node])]
        if not any(order[user] > order[node] for value in shares for user in value.users):
            node.target = functional


def _functional_form(target: object) -> torch._ops.OpOverload[..., Any] | None:
    if not _writes(target):
        return None
    target = cast("torch._ops.OpOverload[..., Any]", target)
    namespace, _, name = target._schema.name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), name[:-1], None)
    return getattr(packet, target._overloadname, None)


def _writes(target: object) -> bool:
    """Say whether this is the in-place form of an operator."""
    if not isinstance(target, torch._ops.OpOverload):
        return False
    name = target._schema.name.partition("::")[2]
    return name.endswith("_") and not name.startswith("_")


def _may_share(node: fx.Node) -> bool:
    """Say whether a value may share its memory with another one, seen from its producer."""
    if node.op == "placeholder":
        return False  # the graph works on a copy wherever it matters
    if not isinstance(node.target, torch._ops.OpOverload):
        return True
    if node.target in DROPOUTS:  # the identity in evaluation mode
        return True
    return any(returned.alias_info is not None for returned in node.target._schema.returns)


def _sharing(node: fx.Node) -> list[fx.Node]:
    """List every value downstream that may share memory with this one."""
    found: dict[fx.Node, None] = {}
    waiting = [node]
    while waiting:
        value = waiting.pop()
        for user in value.users:
            if user.args and user.args[0] is value and user not in found and _may_share(user):
                found[user] = None
                waiting.append(user)
    return list(found)


def _module_path(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    path = str(next(reversed(stack.values()))[0]) if stack else ""
    return path.removeprefix("L['self']").strip(".")


def _attribute(module: nn.Module, name: str) -> Tensor:
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part)
    return cast(Tensor, value)
