"""What is given to be scored, as batches that fit the model.

Invariant: what comes out is on the model's device, has labels that fit its
logits or none, and at most as many images as asked for.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
from torch import Tensor

from edgeprune.attribution.criterion import Batch
from edgeprune.data.checks import label_problem
from edgeprune.errors import DataError, UsageError
from edgeprune.gates import GatedModel

Given: TypeAlias = Tensor | Sequence[Tensor | None]
"""Images (N, C, H, W), alone or with labels (None where they are not known)."""


@dataclass(frozen=True, kw_only=True)
class Intake:
    """How batches are read.

    Attributes:
        channels: of one image.
        device: where the model is.
        classes: a name for each logit.
        multi_label: whether labels are findings.
        unlabelled: why labels are needed, or None where they are not.
        batch_size: images in each batch that comes out; None for those that come in.
    """

    channels: int
    device: torch.device
    classes: tuple[str, ...]
    multi_label: bool
    unlabelled: str | None
    batch_size: int | None

    def read(self, given: Iterable[Given]) -> Iterator[Batch]:
        """Yield batches of one image or more.

        Raises:
            DataError: images or labels that do not fit the model or each other,
                or labels that are missing where they are needed.
        """
        for images, labels in self._resized(self._pairs(given)):
            yield Batch(
                images=images.to(self.device),
                labels=labels.to(self.device),
                multi_label=self.multi_label,
            )

    def _pairs(self, given: Iterable[Given]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images with labels, (0,) for none; batches without images are left out."""
        for entry in given:
            images, labels = _pair(entry)
            if problem := self._image_problem(images):
                raise DataError(problem)
            if labels is None:
                if self.unlabelled is not None:
                    raise DataError(self.unlabelled)
                labels = torch.zeros(0, dtype=torch.int64)
            elif problem := self._label_problem(labels, len(images)):
                raise DataError(problem)
            if len(images):
                yield images, labels if self.multi_label else labels.long()

    def _image_problem(self, images: Tensor) -> str | None:
        if images.dim() != 4 or images.shape[1] != self.channels:
            return (
                f"a batch holds images of shape {tuple(images.shape)}, the model takes "
                f"(N, {self.channels}, H, W): give an iterable of batches, each of images or of "
                "(images, labels)"
            )
        if not images.is_floating_point():
            return f"images are {images.dtype}: preprocess them to float, as for the model"
        return None

    def _label_problem(self, labels: Tensor, count: int) -> str | None:
        if len(labels) != count:
            return f"{len(labels)} labels for {count} images in one batch"
        if not self.multi_label and labels.is_floating_point():
            return f"labels are {labels.dtype}: give the class of each image as int64"
        return label_problem(labels.cpu().numpy(), self.classes, self.multi_label)

    def _resized(self, pairs: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Split and join batches to the size asked for; labelled and unlabelled ones stay apart."""
        if self.batch_size is None:
            yield from pairs
            return
        size = self.batch_size
        waiting: tuple[Tensor, Tensor] | None = None
        for images, labels in pairs:
            pair = images, labels
            if waiting is not None and bool(len(waiting[1])) == bool(len(labels)):
                pair = torch.cat([waiting[0], images]), torch.cat([waiting[1], labels])
            elif waiting is not None:
                yield waiting
            waiting = None
            for part in zip(*(_split(each, size, len(pair[0])) for each in pair), strict=True):
                if len(part[0]) < size:
                    waiting = part
                else:
                    yield part
        if waiting is not None:
            yield waiting


def intake(
    model: GatedModel,
    classes: Sequence[str],
    *,
    multi_label: bool,
    unlabelled: str | None,
    batch_size: int | None,
) -> Intake:
    """Return how batches for this model are read.

    Raises:
        UsageError: names of classes that do not fit the model's logits, or a
            batch of no image.
    """
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"a batch size of {batch_size} is too small: use 1 or more")
    count = _logits(model)
    if classes and len(classes) != count:
        raise UsageError(f"{len(classes)} class names for a model of {count} logits")
    return Intake(
        channels=model.captured.sample.shape[1],
        device=model.ones().device,
        classes=tuple(classes) or tuple(str(index) for index in range(count)),
        multi_label=multi_label,
        unlabelled=unlabelled,
        batch_size=batch_size,
    )


def _logits(model: GatedModel) -> int:
    """Count the logits of an image."""
    output = next(reversed(model.module.graph.nodes))
    return cast(tuple[int, ...], model.analysis.shapes[output.all_input_nodes[0].name])[-1]


def _pair(entry: Given) -> tuple[Tensor, Tensor | None]:
    if isinstance(entry, Tensor):
        return entry, None
    if len(entry) == 1 and isinstance(entry[0], Tensor):
        return entry[0], None
    match entry:
        case (Tensor() as images, (Tensor() | None) as labels):
            return images, labels
        case _:
            kinds = ", ".join(type(each).__name__ for each in entry)
            raise DataError(f"a batch is ({kinds}): give tensors, images alone or (images, labels)")


def _split(values: Tensor, size: int, count: int) -> tuple[Tensor, ...]:
    """Split what belongs to ``count`` images; labels that are not known stay so."""
    if len(values) == count:
        return torch.split(values, size)
    return (values,) * -(-count // size)
