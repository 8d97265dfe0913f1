"""From a model to a graph that can be analysed, cut, trained and stored.

A captured model is the ATen graph that ``torch.export`` records, with dynamic
batch where the model allows it, as an ordinary trainable module whose
parameters keep their original names. Invariant: capturing never changes what
the model computes; that is checked on the sample before the graph is handed out.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from edgeprune.errors import CaptureError, ModelError
from edgeprune.files import write_json
from edgeprune.graph_io import FORMAT, VERSION, graph_from_json, graph_to_json
from edgeprune.module import BATCH_NORM, TRAINING_ARGUMENT, CapturedModule, assemble
from edgeprune.tensors import aliases, load_tensors, map_tensors, save_tensors, state, trainable
from edgeprune.tracing import MODULE, trace

EXPORT_TOLERANCE: Final = 1e-4  # relative; the same operators in the same order, so usually 0


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
        graph, copies = fx.Graph(), cast(dict[fx.Node, fx.Node], {})
        for node in self.module.graph.nodes:
            copies[node] = graph.node_copy(node, lambda source: copies[source])
            copies[node].meta = {MODULE: node.meta.get(MODULE, "")}
        tensors = map_tensors(state(self.module), lambda tensor: tensor.detach().clone())
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
        """Write ``weights.safetensors``, after a cut ``plan.json``, and last ``graph.json``.

        Without its graph a folder is not a stored model, so an older one goes
        first: graph and weights of two models never stand side by side.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "graph.json").unlink(missing_ok=True)
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
            "cut": self.plan is not None,
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
        traced = trace(model, sample)
        captured = Captured(
            module=traced.module,
            sample=sample.detach().clone(),
            dynamic_batch=traced.dynamic_batch,
            source=source,
            notes=traced.notes,
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
    try:
        return _restore(document, tensors, folder)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"'{folder.name}/graph.json' is damaged: {type(error).__name__} {error}"
        ) from error


def _restore(document: dict[str, Any], tensors: dict[str, Tensor], folder: Path) -> Captured:
    for alias, name in document["tied"].items():
        tensors[alias] = tensors[name]
    graph = graph_from_json(document["nodes"], tensors.keys())
    return Captured(
        module=assemble(graph, tensors, frozenset(document["trainable"])),
        sample=torch.zeros(document["input"]),
        dynamic_batch=document["dynamic_batch"],
        source=document["source"],
        plan=_read_json(_plan_path(folder)) if document["cut"] else None,
        notes=tuple(document["notes"]),
    )


def _plan_path(folder: Path) -> Path:
    """Find the plan beside the graph, or at the top of a bundle."""
    own = folder / "plan.json"
    return folder.parent / "plan.json" if folder.name == "model" and not own.exists() else own


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"'{path.parent.name}' holds no stored model: '{path.name}' is missing"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"'{path.name}' is damaged: {error}") from None
    if not isinstance(document, dict):
        raise ModelError(f"'{path.name}' is damaged: it holds no JSON object")
    return document


def _check_sample(sample: Tensor) -> None:
    if sample.dim() != 4 or not sample.is_floating_point():
        raise CaptureError(
            f"the sample is {sample.dtype} of shape {tuple(sample.shape)}; "
            "give a float tensor (N, C, H, W)"
        )


def _check_equal(model: nn.Module, captured: Captured) -> None:
    # A batch size that was not traced: one that is baked into the graph shows here.
    sample = captured.sample
    if captured.dynamic_batch:
        sample = torch.cat([sample, sample, sample[:1]])
    with torch.no_grad():
        actual = captured.module(sample)
        (expected,) = pytree.tree_leaves(model(sample.clone()))
    if actual.dim() != 2 or len(actual) != len(sample):
        raise CaptureError(
            f"the model returns a tensor of shape {tuple(actual.shape)}; "
            f"logits of shape ({len(sample)}, classes) are needed"
        )
    if not expected.isfinite().all():
        raise CaptureError(
            "the model's logits for the sample are not finite; give a sample and weights "
            "for which they are"
        )
    scale = expected.abs().max().clamp_min(1e-12)
    error = float((actual - expected).abs().max() / scale)
    if not error <= EXPORT_TOLERANCE:
        raise CaptureError(
            f"the captured graph differs from the model by {error:.1e} relative: the model "
            "computes something that export does not see (a random number, a global, a hook)"
        )


__all__ = [
    "BATCH_NORM",
    "MODULE",
    "TRAINING_ARGUMENT",
    "Captured",
    "CapturedModule",
    "aliases",
    "assemble",
    "capture",
    "load",
    "load_tensors",
    "map_tensors",
    "save_tensors",
    "state",
    "trainable",
]
