"""What a compression is asked to do, checked before any work begins."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args

from edgeprune.attribution.aggregation import Aggregate
from edgeprune.attribution.samplers import Sampler
from edgeprune.errors import UsageError
from edgeprune.plan import Budget, Ranking

SAMPLERS: Final[tuple[str, ...]] = get_args(Sampler)
AGGREGATES: Final[tuple[str, ...]] = get_args(Aggregate)
RANKINGS: Final[tuple[str, ...]] = get_args(Ranking)
DEFAULT_MACS: Final = 0.5
SEEDS: Final = 2**32  # as many as every library here takes


class Amount(NamedTuple):
    """Training in images to see in all, and the fewest and most epochs this may come to."""

    images: int
    least: int
    most: int

    def epochs(self, count: int) -> int:
        """Return the epochs for a training split of ``count`` images."""
        return min(max(round(self.images / count), self.least), self.most)


FROM_SCRATCH: Final = Amount(images=16_000, least=5, most=30)
NEW_HEAD: Final = Amount(images=8_000, least=2, most=12)
RECOVERY: Final = Amount(images=12_800, least=3, most=12)


@dataclass(frozen=True, kw_only=True)
class CompressSettings:
    """Everything that decides the result of ``compress``; paths only say where.

    Attributes:
        budget: what the slim model may cost, and where that may be saved.
        model: a timm name, or ``module:factory`` of the user's own.
        weights: safetensors or a state dict; None trains on the spot.
        pretrained: take timm's own weights, then train the head on the spot.
        data: folder, CSV, npz, or the name of a set of phantoms.
        target: name or TOML file of the device.
        criterion, sampler, per_class, aggregate, ranking: how units are scored and ranked.
        scoring_batch: images scored at once. It decides memory and no result, so a run may
            be resumed with another.
        align: multiple of widths; None takes the target's.
        formats: artifacts to write, as ``onnx`` or ``openvino:int8``; empty takes the target's.
        precision: of those that name none; None takes the target's.
        max_drop: points of accuracy on the validation split that int8 may cost; None for any.
        dense_epochs: epochs of training on the spot; None for a default.
        epochs: epochs of recovery; None for a default.
        lr: peak learning rate of recovery; None for a default.
        batch_size: of training and recovery; None for a default.
        output: which of the model's outputs holds the logits; None if it is clear.
        image_size: edge of the input; None takes the model's.
        rounds: fresh processes of each model in the measurement.
        threads: of the runtime that is measured; None takes the target's.
        skip_corrupt: leave out images that cannot be read.
        seed: of everything random.
    """

    budget: Budget = field(default_factory=lambda: Budget(macs=DEFAULT_MACS))
    model: str = "resnet10t"
    weights: Path | None = None
    pretrained: bool = False
    data: str = "phantoms"
    target: str = "cpu"
    criterion: str = "taylor"
    sampler: Sampler = "cluster"
    per_class: int = 10
    aggregate: Aggregate = "absolute"
    scoring_batch: int = 16
    ranking: Ranking = "cost"
    align: int | None = None
    formats: tuple[str, ...] = ()
    precision: str | None = None
    max_drop: float | None = None
    dense_epochs: int | None = None
    epochs: int | None = None
    lr: float | None = None
    batch_size: int | None = None
    output: str | None = None
    image_size: int | None = None
    rounds: int = 6
    threads: int | None = None
    skip_corrupt: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be right for any model or data."""
        if problem := _too_small(self) or _contradiction(self):
            raise UsageError(problem)

    def to_dict(self) -> dict[str, Any]:
        """Return what decides the result as JSON values, without any path of this machine."""
        values = asdict(self)
        del values["scoring_batch"]
        return values | {
            "budget": self.budget.to_dict(),
            "weights": self.weights.name if self.weights else None,
            "data": Path(self.data).name,
            "target": Path(self.target).name,
            "model": _without_folder(self.model),
            "formats": list(self.formats),
        }


def differences(asked: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Say in which settings two runs differ."""
    keys = sorted(asked.keys() | before.keys())
    return [
        f"{key} was {before.get(key)}, now {asked.get(key)}"
        for key in keys
        if asked.get(key) != before.get(key)
    ]


def _too_small(settings: CompressSettings) -> str | None:
    least = {
        "per_class": 1,
        "scoring_batch": 1,
        "align": 1,
        "epochs": 0,
        "dense_epochs": 0,
        "batch_size": 2,
        "image_size": 16,
        "rounds": 2,
        "threads": 1,
        "seed": 0,
    }
    for name, minimum in least.items():
        value = getattr(settings, name)
        if value is not None and value < minimum:
            option = name.replace("_", "-")
            return f"--{option} {value} is too small: give {minimum} or more"
    return None


def _contradiction(settings: CompressSettings) -> str | None:
    if settings.seed >= SEEDS:
        return f"--seed {settings.seed} is too large: give one below {SEEDS}"
    if settings.rounds % 2:
        return (
            f"--rounds {settings.rounds} is odd: give an even number, so that dense and slim "
            "start first equally often"
        )
    if settings.lr is not None and not 0 < settings.lr < 1:
        return f"--lr {settings.lr:g} is not a learning rate: give one above 0, below 1"
    for option, value, known in (
        ("sampler", settings.sampler, SAMPLERS),
        ("aggregate", settings.aggregate, AGGREGATES),
        ("ranking", settings.ranking, RANKINGS),
    ):
        if value not in known:
            return f"no {option} '{value}': choose one of {', '.join(known)}"
    if settings.weights and settings.pretrained:
        return "--weights and --pretrained both name weights: give one of them"
    return None


def _without_folder(model: str) -> str:
    """Keep a factory's file and function, and drop where the file lies."""
    place, colon, factory = model.rpartition(":")
    return f"{Path(place).name}:{factory}" if colon else model
