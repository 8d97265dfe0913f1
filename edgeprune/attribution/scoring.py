"""From batches of images to one score per unit.

Signed attributions cancel between images, and collapsed to chance when tried;
so each image counts with the absolute value of its attribution, summed over
images, and compared between groups as it is. Invariant: an image's scores do
not depend on the batch it came in.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from edgeprune.attribution.criterion import Attributor, Batch, Criterion, ModelCriterion
from edgeprune.attribution.registry import CRITERIA, find_criterion
from edgeprune.attribution.scores import Scores
from edgeprune.capture import Captured
from edgeprune.data.checks import label_problem
from edgeprune.errors import DataError, EdgepruneError, UsageError
from edgeprune.gates import GatedModel


def attribute(
    dense: Captured,
    batches: Iterable[tuple[Tensor, Tensor]],
    criterion: str | Criterion = "taylor",
    *,
    classes: Sequence[str] = (),
    multi_label: bool = False,
    seed: int = 0,
    sampler: str | None = None,
    sample_ids: Sequence[str] = (),
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """Score how much each unit of a model carries.

    The unit of measurement and the cost are the criterion's. One batch is in
    memory at a time.

    Args:
        dense: the model.
        batches: images float (N, C, H, W) with labels int64 (N,), or float
            (N, K) of 0 and 1; not looked at by criteria that need no images.
        criterion: a name in ``CRITERIA`` or from an entry point, or a criterion
            with settings of its own.
        classes: names of the classes, in the order of the logits.
        multi_label: whether labels are findings, of which an image may have any
            number. It then counts for the class of each.
        seed: of random criteria.
        sampler: how the images were chosen; noted in the scores.
        sample_ids: ids of the images in the order of the batches; noted as well.
        progress: called after each batch with the number of images scored.

    Raises:
        UsageError: no such criterion, or names that do not fit classes or images.
        DataError: no images, or labels outside the classes.
        EdgepruneError: attributions that are not finite (the group is named),
            or nothing to score.
    """
    chosen = find_criterion(criterion) if isinstance(criterion, str) else criterion
    name = _name(criterion)
    model = GatedModel(dense)
    if model.total == 0:
        raise EdgepruneError("the model has no channel group: there is nothing to score")
    if isinstance(chosen, ModelCriterion):
        values = chosen.per_unit(model, seed).double().cpu()
        _check_finite(model, values, name)
        return Scores(criterion=name, values=model.by_group(values))
    scoring = _Scoring(
        model=model,
        attribute=chosen.per_sample(model, seed),
        name=name,
        classes=tuple(classes),
        multi_label=multi_label,
    )
    for images, labels in batches:
        scoring.add(images, labels)
        if progress is not None:
            progress(scoring.images)
    if scoring.images == 0:
        raise DataError(f"criterion '{name}' looks at images, but there are none in the batches")
    if sample_ids and len(sample_ids) != scoring.images:
        raise UsageError(f"{len(sample_ids)} sample_ids for {scoring.images} images: give one each")
    return Scores(
        criterion=name,
        values=model.by_group(scoring.total),
        per_class=model.by_group(scoring.per_class),
        classes=tuple(classes),
        sampler=sampler,
        samples=tuple(sample_ids),
    )


def _name(criterion: str | Criterion) -> str:
    """Return the name of a criterion: of one with settings, that of its kind, and the settings."""
    if isinstance(criterion, str):
        return criterion
    kinds = {type(known): name for name, known in CRITERIA.items()}
    kind = kinds.get(type(criterion))
    if kind is None:
        return type(criterion).__name__.lower()
    if criterion == CRITERIA[kind]:
        return kind
    settings = ", ".join(f"{key}={value}" for key, value in vars(criterion).items())
    return f"{kind}({settings})"


@dataclass(kw_only=True)
class _Scoring:
    """Sums so far: over all images, and over those of each class."""

    model: GatedModel
    attribute: Attributor
    name: str
    classes: tuple[str, ...]
    multi_label: bool
    images: int = 0
    total: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    per_class: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))

    def add(self, images: Tensor, labels: Tensor) -> None:
        """Score one batch."""
        if len(images) == 0:
            return
        device = self.model.ones().device
        images, labels = images.to(device), labels.to(device)
        if self.images == 0:
            self._start(images)
        self._check(labels, len(images))
        batch = Batch(images=images, labels=labels, multi_label=self.multi_label)
        with torch.enable_grad():
            signed = self._rows(batch)
        _check_finite(self.model, signed, self.name)
        scores = signed.double().abs().cpu()
        self.total += scores.sum(0)
        if self.multi_label:
            self.per_class += labels.cpu().double().T @ scores
        else:
            self.per_class.index_add_(0, labels.cpu(), scores)
        self.images += len(images)

    def _start(self, images: Tensor) -> None:
        size = _rows_at_once(self.model, 1)
        with torch.no_grad():
            logits = self.model.module(images[:1].expand(size, -1, -1, -1))
        self.total = torch.zeros(self.model.total, dtype=torch.float64)
        self.per_class = torch.zeros(logits.shape[1], self.model.total, dtype=torch.float64)
        if self.classes and len(self.classes) != logits.shape[1]:
            raise UsageError(
                f"{len(self.classes)} class names for a model of {logits.shape[1]} logits"
            )

    def _check(self, labels: Tensor, count: int) -> None:
        names = self.classes or tuple(str(i) for i in range(len(self.per_class)))
        if len(labels) != count:
            raise DataError(f"{len(labels)} labels for {count} images in one batch")
        if problem := label_problem(labels.cpu().numpy(), names, self.multi_label):
            raise DataError(problem)

    def _rows(self, batch: Batch) -> Tensor:
        """Attribute each image's decision, (N, U), as many images at once as the model takes."""
        return self._in_parts(batch, _rows_at_once(self.model, len(batch)))

    def _in_parts(self, batch: Batch, size: int) -> Tensor:
        parts = []
        for start in range(0, len(batch), size):
            rows = self.attribute(batch.part(start, size))
            parts.append(rows[: len(batch) - start])
        return torch.cat(parts)


def _rows_at_once(model: GatedModel, count: int) -> int:
    """Return how many images are attributed at once; one where they share what carries gates."""
    captured = model.captured
    if not captured.dynamic_batch:
        return len(captured.sample)
    return count if model.by_sample else 1


def _check_finite(model: GatedModel, values: Tensor, name: str) -> None:
    for group, part in model.by_group(values).items():
        if not bool(part.isfinite().all()):
            raise EdgepruneError(
                f"criterion '{name}' gives values that are not finite for group '{group}': look "
                "for NaN or infinity in the images and the weights, or use another criterion"
            )
