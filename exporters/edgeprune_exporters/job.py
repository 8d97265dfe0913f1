"""What every exporter is given, and what it has to offer.

Work that formats share is done once per job: the ONNX graph, from which the
other formats are converted, and torch's own logits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Protocol

import onnx
import torch
from torch import Tensor

from edgeprune.capture import Captured
from edgeprune.errors import ExportError
from edgeprune.targets import Target
from edgeprune_exporters.artifact import Artifact
from edgeprune_exporters.lowering import lower
from edgeprune_exporters.parity import Batch, distance

BATCH_SIZES: Final = (1, 3)


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """One model for one target.

    Attributes:
        model: what is exported.
        target: what it is exported for.
        inputs: real images, preprocessed, (N, C, H, W); parity is proven on them.
        metadata: texts to store in the files, such as labels and preprocessing.
    """

    model: Captured
    target: Target
    inputs: Tensor
    metadata: Mapping[str, str]

    @cached_property
    def graph(self) -> onnx.ModelProto:
        """The model as an ONNX graph. Do not change it: it is shared."""
        return lower(self.model, opset=self.target.opset, metadata=self.metadata)

    @cached_property
    def batches(self) -> tuple[Batch, ...]:
        """The images in batches of each size the model takes, with torch's logits."""
        module = self.model.clone().module.cpu()
        batches, start = [], 0
        for size in BATCH_SIZES if self.model.dynamic_batch else (len(self.model.sample),):
            # In turn, so that few images are repeated and many are all different.
            chosen = torch.arange(start, start + size) % len(self.inputs)
            images = self.inputs.detach().cpu().float()[chosen]
            with torch.no_grad():
                logits = module(images)
            if not logits.isfinite().all():
                raise ExportError("torch itself gives NaN or infinite logits for the given images")
            batches.append(Batch(images=images.numpy(), logits=logits.numpy()))
            start += size
        return tuple(batches)

    @cached_property
    def rounding(self) -> float | None:
        """How far torch's logits in float32 are from those in float64, relative to the largest.

        None where the graph fixes float32 and cannot run in float64.
        """
        module = self.model.clone().module.cpu().double()
        far = []
        for batch in self.batches:
            try:
                with torch.no_grad():
                    exact = module(torch.from_numpy(batch.images).double())
            except RuntimeError:
                return None
            far.append(distance(batch.logits, exact.numpy())[1])
        return max(far)

    @property
    def note(self) -> str | None:
        """Say what parity cannot cover, or None."""
        if self.model.dynamic_batch:
            return None
        return f"the batch is fixed: compared at batch {len(self.model.sample)} only"


class Exporter(Protocol):
    """Turn a captured model into the files that one runtime loads."""

    def refusal(self, model: Captured, target: Target) -> str | None:
        """Say why this model cannot be exported for the target, or None."""
        ...

    def export(self, job: Job, folder: Path) -> Artifact:
        """Write the files into an empty folder, and compare them with torch.

        The artifact names its files relative to ``folder``, which takes its
        final place only if the proof holds.
        """
        ...
