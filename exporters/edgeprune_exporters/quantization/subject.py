"""What a format offers so that its quantisation can be limited."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from edgeprune_exporters.artifact import Kept
from edgeprune_exporters.parity import Array
from edgeprune_exporters.quantization.layers import Layer

M = TypeVar("M")
Run = Callable[[Array], Array]


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantized(Generic[M]):
    """A quantised graph, the operators that stayed in float, and what a user should know."""

    graph: M
    kept: tuple[Kept, ...] = ()
    notes: tuple[str, ...] = ()


class Subject(Protocol[M]):
    """A graph that can be quantised in part, looked into, and run."""

    def quantize(self, keep: Collection[str] = ()) -> M:
        """Quantise all but the operators of these names."""
        ...

    def draft(self) -> M:
        """Quantise everything so that quantisers can be taken out again.

        Weights are still floats, and biases as they were.
        """
        ...

    def layers(self, graph: M) -> tuple[Layer, ...]:
        """Return the layers that a quantised graph computes on integers."""
        ...

    def alone(self, draft: M, layer: Layer) -> M:
        """Return the draft with no quantisers but one layer's."""
        ...

    def load(self, graph: M) -> Run:
        """Return a function from images (N, C, H, W) to logits (N, K), in the format's runtime."""
        ...
