"""Attribution of the decision to units.

Attribution to a unit is attribution to its gate, so methods that attribute to
inputs need no hooks into layers.
"""

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
from edgeprune.attribution.registry import CRITERIA, find_criterion
from edgeprune.attribution.scores import Scores
from edgeprune.attribution.scoring import attribute
from edgeprune.attribution.taylor import Taylor

__all__ = [
    "CRITERIA",
    "Attributor",
    "Batch",
    "Criterion",
    "Integrated",
    "Learned",
    "LearnedCriterion",
    "Lrp",
    "Magnitude",
    "ModelCriterion",
    "SampleCriterion",
    "Scores",
    "Taylor",
    "attribute",
    "find_criterion",
]
