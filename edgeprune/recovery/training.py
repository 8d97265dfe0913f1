"""Training: AdamW under a warmed-up cosine, the best epoch kept.

Every random choice follows from the seed and the epoch, and the learning rate
from the number of steps done. Invariant: a run that was stopped anywhere and
called again ends with the same weights as one that was not.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn

from edgeprune.data import PreparedSplit, batches
from edgeprune.errors import DataError, EdgepruneError
from edgeprune.recovery.checkpoint import TrainState, own_tensors, run_id
from edgeprune.recovery.evaluation import evaluate
from edgeprune.recovery.losses import training_loss
from edgeprune.recovery.settings import (
    EpochRecord,
    Progress,
    TrainResult,
    TrainSettings,
    TrainStep,
)

LAST_RATE: Final = 0.01  # share of the peak that the learning rate ends on


@dataclass(frozen=True, kw_only=True, eq=False)
class _Job:
    """What ``fit`` was asked to do, for its parts."""

    model: nn.Module
    teacher: nn.Module | None
    optimizer: torch.optim.Optimizer
    train: PreparedSplit
    val: PreparedSplit
    settings: TrainSettings
    multi_label: bool
    progress: Progress | None

    @property
    def steps(self) -> int:
        """Steps of an epoch: a last batch of one image is left out by ``batches``."""
        full, rest = divmod(len(self.train), self.settings.batch_size)
        return full + (rest > 1)


def fit(
    model: nn.Module,
    train: PreparedSplit,
    val: PreparedSplit,
    settings: TrainSettings,
    *,
    multi_label: bool,
    teacher: nn.Module | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train the model in place; it ends in evaluation mode, with its best epoch's weights.

    The best is decided by validation metric, then loss; the model as it was given
    is epoch 0 and may win.

    Args:
        model: images (N, C, H, W) → logits (N, K); a captured one or any other.
        train: images to learn from.
        val: images to choose the best epoch by.
        settings: how to train.
        multi_label: whether labels are findings (N, K) rather than classes (N,).
        teacher: a model whose answers are learnt as well, or None.
        checkpoint: file for the standing after each epoch. If it is there, training
            continues from it; the model has to hold the weights it began with.
        progress: called after each step, and once more, with its record, when an
            epoch is complete and stored.

    Raises:
        DataError: too few images, or AUROC is not defined on those of val.
        UsageError: the checkpoint is of another run.
        EdgepruneError: the loss is no longer a number.
    """
    if len(train) < 2:
        raise DataError(f"{len(train)} images cannot train a model: give 2 or more")
    job = _Job(
        model=model,
        teacher=teacher.eval() if teacher else None,
        optimizer=_optimizer(model, settings),
        train=train,
        val=val,
        settings=settings,
        multi_label=multi_label,
        progress=progress,
    )
    standing = TrainState(tensors=own_tensors(model), optimizer=job.optimizer)
    run = run_id(model, teacher, (train, val), settings) if checkpoint else ""
    with _own_random_state(model), _threads(settings.threads):
        if checkpoint and checkpoint.exists():
            standing.restore(checkpoint, run)
        while not _ended(standing, settings):
            record = _epoch(job, len(standing.history))
            standing.add(record)
            if checkpoint:
                standing.save(checkpoint, run)
            if progress and record.train_loss is not None:
                progress(_told(job, record.epoch, job.steps, record.train_loss, record))
        standing.take_best()
    model.eval()
    return TrainResult(best_epoch=standing.best_epoch, history=tuple(standing.history))


def learning_rate(settings: TrainSettings, done: float) -> float:
    """Return the rate when a share of all steps is done: up a line, then down a cosine.

    A formula instead of a scheduler: it has no state that a resumed run could miss.
    """
    if done < settings.warmup:
        return settings.lr * done / settings.warmup
    along = (done - settings.warmup) / (1 - settings.warmup)
    share = LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * along)) / 2
    return settings.lr * share


def _ended(standing: TrainState, settings: TrainSettings) -> bool:
    last = len(standing.history) - 1
    tired = settings.patience is not None and last - standing.best_epoch >= settings.patience
    return last >= settings.epochs or tired


def _epoch(job: _Job, epoch: int) -> EpochRecord:
    loss = _train(job, epoch) if epoch else None
    seen = evaluate(
        job.model, job.val, multi_label=job.multi_label, batch_size=job.settings.batch_size
    )
    if not math.isfinite(seen.loss):
        raise EdgepruneError(_diverged(job.settings, epoch, "validation", seen.loss))
    return EpochRecord(
        epoch=epoch,
        train_loss=loss,
        val_loss=seen.loss,
        val_metric=seen.metric,
        lr=_rate(job, epoch, job.steps) if epoch else 0.0,
    )


def _train(job: _Job, epoch: int) -> float:
    """Run one epoch; return its mean loss per image."""
    settings, device = job.settings, next(job.model.parameters()).device
    torch.manual_seed(_seed(settings.seed, epoch))
    job.model.train()
    total, count = 0.0, 0
    loader = batches(
        job.train,
        job.train.how,
        batch_size=settings.batch_size,
        shuffle=True,
        seed=settings.seed,
        epoch=epoch,
        augment=settings.augment,
    )
    for step, (images, labels) in enumerate(loader, start=1):
        images, labels = images.to(device), labels.to(device)  # noqa: PLW2901 - the same, moved
        answers = None
        if job.teacher is not None and settings.distill_weight:
            with torch.no_grad():
                answers = job.teacher(images)
        logits = job.model(images)
        loss = training_loss(logits, labels, answers, settings, multi_label=job.multi_label)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise EdgepruneError(_diverged(settings, epoch, "training", value))
        _update(job, loss, _rate(job, epoch, step))
        total, count = total + value * len(images), count + len(images)
        if job.progress:
            job.progress(_told(job, epoch, step, value))
    return total / count


def _update(job: _Job, loss: torch.Tensor, rate: float) -> None:
    for group in job.optimizer.param_groups:
        group["lr"] = rate
    job.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without types
    torch.nn.utils.clip_grad_norm_(job.model.parameters(), job.settings.clip_norm)
    job.optimizer.step()


def _rate(job: _Job, epoch: int, step: int) -> float:
    done = ((epoch - 1) * job.steps + step) / (job.settings.epochs * job.steps)
    return learning_rate(job.settings, done)


def _told(
    job: _Job, epoch: int, step: int, loss: float, record: EpochRecord | None = None
) -> TrainStep:
    return TrainStep(
        epoch=epoch,
        epochs=job.settings.epochs,
        step=step,
        steps=job.steps,
        loss=loss,
        lr=_rate(job, epoch, step),
        record=record,
    )


def _diverged(settings: TrainSettings, epoch: int, which: str, loss: float) -> str:
    if epoch == 0:
        return f"the {which} loss is {loss} before any training: the model's weights are unusable"
    return (
        f"training diverged in epoch {epoch}: the {which} loss is {loss}; "
        f"use a learning rate lower than {settings.lr:g}"
    )


def _optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """AdamW that lets biases, norms and other vectors be, since decay only biases them."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr)


def _seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])


@contextlib.contextmanager
def _own_random_state(model: nn.Module) -> Iterator[None]:
    """Leave the random numbers of whoever called as they were."""
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
