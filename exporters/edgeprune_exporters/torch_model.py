"""A captured model as something to export."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx
import torch

from edgeprune.capture import Captured
from edgeprune.module import CapturedModule
from edgeprune_exporters.lowering import lower
from edgeprune_exporters.parity import Array, Batch, distance


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

    def graph(
        self, *, opset: int, batch: int | None, metadata: Mapping[str, str]
    ) -> onnx.ModelProto:
        """Return it as an ONNX graph."""
        return lower(self.captured, opset=opset, metadata=metadata)

    def values(self, images: Array, names: Sequence[str]) -> Mapping[str, Array]:
        """Return values within, by their names in the graph."""
        raise NotImplementedError

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

    @cached_property
    def _module(self) -> CapturedModule:
        return self.captured.clone().module.cpu()
