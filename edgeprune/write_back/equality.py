"""Whether a module computes what the cut graph computes, and if not, where it begins.

Compared as it is, and with other weights on both sides: at random weights
attention is nearly uniform, and a wrong scale would not show.
"""

import copy
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from torch.utils.hooks import RemovableHandle

from edgeprune.capture import MODULE, Captured
from edgeprune.module import CapturedModule
from edgeprune.outputs import LogitsOnly
from edgeprune.refusals import first_line
from edgeprune.tensors import state
from edgeprune.write_back.constants import ATTENTION
from edgeprune.write_back.tensors import copy_of, write_tensors

TOLERANCE: Final = 1e-4  # relative to the largest logit, in float32
GAINS: Final = (1.5, 0.5)  # of what weights around attention give: its logits are the square
SOFTMAX: Final = (ATTENTION, torch.ops.aten.softmax.int, torch.ops.aten._softmax.default)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How a module fails to compute what the cut graph computes.

    Attributes:
        path: of the module that fails, or of the first that answers otherwise; empty
            for the model itself.
        error: what was raised, or nothing.
        relative: largest difference of a logit, relative; infinite after an error.
    """

    path: str
    error: str
    relative: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Judge:
    """Compares candidates with the cut graph.

    Attributes:
        dense: the user's model, captured.
        model: the user's model.
        slim: the cut graph.
        output: which of several outputs holds the logits.
    """

    dense: Captured
    model: nn.Module
    slim: Captured
    output: str | int | None

    def difference(self, candidate: nn.Module) -> Difference | None:
        """Say how a candidate in evaluation mode differs, or None."""
        slim = self.slim.module
        for images in self._inputs():
            if found := self._compare(slim, candidate, images):
                return found
        images = self._inputs()[-1]
        for gain in GAINS:
            other = _disturbed(self.slim, gain)
            with torch.no_grad():
                finite = bool(other(images).isfinite().all())
            if finite:
                twin = copy.deepcopy(candidate)
                write_tensors(twin, state(other))
                return self._compare(other, twin, images)
        return None

    def _inputs(self) -> tuple[Tensor, Tensor]:
        sample = self.slim.sample
        count = len(sample) + self.slim.dynamic_batch
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(count, *sample.shape[1:], generator=generator, dtype=sample.dtype)
        return sample, noise.to(sample.device)

    def _compare(
        self, graph: fx.GraphModule, candidate: nn.Module, images: Tensor
    ) -> Difference | None:
        with torch.no_grad():
            expected = graph(images)
        for gradients in (False, True):  # torch's own layers take other paths without
            running: list[str] = []
            try:
                with torch.set_grad_enabled(gradients), _following(candidate, running):
                    actual = LogitsOnly(candidate, self.output)(images.clone()).detach()
            except Exception as error:  # the user's code runs here
                path = running[-1] if running else ""
                return Difference(path=path, error=first_line(error), relative=float("inf"))
            relative = _relative(actual, expected)
            if not relative <= TOLERANCE:
                path = self._first(graph, candidate, images)
                return Difference(path=path, error="", relative=relative)
        return None

    def _first(self, graph: fx.GraphModule, candidate: nn.Module, images: Tensor) -> str:
        """Find the first module whose output is not what the graph has at its end.

        Not every module's output is the last value of its part of the graph; only
        those are asked for which it is so in the dense model.
        """
        usual = _outputs(copy_of(self.model), images)
        known = _ends(self.dense.module, images, usual.keys())
        ends = _ends(graph, images, usual.keys())
        for path, actual in _outputs(candidate, images).items():
            comparable = path in known and _relative(usual[path], known[path]) <= TOLERANCE
            if comparable and path in ends and not _relative(actual, ends[path]) <= TOLERANCE:
                return path
        return ""


@contextmanager
def _following(model: nn.Module, running: list[str]) -> Iterator[None]:
    """Keep the paths of the modules that are running, innermost last, also after an error."""
    handles: list[RemovableHandle] = []
    for path, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, path=path: running.append(path)))
        handles.append(module.register_forward_hook(lambda *_: _pop(running)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pop(running: list[str]) -> None:
    running.pop()


def _outputs(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Run a model; return what each module that answers with a tensor returned, as they end."""
    found: dict[str, Tensor] = {}

    def note(path: str, answer: object) -> None:
        if isinstance(answer, Tensor):
            found.setdefault(path, answer.detach().clone())

    handles = [
        module.register_forward_hook(lambda _m, _i, answer, path=path: note(path, answer))
        for path, module in model.named_modules()
    ]
    try:
        with torch.no_grad():
            model(images.clone())
    finally:
        for handle in handles:
            handle.remove()
    return found


def _ends(graph: fx.GraphModule, images: Tensor, paths: Collection[str]) -> dict[str, Tensor]:
    """Run a graph; return the last value of the part that came from each module."""
    last: dict[str, str] = {}
    for node in graph.graph.nodes:
        path = node.meta.get(MODULE, "")
        while node.op == "call_function" and path:
            last[path] = node.name
            path = path.rpartition(".")[0]
    wanted = {path: name for path, name in last.items() if path in paths}
    recorder = _Recorder(graph, frozenset(wanted.values()))
    with torch.no_grad():
        recorder.run(images)
    return {p: recorder.found[name] for p, name in wanted.items() if name in recorder.found}


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps the values of some nodes, as they were then."""

    def __init__(self, graph: fx.GraphModule, names: frozenset[str]) -> None:
        super().__init__(graph)
        self.names = names
        self.found: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - as the base class has it
        value = super().run_node(n)
        if n.name in self.names and isinstance(value, Tensor):
            self.found[n.name] = value.clone()
        return value


def _disturbed(slim: Captured, gain: float) -> CapturedModule:
    """Copy the cut graph with weights under which no branch is silent and attention is sharp."""
    other = slim.clone().module
    sharp = {n.meta.get(MODULE, "") for n in other.graph.nodes if n.target in SOFTMAX}
    generator = torch.Generator().manual_seed(0)
    for name, tensor in _once(state(other)).items():
        if not tensor.is_floating_point():
            continue
        noise = torch.rand(tensor.shape, generator=generator).to(tensor)
        statistics = name.endswith(("running_mean", "running_var"))
        with torch.no_grad():
            if statistics or tensor.dim() < 2:
                tensor.copy_(0.5 + noise if name.endswith("var") else tensor + 0.4 * noise - 0.1)
            elif isinstance(tensor, nn.Parameter):
                # Uniform noise of spread 1 lies within √3.
                if any(name.startswith(f"{path}.") for path in sharp):
                    spread = gain / tensor[0].numel() ** 0.5
                    tensor.copy_(spread * 3**0.5 * (2 * noise - 1))
                else:
                    spread = float(tensor.std(correction=0).clamp_min(0.01))
                    tensor.add_(0.2 * spread * (2 * noise - 1))
    return other


def _once(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return each tensor under one name."""
    names = {id(tensor): name for name, tensor in tensors.items()}
    return {name: tensors[name] for name in names.values()}


def _relative(actual: Tensor, expected: Tensor) -> float:
    if actual.shape != expected.shape:
        return float("inf")
    scale = expected.abs().max().clamp_min(1e-12)
    difference = (actual - expected).abs().max() / scale
    return float(difference.nan_to_num(nan=float("inf")))
