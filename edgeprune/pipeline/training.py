"""The stages that train: the dense model on the spot, and the slim one after the cut."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from edgeprune.capture import Captured, capture, load
from edgeprune.files import write_json
from edgeprune.pipeline.context import Context
from edgeprune.recovery import TrainResult, TrainSettings, TrainStep, recover, train_dense
from edgeprune.source import BuiltModel

# Images to see in all, and the fewest and most epochs that this may come to.
FROM_SCRATCH: Final = (24_000, 4, 30)
NEW_HEAD: Final = (8_000, 2, 12)
RECOVERY: Final = (12_000, 3, 12)
LEARNING_RATE: Final = {"nothing": 2e-3, "backbone": 2e-4, "all": 2e-4}
RECOVERY_RATE: Final = {"nothing": 1e-3, "backbone": 2e-4, "all": 2e-4}


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
    """Capture the model, and train it on the spot unless its weights are complete."""
    context.reporter.stage("Capture the dense model")

    def make(folder: Path) -> None:
        size = context.preprocessing.size
        generator = torch.Generator().manual_seed(context.settings.seed)
        sample = torch.randn(2, context.preprocessing.channels, *size, generator=generator)
        dense = capture(built.model, sample, source=built.source.to_dict())
        for note in dense.notes:
            context.reporter.say(note)
        dense, training = _train(context, built, dense)
        dense.save(folder)
        write_json(folder / "training.json", training.to_dict())

    return context.work.stage("dense", make, _read)


def _train(
    context: Context, built: BuiltModel, dense: Captured
) -> tuple[Captured, Training]:
    asked = context.settings.dense_epochs
    if built.trained == "all" and not asked:
        return dense, Training(settings=None)
    plan = FROM_SCRATCH if built.trained == "nothing" else NEW_HEAD
    epochs = _epochs(context, plan) if asked is None else asked
    what = {
        "nothing": "no --weights were given",
        "backbone": "its head is new",
        "all": "--dense-epochs asks for it",
    }
    note = f"the dense model is trained here, on the spot: {what[built.trained]}; {epochs} epochs"
    context.reporter.say(note)
    settings = _settings(context, epochs, LEARNING_RATE[built.trained])
    with _bar(context, "training", settings) as progress:
        trained, result = train_dense(
            dense,
            context.train,
            context.val,
            settings,
            multi_label=context.data.multi_label,
            checkpoint=context.work.checkpoint("dense"),
            progress=progress,
        )
    return trained, _finished(context, settings, result, (note,))


def recover_stage(
    context: Context, dense: Captured, cut: Captured, trained: str = "nothing"
) -> tuple[Captured, Training]:
    """Give the cut model its accuracy back: BatchNorm, then fine-tuning with distillation."""
    asked = context.settings.epochs
    epochs = _epochs(context, RECOVERY) if asked is None else asked
    context.reporter.stage(f"Recover: fine-tune with distillation, {epochs} epochs")

    def make(folder: Path) -> None:
        settings = _settings(context, epochs, RECOVERY_RATE[trained])
        if context.settings.lr is not None:
            settings = replace(settings, lr=context.settings.lr)
        with _bar(context, "recovery", settings) as progress:
            slim, result = recover(
                cut,
                dense,
                context.train,
                context.val,
                settings,
                multi_label=context.data.multi_label,
                checkpoint=context.work.checkpoint("slim"),
                progress=progress,
            )
        slim.save(folder)
        write_json(folder / "training.json", _finished(context, settings, result, ()).to_dict())

    return context.work.stage("slim", make, _read)


def _epochs(context: Context, plan: tuple[int, int, int]) -> int:
    images, least, most = plan
    return min(max(round(images / len(context.train)), least), most)


def _settings(context: Context, epochs: int, lr: float) -> TrainSettings:
    asked = context.settings
    settings = TrainSettings(epochs=epochs, lr=lr, seed=asked.seed)
    return settings if asked.batch_size is None else replace(settings, batch_size=asked.batch_size)


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
    best = next(record for record in result.history if record.epoch == result.best_epoch)
    metric = "macro AUROC" if context.data.multi_label else "accuracy"
    context.reporter.say(
        f"best on validation: epoch {best.epoch}, {metric} {best.val_metric:.4f}"
    )
    return Training(
        settings=settings.to_dict(), history=history, best_epoch=result.best_epoch, notes=notes
    )


def _read(folder: Path) -> tuple[Captured, Training]:
    document = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    lists = {key: tuple(document[key]) for key in ("history", "notes")}
    return load(folder), Training(**document | lists)
