"""What gives accuracy back after a cut, and trains a dense model on the spot."""

from edgeprune.recovery.batchnorm import recalibrate_batchnorm
from edgeprune.recovery.evaluation import Evaluation, evaluate, predict
from edgeprune.recovery.settings import (
    EpochRecord,
    Progress,
    TrainResult,
    TrainSettings,
    TrainStep,
)
from edgeprune.recovery.stages import recover, train_dense
from edgeprune.recovery.training import fit

__all__ = [
    "TrainSettings",
    "TrainStep",
    "Progress",
    "EpochRecord",
    "TrainResult",
    "fit",
    "train_dense",
    "recover",
    "recalibrate_batchnorm",
    "Evaluation",
    "evaluate",
    "predict",
]
