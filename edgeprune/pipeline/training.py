"""The stages that train: the dense model on the spot, and the slim one after the cut."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import torch

from edgeprune.capture import Captured, capture, load
from edgeprune.data import PreparedSplit
from edgeprune.errors import DataError
from edgeprune.files import write_json
from edgeprune.pipeline.artifacts import refuse_formats
from edgeprune.pipeline.context import Context, batch_of
from edgeprune.pipeline.cutting import rehearse
from edgeprune.pipeline.settings import FROM_SCRATCH, NEW_HEAD, RECOVERY
from edgeprune.recovery import TrainResult, TrainSettings, TrainStep, recover, train_dense
from edgeprune.source import BuiltModel

Trained = Literal["nothing", "backbone", "all"]

SAMPLE_BATCH: Final = 2
LEARNING_RATE: Final[Mapping[Trained, float]] = {"nothing": 2e-3, "backbone": 2e-4, "all": 2e-4}
RECOVERY_RATE: Final[Mapping[Trained, float]] = {"nothing": 1e-3, "backbone": 2e-4, "all": 2e-4}


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a training stage did, as the bundle keeps it.

    Attributes:
        settings: how it was trained, or None when nothing was.
        history: one entry per epoch, epoch 0 before training.
        best_epoch: whose weights were kept.
        notes: what a user should know.
    """

    settings: dict[str, Any] | None
    history: tuple[dict[str, Any], ...] = ()
    best_epoch: int = 0
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def dense_stage(context: Context, built: BuiltModel) -> tuple[Captured, Training]:
    """Capture the model, and train it on the spot unless its weights are complete.

    Raises:
        EdgepruneError: also for what would only show after the training: no plan
            meets the budget, or a format refuses the model.
    """

    def make(folder: Path) -> None:
        dense = _captured(context, built)
        for note in dense.notes:
            context.reporter.say(note)
        rehearse(context, dense)
        refuse_formats(context, dense)
        dense, training = _train(context, built, dense)
        dense.save(folder)
        write_json(folder / "training.json", training.to_dict())

    return context.stage("dense", "Capture the dense model", make, _read)


def recover_stage(
    context: Context, dense: Captured, cut: Captured, trained: Trained
) -> tuple[Captured, Training]:
    """Give the cut model its accuracy back: BatchNorm, then fine-tuning with distillation.

    trained: which part of the dense model came with weights; that is not to be unlearned.
    """
    asked = context.settings.epochs
    epochs = RECOVERY.epochs(len(context.train)) if asked is None else asked

    def make(folder: Path) -> None:
        settings = _settings(context, cut, epochs, RECOVERY_RATE[trained])
        if context.settings.lr is not None:
            settings = replace(settings, lr=context.settings.lr)
        train, val = _splits(context, cut)
        with _bar(context, "recovery", settings) as progress:
            slim, result = recover(
                cut,
                dense,
                train,
                val,
                settings,
                multi_label=context.data.multi_label,
                checkpoint=context.work.checkpoint("slim"),
                progress=progress,
            )
        slim.save(folder)
        write_json(folder / "training.json", _finished(context, settings, result, ()).to_dict())

    title = f"Recover: fine-tune with distillation, {epochs} epoch{'s' * (epochs != 1)}"
    return context.stage("slim", title, make, _read)


def _captured(context: Context, built: BuiltModel) -> Captured:
    """Capture the model, at the batch of the training if it takes only one."""
    size = context.preprocessing.size
    generator = torch.Generator().manual_seed(context.settings.seed)
    asked = context.settings.batch_size or SAMPLE_BATCH
    shape = (asked, context.preprocessing.channels, *size)
    sample = torch.randn(shape, generator=generator)
    source = built.source.to_dict()
    output = built.source.output
    dense = capture(built.model, sample[:SAMPLE_BATCH], source=source, output=output)
    if dense.dynamic_batch or asked == SAMPLE_BATCH:
        return dense
    return capture(built.model, sample, source=source, output=output)


def _train(context: Context, built: BuiltModel, dense: Captured) -> tuple[Captured, Training]:
    asked = context.settings.dense_epochs
    if built.trained == "all" and not asked:
        return dense, Training(settings=None)
    amount = FROM_SCRATCH if built.trained == "nothing" else NEW_HEAD
    epochs = amount.epochs(len(context.train)) if asked is None else asked
    what = {
        "nothing": "no --weights were given",
        "backbone": "its head is new",
        "all": "--dense-epochs asks for it",
    }
    note = (
        f"the dense model is trained here, on the spot: {what[built.trained]}; "
        f"{epochs} epoch{'s' * (epochs != 1)}"
    )
    context.reporter.say(note)
    settings = _settings(context, dense, epochs, LEARNING_RATE[built.trained])
    train, val = _splits(context, dense)
    with _bar(context, "training", settings) as progress:
        trained, result = train_dense(
            dense,
            train,
            val,
            settings,
            multi_label=context.data.multi_label,
            checkpoint=context.work.checkpoint("dense"),
            progress=progress,
        )
    return trained, _finished(context, settings, result, (note,))


def _settings(context: Context, model: Captured, epochs: int, lr: float) -> TrainSettings:
    settings = TrainSettings(epochs=epochs, lr=lr, seed=context.settings.seed)
    asked = context.settings.batch_size or settings.batch_size
    return replace(settings, batch_size=batch_of(model, asked))


def _splits(context: Context, model: Captured) -> tuple[PreparedSplit, PreparedSplit]:
    """Return training and validation images, as many as fill whole batches of a fixed size."""
    if model.dynamic_batch:
        return context.train, context.val
    batch = len(model.sample)
    whole = []
    for prepared in (context.train, context.val):
        count = len(prepared) // batch * batch
        if not count:
            raise DataError(
                f"the {prepared.split.name} split has {len(prepared)} images, fewer than the "
                f"model's fixed batch of {batch}: add images or use a smaller --batch-size"
            )
        whole.append(PreparedSplit(prepared.split.subset(range(count)), prepared.how))
    return whole[0], whole[1]


@contextmanager
def _bar(
    context: Context, title: str, settings: TrainSettings
) -> Iterator[Callable[[TrainStep], None]]:
    steps = -(-len(context.train) // settings.batch_size)
    metric = "AUROC" if context.data.multi_label else "accuracy"
    best = ""
    with context.reporter.track(title, steps * settings.epochs) as advance:

        def progress(step: TrainStep) -> None:
            nonlocal best
            if step.record is not None:
                best = f", validation {metric} {step.record.val_metric:.4f}"
            done = (step.epoch - 1) * steps + step.step
            advance(done, f"epoch {step.epoch}/{step.epochs}, loss {step.loss:.3f}{best}")

        yield progress


def _finished(
    context: Context, settings: TrainSettings, result: TrainResult, notes: tuple[str, ...]
) -> Training:
    history = tuple(record.to_dict() for record in result.history)
    best = result.best
    metric = "macro AUROC" if context.data.multi_label else "accuracy"
    context.reporter.say(f"best on validation: epoch {best.epoch}, {metric} {best.val_metric:.4f}")
    return Training(
        settings=settings.to_dict(), history=history, best_epoch=result.best_epoch, notes=notes
    )


def _read(folder: Path) -> tuple[Captured, Training]:
    document = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    lists = {key: tuple(document[key]) for key in ("history", "notes")}
    return load(folder), Training(**document | lists)
