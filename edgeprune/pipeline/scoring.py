"""Scoring a model on a few images of each class, for ``compress`` and for ``score``."""

from dataclasses import dataclass

from edgeprune.attribution import attribute
from edgeprune.attribution.aggregation import Aggregate
from edgeprune.attribution.samplers import Sampler, sample
from edgeprune.attribution.scores import Scores
from edgeprune.capture import Captured
from edgeprune.data import ImageData, PreparedSplit, batches
from edgeprune.pipeline.checks import looks_at_images
from edgeprune.progress import Reporter


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How units are scored.

    Attributes:
        criterion: a name, with settings behind a colon.
        sampler: which training images are scored.
        per_class: how many of each class.
        aggregate: how the attributions of images become one score.
        batch_size: how many are in memory at a time.
        seed: of everything random.
    """

    criterion: str
    sampler: Sampler
    per_class: int
    aggregate: Aggregate
    batch_size: int
    seed: int

    @property
    def words(self) -> str:
        """Say it in one line."""
        if not looks_at_images(self.criterion):
            return f"{self.criterion}, without images"
        return f"{self.criterion} on {self.per_class} images per class, chosen by {self.sampler}"


def score_units(
    dense: Captured,
    train: PreparedSplit | None,
    data: ImageData | None,
    how: Scoring,
    reporter: Reporter,
) -> Scores:
    """Score every unit.

    train, data: the training split and what it is of; a criterion that looks at
    no images needs neither.

    Raises:
        DataError: a class with fewer images than asked for.
        EdgepruneError: whatever the criterion meets.
    """
    if train is None or data is None or not looks_at_images(how.criterion):
        return attribute(dense, (), criterion=how.criterion, aggregate=how.aggregate, seed=how.seed)
    choice = sample(
        dense,
        train,
        sampler=how.sampler,
        per_class=how.per_class,
        seed=how.seed,
        multi_label=data.multi_label,
        classes=data.classes,
    )
    images = batches(train, train.how, batch_size=how.batch_size, indices=choice.indices)
    with reporter.track("scoring images", len(choice.indices)) as progress:
        return attribute(
            dense,
            images,
            criterion=how.criterion,
            classes=data.classes,
            multi_label=data.multi_label,
            aggregate=how.aggregate,
            batch_size=how.batch_size,
            seed=how.seed,
            sampler=how.sampler,
            sample_ids=choice.ids,
            sample_hashes=choice.hashes,
            progress=progress,
        )
