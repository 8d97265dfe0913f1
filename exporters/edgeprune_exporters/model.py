"""What can be exported: anything with a graph and with logits to compare it with."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import onnx

from edgeprune_exporters.parity import Array, Batch


@runtime_checkable
class Exportable(Protocol):
    """A classifier of images: a captured model, or an ONNX file."""

    @property
    def reference(self) -> str:
        """Say what its logits come from, as ``torch``."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of an image."""
        ...

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that it takes, or None for any."""
        ...

    def logits(self, images: Array) -> Array:
        """Return logits (N, K) of images (N, C, H, W), in float32."""
        ...

    def graph(
        self, *, opset: int, batch: int | None, metadata: Mapping[str, str]
    ) -> onnx.ModelProto:
        """Return it as an ONNX graph, ``images`` → ``logits``, of any or of one batch size.

        Raises:
            ExportError: it has no such form.
        """
        ...

    def values(self, images: Array, names: Sequence[str]) -> Mapping[str, Array]:
        """Return values within, by their names in the graph; unknown ones are left out."""
        ...

    def rounding(self, batches: Sequence[Batch]) -> float | None:
        """Say how far its logits are from those in float64, relative to the largest.

        None where that cannot be known.
        """
        ...
