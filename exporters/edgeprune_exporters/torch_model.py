"""A captured model as something to export."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import onnx
import torch
from torch import Tensor, fx

from edgeprune.capture import Captured
from edgeprune.errors import ExportError
from edgeprune.module import MODULE, CapturedModule
from edgeprune_exporters.lowering import lower, translated
from edgeprune_exporters.parity import Array, Batch, distance
from edgeprune_exporters.rounding import rounded_run

OPSET: Final = 20  # of the translation that values are read from: names hardly depend on it
NO_MODULE: Final = "_empty_nn_module_stack"  # how torch begins the place of what it made itself


@dataclass(frozen=True, eq=False)
class TorchModel:
    """A captured model, on the processor and in evaluation mode; the original is left alone."""

    captured: Captured

    @property
    def reference(self) -> str:
        """Say what its logits come from."""
        return "torch"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of an image."""
        channels, height, width = self.captured.sample.shape[1:]
        return channels, height, width

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that it takes, or None for any."""
        return None if self.captured.dynamic_batch else len(self.captured.sample)

    def logits(self, images: Array) -> Array:
        """Return logits (N, K) of images (N, C, H, W)."""
        with torch.no_grad():
            logits: Array = self._module(torch.from_numpy(images)).numpy()
        return logits

    def rounded_logits(self, images: Array, precision: str) -> Array:
        """Return logits (N, K) with values rounded to ``fp16`` or ``int8`` on the way."""
        logits: Tensor = rounded_run(self._module, torch.from_numpy(images), precision)
        return logits.numpy()

    def graph(
        self, *, opset: int, batch: int | None, metadata: Mapping[str, str]
    ) -> onnx.ModelProto:
        """Return it as an ONNX graph."""
        return lower(self.captured, opset=opset, batch=batch, metadata=metadata)

    def values(self, images: Array, names: Sequence[str]) -> Mapping[str, Array]:
        """Return values within, by their names in the graph; unknown ones are left out."""
        nodes = self._known(names)
        with torch.no_grad():
            return _named(nodes, _up_to(self._translated, nodes)(torch.from_numpy(images)))

    def rounded_values(
        self, images: Array, names: Sequence[str], precision: str
    ) -> Mapping[str, Array]:
        """Return values within, with values rounded to ``fp16`` or ``int8`` on the way."""
        nodes = self._known(names)
        shortened = _up_to(self._translated, nodes)
        return _named(nodes, rounded_run(shortened, torch.from_numpy(images), precision))

    @property
    def value_names(self) -> frozenset[str]:
        """Names of the values that ``values`` can return."""
        return frozenset(self._nodes)

    def place(self, name: str, known: frozenset[str]) -> str:
        """Name the modules that make a value, or the logits, out of values that are known."""
        modules = {node.name: node.meta.get(MODULE) for node in self._module.graph.nodes}
        (logits,) = self._translated.graph.output_node().all_input_nodes
        made_of = _made_of(self._nodes.get(name, logits), known)
        within = (modules.get(_origin(node)) for node in made_of)
        own = (each for each in within if each and not each.startswith(NO_MODULE))
        return " and ".join(dict.fromkeys(own))

    def rounding(self, batches: Sequence[Batch]) -> float | None:
        """Say how far its logits are from those in float64; None where it fixes float32."""
        module = self.captured.clone().module.cpu().double()
        far = []
        for batch in batches:
            try:
                with torch.no_grad():
                    exact = module(torch.from_numpy(batch.images).double())
            except RuntimeError:
                return None
            far.append(distance(batch.logits, exact.numpy())[1])
        return max(far)

    def _known(self, names: Sequence[str]) -> list[fx.Node]:
        return [self._nodes[name] for name in names if name in self._nodes]

    @cached_property
    def _module(self) -> CapturedModule:
        return self.captured.clone().module.cpu()

    @cached_property
    def _translated(self) -> fx.GraphModule:
        """The program that was translated, node by node, into the ONNX graph."""
        program = translated(self.captured, OPSET).exported_program
        if program is None:  # torch leaves it out only where nothing was exported
            raise ExportError("torch.onnx kept no program to compare with")
        return program.module(check_guards=False)

    @cached_property
    def _nodes(self) -> dict[str, fx.Node]:
        return {node.name: node for node in self._translated.graph.nodes if _is_value(node)}


def _named(nodes: Sequence[fx.Node], values: Sequence[Tensor]) -> dict[str, Array]:
    return {node.name: value.detach().numpy() for node, value in zip(nodes, values, strict=True)}


def _is_value(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return node.op == "call_function" and isinstance(value, Tensor) and value.is_floating_point()


def _up_to(module: fx.GraphModule, nodes: Sequence[fx.Node]) -> fx.GraphModule:
    """Return a module that gives these values, sharing the tensors of the one given."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.graph_copy(module.graph, copies)
    graph.output(tuple(copies[node] for node in nodes))
    shortened = fx.GraphModule(module, graph)
    graph.eliminate_dead_code()
    shortened.recompile()
    return shortened


def _made_of(node: fx.Node, known: frozenset[str]) -> list[fx.Node]:
    """Return a node and those it is made of, in order, as far back as known values."""
    found: dict[fx.Node, None] = {}
    waiting = [node]
    while waiting:
        each = waiting.pop()
        found[each] = None
        waiting += [s for s in each.all_input_nodes if s.name not in known and s not in found]
    return [each for each in node.graph.nodes if each in found]


def _origin(node: fx.Node) -> str:
    """Return the name, in the captured graph, of the node that a node was made from."""
    source = node.meta.get("from_node")
    if not source:
        return node.name
    while source[0].from_node:
        source = source[0].from_node
    return str(source[0].name)
