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
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from edgeprune.comparing import Reference
from edgeprune.errors import CaptureError, ModelError
from edgeprune.files import write_json
from edgeprune.graph_io import FORMAT, VERSION, graph_from_json, graph_to_json
from edgeprune.module import BATCH_NORM, MODULE, TRAINING_ARGUMENT, CapturedModule, assemble
from edgeprune.outputs import LogitsOnly, Output
from edgeprune.parametrizations import without_parametrizations
from edgeprune.refusals import answer, logits_problem, model_problem, sample_problem
from edgeprune.tensors import aliases, load_tensors, map_tensors, save_tensors, state, trainable
from edgeprune.tracing import trace
from edgeprune.untouched import evaluating


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
    model: nn.Module,
    sample: Tensor,
    *,
    source: Mapping[str, Any] | None = None,
    output: Output = None,
) -> Captured:
    """Record the model's evaluation graph with ``torch.export``.

    The model is not changed, and its parameters are copied, each under its first
    name. In the captured model dropout follows ``train()`` and ``eval()``, and so
    do those BatchNorms that own running statistics. Stochastic depth and dropout
    within attention, the identity in evaluation mode, are gone; parameters that
    only training needs are left out, and ``notes`` names them. Weights computed
    from others (weight or spectral normalisation) become plain ones.

    Args:
        model: a classifier of images; further inputs need defaults.
        sample: a typical input, float (N, C, H, W), on the model's device.
        source: where the model came from, as JSON values; stored with it.
        output: which of several outputs holds the logits: a name, an index, or a
            dotted path (``heads.0``). None takes the only one, else ``logits``,
            ``out`` or ``output``.

    Raises:
        CaptureError: the model cannot be exported (the operator or line is
            named), does not return one tensor of logits (N, K), or computes
            something else once exported.
    """
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    if problem := sample_problem(sample) or model_problem(model, sample):
        raise CaptureError(problem)
    sample = sample.detach().clone()
    name = type(model).__name__
    whole = LogitsOnly(model, output)
    with evaluating(model):
        logits, again = (answer(whole, sample, name) for _ in range(2))
    if problem := logits_problem(logits, len(sample)):
        raise CaptureError(problem)
    with evaluating(model):  # again, so that nothing that forward has written is recorded
        plain, notes = without_parametrizations(model)
        reference = Reference(model=whole, name=name, sample=sample, logits=logits, again=again)
        traced = trace(LogitsOnly(plain, output), reference)
    return Captured(
        module=traced.module,
        sample=sample,
        dynamic_batch=traced.dynamic_batch,
        source=source,
        notes=(*notes, *traced.notes),
    )


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
