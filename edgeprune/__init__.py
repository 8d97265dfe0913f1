"""From a trained classifier to a smaller one, with proof of what changed."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from edgeprune.attribution import Scores, attribute
from edgeprune.axes import Analysis, ChannelGroup, analyse
from edgeprune.capture import Captured, capture, load
from edgeprune.cut import cut
from edgeprune.errors import EdgepruneError
from edgeprune.plan import Budget, Plan, make_plan
from edgeprune.verify import CutProof, verify_cut
from edgeprune.write_back import to_module

if TYPE_CHECKING:
    from edgeprune_exporters import Artifact, ExportOptions, Images


def channel_groups(dense: Captured) -> tuple[ChannelGroup, ...]:
    """Return the channel groups of a captured model, in the order of its graph."""
    return analyse(dense).groups


def export(
    model: Captured,
    target: str = "cpu",
    folder: str | Path = "artifacts",
    images: "Tensor | Images | None" = None,
    *,
    formats: Sequence[str] | None = None,
    precision: str | None = None,
    options: "ExportOptions | None" = None,
) -> "tuple[Artifact, ...]":
    """Write artifacts for a target, each with the proof that it equals the model.

    Args:
        model: a captured model, dense or cut.
        target: a built-in name or a TOML file.
        folder: receives one folder per artifact.
        images: real images, prepared, (N, C, H, W), to prove parity on; or
            ``edgeprune_exporters.Images`` with those to calibrate int8 and to judge
            accuracy on; without any, the sample that the model was captured with.
        formats: as ``onnx`` or ``openvino:int8``; None for those the target lists.
        precision: of the formats that name none; None for the target's.
        options: what else is asked for, as the largest drop of accuracy.

    Raises:
        UsageError: a format, a precision or an option that there is not.
        ExportError: a format cannot be written; ParityError: it does not equal the model.
    """
    from edgeprune.pipeline.export_settings import target_at
    from edgeprune_exporters import export as write

    chosen = target_at(target, precision)
    given = model.sample if images is None else images
    return write(model, chosen, folder, given, formats=formats, options=options)


__all__ = [
    "Analysis",
    "Budget",
    "Captured",
    "ChannelGroup",
    "CutProof",
    "EdgepruneError",
    "Plan",
    "Scores",
    "analyse",
    "attribute",
    "capture",
    "channel_groups",
    "cut",
    "export",
    "load",
    "make_plan",
    "to_module",
    "verify_cut",
]
