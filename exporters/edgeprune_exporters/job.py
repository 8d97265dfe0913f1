"""What every exporter is given, and what it has to offer.

Work that formats share is done once per job: the ONNX graph, from which the
other formats are converted, and the logits that they have to reproduce.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx

from edgeprune.errors import ExportError
from edgeprune.progress import Reporter, Silent
from edgeprune.targets import Target
from edgeprune_exporters.artifact import Artifact
from edgeprune_exporters.images import Images, LabelledImages
from edgeprune_exporters.judging import predict
from edgeprune_exporters.model import Exportable
from edgeprune_exporters.options import ExportOptions
from edgeprune_exporters.parity import Array, Batch
from edgeprune_exporters.preparing import Prepared, prepare


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """One model for one target.

    Attributes:
        model: what is exported.
        target: what it is exported for.
        images: to prove, to calibrate and to judge on.
        options: what the user asks for beyond format and precision.
        metadata: texts to store in the files, such as labels and preprocessing.
        reporter: hears how long work goes on.
    """

    model: Exportable
    target: Target
    images: Images
    options: ExportOptions = field(default_factory=ExportOptions)
    metadata: Mapping[str, str] = field(default_factory=dict)
    reporter: Reporter = field(default_factory=Silent)

    @cached_property
    def prepared(self) -> Prepared:
        """The model as an ONNX graph in float32, proven, and simplified where that was asked for.

        Raises:
            ParityError: the graph does not compute what the model computes.
        """
        graph = self.model.graph(
            opset=self.target.opset, batch=self.options.batch, metadata=self.metadata
        )
        return prepare(self.model, graph, self.batches, simplify=self.options.simplify)

    @property
    def graph(self) -> onnx.ModelProto:
        """The float32 graph that every format is made from. Do not change it: it is shared."""
        return self.prepared.graph

    @cached_property
    def validation_logits(self) -> Array | None:
        """The model's own logits (N, K) on the validation images, if there are some."""
        return self._logits(self.images.validation, "validation images")

    @cached_property
    def test_logits(self) -> Array | None:
        """The model's own logits (N, K) on the test split, if there is one."""
        return self._logits(self.images.test, "test images")

    def _logits(self, split: LabelledImages | None, title: str) -> Array | None:
        if split is None:
            return None
        return predict(
            self.model.logits,
            split,
            title=f"{self.model.reference}: {title}",
            batch=self.fixed_batch,
            reporter=self.reporter,
        )

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size the files take, or None for any."""
        return self.options.batch or self.model.fixed_batch

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The batch sizes that parity is proven at: one, three, and the target's largest."""
        if self.fixed_batch is not None:
            return (self.fixed_batch,)
        return tuple(sorted({1, 3, self.target.max_batch}))

    @cached_property
    def batches(self) -> tuple[Batch, ...]:
        """The images in batches of each size, with the logits of the model itself."""
        pool = np.ascontiguousarray(self.images.parity.detach().cpu().float().numpy())
        batches, start = [], 0
        for size in self.batch_sizes:
            # In turn, so that few images are repeated and many are all different.
            images = pool[np.arange(start, start + size) % len(pool)]
            logits = self.model.logits(images)
            if not np.isfinite(logits).all():
                raise ExportError(
                    f"{self.model.reference} itself gives NaN or infinite logits for the given "
                    "images"
                )
            batches.append(Batch(images=images, logits=logits))
            start += size
        return tuple(batches)

    @cached_property
    def rounding(self) -> float | None:
        """How far the model's logits in float32 are from those in float64, if that is known."""
        return self.model.rounding(self.batches)

    @property
    def note(self) -> str | None:
        """Say what parity cannot cover, or None."""
        if self.fixed_batch is None:
            return None
        return f"the batch is fixed: compared at batch {self.fixed_batch} only"


class Exporter(Protocol):
    """Turn a model into the files that one runtime loads."""

    @property
    def takes(self) -> frozenset[str]:
        """Names of the ``ExportOptions`` that mean something to this format."""
        ...

    def refusal(self, model: Exportable, target: Target, precision: str) -> str | None:
        """Say why this model cannot be exported for the target, or None."""
        ...

    def export(self, job: Job, precision: str, folder: Path) -> Artifact:
        """Write the files into an empty folder, and compare them with the model.

        The artifact names its files relative to ``folder``, which takes its
        final place only if the proof holds.
        """
        ...
