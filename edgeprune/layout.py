"""Which dimension of a value runs over samples, and how.

Most values are (N, …). Attention by hand merges heads into the batch, PyTorch's
own puts tokens first and then merges both, so a size alone does not tell how
samples lie. Where it does not, one run has another first image and one another
last, and the positions that differ are that image's.
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
    """Samples along ``dim``: ``blocks`` times all samples, each with its positions side by side."""

    dim: int
    blocks: int

    def spread(self, weights: Tensor, size: int) -> Tensor:
        """Repeat weights (S, C) for each position of a dimension of this size: (size, C)."""
        positions = size // (self.blocks * len(weights))
        return weights.repeat_interleave(positions, 0).repeat(self.blocks, 1)


def sample_layouts(
    captured: Captured, analysis: Analysis, nodes: Collection[str]
) -> dict[str, Layout]:
    """Find the layout of values by node name; those that have no samples are left out."""
    found: dict[str, Layout] = {}
    for name in nodes if captured.dynamic_batch else ():
        shape = analysis.shapes[name]
        if isinstance(shape, tuple) and shape.count(analysis.batch) == 1:
            found[name] = Layout(dim=shape.index(analysis.batch), blocks=1)
    unclear = frozenset(nodes) - found.keys()
    return found | _probe(captured, unclear) if unclear else found


def _probe(captured: Captured, nodes: frozenset[str]) -> dict[str, Layout]:
    """Change the first image, then the last, and see which positions differ."""
    count = 2 if captured.dynamic_batch else len(captured.sample)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count + 2, *captured.sample.shape[1:], generator=generator)
    device = next(captured.module.parameters()).device
    images = images.to(device, captured.sample.dtype)
    before = _values(captured, images[:count], nodes)
    first = _values(captured, torch.cat([images[count : count + 1], images[1:count]]), nodes)
    last = _values(captured, torch.cat([images[: count - 1], images[count + 1 :]]), nodes)
    layouts = {
        name: _layout(first[name] != value, last[name] != value, count)
        for name, value in before.items()
    }
    return {name: layout for name, layout in layouts.items() if layout is not None}


def _layout(first: Tensor, last: Tensor, count: int) -> Layout | None:
    """Find the dimension of which only one sample's positions differ with that sample.

    Args:
        first: which values differ with the first sample, of bool.
        last: which differ with the last.
        count: number of samples.
    """
    for dim, size in enumerate(first.shape):
        if size % count:
            continue
        hits = [value.movedim(dim, 0).reshape(size, -1).any(1) for value in (first, last)]
        if not all(hit.any() for hit in hits):
            continue
        for blocks in range(1, size // count + 1):
            if (size // count) % blocks == 0:
                by_sample = [hit.reshape(blocks, count, -1).any(2).any(0) for hit in hits]
                if not by_sample[0][1:].any() and not by_sample[1][:-1].any():
                    return Layout(dim=dim, blocks=blocks)
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
