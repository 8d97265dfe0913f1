"""From a trained classifier to a smaller one, with proof of what changed."""

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
    from edgeprune_exporters import Artifact


def channel_groups(dense: Captured) -> tuple[ChannelGroup, ...]:
    """Return the channel groups of a captured model, in the order of its graph."""
    return analyse(dense).groups


def export(
    model: Captured,
    target: str = "cpu",
    folder: str | Path = "artifacts",
    images: Tensor | None = None,
) -> "tuple[Artifact, ...]":
    """Write every format that the target lists, each with the proof that it equals torch.

    Args:
        model: a captured model, dense or cut.
        target: a built-in name or a TOML file.
        folder: receives one folder per format.
        images: real images, prepared, (N, C, H, W), to prove parity on; without
            them the sample that the model was captured with.

    Raises:
        ExportError: a format cannot be written; ParityError: it does not equal torch.
    """
    from edgeprune.targets import load_target
    from edgeprune_exporters import export as write

    chosen = load_target(target)
    return write(model, chosen, folder, model.sample if images is None else images)


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
