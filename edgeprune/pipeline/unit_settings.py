"""What ``score`` and ``explain`` are asked to do, checked before any work begins."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

from edgeprune.attribution.aggregation import Aggregate
from edgeprune.attribution.registry import find_criterion
from edgeprune.attribution.samplers import Sampler
from edgeprune.errors import UsageError
from edgeprune.pipeline.settings import CompressSettings

Format: TypeAlias = Literal["parquet", "csv"]
SplitName: TypeAlias = Literal["train", "val", "test"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
SPLITS: Final[tuple[SplitName, ...]] = get_args(SplitName)
MOST_TOP: Final = 48  # images of each kind on a page


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained model, and the images to look at it with.

    Attributes:
        model: a timm name or factory with weights; or the folder of a stored model, a
            bundle (its dense model is meant), or the intermediate results beside one.
        data: folder, CSV, npz or phantoms; None for what a bundle was made from, where
            that is generated.
        weights, image_size, output: of a model by name.
        skip_corrupt: leave out images that cannot be read.
        seed: of whatever is random; None for a bundle's own, else 0.
    """

    model: str
    data: str | None = None
    weights: Path | None = None
    image_size: int | None = None
    output: str | None = None
    skip_corrupt: bool = False
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse what ``compress`` would refuse."""
        CompressSettings(seed=self.seed or 0, image_size=self.image_size)


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """What ``score`` is asked to do.

    Attributes:
        subject: the model and the images.
        criterion: a name, with settings behind a colon.
        sampler, per_class: which training images are scored, and how many of each class.
        aggregate: how the attributions of images become one score.
        batch_size: images in memory at a time.
        formats: of the table.
    """

    subject: Subject
    criterion: str = "taylor"
    sampler: Sampler = "cluster"
    per_class: int = 10
    aggregate: Aggregate = "absolute"
    batch_size: int = 16
    formats: tuple[Format, ...] = ("parquet",)

    def __post_init__(self) -> None:
        """Refuse what no model can be scored with."""
        CompressSettings(sampler=self.sampler, per_class=self.per_class, aggregate=self.aggregate)
        find_criterion(self.criterion)
        _at_least_one("batch-size", self.batch_size)
        for name in self.formats or ("none",):
            if name not in FORMATS:
                raise UsageError(f"no format '{name}': give some of {', '.join(FORMATS)}")


@dataclass(frozen=True, kw_only=True)
class ExplainSettings:
    """What ``explain`` is asked to do.

    Attributes:
        subject: the model and the images.
        unit: ``GROUP:INDEX``, as plans and scores name it.
        criterion: what attributes an image's decision to the unit.
        split: whose images are looked at.
        images: how many of them at most, spread over the classes.
        top: how many are shown of each kind.
        batch_size: images in memory at a time.
        scores: a folder that ``score`` wrote; None for those beside a bundle.
    """

    subject: Subject
    unit: str
    criterion: str = "taylor"
    split: SplitName = "test"
    images: int = 500
    top: int = 8
    batch_size: int = 16
    scores: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what no unit can be explained with."""
        find_criterion(self.criterion)
        for name in ("images", "top", "batch_size"):
            _at_least_one(name.replace("_", "-"), getattr(self, name))
        if self.top > MOST_TOP:
            raise UsageError(f"--top {self.top} is more than a page holds: give {MOST_TOP} or less")
        if self.split not in SPLITS:
            raise UsageError(f"no split '{self.split}': give one of {', '.join(SPLITS)}")


def _at_least_one(option: str, value: int) -> None:
    if value < 1:
        raise UsageError(f"--{option} {value} is too small: give 1 or more")
