"""From a trained classifier to a smaller one, with proof of what changed."""

from edgeprune.attribution.scores import Scores
from edgeprune.axes import Analysis, ChannelGroup, analyse
from edgeprune.capture import Captured, capture, load
from edgeprune.cut import cut
from edgeprune.errors import EdgepruneError
from edgeprune.plan import Budget, Plan, make_plan
from edgeprune.verify import CutProof, verify_cut


def channel_groups(dense: Captured) -> tuple[ChannelGroup, ...]:
    """Return the channel groups of a captured model, in the order of its graph."""
    return analyse(dense).groups


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
    "capture",
    "channel_groups",
    "cut",
    "load",
    "make_plan",
    "verify_cut",
]
