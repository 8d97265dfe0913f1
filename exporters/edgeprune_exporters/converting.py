"""The proven float32 graph of a job, at the precision that is wanted."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx

from edgeprune_exporters.artifact import Kept
from edgeprune_exporters.half import to_half
from edgeprune_exporters.job import Job
from edgeprune_exporters.parity import Array
from edgeprune_exporters.quantization import Scheme, quantize_graph
from edgeprune_exporters.stamping import stamp
from edgeprune_exporters.tolerances import limit_for

HALF_IMAGES: Final = 16  # for the ranges of values; more find little that these do not
HALF_BATCH: Final = 4
SHARE: Final = 0.7  # of what the proof allows, which is on other images
HALF_SCALES_OPSET: Final = 19  # the first whose Q and DQ take float16


@dataclass(frozen=True, kw_only=True, eq=False)
class Converted:
    """A graph at a precision.

    Attributes:
        graph: with no text in it but names and the job's metadata.
        kept: operators that stayed at a higher precision, and why.
        notes: what a user should know, one sentence each.
    """

    graph: onnx.ModelProto
    kept: tuple[Kept, ...] = ()
    notes: tuple[str, ...] = ()


def converted(job: Job, precision: str, scheme: Scheme) -> Converted:
    """Return the graph at a precision, one of ``PRECISIONS``.

    With the scheme ``tensorrt`` what is not quantised becomes float16, which no
    builder flag does for strongly typed networks, as far as the opset allows it.
    """
    base = Converted(graph=job.graph, notes=job.prepared.notes)
    if precision == "fp32":
        return base
    if precision == "fp16":
        return _halved(job, base, quantised=False)
    quantized = quantize_graph(job, scheme)
    quantized.graph.graph.ClearField("value_info")  # of the graph before; all can be inferred
    stamp(quantized.graph, job.metadata)
    found = Converted(
        graph=quantized.graph, kept=quantized.kept, notes=(*base.notes, *quantized.notes)
    )
    if scheme == "tensorrt" and job.target.opset >= HALF_SCALES_OPSET:
        return _halved(job, found, quantised=True)
    return found


def _halved(job: Job, base: Converted, *, quantised: bool) -> Converted:
    allowed = None if quantised else SHARE * limit_for(job.model, job.batches, "fp16").tolerance
    half = to_half(base.graph, _samples(job), reporter=job.reporter, most=allowed)
    stamp(half.graph, job.metadata)
    return Converted(graph=half.graph, kept=(*base.kept, *half.kept), notes=base.notes)


def _samples(job: Job) -> tuple[Array, ...]:
    """Return the first calibration images, or those of parity, in batches (B, C, H, W)."""
    images = job.images.parity if job.images.calibration is None else job.images.calibration
    pool = np.ascontiguousarray(images[:HALF_IMAGES].detach().cpu().float().numpy())
    size = job.fixed_batch or HALF_BATCH
    places = np.arange(-(-len(pool) // size) * size) % len(pool)  # a fixed batch is filled up
    return tuple(pool[each] for each in places.reshape(-1, size))
