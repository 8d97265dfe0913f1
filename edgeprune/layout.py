"""Which dimension of a value runs over samples, and how.

Most values are (N, …). Attention by hand merges heads into the batch, PyTorch's
own puts tokens first and then merges both, so a size alone does not tell how
samples lie. Where it does not, one of two runs has another last image, and the
positions that differ are that image's.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from edgeprune.axes.analysis import Analysis
from edgeprune.capture import Captured


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Samples along ``dim``, the positions of one side by side or a whole batch apart."""

    dim: int
    together: bool

    def spread(self, weights: Tensor, size: int) -> Tensor:
        """Repeat weights (S, C) for each position of a dimension of this size: (size, C)."""
        times = size // len(weights)
        return weights.repeat_interleave(times, 0) if self.together else weights.repeat(times, 1)


def sample_layouts(
    captured: Captured, analysis: Analysis, nodes: Collection[str]
) -> dict[str, Layout]:
    """Find the layout of values by node name; those that have no samples are left out."""
    found: dict[str, Layout] = {}
    for name in nodes if captured.dynamic_batch else ():
        shape = analysis.shapes[name]
        if isinstance(shape, tuple) and shape.count(analysis.batch) == 1:
            found[name] = Layout(dim=shape.index(analysis.batch), together=True)
    unclear = frozenset(nodes) - found.keys()
    return found | _probe(captured, unclear) if unclear else found


def _probe(captured: Captured, nodes: frozenset[str]) -> dict[str, Layout]:
    count = 2 if captured.dynamic_batch else len(captured.sample)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count + 1, *captured.sample.shape[1:], generator=generator)
    device = next(captured.module.parameters()).device
    images = images.to(device, captured.sample.dtype)
    one = _values(captured, images[:count], nodes)
    other = _values(captured, torch.cat([images[: count - 1], images[count:]]), nodes)
    layouts = {name: _layout(one[name] != other[name], count) for name in one}
    return {name: layout for name, layout in layouts.items() if layout is not None}


def _layout(differs: Tensor, count: int) -> Layout | None:
    """Find the dimension of which only the last sample's positions differ."""
    for dim, size in enumerate(differs.shape):
        hit = differs.movedim(dim, 0).reshape(size, -1).any(1)
        if size % count or not hit.any():
            continue
        if not hit[: size - size // count].any():
            return Layout(dim=dim, together=True)
        if not hit.reshape(-1, count)[:, :-1].any():
            return Layout(dim=dim, together=False)
    return None


def _values(captured: Captured, images: Tensor, nodes: frozenset[str]) -> Mapping[str, Tensor]:
    recorder = _Recorder(captured.module, nodes)
    with torch.no_grad():
        recorder.run(images)
    return recorder.found


class _Recorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, nodes: frozenset[str]) -> None:
        super().__init__(module)
        self.nodes = nodes
        self.found: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - as the base class has it
        value = super().run_node(n)
        if n.name in self.nodes and isinstance(value, Tensor):
            self.found[n.name] = value.clone()  # an operator in place may follow
        return value
