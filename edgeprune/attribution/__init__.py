"""Attribution of the decision to units.

Attribution to a unit is attribution to its gate, so methods that attribute to
inputs need no hooks into layers.
"""

from edgeprune.attribution.activation import Activation
from edgeprune.attribution.aggregation import Aggregate
from edgeprune.attribution.backtrace import Backtrace
from edgeprune.attribution.criterion import (
    Attributor,
    Batch,
    Criterion,
    Learned,
    LearnedCriterion,
    ModelCriterion,
    SampleCriterion,
)
from edgeprune.attribution.integrated_gradients import Integrated
from edgeprune.attribution.lrp import Lrp
from edgeprune.attribution.magnitude import Magnitude
from edgeprune.attribution.registry import CRITERIA, Description, describe, find_criterion, name_of
from edgeprune.attribution.scores import LayerScore, Scores, UnitScore
from edgeprune.attribution.scoring import attribute
from edgeprune.attribution.sensitivity import Sensitivity
from edgeprune.attribution.shapley import Shapley
from edgeprune.attribution.storage import load_scores, save_scores
from edgeprune.attribution.taylor import Taylor
from edgeprune.attribution.xpruner import XPruner

__all__ = [
    "CRITERIA",
    "Activation",
    "Aggregate",
    "Attributor",
    "Backtrace",
    "Batch",
    "Criterion",
    "Description",
    "Integrated",
    "LayerScore",
    "Learned",
    "LearnedCriterion",
    "Lrp",
    "Magnitude",
    "ModelCriterion",
    "SampleCriterion",
    "Scores",
    "Sensitivity",
    "Shapley",
    "Taylor",
    "UnitScore",
    "XPruner",
    "attribute",
    "describe",
    "find_criterion",
    "load_scores",
    "name_of",
    "save_scores",
]
