"""From a model to a graph that can be analysed, cut, trained and stored.

A captured model is the ATen graph that ``torch.export`` records, with dynamic
batch where the model allows it, as an ordinary trainable module whose
parameters keep their original names. Invariant: capturing never changes what
the model computes; that is checked on the sample before the graph is handed out.
"""

import copy
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, fx, nn

from edgeprune.errors import CaptureError, ModelError
from edgeprune.files import replacing, write_json
from edgeprune.graph_io import FORMAT, VERSION, graph_from_json, graph_to_json

EXPORT_TOLERANCE: Final = 1e-4  # relative; the same operators in the same order, so usually 0
MODULE: Final = "module"  # key of a node's meta: the path of the module it came from

BATCH_NORM: Final = torch.ops.aten.batch_norm.default
TRAINING_ARGUMENT: Final = {
    BATCH_NORM: 5,
    torch.ops.aten.dropout.default: 2,
    torch.ops.aten.dropout_.default: 2,
    torch.ops.aten.feature_dropout.default: 2,
    torch.ops.aten.alpha_dropout.default: 2,
}


class CapturedModule(fx.GraphModule):
    """A captured graph as a module whose ``train`` and ``eval`` really switch.

    In an exported graph the mode is a constant of each operator. Here it
    follows the module, for dropout and for those batch normalisations that own
    running statistics (one without them always normalises by its batch).
    Stochastic depth is the identity in evaluation mode and therefore not part
    of a captured graph.
    """

    def train(self, mode: bool = True) -> "CapturedModule":
        """Set the mode of the module and of every operator that depends on it."""
        super().train(mode)
        for node in self.graph.nodes:
            position = TRAINING_ARGUMENT.get(node.target)
            if position is not None and _follows_mode(node):
                node.update_arg(position, mode)
        self.recompile()
        return self


def _follows_mode(node: fx.Node) -> bool:
    return node.target is not BATCH_NORM or node.args[3] is not None


@dataclass(frozen=True, kw_only=True, eq=False)
class Captured:
    """A model as a graph.

    Attributes:
        module: the graph, in evaluation mode: (N, C, H, W) → logits (N, K).
        sample: the input it was captured with, (N, C, H, W).
        dynamic_batch: whether any batch size is accepted.
        source: where the model came from, as JSON values, or None.
        plan: the plan that was cut, as JSON values, or None for a dense model.
        notes: what a user should know about the capture.
    """

    module: CapturedModule
    sample: Tensor
    dynamic_batch: bool
    source: Mapping[str, Any] | None = None
    plan: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = field(default=())

    def clone(self) -> "Captured":
        """Return an independent copy: training one leaves the other alone."""
        graph = fx.Graph()
        graph.graph_copy(self.module.graph, val_map := {})
        output = next(iter(reversed(self.module.graph.nodes)))
        graph.output(fx.map_arg(output.args[0], lambda node: val_map[node]))
        for old, new in val_map.items():
            new.meta[MODULE] = old.meta.get(MODULE, "")
        tensors = {name: tensor.detach().clone() for name, tensor in state(self.module).items()}
        return self.with_module(assemble(graph, tensors, trainable(self.module)))

    def with_module(
        self, module: CapturedModule, *, plan: Mapping[str, Any] | None = None
    ) -> "Captured":
        """Return this capture with another module, and with its plan if one is given."""
        return Captured(
            module=module,
            sample=self.sample,
            dynamic_batch=self.dynamic_batch,
            source=self.source,
            plan=plan if plan is not None else self.plan,
            notes=self.notes,
        )

    def save(self, folder: str | Path) -> None:
        """Write ``graph.json``, ``weights.safetensors`` and, after a cut, ``plan.json``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / "weights.safetensors", state(self.module))
        if self.plan is not None:
            write_json(folder / "plan.json", self.plan)
        write_json(folder / "graph.json", self._document())

    def _document(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "source": self.source,
            "input": list(self.sample.shape),
            "dynamic_batch": self.dynamic_batch,
            "notes": list(self.notes),
            "trainable": sorted(trainable(self.module)),
            "tied": aliases(self.module),
            "nodes": graph_to_json(self.module.graph),
        }


def capture(
    model: nn.Module, sample: Tensor, *, source: Mapping[str, Any] | None = None
) -> Captured:
    """Record the model's evaluation graph with ``torch.export``.

    The model is not changed, and its parameters are copied.

    Args:
        model: a classifier that takes one tensor and returns one.
        sample: a typical input, float (N, C, H, W).
        source: where the model came from, as JSON values; stored with it.

    Raises:
        CaptureError: the model cannot be exported (the operator or line is
            named), does not return one tensor of logits (N, K), or computes
            something else once exported.
    """
    _check_sample(sample)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        exported, dynamic, notes = _export(model, sample)
        captured = Captured(
            module=_own_module(exported),
            sample=sample.detach().clone(),
            dynamic_batch=dynamic,
            source=source,
            notes=notes,
        )
        _check_equal(model, captured)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return captured


def load(folder: str | Path) -> Captured:
    """Read a model that ``Captured.save`` wrote; a bundle's own folder will do too.

    Raises:
        ModelError: files are missing, damaged, or from a newer version.
    """
    folder = Path(folder)
    if not (folder / "graph.json").exists() and (folder / "model" / "graph.json").exists():
        folder = folder / "model"
    document = _read_json(folder / "graph.json")
    if document.get("format") != FORMAT or document.get("version") != VERSION:
        raise ModelError(
            f"'{folder.name}/graph.json' is {document.get('format')} version "
            f"{document.get('version')}; this edgeprune reads {FORMAT} version {VERSION}"
        )
    tensors = load_tensors(folder / "weights.safetensors")
    for alias, name in document["tied"].items():
        tensors[alias] = tensors[name]
    plan = next(
        (p for p in (folder / "plan.json", folder.parent / "plan.json") if p.exists()), None
    )
    graph = graph_from_json(document["nodes"])
    return Captured(
        module=assemble(graph, tensors, frozenset(document["trainable"])),
        sample=torch.zeros(document["input"]),
        dynamic_batch=document["dynamic_batch"],
        source=document["source"],
        plan=_read_json(plan) if plan else None,
        notes=tuple(document["notes"]),
    )


def assemble(
    graph: fx.Graph, tensors: Mapping[str, Tensor], trainable: frozenset[str]
) -> CapturedModule:
    """Put a graph and its tensors together, tensors under their dotted names.

    Names that share one tensor object share one parameter afterwards.
    """
    root = nn.Module()
    owners: dict[int, Tensor] = {}
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        owner = _submodule(root, path)
        if name in trainable:
            shared = owners.setdefault(id(tensor), nn.Parameter(tensor))
            owner.register_parameter(leaf, cast(nn.Parameter, shared))
        else:
            owner.register_buffer(leaf, owners.setdefault(id(tensor), tensor))
    module = CapturedModule(root, graph)
    module.eval()
    return module


def state(module: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer by name, a tied one under each of its names."""
    named = dict(module.named_parameters(remove_duplicate=False))
    return named | dict(module.named_buffers(remove_duplicate=False))


def trainable(module: nn.Module) -> frozenset[str]:
    """Return the names of the parameters, a tied one under each of its names."""
    return frozenset(name for name, _ in module.named_parameters(remove_duplicate=False))


def aliases(module: nn.Module) -> dict[str, str]:
    """Map every further name of a tied tensor to its first."""
    first: dict[int, str] = {}
    found: dict[str, str] = {}
    for name, tensor in state(module).items():
        original = first.setdefault(id(tensor), name)
        if original != name:
            found[name] = original
    return found


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, a tied one once, whole or not at all."""
    unique: dict[int, str] = {}
    for name, tensor in tensors.items():
        unique.setdefault(id(tensor), name)
    flat = {name: tensors[name].detach().cpu().contiguous() for name in sorted(unique.values())}
    with replacing(path) as temporary:
        save_file(flat, temporary)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read every tensor of a safetensors file.

    Raises:
        ModelError: the file is missing or is not safetensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except FileNotFoundError:
        raise ModelError(f"'{path.name}' is missing from '{path.parent.name}'") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"'{path.name}' is not a whole safetensors file: {error}") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ModelError(
            f"'{path.parent.name}' holds no stored model: '{path.name}' is missing"
        ) from None
    except ValueError as error:
        raise ModelError(f"'{path.name}' is damaged: {error}") from None


def _check_sample(sample: Tensor) -> None:
    if sample.dim() != 4 or not sample.is_floating_point():
        raise CaptureError(
            f"the sample is {sample.dtype} of shape {tuple(sample.shape)}; "
            "give a float tensor (N, C, H, W)"
        )


def _export(
    model: nn.Module, sample: Tensor
) -> tuple[torch.export.ExportedProgram, bool, tuple[str, ...]]:
    """Export with dynamic batch, or with the sample's if the model fixes it."""
    # Batch 1 would be taken for a constant, so at least two samples are shown.
    several = sample if len(sample) > 1 else sample.repeat(2, 1, 1, 1)
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    try:
        return _quiet_export(model, several, dynamic), True, ()
    except Exception as error:  # torch.export raises whatever the model's code met
        reason = _first_line(error)
    try:
        exported = _quiet_export(model, sample, None)
    except Exception as error:
        raise CaptureError(
            f"torch.export cannot capture {type(model).__name__}: {_first_line(error)}"
            f"{_user_line(error)}; rewrite that line with torch operators on tensors"
        ) from error
    note = f"fixed batch {len(sample)}: the model does not export with dynamic batch ({reason})"
    return exported, False, (note,)


def _quiet_export(
    model: nn.Module, sample: Tensor, dynamic: tuple[dict[int, Any]] | None
) -> torch.export.ExportedProgram:
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return torch.export.export(model, (sample,), dynamic_shapes=dynamic, strict=False)
    finally:
        logger.setLevel(level)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _user_line(error: Exception) -> str:
    """Name the innermost line outside torch: the one that the user can change."""
    found = ""
    trace = error.__traceback__
    while trace is not None:
        path = Path(trace.tb_frame.f_code.co_filename)
        if not {"torch", "edgeprune"} & set(path.parts) and path.suffix == ".py":
            found = f" ({path.name}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return found


def _own_module(exported: torch.export.ExportedProgram) -> CapturedModule:
    """Rebuild the exported program as a plain module of ours.

    ``ExportedProgram.module()`` forbids ``train``, checks its inputs by hooks,
    and remembers source lines and paths in every node: none of that may follow.
    """
    # Without the guards on input shapes: they become call_module nodes.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        original = exported.module(check_guards=False)
    graph = copy.deepcopy(cast(fx.GraphModule, original).graph)
    graph.set_codegen(fx.graph.CodeGen())
    _single_output(graph)
    _out_of_place(graph)
    for node in reversed(list(graph.nodes)):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
        node.meta = {MODULE: _module_path(node)}
    used = dict.fromkeys(node.target for node in graph.nodes if node.op == "get_attr")
    tensors, copies = {}, cast(dict[int, Tensor], {})
    for name in used:
        tensor = _attribute(original, name)
        tensors[name] = copies.setdefault(id(tensor), tensor.detach().clone())
    return assemble(graph, tensors, trainable(original) & used.keys())


def _single_output(graph: fx.Graph) -> None:
    output = next(iter(reversed(graph.nodes)))
    leaves = [leaf for leaf in _leaves(output.args) if isinstance(leaf, fx.Node)]
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    if len(leaves) != 1 or len(inputs) != 1:
        raise CaptureError(
            f"the model has {len(inputs)} inputs and {len(leaves)} outputs; "
            "edgeprune takes classifiers of one image tensor and one tensor of logits: wrap the "
            "model so that forward(images) returns the logits"
        )
    output.args = (leaves[0],)


def _out_of_place(graph: fx.Graph) -> None:
    """Replace in-place operators whose operand nobody sees again.

    Attribution needs an operator's input after the operator has run. A view, or
    a value that is read later, keeps its in-place form: there it has a meaning.
    """
    order = {node: position for position, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        functional = _functional_form(node.target)
        if functional is None or not isinstance(node.args[0], fx.Node):
            continue
        operand = node.args[0]
        seen_later = any(order[user] > order[node] for user in operand.users)
        if not seen_later and not _may_be_view(operand):
            node.target = functional


def _functional_form(target: object) -> torch._ops.OpOverload | None:
    if not isinstance(target, torch._ops.OpOverload):
        return None
    namespace, _, name = target._schema.name.partition("::")
    if not name.endswith("_") or name.startswith("_"):
        return None
    packet = getattr(getattr(torch.ops, namespace), name[:-1], None)
    return getattr(packet, target._overloadname, None)


def _may_be_view(node: fx.Node) -> bool:
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return True
    return any(
        r.alias_info is not None and not r.alias_info.is_write for r in node.target._schema.returns
    )


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, tuple | list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _module_path(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    path = str(next(reversed(stack.values()))[0]) if stack else ""
    return path.removeprefix("L['self']").strip(".")


def _attribute(module: nn.Module, name: str) -> Tensor:
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part)
    return cast(Tensor, value)


def _submodule(root: nn.Module, path: str) -> nn.Module:
    module = root
    for part in path.split(".") if path else []:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = cast(nn.Module, module._modules[part])
    return module


def _check_equal(model: nn.Module, captured: Captured) -> None:
    # One sample more than was traced: a batch size baked into the graph shows here.
    sample = captured.sample
    if captured.dynamic_batch:
        sample = torch.cat([sample, sample[:1]])
    with torch.no_grad():
        expected, actual = model(sample), captured.module(sample)
    if actual.dim() != 2 or len(actual) != len(sample):
        raise CaptureError(
            f"the model returns a tensor of shape {tuple(actual.shape)}; "
            f"logits of shape ({len(sample)}, classes) are needed"
        )
    expected = next(leaf for leaf in _leaves(expected) if isinstance(leaf, Tensor))
    scale = expected.abs().max().clamp_min(1e-12)
    error = float((actual - expected).abs().max() / scale)
    if not error <= EXPORT_TOLERANCE:
        raise CaptureError(
            f"the captured graph differs from the model by {error:.1e} relative: the model "
            "computes something that export does not see (a random number, a global, a hook)"
        )
