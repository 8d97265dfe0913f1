"""What training is asked to do, and what it tells while and after it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from edgeprune.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How a model is trained.

    Attributes:
        epochs: passes over the training images; 0 only evaluates.
        lr: peak learning rate of AdamW.
        batch_size: images per step, at least 2.
        weight_decay: of matrices and kernels; never of biases and norms.
        distill_weight: share of the loss that the teacher's answers make up.
        temperature: by which logits are divided before teacher and student are
            compared.
        label_smoothing: share of the target spread over all classes.
        warmup: share of all steps in which the learning rate rises.
        clip_norm: largest norm of the gradient of all parameters together.
        augment: whether training images are moved, turned and mirrored.
        patience: epochs without a better validation before stopping; None never.
        seed: of the order of images, their augmentation, and dropout.
        threads: of torch; None leaves them. Other numbers of threads add in
            another order, so they change the last digits.
    """

    epochs: int = 10
    lr: float = 1e-3
    batch_size: int = 32
    weight_decay: float = 0.05
    distill_weight: float = 0.5
    temperature: float = 2.0
    label_smoothing: float = 0.0
    warmup: float = 0.1
    clip_norm: float = 1.0
    augment: bool = True
    patience: int | None = None
    seed: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot train any model."""
        checks = (
            (self.epochs >= 0, f"epochs is {self.epochs}: give 0 or more"),
            (0 < self.lr < 1, f"lr is {self.lr:g}: give a learning rate above 0, below 1"),
            (self.batch_size >= 2, f"batch_size is {self.batch_size}: BatchNorm needs 2 or more"),
            (self.weight_decay >= 0, f"weight_decay is {self.weight_decay:g}: give 0 or more"),
            (0 <= self.distill_weight <= 1, f"distill_weight is {self.distill_weight:g}: 0 to 1"),
            (self.temperature > 0, f"temperature is {self.temperature:g}: give more than 0"),
            (
                0 <= self.label_smoothing < 1,
                f"label_smoothing is {self.label_smoothing:g}: give a share from 0, below 1",
            ),
            (0 <= self.warmup < 1, f"warmup is {self.warmup:g}: give a share from 0, below 1"),
            (self.clip_norm > 0, f"clip_norm is {self.clip_norm:g}: give more than 0"),
            (
                self.patience is None or self.patience >= 1,
                f"patience is {self.patience}: give 1 or more, or None",
            ),
            (
                self.threads is None or self.threads >= 1,
                f"threads is {self.threads}: give 1 or more, or None",
            ),
        )
        for good, problem in checks:
            if not good:
                raise UsageError(f"training: {problem}")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """What one epoch came to; epoch 0 is the model before training.

    Attributes:
        epoch: number of passes over the training images so far.
        train_loss: mean over the epoch's images, distillation included; None in
            epoch 0.
        val_loss: mean cross-entropy (binary, for findings) on validation images.
        val_metric: accuracy, or macro AUROC for findings, on validation images.
        lr: learning rate after the epoch's last step.
    """

    epoch: int
    train_loss: float | None
    val_loss: float
    val_metric: float
    lr: float

    def better_than(self, other: "EpochRecord") -> bool:
        """Compare by metric, then by loss."""
        return (self.val_metric, -self.val_loss) > (other.val_metric, -other.val_loss)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class TrainStep:
    """One step of training, for whoever draws the progress.

    Attributes:
        epoch, epochs: which epoch of how many, from 1.
        step, steps: which step of how many in this epoch, from 1.
        loss: of this step.
        lr: of this step.
        record: with an epoch's last step, what it came to.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    lr: float
    record: EpochRecord | None = None


Progress = Callable[[TrainStep], None]


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What training came to: the model holds the best epoch's weights.

    Attributes:
        best_epoch: by validation; 0 if training made nothing better.
        history: every epoch, from 0.
        recalibrated: BatchNorms whose statistics were estimated anew before.
    """

    best_epoch: int
    history: tuple[EpochRecord, ...]
    recalibrated: int = 0

    @property
    def best(self) -> EpochRecord:
        """The epoch that the model holds."""
        return self.history[self.best_epoch]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "best_epoch": self.best_epoch,
            "history": [record.to_dict() for record in self.history],
            "recalibrated": self.recalibrated,
        }
