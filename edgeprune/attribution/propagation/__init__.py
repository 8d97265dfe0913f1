"""Relevance backwards over the graph: what LRP and DL-Backtrace have in common.

A run of the graph whose values are those of the gated model, and whose
gradients are those of rules, so that gradient × value is relevance at every
place. A method is a table that gives operators their rules.
"""

from edgeprune.attribution.propagation.gating import Attention
from edgeprune.attribution.propagation.gradients import rescaled
from edgeprune.attribution.propagation.interpreter import RuleInterpreter
from edgeprune.attribution.propagation.paths import Paths, find_paths
from edgeprune.attribution.propagation.step import Entry, Rule, Step, Table, assign, entry_for

__all__ = [
    "Attention",
    "Entry",
    "Paths",
    "Rule",
    "RuleInterpreter",
    "Step",
    "Table",
    "assign",
    "entry_for",
    "find_paths",
    "rescaled",
]
