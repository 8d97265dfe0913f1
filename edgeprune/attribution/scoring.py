"""From batches of images to one score per unit.

Invariant: an image's scores do not depend on the batch it came in.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.attribution.aggregation import Aggregate, Sums, aggregate_problem, contribution
from edgeprune.attribution.criterion import (
    Attributor,
    Batch,
    Criterion,
    LearnedCriterion,
    ModelCriterion,
    SampleCriterion,
    direction,
    needs_labels,
)
from edgeprune.attribution.finiteness import Singly, check_rows, check_values
from edgeprune.attribution.intake import Given, intake
from edgeprune.attribution.registry import CRITERIA, find_criterion, name_of
from edgeprune.attribution.scores import Scores
from edgeprune.capture import Captured
from edgeprune.errors import DataError, EdgepruneError, UsageError
from edgeprune.gates import GatedModel

Progress = Callable[[int], None]


def attribute(
    dense: Captured,
    batches: Iterable[Given],
    criterion: str | Criterion = "taylor",
    *,
    classes: Sequence[str] = (),
    multi_label: bool = False,
    aggregate: Aggregate = "absolute",
    batch_size: int | None = None,
    seed: int = 0,
    sampler: str | None = None,
    sample_ids: Sequence[str] = (),
    sample_hashes: Sequence[str] = (),
    progress: Progress | None = None,
) -> Scores:
    """Score how much each unit of a model carries.

    The unit of measurement and the cost are the criterion's. One batch is in
    memory at a time, but for criteria that learn from all images together.

    Args:
        dense: the model.
        batches: images float (N, C, H, W) with labels int64 (N,), or float
            (N, K) of 0 and 1; images alone (or with None) do for criteria that
            need no labels, nothing at all for those that need no images.
        criterion: a name in ``CRITERIA`` or from an entry point, with settings
            (``lrp:epsilon=0.01``) or without, or a criterion.
        classes: names of the classes, in the order of the logits.
        multi_label: whether labels are findings, of which an image may have any
            number. It then counts for the class of each.
        aggregate: what each image adds: the absolute value of its attribution,
            the attribution as it is (positive where the unit speaks for the
            decision), its positive part, or its square.
        batch_size: images attributed at once; None for as many as a batch holds.
        seed: of random criteria.
        sampler: how the images were chosen; noted in the scores.
        sample_ids: ids of the images in the order of the batches; noted as well.
        sample_hashes: SHA-256 of their pixels, likewise.
        progress: called after each batch with the number of images scored.

    Raises:
        UsageError: no such criterion or setting, or names that do not fit
            classes or images.
        DataError: no images, images or labels that do not fit the model, no
            labels where the criterion needs them, or images that hold NaN.
        ModelError: attributions that are not finite (where they first are not is named).
        EdgepruneError: nothing to score.
    """
    chosen, name, model = find_criterion(criterion), name_of(criterion), GatedModel(dense)
    if model.total == 0:
        raise EdgepruneError("the model has no channel group: there is nothing to score")
    if problem := aggregate_problem(aggregate) or _aggregate_problem(chosen, name, aggregate):
        raise UsageError(problem)
    if isinstance(chosen, ModelCriterion):
        return _of_model(model, name, chosen, seed)
    read = intake(
        model,
        classes,
        multi_label=multi_label,
        unlabelled=_unlabelled(name) if needs_labels(chosen) else None,
        batch_size=batch_size,
    )
    task = _Task(
        model=model,
        name=name,
        classes=len(read.classes),
        aggregate=aggregate,
        seed=seed,
        ids=tuple(sample_ids),
        progress=progress,
    )
    sums = task.run(chosen, read.read(batches))
    for what, noted in (("sample_ids", sample_ids), ("sample_hashes", sample_hashes)):
        if noted and len(noted) != sums.images:
            raise UsageError(f"{len(noted)} {what} for {sums.images} images: give one each")
    return Scores(
        criterion=name,
        values=model.by_group(sums.total),
        per_class=model.by_group(sums.per_class) if sums.labelled else None,
        classes=tuple(classes),
        counts=tuple(sums.counts.tolist()) if sums.labelled else (),
        kinds=_kinds(model),
        aggregate=None if isinstance(chosen, LearnedCriterion) else aggregate,
        sampler=sampler,
        samples=tuple(sample_ids),
        hashes=tuple(sample_hashes),
    )


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What is scored, and how."""

    model: GatedModel
    name: str
    classes: int
    aggregate: Aggregate
    seed: int
    ids: tuple[str, ...]
    progress: Progress | None

    def run(self, criterion: SampleCriterion | LearnedCriterion, batches: Iterable[Batch]) -> Sums:
        """Score units by images, of which there must be some."""
        if isinstance(criterion, LearnedCriterion):
            sums = self._learned(criterion, [*batches])
        else:
            sums = self._summed(criterion, batches)
        if sums.images == 0:
            raise DataError(
                f"criterion '{self.name}' looks at images, but there are none in the batches"
            )
        return sums

    def _summed(self, criterion: SampleCriterion, batches: Iterable[Batch]) -> Sums:
        """Sum what single images add."""
        attributor = criterion.per_sample(self.model, self.seed)
        sums = Sums.zeros(self.classes, self.model.total)
        for batch in batches:
            with torch.enable_grad():
                rows = _rows(self.model, attributor, batch).detach().cpu().double()
            check_rows(self.model, rows, self.name, self._again(attributor, batch, sums.images))
            signed = direction(criterion) * rows
            sums.add(contribution(signed, self.aggregate), batch.labels)
            if self.progress is not None:
                self.progress(sums.images)
        return sums

    def _learned(self, criterion: LearnedCriterion, batches: Sequence[Batch]) -> Sums:
        """Learn from all images together."""
        sums = Sums.zeros(self.classes, self.model.total)
        for batch in batches:
            sums.add(sums.total.new_zeros(len(batch), self.model.total), batch.labels)
        if sums.images:
            found = criterion.learn(
                self.model, batches, classes=self.classes, seed=self.seed, progress=self.progress
            )
            sums.total = found.per_unit.detach().cpu().double()
            sums.per_class = found.per_class.detach().cpu().double()
            check_values(self.model, sums.total, self.name)
            check_values(self.model, sums.per_class, self.name)
        return sums

    def _again(self, attributor: Attributor, batch: Batch, start: int) -> Singly:
        """Return how one image of a batch is named, and attributed anew."""

        def image(row: int) -> str:
            place = start + row
            return (
                f"'{self.ids[place]}'" if place < len(self.ids) else f"{place + 1} of those given"
            )

        return Singly(
            image=image, run=lambda row: _rows(self.model, attributor, batch.part(row, 1))
        )


def _aggregate_problem(criterion: Criterion, name: str, how: Aggregate) -> str | None:
    if how == "absolute" or isinstance(criterion, SampleCriterion):
        return None
    return (
        f"criterion '{name}' gives one score for all images: aggregate '{how}' is for criteria "
        "that attribute each image by itself; leave it out"
    )


def _rows(model: GatedModel, attribute: Attributor, batch: Batch) -> Tensor:
    """Attribute each image's decision, (N, U), as many images at once as the model takes."""
    size = _rows_at_once(model, len(batch))
    parts = []
    for start in range(0, len(batch), size):
        rows = attribute(batch.part(start, size))
        parts.append(rows[: len(batch) - start])
    return torch.cat(parts)


def _rows_at_once(model: GatedModel, count: int) -> int:
    """Return how many images are attributed at once; one where they share what carries gates."""
    captured = model.captured
    if not captured.dynamic_batch:
        return len(captured.sample)
    return count if model.by_sample else 1


def _of_model(model: GatedModel, name: str, criterion: ModelCriterion, seed: int) -> Scores:
    values = criterion.per_unit(model, seed).detach().cpu().double()
    check_values(model, values, name)
    return Scores(criterion=name, values=model.by_group(values), kinds=_kinds(model))


def _kinds(model: GatedModel) -> dict[str, str]:
    return {group.name: group.kind for group in model.analysis.groups}


def _unlabelled(name: str) -> str:
    """Say that a criterion needs labels, and which do not."""
    others = ", ".join(known for known, each in CRITERIA.items() if not needs_labels(each))
    return (
        f"criterion '{name}' needs labels, and a batch comes without: give (images, labels), or "
        f"use a criterion that needs none: {others}"
    )
