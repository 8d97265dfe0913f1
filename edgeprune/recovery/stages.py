"""The two trainings of a compression: the dense model's, and the recovery after a cut."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Final

from edgeprune.capture import Captured
from edgeprune.data import PreparedSplit, batches
from edgeprune.recovery.batchnorm import recalibrate_batchnorm
from edgeprune.recovery.settings import Progress, TrainResult, TrainSettings
from edgeprune.recovery.training import fit

RECALIBRATION_IMAGES: Final = 1024


def train_dense(
    dense: Captured,
    train: PreparedSplit,
    val: PreparedSplit,
    settings: TrainSettings,
    *,
    multi_label: bool,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Captured, TrainResult]:
    """Train a fresh model, or one with a fresh head; the given one is not changed.

    Arguments and errors are those of ``fit``.
    """
    trained = dense.clone()
    result = fit(
        trained.module,
        train,
        val,
        settings,
        multi_label=multi_label,
        checkpoint=checkpoint,
        progress=progress,
    )
    return trained, result


def recover(
    slim: Captured,
    dense: Captured,
    train: PreparedSplit,
    val: PreparedSplit,
    settings: TrainSettings,
    *,
    multi_label: bool,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Captured, TrainResult]:
    """Give a cut model its accuracy back, taught by the dense one; neither is changed.

    BatchNorm statistics are estimated anew, then everything is trained. Epoch 0 of
    the result is the cut model with its new statistics.
    Arguments and errors are those of ``fit``.
    """
    recovered = slim.clone()
    images = batches(
        train, train.how, batch_size=settings.batch_size, shuffle=True, seed=settings.seed
    )
    count = -(-RECALIBRATION_IMAGES // settings.batch_size)
    recalibrated = recalibrate_batchnorm(recovered.module, itertools.islice(images, count))
    result = fit(
        recovered.module,
        train,
        val,
        settings,
        multi_label=multi_label,
        teacher=dense.module,
        checkpoint=checkpoint,
        progress=progress,
    )
    return recovered, replace(result, recalibrated=recalibrated)
