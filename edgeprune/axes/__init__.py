"""Which channels of a captured graph hang together."""

from edgeprune.axes.analysis import Analysis, analyse
from edgeprune.axes.frozen import FrozenAxis
from edgeprune.axes.groups import ChannelGroup, Occurrence

__all__ = ["Analysis", "ChannelGroup", "FrozenAxis", "Occurrence", "analyse"]
